"""One node with many container runtimes at once, on this machine's kernel, in namespaces of its own.

    unshare --mount --pid --fork --kill-child --mount-proc python -m tests.native.many_runtimes RUNTIME DIRECTORY

DIRECTORY holds images.tar, an OCI layout of the same images in oci/, and cri_pb2.py; RUNTIME is one of support.py's.
A containerd runs in each of the places that distributions use, with a pod for each cell of the matrix; CRI-O's are made
in its shape by podman and crun. Then `kubetrace who` is asked for each of them in all its forms, and what the tracers
would conclude of layers and writes. DIRECTORY/RUNTIME.json has what was made and what was said. Nothing here asserts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kubetrace.attribution.attributor import Attributor
from kubetrace.attribution.destination import Destinations, Mounted
from kubetrace.attribution.facts import Fact
from kubetrace.node.host import Host
from kubetrace.node.lookup import Lookup
from kubetrace.node.survey import Node
from tests.native import support
from tests.vm import cri, guest, images
from tests.vm.stage import cache_directory

PLACES = {
    "default": cri.DEFAULT,
    # k3s --data-dir /opt/k3s, as root and state are among the daemon's arguments
    "k3s": cri.Place("k3s", "/opt/k3s/agent/containerd", "/run/k3s/containerd"),
    "rke2": cri.Place("rke2", "/var/lib/rancher/rke2/agent/containerd", "/run/rke2/containerd"),
    # root and state in config.toml, the kubelet told by its arguments and configuration
    "custom": cri.Place("custom", "/srv/cr/root", "/srv/cr/state", "/srv/kubelet", "/srv/logs"),
}
SLEEP = ["sh", "-c", "exec sleep 1000"]


def main(runtime: str, directory: Path) -> None:
    guest.mount("tmpfs", "/run", "tmpfs")
    # the rest is on a disk, as on a node: what is written there counts as ephemeral storage
    disk = directory / "disk" / runtime.replace(" ", "-")
    for path in ("/var/lib", "/var/log", "/var/tmp", "/srv", "/opt"):
        (disk / path[1:]).mkdir(parents=True)
        guest.mount(f"{disk}{path}", path, flags=guest.MS_BIND)
    cells = [cell for cell in support.tried() if cell.runtime == runtime]
    kubelet()
    if runtime == "CRI-O":
        # crun knows v1 or v2, and no hybrid
        subprocess.run(["umount", "-l", "-R", "/sys/fs/cgroup"], check=True)
        guest.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        made = list(crio(cells, directory))
    else:
        made = list(containerds(runtime, cells, directory))
    (directory / f"{runtime}.json").write_text(json.dumps(asked(made)))
    for one in made:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one["pid"], signal.SIGKILL)


def kubelet() -> None:
    """What stands for a kubelet with a directory of its own: a process of its name, with its arguments."""
    Path("/srv/kubelet-config.yaml").write_text("kind: KubeletConfiguration\npodLogsDir: /srv/logs\n")
    Path("/srv/kubelet.sh").write_text("#!/bin/sh\nwhile :; do sleep 1000; done\n")
    os.rename("/srv/kubelet.sh", "/srv/bin-kubelet")
    os.makedirs("/srv/bin")
    os.rename("/srv/bin-kubelet", "/srv/bin/kubelet")
    os.chmod("/srv/bin/kubelet", 0o755)
    subprocess.Popen(["/srv/bin/kubelet", "--root-dir", "/srv/kubelet", "--config=/srv/kubelet-config.yaml"])


# containerd.


def containerds(runtime: str, cells: list[support.Cell], directory: Path) -> Iterator[dict[str, Any]]:
    modern = runtime != "containerd 1.6"
    path = os.environ["PATH"]
    if modern:
        tree = cache_directory() / "containerd-2" / "usr"
        path = f"{tree}/bin:{tree}/sbin:{path}"
    for name, place in PLACES.items():
        wanted = [cell for cell in cells if cell.place == name]
        # containerd 1.6 has one snapshotter for all pods: it is started once for each
        runs = (
            [wanted] if modern else [[cell for cell in wanted if cell.snapshotter == s] for s in support.SNAPSHOTTERS]
        )
        for run in filter(None, runs):
            snapshotters = sorted({cell.snapshotter for cell in run})
            node = cri.Node(
                place,
                path=path,
                snapshotter="overlayfs" if modern else snapshotters[0],
                handlers=[one for one in snapshotters if one != "overlayfs"] if modern else (),
                cni=modern,
                configured=name == "custom",
                more=blockfile(place) if modern else "",
            )
            node.start_containerd()
            brought(node, directory, path)
            made = [pod_of(node, cell, modern) for cell in run]
            if modern and name == "custom":
                made[0]["volumes"] = volumes_of(node)
                made[0]["hidden"] = hidden(path, directory)
            yield from made
            if run is not runs[-1]:
                node.stop_containerd()


def hidden(path: str, directory: Path) -> dict[str, Any]:
    """A pod of a containerd whose mounts are in a mount namespace of its own."""
    place = cri.Place("hidden", "/srv/hidden/root", "/run/hidden")
    node = cri.Node(place, path=path, hidden=True)
    node.start_containerd()
    brought(node, directory, path)
    pod = node.run_pod("shop", "hidden-0")
    container = pod.start_container("app", images.WEB, SLEEP)
    points = [point for _, _, point, _, _ in mounts("self")]
    return {
        "container_id": container.container_id,
        "root": container.rootfs,
        "shown": container.rootfs in points,
        "queries": {"root": f"{container.rootfs}/etc", "pod": "shop/hidden-0"},
    }


def brought(node: cri.Node, directory: Path, path: str) -> None:
    """The images, as the CRI knows them."""
    command = ["ctr", "-a", node.place.socket, "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    for image in (images.PAUSE, images.WEB, images.BATCH):
        while not node.image(image).id:
            time.sleep(0.01)  # the CRI learns of what is imported a moment later


def volumes_of(node: cri.Node) -> dict[str, Any]:
    """A pod with each volume that is neither the kubelet's own nor a hostPath."""
    local = "/opt/local-path-provisioner/pvc-0a1b2c3d-0000-4000-8000-000000000001_shop_data-db-0"
    volumes = [
        cri.Volume("image", "tools", "/tools", image=images.BATCH),
        cri.Volume("csi", "vault", "/vault"),
        cri.Volume("local", "data", "/db", host_path=local),
    ]
    pod = node.run_pod("shop", "volumes-0", volumes=volumes)
    container = pod.start_container("app", images.DATABASE, SLEEP)
    return {"pid": container.pid, "sandbox_id": pod.sandbox_id}


