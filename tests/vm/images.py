"""OCI images for the test node, made here byte for byte: no registry, no Dockerfile, the same digests on every run.

Three images: `PAUSE` for the sandboxes, and an application image in two flavours that share their three layers.
Layer 1 is busybox, layer 2 the application's files, layer 3 replaces, hides and adds some of them. The files are chosen
for what copying them up can show: sizes from 0 bytes to 16 MiB, a sparse one, hard links, symbolic links, a deep
directory, and 300 small ones for a steady workload.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

PAUSE = "registry.example/pause:3.9"
WEB = "registry.example/shop/web:1.4"
BATCH = "registry.example/jobs/batch:7"
DATABASE = "registry.example/shop/database:9"

# As builders write it: an entry for each line of the Dockerfile, those without a layer marked.
APP_LINE = "COPY app /app # buildkit"
TOP_LINE = "RUN /bin/sh -c make-big-files /app # buildkit"
HISTORY: list[dict[str, object]] = [
    {"created_by": "/bin/sh -c #(nop) ADD file:busybox in / "},
    {"created_by": "ENV APP", "empty_layer": True},
    {"created_by": APP_LINE},
    {"created_by": "WORKDIR /", "empty_layer": True},
    {"created_by": TOP_LINE},
    {"created_by": 'CMD ["/bin/sh"]', "empty_layer": True},
]

BIG_BYTES = 16 << 20
SPARSE_BYTES = 8 << 20
SMALL_FILES = 300

# The applets that the node's containers and the kernel tests call.
APPLETS = (
    *("ash", "awk", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep"),
    *("head", "id", "kill", "ln", "ls", "mkdir", "mknod", "mktemp", "mount", "mv", "od", "printf", "ps", "pwd", "rm"),
    *("rmdir", "sed", "seq", "sh", "sleep", "sort", "stat", "sync", "tail", "tar", "tee", "test", "time", "timeout"),
    *("touch", "tr", "true", "truncate", "umount", "uname", "usleep", "wc", "xargs", "yes"),
)

_PAUSE_C = """
#include <signal.h>
#include <unistd.h>

static void stop(int number) { (void)number; _exit(0); }

int main(void)
{
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	for (;;)
		pause();
}
"""


@dataclass
class Layer:
    """One layer of an image, as an uncompressed tar file in memory."""

    _buffer: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._directories: set[str] = set()

    def _add(self, path: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
        for parent in reversed(Path(path).parents):
            if str(parent) != "." and str(parent) not in self._directories:
                self.directory(str(parent))
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
        entry.mtime = 1_700_000_000
        self._tar.addfile(entry, io.BytesIO(data))

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory; those above it are added as needed."""
        if path not in self._directories:
            self._directories.add(path)
            self._add(path, tarfile.DIRTYPE, mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, tarfile.REGTYPE, mode, data)

    def hard_link(self, path: str, target: str) -> None:
        """Add a further name for a file of this layer."""
        self._add(path, tarfile.LNKTYPE, 0o644, link=target)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, tarfile.SYMTYPE, 0o777, link=target)

    def hide(self, path: str) -> None:
        """Hide a file of a lower layer."""
        directory, _, name = path.rpartition("/")
        self.file(f"{directory}/.wh.{name}", b"")

    def tar(self) -> bytes:
        """The layer's bytes."""
        self._tar.close()
        return self._buffer.getvalue()


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that no file system can compress away or leave as a hole, the same for the same seed."""
    block = b"".join(hashlib.sha256(b"%d %d" % (seed, index)).digest() for index in range(128))
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


def small_file_bytes(index: int) -> int:
    """Size of /app/data/NNN.dat: from 1 byte to about 36 KiB."""
    return 1 + (index * 7919) % 36_863


def base_layer(busybox: bytes) -> bytes:
    """Layer 1: busybox under its applets' names, and what a root file system has."""
    layer = Layer()
    layer.file("bin/busybox", busybox, 0o755)
    for name in APPLETS:
        layer.symlink(f"bin/{name}", "busybox")
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/app:/bin/sh\n")
    layer.file("etc/group", b"root:x:0:\napp:x:1000:\n")
    layer.directory("root", 0o700)
    layer.directory("tmp", 0o1777)
    layer.directory("var/log")
    for name in ("proc", "sys", "dev", "run"):
        layer.directory(name)
    return layer.tar()


