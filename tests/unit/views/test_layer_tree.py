"""The picture of layers: bars by bytes, branches where layers part, names of others escaped."""

from __future__ import annotations

from kubetrace.views.layer_tree import text

MIB = 1 << 20


def test_a_chain_is_one_branch_and_parts_where_images_do() -> None:
    nodes = [
        ("base", None, 8 * MIB, 3, "FROM base", []),
        ("app", "base", 4 * MIB, 2, "RUN app", []),
        ("one", "app", MIB, 1, "COPY one", ["team/one:1"]),
        ("two", "app", 2 * MIB, 1, "COPY two", ["team/two:1"]),
        ("alone", "gone", 1, 1, "FROM scratch", ["alone:1"]),
    ]
    assert text(nodes, 8, 200) == (
        " 8.0 MiB ████████ x3  FROM base\n"
        " 4.0 MiB ████     x2  RUN app\n"
        "├──  2.0 MiB ██           team/two:1  (COPY two)\n"
        "└──  1.0 MiB █            team/one:1  (COPY one)\n"
        "     1 B █            alone:1  (FROM scratch)\n"
    )


def test_names_are_escaped_and_lines_are_cut() -> None:
    drawn = text([("a", None, 1, 1, "RUN \x1b[31m" + "x" * 300, ["n\nm"])], 4, 60)
    assert "\x1b" not in drawn and drawn.count("\n") == 1
    assert len(drawn.rstrip()) <= 60
    assert text([("a", None, 1, 1, "é█", ["i"])], 4, 60, ascii=True).isascii()


def test_a_hundred_layers_are_no_hundred_indents() -> None:
    nodes = [(n, n - 1 if n else None, MIB, 1, f"RUN {n}", ["deep:1"] if n == 119 else []) for n in range(120)]
    lines = text(nodes, 4, 100).splitlines()
    assert len(lines) == 120 and max(map(len, lines)) < 60
