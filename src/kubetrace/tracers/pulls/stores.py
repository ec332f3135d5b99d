"""The pulls of every containerd on the node as records, read off its files (node/content.py): no socket, no program.

inotify tells that something happened, the files tell when: a lease's, blob's and snapshot's times are containerd's own,
so that a late look is no less exact. A look gives a record for each pull and each of its layers that changed, as a
batch of the stream `pulls`. Conclusions are the board's.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubetrace.attribution import oci
from kubetrace.attribution.facts import CgroupSeen
from kubetrace.node import content, inotify, installed
from kubetrace.node.bolt import BoltError
from kubetrace.node.containerd import METADATA, SNAPSHOTTER
from kubetrace.node.reading import listed
from kubetrace.stream.layout import RING_HEADER_BYTES, Batch
from kubetrace.tracers.pulls.shape import LAYOUT, NUMBERS, STATES, STREAM, TEXT_BYTES, UNKNOWN

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout

_PACK = struct.Struct(f"<{RING_HEADER_BYTES}x{LAYOUT.format[1:]}").pack

_RUNNING, _DONE, _FAILED, _LEFT = range(len(STATES))
# Readings of the metadata for one look, and the shortest time between two looks.
_AT_ONCE = 4
_AGAIN_S = 0.1
# Pulls that are looked at, and directories whose making was noted.
_MOST_PULLS = 256
_MOST_STAMPS = 4096
# What has not changed for so long is asked whether anybody is at it still.
_QUIET_S = 3.0
_CONTENT, _INGEST = os.path.split(content.INGESTS)
_MADE = (_CONTENT, _INGEST)


@dataclass(slots=True)
class _Layer:
    digest: str
    total: int
    chain: str | None = None
    line: str = ""
    download_begun: int | None = None
    download_ended: int | None = None
    prepared: int | None = None
    first_read: int | None = None
    committed: int | None = None
    bytes: int = 0
    resumed: int = 0
    unpacked: int | None = None
    inodes: int | None = None
    snapshot: int | None = None
    reused: int = 0
    fetched_elsewhere: bool = False
    unpacked_elsewhere: bool = False
    owned: bool = False
    """Whether this pull was seen to download it."""

    @property
    def came(self) -> int:
        """Bytes that this pull downloaded."""
        return 0 if self.reused or self.fetched_elsewhere else max(0, self.bytes - self.resumed)

    @property
    def settled(self) -> bool:
        return self.committed is not None

    @property
    def unpack_begun(self) -> int | None:
        """When it was whole and its snapshot prepared; later, where its blob was first read later."""
        if self.reused == 2 or self.download_ended is None or self.prepared is None:
            return None
        begun = max(self.download_ended, self.prepared)
        if self.first_read is not None and self.first_read > begun:
            begun = self.first_read if self.committed is None else min(self.first_read, self.committed)
        return begun


@dataclass(slots=True)
class _Pull:
    number: int
    begun: int
    resolved: int | None = None
    ended: int | None = None
    state: int = 0
    name: str = ""
    named_by: int = 0
    manifest: content.Manifest | None = None
    ingests: Collection[str] = ()
    blobs: set[str] = field(default_factory=set)
    layers: list[_Layer] = field(default_factory=list)
    extracts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Chain -> (snapshotter, key) while it is unpacked."""
    changed_s: float = 0.0
    told: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def incomplete(self) -> bool:
        """Whether its layers, or their chain ids, are not known yet."""
        return self.manifest is None or any(layer.chain_id is None for layer in self.manifest.layers)


