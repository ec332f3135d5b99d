"""Manifests, configurations and chain ids, as they should be and as someone may have written them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.attribution import oci

A, B, C = ("sha256:" + digit * 64 for digit in "abc")
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")
# Anything that JSON can say.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | DIGESTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def recursive(diff_ids: list[str]) -> str:
    """The formula of config.md as it is written there, from the last layer down."""
    if len(diff_ids) == 1:
        return diff_ids[0]
    return "sha256:" + hashlib.sha256(f"{recursive(diff_ids[:-1])} {diff_ids[-1]}".encode()).hexdigest()


@given(st.lists(DIGESTS, min_size=1, max_size=8))
def test_chain_ids_are_those_of_the_specification(diff_ids: list[str]) -> None:
    found = oci.chain_ids(diff_ids)
    assert found == tuple(recursive(diff_ids[: at + 1]) for at in range(len(diff_ids)))


def test_chain_ids_of_no_layer_one_and_two() -> None:
    assert oci.chain_ids([]) == ()
    assert oci.chain_ids([A]) == (A,)
    # printf 'sha256:aa... sha256:bb...' | sha256sum
    assert oci.chain_ids([A, B]) == (A, "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c")


def config(diff_ids: Any, history: Any = None) -> bytes:
    value = {"rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return json.dumps(value if history is None else {**value, "history": history}).encode()


def test_history_entries_without_a_layer_are_passed_over() -> None:
    history = [
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "ADD root"},
        {"created_by": "RUN make", "empty_layer": False},
        {"created_by": "CMD x", "empty_layer": True},
        {"created_by": "COPY . /"},
        {"created_by": "ENTRYPOINT y", "empty_layer": True},
    ]
    assert oci.parse_config(config([A, B, C], history)) == oci.Config((A, B, C), ("ADD root", "RUN make", "COPY . /"))


def test_history_that_does_not_say_it_or_does_not_fit() -> None:
    lines = oci.parse_config(config([A, B], [{"comment": "nix"}, {"created_by": "  "}]))
    assert (lines.created_by, lines.problem) == ((None, None), None)
    empty: list[Any] = [None, [], {}, "text", [3, None]]
    for history in empty:
        none = oci.parse_config(config([A], history))
        assert (none.created_by, none.problem) == ((None,), "the image has no history")
    short = oci.parse_config(config([A, B], [{"created_by": "RUN squash"}]))
    assert short.created_by == (None, None)
    assert short.problem == "the image's history has another number of layers than the image"


def test_line_as_long_as_a_script_is_cut() -> None:
    (line,) = oci.parse_config(config([A], [{"created_by": "RUN <<EOF " + "x" * 5000}])).created_by
    assert line is not None and len(line) == 2000 and line.endswith("x…")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b"{}",
        b'{"rootfs":[]}',
        config(None),
        config("sha256:" + "a" * 64),
        config([3]),
        config(["sha256:" + "A" * 64]),
        config(["../../etc/passwd"]),
        config([A + "\n"]),
        config([A] * 501),
    ],
)
def test_what_is_no_configuration_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        oci.parse_config(data)


@given(VALUES)
def test_no_json_makes_it_raise_anything_else(value: object) -> None:
    documents = [value, {"rootfs": value}, {"manifests": value, "config": value}]
    documents += [
        {"rootfs": {"diff_ids": [A]}, "history": value},
        {"manifests": [value, {"digest": A, "platform": value}]},
    ]
    for document in documents:
        data = json.dumps(document).encode()
        for parse in (
            oci.parse_config,
            lambda raw: oci.config_digest(oci.load(raw)),
            lambda raw: oci.manifests(oci.load(raw), "amd64"),
        ):
            with contextlib.suppress(ValueError):
                parse(data)


def test_manifest_says_its_configuration_and_an_index_does_not() -> None:
    assert oci.config_digest({"config": {"digest": A}, "layers": []}) == A
    assert oci.config_digest({"manifests": [{"digest": A}]}) is None
    assert oci.config_digest({"config": {"digest": "sha256:../../x"}}) is None


def test_manifests_of_an_index_are_this_platforms_first_and_no_attestations() -> None:
    def entry(digest: str, os: str | None, architecture: str | None) -> dict[str, object]:
        platform = {"os": os, "architecture": architecture}
        return {"digest": digest, "platform": platform} if os else {"digest": digest}

    index: dict[str, object] = {
        "manifests": [
            entry(A, "linux", "arm64"),
            entry("sha256:" + "d" * 64, "unknown", "unknown"),
            entry(B, None, None),
            entry(C, "linux", "amd64"),
            "junk",
            {"digest": "md5:1"},
        ]
    }
    assert oci.manifests(index, "amd64") == [C, B, A]
    assert oci.manifests(index, "arm64") == [A, B, C]
    assert oci.manifests({}, "amd64") == []


@pytest.mark.parametrize(
    ("created_by", "line"),
    [
        ("/bin/sh -c #(nop) ADD file:5c3d in / ", "ADD file:5c3d in /"),
        ('/bin/sh -c #(nop)  CMD ["/bin/sh"]', 'CMD ["/bin/sh"]'),
        ("/bin/sh -c apk add   curl", "RUN apk add curl"),
        ("|2 A=1 B=two words /bin/sh -c make", "RUN make"),
        ("RUN /bin/sh -c mkdir -p /app/logs # buildkit", "RUN mkdir -p /app/logs"),
        ("RUN |1 SPEED=9 /bin/sh -c make # buildkit", "RUN make"),
        ("COPY config.ini /app/ # buildkit", "COPY config.ini /app/"),
        ("RUN /bin/sh -c a &&\n\tb # comment # buildkit", "RUN a && b # comment"),
        ("RUN /bin/bash -c x # buildkit", "RUN /bin/bash -c x"),
        ("bazel build ...", "bazel build ..."),
        ("RUN cat /bin/sh -c", "RUN cat /bin/sh -c"),
        ("", ""),
    ],
)
def test_line_is_as_it_stood_in_the_dockerfile(created_by: str, line: str) -> None:
    assert oci.dockerfile_line(created_by) == line


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("shop/web", "docker.io/shop/web:latest"),
        ("localhost/web", "localhost/web:latest"),
        ("reg:5000/web", "reg:5000/web:latest"),
        ("registry.example/shop/web:1.4", "registry.example/shop/web:1.4"),
        (f"registry.example/web@{A}", f"registry.example/web@{A}"),
        (A, A),
        ("", ""),
    ],
)
def test_short_name_is_made_containerds(reference: str, full: str) -> None:
    assert oci.full_name(reference) == full


def test_name_with_a_tag_is_shown_before_a_digest_and_an_id() -> None:
    names = [A, f"registry.example/web@{B}", "registry.example/web:2", "registry.example/web:1"]
    assert oci.best_reference(names) == "registry.example/web:1"
    assert oci.best_reference(names[:2]) == f"registry.example/web@{B}"
    assert oci.best_reference(names[:1]) == A
    assert oci.best_reference([]) is None
