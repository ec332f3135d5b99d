"""pulls: how images arrive, by pull and layer: what is downloaded, what is unpacked, and which of these takes long."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.tracer import MAX, SUM, Metric
from kubetrace.tracers.pulls import cells, phases, shape
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Board
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Gauges, Kernel
    from kubetrace.views.columns import Value


def _what(event: Any) -> str:
    return shape.WHATS[event.what] if event.what < len(shape.WHATS) else "unknown"


def _track(event: Any) -> str:
    return f"pull {event.pull}" + (f", layer {event.position + 1} of {event.layers}" if event.what else "")


def _text(event: Any) -> bytes | None:
    text: bytes = event.text[: event.text_bytes]
    return text or None


def _known(name: str) -> Any:
    return lambda event: None if getattr(event, name) == shape.UNKNOWN else getattr(event, name)


def _digest(event: Any) -> str | None:
    return f"sha256:{event.digest.hex()}" if any(event.digest) else None


def _parts(event: Any) -> dict[str, int]:
    return {f"{phase}_ns": getattr(event, phase) for phase in phases.ALL if getattr(event, phase)}


def _detail(event: Any) -> Value:
    if event.what:
        return _text(event)
    return cells.why(event)


class Pulls(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "pulls"
    table = "board"
    summary = "Show how images arrive: each pull with its layers, what is downloaded, what is unpacked, what waits."
    explanation = (
        "A row for each pull of containerd (1.6 and newer) that runs or ends while kubetrace does. The times are "
        "containerd's own, from its metadata and files: no socket is asked and nothing is configured. Layers are "
        "downloaded several at once and unpacked one after the other, from the bottom up, so that the sums of their "
        "times say little. DOWNLOAD, UNPACK and WAITED are therefore parts of the pull's critical path: what it could "
        "not go on without, instant by instant. They add up to TOOK with the time for resolving the name and storing "
        "the image's record. --by layer and --events show what each layer did as a waterfall.\n\n"
        "While it runs a pull is named by the repository that its manifest is labelled with; the tag is known when "
        "all is unpacked. FOR names the pods that begin with the image as soon as it has come, and is empty before "
        "that: -n and -p choose by it.\n\n"
        "Not seen: a pull of an image that is all there (it takes a tenth of a second and leaves nothing behind); why "
        "one failed (containerd's log says it); the kubelet's own queue of pulls; CRI-O's pulls."
    )
    examples = (
        ("kubetrace pulls", "pulls from now on, live"),
        ("kubetrace pulls --by layer", "each layer with its waterfall and its line of the Dockerfile"),
        ("kubetrace pulls --events", "the waterfall of each pull when it ends"),
        ("kubetrace pulls -o json -d 600 > pulls.jsonl", "ten minutes, for a script"),
    )
    streams: Mapping[str, str] = {"unpackers": "pulls_unpacker"}
    for_board = ("unpackers",)
    unhooked = "the CPU of decompressors is not seen"
    groupings = cells.GROUPINGS
    measures: Sequence[Column] = cells.MEASURES
    time_column = Column(
        "time", "TIME", "time", spare=True, help="when it ended; of a layer, when it was unpacked (local)"
    )
    object_type = "pull"
    kinds = shape.WHATS
    fields = (
        Field("event", says=_what, ours=True),
        Field("pull"),
        Field("track", says=_track, ours=True),
        Field("state", says=lambda event: shape.STATES[event.state], ours=True, only=("pull",)),
        Field(
            replace(cells.NAME, key="name", help="of a pull, the image; of a layer, which of how many"),
            says=_text,
            shows=lambda event: f"layer {event.position + 1}/{event.layers}" if event.what else cells.name_of(event),
            only=("pull",),
        ),
        Field("name_from", says=lambda event: shape.NAMED_BY[event.named_by], ours=True, only=("pull",)),
        Field(Column("started", "STARTED", "time", wide=True, help="when the pull began (local)"), "begun"),
        Field("created_by", says=_text, only=("layer",)),
        Field("digest", says=_digest),
        Field("layer", "position", only=("layer",)),
        Field("layers"),
        Field("reused", says=lambda event: shape.REUSED[event.reused], ours=True, only=("layer",)),
        Field(Column("bytes", "BYTES", "bytes", help="compressed bytes that came")),
        Field("total_bytes", "total"),
        Field("resumed_bytes", says=lambda event: max(0, event.resumed), only=("layer",)),
        Field("unpacked_bytes", says=_known("unpacked")),
        Field("inodes", says=_known("inodes")),
        Field("snapshot", says=_known("snapshot"), only=("layer",)),
        Field("phases", says=_parts),
        Field("downloading_ns", "downloading", only=("pull",)),
        Field(
            Column("download_ns", "DOWNLOAD", "duration", help="of a layer; of a pull, what it waited for"),
            "download",
            told=False,
        ),
        Field(Column("unpack_ns", "UNPACK", "duration", help="the same"), "unpack", told=False),
        Field("unpacker_cpu_ns", says=_known("unpacker_cpu")),
        Field(
            Column("duration_ns", "TOOK", "duration", help="all of it"),
            says=lambda event: sum(getattr(event, phase) for phase in phases.ALL),
        ),
        Field(
            replace(cells.WATERFALL, key="bar"),
            shows=lambda event: cells.waterfall(event) if event.what else None,
            told=False,
        ),
        Field(
            Column("detail", "DETAIL", "path", weight=3, help="a layer's line of the Dockerfile; why a pull took long"),
            shows=_detail,
            told=False,
        ),
    )
    line = ("time", "started", "name", "bytes", "download_ns", "unpack_ns", "duration_ns", "bar", "detail")
    sums = ()
    sorts: Mapping[str, str] = {
        "started": "started",
        "took": "took_ns",
        "bytes": "bytes",
        "download": "download_ns",
        "unpack": "unpack_ns",
        "unpacked": "unpacked_bytes",
        "files": "inodes",
        "image": "image",
    }
    noun = ("record", "records")
    metered_by = "node"
    metric_labels = ()
    metrics = (
        Metric("pulls", "pulls", "Pulls of images that have begun."),
        Metric("failed_pulls", "failed", "Pulls that failed or were cancelled."),
        Metric("bytes", "bytes", "Compressed bytes that pulls downloaded."),
        Metric("unpacked_bytes", "unpacked_bytes", "Bytes on the disk that pulls unpacked."),
        Metric("seconds", "took_ns", "Time that pulls took.", 1e-9),
        Metric("download_seconds", "download_ns", "Time that pulls waited for downloads.", 1e-9),
        Metric("unpack_seconds", "unpack_ns", "Time that pulls waited for layers to be unpacked.", 1e-9),
    )

    def gauges(self, host: Host, kernel: Kernel) -> Gauges:
        """The runtimes' files."""
        from kubetrace.tracers.pulls.stores import Stores

        return Stores(host)

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> Board:
        """For one run."""
        from kubetrace.tracers.pulls.arrivals import PullsBoard

        return PullsBoard(context)

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        return tuple(MAX if column is cells.STARTED else SUM for column in cells.MEASURES)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """What a pull adds to the totals; its layers are part of it."""
        return [0] * len(cells.MEASURES) if event.what else [number or 0 for number in cells.numbers(event, context)]

    def kind_of(self, event: Any) -> str:
        """A pull, or a layer of one."""
        return _what(event)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Of pulls that have ended: pulls, failed, bytes, unpacked_bytes, took_ns, download_ns, unpack_ns."""
        keys = ("pulls", "failed", "bytes", "unpacked_bytes", "took_ns", "download_ns", "unpack_ns")
        return {key: totals[key] for key in keys}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """3 pulls ended, 1 failed, 137 MiB came in 12 s: 3.9 s for downloads, 7.7 s for unpacking."""
        count = totals["pulls"]
        text = f"{format_count(count)} pull{'s' * (count != 1)} ended"
        if totals["failed"]:
            text += f", {format_count(totals['failed'])} failed"
        if count:
            text += f", {format_bytes(totals['bytes'])} came in {format_duration(totals['took_ns'])}"
            text += f": {format_duration(totals['download_ns'])} for downloads, {format_duration(totals['unpack_ns'])}"
            text += " for unpacking"
        return text


TRACER = Pulls()
"""What `find` gives."""
