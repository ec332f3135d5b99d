"""Reads a bbolt database file that another process may be writing, without its lock.

Only what is needed to look a few keys up: pages are read with pread(2) as they are needed (a mapping of a file that is
cut short would kill the process), every number in them is checked, and the work is bounded. Format: go.etcd.io/bbolt,
page.go, bucket.go and db.go; little-endian on every machine that Kubernetes runs on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from kubetrace.errors import NodeError

T = TypeVar("T")

_PAGE: Final = struct.Struct("<QHHI")  # id, flags, count, overflow
_META: Final = struct.Struct(
    "<IIIIQQQQQQ"
)  # magic, version, page size, flags, root, sequence, freelist, pgid, txid, sum
_BRANCH: Final = struct.Struct("<IIQ")  # key position, key size, page id
_LEAF: Final = struct.Struct("<IIII")  # flags, key position, key size, value size
_BUCKET: Final = struct.Struct("<QQ")  # root page id (0: the page follows inline), sequence
_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_IS_BRANCH: Final = 0x01
_IS_LEAF: Final = 0x02
_IS_BUCKET: Final = 0x01

_MAX_DEPTH: Final = 32
_MAX_PAGES: Final = 65_536
_MAX_PAGE_BYTES: Final = 64 << 20
_KEPT_PAGES: Final = 64
_ATTEMPTS: Final = 4


class BoltError(NodeError):
    """The file is not a bbolt database, is damaged, or changes faster than it can be read."""


def read(path: str | os.PathLike[str], query: Callable[[Bucket], T]) -> T:
    """What `query` finds from the root bucket of the database at `path`, in one consistent state of it.

    A page that a transaction frees is overwritten by the next but one at the earliest, so an answer stands if no other
    transaction was committed meanwhile; otherwise the query runs again. BoltError if that happens four times, or the
    file is not there, not a database or torn.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise BoltError(f"Cannot open {os.fspath(path)!r}: {error}.") from error
    try:
        failure: BoltError | None = None
        for _ in range(_ATTEMPTS):
            try:
                state = _newest_state(descriptor)
                answer = query(Bucket(_Pages(descriptor, state.page_size), state.root, b""))
                if _newest_state(descriptor).transaction == state.transaction:
                    return answer
            except BoltError as error:
                failure = error
        raise failure or BoltError("The database changed during each of four reads.")
    except (OSError, OverflowError) as error:
        raise BoltError(f"Cannot read {os.fspath(path)!r}: {error}.") from error
    finally:
        os.close(descriptor)


class Bucket:
    """A bucket: sorted byte keys, each with a byte value or a bucket below it. BoltError on damaged pages."""

    __slots__ = ("_inline", "_pages", "_root")

    def __init__(self, pages: _Pages, root: int, inline: bytes) -> None:
        """The bucket whose root page has the number `root`; 0: that page is `inline`."""
        self._pages = pages
        self._root = root
        self._inline = inline

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None if there is none, or a bucket."""
        found = self._find(key)
        return None if found is None or found[0] & _IS_BUCKET else found[1]

    def bucket(self, *keys: bytes) -> Bucket | None:
        """The bucket below this one by the given keys, each one level further down; None if there is none."""
        below: Bucket | None = self
        for key in keys:
            found = below._find(key) if below is not None else None
            below = self._open(found[1]) if found is not None and found[0] & _IS_BUCKET else None
        return below

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Every key of this bucket with its value or bucket, in the order of the keys."""
        for page in self._leaves(self._page(self._root), 0):
            for index in range(_count(page)):
                flags, key, value = _leaf(page, index)
                yield key, self._open(value) if flags & _IS_BUCKET else value

    def _open(self, value: bytes) -> Bucket:
        if len(value) < _BUCKET.size:
            raise BoltError("A bucket's header is cut short.")
        root, _ = _BUCKET.unpack_from(value)
        return Bucket(self._pages, root, value[_BUCKET.size :] if root == 0 else b"")

    def _page(self, number: int) -> bytes:
        return self._pages.read(number) if number else self._pages.inline(self._inline)

    def _find(self, key: bytes) -> tuple[int, bytes] | None:
        page = self._page(self._root)
        for _ in range(_MAX_DEPTH):
            if _flags(page) & _IS_BRANCH:
                # The last child whose first key is not above the one looked for.
                low, high = 0, _count(page)
                while low < high:
                    middle = (low + high) // 2
                    if _branch(page, middle)[0] <= key:
                        low = middle + 1
                    else:
                        high = middle
                page = self._pages.read(_branch(page, max(low - 1, 0))[1])
                continue
            low, high = 0, _count(page)
            while low < high:
                middle = (low + high) // 2
                if _leaf(page, middle)[1] < key:
                    low = middle + 1
                else:
                    high = middle
            if low < _count(page):
                flags, found, value = _leaf(page, low)
                if found == key:
                    return flags, value
            return None
        raise BoltError("The tree is deeper than a database's can be.")

    def _leaves(self, page: bytes, depth: int) -> Iterator[bytes]:
        if depth > _MAX_DEPTH:
            raise BoltError("The tree is deeper than a database's can be.")
        if _flags(page) & _IS_LEAF:
            yield page
            return
        for index in range(_count(page)):
            yield from self._leaves(self._pages.read(_branch(page, index)[1]), depth + 1)


