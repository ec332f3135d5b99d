"""A tracer of the user's own: one C file, compiled by clang where there is one, by bcc otherwise."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kubetrace.engines import support
from kubetrace.engines.bcc import headers
from kubetrace.engines.btf import Btf
from kubetrace.engines.source import engine_for, sources
from kubetrace.errors import LibraryMissing, LoadRefused, UsageError
from kubetrace.stream.layout import Layout

_STREAM = re.compile(r"^\s*KT_STREAM\(\s*(\w+)\s*,\s*(\w+)\s*,", re.MULTILINE)
_FLAGS = ("-target", "bpf", "-O2", "-g", "-Wall", "-Wno-unused-function", "-mcpu=v2")
_LIBBPF_HEADERS = Path("/usr/include/bpf/bpf_helpers.h")
_MOST_BYTES = 1 << 20


def clang() -> str | None:
    """The newest clang on PATH."""
    names = ("clang", *(f"clang-{version}" for version in range(30, 12, -1)))
    return next((found for name in names if (found := shutil.which(name))), None)


class OwnProgram:
    """A file, and what is in it. `path` is what the engine loads; it lasts as long as this object.

    Raises UsageError for what is not such a file, LibraryMissing where nothing can compile it, LoadRefused with the
    compiler's words.
    """

    def __init__(self, file: Path, engine: str, host_root: str | None) -> None:
        """Compile, unless bcc does that when it loads."""
        self._file, self._host_root = file, host_root
        self.stream, self.event = _stream(file)
        self.engine = self._engine(engine)
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.path = file if self.engine == "bcc" else self._compile()

    @staticmethod
    def _engine(asked: str) -> str:
        if asked == "auto" and support.has_btf() and (clang() is None or not _LIBBPF_HEADERS.exists()):
            from kubetrace.engines.bcc.engine import package

            if package():
                return "bcc"
        return engine_for(asked)

    def _compile(self) -> Path:
        compiler = clang()
        if compiler is None or not _LIBBPF_HEADERS.exists():
            raise LibraryMissing(
                "there is nothing to compile your tracer with.",
                why="It needs clang and libbpf's headers, or bcc.",
                do="apt-get install clang libbpf-dev, or apt-get install python3-bpfcc",
            )
        self._directory = tempfile.TemporaryDirectory(prefix="kubetrace-")
        made = Path(self._directory.name) / f"{self._file.name.partition('.')[0]}.bpf.o"
        target = f"-D__TARGET_ARCH_{headers.architecture()}"
        include = [f"-I{sources()}", "-idirafter", "/usr/include", "-idirafter", f"/usr/include/{headers.triplet()}"]
        try:
            done = subprocess.run(
                [compiler, *_FLAGS, target, *include, "-c", str(self._file), "-o", str(made)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise LoadRefused(f"{self._file.name} was not compiled.", why=str(error)) from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error: " in line]
            raise LoadRefused(
                f"{self._file.name} does not compile.",
                why=(lines or done.stderr.splitlines() or ["clang says nothing"])[0][:200],
                do="kubetrace -v ... shows all that clang says",
                detail=done.stderr,
            )
        return made

    def layout(self, constants: Mapping[str, int]) -> Layout:
        """Of the events. Raises EngineError."""
        if self.engine == "bcc":
            from kubetrace.engines.bcc.engine import build

            return Btf(build(self._file, sources(), constants, self._host_root)[1].btf).layout(self.event)
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            with open(self.path, "rb") as file:
                section = ELFFile(file).get_section_by_name(".BTF")
                data = section.data() if section is not None else b""
        except (OSError, ELFError) as error:
            raise LoadRefused(f"{self._file.name} was not compiled.", why=str(error)) from error
        return Btf(data).layout(self.event)


def _stream(file: Path) -> tuple[str, str]:
    """The stream that the file declares, and its events' struct."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{file} is too large for a tracer's source.")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "It is not text."
        raise UsageError(f"{file} cannot be read.", why=why or "") from error
    found = _STREAM.findall(re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL))
    if len(found) != 1:
        raise UsageError(
            f"{file} declares {len(found) or 'no'} stream{'s' * (len(found) != 1)} of events.",
            why="kubetrace run shows the events of one.",
            do="KT_STREAM(NAME, STRUCT, BYTES); as in docs/own-tracer.md",
        )
    stream, event = found[0]
    return stream, event
