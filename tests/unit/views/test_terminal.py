"""The live table and the keys on a real pseudo-terminal, read back through pyte: what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyte
import pytest

from kubetrace.errors import OutputError
from kubetrace.views.columns import Column
from kubetrace.views.keys import Keys
from kubetrace.views.plain import PlainTable
from kubetrace.views.screen import LiveTable, open_table
from kubetrace.views.suspend import Hold, defer
from kubetrace.views.window import Window

COLUMNS = (Column("pod", "POD", "name"), Column("file", "FILE", "path"), Column("copies", "COPIES", "count"))
WINDOW = Window(
    COLUMNS,
    [("checkout-x2x9k", b"/var/lib/pg/2619", 3), ("frontend-l4x2m", b"/etc/nginx.conf", 2)],
    head=(("copyup", "title"), "0:42"),
    foot=("5 events",),
    lost=2,
    sort="copies",
    keys=(("q", "quit"),),
)

# Only ends a test that hangs: a busy machine promises no time.
DEADLINE_S = 240


class Terminal:
    """A pseudo-terminal, with a thread that reads all that is written to it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.main, side = pty.openpty()
        self.stream = os.fdopen(side, "r+b", buffering=0)
        self.text = io.TextIOWrapper(self.stream, encoding="utf-8", write_through=True)
        self.resize(columns, lines)
        self.data = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.main, 65536):
                self.data += data

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def settled(self) -> bytes:
        """All that was written: a mark is written after it and waited for."""
        mark = b"\x1b[?5n"
        os.write(self.stream.fileno(), mark)
        end = time.monotonic() + DEADLINE_S
        while not self.data.endswith(mark):
            assert time.monotonic() < end
            select.select([], [], [], 0.002)
        self.data = self.data[: -len(mark)]
        return self.data

    def screen(self, since: int = 0) -> pyte.Screen:
        screen = pyte.Screen(self.columns, self.lines)
        pyte.ByteStream(screen).feed(self.settled()[since:])
        return screen

    def modes(self) -> list[object]:
        return list(termios.tcgetattr(self.stream.fileno()))

    def close(self) -> None:
        self.text.close()  # the reader meets EIO, and must be gone before its descriptor is another's
        self._reader.join()
        os.close(self.main)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLORTERM", "COLUMNS", "LINES", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    yield terminal
    terminal.close()


def shown(screen: pyte.Screen) -> list[str]:
    return [line.rstrip() for line in screen.display]


def alternate(data: bytes) -> bytes:
    """What was drawn on the alternate screen last."""
    return data.rpartition(b"\x1b[?1049h")[2].partition(b"\x1b[?1049l")[0]


# --- the live table


def test_the_live_table_fills_the_screen_and_hides_the_cursor(terminal: Terminal) -> None:
    with LiveTable(terminal.text) as live:
        live.show(WINDOW)
        screen = terminal.screen()
        assert shown(screen) == [
            "copyup · 0:42",
            "POD             FILE              COPIES▼",
            "checkout-x2x9k  /var/lib/pg/2619        3",
            "frontend-l4x2m  /etc/nginx.conf         2",
            *[""] * 18,
            "LOST 2 events · 5 events",
            "q quit",
        ]
        assert screen.cursor.hidden
        assert screen.buffer[22][0].fg == "red"
        assert screen.buffer[1][0].reverse


def test_the_last_table_stays_on_the_normal_screen(terminal: Terminal) -> None:
    with LiveTable(terminal.text) as live:
        live.show(WINDOW)
    data = terminal.settled()
    after = data.rpartition(b"\x1b[?1049l")[2]
    screen = pyte.Screen(80, 24)
    pyte.ByteStream(screen).feed(after)
    assert shown(screen)[:5] == [
        "copyup · 0:42",
        "POD             FILE              COPIES▼",
        "checkout-x2x9k  /var/lib/pg/2619        3",
        "frontend-l4x2m  /etc/nginx.conf         2",
        "LOST 2 events · 5 events",
    ]
    assert (screen.cursor.x, screen.cursor.y) == (0, 5)
    assert data.count(b"\x1b[?25h") == 1
    assert data.rindex(b"\x1b[?25h") > data.rindex(b"\x1b[?25l")
    assert data.rindex(b"\x1b[?7h") > data.rindex(b"\x1b[?7l")


def test_a_frame_that_did_not_change_is_not_drawn_again(terminal: Terminal) -> None:
    with LiveTable(terminal.text) as live:
        live.show(WINDOW)
        before = terminal.settled()
        live.show(replace(WINDOW))
        assert terminal.settled() == before
        live.show(replace(WINDOW, lost=3))
        assert terminal.settled() != before


def test_an_exception_restores_the_screen_and_goes_on(terminal: Terminal) -> None:
    with pytest.raises(ZeroDivisionError), LiveTable(terminal.text) as live:
        live.show(WINDOW)
        raise ZeroDivisionError
    data = terminal.settled()
    assert data.rindex(b"\x1b[?1049l") > data.rindex(b"\x1b[?1049h")
    assert data.rindex(b"\x1b[?25h") > data.rindex(b"\x1b[?25l")


