"""-n, -p, -c and -l."""

from dataclasses import dataclass

import pytest

from kubetrace.attribution.labels import LabelSelector
from kubetrace.attribution.selection import Selection
from kubetrace.errors import UsageError


@dataclass
class Named:
    namespace: str | None
    pod: str | None
    container: str | None
    pod_uid: str | None = None


WEB = Named("shop", "web-0", "app")
AGENT = Named("kube-system", "agent", "agent")
HOST = Named(None, None, None)


@pytest.mark.parametrize(
    ("namespaces", "pods", "containers", "expected"),
    [
        ([], [], [], [WEB, AGENT, HOST]),
        (["shop"], [], [], [WEB]),
        (["shop,kube-system"], [], [], [WEB, AGENT]),
        (["shop", "kube-system"], [], [], [WEB, AGENT]),
        (["!kube-system"], [], [], [WEB, HOST]),
        ([], ["web-*"], [], [WEB]),
        ([], ["web-*", "!web-0"], [], []),
        (["shop"], ["agent"], [], []),
        ([], [], ["a*,!app"], [AGENT]),
    ],
)
def test_what_is_selected(namespaces: list[str], pods: list[str], containers: list[str], expected: list[Named]) -> None:
    selection = Selection.parse(namespaces, pods, containers)
    assert [who for who in (WEB, AGENT, HOST) if selection.match(who)] == expected


@pytest.mark.parametrize("value", ["", "shop,", "!", ",", "a,,b"])
def test_an_empty_name_is_an_error(value: str) -> None:
    with pytest.raises(UsageError, match=r"--namespace .* holds an empty name"):
        Selection.parse([value], [], [])


def test_it_reads_as_it_was_typed() -> None:
    assert str(Selection.parse(["shop,!kube-system"], ["web*"], [])) == "-n shop,!kube-system -p web*"


LABELS = {"app": "web", "tier": "front", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app=api", False),
        ("app!=api", True),
        ("app != web", False),
        # a label that is not there is not equal either
        ("other!=x", True),
        ("app in (web, api)", True),
        ("app in (api)", False),
        ("app notin (api,db)", True),
        ("other notin (x)", True),
        ("tier", True),
        ("other", False),
        ("!other", True),
        ("!tier", False),
        ("empty=", True),
        ("app=web,tier=front", True),
        ("app=web , tier in (back,middle)", False),
        ("app=web,!canary,tier!=back", True),
    ],
)
def test_a_selector_of_labels_is_kubectls(text: str, matches: bool) -> None:
    assert LabelSelector.parse(text).match(LABELS) is matches


@pytest.mark.parametrize("text", ["", " ", ",", "app=web,", "=web", "app in web", "app in (web", "a b", "app=w:x", "!"])
def test_what_is_not_a_selector_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a selector of labels"):
        LabelSelector.parse(text)


def test_a_pod_matches_once_its_labels_are_known() -> None:
    selection = Selection.parse(["shop"], [], [], "app=web,!canary")
    web, other = Named("shop", "web-0", "app", "uid-1"), Named("jobs", "web-0", "app", "uid-1")
    assert not selection.match(web) and not selection.decided(web)
    selection.learn_labels("uid-1", ["app=web", "x=a=b"])
    assert selection.match(web) and selection.decided(web) and selection.match_pod(web)
    assert not selection.match(other) and not selection.match(HOST)
    selection.learn_labels("uid-1", ["app=web", "canary="])
    assert not selection.match(web)
    # and is typed again from a recording's header
    again = Selection.from_texts(selection.texts())
    assert str(again) == str(selection) == "-n shop -l app=web,!canary" and again == selection
