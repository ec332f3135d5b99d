"""The images, from packages and wheels to the files in the output directory."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian_packages import Apt, AptError, own_codename

from oci import packages, sbom, wheels
from oci.files import BuildError, File, Part
from oci.layers import Layer, check_links, make
from oci.layout import Layout

LAYOUT = "layout"
SIZES = "sizes.txt"

# There is no USER in the configuration: loading BPF needs CAP_BPF and CAP_PERFMON, reading the mounts and files of the
# node's processes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, and a runtime gives a container's capabilities to root alone
# (ambient capabilities are not in the CRI). A fixed non-root user would make the privileged profile as powerless as the
# others, and "runAsNonRoot" pods, which it would admit, can trace nothing.
_CONFIG: dict[str, Any] = {
    "Entrypoint": ["/usr/bin/kubetrace"],
    "Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8"],
    "WorkingDir": "/",
}

# Nothing that a runtime mounts into the container has to be made on the node's disk first.
_DIRECTORIES = (
    *("dev", "host", "proc", "root", "run/secrets/kubernetes.io/serviceaccount", "sys", "tmp", "usr/sbin"),
    *("var/lib/dpkg", "var/log", "var/tmp"),
)
_MOUNTED_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
_APPLETS = (
    *("awk", "cat", "chroot", "cp", "cut", "date", "dd", "df", "dmesg", "du", "echo", "env", "false", "find", "free"),
    *(
        "grep",
        "gunzip",
        "gzip",
        "head",
        "hexdump",
        "hostname",
        "id",
        "ip",
        "kill",
        "less",
        "ln",
        "ls",
        "mkdir",
        "mount",
    ),
    *("mv", "nsenter", "ps", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "seq", "sh", "sleep", "sort", "stat"),
    *(
        "strings",
        "tail",
        "tar",
        "tee",
        "test",
        "timeout",
        "top",
        "touch",
        "tr",
        "true",
        "umount",
        "uname",
        "uniq",
        "vi",
    ),
    *("watch", "wc", "which", "xargs"),
)
# -I: neither the environment nor the working directory decide what is imported.
_LAUNCHER = b"#!/usr/bin/python3 -IB\nfrom kubetrace.commands.start import main\n\nmain()\n"

# Run by an interpreter of the image's version: source files in, code out, in a process that did nothing else before,
# since what marshal writes depends on which strings are known already. Unchecked hashes: the interpreter neither looks
# at the source's time nor compiles anything at start.
_COMPILE = """
import importlib._bootstrap_external as external, importlib.util, pickle, sys
compiled = []
for path, source in pickle.load(sys.stdin.buffer):
    code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    compiled.append(bytes(external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)))
pickle.dump(compiled, sys.stdout.buffer)
"""


@dataclass
class _Platform:
    """One architecture's layers, each with what an SBOM lists of it."""

    architecture: str
    base: Layer
    own: Layer
    bcc: Layer | None
    parts: list[Part]
    bcc_parts: list[Part]
    version: str


def images(
    checkout: Path,
    architectures: Sequence[str],
    name: str,
    output: Path,
    *,
    apt: Path,
    work: Path,
    epoch: int,
    revision: str,
    with_bcc: bool,
) -> dict[str, str]:
    """Build and write everything to `output`; reference -> digest of each tag. Raises BuildError.

    `apt` keeps packages between runs, `work` is a directory of this one. `epoch` (Unix seconds) and `revision` are
    written into the image.
    """
    wheel = wheels.build(checkout, work / "wheel")
    platforms = [_platform(wheel, one, apt, work, with_bcc) for one in architectures]
    layout = Layout(epoch)
    version = platforms[0].version
    output.mkdir(parents=True, exist_ok=True)
    built = {}
    for tag in (version, f"{version}-bcc")[: 1 + with_bcc]:
        reference, described = f"{name}:{tag}", []
        for made in platforms:
            bcc = tag != version and made.bcc is not None
            layers = [made.base, made.own, *([made.bcc] if bcc and made.bcc is not None else [])]
            entry = layout.platform(made.architecture, layers, {**_CONFIG, "Labels": _labels(tag, revision, bcc)})
            described.append(entry)
            parts = [*made.parts, *(made.bcc_parts if bcc else ())]
            text = sbom.spdx(
                reference, made.architecture, str(entry["digest"]), parts, epoch, f"scripts/image-{version}"
            )
            (output / f"sbom-{tag}-{made.architecture}.spdx.json").write_text(text)
        built[reference] = layout.tag(reference, described)
        layout.write_tar(output / f"kubetrace-{tag}.tar", reference)
    layout.write(output / LAYOUT)
    (output / SIZES).write_text("\n".join(_sizes(made) for made in platforms))
    return built


def _labels(tag: str, revision: str, bcc: bool) -> dict[str, str]:
    labels = {
        "title": "kubetrace",
        "description": "Live eBPF tracer for Kubernetes nodes" + (", with BCC for kernels without BTF" if bcc else ""),
        "version": tag,
        "licenses": "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
        **({"revision": revision} if revision else {}),
    }
    return {f"org.opencontainers.image.{key}": value for key, value in labels.items()}


