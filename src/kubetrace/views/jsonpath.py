r"""-o jsonpath=TEMPLATE, as kubectl has it: `{.namespace}/{.pod} {.path}{"\n"}`.

    {.key.key}  {.key[0]}  {.key[-1]}  {.key[*]}  {['key']}  {@}     a value; several are set apart by spaces
    {range .key[*]} ... {end}                                        for each of them
    {"text\n"}                                                       a text

What is not there is empty, null is `null`. Filters and .. are not done: `-o json` and jq do them. Names of others are
escaped as in tables (views/text.py), objects and lists are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from kubetrace.errors import UsageError
from kubetrace.views.output import Output
from kubetrace.views.text import escape

_TOKEN = re.compile(r"""\{((?:"(?:[^"\\]|\\.)*"|'[^']*'|[^{}"'])*)\}""")
_STEP = re.compile(r"""\.?\*|\.([A-Za-z_][\w-]*)|\[(-?\d{1,9}|\*|'[^']*'|"[^"]*")\]""", re.ASCII)
_MOST_CHARACTERS = 4096


@dataclass
class _Part:
    """A text; or a path, of which a range has a body."""

    text: str = ""
    path: Sequence[str | int] | None = None
    body: list[_Part] | None = field(default=None)


class Template:
    """A template, understood once."""

    def __init__(self, text: str) -> None:
        """Raises UsageError for what is not a template."""
        if not text or len(text) > _MOST_CHARACTERS:
            raise _wrong(text, "it is empty" if not text else "it is too long")
        if "{" not in text and text[0] in ".[":  # as kubectl's --sort-by and custom-columns take .key for {.key}
            text = f"{{{text}}}"
        stack: list[list[_Part]] = [[]]
        at = 0
        for token in _TOKEN.finditer(text):
            self._say(stack, text, at, token.start())
            self._take(stack, text, token[1].strip())
            at = token.end()
        self._say(stack, text, at, len(text))
        if len(stack) > 1:
            raise _wrong(text, "a {range} has no {end}")
        self._parts = stack[0]

    @staticmethod
    def _say(stack: list[list[_Part]], text: str, begin: int, end: int) -> None:
        between = text[begin:end]
        if "{" in between or "}" in between:
            raise _wrong(text, f"of {between[:40]!r} a brace is left over")
        if between:
            stack[-1].append(_Part(between))

    @staticmethod
    def _take(stack: list[list[_Part]], text: str, inside: str) -> None:
        if inside == "end":
            if len(stack) == 1:
                raise _wrong(text, "an {end} has no {range}")
            stack.pop()
        elif inside.startswith("range "):
            part = _Part(path=_path(text, inside[6:].strip()), body=[])
            stack[-1].append(part)
            assert part.body is not None
            stack.append(part.body)
        elif inside[:1] in "\"'" and inside:
            stack[-1].append(_Part(_unquoted(text, inside)))
        else:
            stack[-1].append(_Part(path=_path(text, inside)))

    def text(self, record: object) -> str:
        """What it makes of an object."""
        return "".join(_made(self._parts, record))


class TemplateLines:
    """Writes each record by a template, on a line of its own; call `flush` once per batch. Raises OutputError."""

    def __init__(self, stream: TextIO, template: str) -> None:
        """Write to a stream. Raises UsageError for what is not a template."""
        self._out = Output(stream)
        self._template = Template(template)

    def write(self, record: Mapping[str, object]) -> None:
        """One object."""
        text = self._template.text(record)
        self._out.write(text if text.endswith("\n") else text + "\n")

    def flush(self) -> None:
        """Hand the batch over."""
        self._out.flush()


def _path(text: str, path: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 1 if path[:1] in ("$", "@") else 0
    if not path or (at == 0 and path[0] not in ".["):
        raise _wrong(text, f"{path[:40]!r} does not begin with a dot")
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            if path[at:] == "." and not steps:
                break
            raise _wrong(text, f"{path[at : at + 40]!r} is not .key, [0], [*] or ['key']")
        key = step[1] if step[1] is not None else step[2] or "*"
        if step[2] is not None and key.lstrip("-").isdecimal():
            steps.append(int(key))
        else:
            steps.append(key[1:-1] if key[0] in "'\"" else key)
        at = step.end()
    return steps


def _unquoted(text: str, quoted: str) -> str:
    if len(quoted) < 2 or quoted[-1] != quoted[0]:
        raise _wrong(text, f"{quoted[:40]!r} is not closed")
    try:
        return str(json.loads(quoted)) if quoted[0] == '"' else quoted[1:-1]
    except ValueError as error:
        raise _wrong(text, f"{quoted[:40]} is not a text") from error


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text[:80]!r} is not a template of -o jsonpath=.",
        why=f"{why[:1].upper()}{why[1:]}.",
        do="-o jsonpath='{.namespace}/{.pod}', or -o json and jq",
    )


def _made(parts: Sequence[_Part], record: object) -> Iterator[str]:
    for part in parts:
        if part.path is None:
            yield part.text
        elif part.body is None:
            yield " ".join([_shown(value) for value in _found(record, part.path)])
        else:
            for value in _found(record, part.path):
                yield from _made(part.body, value)


def _found(record: object, path: Sequence[str | int]) -> list[object]:
    values = [record]
    for step in path:
        following: list[object] = []
        for value in values:
            if step == "*":
                following += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []
            elif isinstance(step, int):
                if isinstance(value, list) and -len(value) <= step < len(value):
                    following.append(value[step])
            elif isinstance(value, Mapping) and step in value:
                following.append(value[step])
        values = following
    return values


def _shown(value: object) -> str:
    if isinstance(value, str | bytes):
        return escape(value)
    return json.dumps(value, separators=(",", ":"), default=lambda data: data.decode("utf-8", "surrogateescape"))
