"""All reading of the node's files for attribution: each look gives facts, and no conclusion is drawn here.

Everything read was written by others and may vanish, be half written or be hostile: what cannot be read or understood
is left out. Errors are raised only where the node as a whole is not what it should be.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubetrace.attribution import directories, mountinfo
from kubetrace.attribution.cgroup_path import is_own, parse
from kubetrace.attribution.facts import (
    KEPT_NS,
    CgroupGone,
    CgroupSeen,
    ContainerSeen,
    DirectorySeen,
    Fact,
    LabelsSeen,
    MountGone,
    MountSeen,
    NestedSeen,
    OverlayGone,
    OverlaySeen,
    PodSeen,
)
from kubetrace.errors import NodeError
from kubetrace.node import ancestry, containerd, cri, kubelet_dir, logs, storage
from kubetrace.node.bolt import BoltError
from kubetrace.node.installed import learn_mount
from kubetrace.node.layers import Layers

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Role
    from kubetrace.attribution.mountinfo import Mount
    from kubetrace.node.host import CgroupMounts, Host

# The tracer's loop waits for cgroup_created(): config.json is there at the cgroup's creation (60 of 60 measured), but
# its directory can be seen up to 4.5 ms before it.
_BUDGET_NS = 3_000_000
_FIRST_RETRY_S = 0.000_2
# A spec of this size takes 3 ms to parse; larger ones are left to resolve_again().
_QUICK_BYTES = 256 << 10
# Calls of resolve_again() after which a container that no file names is looked for no more; the wait between two looks
# doubles up to the second number.
_MAX_TRIES = 24
_MAX_WAIT = 64

# How often mountinfo is read before a mount that is missing in it is taken for gone.
_READS = 2

# The kernel's map of anchors (bpf/place.bpf.h) has room for 128: of more roots and snapshotters the first.
_MOST_ANCHORS = 120
# Containers without a name whose processes are looked at in one go.
_MOST_NESTED = 256
# Seconds between two looks for runtimes and kubelets that have come, where a container has no name.
_LOOK_AGAIN_S = 5.0
_CONTAINER_ROOT = re.compile(r"/([0-9a-f]{64})/rootfs\Z")


@dataclass(slots=True)
class _Missing:
    # A container or pod without names yet; `due` is the count of resolve_again() calls at which to look again. `path`
    # is its cgroup's, in v2 or in v1's memory.
    pod_uid: str | None
    path: str = ""
    hierarchy: int = 0
    tries: int = 0
    wait: int = 1
    due: int = 0


@dataclass(slots=True)
class _Unlabelled:
    # A pod's sandbox whose labels are not known yet.
    sandbox_id: str
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Shown:
    # The overlay last reported under a device number.
    mount_point: str
    super_options: str
    container_id: str | None
    since_ns: int
    upperdir: str | None
    workdir: str | None
    lowerdirs: tuple[str, ...]


class Node:
    """Looks at one node. `cri_socket` is the path of the runtime's socket, asked too if it is given.

    `labels`: whether those of pods are looked for, in containerd's metadata; where there is none they stay unknown.

    For one thread. Holds at most one file open, from `mounts_fd` to `close`.
    """

    def __init__(self, host: Host, *, cri_socket: str | None = None, labels: bool = False) -> None:
        """Reads nothing yet."""
        self.host = host
        self._labels = labels
        self._labelled: set[str] = set()
        self._unlabelled: dict[str, _Unlabelled] = {}
        self._cri_socket = cri_socket
        self._memory_hierarchy: int | None = None
        self._scanned = False
        self._told_directories: set[str] = set()
        self._bundle_directories: list[tuple[str, str]] = []
        self._named: set[str] = set()
        self._named_pods: set[str] = set()
        self._missing: dict[str, _Missing] = {}
        self._missing_pods: dict[str, _Missing] = {}
        self._removed: deque[tuple[int, str | None, str | None]] = deque()
        self._calls = 0
        self._roots: dict[str, str] = {}
        self._roots_known = 0
        self._lines: dict[bytes, Mount | None] = {}
        self._overlays: dict[int, _Shown] = {}
        self._unmounted: dict[int, _Shown] = {}
        self._layers = Layers(host)
        self._stores: dict[str, storage.Storage] = {}
        self._databases: list[str] = []
        self._looked_ns = 0
        self._looked: dict[tuple[int, int], str] | None = None
        self._other_lines: set[bytes] = set()
        self._places_changed = False
        self._looked_again = 0.0
        self._mounts_fd: int | None = None

    @property
    def memory_hierarchy(self) -> int:
        """The v1 hierarchy id of the memory controller; 0 where it is a v2 controller. NodeError as for `scan`."""
        if self._memory_hierarchy is None:
            self._memory_hierarchy = self.host.cgroup_mounts().memory_hierarchy
        return self._memory_hierarchy

    # At start.

    def scan(self) -> Iterator[Fact]:
        """Everything that can be known of the node now: cgroups, containers, pods, overlays.

        Cgroup ids are the inode numbers of the directories in the v2 tree and in v1's memory tree. A second scan gives
        the cgroups and pods again, but only new containers and the differences of mounts.
        NodeError if the node has no cgroup tree or no /proc, CriError if a CRI socket was given and does not answer.
        """
        cgroups = self.host.cgroup_mounts()
        self._memory_hierarchy = cgroups.memory_hierarchy
        if self._scanned:
            self.host.look_again()
        now = _boot_ns()
        if cgroups.unified is not None:
            yield from self._walk(cgroups.unified, 0, now)
        if cgroups.memory is not None and cgroups.memory_hierarchy:
            yield from self._walk(cgroups.memory, cgroups.memory_hierarchy, now)
        yield from self._scan_bundles(now)
        for pod in logs.pods(self.host, now):
            self._named_pods.add(pod.pod_uid)
            yield pod
        yield from self._ask_runtime(now, must_answer=not self._scanned)
        self._scanned = True
        yield from self._directories(now)
        yield from self._second_chances(
            {container_id: missing.pod_uid for container_id, missing in self._missing.items()},
            set(self._missing_pods) - self._named_pods,
            now,
        )
        yield from self._nested(list(self._missing), now)
        yield from self._labels_now(now)
        yield from self.mounts()

    def _directories(self, now: int) -> Iterator[DirectorySeen]:
        # Those that are in other places than the usual ones, or that a symbolic link leads to.
        places = self.host.places
        roles: list[tuple[Role, Sequence[str]]] = [
            ("logs", places.logs),
            ("kubelet", places.kubelets),
            ("containerd", (*places.roots, *places.states)),
            ("storage", (*places.storages, *places.runroots)),
        ]
        for role, paths in roles:
            for path in paths:
                for one in dict.fromkeys((path, self.host.resolved(path))):
                    usual = one == path and one in directories.USUAL
                    if not usual and one not in self._told_directories and os.path.isdir(self.host.path(path)):
                        self._told_directories.add(one)
                        yield DirectorySeen(role, one, now)

    def _labels_now(self, now: int) -> list[LabelsSeen]:
        """Those of the pods that have become known since the last call."""
        if not self._unlabelled:
            return []
        wanted = [one.sandbox_id for one in self._unlabelled.values()]
        found: dict[str, tuple[str, ...]] = {}
        for database in self._databases or containerd.metadata_paths(self.host):
            with contextlib.suppress(BoltError):
                found |= containerd.pod_labels(database, wanted)
        for directory, opened in self._bundle_directories:
            below = containerd.config_below(directory)
            for sandbox_id in wanted if below != "config.json" else ():
                labels = containerd.crio_labels(f"{opened}/{sandbox_id}/{below}") if sandbox_id not in found else None
                if labels is not None:
                    found[sandbox_id] = labels
        facts = []
        for pod_uid, one in list(self._unlabelled.items()):
            one.tries += 1
            if one.sandbox_id in found:
                facts.append(LabelsSeen(pod_uid, found[one.sandbox_id], now))
            if one.sandbox_id in found or one.tries >= _MAX_TRIES:
                del self._unlabelled[pod_uid]
        return facts

    def _ask_runtime(self, now: int, *, must_answer: bool) -> list[ContainerSeen]:
        if self._cri_socket is None:
            return []
        try:
            found = cri.containers(self._cri_socket, now, timeout_s=2.0 if must_answer else 0.2)
        except cri.CriError:
            if must_answer:
                raise
            # It answered at start; the node's files go on without it.
            return []
        for container in found:
            self._remember(container)
        return found

    def _walk(self, mount_point: str, hierarchy: int, now: int) -> Iterator[CgroupSeen]:
        top = self.host.path(mount_point)
        try:
            yield CgroupSeen(hierarchy, os.stat(top).st_ino, "/", now)
        except OSError:
            return
        pending = [(top, "")]
        while pending:
            directory, above = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            path = f"{above}/{entry.name}"
                            # d_ino is the same number as st_ino (fs/kernfs/dir.c, kernfs_fop_readdir).
                            yield CgroupSeen(hierarchy, entry.inode(), path, now)
                            pending.append((entry.path, path))
                            self._note(path, hierarchy)
            except OSError:
                continue

    def _note(self, path: str, hierarchy: int) -> None:
        # Remember that a cgroup's owner has no names yet.
        owner = parse(path)
        if owner.container_id is not None:
            if owner.container_id not in self._named:
                self._missing.setdefault(owner.container_id, _Missing(owner.pod_uid, path, hierarchy))
        elif owner.pod_uid is not None and owner.pod_uid not in self._named_pods:
            self._missing_pods.setdefault(owner.pod_uid, _Missing(owner.pod_uid))

    def _scan_bundles(self, now: int) -> Iterator[ContainerSeen]:
        self._find_bundle_directories()
        for directory, _ in self._bundle_directories:
            for container_id in containerd.bundle_ids(self.host, directory):
                if container_id in self._named and self._scanned:
                    continue
                seen = self._read_bundle(container_id, now, containerd.MAX_CONFIG_BYTES)
                if seen is not None:
                    yield seen

    def _find_bundle_directories(self) -> None:
        self._bundle_directories = [
            (directory, self.host.path(directory)) for directory in containerd.bundle_directories(self.host)
        ]
        # Which records there are: looked for here, as who waits for a name has no time for it.
        self._databases = containerd.metadata_paths(self.host)
        for root in self.host.places.storages:
            store = self._stores.get(root) or storage.Storage(self.host, root)
            if store.exists:
                self._stores[root] = store

    # At run time.

    def cgroup_created(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> list[Fact]:
        """The facts of a new cgroup, as the cgroup_mkdir tracepoint tells it; to be called at once.

        `path` is below the hierarchy's root. For a container's cgroup its config.json is read, with short retries while
        its bundle is there without it, and other files if it is gone. Takes well under 1 ms normally, never more than
        about 5 ms; what was not found is left to `resolve_again`. Cgroups of v1 hierarchies other than memory only
        serve to be early: they give no CgroupSeen. NodeError as for `scan` if it is the first call.
        """
        facts: list[Fact] = []
        if hierarchy in (0, self.memory_hierarchy):
            facts.append(CgroupSeen(hierarchy, cgroup_id, path, time_ns))
        owner = parse(path)
        container_id = owner.container_id
        if container_id is None or container_id in self._named or container_id in self._missing:
            self._note(path, hierarchy)
            return facts
        seen = self._read_bundle_soon(container_id, time_ns)
        if seen is not None:
            facts.append(seen)
            facts += self._labels_now(time_ns)
            if seen.pod is not None:
                return facts
        if container_id not in self._named:
            self._missing[container_id] = _Missing(owner.pod_uid, path, hierarchy)
            pods = {owner.pod_uid} - self._named_pods if owner.pod_uid is not None else set()
            facts.extend(self._second_chances({container_id: owner.pod_uid}, pods, time_ns, _BUDGET_NS // 2))
        return facts

    def look_for_cgroups(self) -> list[Fact]:
        """What came and went since the last look: the whole tree is walked. For where the kernel does not tell.

        One that lived for less, or came again under its number between two looks, is not seen.
        """
        now = _boot_ns()
        mounts = self.host.cgroup_mounts()
        seen: dict[tuple[int, int], str] = {}
        if mounts.unified is not None:
            seen |= {(one.hierarchy, one.cgroup_id): one.path for one in self._walk(mounts.unified, 0, now)}
        if mounts.memory is not None and mounts.memory_hierarchy:
            walked = self._walk(mounts.memory, mounts.memory_hierarchy, now)
            seen |= {(one.hierarchy, one.cgroup_id): one.path for one in walked}
        known, self._looked = self._looked, seen
        facts: list[Fact] = []
        for (hierarchy, number), path in known.items() if known is not None else ():
            if seen.get((hierarchy, number)) != path:
                facts += self.cgroup_removed(hierarchy, number, path, now)
        for (hierarchy, number), path in seen.items():
            if known is None or known.get((hierarchy, number)) != path:
                facts += self.cgroup_created(hierarchy, number, path, now)
        return facts

    def cgroup_removed(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> list[Fact]:
        """The fact that a cgroup is gone, as the cgroup_rmdir tracepoint tells it; nothing is read.

        What is remembered of its container and pod goes KEPT_NS later: until then their names may still be found.
        """
        if hierarchy not in (0, self.memory_hierarchy):
            return []
        if is_own(path):
            container_id, pod_uid, _ = parse(path)
            self._removed.append((time_ns, container_id, pod_uid if container_id is None else None))
        while self._removed and self._removed[0][0] < time_ns - KEPT_NS:
            _, container_id, pod_uid = self._removed.popleft()
            if container_id is not None:
                self._named.discard(container_id)
                self._missing.pop(container_id, None)
                for root in [root for root, known in self._roots.items() if known == container_id]:
                    del self._roots[root]
            if pod_uid is not None:
                self._labelled.discard(pod_uid)
                self._unlabelled.pop(pod_uid, None)
                self._named_pods.discard(pod_uid)
                self._missing_pods.pop(pod_uid, None)
        return [CgroupGone(hierarchy, cgroup_id, time_ns)]

    def resolve_again(self) -> list[Fact]:
        """Look once more for the names of containers and pods that had none; to be called on ticks (about a second).

        The wait between two looks for the same one doubles, and 24 looks are enough.
        """
        self._calls += 1
        labels: list[Fact] = [*self._labels_now(_boot_ns())] if self._unlabelled else []
        if not self._missing and not self._missing_pods:
            return labels
        due = {name: missing for name, missing in self._missing.items() if missing.due <= self._calls}
        due_pods = {name: missing for name, missing in self._missing_pods.items() if missing.due <= self._calls}
        if not due and not due_pods:
            return labels
        now = _boot_ns()
        facts: list[Fact] = labels
        if due:
            if time.monotonic() - self._looked_again >= _LOOK_AGAIN_S:
                # a runtime that has come since
                self._looked_again = time.monotonic()
                if self.host.look_again():
                    facts += self._directories(now)
            self._find_bundle_directories()
        for container_id in due:
            seen = self._read_bundle(container_id, now, containerd.MAX_CONFIG_BYTES)
            if seen is not None:
                facts.append(seen)
        if any(container_id in self._missing for container_id in due):
            facts.extend(self._ask_runtime(now, must_answer=False))
        left = {name: missing.pod_uid for name, missing in due.items() if name in self._missing}
        pods = {missing.pod_uid for missing in [*due.values(), *due_pods.values()] if missing.pod_uid is not None}
        facts.extend(self._second_chances(left, pods - self._named_pods, now))
        facts.extend(self._nested(due, now))
        self._wait_longer(self._missing, due)
        self._wait_longer(self._missing_pods, due_pods)
        facts += self._labels_now(now)
        return facts

    def _wait_longer(self, missing: dict[str, _Missing], due: dict[str, _Missing]) -> None:
        for name, item in due.items():
            if name not in missing:
                continue
            item.tries += 1
            item.due = self._calls + item.wait
            item.wait = min(item.wait * 2, _MAX_WAIT)
            if item.tries >= _MAX_TRIES:
                del missing[name]

    def _read_bundle_soon(self, container_id: str, time_ns: int) -> ContainerSeen | None:
        if not self._bundle_directories:
            self._find_bundle_directories()
        deadline = time.monotonic_ns() + _BUDGET_NS
        delay_s = _FIRST_RETRY_S
        while True:
            seen = self._read_bundle(container_id, time_ns, _QUICK_BYTES)
            if seen is not None:
                return seen
            if not any(os.path.isdir(f"{opened}/{container_id}") for _, opened in self._bundle_directories):
                return None
            if time.monotonic_ns() + int(delay_s * 1e9) > deadline:
                return None
            time.sleep(delay_s)
            delay_s *= 2

    def _read_bundle(self, container_id: str, time_ns: int, max_bytes: int) -> ContainerSeen | None:
        for directory, opened in self._bundle_directories:
            bundle = containerd.read_bundle(
                f"{opened}/{container_id}/{containerd.config_below(directory)}",
                f"{directory}/{container_id}",
                container_id,
                time_ns,
                max_bytes=max_bytes,
            )
            if bundle is not None:
                if bundle.rootfs is not None:
                    self._roots[bundle.rootfs] = container_id
                self._remember(bundle.seen)
                return bundle.seen
        return None

    def _remember(self, seen: ContainerSeen) -> None:
        # A container that its own config.json does not name is not Kubernetes': it is not looked for again.
        self._named.add(seen.container_id)
        self._missing.pop(seen.container_id, None)
        if seen.pod_uid is not None and seen.pod is not None:
            self._named_pods.add(seen.pod_uid)
            self._missing_pods.pop(seen.pod_uid, None)
        wanted = self._labels and seen.sandbox_id is not None
        if wanted and seen.pod_uid is not None and seen.pod_uid not in self._labelled:
            self._labelled.add(seen.pod_uid)
            self._unlabelled[seen.pod_uid] = _Unlabelled(str(seen.sandbox_id))

    def _second_chances(
        self, containers: dict[str, str | None], pods: set[str], now: int, budget_ns: int | None = None
    ) -> Iterator[Fact]:
        # What outlives a container, best first; with a budget no further source is opened after it.
        deadline = None if budget_ns is None else time.monotonic_ns() + budget_ns
        left = set(containers)
        for seen in self.recorded(left, now) if left else ():
            self._remember(seen)
            left.discard(seen.container_id)
            yield seen
        if left and not _passed(deadline):
            for linked in list(logs.containers(self.host, left, now)):
                seen = replace(linked, pod_uid=containers.get(linked.container_id))
                self._remember(seen)
                left.discard(seen.container_id)
                yield seen
        unnamed = pods - self._named_pods
        if unnamed and not _passed(deadline):
            yield from self._name_pods(logs.pods(self.host, now, unnamed), unnamed)
        if unnamed and not _passed(deadline):
            yield from self._name_pods(kubelet_dir.pods(self.host, sorted(unnamed), now), unnamed)

    def _nested(self, container_ids: Collection[str], now: int) -> list[NestedSeen]:
        """Which of these containers run inside another one of this node, by what their processes descend from."""
        found = []
        mounts: CgroupMounts | None = None
        for container_id in list(container_ids)[:_MOST_NESTED]:
            missing = self._missing.get(container_id)
            if missing is None or not missing.path:
                continue
            mounts = mounts or self.host.cgroup_mounts()
            mount = mounts.unified if missing.hierarchy == 0 else mounts.memory
            outer = ancestry.outer_container(self.host, f"{mount or ''}{missing.path}", container_id, self._named)
            if outer is not None:
                # no file of this node will name it
                self._missing.pop(container_id, None)
                self._named.add(container_id)
                found.append(NestedSeen(container_id, outer, now))
        return found

    def recorded(self, container_ids: Collection[str] | None, now: int) -> list[ContainerSeen]:
        """What the runtimes' own records say of these containers (None: of all), exited ones too."""
        found: list[ContainerSeen] = []
        for database in self._databases:
            with contextlib.suppress(BoltError):
                found += containerd.metadata(database, container_ids, now)
        for store in self._stores.values():
            for one in store.containers():
                if container_ids is None or one.container_id in container_ids:
                    found += [seen] if (seen := storage.seen(one, now)) is not None else []
        return found

    def _name_pods(self, found: Iterator[PodSeen], unnamed: set[str]) -> Iterator[PodSeen]:
        for pod in list(found):
            if pod.source != "kubelet":
                # A name without a namespace is worth looking for a better one.
                self._named_pods.add(pod.pod_uid)
                self._missing_pods.pop(pod.pod_uid, None)
            unnamed.discard(pod.pod_uid)
            yield pod

    # Mounts.

    def mounts(self) -> list[Fact]:
        """The differences in the node's mounts since the last call; the first one gives all of them.

        Read from PID 1's mountinfo: the copy under /host of a debug pod does not learn of new ones. To be
        called when `mounts_fd` polls ready, before a device number is looked up. NodeError if mountinfo cannot be read
        at the first call; later that gives no differences.
        """
        before = _boot_ns()
        try:
            found = self._mount_lines()
        except OSError as error:
            if self._looked_ns:
                return []
            raise NodeError(
                f"Cannot read the node's mounts: {error.strerror or error}.",
                why="Containers' writable layers are told apart by their overlay mounts in PID 1's mountinfo.",
                do="run as root on the node, or in a pod made by: kubectl debug node/NODE -it --profile=sysadmin",
                check="host PIDs",
            ) from error
        now = _boot_ns()
        since, self._looked_ns = self._looked_ns, before
        others = self._other_mounts({line for line in found if not _is_overlay(line)}, since, now)
        lines = [line for line in found if _is_overlay(line)]
        if set(lines) == self._lines.keys() and self._roots_known == len(self._roots):
            return [*self._new_places(now), *others]
        self._roots_known = len(self._roots)
        self._lines = {line: self._lines[line] if line in self._lines else mountinfo.parse_line(line) for line in lines}
        differences = self._differences(since, now)
        return [*self._new_places(now), *others, *differences]

    def _new_places(self, now: int) -> list[DirectorySeen]:
        # What new mounts have told of runtimes and kubelets.
        if not self._places_changed:
            return []
        self._places_changed = False
        self._find_bundle_directories()
        return list(self._directories(now))

    def _mount_lines(self) -> list[bytes]:
        # In the file's order. It is read in pieces, while others unmount: a line may be passed over. One that was there
        # before is gone when it is missing once more.
        found: dict[bytes, None] = {}
        for _ in range(_READS):
            first, *others = self.host.mountinfo_paths()
            with open(first, "rb") as file:
                found |= dict.fromkeys(file.read().split(b"\n"))
            for path in others:
                self._add_lines(path, found)
            if self._lines.keys() <= found.keys() and self._other_lines <= found.keys():
                break
        return list(found)

    def _add_lines(self, path: str, found: dict[bytes, None]) -> None:
        # What only a runtime's own mount namespace has: it is a copy of PID 1's, in which each mount has another id.
        known = {_place_of(line) for line in found}
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            # the daemon has ended
            lines = [line for line in (*self._lines, *self._other_lines) if _place_of(line) not in known]
        found |= dict.fromkeys(line for line in lines if _place_of(line) not in known)

    def _other_mounts(self, lines: set[bytes], since: int, now: int) -> list[Fact]:
        if lines == self._other_lines:
            return []
        facts: list[Fact] = []
        for line in self._other_lines - lines:
            mount = mountinfo.parse_line(line)
            if mount is not None and mount.fstype not in mountinfo.KERNEL_FSTYPES:
                facts.append(MountGone(mount.device, mount.mount_point, now))
        for line in sorted(lines - self._other_lines):
            mount = mountinfo.parse_line(line)
            if mount is not None and mount.fstype not in mountinfo.KERNEL_FSTYPES:
                self._places_changed |= learn_mount(self.host.places, mount.mount_point)
                facts.append(
                    MountSeen(mount.device, mount.root, mount.mount_point, mount.fstype, mount.source, now, since)
                )
        self._other_lines = lines
        return facts

    def _differences(self, since: int, now: int) -> list[Fact]:
        shown: dict[int, Mount] = {}
        for mount in self._lines.values():
            if mount is None or mount.fstype != "overlay":
                continue
            other = shown.get(mount.device)
            if other is None or self._preferred(mount, other):
                shown[mount.device] = mount
        facts: list[Fact] = [OverlayGone(device, now) for device in self._overlays if device not in shown]
        self._unmounted.update((device, old) for device, old in self._overlays.items() if device not in shown)
        overlays: dict[int, _Shown] = {}
        for device, mount in shown.items():
            container_id = self.container_at(mount.mount_point)
            old = self._overlays.get(device)
            same = old is not None and (old.mount_point, old.super_options) == (mount.mount_point, mount.super_options)
            if old is not None and same and old.container_id == container_id:
                overlays[device] = old
                continue
            if old is not None and not same:
                facts.append(OverlayGone(device, now))
                self._unmounted[device] = old
            started = old.since_ns if old is not None and same else since
            layers = mountinfo.overlay_options(mount.super_options)
            self._places_changed |= learn_mount(self.host.places, mount.mount_point, layers.upperdir)
            lowerdirs = mountinfo.absolute_lowerdirs(layers.lowerdirs, layers.upperdir, layers.workdir)
            overlays[device] = _Shown(
                mount.mount_point,
                mount.super_options,
                container_id,
                started,
                layers.upperdir,
                layers.workdir,
                lowerdirs,
            )
            facts.append(
                OverlaySeen(
                    device,
                    container_id,
                    mount.mount_point,
                    layers.upperdir,
                    layers.workdir,
                    layers.lowerdirs,
                    now,
                    started,
                )
            )
        self._overlays = overlays
        return facts

    def _preferred(self, mount: Mount, other: Mount) -> bool:
        # One superblock at several mount points: a container's root first, then the one that was reported before.
        roots = self.container_at(mount.mount_point) is not None, self.container_at(other.mount_point) is not None
        if roots[0] != roots[1]:
            return roots[0]
        old = self._overlays.get(mount.device)
        return old is not None and old.mount_point == mount.mount_point

    def container_at(self, mount_point: str) -> str | None:
        """The container whose root is mounted there, whatever it is made of; None if it is nobody's root."""
        known = self._roots.get(mount_point)
        if known is not None:
            return known
        match = _CONTAINER_ROOT.search(mount_point)
        if match is None and (layer := storage.split_layer(mount_point, "merged")) is not None:
            # a bundle that was not found: by the store's own list
            store = self._stores.get(layer[0])
            for one in store.containers() if store is not None else ():
                if one.layer == layer[1]:
                    self._roots[mount_point] = one.container_id
                    return one.container_id
        return match[1] if match else None

    # Layers.

    def layers(self, device: int) -> list[Fact]:
        """The layers and images of an overlay that is mounted, and of the one before it under its device number.

        To be called after `mounts` when an event's layer is NOT_LOOKED_UP (attributor); later calls give [] in some
        microseconds and open no file. The first takes 7 ms on a node with 50 images of 6 layers, one for a further
        image 1.5 ms; what is not of the container itself may be left to `layers_again`.
        """
        now = _boot_ns()
        facts: list[Fact] = []
        for overlays in (self._overlays, self._unmounted):
            shown = overlays.get(device)
            if shown is None:
                continue
            below = self._layers.instead_of(shown.lowerdirs, shown.upperdir)
            if below is not None:
                shown = overlays[device] = replace(shown, lowerdirs=below)
                facts.append(self._overlay_seen(device, shown, now))
            facts += self._layers.look(shown.lowerdirs, shown.container_id, now)
        return facts

    @staticmethod
    def _overlay_seen(device: int, shown: _Shown, now: int) -> OverlaySeen:
        return OverlaySeen(
            device,
            shown.container_id,
            shown.mount_point,
            shown.upperdir,
            shown.workdir,
            shown.lowerdirs,
            now,
            shown.since_ns,
        )

    def lowerdirs(self, overlay: OverlaySeen) -> tuple[str, ...]:
        """The directories of an overlay's layers, topmost first: as far as the mount or the runtime's records tell."""
        shown = mountinfo.absolute_lowerdirs(overlay.lowerdirs, overlay.upperdir, overlay.workdir)
        return self._layers.instead_of(shown, overlay.upperdir) or shown

    def layers_again(self) -> list[Fact]:
        """What `layers` had no time for: to be called at ticks; [] at once if nothing is left. Takes some 5 ms."""
        return self._layers.more(_boot_ns()) if self._layers.pending else []

    def layer(self, lowerdir: str) -> list[Fact]:
        """The layer in one directory and all images that have it, however long that takes."""
        now = _boot_ns()
        return self._layers.look([lowerdir], None, now) + self._layers.more(now, None)

    def anchors(self) -> list[tuple[int, int, int]]:
        """(device number, inode number, levels): directories whose files are told apart by so many levels below them.

        /var/log/pods/POD/CONTAINER, <kubelet root>/pods/UID/volumes/PLUGIN/NAME, <containerd root>/PLUGIN and its
        snapshotters' snapshots; those that exist.
        """
        places = self.host.places
        levels = dict.fromkeys(places.logs, 2)
        for root in places.kubelets:
            levels |= {root: 0, f"{root}/pods": 4}
        levels |= dict.fromkeys((*places.roots, *places.states, *places.storages, *places.runroots), 1)
        levels |= dict.fromkeys(containerd.snapshotters(self.host), 1)
        if self._stores or any(storage.Storage(self.host, root).exists for root in places.storages):
            # what CRI-O pulls is there first
            levels["/var/tmp"] = 1
        found = [(device, inode, levels[path]) for path, (device, inode) in self._inodes(levels).items()]
        return found[:_MOST_ANCHORS]

    def _inodes(self, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
        # The device is the superblock's, from the mount that a path is on: on btrfs st_dev is another one.
        try:
            with open(self.host.mountinfo_path(), "rb") as file:
                devices = {mount.mount_point: mount.device for mount in mountinfo.parse(file.read())}
        except OSError:
            return {}
        found = {}
        for path in paths:
            try:
                status = os.stat(self.host.path(path))
            except OSError:
                continue
            above = self.host.resolved(path)
            while above not in devices and above != "/":
                above = os.path.dirname(above)
            if above in devices:
                found[path] = (devices[above], status.st_ino)
        return found

    def mounts_fd(self) -> int:
        """A file descriptor that polls POLLPRI when the node's mounts change (proc(5), /proc/PID/mountinfo).

        Opened at the first call and the Node's own; `close` closes it. NodeError if it cannot be opened.
        """
        if self._mounts_fd is None:
            # a runtime's own namespace gets PID 1's mounts too
            self.host.places  # noqa: B018 (found now, if not before)
            path = self.host.mountinfo_paths()[-1]
            try:
                self._mounts_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise NodeError(f"Cannot open {path!r}: {error.strerror}.") from error
        return self._mounts_fd

    def close(self) -> None:
        """Close what `mounts_fd` opened."""
        if self._mounts_fd is not None:
            os.close(self._mounts_fd)
            self._mounts_fd = None


def _place_of(line: bytes) -> bytes:
    # Device, root and mount point of a mountinfo line.
    return b" ".join(line.split(b" ", 5)[2:5])


def _is_overlay(line: bytes) -> bool:
    return b" - overlay " in line


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _passed(deadline: int | None) -> bool:
    return deadline is not None and time.monotonic_ns() > deadline
