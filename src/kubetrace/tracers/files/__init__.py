"""files: how often files are opened, made, looked up, listed and removed, by whom, and in which volume or layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from kubetrace.errors import UsageError
from kubetrace.kit.fields import device_of, error_of, named
from kubetrace.kit.identity import (
    COMM,
    CONTAINER,
    NAMESPACE,
    NODE,
    PID,
    POD,
    identity_cells,
    identity_record,
    text_of,
)
from kubetrace.kit.tracer import Grouping, Metric, Tracer, Wiring
from kubetrace.views.columns import Column
from kubetrace.views.units import format_count, format_time

if TYPE_CHECKING:
    import click

    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.destination import Destination
    from kubetrace.kit.context import Context
    from kubetrace.kit.landing import Landing, Row
    from kubetrace.kit.tracer import Remedy
    from kubetrace.node.host import Host
    from kubetrace.node.survey import Node
    from kubetrace.views.columns import Value

# Measure -> the operations (bpf/files_key.bpf.h) that are added up in it.
_ADDED: Mapping[str, Sequence[str]] = {
    "opens": ("open",),
    "created": ("create", "tmpfile"),
    "missing": ("open-missing", "lookup-missing"),
    "stats": ("stat",),
    "lists": ("list",),
    "removed": ("unlink",),
    "renames": ("rename",),
    "mkdirs": ("mkdir",),
    "rmdirs": ("rmdir",),
    "links": ("link", "symlink"),
    "nodes": ("mknod",),
    "whiteouts": ("whiteout",),
}
# A row has a sum for each operation.
_KINDS = {operation: kind for kind, operation in enumerate(name for names in _ADDED.values() for name in names)}
_SUMMED = [(key, [_KINDS[name] for name in names]) for key, names in _ADDED.items()]
# What makes a name, and what takes one away.
_MADE = [_KINDS[name] for name in ("create", "mkdir", "mknod", "link", "symlink")]
_UNMADE = [_KINDS[name] for name in ("unlink", "rmdir")]
# Without these (--only) what is left of them is not known.
_NAMING = frozenset({"create", "mkdir", "mknod", "link", "unlink", "rmdir"})
# What --only takes -> groups of programs.
_GROUPS: Mapping[str, Sequence[str]] = {
    "open": ("open",),
    "create": ("open", "create"),
    "missing": ("open", "lookup"),
    "stat": ("stat", "stat_begin"),
    "list": ("list", "list_begin"),
    "unlink": ("unlink", "unlink_begin"),
    "rename": ("rename", "rename_begin"),
    "mkdir": ("mkdir", "mkdir_begin"),
    "rmdir": ("rmdir", "rmdir_begin"),
    "link": ("link", "link_begin", "symlink", "symlink_begin"),
    "mknod": ("mknod", "mknod_begin"),
    "whiteout": ("whiteout", "unlink", "unlink_begin", "rmdir", "rmdir_begin", "rename", "rename_begin"),
}
# And the measures that they fill.
_SHOWN: Mapping[str, str] = {
    "open": "opens",
    "create": "created",
    "missing": "missing",
    "stat": "stats",
    "list": "lists",
    "unlink": "removed",
    "rename": "renames",
    "mkdir": "mkdirs",
    "rmdir": "rmdirs",
    "link": "links",
    "mknod": "nodes",
    "whiteout": "whiteouts",
}
# The hooks by which a group's programs are named (bpf/files.bpf.c).
_HOOKS = ("fentry", "fentry_file", "fentry_filename", "kprobe", "kprobe_file", "kprobe_filename")
_ALL_GROUPS = ("create", "create_begin", *{group: None for groups in _GROUPS.values() for group in groups})

_DESTINATION = Column(
    "destination",
    "DESTINATION",
    "name",
    # the most frequent one, whole
    min_width=len("writable layer"),
    weight=2,
    help="writable layer, emptyDir/NAME, hostPath PATH, ...; (no file): the call found none",
)
_MEDIUM = Column("medium", "MEDIUM", "text", wide=True, help="disk, memory or network")
_OPERATION = Column("operation", "OPERATION", "text", min_width=9, help="open, create, open-missing, stat, ...")
_ERROR = Column("error", "ERROR", "text", min_width=6, help="errno name of those that failed")
_DIRECTORY = Column("directory", "DIRECTORY", "path", weight=3, help="path in the container, or on the node")
_DEVICE = Column("device", "DEVICE", "text", min_width=6, help="MAJOR:MINOR of the file system")
_TYPE = Column("fstype", "TYPE", "name", help="type of the file system")

_MEASURES = (
    Column(
        "operations",
        "OPS",
        "count",
        rate="OPS/s",
        grows=True,
        help="operations that succeeded, and look-ups that missed",
    ),
    Column("opens", "OPENS", "count", rate="OPENS/s", help="files and directories that were there"),
    Column("created", "CREATED", "count", rate="CREATED/s", help="files made by open or mknod"),
    Column("removed", "REMOVED", "count", rate="REMOVED/s", help="names of files removed (unlink)"),
    Column(
        "names",
        "NAMES",
        "count",
        rate="NAMES/s",
        spare=True,
        help="names made less names removed: but for hard links, the inodes that it takes",
    ),
    Column("missing", "MISSING", "count", rate="MISSING/s", help="opens and look-ups of what is not there"),
    Column("stats", "STATS", "count", rate="STATS/s", help="stat, fstat and statx"),
    Column(
        "lists", "LISTS", "count", rate="LISTS/s", spare=True, help="calls of getdents, two at least for a directory"
    ),
    Column("renames", "RENAMES", "count", rate="RENAMES/s", spare=True, help="renames and exchanges"),
    Column("mkdirs", "MKDIRS", "count", wide=True, help="directories made"),
    Column("rmdirs", "RMDIRS", "count", wide=True, help="directories removed"),
    Column("links", "LINKS", "count", wide=True, help="links and symbolic links made"),
    Column("nodes", "NODES", "count", wide=True, help="pipes, sockets and devices made (mknod, bind)"),
    Column("whiteouts", "WHITEOUTS", "count", wide=True, help="left in the writable layer for removed image files"),
    Column("errors", "ERRORS", "count", short="ERR", alarm=True, help="operations that failed, such as EACCES, ENOSPC"),
    Column(
        "expected",
        "EXPECTED",
        "count",
        wide=True,
        help="failures that programs go by: EEXIST of mkdir -p, ENOTEMPTY, EISDIR, EXDEV, ... (--by error)",
    ),
)
# In the order of `_Counters.totals`.
_TOTALS = ("operations", *_ADDED, "names", "errors", "expected")


class _Counters:
    """See `kit.landing.Counters`."""

    def __init__(
        self, *, shows_all: bool = False, measures: Sequence[Column] = _MEASURES, knows_names: bool = True
    ) -> None:
        self.shows_all = shows_all
        self._knows_names = knows_names
        self._measures = [column.key for column in measures]
        self.sorted_by: Mapping[str, tuple[str, int]] = {key: ("now", number) for number, key in enumerate(_TOTALS)}

    counters: Sequence[str] = ("files", "files_rest")
    histogram = ""
    mounts = "files_mounts"
    places = "files_places"
    key_end = "rest"
    values = ("count", "errors", "expected", "bytes")
    kinds: Mapping[str, int] = _KINDS

    def details(self, by: str) -> Sequence[str]:
        """What a row's cells are of, besides owner, operation, destination and path."""
        return {"process": ("pid", "comm"), "error": ("error",), "mount": ("device",)}.get(by, ())

    def timed(self, by: str, kind: int) -> bool:
        """Nothing is."""
        return False

    def totals(self, sums: Sequence[Sequence[int]]) -> Sequence[int]:
        """In the order of `_TOTALS`."""
        counts = [one[0] for one in sums]
        errors, expected = sum([one[1] for one in sums]), sum([one[2] for one in sums])
        added = [sum([counts[kind] for kind in kinds]) for _, kinds in _SUMMED]
        names = 0
        if self._knows_names:
            names = sum([counts[kind] for kind in _MADE]) - sum([counts[kind] for kind in _UNMADE])
        # a whiteout is part of a removal, and no operation of the user
        return (sum(counts) - counts[_KINDS["whiteout"]], *added, names, errors, expected)

    def cells(self, by: str, event: Any, landing: Landing, node: str) -> Mapping[str, Value]:
        """By column key."""
        mounted = landing.mounted
        return {
            **identity_cells(event, landing.identity),
            "destination": _destination(event, landing),
            "medium": landing.destination.medium,
            "operation": _operation(event),
            "error": error_of(event),
            "node": node,
            "pid": None if event.rest else event.pid,
            "comm": None if event.rest else text_of(event.comm),
            "device": device_of(event) if event.device else None,
            "fstype": mounted.fstype if mounted is not None else None,
            "directory": landing.path,
        }

    def measures_of(self, row: Row) -> Sequence[Value]:
        """In the order of the tracer's measures."""
        found = dict(zip(_TOTALS, self.totals(row.sums), strict=True))
        return [found[key] for key in self._measures]


