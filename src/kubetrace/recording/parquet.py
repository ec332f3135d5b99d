"""Parquet through pyarrow (kubetrace[parquet]): a column for each key of the JSON objects, zstd-compressed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from kubetrace.errors import LibraryMissing, OutputError

_ROWS = 65_536


class _Sink:
    """A stream as pyarrow wants it: one that need not know where it is, such as a pipe."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at = stream, 0

    def write(self, data: Any) -> int:
        """All of it."""
        size = memoryview(data).nbytes
        self._stream.write(data)
        self._at += size
        return size

    def tell(self) -> int:
        """Bytes so far."""
        return self._at

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """The stream is its opener's."""


def needed() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises LibraryMissing."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise LibraryMissing(
            "Parquet needs pyarrow, which is not installed.",
            why="It is 170 MB, so kubetrace does not bring it along.",
            do="pip install 'kubetrace[parquet]', or --format csv",
            check="",
        ) from error


def write(stream: BinaryIO, schema: Mapping[str, str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write all records; `time` is nanoseconds since 1970. Raises LibraryMissing without pyarrow, OutputError."""
    pyarrow, parquet = needed()
    types = {
        "time": pyarrow.timestamp("ns", tz="UTC"),
        "bool": pyarrow.bool_(),
        "uint": pyarrow.uint64(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "text": pyarrow.string(),
    }
    columns = pyarrow.schema([(key, types[kind]) for key, kind in schema.items()])
    try:
        with parquet.ParquetWriter(_Sink(stream), columns, compression="zstd") as writer:
            group: list[dict[str, Any]] = []
            for record in records:
                group.append({key: _cell(kind, record.get(key)) for key, kind in schema.items()})
                if len(group) == _ROWS:
                    writer.write_table(pyarrow.Table.from_pylist(group, schema=columns))
                    group = []
            if group or not schema:
                writer.write_table(pyarrow.Table.from_pylist(group, schema=columns))
    except BrokenPipeError:
        raise
    except (OSError, pyarrow.ArrowException) as error:
        raise OutputError(f"cannot write Parquet: {error}.") from error


def _cell(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "text":
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    if kind in ("int", "time"):
        return max(-(1 << 63), min(value, (1 << 63) - 1))
    return min(value, (1 << 64) - 1) if kind == "uint" else value
