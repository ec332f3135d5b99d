"""The documents lead somewhere, and comments cite none that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kubetrace import tracers
from tests.unit.test_rooms import ROOMS

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Where a path in a text may begin.
BEGINNINGS = (ROOT, ROOT / "src" / "kubetrace")
TEXTS = ("src", "bpf", "tests", "scripts", "docs", "deploy", ".ci")
# Copies of bpf that the last build made, as old as that is.
BUILT = ROOT / "src" / "kubetrace" / "objects"


def _is_there(name: str) -> bool:
    return any((root / found).exists() for root in BEGINNINGS for found in (name, f"{name}.py"))


def _paths(text: str) -> Iterator[str]:
    """What begins like a path of this repository, but for patterns, placeholders and what a run leaves."""
    for name in re.findall(r"(?<![\w/.:@-])((?:[\w.-]+/)+[\w.-]*\w)(?![\w*<]|/\w)", text):
        top = name.partition("/")[0]
        left_out = re.search(r"\b[A-Z]{2,}\b|NAME|dist/|^\.rings/", name)
        if any((root / top).is_dir() for root in BEGINNINGS) and not left_out:
            yield name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    gone = [name for name in _paths(document.read_text()) if not _is_there(name)]
    assert not gone


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        to = document if not name else document.parent / name
        assert to.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", to.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_no_text_cites_a_document_that_is_not_here() -> None:
    there = {path.name for path in (*DOCUMENTS, *ROOT.glob("tests/*/README.md"))}
    for top in TEXTS:
        for path in (ROOT / top).rglob("*"):
            if path.suffix not in (".py", ".c", ".h", ".md", ".yaml", "") or BUILT in path.parents or path.is_dir():
                continue
            text = path.read_text(errors="replace")
            assert not set(re.findall(r"\b[A-Z][A-Z_-]+\.md\b", text)) - there, path
            cited = re.findall(r"(?<![\w/.])docs/[\w-]+(?:\.\w+)+", text)
            assert not [name for name in cited if not (ROOT / name).exists()], path


def test_the_drawing_has_every_room_in_its_order() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## The rooms")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z, ]+) \|", table, re.MULTILINE)[1:]
    assert [tuple(row.split(", ")) for row in rows] == list(ROOMS)


@pytest.mark.parametrize("name", tracers.names())
def test_every_hook_of_a_tracer_is_explained(name: str) -> None:
    source = "".join((ROOT / "bpf" / file).read_text() for file in (f"{name}.bpf.c", "cgroup_births.bpf.h"))
    text = (ROOT / "docs" / "kernel.md").read_text()
    part = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    with open(ROOT / "src" / "kubetrace" / "objects" / "x86_64" / f"{name}.bpf.o", "rb") as file:
        sections = [section.name for section in ELFFile(file).iter_sections()]
    kinds = ("fentry", "fexit", "kprobe", "kretprobe", "raw_tp", "iter")
    hooked = {found[1] for section in sections if (found := section.split("/"))[0] in kinds}
    hooked = {re.sub(r"^__(x64|ia32)_sys_", "", function) for function in hooked}
    assert {"cgroup_mkdir", "cgroup_rmdir"} < hooked
    assert not [function for function in hooked if not re.search(rf"\b{function}\b", text)]
    # and nothing else is in its table
    rows = re.findall(r"^\| (.*?) \|", part.split("Not hooked")[0], re.MULTILINE)
    named = {found for row in rows for found in re.findall(r"`(\w+)`", row)}
    assert named and not [function for function in named if not re.search(rf"\b{function}\b", source)]
