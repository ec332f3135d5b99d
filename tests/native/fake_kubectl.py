"""A kubectl whose cluster is a directory: what it is asked is written down, and a debug pod is a process of its own.

    $FAKE_CLUSTER/cluster.json   {"nodes": {name: {...}}, "pods": {"namespace/name": node}}, written by the test;
                                 "namespace" is the current one
    $FAKE_CLUSTER/calls.jsonl    every argv
    $FAKE_CLUSTER/pods/NAME      the debug pods that there are

A node's `run` replaces the command's name (replay FILE instead of copyup), `fails` makes kubectl say so and fail, and
`waits` keeps its pod from ever running.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["FAKE_CLUSTER"])


def option(name: str) -> str | None:
    found = [word.partition("=")[2] for word in sys.argv if word.startswith(f"{name}=")]
    return found[-1] if found else None


@contextlib.contextmanager
def cluster_lock() -> Iterator[None]:
    """A real API server shows no pod half written or half deleted, whoever of these processes is first."""
    with open(ROOT / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def debug(cluster: dict[str, Any], argv: list[str]) -> int:
    node = argv[1].removeprefix("node/")
    split = argv.index("--")
    ours, command = argv[:split], argv[split + 1 :]
    assert command[0] == "kubetrace" and "--profile=sysadmin" in ours, argv
    how = cluster["nodes"][node]
    if "fails" in how:
        print(how["fails"], file=sys.stderr)
        return 1
    environment = dict(word.removeprefix("--env=").split("=", 1) for word in ours if word.startswith("--env="))
    name = f"node-debugger-{node}-{os.getpid()}"
    pod = ROOT / "pods" / name
    state = {"waiting": {"reason": how["waits"], "message": "so it is"}} if "waits" in how else {"running": {}}
    described = {
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"env": [{"name": key, "value": value} for key, value in environment.items()]}],
        },
        "status": {"containerStatuses": [{"state": state}]},
    }
    with cluster_lock():
        pod.write_text(json.dumps(described))
    if "--quiet" not in ours:
        print(f"Creating debugging pod {name} with container debugger on node {node}.", flush=True)
    if "waits" in how:
        time.sleep(600)
    arguments = [*how["run"], *command[2:]] if "run" in how else command[1:]
    code = subprocess.run(
        [sys.executable, "-c", "from kubetrace.commands.group import main; main()", *arguments],
        env={**os.environ, **environment},
        check=False,
    ).returncode
    with cluster_lock():
        if pod.exists():
            described["status"] = {"containerStatuses": [{"state": {"terminated": {"exitCode": code}}}]}
            pod.write_text(json.dumps(described))
    # as the real one, whatever became of the command
    return 0


def main() -> int:
    argv = [word for word in sys.argv[1:] if not word.startswith(("--context=", "--kubeconfig=", "--request-timeout="))]
    with cluster_lock(), open(ROOT / "calls.jsonl", "a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    cluster = json.loads((ROOT / "cluster.json").read_text())
    (ROOT / "pods").mkdir(exist_ok=True)
    match argv[:2]:
        case ["debug", _]:
            return debug(cluster, argv)
        case ["get", kind] if (option("-o") or argv[argv.index("-o") + 1]).startswith("jsonpath"):
            # as it is completed: names alone
            everywhere = "--all-namespaces" in argv
            of = argv[argv.index("--namespace") + 1] if "--namespace" in argv else ""
            pods = [name.split("/") for name in cluster["pods"]]
            found = {
                "nodes": list(cluster["nodes"]),
                "namespaces": list(dict.fromkeys(namespace for namespace, _ in pods)),
                "pods": [f"{ns}/{pod}" if everywhere else pod for ns, pod in pods if everywhere or ns == of],
            }
            print("\n".join(found[kind]))
        case ["config", "view"]:
            print(cluster.get("namespace", ""), end="")
        case ["config", "get-contexts"]:
            print("prod\nstaging")
        case ["get", "nodes"]:
            selector = option("--selector")
            labels = {name: how.get("labels", {}) for name, how in cluster["nodes"].items()}
            key, _, value = (selector or "").partition("=")
            names = [name for name, of in labels.items() if selector is None or of.get(key) == value]
            print(json.dumps({"items": [{"metadata": {"name": name, "labels": labels[name]}} for name in names]}))
        case ["get", "pod"]:
            node = cluster["pods"].get(f"{argv[3]}/{argv[4]}")
            if node is None:
                print(f'Error from server (NotFound): pods "{argv[4]}" not found', file=sys.stderr)
                return 1
            print(json.dumps({"metadata": {"name": argv[4]}, "spec": {"nodeName": node}}))
        case ["get", "pods"]:
            stranger = {"metadata": {"name": "stranger"}, "spec": {"containers": [{"env": None}]}}
            with cluster_lock():
                pods = [json.loads(path.read_text()) for path in (ROOT / "pods").iterdir()]
            print(json.dumps({"items": [stranger, *pods]}))
        case ["delete", "pod"]:
            with cluster_lock():
                for name in argv[2:]:
                    if not name.startswith("-"):
                        (ROOT / "pods" / name).unlink()
        case _:
            print(f"unknown command {argv}", file=sys.stderr)
            return 1
    return 0


sys.exit(main())