class Stores:
    """Looks at every containerd of the node, while anything is pulled. For one thread."""

    layouts: Mapping[str, Layout] = {STREAM: LAYOUT}
    complete = True

    def __init__(self, host: Host) -> None:
        """Nothing is read yet."""
        self._host = host
        self._numbers = 0
        self._own: dict[int, int] = {}
        self._stores: dict[str, _Store] = {}
        self._records: list[bytes] = []
        self._looked = -_AGAIN_S
        self._stirred = False
        try:
            self._changes: inotify.Inotify | None = inotify.Inotify()
        except OSError:
            # as many as this user may have: looks are once an interval then
            self._changes = None
        self._watch_stores()

    @property
    def fds(self) -> Sequence[int]:
        """Readable when something happens."""
        return [self._changes.fd] if self._changes is not None else []

    def stir(self) -> bool:
        """Something has happened: note it, and look unless that was just now."""
        self._take_changes()
        if self._stirred and time.monotonic() - self._looked >= _AGAIN_S:
            self._look()
        return self._stirred

    def learn(self, fact: Fact) -> None:
        """The node's own cgroup: pulls are the node's doing."""
        if isinstance(fact, CgroupSeen) and fact.path == "/":
            self._own[fact.hierarchy] = fact.cgroup_id

    def read(self, between: Callable[[], None] = lambda: None, *, whole: bool = False) -> list[Batch]:
        """A record of each pull and layer that changed since the last call."""
        self._watch_stores()
        self._take_changes()
        busy = any(store.busy for store in self._stores.values())
        if whole or self._stirred or busy or self._changes is None:
            self._look(between)
        records, self._records = self._records, []
        return [Batch(STREAM, b"".join(records))] if records else []

    def close(self) -> None:
        """Watch nothing any more."""
        if self._changes is not None:
            self._changes.close()

    def _watch_stores(self) -> None:
        for root in self._host.places.roots:
            base = self._host.path(root)
            if base not in self._stores:
                if not os.path.isfile(f"{base}/{METADATA}"):
                    continue
                self._stores[base] = _Store(base, self._host, self._next, self._own)
                self._stirred = True
            if self._changes is None:
                continue
            watched = self._changes.watched
            # the content store's directories are made with the first pull of all
            for path in (base, f"{base}/{_CONTENT}", f"{base}/{content.INGESTS}"):
                if path not in watched and self._changes.watch(path, inotify.CREATE) and path.endswith(content.INGESTS):
                    for name in listed(path):
                        self._stores[base].stamp(name, time.time_ns())
            if f"{base}/{METADATA}" not in watched:
                self._changes.watch(f"{base}/{METADATA}", inotify.MODIFY)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _take_changes(self) -> None:
        if self._changes is None:
            return
        now = time.time_ns()
        for change in self._changes.read():
            self._stirred = True
            if not change.mask & inotify.CREATE:
                continue
            store = self._stores.get(change.path.removesuffix(f"/{content.INGESTS}"))
            if store is not None and change.path.endswith(content.INGESTS):
                store.stamp(change.name, now)
            elif change.name in _MADE:
                self._watch_stores()

    def _look(self, between: Callable[[], None] = lambda: None) -> None:
        self._looked, self._stirred = time.monotonic(), False
        for store in self._stores.values():
            self._records += store.look()
            between()


