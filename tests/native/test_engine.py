"""The engine on this machine's kernel: choosing, loading, layouts, rings, losses, births of cgroups."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubetrace.engines import tracefs
from kubetrace.engines.attached import Program, missed_by_both
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.ring import CallbackRing, MappedRing, Ring
from kubetrace.engines.source import KernelSource, object_path
from kubetrace.errors import HookMissing, LibraryMissing, LoadRefused
from kubetrace.tracers import find

from .conftest import DEADLINE_S, ROOT, Workload

OPTIONAL = {"cloned": "", "begun": ""}


@pytest.fixture
def standin(objects: Path, workload: Workload) -> Iterator[LoadedObject]:
    with LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid}) as loaded:
        yield loaded


def fed_by(ring: Ring) -> bytes:
    pieces: list[bytes] = []
    ring.feed(lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


def test_the_layout_is_the_c_struct(standin: LoadedObject) -> None:
    layout = standin.layout("copyup_event")
    assert (layout.size, layout.stride) == (504, 512)
    units = {field.name: field.unit for field in layout.fields}
    assert units["time"] == "boot_ns" and units["copied"] == "bytes" and units["duration"] == "duration_ns"
    assert [field.name for field in layout.fields][:3] == ["time", "cgroup_id", "memory_cgroup_id"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the mapped ring needs x86-64's memory ordering")
def test_both_ring_readers_give_the_same_records(objects: Path, workload: Workload) -> None:
    layouts, found = [], []
    for kind in (MappedRing, CallbackRing):
        with LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid}) as loaded:
            layout = loaded.layout("copyup_event")
            ring = loaded.ring("copyup", layout.size)
            if kind is CallbackRing:
                ring = CallbackRing(loaded._library, loaded.map_fd("copyup"), layout.size)
            assert isinstance(ring, kind)
            workload.fire(bytes(workload.directory / "a"), 23)
            layouts.append(layout)
            found.append([(e.copied, e.path, e.pid, e.comm) for e in layout.decode(ring.read())])
            assert ring.read() == b""
            workload.fire(bytes(workload.directory / "a"), 1003)
            found.append([(e.copied, e.path, e.pid, e.comm) for e in layout.decode(fed_by(ring))])
            assert fed_by(ring) == b""
    assert found[:2] == found[2:]
    assert [copied for copied, *_ in found[0] + found[1]] == list(range(1, 1027))


@pytest.mark.parametrize("way", ["read", "feed"])
def test_every_record_arrives_once_and_whole_while_it_is_written(objects: Path, workload: Workload, way: str) -> None:
    with LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid}) as loaded:
        layout = loaded.layout("copyup_event")
        ring = loaded.ring("copyup", layout.size)
        count = 100_003
        writer = threading.Thread(target=workload.fire, args=(bytes(workload.directory / "a"), count))
        seen: list[int] = []

        def take(data: bytes | memoryview) -> None:
            seen.extend(event.copied for event in layout.decode(data))

        def drain() -> None:
            if way == "feed":
                ring.feed(take)
            else:
                take(ring.read())

        writer.start()
        while writer.is_alive():
            drain()
        drain()
        writer.join()
        (lost,) = loaded.per_cpu_sums("losses", [loaded.btf.enum("kt_loss")["kt_loss_ring_full"]])
    # the stand-in numbers its events: what is not lost comes once, and in order
    assert seen == sorted(set(seen))
    assert len(seen) + lost == count


def test_the_kernel_measures_runs_while_it_is_asked_to(standin: LoadedObject, workload: Workload) -> None:
    def asking() -> int:
        """How often this process has the kernel measure: what another one asks for is measured here too."""
        links = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sum("bpf-stats" in link for link in links)

    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    untouched = switch.read_text()
    workload.fire(bytes(workload.directory / "a"), 23)
    assert asking() == 0
    standin.time_runs()
    assert asking() == 1
    assert switch.read_text() == untouched  # the one for all
    spent_before, count_before = standin.runs()["standin__raw_tp"]
    workload.fire(bytes(workload.directory / "a"), 1009)
    spent, count = standin.runs()["standin__raw_tp"]
    # fdinfo(5) is the kernel's other mouth; every system call of this machine is a run, more follow
    fds = [standin._library.bpf_program__fd(p.pointer) for p in standin._programs() if p.name == "standin__raw_tp"]
    told = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{fds[0]}").read_text().splitlines())
    assert count_before + 1009 <= count <= int(told["run_cnt"])
    assert spent_before + 1009 * 10 <= spent <= int(told["run_time_ns"])


def test_a_full_ring_is_counted_not_silent(standin: LoadedObject, workload: Workload) -> None:
    layout = standin.layout("copyup_event")
    ring = standin.ring("copyup", layout.size)
    workload.fire(bytes(workload.directory / "a"), 20_011)
    kept = len(list(layout.decode(ring.read())))
    # 4 MiB hold 8,192 records of 512 bytes; the ring keeps one byte free
    assert kept == 8_191
    assert standin.per_cpu_sums("losses", [0]) == [20_011 - kept]


def test_a_reader_that_is_interrupted_leaves_its_piece_and_can_be_closed(objects: Path, workload: Workload) -> None:
    with LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid}) as loaded:
        layout = loaded.layout("copyup_event")
        ring = loaded.ring("copyup", layout.size)
        workload.fire(bytes(workload.directory / "a"), 7)

        def interrupted(piece: bytes | memoryview) -> None:
            for _ in struct.iter_unpack(f"{layout.stride}s", piece):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            ring.feed(interrupted)
        assert [event.copied for event in layout.decode(fed_by(ring))] == list(range(1, 8))
    assert caught.traceback


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the mapped ring needs x86-64's memory ordering")
def test_a_ring_that_wraps_is_read_in_order(standin: LoadedObject, workload: Workload) -> None:
    layout = standin.layout("copyup_event")
    ring = standin.ring("copyup", layout.size)
    seen: list[int] = []
    for at, count in enumerate((5003, 5003, 8000, 1, 6007)):
        workload.fire(bytes(workload.directory / "a"), count)
        if at % 2:
            seen += [event.copied for event in layout.decode(fed_by(ring))]
        else:
            seen += [event.copied for event in layout.decode(ring.read())]
        assert ring.read() == b""
    assert seen == list(range(1, 24_015))


def test_a_path_that_does_not_fit_goes_to_the_long_stream(standin: LoadedObject, workload: Workload) -> None:
    long = standin.layout("copyup_long_event")
    rings = standin.ring("copyup", 504), standin.ring("copyup_long", long.size)
    deep = bytes(workload.directory) + b"/" + b"/".join([b"d" * 200] * 3)
    workload.fire(deep, 1)
    assert rings[0].read() == b""
    (event,) = long.decode(rings[1].read())
    names = event.path[: event.path_bytes].split(b"\0")[:3]
    assert names == [b"d" * 200] * 3
    assert event.path[event.path_bytes :].strip(b"\0") == b""


def test_no_record_carries_the_tail_of_another_path(standin: LoadedObject, workload: Workload) -> None:
    layouts = [standin.layout(name) for name in ("copyup_event", "copyup_long_event")]
    rings = standin.ring("copyup", layouts[0].size), standin.ring("copyup_long", layouts[1].size)
    os.sched_setaffinity(workload.pid, {min(os.sched_getaffinity(0))})
    paths = [
        b"/".join([letter * size] * depth) for letter, size, depth in ((b"a", 211, 5), (b"b", 97, 6), (b"c", 3, 1))
    ]
    for path in [*paths, paths[1], paths[2], paths[0]]:
        workload.fire(bytes(workload.directory) + b"/" + path, 1)
    events = [event for ring, layout in zip(rings, layouts, strict=True) for event in layout.decode(ring.read())]
    assert [event.copied for event in sorted(events, key=lambda event: event.time)] == [1, 2, 3, 4, 5, 6]
    assert {event.path[:1] for event in events} == {b"a", b"b", b"c"}
    assert b"".join(event.path[event.path_bytes :] for event in events).strip(b"\0") == b""


def test_tracefs_can_be_had_where_it_is_mounted_nowhere() -> None:
    mount = tracefs.mount_unseen()
    try:
        assert {"events", "instances", "README"} <= set(os.listdir(f"/proc/self/fd/{mount}"))
        # another process may mount something meanwhile: this very mount is none that anyone sees
        told = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{mount}").read_text().splitlines())
        seen = {line.split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        assert seen and told["mnt_id"] not in seen
    finally:
        os.close(mount)


def test_births_of_cgroups_carry_id_and_path(standin: LoadedObject) -> None:
    layout = standin.layout("cgroup_event")
    ring = standin.ring("cgroups", layout.size)
    mount = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
    made = mount / f"kubetrace-test-{os.getpid()}"
    made.mkdir()
    try:
        number = made.stat().st_ino
    finally:
        made.rmdir()
    steps = [e for e in layout.decode(ring.read()) if e.cgroup_id == number and e.hierarchy == 0]
    name = b"/" + made.name.encode()
    assert [(e.step, e.path[: e.path_bytes]) for e in steps] == [(0, name), (1, name)]


@pytest.mark.parametrize("hook", ["kprobe"])
def test_the_verifier_accepts_every_kprobe_program(hook: str) -> None:
    """Loading needs no kprobes in the kernel, only its verifier; attaching is the VM's."""
    with LoadedObject(object_path("copyup"), hook=hook, optional=OPTIONAL, attach=False) as loaded:
        assert loaded.missing == {}


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_objects_hold_btf_and_the_programs_of_both_kinds(arch: str) -> None:
    from elftools.elf.elffile import ELFFile

    with open(ROOT / "src" / "kubetrace" / "objects" / arch / "copyup.bpf.o", "rb") as file:
        sections = [section.name for section in ELFFile(file).iter_sections()]
    assert {".BTF", ".BTF.ext", "license", ".maps"} <= set(sections)
    for hook in ("fentry", "kprobe", "fexit", "kretprobe"):
        assert f"{hook}/ovl_copy_up_one" in sections


