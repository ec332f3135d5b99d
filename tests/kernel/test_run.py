"""The worked example of docs/own-tracer.md in real containers, compiled by either compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import cri, images

from .conftest import SHELL, Tracer

EXAMPLE = Path(__file__).parents[2] / "docs" / "unlink.bpf.c"


@pytest.mark.parametrize("engine", ["libbpf", "bcc"])
@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_removed_files_are_told(pod: cri.Pod, tmp_path: Path, engine: str) -> None:
    tracer = Tracer(tmp_path, str(EXAMPLE), "--engine", engine, "-n", "shop", command="run", ready_s=300)
    container = pod.start_container(f"unlink-{engine}", images.WEB, SHELL)
    script = "rm /app/hundred-kib; echo abc > /app/new; rm /app/new; mkdir /app/d; rmdir /app/d; rm /app/none || true"
    script += "; for n in $(seq 100 122); do rm /app/data/$n.dat; done"
    out, err, code = container.exec(["sh", "-c", script])
    assert code == 0, (out, err)
    tracer.wait_for(lambda o: o.get("path") == "/app/data/122.dat" and o["container_id"] == container.container_id)
    objects = tracer.end()
    mine = [o for o in objects if o.get("container_id") == container.container_id]
    assert {(o["type"], o["pod"], o["comm"]) for o in mine} == {
        ("unlink", pod.name, "rm"),
        ("unlink", pod.name, "rmdir"),
    }
    # a name that is not there does not get so far
    first = [(o["path"], o["size_bytes"], o["kind"], bool(o["layer"]), o["error"]) for o in mine[:3]]
    assert first[:2] == [("/app/hundred-kib", 100 << 10, "file", True, None), ("/app/new", 4, "file", False, None)]
    assert first[2][0] == "/app/d" and first[2][2:] == ("directory", False, None)
    assert [(o["path"], o["size_bytes"]) for o in mine[3:]] == [
        (f"/app/data/{n}.dat", images.small_file_bytes(n)) for n in range(100, 123)
    ]
    assert objects[-1]["lost"] == 0
    container.remove()
