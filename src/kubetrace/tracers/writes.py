"""writes: where every byte lands that containers and the node write: writable layer, volume, log, image store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from kubetrace.kit.fields import DEVICE, ERROR, PROCESS, Field, Fielded
from kubetrace.kit.identity import (
    COMM,
    CONTAINER,
    NAMESPACE,
    NODE,
    PID,
    POD,
    identity_cells,
    identity_record,
    path_of,
    text_of,
)
from kubetrace.kit.tracer import Grouping, Metric, Overview, Wiring
from kubetrace.tables.aggregate import quantile
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_time

if TYPE_CHECKING:
    import click

    from kubetrace.kit.context import Context
    from kubetrace.kit.landing import Landing, Row
    from kubetrace.node.host import Host
    from kubetrace.node.survey import Node
    from kubetrace.views.columns import Value

_LATENCIES = ("p50_ns", "p99_ns", "max_ns")
# The first slot of the latency histogram ends at twice this (writes_slot in bpf/writes_count.bpf.h).
_FIRST_SLOT_NS = 256
_WRITES, _BYTES, _FILES, _FSYNCS, _ERRORS, _DIRTIED, _REFUSED = range(7)

_DESTINATION = Column(
    "destination",
    "DESTINATION",
    "name",
    # the most frequent one, whole
    min_width=len("writable layer"),
    weight=2,
    help="writable layer, emptyDir/NAME, hostPath PATH, container log, ...; (memory) is not a disk",
)
_KUBELET = Column(
    "ephemeral", "EPHEMERAL", "text", wide=True, help="yes: the kubelet counts it as ephemeral storage and evicts by it"
)
_MEDIUM = Column("medium", "MEDIUM", "text", wide=True, help="disk, memory or network")
_OPERATION = Column("operation", "OPERATION", "text", min_width=9, help="write, writev, aio, io-uring, sendfile, ...")
_FILE = Column("path", "FILE", "path", weight=3, help="path in the container, or on the node")
_MOUNT = Column("mount", "MOUNT", "path", weight=2, help="root of the mount inside its file system")
_DEVICE = Column("device", "DEVICE", "text", min_width=6, help="MAJOR:MINOR of the file system")
_TYPE = Column("fstype", "TYPE", "name", help="type of the file system")

_MEASURES = (
    Column(
        "writes", "WRITES", "count", rate="WRITES/s", help="operations: writes of all kinds, truncations, fallocates"
    ),
    Column("bytes", "BYTES", "bytes", grows=True, help="bytes written, as the calls returned them"),
    Column("rate", "RATE", "bytes", help="bytes a second in the last interval"),
    Column("files", "FILES", "count", spare=True, help="distinct files written to"),
    Column(
        "fsyncs",
        "FSYNCS",
        "count",
        help="fsync, fdatasync, msync, sync_file_range, and each write to a file opened with O_SYNC",
    ),
    Column("errors", "ERRORS", "count", short="ERR", alarm=True, help="operations that failed, such as ENOSPC"),
    Column("mapped_bytes", "MAPPED", "bytes", wide=True, help="estimate: pages dirtied by stores to shared mappings"),
    Column(
        "refused",
        "REFUSED",
        "count",
        wide=True,
        help="operations that programs do by other means then: EXDEV, EOPNOTSUPP, ENOSYS, EINTR (--by operation)",
    ),
    Column("p50_ns", "P50", "duration", wide=True, help="median latency of a write (-L)"),
    Column("p99_ns", "P99", "duration", wide=True, help="latency that one write in a hundred exceeds (-L)"),
    Column("max_ns", "MAX", "duration", wide=True, help="longest write (-L)"),
)


class _Counters:
    """See `kit.landing.Counters`."""

    def __init__(self, *, shows_all: bool = False) -> None:
        self.shows_all = shows_all

    counters: Sequence[str] = ("writes", "writes_rest")
    histogram = "latencies"
    mounts = "writes_mounts"
    places = "writes_places"
    key_end = "operation"
    values = ("count", "bytes", "errors", "files")
    kinds: Mapping[str, int] = {
        "fsync": 1,
        "other-fsync": 1,
        "mmap": 2,
        "other-mmap": 2,
        "other-refused": 3,
        "refused-exdev": 3,
        "refused-unsupported": 3,
        "refused-interrupted": 3,
    }

    # In the order of `totals`.
    sorted_by: Mapping[str, tuple[str, int]] = {
        "writes": ("now", _WRITES),
        "bytes": ("now", _BYTES),
        "rate": ("window", _BYTES),
        "files": ("now", _FILES),
        "fsyncs": ("now", _FSYNCS),
        "errors": ("now", _ERRORS),
        "mapped_bytes": ("now", _DIRTIED),
        "refused": ("now", _REFUSED),
    }

    def details(self, by: str) -> Sequence[str]:
        """What a row's cells are of, besides owner, operation, destination and path."""
        return {"process": ("pid", "comm"), "mount": ("mount", "device")}.get(by, ())

    def timed(self, by: str, kind: int) -> bool:
        """A row's latencies are those of its writes: a sync takes its time elsewhere. By operation each has its own."""
        return kind == 0 or by == "operation"

    def totals(self, sums: Sequence[Sequence[int]]) -> Sequence[int]:
        """(writes, bytes, files, fsyncs, errors, mapped bytes, refused)."""
        (writes, size, errors, files), (fsyncs, _, failed, _), (_, mapped, faults, mapped_files), (_, _, refused, _) = (
            sums
        )
        return (writes, size, files + mapped_files, fsyncs, errors + failed + faults, mapped, refused)

    def cells(self, by: str, event: Any, landing: Landing, node: str) -> Mapping[str, Value]:
        """By column key."""
        destination, mounted = landing.destination, landing.mounted
        operation = _operation(event)
        cells: dict[str, Value] = {
            **identity_cells(event, landing.identity),
            "destination": "(others)" if operation in _OTHERS else destination.text,
            "medium": destination.medium,
            "ephemeral": "yes" if destination.counted_as_ephemeral else "no",
            "operation": operation,
            "node": node,
            "pid": None if operation in _OTHERS else event.pid,
            "device": _device(event.device),
        }
        if by == "file":
            cells["path"] = landing.path
        elif by == "process":
            cells["comm"] = None if operation in _OTHERS else text_of(event.comm)
        elif by == "mount":
            cells["mount"] = mounted.root if mounted is not None else None
            cells["fstype"] = mounted.fstype if mounted is not None else None
        return cells

    def measures_of(self, row: Row) -> Sequence[Value]:
        """In the order of the tracer's."""
        writes, size, files, fsyncs, errors, mapped, refused = self.totals(row.sums)
        rate = row.window[_BYTES] * 1_000_000_000 // row.elapsed_ns if row.elapsed_ns else 0
        return (
            *(writes, size, rate, files, fsyncs, errors, mapped, refused),
            quantile(row.slots, 0.5, first_ns=_FIRST_SLOT_NS, longest_ns=row.longest),
            quantile(row.slots, 0.99, first_ns=_FIRST_SLOT_NS, longest_ns=row.longest),
            row.longest or None,
        )


