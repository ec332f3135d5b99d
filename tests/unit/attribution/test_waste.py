"""Files that nobody sees in layers that were written by hand, as overlayfs would show them."""

from __future__ import annotations

from kubetrace.attribution.waste import LayerFile, waste


def file(path: str, size: int = 4096, *, inode: int = 0, links: int = 1, mtime: int = 0) -> LayerFile:
    return LayerFile(path.encode(), "file", inode or hash(path) & 0xFFFF_FFFF, links, size, size, mtime)


def directory(path: str) -> LayerFile:
    return LayerFile(path.encode(), "directory")


def whiteout(path: str) -> LayerFile:
    return LayerFile(path.encode(), "whiteout")


def opaque(path: str) -> LayerFile:
    return LayerFile(path.encode(), "opaque")


BASE = [directory("a"), file("a/1", 10), file("a/2", 20), directory("a/b"), file("a/b/3", 40), file("top", 80)]


def told(*layers: list[LayerFile]) -> dict[tuple[int, int], tuple[int, int, int]]:
    return {key: (one.bytes, one.files, one.deleted) for key, one in waste(layers).hidden.items()}


def test_nothing_is_wasted_where_nothing_is_written_again() -> None:
    assert told(BASE, [directory("a"), file("a/4"), directory("a/b")]) == {}


def test_the_same_path_hides_the_file_and_is_no_deletion() -> None:
    assert told(BASE, [file("a/1", 7), file("top", 7)]) == {(0, 1): (90, 2, 0)}


def test_a_whiteout_hides_a_file_or_all_below_a_directory() -> None:
    assert told(BASE, [whiteout("a/1")]) == {(0, 1): (10, 1, 1)}
    assert told(BASE, [whiteout("a")]) == {(0, 1): (70, 3, 3)}
    assert told(BASE, [whiteout("nothing"), whiteout("a/b/c/d")]) == {}


def test_an_opaque_directory_hides_what_lower_layers_have_in_it_and_keeps_its_own() -> None:
    assert told(BASE, [opaque("a"), file("a/1", 5)]) == {(0, 1): (70, 3, 3)}
    # what is in it is its own layer's, and is hidden by the next
    assert told(BASE, [opaque("a"), file("a/1", 5)], [whiteout("a/1")]) == {(0, 1): (70, 3, 3), (1, 2): (5, 1, 1)}


def test_a_file_in_the_place_of_a_directory_and_the_other_way_round() -> None:
    assert told(BASE, [file("a", 1)]) == {(0, 1): (70, 3, 0)}
    assert told(BASE, [directory("top"), file("top/x")]) == {(0, 1): (80, 1, 1)}


def test_the_first_layer_that_hides_is_the_one_that_is_told() -> None:
    assert told(BASE, [file("a/1", 7)], [file("a/1", 3)], [whiteout("a")]) == {
        (0, 1): (10, 1, 0),
        (1, 2): (7, 1, 0),
        (0, 3): (60, 2, 2),
        (2, 3): (3, 1, 1),
    }


def test_an_inode_with_several_names_is_hidden_with_the_last_of_them() -> None:
    linked = [file("x", 50, inode=5, links=2), file("y", 50, inode=5, links=2)]
    assert told(linked, [whiteout("x")]) == {}
    assert told(linked, [whiteout("x")], [whiteout("y")]) == {(0, 2): (50, 1, 1)}
    assert told(linked, [whiteout("x"), whiteout("y")]) == {(0, 1): (50, 1, 1)}


def test_what_is_written_again_alike_is_likely_a_change_of_mode() -> None:
    found = waste([[file("f", 10, mtime=5), file("g", 10, mtime=5)], [file("f", 10, mtime=5), file("g", 10, mtime=6)]])
    assert [(one.files, one.alike) for one in found.hidden.values()] == [(2, 1)]


def test_the_largest_is_named_and_sums_are_of_all() -> None:
    found = waste([BASE, [whiteout("a"), whiteout("top")]])
    assert (found.total, found.of(0), found.of(1)) == (150, 150, 0)
    (one,) = found.hidden.values()
    assert (one.largest, one.largest_bytes) == (b"top", 80)


def test_which_layer_a_path_is_seen_of() -> None:
    found = waste([BASE, [file("a/1"), whiteout("top")]])
    paths = (b"a/1", b"a/2", b"a/b/3", b"a", b"top", b"a/1/x", b"none")
    assert [found.layer_at(path) for path in paths] == [1, 0, 0, None, None, None, None]


def test_a_hundred_layers_of_a_thousand_files_take_no_time_for_each_whiteout() -> None:
    layers = [[file(f"d/{number}", inode=number + 1) for number in range(1000)]]
    layers += [[whiteout(f"d/{number}"), file(f"d/n{number}", inode=number + 1)] for number in range(100)]
    found = waste(layers)
    assert sum(one.files for one in found.hidden.values()) == 100


def test_a_path_as_deep_as_any_ends() -> None:
    deep = "/".join("d" * 1 for _ in range(2000))
    assert told([file(deep, 9)], [whiteout("d")]) == {(0, 1): (9, 1, 1)}
