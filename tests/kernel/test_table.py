"""A live table on a node, worked in by keys: from a pod down to the Dockerfile line of what it copied."""

from __future__ import annotations

import pytest

from tests.screens import Screen
from tests.vm import images

from .conftest import Case


@pytest.mark.one_kernel
def test_a_pod_is_opened_down_to_the_dockerfile_line(case: Case) -> None:
    pod = case.container.pod.name
    with Screen(["kubetrace", "copyup", "--by", "pod", "-p", pod, "-i", "500ms"], 160, 24) as screen:
        # it is drawn once everything is attached
        screen.wait("no copy-ups yet")
        case.run("chmod 600 /app/hundred-kib")
        screen.wait(lambda lines: screen.selected().split()[:2] == ["shop", pod])
        screen.press("enter")
        screen.wait(f"copyup › pod shop/{pod}")
        screen.wait(lambda lines: screen.selected().startswith(case.container.name))
        screen.press("enter")
        screen.wait(f"› container {case.container.name}")
        # of the marker of Case.run there is a row, too
        screen.press("/", "hundred", "enter")
        screen.wait(lambda lines: screen.selected().startswith("/app/hundred-kib"))
        screen.press("enter")
        screen.wait("› file /app/hundred-kib")
        screen.wait(f"WHY chmod; IMAGE {images.WEB}; LAYER 2 of 3; DOCKERFILE-LINE COPY app /app")
        screen.wait(lambda lines: " chmod " in screen.selected() and " 100 KiB " in screen.selected())
        screen.press("q")
        assert screen.process.wait() == 0
