"""The table of one run of reads: whose file was read, by whom and by which way, how often, when first and when last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.destination import CUT, volume_kind
from kubetrace.kit.identity import identity_cells, text_of
from kubetrace.tracers.reads.telling import NOT_TOLD, OTHERS, File, Reading, cells_of, way_of

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Grouping
    from kubetrace.views.columns import Value

# A volume's directory as the kubelet makes it, in a path of the file system that it is on. What is in a volume may look
# like one: the uppermost counts.
_VOLUME = re.compile(r"/pods/([^/]+)/volumes/([^/]+)/([^/]+)(?:/mount(?=/|\Z))?")
# The directory of one version of a volume's files (the kubelet's atomic writer).
_VERSION = re.compile(r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+\Z")
_TOKEN: Final = "kube-api-access-"
_VALUES: Final = ("opens", "reads", "bytes", "maps")


class _Counter:
    # One of the kernel's: who and what file, and its numbers so far; and what was concluded of these.

    __slots__ = ("base", "first", "identity", "keys", "record", "told", "values")

    def __init__(self, record: Any, identity: Identity) -> None:
        self.record, self.identity = record, identity
        self.values = self.base = (0, 0, 0, 0)
        self.first = record.first
        self.told: Reading | None = None
        # grouping -> the row that it is in
        self.keys: dict[str, tuple[Value, ...]] = {}

    def forget(self) -> None:
        self.told = None
        self.keys.clear()


class ReadsBoard:
    """See kit.tracer.Board."""

    def __init__(
        self,
        context: Context,
        groupings: Mapping[str, Grouping],
        *,
        new: bool = False,
        files: Sequence[str] = (),
        kinds: Collection[str] = (),
        volume: str | None = None,
    ) -> None:
        """`new`: only the first reading of a file by a reader is told. `files`: patterns of names or paths.

        `kinds` (empty: all) and `volume` are those of a recording that are asked for; live the kernel knows them too.
        """
        self._context, self._groupings, self._new, self._files = context, groupings, new, files
        self._kinds, self._volume = kinds, volume
        self._known: dict[tuple[int, int], File] = {}
        self._counters: dict[tuple[Any, ...], _Counter] = {}
        self._said: set[tuple[Any, ...]] = set()

    def learn(self, fact: Fact) -> None:
        """Names are asked for when they are shown."""

    # -- what comes

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """What a counter has come to since it was told last."""
        if "opens" not in event._fields:
            self._learn_file((event.volume, event.file), file_of(event))
            return ()
        key = (
            *(event.cgroup_id, event.memory_cgroup_id, event.memory_hierarchy, event.volume, event.file, event.pid),
            *(event.through, event.rest, event.comm),
        )
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = _Counter(event, identity)
        before = counter.values
        counter.values = tuple([getattr(event, name) for name in _VALUES])
        if counter.identity != identity:
            counter.keys.clear()
        counter.record, counter.identity, counter.told = event, identity, None
        counter.first = counter.first or event.last
        told = self._reading(counter, before)
        if not self._is_asked_for(told.file):
            return ()
        said = _said(told)
        first = said not in self._said
        self._said.add(said)
        if (self._new and not first) or not any((told.opens, told.reads, told.bytes, told.maps)):
            return ()
        return ((replace(told, is_first=first), self._whose(told)),)

    def _learn_file(self, number: tuple[int, int], file: File) -> None:
        # Numbers may be given again; and a name may come after what was counted, where its first telling was lost.
        if self._known.get(number) != file:
            self._known[number] = file
            for counter in self._counters.values():
                if (counter.record.volume, counter.record.file) == number:
                    counter.forget()

    def _reading(self, counter: _Counter, before: Sequence[int]) -> Reading:
        record = counter.record
        file = File(path=OTHERS) if record.rest else self._known.get((record.volume, record.file), File())
        opens, reads, size, maps = (now - then for now, then in zip(counter.values, before, strict=True))
        return Reading(
            record.last,
            record.cgroup_id,
            record.memory_cgroup_id,
            counter.identity,
            file,
            "-" if record.rest else way_of(record, counter.identity, file),
            text_of(record.comm),
            record.last_pid or None,
            bool(record.rest),
            counter.first,
            record.last,
            *(opens, reads, size, maps),
            *counter.values,
            is_first=False,
        )

    def _is_asked_for(self, file: File) -> bool:
        if file.path in (NOT_TOLD, OTHERS):
            return True
        if (self._kinds and file.kind not in self._kinds) or self._volume not in (None, file.volume):
            return False
        if not self._files:
            return True
        name = file.path.rpartition("/")[2]
        return any(fnmatchcase(name, one) or fnmatchcase(file.path, one) for one in self._files)

    def _whose(self, told: Reading) -> Identity:
        """Whose an event is: the pod's whose volume it is, unless that is not asked for and the reader is."""
        owner = self.owner(told)
        selection = self._context.attribution.selection
        if selection and not selection.match(owner) and selection.match(told.reader):
            return told.reader
        return owner

    def owner(self, told: Reading) -> Identity:
        """Whose volume it is, with the container or the process of the node that read it."""
        uid, reader = told.file.pod_uid, told.reader
        if uid is None or reader.pod_uid == uid:
            return reader
        found = self._context.attribution.owner(None, uid)
        is_host = reader.kind == "host"
        if found is None:
            return Identity(pod_uid=uid, kind="pod", host=is_host, cgroup_path=reader.cgroup_path, attributed_by="path")
        return replace(found, host=is_host, cgroup_path=reader.cgroup_path, container=None, container_id=None)

    # -- what is shown

    def start_over(self) -> None:
        """What was read so far is where counting begins."""
        for counter in self._counters.values():
            counter.base, counter.first, counter.told = counter.values, 0, None

    def _readings(self) -> Iterable[tuple[_Counter, Reading]]:
        # All that was read since counting began, and is asked for. Whose name became known since has it.
        identify, selection = self._context.attribution.identify, self._context.attribution.selection
        for counter in self._counters.values():
            if counter.identity.nameless and (found := identify(counter.record)) != counter.identity:
                counter.identity = found
                counter.forget()
            told = counter.told
            if told is None:
                told = counter.told = self._reading(counter, counter.base)
            if not any((told.opens, told.reads, told.bytes, told.maps)) or not self._is_asked_for(told.file):
                continue
            if not selection or selection.match(told.reader) or selection.match(self.owner(told)):
                yield counter, told

    def _key(self, by: str, counter: _Counter, told: Reading) -> tuple[Value, ...]:
        key = counter.keys.get(by)
        if key is None:
            owner = self.owner(told)
            cells = {**identity_cells(told, owner), "node": self._context.node, **cells_of(told)}
            key = tuple([cells[column.key] for column in self._groupings[by].key])
            if not owner.nameless:
                counter.keys[by] = key
        return key

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """See kit.tracer.Board. What is not part of a row's key is that of its newest."""
        rows: dict[tuple[Value, ...], list[Any]] = {}
        for counter, told in self._readings():
            key = self._key(by, counter, told)
            row = rows.get(key)
            if row is None:
                row = rows[key] = [told, 0, None, None, 0, told.first, told.last]
            row[1] += told.opens
            row[4] += told.maps
            if told.file.in_memory:
                row[2], row[3] = (row[2] or 0) + told.reads, (row[3] or 0) + told.bytes
            row[5] = min(row[5], told.first)
            if told.last > row[6]:
                row[0], row[6] = told, told.last
        notes, wall = self._groupings[by].notes, self._context.wall_ns
        made: list[Sequence[Value]] = []
        for key, row in rows.items():
            cells = cells_of(row[0]) if notes else {}
            made.append([*key, *[cells[column.key] for column in notes], *row[1:5], wall(row[5]), wall(row[6])])
        return made


