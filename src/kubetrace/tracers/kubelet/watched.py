"""What the kubelet and the runtime do to files, as inotify tells it: no program in the kernel, and no look in vain.

    refresh   a configMap, secret, token or downward API volume has new contents: `..data` is another directory (kubelet
              pkg/volume/util/atomic_writer.go); how long from the making of that directory until it was in place
    rotate    a container's log was renamed, and begun anew (kubelet pkg/kubelet/logs/container_log_manager.go)
    collect   snapshots (image layers, or what containers have written) were removed from a containerd's store: how many
              at once, and how long that took

A time is that of the moment when the change was read, some milliseconds later at most while anything is waited for.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubetrace.node import inotify
from kubetrace.node.containerd import SNAPSHOTTER
from kubetrace.node.reading import listed

if TYPE_CHECKING:
    from kubetrace.node.host import Host

_PLUGINS: Final = frozenset(f"kubernetes.io~{kind}" for kind in ("configmap", "secret", "projected", "downward-api"))
_VERSION = re.compile(r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+\Z")
_LOGS = re.compile(r"([^_]+)_([^_]+)_([^_]+)\Z", re.DOTALL)
_ROTATED = re.compile(r"(\d+\.log)\.\d{8}-\d{6}\Z")
# Of one node: more are made up.
_MOST_WATCHES: Final = 8_192
_LOOK_AGAIN_S: Final = 5.0
# Removals that are so near to one another are one collection.
_QUIET_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was done: to the volume or container `name` of a pod, or to the store at `name`.

    `duration_ns` is how long it took, 0 where that is not known; `count` how many snapshots were removed, the bytes of
    the log that was rotated, or 1 where a volume was filled for the first time.
    """

    kind: str
    time_ns: int
    pod_uid: str
    name: str
    duration_ns: int
    count: int


@dataclass(slots=True)
class _Volume:
    pod_uid: str
    name: str
    filled: bool
    made_ns: int = 0


@dataclass(slots=True)
class _Store:
    root: str
    first_ns: int = 0
    last_ns: int = 0
    count: int = 0


class Watched:
    """Watches of one run. For one thread; what is not watched, for want of inotify instances, is not told."""

    def __init__(self, host: Host) -> None:
        """Nothing is watched yet."""
        self._host = host
        self._looked = -_LOOK_AGAIN_S
        self._volumes: dict[str, _Volume] = {}
        self._logs: dict[str, tuple[str, str]] = {}
        self._stores: dict[str, _Store] = {}
        self._known: dict[str, tuple[int, int]] = {}
        self._changes: list[Change] = []
        try:
            self._inotify: inotify.Inotify | None = inotify.Inotify()
        except OSError:
            self._inotify = None

    @property
    def fds(self) -> list[int]:
        """Readable when something has changed."""
        return [self._inotify.fd] if self._inotify is not None else []

    def close(self) -> None:
        """No longer watch."""
        if self._inotify is not None:
            self._inotify.close()

    def look(self, *, soon: bool = False) -> None:
        """Watch what has come: every few seconds, or `soon`, because something has."""
        now = time.monotonic()
        if self._inotify is None or (not soon and now - self._looked < _LOOK_AGAIN_S):
            return
        self._looked = now
        for path, volume in self._volumes_there():
            if self._watch(path, inotify.CREATE | inotify.MOVED_TO):
                self._volumes[path] = volume
        for path, whose in self._logs_there():
            if self._watch(path, inotify.MOVED_TO):
                self._logs[path] = whose
        for root in self._host.places.roots:
            for name in listed(self._host.path(root)):
                path = self._host.path(f"{root}/{name}/snapshots")
                if name.startswith(SNAPSHOTTER) and self._watch(path, inotify.DELETE):
                    self._stores[path] = _Store(f"{root}/{name}")

    def _watch(self, path: str, mask: int) -> bool:
        """Whether it is watched from now on, and was not before: a directory may be another one under its name."""
        assert self._inotify is not None
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return False
        key = status.st_dev, status.st_ino
        if not stat.S_ISDIR(status.st_mode) or self._known.get(path) == key or len(self._known) >= _MOST_WATCHES:
            return False
        if not self._inotify.watch(path, mask):
            return False
        self._known[path] = key
        return True

    def _volumes_there(self) -> Iterator[tuple[str, _Volume]]:
        for root in self._host.places.kubelets:
            for uid in listed(self._host.path(f"{root}/pods")):
                for plugin in listed(self._host.path(f"{root}/pods/{uid}/volumes")):
                    if plugin in _PLUGINS:
                        base = self._host.path(f"{root}/pods/{uid}/volumes/{plugin}")
                        for name in listed(base):
                            yield f"{base}/{name}", _Volume(uid, name, os.path.lexists(f"{base}/{name}/..data"))

    def _logs_there(self) -> Iterator[tuple[str, tuple[str, str]]]:
        for logs in self._host.places.logs:
            for name in listed(self._host.path(logs)):
                if match := _LOGS.match(name):
                    base = self._host.path(f"{logs}/{name}")
                    for container in listed(base):
                        yield f"{base}/{container}", (match[3], container)

    def take(self, *, whole: bool = False) -> list[Change]:
        """What has been done since the last call; `whole`: also collections that may go on."""
        self.read()
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for store in self._stores.values():
            if store.count and (whole or now - store.last_ns > _QUIET_NS):
                self._changes.append(
                    Change("collect", store.last_ns, "", store.root, store.last_ns - store.first_ns, store.count)
                )
                store.count = 0
        found, self._changes = self._changes, []
        for path in self._known.keys() - (self._inotify.watched if self._inotify is not None else set()):
            # gone, or another one under its name
            del self._known[path]
            for of in (self._volumes, self._logs):
                of.pop(path, None)
        return found

    def read(self) -> None:
        """Note what inotify has, with the time of now."""
        if self._inotify is None:
            return
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for change in self._inotify.read():
            if (volume := self._volumes.get(change.path)) is not None:
                self._of_volume(volume, change, now)
            elif (whose := self._logs.get(change.path)) is not None:
                if _ROTATED.match(change.name):
                    size = _size(f"{change.path}/{change.name}")
                    self._changes.append(Change("rotate", now, *whose, 0, size))
            elif (store := self._stores.get(change.path)) is not None and change.name.isdecimal():
                if not store.count:
                    store.first_ns = now
                store.count, store.last_ns = store.count + 1, now

    def _of_volume(self, volume: _Volume, change: inotify.Change, now: int) -> None:
        if change.mask & inotify.CREATE and _VERSION.match(change.name):
            volume.made_ns = now
        elif change.mask & inotify.MOVED_TO and change.name == "..data":
            took = now - volume.made_ns if volume.made_ns else 0
            first, volume.made_ns, volume.filled = not volume.filled, 0, True
            self._changes.append(Change("refresh", now, volume.pod_uid, volume.name, took, int(first)))


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except (OSError, ValueError):
        return 0
