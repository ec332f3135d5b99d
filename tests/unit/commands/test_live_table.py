"""A replay on a terminal, driven by keys: what a person would see of a table that is worked in."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kubetrace.attribution.facts import CgroupSeen, Fact, OverlaySeen
from kubetrace.recording.reader import Recording
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick
from tests.screens import Screen
from tests.unit.recordings import HEADER, record
from tests.unit.test_pipeline import WEB, container, event

ROOT = Path(__file__).parents[3]
RECORDINGS = ROOT / "tests" / "recordings"
ROWS = 3_000
SECOND = 1_000_000_000


def played(file: Path, *options: str, columns: int = 120, environment: Mapping[str, str] | None = None) -> Screen:
    return Screen([sys.executable, "-m", "kubetrace", "replay", str(file), *options], columns, 24, environment)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 files, each copied up once, file N in second N // 1000; of N bytes."""
    made = []
    for second in range(3):
        now = second * SECOND
        records = [
            event(now + number, 21, b"/data/file-%04d" % number, number, device=7)
            for number in range(1000 * second, 1000 * (second + 1))
        ]
        learned: list[Fact] = [
            CgroupSeen(0, 21, f"/kubepods/podweb/{WEB}", 0),
            container(WEB, "shop", "web-0", "app"),
            OverlaySeen(7, WEB, "/run/x", "/up", "/work", ("/lower",), 0),
        ]
        batches = [Batch("copyup/copyup", b"".join(records))]
        tick = Tick(now + SECOND, HEADER.clock_offset_ns + now + SECOND, now // 100)
        made.append(Step(learned if not second else [], batches, {}, tick))
    path = tmp_path_factory.mktemp("many") / "many.ktrace"
    record(path, made, every=1)
    return path


def test_the_last_of_3000_rows_is_reached_and_a_smaller_terminal_keeps_it(many: Path) -> None:
    with played(many, "--speed", "1000") as screen:
        lines = screen.wait("3000 copy-ups")
        assert "/data/file-2999" in screen.selected()
        assert any(re.search(r"… 2,?9\d\d more rows", line) for line in lines)
        screen.press("end")
        screen.wait("/data/file-0000")
        assert "/data/file-0000" in screen.selected()
        screen.resize(40, 10)
        # 40 cells are less than the columns ask for: the path's beginning goes, not its end
        screen.wait(lambda lines: "file-0000" in screen.selected() and len(lines) == 10)
        screen.resize(120, 24)
        screen.wait(lambda lines: "/data/file-0000" in screen.selected() and "… 2" in "".join(lines))
        screen.press("pageup", "home", "down")
        screen.wait(lambda lines: "/data/file-2998" in screen.selected())


def test_a_filter_leaves_what_matches_and_escape_brings_back_the_rest(many: Path) -> None:
    with played(many, "--speed", "1000") as screen:
        screen.wait("3000 copy-ups")
        screen.press("/", "file-12")
        lines = screen.wait(lambda lines: "/file-12_" in lines[-1] and "/data/file-1299" in screen.selected())
        assert sum("/data/file-12" in line for line in lines) == sum("/data/file-" in line for line in lines) > 10
        screen.press(" !99", "enter")
        screen.wait(lambda lines: "/data/file-1298" in screen.selected() and lines[1] == "/file-12 !99")
        screen.press("end", "n")
        screen.wait(lambda lines: "/data/file-1298" in screen.selected())
        screen.press("escape")
        screen.wait(lambda lines: "/data/file-2999" in screen.selected())


def test_a_file_is_opened_down_to_its_event() -> None:
    with played(RECORDINGS / "copyup-1.ktrace", "--speed", "1000", "--by", "pod") as screen:
        screen.wait("6 copy-ups")
        assert re.match(r"shop +web-0 ", screen.selected())
        screen.press("enter")
        screen.wait("copyup › pod shop/web-0")
        screen.wait(lambda lines: screen.selected().startswith("nginx "))
        screen.press("enter")
        screen.wait("› container nginx")
        screen.press("/", "nginx.conf", "enter", "enter")
        screen.wait("› file /etc/nginx/nginx.conf")
        screen.wait("WHY open-write; IMAGE docker.io/library/nginx:1.27; DOCKERFILE-LINE (not looked up)")
        screen.wait(lambda lines: "nginx" in screen.selected() and "open-write" in screen.selected())
        # an Escape closes the last level; the filter of the one before is still there, and goes with the next
        for left in ("› container nginx   /nginx.conf", "› container nginx", "pod shop/web-0"):
            screen.press("escape")
            screen.wait(lambda lines, left=left: lines[1].endswith(left))  # type: ignore[misc]
        screen.press("escape")
        screen.wait(lambda lines: re.match(r"shop +web-0 ", screen.selected()) and "›" not in "".join(lines))


def test_a_replay_stays_open_and_is_walked_through(many: Path) -> None:
    with played(many, "--speed", "1000") as screen:
        screen.wait("  end")
        assert "3000 copy-ups" in "\n".join(screen.lines())
        screen.press("left")
        screen.wait("2000 copy-ups")
        screen.wait("paused: space goes on")
        screen.press("left")
        screen.wait("1000 copy-ups")
        screen.press(":", "2s", "enter")
        screen.wait("2000 copy-ups")
        screen.press(":", "never", "enter")
        screen.wait("'never' is not a moment")
        screen.press(" ")
        screen.wait("  end")
        screen.wait("3000 copy-ups")
        # by a minute it goes on from there, unless it stands still
        screen.press(" ", "[")
        screen.wait("no copy-ups yet")
        screen.press("right")
        screen.wait("1000 copy-ups")
        screen.press("q")
        assert screen.process.wait() == 0


def test_final_shows_the_end_and_is_over(many: Path) -> None:
    with played(many, "--final") as screen:
        assert screen.process.wait() == 0
        lines = screen.wait("3000 copy-ups, ")
        # at most a screenful is left
        assert len([line for line in lines if line]) <= 24
        assert screen.data.count(b"/data/file-") < 2 * 24 + 10


def test_the_mouse_selects_opens_and_sorts(many: Path) -> None:
    with played(many, "--speed", "1000") as screen:
        lines = screen.wait("3000 copy-ups")
        head = next(number for number, line in enumerate(lines) if "FILE" in line)
        screen.click(5, head + 3)
        screen.wait(lambda lines: "/data/file-2997" in screen.selected())
        screen.click(lines[head].index("FILE"), head)
        screen.wait(lambda lines: "/data/file-0000" in screen.selected() and "FILE▲" in lines[head])
        screen.click(5, head + 1)
        screen.wait("› file shop/web-0/app /data/file-0000")
        screen.press("q")
        assert screen.process.wait() == 0
        screen.wait("3000 copy-ups, ")
        assert screen.data.rindex(b"\x1b[?1000l") > screen.data.rindex(b"\x1b[?1000h")


def test_the_screen_is_written_to_a_file_that_is_not_there_yet(many: Path, tmp_path: Path) -> None:
    with played(many, "--speed", "1000") as screen:
        screen.wait("3000 copy-ups")
        for name, held in (("a.txt", "/data/file-2999"), ("a.svg", "</svg>")):
            screen.press("w", "\x15", str(tmp_path / name), "enter")
            screen.wait(f"/{name}")
            screen.wait(lambda lines, name=name: re.match(rf"written to .*/{name}$", lines[-1]))  # type: ignore[misc]
            assert held in (tmp_path / name).read_text()
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert "\x1b" not in (tmp_path / "a.txt").read_text()
        screen.press("w", "\x15", str(tmp_path / "a.txt"), "enter")
        screen.wait("exists.")


def test_help_and_columns_lie_over_the_table(many: Path) -> None:
    with played(many, "--speed", "1000", columns=160) as screen:
        screen.wait("3000 copy-ups")
        screen.press("?")
        lines = screen.wait("Keys: Up and Down scroll, any other closes this.")
        for text in ("Enter", "go to a time", "the other way round", "quit; the last table stays"):
            assert any(text in line for line in lines)
        screen.press("x", "c")
        screen.wait(lambda lines: any(line.startswith("[x] COPIES ") for line in lines))
        screen.press("end", "up", " ", "c")
        screen.wait(lambda lines: any("LAST" in line and "FILE" in line for line in lines))


# Keys, and what the screen shows then.
STATES = (
    (["down"], "q quit"),
    (["?"], "Keys: "),
    (["x", "c"], "Columns: "),
    (["c", "/", "e"], "/e_"),
    (["enter", "g"], "/e"),
    (["escape"], "q quit"),
    (["o", "enter", "o"], "q quit"),
)


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("tracer", ["copyup", "writes", "cgroups", "starts"])
def test_every_state_fits_every_terminal(tracer: str, locale: str) -> None:
    more = {"LC_ALL": locale} if locale == "C.UTF-8" else {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = RECORDINGS / f"{tracer}-1.ktrace"
    with played(file, tracer, "--speed", "100000", environment=more) as screen:
        screen.wait("  end")
        for columns, (keys, mark) in itertools.product((60, 80, 120, 160), STATES):
            screen.resize(columns, 24)
            screen.press(*keys)
            lines = screen.wait(lambda lines, mark=mark: mark in "\n".join(lines))  # type: ignore[misc]
            assert len(lines) == 24
            assert locale != "C" or all(line.isascii() for line in lines), lines
        screen.press("q")
        assert screen.process.wait() == 0


# Several tracers as one.


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three tracers recorded, each in its own minute, in one file: as if they had run side by side."""
    parts = [Recording(RECORDINGS / f"{name}-1.ktrace") for name in ("cgroups", "copyup", "writes")]
    made = [step for part in parts for step in part.steps()]
    made.sort(key=lambda step: step.tick.elapsed_ns if step.tick is not None else 0)
    number, traced = 0, []
    for part in parts:
        (item,) = part.header.tracers
        streams = []
        for stream in item.streams:
            number += 1
            streams.append(replace(stream, number=number))
        traced.append(replace(item, streams=tuple(streams)))
    path = tmp_path_factory.mktemp("several") / "several.ktrace"
    record(path, made, replace(parts[0].header, tracers=tuple(traced)))
    for part in parts:
        part.close()
    return path


def test_pods_are_shown_with_what_each_tracer_knows_the_worst_first(several: Path) -> None:
    with played(several, "top", "--speed", "100000", columns=160) as screen:
        lines = screen.wait("  end")
        assert lines[0].startswith("kubetrace top · [top] cgroups copyup writes · node node1")
        rows = [line for line in lines if re.match(r"(shop|jobs|-) +\S", line)]
        # a process of the one was killed for want of memory, a copy-up of the other failed
        assert [row.split()[1] for row in rows][:2] == ["ledger-0", "web-0"]
        assert "OOM 1" in rows[0] and "COPY-ERR 1" in rows[1]
        assert "WR-ERR 2" in rows[2]
        # the same numbers as in each tracer's own table
        assert "28 KiB" in rows[0] and "10 MiB" in rows[1]


def test_enter_goes_into_a_pod_tab_to_the_next_tracer_and_escape_back(several: Path) -> None:
    with played(several, "top", "--speed", "100000", columns=160) as screen:
        screen.wait("  end")
        assert " ledger-0 " in screen.selected()
        screen.press("enter")
        screen.wait("cgroups › pod shop/ledger-0")
        screen.wait(lambda lines: screen.selected().startswith("app ") and "exit 3" in screen.selected())
        screen.press("tab")
        screen.wait("copyup › pod shop/ledger-0")
        screen.wait("no copy-ups yet")
        screen.press("tab")
        screen.wait("writes › pod shop/ledger-0")
        screen.press("enter")
        screen.wait("writes › pod shop/ledger-0 › container app")
        screen.wait(lambda lines: screen.selected().startswith("emptyDir/cache"))
        screen.press("escape")
        screen.wait(lambda lines: lines[1] == "writes › pod shop/ledger-0")
        screen.press("escape")
        screen.wait("[top] cgroups copyup writes")
        screen.wait(lambda lines: " ledger-0 " in screen.selected())
        screen.press("left")
        screen.wait("paused: space goes on")
        screen.press("q")
        assert screen.process.wait() == 0
        screen.wait("copyup: 6 copy-ups, 10 MiB copied")


def test_on_a_pipe_top_prints_the_pods(several: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubetrace", "replay", str(several), "top", "--final", "--sort", "+pod", "--top", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "… 3 more rows" in done.stdout
    assert "writes: 598 writes" in done.stdout
    refused = subprocess.run(
        [sys.executable, "-m", "kubetrace", "replay", str(several), "top", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2 and "top has no -o json" in refused.stderr


def test_each_intervals_table_of_pods_is_an_object(several: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubetrace", "replay", str(several), "top", "--final", "-o", "json-tables"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (RECORDINGS / "copyup-1.jsonl").read_text().splitlines()
    copied = sum(one.get("copied_bytes", 0) for one in map(json.loads, lines) if one.get("pod") == "web-0")
    *windows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    last = windows[-1]
    assert (last["type"], last["tracer"], last["node"]) == ("window", "top", "node1")
    rows = {row[1]: dict(zip(last["columns"], row, strict=True)) for row in last["rows"]}
    assert rows["ledger-0"]["worst"] == "OOM 1" and rows["web-0"]["worst"] == "COPY-ERR 1"
    assert (rows["ledger-0"]["cgroups.ooms"], rows["web-0"]["copyup.copied_bytes"]) == (1, copied)
    assert (summary["type"], set(summary["texts"])) == ("summary", {"cgroups", "copyup", "writes"})
    assert summary["texts"]["writes"].startswith("598 writes")


def test_wide_columns_come_and_go_and_chosen_ones_stay(many: Path) -> None:
    with played(many, "--speed", "1000", "-o", "wide", columns=200) as screen:
        screen.wait("3000 copy-ups")
        screen.wait("DOCKERFILE-LINE")
        screen.press("o")
        screen.wait(lambda lines: "DOCKERFILE-LINE" not in "".join(lines))
        screen.press("o", "q")
        assert screen.process.wait() == 0
        screen.wait("3000 copy-ups, ")
        # the layer and image of what stays on the normal screen
        assert " app:1 " in "".join(screen.lines())
    with played(many, "--speed", "1000", "--columns", "copies,FILE") as screen:
        screen.wait("3000 copy-ups")
        screen.wait(lambda lines: lines[1].split() == ["COPIES", "FILE"])
        screen.press("c", "home", " ", "c")
        screen.wait(lambda lines: len(lines[1].split()) == 1)
