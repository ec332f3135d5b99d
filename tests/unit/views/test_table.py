from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from kubetrace.views.columns import Chosen, Column, Value, describe, find
from kubetrace.views.table import Line, Widths, plain, render
from kubetrace.views.text import width
from kubetrace.views.window import Window

COLUMNS = (
    Column("namespace", "NAMESPACE", "name"),
    Column("pod", "POD", "name", min_width=12, weight=2, help="the pod"),
    Column("container", "CONTAINER", "name"),
    Column("file", "FILE", "path", min_width=12, weight=2),
    Column("image", "IMAGE", "name", wide=True, help="its image"),
    Column("copies", "COPIES", "count"),
    Column("copied", "COPIED", "bytes"),
    Column("max_latency", "MAX-LATENCY", "duration", short="MAX-LAT"),
    Column("errors", "ERRORS", "count", short="ERR", alarm=True),
)
ROWS: tuple[tuple[Value, ...], ...] = (
    (
        "payments",
        "checkout-7d9f8b6c5d-x2x9k",
        "app",
        b"/var/lib/pg/base/16384/2619",
        "pg:16",
        3,
        2147483648,
        1912345678,
        0,
    ),
    ("shop", "frontend-6f7d5c9b8-l4x2m", "nginx", b"/etc/nginx/conf.d/default.conf", "nginx:1", 17, 23120, 312345, 0),
    ("kube-system", "coredns-5d78c9869d-7gk8t", "coredns", b"/etc/ca-certificates.conf", "dns:1", 1, 5120, 71000, 0),
    ("batch", "report-28391040-hx8wq", "report", b"/srv/weights-00001-of-00002.bin", None, 1, 15695872, 2812345678, 1),
    ("default", "evil", "sh", b"/tmp/\x1b[2J\x07\xe2\x80\xaegpj.exe\n", "sh:1", 1, 0, 9000, 0),
    (None, None, None, "/data/日本語/データ.db".encode(), None, 5, 67108864, 120000000, 0),
)
WINDOW = Window(
    COLUMNS,
    ROWS,
    head=(("copyup", "title"), "node worker-3", "Linux 6.1.0-18-amd64", "fentry", "0:42"),
    foot=("812 events", "3 unattributed"),
    costs=("own CPU 0.4%",),
    lost=0,
    total=43,
    sort="copied",
    keys=(("q", "quit"), ("s", "sort")),
)

# Written by hand.
LOOK_80 = """\
copyup · node worker-3 · Linux 6.1.0-18-amd64 · fentry · 0:42
NAMESPACE POD              CONTAINER FILE            COPIES  COPIED▼ MAX-LAT ERR
payments  checkout…d-x2x9k app       …/16384/2619         3  2.0 GiB   1.9 s   0
shop      frontend…8-l4x2m nginx     …/default.conf      17   23 KiB  312 µs   0
kube…stem coredns-…d-7gk8t coredns   ca-cert…es.conf      1  5.0 KiB   71 µs   0
batch     report-2…0-hx8wq report    weights…002.bin      1   15 MiB   2.8 s   1
default   evil             sh        \\x1b[2J…j.exe\\n      1      0 B  9.0 µs   0
-         -                -         …/データ.db          5   64 MiB  120 ms   0
… 37 more rows
812 events · lost 0 · 3 unattributed · own CPU 0.4%
"""
LOOK_160 = """\
copyup · node worker-3 · Linux 6.1.0-18-amd64 · fentry · 0:42
NAMESPACE    POD                        CONTAINER  FILE                              COPIES   COPIED▼  MAX-LATENCY  ERRORS
payments     checkout-7d9f8b6c5d-x2x9k  app        /var/lib/pg/base/16384/2619            3   2.0 GiB        1.9 s       0
shop         frontend-6f7d5c9b8-l4x2m   nginx      /etc/nginx/conf.d/default.conf        17    23 KiB       312 µs       0
kube-system  coredns-5d78c9869d-7gk8t   coredns    /etc/ca-certificates.conf              1   5.0 KiB        71 µs       0
batch        report-28391040-hx8wq      report     /srv/weights-00001-of-00002.bin        1    15 MiB        2.8 s       1
default      evil                       sh         /tmp/\\x1b[2J\\x07\\u202egpj.exe\\n        1       0 B       9.0 µs       0
-            -                          -          /data/日本語/データ.db                 5    64 MiB       120 ms       0
… 37 more rows
812 events · lost 0 · 3 unattributed · own CPU 0.4%
"""  # noqa: E501


def look(lines: list[Line]) -> str:
    return "".join(plain(line) + "\n" for line in lines)


def test_the_table_at_80_columns() -> None:
    assert look(render(WINDOW, 80)) == LOOK_80


def test_the_table_at_160_columns() -> None:
    assert look(render(WINDOW, 160)) == LOOK_160


def test_without_a_width_nothing_is_cut() -> None:
    shown = look(render(replace(WINDOW, total=None), None))
    assert "…" not in shown
    assert "…" in look(render(replace(WINDOW, total=None), 80))


