"""Reads what the node's files say of its agents: what they and the pods use, and which address is which pod's.

One look gives records (node_record.py) as a batch of the stream `node`; conclusions are the board's.
"""

from __future__ import annotations

import ipaddress
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kubetrace.attribution.cgroup_path import is_own, parse
from kubetrace.attribution.facts import CgroupSeen, MountSeen
from kubetrace.node.cgroup_files import Hierarchies, read
from kubetrace.node.reading import listed, read_regular
from kubetrace.stream.layout import RING_HEADER_BYTES, Batch
from kubetrace.tracers.kubelet.node_record import (
    ADDRESS,
    AGENT,
    CLOCK,
    KINDS,
    LAYOUT,
    POD,
    STREAM,
    TEXT_BYTES,
)
from kubetrace.tracers.kubelet.watched import Watched

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout

# Names of processes (15 bytes of them) that are agents; k3s' server and microk8s' kubelite have a kubelet in them.
_AGENTS: Final = (
    *("kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s", "containerd", "crio", "conmon", "dockerd"),
    "containerd-shim",
)
_SHIM_ID = re.compile(rb"\0-id\0([0-9a-f]{64})\0")
_LOOK_AGAIN_S: Final = 5.0
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# Of one node; more are made up. An etc-hosts is some hundred bytes.
_MOST_PODS: Final = 2_000
_MOST_AGENTS: Final = 2_000
_MOST_BYTES: Final = 65_536
_MANAGED: Final = b"# Kubernetes-managed hosts file"


_PACK = struct.Struct(f"<{RING_HEADER_BYTES}x{LAYOUT.format[1:]}").pack


