"""How pulls and their layers are shown: columns, bars, and the sentence that says what a pull's time was spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.identity import IMAGE, NODE
from kubetrace.kit.tracer import Grouping
from kubetrace.tracers.pulls import phases, shape
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_duration

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.views.columns import Value

# Cells of a layer's waterfall, and layers of a pull that are drawn.
_BAR = 24
_MOST_DRAWN = 24

_MARKS = {
    phases.SLOT: ".",
    phases.DOWNLOAD: "=",
    phases.ELSEWHERE: "*",
    phases.LOWER: "~",
    phases.UNPACK: "#",
}
MARKS = ". waits for a slot, = downloads, ~ waits for the layers below, # unpacks, * waits for another pull"
_NOW = {
    phases.RESOLVE: "resolves",
    phases.SLOT: "waits for a slot",
    phases.DOWNLOAD: "downloads",
    phases.ELSEWHERE: "waits for a pull",
    phases.LOWER: "waits for lower",
    phases.UNPACK: "unpacks",
    phases.FINISH: "stores its record",
}
_WAITED = (phases.SLOT, phases.ELSEWHERE, phases.LOWER)

NUMBER = Column("pull", "PULL", "count", wide=True, help="its number in this run")
STARTED = Column("started", "STARTED", "time", extra=True, help="when the pull began (local)")
NAME = replace(
    IMAGE,
    kept=True,
    min_width=22,
    weight=3,
    help="image; while it is pulled its repository, with :? for the tag, which is not known before the end",
)
STATE = Column(
    "state",
    "STATE",
    "text",
    min_width=13,
    alarms=("failed", "left over"),
    help="what it is at, and of which layer; done; failed; left over (what pulled it is gone)",
)
LAYERS = Column(
    "bars", "LAYERS", "text", min_width=5, help=f"a mark for each layer, the lowest first: {MARKS}, + done, - was there"
)
WAITING = Column("pods", "FOR", "name", weight=2, spare=True, help="pods that began with it as soon as it had come")
WHY = Column("why", "WHY", "text", extra=True, help="what most of its time was spent on")
LAYER = Column("layer", "LAYER", "text", align="right", help="which layer, the lowest first, and of how many")
WATERFALL = Column("waterfall", "WATERFALL", "text", min_width=_BAR, help=f"the whole time of the pull: {MARKS}")
LINE = Column("created_by", "LINE", "path", weight=3, help="the line of the Dockerfile that made it")

PULLS = Column("pulls", "PULLS", "count", wide=True, help="pulls that have begun")
FAILED = Column("failed", "FAILED", "count", wide=True, alarm=True, help="pulls that failed or were cancelled")
BYTES = Column(
    "bytes", "BYTES", "bytes", rate="BYTES/s", help="compressed bytes that came; not those that were there before"
)
TOTAL = Column("total_bytes", "OF", "bytes", spare=True, help="compressed bytes of all its layers")
TOOK = Column("took_ns", "TOOK", "duration", help="from the pull's begin to its end, or until now")
DOWNLOAD = Column(
    "download_ns", "DOWNLOAD", "duration", short="DOWN", help="of that, for downloading: nothing else could be done"
)
UNPACK = Column("unpack_ns", "UNPACK", "duration", help="of that, for unpacking, with the commit of each layer")
WAITED = Column(
    "waited_ns", "WAITED", "duration", spare=True, help="of that, for a slot, another pull, or the layers below"
)
UNPACKED = Column("unpacked_bytes", "UNPACKED", "bytes", spare=True, help="on the disk, when it is committed")
FILES = Column("inodes", "FILES", "count", spare=True, help="files and directories that were unpacked")
UNPACKER = Column("unpacker_cpu_ns", "UNPIGZ-CPU", "duration", wide=True, help="CPU of the decompressor's processes")

MEASURES = (STARTED, PULLS, FAILED, BYTES, TOTAL, TOOK, DOWNLOAD, UNPACK, WAITED, UNPACKED, FILES, UNPACKER)
GROUPINGS = {
    "pull": Grouping((NAME, NUMBER), (STATE, LAYERS, WAITING, WHY)),
    "layer": Grouping((NAME, NUMBER, LAYER), (STATE, WATERFALL, LINE)),
    "node": Grouping((NODE,)),
}


@dataclass(frozen=True, slots=True)
class Told:
    """A pull or a layer as it is to be shown: its concluded record, its image, and all layers of the pull."""

    record: Any
    name: str
    layers: Sequence[Any]
    pods: str | None


def name_of(record: Any) -> str:
    """The image's name, or what is known of it."""
    name: str = record.text[: record.text_bytes].decode("utf-8", "surrogateescape")
    if record.named_by == shape.NAMED_BY.index("label"):
        return f"{name}:?"
    return name or "(not known yet)"


