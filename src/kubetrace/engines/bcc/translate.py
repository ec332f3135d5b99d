"""A tracer's bpf/NAME.bpf.c as bcc compiles it: one text, from the very source that clang compiles for libbpf.

What libbpf does when it loads an object has to be in the text here:

- the sources are put together, the branches of #if taken, and macros that define programs or maps expanded (bcc's
  rewriter works on the text, and takes nothing that comes out of a macro);
- programs: fentry and fexit are left out; the others become plain functions of a context that bcc's rewriter does not
  look into, so that it has nothing to rewrite;
- maps: `&name` becomes a number that engine.py replaces by the map's descriptor in the compiled instructions;
- functions that are verified by themselves (noinline) become part of the programs that call them;
- `const volatile` variables become constants with the values of this run; other variables the value of a map;
- the kernel's structs (preserve_access_index) get the running kernel's offsets (engines/kernel_types.py).

bpf/bcc.bpf.h has the rest.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubetrace.errors import LoadRefused

# Python's platform.machine() -> libbpf's __TARGET_ARCH_*
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
# Numbers of maps in the compiled instructions: like no descriptor, nor a number that bcc gives.
FIRST_MAP = 0x6B740000
_COMMENTS = re.compile(r'/\*.*?\*/|//[^\n]*|("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')', re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*(.*)", re.DOTALL)
_PROGRAM = re.compile(
    r'SEC\(((?:[^()"]|"[^"]*"|\([^()]*\))*)\)\s*int\s+(?:(BPF_\w+)\s*\(\s*)?(\w+)\s*(\((?:[^()]|\([^()]*\))*\))?'
)
_MAP = re.compile(r'struct\s*\{([^{}]*)\}\s*(\w+)\s+SEC\("\.maps"\)\s*;')
_CONSTANT = re.compile(r"^(?:static )?const volatile (\w[\w ]*?) (\w+) = ([^;]+);", re.MULTILINE)
_VARIABLE = re.compile(r"^(__u64|__u32|__s64|__s32|bool) (\w+) = 0;", re.MULTILINE)
_LICENSE = re.compile(r'^char \w+\[\] SEC\("license"\) = "([^"]*)";', re.MULTILINE)


@dataclass(frozen=True)
class Translated:
    """What bcc compiles, and what is in it: program -> section (kprobe/do_unlinkat), maps in their numbers' order.

    `values` are those maps that stand for a variable.
    """

    text: str
    programs: Mapping[str, str]
    maps: tuple[str, ...]
    values: tuple[str, ...]
    license: str
    constants: tuple[str, ...]


@dataclass
class _Macro:
    parameters: list[str] | None
    body: str


@dataclass
class _Preprocessor:
    """Joins includes, takes branches, strips comments; line numbers of each file stay those it has."""

    defined: set[str]
    directories: list[Path]
    macros: dict[str, _Macro] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)

    def file(self, path: Path) -> str:
        """The text of a file; empty the second time. Raises LoadRefused."""
        if (resolved := path.resolve()) in self.seen:
            return ""
        self.seen.add(resolved)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LoadRefused(f"{path.name} cannot be read.", why=str(error)) from error
        # a comment inside a macro keeps the ends of its lines
        text = _COMMENTS.sub(lambda m: m[1] or " " + "".join(re.findall(r"\\?\n", m[0])), text)
        # bcc has no functions beside the programs: they are part of each that calls them
        text = re.sub(r"\b(?:static )?(?:__attribute__\(\(noinline\)\)|__noinline\b)", "static __always_inline", text)
        out = [f'#line 1 "{path.name}"']
        branches: list[tuple[bool, bool]] = []  # (this branch is taken, one of them was)
        lines = text.split("\n")
        number = 0
        while number < len(lines):
            line, taken_lines = lines[number], 1
            if line.lstrip().startswith("#"):
                while line.endswith("\\") and number + taken_lines < len(lines):
                    line = line[:-1] + "\n" + lines[number + taken_lines]
                    taken_lines += 1
            number += taken_lines
            kept = self._directive(line, branches, path) if line.lstrip().startswith("#") else line
            if not all(taken for taken, _ in branches):
                kept = ""
            if kept.startswith("#line"):
                kept += f'\n#line {number + 1} "{path.name}"'
                out.append(kept)
            else:
                out.append(kept + "\n" * (taken_lines - 1 - kept.count("\n")))
        if branches:
            raise LoadRefused(f"{path.name} does not compile.", why="An #if is not ended by #endif.")
        return "\n".join(out)

    def _directive(self, line: str, branches: list[tuple[bool, bool]], path: Path) -> str:
        match = _DIRECTIVE.match(line)
        if match is None:
            return ""
        word, rest = match[1], match[2].strip()
        active = all(taken for taken, _ in branches)
        if word in ("if", "ifdef", "ifndef"):
            holds = {
                "if": lambda: self._holds(rest, path),
                "ifdef": lambda: rest in self.defined,
                "ifndef": lambda: rest not in self.defined,
            }[word]()
            branches.append((holds, holds))
            return ""
        if word in ("elif", "else", "endif"):
            if not branches:
                raise LoadRefused(f"{path.name} does not compile.", why=f"#{word} without #if.")
            _, had = branches.pop()
            if word != "endif":
                holds = not had and (word == "else" or self._holds(rest, path))
                branches.append((holds, had or holds))
            return ""
        if not active:
            return ""
        if word == "include":
            return self._include(rest, path)
        if word == "define":
            return self._define(rest, line)
        if word == "undef":
            self.defined.discard(rest)
            self.macros.pop(rest, None)
        return line

    def _holds(self, condition: str, path: Path) -> bool:
        text = re.sub(r"defined\s*\(?\s*(\w+)\s*\)?", lambda m: str(int(m[1] in self.defined)), condition)
        text = re.sub(r"\b[A-Za-z_]\w*\b", "0", text)
        text = text.replace("&&", " and ").replace("||", " or ")
        text = re.sub(r"!(?!=)", " not ", text)
        if re.fullmatch(r"[\d\s()<>=!&|+*-]*(?:(?:and|or|not)[\d\s()<>=!+*-]*)*", text):
            try:
                return bool(eval(text, {"__builtins__": {}}))  # numbers and operators alone
            except (SyntaxError, TypeError, ValueError):
                pass
        raise LoadRefused(f"{path.name} does not compile.", why=f"#if {condition} is more than kubetrace evaluates.")

    def _include(self, what: str, path: Path) -> str:
        if what.startswith("<"):
            return ""  # libbpf's and the system's: bcc.bpf.h has what they give
        name = what.strip('"')
        for directory in (path.parent, *self.directories):
            if (directory / name).exists():
                return self.file(directory / name) or "#line 1"
        raise LoadRefused(f"{path.name} includes {what}, which is not there.")

    def _define(self, rest: str, line: str) -> str:
        match = re.match(r"(\w+)(\(([^)]*)\))?\s*(.*)", rest, re.DOTALL)
        if match is None:
            return line
        self.defined.add(match[1])
        parameters = [name.strip() for name in match[3].split(",")] if match[2] else None
        self.macros[match[1]] = _Macro(parameters, match[4])
        # what defines programs or maps is expanded here, and is nothing for the compiler
        return "" if self._defines(match[1]) else line.replace("\n", "\\\n")

    def _defines(self, name: str) -> bool:
        # by itself, or by what it is made of
        looked_at, names = set(), [name]
        while names:
            if (macro := self.macros.get(name := names.pop())) is None or name in looked_at:
                continue
            if "SEC(" in macro.body:
                return True
            looked_at.add(name)
            names += re.findall(r"\b([A-Za-z_]\w*)\s*\(", macro.body)
        return False

    def expand(self, text: str) -> str:
        """Those macros, wherever they are used."""
        names = [name for name in self.macros if name != "SEC" and self._defines(name)]
        while names:
            match = re.search(
                rf"^\s*({'|'.join(map(re.escape, names))})\s*\(|[;}}]\s*({'|'.join(names)})\s*\(", text, re.M
            )
            if match is None:
                break
            name = match[1] or match[2]
            start = match.start(1) if match[1] else match.start(2)
            end = _closing(text, text.index("(", start))
            arguments = _split(text[text.index("(", start) + 1 : end])
            expanded = self.apply(name, arguments)
            text = text[:start] + expanded + "\n" * text[start:end].count("\n") + text[end + 1 :]
        return text

    def apply(self, name: str, arguments: list[str]) -> str:
        """One macro's body for these arguments, on one line."""
        macro = self.macros[name]
        names = macro.parameters or []
        values = dict(zip(names, arguments, strict=False))
        body = re.sub(r"\s*\n\s*", " ", macro.body)
        if names[-1:] == ["..."]:
            values["__VA_ARGS__"] = rest = ", ".join(arguments[len(names) - 1 :])
            body = re.sub(r",\s*##\s*__VA_ARGS__", ", __VA_ARGS__" if rest else "", body)

        def put(match: re.Match[str]) -> str:
            text, quoted, word = match.groups()
            return text or (f'"{values.get(quoted, quoted)}"' if quoted else values.get(word, word))

        body = re.sub(r'("(?:\\.|[^"\\])*")|(?<!#)#(?!#)\s*(\w+)|(\w+)', put, body)
        return re.sub(r"\s*##\s*", "", body)

    def string(self, text: str) -> str:
        """What string literals and macros in a row come to."""
        while match := re.search(r"\b([A-Za-z_]\w*)\s*\(([^()]*)\)", text):
            if match[1] not in self.macros:
                raise LoadRefused(f"SEC({text}) is not a name of a hook.")
            text = text[: match.start()] + self.apply(match[1], _split(match[2])) + text[match.end() :]
        return "".join(re.findall(r'"([^"]*)"', text))


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    pairs = {"(": ")", "{": "}"}
    opening, closing, depth = text[start], pairs[text[start]], 0
    for match in re.compile(rf'"(?:\\.|[^"\\])*"|[{opening}{closing}]').finditer(text, start):
        depth += {opening: 1, closing: -1}.get(match[0], 0)
        if not depth:
            return match.start()
    raise LoadRefused("the source does not compile.", why=f"A {opening} is not closed.")


