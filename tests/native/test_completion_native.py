"""Completion in real shells against a node's files: what a key press completes is what the command is given."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import captured

from .conftest import DEADLINE_S, ROOT

CART = "cart-7d4b9c6f5d-x2x9z"
SHELLS = ("bash", "zsh", "fish")
# What stands in for the command when the completed line is run: it says what it was given. Completion asks the real
# one in PATH: bash and zsh by env, fish by env too.
STAND_IN = {
    "bash": 'kubetrace() { echo "GOT<$*>"; }; source <(command kubetrace completion bash); PS1=',
    "zsh": 'kubetrace() { echo "GOT<$*>" }; autoload -Uz compinit; compinit -u -D; '
    "source <(command kubetrace completion zsh); PS1=",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured.build("v2-cgroupfs-apiserver", tmp_path_factory.mktemp("node"), directories=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home without anybody's settings, and kubetrace in PATH."""
    home = tmp_path_factory.mktemp("home")
    (home / ".zshrc").write_text("")
    command = home / "kubetrace"
    code = "from kubetrace.commands.start import main; main()"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    command.chmod(0o755)
    return {
        "PATH": f"{home}:{os.environ['PATH']}",
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "XDG_CONFIG_HOME": str(home),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name: str, environment: dict[str, str], first: str = "") -> None:
        arguments = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-i"]}[name]
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe(arguments[0], arguments, environment)
        self.said = ""
        self.run(first or STAND_IN[name])

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, pattern: str) -> str:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.said, re.DOTALL)):
            assert time.monotonic() < deadline, self.said
            if select.select([self.fd], [], [], 0.2)[0]:
                self.said += os.read(self.fd, 65536).decode("utf-8", "replace").replace("\r", "")
        self.said = self.said[found.end() :]
        return found[1]

    def run(self, line: str) -> None:
        # what is echoed has the quotes in it, what is printed has not
        self.write(f"{line}; echo 're''ady'\n")
        self.read_until("\n(ready)\n")

    def completed(self, line: str) -> str:
        self.write(line + "\t\n")
        return self.read_until("GOT<(.*?)>").strip()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)
        os.waitpid(self.pid, 0)


def candidates_of_fish(line: str, environment: dict[str, str]) -> list[str]:
    script = f"kubetrace completion fish | source; complete -C {line!r}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert not done.stderr, done.stderr
    return [found.partition("\t")[0] for found in done.stdout.splitlines()]


class Completer:
    """A shell that completes a line."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.environment = environment
        self.shell = Shell(name, environment) if name != "fish" else None

    def completed(self, line: str) -> str:
        """The arguments of the command, after the last word was completed."""
        if self.shell is not None:
            return self.shell.completed(line)
        (found,) = candidates_of_fish(line, self.environment)
        return f"{line.rpartition(' ')[0]} {found}".removeprefix("kubetrace ")


@pytest.fixture(params=SHELLS, scope="module")
def completer(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Completer]:
    assert shutil.which(request.param), f"scripts/setup test installs {request.param}"
    made = Completer(request.param, environment)
    yield made
    if made.shell is not None:
        made.shell.close()


def test_a_shell_completes_commands_options_and_choices(completer: Completer) -> None:
    assert completer.completed("kubetrace copy") == "copyup"
    assert completer.completed("kubetrace copyup --no-h") == "copyup --no-headers"
    assert completer.completed("kubetrace copyup --by con") == "copyup --by container"
    assert completer.completed("kubetrace copyup --sort max") == "copyup --sort max-latency"
    assert completer.completed("kubetrace writes --columns pod,dest") == "writes --columns pod,destination"
    assert completer.completed("kubetrace writes -o cs") == "writes -o csv"
    assert completer.completed("kubetrace help doc") == "help doctor"
    assert completer.completed("kubetrace record writes --by fi") == "record writes --by file"
    replay = f"replay {ROOT / 'tests' / 'recordings' / 'writes-1.ktrace'}"
    assert completer.completed(f"kubetrace {replay} --by dest") == f"{replay} --by destination"
    assert completer.completed(f"kubetrace {replay} wr") == f"{replay} writes"


def test_a_shell_completes_the_names_of_the_nodes_pods(completer: Completer, root: Path) -> None:
    copyup = f"copyup --host-root {root}"
    assert completer.completed(f"kubetrace {copyup} -n sh") == f"{copyup} -n shop"
    # there are pods of other names in other namespaces
    assert completer.completed(f"kubetrace {copyup} -n shop -p c") == f"{copyup} -n shop -p {CART}"
    assert completer.completed(f"kubetrace {copyup} -n jobs,sh") == f"{copyup} -n jobs,shop"
    assert completer.completed(f"kubetrace {copyup} -p {CART} -c c") == f"{copyup} -p {CART} -c cart"
    assert completer.completed(f"kubetrace who --host-root {root} shop/c") == f"who --host-root {root} shop/{CART}"


def test_a_long_option_is_completed_behind_its_equals_sign(completer: Completer, root: Path) -> None:
    copyup = f"copyup --host-root {root}"
    assert completer.completed(f"kubetrace {copyup} --namespace=sh") == f"{copyup} --namespace=shop"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel installs below a prefix."""
    to = tmp_path_factory.mktemp("prefix")
    subprocess.run([sys.executable, ROOT / "scripts" / "man_pages.py", "--out", to], check=True, capture_output=True)
    return to / "share"


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_finds_what_is_installed(name: str, environment: dict[str, str], prefix: Path, root: Path) -> None:
    line = f"kubetrace who --host-root {root} shop/c"
    whole = f"who --host-root {root} shop/{CART}"
    said = {
        "bash": 'kubetrace() { echo "GOT<$*>"; }; source /usr/share/bash-completion/bash_completion; PS1=',
        "zsh": 'kubetrace() { echo "GOT<$*>" }; '
        f"fpath=({prefix}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D; PS1=",
        "fish": f"set -p fish_complete_path {prefix}/fish/vendor_completions.d; complete -C {line!r}",
    }[name]
    environment = {**environment, "BASH_COMPLETION_USER_DIR": f"{prefix}/bash-completion"}
    if name == "fish":
        command = ["fish", "--no-config", "-c", said]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        assert done.stdout.splitlines() == [whole.rpartition(" ")[2]]
        return
    shell = Shell(name, environment, said)
    try:
        assert shell.completed(line) == whole
    finally:
        shell.close()


def test_a_shell_completes_files_where_files_are_meant(completer: Completer, tmp_path: Path) -> None:
    (tmp_path / "node.ktrace").write_text("")
    assert completer.completed(f"kubetrace replay {tmp_path}/nod") == f"replay {tmp_path}/node.ktrace"


def test_nothing_is_said_where_nothing_can_be_completed(completer: Completer, tmp_path: Path) -> None:
    line = f"copyup --host-root {tmp_path}/nowhere -n sh"
    if completer.shell is None:
        assert candidates_of_fish(f"kubetrace {line}", completer.environment) == []
    else:
        assert completer.completed(f"kubetrace {line}") == line
