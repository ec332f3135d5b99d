"""Write the man pages and completion scripts, from what --help says: python3 scripts/man_pages.py [--out DIRECTORY].

The wheel's build hook (compile_objects.py) does the same. Of the libraries that do so, click-man hands texts to roff
as they are: a line that begins with a dot is lost, and examples are filled as prose. This is click's own structure,
escaped.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = {
    "NO_COLOR": "Tables have no colours where it is set; bold and reverse stay.",
    "NODE_NAME": "The node's name, where its host name is not (the agent's DaemonSet sets it).",
    "COLUMNS": "How wide help and tables are where there is no terminal to ask.",
    "KUBETRACE_IMAGE": "kubectl kubetrace: the image to run on nodes.",
    "KUBECTL": "kubectl kubetrace: the kubectl to call.",
}
_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


def pages() -> Mapping[str, str]:
    """Name of the page's file -> its text."""
    from kubetrace.commands.group import kubetrace
    from kubetrace.commands.kubectl_group import kubectl_kubetrace

    found = {}
    for group, name in ((kubetrace, "kubetrace"), (kubectl_kubetrace, "kubectl kubetrace")):
        ctx = click.Context(group, info_name=name, **group.context_settings)
        names = group.list_commands(ctx)
        dashed = name.replace(" ", "-")
        found[f"{dashed}.1"] = "".join(_group_page(group, ctx, dashed, names))
        for one in names if name == "kubetrace" else ():
            command = group.get_command(ctx, one)
            assert command is not None
            below = click.Context(command, info_name=one, parent=ctx, **command.context_settings)
            found[f"{dashed}-{one}.1"] = "".join(_command_page(command, below, f"{dashed}-{one}"))
    return found


def scripts() -> Mapping[str, str]:
    """Path below a prefix -> the completion script that a shell looks for there."""
    from kubetrace.commands import help
    from kubetrace.commands.completion import SHELLS
    from kubetrace.commands.group import kubetrace

    paths = {
        "bash": "share/bash-completion/completions/kubetrace",
        "zsh": "share/zsh/site-functions/_kubetrace",
        "fish": "share/fish/vendor_completions.d/kubetrace.fish",
    }
    # the template alone: bash itself is not asked for its version where a wheel is built
    made = {name: shell(kubetrace, {}, "kubetrace", help.COMPLETION) for name, shell in SHELLS.items()}
    return {paths[name]: shell.source_template % shell.source_vars() for name, shell in made.items()}


def _head(dashed: str, what: str) -> Iterator[str]:
    from kubetrace import __version__

    # no date: the same tree gives the same pages; neither hyphens that are not there nor wide spaces
    yield f'.TH {_text(dashed.upper())} 1 "" "kubetrace {_text(__version__)}" "kubetrace manual"\n.nh\n.ad l\n'
    yield f".SH NAME\n{_text(dashed)} \\- {_text(what[:1].lower() + what[1:].rstrip('.'))}\n"


def _group_page(group: click.Group, ctx: click.Context, dashed: str, names: Iterable[str]) -> Iterator[str]:
    from kubetrace.commands import help

    texts = help.one_liners()
    first, _, rest = inspect.cleandoc(group.help or "").partition("\n\n")
    yield from _head(dashed, first.replace("\n", " "))
    yield from _synopsis(group, ctx)
    yield from _description(first + "\n\n" + rest if rest else first)
    yield from _options(group, ctx)
    yield ".SH COMMANDS\n"
    for name in names:
        yield f".TP\n.BR {_text('kubetrace-' + name)} (1)\n{_text(texts.get(name, name))}\n"
    yield from _end(see=("kubetrace",) if dashed != "kubetrace" else ("kubectl-kubetrace",))


def _command_page(command: click.Command, ctx: click.Context, dashed: str) -> Iterator[str]:
    text = inspect.cleandoc(command.help or "")
    yield from _head(dashed, re.split(r"(?<=[.:])\s", text.partition("\n\n")[0].replace("\n", " "))[0])
    yield from _synopsis(command, ctx)
    yield from _description(text)
    yield from _options(command, ctx)
    yield from _end(see=("kubetrace",))


def _synopsis(command: click.Command, ctx: click.Context) -> Iterator[str]:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    yield f".SH SYNOPSIS\n.B {_text(ctx.command_path)}\n{_text(pieces)}\n"


def _description(text: str) -> Iterator[str]:
    # Paragraphs; one behind \b stays as it is written, and one with a title is a section of its own.
    yield ".SH DESCRIPTION\n"
    later = []
    begun = False
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if lines[0].strip() != "\b":
            yield (".PP\n" if begun else "") + _text(" ".join(line.strip() for line in lines)) + "\n"
            begun = True
            continue
        title = re.fullmatch(r"(\w[\w ]*):", lines[1])
        block = inspect.cleandoc("\n".join(lines[2:] if title else lines[1:])).split("\n")
        made = ".EX\n" + "".join(f"{_text(line)}\n" for line in block) + ".EE\n"
        if title:
            later.append(f".SH {_text(title[1].upper())}\n{made}")
        else:
            yield f".PP\n{made}"
    yield from later


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    given = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    records = [record for option in given if (record := option.get_help_record(ctx))]
    if records:
        yield ".SH OPTIONS\n"
    for names, text in records:
        flags, _, value = names.partition(" ") if ", " not in names else _parted(names)
        yield f".TP\n.B {_text(flags)}\n" if not value else f".TP\n\\fB{_text(flags)}\\fR \\fI{_text(value)}\\fR\n"
        yield f"{_text(' '.join(text.split()))}\n"


def _parted(names: str) -> tuple[str, str, str]:
    # -n, --namespace NAME[,NAME...]
    found = re.match(r"((?:-\S+, )*-\S+)(?: (.*))?$", names)
    assert found is not None, names
    return found[1], " ", found[2] or ""


def _end(*, see: Iterable[str]) -> Iterator[str]:
    from kubetrace.commands.exits import STATUSES

    yield ".SH EXIT STATUS\n"
    for status, meaning in STATUSES.items():
        yield f".TP\n.B {status}\n{_text(meaning)}\n"
    yield ".SH ENVIRONMENT\n"
    for name, meaning in _ENVIRONMENT.items():
        yield f".TP\n.B {_text(name)}\n{_text(meaning)}\n"
    yield ".SH SEE ALSO\n" + ",\n".join(f".BR {_text(name)} (1)" for name in see) + "\n"


def _text(text: str) -> str:
    """Text as roff shows it again: nothing of it is a request, and hyphens are the ASCII ones of options."""
    made = "".join(_ESCAPES.get(char, char if char < "\x7f" else f"\\[u{ord(char):04X}]") for char in text)
    return "\\&" + made if made[:1] in (".", " ") else made


def write(to: Path) -> list[Path]:
    """Write all of them below a prefix such as /usr/local."""
    files = {f"share/man/man1/{name}": text for name, text in pages().items()}
    written = []
    for name, text in {**files, **scripts()}.items():
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the prefix to write below (default: dist)")
    for path in write(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
