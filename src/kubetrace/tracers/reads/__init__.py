"""reads: who reads secrets, tokens and other volumes of pods: which process, which file, by which way, how often."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kubetrace.errors import UsageError
from kubetrace.kit.fields import Field, Fielded
from kubetrace.kit.identity import COMM, NAMESPACE, NODE, PID, POD
from kubetrace.kit.tracer import MAX, SUM, Grouping, Metric, Wiring
from kubetrace.tracers.reads import telling
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count

if TYPE_CHECKING:
    import click

    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Board
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout

# bpf/reads_key.bpf.h: enum reads_kind
_SECRETS, _TOKENS, _CONFIGMAPS, _ALL = (
    sum(1 << kind for kind in kinds) for kinds in ((1, 3, 6), (2,), (4, 5), range(1, 8))
)
# And what these are called.
_KINDS: Mapping[str, Sequence[str]] = {
    "secrets": ("secret", "projected", "CSI volume"),
    "tokens": ("token",),
    "configmaps": ("configMap", "downwardAPI"),
}
_MIX: Final = 0x9E3779B97F4A7C15
_LONGEST_NAME: Final = 63

_POD = replace(POD, help="pod whose volume it is; (host) and cgroup:ID where that is not known")
_VOLUME = Column("volume", "VOLUME", "name", weight=2, help="its kind and name: secret, token, projected, ...")
_FILE = Column(
    "path", "FILE", "path", min_width=8, weight=2, help="file in the volume; (not told): its name was lost on the way"
)
_READER = Column(
    "reader",
    "READER",
    "name",
    weight=2,
    help="container of the pod; host CGROUP, a process of the node; NAMESPACE/POD/CONTAINER, another pod's",
)
_WAY = Column(
    "way",
    "WAY",
    "text",
    min_width=9,
    alarms=(telling.FOREIGN, telling.ENTERED, telling.ELSEWHERE, telling.ON_NODE, telling.PASSED),
    help="own mount, exec (kubectl exec), node's path (the kubelet's), /proc/PID/root, nsenter, another's mount, ...",
)
_VERSION = Column("version", "VERSION", "name", wide=True, help="the directory of that version of the volume's files")
_COMM = replace(COMM, spare=True, help="the process's name")
_LAST_PID = replace(PID, key="pid", title="PID", wide=True, help="process id of the last one")

_OPENS = Column("opens", "OPENS", "count", help="opens that may read")
_READS = Column("reads", "READS", "count", extra=True, help="calls that gave something (read, sendfile, io_uring, ...)")
_BYTES = Column("bytes", "BYTES", "bytes", help="bytes that these gave; of volumes on a disk they are not counted")
_MAPPED = Column("maps", "MAPPED", "count", short="MAP", extra=True, help="mappings: what is read there is not seen")
_FIRST = Column("first", "FIRST", "time", spare=True, help="when it was read first (local)")
_LAST = Column("last", "LAST", "time", spare=True, help="when it was read last (local)")
_MEASURES = (
    (_OPENS, SUM),
    (_READS, SUM),
    (_BYTES, SUM),
    (_MAPPED, SUM),
    (_FIRST, MAX),
    (_LAST, MAX),
)
# The hooks by which a group's programs are named (bpf/reads.bpf.c).
_BEGINS = ("read_begin", "splice_begin")


def _text(value: str | None) -> bytes | None:
    return os.fsencode(value) if value is not None else None


def _counted(name: str) -> Any:
    # of a volume on a disk nobody knows
    return lambda event: getattr(event, name) if event.file.in_memory else None


class Reads(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "reads"
    table = "board"
    of_others = True
    summary = "Show who reads secrets, tokens and other volumes: which process, which file, by which way, how often."
    explanation = (
        "A row for each file of a pod's secret and who reads it: a container of that pod, a process of the node, "
        "another pod. WAY says how it got there: through the container's own mount, by the kubelet's path on the node, "
        "by /proc/PID/root, or in the container's namespace without being in its cgroup (nsenter). Without an option "
        "these are secrets, projected volumes and what a secret store's driver keeps in memory; --tokens, --configmaps "
        "and --volume NAME ask for others. --new tells a line when somebody reads a file for the first time. What is "
        "in a file is never looked at.\n\n"
        "Not seen: opens that are refused, files opened by handle (open_by_handle_at), and what is read of a mapping. "
        "A descriptor that was opened before, or passed on, shows as reads without an open. Of volumes on a disk "
        "(configMaps, most others) opens and mappings are counted, no bytes. hostPath volumes have no name here."
    )
    examples = (
        ("kubetrace reads", "who reads secrets, live"),
        ("kubetrace reads --new -n shop", "a line for each that reads one for the first time"),
        ("kubetrace reads --tokens --by volume", "who uses which service account's token"),
        ("kubetrace reads --volume settings", "who opens the files of one volume, of whatever kind"),
        ("kubetrace reads -o json -d 600 > reads.jsonl", "ten minutes, for a script"),
    )
    # Counters are read before the stream that explains them: nothing is counted whose file is not told.
    streams: Mapping[str, str] = {
        "reads": "reads_counter",
        "reads_rest": "reads_counter",
        "reads_files": "reads_file_event",
    }
    # what is told is made of them
    for_board = ("reads", "reads_rest", "reads_files")
    optional: Mapping[str, str | None] = {
        "open": "opens are not seen",
        "read": "bytes that are read are not seen",
        "read_begin": None,
        # before 6.5 it passes the function of reads
        "splice": None,
        "splice_begin": None,
        "map": "mappings are not seen",
    }
    groupings: Mapping[str, Grouping] = {
        "file": Grouping((NAMESPACE, _POD, _VOLUME, _FILE, _READER, _COMM, _WAY), (_LAST_PID, _VERSION)),
        "process": Grouping((NAMESPACE, _POD, _VOLUME, _FILE, _READER, PID, _COMM, _WAY), (_VERSION,)),
        "reader": Grouping((NAMESPACE, _POD, _READER, _COMM, _WAY)),
        "volume": Grouping((NAMESPACE, _POD, _VOLUME, _WAY)),
        "pod": Grouping((NAMESPACE, _POD)),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = tuple(column for column, _ in _MEASURES)
    time_column = Column("time", "TIME", "time", help="when it was read (local)")
    object_type = "read"
    fields = (
        Field("volume_kind", says=lambda event: event.file.kind, ours=True),
        Field(_VOLUME, says=lambda event: _text(event.file.volume), shows=lambda event: telling.volume_of(event.file)),
        Field(_FILE, says=lambda event: _text(event.file.path), shows=lambda event: event.file.path),
        Field("version", says=lambda event: event.file.version, ours=True),
        Field(
            _READER,
            says=lambda event: _text(telling.reader_of(event.reader, event.file)),
            shows=lambda event: telling.reader_of(event.reader, event.file),
        ),
        Field("reader_kind", says=lambda event: event.reader.kind, ours=True),
        Field("reader_namespace", says=lambda event: event.reader.namespace),
        Field("reader_pod", says=lambda event: event.reader.pod),
        Field("reader_container", says=lambda event: event.reader.container),
        Field(_COMM, says=lambda event: None if event.rest else event.comm),
        Field(PID),
        Field(_WAY, ours=True),
        Field("new", "is_first"),
        Field(_OPENS),
        Field(_READS, says=_counted("reads")),
        Field(_BYTES, says=_counted("bytes")),
        Field(_MAPPED),
        Field("opens_total"),
        Field("reads_total", says=_counted("reads_total")),
        Field("bytes_total", says=_counted("bytes_total")),
        Field("maps_total"),
        Field(_FIRST, ours=True),
    )
    line = ("time", "namespace", "pod", "volume", "path", "reader", "comm", "pid", "way", "opens", "bytes", "maps")
    sums = ()
    sorts: Mapping[str, str] = {
        name: name
        for name in ("opens", "last", "first", "reads", "bytes", "maps", "namespace", "pod", "volume", "reader", "way")
    }
    noun = ("reading", "readings")
    metered_by = "volume"
    metric_labels = ("namespace", "pod", "volume", "way")
    metrics = (
        Metric("opens", "opens", "Opens of files of secrets."),
        Metric("reads", "reads", "Calls that read of files of secrets."),
        Metric("bytes", "bytes", "Bytes that were read of secrets."),
        Metric("mapped", "maps", "Mappings of files of secrets."),
    )

    def options(self) -> Sequence[click.Option]:
        """Which volumes and files, and --new."""
        import click

        return [
            click.Option(["--secrets"], is_flag=True, help="Secrets, projected volumes, secret stores: the default."),
            click.Option(["--tokens"], is_flag=True, help="The tokens that the API server gives each pod."),
            click.Option(["--configmaps"], is_flag=True, help="configMaps and the downward API."),
            click.Option(["--volume"], metavar="NAME", help="Volumes of this name, of any kind.  [default: all]"),
            click.Option(
                ["--file", "file_names"],
                metavar="NAMES",
                multiple=True,
                help="Only files of these names or paths, by commas, with * and ?.  [default: all]",
            ),
            click.Option(["--new"], is_flag=True, help="A line when somebody reads a file for the first time."),
        ]

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Which kinds, and which volume. Raises UsageError for a name that no volume has."""
        name = options.get("volume")
        chosen = sum(
            kinds
            for option, kinds in (("secrets", _SECRETS), ("tokens", _TOKENS), ("configmaps", _CONFIGMAPS))
            if options.get(option)
        )
        if name is not None and not 0 < len(os.fsencode(name)) <= _LONGEST_NAME:
            raise UsageError(
                f"--volume: {name[:80]!r} is not a volume's name.",
                why=f"It has 1 to {_LONGEST_NAME} characters.",
                do="kubectl get pod -o jsonpath='{.spec.volumes[*].name}'",
            )
        kinds = chosen or (_ALL if name is not None else _SECRETS)
        return {
            "kinds": kinds,
            "wanted_volume": hashed(os.fsencode(name)) if name is not None else 0,
            "on_disk": int(bool(kinds & ~(_SECRETS | _TOKENS))),
        }

    def wiring(self, options: Mapping[str, Any], by: str, events: bool, host: Host) -> Wiring:
        """Constants by grouping and node, and programs that nothing is asked of."""
        try:
            namespace = os.stat(host.proc / "1/ns/mnt").st_ino
        except OSError:  # without the right to look: the node's own way is then not told from others
            namespace = 0
        return Wiring(
            constants={
                "by_process": int(by == "process"),
                "node_mount_namespace": namespace,
                "memory_on_v1": int(bool(host.cgroup_mounts().memory_hierarchy)),
            },
            # fexit has the arguments: nothing is to be remembered for it
            unneeded=[f"{group}__fentry" for group in _BEGINS],
        )

    def tells(self, options: Mapping[str, Any]) -> bool:
        """--new is a line for each."""
        return bool(options.get("new"))

    def others(self, by: str) -> Sequence[str]:
        """The groupings that a table can change over to: what the kernel was not asked to tell apart stays one."""
        return [name for name in self.groupings if name == by or name != "process"]

    def only_recorded(self, options: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """What the kernel counts when it is asked to."""
        found = {"tokens": ("tokens", "--tokens"), "configmaps": ("configMaps", "--configmaps")}
        return {name: told for name, told in found.items() if options.get(name)}

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> Board:
        """For one run."""
        from kubetrace.tracers.reads.readers import ReadsBoard, patterns

        return ReadsBoard(
            context,
            self.groupings,
            new=bool(options.get("new")),
            files=patterns(options.get("file_names") or ()),
            kinds={kind for option, kinds in _KINDS.items() if options.get(option) for kind in kinds},
            volume=options.get("volume"),
        )

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        return tuple(how for _, how in _MEASURES)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """In the order of `measures`, for the totals."""
        return (
            *(event.opens, event.reads, event.bytes, event.maps),
            *(context.wall_ns(event.first), context.wall_ns(event.last)),
        )

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """opens, reads, bytes, maps."""
        return {name: totals[name] for name in ("opens", "reads", "bytes", "maps")}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 opens, 30 reads of 1.2 KiB, 1 mapping."""
        text = f"{format_count(totals['opens'])} open{'s' * (totals['opens'] != 1)}"
        if totals["reads"]:
            text += f", {format_count(totals['reads'])} read{'s' * (totals['reads'] != 1)}"
            text += f" of {format_bytes(totals['bytes'])}"
        if totals["maps"]:
            text += f", {format_count(totals['maps'])} mapping{'s' * (totals['maps'] != 1)}"
        return text


def hashed(name: bytes) -> int:
    """What bpf/reads_count.bpf.h makes of a name: of eight words, NULs behind it."""
    found = 0
    for (word,) in struct.iter_unpack("<Q", name.ljust(64, b"\0")):
        found = ((found ^ word) * _MIX) % 2**64
    return found


TRACER = Reads()
"""What `find` gives."""