BACKED_UP = {
    "copyup": {"fentry", "raw_tp"},
    # their fentry programs have none: what they miss is counted
    "cgroups": {"raw_tp"},
    "starts": {"raw_tp"},
    "writes": {"fentry", "raw_tp"},
}


@pytest.mark.parametrize("tracer", BACKED_UP)
def test_every_backup_is_of_a_program_and_has_a_place_to_count(tracer: str) -> None:
    with LoadedObject(object_path(tracer), hook="kprobe", optional=find(tracer).optional, attach=False) as loaded:
        programs: list[Program] = [*loaded._programs()]
        places = loaded.btf.enum("kt_backed_up_births")
        begin = places.pop("kt_backed_up_others")
        own = loaded.btf.enum("kt_backed_up")
        copies = loaded.btf.enum("kt_copy")["kt_copies"]
    assert [*(places | own).values()] == list(range(begin + len(own)))
    places |= own
    backups = [program for program in programs if program.backs_up is not None]
    first = {
        (program.group, program.function)
        for program in programs
        if program.hook in BACKED_UP[tracer] and program.backs_up is None and program.function != "sys_exit"
    }
    assert {(program.backs_up, program.function) for program in backups} == first
    assert {f"kt_backed_up_{program.backs_up}" for program in backups} == set(places)
    assert copies == 2 and max(places.values()) < 64


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_what_two_copies_missed_is_what_neither_ran_for(order: tuple[int, int], idle: float) -> None:
    chance = random.Random(7)
    for _ in range(2000):
        rate, missed, done, neither = chance.random(), [0, 0], [0, 0], 0
        for _ in range(chance.randrange(12)):
            work, did, ran = chance.random() >= idle, False, False
            for copy in order:
                if chance.random() < rate:
                    missed[copy] += 1
                    continue
                ran = True
                if work and not did:
                    did, done[copy] = True, done[copy] + 1
            neither += work and not ran
        told = missed_by_both(*missed, *done)
        assert told == neither if not idle else neither <= told <= min(missed)


