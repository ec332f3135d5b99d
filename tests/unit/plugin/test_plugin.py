"""kubectl kubetrace without a cluster: its command line, and the tables of many nodes as one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubetrace import tracers
from kubetrace.commands import exits
from kubetrace.commands.kubectl_group import commands, completions
from kubetrace.commands.plugin import parse, run
from kubetrace.errors import UsageError
from kubetrace.kit.identity import NAMESPACE, NODE, POD
from kubetrace.plugin.kubectl import Kubectl, check_name, last_words
from kubetrace.plugin.merge import Merged, NodeState
from kubetrace.plugin.node_window import parse as parse_window
from kubetrace.views.columns import Column
from kubetrace.views.table import render

COPYUP = tracers.find("copyup")
COLUMNS = [NAMESPACE, POD, *COPYUP.measures]


def window(*table: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "window",
        "columns": ["namespace", "pod", "copies", "copied_bytes"],
        "rows": list(table),
        "total": len(table),
        **more,
    }


def merged(*nodes: str, top: int | None = None) -> Merged:
    made = Merged("copyup", COPYUP.noun, COLUMNS, "copied_bytes", top)
    made.nodes = {node: NodeState() for node in nodes}
    return made


# The command line.


def test_what_is_ours_is_taken_out_and_the_rest_is_kubetraces() -> None:
    words = "copyup --node a,b --image=r/k:1 -n shop -p web-* --by pod --context prod -d 60 --node node/c"
    asked = parse(words.split())
    assert (asked.command, asked.nodes, asked.image) == ("copyup", ["a", "b", "c"], "r/k:1")
    assert asked.kubectl == ["--context=prod"]
    assert asked.arguments == ["-n", "shop", "-p", "web-*", "--by", "pod", "-d", "60"]


def test_a_pod_with_a_slash_is_ours_and_a_pattern_is_not() -> None:
    assert parse(["copyup", "--pod", "shop/web-0"]).pod == "shop/web-0"
    assert parse(["copyup", "-p", "shop/web-0"]).pod == "shop/web-0"
    asked = parse(["copyup", "--pod", "web-*"])
    assert asked.pod is None and asked.arguments == ["--pod", "web-*"]


def test_a_selector_is_not_the_latency_option() -> None:
    asked = parse(["writes", "-L", "-lpool=batch"])
    assert (asked.selector, asked.arguments) == ("pool=batch", ["-L"])
    assert parse(["writes", "-l", "a=b"]).selector == parse(["writes", "--selector=a=b"]).selector == "a=b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("copyup", "which nodes?"),
        ("copyup --node a --all-nodes", "more than one way"),
        ("copyup --node", "needs a value"),
        ("copyup --node=-o", "is not a name of a node"),
        ("copyup --node A_b", "is not a name of a node"),
        ("copyup --node a --record x", "would write in the debug pod"),
        ("replay x --node a", "works on a file here"),
        ("record x --node a", "at least one tracer and a FILE"),
        ("record copyup x --node a --max-size 1Mi", "--max-size is not for"),
        ("copyup web-0 db-0 -n shop", "'db-0' is one pod too many"),
        ("copyup web-0 -n 'shop,jobs'", "has to name the one namespace"),
        ("nothing --node a", "there is no command 'nothing'"),
        ("copyup --pod shop/", "is not a name of a pod"),
    ],
)
def test_what_cannot_be_is_refused_before_kubectl_is_asked(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        run(["--image", "i", *words.split()])


@pytest.mark.parametrize(
    ("words", "pod", "arguments"),
    [
        ("copyup web-0 -n shop --by pod", "web-0", ["-n", "shop", "--by", "pod"]),
        ("copyup -n shop web-0 --top 3", "web-0", ["-n", "shop", "--top", "3"]),
        ("writes -Ld 60 web-0 -nshop", "web-0", ["-Ld", "60", "-nshop"]),
        ("writes -d60 -L web-0 --sort=-pod", "web-0", ["-d60", "-L", "--sort=-pod"]),
        ("copyup --sort -pod --columns pod,+size", None, ["--sort", "-pod", "--columns", "pod,+size"]),
    ],
)
def test_a_word_that_no_option_takes_is_the_pod(words: str, pod: str | None, arguments: list[str]) -> None:
    asked = parse(words.split())
    assert (asked.words, asked.arguments) == ([pod] if pod else [], arguments)


@pytest.mark.parametrize("name", commands())
def test_a_commands_help_is_the_plugins_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: kubectl kubetrace {name} ")
    for option in ("--node", "--pod NAMESPACE/POD", "-l, --selector", "--all-nodes", "--image", "--context"):
        assert option in text
    # what has no meaning in a debug pod
    for option in ("--host-root", "--cri-socket", "--ready-file", "--record", "--max-size"):
        assert option not in text
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples and all(line.startswith(f"    kubectl kubetrace {name} ") for line in examples), examples
    assert all("--node NODE" in line for line in examples)
    # and kubetrace's own, word for word
    capsys.readouterr()
    assert run(["help", name]) == 0 and capsys.readouterr().out == text


def test_what_is_completed_without_a_cluster() -> None:
    # as kubectl wants it: a line each, then cobra's directive
    assert completions(["cop"])[0].startswith("copyup\tFiles copied") and completions(["cop"])[1:] == [":4"]
    assert [line.partition("\t")[0] for line in completions(["copyup", "--all"])] == [
        "--all-nodes",
        "--all-namespaces",
        ":4",
    ]
    assert completions(["copyup", "--by", "cont"]) == ["container", ":4"]
    assert completions(["record", "copyup", "x"]) == [":0"]


def test_no_image_is_said_with_where_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBETRACE_IMAGE", raising=False)
    with pytest.raises(UsageError, match="no image") as caught:
        run(["copyup", "--node", "a"])
    assert "KUBETRACE_IMAGE" in caught.value.do


def test_kubetraces_own_options_are_checked_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import click

    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    with pytest.raises(click.UsageError, match="--bye"):
        run(["copyup", "--node", "a", "--image", "i", "--bye"])
    # the plugin's own are suggested as well
    with pytest.raises(SystemExit):
        exits.run(lambda: run(["copyup", "--nod", "a", "--image", "i"]))
    assert capsys.readouterr().err.splitlines() == [
        "Error: kubectl kubetrace copyup has no option '--nod'.",
        "Did you mean '--node' or '--pod'?",
        "Try:  kubectl kubetrace copyup --node",
    ]
    with pytest.raises(UsageError, match="cannot group by 'nothing'"):
        run(["copyup", "--node", "a,b", "--image", "i", "--by", "nothing"])


def test_the_debug_command_is_the_documented_one() -> None:
    command = Kubectl(["--context=prod"], namespace="debug").debug("worker-3", "r/k:1", ["copyup"], terminal=True)
    assert command[:6] == ["kubectl", "--context=prod", "debug", "node/worker-3", "--namespace", "debug"]
    assert "--profile=sysadmin" in command and "--image=r/k:1" in command
    assert command[-4:] == ["-it", "--", "kubetrace", "copyup"]
    # a terminal would mix stderr into the stream
    piped = Kubectl().debug("worker-3", "r/k:1", ["copyup", "-o", "json"], terminal=False)
    assert "-i" in piped and "-it" not in piped


@pytest.mark.parametrize("name", ["", "-o", "a b", "a/b", "A", "a" * 254, None, 7, "a;b", "a\n"])
def test_a_name_that_could_be_anything_else_is_refused(name: object) -> None:
    with pytest.raises(UsageError):
        check_name(name, "node")


# Tables as one.


def test_the_rows_of_all_nodes_are_sorted_as_one() -> None:
    both = merged("n1", "n2")
    both.take("n1", window(["shop", "a", 1, 300], ["shop", "b", 2, 100], events=3, lost=5, unattributed=1))
    both.take("n2", window(["jobs", "c", 4, 200], events=4, lost=2, own_cpu_percent=1.5))
    shown = both.window(61.0)
    assert [column.key for column in shown.columns] == ["node", "namespace", "pod", "copies", "copied_bytes"]
    assert [tuple(row) for row in shown.rows] == [
        ("n1", "shop", "a", 1, 300),
        ("n2", "jobs", "c", 4, 200),
        ("n1", "shop", "b", 2, 100),
    ]
    assert (shown.lost, shown.total) == (7, 3)
    text = ["".join(part for part, _ in line) for line in render(shown, 80)]
    assert text[0] == "kubetrace copyup · 2 of 2 nodes · 1:01"
    assert text[-1] == "7 copy-ups · lost 7 · 1 unattributed · own CPU at most 1.5%" or "LOST 7" in text[-1]


def test_a_node_that_fails_is_a_row_with_its_error() -> None:
    both = merged("n1", "n2")
    both.take("n1", window(["shop", "a", 1, 300]))
    both.nodes["n2"] = NodeState("failed: pods is forbidden", failed=True)
    shown = both.window(1.0)
    assert [column.title for column in shown.columns][:3] == ["NODE", "STATUS", "NAMESPACE"]
    assert [tuple(row) for row in shown.rows] == [
        ("n1", None, "shop", "a", 1, 300),
        ("n2", "failed: pods is forbidden", None, None, None, None),
    ]
    text = ["".join(part for part, _ in line).rstrip() for line in render(shown, 80)]
    # whole above the table, where the row may have to cut it
    assert text[:2] == ["kubetrace copyup · 1 of 2 nodes · 1 failed · 0:01", "n2 failed: pods is forbidden"]
    assert any(line.split("  ")[0] == "n2" and "failed: pods is forbidden" in line for line in text), text


def test_nodes_that_have_not_begun_are_rows_too() -> None:
    shown = merged("n1", "n2").window(0.0)
    assert [tuple(row[:2]) for row in shown.rows] == [("n1", "starting"), ("n2", "starting")]


def test_a_table_by_node_gets_no_second_column() -> None:
    made = Merged("copyup", COPYUP.noun, [NODE, *COPYUP.measures], "copied_bytes", None)
    made.nodes = {"n1": NodeState(), "n2": NodeState("failed: x", failed=True)}
    made.take("n1", {"columns": ["node", "copies"], "rows": [["n1", 3]]})
    assert [tuple(row) for row in made.window(0).rows] == [("n1", None, 3), ("n2", "failed: x", None)]


def test_a_notice_of_all_nodes_is_said_once() -> None:
    both = merged("n1", "n2")
    both.take("n1", window(notices=["x is not seen", "y"]))
    both.take("n2", window(notices=["x is not seen"]))
    assert both.window(0).notices == ["x is not seen", "n1: y"]


def test_top_is_of_all_nodes_together() -> None:
    both = merged("n1", "n2", top=1)
    both.take("n1", window(["shop", "a", 1, 300]))
    both.take("n2", window(["shop", "b", 1, 400]))
    shown = both.window(0)
    assert [row[2] for row in shown.rows] == ["b"] and shown.total == 2


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"columns": "pod", "rows": []},
        {"columns": ["pod"], "rows": [["a", "b"]]},
        {"columns": ["pod"], "rows": ["a"]},
        {"columns": ["pod", "pod"], "rows": []},
        {"columns": ["copies"], "rows": [["many"]]},
        {"columns": ["copies"], "rows": [[True]]},
        {"columns": ["copies"], "rows": [[1 << 70]]},
        {"columns": ["pod"], "rows": [["a"]] * 10_001},
        {"columns": [f"c{n}" for n in range(101)], "rows": []},
    ],
)
def test_what_is_no_window_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_window(record, {column.key: column for column in COLUMNS})


def test_what_a_node_sends_is_shown_escaped_and_bounded() -> None:
    made = merged("n1")
    text = json.loads('"\\u001b[2J\\udcff' + "x" * 9000 + '"')
    made.take("n1", {"columns": ["pod", "evil"], "rows": [[text, {"a": 1}]], "notices": ["\x1b[31mred", 7]})
    shown = made.window(0)
    assert all(len(str(cell)) <= 4096 for row in shown.rows for cell in row)
    drawn = "\n".join("".join(part for part, _ in line) for line in render(shown, 160))
    assert "\x1b" not in drawn and "\\x1b[2J\\xff" in drawn and "\\x1b[31mred" in drawn


def test_an_unknown_column_is_shown_under_its_key() -> None:
    made = merged("n1")
    made.take("n1", {"columns": ["pod", "novel"], "rows": [["a", "b"]]})
    assert made.window(0).columns[-1] == Column("novel", "NOVEL")


# What the API server may send: any part of it null, missing, or not what it should be.


@pytest.mark.parametrize(
    "item",
    [
        {"spec": None, "status": None, "metadata": None},
        {"spec": {"containers": [None]}},
        {"spec": {"containers": None}},
        {"spec": {"containers": {"env": []}}},
        {"spec": {"containers": [{"env": None}, {"env": [None, "x", {}]}, 5]}},
        {"spec": [], "status": "x"},
    ],
)
def test_a_pod_of_nulls_is_not_ours(item: dict[str, Any]) -> None:
    assert Kubectl()._own(item) is None


STATUSES: list[Any] = [
    *(None, {}, {"containerStatuses": None}, {"containerStatuses": []}, {"containerStatuses": [None]}),
    {"containerStatuses": [{"state": None}]},
    {"containerStatuses": [{"state": []}]},
    {"containerStatuses": [{"state": {"waiting": None, "terminated": None}}]},
]


@pytest.mark.parametrize("status", STATUSES)
def test_our_pod_is_known_whatever_its_status(status: Any) -> None:
    kubectl = Kubectl()
    ours = {"name": "KUBETRACE_SESSION", "value": kubectl._session}
    item = {"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [None, {"env": [None, ours]}]}}
    found = kubectl._own({**item, "status": status})
    assert found is not None and (found.name, found.node, found.exit_code) == ("p", "n1", None)


def test_kubectls_log_is_not_its_last_word() -> None:
    noise = 'E1130 13:18:31.066270   19180 memcache.go:265] "Unhandled Error" err="x"'
    assert last_words(f"{noise}\nerror: no\n{noise}\n\n") == "error: no"
    assert last_words(noise) == ""
