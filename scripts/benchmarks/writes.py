"""What counting adds to one write, in instructions of a virtual machine, and what a snapshot of 100,000 counters costs.

The instructions are exact (cost.py says how), and held against those of a minimal fexit program with one hash and two
additions (minimal.bpf.c), and of other tools.

A snapshot is read, decoded, attributed, added up and ranked. Its map is the tracer's own, in this machine's kernel (the
object is loaded, not attached), filled from here. What has changed since the last snapshot is changed behind the real
look-up, as an update from user space would move an entry inside its bucket, which programs never do.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import compile_objects

from benchmarks.measure import Row, spread
from kubetrace.attribution.attributor import Attributor, Identity
from kubetrace.attribution.facts import CgroupSeen, ContainerSeen
from kubetrace.counting import Counting
from kubetrace.engines.counters import CounterMap
from kubetrace.engines.libbpf import LoadedObject, library
from kubetrace.layout import Batch
from kubetrace.selection import Selection
from kubetrace.tracers import find

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = 100_000
CGROUPS = 500
MOUNTS = 7
BY = "destination"
_VALUE = struct.Struct("<QQQQQ16s")


def _key(number: int) -> bytes:
    # cgroup id, memory cgroup id, mount, place, memory hierarchy, device, pid, operation
    mount = 1 + number % MOUNTS
    return struct.pack("<QQQQIIII", 100 + number % CGROUPS, 0, mount, number, 0, _device(mount), 0, 0)


def _device(mount: int) -> int:
    # a mount is of one file system
    return 50 + mount % 3


def _update(fd: int, count: int) -> None:
    update = library().bpf_map_update_elem
    value = _VALUE.pack(1, 4096, 0, 1, 0, b"bench")
    for number in range(count):
        update(fd, _key(number), value, 0)


def _written(values: bytes, step: int) -> bytes:
    """The values after a write of 4096 bytes to every `step`-th file."""
    changed = bytearray(values)
    for at in range(0, len(values), step * _VALUE.size):
        count, size, *rest = _VALUE.unpack_from(values, at)
        _VALUE.pack_into(changed, at, count + 1, size + 4096, *rest)
    return bytes(changed)


def _attributor() -> Attributor:
    made = Attributor()
    for number in range(CGROUPS):
        container_id = f"{number:064x}"
        uid = f"00000000-0000-0000-0000-{number // 3:012x}"
        made.learn(CgroupSeen(0, 100 + number, f"/kubepods/pod{uid}/{container_id}", 0))
        made.learn(
            ContainerSeen(
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
        )
    return made


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
    """ms of CPU from the kernel's hash to ranked rows."""
    tracer = find("writes")
    path = ROOT / "src" / "kubetrace" / "objects" / platform.machine() / "writes.bpf.o"
    times: dict[str, list[float]] = {}

    def timed(what: str, measured: Callable[[], object]) -> None:
        begun = time.process_time()
        measured()
        times.setdefault(what, []).append(time.process_time() - begun)

    with LoadedObject(path, hook="kprobe", attach=False, sizes={"writes": 131072}, optional=tracer.optional) as loaded:
        layouts = {name: loaded.layout(struct_name) for name, struct_name in tracer.streams.items()}
        attributor = _attributor()

        def identify(event: object) -> Identity:
            return attributor.identify(
                cgroup_id=event.cgroup_id,  # type: ignore[attr-defined]
                memory_cgroup_id=0,
                memory_hierarchy=0,
                device=None,
                time_ns=0,
            )

        told, root = layouts["writes_mounts"], b"cache\0kubernetes.io~empty-dir\0volumes\0u\0pods\0"
        record = struct.Struct(f"<8x{told.format[1:]}")
        mounts = b"".join(
            record.pack(0, number, 0, _device(number), number, 1, len(root), 0, 0, 0, 0, b"ext4", b"", root, b"")
            for number in range(1, 1 + MOUNTS)
        )
        fd = loaded.map_fd("writes")
        _update(fd, KEYS)
        changes = {"values": b""}

        def begin() -> Callable[[], None]:
            ring = loaded.stream("writes", layouts["writes"].size)
            assert isinstance(ring, CounterMap)
            look_up = ring._snapshot
            changes["values"] = look_up()[1]
            ring._snapshot = lambda: (look_up()[0], changes["values"])  # type: ignore[method-assign]
            counting = Counting(
                tracer, layouts, identify, lambda _uid, _name: None, Selection.parse((), (), ()), "node", BY
            )
            counting.take([Batch("writes_mounts", mounts)])
            # as a session does once it has begun
            gc.collect()
            gc.freeze()

            def window() -> None:
                counting.take([Batch("writes", ring.read())])
                counting.tick(1_000_000_000)
                counting.table(BY).rows("bytes", 50)

            return window

        for _ in range(rounds):
            window = begin()
            timed("every key is new: the first snapshot", window)
            changes["values"] = _written(changes["values"], 1)
            timed("every key has changed", window)
            changes["values"] = _written(changes["values"], 97)
            timed("one in a hundred has changed", window)
            timed("none has changed", window)
            timed("a lookup for each key by ctypes, nothing done with it", lambda: _each(fd))
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
    key, value = ctypes.create_string_buffer(48), ctypes.create_string_buffer(56)
    before = None
    while not library().bpf_map_get_next_key(fd, before, key):
        before = key
        library().bpf_map_lookup_elem(fd, key, value)