class Writes(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "writes"
    table = "counted"
    summary = "Show who writes on this node and where it lands, live, by pod and destination."
    explanation = (
        "Each row is a container and a destination: its writable layer, a volume by name, its log (written by the "
        "runtime, shown as the container's), or for processes of the node the image stores of containerd, the kubelet "
        "or the host. Counted are write, pwrite, writev, pwritev2, aio, io_uring, sendfile, splice, copy_file_range, "
        "fallocate and truncate, each operation once, by the bytes it returned; asynchronous io_uring requests by the "
        "bytes they asked for. Stores to shared mappings are estimated by the pages they dirty, apart (MAPPED). What "
        "overlayfs copies up by itself is not counted here: see kubetrace copyup.\n\n"
        "Not seen: reflinks (FICLONE), names and metadata (create, rename, chmod), what happens later to pages that a "
        "mapping has dirtied already, sync and syncfs, sync_file_range by io_uring, writes from inside the kernel "
        "(core dumps, NFS server, loop devices, swap) and inside virtual machines; with --all, what send, sendmsg and "
        "vmsplice send. A file that is renamed is told by its new path; one in a directory that is renamed, and one "
        "that is exchanged with another, by the old. Where the kernel may preempt a program, a second one counts what "
        "the first misses meanwhile; what both miss is told as lost. --hook kprobe has not been seen to miss any, "
        "and costs more; what it would miss Linux does not count before 6.7."
    )
    examples = (
        ("kubetrace writes", "every pod, every destination"),
        ("kubetrace writes -n shop --by file --top 20", "the twenty most written files of a namespace"),
        ("kubetrace writes -L -o wide", "with latencies, and what the kubelet counts"),
        ("kubetrace writes -o json -i 10 -d 60 > writes.jsonl", "one minute in six parts, for a script"),
    )
    # Counters are read before the streams that explain them: nothing is counted whose mount is not told.
    streams: Mapping[str, str] = {
        "writes": "writes_counter",
        "writes_rest": "writes_counter",
        "latencies": "writes_latency",
        "writes_events": "writes_event",
        "writes_mounts": "kt_mount_event",
        "writes_places": "kt_place_event",
    }
    counters = _Counters()
    _latency = False
    optional: Mapping[str, str | None] = {
        group + part: what
        for group, what in {
            "writev": "writev and pwritev2 are not seen",
            "aio": "aio requests that fail at once are not seen",
            "aio_end": "aio is not seen",
            "iouring": "io_uring is not seen",
            "sendfile": "sendfile is not seen",
            "splice": "splice is not seen",
            "copyrange": "copy_file_range is not seen",
            "fallocate": "fallocate is not seen",
            "truncate": "ftruncate and truncating opens are not seen",
            "truncatepath": "truncate is not seen",
            "fsync": "msync and writes with O_SYNC are not seen among FSYNCS",
            "fsynced": "some calls of fsync are not seen",
            "fdatasynced": "some calls of fdatasync are not seen",
            "rangesynced": "sync_file_range is not seen",
            "msynced": "msync on a writable layer is not seen",
            # kernels that run no 32-bit programs have none of these
            "fsynced32": None,
            "fdatasynced32": None,
            "rangesynced32": None,
            "msynced32": None,
            "aiosynced": "fsync by aio is not seen",
            "renamed": "a file that is renamed keeps the path it was first seen with",
            "mmap": "stores to shared mappings are not seen",
        }.items()
        for part in (("",) if group in ("aio_end", "mmap") else ("", "_begin"))
    }
    groupings: Mapping[str, Grouping] = {
        "destination": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _MEDIUM, _KUBELET)),
        "pod": Grouping((NAMESPACE, POD)),
        "container": Grouping((NAMESPACE, POD, CONTAINER)),
        "process": Grouping((NAMESPACE, POD, CONTAINER, PID, COMM, _DESTINATION)),
        "file": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _FILE)),
        "mount": Grouping((_DEVICE, _TYPE, _MOUNT, _DESTINATION)),
        "operation": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _OPERATION)),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = _MEASURES
    object_type = "write"
    owner = "identity"
    sums = ()
    time_column = Column("time", "TIME", "time", help="when the operation ended (local)")
    # What --events tells, each with its Landing.
    fields = (
        *PROCESS,
        Field(_OPERATION, says=lambda event: _operation(event), ours=True),
        Field(
            _FILE,
            of=lambda event, landing: path_of(event)[0] if landing.path is None else landing.path,
        ),
        Field("path_truncated", says=lambda event: bool(event.path_end)),
        Field("inode"),
        DEVICE,
        Field(
            _DESTINATION,
            of=lambda event, landing: tuple(_destination_record(landing).values()),
            also=("destination_kind", "volume", "medium", "counted_as_ephemeral"),
        ),
        Field(Column("bytes", "BYTES", "bytes", help="bytes written")),
        Field(Column("duration_ns", "LATENCY", "duration", help="how long it took"), "duration"),
        ERROR,
    )
    line = (
        *("time", "namespace", "pod", "container", "pid", "comm", "operation", "bytes", "duration_ns", "error"),
        *("destination", "path"),
    )
    sorts: Mapping[str, str] = {
        "bytes": "bytes",
        "rate": "rate",
        "writes": "writes",
        "files": "files",
        "fsyncs": "fsyncs",
        "errors": "errors",
        "mapped": "mapped_bytes",
        "p99": "p99_ns",
        "max": "max_ns",
        "namespace": "namespace",
        "pod": "pod",
        "container": "container",
        "destination": "destination",
    }
    metered_by = "destination"
    metric_labels = ("namespace", "pod", "container", "destination", "medium")
    metrics = (
        Metric("bytes", "bytes", "Bytes written, by where they land."),
        Metric("operations", "writes", "Write operations, by where they land."),
        Metric("fsyncs", "fsyncs", "Calls of fsync and its like, and writes with O_SYNC."),
        Metric("errors", "errors", "Operations that failed."),
        Metric("mapped_bytes", "mapped_bytes", "About how many bytes were dirtied through shared mappings."),
    )
    noun = ("write", "writes")
    overview = (
        Overview(
            Column(
                "layer_bytes",
                "TO-LAYER",
                "bytes",
                rate="TO-LAYER/s",
                help="bytes written to writable layers, which the kubelet evicts by",
            ),
            "bytes",
            "destination",
            lambda cells: cells["destination"] == "writable layer",
        ),
        Overview(
            Column("log_bytes", "TO-LOGS", "bytes", rate="TO-LOGS/s", spare=True, help="bytes of its containers' logs"),
            "bytes",
            "destination",
            lambda cells: cells["destination"] == "container log",
        ),
        Overview(
            Column(
                "volume_bytes",
                "TO-VOLUMES",
                "bytes",
                short="TO-VOLS",
                rate="TO-VOLUMES/s",
                help="bytes written anywhere else: to volumes, and by the node",
            ),
            "bytes",
            "destination",
            lambda cells: cells["destination"] not in ("writable layer", "container log"),
        ),
        Overview(
            Column("write_errors", "WR-ERR", "count", spare=True, alarm=True, help="writes that failed"),
            "errors",
            "destination",
        ),
    )
    ours = ("operation", "error", "device", "destination_kind", "medium", "fstype")

    def options(self) -> Sequence[click.Option]:
        """--all and --latency."""
        import click

        return [
            click.Option(["--all", "all_files"], is_flag=True, help="Sockets, pipes, memfds and /proc or /sys too."),
            click.Option(
                ["-L", "--latency"],
                is_flag=True,
                help="Measure latencies of writes: p50, p99 and the longest; of fsyncs too with --by operation.",
            ),
        ]

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """all_files and latency."""
        return {
            "all_files": int(options["all_files"]),
            "latency": int(options["latency"]),
            "page_bytes": os.sysconf("SC_PAGESIZE"),
        }

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The tracer with the columns that these options ask for."""
        made = type(self)()
        made.counters = _Counters(shows_all=bool(options.get("all_files")))
        made._latency = bool(options.get("latency"))
        made.measures = [
            replace(column, wide=False) if column.key in _LATENCIES else column
            for column in _MEASURES
            if made._latency or column.key not in _LATENCIES
        ]
        return made

    def as_recorded(self, texts: Mapping[str, str]) -> Self:
        """With latencies, if these were measured."""
        return self.with_options({"latency": texts.get("latency") == "True"})

    def wiring(self, options: Mapping[str, Any], by: str, events: bool, host: Host) -> Wiring:
        """Constants by grouping and node, map sizes, programs without work."""
        timed = bool(options["latency"] or events)
        entries = 131072 if by in ("file", "process") else 16384
        # of the rest's too
        latencies = entries + 4096 if options["latency"] else 1
        try:
            namespace = os.stat(host.proc / "1/ns/mnt").st_ino
        except OSError:  # without the right to look: what the node writes is then all "host"
            namespace = 0
        return Wiring(
            constants={
                "by_file": int(by == "file"),
                "by_process": int(by == "process"),
                "events": int(events),
                "node_mount_namespace": namespace,
                "memory_on_v1": int(bool(host.cgroup_mounts().memory_hierarchy)),
            },
            sizes={
                "writes": entries,
                "writes_keys": entries,
                "latencies": latencies,
                "latencies_keys": latencies,
            },
            unneeded=[
                *([] if timed else [f"{group}__fentry" for group in _TIMED]),
                *([] if by == "file" else [f"{group}__{hook}" for group in _NAMED for hook in ("fentry", "kprobe")]),
            ],
        )

    def others(self, by: str) -> Sequence[str]:
        """The groupings that a table can change over to: what the kernel was not asked to tell apart stays one."""
        return [name for name in self.groupings if name == by or name not in ("file", "process")]

    def finer(self, by: str, among: Sequence[str]) -> str | None:
        """Down to the destination, and of that to what the kernel was asked to tell apart."""
        last = next(name for name in ("file", "process", "operation") if name in among)
        way = ["node", "pod", "container", "destination", last]
        return way[way.index(by) + 1] if by in way[:-1] else None

    def only_recorded(self, options: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """What the kernel counts when it is asked to."""
        asked = {"latency": ("latencies", "-L"), "all_files": ("sockets, pipes and files of the kernel", "--all")}
        return {name: what for name, what in asked.items() if options.get(name)}

    def prepare(self, store: Callable[[str, bytes, bytes], None], files: Node) -> None:
        """Tell the kernel which directories of the node are told apart."""
        for device, inode, levels in files.anchors():
            key = inode.to_bytes(8, "little") + device.to_bytes(4, "little") + bytes(4)
            store("anchors", key, levels.to_bytes(4, "little"))
        # these are all: from now on the kernel remembers what it concludes
        store("anchors", bytes(16), (1).to_bytes(4, "little"))

    def row_record(self, by: str, row: Row, context: Context, wall_ns: int) -> dict[str, Any]:
        """A `writes` object: what one row has come to. Keys that a row's grouping does not tell are null."""
        identity = identity_record(row.sample, row.landing.identity, context.node)
        if by in ("pod", "mount", "node"):
            kept = ("node", "namespace", "pod", "pod_uid", "qos_class", "names_from") if by == "pod" else ("node",)
            identity = {key: value if key in kept else None for key, value in identity.items()}
        operation = _operation(row.sample)
        other = operation in _OTHERS
        landed = by in ("destination", "process", "file", "mount", "operation") and not other
        writes, size, files, fsyncs, errors, mapped, refused = self.counters.totals(row.sums)
        record: dict[str, Any] = {
            "type": self.name,
            "time": format_time(wall_ns),
            **identity,
            **_destination_record(row.landing if landed else None),
        }
        if by == "operation":
            record["operation"] = operation
        elif by == "process":
            record |= {
                "pid": None if other else row.sample.pid,
                "comm": None if other else text_of(row.sample.comm),
            }
        elif by == "file":
            record["path"] = row.landing.path
        elif by == "mount":
            mounted = row.landing.mounted
            record |= {
                "device": _device(row.sample.device),
                "fstype": mounted.fstype if mounted is not None else None,
                "mount": mounted.root if mounted is not None else None,
            }
        record |= {
            "writes": row.window[_WRITES],
            "bytes": row.window[_BYTES],
            "writes_total": writes,
            "bytes_total": size,
            "files_total": files,
            "fsyncs_total": fsyncs,
            "errors_total": errors,
            "mapped_bytes_total": mapped,
            "refused_total": refused,
        }
        if self._latency:
            record |= dict(zip(_LATENCIES, self.counters.measures_of(row)[-3:], strict=True))
        return record

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """writes_total, bytes_total, files_total, fsyncs_total, errors_total, mapped_bytes_total, refused_total."""
        keys = ("writes", "bytes", "files", "fsyncs", "errors", "mapped_bytes", "refused")
        return {f"{key}_total": totals[key] for key in keys}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 writes, 64 MiB, 3 fsyncs, 1 error."""
        writes, errors, fsyncs = totals["writes"], totals["errors"], totals["fsyncs"]
        parts = [f"{format_count(writes)} {self.noun[writes != 1]}", format_bytes(totals["bytes"])]
        if fsyncs:
            parts.append(f"{format_count(fsyncs)} fsync{'s' if fsyncs != 1 else ''}")
        if totals["mapped_bytes"]:
            parts.append(f"about {format_bytes(totals['mapped_bytes'])} by mappings")
        if errors:
            parts.append(f"{errors} error{'s' if errors != 1 else ''}")
        return ", ".join(parts)


# Programs at the entry of a function that are only there to take the time. That of sendfile takes the file, too.
_TIMED = (
    *("write_begin", "writev_begin", "iouring_begin", "splice_begin", "copyrange_begin"),
    *("fallocate_begin", "truncate_begin", "truncatepath_begin", "fsync_begin"),
)


# Programs that follow a file's path.
_NAMED = ("renamed", "renamed_begin")

# What found no room in the kernel's table, added up for each cgroup.
_OTHERS = ("other", "other-fsync", "other-mmap", "other-refused")


def _operation(event: Any) -> str:
    name: str = event.NAMES["operation"][event.operation]
    return name


def _device(number: int) -> str:
    return f"{number >> 20}:{number & 0xFFFFF}"


def _destination_record(landing: Landing | None) -> dict[str, Any]:
    if landing is None:
        keys = ("destination", "destination_kind", "volume", "medium", "counted_as_ephemeral")
        return dict.fromkeys(keys)
    destination = landing.destination
    return {
        "destination": destination.text,
        "destination_kind": destination.kind,
        "volume": destination.volume,
        "medium": destination.medium,
        "counted_as_ephemeral": destination.counted_as_ephemeral,
    }


TRACER = Writes()
