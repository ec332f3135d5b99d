"""The text of kubetrace --help, from names and first lines of files: no command is imported for it."""

from __future__ import annotations

import os

# Commands besides the tracers: module of the same name with `command`, and what each is for.
OTHERS = {
    "All of them": {
        "top": "Show one row for each pod, the worst first; Enter opens it in each tracer's table.",
    },
    "Your own tracers": {
        "run": "Show the events of NAME.bpf.c, a C file with programs and a struct for events.",
    },
    "Recordings": {
        "record": "Record what tracers see to a file, for later and elsewhere.",
        "replay": "Show a recording as it was shown live, or would have been.",
        "export": "Turn a recording into JSON Lines, CSV, Parquet or a Perfetto trace.",
        "info": "Say what a recording holds: node, tracers, time span, pods, losses.",
    },
    "The node": {
        "images": "Show each image with its age, users and size, and what its removal would free.",
        "pod": "Show where a pod's data lives: layers, writable layers, volumes, logs, namespaces, cgroups.",
        "node": "Show a node on one page: disks and what is on which, stores of images, kubelet, what is unusual.",
        "who": "Name the pod behind a cgroup id, pid, container id, path or snapshot.",
        "doctor": "Say what works on this node, and what to do about what does not.",
        "agent": "Keep tracers running, and serve what they count to Prometheus.",
    },
    "This tool": {
        "completion": "Print the script by which a shell completes commands, options and names of pods.",
        "help": "Show the help of a command.",
    },
}
_USAGE = "Usage: kubetrace [OPTIONS] COMMAND [ARGS]..."
TEXT = (
    "Show live, by pod, what this Kubernetes node's kernel does for its containers.",
    "Runs on the node, as root; needs neither the API server nor a live container runtime.",
)
OPTIONS = {
    "--version": "Show the version, commit, libbpf and objects, and exit.",
    "-v, --verbose": "Show the kernel's own words behind an error.",
    "-h, --help": "Show this message and exit.",
}
_TRACERS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "tracers")
_MOST_COLUMNS = 100
# The environment variable by which the scripts of `kubetrace completion` ask.
COMPLETION = "_KUBETRACE_COMPLETE"


def tracers() -> list[str]:
    """Every tracer's name, without importing any: one module or package each, listed nowhere."""
    try:
        files = os.listdir(_TRACERS)
    except NotADirectoryError:  # in a zip (scripts/plugin); slower to import than --help may take
        import pkgutil

        return sorted(module.name for module in pkgutil.iter_modules([_TRACERS]))
    return sorted(name.removesuffix(".py") for name in files if name[0] != "_" and _is_module(name))


def _is_module(name: str) -> bool:
    return name.endswith(".py") or os.path.exists(os.path.join(_TRACERS, name, "__init__.py"))


def one_liner(tracer: str) -> str:
    """What a tracer shows, in a few words: the first line of its module's docstring."""
    try:
        line = _first_line(f"{tracer}.py")
    except OSError:  # a package
        line = _first_line(f"{tracer}/__init__.py")
    text = line.decode().strip().strip('"').partition(": ")[2]
    return text[:1].upper() + text[1:]


def one_liners() -> dict[str, str]:
    """Every command, tracers first -> what it is for."""
    texts = {name: one_liner(name) for name in tracers()}
    for entries in OTHERS.values():
        texts.update(entries)
    return texts


def _first_line(name: str) -> bytes:
    try:
        with open(os.path.join(_TRACERS, name), "rb") as file:
            return file.readline()
    except NotADirectoryError:
        import pkgutil

        return (pkgutil.get_data("kubetrace", f"tracers/{name}") or b"").partition(b"\n")[0]


def help_text(columns: int) -> str:
    """The text of kubetrace --help for a terminal so wide."""
    width = max(50, min(columns, _MOST_COLUMNS) - 2)
    lines = [_USAGE]
    for text in TEXT:
        lines += ["", *(f"  {line}" for line in _wrapped(text, width - 2))]
    sections = {"Options": OPTIONS, "Tracers": {name: one_liner(name) for name in tracers()}, **OTHERS}
    for title, entries in sections.items():
        lines += ["", f"{title}:"]
        left = max(map(len, entries)) + 4
        for name, text in entries.items():
            first, *more = _wrapped(text, width - left)
            lines.append(f"  {name}".ljust(left) + first)
            lines += [" " * left + line for line in more]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def columns() -> int:
    """How wide the terminal is."""
    wide = os.environ.get("COLUMNS", "")
    if wide.isdecimal() and int(wide):
        return int(wide)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
