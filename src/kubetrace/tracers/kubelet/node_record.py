"""The shape of what is read off the node for it: one record for each thing, in one stream.

clock     that it was looked; `number` is 1 where the run ends
agent     a kubelet, container runtime or shim: its CPU since it began (/proc/PID/stat); `text`: a shim's sandbox
pod       a pod's own cgroup: its CPU since it was made
address   a pod's IP address, from the hosts file that the kubelet writes for it; `text`: its UID; `number` is 1
          where it is that no more
refresh, rotate, collect    what was done to files (watched.py); `text`: the pod's UID, a NUL, and the name
"""

from __future__ import annotations

from typing import Final

from kubetrace.stream.layout import Field, Layout

STREAM: Final = "node"
KINDS: Final = ("clock", "agent", "pod", "address", "refresh", "rotate", "collect")
CLOCK, AGENT, POD, ADDRESS, REFRESH, ROTATE, COLLECT = range(len(KINDS))
TEXT_BYTES: Final = 320


def _layout() -> Layout:
    fields, at = [], 0
    for name, unit in (
        *(("time", "boot_ns"), ("cgroup_id", "cgroup_id"), ("memory_cgroup_id", "cgroup_id")),
        *(("number", "duration_ns"), ("count", "")),
    ):
        fields.append(Field(name, at, 8, "unsigned", unit))
        at += 8
    for name, unit in (("memory_hierarchy", "hierarchy"), ("device", "dev"), ("pid", ""), ("text_bytes", "")):
        fields.append(Field(name, at, 4, "unsigned", unit))
        at += 4
    fields.append(Field("kind", at, 4, "unsigned", "", KINDS))
    at += 4
    for name, size in (("address", 16), ("comm", 16), ("text", TEXT_BYTES)):
        fields.append(Field(name, at, size, "bytes"))
        at += size
    return Layout("kubelet_node", at, tuple(fields))


LAYOUT = _layout()
