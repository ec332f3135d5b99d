"""From a cgroup id or an overlay's device number to the container and pod: conclusions from facts, without any I/O.

The same facts give the same answers live and in a replay. The answer to a question asked before its facts were learned
improves when they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from kubetrace.attribution.cgroup_path import CgroupPath, QosClass, owners_of, parse
from kubetrace.attribution.facts import (
    CgroupGone,
    CgroupSeen,
    ContainerSeen,
    Fact,
    OverlayGone,
    OverlaySeen,
    PodSeen,
    Source,
)

IdentityKind = Literal["container", "sandbox", "pod", "host", "unknown"]
AttributedBy = Literal["cgroup", "memory cgroup", "overlay", "host", "none"]


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


_UNKNOWN: Final = Identity()
_MOST_ANSWERS: Final = 50_000
_OWNED: Final = frozenset({"container", "sandbox", "pod"})

# Best first: the runtime's own records, then what the kubelet leaves in names of files. The last one a container can
# write to (its /etc/hosts).
_RANK: Final[dict[Source, int]] = {
    "config.json": 0,
    "CRI": 1,
    "containerd metadata": 2,
    "log links": 3,
    "log directories": 4,
    "kubelet": 5,
}

# What a cached answer was concluded from: ("cgroup", hierarchy, id), ("container", id) or ("pod", uid).
_Subject = tuple[str, int, int] | tuple[str, str]
_Key = tuple[int, int, int]


@dataclass(slots=True)
class _Mounted:
    # One overlay's time under its device number; `until_ns` is None while it is mounted.
    container_id: str | None
    since_ns: int
    seen_ns: int
    until_ns: int | None = None


class Attributor:
    """Learns facts and names the owner of events by them.

    Facts may come in any order and more than once, those of one device number in the order of time.
    Nothing about cgroups, containers and pods is ever forgotten (their ids are not reused in a boot); device numbers
    are reused, so what is known of them is dated.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._paths: dict[tuple[int, int], str] = {}
        self._containers: dict[str, ContainerSeen] = {}
        self._container_paths: dict[str, CgroupPath] = {}
        self._pods: dict[str, PodSeen] = {}
        self._overlays: dict[int, list[_Mounted]] = {}
        self._answers: dict[_Key, Identity] = {}
        self._overlay_answers: dict[tuple[_Key, str], Identity] = {}
        self._readers: dict[_Subject, set[_Key]] = {}

    def learn(self, fact: Fact) -> None:
        """Take a fact in; answers that depended on its subject are concluded anew."""
        if isinstance(fact, CgroupSeen):
            self._learn_cgroup(fact)
        elif isinstance(fact, ContainerSeen):
            self._learn_container(fact)
        elif isinstance(fact, PodSeen):
            self._learn_pod(fact)
        elif isinstance(fact, OverlaySeen):
            self._learn_overlay(fact)
        elif isinstance(fact, OverlayGone):
            for mounted in self._overlays.get(fact.device, ()):
                if mounted.until_ns is None and mounted.seen_ns <= fact.time_ns:
                    mounted.until_ns = fact.time_ns
        else:
            # Its id is not given again in this boot (kernfs ids carry a generation), so the name is kept.
            assert isinstance(fact, CgroupGone)

    def identify(
        self, *, cgroup_id: int, memory_cgroup_id: int, memory_hierarchy: int, device: int | None, time_ns: int
    ) -> Identity:
        """The owner of an event.

        `cgroup_id` is bpf_get_current_cgroup_id() (v2); `memory_cgroup_id` the kernfs id of the task's memory css, 0 if
        it was not read, and `memory_hierarchy` that controller's hierarchy (0: v2); `device` the dev_t of the overlay
        that was written to, None if there is none; `time_ns` the event's CLOCK_BOOTTIME.

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
        if device is None or identity.kind in _OWNED or device not in self._overlays:
            return identity
        container_id = self._container_at(device, time_ns)
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
        return [container for container in self._containers.values() if container.pod_uid == pod_uid]

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
        self._paths[key] = fact.path
        owner = parse(fact.path)
        if owner.container_id is not None and owner.container_id not in self._container_paths:
            self._container_paths[owner.container_id] = owner
            self._forget(("container", owner.container_id))
        self._forget(("cgroup", *key))

    def _learn_container(self, fact: ContainerSeen) -> None:
        known = self._containers.get(fact.container_id)
        merged = fact if known is None else _merge(known, fact)
        if fact.pod_uid is not None and fact.pod is not None:
            self._learn_pod(PodSeen(fact.pod_uid, fact.namespace, fact.pod, fact.source, fact.time_ns))
        if merged != known:
            self._containers[fact.container_id] = merged
            self._forget(("container", fact.container_id))

    def _learn_pod(self, fact: PodSeen) -> None:
        known = self._pods.get(fact.pod_uid)
        if known is not None and _RANK[known.source] <= _RANK[fact.source]:
            return
        self._pods[fact.pod_uid] = fact
        self._forget(("pod", fact.pod_uid))

    def _learn_overlay(self, fact: OverlaySeen) -> None:
        # Kept even if it is no container's root: the number then no longer means an older container.
        mounts = self._overlays.setdefault(fact.device, [])
        last = mounts[-1] if mounts else None
        if last is not None and last.until_ns is None:
            if last.container_id == fact.container_id:
                return
            if last.container_id is None and fact.since_ns < last.seen_ns:
                # The same mount, now that it is known whose root it is.
                last.container_id = fact.container_id
                return
            last.until_ns = fact.time_ns
        mounts.append(_Mounted(fact.container_id, min(fact.since_ns, fact.time_ns), fact.time_ns))

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
                known = self._containers.get(owner.container_id)
                if known is not None and known.pod is not None:
                    return owner
        owner = parse(path)
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

    def _container_at(self, device: int, time_ns: int) -> str | None:
        # Newest first, the overlay whose time under this number holds the event's. Between the last look that showed
        # the old one and the first that showed the new one it may be either: then neither is named.
        found: set[str | None] = set()
        for mounted in reversed(self._overlays[device]):
            if mounted.since_ns <= time_ns and (mounted.until_ns is None or time_ns < mounted.until_ns):
                found.add(mounted.container_id)
            if mounted.seen_ns <= time_ns:
                break
        return found.pop() if len(found) == 1 else None

    def _through_overlay(self, key: _Key, process: Identity, container_id: str) -> Identity:
        identity = self._overlay_answers.get((key, container_id))
        if identity is None:
            owner = self._container_paths.get(container_id, CgroupPath(container_id, None, None))
            identity = self._overlay_answers[key, container_id] = replace(
                self._identity_of(owner, process.cgroup_path, "overlay"), host=process.kind == "host"
            )
        return identity


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