def _split(text: str) -> list[str]:
    """Arguments between top-level commas."""
    found, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            found.append(text[begin:at].strip())
            begin = at + 1
    return [*found, text[begin:].strip()]


def translate(source: Path, directory: Path, constants: Mapping[str, int], lay_out: Callable[[str], str]) -> Translated:
    """`directory` holds the headers; `lay_out` gives the kernel's structs its offsets. Raises LoadRefused."""
    target = f"__TARGET_ARCH_{_ARCHITECTURES[platform.machine()]}"
    pre = _Preprocessor({"KT_BCC", target}, [directory])
    text = "\n".join([pre.file(directory / "bcc.bpf.h"), pre.file(source)])
    text = pre.expand(text)
    found = _LICENSE.search(text)
    text = _LICENSE.sub("", text)
    text, programs = _programs(text, pre)
    text, maps, values = _maps(text)
    known = tuple(match[2] for match in _CONSTANT.finditer(text))
    if unknown := set(constants) - set(known):
        raise LoadRefused(f"{source.name} has no constant {', '.join(sorted(unknown))}.")
    text = _CONSTANT.sub(lambda m: f"static const {m[1]} {m[2]} = {_value(constants, m[2], m[3])};", text)
    text = re.sub(r"bpf_core_field_offset\(\s*(\w+)->(\w+)\s*\)", r"__builtin_offsetof(typeof(*\1), \2)", text)
    return Translated(lay_out(text), programs, maps, values, found[1] if found else "GPL", known)


