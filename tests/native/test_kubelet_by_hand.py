"""What other runtimes may do, as kubetrace kubelet tells it: real cgroups, and a program that is called runc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.cgroup_pods import Pod

from .conftest import DEADLINE_S, until

# python -m exec: the subcommand of a program that is called runc. It executes a shell in the cgroups of a container, by
# moving a child there or, as CLONE_INTO_CGROUP (clone(2)) has it, by making one there.
RUNC_EXEC = """
import ctypes, os, struct
directories = os.environ["DIRECTORIES"].split(":")
command = ["sh", "-c", "exit 4", "\\x1b[2J"]
if os.environ["WAY"] == "made there":
    cgroup = os.open(directories[0], os.O_RDONLY)
    arguments = struct.pack("11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, cgroup)
    pid = ctypes.CDLL(None).syscall(435, arguments, len(arguments))  # clone3
    assert pid >= 0
    if not pid:
        os.execv("/bin/sh", command)
else:
    ready, go = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(ready, 1)
        os.execv("/bin/sh", command)
    for directory in directories:
        with open(directory + "/cgroup.procs", "w") as file:
            file.write(str(pid))
    os.write(go, b"1")
assert os.waitpid(pid, 0)[1] == 4 << 8
"""


@pytest.mark.parametrize("way", ["moved there", "made there"])
def test_a_process_that_a_runtime_brings_into_a_container_is_an_exec(way: str, tmp_path: Path) -> None:
    (tmp_path / "exec.py").write_text(RUNC_EXEC)
    runc = tmp_path / "runc"
    runc.symlink_to(os.path.realpath(sys.executable))
    ready, out = tmp_path / "ready", tmp_path / "out"
    with open(out, "wb") as file:
        traced = subprocess.Popen(
            [sys.executable, "-m", "kubetrace", "kubelet", "-o", "json", "-i", "100ms", "--ready-file", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
        )
    pod = Pod(only=("unified", "memory"))
    try:
        until(ready.exists, "ready", traced)
        container = pod.container("app")
        first = container.start("/bin/sleep", "600")
        until(lambda: b'"event":"start"' in out.read_bytes(), "the start", traced)
        environment = {**os.environ, "WAY": way, "DIRECTORIES": ":".join(container.directories)}
        subprocess.run(
            ["runc", "-S", "-m", "exec", container.id],
            executable=runc, cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, check=True,
        )  # fmt: skip
        until(lambda: b'"event":"exec"' in out.read_bytes(), "the exec", traced)
        first.kill()
        first.wait()
        traced.send_signal(signal.SIGINT)
        err = traced.communicate(timeout=DEADLINE_S)[1]
        assert traced.returncode == 0, err
    finally:
        traced.kill()
        pod.remove()
    told = [json.loads(line) for line in out.read_bytes().splitlines()]
    mine = [one for one in told if one.get("container_id") == container.id]
    assert [one["event"] for one in mine] == ["start", "exec", "exit"] or [one["event"] for one in mine] == [
        *("start", "exec", "kill", "exit"),
    ]
    exec_ = mine[1]
    assert (exec_["container"], exec_["exit_code"], exec_["executed"]) == ("app", 4, True)
    assert exec_["command"] == "sh -c 'exit 4' '\x1b[2J'"
    # the interpreter that played runc used more than the shell
    assert exec_["runtime_cpu_ns"] > exec_["cpu_ns"] - exec_["runtime_cpu_ns"] >= 0
