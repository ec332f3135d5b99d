"""kubetrace pod: one page on where a pod's data lives, each part with its path on the node and its own numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import complete, options
from kubetrace.errors import KubetraceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from kubetrace.node.host import Host
    from kubetrace.node.lookup import Lookup
    from kubetrace.node.pod_files import Cgroup, PodFiles
    from kubetrace.node.pod_page import ContainerPage, Namespace, PodPage, Space, Use, VolumePage
    from kubetrace.session.recorded_pod import RecordedPod
    from kubetrace.views.outline import Entry


def _run(
    queries: tuple[str, ...],
    output: str,
    file: Path | None,
    watch: bool,
    interval: str,
    duration: str | None,
    host_root: str | None,
    cri_socket: str | None,
) -> None:
    if file is not None:
        if watch:
            raise UsageError("-w and --from exclude one another.", why="A recording does not change.", do="one of them")
        _run_recorded(queries, output, file)
        return
    from kubetrace.node.host import Host
    from kubetrace.node.lookup import Lookup
    from kubetrace.node.pod_page import pod_page
    from kubetrace.views.outline import draw
    from kubetrace.views.progress import Progress
    from kubetrace.views.records import are_objects, open_objects
    from kubetrace.views.text import visible
    from kubetrace.views.units import parse_duration

    host = Host.find(host_root)
    lookup = Lookup(host, cri_socket=cri_socket)
    files: list[PodFiles] = []
    for query in queries:
        files += _files_of(lookup, query)
    progress = Progress()
    pages = [
        pod_page(host, one, between=lambda what: progress.show(lambda: f"looking at {visible(what)} ..."))
        for one in files
    ]
    progress.clear()
    for problem in dict.fromkeys(problem for page in pages for problem in page.problems):
        progress.say(problem)
    objects = open_objects(sys.stdout, output) if are_objects(output) else None

    def show(shown: Sequence[PodPage]) -> None:
        for page in shown:
            if objects is not None:
                objects.write(_record(page, host.node_name()))
            else:
                draw(sys.stdout, _outline(page))
        if objects is not None:
            objects.flush()

    show(pages)
    if watch:
        interval_s = options.interval_s({"interval": interval})
        lasts_s = parse_duration(duration) if duration is not None else None
        _watch(host, cri_socket, pages, show if objects is not None else None, interval_s, lasts_s)


def _watch(
    host: Host,
    cri_socket: str | None,
    pages: Sequence[PodPage],
    show: Callable[[Sequence[PodPage]], None] | None,
    interval_s: float,
    lasts_s: float | None,
) -> None:
    """Look again and again: `show` all of it, or (None) a line for what has changed."""
    from kubetrace.commands.pod_changes import changes
    from kubetrace.node.lookup import Lookup
    from kubetrace.node.pod_page import pod_page
    from kubetrace.session.stop import Stop
    from kubetrace.views.output import Output, Reader

    output, reader = Output(sys.stdout), Reader(sys.stdout)
    begun = looked = time.monotonic()
    took = 0.0
    with Stop() as stop:
        while True:
            # a tenth of a core at most: what is large is looked at less often
            until = looked + max(interval_s, 9 * took)
            if lasts_s is not None:
                until = min(until, begun + lasts_s)
            while not stop.asked and (left := until - time.monotonic()) > 0:
                reader.check()
                time.sleep(min(left, 0.1))
            if stop.asked or (lasts_s is not None and time.monotonic() >= begun + lasts_s):
                return
            before, looked_before = pages, looked
            looked = time.monotonic()
            names = [(page.files.identity.namespace or "", page.files.identity.pod or "") for page in before]
            lookup = Lookup(host, cri_socket=cri_socket)
            found = [file for name in dict.fromkeys(names) for file in lookup.pods(*name)]
            pages = [pod_page(host, one) for one in found]
            took = time.monotonic() - looked
            if show is not None:
                show(pages)
            else:
                for line in _changed(before, pages, looked - looked_before, changes):
                    output.write(line)
                output.flush()
            if not pages:
                return


def _changed(
    before: Sequence[PodPage],
    now: Sequence[PodPage],
    passed_s: float,
    changes: Callable[[PodPage, PodPage, float], Iterator[tuple[str, str]]],
) -> Iterator[str]:
    from kubetrace.views.text import escape

    moment = time.strftime("%H:%M:%S")
    pages = {page.files.identity.pod_uid: page for page in now}
    for old in before:
        who = old.files.identity
        page = pages.get(who.pod_uid)
        said = [("pod", "is gone")] if page is None else changes(old, page, passed_s)
        for what, how in said:
            yield f"{moment}  {escape(f'{who.namespace}/{who.pod}')}  {escape(what)}  {how}\n"


def _run_recorded(queries: tuple[str, ...], output: str, file: Path) -> None:
    from kubetrace.recording.reader import Recording
    from kubetrace.session.recorded_pod import meant, recorded_pods
    from kubetrace.views.outline import draw
    from kubetrace.views.records import are_objects, open_objects

    with Recording(file) as recording:
        pods = recorded_pods(recording)
        node = recording.header.node
    found = [pod for query in queries for pod in _some(meant(pods, query), query, file)]
    if are_objects(output):
        objects = open_objects(sys.stdout, output)
        for pod in found:
            objects.write(_recorded_record(pod, node))
        objects.flush()
        return
    for pod in found:
        draw(sys.stdout, _recorded_outline(pod, node))


def _some(pods: Sequence[RecordedPod], query: str, file: Path) -> Sequence[RecordedPod]:
    if not pods:
        raise KubetraceError(
            f"No pod of this recording is known as {query!r}.",
            why="A pod is meant by NAMESPACE/NAME, its name, its UID, or six digits or more of a container's id.",
            do=f"kubetrace info {file}",
        )
    return pods


def _recorded_outline(pod: RecordedPod, node: str) -> Entry:
    from kubetrace.views.outline import Entry

    top = Entry(
        "pod", [f"{pod.namespace or '-'}/{pod.pod or '-'}", pod.qos_class or "-", f"uid {pod.pod_uid}", f"node {node}"]
    )
    if pod.labels:
        top.add("labels", ", ".join(pod.labels))
    for one in pod.containers.values():
        name = "sandbox" if one.kind == "sandbox" else f"container {one.container or '-'}"
        entry = top.add(name, one.container_id[:12])
        if one.image is not None:
            count = len(one.layers)
            image = entry.add("image", one.image, f"{count} layer{'s' * (count != 1)}" if count else None)
            for at, (directory, line) in reversed(list(enumerate(one.layers, 1))):
                image.add(f"{at} of {count}", line, directory)
        if one.upperdir is not None:
            entry.add("writable layer", one.upperdir)
        if one.root is not None:
            entry.add("root", one.root)
        for path in one.cgroups:
            entry.add("cgroup", path)
        _traced(entry, one.events)
    if pod.volumes:
        volumes = top.add("volumes")
        for volume in pod.volumes.values():
            volumes.add(volume.name, volume.kind.rpartition("~")[2], volume.fstype, volume.path)
    for path in pod.cgroups:
        top.add("cgroup", path)
    _traced(top, pod.events)
    return top


def _traced(entry: Entry, events: Mapping[str, int]) -> None:
    from kubetrace.views.units import format_count

    if events:
        entry.add("recorded", ", ".join(f"{name}: {format_count(count)}" for name, count in events.items()))


def _files_of(lookup: Lookup, query: str) -> Sequence[PodFiles]:
    """The pods that a query means: by name, or by whatever who takes. KubetraceError if it is none's."""
    namespace, slash, name = query.partition("/")
    found = lookup.pods(namespace, name) if slash and namespace and "/" not in name else []
    if not found and not (slash and namespace and "/" not in name and ":" not in query):
        owners = [answer.identity for answer in lookup.answers(query)]
        names = dict.fromkeys((one.namespace, one.pod) for one in owners)
        for of_namespace, of_pod in names:
            if of_namespace is not None and of_pod is not None:
                found += lookup.pods(of_namespace, of_pod)
    if not found:
        raise KubetraceError(
            f"No pod on this node is known as {query!r}.",
            why="It may be another node's, or gone: a pod is known until the kubelet removes its containers.",
            do="kubectl get pods -A -o wide, or: kubetrace who ID",
        )
    return found