def _platform(wheel: Path, architecture: str, apt: Path, work: Path, with_bcc: bool) -> _Platform:
    try:
        sources = Apt(own_codename(), apt / architecture, architecture)
        named = ["python3", *(name for name in packages.WANTED if "{}" not in name)]
        archives = sources.closure(named)
        more = (
            [path for path in sources.closure([*named, *packages.BCC_WANTED]) if path not in archives]
            if with_bcc
            else []
        )
    except AptError as error:
        raise BuildError(str(error)) from error
    debian = [packages.read(path) for path in archives]
    python = packages.python_version(debian)
    chosen = packages.select(debian, python, packages.WANTED)
    directory = f"usr/local/lib/python{python}/dist-packages"
    fetched = wheels.fetch(wheel, python, architecture, work / architecture)
    libraries = [wheels.read(path, directory, architecture) for path in fetched]
    own = wheels.read(wheel, directory, architecture)
    own.files["usr/bin/kubetrace"] = File(_LAUNCHER, 0o755)
    for part in chosen:
        _register(part)
    base = [_userland({path.split("/")[1] for part in chosen for path in part.files}), *chosen, *libraries]
    for part in [*base, own]:
        _compile(part, python)
    made = _Platform(
        architecture,
        make("Debian, Python and its packages (scripts/image)", base, _DIRECTORIES),
        make("kubetrace (scripts/image)", [own]),
        None,
        sorted([*chosen, *libraries, own], key=lambda part: part.name),
        [],
        own.version,
    )
    if with_bcc:
        there = {Path(path).name for part in chosen for path in part.files}
        both = [*debian, *(packages.read(path) for path in more)]
        extended = packages.select(both, python, packages.BCC_WANTED, there)
        names = {part.name for part in chosen}
        made.bcc_parts = [part for part in extended if part.name not in names]
        for part in made.bcc_parts:
            _register(part)
            _compile(part, python)
        made.bcc = make("BCC (scripts/image --bcc)", made.bcc_parts)
    check_links([*base, own, *made.bcc_parts])
    return made


def _userland(below_usr: Collection[str]) -> Part:
    """What no package has: the merged directories, users, the shell's names, and files to be mounted over."""
    part = Part("userland", "")
    for name in {"bin", "lib", "sbin", "lib64"} & {"sbin", *below_usr}:
        part.files[name] = File(link=f"usr/{name}", mode=0o777)
    part.files["var/run"] = File(link="/run", mode=0o777)
    for name in _APPLETS:
        part.files[f"usr/bin/{name}"] = File(link="busybox", mode=0o777)
    part.files["etc/passwd"] = File(b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    part.files["etc/group"] = File(b"root:x:0:\nnogroup:x:65534:\n")
    part.files.update(dict.fromkeys(_MOUNTED_FILES, File()))
    return part


# So that scanners find the packages, as they do in images that are made the same way.
def _register(part: Part) -> None:
    lines = [f"{key}: {value}" for key, value in part.control.items() if key not in ("Homepage", "Description")]
    text = "\n".join([lines[0], "Status: install ok installed", *lines[1:]]) + "\n"
    part.files[f"var/lib/dpkg/status.d/{part.name}"] = File(text.encode())


def _compile(part: Part, python: str) -> None:
    sources = [(path, file) for path, file in sorted(part.files.items()) if re.search(r"/python3[^/]*/.*\.py$", path)]
    if not sources:
        return
    command = [_interpreter(python), "-I", "-S", "-c", _COMPILE]
    given = pickle.dumps([(f"/{path}", file.data) for path, file in sources])
    done = subprocess.run(command, input=given, capture_output=True, env={"PYTHONHASHSEED": "0"}, check=False)
    if done.returncode != 0:
        raise BuildError(f"{part.name} does not compile:\n{done.stderr.decode(errors='replace').strip()}")
    for (path, file), code in zip(sources, pickle.loads(done.stdout), strict=True):
        directory, _, name = path.rpartition("/")
        cached = f"{directory}/__pycache__/{name.removesuffix('.py')}.cpython-{python.replace('.', '')}.pyc"
        part.files[cached] = File(code, mtime=file.mtime)


def _interpreter(python: str) -> str:
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{python}")
    if found is None:
        raise BuildError(f"the image's Python is {python}, and this machine has none to compile for it.")
    return found


def _sizes(made: _Platform) -> str:
    """What each part takes, largest first."""
    lines = [f"{made.architecture:<28} {'UNPACKED':>10} {'COMPRESSED':>10}"]
    tags = [("", [made.base, made.own])]
    if made.bcc is not None:
        tags.append(("-bcc", [made.base, made.own, made.bcc]))
    for layer in tags[-1][1]:
        for name, (plain, packed) in sorted(layer.sizes.items(), key=lambda item: (-item[1][0], item[0])):
            lines.append(f"  {name:<26} {_kib(plain):>10} {_kib(packed):>10}")
        lines.append(f"{'  = layer':<29}" + _total([layer]))
    for suffix, layers in tags:
        lines.append(f"{f'image {made.version}{suffix}':<29}" + _total(layers))
    return "\n".join(lines) + "\n"


def _total(layers: Iterable[Layer]) -> str:
    layers = list(layers)
    plain = sum(size for layer in layers for size, _ in layer.sizes.values())
    return f"{_kib(plain):>10} {_kib(sum(len(layer.data) for layer in layers)):>10}"


def _kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"