class _Store:
    """One containerd's pulls."""

    def __init__(self, base: str, host: Host, number: Callable[[], int], own: Mapping[int, int]) -> None:
        self._base, self._host, self._number, self._own = base, host, number, own
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._stamps: dict[str, int] = {}
        self._blobs: dict[tuple[str, str], content.Blob] = {}
        """By namespace and digest, of those that a pull here holds or wants: what is whole stays as it is."""
        self._offset_ns = host.boot_to_wall_ns()
        self._first = True
        self._records: list[bytes] = []

    @property
    def busy(self) -> bool:
        """Whether something is pulled."""
        return any(pull.state == _RUNNING for pull in self._pulls.values())

    def stamp(self, name: str, now_ns: int) -> None:
        """An ingest's directory was made."""
        self._stamps[name] = now_ns
        if len(self._stamps) > _MOST_STAMPS:
            del self._stamps[next(iter(self._stamps))]

    def look(self) -> list[bytes]:
        """How things stand: a record of each pull and layer that changed."""
        snapshotters = [name.removeprefix(SNAPSHOTTER) for name in listed(self._base) if name.startswith(SNAPSHOTTER)]
        try:
            state = self._state(snapshotters)
        except BoltError:
            return []  # it is written, or of another version: the next look will tell
        snapshots = self._snapshots(state, snapshotters)
        ingests = content.ingests(self._base) if self._pulls else {}
        downloads = {one.digest: one for one in ingests.values() if one.digest is not None}
        for pull in self._pulls.values():
            for layer in pull.layers:
                layer.owned |= any(ref.endswith(layer.digest) for ref in pull.ingests)
        for key, pull in list(self._pulls.items()):
            ended = key not in state.leases
            if pull.state == _LEFT:
                if ended:
                    del self._pulls[key]  # its lease has run out
                continue
            for layer in pull.layers:
                self._update_layer(pull, layer, key[0], state, downloads, snapshots)
            if ended:
                self._end(pull, key[0], state)
                del self._pulls[key]
            self._records += self._told(pull)
            if time.monotonic() - pull.changed_s >= _QUIET_S or self._first:
                pull.changed_s = time.monotonic()
                self._leave(pull)
        held = {(key[0], digest) for key, pull in self._pulls.items() for digest in pull.blobs}
        self._blobs = {key: blob for key, blob in self._blobs.items() if key in held}
        self._first = False
        records, self._records = self._records, []
        return records

    def _state(self, snapshotters: Sequence[str]) -> content.State:
        # Again while pulls and layers are met of which this does not tell yet: at the next look they may be gone.
        for _ in range(_AT_ONCE):
            state = content.state(f"{self._base}/{METADATA}", self._wanted(snapshotters))
            news = False
            for key, lease in state.leases.items():
                if key not in self._pulls and _pulls(lease) and len(self._pulls) < _MOST_PULLS:
                    for other in self._pulls.values():
                        self._leave(other)  # by who was killed, and asks again
                    begun = lease.created_ns if lease.created_ns is not None else time.time_ns()
                    self._pulls[key] = _Pull(self._number(), begun, changed_s=time.monotonic())
                    news = True
            for key, pull in self._pulls.items():
                if pull.state != _LEFT:
                    news |= self._update_lease(pull, state.leases.get(key), state, key[0])
            if not news:
                break
        return state

    def _wanted(self, snapshotters: Sequence[str]) -> content.Wanted:
        blobs: list[tuple[str, str]] = []
        targets: list[tuple[str, str]] = []
        keys: list[tuple[str, str, str]] = []
        for (namespace, _), pull in self._pulls.items():
            layers = {layer.digest for layer in pull.layers}
            blobs += [(namespace, layer.digest) for layer in pull.layers if layer.download_ended is None]
            targets += [(namespace, digest) for digest in pull.blobs - layers]
            # its own snapshotter is known with the first layer that it unpacks
            own = {snapshotter for snapshotter, _ in pull.extracts.values()} or set(snapshotters)
            for layer in pull.layers:
                if layer.chain is not None and not layer.settled:
                    keys += [(namespace, snapshotter, layer.chain) for snapshotter in own]
            settled = {layer.chain for layer in pull.layers if layer.settled}
            keys += [(namespace, *extract) for chain, extract in pull.extracts.items() if chain not in settled]
        return content.Wanted(blobs, targets, keys, self._blobs.keys())

    def _update_lease(self, pull: _Pull, lease: content.Lease | None, state: content.State, namespace: str) -> bool:
        """Whether there is something new to look up; `lease` is None when it is gone."""
        before = len(pull.blobs), len(pull.extracts), pull.manifest
        if lease is not None:
            pull.ingests = lease.ingests
            pull.blobs |= set(lease.blobs)
            for snapshotter, key in lease.snapshots:
                extract, _, chain = key.partition(" ")
                if extract.startswith("extract-"):
                    pull.extracts[chain] = (snapshotter, key)
        self._blobs |= state.blobs
        blobs = {digest: blob for digest in pull.blobs if (blob := self._blobs.get((namespace, digest))) is not None}
        if pull.incomplete:
            found = content.manifest(self._base, [(digest, blob.size) for digest, blob in blobs.items()])
            if found is not None:
                self._take_manifest(pull, found)
        if pull.manifest is not None and pull.resolved is None:
            config = blobs.get(pull.manifest.config)
            if config is not None and config.created_ns is not None:
                pull.resolved = max(pull.begun, config.created_ns)
        if pull.named_by == 0:
            layers = {layer.digest for layer in pull.layers}
            sources = {source for digest, blob in blobs.items() if digest not in layers for source in blob.sources}
            if sources:
                pull.name, pull.named_by = " or ".join(sorted(sources)), 1
        return before != (len(pull.blobs), len(pull.extracts), pull.manifest)

    @staticmethod
    def _take_manifest(pull: _Pull, manifest: content.Manifest) -> None:
        pull.manifest = manifest
        if not pull.layers:
            pull.layers = [_Layer(one.digest, one.size) for one in manifest.layers]
        for layer, one in zip(pull.layers, manifest.layers, strict=True):
            layer.chain, layer.line = one.chain_id, one.line

    def _snapshots(
        self, state: content.State, snapshotters: Sequence[str]
    ) -> dict[tuple[str, str], content.SnapshotState]:
        # (namespace, key of the metadata) -> what the snapshotter's own database says
        found: dict[tuple[str, str], content.SnapshotState] = {}
        for snapshotter in snapshotters:
            backends = {
                backend: (namespace, key) for (namespace, of, key), backend in state.keys.items() if of == snapshotter
            }
            if not backends:
                continue
            try:
                states = content.snapshot_states(f"{self._base}/{SNAPSHOTTER}{snapshotter}", backends)
            except BoltError:
                continue
            found |= {backends[backend]: one for backend, one in states.items()}
        return found

    def _update_layer(
        self,
        pull: _Pull,
        layer: _Layer,
        namespace: str,
        state: content.State,
        downloads: Mapping[str, content.Ingest],
        snapshots: Mapping[tuple[str, str], content.SnapshotState],
    ) -> None:
        ingest = downloads.get(layer.digest)
        if layer.download_begun is None:
            self._begin_download(pull, layer, namespace, ingest)
        if ingest is not None and layer.download_ended is None:
            layer.bytes = max(layer.bytes, ingest.size)
        blob = self._blobs.get((namespace, layer.digest))
        if blob is not None and layer.download_ended is None and blob.created_ns is not None:
            layer.bytes = layer.total
            layer.download_ended = blob.created_ns
            if blob.created_ns < pull.begun:
                layer.reused, layer.download_begun = max(layer.reused, 1), None
                layer.download_ended, layer.resumed, layer.bytes = pull.begun, 0, 0
        layer.fetched_elsewhere = not layer.owned and not layer.reused and self._others(pull, layer)
        if layer.chain is None or layer.settled:
            return
        extract = pull.extracts.get(layer.chain)
        active = snapshots.get((namespace, extract[1])) if extract is not None else None
        if active is None and extract is None:
            layer.unpacked_elsewhere |= any(
                layer.chain in other.extracts
                for other in self._pulls.values()
                if other is not pull and other.state == _RUNNING
            )
        found = snapshots.get((namespace, layer.chain)) or active
        if found is None:
            return
        layer.snapshot = found.number
        if found.prepared_ns is not None:
            layer.prepared = found.prepared_ns
        if found.committed_ns is not None:
            layer.committed, layer.unpacked, layer.inodes = found.committed_ns, found.size, found.inodes
            if found.committed_ns < pull.begun:
                layer.reused, layer.bytes = 2, 0
        if layer.first_read is None and layer.reused != 2:
            layer.first_read = content.first_read_ns(self._base, layer.digest)

    def _begin_download(self, pull: _Pull, layer: _Layer, namespace: str, ingest: content.Ingest | None) -> None:
        begun = ingest.started_ns if ingest is not None else None
        if begun is None:
            begun = self._stamps.get(content.ingest_name(namespace, f"layer-{layer.digest}"))
        if begun is None:
            return
        if begun < pull.begun:
            # left by an earlier pull, or another one is at it
            if ingest is None:
                return
            layer.resumed = 0 if self._others(pull, layer) else self._left_bytes(layer, ingest)
            begun = pull.begun
        layer.download_begun = begun

    def _left_bytes(self, layer: _Layer, ingest: content.Ingest) -> int:
        # what was there when it was left; of a pull that was not seen, what is there now
        known = [
            one.bytes
            for other in self._pulls.values()
            if other.state == _LEFT
            for one in other.layers
            if one.digest == layer.digest
        ]
        return max(known, default=ingest.size)

    def _others(self, pull: _Pull, layer: _Layer) -> bool:
        """Whether another pull downloads the layer; where that was too quick to be seen, the first that wanted it."""
        found = layer.fetched_elsewhere
        for other in self._pulls.values():
            if other is not pull and other.state == _RUNNING:
                same = [one for one in other.layers if one.digest == layer.digest and not one.reused]
                found |= any(one.owned for one in same)
                whole = layer.download_ended is not None and not any(one.fetched_elsewhere for one in same)
                found |= bool(same) and whole and other.number < pull.number
        return found

    def _end(self, pull: _Pull, namespace: str, state: content.State) -> None:
        named = [
            one
            for digest in pull.blobs
            for one in state.names.get((namespace, digest), ())
            if max(one.created_ns or 0, one.updated_ns or 0) >= pull.begun
        ]
        best = oci.best_reference([one.name for one in named])
        if best is None:
            pull.state, pull.ended = _FAILED, time.time_ns()
            return
        # a pull makes one name with a tag; two at once of what is the same image make two
        alike = [
            one for one in named if ("@" in one.name, oci.is_digest(one.name)) == ("@" in best, oci.is_digest(best))
        ]
        pull.name, pull.named_by, pull.state = " or ".join(sorted({one.name for one in alike})), 2, _DONE
        pull.ended = max(
            min(moment for moment in (one.created_ns, one.updated_ns) if moment and moment >= pull.begun)
            for one in alike
        )

    def _leave(self, pull: _Pull) -> None:
        """Conclude that a pull was left, where no runtime is there any more that could have begun it."""
        begun = self._boot(pull.begun)
        if pull.state == _RUNNING and not any(at < begun for at in installed.runtimes_started_ns(self._host)):
            pull.state, pull.ended = _LEFT, time.time_ns()
            self._records += self._told(pull)

    def _told(self, pull: _Pull) -> Iterable[bytes]:
        for position, layer in enumerate(pull.layers):
            yield from self._record(pull, position, layer)
        yield from self._record(pull, -1, None)

    def _record(self, pull: _Pull, position: int, layer: _Layer | None) -> Iterable[bytes]:
        numbers = dict.fromkeys([name for name, _ in NUMBERS], UNKNOWN)
        numbers |= {
            "pull": pull.number,
            "position": position,
            "layers": len(pull.layers),
            "begun": self._boot(pull.begun),
            "resolved": self._boot(pull.resolved),
            "ended": self._boot(pull.ended),
        }
        if layer is None:
            numbers["bytes"] = sum(one.came for one in pull.layers)
            numbers["total"] = sum(one.total for one in pull.layers)
            numbers["unpacked"] = sum(one.unpacked or 0 for one in pull.layers if one.reused != 2)
            numbers["inodes"] = sum(one.inodes or 0 for one in pull.layers if one.reused != 2)
            text, digest, flags = pull.name, pull.manifest.digest if pull.manifest is not None else "", (0, 0, 0)
        else:
            numbers |= {
                "download_begun": self._boot(layer.download_begun),
                "download_ended": self._boot(layer.download_ended),
                "unpack_begun": self._boot(layer.unpack_begun),
                "committed": self._boot(layer.committed),
                "bytes": layer.came,
                "total": layer.total,
                "resumed": layer.resumed,
                "unpacked": layer.unpacked if layer.unpacked is not None else UNKNOWN,
                "inodes": layer.inodes if layer.inodes is not None else UNKNOWN,
                "snapshot": layer.snapshot if layer.snapshot is not None else UNKNOWN,
            }
            text, digest = layer.line, layer.digest
            flags = (layer.reused, layer.fetched_elsewhere, layer.unpacked_elsewhere)
        told = _fitted(os.fsencode(text))
        words = (int(layer is not None), pull.state, int(flags[0]), pull.named_by, int(flags[1]), int(flags[2]))
        values = (*numbers.values(), *words, 0, len(told), bytes.fromhex(digest.removeprefix("sha256:")[:64]), told)
        if pull.told.get(position) == values:
            return
        pull.told[position] = values
        pull.changed_s = time.monotonic()
        memory = next((item for item in self._own.items() if item[0]), (0, 0))
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        yield _PACK(now, self._own.get(0, 0), memory[1], memory[0], 0, *values)

    def _boot(self, wall_ns: int | None) -> int:
        return wall_ns - self._offset_ns if wall_ns is not None else UNKNOWN


def _fitted(text: bytes) -> bytes:
    # one that is cut ends with an ellipsis
    if len(text) <= TEXT_BYTES:
        return text
    return text[: TEXT_BYTES - 3].decode("utf-8", "ignore").encode() + "…".encode()


def _pulls(lease: content.Lease) -> bool:
    # A container that is made holds its snapshot alone.
    return bool(lease.ingests or lease.blobs) or any(key.startswith("extract-") for _, key in lease.snapshots)
