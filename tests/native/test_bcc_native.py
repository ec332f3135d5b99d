"""The bcc engine where kprobes cannot fire: all is compiled and verified, tracepoints run, both engines agree."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kubetrace import tracers
from kubetrace.engines.bcc import cache, engine, headers
from kubetrace.engines.bcc.engine import BccObject, Compiled, _build, build, compile_text
from kubetrace.engines.bcc.translate import translate
from kubetrace.engines.kernel_types import KernelTypes, asked_for
from kubetrace.engines.source import KernelSource, engine_for, source_path, sources
from kubetrace.errors import HookMissing, LibraryMissing, LoadRefused

from .conftest import ROOT, STANDIN_CALL, Workload

STREAMS = {"copyup": "copyup_event", "copyup_long": "copyup_long_event"}
KPROBES = Path("/sys/bus/event_source/devices/kprobe").exists()
HEADERS = sorted(Path("/usr/src").glob("linux-headers-*-amd64"))


def wanted(*names: str) -> set[str]:
    """The kernel types that tracers ask for."""
    found: set[str] = set()

    def look(text: str) -> str:
        found.update(asked_for(text))
        return text

    for name in names:
        translate(source_path(name), sources(), {}, look)
    return found


@pytest.mark.parametrize("name", tracers.names())
def test_every_tracer_compiles_and_passes_the_verifier(name: str) -> None:
    tracer = tracers.find(name)
    with BccObject(source_path(name), sources(), optional=tracer.optional, attach=False) as loaded:
        # bcc has no iterators
        iterators = re.findall(r'SEC\("iter[^)]*\)\s+int (\w+?)__', source_path(name).read_text())
        assert loaded.missing.keys() == set(iterators)
        assert {"cgroup_mkdir", "cgroup_rmdir"} <= loaded.hooks.keys()
        for stream, event in tracer.streams.items():
            assert loaded.map(stream).fd >= 0
            assert loaded.layout(event).size > 0


@pytest.mark.parametrize("name", tracers.names())
def test_the_layouts_are_those_of_the_compiled_object(name: str) -> None:
    from kubetrace.engines.libbpf import LoadedObject
    from kubetrace.engines.source import object_path

    tracer = tracers.find(name)
    with (
        BccObject(source_path(name), sources(), optional=tracer.optional, attach=False) as by_bcc,
        LoadedObject(object_path(name), optional=tracer.optional, hook="kprobe", attach=False) as by_libbpf,
    ):
        for event in (*tracer.streams.values(), "cgroup_event"):
            assert by_bcc.layout(event) == by_libbpf.layout(event)
        assert by_bcc.btf.enum("kt_loss") == by_libbpf.btf.enum("kt_loss")
        for stream in (*tracer.streams, "losses", "excluded_cgroups"):
            ours, theirs = by_bcc.map(stream), by_libbpf.map(stream)
            assert (ours.type, ours.key_size, ours.value_size, ours.entries) == (
                theirs.type,
                theirs.key_size,
                theirs.value_size,
                theirs.entries,
            )


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "sources"
    directory.mkdir()
    (directory / "copyup.bpf.c").write_text(
        f'#define NR_GETPPID {STANDIN_CALL}\n#include "{ROOT}/tests/native/standin.bpf.c"\n'
    )
    monkeypatch.setenv("KUBETRACE_SOURCES", str(directory))


def test_both_engines_tell_the_same_events(
    objects: Path, standin: None, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBETRACE_OBJECTS", str(objects))
    constants = {"standin_pid": workload.pid}
    told = {}
    running = {
        engine: KernelSource("copyup", STREAMS, constants=constants, optional={}, engine=engine)
        for engine in ("bcc", "libbpf")
    }
    try:
        deep = bytes(workload.directory) + b"/x" * 70 + b"/" + b"y" * 200
        for path, count in ((bytes(workload.directory / "a \xff"), 7), (deep, 5)):
            workload.fire(path, count)
        for engine, source in running.items():
            batches = source.read("copyup", "copyup_long")
            told[engine] = [
                event._replace(time=0, duration=0)
                for batch in batches
                for event in source.layouts[batch.stream].decode(batch.data)
            ]
            assert set(source.losses().values()) == {0}
            assert (source.engine, source.hook) == (engine, "raw_tp")
    finally:
        for source in running.values():
            source.close()
    assert len(told["bcc"]) == 12
    assert told["bcc"] == told["libbpf"]
    assert {event.copied for event in told["bcc"]} == set(range(1, 13))


class Kept:
    """The one file that a compilation leaves, in a cache of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "kubetrace" / "bcc"
        self._source = directory / "seven.bpf.c"
        self._source.write_text(
            '#include "units.bpf.h"\nchar LICENSE[] SEC("license") = "GPL";\nconst volatile __u32 more = 0;\n'
            'SEC("kprobe/vfs_rmdir")\nint seven__kprobe(void *ctx)\n{\n\treturn 7 + more;\n}\n'
        )

    def compile(self, more: int = 0) -> Compiled:
        # nor what this process remembers
        _build.cache_clear()
        return build(self._source, sources(), {"more": more})[1]

    @property
    def path(self) -> Path:
        (found,) = self.directory.iterdir()
        return found

    def tell_apart(self) -> bytes:
        """Change what is kept, as only reading it can tell."""
        answer = json.loads(self.path.read_text())
        answer["programs"] = {"kept": base64.b64encode(b"changed!").decode()}
        self.path.write_text(json.dumps(answer))
        return b"changed!"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Kept(tmp_path)


