"""Facts are recorded as JSON and must come back as they were."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.attribution.facts import (
    CgroupGone,
    CgroupSeen,
    ContainerSeen,
    DirectorySeen,
    Fact,
    ImageSeen,
    LabelsSeen,
    LayerSeen,
    MountGone,
    MountSeen,
    NestedSeen,
    OverlayGone,
    OverlaySeen,
    OverlayTold,
    PodSeen,
    from_json,
    to_json,
)

# What os.fsdecode gives for any bytes.
NAMES = st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
NUMBERS = st.integers(0, 2**64 - 1)
KINDS: dict[type, st.SearchStrategy[Fact]] = {
    CgroupSeen: st.builds(CgroupSeen, NUMBERS, NUMBERS, NAMES, NUMBERS),
    CgroupGone: st.builds(CgroupGone, NUMBERS, NUMBERS, NUMBERS),
    ContainerSeen: st.builds(
        ContainerSeen,
        NAMES,
        st.sampled_from(["container", "sandbox"]),
        st.none() | NAMES,
        st.none() | NAMES,
        st.none() | NAMES,
        st.none() | NAMES,
        st.none() | NAMES,
        st.none() | NAMES,
        st.sampled_from(["config.json", "CRI"]),
        NUMBERS,
    ),
    NestedSeen: st.builds(NestedSeen, NAMES, NAMES, NUMBERS),
    LabelsSeen: st.builds(LabelsSeen, NAMES, st.lists(NAMES, max_size=3).map(tuple), NUMBERS),
    PodSeen: st.builds(PodSeen, NAMES, st.none() | NAMES, NAMES, st.just("kubelet"), NUMBERS),
    OverlaySeen: st.builds(
        OverlaySeen,
        NUMBERS,
        st.none() | NAMES,
        NAMES,
        st.none() | NAMES,
        st.none() | NAMES,
        st.lists(NAMES, max_size=4).map(tuple),
        NUMBERS,
        NUMBERS,
    ),
    OverlayGone: st.builds(OverlayGone, NUMBERS, NUMBERS),
    OverlayTold: st.builds(OverlayTold, NUMBERS, NAMES, NUMBERS),
    LayerSeen: st.builds(LayerSeen, NAMES, st.none() | NAMES, st.none() | NAMES, st.none() | NAMES, NUMBERS),
    ImageSeen: st.builds(
        ImageSeen,
        NAMES,
        st.lists(NAMES, max_size=3).map(tuple),
        st.lists(NAMES, max_size=3).map(tuple),
        st.lists(st.none() | NAMES, max_size=3).map(tuple),
        st.none() | NAMES,
        NUMBERS,
    ),
    MountSeen: st.builds(MountSeen, NUMBERS, NAMES, NAMES, NAMES, NAMES, NUMBERS, NUMBERS),
    MountGone: st.builds(MountGone, NUMBERS, NAMES, NUMBERS),
    DirectorySeen: st.builds(
        DirectorySeen, st.sampled_from(["logs", "kubelet", "containerd", "storage"]), NAMES, NUMBERS
    ),
}
FACTS = st.one_of(*KINDS.values())


def test_every_kind_of_fact_is_tried() -> None:
    assert set(KINDS) == set(get_args(Fact))


@given(FACTS)
def test_round_trip_on_one_ascii_line(fact: Fact) -> None:
    line = to_json(fact)
    assert line.isascii() and "\n" not in line
    assert from_json(line) == fact
    assert from_json(line.encode()) == fact


def test_field_names_are_the_recordings_contract() -> None:
    seen = CgroupSeen(3, 43, "/kubepods/\udcff", 5)
    assert to_json(seen) == (
        '{"fact":"CgroupSeen","hierarchy":3,"cgroup_id":43,"path":"/kubepods/\\udcff","time_ns":5}'
    )
    overlay = json.loads(to_json(OverlaySeen(149, None, "/m", "/u", None, ("/a", "/b"), 7, 6)))
    assert overlay == {
        "fact": "OverlaySeen",
        "device": 149,
        "container_id": None,
        "mount_point": "/m",
        "upperdir": "/u",
        "workdir": None,
        "lowerdirs": ["/a", "/b"],
        "time_ns": 7,
        "since_ns": 6,
    }
    layer = LayerSeen("/s/4/fs", "4", "sha256:c", None, 8)
    assert json.loads(to_json(layer)) == {
        "fact": "LayerSeen",
        "lowerdir": "/s/4/fs",
        "snapshot": "4",
        "chain_id": "sha256:c",
        "problem": None,
        "time_ns": 8,
    }
    image = ImageSeen("sha256:i", ("web:1",), ("sha256:a", "sha256:b"), ("RUN a", None), None, 9)
    assert json.loads(to_json(image)) == {
        "fact": "ImageSeen",
        "image_id": "sha256:i",
        "references": ["web:1"],
        "diff_ids": ["sha256:a", "sha256:b"],
        "created_by": ["RUN a", None],
        "problem": None,
        "time_ns": 9,
    }


def test_fields_of_a_later_version_are_ignored_and_new_ones_have_defaults() -> None:
    assert from_json('{"fact":"CgroupGone","hierarchy":0,"cgroup_id":4,"time_ns":5,"why":"x"}') == CgroupGone(0, 4, 5)
    old = '{"fact":"OverlaySeen","device":1,"container_id":null,"mount_point":"/","upperdir":null,"workdir":null,'
    assert from_json(old + '"lowerdirs":[],"time_ns":5}') == OverlaySeen(1, None, "/", None, None, (), 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"fact":"Nonsense"}',
        '{"fact":["CgroupSeen"]}',
        '{"fact":"CgroupGone","hierarchy":0,"cgroup_id":4}',
        '{"fact":"CgroupGone","hierarchy":0,"cgroup_id":"4","time_ns":5}',
        '{"fact":"CgroupGone","hierarchy":true,"cgroup_id":4,"time_ns":5}',
        '{"fact":"CgroupSeen","hierarchy":0,"cgroup_id":4,"path":[],"time_ns":5}',
        '{"fact":"CgroupSeen","hierarchy":0,"cgroup_id":4,"path":null,"time_ns":5}',
        '{"fact":"PodSeen","pod_uid":"u","namespace":null,"pod":"p","source":"rumour","time_ns":5}',
        '{"fact":"OverlaySeen","device":1,"container_id":null,"mount_point":"/","upperdir":null,"workdir":null,'
        '"lowerdirs":"/a","time_ns":5}',
        '{"fact":"ImageSeen","image_id":"i","references":[null],"diff_ids":[],"created_by":[],"problem":null,"time_ns":5}',
        '{"fact":"ImageSeen","image_id":"i","references":[],"diff_ids":[],"created_by":[3],"problem":null,"time_ns":5}',
        '{"fact":"ImageSeen","image_id":"i","references":[],"diff_ids":null,"created_by":[],"problem":null,"time_ns":5}',
        '{"fact":"LayerSeen","lowerdir":"/a","snapshot":4,"chain_id":null,"problem":null,"time_ns":5}',
        "[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_fact_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_json(text)
