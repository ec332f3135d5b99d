"""Compile bpf/*.bpf.c into src/kubetrace/objects/ARCH/: the wheel's build hook, and a script of its own.

The sources go beside them, into objects/bpf/: where there is no BTF, bcc compiles them on the node.

Run by hatchling for every wheel and editable install; `python3 scripts/compile_objects.py [--check]` does the same by
hand. clang cross-compiles for every architecture; only what is older than its sources is compiled again.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BuildHookInterface:
        root: str
else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    except ImportError:  # run by hand, without hatchling
        BuildHookInterface = object

# Python's platform.machine() -> libbpf's __TARGET_ARCH_*
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
ROOT = Path(__file__).resolve().parent.parent
# BTF names the sources of each line: as in the checkout, wherever that is, so that objects are the same everywhere.
FLAGS = [
    *("-target", "bpf", "-O2", "-g", "-fdebug-compilation-dir=."),
    *("-Wall", "-Werror", "-Wno-unused-function", "-mcpu=v2"),
]


def clang() -> str:
    """The newest clang on PATH (Debian installs clang-14 without a plain clang)."""
    for name in ("clang", *(f"clang-{version}" for version in range(21, 12, -1))):
        if found := shutil.which(name):
            return found
    raise SystemExit("clang is not installed; it compiles bpf/*.bpf.c.\nTry:  apt-get install clang llvm libbpf-dev")


def llvm_strip() -> str | None:
    """llvm-strip takes the DWARF off and leaves BTF; without it objects are larger, not different."""
    for name in ("llvm-strip", *(f"llvm-strip-{version}" for version in range(21, 12, -1))):
        if found := shutil.which(name):
            return found
    return None


def system_headers() -> list[str]:
    """Where Debian keeps <asm/types.h> and friends, which libbpf's headers include."""
    triplet = f"{platform.machine()}-linux-gnu"
    return ["-idirafter", f"/usr/include/{triplet}", "-idirafter", "/usr/include"]


def compile_object(source: Path, output: Path, arch: str, *extra: str) -> None:
    """Compile one tracer for one architecture; raises SystemExit with clang's own words."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".tmp")
    command = [clang(), *FLAGS, f"-D__TARGET_ARCH_{ARCHITECTURES[arch]}", *system_headers(), *extra]
    named = source.relative_to(ROOT) if source.is_relative_to(ROOT) else source
    command += ["-c", str(named), "-o", str(unfinished)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{source.name} does not compile for {arch}:\n{done.stderr}")
    if strip := llvm_strip():
        subprocess.run([strip, "-g", str(unfinished)], check=True)
    unfinished.replace(output)


def compile_all(root: Path) -> list[Path]:
    """Compile what is out of date; gives every object that the wheel carries."""
    sources = sorted((root / "bpf").glob("*.bpf.c"))
    shared = [*(root / "bpf").glob("*.h"), Path(__file__)]
    newest_shared = max(path.stat().st_mtime for path in shared)
    objects = []
    for source in sources:
        for arch in ARCHITECTURES:
            output = root / "src" / "kubetrace" / "objects" / arch / source.name.replace(".bpf.c", ".bpf.o")
            objects.append(output)
            if not output.exists() or output.stat().st_mtime < max(source.stat().st_mtime, newest_shared):
                compile_object(source, output, arch)
    copies = root / "src" / "kubetrace" / "objects" / "bpf"
    copies.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in (root / "bpf").glob("*.bpf.[ch]")}
    for copy in copies.iterdir():
        if copy.name not in wanted:
            copy.unlink()
    for name, source in wanted.items():
        shutil.copy2(source, copies / name)
    return objects


def commit_of(checkout: Path) -> str:
    """The commit that is built, with -dirty where there are changes; empty without git or outside a checkout."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


class CompileObjects(BuildHookInterface):
    """hatchling calls this before it collects the wheel's files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_all(Path(self.root))
        if version == "standard" and (commit := commit_of(Path(self.root))):
            # for --version; an editable install asks git itself
            note = Path(tempfile.mkdtemp()) / "commit"
            note.write_text(commit + "\n")
            build_data["force_include"][str(note)] = "kubetrace/commit"
        if version == "standard":
            sys.path[:0] = [str(Path(self.root) / "scripts"), str(Path(self.root) / "src")]
            import man_pages

            to = Path(tempfile.mkdtemp())
            for path in man_pages.write(to):
                build_data["shared_data"][str(path)] = str(path.relative_to(to))


if __name__ == "__main__":
    for path in compile_all(Path(__file__).resolve().parent.parent):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    sys.exit(0)