def test_what_was_compiled_once_is_kept(kept: Kept) -> None:
    compiled = kept.compile()
    assert compiled.programs["seven__kprobe"]
    assert kept.compile() == compiled
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.directory.stat().st_mode & 0o777 == 0o700
    changed = kept.tell_apart()
    assert kept.compile().programs == {"kept": changed}
    assert kept.compile(more=1).programs["seven__kprobe"] not in (changed, compiled.programs["seven__kprobe"])


def _writable_file(kept: Kept) -> None:
    kept.tell_apart()
    kept.path.chmod(0o620)


def _writable_directory(kept: Kept) -> None:
    kept.tell_apart()
    kept.directory.chmod(0o702)


def _of_another(kept: Kept) -> None:
    kept.tell_apart()
    os.chown(kept.path, 1234, 1234)


def _link(kept: Kept) -> None:
    kept.tell_apart()
    aside = kept.directory.parent / "aside"
    path = kept.path
    path.rename(aside)
    path.symlink_to(aside)


def _pipe(kept: Kept) -> None:
    path = kept.path
    path.unlink()
    os.mkfifo(path)


def _truncated(kept: Kept) -> None:
    os.truncate(kept.path, 100)


def _another_shape(kept: Kept) -> None:
    kept.path.write_text('{"programs": [1], "btf": 7}')


@pytest.mark.parametrize(
    "spoil", [_writable_file, _writable_directory, _of_another, _link, _pipe, _truncated, _another_shape]
)
def test_what_others_may_have_written_or_is_broken_is_compiled_again(kept: Kept, spoil: Callable[[Kept], None]) -> None:
    compiled = kept.compile()
    spoil(kept)
    # its BTF differs from one compilation to the next
    assert kept.compile().programs == compiled.programs


