"""Where the node's root is, and that its symbolic links stay inside it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

import pytest

from kubetrace.errors import NodeError
from kubetrace.node.host import CgroupMounts, Host
from kubetrace.node.reading import read_regular


def test_root_that_is_no_directory_is_a_node_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as failed:
        Host.find(tmp_path / "nothing")
    assert failed.value.why and failed.value.do


def test_override_is_the_root(tmp_path: Path) -> None:
    host = Host.find(str(tmp_path))
    assert host.root == tmp_path
    assert host.proc == tmp_path / "proc"
    assert host.path("/var/log") == f"{tmp_path}/var/log"


def test_paths_on_the_node_itself_are_unchanged() -> None:
    assert Host(Path("/")).path("/var/log/../x") == "/var/log/../x"


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "run/lock").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "var/up").symlink_to("../../../../run")
    (tmp_path / "var/chain").symlink_to("run/lock")
    host = Host(tmp_path)
    assert host.path("/var/run/containerd") == f"{tmp_path}/run/containerd"
    assert host.path("/var/up/x") == f"{tmp_path}/run/x"
    assert host.path("/var/chain") == f"{tmp_path}/run/lock"
    assert host.path("/../../etc//./passwd") == f"{tmp_path}/etc/passwd"
    assert host.path("/").rstrip("/") == str(tmp_path)


def test_link_loop_never_leads_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/../a")
    (tmp_path / "b").symlink_to("/a")
    for path in ("/a", "/b/passwd", "/a/etc/passwd"):
        with pytest.raises(OSError):
            os.stat(Host(tmp_path).path(path))


def test_names_of_any_bytes_can_be_asked_for(tmp_path: Path) -> None:
    assert Host(tmp_path).path("/\udcff\n") == f"{tmp_path}/\udcff\n"
    assert Host(tmp_path).path("/a\0b") == f"{tmp_path}/a\0b"


def test_root_of_pid_1_is_preferred(tmp_path: Path) -> None:
    # A debug pod's /host is a private copy: new mounts are only below PID 1's root.
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "node").mkdir()
    (tmp_path / "proc/1/root").symlink_to(tmp_path / "node")
    assert Host(tmp_path).path("/run") == f"{tmp_path}/proc/1/root/run"
    (tmp_path / "proc/1/root").unlink()
    (tmp_path / "proc/1/root").symlink_to(tmp_path / "gone")
    assert Host(tmp_path).path("/run") == f"{tmp_path}/run"


def test_node_name_is_the_host_name_in_lower_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("Worker-1\n")
    assert Host(tmp_path).node_name() == "worker-1"
    # a pod in the node's network has the node's own name, whatever a file says
    (tmp_path / "proc/1/ns").mkdir(parents=True)
    (tmp_path / "proc/1/ns/uts").symlink_to("/proc/self/ns/uts")
    assert Host(tmp_path).node_name() == os.uname().nodename.lower()
    (tmp_path / "proc/1/ns/uts").unlink()
    (tmp_path / "etc/hostname").unlink()
    assert Host(tmp_path).node_name() == os.uname().nodename.lower()
    monkeypatch.setenv("NODE_NAME", "ip-10-0-0-1.ec2.internal")
    assert Host(tmp_path).node_name() == "ip-10-0-0-1.ec2.internal"


def test_kernel_release(tmp_path: Path) -> None:
    assert Host(tmp_path).kernel_release() == os.uname().release
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0-56-amd64\n")
    assert Host(tmp_path).kernel_release() == "6.1.0-56-amd64"


def test_boot_time_and_offset_make_the_wall_clock() -> None:
    # the time between two looks at clocks is not bounded; what is between them is
    before, boot, after = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    assert before - 1_000_000_000 < boot + Host.boot_to_wall_ns() < after + 1_000_000_000


def mounts(root: Path, mountinfo: str, cgroup: str = "") -> CgroupMounts:
    (root / "proc/1").mkdir(parents=True, exist_ok=True)
    (root / "proc/1/mountinfo").write_text(mountinfo)
    (root / "proc/1/cgroup").write_text(cgroup)
    return Host(root).cgroup_mounts()


V2 = "30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
MEMORY = "31 24 0:58 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def test_cgroup_mounts_of_v2_v1_and_hybrid_nodes(tmp_path: Path) -> None:
    lines = "12:name=systemd:/\n4:memory:/x\n0::/\n"
    assert mounts(tmp_path, V2, "0::/\n") == CgroupMounts("/sys/fs/cgroup", None, 0)
    assert mounts(tmp_path, MEMORY, lines) == CgroupMounts(None, "/sys/fs/cgroup/memory", 4)
    hybrid = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + MEMORY
    assert mounts(tmp_path, hybrid, lines) == CgroupMounts("/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", 4)


def test_memory_mounted_together_with_other_controllers(tmp_path: Path) -> None:
    text = "31 24 0:58 / /sys/fs/cgroup/cpu,memory rw - cgroup cgroup rw,cpu,memory\n"
    assert mounts(tmp_path, text, "9:cpu,memory:/\n") == CgroupMounts(None, "/sys/fs/cgroup/cpu,memory", 9)


def test_bind_mount_of_a_subtree_is_not_the_hierarchy(tmp_path: Path) -> None:
    bind = V2.replace(" / /sys", " /kubepods/pod1 /mnt/sys")
    assert mounts(tmp_path, bind + V2).unified == "/sys/fs/cgroup"


def test_root_seen_from_another_cgroup_namespace_is_the_hierarchy(tmp_path: Path) -> None:
    assert mounts(tmp_path, V2.replace(" / /sys", " /../../.. /sys")).unified == "/sys/fs/cgroup"


def test_no_cgroup_mount_is_a_node_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError):
        mounts(tmp_path, "30 24 0:24 / /tmp rw - tmpfs tmpfs rw\n")


def test_read_regular_reads_whole_files_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 23)
    assert read_regular(str(path), 23) == b"x" * 23
    with pytest.raises(OSError) as failed:
        read_regular(str(path), 22)
    assert failed.value.errno == errno.EFBIG
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError) as failed:
        read_regular(str(tmp_path / "fifo"), 22)
    assert failed.value.errno == errno.EINVAL
    # Files of /proc have no size until they are read.
    assert read_regular("/proc/self/stat", 1 << 16)
    with pytest.raises(OSError):
        read_regular("/proc/self/stat", 3)


def test_inode_numbers_of_this_machines_cgroups_are_the_same_by_both_ways() -> None:
    mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
    tops = [line.split(" ")[4] for line in mountinfo if " - cgroup" in line]
    if not tops:
        pytest.skip("no cgroup file system is mounted here; run where one is")
    for top in tops:
        with os.scandir(top) as entries:
            for entry in entries:
                # tests beside this one make and remove some
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        assert entry.inode() == os.stat(entry.path).st_ino
