"""What a recording knows of a pod: its containers with their layers and cgroups, its volumes, and how much was traced.

Everything is what was learned of the node while it was recorded; nothing of it is looked up now. Sizes are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kubetrace.attribution import cgroup_path, oci
from kubetrace.attribution.facts import CgroupSeen, ContainerSeen, LabelsSeen, MountSeen, OverlaySeen, PodSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.stream.steps import stream_key

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.recording.reader import Recording

# Of one recording: more than any node has in an hour.
_MOST: Final = 100_000
_LEAST_ID: Final = 6


@dataclass(slots=True)
class RecordedContainer:
    """`layers` are (directory, line of the Dockerfile, None where that is not known), the lowest first.

    `events` are records of each tracer.
    """

    container_id: str
    kind: str
    container: str | None = None
    image: str | None = None
    cgroups: list[str] = field(default_factory=list)
    root: str | None = None
    upperdir: str | None = None
    lowerdirs: tuple[str, ...] = ()
    layers: tuple[tuple[str, str | None], ...] = ()
    events: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedVolume:
    """A mount below the pod's directory of the kubelet's: `kind` is the plugin, such as kubernetes.io~secret."""

    name: str
    kind: str
    path: str
    fstype: str


@dataclass(slots=True)
class RecordedPod:
    """One pod; what no source has told is None."""

    pod_uid: str
    namespace: str | None = None
    pod: str | None = None
    labels: tuple[str, ...] | None = None
    qos_class: str | None = None
    cgroups: list[str] = field(default_factory=list)
    containers: dict[str, RecordedContainer] = field(default_factory=dict)
    volumes: dict[str, RecordedVolume] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    """Of the pod that are no container's."""


class _Pods:
    # By UID; containers of pods that are not known yet wait for them.

    def __init__(self) -> None:
        self.pods: dict[str, RecordedPod] = {}
        self._owners: dict[str, str] = {}
        self._mounts: dict[str, MountSeen] = {}
        self._overlays: dict[str, OverlaySeen] = {}

    def pod(self, uid: str) -> RecordedPod:
        if uid not in self.pods and len(self.pods) < _MOST:
            self.pods[uid] = RecordedPod(uid)
        return self.pods.get(uid) or RecordedPod(uid)

    def container(self, uid: str, container_id: str, kind: str = "container") -> RecordedContainer:
        self._owners[container_id] = uid
        return self.pod(uid).containers.setdefault(container_id, RecordedContainer(container_id, kind))

    def learn(self, fact: Fact) -> None:
        if isinstance(fact, ContainerSeen):
            uid = fact.pod_uid or self._owners.get(fact.container_id)
            if uid is None:
                return
            pod, one = self.pod(uid), self.container(uid, fact.container_id, fact.kind)
            one.kind = fact.kind
            one.container, one.image = fact.container or one.container, fact.image or one.image
            pod.namespace, pod.pod = fact.namespace or pod.namespace, fact.pod or pod.pod
        elif isinstance(fact, PodSeen):
            pod = self.pod(fact.pod_uid)
            pod.namespace, pod.pod = fact.namespace or pod.namespace, fact.pod
        elif isinstance(fact, LabelsSeen):
            self.pod(fact.pod_uid).labels = fact.labels
        elif isinstance(fact, CgroupSeen):
            owner = cgroup_path.parse(fact.path)
            if owner.pod_uid is None or not cgroup_path.is_own(fact.path):
                return
            pod = self.pod(owner.pod_uid)
            pod.qos_class = owner.qos_class or pod.qos_class
            paths = pod.cgroups
            if owner.container_id is not None:
                paths = self.container(owner.pod_uid, owner.container_id).cgroups
            if fact.path not in paths:
                paths.append(fact.path)
        elif isinstance(fact, OverlaySeen) and fact.container_id is not None:
            if len(self._overlays) < _MOST:
                self._overlays[fact.container_id] = fact
        elif isinstance(fact, MountSeen) and "/pods/" in fact.mount_point and len(self._mounts) < _MOST:
            self._mounts[fact.mount_point] = fact

    def conclude(self, attribution: Attribution) -> None:
        for container_id, overlay in self._overlays.items():
            uid = self._owners.get(container_id)
            if uid is None:
                continue
            one = self.container(uid, container_id)
            one.root, one.upperdir, one.lowerdirs = overlay.mount_point, overlay.upperdir, overlay.lowerdirs
            one.layers = tuple(
                (lowerdir, _line(attribution, lowerdir, one.image)) for lowerdir in reversed(overlay.lowerdirs)
            )
        for path, mount in self._mounts.items():
            _, _, rest = path.partition("/pods/")
            uid, *parts = rest.split("/")
            # UID/volumes/PLUGIN/NAME
            if uid in self.pods and len(parts) >= 3 and parts[0] == "volumes":
                self.pods[uid].volumes[path] = RecordedVolume(parts[2], parts[1], path, mount.fstype)


def _line(attribution: Attribution, lowerdir: str, image: str | None) -> str | None:
    layers = [layer for layer in attribution.layers_in(lowerdir) if layer.created_by is not None]
    # images that share the layer may have other lines for it
    lines = {layer.created_by for layer in layers if layer.image == image} or {layer.created_by for layer in layers}
    line = lines.pop() if len(lines) == 1 else None
    return oci.dockerfile_line(line) if line is not None else None


def recorded_pods(recording: Recording) -> list[RecordedPod]:
    """Every pod of the recording, in the order in which it was learned of. Reads all of it."""
    attribution, found = Attribution(Selection()), _Pods()
    owners = {stream_key(item.name, one.name): item.name for item in recording.header.tracers for one in item.streams}
    for step in recording.steps():
        attribution.learn(step.facts)
        for fact in step.facts:
            found.learn(fact)
        for batch in step.batches:
            tracer = owners[batch.stream]
            for event in recording.layouts[batch.stream].decode(batch.data):
                try:
                    who = attribution.identify(event)
                except (AttributeError, TypeError):
                    # a later version's, or no tracer's: it has no cgroup
                    break
                if who.pod_uid is None:
                    continue
                pod = found.pod(who.pod_uid)
                counts = pod.events
                if who.container_id is not None:
                    counts = found.container(who.pod_uid, who.container_id).events
                counts[tracer] = counts.get(tracer, 0) + 1
    found.conclude(attribution)
    return list(found.pods.values())


def meant(pods: Sequence[RecordedPod], query: str) -> list[RecordedPod]:
    """Those that a query means: NAMESPACE/NAME, a name, a UID, or the beginning of a container's id."""
    exact = [pod for pod in pods if query in (f"{pod.namespace}/{pod.pod}", pod.pod_uid)]
    if exact:
        return exact
    named = [pod for pod in pods if pod.pod == query]
    if named or len(query) < _LEAST_ID:
        return named
    return [pod for pod in pods if any(one.startswith(query) for one in pod.containers)]
