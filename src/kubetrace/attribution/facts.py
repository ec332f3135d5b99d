"""What was learned about the node, as dated facts: the stream that is recorded and replayed.

A fact says what was seen, never what follows from it; conclusions are the Attributor's. The names of the classes and of
their fields are a contract: recordings hold them as JSON. Names from the node are untrusted text; bytes that are not
UTF-8 are kept as surrogates (os.fsdecode). Times are nanoseconds of CLOCK_BOOTTIME, the clock of the events.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

Kind = Literal["container", "sandbox"]
KEPT_NS: Final = 120_000_000_000
"""How long a removed cgroup and its owners are still known. Its last events were in the rings for a second at most."""

Role = Literal["logs", "kubelet", "containerd", "storage"]
Source = Literal[
    "config.json",
    "containerd metadata",
    "containers-storage",
    "log links",
    "log directories",
    "kubelet",
    "CRI",
    "ancestry",
]


@dataclass(frozen=True, slots=True)
class CgroupSeen:
    """A cgroup exists, by the number its events carry.

    `hierarchy` is 0 for cgroup v2, else the v1 hierarchy id (column 1 of /proc/PID/cgroup, the kernel's
    cgroup_root.hierarchy_id); `cgroup_id` is the 64-bit kernfs id, equal to the directory's inode number and unique in
    its hierarchy only, for the whole boot; `path` is below the hierarchy's mount and begins with a slash.
    """

    hierarchy: int
    cgroup_id: int
    path: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class CgroupGone:
    """A cgroup was removed. Its id is not given again in this boot."""

    hierarchy: int
    cgroup_id: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """What one source says of a container (or of a pod's sandbox, the pause container).

    A field is None where the source does not have it. `pod_uid` is the kubelet's: 32 hex digits without dashes for a
    static pod. `image` is the name in the pod's spec, where the source has that. `prepared_ns` is when the runtime had
    written the container's config.json (only known where that is the source).
    """

    container_id: str
    kind: Kind
    namespace: str | None
    pod: str | None
    container: str | None
    pod_uid: str | None
    image: str | None
    sandbox_id: str | None
    source: Source
    time_ns: int
    prepared_ns: int | None = None


@dataclass(frozen=True, slots=True)
class PodSeen:
    """What one source says of a pod; `namespace` is None where it only has the pod's name."""

    pod_uid: str
    namespace: str | None
    pod: str
    source: Source
    time_ns: int


@dataclass(frozen=True, slots=True)
class NestedSeen:
    """A container that no file of this node names runs inside another one: its processes descend from that one's.

    Of docker in a pod, say, whose containers have cgroups outside of the pod's.
    """

    container_id: str
    outer_id: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class LabelsSeen:
    """The labels of a pod, each as key=value; looked for only where somebody asks for pods by their labels."""

    pod_uid: str
    labels: tuple[str, ...]
    time_ns: int


@dataclass(frozen=True, slots=True)
class OverlaySeen:
    """An overlay file system is mounted in the node's own mount namespace.

    `device` is the superblock's dev_t, major << 20 | minor; `container_id` is set when the mount is a container's root.
    `time_ns` is when it was seen; it was mounted after `since_ns`, the last look that did not show it (0: unknown).
    """

    device: int
    container_id: str | None
    mount_point: str
    upperdir: str | None
    workdir: str | None
    lowerdirs: tuple[str, ...]
    time_ns: int
    since_ns: int = 0


@dataclass(frozen=True, slots=True)
class OverlayGone:
    """The overlay of this device number is no longer mounted; the number may be given to the next one at once."""

    device: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class OverlayTold:
    """The kernel itself told which overlay a device number is of, at the first copy-up in it: the one of this upperdir.

    As show_options prints it. It holds for copy-ups from `time_ns` on, until the kernel tells another.
    """

    device: int
    upperdir: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class LayerSeen:
    """A lower directory of an overlay, and the layer of images that was unpacked there.

    `lowerdir` is absolute, as the runtime on the node writes it; `snapshot` is the number of containerd's snapshot
    (unique in its snapshotter's directory only) or the id of containers-storage's layer, None if the directory is none;
    `chain_id` is the layer with all those below it (image-spec config.md, "Layer ChainID"). `problem` says, for people,
    why one of them is None. A later fact of the same directory replaces an earlier one.
    """

    lowerdir: str
    snapshot: str | None
    chain_id: str | None
    problem: str | None
    time_ns: int


@dataclass(frozen=True, slots=True)
class ImageSeen:
    """An image on the node, that a seen layer or container is of.

    `image_id` is its configuration's digest, or that of what the references name if this could not be read;
    `references` are the runtime's names for it, () when it is no longer there; `diff_ids` its layers, the lowest first,
    and `created_by` the history's line for each of them. `problem` says, for people, what of this is missing. A later
    fact of the same `image_id` replaces an earlier one.
    """

    image_id: str
    references: tuple[str, ...]
    diff_ids: tuple[str, ...]
    created_by: tuple[str | None, ...]
    problem: str | None
    time_ns: int


@dataclass(frozen=True, slots=True)
class MountSeen:
    """A file system that is not an overlay is mounted in the node's own mount namespace: a disk, a volume, a tmpfs.

    `root` is relative to the file system; `time_ns` and `since_ns` as in OverlaySeen.
    """

    device: int
    root: str
    mount_point: str
    fstype: str
    source: str
    time_ns: int
    since_ns: int = 0


@dataclass(frozen=True, slots=True)
class MountGone:
    """It is no longer mounted there; the device number may be given to the next tmpfs at once."""

    device: int
    mount_point: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class DirectorySeen:
    """Where the node has the logs of pods, a kubelet's or a runtime's directory; symbolic links are followed.

    "storage" is one of containers-storage's: CRI-O's and podman's.
    """

    role: Role
    path: str
    time_ns: int


Fact = (
    CgroupSeen
    | CgroupGone
    | ContainerSeen
    | PodSeen
    | NestedSeen
    | LabelsSeen
    | OverlaySeen
    | OverlayGone
    | OverlayTold
    | LayerSeen
    | ImageSeen
    | MountSeen
    | MountGone
    | DirectorySeen
)

_TYPES: Final[dict[str, type[Fact]]] = {cls.__name__: cls for cls in get_args(Fact)}
_FIELDS: Final = {name: tuple(field.name for field in fields(cls)) for name, cls in _TYPES.items()}
# Names of fields mean the same in every fact, but for what may be None.
_INTEGERS: Final = frozenset({"hierarchy", "cgroup_id", "time_ns", "device", "since_ns", "prepared_ns"})
_LISTS: Final = frozenset({"lowerdirs", "references", "diff_ids", "created_by", "labels"})
# overlayfs takes 500 lower layers at most (fs/overlayfs/ovl_entry.h, OVL_MAX_STACK); an image has a few names; a pod
# with all its labels is an object of 1.5 MiB in etcd at most.
_MOST_ITEMS: Final = {"lowerdirs": 500, "diff_ids": 500, "created_by": 500, "references": 10_000, "labels": 10_000}
# By the annotation: a mount has a `source` too, which may be anything.
_WORDS: Final = {
    name: {
        field.name: words
        for field in fields(cls)
        if (words := {"Kind": get_args(Kind), "Source": get_args(Source), "Role": get_args(Role)}.get(str(field.type)))
    }
    for name, cls in _TYPES.items()
}
_NULLABLE: Final = {
    name: frozenset(field.name for field in fields(cls) if str(field.type).endswith("| None"))
    for name, cls in _TYPES.items()
}


def to_json(fact: Fact) -> str:
    """One line of pure ASCII JSON: {"fact": "CgroupSeen", "hierarchy": 0, ...}; surrogates as \\udcXX."""
    name = type(fact).__name__
    values: dict[str, object] = {"fact": name}
    values.update((field, getattr(fact, field)) for field in _FIELDS[name])
    import json  # here: tracers import this module, and --help them

    return json.dumps(values, ensure_ascii=True, separators=(",", ":"))


def items(fact: Fact) -> int:
    """How many texts the lists of a fact hold."""
    if isinstance(fact, ImageSeen):
        return len(fact.references) + len(fact.diff_ids) + len(fact.created_by)
    return len(fact.lowerdirs) if isinstance(fact, OverlaySeen) else 0


def from_json(text: str | bytes) -> Fact:
    """The fact that `to_json` wrote. Fields that this version does not know are ignored.

    ValueError if the text is not a fact: not JSON, an unknown kind of fact, a field missing or of another type.
    """
    import json

    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("not a fact: nested too deeply") from error
    name = values.get("fact") if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in _TYPES:
        raise ValueError(f"not a fact known to this version: {name!r}")
    given = {field: values[field] for field in _FIELDS[name] if field in values}
    for field, value in given.items():
        if field in _LISTS:
            # Only a layer's line in the history may be unknown.
            kinds = (str, type(None)) if field == "created_by" else (str,)
            if not isinstance(value, list) or not all(isinstance(item, kinds) for item in value):
                raise ValueError(f"{name}.{field} is not a list of strings")
            if len(value) > _MOST_ITEMS[field]:
                raise ValueError(f"{name}.{field} has {len(value)} items")
            given[field] = tuple(value)
        elif field in _INTEGERS:
            if type(value) is not int and (value is not None or field not in _NULLABLE[name]):
                raise ValueError(f"{name}.{field} is not an integer")
        elif not isinstance(value, str):
            if value is not None or field not in _NULLABLE[name]:
                raise ValueError(f"{name}.{field} is not a string")
        elif value not in _WORDS[name].get(field, (value,)):
            raise ValueError(f"{name}.{field} is none that this version knows: {value!r}")
    try:
        return _TYPES[name](**given)
    except TypeError as error:
        raise ValueError(f"{name} lacks a field") from error