def test_a_cache_that_cannot_be_written_is_none(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept.compile().programs["seven__kprobe"]


def test_the_oldest_make_room(kept: Kept) -> None:
    for number in range(40):
        cache.store(f"{number:02}", "x")
        os.utime(kept.directory / f"{number:02}", (number, number))
    assert sorted(os.listdir(kept.directory)) == [f"{number:02}" for number in range(8, 40)]


def test_a_cgroup_that_is_excluded_is_not_told(standin: None, workload: Workload) -> None:
    constants = {"standin_pid": workload.pid, "filter_by_cgroup": 1}
    source = KernelSource("copyup", STREAMS, constants=constants, optional={}, engine="bcc")
    try:
        workload.fire(bytes(workload.directory / "a"), 3)
        (batch,) = source.read("copyup")
        event, *_ = source.layouts["copyup"].decode(batch.data)
        source.exclude(0, event.cgroup_id)
        source.exclude(event.memory_hierarchy, event.memory_cgroup_id)
        workload.fire(bytes(workload.directory / "a"), 3)
        assert source.read("copyup") == []
    finally:
        source.close()


def test_events_of_cgroups_are_told(tmp_path: Path) -> None:
    tracer = tracers.find("cgroups")
    optional = {**tracer.optional, "fork": "", "victim": ""}
    if KPROBES:
        pytest.skip("this kernel has kprobes; the VM tests fire them")
    source = KernelSource("cgroups", tracer.streams, constants={}, optional=optional, engine="bcc")
    try:
        done = subprocess.Popen(["/bin/true"])
        assert done.wait() == 0
        events = [e for batch in source.read("activity") for e in source.layouts["activity"].decode(batch.data)]
        mine = [e for e in events if e.pid == done.pid]
        assert [e.NAMES["event"][e.event] for e in mine] == ["exec"]
        assert mine[0].path.partition(b"\0")[0] == b"/bin/true"
    finally:
        source.close()


@pytest.mark.skipif(KPROBES, reason="this kernel has kprobes; the VM tests attach them")
def test_a_kernel_without_hooks_is_told_apart() -> None:
    with pytest.raises(HookMissing, match="nothing that copyup can hook"):
        BccObject(source_path("copyup"), sources(), optional=tracers.find("copyup").optional)


def test_fentry_is_refused_in_words() -> None:
    with pytest.raises(HookMissing, match="--hook fentry"):
        BccObject(source_path("copyup"), sources(), hook="fentry")


def test_the_tracing_process_stays_small(standin: None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = KernelSource("copyup", STREAMS, constants={}, optional={}, engine="bcc")
    source.close()
    # the compiler has 120 MB and more, and is gone
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 60 << 10


def test_libbpf_never_imports_what_is_bccs() -> None:
    code = (
        "import sys; from kubetrace.engines.source import KernelSource, engine_for; engine_for('auto');"
        "import kubetrace.engines.libbpf; print([m for m in sys.modules if 'bcc' in m or 'translate' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_auto_takes_bcc_where_there_is_no_btf(monkeypatch: pytest.MonkeyPatch) -> None:
    from kubetrace.engines import support

    assert engine_for("auto") == "libbpf"
    monkeypatch.setattr(support, "VMLINUX_BTF", Path("/nowhere"))
    assert engine_for("auto") == "bcc"
    monkeypatch.setattr(engine, "_PLACES", ("/nowhere",))
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    assert engine_for("auto") == "libbpf"
    with pytest.raises(LibraryMissing, match="apt-get install python3-bpfcc"):
        BccObject(source_path("copyup"), sources())


def test_a_mistake_in_the_source_is_told_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "own.bpf.c"
    source.write_text('#include "cgroup_births.bpf.h"\n\nint x(void *ctx)\n{\n\treturn nothing;\n}\n')
    with pytest.raises(LoadRefused) as caught:
        BccObject(source, sources())
    assert "own.bpf.c:5:9: error: use of undeclared identifier 'nothing'" in str(caught.value)


def test_a_member_that_the_kernel_lacks_is_not_read(tmp_path: Path) -> None:
    source = tmp_path / "own.bpf.c"
    source.write_text(
        '#include "cgroup_births.bpf.h"\nchar LICENSE[] SEC("license") = "GPL";\n'
        "struct task_struct___x {\n\tint no_such_member;\n} __attribute__((preserve_access_index));\n"
        'SEC("raw_tp/sched_process_exec")\nint asks__raw_tp(void *ctx)\n{\n'
        "\tstruct task_struct___x *task = (void *)bpf_get_current_task();\n\n"
        "\treturn bpf_core_field_exists(task->no_such_member) ? BPF_CORE_READ(task, no_such_member) : 0;\n}\n"
        'SEC("raw_tp/sched_process_exec")\nint reads__raw_tp(void *ctx)\n{\n'
        "\tstruct task_struct___x *task = (void *)bpf_get_current_task();\n\n"
        "\treturn BPF_CORE_READ(task, no_such_member);\n}\n"
    )
    with BccObject(source, sources(), optional={"reads": "what it reads"}, attach=False) as loaded:
        assert loaded.missing == {"reads": "what it reads"} and "asks" in loaded.hooks
    with pytest.raises(LoadRefused, match="reads__raw_tp reads a member that this kernel's structs do not have"):
        BccObject(source, sources(), attach=False)


@pytest.mark.skipif(not HEADERS, reason="no kernel's headers are installed; scripts/setup bench brings some")
def test_headers_give_the_types_without_any_btf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(HEADERS[-1]))
    asked = wanted(*tracers.names())
    types = headers.kernel_types(asked, sources(), compile_text, None)
    # what a tracer cannot do without, public and private: include/linux/fs.h, fs/mount.h, fs/overlayfs/ovl_entry.h
    for name, members in {
        "file": {"f_mode", "f_path", "f_inode"},
        "task_struct": {"cgroups", "tgid", "comm", "real_parent", "signal", "nsproxy", "files"},
        "mount": {"mnt_mountpoint", "mnt", "mnt_devname", "mnt_ns", "mnt_id"},
        "ovl_inode": {"vfs_inode", "__upperdentry", "flags"},
        "mem_cgroup": {"css", "memory", "memory_events"},
    }.items():
        assert members <= types.members(name).keys()
    assert types.members("upid") == {"nr": 0, "ns": 8}
    assert types.enumerators("memcg_memory_event")["MEMCG_OOM_KILL"] == 4


@pytest.mark.skipif(not HEADERS, reason="no kernel's headers are installed; scripts/setup bench brings some")
def test_a_tracer_compiles_by_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(HEADERS[-1]))
    _, compiled = build(source_path("copyup"), sources(), {})
    assert "enter__kprobe" in compiled.programs


def test_headers_are_found_under_the_nodes_root(tmp_path: Path) -> None:
    release = os.uname().release
    common, own = tmp_path / "usr/src/linux-headers-common", tmp_path / "usr/src/linux-headers-own"
    (common / "include/linux").mkdir(parents=True)
    (common / "include/linux/kconfig.h").touch()
    own.mkdir()
    modules = tmp_path / "lib/modules" / release
    modules.mkdir(parents=True)
    # as the node has them: absolute, and for its own root
    (modules / "build").symlink_to("/usr/src/linux-headers-own")
    (modules / "source").symlink_to("/usr/src/linux-headers-common")
    assert headers.find(None, str(tmp_path)) == headers.Headers(common, own)
    # and without the second link, by what the first one's Makefile includes
    (modules / "source").unlink()
    (own / "Makefile").write_text("include /usr/src/linux-headers-common/Makefile\n")
    assert headers.find(None, str(tmp_path)) == headers.Headers(common, own)
    shutil.rmtree(common)
    with pytest.raises(LibraryMissing) as caught:
        headers.find(None, str(tmp_path))
    assert f"apt-get install linux-headers-{release}" in str(caught.value)


def test_a_given_directory_without_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing, match=f"no kernel headers in {tmp_path}"):
        headers.find(str(tmp_path), None)


def test_this_kernels_types_are_read_from_its_btf() -> None:
    types = KernelTypes.of_kernel(Path("/sys/kernel/btf"), {"struct task_struct", "enum cgroup_subsys_id"})
    assert (types.size("task_struct") or 0) > 1000
    assert "memory_cgrp_id" in types.enumerators("cgroup_subsys_id")
