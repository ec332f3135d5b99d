"""How commands end when stdout cannot be written, or somebody presses Ctrl-C: a word, a status, and no traceback."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubetrace.engines import support
from kubetrace.errors import PermissionDenied
from kubetrace.views.output import OutputClosed, Reader

ROOT = Path(__file__).parents[3]
RECORDING = str(ROOT / "tests/recordings/writes-1.ktrace")
KUBETRACE = [sys.executable, "-m", "kubetrace"]
COMMANDS = [
    ["--help"],
    ["info", RECORDING],
    ["info", RECORDING, "-o", "json"],
    ["replay", RECORDING, "--final"],
    ["replay", RECORDING, "--final", "-o", "json"],
    ["export", RECORDING, "--format", "csv"],
    ["copyup", "--help"],
]


def ends(command: list[str], redirection: str) -> subprocess.CompletedProcess[bytes]:
    words = [*KUBETRACE, *command]
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *words]
    return subprocess.run(shell, capture_output=True, timeout=600, check=False)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(map(os.path.basename, words)))
def test_what_cannot_be_written_is_an_error_of_one_line(command: list[str], redirection: str) -> None:
    done = ends(command, redirection)
    assert done.returncode == 1
    first, *rest = done.stderr.decode().splitlines()
    reason = os.strerror(errno.ENOSPC if redirection == ">/dev/full" else errno.EBADF)
    assert first.startswith("Error: ") and reason in first
    assert all(line.startswith("Try:") for line in rest), rest


def test_what_is_written_on_a_closed_stderr_goes_nowhere(tmp_path: Path) -> None:
    # the file is the next one that is opened
    out = tmp_path / "out"
    done = ends(["export", RECORDING, "--format", "csv", "-o", str(out)], "<&- 2>&-")
    assert (done.returncode, done.stderr) == (0, b"")
    whole = ends(["export", RECORDING, "--format", "csv"], "").stdout
    assert out.read_bytes() == whole and whole


@pytest.mark.parametrize(
    ("imported", "status"),
    [
        # before any command knows of it: as any program without a handler
        ("click", -signal.SIGINT),
        ("kubetrace.commands.group", -signal.SIGINT),
        ("kubetrace.recording.reader", 130),
        ("kubetrace.pipeline", 130),
    ],
)
def test_an_interrupt_while_modules_are_imported_shows_no_traceback(imported: str, status: int) -> None:
    code = f"""
import os, signal, sys
from kubetrace.commands.start import main

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {imported!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["kubetrace", "replay", {RECORDING!r}, "--final"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600, check=False)
    assert (done.returncode, done.stderr.strip()) == (status, b"")


def test_lockdown_is_named_whatever_the_kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "LOCKDOWN", tmp_path / "lockdown")
    assert support.of_the_node(errno.EINVAL) is None
    for mode in ("[none] integrity confidentiality", "none [integrity] confidentiality"):
        (tmp_path / "lockdown").write_text(mode + "\n")
        assert support.of_the_node(errno.EINVAL) is None
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    # the verifier says EINVAL of a helper that it may not give
    for code in (errno.EINVAL, errno.EPERM):
        error = support.of_the_node(code)
        assert isinstance(error, PermissionDenied)
        assert "locked down" in error.what and "who, replay" in error.why and "integrity" in error.do
        assert (error.check, "report" in str(error)) == ("lockdown", False)


def test_a_replay_ends_with_its_reader() -> None:
    # half a minute of a recording at a thousandth of its speed; nothing more is written for long
    command = [*KUBETRACE, "replay", RECORDING, "--speed", "0.001", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        time.sleep(1)
        assert process.poll() is None
        process.stdout.close()
        assert process.wait(600) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_is_gone_is_known_before_anything_is_written(kind: str) -> None:
    if kind == "pipe":
        theirs, ours = os.pipe()
    else:
        pair = socket.socketpair()
        theirs, ours = (end.detach() for end in pair)
    with open(ours, "w") as stream:
        reader = Reader(stream)
        assert not reader.gone
        os.close(theirs)
        assert reader.gone
        with pytest.raises(OutputClosed):
            reader.check()


def test_a_file_and_what_is_closed_have_a_reader(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stream:
        assert not Reader(stream).gone
    assert not Reader(stream).gone and not Reader(None).gone