class Files(Tracer):
    """See `kit.tracer.Tracer`."""

    name = "files"
    summary = "Who opens, makes, looks up, lists and removes how many files, and where."
    explanation = (
        "Every operation on a file or a name is counted once in the kernel: opens, creations, stats, readings of "
        "directories, removals, renames, links, and what is looked for and not there. Each row is a container and "
        "where it does that: its writable layer, a volume by name, or for processes of the node the image store, the "
        "kubelet or the host. Overlayfs is slow at many small files: what is high beside the rest wants a volume.\n\n"
        "MISSING has no place: the kernel does not say where a file was not. ERRORS are what a program has to care "
        "for; what programs try and go by (mkdir -p, or Go, which unlinks directories first) is in EXPECTED."
    )
    examples = (
        ("kubetrace files", "who does what to how many files, live"),
        ("kubetrace files -n shop --by operation -d 10", "each operation by itself"),
        ("kubetrace files --by directory --sort created", "the directories that most files are made in"),
        ("kubetrace files --only create,unlink -o json -i 10", "two of them alone, which costs the node less"),
    )
    table = "counted"
    # Counters are read before the streams that explain them: nothing is counted whose mount is not told.
    streams: Mapping[str, str] = {
        "files": "files_counter",
        "files_rest": "files_counter",
        "files_mounts": "kt_mount_event",
        "files_places": "kt_place_event",
    }
    counters = _Counters()
    optional: Mapping[str, str | None] = {
        group + part: what
        for group, what in {
            "open": "opens and files that are made are not seen",
            "lookup": "look-ups of what is not there are not seen",
            "stat": "stats are not seen",
            "list": "readings of directories are not seen",
            "unlink": "removals of files are not seen",
            "rmdir": "removals of directories are not seen",
            "mkdir": "new directories are not seen",
            "create": "regular files made by mknod are not seen",
            "mknod": "new pipes, sockets and devices are not seen",
            "symlink": "new symbolic links are not seen",
            "link": "new links are not seen",
            "rename": "renames are not seen",
            "whiteout": "whiteouts are not seen (no overlayfs in the kernel when kubetrace began)",
        }.items()
        for part in (("",) if group in ("open", "lookup", "whiteout") else ("", "_begin"))
    }
    groupings: Mapping[str, Grouping] = {
        "destination": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _MEDIUM)),
        "pod": Grouping((NAMESPACE, POD)),
        "container": Grouping((NAMESPACE, POD, CONTAINER)),
        "process": Grouping((NAMESPACE, POD, CONTAINER, PID, COMM, _DESTINATION)),
        "directory": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _DIRECTORY)),
        "operation": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _OPERATION)),
        "error": Grouping((NAMESPACE, POD, CONTAINER, _DESTINATION, _OPERATION, _ERROR)),
        "mount": Grouping((_DEVICE, _TYPE, _DESTINATION)),
        "node": Grouping((NODE,)),
    }
    measures: Sequence[Column] = _MEASURES
    event_columns: Sequence[Column] = ()
    sorts: Mapping[str, str] = {
        **{
            name: name
            for name in ("operations", "opens", "created", "removed", "names", "missing", "stats", "lists", "renames")
        },
        **{name: name for name in ("whiteouts", "errors", "namespace", "pod", "container", "destination")},
    }
    noun = ("operation", "operations")
    metered_by = "destination"
    metric_labels = ("namespace", "pod", "container", "destination", "medium")
    metrics = (
        Metric("operations", "operations", "Operations on files and names that succeeded, and look-ups that missed."),
        Metric("opens", "opens", "Opens of files and directories that were there."),
        Metric("created", "created", "Files made."),
        Metric("removed", "removed", "Names of files removed."),
        Metric("missing", "missing", "Opens and look-ups of what is not there."),
        Metric("stats", "stats", "Calls of stat, fstat and statx."),
        Metric("lists", "lists", "Calls of getdents."),
        Metric("whiteouts", "whiteouts", "Whiteouts left in the writable layer."),
        Metric("errors", "errors", "Operations that failed."),
    )
    ours = ("operation", "error", "device", "destination_kind", "medium", "fstype")

    def options(self) -> Sequence[click.Option]:
        """--all and --only."""
        import click

        return [
            click.Option(["--all", "all_files"], is_flag=True, help="Sockets, pipes, memfds and /proc or /sys too."),
            click.Option(
                ["--only"],
                metavar="OPERATIONS",
                help=f"Count these alone, by commas: {', '.join(_GROUPS)}. Others cost nothing then.  [default: all]",
            ),
        ]

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """None; what --only does not know is refused here."""
        _only(options)
        return {}

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The tracer with the columns that these options ask for."""
        made = type(self)()
        only = _only(options)
        shown = {_SHOWN[name] for name in only} | {"operations", "errors", "expected"}
        knows_names = not only or set(only) >= _NAMING
        made.measures = [
            column for column in _MEASURES if not only or column.key in shown or (column.key == "names" and knows_names)
        ]
        made.counters = _Counters(
            shows_all=bool(options.get("all_files")), measures=made.measures, knows_names=knows_names
        )
        return made

    def as_recorded(self, texts: Mapping[str, str]) -> Self:
        """With the operations that were counted."""
        return self.with_options({"only": texts.get("only")})

    def wiring(self, options: Mapping[str, Any], by: str, events: bool, host: Host) -> Wiring:
        """Constants by grouping and node, map sizes, programs that nothing is asked of, places of arguments.

        Raises UsageError for --events.
        """
        if events:
            raise UsageError(
                "--events: files counts, and tells no single operation.",
                do="--by process or --by directory; kubetrace starts, cgroups and copyup have events",
            )
        entries = 131072 if by in ("directory", "process") else 16384
        try:
            namespace = os.stat(host.proc / "1/ns/mnt").st_ino
        except OSError:  # without the right to look: what the node does is then all "host"
            namespace = 0
        names = _only(options)
        needed = {group for name in names for group in _GROUPS[name]} or set(_ALL_GROUPS)
        if "create" in needed:
            needed.add("create_begin")
        return Wiring(
            constants={
                "by_directory": int(by == "directory"),
                "by_process": int(by == "process"),
                "by_roots": 1,
                "node_mount_namespace": namespace,
                "memory_on_v1": int(bool(host.cgroup_mounts().memory_hierarchy)),
            },
            sizes={"files": entries, "files_keys": entries},
            unneeded=[
                *(f"{group}__{hook}" for group in _ALL_GROUPS if group not in needed for hook in _HOOKS),
                *(f"{group}__fentry" for group in _ALL_GROUPS if group.endswith("_begin") and group != "rmdir_begin"),
            ],
            places=_PLACES,
        )

    def others(self, by: str) -> Sequence[str]:
        """The groupings that a table can change over to: what the kernel was not asked to tell apart stays one."""
        return [name for name in self.groupings if name == by or name not in ("directory", "process")]

    def finer(self, by: str, among: Sequence[str]) -> str | None:
        """Down to the destination, and of that to what the kernel was asked to tell apart."""
        last = next(name for name in ("directory", "process", "operation") if name in among)
        way = ["node", "pod", "container", "destination", last]
        return way[way.index(by) + 1] if by in way[:-1] else None

    def only_recorded(self, options: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """What the kernel counts when it is asked to."""
        return {"all_files": ("/proc, /sys, pipes and sockets", "--all")} if options.get("all_files") else {}

    def prepare(self, store: Callable[[str, bytes, bytes], None], files: Node) -> None:
        """Tell the kernel which directories of the node are told apart."""
        for device, inode, levels in files.anchors():
            key = inode.to_bytes(8, "little") + device.to_bytes(4, "little") + bytes(4)
            store("anchors", key, levels.to_bytes(4, "little"))
        # these are all: from now on the kernel remembers what it concludes
        store("anchors", bytes(16), (1).to_bytes(4, "little"))

    def row_record(self, by: str, row: Row, context: Context, wall_ns: int) -> dict[str, Any]:
        """A `files` object: what one row has come to. Keys that a row's grouping does not tell are null."""
        sample, landing = row.sample, row.landing
        identity = identity_record(sample, landing.identity, context.node)
        if by in ("pod", "mount", "node"):
            kept = ("node", "namespace", "pod", "pod_uid", "qos_class", "names_from") if by == "pod" else ("node",)
            identity = {key: value if key in kept else None for key, value in identity.items()}
        landed = by not in ("pod", "container", "node") and sample.device and not sample.rest
        destination = landing.destination if landed else None
        record: dict[str, Any] = {
            "type": self.name,
            "time": format_time(wall_ns),
            **identity,
            "destination": destination.text if destination is not None else None,
            "destination_kind": destination.kind if destination is not None else None,
            "volume": destination.volume if destination is not None else None,
            "medium": destination.medium if destination is not None else None,
        }
        if by in ("operation", "error"):
            record["operation"] = _operation(sample)
        if by == "error":
            record["error"] = error_of(sample)
        elif by == "process":
            pid, comm = (None, None) if sample.rest else (sample.pid, text_of(sample.comm))
            record |= {"pid": pid, "comm": comm}
        elif by == "directory":
            record["path"] = landing.path
        elif by == "mount":
            record |= {
                "device": device_of(sample) if sample.device else None,
                "fstype": landing.mounted.fstype if landing.mounted is not None else None,
            }
        record["operations"] = row.window[0]
        return record | _with_total(dict(zip(_TOTALS, self.counters.totals(row.sums), strict=True)))

    def remedies_of(
        self, counted: Iterable[tuple[Identity, Destination, Sequence[Sequence[int]]]]
    ) -> tuple[str, Sequence[Remedy]]:
        """Where there are too many of something."""
        from kubetrace.tracers.files.advice import TITLE, remedies

        totals = self.counters.totals
        return TITLE, remedies(
            (identity, destination, dict(zip(_TOTALS, totals(sums), strict=True)))
            for identity, destination, sums in counted
        )

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """operations_total, opens_total, created_total, ..., errors_total, expected_total."""
        return _with_total({key: totals[key] for key in _TOTALS if key in totals})

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 operations, 3 files created, 1 removed, 1 error."""
        parts = [f"{format_count(totals['operations'])} {self.noun[totals['operations'] != 1]}"]
        created, errors = totals.get("created"), totals["errors"]
        if created:
            parts.append(f"{format_count(created)} file{'s' if created != 1 else ''} created")
        for key, words in (("removed", "removed"), ("missing", "not found"), ("whiteouts", "whiteouts")):
            if totals.get(key):
                parts.append(f"{format_count(totals[key])} {words}")
        if errors:
            parts.append(f"{format_count(errors)} error{'s' if errors != 1 else ''}")
        return ", ".join(parts)


# Variables of bpf/files.bpf.c -> function and argument.
_PLACES: Mapping[str, tuple[str, str]] = {
    **{
        f"{name}_{variable}": (f"vfs_{name}", argument)
        for name in ("unlink", "mkdir", "mknod", "symlink", "link")
        for variable, argument in (
            ("dir", "dir"),
            ("dentry", "new_dentry" if name == "link" else "dentry"),
            ("result", "return"),
        )
    },
    "create_dentry": ("vfs_create", "dentry"),
    "create_result": ("vfs_create", "return"),
    "mkdir_gives_dentry": ("vfs_mkdir", "*"),
}


def _with_total(totals: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{key}_total": value for key, value in totals.items()}


def _only(options: Mapping[str, Any]) -> Collection[str]:
    """Those of --only; empty: all. Raises UsageError."""
    names = [name.strip() for name in str(options.get("only") or "").split(",") if name.strip()]
    for name in names:
        if name not in _GROUPS:
            raise UsageError(
                f"--only: {name!r} is not an operation that can be counted alone.",
                do=f"--only with one or more of {', '.join(_GROUPS)}",
            )
    return names


_operation = named("operation")


def _destination(event: Any, landing: Landing) -> str:
    if event.rest:
        return "(others)"
    # what was not found was nowhere
    return landing.destination.text if event.device else "(no file)"


TRACER = Files()
