"""Pods and containers on the guest's containerd, made over CRI in the shape that a kubelet gives them.

For tests that run in the guest (`scripts/vm --node=quiet -- python3 -m pytest tests/kernel`):

    node = Node.connect()
    pod = node.run_pod("shop", "cart-0", volumes=[Volume("empty-dir", "cache", "/cache")])
    app = pod.start_container("app", images.WEB, ["sh", "-c", "sleep infinity"])
    out, err, code = app.exec(["sh", "-c", "echo x >> /app/config.ini"])
    assert os.path.exists(app.upperdir + "/app/config.ini")
    pod.remove()

What is imitated: cgroup parents by QoS class (cgroupfs driver), labels and annotations, /var/log/pods and the links in
/var/log/containers, and /var/lib/kubelet/pods/<uid> with volumes, etc-hosts and termination logs. The pods use the
node's network, so that no CNI is needed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cri_pb2
import grpc

from tests.vm import guest, images

CONTAINER_LOGS = "/var/log/containers"
CONTAINERD_LOG = "/var/log/containerd.log"


@dataclass(frozen=True)
class Place:
    """Where a node's containerd and kubelet keep what, as their distribution has it."""

    name: str = "default"
    root: str = "/var/lib/containerd"
    state: str = "/run/containerd"
    kubelet: str = "/var/lib/kubelet"
    logs: str = "/var/log/pods"

    @property
    def socket(self) -> str:
        """Where containerd is asked."""
        return f"{self.state}/containerd.sock"

    @property
    def tasks(self) -> str:
        """The bundles of what runs."""
        return f"{self.state}/io.containerd.runtime.v2.task/k8s.io"

    @property
    def pods(self) -> str:
        """The kubelet's directories of pods."""
        return f"{self.kubelet}/pods"


DEFAULT = Place()
SOCKET = DEFAULT.socket
CONFIG = f"{DEFAULT.state}/config.toml"
TASKS = DEFAULT.tasks
KUBELET_PODS = DEFAULT.pods
POD_LOGS = DEFAULT.logs

_PLUGINS = {
    "empty-dir": "kubernetes.io~empty-dir",
    "memory": "kubernetes.io~empty-dir",
    "configmap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "projected": "kubernetes.io~projected",
    "csi": "kubernetes.io~csi",
}
_IN_MEMORY = ("memory", "secret", "projected", "csi")

_CONFIG = f"""version = 2
disabled_plugins = [DISABLED]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  # Debian's kernels have AppArmor, but the guest has no profile to load.
  disable_apparmor = true
  # A machine without CAP_SYS_RESOURCE cannot lower it, as the kubelet asks for sandboxes.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "SNAPSHOTTER"
"""
_DISABLED = (
    *("snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"),
    *("tracing.processor.v1.otlp", "nri.v1.nri"),
)
# A runtime handler of its own for each snapshotter (since containerd 1.7).
_HANDLER = """
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.NAME]
      runtime_type = "io.containerd.runc.v2"
      snapshotter = "NAME"
"""
# Pods in a network of their own, which those with a user namespace are, without any network plugin of a distribution.
_CNI = """
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "STATE/cni/bin"
    conf_dir = "STATE/cni/net.d"
"""
_CNI_PLUGIN = """#!/bin/sh
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],
  "ips":[{"version":"4","interface":0,"address":"10.9.0.2/16"}]}' ;;
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
esac
"""


class NodeError(Exception):
    """The container runtime refused or did not answer; the message is its own."""


