"""kubetrace who: names the pod and container behind a number, an id or a path, from the node's files alone.

Works without BPF, a running container runtime or the API server. Every answer says how it was found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from kubetrace.commands import complete, options
from kubetrace.errors import KubetraceError

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.node.lookup import Answer, Lookup
    from kubetrace.node.pod_files import Cgroup, Mount, PodFiles

# A path begins with a slash; a container id as kubectl prints it (containerd://ID) has two.
_POD = re.compile(r"([^/\s:]{1,253})/([^/\s:]{1,253})")


def _run(queries: tuple[str, ...], output: str, host_root: str | None, cri_socket: str | None) -> None:
    from kubetrace.node.host import Host
    from kubetrace.node.lookup import Lookup
    from kubetrace.views.records import are_objects, open_objects

    host = Host.find(host_root)
    lookup = Lookup(host, cri_socket=cri_socket)
    found: list[Answer] = []
    pods: list[PodFiles] = []
    missing: list[str] = []
    for query in queries:
        names = _POD.fullmatch(query)
        answers = [] if names else lookup.answers(query)
        files = lookup.pods(*names.groups()) if names else []
        found += answers
        pods += files
        if not answers and not files:
            missing.append(query)
    if are_objects(output):
        objects = open_objects(sys.stdout, output)
        for record in [*_records(found, host.node_name()), *(_pod_record(one, host.node_name()) for one in pods)]:
            objects.write(record)
        objects.flush()
    elif output == "name":
        identities = [*(answer.identity for answer in found), *(one.identity for one in pods)]
        for name in dict.fromkeys(_names(identities)):
            click.echo(name)
    else:
        lines = list(_table(found, wide=output == "wide")) if found else []
        for one in pods:
            lines += [*([""] if lines else []), *_pod_lines(one, wide=output == "wide")]
        for line in lines:
            click.echo(line)
    if missing:
        raise _unknown(missing, lookup)


def _unknown(missing: Sequence[str], lookup: Lookup) -> KubetraceError:
    import difflib

    pods = [query for query in missing if _POD.fullmatch(query)]
    near = difflib.get_close_matches(pods[0], lookup.pod_names(), n=3) if pods else []
    why = "It may be another node's, or gone: ids live as long as the process, cgroup or container."
    if near:
        why = f"Did you mean {' or '.join(map(repr, near))}?"
    return KubetraceError(
        f"Nothing on this node is known as {', '.join(repr(query) for query in missing)}.",
        why=why,
        do=f"kubetrace who {near[0]}" if near else "kubectl get pods -A -o wide, or name the kind: pid:N, cgroup:N",
    )


def _names(identities: Iterable[Identity]) -> Iterator[str]:
    """As kubectl's -o name has them, with the namespace in front: namespace/pod/name."""
    from kubetrace.views.text import escape

    for who in identities:
        if who.pod is not None:
            yield escape(f"{who.namespace or '-'}/pod/{who.pod}")


def _records(answers: Sequence[Answer], node: str) -> Iterator[dict[str, object]]:
    # The keys are a contract.
    from kubetrace.attribution.attributor import Layer

    for answer in answers:
        who = answer.identity
        layer = answer.layer if answer.layer is not None else Layer(0)
        yield {
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
            "directory": answer.directory,
            "chain_id": layer.chain_id,
            "layer_digest": layer.layer_digest,
            "layer": layer.ordinal,
            "layers": layer.layers_total,
            "shared_by": layer.shared_by if answer.layer is not None else None,
            "created_by": layer.created_by,
            "reason": layer.reason,
        }


def _pod_record(pod: PodFiles, node: str) -> dict[str, object]:
    who = pod.identity
    return {
        "query": f"{who.namespace}/{who.pod}",
        "kind": "pod",
        "namespace": who.namespace,
        "pod": who.pod,
        "pod_uid": who.pod_uid,
        "qos_class": who.qos_class,
        "node": node,
        "labels": None if pod.labels is None else dict(label.split("=", 1) for label in pod.labels),
        "directory": pod.directory,
        "cgroups": [_cgroup_record(cgroup) for cgroup in pod.cgroups],
        "volumes": [{"name": volume.name, "kind": volume.kind, "path": volume.path} for volume in pod.volumes],
        "containers": [
            {
                "kind": one.identity.kind,
                "container": one.identity.container,
                "container_id": one.identity.container_id,
                "image": one.identity.image,
                "names_from": one.identity.names_from,
                "cgroups": [_cgroup_record(cgroup) for cgroup in one.cgroups],
                "pids": list(one.pids),
                "root": one.root,
                "root_type": one.root_type,
                "upperdir": one.upperdir,
                "layers": one.lowerdirs,
                "mounts": [
                    {
                        "at": mount.at,
                        "source": mount.source,
                        "volume": mount.volume,
                        "image": mount.image,
                        "read_only": mount.read_only,
                    }
                    for mount in one.mounts
                ],
            }
            for one in pod.containers
        ],
    }


