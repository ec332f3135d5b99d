"""Every call of kubectl. It does the talking to the API server, with the user's own configuration and rights.

A debug pod is found by a random word in its environment, not by what kubectl prints about it: that holds whatever
kubectl's version and language, for a pod that kubectl was interrupted over, and with a terminal that only kubectl sees.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetrace.errors import ClusterError, UsageError
from kubetrace.plugin.attended import VARIABLE

_SESSION = "KUBETRACE_SESSION"
_TIMEOUT_S = 60
# RFC 1123 (k8s.io/apimachinery/pkg/util/validation): nothing that kubectl could take for an option.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
# E1130 13:18:31.066270   19180 memcache.go:265] ...
_LOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\] ")


@dataclass(frozen=True, slots=True)
class DebugPod:
    """A pod that kubectl debug has made for us."""

    name: str
    node: str
    waits: str
    """Why its container does not run yet; empty where it does."""
    exit_code: int | None
    """Of its container, when it has ended."""


class Kubectl:
    """kubectl ($KUBECTL, or the one in PATH) with the user's global options, for one run of the plugin."""

    def __init__(self, options: Sequence[str] = (), *, namespace: str | None = None) -> None:
        """`options` such as --context=NAME; `namespace` is that of the debug pods (None: kubectl's current one)."""
        self._command = [os.environ.get("KUBECTL") or "kubectl", *options]
        self._namespace = ["--namespace", check_name(namespace, "namespace")] if namespace is not None else []
        self._session = secrets.token_hex(8)

    def nodes(self, selector: str | None) -> list[str]:
        """The Linux nodes that a label selector matches, or all. Raises ClusterError."""
        given = [f"--selector={selector}"] if selector is not None else []
        found = []
        for item in self._items("get", "nodes", *given, "-o", "json"):
            metadata = _object(item.get("metadata"))
            if _object(metadata.get("labels")).get("kubernetes.io/os", "linux") == "linux":
                found.append(check_name(metadata.get("name"), "node"))
        if not found:
            raise ClusterError(
                f"no Linux node matches {selector!r}." if selector else "the cluster has no Linux node.",
                do="kubectl get nodes --show-labels",
            )
        return found

    def node_of(self, namespace: str, pod: str) -> str:
        """The node that a pod runs on. Raises ClusterError."""
        names = ["--namespace", check_name(namespace, "namespace"), check_name(pod, "pod")]
        item = self._json("get", "pod", *names, "-o", "json")
        node = _object(item.get("spec")).get("nodeName")
        if not node:
            raise ClusterError(
                f"pod {namespace}/{pod} is on no node yet.",
                do=f"kubectl describe pod --namespace {namespace} {pod}",
            )
        return check_name(node, "node")

    def names(self, kind: str, *, namespace: str | None = None, everywhere: bool = False) -> list[str]:
        """The names of all objects of a kind, such as nodes; `everywhere`: NAMESPACE/NAME. Raises ClusterError."""
        where = ["--namespace", check_name(namespace, "namespace")] if namespace is not None else []
        form = "{.metadata.namespace}/{.metadata.name}" if everywhere else "{.metadata.name}"
        given = [*where, *(["--all-namespaces"] if everywhere else [])]
        text = self._call("get", kind, *given, "-o", f'jsonpath={{range .items[*]}}{form}{{"\\n"}}{{end}}')
        return [name for name in text.split() if all(_NAME.fullmatch(part) for part in name.split("/"))]

    def contexts(self) -> list[str]:
        """Those of the user's configuration. Raises ClusterError."""
        return self._call("config", "get-contexts", "-o", "name").split()

    def namespace(self) -> str:
        """The current one. Raises ClusterError."""
        found = self._call("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
        return found or "default"

    def debug(self, node: str, image: str, arguments: Sequence[str], *, terminal: bool) -> list[str]:
        """The command that runs kubetrace on a node, attached to this process's stdin and stdout."""
        environment = {VARIABLE: "1", _SESSION: self._session, "NODE_NAME": node}
        return [
            *self._command,
            "debug",
            f"node/{check_name(node, 'node')}",
            *self._namespace,
            "--profile=sysadmin",
            f"--image={image}",
            *(f"--env={name}={value}" for name, value in environment.items()),
            *(["-it"] if terminal else ["-i", "--quiet"]),
            "--",
            "kubetrace",
            *arguments,
        ]

    def debug_pods(self) -> list[DebugPod]:
        """Those of this run that there are. Raises ClusterError."""
        return [pod for item in self._items("get", "pods", *self._namespace, "-o", "json") if (pod := self._own(item))]

    def _own(self, item: Mapping[str, Any]) -> DebugPod | None:
        # Of what the API server sends any part may be null, or missing.
        spec, status = _object(item.get("spec")), _object(item.get("status"))
        for container in map(_object, _list(spec.get("containers"))):
            for variable in map(_object, _list(container.get("env"))):
                if variable.get("name") == _SESSION and variable.get("value") == self._session:
                    first = next(map(_object, _list(status.get("containerStatuses"))), {})
                    state = _object(first.get("state"))
                    waits = _object(state.get("waiting"))
                    if not state:
                        waits = {"reason": status.get("reason") or "Pending"}
                    words = ": ".join(str(waits[key]) for key in ("reason", "message") if waits.get(key))
                    code = _object(state.get("terminated")).get("exitCode")
                    name = check_name(_object(item.get("metadata")).get("name"), "pod")
                    return DebugPod(name, str(spec.get("nodeName")), words, code if isinstance(code, int) else None)
        return None

    def delete(self, names: Sequence[str]) -> None:
        """Delete debug pods; not waited for. Raises ClusterError."""
        self._call("delete", "pod", *self._namespace, "--wait=false", "--ignore-not-found", *names)

    def _items(self, *arguments: str) -> list[Any]:
        return [item for item in _list(self._json(*arguments).get("items")) if isinstance(item, dict)]

    def _json(self, *arguments: str) -> dict[str, Any]:
        try:
            found = json.loads(self._call(*arguments))
        except ValueError as error:
            raise ClusterError(f"kubectl {' '.join(arguments)} gave no JSON.", why=str(error)) from error
        return found if isinstance(found, dict) else {}

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
                timeout=_TIMEOUT_S,
                # Ctrl-C is ours: what is asked here is answered all the same
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise missing() from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"kubectl {' '.join(arguments[:2])} has not answered for {_TIMEOUT_S} s.", do="kubectl cluster-info"
            ) from error
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments[:2])} failed.", why=last_words(done.stderr))
        return done.stdout


def missing() -> ClusterError:
    """There is no kubectl."""
    return ClusterError(
        f"{os.environ.get('KUBECTL') or 'kubectl'} cannot be run.",
        why="kubectl kubetrace reaches the cluster through kubectl alone.",
        do="install kubectl 1.30 or newer, or name it in $KUBECTL",
    )


def last_words(text: str) -> str:
    """The last line that says something, of what kubectl has written to stderr."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip() and not is_log(line)), "")


def is_log(line: str) -> bool:
    """Whether it is of kubectl's own log (klog), which repeats what its last line says."""
    return _LOG.match(line) is not None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def check_name(name: object, what: str) -> str:
    """The name, if it can be one. Raises UsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{str(name)[:80]!r} is not a name of a {what}.", do=f"kubectl get {what}s")
    return name