def blockfile(place: cri.Place) -> str:
    """The configuration of a snapshotter that has each root in a file with a file system of its own."""
    scratch = f"{place.state}/scratch"
    os.makedirs(place.state, exist_ok=True)
    with open(scratch, "wb") as file:
        file.truncate(80 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", scratch], check=True)
    return (
        '[plugins."io.containerd.snapshotter.v1.blockfile"]\n'
        f'  scratch_file = "{scratch}"\n  fs_type = "ext4"\n  mount_options = []\n  recreate_scratch = true\n'
    )


def pod_of(node: cri.Node, cell: support.Cell, modern: bool) -> dict[str, Any]:
    volume = cri.Volume("empty-dir", "cache", "/cache")
    pod = node.run_pod(
        "shop",
        cell.name,
        volumes=[volume],
        handler=cell.snapshotter if modern and cell.snapshotter != "overlayfs" else "",
        user_namespace=cell.user,
    )
    image = images.WEB if not cell.user else images.BATCH
    container = pod.start_container("app", image, SLEEP)
    return {
        **asdict(cell),
        "name": cell.name,
        "namespace": "shop",
        "pod": cell.name,
        "container": "app",
        "pod_uid": pod.uid,
        "container_id": container.container_id,
        "sandbox_id": pod.sandbox_id,
        "image": image,
        "pid": container.pid,
        "root": container.rootfs,
        "volume": f"{volume.directory(pod.uid, node.place.pods)}/x",
        "log": f"{pod.log_directory}/app/0.log",
    }


# CRI-O's shape.


def crio(cells: list[support.Cell], directory: Path) -> Iterator[dict[str, Any]]:
    tree = cache_directory() / "podman" / "usr"
    home = Path("/run/home/.config/containers")
    home.mkdir(parents=True)
    (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    config = Path("/run/containers.conf")
    config.write_text(
        f'[engine]\nconmon_path = ["{tree}/bin/conmon"]\nevents_logger = "none"\ncgroup_manager = "cgroupfs"\n'
        f'runtime = "crun"\n[engine.runtimes]\ncrun = ["{tree}/bin/crun"]\n'
    )
    environment = {
        **os.environ,
        "HOME": "/run/home",
        "LD_LIBRARY_PATH": f"{tree}/lib/x86_64-linux-gnu",
        "CONTAINERS_CONF": str(config),
        "PATH": f"{tree}/bin:{os.environ['PATH']}",
    }
    # what is written there is this namespace's
    for part in ("upper", "work"):
        os.makedirs(f"/run/etc/{part}")
    guest.mount("overlay", "/etc", "overlay", data="lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work")
    os.makedirs("/etc/crio")
    Path("/etc/crio/crio.conf").write_text('[crio]\nroot = "/srv/storage"\nrunroot = "/run/crio-run"\n')
    roots = {"default": ("/var/lib/containers/storage", "/run/containers/storage")}
    roots["custom"] = ("/srv/storage", "/run/crio-run")
    for place, (root, runroot) in roots.items():
        drop_in = Path("/etc/crio/crio.conf.d", f"{place}.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text(f'[crio]\nroot = "{root}-fuse"\nrunroot = "{runroot}-fuse"\n')
    traced = starts(directory)
    made = []
    for cell in cells:
        root, runroot = roots[cell.place]
        if cell.snapshotter == "fuse-overlayfs":
            root, runroot = f"{root}-fuse", f"{runroot}-fuse"
        command = [f"{tree}/bin/podman", "--root", root, "--runroot", runroot, "--storage-driver", "overlay"]
        if cell.snapshotter == "fuse-overlayfs":
            command += ["--storage-opt", f"overlay.mount_program={tree}/bin/fuse-overlayfs"]

        def podman(*arguments: str, command: list[str] = command) -> str:
            done = subprocess.run([*command, *arguments], env=environment, text=True, capture_output=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"podman {arguments}: {done.stderr}")
            return done.stdout.strip()

        for tag, name in (("1.4", images.WEB), ("7", images.BATCH), ("3.9", images.PAUSE)):
            podman("tag", podman("pull", "-q", f"oci:{directory}/oci:{tag}"), name)
        made.append(crio_container(cell, podman, runroot, environment))
    # crun returns before the entrypoint is executed, and the steps are told with that
    while not {one["container_id"] for one in made} <= {step["container_id"] for step in steps(directory, "exec")}:
        time.sleep(0.05)
    traced.send_signal(signal.SIGINT)
    traced.wait(60)
    told = list(steps(directory))
    for one in made:
        one["starts"] = [step for step in told if step.get("container_id") == one["container_id"]]
    yield from made


def steps(directory: Path, phase: str = "") -> Iterator[dict[str, Any]]:
    """What kubetrace starts has told so far: all steps, or those of one kind."""
    for line in (directory / "starts.json").read_text().splitlines(keepends=True):
        if line.endswith("\n") and (step := json.loads(line)).get("phase") and phase in ("", step["phase"]):
            yield step


def starts(directory: Path) -> subprocess.Popen[bytes]:
    """kubetrace starts, attached."""
    ready = directory / "starts.ready"
    command = [sys.executable, "-m", "kubetrace", "starts", "-o", "json", "--ready-file", str(ready)]
    with open(directory / "starts.json", "wb") as out, open(directory / "starts.err", "wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit((directory / "starts.err").read_text())
        time.sleep(0.01)
    return process


def crio_container(cell: support.Cell, podman: Any, runroot: str, environment: dict[str, str]) -> dict[str, Any]:
    """A container as CRI-O makes it: bundle, annotations, cgroup and root mount; crun runs it."""
    place = PLACES[cell.place]
    uid, image = str(uuid.uuid4()), images.BATCH if cell.user else images.WEB
    sandbox_id = os.urandom(32).hex()
    mapped = ["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"] if cell.user else []
    name = f"k8s_app_{cell.name}_shop_{uid}_0"
    container_id = podman("create", "--network", "none", "--name", name, *mapped, image, *SLEEP)
    root = podman("mount", container_id)
    volume = cri.Volume("empty-dir", "cache", "/cache")
    volume.set_up(uid, place.pods)
    logs = f"{place.logs}/shop_{cell.name}_{uid}/app"
    os.makedirs(logs)
    Path(f"{logs}/0.log").write_text("")
    bundle = f"{runroot}/overlay-containers/{container_id}/userdata"
    os.makedirs(bundle, exist_ok=True)
    parent = f"/kubepods/burstable/pod{uid}"
    spec = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": SLEEP, "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/cache",
                "type": "bind",
                "source": volume.directory(uid, place.pods),
                "options": ["rbind", "rw"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "cgroupsPath": f"{parent}/crio-{container_id}",
        },
        # CRI-O: server/container_create_linux.go
        "annotations": {
            "io.kubernetes.cri-o.ContainerType": "container",
            "io.kubernetes.cri-o.ContainerID": container_id,
            "io.kubernetes.cri-o.SandboxID": sandbox_id,
            # any name of the image, and the one that the pod asks for
            "io.kubernetes.cri-o.ImageName": images.BATCH if image == images.WEB else images.WEB,
            "io.kubernetes.cri-o.Image": image,
            "io.kubernetes.pod.name": cell.name,
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": uid,
            "io.kubernetes.container.name": "app",
        },
    }
    if cell.user:
        mapping = [{"containerID": 0, "hostID": 200_000, "size": 65_536}]
        spec["linux"] = {
            **spec["linux"],  # type: ignore[dict-item]
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "user")],
            "uidMappings": mapping,
            "gidMappings": mapping,
        }
        for part in (*list(Path(root).parents)[:-2], Path(root)):
            part.chmod(part.stat().st_mode | 0o111)
    Path(f"{bundle}/config.json").write_text(json.dumps(spec))
    pid_file = f"{bundle}/pidfile"
    crun = [
        "crun",
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "-d",
        "--bundle",
        bundle,
        "--pid-file",
        pid_file,
        container_id,
    ]
    with open("/run/crun.log", "ab") as log:
        # crun gives the container's user what it has as input: a pipe, not the machine's /dev/null
        subprocess.run(crun, env=environment, input=b"", stdout=log, stderr=log, check=False)
    if not os.path.exists(pid_file):
        raise SystemExit(f"crun {cell.name}: " + Path("/run/crun.log").read_text()[-2000:])
    return {
        **asdict(cell),
        "name": cell.name,
        "namespace": "shop",
        "pod": cell.name,
        "container": "app",
        "pod_uid": uid,
        "container_id": container_id,
        "sandbox_id": sandbox_id,
        "image": image,
        "pid": int(Path(pid_file).read_text()),
        "root": root,
        "volume": f"{volume.directory(uid, place.pods)}/x",
        "log": f"{logs}/0.log",
    }


# What kubetrace says of it.


def asked(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    host = Host.find("/")
    node = Node(host)
    attributor, destinations = Attributor(), Destinations()

    def learn(facts: Iterator[Fact] | list[Fact]) -> None:
        for fact in facts:
            attributor.learn(fact)
            destinations.learn(fact)

    learn(node.scan())
    for one in made:
        one["root_type"] = next(fstype for _, _, point, fstype, _ in mounts("self") if point == one["root"])
        one["writable"] = writable(one)
        one["snapshot"] = one["writable"].removesuffix("/fs") if one["writable"] is not None else backing_file(one)
        one["queries"] = queries(one)
    directories = [one["snapshot"] for one in made if one["snapshot"] is not None and "/snapshots/" in one["snapshot"]]
    for one in made:
        if "volumes" in one:
            one["volumes"] |= volumes_asked(one["volumes"], destinations)
        if "hidden" in one:
            one["hidden"]["said"] = said_of_hidden(one["hidden"], node, attributor)
    number = os.path.basename(directories[0]) if directories else "1"
    made[0]["queries"]["numbered"] = f"snapshot:{number}"
    every = list(dict.fromkeys(query for one in made for query in one["queries"].values()))
    command = [sys.executable, "-m", "kubetrace", "who", "-o", "json", "--", *every]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers: dict[str, list[Any]] = {}
    everything = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in everything:
        answers.setdefault(answer["query"].removesuffix(" (image layer)"), []).append(answer)
    made[0]["numbered"] = {
        "directories": [one for one in directories if os.path.basename(one) == number],
        "said": [one for one in everything if one.get("directory") is not None and one["query"] == one["directory"]],
    }
    for one in made:
        one["said"] = {kind: answers.get(query, []) for kind, query in one["queries"].items()}
        one["error"] = done.stderr
        one["writes"] = destination(one, destinations)
        one["layers"] = layers(one, node, attributor, learn)
    pages(made)
    return made


def pages(made: list[dict[str, Any]]) -> None:
    """What kubetrace pod says of each, and what du and /proc say."""
    command = [sys.executable, "-m", "kubetrace", "pod", "-o", "json", *(one["queries"]["pod"] for one in made)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    for one, line in zip(made, said, strict=True):
        one["page"] = json.loads(line)
        # of this moment, and CPU time goes on
        one["page"]["use"] = None
        pid = one["pid"]
        paths = [one["writable"], os.path.dirname(one["log"]), os.path.dirname(one["volume"])]
        layers = [path for kind, path in one["queries"].items() if kind.startswith("layer ")]
        one["truth"] = {
            "du": {path: du(path) for path in paths if path is not None},
            "layers": {path.removesuffix("/etc"): layer_takes(path.removesuffix("/etc")) for path in layers},
            "namespaces": {kind: os.stat(f"/proc/{pid}/ns/{kind}").st_ino for kind in NAMESPACES},
            "node": {kind: os.stat(f"/proc/1/ns/{kind}").st_ino for kind in NAMESPACES},
            "users": [
                [int(part) for part in line.split()] for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()
            ],
            "comm": Path(f"/proc/{pid}/comm").read_text().rstrip(),
        }


NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")


def layer_takes(path: str) -> list[int]:
    """Of containerd's the directory and two blocks, the snapshot's own and its work; of CRI-O's all of the layer's.

    erofs has a layer in one file.
    """
    blob = f"{os.path.dirname(path)}/layer.erofs"
    taken, inodes = du(blob if os.path.exists(blob) else path)
    if not path.endswith("/diff"):
        return [taken + 8192, inodes]
    directory = os.path.dirname(path)
    taken, inodes = du(directory)
    store, layer = os.path.dirname(os.path.dirname(directory)), os.path.basename(directory)
    link = Path(f"{directory}/link").read_text()
    for other in (f"{store}/overlay/l/{link}", f"{store}/overlay-layers/{layer}.tar-split.gz"):
        taken, inodes = taken + os.lstat(other).st_blocks * 512, inodes + 1
    return [taken, inodes]


def du(path: str) -> list[int]:
    """Bytes and inodes, by du."""
    found = []
    for options in (["--block-size=1"], ["--inodes"]):
        done = subprocess.run(["du", "-s", "-x", *options, path], stdout=subprocess.PIPE, check=True, text=True)
        found.append(int(done.stdout.split()[0]))
    return found


def said_of_hidden(one: dict[str, Any], node: Node, attributor: Attributor) -> dict[str, Any]:
    command = [sys.executable, "-m", "kubetrace", "who", "-o", "json", *one["queries"].values()]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    root, pod = [json.loads(line) for line in said]
    (own,) = [container for container in pod["containers"] if container["container_id"] == one["container_id"]]
    (answer,) = Lookup(Host.find("/")).answers(f"{own['upperdir']}/tmp")
    return {
        "root": root["container_id"],
        "mounted": own["root"],
        "upperdir": own["upperdir"],
        "writable": answer.identity.container_id,
    }


def volumes_asked(one: dict[str, Any], destinations: Destinations) -> dict[str, Any]:
    said = {}
    for point in ("/tools", "/vault", "/db", "/data"):
        (at,) = [mount for mount in mounts(one["pid"]) if mount[2] == point]
        said[point] = destinations.of(mounted(at), None).text
    command = [sys.executable, "-m", "kubetrace", "who", "-o", "json", "shop/volumes-0"]
    (pod,) = [
        json.loads(line) for line in subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    ]
    (own,) = [container for container in pod["containers"] if container["container"] == "app"]
    return {"writes": said, "mounts": {mount["at"]: mount["image"] or mount["volume"] for mount in own["mounts"]}}


def mounted(mount: tuple[str, str, str, str, str]) -> Mounted:
    device, root, point, fstype, _ = mount
    major, _, minor = device.partition(":")
    return Mounted(int(major) << 20 | int(minor), fstype, "", root, point, False, False, time.clock_gettime_ns(7))


def mounts(pid: int | str) -> list[tuple[str, str, str, str, str]]:
    """(device, root, mount point, type, options) of a process's mounts, read without kubetrace."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        found.append((fields[2], fields[3], fields[4], rest[0], rest[2]))
    return found


def upperdir(one: dict[str, Any]) -> str | None:
    for _, _, point, _, options in mounts("self"):
        if point == one["root"]:
            found = [option for option in options.split(",") if option.startswith("upperdir=")]
            return found[0].partition("=")[2] if found else None
    return None


def writable(one: dict[str, Any]) -> str | None:
    """The directory of the container's writable layer: an overlay's, or what is bound as its root."""
    if (upper := upperdir(one)) is not None:
        return upper
    for device, root, point, _, _ in mounts("self"):
        if point == one["root"] and "/snapshots/" in root:
            # where that disk's directory is bound: its mount whose root is nearest above
            above = [
                (r, p) for d, r, p, _, _ in mounts("self") if d == device and root.startswith(f"{r}/") and r != "/"
            ]
            nearest, at = max(above, key=lambda pair: len(pair[0]))
            return at + root[len(nearest) :]
    return None


def backing_file(one: dict[str, Any]) -> str | None:
    """The file that a container's root is a loop device of."""
    device = next(device for device, _, point, _, _ in mounts("self") if point == one["root"])
    with contextlib.suppress(OSError):
        return Path(f"/sys/dev/block/{device}/loop/backing_file").read_text().strip()
    return None


def queries(one: dict[str, Any]) -> dict[str, str]:
    container_id = one["container_id"]
    cgroup = next(
        line.split(":", 2)[2]
        for line in Path(f"/proc/{one['pid']}/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    unified = next(point for _, _, point, fstype, _ in mounts("self") if fstype == "cgroup2")
    found = {
        "pid": f"pid:{one['pid']}",
        "id": container_id[:12],
        "cgroup": f"{unified}{cgroup}",
        "root": f"{one['root']}/app/config.ini",
        "volume": one["volume"],
        "log": one["log"],
        "pod": f"shop/{one['pod']}",
    }
    # asked for whole, as an id cut to 12 digits is shown as it was found
    found["id"] = container_id
    directory = one["writable"]
    if directory is not None:
        found["writable"] = f"{directory}/tmp/x"
        for number, layer in image_layers(directory).items():
            found[f"layer {number}"] = f"{layer}/etc"
    elif one["snapshot"] is not None:
        found["writable"] = one["snapshot"] + "/"
    return found


def image_layers(directory: str) -> dict[int, str]:
    """Number of the image's layer -> its directory beside a writable one, by what is in it."""
    found: dict[int, str] = {}
    layer = directory.rstrip("/").removesuffix("/fs").removesuffix("/diff")
    beside = os.path.dirname(layer)
    for name in sorted(os.listdir(beside)):
        inner = next(
            (f"{beside}/{name}{end}" for end in ("/fs", "/diff") if os.path.isdir(f"{beside}/{name}{end}")), ""
        )
        inner = inner or f"{beside}/{name}"
        if f"{beside}/{name}" == layer or os.path.exists(f"{inner}/etc/hostname") or name == "l":
            continue  # writable ones
        if os.path.exists(f"{inner}/database"):
            continue  # another image's
        for mark, number, _ in support.MARKS:
            if os.path.exists(f"{inner}/{mark}"):
                found.setdefault(number, inner)
                break
    return found


def destination(one: dict[str, Any], destinations: Destinations) -> dict[str, str]:
    said = {}
    for what, point in (("root", "/"), ("volume", "/cache")):
        for mount in mounts(one["pid"]):
            if mount[2] == point:
                found = destinations.of(mounted(mount), None)
                said[what] = found.text
                said[f"{what} counted"] = str(found.counted_as_ephemeral)
    return said


def layers(one: dict[str, Any], node: Node, attributor: Attributor, learn: Any) -> list[dict[str, Any]]:
    """What a copy-up of each layer of the container's overlay would be told with, the topmost first."""
    device = next(
        (d for d, _, point, fstype, _ in mounts("self") if point == one["root"] and fstype == "overlay"), None
    )
    if device is None:
        return []
    major, _, minor = device.partition(":")
    number = int(major) << 20 | int(minor)
    learn(node.layers(number))
    learn(node.layers_again())
    now = time.clock_gettime_ns(7)
    found = [attributor.layer(number, index, now, one["container_id"]) for index in (1, 2, 3, 4)]
    return [asdict(layer) if layer is not None else {} for layer in found]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
