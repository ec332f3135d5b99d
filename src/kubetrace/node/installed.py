"""Where this node's container runtimes and kubelets keep what: from what runs, what is mounted and what is configured.

The places that distributions use are only the start. Every containerd, CRI-O and kubelet that runs tells by its
arguments and its configuration file where it was told to be, and every container's root that is mounted tells where its
runtime has its state. A node can have several of each: k3s beside Debian's containerd, CRI-O beside podman.

What runs inside a container is not this node's: a daemon with another root directory than the node's is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from kubetrace.attribution import directories
from kubetrace.node.reading import listed, read_regular

# Configuration files are some kB; one of this size is none.
_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_CMDLINE_BYTES: Final = 64 << 10
_MOST_FILES: Final = 64
# Daemons of one node: more are made up.
_MOST: Final = 64

# comm of a process (its name, cut to 15 bytes) -> what it is. microk8s' kubelite and k3s' server are a kubelet too.
_DAEMONS: Final[Mapping[str, str]] = {
    "containerd": "containerd",
    "crio": "crio",
    "kubelet": "kubelet",
    "kubelite": "kubelet",
    "k3s": "k3s",
    "k3s-server": "k3s",
    "k3s-agent": "k3s",
    "rke2": "k3s",
}
# Of these, what has a containerd in it; microk8s' has a process of its own.
_PULLING: Final = ("containerd", "k3s")
_CONTAINERD_CONFIG: Final = "/etc/containerd/config.toml"
_CRIO_CONFIG, _CRIO_DROP_INS = "/etc/crio/crio.conf", "/etc/crio/crio.conf.d"
_STORAGE_CONFIGS: Final = ("/usr/share/containers/storage.conf", "/etc/containers/storage.conf")
_K3S_CONFIGS: Final = ("/etc/rancher/k3s/config.yaml", "/etc/rancher/rke2/config.yaml")
# microk8s starts its daemons with the arguments in these files.
_MICROK8S_ARGUMENTS: Final = "/var/snap/microk8s/current/args"

_TASK = re.compile(r"(/.+?)/io\.containerd\.runtime\.v2\.task/[^/]+/[0-9a-f]{64}/rootfs\Z")
_SANDBOX = re.compile(r"(/.+?)/io\.containerd\.grpc\.v1\.cri/sandboxes/[0-9a-f]{64}/shm\Z")
_SNAPSHOT = re.compile(r"(/.+?)/io\.containerd\.snapshotter\.v1\.[^/]+/snapshots/[0-9]{1,18}(?:/|\Z)")
_MERGED = re.compile(r"(/.+?)/overlay/[0-9a-f]{64}/merged\Z")
_USERDATA = re.compile(r"(/.+?)/overlay-containers/[0-9a-f]{64}/userdata/shm\Z")


class Node(Protocol):
    """A node's files (node/host.py)."""

    proc: Path

    def path(self, node_path: str | os.PathLike[str]) -> str:
        """A path that this process can open."""

    def mountinfo_paths(self) -> list[str]:
        """The mounts of the node, and of runtimes that have their own."""


@dataclass(slots=True)
class Places:
    """Absolute paths of the node, each once, the usual ones first; they need not exist."""

    states: list[str] = field(default_factory=list)
    """containerd's `state`: bundles and root mounts of what runs."""
    roots: list[str] = field(default_factory=list)
    """containerd's `root`: images, snapshots, metadata."""
    storages: list[str] = field(default_factory=list)
    """graphroot of containers-storage (CRI-O, podman), and its additional image stores."""
    runroots: list[str] = field(default_factory=list)
    """runroot of containers-storage: bundles of what runs."""
    kubelets: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    namespaces: list[int] = field(default_factory=list)
    """Processes (daemons) of which each has a mount namespace of its own, other than PID 1's, with the node's root."""

    def add(self, kind: str, path: object) -> bool:
        """Take a path in; whether it is news. What is no absolute path is left out."""
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            return False
        made = os.path.normpath("/" + path.lstrip("/"))
        known: list[str] = getattr(self, kind)
        if made == "/" or made in known or len(known) >= _MOST:
            return False
        known.append(made)
        return True


