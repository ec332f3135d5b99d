"""Names and paths as tokens, so that an export can be shared: equal names stay equal, nothing else is left of them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from typing import Any

# Keys whose texts are our own words or the kernel's in every object; a tracer names its own (kit.tracer.Tracer.ours).
# Every other text is somebody's name.
_OURS = frozenset({"type", "time", "qos_class", "attributed_by", "names_from", "hook", "tracer", "kernel"})
_PATHS = frozenset({"path", "cgroup_path", "mount_point", "upperdir", "workdir", "lowerdir"})
_DIGITS = 10


class Redactor:
    """Replaces texts by tokens: pod-4f0c2a9d1e. Without a key the tokens of two exports have nothing in common."""

    def __init__(self, key: str | None = None) -> None:
        """`key`: the same one gives the same tokens; keep it secret, for names can be guessed and tried with it."""
        self._key = key.encode("utf-8", "surrogateescape") if key is not None else secrets.token_bytes(32)

    def record(self, record: Mapping[str, Any], ours: Collection[str] = ()) -> dict[str, Any]:
        """The same object with tokens for names and paths; numbers, booleans and None stay, and what is `ours`."""
        return {key: value if key in ours else self.value(key, value) for key, value in record.items()}

    def value(self, key: str, value: Any) -> Any:
        """One value of that key."""
        if key in _OURS:
            return value
        if isinstance(value, (str, bytes)):
            data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
            if key in _PATHS or data.startswith(b"/"):
                # One token for each name, so that a directory's files stay together and depth is seen.
                return "/".join(self.token("name", part) if part else "" for part in data.split(b"/"))
            return self.token(key, data) if data else value
        if isinstance(value, Mapping):
            return {name: self.value(name, item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(key, item) for item in value]
        return value

    def token(self, key: str, data: bytes) -> str:
        """`key`-DIGITS, of a keyed hash of the text alone: a name has one token wherever it stands under that key."""
        digest = hmac.new(self._key, key.encode() + b"\0" + data, hashlib.sha256).hexdigest()
        return f"{key.removesuffix('_id')}-{digest[:_DIGITS]}"
