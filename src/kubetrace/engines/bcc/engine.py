"""The bcc engine: the same bpf/*.bpf.c, compiled on the node by Debian's python3-bpfcc, where there is no BTF.

A process of its own compiles (compiler.py) what translate.py made of the source; this one creates the
maps that the result declares, puts their descriptors into the instructions, loads and attaches. So libbpf.so.1
loads here too (bcc needs it as well), and tracing costs no more memory than with the libbpf engine.

The package `bcc` on PyPI is a crystallography library; kubetrace depends on neither, and looks for Debian's itself.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kubetrace.engines import perf, support
from kubetrace.engines.attached import (
    FOR_BACKUPS,
    MAP_TYPE_ARRAY,
    MAP_TYPE_LRU_HASH,
    Attached,
    Map,
    Program,
    attach_order,
    lru_entries,
)
from kubetrace.engines.bcc import cache, headers
from kubetrace.engines.bcc.translate import FIRST_MAP, Translated, translate
from kubetrace.engines.btf import Btf
from kubetrace.engines.kernel_types import asked_for
from kubetrace.engines.library import library
from kubetrace.engines.tracefs import TracefsReturns, tracepoint_id
from kubetrace.errors import EngineError, HookMissing, LibraryMissing, LoadRefused

# Where Debian installs Python packages that a virtual environment does not see.
_PLACES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")
# include/uapi/linux/bpf.h: section -> BPF_PROG_TYPE_*
_TYPES = {"kprobe": 2, "kretprobe": 2, "tp": 5, "tracepoint": 5, "raw_tp": 17, "raw_tracepoint": 17}
_LD_IMM64 = 0x18
_COMPILE_TIMEOUT_S = 600
# bpf/bcc.bpf.h, kt_no_such_member
_NO_SUCH_MEMBER = "#27508"
_LOG_BYTES = 1 << 20
_ABSENT = (errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.EADDRNOTAVAIL)
# bcc's own headers are kept out: translate.py's text needs none of them.
_OWN_TEXT = ("-D__BPF_HELPERS_H", "-D_UAPI__LINUX_BPF_H__", "-Wno-undefined-internal", "-Wno-unused-function")


@dataclass(frozen=True)
class Compiled:
    """What bcc made of a text: BTF, and the instructions of each program."""

    btf: bytes
    programs: Mapping[str, bytes]


def package() -> Path | None:
    """The directory of Debian's bcc; None where it is not installed. The working directory is not looked at."""
    own = [place for place in sys.path if os.path.isabs(place) and place != os.getcwd()]
    for place in [*own, *_PLACES]:
        if (found := Path(place) / "bcc" / "libbcc.py").exists():
            return found.parent
    return None


def _require() -> Path:
    found = package()
    if found is None:
        raise LibraryMissing(
            "bcc is not installed.",
            why=f"Debian's python3-bpfcc was looked for in {' and '.join(_PLACES)}; PyPI's bcc is another thing.",
            do="apt-get install python3-bpfcc, or --engine libbpf where the kernel has BTF",
            check="bcc",
        )
    return found