def file_of(event: Any) -> File:
    """What the kernel told of a file: its path, and its volume's directory where that is all of a file system."""
    path, cut = _path(event.path, event.path_bytes, event.path_end)
    point, _ = _path(event.point, event.point_bytes, event.point_end)
    found = None
    if event.point_bytes:
        matches = list(_VOLUME.finditer(point))
        found, rest = (matches[-1] if matches else None), path
    elif (found := _VOLUME.search(path)) is not None:
        rest = path[found.end() :] or "/"
    else:
        rest = path
    # a recording of before has only such as are
    in_memory = bool(getattr(event, "in_memory", 1))
    if found is None:
        return File(path=path, in_memory=in_memory)
    head, _, tail = rest.lstrip("/").partition("/")
    version = head if tail and not cut and _VERSION.match(head) else None
    name = tail if version else rest.lstrip("/")
    return File(found[1], kind_of(found[2], found[3]), found[3], CUT + name if cut else name, version, in_memory)


def kind_of(plugin: str, volume: str) -> str:
    """secret, token, projected, configMap, downwardAPI, CSI volume, emptyDir, ..."""
    if plugin == "kubernetes.io~csi":
        return "CSI volume"
    kind = volume_kind(plugin)
    return "token" if kind == "projected" and volume.startswith(_TOKEN) else kind


def _path(names: bytes, size: int, end: int) -> tuple[str, bool]:
    # kt_path's form: leaf first, each name ended by NUL.
    path = b"/".join(reversed(names[:size].split(b"\0")[:-1])).decode("utf-8", "surrogateescape")
    return "/" + path, bool(end) or size > len(names)


def _said(told: Reading) -> tuple[Any, ...]:
    # A refresh of the volume makes no reader new, and a pid does not.
    file, reader = told.file, told.reader
    return (
        *(file.pod_uid, file.volume, file.path, told.way, told.comm),
        *(reader.kind, reader.pod_uid, reader.container, reader.cgroup_path if reader.kind == "host" else None),
    )


def patterns(given: Collection[str]) -> list[str]:
    """--file, as comma lists and repeated."""
    return [one.strip() for text in given for one in text.split(",") if one.strip()]
