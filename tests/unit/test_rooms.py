"""The rooms keep to themselves: who may import what, no circles, and a tracer here is one there."""

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from kubetrace import tracers
from kubetrace.commands import help

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "kubetrace"

# Every room, from above: each may use what stands below it, and neither what is above nor its neighbour on its line.
ROOMS = (
    ("commands",),
    ("agent", "doctor", "plugin"),
    ("session",),
    ("pipeline", "tracers"),
    ("tables",),
    ("kit",),
    ("engines", "node"),
    ("recording",),
    ("stream",),
    ("attribution", "views"),
    ("errors", "objects"),
)
# What stands beside the rooms' packages.
FILES = {"__init__.py", "__main__.py", "errors.py", "pipeline.py"}

# Room or module -> what it does not import although it stands below, or is not a room; for types it may.
FORBIDDEN = {
    "agent": ("kubetrace.engines", "ctypes", "rich"),
    "agent/series.py": ("kubetrace", "time", "threading", "prometheus_client"),
    "doctor/rules.py": ("kubetrace.engines", "kubetrace.session", "kubetrace.node", "ctypes", "click"),
    "plugin": ("kubetrace.engines", "kubetrace.stream.live", "kubetrace.node", "ctypes"),
    "plugin/merge.py": ("kubetrace.session", "kubetrace.plugin.streams", "click", "rich", "time", "subprocess"),
    "pipeline.py": ("kubetrace.engines", "kubetrace.stream.live", "ctypes", "click", "rich", "time"),
    "tracers": ("kubetrace.engines", "ctypes"),
    "tables": ("kubetrace.engines", "kubetrace.node", "kubetrace.stream.live", "ctypes", "click", "rich", "time"),
    "tables/aggregate.py": ("kubetrace.views", "kubetrace.attribution"),
    "kit": ("kubetrace.engines", "kubetrace.node", "kubetrace.stream.live", "ctypes", "rich", "time"),
    "engines": ("kubetrace.attribution", "kubetrace.recording", "kubetrace.views", "click", "rich"),
    "node": ("kubetrace.stream", "kubetrace.recording", "kubetrace.views", "click", "rich"),
    "recording": (
        "kubetrace.stream.live",
        "kubetrace.attribution.attributor",
        "kubetrace.views",
        "ctypes",
        "click",
        "rich",
    ),
    "stream": ("kubetrace.attribution.attributor", "kubetrace.views", "ctypes", "click"),
    "attribution": ("ctypes", "click", "rich", "time"),
    "views": ("ctypes",),
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
def test_a_room_leaves_alone_what_is_none_of_its_business(room: str) -> None:
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


def _arrows() -> dict[str, set[str]]:
    modules = {_name(path): path for path in PACKAGE.rglob("*.py")}
    return {name: _named_by(path, modules) - {name} for name, path in modules.items()}


def _room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert not _circles(_arrows())


def test_every_arrow_points_down() -> None:
    height = {room: -number for number, line in enumerate(ROOMS) for room in line}
    up = [
        f"{module} -> {other}"
        for module, others in _arrows().items()
        for other in others
        if _room(module) in height and _room(other) not in ("", _room(module))
        if height[_room(other)] >= height[_room(module)]
    ]
    assert not up


def test_the_package_is_rooms_and_nothing_else() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == {room for line in ROOMS for room in line} - {"errors", "pipeline"} | FILES


def test_no_two_modules_have_one_name() -> None:
    # but for a command, which may be called as what it runs, and packages' own files
    rooms = {room for line in ROOMS for room in line}
    names = [
        path.stem
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__") and path.parent.name != "commands" and path.parent != PACKAGE
    ]
    names += [path.parent.name for path in PACKAGE.rglob("*/*/__init__.py")]
    assert not [name for name in names if names.count(name) > 1 or name in rooms]


def test_a_circle_is_found_wherever_it_is_entered() -> None:
    assert _circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == [{"b", "c"}]


def test_only_engines_import_ctypes_or_bcc() -> None:
    # and inotify, of which Python knows nothing
    users = {path for path in PACKAGE.rglob("*.py") if {"ctypes", "bcc"} & _imports(path)}
    users.remove(PACKAGE / "node" / "inotify.py")
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
