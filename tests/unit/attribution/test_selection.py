"""-n, -p and -c."""

from dataclasses import dataclass

import pytest

from kubetrace.attribution.selection import Selection
from kubetrace.errors import UsageError


@dataclass
class Named:
    namespace: str | None
    pod: str | None
    container: str | None


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
