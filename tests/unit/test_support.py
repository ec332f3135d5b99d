"""docs/support.md shows the matrix that the native tests run."""

from __future__ import annotations

from tests.native import support


def test_the_document_has_the_matrix_of_the_tests() -> None:
    text = support.DOCUMENT.read_text()
    assert support.written(text) == text, "python -m tests.native.support"


def test_each_cell_is_tried_or_has_its_reason() -> None:
    assert len(list(support.cells())) == 3 * 5 * 4 * 2
    assert {cell.runtime for cell in support.tried()} == set(support.RUNTIMES)
    assert {cell.snapshotter for cell in support.tried()} == set(support.SNAPSHOTTERS)
    assert {cell.place for cell in support.tried()} == set(support.PLACES)
    assert len({cell.name for cell in support.cells()}) == 120