class _State:
    # The newest committed transaction: its number and where its root bucket is.
    __slots__ = ("page_size", "root", "transaction")

    def __init__(self, page_size: int, root: int, transaction: int) -> None:
        self.page_size = page_size
        self.root = root
        self.transaction = transaction


class _Pages:
    # Checked pages of one file, read when asked for; how many in all is bounded (a cycle in a damaged tree). A few are
    # kept for the query: every look-up begins at the same ones.
    __slots__ = ("_descriptor", "_kept", "_left", "_size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._left = _MAX_PAGES
        self._kept: dict[int, bytes] = {}

    def read(self, number: int) -> bytes:
        kept = self._kept.get(number)
        if kept is not None:
            self._left -= 1
            if self._left < 0:
                raise BoltError("The query visits more pages than a node's database has.")
            return kept
        data = self._checked(number)
        if len(data) == self._size and len(self._kept) < _KEPT_PAGES:
            self._kept[number] = data
        return data

    def _checked(self, number: int) -> bytes:
        data = self._pread(self._size, number)
        found, flags, _, overflow = _PAGE.unpack_from(data)
        if found != number or not flags & (_IS_BRANCH | _IS_LEAF):
            raise BoltError("A page is not the one that its parent names.")
        if overflow:
            size = self._size * (overflow + 1)
            if size > _MAX_PAGE_BYTES:
                raise BoltError("A page is larger than any real one.")
            data = self._pread(size, number)
        return data

    def inline(self, data: bytes) -> bytes:
        if len(data) < _PAGE.size or not _flags(data) & _IS_LEAF:
            raise BoltError("An inline bucket is cut short.")
        return data

    def _pread(self, size: int, number: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise BoltError("The query visits more pages than a node's database has.")
        data = os.pread(self._descriptor, size, number * self._size)
        if len(data) != size:
            raise BoltError("A page lies behind the end of the file.")
        return data


def _newest_state(descriptor: int) -> _State:
    # Two meta pages are written in turn, each with a checksum: the valid one with the highest transaction is the state.
    states = []
    first = _state_at(descriptor, 0)
    if first is not None:
        states.append(first)
        sizes = [first.page_size]
    else:
        sizes = [1024 << shift for shift in range(7)]
    for size in sizes:
        second = _state_at(descriptor, size)
        if second is not None and second.page_size == size:
            states.append(second)
    if not states:
        raise BoltError("The file is not a bbolt database, or neither of its meta pages is whole.")
    return max(states, key=lambda state: state.transaction)


def _state_at(descriptor: int, offset: int) -> _State | None:
    data = os.pread(descriptor, _PAGE.size + _META.size, offset)
    if len(data) != _PAGE.size + _META.size:
        return None
    magic, version, page_size, _, root, _, _, _, transaction, checksum = _META.unpack_from(data, _PAGE.size)
    if magic != _MAGIC or version != _VERSION or _fnv1a(data[_PAGE.size : -8]) != checksum:
        return None
    if page_size < 1024 or page_size > 65_536 or page_size & (page_size - 1):
        return None
    return _State(page_size, root, transaction)


def _fnv1a(data: bytes) -> int:
    # FNV-1a, 64 bits (db.go, meta.sum64).
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _flags(page: bytes) -> int:
    return int.from_bytes(page[8:10], "little")


def _count(page: bytes) -> int:
    return int.from_bytes(page[10:12], "little")


def _branch(page: bytes, index: int) -> tuple[bytes, int]:
    # Key and page of a branch page's element; positions count from the element itself.
    at = _PAGE.size + index * _BRANCH.size
    try:
        position, key_size, number = _BRANCH.unpack_from(page, at)
    except struct.error as error:
        raise BoltError("A branch page is cut short.") from error
    return _slice(page, at + position, key_size), number


def _leaf(page: bytes, index: int) -> tuple[int, bytes, bytes]:
    # Flags, key and value of a leaf page's element.
    at = _PAGE.size + index * _LEAF.size
    try:
        flags, position, key_size, value_size = _LEAF.unpack_from(page, at)
    except struct.error as error:
        raise BoltError("A leaf page is cut short.") from error
    return flags, _slice(page, at + position, key_size), _slice(page, at + position + key_size, value_size)


def _slice(page: bytes, start: int, size: int) -> bytes:
    if start + size > len(page):
        raise BoltError("A key or value lies outside its page.")
    return page[start : start + size]
