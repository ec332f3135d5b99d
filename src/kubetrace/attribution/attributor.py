"""From a cgroup id or an overlay's device number to the container and pod: conclusions from facts, without any I/O.

The same facts give the same answers live and in a replay. The answer to a question asked before its facts were learned
improves when they are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

from kubetrace.attribution import oci
from kubetrace.attribution.cgroup_path import CgroupPath, QosClass, owners_of, parse
from kubetrace.attribution.facts import (
    KEPT_NS,
    CgroupGone,
    CgroupSeen,
    ContainerSeen,
    DirectorySeen,
    Fact,
    ImageSeen,
    LabelsSeen,
    LayerSeen,
    MountGone,
    MountSeen,
    NestedSeen,
    OverlayGone,
    OverlaySeen,
    OverlayTold,
    PodSeen,
    Source,
)
from kubetrace.attribution.mountinfo import absolute_lowerdirs

IdentityKind = Literal["container", "sandbox", "pod", "host", "unknown"]
AttributedBy = Literal["cgroup", "memory cgroup", "overlay", "path", "host", "none"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an event belongs to, and how that is known; None is what could not be found (yet).

    `host` is true for a process of the host that writes into a container's root: the other fields are that container's,
    but `cgroup_path` is always the cgroup of the process. `names_from` is the source of namespace, pod and container.
    Names are untrusted text.
    """

    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    pod_uid: str | None = None
    container_id: str | None = None
    image: str | None = None
    qos_class: QosClass | None = None
    kind: IdentityKind = "unknown"
    host: bool = False
    cgroup_path: str | None = None
    attributed_by: AttributedBy = "none"
    names_from: Source | None = None

    @property
    def nameless(self) -> bool:
        """Whether the node may know more: nothing was found, or a container whose pod has no name yet."""
        return self.kind == "unknown" or (self.pod is None and self.kind in ("container", "sandbox", "pod"))


@dataclass(frozen=True, slots=True)
class Layer:
    """The layer of an overlay that a file comes from; None is what could not be found.

    `index` is the kernel's: 1 for the topmost lower directory, 0 if it did not tell; `ordinal` counts the image's
    layers from the lowest, 1, to `layers_total`. `layer_digest` is the diff id. `image` is a reference to the
    container's own image where that is known; `shared_by` is how many images of the node have this very layer on the
    same ones below, this one included (0: none is known). `created_by` is the history's line as the builder wrote it.
    `reason` says, for people, why `created_by` is None. References, lines and directories are untrusted text.
    """

    index: int
    snapshot: str | None = None
    chain_id: str | None = None
    layer_digest: str | None = None
    image: str | None = None
    shared_by: int = 0
    ordinal: int | None = None
    layers_total: int | None = None
    created_by: str | None = None
    reason: str | None = None

    @property
    def position(self) -> str | None:
        """Such as "3 of 5"; None if it is not known."""
        return None if self.ordinal is None else f"{self.ordinal} of {self.layers_total}"

    @property
    def line(self) -> str | None:
        """`created_by` as it stood in the Dockerfile."""
        return None if self.created_by is None else oci.dockerfile_line(self.created_by)


@dataclass(frozen=True, slots=True)
class Owners:
    """Whom events can still be of: (namespace, pod), the UIDs of pods and ids of containers, paths of cgroups."""

    pods: frozenset[tuple[str | None, str]]
    ids: frozenset[str]
    paths: frozenset[str]


# The reason of a layer whose facts have not been asked for (Node.layers).
NOT_LOOKED_UP: Final = "not looked up yet"

_UNKNOWN: Final = Identity()
_MOST_ANSWERS: Final = 50_000
# How many overlays are passed over in search of the one of a time: what a recorder learned is in the order of time.
_MOST_PASSED: Final = 1_000
# Overlays of one device number among which the one is looked for whose layers became known.
_MOST_AGAIN: Final = 8
# Layers that a runtime may have put on top of an image's.
_MOST_ON_TOP: Final = 2
_OWNED: Final = frozenset({"container", "sandbox", "pod"})

# Best first: the runtime's own records, then what the kubelet leaves in names of files. The last one a container can
# write to (its /etc/hosts).
_RANK: Final[dict[Source, int]] = {
    "config.json": 0,
    "CRI": 1,
    "containerd metadata": 2,
    "containers-storage": 3,
    "log links": 4,
    "log directories": 5,
    "kubelet": 6,
    "ancestry": 7,
}