def test_no_lru_map_is_smaller_than_what_the_cpus_take_for_themselves() -> None:
    (first, _, last) = Path("/sys/devices/system/cpu/possible").read_text().strip().partition("-")
    cpus = int(last or first) + 1
    found = 0
    with LoadedObject(object_path("copyup"), hook="kprobe", optional=OPTIONAL, attach=False):
        for number in os.listdir("/proc/self/fdinfo"):
            try:
                text = Path("/proc/self/fdinfo", number).read_text()
            except FileNotFoundError:
                continue  # the list's own
            told = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if told.get("map_type") == "9":
                found += 1
                # `handled` has 4,096 in the object
                assert int(told["max_entries"]) >= 128 * (cpus + 32)
    assert found == 3


def test_an_object_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing, match=r"copyup.bpf.o is not installed"):
        LoadedObject(tmp_path / "copyup.bpf.o")


def test_an_object_that_is_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copyup.bpf.o").write_bytes(b"\x7fELF" + os.urandom(4096))
    with pytest.raises(LoadRefused, match="libbpf cannot open"):
        LoadedObject(tmp_path / "copyup.bpf.o")


@pytest.mark.skipif(
    Path("/sys/bus/event_source/devices/kprobe").exists(), reason="this kernel has kprobes; the VM tests attach them"
)
def test_a_kernel_without_hooks_is_told_apart() -> None:
    with pytest.raises(HookMissing) as caught:
        LoadedObject(object_path("copyup"), optional=OPTIONAL)
    assert "built without kprobes" in str(caught.value)
    assert "ovl_copy_up_one" in caught.value.detail


