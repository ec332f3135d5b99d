"""What counting adds to one write, in instructions of a virtual machine, and what a snapshot of 100,000 counters costs.

The instructions are exact (cost.py says how), and held against those of a minimal fexit program with one hash and two
additions (minimal.bpf.c), and of other tools.

A snapshot is read, decoded, attributed, added up and ranked. Its map is the tracer's own, in this machine's kernel (the
object is loaded, not attached), written from here.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import platform
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import compile_objects

from benchmarks.measure import Row, spread
from kubetrace.attribution.facts import CgroupSeen, ContainerSeen, Fact
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.kit.context import Context
from kubetrace.stream.layout import Batch
from kubetrace.tables.contract import Run
from kubetrace.tables.counted import Counted
from kubetrace.tracers import find

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = 100_000
CGROUPS = 500
MOUNTS = 7
BY = "destination"
# Time, key (below), value, and the next one's header.
_SLOT = struct.Struct("<Q 48s QQQQQ16s Q")
_COUNT_AT = 8 + 48


def _key(number: int) -> bytes:
    # cgroup id, memory cgroup id, mount, place, memory hierarchy, device, pid, operation
    mount = 1 + number % MOUNTS
    return struct.pack("<QQQQIIII", 100 + number % CGROUPS, 0, mount, number, 0, _device(mount), 0, 0)


def _device(mount: int) -> int:
    # a mount is of one file system
    return 50 + mount % 3


def _fill(slots: mmap.mmap, loaded: LoadedObject) -> None:
    """A counter for each key, as the tracer's programs make them."""
    for number in range(KEYS):
        slot = number + 1
        _SLOT.pack_into(slots, slot * _SLOT.size, 1, _key(number), 1, 4096, 0, 1, 0, b"bench", 0)
        loaded.update("writes_keys", _key(number), slot.to_bytes(4, "little"))
    struct.pack_into("<Q", slots, 0, KEYS)


def _write(slots: mmap.mmap, step: int) -> None:
    """A write of 4096 bytes to every `step`-th file."""
    for at in range(_SLOT.size + _COUNT_AT, (KEYS + 1) * _SLOT.size, step * _SLOT.size):
        count, size = struct.unpack_from("<QQ", slots, at)
        struct.pack_into("<QQ", slots, at, count + 1, size + 4096)


def _facts() -> Iterator[Fact]:
    for number in range(CGROUPS):
        container_id = f"{number:064x}"
        uid = f"00000000-0000-0000-0000-{number // 3:012x}"
        yield CgroupSeen(0, 100 + number, f"/kubepods/pod{uid}/{container_id}", 0)
        yield ContainerSeen(
            container_id,
            "container",
            "shop",
            f"pod-{number // 3}",
            f"c{number % 3}",
            uid,
            None,
            None,
            "config.json",
            0,
        )


def run(rounds: int) -> list[Row]:
    """Instructions of one write; the snapshot is a benchmark of its own (snapshot.py)."""
    return _instructions(min(rounds, 5))


def _instructions(rounds: int) -> list[Row]:
    minimal = ROOT / ".venv" / "minimal.bpf.o"
    compile_objects.compile_object(
        ROOT / "scripts" / "benchmarks" / "minimal.bpf.c", minimal, platform.machine(), "-I", str(ROOT / "bpf")
    )
    guest = ["python3", "scripts/benchmarks/writes_guest.py", str(rounds), str(minimal.relative_to(ROOT))]
    machine = [str(ROOT / "scripts" / "vm"), "--kernel", "6.1", "--count-instructions", "--timeout", "480", "--"]
    done = subprocess.run([*machine, *guest], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    plain = found.pop("untraced")
    least = found["a minimal fexit counter"] - plain
    return [
        Row(
            f"one write, {name}",
            took - plain,
            f"+{took - plain:,.0f}",
            f"instructions, {(took - plain) / least:.2f} of the minimal counter's",
        )
        for name, took in found.items()
        if took is not None  # not installed, or did not start
    ]


def snapshots(rounds: int) -> list[Row]:
    """ms of CPU from the kernel's memory to ranked rows."""
    tracer = find("writes")
    path = ROOT / "src" / "kubetrace" / "objects" / platform.machine() / "writes.bpf.o"
    times: dict[str, list[float]] = {}

    def timed(what: str, measured: Callable[[], object]) -> None:
        begun = time.process_time()
        measured()
        times.setdefault(what, []).append(time.process_time() - begun)

    sizes = dict.fromkeys(("writes", "writes_keys"), 131072)
    with LoadedObject(path, hook="kprobe", attach=False, sizes=sizes, optional=tracer.optional) as loaded:
        layouts = {name: loaded.layout(struct_name) for name, struct_name in tracer.streams.items()}
        context = Context("node", 0)
        context.attribution.learn(_facts())
        told, root = layouts["writes_mounts"], b"cache\0kubernetes.io~empty-dir\0volumes\0u\0pods\0"
        record = struct.Struct(f"<8x{told.format[1:]}")
        mounts = b"".join(
            record.pack(0, number, 0, _device(number), number, 1, len(root), 0, 0, 0, 0, b"ext4", b"", root, b"")
            for number in range(1, 1 + MOUNTS)
        )
        slots = mmap.mmap(loaded.map_fd("writes"), 131072 * _SLOT.size)
        _fill(slots, loaded)

        def begin() -> Callable[[], None]:
            ring = loaded.stream("writes", layouts["writes"].size)
            table = Counted(Run(tracer, context, layouts, by=BY))
            table.read([Batch("writes_mounts", mounts)])
            # as a session does once it has begun
            gc.collect()
            gc.freeze()

            def window() -> None:
                table.read([Batch("writes", ring.read())])
                table.count(None)
                table.tick(1_000_000_000)
                table.rows(BY).rows("bytes", 50)

            return window

        for _ in range(rounds):
            window = begin()
            timed("every key is new: the first snapshot", window)
            _write(slots, 1)
            timed("every key has changed", window)
            _write(slots, 97)
            timed("one in a hundred has changed", window)
            timed("none has changed", window)
            timed("a lookup for each key by ctypes, nothing done with it", lambda: _each(loaded.map_fd("writes_keys")))
    return [
        Row(
            what,
            statistics.median(found) * 1000,
            f"{statistics.median(found) * 1000:.1f} ms",
            f"{spread(found, 1000, 1)} ms of CPU, {KEYS:,} keys",
            tuple(found),
        )
        for what, found in times.items()
    ]


def _each(fd: int) -> None:
    bpf = ctypes.CDLL("libbpf.so.1")
    key, value = ctypes.create_string_buffer(48), ctypes.create_string_buffer(8)
    before = None
    while not bpf.bpf_map_get_next_key(fd, before, key):
        before = key
        bpf.bpf_map_lookup_elem(fd, key, value)