@dataclass(frozen=True)
class Volume:
    """A pod's volume: what kind, its name in the pod, where containers see it.

    Kinds are 'empty-dir' and 'configmap' (on the node's disk), 'memory', 'secret' and 'projected' (a tmpfs each), 'csi'
    (of a driver that mounts a tmpfs, as those of secret stores do), 'local' (a claim of k3s' local-path, whose
    `host_path` it is), 'image' (whose `image` it is; containerd 2) and 'host-path', whose `host_path` is the directory
    on the node. `files` are the keys of a configmap or secret.
    """

    kind: str
    name: str
    mount_path: str
    files: Mapping[str, str] = field(default_factory=dict)
    host_path: str = ""
    image: str = ""

    def directory(self, pod_uid: str, pods: str = KUBELET_PODS) -> str:
        """The volume's directory on the node; `pods` is the kubelet's directory of pods."""
        if self.kind in ("host-path", "image", "local"):
            return self.host_path
        inner = "/mount" if self.kind == "csi" else ""
        return f"{pods}/{pod_uid}/volumes/{_PLUGINS[self.kind]}/{self.name}{inner}"

    @property
    def read_only(self) -> bool:
        """Whether containers can only read it."""
        return self.kind in ("configmap", "secret", "projected", "image")

    def set_up(self, pod_uid: str, pods: str = KUBELET_PODS) -> None:
        """Make the volume as the kubelet does before it starts a sandbox."""
        directory = self.directory(pod_uid, pods)
        if self.kind == "image":
            return
        os.makedirs(directory, exist_ok=True)
        if self.kind in _IN_MEMORY:
            guest.mount("tmpfs", directory, "tmpfs")
        if self.files:
            self.write(directory)

    def write(self, directory: str) -> None:
        """The files into the volume's directory, as the kubelet's atomic writer does; the version before goes.

        Data is in a directory named after the time, swapped by a link.
        """
        stamp = time.strftime("..%Y_%m_%d_%H_%M_%S.") + str(time.time_ns() % 10**9)
        old = os.readlink(f"{directory}/..data") if os.path.islink(f"{directory}/..data") else None
        os.mkdir(f"{directory}/{stamp}")
        for name, text in self.files.items():
            guest.write_text(f"{directory}/{stamp}/{name}", text)
        os.symlink(stamp, f"{directory}/..data_tmp")
        os.rename(f"{directory}/..data_tmp", f"{directory}/..data")
        if old is not None:
            shutil.rmtree(f"{directory}/{old}")
            return
        for name in self.files:
            os.symlink(f"..data/{name}", f"{directory}/{name}")

    def tear_down(self, pod_uid: str, pods: str = KUBELET_PODS) -> None:
        """Unmount what `set_up` mounted."""
        if self.kind in _IN_MEMORY:
            subprocess.run(["umount", self.directory(pod_uid, pods)], check=False)


# What the runtimes hide of /proc and /sys from containers that are not privileged (moby's and the kubelet's defaults).
_MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
)
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Security:
    """A container's security context as the kubelet hands it on; capabilities without CAP_.

    `seccomp` says RuntimeDefault; otherwise a container is unconfined, as a kubelet without seccompDefault leaves it.
    """

    privileged: bool = False
    add: Sequence[str] = ()
    drop: Sequence[str] = ()
    user: int | None = None
    no_new_privileges: bool = False
    seccomp: bool = False

    @property
    def profile(self) -> Any:
        """The seccomp profile."""
        kinds = cri_pb2.SecurityProfile
        return kinds(profile_type=kinds.RuntimeDefault if self.seccomp else kinds.Unconfined)

    def context(self, options: Any) -> Any:
        """As CreateContainer takes it, with these namespaces (pkg/kubelet/kuberuntime/security_context.go)."""
        return cri_pb2.LinuxContainerSecurityContext(
            privileged=self.privileged,
            capabilities=cri_pb2.Capability(add_capabilities=self.add, drop_capabilities=self.drop),
            namespace_options=options,
            run_as_user=None if self.user is None else cri_pb2.Int64Value(value=self.user),
            no_new_privs=self.no_new_privileges,
            masked_paths=() if self.privileged else _MASKED_PATHS,
            readonly_paths=() if self.privileged else _READONLY_PATHS,
            seccomp=self.profile,
        )


