"""copyup: files copied from an image layer into a container's writable layer, before their first change."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.fields import (
    DEVICE,
    ERROR,
    PATH,
    PATH_COLUMN,
    PROCESS,
    Field,
    Fielded,
    Sum,
    error_of,
    named,
    shown_path,
)
from kubetrace.kit.identity import (
    COMM,
    CONTAINER,
    IMAGE,
    IMAGE_WIDE,
    NAMESPACE,
    NODE,
    PID,
    POD,
    QOS,
    ended,
    identity_cells,
    path_of,
    text_of,
)
from kubetrace.kit.tracer import LAST, MAX, SUM, Grouping, Overview
from kubetrace.tables.aggregate import Groups, Key
from kubetrace.tracers.copyup.remedy import Offender, is_runtime, remedies, trigger_of
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, parse_size

if TYPE_CHECKING:
    import click

    from kubetrace.attribution.attributor import Identity, Layer, Owners
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Advice, Remedy
    from kubetrace.views.columns import Value

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

_WHY = Column(
    "trigger", "WHY", "name", min_width=10, max_width=13, help="what led to it: open-write, chmod, chown, rename, ..."
)
_COPIED = Column(
    "copied_bytes",
    "COPIED",
    "bytes",
    rate="COPIED/s",
    help="bytes really copied; holes are not, a truncating open copies none",
)
_CLONED = Column(
    "cloned_bytes", "CLONED", "bytes", wide=True, help="bytes shared instead of copied (reflink: XFS, btrfs)"
)
_LAYER = Column("layer", "LAYER", "text", help="which layer of the image the file came from, counted from the lowest")
_LINE = Column("created_by", "DOCKERFILE-LINE", "name", min_width=16, weight=3, help="the image's line that made it")
_LAYER_WIDE = replace(_LAYER, wide=True)
_LINE_WIDE = replace(_LINE, wide=True)

# Keys for which a remedy can name the layer; further ones do without.
_REMEMBERED_LAYERS = 20_000
# What was copied for one reason in one container that has ended: of so many, the heaviest.
_REMEMBERED_ENDED = 100


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "unknown")


def _shown_path(event: Any) -> bytes:
    # Whoever calls itself as the runtime does is told by that name. A path begins with a slash, or an ellipsis: no file
    # can be called so.
    return b"(by %s)" % text_of(event.comm) if is_runtime(event.comm) else shown_path(event)


def _trigger(event: Any) -> str:
    names: Mapping[int, str] = event.NAMES["trigger"]
    return names.get(event.trigger, "other")


def _layer_record(event: Any, identity: Identity, context: Context) -> dict[str, Any]:
    layer = context.layer(event, identity)
    return {
        "image": identity.image or (layer.image if layer else None),
        "layer": layer.ordinal if layer else None,
        "layers": layer.layers_total if layer else None,
        "snapshot": layer.snapshot if layer else None,
        "layer_digest": layer.layer_digest if layer else None,
        "created_by": layer.created_by if layer else None,
        "layer_reason": layer.reason if layer else "no overlay of this device number was seen",
    }


class _Advice:
    """Copy-ups by container, path, trigger, program and error: what remedy.py needs of them."""

    title = "What was copied for nothing, and what to do about it:"

    def __init__(self) -> None:
        # what failed is not folded away for having copied nothing
        self._groups = Groups(
            (SUM, SUM, MAX, MAX),
            fold=lambda key: (key[0], b"", "other", False, b"", key[5]),
            weight=lambda row: (row[3], row[1]),
        )
        self._layers: dict[Key, Layer] = {}

    def add(self, event: Any, identity: Identity, context: Context, count: int = 1) -> None:
        path, cut = path_of(event)
        if cut or identity.container_id is None or is_runtime(event.comm) or event.error == -errno.EINTR:
            return
        names = (identity.namespace, identity.pod, identity.container)
        trigger, program = trigger_of(_trigger(event), event.flags), event.comm.partition(b"\0")[0]
        key = (names, path, trigger, stat.S_ISDIR(event.mode), program, error_of(event))
        self._groups.add(key, (count, event.copied, event.size, int(event.error != 0)))
        if key not in self._layers and len(self._layers) < _REMEMBERED_LAYERS:
            layer = context.layer(event, identity)
            if layer is not None:
                self._layers[key] = layer

    def forget_ended(self, owners: Owners) -> None:
        def matter(key: Key) -> Hashable | None:
            names: Any = key[0]
            return (names, key[2], key[5]) if ended(owners, *names) else None

        # what led to copies of very many files in one container is one matter, and stays whole
        nobody: Key = ((None, None, None), b"", "other", False, b"", None)
        if self._groups.fold_ended(
            matter, lambda _: nobody, [lambda row: row[1], lambda row: row[3]], _REMEMBERED_ENDED
        ):
            self._layers = {key: layer for key, layer in self._layers.items() if key in self._groups}

    def remedies(self) -> Sequence[Remedy]:
        offenders = []
        for key, (copies, copied, size, _) in self._groups.rows():
            names, path, trigger, is_directory, program, error = key
            layer = self._layers.get(key)
            if path:
                offenders.append(
                    Offender(
                        path,  # type: ignore[arg-type]  # the key is made in add()
                        str(trigger),
                        copies,
                        copied,
                        bool(is_directory),
                        layer.ordinal if layer else None,
                        layer.line if layer else None,
                        "/".join(name or "-" for name in names),  # type: ignore[attr-defined]
                        program,  # type: ignore[arg-type]
                        error,  # type: ignore[arg-type]
                        size,
                    )
                )
        return remedies(offenders)


class Copyup(Fielded):
    """See `kit.tracer.Tracer` for what each member is."""

    name = "copyup"
    summary = "Show each file that is copied from an image layer into a container's writable layer, live, by pod."
    explanation = (
        "The first write to a file of the image, but also a chmod, chown or rename, copies the whole file up before "
        "anything else happens. Each row is a file (--by groups otherwise) with its copies, the bytes copied, the "
        "longest time that a process waited and the errors.\n\n"
        "Not seen: writes to volumes (they are not part of the overlay), later writes to a file that was copied up "
        "already, and snapshotters without overlayfs."
    )
    examples = (
        ("kubetrace copyup", "every pod of this node"),
        ("kubetrace copyup -n shop -p 'web-*' --by container", "one row for each container of these pods"),
        ("kubetrace copyup --events --min-size 1Mi", "a line for each large copy-up, as it ends"),
        ("kubetrace copyup -o json -d 60 > copyups.jsonl", "one minute, for a script"),
    )
    streams: Mapping[str, str] = {"copyup": "copyup_event", "copyup_long": "copyup_long_event"}
    overlays: Mapping[str, str] = {"copyup_overlays": "copyup_overlay_event"}
    optional: Mapping[str, str | None] = {
        "target": "parent directories are not told from what they were copied up for",
        **{
            f"{operation}{end}": f"WHY does not tell {operation}"
            for operation in (
                *("setattr", "rename", "link", "xattr", "unlink", "create"),
                *("chattr", "handle"),
            )
            for end in ("", "_end")
        },
        # overlayfs of before makes no such files, and sets ACLs as any xattr
        "tmpfile": None,
        "tmpfile_end": None,
        "acl": None,
        "acl_end": None,
        "cloned": "reflinked bytes are not seen",
        "begun": "the loser of two threads that copy one file up counts as a copy",
    }
    groupings: Mapping[str, Grouping] = {
        "file": Grouping((NAMESPACE, POD, CONTAINER, PATH_COLUMN), (_WHY, IMAGE_WIDE, _LAYER_WIDE, _LINE_WIDE)),
        "container": Grouping((NAMESPACE, POD, CONTAINER), (IMAGE_WIDE, QOS)),
        "pod": Grouping((NAMESPACE, POD), (QOS,)),
        "layer": Grouping((IMAGE, _LAYER, _LINE)),
        "image": Grouping((IMAGE,)),
        "process": Grouping((NAMESPACE, POD, CONTAINER, PID, COMM), (_WHY,)),
        "why": Grouping((_WHY,)),
        "node": Grouping((NODE,)),
    }
    time_column = Column("time", "TIME", "time", help="when the copy-up ended (local)")
    fields = (
        *PROCESS,
        PATH,
        Field(
            Column("kind", "KIND", "text", min_width=4, help="file, directory, symlink, ..."),
            says=lambda event: _kind(event.mode),
            ours=True,
        ),
        Field("mode"),
        Field("inode"),
        DEVICE,
        Field(Column("size_bytes", "SIZE", "bytes", help="size in the image layer"), "size"),
        Field(_COPIED, "copied"),
        Field(_CLONED, "cloned"),
        Field("part", says=named("part"), ours=True),
        Field(Column("duration_ns", "LATENCY", "duration", help="how long the process waited"), "duration"),
        ERROR,
        Field("flags"),
        Field(
            Column("trigger", "WHY", "text", min_width=10, help="what led to it"),
            says=_trigger,
            ours=True,
        ),
        Field("parents"),
        Field("parents_duration_ns", "parents_duration"),
        Field("is_parent", says=lambda event: bool(event.is_parent)),
        Field("layer_index", says=lambda event: event.layer_index or None),
    )
    line = (
        *("time", "namespace", "pod", "container", "pid", "comm", "trigger", "kind"),
        *("size_bytes", "copied_bytes", "cloned_bytes", "duration_ns", "error", "path"),
    )
    sums = (
        Sum(
            Column("copies", "COPIES", "count", rate="COPIES/s", help="objects copied up"),
            metric=("files", "Files copied up, failures included."),
        ),
        Sum(Column("parents", "DIRS", "count", spare=True, help="parent directories copied up on the way"), "parents"),
        Sum(_COPIED, "copied", metric=("bytes", "Bytes copied from image layers into writable layers.")),
        Sum(
            Column(
                "max_duration_ns",
                "MAX-LATENCY",
                "duration",
                short="MAX-LAT",
                help="longest time that a process waited for one copy-up",
            ),
            ("duration", "parents_duration"),
            MAX,
        ),
        Sum(
            Column("errors", "ERRORS", "count", short="ERR", alarm=True, help="copy-ups that failed, such as ENOSPC"),
            lambda event: int(event.error != 0),
            metric=("errors", "Copy-ups that failed."),
        ),
        Sum(
            Column(
                "size_bytes", "SIZE", "bytes", wide=True, help="size of the largest of these files in its image layer"
            ),
            "size",
            MAX,
        ),
        Sum(_CLONED, "cloned", metric=("cloned_bytes", "Bytes shared instead of copied (reflink).")),
        Sum(Column("time", "LAST", "time", wide=True, help="when the newest ended"), "time", MAX),
    )
    sorts: Mapping[str, str] = {
        "copied": "copied_bytes",
        "newest": "time",
        "copies": "copies",
        "latency": "max_duration_ns",
        "errors": "errors",
        "size": "size_bytes",
        "cloned": "cloned_bytes",
        "namespace": "namespace",
        "pod": "pod",
        "container": "container",
        "file": "path",
    }
    alike: Mapping[str, str] = {"time": MAX, "copied": SUM, "cloned": SUM, "duration": MAX, "tid": LAST}
    unmetered = (
        *("inode", "size", "duration", "parents_duration", "pid", "tid", "flags", "mode", "trigger", "part"),
        *("reserved", "parents", "comm", "path", "path_bytes", "path_end"),
    )
    own_cells = ("path",)
    metered_by = "container"
    metric_labels = ("namespace", "pod", "container", "image")
    noun = ("copy-up", "copy-ups")
    overview = (
        Overview(_COPIED, "copied_bytes"),
        Overview(
            Column("copy_errors", "COPY-ERR", "count", short="CP-ERR", alarm=True, help="copy-ups that failed"),
            "errors",
            weight=4,
        ),
    )
    needs_overlay = True

    def options(self) -> Sequence[click.Option]:
        """--min-size."""
        import click

        return [
            click.Option(
                ["--min-size"],
                metavar="SIZE",
                default="0",
                help="Leave out what is smaller in its layer, such as 64Ki or 1M (in the kernel).  [default: 0]",
            )
        ]

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """min_size_bytes; raises UsageError for what is not a size."""
        return {"min_size_bytes": parse_size(options["min_size"])}

    def keeps(self, options: Mapping[str, Any]) -> Callable[[Any], bool] | None:
        """By --min-size."""
        least = parse_size(options["min_size"])
        return (lambda event: bool(event.size >= least)) if least else None

    def folded(self, event: Any) -> bool:
        """Parent directories belong to the object that they were copied up for, unless it came to nothing."""
        return bool(event.is_parent) and not event.error

    def kind(self, event: Any, identity: Identity, context: Context) -> tuple[Hashable, ...]:
        """Of one process, for one reason, from one layer."""
        layer = context.layer(event, identity)
        said = layer and (layer.image, layer.ordinal, layer.layers_total, layer.created_by, layer.reason)
        return event.pid, event.comm, event.trigger, event.cgroup_id, event.memory_cgroup_id, said

    def cells_of(self, event: Any) -> Mapping[str, Value]:
        """The path; what the runtime does while it makes a container is one row, by the name of its process."""
        return {"path": _shown_path(event)}

    def key_cells(self, event: Any, identity: Identity, context: Context) -> Mapping[str, Value]:
        """By column key."""
        cells = identity_cells(event, identity)
        cells.update(self.cells_of(event))
        cells["pid"] = event.pid
        cells["comm"] = text_of(event.comm)
        cells["node"] = context.node
        cells["trigger"] = _trigger(event)
        layer = context.layer(event, identity)
        if layer is None:
            cells["layer"] = cells["created_by"] = None
        else:
            cells["image"] = layer.image or identity.image
            cells["layer"] = layer.position
            # a table may be the last one: whether it still will be, nobody knows
            cells["created_by"] = layer.line or f"({str(layer.reason).removesuffix(' yet')})"
        return cells

    def record(self, event: Any, of: Identity, context: Context) -> dict[str, Any]:
        """A `copyup` object: its fields, and which layer of which image the file came from."""
        found = super().record(event, of, context)
        found.update(_layer_record(event, of, context))
        return found

    def advice(self) -> Advice:
        """Of the files that cost most."""
        return _Advice()

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """copies, parents, copied_bytes, cloned_bytes, max_duration_ns, errors."""
        keys = ("copies", "parents", "copied_bytes", "cloned_bytes", "max_duration_ns", "errors")
        return {key: totals[key] for key in keys}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 copy-ups, 64 MiB copied, 1 error."""
        copies, errors = totals["copies"], totals["errors"]
        parts = [
            f"{format_count(copies)} {self.noun[copies != 1]}",
            f"{format_bytes(totals['copied_bytes'])} copied",
        ]
        if totals["cloned_bytes"]:
            parts.append(f"{format_bytes(totals['cloned_bytes'])} cloned")
        if errors:
            parts.append(f"{errors} error{'s' if errors != 1 else ''}")
        return ", ".join(parts)


TRACER = Copyup()