def usual() -> Places:
    """Those of the distributions."""
    return Places(
        list(directories.CONTAINERD_STATE),
        list(directories.CONTAINERD),
        list(directories.STORAGE),
        list(directories.STORAGE_RUN),
        list(directories.KUBELET),
        [directories.LOGS],
    )


def look(host: Node, places: Places) -> bool:
    """Add what runs and what is configured on the node; whether that is news. Nothing is raised."""
    before = _count(places)
    places.namespaces.clear()
    for pid, what, arguments in _daemons(host, places.namespaces):
        _of_daemon(host, places, what, arguments, pid)
    _of_storage_configs(host, places)
    _of_crio(host, places, ())
    _of_k3s_configs(host, places)
    for name in ("containerd", "kubelet", "kubelite"):
        if given := _text(host.path(f"{_MICROK8S_ARGUMENTS}/{name}")).split():
            _of_daemon(host, places, _DAEMONS[name], given, None)
    for kind, path in zip(("roots", "states"), _of_containerd(host, _CONTAINERD_CONFIG), strict=True):
        places.add(kind, path)
    for mount_point, upperdir in _mounts(host):
        learn_mount(places, mount_point, upperdir)
    return _count(places) != before


def runtimes_started_ns(host: Node) -> list[int]:
    """When each process that may be a containerd began: nanoseconds of CLOCK_BOOTTIME (proc(5), comm and stat).

    Whosever it is: one that runs in a container counts too, so that nothing is concluded from one that was not seen.
    """
    found = []
    for name in listed(str(host.proc)):
        if not name.isdecimal() or _DAEMONS.get(_text(f"{host.proc}/{name}/comm", 64).strip()) not in _PULLING:
            continue
        fields = _text(f"{host.proc}/{name}/stat", 4096).rpartition(")")[2].split()
        if len(fields) > 19 and fields[19].isdecimal():
            found.append(int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    return found


def learn_mount(places: Places, mount_point: str, upperdir: str | None = None) -> bool:
    """Take in what a mount of the node itself tells of the places; whether that is news."""
    news = False
    for pattern, kind in ((_TASK, "states"), (_SANDBOX, "states"), (_MERGED, "storages"), (_USERDATA, "runroots")):
        if match := pattern.match(mount_point):
            news |= places.add(kind, match[1])
    if upperdir is not None and (match := _SNAPSHOT.match(upperdir)):
        news |= places.add("roots", match[1])
    if match := directories.KUBELETS_TMPFS.fullmatch(mount_point):
        news |= places.add("kubelets", match[1])
    return news


# What runs.


@dataclass(frozen=True, slots=True)
class Kubelet:
    """One that runs: its flags, and the files that they name (node paths).

    `whole`: these are all its flags. In k3s and its like the kubelet is a part of the process, which adds its own.
    """

    name: str
    flags: Mapping[str, str]
    config: str | None
    config_directory: str | None
    whole: bool


def kubelets(host: Node) -> Iterator[Kubelet]:
    """The kubelets that run on the node, as their arguments have them."""
    for pid, what, arguments in _daemons(host, []):
        given = _options(arguments)
        if what == "k3s":
            passed = list(given.get("kubelet-arg", ()))
            for values in _k3s_configs(host):
                more = values.get("kubelet-arg")
                listed_more = more if isinstance(more, list) else [more]
                passed += [one for one in listed_more if isinstance(one, str)]
            given = _options([one if one.startswith("-") else f"--{one}" for one in passed])
        elif what != "kubelet":
            continue
        working = _link(f"{host.proc}/{pid}/cwd")
        paths = [given[name][-1] if name in given else None for name in ("config", "config-dir")]
        config, directory = (
            os.path.join(working, path) if path is not None and working.startswith("/") else path for path in paths
        )
        comm = _text(f"{host.proc}/{pid}/comm", 64).strip()
        flags = {name: values[-1] for name, values in given.items()}
        yield Kubelet(comm, flags, config, directory, whole=comm == "kubelet")


def _daemons(host: Node, namespaces: list[int]) -> Iterator[tuple[int, str, Sequence[str]]]:
    own = _key(f"{host.path('/')}/.")
    mounts = {_link(f"{host.proc}/1/ns/mnt")}
    for name in listed(str(host.proc)):
        if not name.isdecimal():
            continue
        base = f"{host.proc}/{name}"
        what = _DAEMONS.get(_text(f"{base}/comm", 64).strip())
        if what is None:
            continue
        try:
            root = _key(os.path.join(base, "root", "."))
        except PermissionError:
            # it may be in a container: whose paths these are is not known
            continue
        except OSError:
            root = own
        if root != own:
            continue
        namespace = _link(f"{base}/ns/mnt")
        if namespace and namespace not in mounts and len(namespaces) < _MOST:
            mounts.add(namespace)
            namespaces.append(int(name))
        yield int(name), what, _text(f"{base}/cmdline", _MAX_CMDLINE_BYTES).split("\0")


def _of_daemon(host: Node, places: Places, what: str, arguments: Sequence[str], pid: int | None) -> None:
    given = _options(arguments)
    working = _link(f"{host.proc}/{pid}/cwd") if pid is not None else ""

    def path(*names: str) -> str | None:
        # the last one counts, as for the daemons themselves
        found = next((given[name][-1] for name in names if name in given), None)
        if found is None or found.startswith("/"):
            return found
        return os.path.join(working, found) if working.startswith("/") else None

    if what == "containerd":
        root, state = _of_containerd(host, path("config", "c") or _CONTAINERD_CONFIG)
        places.add("roots", path("root") or root)
        places.add("states", path("state") or state)
    elif what == "crio":
        directory = path("config-dir", "d")
        _of_crio(host, places, (path("config", "c") or _CRIO_CONFIG, *_toml_files(host, directory or _CRIO_DROP_INS)))
        places.add("storages", path("root", "r"))
        places.add("runroots", path("runroot"))
    elif what == "kubelet":
        places.add("kubelets", path("root-dir"))
        if (config := path("config")) is not None:
            _of_kubelet(host, places, config)
        for file in sorted(_under(host, path("config-dir"), ".conf")):
            _of_kubelet(host, places, file)
    else:
        _of_k3s(host, places, path("data-dir", "d"), given.get("kubelet-arg", ()))


def _options(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The options of a command line: --name value, --name=value and -n value, each with its values."""
    found: dict[str, list[str]] = {}
    for at, argument in enumerate(arguments):
        if not argument.startswith("-") or len(argument) < 2:
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        following = arguments[at + 1] if at + 1 < len(arguments) else ""
        found.setdefault(name, []).append(value if equals else following)
    return found


# What is configured.


def _of_containerd(host: Node, config: str) -> tuple[str | None, str | None]:
    """`root` and `state` of a configuration file, and of those that it imports (containerd config.go)."""
    root = state = None
    pending, seen = [config], set[str]()
    while pending and len(seen) < _MOST_FILES:
        file = pending.pop(0)
        if file in seen:
            continue
        seen.add(file)
        values = _toml(host, file)
        # an imported file's values go over those of the file that imports it
        root, state = _string(values, "root") or root, _string(values, "state") or state
        imports = values.get("imports")
        for pattern in imports if isinstance(imports, list) else ():
            if isinstance(pattern, str):
                pending += _globbed(host, os.path.join(os.path.dirname(file), pattern))
    return root, state


def _of_crio(host: Node, places: Places, files: Sequence[str]) -> None:
    for file in files or (_CRIO_CONFIG, *_toml_files(host, _CRIO_DROP_INS)):
        crio = _toml(host, file).get("crio")
        if isinstance(crio, dict):
            places.add("storages", crio.get("root"))
            places.add("runroots", crio.get("runroot"))
            options = crio.get("storage_option")
            for option in options if isinstance(options, list) else ():
                name, _, value = str(option).partition("=")
                if name in ("overlay.imagestore", "additionalimagestore", "overlay.additionalimagestore"):
                    places.add("storages", value)


def _of_storage_configs(host: Node, places: Places) -> None:
    # containers-storage.conf(5)
    for file in _STORAGE_CONFIGS:
        storage = _toml(host, file).get("storage")
        if not isinstance(storage, dict):
            continue
        places.add("storages", storage.get("graphroot"))
        places.add("runroots", storage.get("runroot"))
        places.add("storages", storage.get("imagestore"))
        options = storage.get("options")
        more = options.get("additionalimagestores") if isinstance(options, dict) else None
        for path in more if isinstance(more, list) else ():
            places.add("storages", path)


def _of_kubelet(host: Node, places: Places, config: str) -> None:
    logs = _yaml(host, config, "podLogsDir").get("podLogsDir")
    places.add("logs", logs)


def _of_k3s_configs(host: Node, places: Places) -> None:
    for values in _k3s_configs(host):
        arguments = values.get("kubelet-arg")
        texts = [arguments] if isinstance(arguments, str) else arguments if isinstance(arguments, list) else []
        if values:
            _of_k3s(host, places, values.get("data-dir"), [text for text in texts if isinstance(text, str)])


def _k3s_configs(host: Node) -> Iterator[Mapping[str, Any]]:
    for file in _K3S_CONFIGS:
        for one in (file, *_under(host, f"{file}.d", ".yaml")):
            yield _yaml(host, one, "data-dir", "kubelet-arg")


def _of_k3s(host: Node, places: Places, data: object, kubelet_arguments: Iterable[str]) -> None:
    # k3s and RKE2: <data-dir>/agent/containerd; the kubelet in the same process takes its flags by --kubelet-arg.
    if isinstance(data, str):
        places.add("roots", f"{data.rstrip('/')}/agent/containerd")
    for argument in kubelet_arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if name == "root-dir":
            places.add("kubelets", value)
        elif name == "config":
            _of_kubelet(host, places, value)


# Files.


def _mounts(host: Node) -> Iterator[tuple[str, str | None]]:
    from kubetrace.attribution import mountinfo

    for path in host.mountinfo_paths():
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            continue
        for line in text.split(b"\n"):
            # few lines of many are a runtime's
            if b"/rootfs " in line or b"/shm " in line or b"/merged " in line or b"/volumes/" in line:
                mount = mountinfo.parse_line(line)
                if mount is None:
                    continue
                overlay = mount.fstype == "overlay"
                yield mount.mount_point, mountinfo.overlay_options(mount.super_options).upperdir if overlay else None


def _toml(host: Node, file: str) -> Mapping[str, Any]:
    import tomllib

    try:
        return tomllib.loads(_text(host.path(file)))
    except (ValueError, RecursionError):
        return {}


def _yaml(host: Node, file: str, *keys: str) -> Mapping[str, Any]:
    """The mapping in a YAML (or JSON) file, if one of these keys is named in it at all: it is slow to parse."""
    text = _text(host.path(file))
    if not any(key in text for key in keys):
        return {}
    import yaml

    try:
        values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _string(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def _toml_files(host: Node, directory: str) -> list[str]:
    return [f"{directory}/{name}" for name in listed(host.path(directory))][:_MOST_FILES]


def _under(host: Node, directory: str | None, suffix: str) -> list[str]:
    names = listed(host.path(directory)) if directory is not None else []
    return [f"{directory}/{name}" for name in names if name.endswith(suffix)][:_MOST_FILES]


def _globbed(host: Node, pattern: str) -> list[str]:
    import fnmatch

    directory, _, last = os.path.normpath(pattern).rpartition("/")
    names = [name for name in listed(host.path(directory or "/")) if fnmatch.fnmatchcase(name, last)]
    return [f"{directory}/{name}" for name in names[:_MOST_FILES]]


def _text(path: str, limit: int = _MAX_CONFIG_BYTES) -> str:
    # files of /proc have no size: they are read to a limit
    try:
        if path.endswith(("/comm", "/cmdline", "/stat")):
            with open(path, "rb") as file:
                data = file.read(limit)
        else:
            data = read_regular(path, limit)
    except (OSError, ValueError):
        return ""
    return data.decode("utf-8", "surrogateescape")


def _key(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _count(places: Places) -> int:
    return sum(
        len(one)
        for one in (places.states, places.roots, places.storages, places.runroots, places.kubelets, places.logs)
    )
