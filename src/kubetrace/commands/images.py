"""kubetrace images: what each image of the node takes, shares and wastes, and what its removal would free.

Read off the runtimes' databases and the images' own configuration: no socket, no registry, no API server.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from kubetrace.commands import options
from kubetrace.errors import KubetraceError, NodeError, UsageError

if TYPE_CHECKING:
    from kubetrace.attribution.waste import Waste
    from kubetrace.node.image_list import ImageOfNode, ImagesOfNode, LayerKey, LayerOfNode
    from kubetrace.views.columns import Column, Value
    from kubetrace.views.window import Window

_BY: Final = ("image", "layer", "waste")
_SORTS: Final = ("frees", "own", "unpacked", "age", "wasted", "name")
_BAR: Final = 24
_MOST_PATHS: Final = 120


def _run(
    words: tuple[str, ...],
    by: str,
    unused: bool,
    wasted: bool,
    tree: bool,
    sort: str,
    output: str,
    host_root: str | None,
) -> None:
    from kubetrace.node.host import Host
    from kubetrace.node.image_list import difference, images_of, named
    from kubetrace.views.progress import Progress
    from kubetrace.views.text import visible

    host = Host.find(host_root)
    progress = Progress()
    wasted = wasted or by == "waste"
    if wasted:
        _stand_back()
    found = images_of(
        host, wasted=wasted, between=lambda what: progress.show(lambda: f"looking at {visible(what)} ...")
    )
    progress.clear()
    for problem in found.problems:
        progress.say(problem)
    if not found.images:
        raise NodeError(
            "no image is found on this node.",
            why="containerd's metadata and containers-storage's lists were looked for where runtimes keep them.",
            do="--host-root DIR, where the node's root is elsewhere",
            check="runtime",
        )
    if words and words[0] == "diff":
        if len(words) != 3:
            raise UsageError("diff takes two images.", do="kubetrace images diff A B")
        first, second = (_one(found, named(found, word), word) for word in words[1:])
        _show_difference(found, first, second, difference(found, first, second), output)
        return
    images = [image for word in words for image in _some(named(found, word), word)] if words else found.images
    if unused:
        images = [image for image in images if not image.users]
    images = sorted(images, key=lambda image: _order(image, sort))
    if output in ("json", "yaml") or output.startswith("jsonpath="):
        _objects(found, images, by, output, host.node_name())
    elif tree:
        _tree(found, images)
    else:
        _table(found, images, by, output, host.node_name(), wasted=wasted, whole=not words and not unused)


def _stand_back() -> None:
    # every file of every layer is looked at: whoever else wants the CPU goes first
    import contextlib
    import os

    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _some(images: Sequence[ImageOfNode], word: str) -> Sequence[ImageOfNode]:
    if not images:
        raise KubetraceError(
            f"no image of this node is called {word!r}.",
            why="A name is given whole, or its end (team/app:1), or the first six digits or more of an id.",
            do="kubetrace images -o wide",
        )
    return images


def _one(found: ImagesOfNode, images: Sequence[ImageOfNode], word: str) -> ImageOfNode:
    images = _some(images, word)
    if len({image.target for image in images}) > 1:
        raise KubetraceError(
            f"{word!r} may be {len(images)} images of this node.", do=f"kubetrace images diff {images[0].name} ..."
        )
    return images[0]


def _order(image: ImageOfNode, sort: str) -> tuple[object, ...]:
    numbers = {
        "frees": image.frees,
        "own": image.own,
        "unpacked": image.unpacked,
        "age": -image.pulled_ns if image.pulled_ns is not None else None,
        "wasted": image.wasted.total if image.wasted is not None else None,
    }
    number = numbers.get(sort)
    return (number is None and sort != "name", -(number or 0), image.name, image.image_id)


# Tables.


def _columns(by: str, *, wasted: bool) -> list[Column]:
    from kubetrace.views.columns import Column

    if by == "layer":
        return [
            Column("snapshot", "SNAPSHOT", "count"),
            Column("unpacked_bytes", "UNPACKED", "bytes"),
            Column("compressed_bytes", "COMPRESSED", "bytes", short="COMPR"),
            Column("inodes", "INODES", "count", spare=True),
            Column("images", "IMAGES", "count"),
            Column("twins", "TWICE", "count", alarm=True),
            *([Column("wasted_bytes", "WASTED", "bytes")] if wasted else []),
            Column("image", "IMAGE", "name", weight=2),
            Column("line", "DOCKERFILE-LINE", "name", weight=2),
            Column("diff_id", "DIFF-ID", "name", wide=True),
            Column("chain_id", "CHAIN-ID", "name", wide=True),
            Column("directory", "DIRECTORY", "path", wide=True),
        ]
    if by == "waste":
        return [
            Column("image", "IMAGE", "name", weight=2),
            Column("wasted_bytes", "WASTED", "bytes"),
            Column("files", "FILES", "count"),
            Column("deleted", "DELETED", "count"),
            Column("alike", "ALIKE", "count", spare=True),
            Column("line", "WRITTEN-BY", "name", weight=2),
            Column("hidden_by", "HIDDEN-BY", "name", weight=2),
            Column("largest", "LARGEST", "path", spare=True),
        ]
    return [
        Column("image", "IMAGE", "name", weight=2, kept=True),
        Column("age_ns", "AGE", "duration"),
        Column("users", "USED-BY", "count"),
        Column("running", "RUNNING", "count", spare=True),
        Column("unpacked_bytes", "UNPACKED", "bytes"),
        Column("compressed_bytes", "COMPRESSED", "bytes", short="COMPR"),
        Column("own_bytes", "OWN", "bytes"),
        Column("shared_bytes", "SHARED", "bytes"),
        Column("frees_bytes", "FREES", "bytes", kept=True),
        *([Column("wasted_bytes", "WASTED", "bytes"), Column("changed_bytes", "CHANGED", "bytes")] if wasted else []),
        Column("pinned", "PINNED", "text", spare=True),
        Column("layers", "LAYERS", "count", wide=True),
        Column("built", "BUILT", "name", wide=True),
        Column("pods", "PODS", "name", wide=True),
        Column("image_id", "IMAGE-ID", "name", wide=True),
        Column("names", "NAMES", "name", wide=True),
        Column("runtime", "RUNTIME", "name", wide=True),
    ]


def _table(
    found: ImagesOfNode,
    images: Sequence[ImageOfNode],
    by: str,
    output: str,
    node: str,
    *,
    wasted: bool,
    whole: bool,
) -> None:
    from kubetrace.views.plain import PlainTable
    from kubetrace.views.units import format_bytes
    from kubetrace.views.window import Window

    columns = _columns(by, wasted=wasted)
    rows = [[record.get(column.key) for column in columns] for record in _rows(found, images, by)]
    if output == "csv":
        from kubetrace.views.csv import CsvLines

        sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # csv.writer ends lines itself
        lines = CsvLines(sys.stdout, columns, headers=True)
        for row in rows:
            lines.write(row)
        lines.flush()
        return
    foot = [f"{len(images)} image{'s' if len(images) != 1 else ''}"]
    if whole and found.unused_frees:
        foot.append(f"those that no container uses take {format_bytes(found.unused_frees)}")
    problems = dict.fromkeys(f"{image.name}: {image.problem}" for image in images if image.problem)
    if by != "image":
        problems |= dict.fromkeys(f"{image.name}: {image.lines_problem}" for image in images if image.lines_problem)
    problems |= dict.fromkeys(f"{image.name}: {image.waste_problem}" for image in images if image.waste_problem)
    window: Window = Window(columns, rows, head=["kubetrace images", f"node {node}"], foot=foot, total=len(rows))
    window = _noticed(window, list(problems))
    PlainTable(sys.stdout, wide=output == "wide").show(window)
    if by == "image":
        for line in _removals(images):
            click.echo(line)


def _noticed(window: Window, problems: Sequence[str]) -> Window:
    from dataclasses import replace

    more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return replace(window, notices=[*problems[:5], *more])


def _rows(found: ImagesOfNode, images: Sequence[ImageOfNode], by: str) -> Iterator[dict[str, Value]]:
    if by == "layer":
        keys = dict.fromkeys(key for image in images for key in image.layers)
        layers = [layer for key in keys if (layer := found.layers.get(key)) is not None]
        for layer in sorted(layers, key=lambda one: -one.bytes):
            yield _layer_row(found, layer)
        return
    if by == "waste":
        rows = [row for image in images for row in _waste_rows(image)]
        # two names of one image, and what images share, are wasted once
        yield from sorted(rows, key=lambda row: -int(row["wasted_bytes"] or 0))
        return
    now = time.time_ns()
    for image in images:
        yield {
            "image": image.name,
            "age_ns": max(0, now - image.pulled_ns) if image.pulled_ns is not None else None,
            "users": len(image.users),
            "running": sum(user.runs for user in image.users),
            "unpacked_bytes": image.unpacked,
            "compressed_bytes": image.compressed,
            "own_bytes": image.own,
            "shared_bytes": image.shared,
            "frees_bytes": image.frees,
            "wasted_bytes": image.wasted.total if image.wasted is not None else None,
            "changed_bytes": sum(one.bytes for one in image.changed.values()) if image.wasted is not None else None,
            "pinned": "pinned" if image.pinned else None,
            "layers": len(image.layers),
            "built": image.built,
            "pods": ", ".join(
                dict.fromkeys(f"{user.namespace}/{user.pod}" for user in image.users if user.pod is not None)
            )
            or None,
            "image_id": image.image_id,
            "names": ", ".join(image.names),
            "runtime": image.runtime,
        }


def _layer_row(found: ImagesOfNode, layer: LayerOfNode) -> dict[str, Value]:
    return {
        "snapshot": layer.number,
        "unpacked_bytes": layer.bytes,
        "compressed_bytes": layer.compressed,
        "inodes": layer.inodes,
        "images": len(layer.images),
        "twins": len(layer.twins),
        "wasted_bytes": _wasted_in(found, layer.key),
        "image": layer.images[0] if layer.images else None,
        "line": _line(layer.created_by),
        "diff_id": layer.diff_id,
        "chain_id": layer.key[3],
        "directory": layer.directory,
    }


def _wasted_in(found: ImagesOfNode, key: LayerKey) -> int | None:
    """Of a layer: the most that one image hides of it."""
    wasted = [
        image.wasted.of(image.layers.index(key))
        for image in found.images
        if image.wasted is not None and key in image.layers
    ]
    return max(wasted, default=None)


def _waste_rows(image: ImageOfNode) -> Iterator[dict[str, Value]]:
    for (below, above), hidden in (image.wasted.hidden if image.wasted is not None else {}).items():
        yield {
            "image": image.name,
            "wasted_bytes": hidden.bytes,
            "files": hidden.files,
            "deleted": hidden.deleted,
            "alike": hidden.alike,
            "line": _line(image.lines[below]) or f"layer {below + 1} of {len(image.layers)}",
            "hidden_by": _line(image.lines[above]) or f"layer {above + 1} of {len(image.layers)}",
            "largest": b"/" + hidden.largest,
        }


def _line(created_by: str | None) -> str | None:
    from kubetrace.attribution import oci

    return oci.dockerfile_line(created_by) if created_by is not None else None


def _removals(images: Sequence[ImageOfNode]) -> Iterator[str]:
    from shlex import quote

    from kubetrace.views.text import escape
    from kubetrace.views.units import format_bytes

    unused = [image for image in images if not image.users and not image.pinned and image.frees]
    if not unused:
        return
    yield ""
    yield "What could be removed, and what that frees (nothing was):"
    for image in sorted(unused, key=lambda one: -(one.frees or 0))[:10]:
        yield f"  crictl rmi {quote(escape(image.name))}   frees {format_bytes(image.frees or 0)}"
    if len(unused) > 10:
        yield f"  and {len(unused) - 10} more: kubetrace images --unused"


# Objects.


def _objects(found: ImagesOfNode, images: Sequence[ImageOfNode], by: str, output: str, node: str) -> None:
    from kubetrace.node.image_list import record_of
    from kubetrace.views.records import open_objects

    objects = open_objects(sys.stdout, output)
    if by == "layer":
        keys = dict.fromkeys(key for image in images for key in image.layers)
        for key in keys:
            if (layer := found.layers.get(key)) is not None:
                objects.write({**record_of(layer), "node": node, "wasted_bytes": _wasted_in(found, key)})
    else:
        for image in images:
            objects.write(_record(image, node))
    objects.flush()


def _record(image: ImageOfNode, node: str) -> dict[str, Any]:
    """The keys are a contract."""
    from kubetrace.views.units import format_time

    return {
        "type": "image",
        "node": node,
        "image": image.name,
        "image_id": image.image_id,
        "names": list(image.names),
        "target": image.target,
        "runtime": image.runtime,
        "pulled": format_time(image.pulled_ns) if image.pulled_ns is not None else None,
        "built": image.built,
        "pinned": image.pinned,
        "used_by": [
            {
                "container_id": user.container_id,
                "namespace": user.namespace,
                "pod": user.pod,
                "container": user.container,
                "running": user.runs,
            }
            for user in image.users
        ],
        "layers": [key[3] for key in image.layers],
        "unpacked_bytes": image.unpacked,
        "compressed_bytes": image.compressed,
        "own_bytes": image.own,
        "shared_bytes": image.shared,
        "frees_bytes": image.frees,
        "wasted_bytes": image.wasted.total if image.wasted is not None else None,
        "waste": _waste_record(image, image.wasted) if image.wasted is not None else None,
        "changed": [
            {
                "layer": at + 1,
                "files": one.files,
                "bytes": one.bytes,
                "containers": one.containers,
                "created_by": image.lines[at],
            }
            for at, one in sorted(image.changed.items())
        ]
        if image.wasted is not None
        else None,
        "problem": image.problem,
        "lines_problem": image.lines_problem,
        "waste_problem": image.waste_problem,
    }


def _waste_record(image: ImageOfNode, wasted: Waste) -> list[dict[str, Any]]:
    import os

    return [
        {
            "layer": below + 1,
            "hidden_by_layer": above + 1,
            "bytes": hidden.bytes,
            "files": hidden.files,
            "deleted": hidden.deleted,
            "alike": hidden.alike,
            "largest": "/" + os.fsdecode(hidden.largest),
            "created_by": image.lines[below],
            "hidden_by": image.lines[above],
        }
        for (below, above), hidden in sorted(wasted.hidden.items())
    ]


# Two images.


def _show_difference(found: ImagesOfNode, first: ImageOfNode, second: ImageOfNode, parts: Any, output: str) -> None:
    from kubetrace.views.records import are_objects, open_objects

    def size(keys: Sequence[LayerKey]) -> int:
        return sum(found.layers[key].bytes for key in keys if key in found.layers)

    twice = [pair[0] for pair in parts.twice]
    sums = {
        "shared_bytes": size(parts.shared),
        "twice_bytes": size(twice),
        "only_first_bytes": size(parts.only_first),
        "only_second_bytes": size(parts.only_second),
    }
    if are_objects(output):
        objects = open_objects(sys.stdout, output)
        objects.write(
            {
                "type": "difference",
                "first": first.name,
                "second": second.name,
                "shared": [key[3] for key in parts.shared],
                "twice": [[a[3], b[3]] for a, b in parts.twice],
                "only_first": [key[3] for key in parts.only_first],
                "only_second": [key[3] for key in parts.only_second],
                **sums,
            }
        )
        objects.flush()
        return
    from kubetrace.views.text import escape
    from kubetrace.views.units import format_bytes

    for title, keys in (
        ("both have, once on disk", parts.shared),
        ("both have, twice on disk (on other layers below)", twice),
        (f"only {escape(first.name)}", parts.only_first),
        (f"only {escape(second.name)}", parts.only_second),
    ):
        click.echo(f"{format_bytes(size(keys)):>8}  {title}: {len(keys)} layer{'s' if len(keys) != 1 else ''}")
        for key in keys:
            layer = found.layers.get(key)
            if layer is not None:
                line = escape(_line(layer.created_by) or layer.diff_id or key[3])
                click.echo(f"          {format_bytes(layer.bytes):>8}  {line[:_MOST_PATHS]}")


# The tree.


def _tree(found: ImagesOfNode, images: Sequence[ImageOfNode]) -> None:
    """Layers on those below them, each with a bar as wide as it is large, and the images that end there."""
    from kubetrace.views.layer_tree import draw

    ends: dict[LayerKey, list[str]] = {}
    wanted: dict[LayerKey, None] = {}
    for image in images:
        if image.layers:
            ends.setdefault(image.layers[-1], []).append(image.name)
            wanted.update(dict.fromkeys(image.layers))
    nodes = [
        (
            key,
            layer.parent,
            layer.bytes,
            len(layer.images),
            _line(layer.created_by) or layer.diff_id or key[3],
            ends.get(key, []),
        )
        for key in wanted
        if (layer := found.layers.get(key)) is not None
    ]
    draw(sys.stdout, nodes, _BAR)


_HELP = """Show each image of this node: its age, who uses it, what it takes, and what its removal would free.

