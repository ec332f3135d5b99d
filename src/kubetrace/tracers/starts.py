"""starts: what each pod's start consists of, with times: the slowest step by name, or all of them as a waterfall."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.cgroup_path import is_own
from kubetrace.attribution.facts import ContainerSeen, OverlaySeen
from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.identity import CONTAINER, NAMESPACE, POD, identity_cells, text_of
from kubetrace.kit.tracer import MAX, SUM, Grouping
from kubetrace.views.columns import Column
from kubetrace.views.units import format_count, format_duration

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.stream.layout import Layout
    from kubetrace.views.columns import Value

_SLOWEST = Column(
    "slowest", "SLOWEST", "text", min_width=16, help="the longest step, whose it was, and how long it took"
)
_STARTED = Column("containers", "STARTED", "count", help="containers whose entrypoint was executed")
_TOTAL = Column("total_ns", "TOTAL", "duration", help="from the pod's first step to its last container's entrypoint")
_SANDBOX = Column("sandbox_ns", "SANDBOX", "duration", help="of that, until the pause process was executed")
_STEPS = Column("steps", "STEPS", "count", spare=True, help="steps seen")
_LAYERS = Column("layers", "LAYERS", "count", spare=True, help="most layers that a container's root has")
_MOUNTS = Column("mounts", "MOUNTS", "count", spare=True, help="bind and tmpfs mounts made in its containers")
_NEWEST = Column("time", "LAST", "time", wide=True, help="when its last step ended (local)")

_MEASURES = (
    (_TOTAL, MAX),
    (_SANDBOX, MAX),
    (_STARTED, SUM),
    (_STEPS, SUM),
    (_LAYERS, MAX),
    (_MOUNTS, SUM),
    (_NEWEST, MAX),
)

# Where containerd mounts a container's root, CRI-O (by the id of its writable layer), and the kubelet a pod's volumes.
_ROOT = re.compile(rb"/([0-9a-f]{64})/rootfs\Z")
_MERGED = re.compile(rb"(?:/|\A)([0-9a-f]{64})/merged\Z")
_VOLUME = re.compile(rb"/pods/([0-9a-f]{32}|[0-9a-f-]{36})/volumes/")
# mount(2): what is not a mount of its own, and a bind mount
_MS_REMOUNT, _MS_BIND, _MS_PROPAGATION = 1 << 5, 1 << 12, 0xF << 17
_NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user")
# Cells of the waterfall: 80 have room for the pod and its steps beside it.
_BAR = 20
# Pods that are remembered: the oldest go.
_PODS = 4096


def _phase(event: Any) -> str:
    names: Mapping[int, str] = event.NAMES["phase"]
    return names[event.phase].replace("-", "_")


class _Unit:
    """A sandbox or container that is being started: when each of its steps ended."""

    __slots__ = ("binds", "ended", "identity", "memories", "times", "told")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.times: dict[str, int] = {}
        self.binds = self.memories = 0
        self.ended = False
        self.told: list[Any] = []


class _Pod:
    """A pod that began while we watched."""

    __slots__ = ("begun_ns", "identity", "namespaces", "ready_ns", "tmpfs", "units", "volumes_ns")

    def __init__(self, identity: Identity, begun_ns: int) -> None:
        self.identity = identity
        self.begun_ns = begun_ns
        self.namespaces: tuple[int, ...] = ()
        self.ready_ns: int | None = None
        self.volumes_ns: int | None = None
        self.tmpfs = 0
        self.units: dict[str, _Unit] = {}


class StartsBoard:
    """The starts of one run (kit.tracer.Board)."""

    def __init__(self, *, node: str, offset_ns: int, blank: Any) -> None:
        """`offset_ns` from CLOCK_BOOTTIME to 1970; `blank`: an event of zeros."""
        self._node = node
        self._offset_ns = offset_ns
        self._blank = blank
        self._numbers = {name.replace("-", "_"): number for number, name in blank.NAMES["phase"].items()}
        self._pods: dict[str, _Pod] = {}
        self._prepared: dict[str, int] = {}
        self._rooted: dict[str, int] = {}
        self._layers: dict[str, int] = {}
        self._writable: dict[str, str] = {}
        self._volumes: dict[str, tuple[int, int]] = {}

    def learn(self, fact: Fact) -> None:
        """When a container's config.json was written, and how many layers its root has."""
        if isinstance(fact, ContainerSeen) and fact.prepared_ns is not None:
            _remember(self._prepared, fact.container_id, fact.prepared_ns)
        elif isinstance(fact, OverlaySeen) and fact.container_id is not None:
            _remember(self._layers, fact.container_id, len(fact.lowerdirs))
            if layer := _MERGED.search(os.fsencode(fact.mount_point)):
                _remember(self._writable, fact.container_id, layer[1].decode())

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """A container's steps in their order, when its entrypoint is executed; then its first write."""
        phase = _phase(event)
        if phase == "volumes" and self._mounted_by_the_node(event):
            return ()
        if identity.pod_uid is None:
            return ()
        if phase == "cgroup" and identity.kind == "pod" and is_own(identity.cgroup_path or ""):
            if identity.pod_uid not in self._pods:
                _remember(self._pods, identity.pod_uid, _Pod(identity, event.time), _PODS)
            return ()
        pod = self._pods.get(identity.pod_uid)
        if pod is None or identity.container_id is None:
            return ()
        unit = pod.units.get(identity.container_id)
        if unit is None:
            if phase != "cgroup":
                return ()
            unit = pod.units[identity.container_id] = _Unit(identity)
        unit.identity = identity
        if identity.pod is not None:
            pod.identity = identity
        if phase == "first_write" and unit.ended:
            return self._first_write(event, pod, unit)
        if unit.ended:
            return ()
        self._step(phase, event, unit)
        return self._steps(event, pod, unit) if phase == "exec" and event.first else ()

    def _mounted_by_the_node(self, event: Any) -> bool:
        path = event.path[: event.path_bytes]
        if root := _ROOT.search(path) or _MERGED.search(path):
            name = root[1].decode()
            _remember(self._rooted, name, self._rooted.get(name, event.time))
            return True
        if volume := _VOLUME.search(path):
            uid = volume[1].decode()
            _remember(self._volumes, uid, (event.time, self._volumes.get(uid, (0, 0))[1] + 1))
            return True
        return False

    def _step(self, phase: str, event: Any, unit: _Unit) -> None:
        if phase in ("cgroup", "runc_init"):
            # a hybrid node tells both hierarchies'; a runtime may enter with more than one process
            unit.times.setdefault(phase, event.time)
        elif phase == "volumes":
            if "pivot_root" in unit.times or event.flags & (_MS_REMOUNT | _MS_PROPAGATION):
                return
            unit.times[phase] = event.time
            unit.binds += bool(event.flags & _MS_BIND)
            unit.memories += not event.flags & _MS_BIND and text_of(event.kind) == b"tmpfs"
        elif phase in ("namespaces", "pivot_root", "exec"):
            unit.times[phase] = event.time

    def _steps(self, event: Any, pod: _Pod, unit: _Unit) -> Iterator[tuple[Any, Identity]]:
        container_id = unit.identity.container_id
        assert container_id is not None
        unit.ended = True
        for phase, known in (("prepared", self._prepared), ("rootfs", self._rooted)):
            found = known.get(container_id) or known.get(self._writable.get(container_id, ""))
            if found is not None and found <= unit.times["exec"]:
                unit.times[phase] = found
        times = dict(unit.times)
        sandbox = unit.identity.kind == "sandbox"
        if sandbox or pod.ready_ns is None:
            # a kubelet makes the pod's cgroup before it asks for the sandbox, a bare runtime with the sandbox's own
            times["pod_cgroup"] = pod.begun_ns
            volumes = self._volumes.get(unit.identity.pod_uid or "")
            if volumes is not None and "volumes" not in times:
                pod.volumes_ns, pod.tmpfs = volumes
            pod.begun_ns = min(times.values())
            begun_ns = pod.begun_ns
        else:
            begun_ns = pod.ready_ns
        own = tuple([getattr(event, f"ns_{name}") for name in _NAMESPACES])
        shared = sum(1 << at for at, pair in enumerate(zip(own, pod.namespaces, strict=False)) if pair[0] == pair[1])
        if sandbox:
            pod.ready_ns, pod.namespaces = times["exec"], own
        before = begun_ns
        for phase, time in sorted(times.items(), key=lambda item: (item[1], self._numbers[item[0]])):
            step = self._blank._replace(
                time=time,
                phase=self._numbers[phase],
                duration=max(0, time - before),
                since=max(0, time - pod.begun_ns),
                total=times["exec"] - pod.begun_ns,
                cgroup_id=event.cgroup_id,
                memory_cgroup_id=event.memory_cgroup_id,
                memory_hierarchy=event.memory_hierarchy,
                pid=event.pid if phase in ("exec", "pivot_root") else 0,
                layers=self._layers.get(container_id, 0) if phase == "rootfs" else 0,
                binds=unit.binds if phase == "volumes" else 0,
                memories=unit.memories if phase == "volumes" else 0,
            )
            if phase == "exec":
                kept = {name: getattr(event, name) for name in event._fields if name.startswith("ns_")}
                step = step._replace(
                    first=1,
                    node=event.node,
                    flags=shared & ~event.node,
                    comm=event.comm,
                    path=event.path,
                    path_bytes=event.path_bytes,
                    **kept,
                )
            before = max(before, time)
            unit.told.append(step)
            yield step, unit.identity

    def _first_write(self, event: Any, pod: _Pod, unit: _Unit) -> Iterator[tuple[Any, Identity]]:
        last = unit.told[-1]
        step = event._replace(
            duration=max(0, event.time - unit.times["exec"]),
            since=max(0, event.time - pod.begun_ns),
            total=last.total,
            path=last.path,
            path_bytes=last.path_bytes,
        )
        yield step, unit.identity

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """One row for each pod (or container) that has begun, in the order of arrival."""
        table: list[list[Value]] = []
        for pod in self._pods.values():
            groups = [[unit] for unit in pod.units.values()] if by == "container" else [list(pod.units.values())]
            for units in groups:
                steps = [(unit, step) for unit in units for step in unit.told]
                slowest = max(steps, key=lambda item: item[1].duration, default=None)
                cells = identity_cells(self._blank, units[0].identity if by == "container" else pod.identity)
                name = None
                if slowest is not None:
                    unit, step = slowest
                    whose = unit.identity.container or "sandbox"
                    name = f"{whose} {_phase(step)} {format_duration(step.duration)}"
                key = [cells[column.key] for column in TRACER.groupings[by].key]
                table.append(
                    [
                        *key,
                        name,
                        max((step.total for _, step in steps), default=None),
                        pod.ready_ns - pod.begun_ns if pod.ready_ns is not None else None,
                        sum(unit.ended and unit.identity.kind == "container" for unit in units),
                        len(steps),
                        max((step.layers for _, step in steps), default=0) or None,
                        sum(unit.binds + unit.memories for unit in units),
                        max((step.time + self._offset_ns for _, step in steps), default=None),
                    ]
                )
        return table