def _value(constants: Mapping[str, int], name: str, default: str) -> str:
    return f"{constants[name]}ULL" if name in constants else default


def _programs(text: str, pre: _Preprocessor) -> tuple[str, dict[str, str]]:
    programs: dict[str, str] = {}
    out, at = [], 0
    while match := _PROGRAM.search(text, at):
        out.append(text[at : match.start()])
        section = pre.string(match[1])
        kind = section.partition("/")[0]
        macro, name = match[2], match[3]
        if macro:
            opened = text.index("(", match.start(2))
            end_of_head = _closing(text, opened)
            parameters = _split(text[opened + 1 : end_of_head])[1:]
        else:
            opened = text.index("(", match.end(3))
            end_of_head = _closing(text, opened)
            parameters = [text[opened + 1 : end_of_head]]
        begin = text.index("{", end_of_head)
        end = _closing(text, begin) + 1
        lines = "\n" * text[match.start() : begin].count("\n")
        body = text[begin:end]
        at = end
        if kind in ("fentry", "fexit"):
            out.append("\n" * text[match.start() : end].count("\n"))
            continue
        programs[name] = section
        if macro == "BPF_KPROBE":
            passed = [f"({_type_of(p)})PT_REGS_PARM{i}(ctx)" for i, p in enumerate(parameters, 1)]
            head = ", ".join(["void *ctx", *parameters])
        elif macro == "BPF_KRETPROBE":
            passed = [f"({_type_of(p)})PT_REGS_RC(ctx)" for p in parameters]
            head = ", ".join(["void *ctx", *parameters])
        elif macro:
            raise LoadRefused(
                f"{name} cannot be compiled by bcc.", why=f"{macro} is not among what kubetrace translates."
            )
        else:
            passed, head = [], parameters[0]
        arguments = ", ".join(["ctx", *passed])
        out.append(f"static __always_inline int kt_body_{name}({head}) {lines}{body} ")
        out.append(f"int {name}(void *ctx) {{ return kt_body_{name}({arguments}); }}")
    out.append(text[at:])
    return "".join(out), programs


def _type_of(parameter: str) -> str:
    """`struct dentry *dentry` is a struct dentry *."""
    return re.sub(r"\w+$", "", parameter.strip()).strip()


def _maps(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    names = [match[2] for match in _MAP.finditer(text)]
    values = [match[2] for match in _VARIABLE.finditer(text)]

    def number(name: str) -> int:
        return FIRST_MAP + [*names, *values].index(name)

    text = _MAP.sub(
        lambda m: (
            f"struct kt_map_{m[2]} {{{m[1]}}}; struct kt_map_{m[2]} *kt_pin_map_{m[2]} __attribute__((unused));"
            f" enum {{ kt_map_number_{m[2]} = {number(m[2])} }};"
        ),
        text,
    )
    text = _VARIABLE.sub(
        lambda m: f"typedef {m[1]} kt_type_{m[2]}; enum {{ kt_map_number_{m[2]} = {number(m[2])} }};", text
    )
    if names:
        # as an argument of these alone: a local variable may have a map's name
        taking = r"\b(?:bpf_map_\w+|bpf_ringbuf_\w+|kt_output|kt_wake)\(\s*"
        text = re.sub(rf"({taking})&({'|'.join(names)})\b(?=\s*[,)])", r"\1KT_MAP(\2)", text)
    for name in values:
        text = re.sub(rf"(?<!kt_type_)(?<!kt_map_number_)\b{name}\b", f"KT_GLOBAL({name})", text)
    return text, tuple(names), tuple(values)
