"""cgroups: how pods begin, what they are denied and how they end, with what they use, by container."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.cgroup_path import is_own, parse
from kubetrace.attribution.facts import CgroupGone
from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.identity import COMM, CONTAINER, NAMESPACE, NODE, PID, POD, identity_cells, text_of
from kubetrace.kit.tracer import MAX, SUM, Grouping, Metric, Overview
from kubetrace.node.cgroup_files import UNKNOWN
from kubetrace.tracers.cgroups import usage
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_duration, parse_duration

if TYPE_CHECKING:
    import click

    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Kernel
    from kubetrace.views.columns import Value

# signal(7), the same everywhere
_SIGKILL = 9

_STATE = Column(
    "state",
    "STATE",
    "text",
    min_width=7,
    alarms=("OOMKilled",),
    help="running, frozen, or how its first process ended",
)
_QOS = Column("qos_class", "QOS", "text", min_width=10, spare=True, help="quality of service class of the pod")
_AGE = Column("age_ns", "AGE", "duration", spare=True, help="time since it began, or for how long it was there")
_PROCS = Column("procs", "PROCS", "count", spare=True, help="processes in it")
_CPU = Column(
    "cpu_milli", "CPU", "cpu", limit="cpu_limit_milli", help="CPU used in the last interval, in thousandths of one"
)
_CPU_LIMIT = Column("cpu_limit_milli", "CPU-LIMIT", "cpu", short="CPU-LIM", spare=True, help="CPU it may use")
_THROTTLED = Column(
    "throttled_percent",
    "THROTTLED",
    "percent",
    short="THR",
    help="share of the last interval's CPU periods in which it had to stop for its limit",
)
_MEM = Column(
    "memory_bytes", "MEM", "bytes", limit="memory_limit_bytes", help="memory charged to it, page cache included"
)
_MEM_LIMIT = Column("memory_limit_bytes", "MEM-LIMIT", "bytes", short="MEM-LIM", spare=True, help="memory it may use")
_OOM = Column(
    "ooms", "OOM", "count", alarm=True, help="times that processes were killed for want of memory; a whole group is one"
)
_OOM_KILLS = Column("oom_kills", "OOM-KILLS", "count", wide=True, help="processes killed for want of memory")
_SWAP = Column("swap_bytes", "SWAP", "bytes", wide=True, help="what it has in swap")
_SWAP_LIMIT = Column("swap_limit_bytes", "SWAP-LIMIT", "bytes", wide=True, help="swap it may use")
_RESTARTS = Column(
    "restarts", "RESTARTS", "count", short="RST", alarm=True, help="new containers of the same pod and name"
)
_PSI_CPU = Column(
    "cpu_pressure", "PSI-CPU", "percent", short="P-CPU", spare=True, help="time in which something waited for CPU"
)
_PSI_MEM = Column("memory_pressure", "PSI-MEM", "percent", short="P-MEM", spare=True, help="the same for memory")
_PSI_IO = Column("io_pressure", "PSI-IO", "percent", short="P-IO", spare=True, help="the same for block devices")
_EXEC_RATE = Column("exec_rate", "EXEC/s", "count", spare=True, help="programs executed in a second")
_EXECS = Column("execs", "EXECS", "count", wide=True, help="programs executed")
_THROTTLED_TIME = Column("throttled_ns", "THROTTLED-TIME", "duration", wide=True, help="for how long it had to stop")
_STALLED = Column("reclaim_ns", "RECLAIM", "duration", wide=True, help="waited for reclaim that its limit asked for")
_REFUSED = Column("forks_refused", "FORKS-REFUSED", "count", wide=True, alarm=True, help="forks that pids.max refused")
_CREATED = Column("created", "CREATED", "count", wide=True, help="cgroups made")
_REMOVED = Column("removed", "REMOVED", "count", wide=True, help="cgroups removed")

# Each measure with how it joins others': of containers in a pod, of pods in a node.
_MEASURES = (
    (_AGE, MAX),
    (_PROCS, SUM),
    (_CPU, SUM),
    (_CPU_LIMIT, SUM),
    (_THROTTLED, MAX),
    (_MEM, SUM),
    (_MEM_LIMIT, SUM),
    (_SWAP, SUM),
    (_SWAP_LIMIT, SUM),
    (_OOM, SUM),
    (_RESTARTS, SUM),
    (_PSI_CPU, MAX),
    (_PSI_MEM, MAX),
    (_PSI_IO, MAX),
    (_EXEC_RATE, SUM),
    (_EXECS, SUM),
    (_OOM_KILLS, SUM),
    (_THROTTLED_TIME, SUM),
    (_STALLED, SUM),
    (_REFUSED, SUM),
    (_CREATED, SUM),
    (_REMOVED, SUM),
)
_KEYS = tuple(column.key for column, _ in _MEASURES)
# What is said of an oom_kill since its records tell whose limit it was.
_LATER = ("swap_bytes", "group_victim_pid", "limit_of", "limit_cgroup")
_SANDBOX = "(sandbox)"
_KEEP = "1m"
# The same cgroup is made in v2's hierarchy and in v1's memory hierarchy (hybrid nodes): one of the two is told. The
# other comes within milliseconds, but a runtime may be slow, or frozen itself.
_TWINS = 65_536
_TWINS_NS = 60_000_000_000
_SWEEP_NS = 1_000_000_000


def _what(event: Any) -> str:
    names: Mapping[int, str] = event.NAMES["event"]
    return names[event.event].replace("-", "_")


# The events that a process is the cause of, or at their end.
_BY_A_PROCESS = ("attached", "exec", "exit", "reclaim")


def _pid(event: Any) -> int | None:
    # a refused fork whose process is not known, and what happens to a cgroup itself, have none
    return event.pid if event.pid or _what(event) in (*_BY_A_PROCESS, "oom_kill") else None


def _comm(event: Any) -> bytes | None:
    return None if _pid(event) is None else text_of(event.comm)


def _signal(event: Any) -> str | None:
    number = event.status & 0x7F
    if not number:
        return None
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _duration(event: Any) -> int | None:
    what = _what(event)
    if what == "removed":
        return event.duration or None
    return event.duration if what in ("throttled", "reclaim") else None


def _known(number: int) -> int | None:
    return None if number == UNKNOWN else number


class _Unit:
    """A pod, or a container of one under its name: a container that is started again is the same unit."""

    __slots__ = (
        "before",
        "begun_ns",
        "container_id",
        "counts",
        "ended_ns",
        "execs_before",
        "frozen",
        "identity",
        "now",
        "oom_group",
        "oom_pids",
        "removed",
        "status",
    )

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.container_id = identity.container_id
        self.begun_ns: int | None = None
        self.ended_ns: int | None = None
        self.status = ""
        self.frozen = False
        self.now: Any = None
        self.before: Any = None
        self.execs_before: float = 0
        self.removed = False
        self.oom_pids: set[int] = set()
        self.oom_group = 0
        self.counts: dict[str, float] = dict.fromkeys(_KEYS[_KEYS.index("ooms") :], 0)

    def begin_again(self, identity: Identity, begun_ns: int | None) -> None:
        """The next container of this name."""
        self.identity, self.container_id = identity, identity.container_id
        self.begun_ns, self.ended_ns = begun_ns, None
        self.status, self.frozen, self.removed = "", False, False
        self.now = self.before = None
        self.counts["restarts"] += 1

    def end(self, time_ns: int) -> None:
        """Its cgroup is gone."""
        self.removed = True
        if self.ended_ns is None:
            self.ended_ns = time_ns

    def sample(self, record: Any) -> None:
        self.before, self.now = self.now, record
        self.begun_ns = self.begun_ns or _known(record.begun)
        if self.before is not None:
            passed_s = (record.time - self.before.time) / 1e9
            executed = self.counts["execs"] - self.execs_before
            self.counts["exec_rate"] = round(executed / passed_s, 1) if executed and passed_s > 0 else 0
        self.execs_before = self.counts["execs"]

    @property
    def state(self) -> str:
        """For the table."""
        if self.ended_ns is not None:
            return self.status or "ended"
        return "frozen" if self.frozen else self.status or "running"

    def measures(self, time_ns: int) -> dict[str, Any]:
        """By the columns' keys; None is unknown, or has no limit."""
        values: dict[str, Any] = dict.fromkeys(_KEYS)
        values.update(self.counts)
        for name in ("cpu_pressure", "memory_pressure", "io_pressure"):
            values[name] = None
        if self.begun_ns is not None:
            values["age_ns"] = (self.ended_ns if self.ended_ns is not None else time_ns) - self.begun_ns
        now, before = self.now, self.before
        if now is None or self.removed:
            values["exec_rate"] = 0
            return values
        values["procs"] = _known(now.procs)
        values["cpu_limit_milli"] = _known(now.cpu_limit)
        values["memory_bytes"] = _known(now.memory)
        values["memory_limit_bytes"] = _known(now.memory_limit)
        # older recordings have none
        values["swap_bytes"] = _known(getattr(now, "swap", UNKNOWN))
        values["swap_limit_bytes"] = _known(getattr(now, "swap_limit", UNKNOWN))
        for name in ("cpu_pressure", "memory_pressure", "io_pressure"):
            hundredths = _known(getattr(now, name))
            values[name] = None if hundredths is None else hundredths / 100
        if before is not None and now.time > before.time:
            if now.cpu >= before.cpu >= 0:
                values["cpu_milli"] = round((now.cpu - before.cpu) * 1000 / (now.time - before.time))
            periods = now.periods - before.periods
            if now.periods != UNKNOWN:
                stopped = now.throttled_periods - before.throttled_periods
                values["throttled_percent"] = 100 * stopped / periods if periods > 0 else 0
        return values