# For people.


def _outline(page: PodPage) -> Entry:
    from kubetrace.views.outline import Entry

    who = page.files.identity
    top = Entry("pod", [f"{who.namespace}/{who.pod}", who.qos_class or "-", f"uid {who.pod_uid}"])
    if page.files.labels:
        top.add("labels", ", ".join(page.files.labels))
    for container in page.containers:
        _container(top, container, page.files)
    if page.volumes:
        volumes = top.add("volumes")
        for volume in page.volumes:
            _volume(volumes, volume)
    if page.files.directory is not None:
        top.add("kubelet", page.files.directory)
    _cgroups(top, page.files.cgroups, page.use)
    return top


def _container(top: Entry, one: ContainerPage, files: PodFiles) -> None:
    from kubetrace.node.pod_files import is_everywhere
    from kubetrace.views.units import format_bytes, format_count

    who = one.files.identity
    name = "sandbox" if who.kind == "sandbox" else f"container {who.container or '-'}"
    entry = top.add(name, (who.container_id or "-")[:12], None if one.processes else "does not run")
    if one.layers is not None:
        count = len(one.layers)
        total = format_bytes(sum(layer.bytes for layer in one.layers))
        image = entry.add("image", one.image or "-", f"{count} layer{'s' * (count != 1)}, {total}")
        for layer in reversed(one.layers):
            others = layer.images - 1
            image.add(
                f"{layer.position} of {count}",
                format_bytes(layer.bytes),
                f"{format_count(layer.inodes)} inodes",
                "in no other image" if not others else f"in {others} other image{'s' * (others != 1)}",
                layer.line,
                layer.directory,
            )
    elif one.image is not None:
        entry.add("image", one.image, "its layers are not known")
    if one.files.upperdir is not None:
        upper = entry.add("writable layer", _space(one.writable), one.files.upperdir)
        for path, taken in one.writable.largest if one.writable is not None else ():
            upper.add(format_bytes(taken), f"in {path}")
    elif one.files.root_type is not None:
        entry.add("root", f"{one.files.root_type}, no overlay", one.files.root)
    if one.files.mounts:
        own = [mount for mount in one.files.mounts if not is_everywhere(mount, files)]
        left = len(one.files.mounts) - len(own)
        mounts = entry.add("mounts", f"{left} that every container has, such as /etc/hosts" if left else None)
        for mount in own:
            source = f"volume {mount.volume}" if mount.volume else mount.source
            if mount.image is not None:
                source = f"image {mount.image}"
            mounts.add(mount.at, source, "read-only" if mount.read_only else None)
    if one.log is not None:
        entry.add("log", _space(one.logged), one.log)
    if one.namespaces:
        entry.add("namespaces", *_namespaces(one.namespaces), _mapped(one.mapped))
    _cgroups(entry, one.files.cgroups, one.use)
    if one.processes:
        told = [f"{process.pid} {process.comm}" for process in one.processes[:8]]
        more = len(one.files.pids) - len(told)
        entry.add("processes", ", ".join(told) + (f" and {more} more" if more > 0 else ""))


