"""Makes this directory's files with a real containerd: images of known layers in, its databases and ctr's answers out.

    unshare --mount --pid --fork --ipc --uts --cgroup --mount-proc --propagation private python3 make.py

As root, with containerd 1.6 and xz; no network, no runc, no registry. The containerd's root is /var/lib/containerd on a
tmpfs of this mount namespace, so that paths are those of a node. Digests are the same on every run (fixed times); the
databases differ in times, and snapshot numbers may.
"""

import hashlib
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = Path("/var/lib/containerd")
OCI = "application/vnd.oci.image."
CONTAINERS = (
    ("registry.example/shop/web:1.4", "a" * 64),
    ("registry.example/jobs/batch:7", "b" * 64),
    ("registry.example/deep/tower:120", "d" * 64),
    ("registry.example/plain/bare:1", "e" * 64),
)


def layer(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), 1_700_000_000
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Layout:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: list[dict[str, object]] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": OCI + media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def json(self, value: object, media_type: str) -> dict[str, object]:
        return self.blob(json.dumps(value, sort_keys=True).encode(), media_type)

    def image(
        self, layers: list[bytes], history: list[dict[str, object]] | None, name: str, architecture: str = "amd64"
    ) -> dict[str, object]:
        described = [self.blob(data, "layer.v1.tar") for data in layers]
        config: dict[str, object] = {
            "architecture": architecture,
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", f"NAME={name}"]},
            "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in described]},
        }
        if history is not None:
            config["history"] = history
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": self.json(config, "config.v1+json"),
            "layers": described,
        }
        return self.json(manifest, "manifest.v1+json")

    def add(self, reference: str, entry: dict[str, object]) -> None:
        names = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        self.manifests.append({**entry, "annotations": names})

    def write(self, path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in (
                ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
                ("index.json", json.dumps({"schemaVersion": 2, "manifests": self.manifests}).encode()),
                *((f"blobs/sha256/{digest}", data) for digest, data in self.blobs.items()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def empty(line: str) -> dict[str, object]:
    return {"created": "2023-11-14T22:13:20Z", "created_by": line, "empty_layer": True}


def step(line: str) -> dict[str, object]:
    return {"created": "2023-11-14T22:13:20Z", "created_by": line}


def layout() -> Layout:
    made = Layout()
    base = layer(**{"bin/sh": "#!", "etc/os-release": "ID=tiny\n"})
    app = layer(**{"app/main": "code", "app/logs/app.log": "started\n"})
    top = layer(**{"app/config.ini": "[app]\n"})
    jobs = layer(**{"jobs/run": "code"})
    # An index as a registry has it: this platform's manifest, another one, and what BuildKit attests.
    web = made.image(
        [base, app, top],
        [
            step("/bin/sh -c #(nop) ADD file:5c3dd0c8d2ab1b3a5d4b9f0d4c0c1f5d in / "),
            empty('/bin/sh -c #(nop)  CMD ["/bin/sh"]'),
            empty("ENV NAME=web"),
            step("RUN /bin/sh -c mkdir -p /app/logs && make install # buildkit"),
            empty("WORKDIR /app"),
            step("COPY config.ini /app/ # buildkit"),
            empty('CMD ["/bin/sh"]'),
        ],
        "web",
    )
    other = made.image([layer(**{"bin/sh": "arm"})], [step("ADD arm64 root")], "web", "arm64")
    attested = made.image([layer(attestation="{}")], None, "attestation", "unknown")
    entries: list[dict[str, object]] = [
        {
            **attested,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            "platform": {"architecture": "unknown", "os": "unknown"},
        },
        {**other, "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
        {**web, "platform": {"architecture": "amd64", "os": "linux"}},
    ]
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries}
    made.add("registry.example/shop/web:1.4", made.json(index, "index.v1+json"))
    made.add(
        "registry.example/jobs/batch:7",
        made.image(
            [base, app, jobs],
            [
                step("/bin/sh -c #(nop) ADD file:5c3dd0c8d2ab1b3a5d4b9f0d4c0c1f5d in / "),
                step("RUN /bin/sh -c mkdir -p /app/logs && make install # buildkit"),
                empty("ENV NAME=batch"),
                step("|1 SPEED=9 /bin/sh -c make jobs"),
            ],
            "batch",
        ),
    )
    # The web image again with another configuration: all its layers are shared.
    made.add("registry.example/shop/web:1.4-debug", made.image([base, app, top], None, "web-debug"))
    made.add("registry.example/plain/bare:1", made.image([base, layer(bare="x")], None, "bare"))
    deep = [layer(**{f"deep/{number:03}": str(number)}) for number in range(1, 121)]
    made.add(
        "registry.example/deep/tower:120",
        made.image(deep, [step(f"RUN build floor {number}") for number in range(1, 121)], "tower"),
    )
    return made


def ctr(*arguments: str) -> str:
    command = ["ctr", "-n", "k8s.io", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    for directory in (ROOT, Path("/run")):
        directory.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    config = ROOT / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    daemon = subprocess.Popen(["containerd", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        time.sleep(0.1)
        if subprocess.run(["ctr", "version"], capture_output=True).returncode == 0:
            break
    made = layout()
    made.write(ROOT / "images.tar")
    ctr("images", "import", "--all-platforms", str(ROOT / "images.tar"))
    # As the CRI plugin names an image: by its id and by its digest too.
    config_of_web = next(name for name, data in made.blobs.items() if b'"NAME=web"' in data and b'"amd64"' in data)
    ctr("images", "tag", "registry.example/shop/web:1.4", f"sha256:{config_of_web}")
    answers = []
    for reference, container in CONTAINERS:
        ctr("containers", "create", reference, container)
        answers.append(f"$ ctr snapshots mounts /m {container}\n" + ctr("snapshots", "mounts", "/m", container))
    # Mounted by containerd's own code, which shortens the lower directories of the deep one to relative names: where
    # the containers' roots would be, from snapshots of their own.
    for reference, container in CONTAINERS:
        target = Path(f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container}/rootfs")
        target.mkdir(parents=True)
        ctr("images", "mount", "--rw", reference, str(target))
    lines = Path("/proc/self/mountinfo").read_text().splitlines(True)
    (HERE / "mountinfo").write_text("".join(line for line in lines if "/rootfs " in line and " - overlay " in line))
    for words in (("images", "ls"), ("snapshots", "ls"), ("containers", "ls")):
        answers.append(f"$ ctr {' '.join(words)}\n" + ctr(*words))
    (HERE / "ctr.txt").write_text("\n".join(answers))
    daemon.terminate()
    daemon.wait()
    for database in ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"):
        name = database.rpartition("/")[2]
        (HERE / f"{name}.xz").write_bytes(lzma.compress((ROOT / database).read_bytes(), preset=9))
    blobs = HERE / "blobs"
    shutil.rmtree(blobs, ignore_errors=True)
    blobs.mkdir()
    for blob in sorted((ROOT / "io.containerd.content.v1.content/blobs/sha256").iterdir()):
        data = blob.read_bytes()
        if data.startswith(b"{"):
            (blobs / blob.name).write_bytes(data)


if __name__ == "__main__":
    main()
