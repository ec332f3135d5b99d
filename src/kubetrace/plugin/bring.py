"""Recordings that nodes send, into files here: created for their owner only, and never over another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from kubetrace.errors import OutputError
from kubetrace.recording.private import create


def file_of(file: Path, node: str, *, alone: bool) -> Path:
    """The file of one node: that which was named, or of several one each, node.ktrace -> node-worker-3.ktrace."""
    return file if alone else file.with_name(f"{file.stem}-{node}{file.suffix}")


class Brought:
    """The files, open for as long as the context lasts. Raises UsageError for one that exists, OutputError."""

    def __init__(self, files: Mapping[str, Path], *, force: bool) -> None:
        """`files`: node -> its file; `force` replaces regular files."""
        self._files, self._force = files, force
        self._open: dict[str, int] = {}
        self.sizes = dict.fromkeys(files, 0)
        """Node -> bytes that were written."""

    def __enter__(self) -> Self:
        """Create them."""
        try:
            for node, path in self._files.items():
                self._open[node] = create(path, force=self._force)
        except BaseException:
            self.__exit__()
            raise
        return self

    def write(self, node: str, data: bytes) -> None:
        """Append what has come. Raises OutputError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._open[node], view) :]
        except OSError as error:
            raise OutputError(f"cannot write {self._files[node]}: {error.strerror or error}.") from error
        self.sizes[node] += len(data)

    def __exit__(self, *_error: object) -> None:
        """Close them; one that nothing came for is not left behind."""
        for node, descriptor in self._open.items():
            os.close(descriptor)
            if not self.sizes[node]:
                self._files[node].unlink(missing_ok=True)
        self._open.clear()
