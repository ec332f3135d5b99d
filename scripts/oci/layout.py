"""An OCI image layout (opencontainers/image-spec, image-layout.md), as a directory and as one tar.

index.json names an image index for each tag, which names a manifest for each platform; containerd picks its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oci.layers import Layer

_OCI = "application/vnd.oci.image."
_NAME = "io.containerd.image.name"
_VARIANTS = {"arm64": {"variant": "v8"}}


class Layout:
    """Blobs by digest and the images that they make; `epoch` is when they count as created."""

    def __init__(self, epoch: int) -> None:
        """An empty one."""
        self._created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
        self._epoch = epoch
        self._blobs: dict[str, bytes] = {}
        self._images: list[dict[str, Any]] = []

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def platform(self, architecture: str, layers: Sequence[Layer], config: Mapping[str, Any]) -> dict[str, Any]:
        """Add one platform's image, with this configuration (image-spec, config.md); what an index says of it."""
        labels = {**config["Labels"], "org.opencontainers.image.created": self._created}
        platform = {"architecture": architecture, "os": "linux", **_VARIANTS.get(architecture, {})}
        described: dict[str, Any] = {
            **platform,
            "created": self._created,
            "config": {**config, "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": self._created, "created_by": layer.created_by} for layer in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}manifest.v1+json",
            "config": self._blob(_json(described), f"{_OCI}config.v1+json"),
            "layers": [self._blob(layer.data, f"{_OCI}layer.v1.tar+gzip") for layer in layers],
            "annotations": labels,
        }
        return {**self._blob(_json(manifest), f"{_OCI}manifest.v1+json"), "platform": platform}

    def tag(self, reference: str, platforms: Sequence[Mapping[str, Any]]) -> str:
        """Name an image of these platforms; its digest."""
        index = {"schemaVersion": 2, "mediaType": f"{_OCI}index.v1+json", "manifests": list(platforms)}
        entry = self._blob(_json(index), f"{_OCI}index.v1+json")
        entry["annotations"] = {
            _NAME: reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        self._images.append(entry)
        return str(entry["digest"])

    def write(self, directory: Path) -> None:
        """Write the layout as a directory, in place of what was there."""
        shutil.rmtree(directory, ignore_errors=True)
        for name, data in _files(self._images, self._blobs).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def write_tar(self, path: Path, reference: str) -> None:
        """Write the image of this name as one file, for `ctr images import`."""
        images = [image for image in self._images if image["annotations"][_NAME] == reference]
        wanted = [image["digest"] for image in images]
        # what a blob names it names by digest
        for digest in wanted:
            text = self._blobs[digest].decode() if self._blobs[digest].startswith(b"{") else ""
            wanted += [other for other in self._blobs if other in text and other not in wanted]
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in _files(images, {digest: self._blobs[digest] for digest in wanted}).items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(data), 0o644, self._epoch
                tar.addfile(entry, io.BytesIO(data))


def _files(images: Sequence[Mapping[str, Any]], blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "mediaType": f"{_OCI}index.v1+json", "manifests": images}),
        **{f"blobs/{digest.replace(':', '/')}": data for digest, data in sorted(blobs.items())},
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
