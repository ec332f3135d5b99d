"""What led to each copy-up, its layer and its bytes: one workload, told alike by every hook and kernel."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from tests.vm import images

from .conftest import Case, Event, Overlay, Tracer

# What may differ between two tellings of the same copy-up: their own clocks.
CLOCKS = ("time", "duration_ns", "parents_duration_ns")
# One system call each, on a file of its own size; (code, path, trigger, part of the file that is copied)
OPERATIONS = [
    ("os.close(os.open(p, os.O_WRONLY))", "/f01", "open-write", 1.0),
    ("os.close(os.open(p, os.O_RDWR | os.O_APPEND))", "/f02", "open-write", 1.0),
    ("os.close(os.open(p, os.O_WRONLY | os.O_TRUNC))", "/f03", "open-truncate", 0.0),
    ("os.chmod(p, 0o600)", "/f04", "chmod", 1.0),
    ("os.chown(p, 7, 7)", "/f05", "chown", 1.0),
    ("os.lchown(p, -1, 7)", "/f06", "chown", 1.0),
    ("os.utime(p, (1, 1))", "/f07", "utimes", 1.0),
    ("os.utime(p)", "/f08", "utimes", 1.0),
    ("os.truncate(p, 1)", "/f09", "truncate", 1.0),
    ("os.rename(p, p + b'.new')", "/f10", "rename", 1.0),
    ("os.link(p, p + b'.link')", "/f11", "link", 1.0),
    ("os.setxattr(p, b'trusted.kubetrace', b'x')", "/f12", "xattr", 1.0),
    ("os.unlink(p + b'/gone')", "/d1", "unlink", 0.0),
    ("os.rmdir(p + b'/gone')", "/d2", "unlink", 0.0),
    ("os.mkdir(p + b'/new')", "/d3", "create", 0.0),
    ("os.symlink(b'x', p + b'/new')", "/d4", "create", 0.0),
    ("os.close(os.open(p + b'/new', os.O_CREAT | os.O_WRONLY))", "/d5", "create", 0.0),
    ("os.chmod(p, 0o700)", "/d6", "chmod", 0.0),
    # what asks for what there is already
    ("os.chmod(p, 0o640)", "/f18", "chmod-same", 1.0),
    ("os.chown(p, 0, 0)", "/f19", "chown-same", 1.0),
    ("os.chown(p, -1, -1)", "/f20", "chown-same", 1.0),
    ("os.chown(p, -1, -1)", "/d7", "chown-same", 0.0),
    ("os.chown(p, 0, -1)", "/f22-suid", "chown", 1.0),
    ("os.chown(p, -1, -1)", "/f23-suid", "chown", 1.0),
    ("os.chown(p, 0, 7)", "/f24", "chown", 1.0),
    ("os.setxattr(p, b'system.posix_acl_access', bytes.fromhex(ACL))", "/f25", "xattr", 1.0),
    # its owner is not in its group, so that the set-gid bit goes before the ACL is set
    (
        "os.setegid(9); os.seteuid(9); os.setxattr(p, b'system.posix_acl_access', bytes.fromhex(ACL))"
        "; os.seteuid(0); os.setegid(0)",
        "/f26-sgid",
        "xattr",
        1.0,
    ),
    ("noatime(p)", "/f27", "chattr", 1.0),
    ("anonymous(p)", "/d8", "create", 0.0),
]
# user::rwx, user:7:r--, group::r--, mask::r--, other::--- (include/uapi/linux/posix_acl_xattr.h)
ACL = "0200000001000700ffffffff020004000700000004000400ffffffff10000400ffffffff20000000ffffffff"
_PRELUDE = f"""
import errno, fcntl
ACL = {ACL!r}
# What the file system below cannot do (tmpfs of 5.10 has no such flags, overlayfs of 6.1 no such files) fails,
# for flags after the copy-up.
def noatime(path):
    try:
        fcntl.ioctl(os.open(path, os.O_RDONLY), 0x40086602, b"\\x80" + bytes(7))  # FS_IOC_SETFLAGS, FS_NOATIME_FL
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
def anonymous(path):
    try:
        os.close(os.open(path, os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
"""


def _make_lower(lower: Path) -> None:
    for number, (_, path, _, _) in enumerate(OPERATIONS):
        if path.startswith("/f"):
            (lower / path[1:]).write_bytes(images.pattern(1000 + number))
            (lower / path[1:]).chmod(0o4755 if "suid" in path else 0o640)
            if "sgid" in path:
                os.chown(lower / path[1:], 9, 8)
                (lower / path[1:]).chmod(0o2750)
        else:
            (lower / path[1:]).mkdir()
    (lower / "d1" / "gone").write_bytes(b"x")
    (lower / "d2" / "gone").mkdir()


def _run_all(overlay: Overlay) -> list[tuple[str, str, float]]:
    """Path, trigger and part that is copied of each copy-up that was made, as the upper directory has them."""
    code = _PRELUDE + "".join(f"p = os.fsencode(sys.argv[1] + {path!r})\n{call}\n" for call, path, _, _ in OPERATIONS)
    done = overlay.run(code, bytes(overlay.merged))
    assert done.returncode == 0, done.stderr
    made = [operation[1:] for operation in OPERATIONS]
    # of a file without a name there is nothing below
    return [one for one in made if one[0] != "/d8" or (overlay.upper / "d8").exists()]


@pytest.mark.each_kernel
def test_each_trigger_is_told(case: Case, overlay: Overlay) -> None:
    _make_lower(overlay.lower)
    overlay.mount()
    made = _run_all(overlay)
    events = case.events()
    assert [(e["path"], e["trigger"], e["is_parent"], e["error"], e["part"], e["layer_index"]) for e in events] == [
        (path, trigger, False, None, "whole", 1) for path, trigger, _ in made
    ]
    copied = {e["path"]: e["copied_bytes"] for e in events}
    sizes = {path: 1000 + number for number, (_, path, _, _) in enumerate(OPERATIONS)}
    assert copied == {path: sizes[path] if share else 0 for path, _, share in made}


# Callers of what copies up that need no program of their own: opens say what they are by their flags, and this one is
# called by link, unlink and rename.
_NOT_OPERATIONS = {"ovl_open", "ovl_nlink_start"}
_INLINED = {"ovl_create_or_link": "ovl_create_object"}


@pytest.mark.each_kernel
def test_every_function_that_copies_up_has_a_trigger(case: Case) -> None:
    (module,) = Path("/lib/modules", os.uname().release).glob("kernel/fs/overlayfs/overlay.ko*")
    callers = _callers(module, {"ovl_copy_up", "ovl_copy_up_with_data", "ovl_maybe_copy_up"})
    with open("src/kubetrace/objects/x86_64/copyup.bpf.o", "rb") as file:
        sections = {section.name for section in ELFFile(file).iter_sections()}
    hooked = {name.removeprefix("fentry/") for name in sections if name.startswith("fentry/")}
    named = {_INLINED.get(caller, caller) for caller in callers}
    assert {"ovl_setattr", "ovl_rename", "ovl_xattr_set"} < named
    assert named - _NOT_OPERATIONS <= hooked


def _callers(module: Path, functions: set[str]) -> set[str]:
    """The functions of a kernel module that call one of these, by its relocations."""
    with open(module, "rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        numbers = {n for n, s in enumerate(symbols.iter_symbols()) if s.name in functions}
        places: dict[int, list[tuple[int, int, str]]] = {}
        for symbol in symbols.iter_symbols():
            if symbol["st_info"]["type"] == "STT_FUNC":
                start = symbol["st_value"]
                places.setdefault(symbol["st_shndx"], []).append((start, start + symbol["st_size"], symbol.name))
        found = set()
        for section in elf.iter_sections():
            if not isinstance(section, RelocationSection) or section["sh_info"] not in places:
                continue
            calls = [r["r_offset"] for r in section.iter_relocations() if r["r_info_sym"] in numbers]
            found |= {
                name.partition(".")[0]
                for call in calls
                for start, end, name in places[section["sh_info"]]
                if start <= call < end
            }
    return found - functions


@pytest.mark.each_kernel
def test_a_file_handle_copies_up(case: Case, overlay: Overlay) -> None:
    (overlay.lower / "a" / "b").mkdir(parents=True)
    (overlay.lower / "a" / "b" / "f").write_bytes(b"x" * 7)
    # a directory in the upper layer that is not in the index, as it was made without one
    overlay.mount()
    assert overlay.run("os.chmod(sys.argv[1] + '/a', 0o700)", bytes(overlay.merged)).returncode == 0
    subprocess.run(["umount", str(overlay.merged)], check=True)
    overlay.mount("index=on,nfs_export=on")
    code = """
import ctypes
at = os.fsencode(sys.argv[1])
handle = ctypes.create_string_buffer(8 + 128)
ctypes.memmove(handle, (128).to_bytes(4, sys.byteorder), 4)
mount = ctypes.c_int()
libc = ctypes.CDLL(None, use_errno=True)
if libc.name_to_handle_at(-100, at + b"/a/b", handle, ctypes.byref(mount), 0):
    raise OSError(ctypes.get_errno(), "name_to_handle_at")
"""
    done = overlay.run(code, bytes(overlay.merged))
    assert done.returncode == 0, done.stderr
    assert (overlay.upper / "a" / "b").is_dir()
    assert [(e["path"], e["trigger"]) for e in case.events()] == [("/a", "chmod"), ("/a/b", "file-handle")]


@pytest.mark.one_kernel
def test_an_operation_that_copies_nothing_leaves_no_trigger_behind(case: Case, overlay: Overlay) -> None:
    (overlay.lower / "f").write_bytes(b"x" * 5)
    (overlay.lower / "g").write_bytes(b"x" * 7)
    overlay.mount()
    code = """
up = os.fsencode(sys.argv[1] + "/new")
open(up, "w").close()
os.chmod(up, 0o600)
os.rename(up, up + b"2")
try:
    os.rename(os.fsencode(sys.argv[1] + "/nothing"), up)
except FileNotFoundError:
    pass
os.close(os.open(sys.argv[1] + "/f", os.O_WRONLY))
os.unlink(up + b"2")
os.close(os.open(sys.argv[1] + "/g", os.O_WRONLY | os.O_TRUNC))
"""
    assert overlay.run(code, bytes(overlay.merged)).returncode == 0
    assert [(e["path"], e["trigger"]) for e in case.events()] == [("/f", "open-write"), ("/g", "open-truncate")]


@pytest.mark.each_kernel
def test_every_hook_tells_the_same(case: Case, overlay: Overlay, tmp_path: Path) -> None:
    # fentry needs the module's BTF, which kernels have since 5.11
    hooks = ["kprobe"] + (["fentry"] if os.path.exists("/sys/kernel/btf/overlay") else [])
    tracers = {}
    for hook in hooks:
        (tmp_path / hook).mkdir()
        tracers[hook] = Tracer(tmp_path / hook, "--hook", hook)
    _make_lower(overlay.lower)
    (overlay.lower / "a" / "b").mkdir(parents=True)
    (overlay.lower / "a" / "b" / "deep").write_bytes(images.pattern(4001))
    overlay.mount()
    made = _run_all(overlay)
    assert overlay.run("os.chmod(sys.argv[1] + '/a/b/deep', 0o600)", bytes(overlay.merged)).returncode == 0
    told = {"auto": case.events()}
    device = told["auto"][0]["device"]
    for hook, tracer in tracers.items():
        objects = tracer.end()
        assert (objects[-1]["lost"], objects[-1]["hook"]) == (0, hook)
        told[hook] = [o for o in objects if o.get("device") == device]
    assert len(told["auto"]) == len(made) + 3
    for events in told.values():
        assert [_without_clocks(e) for e in events] == [_without_clocks(e) for e in told["auto"]]


@pytest.mark.one_kernel(on="5.10")
def test_kretprobes_can_follow_as_many_sleepers_as_come(tracer: Tracer, tmp_path: Path) -> None:
    # perf's own would follow one call per CPU on kernels without preemption (kernel/kprobes.c, register_kretprobe)
    forced = Tracer(tmp_path, "--hook", "kprobe")

    def own() -> list[str]:
        lines = Path("/sys/kernel/tracing/kprobe_events").read_text().splitlines()
        return [line for line in lines if re.search(rf":kubetrace_\d+_{forced.pid}_", line)]

    made = own()
    forced.end()
    assert own() == []
    assert {"ovl_copy_up_one", "ovl_copy_up_start", "do_splice_direct"} <= {line.split()[1] for line in made}
    assert {line.split(":")[0] for line in made} == {"r1024"}


def _without_clocks(event: Event) -> Event:
    return {key: value for key, value in event.items() if key not in CLOCKS}


@pytest.mark.each_kernel
def test_the_layer_is_the_kernels_count_of_lowerdir(case: Case, tmp_path: Path) -> None:
    for layer in (1, 2, 3):
        directory = Path("/var/lib/kubelet") / f"layers-{layer}-{tmp_path.name}"
        overlay = Overlay(directory, case.container, 1 << 20)
        lowers = [directory / f"l{number}" for number in (1, 2, 3)]
        for lower in lowers:
            lower.mkdir()
        (lowers[layer - 1] / "f").write_bytes(b"x" * 11)
        options = f"lowerdir={':'.join(map(str, lowers))},upperdir={overlay.upper},workdir={directory}/rw/work"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(overlay.merged)], check=True)
        try:
            assert overlay.run("os.chmod(sys.argv[1] + '/f', 0o600)", bytes(overlay.merged)).returncode == 0
            (event,) = case.events()
        finally:
            overlay.unmount()
        assert (event["path"], event["layer_index"]) == ("/f", layer)


@pytest.mark.each_kernel
def test_the_loser_of_a_race_is_no_copy(case: Case, overlay: Overlay) -> None:
    count = 53
    for number in range(count):
        (overlay.lower / f"{number}").write_bytes(b"x" * 3001)
    overlay.mount()
    code = """
import threading
barrier = threading.Barrier(4)
def work():
    for number in range(int(sys.argv[2])):
        barrier.wait()
        os.close(os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY))
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    assert overlay.run(code, bytes(overlay.merged), b"%d" % count).returncode == 0
    events = case.events()
    assert sorted(int(e["path"][1:]) for e in events) == list(range(count))
    assert {e["copied_bytes"] for e in events} == {3001}


@pytest.mark.each_kernel
def test_metacopy_counts_metadata_and_data_apart(case: Case, overlay: Overlay) -> None:
    (overlay.lower / "f").write_bytes(images.pattern(300_007))
    overlay.mount("metacopy=on")
    code = "os.chmod(sys.argv[1] + '/f', 0o600)\nopen(sys.argv[1] + '/f', 'ab').write(b'x')"
    assert overlay.run(code, bytes(overlay.merged)).returncode == 0
    assert [(e["trigger"], e["part"], e["copied_bytes"], e["size_bytes"]) for e in case.events()] == [
        ("chmod", "metadata", 0, 300_007),
        ("open-write", "data", 300_007, 300_007),
    ]


@pytest.mark.parametrize("file_system", ["xfs", "btrfs"])
@pytest.mark.each_kernel
def test_a_reflink_is_cloned_not_copied(case: Case, tmp_path: Path, file_system: str) -> None:
    directory = Path("/var/lib/kubelet") / f"reflink-{file_system}"
    overlay = Overlay(directory, case.container, 1 << 20, mounted=False)
    image = directory / "image"
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run([f"mkfs.{file_system}", "-q", str(image)], check=True)
    subprocess.run(["modprobe", "-a", "loop", file_system], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory / "rw")], check=True)
    try:
        for path in (overlay.upper, directory / "rw" / "work", directory / "rw" / "lower"):
            path.mkdir()
        overlay.lower = directory / "rw" / "lower"
        (overlay.lower / "f").write_bytes(images.pattern(1_000_003))
        os.sync()
        overlay.mount()
        assert overlay.run("os.chmod(sys.argv[1] + '/f', 0o600)", bytes(overlay.merged)).returncode == 0
        (event,) = case.events()
        shared = _extents_are_shared(overlay.upper / "f")
    finally:
        overlay.unmount()
    # btrfs clones between two mounts, as the layers of an overlay are, only since 5.18: before, it really copies
    expected = (0, 1_000_003) if shared else (1_000_003, 0)
    assert (event["path"], event["copied_bytes"], event["cloned_bytes"]) == ("/f", *expected)
    assert shared or file_system == "btrfs"