def test_a_resize_redraws_at_once(terminal: Terminal) -> None:
    before = signal.getsignal(signal.SIGWINCH)
    with LiveTable(terminal.text) as live:
        live.show(WINDOW)
        seen = len(terminal.settled())
        terminal.resize(30, 8)
        signal.raise_signal(signal.SIGWINCH)
        assert shown(terminal.screen(seen)) == [
            "copyup · 0:42",
            "POD         FILE       COPIES▼",
            "check…x2x9k …/pg/2619        3",
            "front…l4x2m …ginx.conf       2",
            "",
            "",
            "LOST 2 events · 5 events",
            "q quit",
        ]
    assert signal.getsignal(signal.SIGWINCH) == before


def test_no_color_keeps_what_is_no_colour(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with LiveTable(terminal.text) as live:
        live.show(WINDOW)
        screen = terminal.screen()
    assert {cell.fg for line in screen.buffer.values() for cell in line.values()} == {"default"}
    assert screen.buffer[22][0].bold
    assert b"\x1b[31m" not in terminal.settled()


def test_colour_can_be_asked_for_against_no_color(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with LiveTable(terminal.text, colour=True) as live:
        live.show(WINDOW)
        assert terminal.screen().buffer[22][0].fg == "red"


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    with open_table(terminal.text) as table:
        assert isinstance(table, PlainTable)
        table.show(WINDOW)
    data = terminal.settled()
    assert b"\x1b" not in data
    assert b"checkout-x2x9k" in data
    with pytest.raises(OutputError, match="no cursor to move"), LiveTable(terminal.text):
        pass


def test_there_is_no_live_table_on_a_pipe() -> None:
    with pytest.raises(OutputError, match="no terminal"), LiveTable(io.StringIO()):
        pass


def test_a_terminal_that_is_gone_is_an_output_error(terminal: Terminal) -> None:
    hook = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    main, side = pty.openpty()
    try:
        with os.fdopen(side, "w", encoding="utf-8") as stream:
            with pytest.raises(OutputError), LiveTable(stream) as live:
                live.show(WINDOW)
                os.close(main)
                live.show(replace(WINDOW, lost=3))
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    finally:
        signal.signal(signal.SIGHUP, hook)


HOSTILE = [
    b"/tmp/\x1b[2J\x1b[H\x1b]0;owned\x07",
    b"/tmp/a\nb\rc\x08\x08d\tz",
    "/tmp/\u202egnp.exe\u2066\u200f".encode(),
    b"/tmp/\x9b31m\xc2\x9b2J\xff\xfe",
    b"/tmp/" + b"\xcc\x81" * 100,
    ("/tmp/" + "日本" * 60).encode(),
    "/tmp/👨\u200d👩\u200d👧🏽🇨🇭☰".encode(),
    b"/tmp/\x1b[?25h\x1b[?1049l\x1bc",
]


def test_a_name_narrower_than_we_counted_leaves_nothing_of_the_last_frame(terminal: Terminal) -> None:
    rows = [("x" * 30, b"/" + b"y" * 60, 7)]
    with LiveTable(terminal.text) as live:
        live.show(replace(WINDOW, rows=rows))
        live.show(replace(WINDOW, rows=[("हिन्दी" * 4, "/हिन्दी".encode() * 8, 8)]))
        line = terminal.screen().display[2]
    assert "8" in line
    assert not set("xy7") & set(line)


class Watched(pyte.Screen):
    """A screen that notes what a plain table has no reason to do."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self.did: list[str] = []

    def bell(self, *args: object) -> None:
        self.did.append("bell")

    def set_title(self, *args: object) -> None:
        self.did.append("title")

    def reset(self) -> None:
        if hasattr(self, "did"):
            self.did.append("reset")
        super().reset()

    def tab(self) -> None:
        self.did.append("tab")

    def backspace(self) -> None:
        self.did.append("backspace")


@pytest.mark.parametrize("columns", [80, 160])
def test_a_hostile_name_moves_no_cursor_and_rings_no_bell(terminal: Terminal, columns: int) -> None:
    terminal.resize(columns, 24)
    rows = [(name, name, at) for at, name in enumerate(HOSTILE)]
    with LiveTable(terminal.text) as live:
        live.show(replace(WINDOW, rows=rows))
        data = alternate(terminal.settled())
    screen = Watched(columns, 24)
    pyte.ByteStream(screen).feed(data)
    assert screen.did == []
    lines = shown(screen)
    assert lines[0] == "copyup · 0:42"
    assert [screen.buffer[2 + at][columns - 1].data for at in range(8)] == [str(at) for at in range(8)]
    assert lines[22].startswith("LOST 2")


def test_a_signal_in_the_middle_of_a_frame_waits_for_its_end() -> None:
    did: list[str] = []
    with Hold():
        with Hold():
            defer(act := lambda: did.append("late"))
            defer(act)
        assert did == []
    assert did == ["late"]
    defer(lambda: did.append("now"))
    assert did == ["late", "now"]


def test_the_handlers_of_before_come_back(terminal: Terminal) -> None:
    numbers = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
    before = [signal.getsignal(number) for number in numbers]
    with Keys(terminal.text), LiveTable(terminal.text) as live:
        live.show(WINDOW)
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


# --- keys


def wait(keys: Keys) -> None:
    fd = keys.fileno()
    assert fd is not None
    assert select.select([fd], [], [], DEADLINE_S)[0]


def test_keys_are_read_one_by_one_without_waiting(terminal: Terminal) -> None:
    before = terminal.modes()
    with Keys(terminal.text) as keys:
        assert keys.active
        assert keys.fileno() == terminal.stream.fileno()
        assert keys.read() == []
        os.write(terminal.main, b"qs \r\x1b[A\x1bOB\x1b[6~\xc3\xa9\x1b[200~\t")
        wait(keys)
        assert keys.read() == ["q", "s", " ", "enter", "up", "down", "pagedown", "é", "tab"]
        assert keys.read() == []
    assert terminal.modes() == before


def test_a_lone_escape_is_told_by_the_next_look(terminal: Terminal) -> None:
    with Keys(terminal.text) as keys:
        os.write(terminal.main, b"\x1b")
        wait(keys)
        assert keys.read() == []
        assert keys.read() == ["escape"]
        os.write(terminal.main, b"\x1b")
        wait(keys)
        assert keys.read() == []
        os.write(terminal.main, b"[A")
        wait(keys)
        assert keys.read() == ["up"]


def test_ctrl_c_stays_a_signal_and_echo_is_off(terminal: Terminal) -> None:
    with Keys(terminal.text):
        local = termios.tcgetattr(terminal.stream.fileno())[3]
        assert local & termios.ISIG
        assert not local & (termios.ECHO | termios.ICANON)


def test_modes_come_back_after_an_exception(terminal: Terminal) -> None:
    before = terminal.modes()
    with pytest.raises(ZeroDivisionError), Keys(terminal.text):
        raise ZeroDivisionError
    assert terminal.modes() == before


def test_keys_of_a_pipe_are_silent() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as stream, Keys(stream) as keys:
        assert not keys.active
        assert keys.fileno() is None
        assert keys.read() == []
    os.close(write)


def test_a_terminal_that_hung_up_reads_as_quit() -> None:
    main, side = pty.openpty()
    with os.fdopen(side) as stream, Keys(stream) as keys:
        os.close(main)
        assert keys.read() == ["q"]
        assert keys.fileno() is None


# --- Ctrl-Z

JOB = """
import os, sys, time
from kubetrace.views.keys import Keys
from kubetrace.views.screen import LiveTable
from kubetrace.views.window import Window
with Keys() as keys, LiveTable(sys.stdout) as live:
    for n in range(30_000):
        live.show(Window((), head=("job", "running")))
        if "q" in keys.read():
            break
        time.sleep(0.01)
"""


def shell(source: str) -> None:
    """The child on the terminal: a shell with job control, as small as can be. Says what it saw on the terminal."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    before = termios.tcgetattr(0)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.environ.update(PYTHONPATH=source, TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-c", JOB])
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    same = termios.tcgetattr(0)[3] == before[3]
    os.write(1, b"<stopped %d %d>" % (os.WIFSTOPPED(status), same))
    os.tcsetpgrp(0, job)
    os.kill(job, signal.SIGCONT)
    _, status = os.waitpid(job, 0)
    os.tcsetpgrp(0, os.getpgrp())
    same = termios.tcgetattr(0)[3] == before[3]
    os.write(1, b"<ended %d %d>" % (os.waitstatus_to_exitcode(status), same))


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again() -> None:
    pid, main = pty.fork()
    if pid == 0:  # pragma: no cover
        try:
            shell(str(Path(__file__).resolve().parents[3] / "src"))
        finally:
            os._exit(0)
    data = b""

    def until(mark: bytes, start: int = 0) -> int:
        nonlocal data
        end = time.monotonic() + DEADLINE_S
        while mark not in data[start:]:
            assert time.monotonic() < end, data
            if select.select([main], [], [], 0.1)[0]:
                data += os.read(main, 65536)
        return data.index(mark, start) + len(mark)

    try:
        until(b"running")
        os.write(main, b"\x1a")
        stopped = until(b"<stopped 1 1>")
        assert data.index(b"\x1b[?1049l") < stopped
        assert data.index(b"\x1b[?25h") < stopped
        again = until(b"\x1b[?1049h", stopped)
        until(b"running", again)
        os.write(main, b"q")
        ended = until(b"<ended 0 1>", again)
        assert b"\x1b[?1049l" in data[again:ended]
        assert b"\x1b[?25h" in data[again:ended]
    finally:
        os.close(main)
        os.waitpid(pid, 0)
