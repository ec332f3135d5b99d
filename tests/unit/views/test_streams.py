from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.errors import OutputError
from kubetrace.views.columns import Column, Value
from kubetrace.views.csv import CsvLines
from kubetrace.views.json import JsonLines
from kubetrace.views.lines import Lines
from kubetrace.views.output import Output, OutputClosed, terminal_size
from kubetrace.views.plain import PlainTable
from kubetrace.views.screen import open_table
from kubetrace.views.window import Window

COLUMNS = (
    Column("time", "TIME", "time"),
    Column("pod", "POD", "name", max_width=20),
    Column("copied", "COPIED", "bytes"),
    Column("image", "IMAGE", "name", wide=True),
    Column("file", "FILE", "path"),
)
NOON = 1795435200_123456789  # 2026-11-23T12:00:00.123456789Z
ROW: tuple[Value, ...] = (NOON, "checkout-x2x9k", 5120, "pg:16", b"/var/lib/pg/2619")
EVIL: tuple[Value, ...] = (NOON, "evil\x1b[2J", None, None, b"/tmp/\x07\xff\n")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()


def closed_pipe() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


# --- JSON


def test_a_record_is_one_ascii_line_with_raw_numbers() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.write({"pod": "Grüße", "copied": 5120, "file": b"/a\xff\n", "ok": True, "none": None, "path": [b"x"]})
    lines.flush()
    text = '{"pod":"Gr\\u00fc\\u00dfe","copied":5120,"file":"/a\\udcff\\n","ok":true,"none":null,"path":["x"]}\n'
    assert stream.getvalue() == text


@given(st.binary())
def test_the_exact_bytes_of_a_name_come_back_from_json(name: bytes) -> None:
    stream = io.StringIO()
    JsonLines(stream).write({"file": name})
    text = stream.getvalue()
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text)["file"].encode("utf-8", "surrogateescape") == name


def test_json_refuses_what_it_has_no_form_for() -> None:
    with pytest.raises(TypeError, match="no JSON form for set"):
        JsonLines(io.StringIO()).write({"x": {1}})
    with pytest.raises(ValueError, match="JSON compliant"):
        JsonLines(io.StringIO()).write({"x": float("nan")})


def test_a_reader_that_went_away_is_a_quiet_end() -> None:
    stream = closed_pipe()
    lines = JsonLines(stream)
    lines.write({"a": 1})
    with pytest.raises(OutputClosed) as ended:
        lines.flush()
    assert ended.value.exit_status == 0
    stream.close()  # what is left in the buffer has a place to go


def test_head_ends_a_pipe_without_a_word() -> None:
    script = (
        "import sys\n"
        "from kubetrace.views.json import JsonLines\n"
        "from kubetrace.views.output import OutputClosed\n"
        "lines = JsonLines(sys.stdout)\n"
        "try:\n"
        "    while True:\n"
        "        lines.write({'a': 1}); lines.flush()\n"
        "except OutputClosed:\n"
        "    sys.exit(0)\n"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    assert run.stdout is not None
    assert run.stderr is not None
    assert run.stdout.readline() == b'{"a":1}\n'
    run.stdout.close()
    assert run.stderr.read() == b""
    run.stderr.close()
    assert run.wait() == 0


def test_a_full_disk_is_an_error_that_says_where() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        out = Output(stream)
        out.write("x")
        with pytest.raises(OutputError, match=r"cannot write to /dev/full: No space left on device") as failed:
            out.flush()
        assert not isinstance(failed.value, OutputClosed)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- CSV


def test_csv_is_rfc_4180_with_raw_numbers() -> None:
    stream = io.StringIO(newline="")
    lines = CsvLines(stream, COLUMNS)
    lines.write(ROW)
    lines.write((NOON, 'a,"b"', 0, None, b"/x"))
    lines.write(EVIL)
    lines.flush()
    assert stream.getvalue() == (
        "time,pod,copied,image,file\r\n"
        "2026-11-23T12:00:00.123456789Z,checkout-x2x9k,5120,pg:16,/var/lib/pg/2619\r\n"
        '2026-11-23T12:00:00.123456789Z,"a,""b""",0,,/x\r\n'
        "2026-11-23T12:00:00.123456789Z,evil\\x1b[2J,,,/tmp/\\x07\\xff\\n\r\n"
    )


def test_a_run_without_rows_still_has_its_csv_header_unless_unwanted() -> None:
    stream = io.StringIO(newline="")
    CsvLines(stream, COLUMNS).flush()
    assert stream.getvalue() == "time,pod,copied,image,file\r\n"
    bare = io.StringIO(newline="")
    CsvLines(bare, COLUMNS, headers=False).flush()
    assert bare.getvalue() == ""


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("=cmd|'/c calc'!A0", r"\x3dcmd|'/c calc'!A0"),
        ("+1", r"\x2b1"),
        ("-1", r"\x2d1"),
        ("@SUM(A1)", r"\x40SUM(A1)"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("＝1", r"\uff1d1"),
        ("a=1", "a=1"),
    ],
)
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str, field: str) -> None:
    stream = io.StringIO(newline="")
    CsvLines(stream, (Column("file", "FILE", "path"),), headers=False).write((name,))
    assert next(csv.reader([stream.getvalue()])) == [field]