def _extents_are_shared(path: Path) -> bool:
    """FIEMAP (Documentation/filesystems/fiemap.rst): whether the file's first extent belongs to another file too."""
    request = bytearray(struct.pack("=QQLLLL", 0, 1 << 40, 1, 0, 1, 0) + bytes(56))
    with open(path, "rb") as file:
        fcntl.ioctl(file, 0xC020660B, request)
    flags: int = struct.unpack_from("=L", request, 32 + 40)[0]
    return bool(flags & 0x2000)


@pytest.mark.one_kernel
def test_a_file_of_the_image_has_its_layer_and_dockerfile_line(case: Case) -> None:
    low, middle, top = case.run("chmod 700 /bin/busybox; chmod 600 /app/one-byte; chmod 600 /app/big")[1:]
    assert (low["path"], low["layer"], low["layer_index"]) == ("/bin/busybox", 1, 3)
    assert (middle["path"], middle["layer"], middle["layer_index"]) == ("/app/one-byte", 2, 2)
    assert (top["path"], top["layer"], top["layer_index"]) == ("/app/big", 3, 1)
    for event, line, layer in (
        (middle, images.APP_LINE, images.app_layer()),
        (top, images.TOP_LINE, images.top_layer()),
    ):
        assert (event["created_by"], event["layers"], event["image"]) == (line, 3, images.WEB)
        assert event["layer_digest"] == "sha256:" + hashlib.sha256(layer).hexdigest()
        snapshots = os.path.dirname(os.path.dirname(case.container.upperdir))
        assert os.path.exists(f"{snapshots}/{event['snapshot']}/fs{event['path']}")
        assert event["layer_reason"] is None


@pytest.mark.one_kernel
def test_the_summary_says_what_to_do(case: Case, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "-c", case.container.name)
    case.run("echo >> /app/big; : > /app/logs/access.log")
    summary = tracer.end()[-1]
    whose = f"shop/{case.container.pod.name}/{case.container.name}"
    # the other of the two is what this test's own marker is appended to
    assert summary["remedies"][0] == (
        f"{whose}: 16 MiB copied by sh to append to 2 files in /app (image layers 2 and 3): mount a volume at /app, "
        "filled by an init container"
    )
    worst = summary["advice"][0]
    assert worst["mount"] == {"kind": "volume", "path": "/app", "filled": True}
    assert (worst["container"], worst["action"], worst["files"], worst["programs"]) == (whose, "mount", 2, ["sh"])
