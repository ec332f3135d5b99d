"""A running `kubetrace agent`, for the native and the kernel ring."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

DEADLINE_S = 240

# The DaemonSet's capabilities (deploy/daemonset.yaml), and a command that leaves a process just these.
LEAST = ("BPF", "PERFMON", "SYS_PTRACE", "SYS_RESOURCE")
ONLY_THESE = (
    "setpriv",
    "--bounding-set=-all," + ",".join(f"+{name.lower()}" for name in LEAST),
    "--inh-caps=-all",
    "--no-new-privs",
)


class Agent:
    """Ends with the context; its port is its own choice."""

    def __init__(self, directory: Path, *words: str, before: tuple[str, ...] = (), command: tuple[str, ...]) -> None:
        self._ready = directory / "ready"
        self._errors = directory / "agent-errors"
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                [*before, *command, "agent", *words, "--listen", "127.0.0.1:0", "--ready-file", str(self._ready)],
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )

    def __enter__(self) -> Agent:
        try:
            self.wait_until(self._ready.exists, "ready")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        (line,) = [line for line in self.errors().splitlines() if "serving" in line]
        self.url = line.rpartition(" ")[2].removesuffix("/metrics")
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_S)

    def errors(self) -> str:
        return self._errors.read_text()

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, f"not {what}: {self.errors()}"
            time.sleep(0.1)

    def get(self, path: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers={"Accept": "application/openmetrics-text"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """(labels, value) of a metric's samples, by prometheus_client's own strict parser of OpenMetrics."""
        status, text = self.get("/metrics")
        assert status == 200
        for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one sample with these labels; None where there is none."""
        found = [value for own, value in self.samples(name) if labels.items() <= own.items()]
        assert len(found) <= 1, found
        return found[0] if found else None