def test_a_source_gives_batches_and_losses(objects: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBETRACE_OBJECTS", str(objects))
    source = KernelSource(
        "copyup",
        {"copyup": "copyup_event", "copyup_long": "copyup_long_event"},
        constants={"standin_pid": workload.pid},
        optional={},
    )
    try:
        workload.fire(bytes(workload.directory / "a"), 7)
        (batch,) = source.read("copyup", "copyup_long")
        assert batch.stream == "copyup"
        assert len(list(source.layouts["copyup"].decode(batch.data))) == 7
        assert set(source.losses().values()) == {0}
        assert source.hook == "raw_tp"
    finally:
        source.close()


def test_a_ring_asks_to_be_drained_once_when_it_is_half_full(
    objects: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    import select

    monkeypatch.setenv("KUBETRACE_OBJECTS", str(objects))
    streams = {"copyup": "copyup_event", "copyup_long": "copyup_long_event"}
    source = KernelSource("copyup", streams, constants={"standin_pid": workload.pid}, optional={})
    poller = select.epoll()
    try:
        for fd in source.ring_fds:
            poller.register(fd, select.EPOLLIN | select.EPOLLET)
        path = bytes(workload.directory / "a")
        workload.fire(path, 4000)
        assert poller.poll(0) == []
        workload.fire(path, 1000)
        # 4,096 of 8,192 records were passed; the kernel tells it by an interrupt of its own (irq_work)
        assert len(poller.poll(DEADLINE_S)) == 1
        assert poller.poll(0) == []
        (batch,) = source.read("copyup")
        assert len(list(source.layouts["copyup"].decode(batch.data))) == 5000
        # a reader that sleeps is woken by the next record, and by that one alone
        workload.fire(path, 3)
        assert poller.poll(0) == []
        source.wake_at_next()
        assert poller.poll(0) == []
        workload.fire(path, 5)
        assert len(poller.poll(DEADLINE_S)) == 1
        assert poller.poll(0) == []
    finally:
        poller.close()
        source.close()


@pytest.mark.parametrize("files", [10, 16, 24, 40])
def test_too_few_descriptors_are_named_and_no_fault_to_report(files: int) -> None:
    command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", sys.executable, "-m", "kubetrace"]
    done = subprocess.run([*command, "writes", "-d", "1"], capture_output=True, text=True, check=False)
    first, why, do = done.stderr.splitlines()
    assert done.returncode == 1 and first == "Error: no more files can be opened (Too many open files)."
    assert f"ulimit -n is {files}" in why and do == "Try:  ulimit -n 1024; kubetrace ..."
