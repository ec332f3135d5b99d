"""Copy-ups of real containers: what the tracer says against what stat and the runtime say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from kubetrace.attribution.mountinfo import told_directory
from kubetrace.engines.source import KernelSource
from kubetrace.tracers import find
from tests.vm import cri, images

from .conftest import SHELL, Case, Overlay, Tracer


@pytest.mark.each_kernel
def test_an_append_copies_the_whole_file(case: Case) -> None:
    (event,) = case.run("echo line >> /app/big")
    appended = os.stat(case.upper("/app/big")).st_size
    assert event["size_bytes"] == event["copied_bytes"] == appended - len("line\n") == images.BIG_BYTES
    assert (event["path"], event["kind"], event["error"]) == ("/app/big", "file", None)
    assert (event["cloned_bytes"], event["path_truncated"]) == (0, False)
    assert event["flags"] & os.O_APPEND and event["flags"] & 3 == os.O_WRONLY
    assert event["duration_ns"] > 0 and event["comm"] == "sh"


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_the_identity_is_the_runtimes(case: Case, pod: cri.Pod) -> None:
    (event,) = case.run("echo >> /app/one-byte")
    device = os.stat(case.container.rootfs).st_dev
    assert {
        "namespace": "shop",
        "pod": "cart-7d4b9c6f5d-x2x9z",
        "container": case.container.name,
        "pod_uid": pod.uid,
        "container_id": case.container.container_id,
        "image": images.WEB,
        "qos_class": "Burstable",
        "cgroup_id": case.container.cgroup_id,
        "host": False,
        "names_from": "config.json",
        "device": f"{os.major(device)}:{os.minor(device)}",
        "node": os.uname().nodename,
    }.items() <= event.items()
    assert event["attributed_by"] in ("cgroup", "memory cgroup")


@pytest.mark.one_kernel
def test_a_truncating_open_copies_nothing(case: Case) -> None:
    (event,) = case.run(": > /app/one-mib")
    assert (event["size_bytes"], event["copied_bytes"]) == (1 << 20, 0)
    assert event["flags"] & os.O_TRUNC
    assert os.stat(case.upper("/app/one-mib")).st_size == 0


@pytest.mark.one_kernel
def test_a_chmod_copies_the_data(case: Case) -> None:
    (event,) = case.run("chmod 600 /app/hundred-kib")
    copy = os.stat(case.upper("/app/hundred-kib"))
    assert event["copied_bytes"] == copy.st_size == 100 << 10
    assert (event["flags"], copy.st_mode & 0o777) == (0, 0o600)


@pytest.mark.each_kernel
def test_parents_come_first_and_as_directories(case: Case) -> None:
    events = case.run("echo >> /app/a/b/c/deep/deep.txt")
    assert [(e["path"], e["kind"], e["copied_bytes"], e["is_parent"], e["parents"]) for e in events] == [
        ("/app/a", "directory", 0, True, 0),
        ("/app/a/b", "directory", 0, True, 0),
        ("/app/a/b/c", "directory", 0, True, 0),
        ("/app/a/b/c/deep", "directory", 0, True, 0),
        ("/app/a/b/c/deep/deep.txt", "file", 3003, False, 4),
    ]
    assert events[-1]["parents_duration_ns"] == sum(e["duration_ns"] for e in events[:-1])
    assert len({e["tid"] for e in events}) == 1
    for event in events:
        assert os.path.lexists(case.upper(event["path"]))


@pytest.mark.each_kernel
def test_holes_are_not_copied(case: Case) -> None:
    (event,) = case.run("echo >> /app/sparse")
    assert event["size_bytes"] == images.SPARSE_BYTES
    # overlayfs copies in chunks of 1 MiB, each from where data begins: data at the start brings its whole chunk
    # with it. The upper file has besides the block that the echo appended.
    copied = os.stat(case.upper("/app/sparse")).st_blocks * 512 - 4096
    assert event["copied_bytes"] == copied == (1 << 20) + 4096


@pytest.mark.one_kernel
def test_a_hard_link_is_copied_once(case: Case) -> None:
    events = case.run("echo >> /app/links/second; echo >> /app/links/second")
    assert [(e["path"], e["copied_bytes"]) for e in events] == [("/app/links", 0), ("/app/links/second", 7000)]


@pytest.mark.one_kernel
def test_a_rename_copies_the_file_up_under_its_old_name(case: Case) -> None:
    (event,) = case.run("mv /app/rename-me /app/renamed")
    assert (event["path"], event["copied_bytes"]) == ("/app/rename-me", 5000)
    assert os.stat(case.upper("/app/renamed")).st_size == 5000


@pytest.mark.one_kernel
def test_a_symlink_is_a_symlink(case: Case) -> None:
    events = case.run("chown -h 1000:1000 /app/links/dangling")
    assert [(e["path"], e["kind"], e["copied_bytes"]) for e in events] == [
        ("/app/links", "directory", 0),
        ("/app/links/dangling", "symlink", 0),
    ]


@pytest.mark.one_kernel
def test_a_second_write_is_no_event(case: Case) -> None:
    assert len(case.run("echo >> /app/one-byte")) == 1
    assert case.run("echo >> /app/one-byte; chmod 600 /app/one-byte; : > /app/one-byte") == []


@pytest.mark.one_kernel
def test_new_files_and_volumes_are_no_events(case: Case) -> None:
    assert case.run("echo x > /app/new; echo x > /tmp-new; echo x >> /etc/hosts || true") == []


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_prime_counts_sizes_and_paths_agree_with_the_writable_layer(case: Case) -> None:
    numbers = range(100, 123)
    events = case.run("for n in $(seq 100 122); do chmod 600 /app/data/$n.dat; done")
    assert len(events) == 23
    for number, event in zip(numbers, events, strict=True):
        path = f"/app/data/{number}.dat"
        assert event["path"] == path
        assert event["copied_bytes"] == os.stat(case.upper(path)).st_size == images.small_file_bytes(number)


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_a_container_that_exits_at_once_has_its_name(tracer: Tracer, pod: cri.Pod) -> None:
    container = pod.start_container("flash", images.BATCH, ["sh", "-c", "echo >> /app/config.ini"])
    event = tracer.wait_for(lambda o: o.get("path") == "/app/config.ini" and o["comm"] == "sh")
    assert (event["namespace"], event["pod"], event["container"]) == ("shop", pod.name, "flash")
    assert (event["container_id"], event["image"]) == (container.container_id, images.BATCH)
    container.remove()


@pytest.mark.each_cgroup_mode
def test_a_process_of_the_host_in_a_containers_root_is_the_containers(case: Case) -> None:
    with open(f"/proc/{case.container.pid}/root/app/config.ini", "a") as file:
        file.write("x")
    (event,) = case.events()
    assert (event["path"], event["copied_bytes"]) == ("/app/config.ini", len("[app]\nlevel = 3\n"))
    assert (event["container"], event["host"], event["attributed_by"]) == (case.container.name, True, "overlay")
    assert event["pid"] == os.getpid()


@pytest.mark.each_kernel
def test_a_full_disk_is_an_error_with_the_bytes_that_were_copied(case: Case, overlay: Overlay) -> None:
    (overlay.lower / "huge").write_bytes(images.pattern(64 << 20))
    overlay.mount()
    free = os.statvfs(overlay.upper).f_bavail * os.statvfs(overlay.upper).f_frsize
    done = overlay.run("open(sys.argv[1], 'ab')", bytes(overlay.merged / "huge"))
    assert b"No space left on device" in done.stderr
    (event,) = case.events()
    assert (event["path"], event["error"], event["size_bytes"]) == ("/huge", "ENOSPC", 64 << 20)
    assert 0 < event["copied_bytes"] <= free
    assert not (overlay.upper / "huge").exists()
    assert event["container_id"] == case.container.container_id


@pytest.mark.one_kernel
def test_hostile_names_come_back_byte_for_byte(case: Case, overlay: Overlay) -> None:
    names = [
        b"line\nbreak",
        b"\x1b[31mred\x1b[0m\x07",
        "right\u202eto-left".encode(),
        b"not-utf8-\xff\xfe\x80",
        b"n" * 255,
        b"back\\slash \t tab",
    ]
    for name in names:
        (overlay.lower / os.fsdecode(name)).write_bytes(b"x" * 11)
    overlay.mount()
    for name in names:
        assert (
            overlay.run("os.chmod(os.fsencode(sys.argv[1]), 0o600)", bytes(overlay.merged) + b"/" + name).returncode
            == 0
        )
    events = case.events()
    assert [e["path"].encode("utf-8", "surrogateescape") for e in events] == [b"/" + name for name in names]
    assert {e["copied_bytes"] for e in events} == {11}


@pytest.mark.each_kernel
def test_deep_paths_are_whole_and_deeper_ones_are_marked(case: Case, overlay: Overlay) -> None:
    deep = "/".join(["d" * 60] * 40)
    deeper = "/".join(["e"] * 140)
    for path in (deep, deeper):
        (overlay.lower / path).mkdir(parents=True)
        (overlay.lower / path / "file").write_bytes(b"x")
    overlay.mount()
    for path in (deep, deeper):
        overlay.run("os.chmod(sys.argv[1], 0o600)", bytes(overlay.merged / path / "file"))
    files = [e for e in case.events() if e["kind"] == "file"]
    assert [(e["path"], e["path_truncated"]) for e in files] == [
        (f"/{deep}/file", False),
        # the 128 names nearest to the file
        ("/".join(["e"] * 127) + "/file", True),
    ]


@pytest.mark.each_cgroup_mode
def test_a_selection_also_holds_for_pods_that_come_later(node: cri.Node, pod: cri.Pod, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "-n", "jobs", "-p", "late-*", "-c", "!sidecar")
    late = node.run_pod("jobs", "late-1", qos="besteffort")
    try:
        main = late.start_container("main", images.BATCH, SHELL)
        sidecar = late.start_container("sidecar", images.BATCH, SHELL)
        other = pod.start_container("other", images.BATCH, SHELL)
        for container in (other, sidecar, main):
            assert container.exec(["chmod", "600", "/app/one-byte"])[2] == 0
        tracer.wait_for(lambda o: o.get("path") == "/app/one-byte")
        other.remove()
    finally:
        late.remove()
    objects = tracer.end()
    copyups = [o for o in objects if o["type"] == "copyup"]
    assert {(o["namespace"], o["pod"], o["container"]) for o in copyups} == {("jobs", "late-1", "main")}
    # runc itself copies /etc up, for the mount point of /etc/hosts
    assert [o["path"] for o in copyups if o["comm"] == "chmod"] == ["/app", "/app/one-byte"]
    assert objects[-1]["lost"] == 0


@pytest.mark.each_cgroup_mode
def test_names_do_not_need_a_live_containerd(node: cri.Node, tmp_path: Path) -> None:
    web = node.pod("shop", "web-0").container("app")
    pid = web.pid
    node.stop_containerd()
    try:
        tracer = Tracer(tmp_path)
        with open(f"/proc/{pid}/root/app/links/third", "a") as file:
            file.write("x")
        event = tracer.wait_for(lambda o: o.get("path") == "/app/links/third")
        objects = tracer.end()
    finally:
        node.start_containerd()
    assert (event["namespace"], event["pod"], event["container"]) == ("shop", "web-0", "app")
    assert (objects[-1]["lost"], objects[-1]["unattributed"]) == (0, 0)


@pytest.mark.one_kernel
def test_the_table_shows_the_pod_on_a_pipe(case: Case) -> None:
    process = subprocess.Popen(
        ["kubetrace", "copyup", "--by", "container", "-i", "500ms", "-p", case.container.pod.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    # the first block is printed when everything is attached
    assert process.stdout.readline().startswith("kubetrace copyup")
    case.run("chmod 600 /app/hundred-kib")
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    assert process.wait() == 0
    row = out[out.rindex("NAMESPACE") :].splitlines()[1].split()
    # the marker of Case.run is the second copy-up
    assert row[:4] == ["shop", case.container.pod.name, case.container.name, "2"]
    assert "\x1b" not in out


# Mounts an overlay in a namespace of its own, which no table of the node shows, and changes one file twice.
ONE_OVERLAY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
base = sys.argv[1].encode()
# CLONE_NEWNS; MS_REC | MS_PRIVATE
assert not libc.unshare(0x20000)
assert not libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)
for name in (b"lower", b"up:per", b"work", b"merged"):
    os.makedirs(base + b"/" + name)
for name in (b"one", b"two"):
    open(base + b"/lower/" + name, "w").write("x")
options = b"lowerdir=%s/lower,upperdir=%s/up\\\\:per,workdir=%s/work" % (base, base, base)
assert not libc.mount(b"overlay", base + b"/merged", b"overlay", 0, options), os.strerror(ctypes.get_errno())
device = os.stat(base + b"/merged").st_dev
for name in (b"one", b"two"):
    os.chmod(base + b"/merged/" + name, 0o600)
assert not libc.umount(base + b"/merged")
print(os.major(device) << 20 | os.minor(device))
"""


