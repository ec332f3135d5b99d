"""The rooms keep to themselves (DESIGN): who may import what, and one tracer = one file here and there."""

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from kubetrace import tracers
from kubetrace.commands import help

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "kubetrace"

# room -> packages that none of its modules may import, at any depth
FORBIDDEN = {
    "views": (
        "kubetrace.engines",
        "kubetrace.attribution",
        "kubetrace.tables",
        "kubetrace.tracers",
        "ctypes",
    ),
    "attribution": (
        "kubetrace.engines",
        "kubetrace.views",
        "kubetrace.tables",
        "kubetrace.tracers",
        "ctypes",
    ),
    "tracers": ("kubetrace.engines", "kubetrace.pipeline", "kubetrace.session", "ctypes"),
    "engines": ("kubetrace.attribution", "kubetrace.views", "kubetrace.pipeline", "kubetrace.session", "click", "rich"),
    "recording": (
        "kubetrace.engines",
        "kubetrace.views",
        "kubetrace.tables",
        "kubetrace.tracers",
        "kubetrace.pipeline",
        "kubetrace.session",
        "kubetrace.stream.live",
        "kubetrace.attribution.attributor",
        "kubetrace.node.files",
        "ctypes",
        "click",
        "rich",
    ),
    "stream/layout.py": ("kubetrace.engines", "ctypes"),
    "tables/aggregate.py": ("kubetrace.engines", "kubetrace.views", "kubetrace.attribution", "ctypes"),
    "pipeline.py": (
        "kubetrace.engines",
        "kubetrace.session",
        "kubetrace.stream.live",
        "ctypes",
        "click",
        "rich",
        "time",
    ),
    "stream/steps.py": ("kubetrace.engines", "kubetrace.stream.live", "kubetrace.views", "ctypes"),
    "doctor/rules.py": ("kubetrace.engines", "kubetrace.session", "kubetrace.node.host", "ctypes", "click"),
    "plugin": ("kubetrace.engines", "kubetrace.stream.live", "kubetrace.node.files", "kubetrace.node.host", "ctypes"),
    "plugin/merge.py": ("kubetrace.session", "kubetrace.plugin.streams", "click", "rich", "time", "subprocess"),
    "agent": ("kubetrace.engines", "ctypes", "rich"),
    "agent/series.py": ("kubetrace", "time", "threading", "prometheus_client"),
    "stream/live.py": (
        "kubetrace.engines",
        "kubetrace.views",
        "kubetrace.pipeline",
        "kubetrace.session",
        "ctypes",
        "click",
    ),
}


def _modules(room: str) -> list[Path]:
    path = PACKAGE / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _imports(path: Path) -> set[str]:
    """Every module that a file names in an import outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_never_reaches_back(room: str) -> None:
    for path in _modules(room):
        for name in _imports(path):
            assert not name.startswith(FORBIDDEN[room]), f"{path.relative_to(ROOT)} imports {name}"


def _named_by(path: Path, modules: Collection[str]) -> set[str]:
    """Those of the modules that a file names in an import: inside functions and for types alone, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                below = f"{node.module}.{name.name}"
                found.add(below if below in modules else node.module)
    return found & set(modules)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _circles(arrows: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Modules that lead to one another."""
    reached: dict[str, set[str]] = {}
    for name in arrows:
        found: set[str] = set()
        ahead = [name]
        while ahead:
            for other in set(arrows[ahead.pop()]) - found:
                found.add(other)
                ahead.append(other)
        reached[name] = found
    circles = []
    for name, found in sorted(reached.items()):
        circle = {other for other in found if name in reached[other]}
        if circle and circle not in circles:
            circles.append(circle)
    return circles


def test_no_modules_import_one_another_in_a_circle() -> None:
    modules = {_name(path): path for path in PACKAGE.rglob("*.py")}
    arrows = {name: _named_by(path, modules) - {name} for name, path in modules.items()}
    assert not _circles(arrows)


def test_a_circle_is_found_wherever_it_is_entered() -> None:
    assert _circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == [{"b", "c"}]


def test_only_engines_import_ctypes_or_bcc() -> None:
    users = {path for path in PACKAGE.rglob("*.py") if {"ctypes", "bcc"} & _imports(path)}
    assert users and all((PACKAGE / "engines") in path.parents for path in users)


def test_only_the_command_line_exits() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() not in ("commands/exits.py", "__main__.py"):
            assert "sys.exit" not in path.read_text() and "SystemExit" not in path.read_text(), path


def test_each_tracer_has_the_program_of_its_name() -> None:
    in_kernel = {path.name.removesuffix(".bpf.c") for path in (ROOT / "bpf").glob("*.bpf.c")}
    assert in_kernel == set(tracers.names()) == set(help.tracers())


@pytest.mark.parametrize("name", tracers.names())
def test_a_tracer_fits_its_declarations(name: str) -> None:
    tracer = tracers.find(name)
    assert tracer.name == name
    assert len(tracer.operations()) == len(tracer.measures)
    keys = {column.key for grouping in tracer.groupings.values() for column in grouping.columns}
    keys |= {column.key for column in tracer.measures}
    assert set(tracer.sorts.values()) <= keys
    first = [column.key for column in (*next(iter(tracer.groupings.values())).columns, *tracer.measures)]
    assert len(first) == len(set(first))
