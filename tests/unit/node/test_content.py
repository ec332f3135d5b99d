"""What is read of containerd's metadata and content store; the files are made here as containerd writes them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from kubetrace.node import content, inotify


def test_the_directory_of_a_download_is_named_after_its_reference() -> None:
    digest = "sha256:" + "0" * 64
    named = hashlib.sha256(f"k8s.io/1/layer-{digest}".encode()).hexdigest()
    assert content.ingest_name("k8s.io", f"layer-{digest}") == named


def ingest(root: Path, name: str, **files: str) -> Path:
    directory = root / content.INGESTS / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file).write_text(text)
    return directory


def test_a_download_is_read_with_what_is_there_of_it(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    whole = ingest(
        tmp_path, "1", ref=f"k8s.io/1/layer-{digest}", startedat="2026-11-30T20:15:30.5Z", total="1000", data="x" * 70
    )
    assert whole.exists()
    ingest(tmp_path, "2")  # at first nothing is in it
    ingest(tmp_path, "3", ref="x" * 10_000, startedat="yesterday", total="9" * 30)
    os.mkfifo(ingest(tmp_path, "4") / "ref")  # nobody else's, and never waited for
    found = content.ingests(str(tmp_path))
    begun = 1_796_069_730_500_000_000
    assert found["1"] == content.Ingest(digest, begun, 1000, 70)
    assert [found[name] for name in "234"] == [content.Ingest(None, None, None, 0)] * 3


@pytest.mark.parametrize("zone", ["+02:00", "-05:30"])
def test_a_moment_with_a_zone(tmp_path: Path, zone: str) -> None:
    ingest(tmp_path, "1", startedat=f"2026-11-30T20:15:30.000000007{zone}")
    sign = 1 if zone[0] == "+" else -1
    offset = sign * (int(zone[1:3]) * 3600 + int(zone[4:]) * 60)
    assert content.ingests(str(tmp_path))["1"].started_ns == (1_796_069_730 - offset) * 10**9 + 7


def blob(root: Path, document: object) -> tuple[str, int]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    directory = root / content.BLOBS
    directory.mkdir(parents=True, exist_ok=True)
    (directory / digest).write_bytes(data)
    return f"sha256:{digest}", len(data)


def test_layers_have_chain_ids_and_lines_once_the_configuration_is_there(tmp_path: Path) -> None:
    diffs = ["sha256:" + "1" * 64, "sha256:" + "2" * 64]
    config = {
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [
            {"created_by": "COPY a /a # buildkit"},
            {"created_by": "ENV A=1", "empty_layer": True},
            {"created_by": "/bin/sh -c make"},
        ],
    }
    digest, size = blob(tmp_path, config)
    layers = [{"digest": "sha256:" + letter * 64, "size": 10} for letter in "ab"]
    manifest = blob(tmp_path, {"config": {"digest": digest, "size": size}, "layers": layers})
    index = blob(tmp_path, {"manifests": [{"digest": manifest[0]}]})
    (tmp_path / content.BLOBS / digest[7:]).rename(tmp_path / "away")
    found = content.manifest(str(tmp_path), [index, manifest])
    assert found is not None and (found.digest, found.config) == (manifest[0], digest)
    assert [one.chain_id for one in found.layers] == [None, None]

    (tmp_path / "away").rename(tmp_path / content.BLOBS / digest[7:])
    found = content.manifest(str(tmp_path), [index, manifest])
    chain = "sha256:" + hashlib.sha256(f"{diffs[0]} {diffs[1]}".encode()).hexdigest()
    assert found is not None
    assert [(one.chain_id, one.line) for one in found.layers] == [(diffs[0], "COPY a /a"), (chain, "RUN make")]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"layers": "all"},
        {"config": {"digest": "../../etc/passwd"}, "layers": []},
        {"config": {"digest": "sha256:" + "1" * 64}, "layers": [{"digest": "../x"}]},
        {"config": {"digest": "sha256:" + "1" * 64}, "layers": [1]},
        {"config": {"digest": "sha256:" + "1" * 64}, "layers": [{"digest": "sha256:" + "1" * 64}] * 600},
    ],
)
def test_what_is_no_manifest_is_passed_over(tmp_path: Path, document: object) -> None:
    assert content.manifest(str(tmp_path), [blob(tmp_path, document)]) is None


def test_changes_are_told_in_their_order(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    file = tmp_path / "meta.db"
    file.write_bytes(b"")
    assert watcher.watch(str(tmp_path), inotify.CREATE) and watcher.watch(str(file), inotify.MODIFY)
    assert not watcher.watch(str(tmp_path / "none"), inotify.CREATE)
    assert watcher.read() == []
    (tmp_path / "new").mkdir()
    file.write_bytes(b"1")
    found = [(change.path, change.name) for change in watcher.read()]
    assert found[0] == (str(tmp_path), "new") and {path for path, _ in found[1:]} == {str(file)}
    file.unlink()
    watcher.read()
    assert watcher.watched == {str(tmp_path)}
    watcher.close()
    watcher.close()