@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1, max_size=4))
def test_csv_fields_are_one_line_and_never_a_formula(names: list[str | bytes]) -> None:
    stream = io.StringIO(newline="")
    columns = [Column(str(at), str(at), "name") for at in range(len(names))]
    CsvLines(stream, columns, headers=False).write(names)
    assert stream.getvalue().count("\n") == 1
    for field in next(csv.reader([stream.getvalue()])):
        assert not field.startswith(("=", "+", "-", "@", "\t", "\r"))


# --- one line per event


def test_events_on_a_pipe_are_never_cut_and_columns_grow() -> None:
    stream = io.StringIO()
    lines = Lines(stream, COLUMNS)
    lines.write(ROW)
    lines.write((NOON, "ledger-writer-5c6b7f9d84-qq7zp", 2147483648, "pg:16", b"/a"))
    lines.write(EVIL)
    lines.flush()
    assert stream.getvalue() == (
        "TIME          POD       COPIED  FILE\n"
        "12:00:00.123  checkout-x2x9k   5.0 KiB  /var/lib/pg/2619\n"
        "12:00:00.123  ledger-writer-5c6b7f9d84-qq7zp   2.0 GiB  /a\n"
        "12:00:00.123  evil\\x1b[2J                            -  /tmp/\\x07\\xff\\n\n"
    )


def test_events_without_headers_and_with_wide_columns() -> None:
    stream = io.StringIO()
    Lines(stream, COLUMNS, headers=False, wide=True).write(ROW)
    assert stream.getvalue() == "12:00:00.123  checkout-x2x9k   5.0 KiB  pg:16   /var/lib/pg/2619\n"


def test_events_on_a_terminal_end_at_its_width() -> None:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        lines = Lines(stream, COLUMNS)
        lines.write((NOON, "ledger-writer-5c6b7f9d84-qq7zp", 2147483648, "pg:16", b"/var/lib/postgresql/data/2619"))
        lines.write(EVIL)
        lines.flush()
        data = b""
        while data.count(b"\n") < 3:
            data += os.read(main, 4096)
    shown = data.decode().splitlines()
    os.close(main)
    assert shown == [
        "TIME          POD       COPIED  FILE",
        "12:00:00.123  ledger-wri…d84-qq7zp   2.0 GiB  …/data/2619",
        "12:00:00.123  evil\\x1b[2J                  -  …/\\x07\\xff\\n",
    ]
    assert "\x1b" not in "".join(shown)


def test_events_leave_out_what_a_narrow_terminal_can_spare() -> None:
    columns = (
        Column("time", "TIME", "time", spare=True),
        Column("pod", "POD", "name"),
        Column("pid", "PID", "count", spare=True),
        Column("detail", "DETAIL", "path"),
    )
    shown = {}
    for cells in (30, 60):
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, cells, 0, 0))
        with os.fdopen(side, "w", encoding="utf-8") as stream:
            lines = Lines(stream, columns)
            lines.write((NOON, "ledger-writer-5c6b7f9d84-qq7zp", 11955, b"/usr/local/bin/python"))
            lines.flush()
            data = b""
            while data.count(b"\n") < 2:
                data += os.read(main, 4096)
        os.close(main)
        shown[cells] = data.decode().splitlines()
    # a third of the line for the name, the rest for the path
    assert shown[30] == ["POD     DETAIL", "ledge…q7zp  …/local/bin/python"]
    assert shown[60] == [
        "TIME          POD     PID  DETAIL",
        "12:00:00.123  ledger-wri…d84-qq7zp  11955  /usr/…/bin/python",
    ]


# --- the table on a pipe

WINDOW = Window(
    COLUMNS, (ROW,), head=("copyup", "0:01"), foot=("1 event",), costs=("own CPU 0.1%",), lost=0, sort="copied"
)
BLOCK = """\
copyup · 0:01
TIME          POD              COPIED▼  FILE
12:00:00.123  checkout-x2x9k   5.0 KiB  /var/lib/pg/2619
1 event · lost 0 · own CPU 0.1%
"""