@pytest.mark.each_kernel
def test_the_kernel_tells_which_overlay_a_device_number_is_of() -> None:
    """Once for each, by its own upperdir, also where it has the number that the one before has let go."""
    tracer = find("copyup")
    source = KernelSource("copyup", {**tracer.streams, **tracer.overlays}, constants={}, optional=tracer.optional)
    bases = [Path(f"/var/lib/kubelet/told-{number}") for number in range(3)]
    try:
        devices = []
        for base in bases:
            done = subprocess.run(["python3", "-S", "-c", ONE_OVERLAY, str(base)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            devices.append(int(done.stdout))
        told = [
            event
            for batch in source.read("copyup_overlays")
            for event in source.layouts["copyup_overlays"].decode(batch.data)
        ]
        copied = [event for batch in source.read("copyup") for event in source.layouts["copyup"].decode(batch.data)]
    finally:
        source.close()
        for base in bases:
            shutil.rmtree(base, ignore_errors=True)
    found = []
    for event in told:
        upperdir = os.fsdecode(event.upperdir[: event.upperdir_bytes - 1])
        found.append((event.device, told_directory(upperdir)))
    wanted = [(device, f"{base}/up:per") for device, base in zip(devices, bases, strict=True)]
    assert [one for one in found if one in wanted] == wanted
    # known before the first copy-up in it has ended
    for (device, upperdir), event in zip(found, told, strict=True):
        if (device, upperdir) in wanted:
            assert any(other.device == device and other.time >= event.time for other in copied)


@pytest.mark.one_kernel
def test_an_operation_whose_return_was_missed_does_not_explain_a_later_open() -> None:
    """The program at the return of ovl_setattr is left out: what a chmod began never ends."""
    tracer = find("copyup")
    base = Path("/var/lib/kubelet/missed")
    for name in ("lower", "upper", "work", "merged"):
        (base / name).mkdir(parents=True)
    for name in ("one", "two", "three", "four"):
        (base / "lower" / name).write_text("x")
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(base / "merged")], check=True)
    code = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.chmod('one', 0o600)\n"
        "os.close(os.open('two', os.O_WRONLY | os.O_APPEND))\n"
        "os.close(os.open('three', os.O_RDWR | os.O_TRUNC))\n"
        "os.truncate('four', 0)\n"
    )
    try:
        ends = ("setattr_end__fentry", "setattr_end_backup__fentry", "setattr_end__kprobe")
        source = KernelSource("copyup", tracer.streams, constants={}, optional=tracer.optional, unneeded=ends)
        try:
            subprocess.run(["python3", "-S", "-c", code, str(base / "merged")], check=True)
            events = [event for batch in source.read("copyup") for event in source.layouts["copyup"].decode(batch.data)]
        finally:
            source.close()
    finally:
        subprocess.run(["umount", str(base / "merged")], check=True)
        shutil.rmtree(base)
    found = {
        event.path.partition(b"\0")[0]: event.NAMES["trigger"][event.trigger].removeprefix("copyup_")
        for event in events
        if event.path.partition(b"\0")[0] in (b"one", b"two", b"three", b"four")
    }
    expected = {b"one": "chmod", b"two": "open-write", b"three": "open-truncate", b"four": "truncate"}
    assert {name: trigger.replace("_", "-") for name, trigger in found.items()} == expected