# What a cached answer was concluded from: ("cgroup", hierarchy, id), ("container", id) or ("pod", uid).
_Subject = tuple[str, int, int] | tuple[str, str]
_Key = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class _Mounted:
    # One overlay's time under its device number; `until_ns` is None while it is mounted.
    container_id: str | None
    since_ns: int
    seen_ns: int
    upperdir: str | None
    lowerdirs: tuple[str, ...]
    told_since_ns: int
    until_ns: int | None = None


class Attributor:
    """Learns facts and names the owner of events by them.

    Facts may come in any order and more than once, those of one device number in the order of time.
    Ids of cgroups, containers and pods are not reused in a boot, so their names stay; but a node makes pods for as long
    as it runs, so what was removed is forgotten KEPT_NS later, when nobody can act or be recorded in it any more.
    Device numbers are reused, so what is known of them is dated.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._paths: dict[tuple[int, int], str] = {}
        self._containers: dict[str, ContainerSeen] = {}
        # The names of its image by which each source knows it.
        self._image_names: dict[str, set[str]] = {}
        # Containers inside of others: the one that each runs in.
        self._outer: dict[str, str] = {}
        # Pod UID -> the ids of its containers, oldest knowledge first.
        self._of_pods: dict[str, dict[str, None]] = {}
        self._container_paths: dict[str, CgroupPath] = {}
        self._pods: dict[str, PodSeen] = {}
        self._overlays: dict[int, list[_Mounted]] = {}
        # Overlays by their upperdir, which is nobody else's; device number -> when the kernel told which it is of.
        self._uppers: dict[str, list[_Mounted]] = {}
        self._told: dict[int, list[OverlayTold]] = {}
        self._layers: dict[str, LayerSeen] = {}
        self._images: dict[str, ImageSeen] = {}
        # Chain id -> images that have it, and which of their layers it is.
        self._chains: dict[str, dict[str, int]] = {}
        self._layer_answers: dict[tuple[_Mounted, int, str | None], Layer] = {}
        self._answers: dict[_Key, Identity] = {}
        self._overlay_answers: dict[tuple[_Key, str], Identity] = {}
        self._readers: dict[_Subject, set[_Key]] = {}
        # Removed cgroups with the time, oldest first; known paths of each container and pod.
        self._removed: deque[tuple[int, tuple[int, int]]] = deque()
        self._holders: Counter[str] = Counter()
        self._swept_ns = self._gone = 0
        self.forgotten = 0
        """How many cgroups are not known any more that once were."""

    def learn(self, fact: Fact) -> None:
        """Take a fact in; answers that depended on its subject are concluded anew."""
        if isinstance(fact, CgroupSeen):
            self._learn_cgroup(fact)
        elif isinstance(fact, ContainerSeen):
            self._learn_container(fact)
        elif isinstance(fact, PodSeen):
            self._learn_pod(fact)
        elif isinstance(fact, NestedSeen):
            self._outer[fact.container_id] = fact.outer_id
            self._forget(("container", fact.container_id))
        elif isinstance(fact, OverlaySeen):
            self._learn_overlay(fact)
        elif isinstance(fact, OverlayGone):
            # the ones before it have ended
            mounts = self._overlays.get(fact.device)
            if mounts and mounts[-1].until_ns is None and mounts[-1].seen_ns <= fact.time_ns:
                mounts[-1].until_ns = fact.time_ns
        elif isinstance(fact, OverlayTold):
            self._told.setdefault(fact.device, []).append(fact)
        elif isinstance(fact, LayerSeen):
            self._layers[fact.lowerdir] = fact
            self._layer_answers.clear()
        elif isinstance(fact, ImageSeen):
            self._learn_image(fact)
        elif isinstance(fact, CgroupGone):
            # Its id is not given again in this boot (kernfs ids carry a generation): its name stays true.
            self._removed.append((fact.time_ns, (fact.hierarchy, fact.cgroup_id)))
            self._forget_removed(fact.time_ns - KEPT_NS)
        else:
            assert isinstance(fact, MountSeen | MountGone | DirectorySeen | LabelsSeen)

    def identify(
        self,
        *,
        cgroup_id: int,
        memory_cgroup_id: int,
        memory_hierarchy: int,
        device: int | None,
        time_ns: int,
        copied_up: bool = False,
    ) -> Identity:
        """The owner of an event.

        `cgroup_id` is bpf_get_current_cgroup_id() (v2); `memory_cgroup_id` the kernfs id of the task's memory css, 0 if
        it was not read, and `memory_hierarchy` that controller's hierarchy (0: v2); `device` the dev_t of the overlay
        that was written to, None if there is none; `time_ns` the event's CLOCK_BOOTTIME. `copied_up`: by a copy-up,
        whose overlay the kernel tells (OverlayTold).

        In this order: a container by the v2 id, a container by the memory controller's id (pure v1: the v2 id is always
        1; old runc on a hybrid node: the v2 id is the shim's), a pod by either, the container whose root the overlay
        was at that time, a cgroup of the host. Else kind is "unknown"; count those.
        """
        key = (cgroup_id, memory_cgroup_id, memory_hierarchy)
        identity = self._answers.get(key)
        if identity is None:
            if len(self._answers) >= _MOST_ANSWERS:
                # More than a node has cgroups: a file made to fill the memory. Answers can be concluded again.
                self._answers.clear()
                self._overlay_answers.clear()
                self._readers.clear()
            identity = self._conclude(key)
        if device is None or identity.kind in _OWNED or (device not in self._overlays and device not in self._told):
            return identity
        container_id = self._container_at(device, time_ns, copied_up=copied_up)
        return identity if container_id is None else self._through_overlay(key, identity, container_id)

    def container(self, container_id: str) -> Identity | None:
        """What is known of a container by its id, whichever cgroup it is in; None if nothing is."""
        if container_id not in self._containers and container_id not in self._container_paths:
            return None
        owner = self._container_paths.get(container_id, CgroupPath(container_id, None, None))
        paths = [path for path in self._paths.values() if parse(path).container_id == container_id]
        path = min(paths, key=len, default=None)
        return self._identity_of(owner, path, "cgroup" if path is not None else "none")

    def pod(self, pod_uid: str) -> Identity | None:
        """What is known of a pod by its UID, whether it has a cgroup or not; None if nothing is."""
        paths = [path for path in self._paths.values() if parse(path)[:2] == (None, pod_uid)]
        path = min(paths, key=len, default=None)
        if path is None and pod_uid not in self._pods:
            return None
        owner = CgroupPath(None, pod_uid, parse(path).qos_class if path is not None else None)
        return self._identity_of(owner, path, "cgroup" if path is not None else "none")

    def containers_of(self, pod_uid: str) -> list[ContainerSeen]:
        """The containers (and sandbox) known of a pod, oldest knowledge first."""
        return [self._containers[container_id] for container_id in self._of_pods.get(pod_uid, ())]

    def layer(self, device: int, layer_index: int, time_ns: int, container_id: str | None = None) -> Layer | None:
        """The layer of the overlay that had this device number at a copy-up's time, by the kernel's index of it.

        Of several overlays in question the one of `container_id` counts; the overlay's own container goes before
        `container_id` otherwise (a process of another container can write there). None if the overlay is not known.
        """
        found = self._copied_up_in(device, time_ns)
        if len(found) > 1:
            found = [mounted for mounted in found if container_id is not None and mounted.container_id == container_id]
        if len(found) != 1:
            return None
        (mounted,) = found
        known = self._containers.get(mounted.container_id or container_id or "")
        key = (mounted, layer_index, known.image if known is not None else None)
        layer = self._layer_answers.get(key)
        if layer is None:
            if len(self._layer_answers) >= _MOST_ANSWERS:
                self._layer_answers.clear()
            layer = self._layer_answers[key] = self._layer_of(*key)
        return layer

    def layers_in(self, lowerdir: str) -> list[Layer]:
        """The layer that was unpacked in a directory, once for each image that has it, by their references.

        The index is 0: it depends on the overlay. One without an image if none is known to have it; [] if nothing is
        known of the directory.
        """
        seen = self._layers.get(lowerdir)
        if seen is None:
            return []
        base = Layer(0, seen.snapshot, seen.chain_id, reason=seen.problem)
        images = self._having(seen.chain_id)
        found = [self._described(base, image_id, len(images)) for image_id in images]
        return sorted(found, key=lambda layer: str(layer.image)) or [_without_image(base)]

    def owners(self) -> Owners:
        """The names of all that is known now: what has been removed for KEPT_NS is not among them."""
        # a container in a machine of its own (Kata) has a root here, but no cgroup of its name
        mounted = {mounted.container_id for mounts in self._overlays.values() for mounted in mounts}
        containers = [known for name, known in self._containers.items() if name in self._holders or name in mounted]
        pods = [known for uid, known in self._pods.items() if uid in self._holders]
        named: list[ContainerSeen | PodSeen] = [*pods, *containers]
        return Owners(
            frozenset((known.namespace, known.pod) for known in named if known.pod is not None),
            frozenset(self._holders) | {known.pod_uid for known in containers if known.pod_uid is not None},
            frozenset(self._paths.values()),
        )

    def container_ids(self, prefix: str) -> list[str]:
        """The ids of all known containers that begin so, sorted."""
        known = self._containers.keys() | self._container_paths.keys()
        return sorted(container_id for container_id in known if container_id.startswith(prefix))

    def cgroup_path(self, hierarchy: int, cgroup_id: int) -> str | None:
        """The path of a cgroup; None if the id has not been seen in that hierarchy."""
        return self._paths.get((hierarchy, cgroup_id))

    def cgroups_at(self, hierarchy: int, path: str) -> list[int]:
        """The ids of the cgroups at a path, or (for one that begins with /..) at the end of whose path it is."""
        outside = path.startswith("/..")
        tail = "/" + path.replace("../", "").strip("/.")
        return [
            number
            for (seen_in, number), known in self._paths.items()
            if seen_in == hierarchy and (known == path or (outside and len(tail) > 1 and known.endswith(tail)))
        ]

    def cgroup_id(self, container_id: str, hierarchy: int = 0) -> int | None:
        """The id of a container's own cgroup in a hierarchy; None if it has not been seen there."""
        numbers = {
            path: number
            for (seen_in, number), path in self._paths.items()
            if seen_in == hierarchy and parse(path).container_id == container_id
        }
        return numbers[min(numbers, key=len)] if numbers else None

    # Learning.

    def _learn_cgroup(self, fact: CgroupSeen) -> None:
        key = (fact.hierarchy, fact.cgroup_id)
        if self._paths.get(key) == fact.path:
            return
        owner = parse(fact.path)
        self._holders.update(filter(None, owner[:2]))
        if key in self._paths:
            self._release(self._paths[key])
        self._paths[key] = fact.path
        if owner.container_id is not None and owner.container_id not in self._container_paths:
            self._container_paths[owner.container_id] = owner
            self._forget(("container", owner.container_id))
        self._forget(("cgroup", *key))

    def _learn_container(self, fact: ContainerSeen) -> None:
        if fact.image is not None and fact.image not in (
            names := self._image_names.setdefault(fact.container_id, set())
        ):
            names.add(fact.image)
            self._layer_answers.clear()
        known = self._containers.get(fact.container_id)
        merged = fact if known is None else _merge(known, fact)
        if fact.pod_uid is not None and fact.pod is not None:
            self._learn_pod(PodSeen(fact.pod_uid, fact.namespace, fact.pod, fact.source, fact.time_ns))
        if merged != known:
            self._containers[fact.container_id] = merged
            if known is None or known.pod_uid != merged.pod_uid:
                self._leave_pod(known)
                if merged.pod_uid is not None:
                    self._of_pods.setdefault(merged.pod_uid, {})[fact.container_id] = None
            self._forget(("container", fact.container_id))

    def _leave_pod(self, known: ContainerSeen | None) -> None:
        if known is None or known.pod_uid is None:
            return
        others = self._of_pods[known.pod_uid]
        del others[known.container_id]
        if not others:
            del self._of_pods[known.pod_uid]

    def _learn_pod(self, fact: PodSeen) -> None:
        known = self._pods.get(fact.pod_uid)
        if known is not None and _RANK[known.source] <= _RANK[fact.source]:
            return
        self._pods[fact.pod_uid] = fact
        self._forget(("pod", fact.pod_uid))

    def _learn_overlay(self, fact: OverlaySeen) -> None:
        # Kept even if it is not a container's root: the number then no longer means an older container.
        mounts = self._overlays.setdefault(fact.device, [])
        for mounted in mounts[-_MOST_AGAIN:] if fact.upperdir is not None else ():
            # The same mount again, now that it is known what is below its writable layer.
            if (mounted.upperdir, mounted.container_id, mounted.told_since_ns) == (
                fact.upperdir,
                fact.container_id,
                fact.since_ns,
            ):
                mounted.lowerdirs = absolute_lowerdirs(fact.lowerdirs, fact.upperdir, fact.workdir)
                self._layer_answers.clear()
                return
        last = mounts[-1] if mounts else None
        if last is not None and last.until_ns is None:
            if last.container_id == fact.container_id:
                return
            if last.container_id is None and fact.since_ns < last.seen_ns:
                # The same mount, now that it is known whose root it is.
                last.container_id = fact.container_id
                return
            last.until_ns = fact.time_ns
        mounted = _Mounted(
            fact.container_id,
            min(fact.since_ns, fact.time_ns),
            fact.time_ns,
            fact.upperdir,
            absolute_lowerdirs(fact.lowerdirs, fact.upperdir, fact.workdir),
            fact.since_ns,
        )
        mounts.append(mounted)
        if fact.upperdir is not None:
            self._uppers.setdefault(fact.upperdir, []).append(mounted)

    def _learn_image(self, fact: ImageSeen) -> None:
        known = self._images.get(fact.image_id)
        for chain_id in oci.chain_ids(known.diff_ids) if known is not None else ():
            self._chains[chain_id].pop(fact.image_id, None)
        self._images[fact.image_id] = fact
        for position, chain_id in enumerate(oci.chain_ids(fact.diff_ids), 1):
            self._chains.setdefault(chain_id, {})[fact.image_id] = position
        self._layer_answers.clear()

    def _forget_removed(self, until_ns: int) -> None:
        while self._removed and self._removed[0][0] < until_ns:
            _, key = self._removed.popleft()
            path = self._paths.pop(key, None)
            if path is not None:
                self.forgotten += 1
                self._release(path)
                self._forget(("cgroup", *key))
        # As often as what has gone pays for it: a file may say anything of the time.
        self._gone += 1
        if until_ns - self._swept_ns < KEPT_NS // 10 or 64 * self._gone < len(self._answers) + len(self._overlays):
            return
        self._swept_ns, self._gone = until_ns, 0
        # an answer that one subject dropped is still noted for its others: the root, a node that is itself a container
        answers = self._answers.keys()
        readers = {subject: {key for key in keys if key in answers} for subject, keys in self._readers.items()}
        self._readers = {subject: keys for subject, keys in readers.items() if keys}
        gone: set[_Mounted] = set()
        for device, mounts in list(self._overlays.items()):
            kept = [mounted for mounted in mounts if mounted.until_ns is None or mounted.until_ns >= until_ns]
            gone.update(mounted for mounted in mounts if mounted not in kept)
            if not kept:
                del self._overlays[device]
            elif len(kept) < len(mounts):
                self._overlays[device] = kept
        for mounted in gone:
            if mounted.upperdir is not None:
                left = [other for other in self._uppers[mounted.upperdir] if other is not mounted]
                self._uppers[mounted.upperdir] = left
                if not left:
                    del self._uppers[mounted.upperdir]
            if mounted.container_id is not None and mounted.container_id not in self._holders:
                self._drop_container(mounted.container_id)
        for device, told in list(self._told.items()):
            # the last one holds until the next
            self._told[device] = [fact for fact in told[:-1] if fact.time_ns >= until_ns] + told[-1:]
            if device not in self._overlays and told[-1].time_ns < until_ns:
                del self._told[device]
        if gone:
            self._layer_answers = {key: layer for key, layer in self._layer_answers.items() if key[0] not in gone}

    def _release(self, path: str) -> None:
        # One path less for its container and pod; with the last they are forgotten themselves.
        container_id, pod_uid, _ = parse(path)
        for name in filter(None, (container_id, pod_uid)):
            self._holders[name] -= 1
            if self._holders[name] > 0:
                continue
            del self._holders[name]
            if name == container_id:
                self._drop_container(name)
            else:
                self._pods.pop(name, None)
                self._forget(("pod", name))

    def _drop_container(self, container_id: str) -> None:
        known = self._containers.pop(container_id, None)
        self._image_names.pop(container_id, None)
        self._outer.pop(container_id, None)
        self._leave_pod(known)
        self._container_paths.pop(container_id, None)
        self._forget(("container", container_id))
        # the runtime may know its pod by another UID than the cgroup's path has, or the pod has no cgroup
        if known is not None and known.pod_uid is not None and known.pod_uid not in self._holders:
            self._pods.pop(known.pod_uid, None)
            self._forget(("pod", known.pod_uid))

    def _forget(self, subject: _Subject) -> None:
        for key in self._readers.pop(subject, ()):
            self._answers.pop(key, None)
        # Few: one per cgroup of the host and container that it writes into.
        self._overlay_answers.clear()

    # Concluding.

    def _conclude(self, key: _Key) -> Identity:
        v2_id, memory_id, memory_hierarchy = key
        identity = _UNKNOWN
        subjects: list[tuple[tuple[int, int], AttributedBy]] = [((0, v2_id), "cgroup")]
        if memory_id and (memory_hierarchy, memory_id) != (0, v2_id):
            subjects.append(((memory_hierarchy, memory_id), "memory cgroup"))
        pod: Identity | None = None
        for cgroup, how in subjects:
            self._readers.setdefault(("cgroup", *cgroup), set()).add(key)
            path = self._paths.get(cgroup)
            if path is None:
                continue
            owner = self._owner(path, key)
            if owner.container_id is not None:
                identity = self._identity_of(owner, path, how)
                break
            if owner.pod_uid is not None and pod is None:
                pod = self._identity_of(owner, path, how)
        else:
            identity = pod if pod is not None else self._host([cgroup for cgroup, _ in subjects])
        self._answers[key] = identity
        return identity

    def _owner(self, path: str, key: _Key) -> CgroupPath:
        # The outermost container that the node's files name: a container that makes cgroups of its own cannot pass for
        # another one, and a nested node's pods are named where that nested node's files are. Else by the path's shape.
        for owner in owners_of(path):
            if owner.container_id is not None:
                self._readers.setdefault(("container", owner.container_id), set()).add(key)
                if (outer := self._outer.get(owner.container_id)) is not None:
                    self._readers.setdefault(("container", outer), set()).add(key)
                known = self._containers.get(owner.container_id)
                if known is not None and known.pod is not None:
                    return owner
        owner = parse(path)
        # Kubernetes in a pod: of pods within pods this node's kubelet made the outermost.
        for other in owners_of(path):
            if other.pod_uid is not None and other.pod_uid != owner.pod_uid:
                self._readers.setdefault(("pod", other.pod_uid), set()).add(key)
                if other.pod_uid in self._pods:
                    return CgroupPath(owner.container_id, other.pod_uid, other.qos_class)
        if owner.pod_uid is not None:
            self._readers.setdefault(("pod", owner.pod_uid), set()).add(key)
        return owner

    def _host(self, cgroups: list[tuple[int, int]]) -> Identity:
        # The v2 root says nothing where v1 holds the memory controller: every process of a pure v1 node is in it.
        v2_path = self._paths.get(cgroups[0])
        memory = cgroups[-1]
        if memory[0] != 0:
            memory_path = self._paths.get(memory)
            if memory_path is None:
                return _UNKNOWN
            path: str | None = memory_path if v2_path in (None, "/") else v2_path
        else:
            path = v2_path if v2_path is not None else self._paths.get(memory)
        return _UNKNOWN if path is None else Identity(kind="host", cgroup_path=path, attributed_by="host")

    def _identity_of(self, owner: CgroupPath, path: str | None, how: AttributedBy) -> Identity:
        known = self._containers.get(owner.container_id) if owner.container_id is not None else None
        pod_uid = (known.pod_uid if known is not None else None) or owner.pod_uid
        pod = self._pods.get(pod_uid) if pod_uid is not None else None
        named: ContainerSeen | PodSeen | None = known if known is not None and known.pod is not None else pod
        outer = self._containers.get(self._outer.get(owner.container_id or "", "")) if named is None else None
        if outer is not None and outer.pod is not None:
            # the pod's container that it runs in; its own id stays
            return Identity(
                namespace=outer.namespace,
                pod=outer.pod,
                container=outer.container,
                pod_uid=outer.pod_uid,
                container_id=owner.container_id,
                kind="container",
                cgroup_path=path,
                attributed_by=how,
                names_from="ancestry",
            )
        return Identity(
            namespace=named.namespace if named is not None else None,
            pod=named.pod if named is not None else None,
            container=known.container if known is not None else None,
            pod_uid=pod_uid,
            container_id=owner.container_id,
            image=known.image if known is not None else None,
            qos_class=owner.qos_class,
            kind="pod" if owner.container_id is None else known.kind if known is not None else "container",
            cgroup_path=path,
            attributed_by=how,
            names_from=named.source if named is not None else None,
        )

    def _container_at(self, device: int, time_ns: int, *, copied_up: bool) -> str | None:
        at = self._copied_up_in if copied_up else self._mounted_at
        found = {mounted.container_id for mounted in at(device, time_ns)}
        return found.pop() if len(found) == 1 else None

    def _copied_up_in(self, device: int, time_ns: int) -> list[_Mounted]:
        # By the kernel's own word where there is one: a device number may be another overlay's already in what the
        # mount table shows. One that it never showed is not known.
        for told in islice(reversed(self._told.get(device, ())), _MOST_PASSED):
            if told.time_ns <= time_ns:
                return self._uppers.get(told.upperdir, [])[-1:]
        return self._mounted_at(device, time_ns)

    def _mounted_at(self, device: int, time_ns: int) -> list[_Mounted]:
        # Newest first, the overlay whose time under this number holds the event's. Between the last look that showed
        # the old one and the first that showed the new one it may be either: then neither is named.
        found = []
        for mounted in islice(reversed(self._overlays.get(device, ())), _MOST_PASSED):
            if mounted.since_ns <= time_ns and (mounted.until_ns is None or time_ns < mounted.until_ns):
                found.append(mounted)
            if mounted.seen_ns <= time_ns:
                break
        return found

    def _through_overlay(self, key: _Key, process: Identity, container_id: str) -> Identity:
        identity = self._overlay_answers.get((key, container_id))
        if identity is None:
            owner = self._container_paths.get(container_id, CgroupPath(container_id, None, None))
            identity = self._overlay_answers[key, container_id] = replace(
                self._identity_of(owner, process.cgroup_path, "overlay"), host=process.kind == "host"
            )
        return identity

    def _layer_of(self, mounted: _Mounted, index: int, image: str | None) -> Layer:
        total = len(mounted.lowerdirs)
        if index == 0:
            looked = any(lowerdir in self._layers for lowerdir in mounted.lowerdirs) or not mounted.lowerdirs
            reason = "the kernel did not tell the layer" if looked else NOT_LOOKED_UP
            return Layer(0, image=self._image_of(mounted, image), reason=reason)
        if not 0 < index <= total:
            reason = f"the overlay has {total} lower directories"
            return Layer(index, image=self._image_of(mounted, image), reason=reason)
        seen = self._layers.get(mounted.lowerdirs[index - 1])
        if seen is None:
            return Layer(index, image=image, reason=NOT_LOOKED_UP)
        base = Layer(index, seen.snapshot, seen.chain_id, image=image, reason=seen.problem)
        if seen.snapshot is not None:
            # containerd gives each layer a directory, also one without files.
            base = replace(base, ordinal=total - index + 1, layers_total=total)
        images = self._having(seen.chain_id)
        if not images and index < total and self._is_image(mounted.lowerdirs[index]):
            # a user namespace on a file system that cannot be mounted idmapped (containerd, WithRemappedSnapshot)
            reason = "not a layer of the image: the runtime put it on top, as for a user namespace"
            return replace(base, ordinal=None, layers_total=None, reason=reason)
        if not images:
            return self._without_blobs(base, image)
        own = self._own(mounted, image, images)
        return self._described(base, own, len(images)) if own is not None else self._of_several(base, images)

    def _is_image(self, lowerdir: str) -> bool:
        # Whether it is the topmost layer of an image.
        seen = self._layers.get(lowerdir)
        found = self._having(seen.chain_id if seen is not None else None)
        return any(at == len(self._images[image_id].diff_ids) for image_id, at in found.items())

    def _of_several(self, base: Layer, images: Mapping[str, int]) -> Layer:
        # What they agree on is so whichever the container's is.
        found = [self._described(base, image_id, len(images)) for image_id in images]
        first = found[0]
        reason = f"{len(images)} images of the node have this layer, and which one the container is of is not known"
        return replace(
            first,
            image=None,
            ordinal=first.ordinal if len({layer.ordinal for layer in found}) == 1 else None,
            layers_total=first.layers_total if len({layer.layers_total for layer in found}) == 1 else None,
            created_by=first.created_by if len({layer.created_by for layer in found}) == 1 else None,
            reason=reason,
        )

    def _own(self, mounted: _Mounted, image: str | None, images: Iterable[str]) -> str | None:
        """Of images that have a layer the container's own; None where several may be.

        That is the one its user names; else the one that has all its layers and no more.
        """
        known = list(images)
        # what the pod asks for, then what other sources call it
        for given in (image, *sorted(self._image_names.get(mounted.container_id or "", ()))):
            name = oci.full_name(given) if given is not None else None
            named = [one for one in known if name is not None and (name in self._images[one].references or name == one)]
            if named:
                return min(named, key=lambda one: _name_of(self._images[one]))
        if len(known) == 1:
            return known[0]
        top = next(
            (
                lowerdir
                for at, lowerdir in enumerate(mounted.lowerdirs[:-1])
                if self._is_image(lowerdir) and at < _MOST_ON_TOP
            ),
            mounted.lowerdirs[0],
        )
        seen = self._layers.get(top)
        whole = self._having(seen.chain_id if seen is not None else None)
        exact = [one for one in known if whole.get(one) == len(self._images[one].diff_ids)]
        return exact[0] if len(exact) == 1 else None

    def _image_of(self, mounted: _Mounted, image: str | None) -> str | None:
        # The container's image where no single layer is in question.
        if image is not None or not mounted.lowerdirs:
            return image
        top = self._layers.get(mounted.lowerdirs[0])
        images = self._having(top.chain_id if top is not None else None)
        own = self._own(mounted, None, images) if images else None
        return _name_of(self._images[own]) if own is not None else None

    def _having(self, chain_id: str | None) -> dict[str, int]:
        """The images that have a layer; those that are no longer on the node only if no other has it."""
        images = self._chains.get(chain_id, {}) if chain_id is not None else {}
        return {image_id: at for image_id, at in images.items() if self._images[image_id].references} or images

    def _described(self, base: Layer, image_id: str, shared_by: int) -> Layer:
        assert base.chain_id is not None
        known, at = self._images[image_id], self._chains[base.chain_id][image_id]
        line = known.created_by[at - 1] if at <= len(known.created_by) else None
        reason = None if line is not None else known.problem or "the image's history does not say it"
        name = oci.full_name(base.image) if base.image is not None else None
        return replace(
            base,
            layer_digest=known.diff_ids[at - 1],
            # As its user names it, unless that is a number.
            image=name if name in known.references and not oci.is_digest(name) else _name_of(known),
            shared_by=shared_by,
            ordinal=at,
            layers_total=len(known.diff_ids),
            created_by=line,
            reason=reason,
        )

    def _without_blobs(self, base: Layer, image: str | None) -> Layer:
        # An image whose manifest or configuration is gone still has its name.
        name = oci.full_name(image) if image is not None else None
        for known in self._images.values():
            if known.problem is not None and name is not None and (name in known.references or name == known.image_id):
                return replace(base, image=_name_of(known), reason=base.reason or known.problem)
        return _without_image(base)


def _name_of(image: ImageSeen) -> str:
    return oci.best_reference(image.references) or image.image_id


def _without_image(base: Layer) -> Layer:
    return replace(base, reason=base.reason or "no image on this node is known to have this layer")


def _merge(known: ContainerSeen, new: ContainerSeen) -> ContainerSeen:
    # The better source's names stand; the other one only fills what it lacks.
    first, second = (known, new) if _RANK[known.source] <= _RANK[new.source] else (new, known)
    named = first if first.pod is not None or second.pod is None else second
    return replace(
        first,
        namespace=named.namespace,
        pod=named.pod,
        container=named.container if named.container is not None else second.container,
        pod_uid=first.pod_uid if first.pod_uid is not None else second.pod_uid,
        image=first.image if first.image is not None else second.image,
        sandbox_id=first.sandbox_id if first.sandbox_id is not None else second.sandbox_id,
        source=named.source,
    )