def _cgroups(entry: Entry, cgroups: Sequence[Cgroup], use: Use | None) -> None:
    # on v1 there is one for each hierarchy, and what it uses is told once
    for number, cgroup in enumerate(cgroups):
        entry.add("cgroup", *(_use(use) if not number else ()), cgroup.path)


def _volume(top: Entry, one: VolumePage) -> None:
    from kubetrace.attribution.destination import Destination, volume_kind

    memory = one.fstype == "tmpfs"
    landing = Destination(
        volume_kind(one.volume.path.split("/")[-2]), one.volume.name, medium="memory" if memory else "disk"
    )
    where = "on the node's disk" if one.fstype is None else f"{one.fstype} of its own"
    if memory:
        where = "tmpfs: memory"
    counted = "counts as ephemeral storage" if landing.counted_as_ephemeral and one.fstype is None else None
    top.add(one.volume.name, landing.kind, _space(one.space), where, counted, one.volume.path)


def _space(space: Space | None) -> str:
    from kubetrace.views.units import format_bytes, format_count

    if space is None:
        return "not known: it is not there, or cannot be read"
    part = "" if space.whole else " and more, not all was looked at"
    return f"{format_bytes(space.bytes)}, {format_count(space.inodes)} inode{'s' * (space.inodes != 1)}{part}"