def app_layer() -> bytes:
    """Layer 2: the application's files."""
    layer = Layer()
    layer.file("app/empty", b"")
    layer.file("app/one-byte", b"1")
    layer.file("app/config.ini", b"[app]\nlevel = 1\n")
    layer.file("app/hidden", b"layer 3 hides this file\n")
    layer.file("app/rename-me", pattern(5000, 1))
    layer.file("app/hundred-kib", pattern(100 << 10, 2))
    layer.file("app/one-mib", pattern(1 << 20, 3))
    layer.file("app/links/first", pattern(7000, 4))
    layer.hard_link("app/links/second", "app/links/first")
    layer.hard_link("app/links/third", "app/links/first")
    layer.symlink("app/links/symbolic", "first")
    layer.symlink("app/links/dangling", "nowhere")
    for depth, name in enumerate(("a", "b", "c", "deep")):
        directory = "/".join(("app", "a", "b", "c", "deep")[: depth + 2])
        layer.file(f"{directory}/{name}.txt", pattern(3000 + depth, 5))
    layer.file("app/logs/app.log", b"started\n")
    layer.file("app/logs/access.log", pattern(20_000, 6))
    for index in range(SMALL_FILES):
        layer.file(f"app/data/{index:03}.dat", pattern(small_file_bytes(index), index))
    return layer.tar()


def top_layer() -> bytes:
    """Layer 3: the big files, one file replaced, one hidden.

    A tar file written plainly has no holes; the node punches those of /app/sparse after unpacking (node.py).
    """
    layer = Layer()
    layer.file("app/big", pattern(BIG_BYTES, 7))
    layer.file("app/sparse", pattern(4096, 8) + bytes(SPARSE_BYTES - 8192) + pattern(4096, 9))
    layer.file("app/config.ini", b"[app]\nlevel = 3\n")
    layer.hide("app/hidden")
    return layer.tar()


def database_layer(busybox: bytes) -> bytes:
    """The one layer of DATABASE, which no other image has."""
    layer = Layer()
    layer.file("bin/busybox", busybox, 0o755)
    for name in ("sh", "sleep"):
        layer.symlink(f"bin/{name}", "busybox")
    for name in ("data", "database", "dev", "etc", "proc", "sys", "tmp"):
        layer.directory(name)
    return layer.tar()


def build_pause(work: Path) -> bytes:
    """A static program that waits, as the sandbox's own process."""
    source, binary = work / "pause.c", work / "pause"
    source.write_text(_PAUSE_C)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", binary, source], check=True)
    return binary.read_bytes()


class Layout:
    """An OCI image layout, collected in memory and written as the tar file that `ctr images import` reads."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._manifests: list[dict[str, object]] = []

    def _blob(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def add(
        self,
        reference: str,
        layers: list[bytes],
        command: list[str],
        environment: list[str],
        history: list[dict[str, object]] | None = None,
        volumes: tuple[str, ...] = (),
    ) -> None:
        """Add an image under its full reference; `history` and `volumes` (VOLUME) are those of its configuration."""
        oci = "application/vnd.oci.image."
        described = [self._blob(layer, oci + "layer.v1.tar") for layer in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {
                "Cmd": command,
                "Env": ["PATH=/bin", *environment],
                "WorkingDir": "/",
                **({"Volumes": {path: {} for path in volumes}} if volumes else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]},
            **({"history": history} if history else {}),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci + "manifest.v1+json",
            "config": self._blob(_json(config), oci + "config.v1+json"),
            "layers": described,
        }
        entry = self._blob(_json(manifest), oci + "manifest.v1+json")
        entry["annotations"] = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        self._manifests.append(entry)

    def write(self, path: Path) -> None:
        """Write the layout as a tar file, the same bytes for the same images."""
        index = {"schemaVersion": 2, "manifests": self._manifests}
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in (
                ("oci-layout", _json({"imageLayoutVersion": "1.0.0"})),
                ("index.json", _json(index)),
                *((f"blobs/sha256/{digest}", data) for digest, data in self._blobs.items()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
                tar.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def write(path: Path, busybox: Path, pause: bytes, *, database: bool = False) -> None:
    """Write all images of the test node into one layout at `path`; `database`: DATABASE too, which has a VOLUME."""
    layout = Layout()
    layer = Layer()
    layer.file("pause", pause, 0o755)
    layout.add(PAUSE, [layer.tar()], ["/pause"], [])
    layers = [base_layer(busybox.read_bytes()), app_layer(), top_layer()]
    layout.add(WEB, layers, ["/bin/sh"], ["APP=web"], HISTORY)
    layout.add(BATCH, layers, ["/bin/sh"], ["APP=batch"], HISTORY)
    if database:
        own = database_layer(busybox.read_bytes())
        layout.add(DATABASE, [own], ["/bin/sh"], ["APP=database"], volumes=("/data",))
    layout.write(path)
