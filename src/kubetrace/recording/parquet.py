"""Parquet through pyarrow (kubetrace[parquet]): a column for each key of the JSON objects, zstd-compressed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from kubetrace.errors import LibraryMissing, OutputError

_ROWS = 65_536


def write(path: str | os.PathLike[str], schema: Mapping[str, str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write all records; `time` is nanoseconds since 1970. Raises LibraryMissing without pyarrow, OutputError."""
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise LibraryMissing(
            "Parquet needs pyarrow, which is not installed.",
            why="It is 170 MB, so kubetrace does not bring it along.",
            do="pip install 'kubetrace[parquet]', or --format csv",
            check="",
        ) from error
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
        with parquet.ParquetWriter(os.fspath(path), columns, compression="zstd") as writer:
            group: list[dict[str, Any]] = []
            for record in records:
                group.append({key: _cell(kind, record.get(key)) for key, kind in schema.items()})
                if len(group) == _ROWS:
                    writer.write_table(pyarrow.Table.from_pylist(group, schema=columns))
                    group = []
            if group or not schema:
                writer.write_table(pyarrow.Table.from_pylist(group, schema=columns))
    except (OSError, pyarrow.ArrowException) as error:
        raise OutputError(f"cannot write {os.fspath(path)}: {error}.") from error


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