def state_of(record: Any) -> str:
    """What it is at, or how it ended."""
    state = shape.STATES[record.state] if record.state < len(shape.STATES) else "unknown"
    if record.what and record.reused == shape.REUSED.index("unpacked"):
        return "was there"
    if record.what and record.committed != shape.UNKNOWN:
        return "done"
    if state != "running":
        return "left over" if state == "left" else state
    phase = phases.ALL[record.phase] if record.phase < len(phases.ALL) else phases.RESOLVE
    which = f" {record.position + 1}/{record.layers}" if not record.what and record.position >= 0 else ""
    return f"{_NOW[phase]}{which}"


def bars(layers: Sequence[Any]) -> str:
    """A mark for each layer."""
    text = ""
    for layer in layers[:_MOST_DRAWN]:
        if layer.reused == shape.REUSED.index("unpacked"):
            text += "-"
        elif layer.committed != shape.UNKNOWN:
            text += "+"
        else:
            text += _MARKS.get(phases.ALL[layer.phase], ".")
    more = len(layers) - _MOST_DRAWN
    return f"{text} and {more}" if more > 0 else text


def waterfall(record: Any) -> str:
    """What a layer did, over the whole time of the pull."""
    whole = record.moment - record.begun
    if whole <= 0 or record.reused == shape.REUSED.index("unpacked"):
        return ""
    at = record.resolved if record.resolved != shape.UNKNOWN else record.begun
    text = " " * _cells(at - record.begun, whole)
    for phase, ns in _in_order(record):
        at += ns
        text += _MARKS[phase] * (_cells(at - record.begun, whole) - len(text))
    return text