class Node:
    """The guest as a Kubernetes node: its container runtime and its pods."""

    def __init__(
        self,
        place: Place = DEFAULT,
        *,
        path: str | None = None,
        snapshotter: str = "overlayfs",
        handlers: Sequence[str] = (),
        enabled: Sequence[str] = (),
        cni: bool = False,
        configured: bool = False,
        hidden: bool = False,
        more: str = "",
    ) -> None:
        """`path` is that of containerd's and runc's directories (None: as the caller's PATH has them).

        `handlers`: snapshotters that have a runtime handler of their name. `cni`: pods may have a network of their own.
        `configured`: root and state are in the configuration file, not among the arguments. `more` is added to it.
        `hidden`: what it mounts is in a mount namespace of its own (OpenShift's option).
        """
        self._hidden = hidden
        self.place, self._path, self._snapshotter = place, path, snapshotter
        self._handlers, self._cni, self._configured, self._more = tuple(handlers), cni, configured, more
        self._disabled = [name for name in _DISABLED if name not in enabled]
        self._socket = place.socket
        self._pid: int | None = None
        self._channel: Any = None

    @classmethod
    def connect(cls, timeout_s: float = 60) -> "Node":
        """The node that `scripts/vm --node` has brought up; raises NodeError when no runtime answers in time."""
        node = cls()
        node.wait_ready(timeout_s)
        return node

    def wait_ready(self, timeout_s: float = 60) -> str:
        """Wait until the runtime answers CRI; its version."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if not os.path.exists(self._socket):
                    raise NodeError(f"{self._socket} does not exist; was the machine started with --node?")
                version = self.call("RuntimeService/Version", cri_pb2.VersionRequest(), cri_pb2.VersionResponse)
                return str(version.runtime_version)
            except NodeError:
                if time.monotonic() > deadline:
                    raise
                # A channel that failed once waits a second and more before it tries again; a new one does not.
                self.close()
                time.sleep(0.1)

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def call(self, method: str, request: Any, answer: Any, timeout_s: float = 120) -> Any:
        """Call a method of runtime.v1 and return its answer; raise NodeError with the runtime's words."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix://{self._socket}")
        function = self._channel.unary_unary(
            f"/runtime.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return function(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise NodeError(f"{method}: {error.details()}") from None

    def start_containerd(self) -> None:
        """Start containerd in the cgroup of its service, detached from this process, and wait until it answers."""
        self.spawn_containerd()
        self.wait_ready()

    def spawn_containerd(self) -> None:
        """Start containerd without waiting for it."""
        state = self.place.state
        os.makedirs(state, exist_ok=True)
        config = f"{state}/config.toml"
        guest.write_text(config, self._config())
        if self._cni:
            for name in ("made-up", "loopback"):
                os.makedirs(f"{state}/cni/bin", exist_ok=True)
                guest.write_text(f"{state}/cni/bin/{name}", _CNI_PLUGIN)
                os.chmod(f"{state}/cni/bin/{name}", 0o755)
            os.makedirs(f"{state}/cni/net.d", exist_ok=True)
            net = {"cniVersion": "0.4.0", "name": "made-up", "plugins": [{"type": "made-up"}]}
            guest.write_text(f"{state}/cni/net.d/10-made-up.conflist", json.dumps(net))
        options = "" if self._configured else f" --root {self.place.root} --state {state} --address {self._socket}"
        if self.place == DEFAULT:
            options = ""
        environment = os.environ | ({"PATH": self._path} if self._path is not None else {})
        alone = "unshare --mount --propagation slave " if self._hidden else ""
        groups = " ".join(f"{path}/cgroup.procs" for path in guest.make_cgroup("system.slice/containerd.service"))
        # A shell enters the cgroups, rather than a preexec_fn: gRPC's threads do not survive a fork of this process.
        script = f'for procs in {groups}; do echo 0 > "$procs"; done; exec {alone}containerd --config {config}{options}'
        with open(CONTAINERD_LOG, "ab") as log:
            self._pid = subprocess.Popen(
                ["sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            ).pid

    def _config(self) -> str:
        disabled = ", ".join(f'"io.containerd.{name}"' for name in self._disabled)
        text = _CONFIG.replace("DISABLED", disabled).replace("SNAPSHOTTER", self._snapshotter)
        text += "".join(_HANDLER.replace("NAME", name) for name in self._handlers)
        if self._cni:
            text += _CNI.replace("STATE", self.place.state)
        if self._configured:
            where = f'root = "{self.place.root}"\nstate = "{self.place.state}"\n'
            text = text.replace("disabled_plugins", where + "disabled_plugins", 1)
            text += f'[grpc]\n  address = "{self._socket}"\n'
        return text + self._more

    def stop_containerd(self) -> None:
        """Stop containerd as its service does; the containers and their shims keep running."""
        self.close()
        pid = self._pid if self._pid is not None else self.containerd_pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            while _is_alive(pid):
                time.sleep(0.05)

    @property
    def containerd_pid(self) -> int | None:
        """The process id of containerd, None when it does not run."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/comm") as file:
                    if file.read() == "containerd\n":
                        return int(entry)
        return None

    def run_pod(
        self,
        namespace: str,
        name: str,
        *,
        qos: str = "burstable",
        volumes: Iterable[Volume] = (),
        labels: Mapping[str, str] | None = None,
        uid: str = "",
        host_namespaces: bool = False,
        privileged: bool = False,
        handler: str = "",
        user_namespace: bool = False,
    ) -> "Pod":
        """Start a pod's sandbox, with its directories, volumes and cgroup parent; `qos` is the class in lower case.

        `host_namespaces`: it shares the node's processes and IPC too. `privileged`: a container of it will be.
        `handler` is the runtime handler's name; `user_namespace`: as with hostUsers: false (containerd 2).
        """
        pod = Pod(self, namespace, name, uid or str(uuid.uuid4()), qos, tuple(volumes), dict(labels or {}))
        pod.host_namespaces, pod.privileged = host_namespaces, privileged
        pod.handler, pod.user_namespace = handler, user_namespace
        pod.run()
        return pod

    def image(self, reference: str) -> Any:
        """The runtime's ImageStatus of an image: id, repo_tags, size, uid and username."""
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=reference))
        return self.call("ImageService/ImageStatus", request, cri_pb2.ImageStatusResponse).image

    def pull(self, reference: str) -> str:
        """Pull an image, as the kubelet asks for it; its id. NodeError where that fails."""
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=reference))
        return str(self.call("ImageService/PullImage", request, cri_pb2.PullImageResponse).image_ref)

    def pods(self) -> list["Pod"]:
        """The pods that the runtime knows, with their containers; volumes are not known for them."""
        sandboxes = self.call(
            "RuntimeService/ListPodSandbox", cri_pb2.ListPodSandboxRequest(), cri_pb2.ListPodSandboxResponse
        )
        listed = self.call(
            "RuntimeService/ListContainers", cri_pb2.ListContainersRequest(), cri_pb2.ListContainersResponse
        )
        pods = []
        for item in sandboxes.items:
            with open(f"{self.place.tasks}/{item.id}/config.json") as file:
                parent = os.path.dirname(json.load(file)["linux"]["cgroupsPath"])
            qos = next((name for name in ("burstable", "besteffort") if f"/{name}/" in parent), "guaranteed")
            own = {key: value for key, value in item.labels.items() if not key.startswith("io.kubernetes.")}
            pod = Pod(self, item.metadata.namespace, item.metadata.name, item.metadata.uid, qos, (), own)
            pod.sandbox_id = item.id
            for container in listed.containers:
                if container.pod_sandbox_id == item.id:
                    known = Container(pod, container.metadata.name, container.image.image, container.id)
                    known.attempt = container.metadata.attempt
                    pod.containers.append(known)
            pods.append(pod)
        return pods

    def pod(self, namespace: str, name: str) -> "Pod":
        """The pod of this name; raises NodeError when there is none."""
        for pod in self.pods():
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise NodeError(f"no pod {namespace}/{name} on this node")


