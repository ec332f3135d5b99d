"""What the node's agents did in one run: single steps of the kernel as whole acts, and what these come to by pod."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.facts import MountGone, MountSeen
from kubetrace.kit.identity import HOST, identity_cells, text_of
from kubetrace.tracers.kubelet import node_record, wording
from kubetrace.tracers.kubelet.rhythm import KEPT, Rhythm, regular

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.views.columns import Value

_MINUTE_NS: Final = 60_000_000_000
# How long an executed process that has ended waits for the end of the runtime's program that executed it.
_LATE_NS: Final = 1_000_000_000
# And the end of a container for who has sent it the signal that ended it.
_SENT_NS: Final = 50_000_000
# What is remembered: processes, containers, rows; of what is more the oldest goes, of rows into one of all these.
_MOST: Final = 8_192
_MOST_ROWS: Final = 4_096
_OLDER: Final = "(older ones)"
_CONTAINER = re.compile(rb"[0-9a-f]{64}")
_VOLUME = re.compile(r"/pods/([^/]+)/(?:volumes/[^/]+|volume-subpaths)/([^/]+)")
_POD_UID = re.compile(rb"/pods/([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|\Z)")


class _Agent:
    # A program of a runtime, or one that the kubelet executes.
    __slots__ = ("began", "ended", "entered")

    def __init__(self, began: Any) -> None:
        self.began = began
        self.ended: Any = None
        self.entered: int | None = None
        """The process that it has moved into a container."""


class _Process:
    # One that was executed into a container.
    __slots__ = ("began", "ended", "identity", "signalled")

    def __init__(self, began: Any) -> None:
        self.began = began
        self.ended: Any = None
        self.identity: Identity | None = None
        self.signalled: Any = None
        """The signal of somebody elsewhere that may have ended it."""


class _Container:
    # The first process of a container, under the container's name: the next one is the same.
    __slots__ = ("began_ns", "ended", "oom_pids", "stopped_ns")

    def __init__(self) -> None:
        self.began_ns: int | None = None
        self.ended: Any = None
        self.stopped_ns: int | None = None
        self.oom_pids: set[int] = set()


class Row:
    """What the acts of one kind on one container with one target have come to."""

    __slots__ = (
        *("begins", "count", "cpu_ns", "failed", "identity", "last_ns", "longest_ns", "recent", "runtime_cpu_ns"),
        *("target", "terminal", "what"),
    )

    def __init__(self, identity: Identity, what: str, target: Value) -> None:
        """Nothing so far."""
        self.identity, self.what, self.target = identity, what, target
        self.count = self.failed = self.longest_ns = self.cpu_ns = self.runtime_cpu_ns = self.last_ns = 0
        self.terminal = False
        self.begins: deque[int] = deque(maxlen=KEPT)
        self.recent: deque[tuple[int, int, int]] = deque()
        """(time, how many, CPU) of the last minute, joined by the second."""

    @property
    def rhythm(self) -> Rhythm | None:
        """How regularly it comes."""
        return regular(tuple(self.begins)) if self.what in ("exec", "connect", "refresh") else None

    def add(self, time_ns: int, cpu_ns: int, count: int = 1) -> None:
        """Into the last minute."""
        second = time_ns // 1_000_000_000
        if self.recent and self.recent[-1][0] == second:
            _, before, used = self.recent[-1]
            self.recent[-1] = second, before + count, used + cpu_ns
        else:
            self.recent.append((second, count, cpu_ns))
            while self.recent[0][0] < second - 60:
                self.recent.popleft()

    def last_minute(self, now_ns: int) -> tuple[int, int]:
        """(how many, CPU) of the minute until now."""
        since = (now_ns - _MINUTE_NS) // 1_000_000_000
        kept = [(count, cpu) for second, count, cpu in self.recent if second > since]
        return sum(count for count, _ in kept), sum(cpu for _, cpu in kept)


class Usage:
    """CPU that something has used by now, and in the last minute."""

    __slots__ = ("samples",)

    def __init__(self) -> None:
        """Not looked at yet."""
        self.samples: deque[tuple[int, int]] = deque()

    def add(self, time_ns: int, cpu_ns: int) -> int:
        """A look; what was used since the one before."""
        before = self.samples[-1][1] if self.samples else cpu_ns
        if cpu_ns < before:
            self.samples.clear()
            before = cpu_ns
        self.samples.append((time_ns, cpu_ns))
        while len(self.samples) > 2 and self.samples[1][0] <= time_ns - _MINUTE_NS:
            self.samples.popleft()
        return cpu_ns - before

    def percent(self, now_ns: int) -> float | None:
        """Of one core, in the last minute; None before the second look, and of what has not been seen for a minute."""
        if len(self.samples) < 2 or self.samples[-1][0] < now_ns - _MINUTE_NS:
            return None
        (begun, first), (ended, last) = self.samples[0], self.samples[-1]
        return 100 * (last - first) / (ended - begun) if ended > begun else None


class KubeletBoard:
    """The acts of one run (kit.tracer.Board)."""

    def __init__(self, context: Context, blank: Any) -> None:
        """None so far; `blank` is an act of zeros."""
        self._context = context
        self._blank = blank
        self._numbers = {name.replace("-", "_"): number for number, name in blank.NAMES["what"].items()}
        self._agents: dict[int, _Agent] = {}
        self._processes: dict[int, _Process] = {}
        self._containers: dict[str, _Container] = {}
        self._rows: dict[tuple[Any, ...], Row] = {}
        self._addresses: dict[bytes, dict[str, None]] = {}
        self._pods: dict[str, Usage] = {}
        self._daemons: dict[int, tuple[bytes, str, Usage]] = {}
        self._waiting: list[_Process] = []
        self._exits: dict[int, tuple[Any, Identity]] = {}
        self._mounts: dict[str, tuple[str, str]] = {}
        self._news: deque[tuple[str, str, str, int]] = deque(maxlen=_MOST)
        self._begun_ns: int | None = None
        self._now_ns = 0

    def learn(self, fact: Fact) -> None:
        """Mounts of pods' volumes: they come and go while it is watched, or were there."""
        if isinstance(fact, MountSeen):
            match = _VOLUME.search(fact.mount_point)
            if match is None:
                return
            if fact.mount_point not in self._mounts:
                if fact.since_ns:
                    self._news.append(("mount", match[1], f"{match[2]} ({fact.fstype})", fact.time_ns))
                self._mounts[fact.mount_point] = (match[1], f"{match[2]} ({fact.fstype})")
                _limit(self._mounts)
        elif isinstance(fact, MountGone) and fact.mount_point in self._mounts:
            self._news.append(("umount", *self._mounts.pop(fact.mount_point), fact.time_ns))

    # What comes.

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """The acts that this step completes."""
        self._now_ns = max(self._now_ns, event.time)
        if self._begun_ns is None:
            self._begun_ns = event.time
        selection = self._context.attribution.selection
        for told, of in self._taken(event, identity):
            # what the node's own processes do may be for any pod
            if not selection or selection.match(of):
                self._count(told, of)
                yield told, of

    def _taken(self, event: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        if self._exits:
            yield from self._exited(lambda ended, _: ended.time + _SENT_NS < event.time)
        while self._news:
            what, uid, name, time_ns = self._news.popleft()
            yield self._of_files(what, time_ns, name), self._pod(uid, None)
        kind = type(event).__name__
        if kind == node_record.LAYOUT.name:
            yield from self._read(event, identity)
            return
        if kind != type(self._blank).__name__:
            yield self._connection(event, identity)
            return
        what = wording.what_of(event)
        if what in ("agent_began", "agent_ended"):
            # what runs in a container is that container's own doing
            if identity.kind == "host":
                yield from self._agent_began(event) if what == "agent_began" else self._agent_ended(event)
            return
        if identity.container_id is None:
            return
        if what == "began":
            yield from self._began(event, identity)
        elif what == "ended":
            yield from self._ended(event, identity)
        elif what == "signalled":
            yield from self._signalled(event, identity)
        elif what == "chosen":
            container = self._container(identity)
            container.oom_pids.add(event.pid)
            yield self._act("oom_kill", event), identity

    def _act(self, what: str, event: Any, **more: Any) -> Any:
        return event._replace(what=self._numbers[what], **more)

    def _container(self, identity: Identity) -> _Container:
        name = identity.container if identity.kind == "container" else identity.kind
        key = f"{identity.pod_uid}/{name}" if identity.pod_uid and name else str(identity.container_id)
        known = self._containers.get(key)
        if known is None:
            known = self._containers[key] = _Container()
            _limit(self._containers)
        return known

    # Programs of the runtime and the kubelet.

    def _agent_began(self, event: Any) -> Iterator[tuple[Any, Identity]]:
        before = self._agents.get(event.pid)
        # one program may execute the next in the same process: what it does is told once
        if before is None or before.ended is not None:
            self._agents[event.pid] = _Agent(event)
            _limit(self._agents)
        else:
            before.began = event._replace(begun=before.began.time)
        return iter(())

    def _agent_ended(self, event: Any) -> Iterator[tuple[Any, Identity]]:
        agent = self._agents.get(event.pid)
        if agent is None:
            # its begin was not seen
            return
        agent.ended, began = event, agent.began
        words = wording.arguments(began)
        if event.number and wording.subcommand(words) == b"exec":
            # what it costs is told with what it has executed
            process = self._processes.get(event.number)
            if process is not None and process.ended is not None:
                yield from self._executed(process)
            return
        del self._agents[event.pid]
        # what a shim waits for are programs that are told by themselves
        waits = wording.program(began).startswith((b"containerd-shim", b"conmon"))
        told = self._act(
            "run", began, status=event.status, cpu=event.runtime_cpu if waits else event.cpu,
            duration=event.time - began.time, flags=wording.AGENT,
            time=event.time, begun=began.time, cgroup_id=event.cgroup_id,
        )  # fmt: skip
        yield told, self._whose(began) or self._identity(began)

    def _identity(self, event: Any) -> Identity:
        return self._context.attribution.identify(event)

    def _whose(self, began: Any) -> Identity | None:
        """Of which container or pod a command line is: the last container id in it, or the pod of a path."""
        text: bytes = began.text[: began.text_bytes]
        ids = _CONTAINER.findall(text)
        uid = _POD_UID.search(text.replace(b"\0", b"/"))
        if ids and (found := self._context.attribution.owner(ids[-1].decode(), None)) is not None:
            return found
        if uid is not None:
            return self._context.attribution.owner(None, uid[1].decode())
        return None

    # Processes of containers.

    def _began(self, event: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        if event.flags & wording.FIRST:
            container = self._container(identity)
            yield from self._exited(lambda _, whose: self._container(whose) is container)
            again = container.ended
            container.began_ns, container.ended, container.stopped_ns = event.time, None, None
            yield self._act(
                "start", event,
                duration=event.time - again.time if again is not None else 0,
                status=again.status if again is not None else 0,
                flags=event.flags | (wording.STARTED_AGAIN if again is not None else 0),
                runtime_cpu=0,
            ), identity  # fmt: skip
            return
        self._processes[event.pid] = _Process(event)
        _limit(self._processes)

    def _ended(self, event: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        if event.flags & wording.FIRST:
            # who has sent it a signal may tell that a moment later
            self._exits[event.pid] = event, identity
            return
        process = self._processes.get(event.pid)
        agent = self._agents.get(event.cause)
        if process is None:
            if agent is None or wording.subcommand(wording.arguments(agent.began)) != b"exec":
                # a part of runc create: it sets the container up
                return
            # it has executed nothing, or its begin was lost
            process = self._processes[event.pid] = _Process(None)
        if process.ended is not None:
            # two threads were the last, each on a CPU of its own
            return
        process.ended, process.identity = event, identity
        if agent is None or agent.ended is not None:
            yield from self._executed(process)
        else:
            # the runtime's program is about to end: then it is known what it has cost
            self._waiting.append(process)

    def _executed(self, process: _Process) -> Iterator[tuple[Any, Identity]]:
        ended, began, signalled = process.ended, process.began, process.signalled
        if self._processes.get(ended.pid) is process:
            del self._processes[ended.pid]
        if process in self._waiting:
            self._waiting.remove(process)
        agent = self._agents.get(ended.cause)
        runtime = ended.runtime_cpu
        flags = ended.flags
        if agent is not None and agent.ended is not None:
            runtime += agent.ended.cpu
            del self._agents[ended.cause]
        begun = agent.began.time if agent is not None else ended.begun
        more: dict[str, Any] = {}
        if began is not None:
            names = ("text", "text_bytes", "text_cut")
            more = {name: getattr(began, name) for name in names}
            flags |= began.flags
            begun = agent.began.time if agent is not None else began.begun
        if signalled is not None and ended.status & 0x7F == signalled.number:
            runtimes = signalled.cause_comm.startswith((b"containerd-shim", b"runc", b"crun", b"conmon", b"youki"))
            more |= {"number": signalled.number, "cause": signalled.cause, "cause_comm": signalled.cause_comm}
            flags |= wording.AGENT if runtimes else 0
        told = self._act(
            "exec", ended, duration=ended.time - begun, begun=begun, flags=flags,
            cpu=max(0, ended.cpu - ended.runtime_cpu), runtime_cpu=runtime, **more,
        )  # fmt: skip
        assert process.identity is not None
        row = self._rows.get(self._key(told, process.identity, "exec"))
        if row is not None and (found := row.rhythm) is not None:
            told = told._replace(period=found.period_ns, times=found.times)
        yield told, process.identity

    def _exited(self, is_it: Callable[[Any, Identity], bool]) -> Iterator[tuple[Any, Identity]]:
        """Tell the ends of containers that have waited long enough."""
        for pid, (event, identity) in list(self._exits.items()):
            if is_it(event, identity):
                del self._exits[pid]
                yield self._container_ended(event, identity), identity

    def _container_ended(self, event: Any, identity: Identity) -> Any:
        container = self._container(identity)
        flags, began = event.flags, container.began_ns
        since = event.time - began if began is not None else 0
        if container.stopped_ns is not None:
            flags, since = flags | wording.STOPPED, max(0, event.time - container.stopped_ns)
        if event.pid in container.oom_pids and event.status & 0x7F == wording.SIGKILL:
            flags |= wording.OUT_OF_MEMORY
        container.oom_pids.clear()
        container.ended = event
        return self._act("exit", event, duration=since, flags=flags, runtime_cpu=0)

    def _signalled(self, event: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        if not event.flags & wording.FIRST:
            process = self._processes.get(event.pid)
            if process is not None:
                process.signalled = event
            return
        container = self._container(identity)
        cause = self._agents.get(event.cause)
        flags = event.flags | (wording.AGENT if cause is not None else 0)
        stopped = container.stopped_ns
        if event.flags & wording.KERNEL and event.pid in container.oom_pids:
            return
        if event.number == wording.SIGKILL:
            flags |= wording.STOPPED if stopped is not None else 0
            since = event.time - stopped if stopped is not None else 0
            yield self._act("kill", event, duration=since, flags=flags), identity
        elif cause is not None or event.number == wording.SIGTERM:
            container.stopped_ns = stopped if stopped is not None else event.time
            yield self._act("stop", event, flags=flags), identity
        else:
            yield self._act("signal", event, flags=flags), identity

    # Connections.

    def _connection(self, event: Any, identity: Identity) -> tuple[Any, Identity]:
        told = self._blank._replace(
            time=event.begun + event.duration,
            what=self._numbers["connect"],
            pid=event.pid,
            begun=event.begun,
            duration=event.duration,
            runtime_cpu=0,
            cpu=0,
            period=event.connecting,
            sent=event.sent,
            received=event.received,
            status=event.error,
            port=event.port & 0xFFFF,
            number=event.local_port,
            address=event.address,
            flags=wording.EXECUTED if event.established else 0,
            cgroup_id=event.cgroup_id,
            memory_cgroup_id=event.memory_cgroup_id,
            memory_hierarchy=event.memory_hierarchy,
        )
        if event.server:
            found = self._identity(told._replace(cgroup_id=event.server, memory_cgroup_id=0, memory_hierarchy=0))
            if found.pod_uid is not None:
                return told._replace(cgroup_id=event.server, memory_cgroup_id=0, memory_hierarchy=0), found
        pods = self._addresses.get(event.address, {})
        if len(pods) == 1:
            # of two pods that say it is theirs, one lies
            by_address = self._context.attribution.owner(None, next(iter(pods)))
            if by_address is not None:
                return told, by_address
        return told, identity

    # What is read off the node.

    def _read(self, record: Any, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        if record.kind == node_record.CLOCK:
            if record.number:
                yield from self._exited(lambda *_: True)
            for process in list(self._waiting):
                if record.number or process.ended.time < record.time - _LATE_NS:
                    yield from self._executed(process)
        elif record.kind == node_record.POD:
            if identity.pod_uid is not None:
                self._pods.setdefault(identity.pod_uid, Usage()).add(record.time, record.number)
                _limit(self._pods)
        elif record.kind == node_record.AGENT:
            known = self._daemons.setdefault(
                record.pid, (text_of(record.comm), record.text[: record.text_bytes].decode(), Usage())
            )
            known[2].add(record.time, record.number)
            _limit(self._daemons)
        elif record.kind == node_record.ADDRESS:
            uid = record.text[: record.text_bytes].decode("utf-8", "replace")
            if not record.number:
                self._addresses.setdefault(record.address, {})[uid] = None
                _limit(self._addresses)
            elif record.address in self._addresses:
                self._addresses[record.address].pop(uid, None)
        elif record.kind in (node_record.REFRESH, node_record.ROTATE, node_record.COLLECT):
            what = node_record.KINDS[record.kind]
            uid, _, name = record.text[: record.text_bytes].decode("utf-8", "surrogateescape").partition("\0")
            told = self._of_files(what, record.time, name, duration=record.number)
            if what == "refresh":
                told = told._replace(flags=wording.FIRST if record.count else 0)
            elif what == "rotate":
                told = told._replace(received=record.count)
            else:
                told = told._replace(number=record.count & 0xFFFFFFFF)
            whose = identity if what == "collect" else self._pod(uid, name if what == "rotate" else None)
            yield told, whose

    def _of_files(self, what: str, time_ns: int, name: str, duration: int = 0) -> Any:
        text = name.encode("utf-8", "surrogateescape")
        return self._blank._replace(
            what=self._numbers[what], time=time_ns, begun=time_ns - duration, duration=duration, text=text,
            text_bytes=len(text),
        )  # fmt: skip

    def _pod(self, uid: str, container: str | None) -> Identity:
        """What is known of a pod, or of its container of this name, by what the node's files call it."""
        attribution = self._context.attribution
        found = attribution.container_of(uid, container) or attribution.owner(None, uid)
        return found if found is not None else Identity(pod_uid=uid, kind="pod", attributed_by="path")

    # Rows.

    def _key(self, told: Any, identity: Identity, what: str) -> tuple[Any, ...]:
        return (
            identity.pod_uid,
            identity.container if identity.kind == "container" else identity.kind,
            identity.container_id if identity.pod_uid is None else None,
            what,
            wording.target(told),
        )

    def _count(self, told: Any, identity: Identity) -> None:
        what = wording.what_of(told)
        key = self._key(told, identity, what)
        row = self._rows.pop(key, None)
        if row is None:
            if len(self._rows) >= _MOST_ROWS:
                self._fold()
            row = Row(identity, what, wording.target(told))
        # the one that was seen last is the last one
        self._rows[key] = row
        row.identity = identity
        row.count += 1
        row.failed += wording.failed(told)
        row.longest_ns = max(row.longest_ns, told.duration if what not in ("start", "stop") else 0)
        row.cpu_ns += told.cpu + told.runtime_cpu if what in ("exec", "run") else 0
        row.runtime_cpu_ns += told.runtime_cpu if what == "exec" else told.cpu if what == "run" else 0
        row.last_ns = told.time
        row.terminal |= bool(told.flags & wording.TERMINAL)
        row.begins.append(told.begun or told.time)
        row.add(told.time, told.cpu + told.runtime_cpu if what in ("exec", "run") else 0)

    def _fold(self) -> None:
        # one of many targets of a container, such as commands that a script makes up
        key = next(iter(self._rows))
        old = self._rows.pop(key)
        whole = self._rows.setdefault((*key[:-1], _OLDER), Row(old.identity, old.what, _OLDER))
        for name in ("count", "failed", "cpu_ns", "runtime_cpu_ns"):
            setattr(whole, name, getattr(whole, name) + getattr(old, name))
        whole.longest_ns, whole.last_ns = max(whole.longest_ns, old.longest_ns), max(whole.last_ns, old.last_ns)

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """The table under one grouping, in the order of arrival."""
        found: dict[tuple[Value, ...], list[Row]] = {}
        for row in self._rows.values():
            cells = identity_cells(self._blank, row.identity)
            whose = (cells["namespace"], cells["pod"], cells["container"])
            key: tuple[Value, ...] = {
                "target": (*whose, row.what, row.target),
                "what": (*whose, row.what),
                "pod": whose[:2],
                "node": (self._context.node,),
            }[by]
            found.setdefault(key, []).append(row)
        table: list[list[Value]] = []
        for key, rows in found.items():
            notes = [self._note(rows[0])] if by == "target" else []
            table.append([*key, *notes, *self._measures(rows)])
        if not self._context.attribution.selection:
            table += self._daemon_rows(by, found)
        return table

    def _note(self, row: Row) -> str | None:
        if row.what == "exec" and row.terminal:
            return "terminal"
        rhythm = row.rhythm
        if rhythm is None:
            return None
        many = "" if rhythm.times == 1 else f"{rhythm.times} times "
        return f"{many}every {wording.pace(rhythm.period_ns)}"

    def _measures(self, rows: Sequence[Row]) -> list[Value]:
        now = self._now_ns
        watched = min(_MINUTE_NS, max(1, now - (self._begun_ns or now)))
        minutes = [row.last_minute(now) for row in rows]
        cpu = sum(used for _, used in minutes)
        uids = {row.identity.pod_uid for row in rows}
        own = [usage.percent(now) for uid in uids if uid is not None and (usage := self._pods.get(uid)) is not None]
        known = [percent for percent in own if percent is not None]
        return [
            sum(row.count for row in rows),
            round(sum(count for count, _ in minutes) * _MINUTE_NS / watched, 1),
            sum(row.failed for row in rows),
            max(row.longest_ns for row in rows) or None,
            100 * cpu / watched,
            sum(known) if known else None,
            sum(row.cpu_ns for row in rows),
            sum(row.runtime_cpu_ns for row in rows),
            self._context.wall_ns(max(row.last_ns for row in rows)),
        ]

    def _daemon_rows(self, by: str, found: Mapping[tuple[Value, ...], Any]) -> list[list[Value]]:
        """The CPU of what runs all the time: kubelet, runtime, and of each pod its shim."""
        if by != "target":
            return []
        table: list[list[Value]] = []
        for pid, (comm, sandbox, usage) in self._daemons.items():
            percent = usage.percent(self._now_ns)
            if percent is None:
                continue
            owner = self._context.attribution.owner(sandbox, None) if sandbox else None
            cells = identity_cells(self._blank, owner) if owner is not None else {"namespace": None, "pod": HOST}
            used = usage.samples[-1][1] - usage.samples[0][1]
            container = "(sandbox)" if owner is not None else None
            table.append(
                [
                    *(cells["namespace"], cells["pod"], container, "agent", comm + f" (pid {pid})".encode(), None),
                    *(None, None, None, None, percent, None, used, used, self._context.wall_ns(usage.samples[-1][0])),
                ]
            )
        return table


def _limit(known: dict[Any, Any]) -> None:
    if len(known) > _MOST:
        del known[next(iter(known))]