def test_a_block_is_printed_only_when_it_says_something_new() -> None:
    stream = io.StringIO()
    with open_table(stream) as table:
        assert isinstance(table, PlainTable)
        table.show(WINDOW)
        table.show(replace(WINDOW, head=("copyup", "0:02"), costs=("own CPU 0.2%",)))
        assert stream.getvalue() == BLOCK
        table.show(replace(WINDOW, lost=7))
        table.show(replace(WINDOW, lost=7, foot=("2 events",)))
    assert stream.getvalue() == "\n".join(
        [BLOCK, *(BLOCK.replace("1 event · lost 0", f"LOST 7 events · {n}") for n in ("1 event", "2 events"))]
    )


def test_blocks_without_headers_are_rows_alone() -> None:
    stream = io.StringIO()
    table = PlainTable(stream, headers=False)
    table.show(WINDOW)
    table.show(replace(WINDOW, foot=("2 events",)))
    table.show(replace(WINDOW, rows=(ROW, EVIL)))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "checkout-x2x9k",
        "checkout-x2x9k",
        "evil\\x1b[2J",
    ]


def test_rows_of_a_list_that_is_used_again_are_seen_to_change() -> None:
    stream = io.StringIO()
    rows = [ROW]
    table = PlainTable(stream, headers=False)
    table.show(replace(WINDOW, rows=rows))
    rows.append(EVIL)
    table.show(replace(WINDOW, rows=rows))
    assert len(stream.getvalue().splitlines()) == 3


def test_an_ascii_stream_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainTable(stream).show(replace(WINDOW, rows=(("x", "Grüße", 1, None, "/日"),)))
    text = raw.getvalue().decode("ascii")
    assert "COPIEDv" in text
    assert r"Gr\u00fc\u00dfe" in text


def test_a_terminal_without_a_size_has_a_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    main, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        assert terminal_size(stream) == (80, 24)
        monkeypatch.setenv("COLUMNS", "132")
        assert terminal_size(stream) == (132, 24)
    os.close(main)


@pytest.mark.parametrize("module", ["json", "csv", "lines", "plain", "screen", "keys", "table", "units"])
def test_no_view_imports_rich_or_click_before_it_is_used(module: str) -> None:
    source = Path(__file__).resolve().parents[3] / "src"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, kubetrace.views.{module}\nprint([m for m in ('rich', 'click') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        check=True,
    )
    assert found.stdout == "[]\n"


# --- lines of which all are known


EVENT_COLUMNS = (
    Column("pod", "POD", "name"),
    Column("what", "EVENT", "text", alarms=("oom_kill",)),
    Column("error", "ERROR", "text", alarm=True),
    Column("detail", "DETAIL", "path"),
)


def written(*rows: tuple[object, ...], **how: Any) -> list[str]:
    stream = io.StringIO()
    lines = Lines(stream, EVENT_COLUMNS, **how)
    for row in rows:
        lines.write(row)  # type: ignore[arg-type]  # of values
    lines.flush()
    lines.close()
    return stream.getvalue().splitlines()


def test_where_all_rows_come_at_once_columns_are_as_wide_as_what_is_in_them() -> None:
    rows = (("a", "exec", None, "/bin/sh"), ("checkout-x2x9k-longer", "oom_kill", "ENOMEM", "limit 48 MiB"))
    assert written(*rows, whole=True) == [
        "POD                    EVENT     ERROR   DETAIL",
        "a                      exec      -       /bin/sh",
        "checkout-x2x9k-longer  oom_kill  ENOMEM  limit 48 MiB",
    ]
    # as they come they only grow
    assert written(*rows)[1] == "a       exec   -      /bin/sh"


def test_what_is_held_back_is_written_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubetrace.views.lines._HELD", 2)
    stream = io.StringIO()
    lines = Lines(stream, EVENT_COLUMNS, whole=True)
    lines.write(("a", "exec", None, "/"))
    lines.flush()
    assert stream.getvalue() == ""
    lines.write(("bcdefghijk", "exec", None, "/"))
    assert len(stream.getvalue().splitlines()) == 3
    lines.write(("a", "exec", None, "/x"))
    assert stream.getvalue().splitlines()[-1] == "a           exec   -      /x"


def test_what_failed_and_what_was_killed_is_coloured_and_told_in_words() -> None:
    plain = written(("a", "oom_kill", None, "x"), ("b", "exec", "EIO", "x"), whole=True)
    painted = written(("a", "oom_kill", None, "x"), ("b", "exec", "EIO", "x"), whole=True, colour=True)
    assert "\x1b[1;31moom_kill" in painted[1] and "\x1b[1;31mEIO" in painted[2]
    assert "31m" not in painted[2].partition("EIO")[0].removesuffix("\x1b[1;31m")
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in painted] == plain
