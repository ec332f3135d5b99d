"""Walks of directories: to the byte as du(1) has it, within a budget, and of trees that were made to hold one up."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubetrace.node.walks import Walk, Walked, Walks


def du(path: Path, *leave_out: str) -> tuple[int, int]:
    without = [f"--exclude={path}/{name}" for name in leave_out]
    found = [
        subprocess.run(["du", "-xs", how, *without, path], capture_output=True, text=True, check=True).stdout
        for how in ("--block-size=1", "--inodes")
    ]
    return int(found[0].split()[0]), int(found[1].split()[0])


def walked(path: Path, *leave_out: str) -> Walk:
    walk = Walk(str(path), leave_out)
    for _ in walk.pieces():
        pass
    return walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Sizes of all kinds, hard links, a sparse file, a FIFO, links, names that are no UTF-8."""
    top = tmp_path / "tree"
    for number in range(131):
        directory = top / f"{number % 7}" / f"{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(b"x" * (number * 997))
    os.link(top / "0/0/0", top / "again")
    os.link(top / "1/1/1", top / "1/again")
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(top / "fifo")
    (top / "to-root").symlink_to("/")
    (top / "dangling").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_bytes(b"y" * 5000)
    return top


def test_a_walk_counts_as_du_does(tree: Path) -> None:
    walk = walked(tree)
    assert (walk.bytes, walk.inodes) == du(tree)
    assert not walk.unread and not walk.gone


def test_what_is_left_out_is_no_part_of_it(tree: Path) -> None:
    walk = walked(tree, "0", "1/1", "2/nothing")
    assert (walk.bytes, walk.inodes) == du(tree, "0", "1/1")


def test_times_of_access_stay(tree: Path) -> None:
    os.utime(tree / "0", (5, 5))
    walked(tree)
    assert (tree / "0").stat().st_atime == 5


def test_a_directory_that_is_not_there_or_is_a_link_is_gone(tree: Path) -> None:
    assert walked(tree / "nothing").gone
    assert walked(tree / "to-root").gone
    assert walked(tree / "sparse").gone


def test_a_tree_that_changes_under_the_walk_ends(tree: Path) -> None:
    walk = Walk(str(tree))
    for number, _ in enumerate(walk.pieces()):
        victim = tree / str(number % 7)
        subprocess.run(["rm", "-rf", victim], check=True)
        victim.symlink_to("/")
    assert walk.inodes < 300


def test_a_tree_deeper_than_any_is_cut_and_said_so(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    walk = walked(top)
    assert walk.inodes == 202 and walk.unread == 1
    subprocess.run(["rm", "-rf", top], check=True)


@pytest.fixture
def walks() -> Iterator[Walks]:
    made = Walks(0.5)
    yield made
    made.close()


def until(walks: Walks, count: int) -> list[Walked]:
    found: list[Walked] = []
    while sum(one.state != "walking" for one in found) < count:
        found += walks.results()
        time.sleep(0.005)
        assert walks.problem is None
    return found


def test_the_process_tells_of_each_directory(walks: Walks, tree: Path) -> None:
    walks.ask("all", str(tree))
    walks.ask("some", str(tree), ["0"])
    walks.ask(("none", 1), str(tree / "nothing"))
    found = {one.key: one for one in until(walks, 3) if one.state != "walking"}
    assert (found["all"].bytes, found["all"].inodes) == du(tree)
    assert (found["some"].bytes, found["some"].inodes) == du(tree, "0")
    assert found["none", 1].state == "gone"


def test_a_small_directory_does_not_wait_for_a_large_one(walks: Walks, tmp_path: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.mkdir()
    small.mkdir()
    for number in range(3_000):
        os.close(os.open(f"{large}/{number}", os.O_CREAT | os.O_WRONLY))
    walks.ask("large", str(large))
    walks.ask("small", str(small))
    ended = [one.key for one in until(walks, 2) if one.state == "done"]
    assert ended == ["small", "large"]


def test_a_walk_takes_no_more_of_a_core_than_its_share(tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(f"{tmp_path}/{number}", os.O_CREAT | os.O_WRONLY))
    made = Walks(0.02)
    try:
        made.ask("large", str(tmp_path))
        # from its first report on, so that the start of Python is no part of it
        while not made.results():
            time.sleep(0.01)
        before, since = made.cpu_ns, time.monotonic()
        time.sleep(3)
        used, passed = made.cpu_ns - before, time.monotonic() - since
        # ticks of 10 ms on both ends
        assert used <= 0.03 * passed * 1e9 + 20_000_000, (used, passed)
    finally:
        made.close()


def test_a_process_that_was_killed_is_a_problem_that_is_told(walks: Walks, tree: Path) -> None:
    walks.ask("all", str(tree))
    assert walks._process is not None
    walks._process.kill()
    walks._process.wait()
    while walks.problem is None:
        walks.results()
        time.sleep(0.005)
    assert "has ended" in walks.problem and walks.room == 0


def test_the_process_ends_with_its_parent(tree: Path) -> None:
    made = Walks(0.5)
    made.ask("all", str(tree))
    process = made._process
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    made.close()
