"""The man pages, as man shows them: without a warning, and in the words of --help."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from kubetrace.commands.group import kubetrace
from kubetrace.commands.kubectl_group import kubectl_kubetrace

from .conftest import ROOT

ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "400", "MANROFFSEQ": ""}
CONTEXT = click.Context(kubetrace, info_name="kubetrace")
PAGES = {
    "kubetrace": kubetrace,
    "kubectl-kubetrace": kubectl_kubetrace,
    **{f"kubetrace-{name}": kubetrace.get_command(CONTEXT, name) for name in kubetrace.list_commands(CONTEXT)},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("prefix")
    subprocess.run([sys.executable, ROOT / "scripts" / "man_pages.py", "--out", to], check=True, capture_output=True)
    return to / "share" / "man" / "man1"


def man(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["man", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=120
    )


def test_there_is_a_page_for_each_command(pages: Path) -> None:
    assert {path.stem for path in pages.iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_warning_and_says_what_help_says(name: str, pages: Path) -> None:
    page = pages / f"{name}.1"
    # as lintian asks (its tag groff-message)
    assert man("--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page).stderr == ""
    text = " ".join(man("-P", "cat", "-l", page).stdout.split())
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"):
        assert f" {section} " in f" {text} "
    command = PAGES[name]
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            names = " ".join([", ".join(option.opts), *([option.metavar] if option.metavar else [])])
            assert f"{names} {' '.join((option.help or '').split())}" in text, option.opts
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        # a title of --help is a section here
        title = re.match("\b\n(\\w[\\w ]*):\n", paragraph)
        words = paragraph.replace("\b\n", "").replace(f"{title[1]}:", title[1].upper(), 1) if title else paragraph
        words = " ".join(words.replace("\b\n", "").split())
        assert words in text, words


def test_a_line_that_roff_would_obey_is_shown(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from man_pages import _text
    finally:
        sys.path.pop(0)
    lines = [
        ".TH is no request",
        "'nor this",
        "back\\slash \\fB",
        "--option -x a-b",
        "`quoted' ~ ^ “…” é",
        "  indented",
    ]
    page = tmp_path / "x.1"
    page.write_text(".TH X 1\n.EX\n" + "".join(f"{_text(line)}\n" for line in lines) + ".EE\n")
    assert man("--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page).stderr == ""
    shown = [line.removeprefix("       ") for line in man("-P", "cat", "-l", page).stdout.splitlines()]
    assert [line for line in shown if line in lines] == lines


def test_a_wheel_carries_pages_completion_and_its_commit(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        shared = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
        commit = archive.read("kubetrace/commit").decode().strip()
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(commit.removesuffix("-dirty")) and len(commit) >= 12
    assert {f"share/man/man1/{name}.1" for name in PAGES} <= shared
    assert shared >= {
        "share/bash-completion/completions/kubetrace",
        "share/zsh/site-functions/_kubetrace",
        "share/fish/vendor_completions.d/kubetrace.fish",
    }
