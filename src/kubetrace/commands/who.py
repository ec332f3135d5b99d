"""kubetrace who: names the pod and container behind a number, an id or a path, from the node's files alone.

Works without BPF, a running container runtime or the API server. Every answer says how it was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from kubetrace.attribution.attributor import Layer
from kubetrace.errors import KubetraceError
from kubetrace.node.host import Host
from kubetrace.node.lookup import ID_PREFIX, Lookup

if TYPE_CHECKING:
    from kubetrace.node.lookup import Answer


@click.command(name="who")
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table", help="How to print.")
@click.option("--host-root", type=click.Path(), help="The node's root, if it is not found (/ or /host).")
@click.option("--cri-socket", type=click.Path(), help="Ask the container runtime's socket too (needs grpcio).")
def command(queries: tuple[str, ...], output: str, host_root: str | None, cri_socket: str | None) -> None:
    """Show which pod and container, or image layer, a number, an id or a path on this node belongs to.

    QUERY is a pid or cgroup id (a number is tried as both; pid:123 or cgroup:8123 means just one), a container id or
    its first 8 digits or more, snapshot:N of containerd, or an absolute path: in a snapshot, a volume, a pod's log
    directory, a cgroup, or a container's root. A snapshot that is a layer of images is shown once for each image, with
    the line of its Dockerfile, and for each container that runs on it. Needs neither BPF nor a running container
    runtime.

    \b
    Examples:
      kubetrace who 8123
      kubetrace who 0a1b2c3d4e5f -o json
      kubetrace who /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/18/fs/tmp/x
    """
    host = Host.find(host_root)
    lookup = Lookup(host, cri_socket=cri_socket)
    found: list[Answer] = []
    missing: list[str] = []
    for query in queries:
        answers = lookup.answers(query)
        found += answers
        if not answers:
            missing.append(query)
    if found:
        lines = _json(found, host.node_name()) if output == "json" else _table(found, wide=output == "wide")
        for line in lines:
            click.echo(line)
    if missing:
        raise KubetraceError(
            f"Nothing on this node is known as {', '.join(repr(query) for query in missing)}.",
            why="It may be another node's, or gone: ids live as long as the process, cgroup or container.",
            do="kubectl get pods -A -o wide, or name the kind: pid:N, cgroup:N, snapshot:N",
        )


def _json(answers: Sequence[Answer], node: str) -> Iterator[str]:
    # JSON Lines, ASCII only (views/json.py): exact text, bytes that are not UTF-8 as lone surrogates.
    for answer in answers:
        who = answer.identity
        layer = answer.layer if answer.layer is not None else Layer(0)
        yield json.dumps(
            {
                "query": answer.query,
                "kind": answer.kind,
                "namespace": who.namespace,
                "pod": who.pod,
                "container": who.container,
                "pod_uid": who.pod_uid,
                "container_id": who.container_id,
                "image": who.image,
                "qos_class": who.qos_class,
                "node": node,
                "cgroup_id": answer.cgroup_id,
                "cgroup_path": who.cgroup_path,
                "attributed_by": answer.how,
                "names_from": who.names_from,
                "snapshot": layer.snapshot,
                "chain_id": layer.chain_id,
                "layer_digest": layer.layer_digest,
                "layer": layer.ordinal,
                "layers": layer.layers_total,
                "shared_by": layer.shared_by if answer.layer is not None else None,
                "created_by": layer.created_by,
                "reason": layer.reason,
            },
            ensure_ascii=True,
            separators=(",", ":"),
        )


def _table(answers: Sequence[Answer], *, wide: bool) -> Iterator[str]:
    # Every cell is from the node or the user: escaped, and measured in terminal cells.
    from kubetrace.views.text import escape, width

    rows = [["QUERY", "KIND", "NAMESPACE", "POD", "CONTAINER", "FOUND BY"]]
    if wide:
        rows[0] += ["CONTAINER ID", "QOS", "POD UID", "CGROUP ID", "NAMES FROM", "IMAGE", "CGROUP"]
    layers = any(answer.layer is not None for answer in answers)
    if layers:
        rows[0] += ([] if wide else ["IMAGE"]) + ["LAYER", "DOCKERFILE LINE"] + (["LAYER DIGEST"] if wide else [])
    for answer in answers:
        who = answer.identity
        # A process of the host has no names; its cgroup says what it is.
        pod = who.cgroup_path if who.kind == "host" and not wide else who.pod
        query = answer.query if wide or not ID_PREFIX.fullmatch(answer.query) else answer.query[:12]
        cells: list[str | None] = [query, answer.kind, who.namespace, pod, who.container, answer.how]
        if wide:
            number = None if answer.cgroup_id is None else str(answer.cgroup_id)
            cells += [who.container_id, who.qos_class, who.pod_uid, number, who.names_from, who.image, who.cgroup_path]
        if layers:
            layer = answer.layer if answer.layer is not None else Layer(0)
            line = layer.line or (f"({layer.reason})" if layer.reason else None)
            cells += ([] if wide else [who.image]) + [layer.position, line] + ([layer.layer_digest] if wide else [])
        rows.append([escape(cell) if cell else "-" for cell in cells])
    widths = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
