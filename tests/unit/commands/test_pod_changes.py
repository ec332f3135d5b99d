"""The lines of kubetrace pod -w: what of two looks at a pod is another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubetrace.attribution.attributor import Identity
from kubetrace.commands.pod_changes import changes
from kubetrace.node.pod_files import ContainerFiles, PodFiles, Volume
from kubetrace.node.pod_page import ContainerPage, PodPage, Process, Space, Use, VolumePage

POD = Identity(namespace="shop", pod="web-0", pod_uid="u", kind="pod")
USE = Use(
    memory=1 << 20,
    memory_limit=64 << 20,
    swap=0,
    cpu=0,
    cpu_limit=500,
    throttled=0,
    oom_kills=0,
    processes=1,
    processes_limit=None,
    memory_pressure=None,
    io_pressure=None,
)


def container(name: str = "app", letter: str = "a", **more: Any) -> ContainerPage:
    identity = Identity(container=name, container_id=letter * 64, pod_uid="u", kind="container")
    files = ContainerFiles(identity, (), (), None, None, "/s/1/fs", None, ())
    given: dict[str, Any] = {
        "image": None,
        "layers": None,
        "writable": Space(1 << 20, 10, True),
        "log": "/l",
        "logged": Space(4096, 2, True),
        "namespaces": (),
        "mapped": (),
        "processes": (Process(1, "sh"),),
        "use": USE,
    }
    return ContainerPage(files, **{**given, **more})


def page(*containers: ContainerPage, volumes: tuple[VolumePage, ...] = (), use: Use | None = None) -> PodPage:
    return PodPage(PodFiles(POD, None, (), None, (), ()), volumes, containers, use, ())


def volume(taken: int, inodes: int, *, whole: bool = True) -> VolumePage:
    return VolumePage(Volume("cache", "kubernetes.io~empty-dir", "/v"), None, Space(taken, inodes, whole))


def test_nothing_is_said_of_what_stands() -> None:
    both = page(container(), volumes=(volume(4096, 1),), use=USE)
    assert list(changes(both, both, 2.0)) == []


def test_what_grows_and_shrinks_is_said_by_the_second() -> None:
    before = page(container(), volumes=(volume(8 << 20, 30),))
    now = page(container(writable=Space(5 << 20, 14, True)), volumes=(volume(4 << 20, 29),))
    assert list(changes(before, now, 2.0)) == [
        ("container app: writable layer", "5.0 MiB, +2.0 MiB/s, +4 inodes"),
        ("volume cache", "4.0 MiB, -2.0 MiB/s, -1 inode"),
    ]


def test_what_was_not_looked_through_has_no_growth() -> None:
    before, now = page(volumes=(volume(8 << 20, 30, whole=False),)), page(volumes=(volume(9 << 20, 40),))
    assert list(changes(before, now, 2.0)) == list(changes(now, before, 2.0)) == []


def test_what_it_uses_is_said_where_it_is_another() -> None:
    now = replace(USE, cpu=600_000_000, memory=3 << 20, throttled=40_000_000, oom_kills=2, processes=3)
    (said,) = changes(page(use=USE), page(use=now), 2.0)
    assert said == (
        "pod",
        "CPU 300m of 500m, throttled for 40 ms, memory 3.0 MiB of 64 MiB, +2.0 MiB, 2 killed for want of memory, "
        "3 processes",
    )
    (resized,) = changes(page(use=USE), page(use=replace(USE, memory_limit=32 << 20)), 2.0)
    assert resized == ("pod", "its limits were changed")


def test_containers_and_volumes_come_and_go() -> None:
    old, new = container("app", "a"), container("app", "b")
    said = list(changes(page(old, volumes=(volume(1, 1),)), page(new), 1.0))
    assert said == [("container app", "is new"), ("container app", "is gone"), ("volume cache", "is gone")]
    assert list(changes(page(old), page(replace(old, processes=())), 1.0)) == [
        ("container app", "does not run any more")
    ]