def _cgroup_record(cgroup: Cgroup) -> dict[str, object]:
    return {"hierarchy": cgroup.hierarchy, "cgroup_id": cgroup.cgroup_id, "path": cgroup.path}


def _pod_lines(pod: PodFiles, *, wide: bool) -> Iterator[str]:
    from kubetrace.node.pod_files import is_everywhere
    from kubetrace.views.text import escape

    who = pod.identity
    name, uid = escape(f"{who.namespace}/{who.pod}"), escape(who.pod_uid or "-")
    yield f"Pod:        {name}, uid {uid}, {who.qos_class or '-'}"
    labels = "not known: the runtime's files have none of its sandbox" if pod.labels is None else ", ".join(pod.labels)
    yield f"Labels:     {escape(labels) or '-'}"
    yield from _cgroup_lines(pod.cgroups)
    if pod.directory is not None:
        yield f"Directory:  {escape(pod.directory)}"
    for number, volume in enumerate(pod.volumes):
        yield f"{'Volumes:' if not number else '':<12}{volume.kind}/{escape(volume.name)}  {escape(volume.path)}"
    for one in pod.containers:
        name = "(sandbox)" if one.identity.kind == "sandbox" else escape(one.identity.container or "-")
        yield ""
        image = f", {escape(one.identity.image)}" if one.identity.image else ""
        yield f"Container:  {name}, {escape(one.identity.container_id or '-')}{image}"
        yield from _cgroup_lines(one.cgroups)
        yield f"Pids:       {' '.join(map(str, one.pids)) or '-'}"
        if one.root is not None:
            what = f"an overlay of {one.lowerdirs} layer{'s' * (one.lowerdirs != 1)}"
            if one.lowerdirs is None:
                what = f"{escape(one.root_type or '-')}, no overlay: nothing is copied up"
            yield f"Root:       {escape(one.root)}, {what}"
            yield f"Writable:   {escape(one.upperdir or (one.root if one.lowerdirs is None else '-'))}"
        mounts = [mount for mount in one.mounts if wide or not is_everywhere(mount, pod)]
        lines = [
            f"{escape(mount.at)}  {_source(mount)}" + (", read-only" if mount.read_only else "") for mount in mounts
        ]
        if left := len(one.mounts) - len(mounts):
            lines.append(f"{'and ' if lines else ''}{left} that every container has, such as /etc/hosts (-o wide)")
        for number, line in enumerate(lines):
            yield f"{'Mounts:' if not number else '':<12}{line}"


def _source(mount: Mount) -> str:
    from kubetrace.views.text import escape

    if mount.image is not None:
        return f"image {escape(mount.image)}"
    return f"volume {escape(mount.volume)}" if mount.volume else escape(mount.source)


def _cgroup_lines(cgroups: Sequence[Cgroup]) -> Iterator[str]:
    from kubetrace.views.text import escape

    for number, cgroup in enumerate(cgroups):
        kind = "" if cgroup.hierarchy == 0 else f" (v1 hierarchy {cgroup.hierarchy})"
        yield f"{'Cgroup:' if not number else '':<12}{cgroup.cgroup_id}{kind}  {escape(cgroup.path)}"


def _table(answers: Sequence[Answer], *, wide: bool) -> Iterator[str]:
    # Every cell is from the node or the user: escaped, and measured in terminal cells.
    from kubetrace.attribution.attributor import Layer
    from kubetrace.node.lookup import ID_PREFIX
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


_HELP = """Show which pod and container, or image layer, a number, an id or a path on this node belongs to.

QUERY is a pid or cgroup id (a number is tried as both; pid:123 or cgroup:8123 means just one), a container id or its
first 8 digits or more, snapshot:N of containerd, or an absolute path: in a snapshot, a volume, a pod's log directory, a
cgroup, or a container's root. A snapshot that is a layer of images is shown once for each image, with the line of its
Dockerfile, and for each container that runs on it.

NAMESPACE/POD is the other direction: the pod's cgroups, and of each container pids, root, writable layer (upperdir) and
what is mounted where.

Needs neither BPF nor a running container runtime.

\b
Examples:
  kubetrace who 8123
  kubetrace who 0a1b2c3d4e5f -o json
  kubetrace who /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/18/fs/tmp/x
  kubetrace who shop/web-0
  kubetrace who shop/web-0 -o jsonpath='{.containers[*].upperdir}'
"""

command = click.Command(
    "who",
    params=[
        click.Argument(["queries"], nargs=-1, required=True, metavar="QUERY...", shell_complete=complete.queries),
        options.output(
            ("table", "wide", "json", "yaml", "name"),
            "table and wide are for people (wide has ids, and all mounts); json, yaml and jsonpath= have an object for "
            "each answer; name is NAMESPACE/pod/NAME.",
            elsewhere={},
        ),
        *options.finding_node(),
        options.cri_socket(),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