def test_wide_columns_are_for_wide_output() -> None:
    assert "IMAGE" not in look(render(WINDOW, 160))
    assert "IMAGE" in look(render(WINDOW, 160, wide=True))
    assert ("IMAGE", "its image (-o wide)") in describe(COLUMNS)


def test_without_headers_only_rows_are_left() -> None:
    lines = look(render(WINDOW, None, headers=False)).splitlines()
    assert len(lines) == len(ROWS)
    assert lines[0].split()[:3] == ["payments", "checkout-7d9f8b6c5d-x2x9k", "app"]


def test_a_screen_is_filled_exactly_and_its_foot_stands_at_the_bottom() -> None:
    lines = look(render(WINDOW, 80, 24, keys=True)).splitlines()
    assert len(lines) == 24
    assert lines[8] == "… 37 more rows"
    assert lines[9:22] == [""] * 13
    assert lines[22:] == ["812 events · lost 0 · 3 unattributed · own CPU 0.4%", "q quit  s sort"]


def test_rows_without_room_are_counted() -> None:
    lines = look(render(WINDOW, 80, 9, keys=True)).splitlines()
    assert len(lines) == 9
    assert lines[2:7] == [*LOOK_80.splitlines()[2:6], "… 39 more rows"]


@pytest.mark.parametrize("height", range(1, 12))
def test_a_low_terminal_keeps_the_foot(height: int) -> None:
    lines = render(replace(WINDOW, lost=12), 80, height, keys=True)
    assert len(lines) == height
    assert "LOST 12 events" in look(lines)


def test_losses_are_loud() -> None:
    lines = render(replace(WINDOW, lost=1), 80)
    assert lines[-1][0] == ("LOST 1 event", "bad")
    assert "lost" not in look(render(replace(WINDOW, lost=None), 80))


def test_a_foot_that_is_too_long_goes_on_in_the_next_line() -> None:
    lines = look(render(WINDOW, 40)).splitlines()
    assert lines[-2:] == ["812 events · lost 0 · 3 unattributed", "own CPU 0.4%"]


def test_bad_news_and_zeros_look_different() -> None:
    cells = [segment for line in render(WINDOW, 160)[2:] for segment in line]
    assert [text.strip() for text, style in cells if style == "bad"] == ["1"]
    assert any(style == "dim" and text.strip() == "0" for text, style in cells)


def test_an_empty_window_says_so_and_shows_its_notices() -> None:
    window = Window(COLUMNS, head=("copyup",), notices=("no pods match 'x*' yet",), empty="no copy-ups yet")
    assert look(render(window, 80)).splitlines() == [
        "copyup",
        "no pods match 'x*' yet",
        "NAMESPACE POD          CONTAINER FILE         COPIES   COPIED MAX-LATENCY ERRORS",
        "no copy-ups yet",
    ]


def test_the_sort_mark_shows_the_direction_and_has_an_ascii_form() -> None:
    assert "POD▲" in look(render(replace(WINDOW, sort="pod", descending=False), 80))
    shown = look(render(WINDOW, 80, ascii=True))
    assert shown.isascii()
    assert "COPIEDv" in shown
    assert "checkout~d-x2x9k" in shown
    assert "312 us" in shown


def test_columns_grow_and_never_shrink_in_a_run() -> None:
    widths = Widths()
    first = look(render(WINDOW, 160, widths=widths))
    fewer = replace(WINDOW, rows=ROWS[4:5], total=None)
    second = look(render(fewer, 160, widths=widths))
    assert second.splitlines()[1] == first.splitlines()[1]
    alone = look(render(fewer, 160))
    assert alone.splitlines()[1] != first.splitlines()[1]


def test_a_resize_starts_the_widths_again() -> None:
    widths = Widths()
    fewer = replace(WINDOW, rows=ROWS[4:5])
    render(WINDOW, 160, widths=widths)
    assert look(render(fewer, 150, widths=widths)) == look(render(fewer, 150))


def test_one_long_name_does_not_crowd_the_others() -> None:
    row = ("ci", "runner-" + "x" * 200 + "-0lv7xw", "build", b"/a/b", None, 1, 1, 1, 0)
    header = look(render(replace(WINDOW, rows=(*ROWS, row)), 160)).splitlines()[1]
    assert "MAX-LATENCY  ERRORS" in header


hostile = st.one_of(
    st.none(),
    st.text(),
    st.binary(max_size=300),
    st.text(alphabet="a/\\ \x1b\n\t\u202e\u0301é日👍🏽🇨\udc80\u200d\ufe0f☰क\u093e"),
    st.sampled_from(
        [b"x" * 255, "日".encode() * 85, b"/" + b"y" * 255 + b"/" + b"z" * 255, b"\xff" * 255, b"\x1b]0;t\x07"]
    ),
)
numbers = st.one_of(st.none(), st.integers(-(2**63), 2**64))
rows = st.lists(
    st.tuples(hostile, hostile, hostile, hostile, hostile, numbers, numbers, numbers, st.one_of(numbers, hostile)),
    max_size=5,
)