def _namespaces(namespaces: Sequence[Namespace]) -> Iterator[str]:
    for whose, said in (("container", "its own"), ("pod", "the pod's"), ("node", "the node's")):
        found = [f"{one.kind} {one.inode}" for one in namespaces if one.whose == whose]
        if found:
            yield f"{said}: {', '.join(found)}"


def _mapped(mapped: Sequence[tuple[int, int, int]]) -> str | None:
    if not mapped or mapped == ((0, 0, 4_294_967_295),):
        return None
    ranges = [f"{inside} is {outside} on the node, {count} of them" for inside, outside, count in mapped]
    return f"users: {'; '.join(ranges)}"


def _use(use: Use | None) -> Iterator[str]:
    from kubetrace.views.units import format_bytes, format_cpu, format_duration

    if use is None:
        return
    if use.memory is not None:
        limit = f" of {format_bytes(use.memory_limit)}" if use.memory_limit is not None else ", no limit"
        swap = f", swap {format_bytes(use.swap)}" if use.swap else ""
        yield f"memory {format_bytes(use.memory)}{limit}{swap}"
    if use.cpu is not None:
        limit = f", limit {format_cpu(use.cpu_limit)}" if use.cpu_limit is not None else ", no limit"
        throttled = f", throttled for {format_duration(use.throttled)}" if use.throttled else ""
        yield f"CPU {format_duration(use.cpu)}{limit}{throttled}"
    if use.processes is not None:
        yield f"{use.processes} process{'es' * (use.processes != 1)}" + (
            f" of {use.processes_limit}" if use.processes_limit is not None else ""
        )
    if use.oom_kills:
        yield f"{use.oom_kills} killed for want of memory"
    for name, pressure in (("memory", use.memory_pressure), ("io", use.io_pressure)):
        if pressure:
            yield f"{name} pressure {pressure / 100:.1f}%"


# For programs. The keys are a contract.


def _record(page: PodPage, node: str) -> dict[str, Any]:
    who = page.files.identity
    return {
        "namespace": who.namespace,
        "pod": who.pod,
        "pod_uid": who.pod_uid,
        "qos_class": who.qos_class,
        "node": node,
        "labels": None
        if page.files.labels is None
        else dict(label.split("=", 1) for label in page.files.labels if "=" in label),
        "directory": page.files.directory,
        "cgroups": [cgroup.path for cgroup in page.files.cgroups],
        "use": _use_record(page.use),
        "volumes": [
            {
                "name": one.volume.name,
                "kind": one.volume.kind,
                "path": one.volume.path,
                "fstype": one.fstype,
                **_space_record(one.space),
            }
            for one in page.volumes
        ],
        "containers": [_container_record(one) for one in page.containers],
    }


def _recorded_record(pod: RecordedPod, node: str) -> dict[str, Any]:
    return {
        "namespace": pod.namespace,
        "pod": pod.pod,
        "pod_uid": pod.pod_uid,
        "qos_class": pod.qos_class,
        "node": node,
        "labels": None if pod.labels is None else dict(label.split("=", 1) for label in pod.labels if "=" in label),
        "cgroups": pod.cgroups,
        "volumes": [
            {"name": one.name, "kind": one.kind, "path": one.path, "fstype": one.fstype} for one in pod.volumes.values()
        ],
        "containers": [
            {
                "kind": one.kind,
                "container": one.container,
                "container_id": one.container_id,
                "image": one.image,
                "layers": [
                    {"layer": at, "directory": directory, "created_by": line}
                    for at, (directory, line) in enumerate(one.layers, 1)
                ],
                "writable": {"path": one.upperdir},
                "root": one.root,
                "cgroups": one.cgroups,
                "recorded": one.events,
            }
            for one in pod.containers.values()
        ],
        "recorded": pod.events,
    }


