"""kubetrace node: one page on a node: disks and what is on which, stores of images, the kubelet, what is unusual."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import options
from kubetrace.errors import NodeError

if TYPE_CHECKING:
    from kubetrace.attribution.eviction import Threshold
    from kubetrace.doctor.surroundings import NodeFacts
    from kubetrace.node.node_page import Disk, NodePage, Store
    from kubetrace.views.outline import Entry


def _run(output: str, host_root: str | None) -> None:
    from kubetrace.doctor.surroundings import node_facts
    from kubetrace.node.host import Host
    from kubetrace.node.node_page import node_page
    from kubetrace.views.outline import draw
    from kubetrace.views.records import are_objects, open_objects

    host = Host.find(host_root)
    try:
        page, facts = node_page(host), node_facts(host)
    except OSError as error:
        raise NodeError(
            f"the node's mounts cannot be read: {error.strerror or error}", do="--host-root DIR", check="node root"
        ) from error
    if are_objects(output):
        objects = open_objects(sys.stdout, output)
        objects.write(_record(page, facts))
        objects.flush()
    else:
        draw(sys.stdout, _outline(page, facts))


# For people.


def _outline(page: NodePage, facts: NodeFacts) -> Entry:
    from kubetrace.views.outline import Entry
    from kubetrace.views.units import format_bytes

    memory = f"{format_bytes(page.memory)} of memory" if page.memory is not None else None
    words = [page.name, page.system, f"Linux {page.kernel}", page.machine, memory]
    top = Entry("node", [word for word in words if word is not None])
    driver = f"driver {facts.driver}" if facts.driver is not None else None
    top.add("cgroups", facts.cgroups or f"not known: {facts.cgroup_trouble}", driver)
    disks = top.add("disks")
    for disk in page.disks:
        _disk(disks, disk)
    runtimes = top.add("runtimes", None if facts.runtimes else "none is seen")
    for runtime in facts.runtimes:
        count = runtime.containers
        runtimes.add(runtime.name, f"{count} container{'s' * (count != 1)} run, sandboxes included", runtime.state)
    stores = top.add("images", None if page.stores else "no store is found")
    for store in page.stores:
        _store(stores, store)
    _kubelet(top, page)
    if page.unusual:
        unusual = top.add("unusual")
        for text in page.unusual:
            unusual.add(text)
    return top


def _disk(disks: Entry, disk: Disk) -> None:
    from kubetrace.views.units import format_bytes, format_count

    place, room = disk.place, disk.room
    full: str | None = "not asked: it may hang"
    inodes = None
    if room is not None:
        full = f"{format_bytes(room.available)} of {format_bytes(room.capacity)} available"
        if room.inodes:
            inodes = f"{format_count(room.inodes_free)} of {format_count(room.inodes)} inodes free"
    held = ", ".join(disk.holds) if disk.holds else "nothing of Kubernetes' own"
    disks.add(place.mount_point, place.fstype, full, inodes, held)


def _store(stores: Entry, store: Store) -> None:
    from kubetrace.views.units import format_bytes, format_count

    images, containers = store.images, store.containers
    blobs = None
    if store.blobs is not None and store.blob_bytes is not None:
        blobs = f"{format_bytes(store.blob_bytes)} in {format_count(store.blobs)} blob{'s' * (store.blobs != 1)}"
    entry = stores.add(
        store.kind,
        f"{images} image{'s' * (images != 1)}",
        f"{containers} container{'s' * (containers != 1)}",
        blobs,
        store.root,
    )
    for one in store.unpacked:
        if one.layers or one.writable:
            entry.add(
                one.snapshotter,
                f"{format_count(one.layers)} layer{'s' * (one.layers != 1)}",
                format_bytes(one.bytes) if store.blobs is not None else "sizes are not kept: kubetrace images",
                f"{format_count(one.writable)} writable",
            )


def _kubelet(top: Entry, page: NodePage) -> None:
    pods = f"{page.pods} pod director{'ies' if page.pods != 1 else 'y'}"
    entry = top.add("kubelet", None if page.kubelets else "none is seen to run", pods, *page.roots)
    for one in page.kubelets:
        process = entry.add("process", one.name, one.config or "no configuration file", one.config_directory)
        for name, value, source in one.settings:
            process.add(name, value, f"({source})")
    for threshold in page.thresholds.known:
        entry.add(threshold.signal, _acts(threshold), f"({threshold.source})")
    for signal, why in page.thresholds.unknown.items():
        entry.add(signal, f"not known: {why}")
    for path in page.logs:
        entry.add("logs", path)


def _acts(threshold: Threshold) -> str:
    from kubetrace.views.units import format_bytes, format_count, format_duration

    if threshold.action == "image GC":
        return f"collects images from {threshold.percent:g}% full on"
    least = (
        f"{threshold.percent:g}%"
        if threshold.percent is not None
        else format_count(threshold.amount or 0)
        if threshold.of_inodes
        else format_bytes(threshold.amount or 0)
    )
    grace = f" for {format_duration(int(threshold.grace_s * 1e9))}" if threshold.action == "evicts after" else ""
    return f"evicts pods below {least}{grace}"


# For programs. The keys are a contract.


def _record(page: NodePage, facts: NodeFacts) -> dict[str, Any]:
    return {
        "node": page.name,
        "system": page.system,
        "kernel": page.kernel,
        "machine": page.machine,
        "memory_bytes": page.memory,
        "swap_bytes": page.swap,
        "cgroups": facts.cgroups,
        "cgroup_driver": facts.driver,
        "pressure": page.pressure,
        "disks": [
            {
                "path": disk.place.mount_point,
                "fstype": disk.place.fstype,
                "source": disk.place.source,
                "holds": list(disk.holds),
                **_room(disk),
            }
            for disk in page.disks
        ],
        "runtimes": [{"name": one.name, "state": one.state, "containers": one.containers} for one in facts.runtimes],
        "stores": [
            {
                "kind": store.kind,
                "root": store.root,
                "images": store.images,
                "containers": store.containers,
                "blobs": store.blobs,
                "blob_bytes": store.blob_bytes,
                "unpacked": [
                    {
                        "snapshotter": one.snapshotter,
                        "layers": one.layers,
                        "bytes": one.bytes if store.blobs is not None else None,
                        "writable": one.writable,
                    }
                    for one in store.unpacked
                ],
                "problem": store.problem,
            }
            for store in page.stores
        ],
        "kubelets": [
            {
                "name": one.name,
                "config": one.config,
                "config_directory": one.config_directory,
                "settings": {name: {"value": value, "source": source} for name, value, source in one.settings},
            }
            for one in page.kubelets
        ],
        "thresholds": list(_thresholds(page)),
        "kubelet_directories": list(page.roots),
        "log_directories": list(page.logs),
        "pods": page.pods,
        "unusual": list(page.unusual),
    }


def _room(disk: Disk) -> dict[str, Any]:
    room = disk.room
    return {
        "capacity_bytes": room.capacity if room is not None else None,
        "available_bytes": room.available if room is not None else None,
        "inodes": room.inodes if room is not None else None,
        "inodes_free": room.inodes_free if room is not None else None,
    }


def _thresholds(page: NodePage) -> Iterator[dict[str, Any]]:
    for one in page.thresholds.known:
        yield {
            "signal": one.signal,
            "action": one.action,
            "percent": one.percent,
            "amount": one.amount,
            "grace_s": one.grace_s,
            "source": one.source,
            "unknown": None,
        }
    for signal, why in page.thresholds.unknown.items():
        yield {
            "signal": signal,
            "action": None,
            "percent": None,
            "amount": None,
            "grace_s": None,
            "source": None,
            "unknown": why,
        }


_HELP = """Show a node on one page: its disks and what is on which, its runtimes, stores of images, and its kubelet.

Of each disk: what is available, inodes left, and whether the kubelet, logs or images are on it. Of each store: images,
containers, blobs, layers by snapshotter. Of the kubelet: where it reads its settings, and at what it collects images
and evicts pods, each with the flag or file that says so. At the end, what is unusual.

Needs neither BPF nor a running container runtime. What a tracer can do here says kubetrace doctor; what fills the
disks, kubetrace disk.

\b
Examples:
  kubetrace node
  kubetrace node -o jsonpath='{.disks[*].available_bytes}'
"""

command = click.Command(
    "node",
    params=[
        options.output(
            ("tree", "json", "yaml"),
            "tree is for people; json, yaml and jsonpath= have all of it as one object.",
            elsewhere={},
        ),
        *options.finding_node(),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
"""What the group gives."""
