"""disk: how full the node's disks are, when the kubelet acts, and what fills them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from kubetrace.errors import UsageError
from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.identity import CONTAINER, NAMESPACE, NODE, POD
from kubetrace.kit.tracer import LAST, Grouping, Overview, Standing
from kubetrace.tracers.disk.entry import NO_GROWTH, UNKNOWN, action, kind_of, known, of_inodes, roles, text_of, what
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_duration

if TYPE_CHECKING:
    import click

    from kubetrace.kit.context import Context
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Kernel
    from kubetrace.tracers.disk.board import DiskBoard
    from kubetrace.tracers.disk.readings import Readings
    from kubetrace.tracers.disk.removal import Removals

_BUDGET: Final = 5.0

_MOUNT = Column("mount", "MOUNTED-ON", "path", weight=2, help="where the file system is mounted on the node")
_SIGNAL = Column("signal", "SIGNAL", "text", min_width=12, help="what the kubelet looks at; available: nobody does")
_ROLE = Column("role", "IS", "text", min_width=6, wide=True, help="what the file system is to the kubelet")
_ACTION = Column(
    "action",
    "KUBELET",
    "text",
    min_width=10,
    alarms=("image GC now", "evicts now", "full now"),
    help="what it does there: collects images, evicts pods; full: nobody acts before the disk is",
)
_AVAILABLE = Column(
    "available_text",
    "AVAILABLE",
    "text",
    short="AVAIL",
    align="right",
    min_width=8,
    help="bytes or inodes, as the kubelet counts them",
)
_SHARE = Column("available_percent", "OF-ALL", "percent", spare=True, help="what that is of the whole")
_LEAST = Column(
    "least_text",
    "ACTS-BELOW",
    "text",
    short="BELOW",
    align="right",
    min_width=8,
    help="the kubelet acts where less is available",
)
_GRACE = Column("grace_ns", "GRACE", "duration", wide=True, help="for how long, before it evicts (soft)")
_LEFT = Column(
    "left_ns",
    "TIME-LEFT",
    "duration",
    short="LEFT",
    kept=True,
    help="until it acts, at the growth of the last 5 minutes",
)
_FREEABLE = Column(
    "freeable_bytes",
    "KUBELET-FREES",
    "bytes",
    short="FREES",
    spare=True,
    help="what it can free without an eviction: images that no container uses",
)
_SOURCE = Column(
    "source", "SET-BY", "name", spare=True, help="the file or flag that sets it; default; or why not known"
)
_CAPACITY = Column("capacity_bytes", "CAPACITY", "bytes", wide=True, help="of the file system")
_TYPE = Column("filesystem", "FILE-SYSTEM", "name", wide=True, help="its type, and what is mounted")
_KIND = Column("kind", "KIND", "text", min_width=10, help="what it is")
_HOW = Column(
    "how",
    "HOW-KNOWN",
    "name",
    short="HOW",
    min_width=9,
    max_width=32,
    spare=True,
    extra=True,
    help="metadata, walk, iterator, difference, ...",
)
_AGE = Column("age_ns", "AGE", "duration", spare=True, extra=True, help="how old the oldest of the figures is")
_LARGEST = Column("largest", "MOST-OF-IT", "name", min_width=16, spare=True, extra=True, help="the two largest kinds")
_IMAGE = Column("image", "IMAGE", "name", weight=2, help="image, by the name that people gave it")
_SHARED = Column("shared_bytes", "SHARED", "bytes", help="what other images have too")
_FREES = Column("frees_bytes", "FREES", "bytes", help="what its removal would free now")
_USERS = Column("users", "USED-BY", "count", help="containers that were made of it, running or not")
_PATH = Column("path", "PATH", "path", weight=3, help="directory on the node; of a deleted file its last name")
_NAME = Column("name", "NAME", "name", help="volume, image, layer, or who holds it")
_USED = Column("used_bytes", "USED", "bytes", kept=True, help="on the disk: whole blocks")
_INODES = Column("inodes", "INODES", "count", spare=True, help="files, directories and links")
_GROWTH = Column("growth_bytes", "GROWTH/s", "bytes", spare=True, help="net, in a second, over the last 5 minutes")

_WHAT = Column("what", "WHAT", "text", min_width=10, help="filesystem, threshold, part, gone")
_AT = Column("at", "PATH", "path", weight=3, help="where it is")

_TOLD = (_HOW, _AGE)
_SERVED = ("kind", "namespace", "pod")


def _growth(event: Any) -> int | None:
    return None if event.growth == NO_GROWTH else event.growth


def _device(event: Any) -> str:
    return f"{event.disk >> 20}:{event.disk & 0xFFFFF}"


def _available(event: Any) -> int | None:
    return known(event.inodes_free if of_inodes(event) else event.available)


def _signal(event: Any) -> str | None:
    return text_of(event.name) if what(event) == "threshold" else None


def _detail(event: Any) -> str:
    said = what(event)
    if said == "filesystem":
        return f"{format_bytes(max(0, event.available))} available of {format_bytes(max(0, event.capacity))}"
    if said == "threshold":
        left = f", in {format_duration(event.left)}" if event.left != UNKNOWN else ""
        return f"{text_of(event.name)}: {action(event, _available(event))}{left}"
    return text_of(event.name)


class Disk(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "disk"
    table = "board"
    summary = "Show how full the node's disks are, when the kubelet acts, and what fills them, by kind, pod and image."
    explanation = (
        "Read off the node's own files: statvfs(2) of each file system, the kubelet's settings, containerd's databases "
        "(image layers and blobs, to the byte), and walks of what only a walk tells: writable layers, logs, volumes. "
        "Walks are made by a process that runs only when nothing else wants the CPU, takes --budget of a core at most "
        "and stays on its device. Each figure says how it is known and how old it is. Nothing is ever removed.\n\n"
        "Not seen: memory (tmpfs), devices that only their own driver counts, and what is mapped but not open any more."
    )
    examples = (
        ("kubetrace disk", "each file system, and when the kubelet acts"),
        ("kubetrace disk --by kind", "what is on them"),
        ("kubetrace disk --by pod -d 60", "who has most, after a minute of looking"),
        ("kubetrace disk --by image", "each image, and what its removal would free"),
        ("kubetrace disk -o json -d 10 > disk.jsonl", "every figure, for a script"),
    )
    streams: Mapping[str, str] = {}
    once = True
    unhooked = "deleted files that are open are looked for in /proc, which takes longer"
    optional: Mapping[str, str | None] = {"held": unhooked}
    groupings: Mapping[str, Grouping] = {
        "filesystem": Grouping(
            (_MOUNT, _SIGNAL),
            (_LEFT, _ACTION, _AVAILABLE, _LEAST, _SHARE, _FREEABLE, _SOURCE, _ROLE, _GRACE, _CAPACITY, _TYPE),
        ),
        "kind": Grouping((_MOUNT, _KIND), _TOLD),
        "pod": Grouping((NAMESPACE, POD), (_LARGEST, *_TOLD)),
        "container": Grouping((NAMESPACE, POD, CONTAINER), (_LARGEST, *_TOLD)),
        "image": Grouping((_IMAGE,), (_SHARED, _FREES, _USERS, *_TOLD)),
        "path": Grouping(
            (replace(_MOUNT, wide=True), _PATH, _NAME, _KIND, NAMESPACE, POD, replace(CONTAINER, spare=True)), _TOLD
        ),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = (_USED, _INODES, _GROWTH)
    noun = ("figure", "figures")
    kinds = ("filesystem", "threshold", "part", "gone")
    fields = (
        Field(_WHAT, says=what, ours=True),
        Field("entry"),
        Field("disk_device", says=_device, ours=True, only=("filesystem", "threshold", "part")),
        Field("mount", says=lambda event: text_of(event.path), only=("filesystem",)),
        Field("filesystem", says=lambda event: text_of(event.name), only=("filesystem",)),
        Field("roles", says=lambda event: roles(event).split(), ours=True, only=("filesystem", "threshold")),
        Field("signal", says=_signal, ours=True, only=("threshold",)),
        Field("action", says=lambda event: action(event, _available(event)), ours=True, only=("threshold",)),
        Field("source", says=lambda event: text_of(event.path), only=("threshold",)),
        Field("capacity_bytes", says=lambda event: known(event.capacity), only=("filesystem", "threshold")),
        Field("available_bytes", says=lambda event: known(event.available), only=("filesystem", "threshold")),
        Field("inodes_total", says=lambda event: known(event.inodes_total), only=("filesystem", "threshold")),
        Field("inodes_free", says=lambda event: known(event.inodes_free), only=("filesystem", "threshold")),
        Field("least", says=lambda event: known(event.least), only=("threshold",)),
        Field("grace_ns", says=lambda event: known(event.grace), only=("threshold",)),
        Field("left_ns", says=lambda event: known(event.left), only=("threshold",)),
        Field(replace(_KIND, spare=True), says=kind_of, ours=True, only=("part",)),
        Field("name", says=lambda event: text_of(event.name), only=("part",)),
        Field("path", says=lambda event: text_of(event.path), only=("part",)),
        Field(_USED, says=lambda event: known(event.bytes), shows=lambda event: known(event.bytes)),
        Field(_INODES, says=lambda event: known(event.inodes), shows=lambda event: known(event.inodes)),
        Field(_GROWTH, says=_growth, shows=_growth),
        Field("shared_bytes", says=lambda event: known(event.shared), only=("part",)),
        Field("frees_bytes", says=lambda event: known(event.frees), only=("part", "filesystem")),
        Field("users", only=("part",)),
        Field("how", says=lambda event: event.NAMES["how"][event.how], ours=True),
        Field("state", says=lambda event: event.NAMES["state"][event.state], ours=True, only=("part",)),
        Field("as_of_ns", says=lambda event: max(0, event.time - event.as_of) if event.as_of > 0 else None),
        Field(_AT, shows=lambda event: text_of(event.path), told=False),
        Field(Column("detail", "DETAIL", "name", weight=2, help="what"), shows=_detail, told=False),
    )
    line = (
        *("time", "namespace", "pod", "container", "what", "kind", "used_bytes", "inodes", "growth_bytes", "at"),
        "detail",
    )
    sums = ()
    unasked = False  # it walks directories
    overview = (
        Overview(
            Column("used_bytes", "DISK", "bytes", spare=True, help="bytes of its layers, volumes and logs on the disk"),
            "used_bytes",
        ),
        Overview(
            Column("growth_bytes", "DISK/s", "bytes", spare=True, help="how much that grows in a second, net"),
            "growth_bytes",
        ),
    )
    standings = (
        Standing("used_bytes", "path", _SERVED, "used_bytes", "Bytes on the node's disks, by what they are and whose."),
        Standing("used_inodes", "path", _SERVED, "inodes", "Files and directories on the node's disks, likewise."),
        Standing(
            "threshold_seconds",
            "filesystem",
            ("mount", "signal"),
            "left_ns",
            "Time until the kubelet acts, at the growth of the last minutes; not served where it is not foreseen.",
            1e-9,
            LAST,
        ),
    )
    sorts: Mapping[str, str] = {
        "used": "used_bytes",
        "inodes": "inodes",
        "growth": "growth_bytes",
        "left": "left_ns",
        "frees": "frees_bytes",
        "age": "age_ns",
        "namespace": "namespace",
        "pod": "pod",
        "kind": "kind",
        "path": "path",
        "image": "image",
    }
    _budget = _BUDGET / 100
    _whole_node = False

    def options(self) -> Sequence[click.Option]:
        """--budget and --whole-node."""
        import click

        return [
            click.Option(
                ["--budget"],
                metavar="PERCENT",
                default=f"{_BUDGET:g}%",
                help=f"Of one core that walks take at most.  [default: {_BUDGET:g}%]",
            ),
            click.Option(
                ["--whole-node"],
                is_flag=True,
                help="Walk the node's other directories too (/usr, /var, ...): a million files take minutes.",
            ),
        ]

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Itself, which reads as these say. Raises UsageError."""
        made = type(self)()
        made._budget = _share(options.get("budget") or f"{_BUDGET}%")
        made._whole_node = bool(options.get("whole_node"))
        return made

    def gauges(self, host: Host, kernel: Kernel) -> Readings:
        """The node's files."""
        from kubetrace.tracers.disk.readings import Readings

        return Readings(host, kernel, share=self._budget, whole_node=self._whole_node)

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> DiskBoard:
        """For one run."""
        from kubetrace.tracers.disk.board import DiskBoard

        return DiskBoard(context)

    def finer(self, by: str, among: Sequence[str]) -> str | None:
        """What one sees who opens a row: of a file system its kinds, of a kind or a pod its paths."""
        wanted = {"filesystem": "kind", "kind": "path", "pod": "path", "container": "path", "node": "filesystem"}
        found = wanted.get(by)
        return found if found in among else None

    def kind_of(self, event: Any) -> str:
        """filesystem, threshold, part or gone."""
        return what(event)

    def operations(self) -> Sequence[str]:
        """Figures stand for themselves: none is a sum of others."""
        return (LAST,) * len(self.measures)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """Of one entry."""
        return (known(event.bytes), known(event.inodes), _growth(event))

    def advice(self) -> Removals:
        """What could be removed."""
        from kubetrace.tracers.disk.removal import Removals

        return Removals()

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: each figure was told."""
        return {}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """Nothing was changed."""
        return "The disks were looked at"


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        percent = float(number)
    except ValueError:
        percent = -1.0
    if not 0.1 <= percent <= 100:
        raise UsageError(
            f"--budget {text!r} is not a share of a core.",
            why="It is a percentage from 0.1 to 100.",
            do=f"--budget {_BUDGET:g}%",
        )
    return percent / 100


TRACER = Disk()
"""What `find` gives."""