def _remember(known: dict[str, Any], key: str, value: Any, most: int = 16_384) -> None:
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]


class Starts(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "starts"
    table = "board"
    summary = "Show what the start of each pod consists of, step by step with times, and which step took longest."
    explanation = (
        "A row for each pod that starts while kubetrace runs; --events draws each container's steps as a waterfall: "
        "pod_cgroup, prepared (config.json written), rootfs (its overlay mounted), cgroup, runc_init (the process of "
        "runc or crun is in the cgroup), namespaces, volumes (the last mount), pivot_root, exec of the entrypoint, and "
        "first_write. A step's time is what passed since the step before it, so that the steps of the sandbox and of a "
        "container add up to the time from the pod's first step to the entrypoint. A pulled image is part of "
        "prepared.\n\n"
        "Not seen: what happens before the first of these steps, mounts made through the new mount API (move_mount), "
        "and a first write by a child of the entrypoint: only the entrypoint's own process counts."
    )
    examples = (
        ("kubetrace starts", "each pod that starts from now on"),
        ("kubetrace starts --events -n shop", "the waterfall of each start in a namespace"),
        ("kubetrace starts -o json", "every step, with namespaces, for a script"),
    )
    streams: Mapping[str, str] = {"steps": "starts_step"}
    optional: Mapping[str, str] = {
        "mounted": "mounts are not seen: neither rootfs nor volumes",
        "unshared": "new namespaces are not timed",
        "pivoted": "pivot_root is not seen",
        "written": "the first write is not seen",
    }
    groupings: Mapping[str, Grouping] = {
        "pod": Grouping((NAMESPACE, POD), (_SLOWEST,)),
        "container": Grouping((NAMESPACE, POD, CONTAINER), (_SLOWEST,)),
    }
    measures: Sequence[Column] = tuple(column for column, _ in _MEASURES)
    time_column = Column("time", "TIME", "time", spare=True, help="when the step ended (local)")
    object_type = "start"
    kinds = (
        *("pod_cgroup", "cgroup", "prepared", "rootfs", "runc_init", "namespaces", "volumes", "pivot_root", "exec"),
        *("first_write", "removed"),
    )
    fields = (
        Field(Column("phase", "STEP", "text", min_width=11, help="which step"), says=_phase, ours=True),
        Field(Column("duration_ns", "TOOK", "duration", help="since the step before it"), "duration"),
        Field(Column("since_ns", "AT", "duration", spare=True, help="since the pod began"), "since"),
        Field("layers", says=lambda event: event.layers or None, only=("rootfs",)),
        Field("bind_mounts", "binds", only=("volumes",)),
        Field("tmpfs_mounts", "memories", only=("volumes",)),
        Field("pid", only=("exec", "first_write")),
        Field("comm", says=lambda event: text_of(event.comm), only=("exec", "first_write")),
        Field("path", says=lambda event: event.path[: event.path_bytes], only=("exec", "first_write")),
        Field("namespaces", says=lambda event: _namespaces(event), only=("exec",)),
        Field(
            Column(
                "bar", "WATERFALL", "text", min_width=_BAR, help="when it was, from the pod's begin to the entrypoint"
            ),
            shows=lambda event: _bar(event) if _phase(event) != "first_write" else None,
            told=False,
        ),
        Field(
            Column("detail", "DETAIL", "path", help="layers, mounts, new namespaces, the program"),
            shows=lambda event: _detail(_phase(event), event),
            told=False,
        ),
    )
    line = (
        *("time", replace(NAMESPACE, spare=True), "pod", "container", "phase", "duration_ns", "since_ns", "bar"),
        "detail",
    )
    sums = ()
    sorts: Mapping[str, str] = {
        "total": "total_ns",
        "newest": "time",
        "sandbox": "sandbox_ns",
        "layers": "layers",
        "mounts": "mounts",
        "namespace": "namespace",
        "pod": "pod",
    }
    noun = ("step", "steps")

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> StartsBoard:
        """For one run."""
        layout = layouts["steps"]
        blank = layout.event_type._make(b"" if field.kind == "bytes" else 0 for field in layout.fields)
        return StartsBoard(node=context.node, offset_ns=context.wall_ns(0), blank=blank)

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        return tuple(how for _, how in _MEASURES)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """In the order of `measures`, for the totals."""
        started = _phase(event) == "exec"
        return (
            event.since if started else 0,
            0,
            int(started),
            1,
            event.layers,
            event.binds + event.memories,
            context.wall_ns(event.time),
        )

    def kind_of(self, event: Any) -> str:
        """Which step."""
        return _phase(event)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """entrypoints (sandboxes' included), steps, max_total_ns."""
        return {"entrypoints": totals["containers"], "steps": totals["steps"], "max_total_ns": totals["total_ns"]}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """9 entrypoints executed, the last after at most 2.1 s."""
        text = f"{format_count(totals['containers'])} entrypoints executed"
        if totals["containers"]:
            text += f", after at most {format_duration(totals['total_ns'])}"
        return text


def _namespaces(event: Any) -> dict[str, dict[str, int | bool]]:
    return {
        name: {
            "inode": getattr(event, f"ns_{name}"),
            "node": bool(event.node >> at & 1),
            "pod": bool(event.flags >> at & 1),
        }
        for at, name in enumerate(_NAMESPACES)
    }


def _bar(event: Any) -> str:
    if not event.total:
        return "#"
    begin: int = (event.since - event.duration) * _BAR // event.total
    end: int = max(begin + 1, -(-event.since * _BAR // event.total))
    begin = min(begin, _BAR - 1)
    return "." * begin + "#" * (min(end, _BAR) - begin)


def _detail(phase: str, event: Any) -> Value:
    if phase == "exec":
        path: bytes = event.path[: event.path_bytes]
        new = ~(event.node | event.flags)
        told = [
            f"{whose} {', '.join(names)}"
            for whose, bits in (("new", new), ("the pod's", event.flags), ("the node's", event.node))
            if (names := [name for at, name in enumerate(_NAMESPACES) if bits >> at & 1])
        ]
        return path + f" ({'; '.join(told)})".encode()
    if phase == "rootfs" and event.layers:
        return f"{event.layers} layer{'s' * (event.layers != 1)}"
    if phase == "volumes":
        return f"{event.binds} bind, {event.memories} tmpfs"
    return None


TRACER = Starts()
"""What `find` gives."""
