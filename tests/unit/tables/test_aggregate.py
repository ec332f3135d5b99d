"""Groups: counts, sums and maxima stay exact, also when rows are folded."""

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from kubetrace.kit.tracer import LAST, MAX, SUM
from kubetrace.tables.aggregate import Groups, Key


def _groups(limit: int) -> Groups:
    return Groups((SUM, SUM, MAX, LAST), fold=lambda key: (key[0], "(others)"), weight=lambda row: row[1], limit=limit)


def test_measures_join_by_their_operation() -> None:
    groups = _groups(10)
    groups.add(("web", "/a"), (1, 100, 7, 1))
    groups.add(("web", "/a"), (1, 20, 30, 2))
    groups.add(("web", "/b"), (1, 5, 4, 3))
    assert dict(groups.rows()) == {("web", "/a"): [2, 120, 30, 2], ("web", "/b"): [1, 5, 4, 3]}


def test_the_heaviest_rows_survive_folding() -> None:
    groups = _groups(4)
    for number, size in enumerate((5, 100, 1, 50, 2)):
        groups.add(("web", f"/{number}"), (1, size, size, number))
    assert dict(groups.rows()) == {
        ("web", "/1"): [1, 100, 100, 1],
        ("web", "/3"): [1, 50, 50, 3],
        ("web", "(others)"): [2, 6, 5, 2],
        ("web", "/4"): [1, 2, 2, 4],
    }


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 1000)), max_size=300),
    st.integers(4, 12),
)
def test_sums_of_a_pod_are_exact_whatever_is_folded(events: list[tuple[str, int, int]], limit: int) -> None:
    groups, by_cells = _groups(limit), _groups(limit)
    count = by_cells.by_cells(["pod", "file"])
    expected: dict[str, list[int]] = {}
    for number, (pod, file, size) in enumerate(events):
        key: Key = (pod, file)
        groups.add(key, (1, size, size, number))
        assert count({"file": file, "pid": 1, "pod": pod}, (1, size, size, number)) == key
        of_pod = expected.setdefault(pod, [0, 0, 0])
        of_pod[0] += 1
        of_pod[1] += size
        of_pod[2] = max(of_pod[2], size)
    found: dict[str, list[int]] = {}
    for key, row in groups.rows():
        of_pod = found.setdefault(str(key[0]), [0, 0, 0])
        of_pod[0] += row[0]
        of_pod[1] += row[1]
        of_pod[2] = max(of_pod[2], row[2])
    assert found == expected
    assert list(by_cells.rows()) == list(groups.rows())
    # the half that is kept, a folded row for each of three pods, and the new one
    assert len(groups) <= limit + 3


def test_keys_that_share_nothing_are_folded_until_they_fit() -> None:
    def coarser(key: Key) -> Key:
        at = next((at for at in reversed(range(len(key))) if key[at] != "*"), 0)
        return (*key[:at], "*", *key[at + 1 :])

    groups = Groups([SUM], fold=coarser, weight=lambda row: row[0], limit=100)
    for number in range(10_007):
        groups.add((number, number), [number])
    rows = dict(groups.rows())
    assert len(rows) <= 100
    assert sum(row[0] for row in rows.values()) == 10_006 * 10_007 // 2
    assert ("*", "*") in groups and (10_006, 10_006) in groups


def test_what_has_ended_is_folded_but_for_the_heaviest_by_each_weight() -> None:
    groups = _groups(1000)
    for number in range(10):
        groups.add((f"old-{number}", "/a"), (1, number, 100 - number, number))
        groups.add((f"old-{number}", "/b"), (1, number, 0, number))
    groups.add(("new", "/a"), (1, 0, 0, 0))

    def matter(key: Key) -> Hashable | None:
        return key[0] if str(key[0]).startswith("old") else None

    def fold(count: int) -> int:
        return groups.fold_ended(matter, lambda _: ("(others)", "*"), [lambda row: row[1], lambda row: row[2]], count)

    assert fold(10) == 0
    assert fold(1) == 16
    assert dict(groups.rows()) == {
        ("old-0", "/a"): [1, 0, 100, 0],
        ("old-0", "/b"): [1, 0, 0, 0],
        ("old-9", "/a"): [1, 9, 91, 9],
        ("old-9", "/b"): [1, 9, 0, 9],
        ("new", "/a"): [1, 0, 0, 0],
        ("(others)", "*"): [16, 72, 99, 8],
    }