UNPACKED and COMPRESSED are on the disk both. OWN is what no other image has, SHARED what others have too, FREES what
crictl rmi would free now: on ext4 to the byte. An image's layers stay while any container was made of it, running or
not. AGE is how long ago it was pulled; when it was used last, no file says.

--wasted looks at every file of every layer: bytes that an upper layer writes again or deletes, with both lines of the
Dockerfile (--by waste). Nothing is ever removed.

\b
Examples:
  kubetrace images                         what there is, by what its removal would free
  kubetrace images --unused                those that no container uses
  kubetrace images --by layer              layers, those that are on disk twice too
  kubetrace images --by waste team/app:1   which lines of the Dockerfile waste how much
  kubetrace images diff team/app:1 team/app:2
  kubetrace images --tree                  layers on layers, as wide as they are large
"""

command = click.Command(
    "images",
    params=[
        click.Argument(["words"], nargs=-1, metavar="[IMAGE...] | diff A B"),
        click.Option(
            ["--by"],
            type=options.OneOf(_BY),
            default=_BY[0],
            metavar="|".join(_BY),
            help="One row for each of these.  [default: image]",
        ),
        click.Option(["--unused"], is_flag=True, help="Only images that no container uses."),
        click.Option(["--wasted"], is_flag=True, help="Look at the layers' files, and say what of them nobody sees."),
        click.Option(["--tree"], is_flag=True, help="Draw the layers as a tree."),
        click.Option(
            ["--sort"],
            type=options.OneOf(_SORTS),
            default=_SORTS[0],
            metavar="|".join(_SORTS),
            help="The largest or oldest first; names from a on.  [default: frees]",
        ),
        options.output(
            ("table", "wide", "json", "yaml", "csv"),
            "table and wide are for people (wide has ids, all names and pods); json, yaml and jsonpath= have an object "
            "for each image (--by layer: layer).",
            elsewhere={},
        ),
        *options.finding_node(),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
