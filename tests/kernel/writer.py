"""Does each operation that writes, on a file of each given directory, from inside a container; run as a script.

    python3 -S writer.py '{"pid": 123, "procs": [...], "directories": [...]}'

It enters the container's cgroups and mount namespace, does everything with numbers of bytes that are primes, and prints
as JSON what the calls returned, what /proc/self/io counted and how large the files are.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS = 0x20000
IO_SETUP, IO_GETEVENTS, IO_SUBMIT = 206, 208, 209
IO_URING_SETUP, IO_URING_ENTER = 425, 426
PAGES = 7


def syscall(number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"syscall {number}: {os.strerror(ctypes.get_errno())}")
    return result


def completed(context: ctypes.c_ulong) -> int:
    """The result of the next request that ends; what a ring of io_uring left to do may interrupt the waiting."""
    event = ctypes.create_string_buffer(32)
    while True:
        try:
            syscall(IO_GETEVENTS, context, ctypes.c_long(1), ctypes.c_long(1), event, None)
        except InterruptedError:
            continue
        return int(struct.unpack("<QQqq", event.raw)[2])


def aio(fd: int, sizes: list[int]) -> list[int]:
    """IOCB_CMD_PWRITE of each size; what io_getevents says."""
    context = ctypes.c_ulong()
    syscall(IO_SETUP, 8, ctypes.byref(context))
    results = []
    for size in sizes:
        data = ctypes.create_string_buffer(b"a" * size, size)
        # struct iocb: data, key, rw_flags, opcode, priority, fd, buffer, bytes, offset, reserved, flags, resfd
        iocb = ctypes.create_string_buffer(
            struct.pack("<QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, ctypes.addressof(data), size, 0, 0, 0, 0)
        )
        pointer = ctypes.c_void_p(ctypes.addressof(iocb))
        syscall(IO_SUBMIT, context, ctypes.c_long(1), ctypes.byref(pointer))
        results.append(completed(context))
    return results


def aio_syncs(fd: int, operations: list[int]) -> None:
    """IOCB_CMD_FSYNC (2) and IOCB_CMD_FDSYNC (3), one after the other."""
    context = ctypes.c_ulong()
    syscall(IO_SETUP, 8, ctypes.byref(context))
    for operation in operations:
        iocb = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", 0, 0, 0, operation, 0, fd, *[0] * 6))
        pointer = ctypes.c_void_p(ctypes.addressof(iocb))
        syscall(IO_SUBMIT, context, ctypes.c_long(1), ctypes.byref(pointer))
        assert completed(context) == 0


def syscall32(number: int, *arguments: int) -> int:
    """A system call as a 32-bit program makes it: int 0x80, with the arguments in ebx, ecx, edx, esi, edi, ebp."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    code = b"\x53\x55"  # push rbx, rbp
    # mov eax, NUMBER; mov ebx, ...
    for register, value in zip(b"\xb8\xbb\xb9\xba\xbe\xbf\xbd", [number, *values], strict=True):
        code += bytes([register]) + struct.pack("<I", value)
    code += b"\xcd\x80\x5d\x5b\xc3"  # int 0x80; pop rbp, rbx; ret
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        first = ctypes.c_char.from_buffer(memory)
        result = int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(first))())
        del first
    if result < 0:
        raise OSError(-result, f"32-bit syscall {number}: {os.strerror(-result)}")
    return result


def io_uring(fd: int, sizes: list[int], flags: int) -> list[int]:
    """IORING_OP_WRITE of each size; with IOSQE_ASYNC (1 << 4) a worker does it."""
    parameters = ctypes.create_string_buffer(120)
    ring = syscall(IO_URING_SETUP, 8, parameters)
    # struct io_uring_params: 10 words, then the offsets of the submission and the completion ring
    entries, _cq_entries = struct.unpack_from("<II", parameters.raw, 0)
    head, tail, mask, _n, _flags, _dropped, array = struct.unpack_from("<7I", parameters.raw, 40)
    cq_head, cq_tail, cq_mask, _entries, _overflow, cqes = struct.unpack_from("<6I", parameters.raw, 80)
    del head
    submissions = mmap.mmap(ring, array + entries * 4, offset=0)
    completions = mmap.mmap(ring, cqes + 16 * 16, offset=0x8000000)
    requests = mmap.mmap(ring, entries * 64, offset=0x10000000)
    results = []
    for size in sizes:
        data = ctypes.create_string_buffer(b"u" * size, size)
        at = struct.unpack_from("<I", submissions, tail)[0]
        index = at & struct.unpack_from("<I", submissions, mask)[0]
        # struct io_uring_sqe: opcode 23 is IORING_OP_WRITE
        struct.pack_into("<BBHiQQIIQ", requests, index * 64, 23, flags, 0, fd, 0, ctypes.addressof(data), size, 0, size)
        struct.pack_into("<I", submissions, array + 4 * index, index)
        struct.pack_into("<I", submissions, tail, at + 1)
        syscall(IO_URING_ENTER, ring, 1, 1, 1, None, ctypes.c_size_t(0))
        taken = struct.unpack_from("<I", completions, cq_head)[0]
        assert struct.unpack_from("<I", completions, cq_tail)[0] == taken + 1
        slot = taken & struct.unpack_from("<I", completions, cq_mask)[0]
        results.append(struct.unpack_from("<Qi", completions, cqes + 16 * slot)[1])
        struct.pack_into("<I", completions, cq_head, taken + 1)
    os.close(ring)
    return results