def _cells(ns: int, whole: int) -> int:
    return min(_BAR, (2 * ns * _BAR + whole) // (2 * whole))


def _in_order(record: Any) -> list[tuple[str, int]]:
    # of one layer, as they follow one another
    order = (phases.SLOT, phases.DOWNLOAD, phases.ELSEWHERE, phases.LOWER, phases.UNPACK)
    if record.unpacked_elsewhere and not record.fetched_elsewhere:
        order = (phases.SLOT, phases.DOWNLOAD, phases.LOWER, phases.UNPACK, phases.ELSEWHERE)
    elif record.fetched_elsewhere:
        order = (phases.ELSEWHERE, phases.SLOT, phases.DOWNLOAD, phases.LOWER, phases.UNPACK)
    return [(phase, getattr(record, phase)) for phase in order if getattr(record, phase)]


def why(record: Any) -> str | None:
    """What the pull's time was spent on, and what a faster network could save: from the sums of its critical path."""
    sums = {phase: getattr(record, phase) for phase in phases.ALL}
    total = sum(sums.values())
    if record.state == shape.STATES.index("failed"):
        return "the runtime gave it up: its log says why"
    if not total:
        return None
    most = max(sums, key=lambda phase: sums[phase])
    part = f"{format_duration(sums[most])} of {format_duration(total)}"
    if most == phases.UNPACK:
        network = sum(sums[phase] for phase in (phases.RESOLVE, phases.SLOT, phases.DOWNLOAD))
        return f"unpacking took {part}: a faster network saves {format_duration(network)} at most"
    if most == phases.DOWNLOAD:
        return f"downloading took {part}, {format_bytes(_rate(record))}/s in all"
    return {
        phases.RESOLVE: f"the registry's answers took {part}",
        phases.SLOT: f"waiting for a free download took {part}: others were under way",
        phases.ELSEWHERE: f"waiting for another pull of the same layers took {part}",
        phases.LOWER: f"waiting for lower layers took {part}",
        phases.FINISH: f"the runtime's own records took {part}",
    }[most]


def brief(record: Any, layers: Sequence[Any]) -> str | None:
    """The same in a cell: 86% unpacking (404 ms layer 2)."""
    sums = {phase: getattr(record, phase) for phase in phases.ALL}
    total = sum(sums.values())
    if record.state == shape.STATES.index("failed"):
        return "the runtime's log says it"
    if record.state == shape.STATES.index("left"):
        return "what pulled it ended"
    if not total:
        return None
    most = max(sums, key=lambda phase: sums[phase])
    said = f"{sums[most] * 100 // total}% "
    if most == phases.UNPACK:
        of = max(layers, key=lambda layer: layer.unpack, default=None)
        longest = f" ({format_duration(of.unpack)} layer {of.position + 1})" if of is not None and of.unpack else ""
        return f"{said}unpacking{longest}"
    if most == phases.DOWNLOAD:
        return f"{said}downloading ({format_bytes(_rate(record))}/s)"
    return (
        said
        + {
            phases.RESOLVE: "registry's answers",
            phases.SLOT: "waiting for a slot",
            phases.ELSEWHERE: "waiting for a pull",
            phases.LOWER: "waiting for layers",
            phases.FINISH: "the runtime's records",
        }[most]
    )


def _rate(record: Any) -> int:
    # bytes a second while anything was downloaded
    return int(record.bytes * 1_000_000_000 // max(1, record.downloading))


def numbers(record: Any, context: Context) -> list[int | None]:
    """The measures of a pull or layer."""
    took = record.moment - record.begun
    if record.what:
        took = sum(getattr(record, phase) for phase in phases.ALL)
    return [
        context.wall_ns(record.begun),
        int(not record.what),
        int(record.state == shape.STATES.index("failed") and not record.what),
        record.bytes,
        record.total,
        took,
        record.download,
        record.unpack,
        sum(getattr(record, phase) for phase in _WAITED),
        _or_none(record.unpacked),
        _or_none(record.inodes),
        _or_none(record.unpacker_cpu),
    ]


def _or_none(number: int) -> int | None:
    return None if number == shape.UNKNOWN else number


def added(found: Sequence[Sequence[int | None]]) -> list[int]:
    """The measures of several pulls: their sums, and the newest begin. [] for none."""
    columns = list(zip(*found, strict=True))
    return [(max if at == 0 else sum)(value or 0 for value in column) for at, column in enumerate(columns)]


def rows(
    told: Sequence[Told], by: str, context: Context, before: Sequence[Sequence[int | None]] = ()
) -> Sequence[Sequence[Value]]:
    """The table under one of GROUPINGS; `before`: the measures of pulls that are not remembered one by one any more."""
    if by == "node":
        sums = added([*before, *(numbers(one.record, context) for one in told)])
        return [[context.node, *sums]] if sums else []
    if by == "layer":
        return [
            [
                one.name,
                one.record.pull,
                f"{one.record.position + 1}/{one.record.layers}",
                state_of(one.record),
                waterfall(one.record),
                one.record.text[: one.record.text_bytes] or None,
                *numbers(one.record, context),
            ]
            for one in told
        ]
    return [
        [
            one.name,
            one.record.pull,
            state_of(one.record),
            bars(one.layers),
            one.pods,
            brief(one.record, one.layers),
            *numbers(one.record, context),
        ]
        for one in told
    ]