class NodeReads:
    """Looks at them (stream.live.Gauges). For one thread."""

    layouts: Mapping[str, Layout] = {STREAM: LAYOUT}
    complete = True

    def __init__(self, host: Host) -> None:
        """Nothing is read yet."""
        self._host = host
        self._hierarchies = Hierarchies()
        self._cgroups: dict[str, dict[int, int]] = {}
        self._own: dict[int, int] = {}
        self._agents: dict[int, tuple[bytes, bytes]] = {}
        self._scanned = -_LOOK_AGAIN_S
        self._addresses: dict[str, tuple[int, tuple[bytes, ...]]] = {}
        self._watched = Watched(host)
        self._soon = True

    @property
    def fds(self) -> Sequence[int]:
        """Readable when something was done to a file that is watched."""
        return self._watched.fds

    def stir(self) -> bool:
        """Note it with its time."""
        self._watched.read()
        return False

    def close(self) -> None:
        """No longer watch."""
        self._watched.close()

    def learn(self, fact: Fact) -> None:
        """Cgroups: pods', and the node's own."""
        if isinstance(fact, MountSeen):
            # a volume in memory: what is in it can be watched from now on
            self._soon |= "/pods/" in fact.mount_point
        if not isinstance(fact, CgroupSeen):
            return
        self._soon |= is_own(fact.path)
        if fact.path == "/":
            self._own[fact.hierarchy] = fact.cgroup_id
        elif is_own(fact.path) and parse(fact.path).container_id is None and len(self._cgroups) < _MOST_PODS:
            self._cgroups.setdefault(fact.path, {})[fact.hierarchy] = fact.cgroup_id

    def read(self, between: Callable[[], None] = lambda: None, *, whole: bool = False) -> list[Batch]:
        """A record for each of them."""
        if not self._hierarchies:
            self._hierarchies = Hierarchies.of(self._host)
        records: list[bytes] = []
        for found in (self._read_pods(), self._read_agents(), self._read_addresses()):
            for record in found:
                records.append(record)
                if not len(records) % 16:
                    between()
        records += self._read_changes(whole)
        records.append(self._record(CLOCK, self._own, number=int(whole)))
        return [Batch(STREAM, b"".join(records))]

    def _record(
        self,
        kind: int,
        ids: Mapping[int, int],
        *,
        number: int = 0,
        count: int = 0,
        time_ns: int = 0,
        pid: int = 0,
        address: bytes = b"",
        comm: bytes = b"",
        text: bytes = b"",
    ) -> bytes:
        now = time_ns or time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        memory = next((item for item in ids.items() if item[0]), (0, 0))
        text = text[:TEXT_BYTES]
        return _PACK(
            *(
                now,
                ids.get(0, 0),
                memory[1],
                number,
                count,
                memory[0],
                0,
                pid,
                len(text),
                kind,
                address,
                comm[:16],
                text,
            )
        )

    def _read_changes(self, whole: bool) -> Iterator[bytes]:
        self._watched.look(soon=self._soon)
        self._soon = False
        for change in self._watched.take(whole=whole):
            text = os.fsencode(change.pod_uid) + b"\0" + os.fsencode(change.name)
            yield self._record(
                KINDS.index(change.kind), self._own, number=change.duration_ns, count=change.count, text=text,
                time_ns=change.time_ns,
            )  # fmt: skip

    def _read_pods(self) -> Iterator[bytes]:
        for path, ids in list(self._cgroups.items()):
            used = self._cpu(path)
            if used is None:
                del self._cgroups[path]
            else:
                yield self._record(POD, ids, number=used)

    def _cpu(self, path: str) -> int | None:
        # nanoseconds; None where the cgroup is gone
        if (root := self._hierarchies.controllers.get("cpuacct")) is not None:
            text = read(f"{root}{path}/cpuacct.usage").strip()
            return int(text) if text.isdigit() else None
        for line in read(f"{self._hierarchies.unified}{path}/cpu.stat").splitlines():
            name, _, value = line.partition(b" ")
            if name == b"usage_usec" and value.isdigit():
                return int(value) * 1000
        return None

    def _read_agents(self) -> Iterator[bytes]:
        now = time.monotonic()
        if now - self._scanned >= _LOOK_AGAIN_S:
            self._scanned = now
            self._scan()
        for pid, (comm, sandbox) in list(self._agents.items()):
            stat = read(f"{self._host.proc}/{pid}/stat")
            fields = stat.rpartition(b")")[2].split()
            if len(fields) < 20 or not stat.partition(b"(")[2].startswith(comm):
                del self._agents[pid]
                continue
            # proc(5): utime and stime, fields 14 and 15
            used = (int(fields[11]) + int(fields[12])) * _TICK_NS
            yield self._record(AGENT, self._own, number=used, pid=pid, comm=comm, text=sandbox)

    def _scan(self) -> None:
        for name in listed(str(self._host.proc)):
            if not name.isdecimal() or int(name) in self._agents or len(self._agents) >= _MOST_AGENTS:
                continue
            comm = read(f"{self._host.proc}/{name}/comm").strip()
            if comm.decode("utf-8", "replace") not in _AGENTS or not self._is_nodes(name):
                continue
            sandbox = b""
            if comm == b"containerd-shim":
                match = _SHIM_ID.search(read(f"{self._host.proc}/{name}/cmdline"))
                sandbox = match[1] if match else b""
            self._agents[int(name)] = comm, sandbox

    def _is_nodes(self, pid: str) -> bool:
        # what runs in a container is that container's
        for line in read(f"{self._host.proc}/{pid}/cgroup").splitlines():
            if parse(os.fsdecode(line.partition(b":")[2].partition(b":")[2])).container_id is not None:
                return False
        return True

    def _read_addresses(self) -> Iterator[bytes]:
        left = _MOST_PODS
        seen = set()
        for root in self._host.places.kubelets:
            for uid in listed(self._host.path(f"{root}/pods")):
                path = self._host.path(f"{root}/pods/{uid}/etc-hosts")
                left -= 1
                if left < 0:
                    return
                try:
                    changed = os.stat(path).st_mtime_ns
                except (OSError, ValueError):
                    continue
                seen.add(uid)
                known = self._addresses.get(uid)
                if known is not None and known[0] == changed:
                    continue
                found = tuple(_addresses_in(path))
                before = known[1] if known is not None else ()
                self._addresses[uid] = changed, found
                yield from self._tell(uid, [one for one in before if one not in found], gone=True)
                yield from self._tell(uid, [one for one in found if one not in before])
        for uid in self._addresses.keys() - seen:
            yield from self._tell(uid, self._addresses.pop(uid)[1], gone=True)

    def _tell(self, uid: str, addresses: Sequence[bytes], *, gone: bool = False) -> Iterator[bytes]:
        for address in addresses:
            yield self._record(ADDRESS, self._own, number=int(gone), address=address, text=os.fsencode(uid))


def _addresses_in(path: str) -> Iterator[bytes]:
    # As kubelet's managedHostsFileContent writes it: behind names of its own a line for each of the pod's addresses.
    # A pod can write to it: what it says is believed of its own pod alone, and of the node's own it says nothing.
    try:
        text = read_regular(path, _MOST_BYTES)
    except (OSError, ValueError):
        return
    lines = text.splitlines()
    if not lines or not lines[0].startswith(_MANAGED) or b"host network" in lines[0]:
        return
    for line in lines[1:]:
        if line.startswith(b"# Entries added by HostAliases"):
            return
        words = line.split()
        if not words or words[0].startswith((b"#", b"127.", b"::1", b"fe00::")):
            continue
        try:
            found = ipaddress.ip_address(words[0].decode())
        except ValueError:
            continue
        if found.version == 4:
            yield bytes(10) + b"\xff\xff" + found.packed
        else:
            yield found.packed
