"""The guest's disks, written without mounting anything: tools (kept), sources and the node's own disk (for one run).

Python must not come from the host over 9p, where every file looked up costs milliseconds and an import costs seconds.
The tools disk therefore holds the interpreter, its library and the packages that kubetrace and its tests need, all
compiled, together with containerd, runc, the libraries of bcc and the node's images. It is written once per state of
its inputs.
"""

import hashlib
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.vm import guest, images

CHECKOUT = Path(__file__).resolve().parents[2]

Progress = Callable[[str], None]

# This machine's release's (Debian 12: containerd 1.6), and the newer one's that scripts/setup has unpacked.
RUNTIMES = ("1", "2")
_RUNTIME = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")

# How long an image that is not of this checkout is kept.
_KEPT_S = 6 * 3600

# Packages that tests in the guest need beside kubetrace's own dependencies.
_TEST_PACKAGES = ("pytest", "grpcio", "protobuf", "pyte", "prometheus-client")

# Parts of the standard library that neither kubetrace nor a test imports.
_UNUSED = {
    *("__pycache__", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sqlite3", "test", "tkinter"),
    # not wsgiref: prometheus_client imports it
    *("turtledemo", "venv", "xmlrpc"),
    "sitecustomize.py",
}

_LAUNCHER = f"""#!{guest.TOOLS}/bin/python3
import sys

from {{module}} import {{function}}

sys.exit({{function}}())
"""


class StageError(Exception):
    """Something that the guest needs is not on this machine, with what to do about it."""


def cache_directory() -> Path:
    """Where kernels, disks and logs are kept."""
    return Path(os.environ.get("KUBETRACE_CACHE") or os.path.expanduser("~/.cache/kubetrace")).absolute()


def program(name: str) -> Path:
    """Path of an installed program, also of one in sbin or of one that scripts/setup has unpacked into the cache."""
    unpacked = cache_directory() / "runtime" / "usr"
    directories = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", f"{unpacked}/bin", f"{unpacked}/sbin"]
    found = shutil.which(name, path=":".join(directories))
    if found is None:
        raise StageError(f"{name} is not installed. Try:  scripts/setup vm")
    return Path(found).resolve()


def runtime_program(name: str, runtime: str) -> Path:
    """Path of containerd, runc and the like: of this machine's release, or for "2" the newer one's."""
    if runtime == RUNTIMES[0]:
        return program(name)
    unpacked = cache_directory() / "containerd-2" / "usr"
    found = shutil.which(name, path=f"{unpacked}/bin:{unpacked}/sbin")
    if found is None:
        raise StageError(f"containerd {runtime} is not here. Try:  scripts/setup vm")
    # by its own name: sbin has a link, and what it names may be the one that was made to run here
    return Path(found).resolve()


def tools_disk(cache: Path, progress: Progress, runtime: str = RUNTIMES[0]) -> Path:
    """The disk with Python, the container runtime and the node's images; made when anything of it has changed."""
    packages = _distributions()
    disk = cache / f"tools-{runtime}-{_state(packages, runtime)}.ext4"
    if not disk.exists():
        progress("staging Python, containerd and the test images for the guest ...")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="stage-") as name:
            tree = Path(name) / "tree"
            _stage_python(tree)
            _stage_packages(tree, packages)
            _stage_protocol(tree)
            for library in _compiler_libraries():
                _copy(library, tree / "lib" / "compiler" / library.name)
            for binary in _RUNTIME:
                _copy(runtime_program(binary, runtime), tree / "bin" / binary)
            _copy(program("busybox"), tree / "bin" / "busybox")
            images.write(tree / "images.tar", busybox=program("busybox"), pause=images.build_pause(Path(name)))
            write_ext4(Path(name) / "disk", tree, _size_mib(tree) * 5 // 4 + 16)
            (Path(name) / "disk").rename(disk)
        for old in cache.glob(f"tools-{runtime}-*.ext4"):
            if old != disk:
                old.unlink()
    return disk


def kubetrace_image(cache: Path, progress: Progress) -> Path:
    """The directory of kubetrace's own image as scripts/image builds it; built when anything of it has changed.

    It is named registry.example/kubetrace:VERSION, and the same for each commit.
    """
    directory = _image_directory(cache)
    if not directory.exists():
        progress("building kubetrace's image ...")
        with tempfile.TemporaryDirectory(prefix="kubetrace-image-") as work:
            build_image(Path(work, "image"), CHECKOUT)
            keep_image(Path(work, "image"), cache)
    return directory


def keep_image(built: Path, cache: Path) -> None:
    """Keep a built image of this checkout for `kubetrace_image`: at once and whole, as others may do the same."""
    directory = _image_directory(cache)
    fresh = cache / f"image-{os.getpid()}.new"
    shutil.copytree(built, fresh)
    try:
        fresh.rename(directory)
    except OSError:
        # there is one of the same state
        shutil.rmtree(fresh)
    for old in cache.glob("image-*"):
        # another checkout's may be in use
        if old != directory and time.time() - old.stat().st_mtime > _KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


def _image_directory(cache: Path) -> Path:
    state = hashlib.sha256()
    for root in ("src/kubetrace", "bpf", "scripts", "pyproject.toml"):
        paths = [CHECKOUT / root] if (CHECKOUT / root).is_file() else sorted((CHECKOUT / root).rglob("*"))
        for path in paths:
            if path.suffix in (".py", ".c", ".h", ".toml"):
                state.update(f"{path.relative_to(CHECKOUT)}\n".encode() + path.read_bytes())
    return cache / f"image-{state.hexdigest()[:16]}"


def build_image(output: Path, checkout: Path, *options: str) -> str:
    """Build the image of a checkout as if it were of no commit; what scripts/image says. StageError if it cannot."""
    command = [sys.executable, "-m", "oci", "--name", "registry.example/kubetrace", "--output", str(output), *options]
    environment = os.environ | {
        "PYTHONPATH": str(checkout / "scripts"),
        "SOURCE_DATE_EPOCH": "1700000000",
        "GIT_DIR": "/nonexistent",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StageError(f"{done.stderr.strip()}\nTry:  scripts/setup image")
    return done.stdout


def source_disk(cache: Path, run: Path) -> Path:
    """A fresh disk with the checkout's kubetrace, compiled, and this directory's modules."""
    tree = cache / "source"
    wanted = {
        path.relative_to(CHECKOUT)
        for root in ("src/kubetrace", "tests/vm")
        for path in (CHECKOUT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for path in [*tree.rglob("*")]:
        inner = path.relative_to(tree)
        if path.is_file() and inner not in wanted and "__pycache__" not in path.parts and "dist-info" not in str(inner):
            path.unlink()
            _compiled(path).unlink(missing_ok=True)
    for inner in wanted:
        origin, copy = CHECKOUT / inner, tree / inner
        if not copy.exists() or _mark(copy) != _mark(origin):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, copy)
            if copy.suffix == ".py":
                _compile(copy, shown_as=origin)
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    metadata = tree / "src" / f"kubetrace-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: kubetrace\nVersion: {version}\n")
    disk = run / "source.ext4"
    write_ext4(disk, tree, _size_mib(tree) * 5 // 4 + 8)
    return disk


def node_disk(run: Path, size_mib: int = 4096) -> Path:
    """A fresh, sparse disk with the directories that a node keeps on one."""
    tree = run / "node"
    for root in guest.DISK_ROOTS:
        (tree / root.lstrip("/")).mkdir(parents=True)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    disk = run / "node.ext4"
    write_ext4(disk, tree, size_mib)
    return disk


def write_ext4(disk: Path, tree: Path, size_mib: int) -> None:
    """Write an ext4 image of this size with the files of `tree`, owned by root."""
    with open(disk, "wb") as file:
        file.truncate(size_mib << 20)
    command = [str(program("mke2fs")), "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0,lazy_journal_init=1", "-m", "0"]
    done = subprocess.run([*command, "-d", str(tree), str(disk)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StageError(f"mke2fs failed: {done.stderr.strip()}")


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _size_mib(tree: Path) -> int:
    # Whole blocks, and half a block for the directory entry and inode of each file.
    total = sum((path.lstat().st_size // 4096 + 1) * 4096 + 2048 for path in tree.rglob("*"))
    return (total >> 20) + 1


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(origin, target)
    target.chmod(target.stat().st_mode | 0o444)


def _compiled(source: Path) -> Path:
    return source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"


# Unchecked: the guest neither looks at the source's time nor compiles anything again.
def _compile(source: Path, shown_as: Path) -> None:
    py_compile.compile(
        str(source),
        cfile=str(_compiled(source)),
        dfile=str(shown_as),
        doraise=False,
        quiet=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _distributions() -> list[importlib.metadata.Distribution]:
    """The installed packages that kubetrace and its tests in the guest need, with what these need in turn."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[^\w.-]", need)[0] for need in (*project["dependencies"], *_TEST_PACKAGES)]
    found: dict[str, importlib.metadata.Distribution] = {}
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # Needed on another Python or system only; what is really missing shows as an ImportError in the guest.
            continue
        for need in found[name].requires or ():
            if "extra ==" not in need:
                wanted.append(re.split(r"[^\w.-]", need)[0])
    return [found[name] for name in sorted(found)]


def _state(packages: Iterable[importlib.metadata.Distribution], runtime: str) -> str:
    state = hashlib.sha256()
    for path in (Path(__file__), Path(images.__file__), Path(__file__).with_name("cri.proto")):
        state.update(path.read_bytes())
    for package in packages:
        state.update(f"{package.name} {package.version}\n".encode())
    binaries = (
        *(Path(sys.executable).resolve(), program("busybox")),
        *(runtime_program(name, runtime) for name in _RUNTIME),
    )
    for binary in (*binaries, *_compiler_libraries()):
        state.update(f"{binary} {_mark(binary)}\n".encode())
    return state.hexdigest()[:16]


def _compiler_libraries() -> list[Path]:
    """libbcc and what it loads, by the names by which it does: 200 MB of which, over 9p, each page is a round trip."""
    found: list[Path] = []
    for library in Path("/usr/lib").glob("*/libbcc.so.0"):
        told = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
        found += [library, *(Path(line.split()[2]) for line in told.splitlines() if " => /" in line)]
    # the C library belongs to the interpreter that has loaded it already
    return [path for path in found if path.name not in ("libc.so.6", "libm.so.6")]


# config-* holds what embedding Python in another program needs.
def _unused(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _UNUSED or name.startswith("config-")}


def _stage_python(tree: Path) -> None:
    # A copy, not a link: Python finds its library beside the interpreter's real path.
    _copy(Path(sys.executable).resolve(), tree / "bin" / "python3")
    library = Path(sysconfig.get_path("stdlib"))
    target = tree / "lib" / library.name
    shutil.copytree(library, target, symlinks=False, ignore=_unused)
    for source in target.rglob("*.py"):
        _compile(source, shown_as=library / source.relative_to(target))


def _stage_packages(tree: Path, packages: Iterable[importlib.metadata.Distribution]) -> None:
    target = tree / "lib" / "python3" / "dist-packages"
    target.mkdir(parents=True)
    for package in packages:
        for file in package.files or ():
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                _copy(Path(str(file.locate())), target / file)
    # Debian's bindings for the engine that compiles on the node
    bindings = Path("/usr/lib/python3/dist-packages/bcc")
    if bindings.is_dir():
        shutil.copytree(bindings, target / "bcc", ignore=lambda _, names: {"__pycache__"} & set(names))
    for source in target.rglob("*.py"):
        _compile(source, shown_as=source.relative_to(target))
    (target / "checkout.pth").write_text(f"{guest.RUN}/source/src\n{guest.RUN}/source\n")
    for name, module, function in (
        ("kubetrace", "kubetrace.commands.group", "main"),
        ("pytest", "pytest", "console_main"),
    ):
        launcher = tree / "bin" / name
        launcher.write_text(_LAUNCHER.format(module=module, function=function))
        launcher.chmod(0o755)


def _stage_protocol(tree: Path) -> None:
    target = tree / "lib" / "python3" / "dist-packages"
    proto = Path(__file__).with_name("cri.proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--python_out={target}", str(proto)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StageError(f"the CRI protocol does not compile: {done.stderr.strip()}. Try:  scripts/setup vm")
    _compile(target / "cri_pb2.py", shown_as=target / "cri_pb2.py")