# opened before the namespace is entered: the container's /proc does not know this process
ACCOUNTS = os.open("/proc/self/io", os.O_RDONLY)


def wchar() -> int:
    text = os.pread(ACCOUNTS, 4096, 0).decode()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("wchar")))


def work(directory: str) -> dict[str, object]:
    """Everything in one directory; operation -> what its calls returned."""

    def create(name: str, flags: int = 0) -> int:
        return os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | flags, 0o600)

    source = create("source")
    os.write(source, b"s" * 9001)
    done: dict[str, list[int]] = {}
    fd = create("write")
    before = wchar()
    done["write"] = [os.write(fd, b"w" * 101) for _ in range(23)] + [os.pwrite(fd, b"p" * 211, 5)]
    vectors = create("writev")
    done["writev"] = [os.writev(vectors, [b"v" * 103, b"v" * 107]), os.pwritev(vectors, [b"v" * 109], 3)]
    counted = wchar() - before
    asynchronous = create("aio")
    done["aio"] = aio(asynchronous, [503, 509])
    ring = create("io-uring")
    done["io-uring"] = io_uring(ring, [601, 607], 0) + io_uring(ring, [613], 1 << 4)
    out = create("sendfile")
    done["sendfile"] = [os.sendfile(out, source, 0, 701), os.sendfile(out, source, 0, 709)]
    read_end, write_end = os.pipe()
    os.write(write_end, b"i" * 811)
    spliced = create("splice")
    done["splice"] = [os.splice(read_end, spliced, 811)]
    copied = create("copy")
    done["copy-file-range"] = [os.copy_file_range(source, copied, 907, 0, 0)]
    # from another file system: kernels from 5.19 on refuse it, and cp reads and writes then
    done["refused-exdev"] = []
    elsewhere = os.memfd_create("elsewhere")
    os.write(elsewhere, b"e" * 17)
    try:
        done["copy-file-range"].append(os.copy_file_range(elsewhere, copied, 17, 0, 0))
    except OSError as error:
        assert error.errno == errno.EXDEV, error
        done["refused-exdev"].append(0)
    done["fallocate"] = []
    # posix_fallocate of glibc falls back to pwrite; the syscall does not
    for size in (4001, 4003):
        syscall(285, copied, 0, ctypes.c_long(0), ctypes.c_long(size))
        done["fallocate"].append(0)
    os.ftruncate(copied, 1009)
    os.truncate(f"{directory}/copy", 1013)
    os.close(os.open(f"{directory}/copy", os.O_WRONLY | os.O_TRUNC))
    done["truncate"] = [0, 0, 0]
    for _ in range(3):
        os.fsync(fd)
    os.fdatasync(fd)
    os.fsync(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
    syscall(277, fd, ctypes.c_long(0), ctypes.c_long(0), 2)  # sync_file_range, SYNC_FILE_RANGE_WRITE
    done["fsync"] = [0] * 6
    aio_syncs(fd, [2, 2, 3])
    for number in (118, 118, 148):  # fsync, fdatasync
        syscall32(number, fd)
    syscall32(314, fd, 0, 0, 0, 0, 2)  # sync_file_range
    done["fsync"] += [0] * 7
    with contextlib.suppress(OSError):
        syscall(285, copied, 0x1000, ctypes.c_long(0), ctypes.c_long(1))  # fallocate with a mode that nobody has
    mapped = create("mmap")
    os.ftruncate(mapped, PAGES * mmap.PAGESIZE)
    done["truncate"].append(0)
    with mmap.mmap(mapped, PAGES * mmap.PAGESIZE) as memory:
        for page in range(PAGES):
            memory[page * mmap.PAGESIZE] = 1
        assert memory[0] == 1
        memory.flush()  # msync
        memory.flush()
        done["fsync"] += [0, 0]
    libc.mmap.restype = ctypes.c_void_p
    low = libc.mmap(None, mmap.PAGESIZE, 3, mmap.MAP_SHARED | 0x40, mapped, ctypes.c_long(0))  # MAP_32BIT
    syscall32(144, low, mmap.PAGESIZE, 4)  # msync, MS_SYNC
    libc.munmap(ctypes.c_void_p(low), mmap.PAGESIZE)
    done["fsync"].append(0)
    failed = os.open(f"{directory}/source", os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.write(failed, b"x")
    sizes = {name: os.stat(f"{directory}/{name}").st_size for name in os.listdir(directory) if "." not in name}
    return {"returned": done, "wchar": counted, "sizes": sizes}


def main() -> None:
    order = json.loads(sys.argv[1])
    for procs in order["procs"]:
        with open(procs, "w") as file:
            file.write("0")
    if order["pid"]:
        namespace = os.open(f"/proc/{order['pid']}/ns/mnt", os.O_RDONLY)
        if libc.setns(namespace, CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "setns")
    print(json.dumps({directory: work(directory) for directory in order["directories"]}))


if __name__ == "__main__":
    main()