def compile_text(text: str, flags: Sequence[str], directory: Path, *, cached: bool = False) -> Compiled:
    """Compile; `directory` is what bcc takes for the kernel's headers. Raises LibraryMissing or LoadRefused.

    `cached`: the text includes nothing, so that what was made of it before serves as well.
    """
    package = _require()
    compiler = Path(__file__).with_name("compiler.py")
    name = ""
    if cached:
        bcc = (package / "libbcc.py").stat()
        # the package's age stands for its version
        parts = [text, *flags, compiler.read_text(encoding="utf-8"), str(package), f"{bcc.st_size} {bcc.st_mtime_ns}"]
        name = cache.key(parts)
        kept = cache.load(name)
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            if kept is not None:
                return _result(kept)
    environment = {**os.environ, "KUBETRACE_BCC": str(package), "BCC_KERNEL_SOURCE": str(directory)}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(compiler), *flags],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_COMPILE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LoadRefused("bcc did not compile the tracer.", why=str(error)) from error
    try:
        if done.returncode:
            raise ValueError("no result")
        compiled = _result(done.stdout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        lines = [line for line in done.stderr.splitlines() if "error: " in line]
        raise LoadRefused(
            "bcc did not compile the tracer.",
            why=(lines or [line for line in done.stderr.splitlines() if line] or [str(error)])[0][:200],
            do="kubetrace -v ... shows all that clang says",
            detail=done.stderr,
        ) from error
    if not compiled.btf:
        raise LoadRefused("bcc made no BTF of the tracer.", why="The kernel did not take it.", detail=done.stderr)
    if cached:
        cache.store(name, done.stdout)
    return compiled


def _result(answer: str) -> Compiled:
    # compiler.py's. Raises ValueError, KeyError, TypeError or AttributeError.
    found = json.loads(answer)
    programs = {name: base64.b64decode(code) for name, code in found["programs"].items()}
    return Compiled(base64.b64decode(found["btf"]), programs)


def build(
    source: Path, sources: Path, constants: Mapping[str, int], host_root: str | None = None
) -> tuple[Translated, Compiled]:
    """A tracer for the running kernel, from its source; `sources` has the headers. Raises EngineError.

    The last one is remembered: who asks for the layouts first loads the same afterwards.
    """
    return _build(source, sources, tuple(sorted(constants.items())), host_root)


@lru_cache(maxsize=1)
def _build(
    source: Path, sources: Path, constants: tuple[tuple[str, int], ...], host_root: str | None
) -> tuple[Translated, Compiled]:
    _require()

    def lay_out(text: str) -> str:
        return headers.kernel_types(asked_for(text), sources, compile_text, host_root).apply(text)

    translated = translate(source, sources, dict(constants), lay_out)
    with tempfile.TemporaryDirectory(prefix="kubetrace-") as directory:
        (Path(directory) / "include" / "linux").mkdir(parents=True)
        (Path(directory) / "include" / "linux" / "kconfig.h").touch()
        target = f"-D__TARGET_ARCH_{headers.architecture()}"
        compiled = compile_text(translated.text, (*_OWN_TEXT, target), Path(directory), cached=True)
    return translated, compiled


class _Program(Program):
    """One of ours; `fd` is its descriptor, -1 until it is loaded."""

    fd = -1


class BccObject(Attached):
    """A tracer compiled by bcc, inside the kernel; what its arguments mean is told by libbpf.LoadedObject.

    Raises PermissionDenied, HookMissing, LoadRefused or LibraryMissing.
    """

    def __init__(
        self,
        source: Path,
        sources: Path,
        *,
        constants: Mapping[str, int] | None = None,
        hook: str = "auto",
        optional: Mapping[str, str | None] | None = None,
        unneeded: Collection[str] = (),
        sizes: Mapping[str, int] | None = None,
        attach: bool = True,
        host_root: str | None = None,
    ) -> None:
        """Compile, load and attach; `attach=False` ends behind the verifier."""
        support.check_rights()
        super().__init__(library())
        if hook == "fentry":
            raise HookMissing(
                "bcc's programs cannot be attached by --hook fentry.",
                why="It is there for kernels without BTF, which fentry needs.",
                do="--hook kprobe, or --engine libbpf",
                check="fexit attach",
            )
        self._name = source.name.partition(".")[0]
        self._optional = dict(optional or {})
        self._maps: dict[str, Map] = {}
        self._programs: list[_Program] = []
        self._events: list[int] = []
        self._attempts: list[str] = []
        self._translated, self._compiled = build(source, sources, constants or {}, host_root)
        self.btf = Btf(self._compiled.btf)
        try:
            self._create_maps(sizes or {})
            self._choose(frozenset(unneeded), attach)
        except BaseException:
            self.close()
            raise
        self._library.settle()

    # -- maps -------------------------------------------------------------------------------------------------------

    def _create_maps(self, sizes: Mapping[str, int]) -> None:
        for name in self._translated.maps:
            given = {"key": 0, "value": 0, "map_flags": 0, **self.btf.definition(f"kt_map_{name}")}
            entries = 1 if name.endswith(FOR_BACKUPS) else sizes.get(name, given["max_entries"])
            if given["type"] == MAP_TYPE_LRU_HASH:
                entries = lru_entries(entries, self._library.libbpf_num_possible_cpus())
            self._create(name, given["type"], given["key"], given["value"], entries, given["map_flags"])
        for name in self._translated.values:
            self._create(name, MAP_TYPE_ARRAY, 4, 8, 1, 0)

    def _create(self, name: str, kind: int, key: int, value: int, entries: int, flags: int) -> None:
        # struct bpf_map_create_opts (libbpf's bpf.h) up to map_flags
        options = ctypes.create_string_buffer(struct.pack("<Q6I", 32, 0, 0, 0, 0, 0, flags), 32)
        fd = self._library.bpf_map_create(kind, name[:15].encode(), key, value, entries, options)
        if fd < 0:
            raise self._refusal(f"the map {name}", -fd, "")
        self._maps[name] = Map(fd, kind, key, value, entries)

    def map(self, name: str) -> Map:
        """Raises LoadRefused when there is none of that name."""
        if name not in self._maps:
            raise LoadRefused(f"{self._name} has no map {name}.")
        return self._maps[name]

    # -- programs ---------------------------------------------------------------------------------------------------

    def _choose(self, unneeded: Collection[str], attach: bool) -> None:
        candidates: dict[str, list[_Program]] = {}
        for name, section in self._translated.programs.items():
            program = _Program(name, section)
            if name in unneeded or program.backs_up is not None:
                continue
            if program.kind not in _TYPES and program.group in self._optional:
                self._miss(program.group)
                continue
            if program.kind not in _TYPES:
                raise LoadRefused(f"{name} cannot be attached by bcc.", why=f"{section} is not a kind of hook it has.")
            candidates.setdefault(program.group, []).append(program)
        for best in attach_order(programs[0] for programs in candidates.values()):
            self._load_one(best.group, candidates[best.group], attach)

    def _load_one(self, group: str, programs: Sequence[_Program], attach: bool) -> None:
        for program in programs:
            code, log = self._load(program)
            if not code and attach:
                code = self._attach(program)
            if not code:
                self._programs.append(program)
                self.hooks[group] = program.hook
                return
            if program.fd >= 0:
                os.close(program.fd)
            self._attempts += [f"{program.name}: {os.strerror(code)}", *log.splitlines()]
        if group not in self._optional:
            raise self._refusal(programs[-1].name, code, log)
        if code != errno.ENOENT or not self._may_have_none(programs[0]):
            self._miss(group)

    def _load(self, program: _Program) -> tuple[int, str]:
        """The errno, and what the verifier says."""
        code = self._linked(self._compiled.programs[program.name])
        log = ctypes.create_string_buffer(_LOG_BYTES)
        for level in (0, 1):
            # struct bpf_prog_load_opts (libbpf's bpf.h): its size, and at its end the log's level, size and place
            options = ctypes.create_string_buffer(104)
            struct.pack_into("<Q", options, 0, len(options))
            if level:
                struct.pack_into("<IIQ", options, 88, level, len(log), ctypes.addressof(log))
            program.fd = self._library.bpf_prog_load(
                _TYPES[program.kind],
                program.name[:15].encode(),
                self._translated.license.encode(),
                code,
                len(code) // 8,
                options,
            )
            if program.fd >= 0:
                return 0, ""
        return -program.fd, log.value.decode(errors="replace")

    def _linked(self, code: bytes) -> bytes:
        """The instructions with the maps' descriptors in them."""
        names = [*self._translated.maps, *self._translated.values]
        linked = bytearray(code)
        at = 0
        while at < len(linked):
            if linked[at] == _LD_IMM64:
                number = struct.unpack_from("<I", linked, at + 4)[0] - FIRST_MAP
                if linked[at + 1] >> 4 in (1, 2) and 0 <= number < len(names):
                    struct.pack_into("<I", linked, at + 4, self._maps[names[number]].fd)
                at += 8
            at += 8
        return bytes(linked)

    def _attach(self, program: _Program) -> int:
        """The errno."""
        try:
            if program.hook == "raw_tp":
                event = int(self._library.bpf_raw_tracepoint_open(program.function.encode(), program.fd))
                if event < 0:
                    return -event
            else:
                event = self._perf_event(program)
        except (OSError, ValueError) as error:
            return getattr(error, "errno", None) or errno.EINVAL
        self._events.append(event)
        return 0

    def _perf_event(self, program: _Program) -> int:
        def run(event: int) -> int:
            try:
                perf.run_at(event, program.fd)
            except OSError:
                os.close(event)
                raise
            return event

        def run_if_possible(event: int) -> int:
            # the other way is left, and who made the event closes it
            with contextlib.suppress(OSError):
                perf.run_at(event, program.fd)
                return event
            return 0

        if program.kind in ("tp", "tracepoint"):
            category, _, name = program.function.partition("/")
            return run(perf.open_tracepoint(tracepoint_id(category, name)))
        if program.kind == "kretprobe":
            if self._returns is None:
                self._returns = TracefsReturns()
            if event := self._returns.attach(program.name, program.function, run_if_possible):
                return event
        return run(perf.open_kprobe(program.function, returns=program.kind == "kretprobe"))

    def _refusal(self, what: str, code: int, log: str) -> EngineError:
        if (cause := support.of_the_node(code, log.splitlines())) is not None:
            return cause
        if code in (errno.EPERM, errno.EACCES) and "insn" not in log and "R0" not in log:
            return support.permission_denied(what, code)
        if code in _ABSENT and not log:
            return support.hook_missing(self._name, what, "auto", "\n".join(self._attempts))
        if _NO_SUCH_MEMBER in log:
            return LoadRefused(
                f"{what} reads a member that this kernel's structs do not have.",
                why="Its BTF or headers say so; bpf/headers.bpf.h knows what headers leave out, of some kernels.",
                do="leave that tracer out, or please report it with the kernel's version",
                detail=log,
            )
        return LoadRefused(
            f"the kernel refused to load {what}: {os.strerror(code)}.",
            why=next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")[:200],
            do="kubetrace -v ... shows the verifier's log; please report it with the kernel's version.",
            detail=log,
        )

    def _loaded(self) -> list[tuple[Program, int]]:
        return [(program, program.fd) for program in self._programs]

    def close(self) -> None:
        """Detach and unload; harmless when called twice."""
        for fd in [*self._events, *(program.fd for program in self._programs), *(m.fd for m in self._maps.values())]:
            os.close(fd)
        self._events.clear()
        self._programs.clear()
        self._maps.clear()
        self._release_all()

    def __enter__(self) -> BccObject:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Detach and unload."""
        self.close()