def _container_record(one: ContainerPage) -> dict[str, Any]:
    who = one.files.identity
    return {
        "kind": who.kind,
        "container": who.container,
        "container_id": who.container_id,
        "image": one.image,
        "layers": None
        if one.layers is None
        else [
            {
                "layer": layer.position,
                "bytes": layer.bytes,
                "inodes": layer.inodes,
                "images": layer.images,
                "created_by": layer.line,
                "directory": layer.directory,
            }
            for layer in one.layers
        ],
        "writable": {
            "path": one.files.upperdir,
            **_space_record(one.writable),
            "largest": [
                {"path": path, "bytes": taken} for path, taken in (one.writable.largest if one.writable else ())
            ],
        },
        "root": one.files.root,
        "root_type": one.files.root_type,
        "mounts": [
            {
                "at": mount.at,
                "source": mount.source,
                "volume": mount.volume,
                "image": mount.image,
                "read_only": mount.read_only,
            }
            for mount in one.files.mounts
        ],
        "log": {"path": one.log, **_space_record(one.logged)},
        "namespaces": {space.kind: {"inode": space.inode, "whose": space.whose} for space in one.namespaces},
        "users": [{"inside": inside, "on_node": outside, "count": count} for inside, outside, count in one.mapped],
        "cgroups": [cgroup.path for cgroup in one.files.cgroups],
        "use": _use_record(one.use),
        "processes": [{"pid": process.pid, "comm": process.comm} for process in one.processes],
    }


def _space_record(space: Space | None) -> dict[str, Any]:
    if space is None:
        return {"bytes": None, "inodes": None, "whole": None}
    return {"bytes": space.bytes, "inodes": space.inodes, "whole": space.whole}


def _use_record(use: Use | None) -> dict[str, Any] | None:
    if use is None:
        return None
    return {
        "memory_bytes": use.memory,
        "memory_limit_bytes": use.memory_limit,
        "swap_bytes": use.swap,
        "cpu_ns": use.cpu,
        "cpu_limit_milli": use.cpu_limit,
        "throttled_ns": use.throttled,
        "oom_kills": use.oom_kills,
        "processes": use.processes,
        "processes_limit": use.processes_limit,
        "memory_pressure_percent": use.memory_pressure / 100 if use.memory_pressure is not None else None,
        "io_pressure_percent": use.io_pressure / 100 if use.io_pressure is not None else None,
    }


_HELP = """Show where a pod's data lives on this node, each part with its path and its own numbers.

Of each container: the image's layers (bytes, in how many other images, the line of the Dockerfile), the writable layer
with the directories that fill it, mounts, log, namespaces (its own, the pod's, the node's), cgroup with what it uses
and may, and processes. Of the pod: volumes with where they are and what they hold, and its cgroup.

POD is NAMESPACE/NAME, or whatever kubetrace who takes: a pid, a container id, a path. Bytes are st_blocks, as du counts
them; a directory is looked through for ten seconds at most, and what is left out says so.

With --from it is what a recording knows of the pod: no sizes, but layers, volumes, cgroups, and how much was recorded.

Needs neither BPF nor a running container runtime.

\b
Examples:
  kubetrace pod shop/web-0
  kubetrace pod shop/web-0 -w                 what grows, as it does
  kubetrace pod shop/web-0 --from node.ktrace
  kubetrace pod pid:8123
  kubetrace pod shop/web-0 -o jsonpath='{.containers[*].writable.bytes}'
"""

command = click.Command(
    "pod",
    params=[
        click.Argument(["queries"], nargs=-1, required=True, metavar="POD...", shell_complete=complete.queries),
        options.output(
            ("tree", "json", "yaml"),
            "tree is for people; json, yaml and jsonpath= have an object for each pod.",
            elsewhere={},
        ),
        click.Option(
            ["--from", "file"],
            type=options.File(),
            metavar="FILE",
            help="What a recording knows of it, read anywhere.  [default: this node, now]",
        ),
        click.Option(
            ["-w", "--watch"], is_flag=True, help="Look again and again: a line for each part that has changed."
        ),
        options.refreshing(),
        *options.lasting(),
        *options.finding_node(),
        options.cri_socket(),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
"""What the group gives."""
