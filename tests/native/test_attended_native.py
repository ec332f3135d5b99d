"""KUBETRACE_ATTENDED: a real kubetrace begins when somebody listens, and ends when nobody does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import DEADLINE_S

CODE = (
    "from kubetrace.plugin import attended; attended._SILENCE_S = {silence}; "
    "from kubetrace.commands.group import main; main()"
)
SILENCE_S = 5.0


class Attended:
    def __init__(self, silence_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE.format(silence=silence_s), "starts", "-o", "windows", "-i", "100ms"],
            env={**os.environ, "KUBETRACE_ATTENDED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, what: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what)
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def rest(self) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        return [json.loads(line) for line in self.process.stdout]


@pytest.fixture
def attended() -> Iterator[Any]:
    made: list[Attended] = []

    def start(silence_s: float = 60.0) -> Attended:
        made.append(Attended(silence_s))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def test_it_begins_with_a_line_and_ends_with_the_next(attended: Any) -> None:
    running = attended()
    time.sleep(1.0)
    assert running.process.poll() is None
    running.tell(b"\n")
    assert running.line()["type"] == "window"
    running.tell(b"..")
    running.tell(b".\n")
    assert running.rest()[-1]["type"] == "summary"
    assert running.process.wait(DEADLINE_S) == 0


def test_it_ends_when_nothing_is_heard_of_whoever_listened(attended: Any) -> None:
    # kept alive for longer than the silence that it bears; begun again where this process was silent for so long
    # itself, as a busy machine does not promise it a CPU
    told, until = 0.0, -1.0
    while (now := time.monotonic()) < until or now - told > SILENCE_S / 2:
        if now - told > SILENCE_S / 2:
            running = attended(silence_s=SILENCE_S)
            running.tell(b"\n")
            begun = running.line()
            told = time.monotonic()
            until = told + 1.4 * SILENCE_S
            continue
        assert running.process.poll() is None, begun
        told = now
        running.tell(b".")
        time.sleep(0.3)
    assert running.rest()[-1]["type"] == "summary"
    assert running.process.wait(DEADLINE_S) == 0


def test_it_does_not_begin_for_who_has_gone_already(attended: Any) -> None:
    running = attended()
    running.process.stdin.close()
    assert running.process.wait(DEADLINE_S) == 130
    assert running.rest() == []