class Pod:
    """A pod: a sandbox, its volumes and its containers."""

    def __init__(
        self,
        node: Node,
        namespace: str,
        name: str,
        uid: str,
        qos: str,
        volumes: tuple[Volume, ...],
        labels: dict[str, str],
    ) -> None:
        self.node, self.namespace, self.name, self.uid, self.qos = node, namespace, name, uid, qos
        self.volumes, self.labels = volumes, labels
        self.sandbox_id = ""
        self.host_namespaces = self.privileged = self.user_namespace = False
        self.handler = ""
        self.containers: list[Container] = []
        self._lock = threading.Lock()

    @property
    def cgroup_path(self) -> str:
        """The pod's cgroup below the mount."""
        return f"/kubepods/pod{self.uid}" if self.qos == "guaranteed" else f"/kubepods/{self.qos}/pod{self.uid}"

    @property
    def log_directory(self) -> str:
        """Where the containers' logs are."""
        return f"{self.node.place.logs}/{self.namespace}_{self.name}_{self.uid}"

    @property
    def directory(self) -> str:
        """The kubelet's directory of the pod."""
        return f"{self.node.place.pods}/{self.uid}"

    @property
    def identity_labels(self) -> dict[str, str]:
        """The labels by which the kubelet finds its own pods and containers again."""
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }

    @property
    def namespace_options(self) -> Any:
        """Which namespaces its containers share, and with whom."""
        pid, ipc = (cri_pb2.NODE, cri_pb2.NODE) if self.host_namespaces else (cri_pb2.CONTAINER, cri_pb2.POD)
        if not self.user_namespace:
            return cri_pb2.NamespaceOption(network=cri_pb2.NODE, pid=pid, ipc=ipc)
        mapping = [cri_pb2.IDMapping(host_id=200_000, container_id=0, length=65_536)]
        user = cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=mapping, gids=mapping)
        return cri_pb2.NamespaceOption(network=cri_pb2.POD, pid=pid, ipc=ipc, userns_options=user)

    @property
    def config(self) -> Any:
        """The sandbox's configuration, as RunPodSandbox and CreateContainer take it."""
        return cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name=self.name, uid=self.uid, namespace=self.namespace),
            log_directory=self.log_directory,
            labels=self.labels | self.identity_labels,
            annotations={"kubernetes.io/config.seen": "2026-11-23T00:00:00Z", "kubernetes.io/config.source": "api"},
            linux=cri_pb2.LinuxPodSandboxConfig(
                cgroup_parent=self.cgroup_path,
                security_context=cri_pb2.LinuxSandboxSecurityContext(
                    namespace_options=self.namespace_options, privileged=self.privileged, seccomp=Security().profile
                ),
            ),
        )

    def run(self) -> None:
        """Make the directories and volumes, then the sandbox, in the kubelet's order."""
        os.makedirs(f"{self.directory}/containers", exist_ok=True)
        os.makedirs(self.log_directory, exist_ok=True)
        for volume in self.volumes:
            volume.set_up(self.uid, self.node.place.pods)
        answer = self.node.call(
            "RuntimeService/RunPodSandbox",
            cri_pb2.RunPodSandboxRequest(config=self.config, runtime_handler=self.handler),
            cri_pb2.RunPodSandboxResponse,
        )
        self.sandbox_id = answer.pod_sandbox_id
        guest.write_text(f"{self.directory}/etc-hosts", f"127.0.0.1\tlocalhost\n127.0.0.1\t{os.uname().nodename}\n")

    def container(self, name: str) -> "Container":
        """The newest container of this name; raises NodeError when there is none."""
        found = [container for container in self.containers if container.name == name]
        if not found:
            raise NodeError(f"no container {name} in pod {self.namespace}/{self.name}")
        return max(found, key=lambda container: container.attempt)

    def start_container(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        attempt: int = 0,
        memory_limit_bytes: int = 0,
        security: Security | None = None,
    ) -> "Container":
        """Create and start a container that sees all volumes of the pod."""
        container = Container(self, name, image)
        container.attempt = attempt
        container.start(command, env or {}, security or Security(), memory_limit_bytes)
        with self._lock:
            self.containers.append(container)
        return container

    def remove(self) -> None:
        """Stop and remove the pod with everything of it on the node, as the kubelet does after its deletion."""
        for method in ("Stop", "Remove"):
            self.node.call(
                f"RuntimeService/{method}PodSandbox",
                getattr(cri_pb2, f"{method}PodSandboxRequest")(pod_sandbox_id=self.sandbox_id),
                getattr(cri_pb2, f"{method}PodSandboxResponse"),
            )
        for volume in self.volumes:
            volume.tear_down(self.uid, self.node.place.pods)
        for container in self.containers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(container.log_link)
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.log_directory, ignore_errors=True)
        # The runtime removes its containers' cgroups, the kubelet that of the pod.
        for hierarchy in guest.hierarchies():
            with contextlib.suppress(OSError):
                os.rmdir(hierarchy + self.cgroup_path)


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, name: str, image: str, container_id: str = "") -> None:
        self.pod, self.name, self.image, self.container_id = pod, name, image, container_id
        self.attempt = 0

    def start(
        self, command: Sequence[str], env: Mapping[str, str], security: Security, memory_limit_bytes: int
    ) -> None:
        """Create and start it, with the mounts, labels, log file and log link that the kubelet gives it."""
        pod = self.pod
        hash_text = hashlib.sha256(f"{self.name} {self.image} {command}".encode()).hexdigest()[:8]
        termination_log = f"{pod.directory}/containers/{self.name}/{hash_text}"
        os.makedirs(os.path.dirname(termination_log), exist_ok=True)
        guest.write_text(termination_log, "")
        os.makedirs(f"{pod.log_directory}/{self.name}", exist_ok=True)
        mounts = [
            cri_pb2.Mount(
                container_path=volume.mount_path,
                image=cri_pb2.ImageSpec(image=volume.image) if volume.image else None,
                host_path=volume.directory(pod.uid, pod.node.place.pods),
                readonly=volume.read_only,
            )
            for volume in pod.volumes
        ]
        mounts.append(cri_pb2.Mount(container_path="/etc/hosts", host_path=f"{pod.directory}/etc-hosts"))
        mounts.append(cri_pb2.Mount(container_path="/dev/termination-log", host_path=termination_log))
        config = cri_pb2.ContainerConfig(
            metadata=cri_pb2.ContainerMetadata(name=self.name, attempt=self.attempt),
            image=cri_pb2.ImageSpec(image=self.image),
            command=command,
            envs=[cri_pb2.KeyValue(key=key, value=value) for key, value in env.items()],
            mounts=mounts,
            labels=pod.identity_labels | {"io.kubernetes.container.name": self.name},
            annotations={
                "io.kubernetes.container.hash": hash_text,
                "io.kubernetes.container.restartCount": str(self.attempt),
                "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy": "File",
                "io.kubernetes.pod.terminationGracePeriod": "30",
            },
            log_path=f"{self.name}/{self.attempt}.log",
            linux=cri_pb2.LinuxContainerConfig(
                resources=cri_pb2.LinuxContainerResources(
                    cpu_period=100_000, cpu_shares=102, memory_limit_in_bytes=memory_limit_bytes, oom_score_adj=900
                ),
                security_context=security.context(pod.namespace_options),
            ),
        )
        created = pod.node.call(
            "RuntimeService/CreateContainer",
            cri_pb2.CreateContainerRequest(pod_sandbox_id=pod.sandbox_id, config=config, sandbox_config=pod.config),
            cri_pb2.CreateContainerResponse,
        )
        self.container_id = created.container_id
        pod.node.call(
            "RuntimeService/StartContainer",
            cri_pb2.StartContainerRequest(container_id=self.container_id),
            cri_pb2.StartContainerResponse,
        )
        os.makedirs(CONTAINER_LOGS, exist_ok=True)
        os.symlink(f"{pod.log_directory}/{self.name}/{self.attempt}.log", self.log_link)

    def log(self) -> list[tuple[str, str]]:
        """What it wrote so far, as `kubectl logs` shows it: ("stdout" or "stderr", line)."""
        lines, parts = [], dict[str, str]()
        with open(f"{self.pod.log_directory}/{self.name}/{self.attempt}.log", encoding="utf-8") as file:
            for entry in file:
                if not entry.endswith("\n"):
                    break  # it is being written
                # the CRI's log format: time, stream, F for a whole line or P for a part of one
                _, stream, tag, text = entry.rstrip("\n").split(" ", 3)
                parts[stream] = parts.get(stream, "") + text
                if tag == "F":
                    lines.append((stream, parts.pop(stream)))
        return lines

    @property
    def log_link(self) -> str:
        """The link to the log whose name holds pod, namespace, container and id."""
        return f"{CONTAINER_LOGS}/{self.pod.name}_{self.pod.namespace}_{self.name}-{self.container_id}.log"

    def exec(self, command: Sequence[str], timeout_s: int = 60) -> tuple[str, str, int]:
        """Run a command in the container, as `kubectl exec` does; its stdout, stderr and exit status."""
        answer = self.pod.node.call(
            "RuntimeService/ExecSync",
            cri_pb2.ExecSyncRequest(container_id=self.container_id, cmd=command, timeout=timeout_s),
            cri_pb2.ExecSyncResponse,
            timeout_s + 10,
        )
        return answer.stdout.decode(errors="replace"), answer.stderr.decode(errors="replace"), answer.exit_code

    def stop(self, timeout_s: int = 0) -> None:
        """Stop it: SIGTERM, and SIGKILL after `timeout_s` seconds."""
        self.pod.node.call(
            "RuntimeService/StopContainer",
            cri_pb2.StopContainerRequest(container_id=self.container_id, timeout=timeout_s),
            cri_pb2.StopContainerResponse,
        )

    def remove(self) -> None:
        """Remove it from the runtime (stopping it if it runs), and its log link; the log stays with the pod.

        One that ends by itself just then takes its shim along, and the runtime says "ttrpc: closed": the kubelet asks
        again, so do we.
        """
        deadline = time.monotonic() + 20
        while True:
            try:
                self.pod.node.call(
                    "RuntimeService/RemoveContainer",
                    cri_pb2.RemoveContainerRequest(container_id=self.container_id),
                    cri_pb2.RemoveContainerResponse,
                )
                break
            except NodeError as error:
                if "to stop first" in str(error):
                    # containerd 2 leaves that to the kubelet
                    self.stop()
                    continue
                if "ttrpc: closed" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.log_link)
        if self in self.pod.containers:
            self.pod.containers.remove(self)

    def status(self) -> Any:
        """The runtime's ContainerStatus: state, exit_code, started_at and so on."""
        request = cri_pb2.ContainerStatusRequest(container_id=self.container_id)
        return self.pod.node.call("RuntimeService/ContainerStatus", request, cri_pb2.ContainerStatusResponse).status

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return bool(self.status().state == cri_pb2.CONTAINER_EXITED)

    def wait(self, timeout_s: float = 60) -> int:
        """Wait until it has ended; its exit code."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status()).state != cri_pb2.CONTAINER_EXITED:
            if time.monotonic() > deadline:
                raise NodeError(f"container {self.name} still runs after {timeout_s:g} s")
            time.sleep(0.1)
        return int(status.exit_code)

    @property
    def pid(self) -> int:
        """The process id of the container's first process, on the node."""
        with open(f"{self.pod.node.place.tasks}/{self.container_id}/init.pid") as file:
            return int(file.read())

    @property
    def rootfs(self) -> str:
        """Where the node has the container's root file system mounted."""
        return f"{self.pod.node.place.tasks}/{self.container_id}/rootfs"

    @property
    def upperdir(self) -> str:
        """The container's writable layer, from the node's mount table."""
        with open("/proc/self/mountinfo") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                if fields.split()[4] == self.rootfs:
                    match = re.search(r"upperdir=([^, \n]+)", rest)
                    if match:
                        return match[1]
        raise NodeError(f"the root of container {self.name} is not mounted")

    @property
    def cgroup_path(self) -> str:
        """The container's cgroup below the mount."""
        return f"{self.pod.cgroup_path}/{self.container_id}"

    @property
    def cgroup_id(self) -> int:
        """The 64-bit kernfs id of its cgroup: of the v2 hierarchy where the container is in it, else of memory's."""
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"):
            with contextlib.suppress(FileNotFoundError):
                return os.stat(root + self.cgroup_path).st_ino
        raise NodeError(f"container {self.name} has no cgroup")


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
