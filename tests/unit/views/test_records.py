"""Objects as YAML and by templates."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.errors import UsageError
from kubetrace.views.jsonpath import Template
from kubetrace.views.records import are_objects, open_objects
from kubetrace.views.yaml import YamlDocuments

# What os.fsdecode gives for any bytes, and words that YAML would take for something else.
TEXTS = (
    st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    | st.text(max_size=12)
    | st.sampled_from(["yes", "No", "null", "~", "1", "1e3", "0x1f", "1:30", "2026-11-18", "=", "<<", "- a", "a: b"])
    | st.sampled_from(
        ["a #b", " a", "a ", "", "%a", "@a", "`a", "!a", "&a", "*a", "a:", ":a", "?", "-", ".inf", "\x7f"]
    )
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), max_size=3))
def test_yaml_comes_back_as_it_was(records: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    documents = YamlDocuments(out)
    for record in records:
        documents.write(record)
    documents.flush()
    text = out.getvalue()
    assert text.isascii() and all(char.isprintable() or char == "\n" for char in text)
    assert list(yaml.safe_load_all(text)) == records


def test_bytes_are_their_text() -> None:
    out = io.StringIO()
    YamlDocuments(out).write({"path": b"/a\xff"})
    assert out.getvalue() == '---\npath: "/a\\uDCFF"\n'


RECORD = {"a": {"b": [1, "x y", None], "c-d": True}, "names": ["p", "q"], "n": 2.5, "evil": "\x1b[2J\n", "e": {}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.n}", "2.5"),
        (".n", "2.5"),
        ("n={.n}!", "n=2.5!"),
        ("{.a.b[0]}{.a.b[1]}{.a.b[2]}{.a.b[9]}", "1x ynull"),
        ("{.a.b[-2]}", "x y"),
        ("{.a.b[*]}", "1 x y null"),
        ("{.names.*}", "p q"),
        ("{.a.c-d}", "true"),
        ("{.a['c-d']}", "true"),
        ('{range .names[*]}<{@}>{"\\n"}{end}', "<p>\n<q>\n"),
        ("{range .names[*]}{range @}{.x}{end}.{end}", ".."),
        ("{'quoted {'}{\"}\"}", "quoted {}"),
        ("{.e}{.nothing}{.n.deeper}", "{}"),
        # a name of others is escaped as in tables
        ("{.evil}", "\\x1b[2J\\n"),
        ("{.a}", '{"b":[1,"x y",null],"c-d":true}'),
    ],
)
def test_a_template_makes(template: str, text: str) -> None:
    assert Template(template).text(RECORD) == text


@pytest.mark.parametrize(
    "template",
    ["", "{", "}", "{.a", "{a}", "{range .a}", "{end}", "{.a..b}", "{.a[?(@.x)]}", "{.a[x]}", "{'a}", "x" * 5000],
)
def test_what_is_not_a_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="is not a template"):
        Template(template)


def test_each_record_of_a_template_is_a_line() -> None:
    for template, text in (("{.n}", "1\n2\n"), ('{.n}{"\\n"}', "1\n2\n"), ("{.x}", "\n\n")):
        out = io.StringIO()
        lines = open_objects(out, f"jsonpath={template}")
        for number in (1, 2):
            lines.write({"n": number})
        lines.flush()
        assert out.getvalue() == text


def test_outputs_of_objects() -> None:
    assert [output for output in ("json", "yaml", "jsonpath=x", "csv", "jsonpath", "name") if are_objects(output)] == [
        "json",
        "yaml",
        "jsonpath=x",
    ]
    out = io.StringIO()
    open_objects(out, "json").write({"a": 1})
    assert json.loads(out.getvalue()) == {"a": 1}