def _join(all_of: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Measures of several as one: what is unknown of one is left out of the sum."""
    joined: dict[str, Any] = dict.fromkeys(_KEYS)
    for values in all_of:
        for column, how in _MEASURES:
            value, sum_of = values[column.key], joined[column.key]
            if value is not None:
                joined[column.key] = value if sum_of is None else sum_of + value if how == SUM else max(sum_of, value)
    return joined


class CgroupsBoard:
    """The pods and containers of one run: what became of them, and how they stand (kit.tracer.Board)."""

    def __init__(self, *, node: str, keep_ns: int, blank: Any, tell_refused: bool, unhooked: bool = False) -> None:
        """`keep_ns`: how long what ended stays; `blank`: an event of zeros; `tell_refused`: no hook does.

        `unhooked`: no event tells the end of a cgroup.
        """
        self._unhooked = unhooked
        self._node = node
        self._keep_ns = keep_ns
        self._blank = blank
        self._tell_refused = tell_refused
        self._numbers = {name.replace("-", "_"): number for number, name in blank.NAMES["event"].items()}
        self._pods: dict[str, _Unit] = {}
        self._containers: dict[str, _Unit] = {}
        self._named: dict[tuple[str, str], _Unit] = {}
        self._begun: dict[str, int] = {}
        self._twins: dict[tuple[object, ...], tuple[int, int]] = {}
        self._time_ns = 0
        self._swept_ns = 0

    def learn(self, fact: Fact) -> None:
        """That a cgroup is gone, where no event tells it; all else comes with the events' identities."""
        if not self._unhooked or not isinstance(fact, CgroupGone):
            return
        for unit in (*self._containers.values(), *self._pods.values()):
            if unit.now is not None and fact.cgroup_id in (unit.now.cgroup_id, unit.now.memory_cgroup_id):
                unit.end(fact.time_ns)

    # Events.

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """The event, unless it is the node's own, a twin of another, or none that a reader asks for."""
        if identity.kind == "host":
            return ()
        self._time_ns = max(self._time_ns, event.time)
        if self._time_ns - self._swept_ns >= _SWEEP_NS:
            # by the events' own time: as a table does it, so does who only reads the events
            self._swept_ns = self._time_ns
            self._forget()
        if type(event).__name__ == usage.LAYOUT.name:
            return self._sample(event, identity)
        what = _what(event)
        if what in ("created", "removed"):
            if not is_own(identity.cgroup_path or "") or self._is_twin(what, event, identity):
                return ()
            event = self._created(event, identity) if what == "created" else self._removed(event, identity)
        elif what == "attached" and self._is_twin(what, event, identity):
            return ()
        elif what == "exit" and not is_own(identity.cgroup_path or ""):
            # first in a cgroup that the container made for itself
            return ()
        unit = self._unit(identity)
        if unit is not None and unit.container_id == identity.container_id:
            self._count(what, event, unit)
        return ((event, identity),)

    def _is_twin(self, what: str, event: Any, identity: Identity) -> bool:
        key = (what, identity.cgroup_path, event.pid)
        hierarchy = event.memory_hierarchy if event.cgroup_id == 0 else 0
        first, _ = self._twins.setdefault(key, (hierarchy, self._time_ns))
        if len(self._twins) > _TWINS:
            del self._twins[next(iter(self._twins))]
        return first != hierarchy

    def _unit(self, identity: Identity) -> _Unit | None:
        """The container's, or else the pod's."""
        if identity.pod_uid is not None:
            pod = self._pods.get(identity.pod_uid)
            if pod is None:
                pod = self._pods[identity.pod_uid] = _Unit(identity)
                pod.begun_ns = self._begun.get(identity.pod_uid)
            elif pod.identity.pod is None and identity.pod is not None:
                pod.identity = identity
        container_id = identity.container_id
        if container_id is None:
            return self._pods.get(identity.pod_uid) if identity.pod_uid is not None else None
        unit = self._containers.get(container_id)
        if unit is None:
            unit = self._containers[container_id] = _Unit(identity)
            unit.begun_ns = self._begun.get(container_id)
        name = _SANDBOX if identity.kind == "sandbox" else identity.container
        if unit.identity != identity and unit.container_id == container_id:
            unit.identity = identity
        if identity.pod_uid is None or name is None:
            return unit
        known = self._named.setdefault((identity.pod_uid, name), unit)
        if known is not unit:
            # the next container of this name; what was counted before it had a name is added
            known.begin_again(identity, unit.begun_ns)
            for key, value in unit.counts.items():
                known.counts[key] += value
            known.now, known.status = unit.now, unit.status
            self._containers[container_id] = known
        return known

    def _created(self, event: Any, identity: Identity) -> Any:
        key = identity.container_id or identity.pod_uid
        if key is not None:
            self._begun[key] = event.time
            unit = self._unit(identity)
            if unit is not None and unit.begun_ns is None:
                unit.begun_ns = event.time
        return event

    def _removed(self, event: Any, identity: Identity) -> Any:
        key = identity.container_id or identity.pod_uid
        begun = self._begun.pop(key, None) if key is not None else None
        unit = self._unit(identity)
        if unit is not None and unit.container_id == identity.container_id:
            begun = begun if begun is not None else unit.begun_ns
            unit.end(event.time)
            if identity.container_id is None:
                for of_pod in self._containers.values():
                    if of_pod.identity.pod_uid == identity.pod_uid:
                        of_pod.end(event.time)
        return event if begun is None else event._replace(duration=event.time - begun)

    def _count(self, what: str, event: Any, unit: _Unit) -> None:
        counts = unit.counts
        if what in ("created", "removed"):
            counts[what] += 1
        elif what == "exec":
            counts["execs"] += 1
        elif what == "exit":
            number = event.status & 0x7F
            unit.status = _signal(event) or f"exit {event.status >> 8 & 0xFF}"
            if number == _SIGKILL and event.pid in unit.oom_pids:
                unit.status = "OOMKilled"
            unit.ended_ns = event.time
        elif what == "oom_kill":
            group = getattr(event, "group", 0)
            counts["oom_kills"] += 1
            # all that are killed with one are one incident
            counts["ooms"] += not group or group != unit.oom_group
            unit.oom_group = group
            unit.oom_pids.add(event.pid)
        elif what == "throttled":
            counts["throttled_ns"] += event.duration
        elif what == "reclaim":
            counts["reclaim_ns"] += event.duration
        elif what == "fork_refused":
            counts["forks_refused"] += event.periods
        elif what in ("frozen", "thawed"):
            unit.frozen = what == "frozen"

    # Gauges.

    def _sample(self, record: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        unit = self._unit(identity)
        if unit is None or unit.container_id != identity.container_id or unit.removed:
            return
        before = unit.now
        unit.sample(record)
        if before is None and (identity.container_id or identity.pod_uid) not in self._begun:
            return  # it was there before us, and so was what its files have counted
        if self._unhooked and identity.container_id is not None and before is not None:
            # no event tells of each
            killed = max(0, record.oom_kills - max(0, before.oom_kills))
            unit.counts["oom_kills"] += killed
            unit.counts["ooms"] += killed
        for what, values in self._changes(record, before):
            event = self._blank._replace(
                time=record.time,
                event=self._numbers[what],
                cgroup_id=record.cgroup_id,
                memory_cgroup_id=record.memory_cgroup_id,
                memory_hierarchy=record.memory_hierarchy,
                **values,
            )
            self._count(what, event, unit)
            yield event, identity

    def _changes(self, now: Any, before: Any) -> Iterator[tuple[str, dict[str, int]]]:
        """What the files say has happened since the last look; a cgroup begins with zeros."""

        def since(name: str) -> int:
            return int(getattr(now, name) - (max(0, getattr(before, name)) if before is not None else 0))

        # the kernel counts the time later than the period, CPU by CPU (kernel/sched/fair.c, unthrottle_cfs_rq)
        if since("throttled_periods") > 0 or since("throttled") > 0:
            yield "throttled", {"periods": since("throttled_periods"), "duration": max(0, since("throttled"))}
        if self._tell_refused and since("forks_refused") > 0:
            yield "fork_refused", {"periods": since("forks_refused")}
        if now.frozen != UNKNOWN and since("frozen"):
            yield ("frozen" if now.frozen else "thawed"), {}

    # Rows.

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """In the order of arrival."""
        self._forget()
        grouping = TRACER.groupings[by]
        found: dict[tuple[Value, ...], list[tuple[dict[str, Value], dict[str, Any]]]] = {}
        units = self._container_rows() if by == "container" else self._pod_rows()
        for cells, values in units:
            key = tuple([cells[column.key] for column in grouping.key])
            found.setdefault(key, []).append((cells, values))
        table: list[list[Value]] = []
        for key, members in found.items():
            joined = members[0][1] if len(members) == 1 else _join(values for _, values in members)
            notes = [members[-1][0][column.key] for column in grouping.notes]
            table.append([*key, *notes, *(joined[name] for name in _KEYS)])
        return table

    def _container_rows(self) -> Iterator[tuple[dict[str, Value], dict[str, Any]]]:
        for unit in dict.fromkeys(self._containers.values()):
            if unit.identity.kind != "sandbox":
                yield self._cells(unit), unit.measures(self._time_ns)

    def _pod_rows(self) -> Iterator[tuple[dict[str, Value], dict[str, Any]]]:
        of_pod: dict[str | None, list[_Unit]] = {}
        for unit in dict.fromkeys(self._containers.values()):
            of_pod.setdefault(unit.identity.pod_uid, []).append(unit)
        for uid, pod in self._pods.items():
            own = pod.measures(self._time_ns)
            parts = [unit.measures(self._time_ns) for unit in of_pod.pop(uid, ())]
            values = _join([own, *parts])
            if pod.now is not None:
                # the pod's own cgroup has the sums, and the pod's limits
                age_ns = values["age_ns"]
                values.update({key: own[key] for key in _KEYS[: _KEYS.index("ooms")]})
                # when the cgroup of a pod was made that was there before, only its containers' processes tell
                values["age_ns"] = age_ns
                values.update({key: own[key] for key in ("cpu_pressure", "memory_pressure", "io_pressure")})
            yield self._cells(pod), values
        for units in of_pod.values():
            for unit in units:
                yield self._cells(unit), unit.measures(self._time_ns)

    def _cells(self, unit: _Unit) -> dict[str, Value]:
        cells = identity_cells(self._blank, unit.identity)
        return {**cells, "state": unit.state, "node": self._node}

    def _forget(self) -> None:
        """Let go of what ended long enough ago; a container that failed stays for as long as its pod."""
        # in the order of time
        while self._twins:
            key = next(iter(self._twins))
            if self._twins[key][1] >= self._time_ns - _TWINS_NS:
                break
            del self._twins[key]
        until = self._time_ns - self._keep_ns
        for uid in [uid for uid, pod in self._pods.items() if pod.ended_ns is not None and pod.ended_ns < until]:
            del self._pods[uid]
        for container_id, unit in list(self._containers.items()):
            over = unit.ended_ns is not None and unit.ended_ns < until
            if over and (unit.identity.pod_uid not in self._pods or unit.status == "exit 0"):
                del self._containers[container_id]
                self._named = {name: known for name, known in self._named.items() if known is not unit}


def _limit_path(event: Any, identity: Any) -> list[str] | None:
    """Its parts, and one more `""` for each cgroup below the identity's; None as `_limit_cgroup`."""
    levels: int | None = getattr(event, "limit_levels", None)
    path: str | None = getattr(identity, "cgroup_path", None)
    if levels is None or path is None or not event.limit or _what(event) != "oom_kill":
        return None
    if identity.attributed_by == "cgroup":
        # by the path in v2's hierarchy
        levels -= event.memory_deeper
    parts = path.rstrip("/").split("/")
    if levels >= len(parts):
        return None
    return parts[: len(parts) - levels] if levels >= 0 else parts + [""] * -levels


def _limit_cgroup(event: Any, identity: Any) -> str | None:
    """The path of the cgroup whose memory limit was hit.

    None: none was, or it is not known: of an older recording, or inside a container on cgroup v1 and v2 at once.
    """
    parts = _limit_path(event, identity)
    if parts is None or (parts[-1] == "" and len(parts) > 1):
        return None
    if event.memory_hierarchy and identity.attributed_by == "cgroup" and _limit_of(event, identity) == "inside":
        # the two hierarchies need not be alike in there
        return None
    return "/".join(parts) or "/"


def _limit_of(event: Any, identity: Any) -> str | None:
    """Whose it is: the container's, the pod's, of a cgroup `inside` the container or `above` the pod."""
    parts = _limit_path(event, identity)
    if parts is None:
        return None
    path = "/".join(parts)
    owner = parse(path)
    if owner.pod_uid is None and owner.container_id is None:
        return "above"
    if not is_own(path):
        return "inside"
    return "pod" if owner.container_id is None else "container"


def _oom_detail(event: Any, identity: Any, limit: str) -> str:
    parts = _limit_path(event, identity)
    whose = {"container": "the container", "pod": "the pod", "inside": "a cgroup inside it"}.get(
        _limit_of(event, identity) or "", (parts or [""])[-1] or "the node's root cgroup"
    )
    told = [f"{limit} of {whose}" if parts is not None else limit, f"had {format_bytes(event.memory)}"]
    if getattr(event, "swap", 0):
        told[-1] += f" and {format_bytes(event.swap)} in swap"
    if group := getattr(event, "group", 0):
        alone = "chosen; all of its group are killed" if group == event.pid else f"killed with {group}"
        told.append(f"{alone} (memory.oom.group)")
    return ", ".join(told)


def _event_detail(event: Any, identity: Any) -> Value:
    what = _what(event)
    limit = "the node's memory" if not event.limit else f"limit {format_bytes(event.limit)}"
    if what == "exec":
        path: bytes = event.path[: event.path_bytes]
        return path
    if what == "exit":
        return _signal(event) or f"exit {event.status >> 8 & 0xFF}"
    if what == "removed":
        return f"lived {format_duration(event.duration)}" if event.duration else None
    if what == "oom_kill":
        return _oom_detail(event, identity, limit)
    if what == "throttled":
        return f"{event.periods} periods, {format_duration(event.duration)}"
    if what == "reclaim":
        waited = f"waited {format_duration(event.duration)}"
        return f"{waited}, {limit}" if event.limit else waited
    if what == "fork_refused" and event.periods > 1:
        return f"{event.periods} times"
    return None


class Cgroups(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "cgroups"
    table = "board"
    summary = "Show each container with what it uses, what it is denied, and how it began and ended, live, by pod."
    explanation = (
        "Events come from the kernel's own tracepoints: cgroups made and removed, processes attached, programs "
        "executed, the end of a container's first process, OOM kills, reclaim that a limit asked for, refused forks, "
        "freezing. Usage and limits, and CPU throttling, are read from the cgroups' files at each --interval.\n\n"
        "Not seen: throttling in the last interval of a container's life; the end of a container that shares the "
        "node's PID namespace and ran before kubetrace did."
    )
    examples = (
        ("kubetrace cgroups", "every container of this node"),
        ("kubetrace cgroups --by pod --sort memory", "the pods that use most memory first"),
        ("kubetrace cgroups -n shop --events", "a line for each event of a namespace's pods"),
        ("kubetrace cgroups -o json -d 60 > events.jsonl", "one minute, for a script"),
    )
    streams: Mapping[str, str] = {"activity": "cgroups_activity"}
    for_board = (usage.STREAM,)
    unhooked = "starts, ends, victims and stalls are not seen: files alone"
    optional: Mapping[str, str] = {
        "fork": "refused forks are counted from pids.events: which process it was is not seen",
        "victim": "",
        "reclaim": "stalls by reclaim are not seen",
        "return_reclaim": "stalls by reclaim are not seen",
        "frozen": "freezing is not seen",
        "thawed": "freezing is not seen",
    }
    groupings: Mapping[str, Grouping] = {
        "container": Grouping((NAMESPACE, POD, CONTAINER), (_STATE, _QOS)),
        "pod": Grouping((NAMESPACE, POD), (_STATE, _QOS)),
        "qos": Grouping((_QOS,)),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = tuple(column for column, _ in _MEASURES)
    time_column = Column("time", "TIME", "time", help="when it happened (local)")
    object_type = "cgroup"
    kinds = (
        *("created", "removed", "attached", "exec", "exit", "oom_kill", "throttled", "reclaim", "fork_refused"),
        *("frozen", "thawed"),
    )
    fields = (
        Field(
            Column(
                "event",
                "EVENT",
                "text",
                min_width=12,
                alarms=("oom_kill", "fork_refused"),
                help="created, removed, attached, exec, exit, ...",
            ),
            says=_what,
            ours=True,
        ),
        Field("lifetime_ns", says=lambda event: event.duration or None, only=("removed",)),
        Field(replace(PID, spare=True), says=_pid, shows=_pid, only=(*_BY_A_PROCESS, "fork_refused")),
        Field("victim_pid", "pid", only=("oom_kill",)),
        Field(replace(COMM, spare=True), says=_comm, only=(*_BY_A_PROCESS, "fork_refused", "oom_kill")),
        Field("path", says=lambda event: event.path[: event.path_bytes], only=("exec",)),
        Field(
            Column("exit_code", "EXIT", "count", wide=True, help="exit status of the container's first process"),
            says=lambda event: None if event.status & 0x7F else event.status >> 8 & 0xFF,
            shows=lambda event: None if _what(event) != "exit" or event.status & 0x7F else event.status >> 8 & 0xFF,
            only=("exit",),
        ),
        Field(
            Column("signal", "SIGNAL", "text", wide=True, help="the signal that ended it"),
            says=_signal,
            shows=lambda event: _signal(event) if _what(event) == "exit" else None,
            ours=True,
            only=("exit",),
        ),
        Field("memory_bytes", "memory", only=("oom_kill",)),
        Field("swap_bytes", says=lambda event: getattr(event, "swap", None), only=("oom_kill",)),
        Field("group_victim_pid", says=lambda event: getattr(event, "group", 0) or None, only=("oom_kill",)),
        Field("limit_of", of=_limit_of, ours=True, only=("oom_kill",)),
        Field("limit_cgroup", of=_limit_cgroup, only=("oom_kill",)),
        Field("periods", only=("throttled",)),
        Field(
            Column(
                "duration_ns",
                "DURATION",
                "duration",
                spare=True,
                help="of a stall or throttling; removed: its lifetime",
            ),
            "duration",
            shows=_duration,
            only=("throttled", "reclaim"),
        ),
        Field(
            Column("limit_bytes", "LIMIT", "bytes", wide=True, help="the memory limit that was hit"),
            says=lambda event: event.limit or None,
            shows=lambda event: event.limit or None if _what(event) in ("oom_kill", "reclaim") else None,
            only=("oom_kill", "reclaim"),
        ),
        Field(
            "memory_events",
            says=lambda event: {name: getattr(event, f"events_{name}") for name in ("high", "max", "oom", "oom_kill")},
            only=("oom_kill",),
        ),
        Field("count", "periods", only=("fork_refused",)),
        Field(
            Column("detail", "DETAIL", "path", weight=3, help="path executed; how it ended; what was hit"),
            of=_event_detail,
            told=False,
        ),
    )
    line = (
        *("time", "namespace", "pod", "container", "event", "pid", "comm", "duration_ns", "exit_code", "signal"),
        *("limit_bytes", "detail"),
    )
    sums = ()
    overview = (
        *(Overview(column, column.key) for column in (_CPU, _CPU_LIMIT)),
        Overview(_THROTTLED, _THROTTLED.key, join=MAX),
        *(Overview(column, column.key) for column in (_MEM, _MEM_LIMIT)),
        Overview(_OOM, _OOM.key, weight=10),
        Overview(_RESTARTS, _RESTARTS.key, weight=4),
    )
    sorts: Mapping[str, str] = {
        "cpu": "cpu_milli",
        "memory": "memory_bytes",
        "throttled": "throttled_percent",
        "oom": "ooms",
        "restarts": "restarts",
        "procs": "procs",
        "age": "age_ns",
        "execs": "execs",
        "pressure": "memory_pressure",
        "namespace": "namespace",
        "pod": "pod",
        "container": "container",
        "qos": "qos_class",
    }
    metered_by = "container"
    metric_labels = ("namespace", "pod", "container")
    metrics = (
        Metric("oom_kills", "oom_kills", "Processes killed for want of memory."),
        Metric("restarts", "restarts", "Containers begun again under their name."),
        Metric("execs", "execs", "Programs executed."),
        Metric("throttled_seconds", "throttled_ns", "Time that a CPU limit stopped it for.", 1e-9),
        Metric("reclaim_seconds", "reclaim_ns", "Time stalled by reclaim that a memory limit asked for.", 1e-9),
    )

    def options(self) -> Sequence[click.Option]:
        """--keep and --min-stall."""
        import click

        return [
            click.Option(
                ["--keep"],
                metavar="TIME",
                default=_KEEP,
                help="Show pods and containers that ended for so long, such as 5m.  [default: 1m]",
            ),
            click.Option(
                ["--min-stall"],
                metavar="TIME",
                default="1ms",
                help="Leave out shorter stalls by reclaim, such as 500us (in the kernel).  [default: 1ms]",
            ),
        ]

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """min_stall_ns and page_bytes; raises UsageError for what is not a time."""
        parse_duration(options["keep"])
        return {
            "min_stall_ns": int(parse_duration(options["min_stall"]) * 1e9),
            "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        }

    def gauges(self, host: Host, kernel: Kernel) -> usage.Usage:
        """The cgroups' files."""
        return usage.Usage(host)

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> CgroupsBoard:
        """For one run."""
        layout = layouts["activity"]
        blank = layout.event_type._make(b"" if field.kind == "bytes" else 0 for field in layout.fields)
        return CgroupsBoard(
            node=context.node,
            keep_ns=int(parse_duration(options.get("keep", _KEEP)) * 1e9),
            blank=blank,
            tell_refused=bool({self.optional["fork"], self.unhooked} & set(missing)),
            unhooked=self.unhooked in missing,
        )

    def keeps(self, options: Mapping[str, Any]) -> Callable[[Any], bool] | None:
        """--min-stall."""
        least = int(parse_duration(options["min_stall"]) * 1e9)
        return lambda event: (
            type(event).__name__ == usage.LAYOUT.name or _what(event) != "reclaim" or event.duration >= least
        )

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        return tuple(how for _, how in _MEASURES)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """What an event adds to the totals; how things stand is not a sum of events."""
        what = _what(event)
        totals = dict.fromkeys(_KEYS, 0)
        for key, of, value in (
            ("oom_kills", "oom_kill", 1),
            ("execs", "exec", 1),
            ("throttled_ns", "throttled", event.duration),
            ("reclaim_ns", "reclaim", event.duration),
            ("forks_refused", "fork_refused", event.periods),
            ("created", "created", 1),
            ("removed", "removed", 1),
        ):
            if what == of:
                totals[key] = value
        return tuple(totals.values())

    def key_cells(self, event: Any, identity: Identity, context: Context) -> Mapping[str, Value]:
        """By column key."""
        return {**identity_cells(event, identity), "node": context.node}

    def record(self, event: Any, of: Any, context: Context) -> dict[str, Any]:
        """Without what an older recording does not know."""
        told = super().record(event, of, context)
        if not hasattr(event, "limit_levels"):
            for key in _LATER:
                told.pop(key, None)
        return told

    def kind_of(self, event: Any) -> str:
        """What happened."""
        return _what(event)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """created, removed, execs, oom_kills, throttled_ns, reclaim_ns, forks_refused."""
        keys = ("created", "removed", "execs", "oom_kills", "throttled_ns", "reclaim_ns", "forks_refused")
        return {key: totals[key] for key in keys}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """7 cgroups created, 5 removed, 120 programs executed, 1 OOM kill."""
        parts = [
            f"{format_count(totals['created'])} cgroups created",
            f"{format_count(totals['removed'])} removed",
            f"{format_count(totals['execs'])} programs executed",
        ]
        if kills := totals["oom_kills"]:
            parts.append(f"{kills} OOM kill{'s' if kills != 1 else ''}")
        return ", ".join(parts)


TRACER = Cgroups()
"""What `find` gives."""