@given(
    rows,
    st.lists(st.text(), max_size=3),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 30)),
    st.booleans(),
    st.booleans(),
)
def test_no_window_ever_breaks_its_lines(
    rows: list[tuple[Value, ...]], words: list[str], cells: int, height: int | None, wide: bool, ascii: bool
) -> None:
    window = Window(COLUMNS, rows, head=words, foot=words, lost=3, notices=words, sort="file", empty="".join(words))
    lines = render(window, cells, height, wide=wide, ascii=ascii, keys=True)
    assert height is None or len(lines) == height
    for line in lines:
        text = "".join(text for text, _ in line)
        assert width(text) <= cells
        assert wcswidth(text) <= cells
        assert text.isprintable()
        assert text.isascii() or not ascii


def test_a_spare_column_is_left_out_where_not_all_fit() -> None:
    columns = (
        Column("pod", "POD", "name"),
        Column("dirs", "DIRS", "count", spare=True),
        Column("n", "COPIES", "count"),
    )
    window = Window(columns, [("web-0", 3, 23)])
    # POD needs 6, DIRS 4, COPIES 6, and two gaps
    assert [plain(line) for line in render(window, 18)][:2] == ["POD    DIRS COPIES", "web-0     3     23"]
    assert [plain(line) for line in render(window, 17)][:2] == ["POD     COPIES", "web-0       23"]


def lines_of(window: Window, cells: int) -> list[str]:
    return [plain(line) for line in render(window, cells)]


def test_the_column_that_rows_are_sorted_by_is_never_cut() -> None:
    window = replace(WINDOW, sort="max_latency")
    for cells in range(60, 130):
        assert any("MAX-LAT▼" in line or "MAX-LATENCY▼" in line for line in lines_of(window, cells)), cells
    header = lines_of(window, 60)[1]
    assert "ERR" not in header and "COPIES" not in header and header.split()[-1] == "MAX-LAT▼"
    assert {"NAMESPACE", "POD", "CONTAINER", "FILE"} <= set(header.split())


def test_the_title_is_one_line_and_keeps_what_is_wrong() -> None:
    assert lines_of(WINDOW, 61)[0] == "copyup · node worker-3 · Linux 6.1.0-18-amd64 · fentry · 0:42"
    assert lines_of(WINDOW, 60)[0] == "copyup · node worker-3 · fentry · 0:42"
    assert lines_of(WINDOW, 37)[0] == "copyup · node worker-3 · 0:42"
    assert lines_of(WINDOW, 24)[0] == "copyup · 0:42"
    failed = replace(WINDOW, head=(("copyup", "title"), "3 of 3 nodes", ("1 failed", "bad"), "0:42"))
    assert lines_of(failed, 30)[0] == "copyup · 1 failed · 0:42"


def test_the_nodes_own_keep_what_tells_them() -> None:
    columns = (Column("container", "CONTAINER", "name"), Column("n", "N", "count"))
    rows = (
        ("/system.slice/containerd.service", 1),
        ("/kubepods/é/́́evil", 2),
        ("a-very-long-name-of-a-container (host)", 3),
        ("/", 4),
    )
    window = Window(columns, rows, sort="n")
    assert [line.split() for line in lines_of(window, 24)[-4:]] == [
        ["containerd.service", "1"],
        ["/kubepods/é/́́evil", "2"],
        ["a-very-…tainer", "(host)", "3"],
        ["/", "4"],
    ]
    assert lines_of(window, 13)[-4].split() == ["conta…vice", "1"]
    assert lines_of(window, 13)[-2].split() == ["a…r", "(host)", "3"]


def test_columns_are_chosen_by_name_in_the_order_that_was_asked_for() -> None:
    columns = [
        Column("pod", "POD"),
        Column("path", "FILE"),
        Column("size", "SIZE", wide=True),
        Column("n", "N", spare=True),
    ]

    def titles(chosen: Chosen, *, wide: bool = False) -> list[str]:
        return [column.title for column in chosen.of(columns, chosen.places(columns, wide=wide))]

    assert titles(Chosen(["path", "pod"])) == ["FILE", "POD"]
    assert titles(Chosen((), ["size"])) == ["POD", "FILE", "N", "SIZE"]
    assert titles(Chosen((), ["size"]), wide=True) == ["POD", "FILE", "SIZE", "N"]
    assert titles(Chosen(["n"], ["size", "n"])) == ["N", "SIZE"]
    # of another grouping
    assert titles(Chosen(["layer"])) == ["POD", "FILE", "N"]
    # what was asked for is neither left out on a narrow terminal, nor without -o wide
    assert all(column.kept and not column.wide for column in Chosen(["size", "n"]).of(columns, [2, 3]))


@pytest.mark.parametrize("name", ["MAX-LATENCY", "max-latency", "max_duration_ns", "Max-Lat", "max_latency"])
def test_a_column_is_found_by_what_the_user_sees(name: str) -> None:
    column = Column("max_duration_ns", "MAX-LATENCY", "duration", short="MAX-LAT")
    assert find([Column("pod", "POD"), column], name) is column
    assert find([column], "") is None and find([column], "latency") is None
