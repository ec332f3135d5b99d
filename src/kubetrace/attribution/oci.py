"""What an OCI image says of its layers: manifest, configuration and chain ids, from bytes that anyone may have written.

Formats: image-spec config.md, manifest.md and image-index.md; Docker's (schema 2) differ in media types only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

# overlayfs takes 500 lower layers at most (fs/overlayfs/ovl_entry.h, OVL_MAX_STACK).
MAX_LAYERS: Final = 500
# A Dockerfile line in facts and recordings; longer ones (here-documents) are cut, which the last character shows.
MAX_CREATED_BY: Final = 2_000

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
# Docker's classic builder writes the shell before every step, and "#(nop) " where none ran (builder/dockerfile); with
# build arguments "|COUNT NAME=VALUE ..." before the shell. BuildKit ends its lines with "# buildkit".
_SHELL = re.compile(r"(?:RUN )?(?:\|\d+ .*?)?/bin/sh -c (#\(nop\) )?")


@dataclass(frozen=True, slots=True)
class Config:
    """The layers of an image, the lowest first: their diff ids, and the history's line for each.

    `created_by` is as long as `diff_ids`; `problem` says why its items are all None.
    """

    diff_ids: tuple[str, ...]
    created_by: tuple[str | None, ...]
    problem: str | None = None


def is_digest(text: object) -> bool:
    """Whether it is a digest whose parts can be names of files (sha256:... or sha512:...)."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain id of each layer with all those below it (config.md, "Layer ChainID").

    The lowest layer's is its diff id; ChainID(n) = SHA256(ChainID(n-1) + " " + DiffID(n)).
    """
    import hashlib  # and with it OpenSSL, 3 MiB: only where a layer is looked up

    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            diff_id = "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode("utf-8", "surrogatepass")).hexdigest()
        chain.append(diff_id)
    return tuple(chain)


def load(data: bytes) -> dict[str, Any]:
    """The JSON object in a blob. ValueError if it is none."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def parse_config(data: bytes) -> Config:
    """An image's configuration (config.md). ValueError if it is none.

    A history entry that made no layer (`empty_layer`) is passed over. A history of another length than the layers says
    nothing certain about any of them.
    """
    config = load(data)
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) > MAX_LAYERS or not all(map(is_digest, diff_ids)):
        raise ValueError("no list of diff ids")
    history = config.get("history")
    steps = (
        [step for step in history or () if isinstance(step, dict) and step.get("empty_layer") is not True]
        if isinstance(history, list)
        else []
    )
    nothing = (None,) * len(diff_ids)
    if not steps:
        return Config(tuple(diff_ids), nothing, "the image has no history")
    if len(steps) != len(diff_ids):
        return Config(tuple(diff_ids), nothing, "the image's history has another number of layers than the image")
    return Config(tuple(diff_ids), tuple(_cut(step.get("created_by")) for step in steps))


def config_digest(manifest: Mapping[str, object]) -> str | None:
    """The digest of a manifest's configuration; None if it is an index or says none."""
    config = manifest.get("config")
    digest = config.get("digest") if isinstance(config, dict) else None
    return digest if is_digest(digest) else None


def manifests(index: Mapping[str, object], architecture: str) -> list[str]:
    """The digests of an index's manifests (image-index.md), those for this platform first; [] if it is not an index.

    `architecture` is Go's name of it (GOARCH). What is not an image (an attestation: platform unknown) is left out.
    """
    entries = index.get("manifests")
    ranked = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not is_digest(entry.get("digest")):
            continue
        platform = entry.get("platform")
        if not isinstance(platform, dict):
            rank = 1
        elif platform.get("os") == "unknown":
            continue
        else:
            rank = 0 if (platform.get("os"), platform.get("architecture")) == ("linux", architecture) else 2
        ranked.append((rank, entry["digest"]))
    return [digest for _, digest in sorted(ranked, key=lambda one: one[0])]


def full_name(reference: str) -> str:
    """A reference as containerd writes it: docker.io/library/nginx:latest for nginx (distribution/reference)."""
    if is_digest(reference) or not reference:
        return reference
    domain, slash, _ = reference.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost"):
        reference = f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"
    if "@" not in reference and ":" not in reference.rpartition("/")[2]:
        reference += ":latest"
    return reference


def best_reference(references: Iterable[str]) -> str | None:
    """The one to show: a name with a tag, else one with a digest, else an image id; None if there is none."""
    return min(references, key=lambda name: (is_digest(name), "@" in name, name), default=None)


@lru_cache(maxsize=512)  # it is asked for each event
def dockerfile_line(created_by: str) -> str:
    """A history's `created_by` as it stood in the Dockerfile, on one line: without what builders add to it."""
    line = " ".join(created_by.split()).removesuffix("# buildkit").rstrip()
    shell = _SHELL.match(line)
    if shell is None:
        return line
    rest = line[shell.end() :].lstrip()
    return rest if shell[1] else f"RUN {rest}"


def _cut(line: object) -> str | None:
    if not isinstance(line, str) or not line.strip():
        return None
    return line if len(line) <= MAX_CREATED_BY else line[: MAX_CREATED_BY - 1] + "…"
