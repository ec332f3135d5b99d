"""kubelet: what the node's agents do to pods now, and what that costs: probes, connections, stops, restarts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.identity import CONTAINER, NAMESPACE, NODE, PID, POD, text_of
from kubetrace.kit.tracer import LAST, MAX, SUM, Grouping, Metric
from kubetrace.tracers.kubelet import wording
from kubetrace.views.columns import Column
from kubetrace.views.units import format_count, format_duration

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Advice, Board
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Gauges, Kernel

_WHAT = Column(
    "what",
    "WHAT",
    "text",
    min_width=8,
    help="exec, connect, stop, kill, signal, start, exit, oom_kill, refresh and mount of volumes, rotate (logs), "
    "collect (snapshots), run (of a program), agent (what runs always)",
)
_TARGET = Column(
    "target", "TARGET", "path", weight=3, help="the command, address and port, signal; a process that runs always"
)
_RHYTHM = Column("rhythm", "RHYTHM", "text", extra=True, help="how regularly it comes: a probe does, a person does not")
_COUNT = Column("count", "COUNT", "count", help="how often")
_PER_MINUTE = Column("per_minute", "/MIN", "count", extra=True, help="how often in the last minute")
_FAILED = Column(
    "failed",
    "FAILED",
    "count",
    short="FAIL",
    alarm=True,
    help="of these: an exit code other than 0, killed, not connected",
)
_LONGEST = Column("longest_ns", "LONGEST", "duration", spare=True, help="the longest of them")
_CPU = Column(
    "cpu_percent",
    "CPU",
    "percent",
    help="of one core in the last minute: the runtime's programs and what they executed",
)
_POD_CPU = Column(
    "pod_cpu_percent", "POD-CPU", "percent", extra=True,
    help="what the pod itself used of one core in the last minute, commands executed in it included",
)  # fmt: skip
_CPU_TIME = Column("cpu_ns", "CPU-TIME", "duration", wide=True, help="CPU in all")
_RUNTIME = Column("runtime_cpu_ns", "RUNTIME-CPU", "duration", wide=True, help="of that, the runtime's programs")
_LAST = Column("last", "LAST", "time", wide=True, help="when the last one ended (local)")

_MEASURES = (
    (_COUNT, SUM),
    (_PER_MINUTE, SUM),
    (_FAILED, SUM),
    (_LONGEST, MAX),
    (_CPU, SUM),
    (_POD_CPU, LAST),
    (_CPU_TIME, SUM),
    (_RUNTIME, SUM),
    (_LAST, MAX),
)


def _exit_code(event: Any) -> int | None:
    return None if event.status & 0x7F else event.status >> 8 & 0xFF


def _exit_signal(event: Any) -> str | None:
    return wording.signal_name(event.status & 0x7F) if event.status & 0x7F else None


def _by(event: Any) -> bytes | None:
    return text_of(event.cause_comm) or None


def _took(event: Any) -> int | None:
    what = wording.what_of(event)
    return None if what in ("stop", "signal", "start", "oom_kill") else event.duration or None


def _cpu(event: Any) -> int | None:
    return event.cpu + event.runtime_cpu if wording.what_of(event) in ("exec", "run") else None


class Kubelet(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "kubelet"
    table = "board"
    summary = "Show what the kubelet and the runtime do to each pod now, and what it costs: probes, stops, restarts."
    explanation = (
        "A row for each command that is executed in a container (exec), each port that the kubelet connects to "
        "(connect), each stop, kill, start and exit of a container, what is done to volumes, logs and snapshots, each "
        "program of the runtime (run), and the agents that run always (agent). CPU is that of one core in the last "
        "minute, runc's own included: what an exec probe costs is mostly runc, in the runtime's cgroup and not in the "
        "pod's. POD-CPU is what the pod itself used.\n\n"
        "A probe, a lifecycle hook and kubectl exec look the same to the node: RHYTHM says what comes regularly. A "
        "stop that is ignored waits for the whole grace period: the container's first process handles no SIGTERM.\n\n"
        "Not seen: what an HTTP or gRPC probe was answered (only that it was, how fast, and how many bytes); who asked "
        "for a stop; runtimes that do not execute runc, crun or youki (Kata, gVisor); what began before kubetrace did."
    )
    examples = (
        ("kubetrace kubelet", "what the node's agents do now, the dearest first"),
        ("kubetrace kubelet -n shop --by pod", "what probes and stops cost each pod of a namespace"),
        ("kubetrace kubelet --events", "a readable log of what they did"),
        ("kubetrace kubelet -o json -d 60 > acts.jsonl", "one minute, for a script"),
    )
    streams: Mapping[str, str] = {"acts": "kubelet_act", "connections": "kubelet_connection"}
    for_board = ("connections", "node")
    groupings: Mapping[str, Grouping] = {
        "target": Grouping((NAMESPACE, POD, CONTAINER, _WHAT, _TARGET), (_RHYTHM,)),
        "what": Grouping((NAMESPACE, POD, CONTAINER, _WHAT)),
        "pod": Grouping((NAMESPACE, POD)),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = tuple(column for column, _ in _MEASURES)
    time_column = Column("time", "TIME", "time", help="when it was over (local)")
    object_type = "act"
    kinds = (
        *("exec", "connect", "stop", "kill", "signal", "start", "exit", "oom_kill", "run"),
        *wording.OF_FILES,
    )
    fields = (
        Field(
            replace(_WHAT, key="event", alarms=("kill", "oom_kill"), help="what was done"),
            says=wording.what_of,
            ours=True,
        ),
        Field(replace(PID, wide=True), shows=lambda event: event.pid or None),
        Field("command", says=wording.command, only=("exec", "start", "run")),
        Field("name", says=wording.text, only=wording.OF_FILES),
        Field("first", says=lambda event: bool(event.flags & wording.FIRST), only=("refresh",)),
        Field("bytes", "received", only=("rotate",)),
        Field("snapshots", "number", only=("collect",)),
        Field("command_truncated", says=lambda event: bool(event.text_cut), only=("exec", "start", "run")),
        Field("executed", says=lambda event: bool(event.flags & wording.EXECUTED), only=("exec",)),
        Field("terminal", says=lambda event: bool(event.flags & wording.TERMINAL), only=("exec",)),
        Field("exit_code", says=_exit_code, only=("exec", "exit", "run")),
        Field("exit_signal", says=_exit_signal, ours=True, only=("exec", "exit", "run")),
        Field("out_of_memory", says=lambda event: bool(event.flags & wording.OUT_OF_MEMORY), only=("exit",)),
        Field("killed_by", says=lambda event: _by(event) if event.number else None, only=("exec",)),
        Field("period_ns", says=lambda event: event.period or None, only=("exec",)),
        Field("times_a_period", says=lambda event: event.times or None, only=("exec",)),
        Field(
            "signal",
            says=lambda event: wording.signal_name(event.number),
            ours=True,
            only=("stop", "kill", "signal"),
        ),
        Field("ignored", says=lambda event: bool(event.flags & wording.IGNORED), only=("stop", "kill", "signal")),
        Field("sender", says=_by, only=("stop", "kill", "signal")),
        Field("sender_pid", "cause", only=("stop", "kill", "signal")),
        Field("stopped", says=lambda event: bool(event.flags & wording.STOPPED), only=("kill", "exit")),
        Field("comm", says=lambda event: text_of(event.comm), only=("exit", "oom_kill", "stop", "kill", "signal")),
        Field("first_process", says=lambda event: bool(event.flags & wording.FIRST), only=("oom_kill",)),
        Field("restart", says=lambda event: bool(event.flags & wording.STARTED_AGAIN), only=("start",)),
        Field(
            Column("duration_ns", "TOOK", "duration", help="of a command with runc; of an end, since the stop"),
            "duration",
            shows=_took,
            only=("exec", "kill", "start", "exit", "run"),
        ),
        # of what may overlap: slices of one track in a trace must not
        Field("open_ns", "duration", only=("connect",)),
        Field("took_ns", says=lambda event: event.duration or None, only=("refresh", "collect")),
        Field("connect_ns", "period", only=("connect",)),
        Field("connected", says=lambda event: bool(event.flags & wording.EXECUTED), only=("connect",)),
        Field("address", says=wording.address, only=("connect",)),
        Field("port", only=("connect",)),
        Field("local_port", says=lambda event: event.number or None, only=("connect",)),
        Field("sent_bytes", "sent", only=("connect",)),
        Field("received_bytes", "received", only=("connect",)),
        Field(
            "error", says=lambda event: wording.outcome(event) if event.status else None, ours=True, only=("connect",)
        ),
        Field(
            Column("cpu_ns", "CPU", "duration", help="that it took, runc included"),
            says=_cpu,
            shows=_cpu,
            only=("exec", "run"),
        ),
        Field("runtime_cpu_ns", "runtime_cpu", only=("exec",)),
        Field(
            Column("outcome", "OUTCOME", "text", min_width=8, help="how it ended"),
            says=wording.outcome,
            ours=True,
        ),
        Field(
            Column("detail", "DETAIL", "path", weight=3, help="the command; by whom, and what follows"),
            shows=wording.detail,
            told=False,
        ),
    )
    line = (
        *("time", replace(NAMESPACE, spare=True), "pod", "container", "event", "duration_ns", "cpu_ns", "outcome"),
        *("detail", "pid"),
    )
    sums = ()
    sorts: Mapping[str, str] = {
        "cpu": "cpu_percent",
        "count": "count",
        "failed": "failed",
        "longest": "longest_ns",
        "last": "last",
        "namespace": "namespace",
        "pod": "pod",
    }
    noun = ("act", "acts")
    metered_by = "what"
    metric_labels = ("namespace", "pod", "container", "what")
    metrics = (
        Metric("acts", "count", "What the kubelet and the runtime did."),
        Metric("failed", "failed", "Of that, what went wrong."),
        Metric("cpu_seconds", "cpu_ns", "CPU that it took, the runtime's programs included.", 1e-9),
    )

    def gauges(self, host: Host, kernel: Kernel) -> Gauges:
        """What agents and pods use, and pods' addresses."""
        from kubetrace.tracers.kubelet.node_reads import NodeReads

        return NodeReads(host)

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> Board:
        """For one run."""
        from kubetrace.tracers.kubelet.acts import KubeletBoard

        layout = layouts["acts"]
        blank = layout.event_type._make(b"" if field.kind == "bytes" else 0 for field in layout.fields)
        return KubeletBoard(context, blank)

    def advice(self) -> Advice:
        """Probes that cost much or take too long, and stops that wait."""
        from kubetrace.tracers.kubelet.counsel import Counsel

        return Counsel()

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        return tuple(how for _, how in _MEASURES)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """What an act adds to the totals."""
        what = wording.what_of(event)
        cpu = _cpu(event) or 0
        runtime = event.runtime_cpu if what == "exec" else cpu
        took = _took(event) or 0
        return (1, 0, int(wording.failed(event)), took, 0, 0, cpu, runtime, context.wall_ns(event.time))

    def kind_of(self, event: Any) -> str:
        """Which act."""
        return wording.what_of(event)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """acts, failed, cpu_ns, runtime_cpu_ns."""
        return {"acts": totals["count"], **{key: totals[key] for key in ("failed", "cpu_ns", "runtime_cpu_ns")}}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """120 acts, 3 failed, 4.1 s of CPU, 3.8 s of it the runtime's."""
        count = totals["count"]
        text = f"{format_count(count)} act{'s' * (count != 1)}"
        if totals["failed"]:
            text += f", {format_count(totals['failed'])} failed"
        if totals["cpu_ns"]:
            text += f", {format_duration(totals['cpu_ns'])} of CPU, {format_duration(totals['runtime_cpu_ns'])} of it"
            text += " the runtime's"
        return text


TRACER = Kubelet()
"""What `find` gives."""
