"""What a node's kubelets were told about full disks: by their flags and their configuration files, as they stand.

Nothing is concluded here (attribution/eviction.py does): a setting that is not there is not there, and a file that
cannot be read is a problem. The kubelet's own answer (configz) needs credentials, and is not asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kubetrace.node import installed
from kubetrace.node.reading import listed, read_regular

if TYPE_CHECKING:
    from kubetrace.node.host import Host

_MAX_BYTES: Final = 1 << 20
_MOST_FILES: Final = 64

# Flag -> the field of KubeletConfiguration that it wins over.
FLAGS: Final[Mapping[str, str]] = {
    "eviction-hard": "evictionHard",
    "eviction-soft": "evictionSoft",
    "eviction-soft-grace-period": "evictionSoftGracePeriod",
    "image-gc-high-threshold": "imageGCHighThresholdPercent",
    "image-gc-low-threshold": "imageGCLowThresholdPercent",
}
_FIELDS: Final = (*FLAGS.values(), "mergeDefaultEvictionSettings")


@dataclass(frozen=True, slots=True)
class Settings:
    """One kubelet's. `values` by the fields of KubeletConfiguration, each with where it is from: a file, or a flag.

    `problem` says what could not be read: what is not in `values` is then not known to be the default.
    """

    values: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    problem: str | None = None


def settings(host: Host) -> Settings | None:
    """Those of the kubelet that runs on the node (of several, the first); None where none is seen to run."""
    for kubelet in installed.kubelets(host):
        return _of(host, kubelet)
    return None


def _of(host: Host, kubelet: installed.Kubelet) -> Settings:
    values: dict[str, tuple[Any, str]] = {}
    problem: str | None = None
    if kubelet.whole:
        files = [kubelet.config] if kubelet.config is not None else []
        if kubelet.config_directory is not None:
            names = listed(host.path(kubelet.config_directory))
            files += [f"{kubelet.config_directory}/{name}" for name in names if name.endswith(".conf")][:_MOST_FILES]
        for file in files:
            try:
                found = _read(host, file)
            except ValueError as error:
                problem = problem or f"{file} cannot be read: {error}"
                continue
            for name in _FIELDS:
                if name in found:
                    known = values.get(name, ({}, ""))[0]
                    value = found[name]
                    # a drop-in's keys go over those of the file before
                    joined = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
                    values[name] = joined, file
    else:
        problem = f"{kubelet.name} has the kubelet in it, and its own defaults are not known"
    for flag, name in FLAGS.items():
        if flag in kubelet.flags:
            values[name] = kubelet.flags[flag], f"--{flag}"
    return Settings(values, problem)


def _read(host: Host, file: str) -> Mapping[str, Any]:
    # Raises ValueError with what is wrong, in words.
    import yaml

    try:
        text = read_regular(host.path(file), _MAX_BYTES)
    except OSError as error:
        raise ValueError(error.strerror or os.strerror(error.errno or 0)) from error
    try:
        values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError("it is neither YAML nor JSON") from error
    if not isinstance(values, dict):
        raise ValueError("it holds no mapping")
    return values
