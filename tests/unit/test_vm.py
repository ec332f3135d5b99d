"""The parts of the virtual machine that need none: frames, command line, images, kernels."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm import accel, console, frames, guest, images, kernels, machine

CHECKOUT = Path(__file__).resolve().parents[2]


@given(
    st.lists(st.tuples(st.integers(frames.START, frames.EXIT), st.binary(max_size=40)), max_size=7),
    st.lists(st.integers(1, 11), min_size=1, max_size=5),
)
def test_frames_survive_any_cut_of_the_stream(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = io.BytesIO(b"".join(frames.pack(kind, payload) for kind, payload in sent))
    reader, turn = frames.Reader(), 0
    received: list[tuple[int, bytes]] = []
    while piece := stream.read(cuts[turn % len(cuts)]):
        received += reader.feed(piece)
        turn += 1
    assert received == sent


def test_what_is_not_a_frame_is_refused() -> None:
    with pytest.raises(frames.FrameError):
        list(frames.Reader().feed(b"[    0.000000] Linux version 6.1"))


def test_the_command_line_after_the_dashes_is_left_alone() -> None:
    options = machine.parse(["--node", "--timeout", "31", "--", "kubetrace", "copyup", "--node", "--", "x"])
    assert options.command == ["kubetrace", "copyup", "--node", "--", "x"]
    assert (options.node, options.kernel, options.cgroup, options.timeout_s) == ("busy", "6.1", "v2", 31)


def test_a_quiet_node_can_be_asked_for_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.parse(["--node=quiet", "true"]).node == "quiet"
    monkeypatch.setenv("KUBETRACE_NODE", "quiet")
    assert machine.parse(["--node", "--", "true"]).node == "quiet"
    assert machine.parse(["true"]).node == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command given"),
        (["--kernel", "6.12", "--cgroup", "v1", "true"], "no cgroup v1 memory controller"),
        (["--cgroup", "v3", "true"], "invalid choice"),
        (["--accel", "tcg", "true"], "invalid choice"),
    ],
)
def test_a_command_line_that_makes_no_sense_says_why(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        machine.parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_how_to_boot_can_be_asked_for_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBETRACE_ACCEL", raising=False)
    assert machine.parse(["true"]).accel == "auto"
    monkeypatch.setenv("KUBETRACE_ACCEL", "emulation")
    assert machine.parse(["true"]).accel == "emulation"
    assert machine.parse(["--accel", "kvm", "true"]).accel == "kvm"
    monkeypatch.setenv("KUBETRACE_ACCEL", "fast")
    with pytest.raises(SystemExit):
        machine.parse(["true"])
    assert "KUBETRACE_ACCEL is 'fast'; it can be auto, kvm, emulation" in capsys.readouterr().err


BOOTS, FAILS = accel.Answer(True), accel.Answer(False, "failed to set MSR 0x10a to 0x69")


@pytest.mark.parametrize(
    ("facts", "words", "trial"),
    [
        (accel.Facts(), "with KVM (for the first time here)", True),
        (accel.Facts(answer=BOOTS), "with KVM", False),
        (accel.Facts(answer=FAILS), f"under emulation (KVM does not work here: {FAILS.reason})", False),
        (
            accel.Facts(obstacle="there is no /dev/kvm"),
            "under emulation (KVM does not work here: there is no /dev/kvm)",
            False,
        ),
        (accel.Facts("emulation", answer=BOOTS), "under emulation (as asked for)", False),
        (accel.Facts("kvm"), "with KVM (as asked for)", True),
        (accel.Facts("kvm", answer=BOOTS), "with KVM (as asked for)", False),
        # who asks by name may have mended it
        (accel.Facts("kvm", answer=FAILS), "with KVM (as asked for)", True),
        (
            accel.Facts("kvm", count_instructions=True, answer=BOOTS),
            "under emulation (KVM does not count instructions)",
            False,
        ),
    ],
)
def test_a_machine_has_kvm_where_this_kernel_has_booted_with_it(facts: accel.Facts, words: str, trial: bool) -> None:
    choice = accel.choose(facts)
    assert (choice.explained, choice.trial) == (words, trial)
    assert words.startswith(choice.words)


def test_who_asks_for_kvm_where_there_is_none_is_told_what_to_do() -> None:
    with pytest.raises(accel.AccelError, match=r"there is no /dev/kvm\. --accel kvm .* leave it out.* nested virtual"):
        accel.choose(accel.Facts("kvm", obstacle="there is no /dev/kvm"))


def test_a_device_that_makes_no_machine_is_an_obstacle(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert accel.obstacle(str(device)) == f"there is no {device}"
    device.mkdir()
    assert accel.obstacle(str(device)) == f"{device} cannot be opened: Is a directory"
    assert accel.obstacle("/dev/null") == "/dev/null makes no virtual machine: Inappropriate ioctl for device"


def test_nothing_is_looked_up_for_a_machine_that_is_emulated_anyway() -> None:
    def recall() -> accel.Answer:
        raise AssertionError

    assert accel.gather("emulation", False, recall) == accel.Facts("emulation")
    assert accel.gather("kvm", True, recall) == accel.Facts("kvm", True)


def test_what_a_boot_has_told_is_kept_for_this_kernel_only(tmp_path: Path) -> None:
    path, qemu = tmp_path / "kvm.json", Path(sys.executable)
    old, new = (accel.Memory(path, release, qemu) for release in ("5.10.0-1-amd64", "7.2.4-amd64"))
    assert old.recall() is None
    old.keep(FAILS)
    new.keep(BOOTS)
    assert (old.recall(), new.recall()) == (FAILS, BOOTS)
    old.keep(BOOTS)
    assert old.recall() == BOOTS
    assert all(key.startswith("Linux ") and "Python 3" in key for key in json.loads(path.read_text()))
    for broken in ("", "[]", '{"a": 1', path.read_text().replace("true", '"yes"')):
        path.write_text(broken)
        assert old.recall() is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[   12.5] Kernel panic - not syncing: sysrq triggered crash", "Kernel panic - not syncing: sysrq triggered"),
        ("[   12.123456][  T312] Oops: int3: 0000 [#1] SMP NOPTI", "Oops: int3: 0000 [#1] SMP NOPTI"),
        ("[    9.1] int3: 0000 [#1] PREEMPT SMP NOPTI", "int3: 0000 [#1]"),
        ("[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000000", "BUG: kernel NULL pointer"),
        ("[    9.1] BUG: unable to handle page fault for address: ffffffffc0a6d000", "BUG: unable to handle page"),
        ("[    9.1] kernel BUG at mm/slub.c:448!", "kernel BUG at mm/slub.c:448!"),
        (
            "[    9.1] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
            "general protection fault, probably",
        ),
        ("[    9.1] traps: stress[412] general protection fault ip:55d0 sp:7ffe error:0 in stress[55d0+1000]", None),
        ("[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:312]", None),
        ("[    0.0] Command line: console=ttyS0 panic=-1 loglevel=4 oops=panic", None),
        ("[    9.1] WARNING: CPU: 1 PID: 312 at kernel/trace/ftrace.c:2084", None),
    ],
)
def test_a_kernel_that_dies_is_told_from_one_that_complains(line: str, said: str | None) -> None:
    told = console.death(f"[    0.0] Linux version 7.2.4\r\n{line}\r\n[   13.0] ---[ end\r\n".encode())
    assert told is None if said is None else told is not None and told.startswith(said)


def test_the_console_is_shown_without_what_would_clear_the_screen() -> None:
    log = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16)\r\n\r\n[    0.0] \xff\tLinux\r\n"
    assert console.lines(log) == ["SeaBIOS (version 1.16)", "[    0.0] \ufffd\tLinux"]


@pytest.mark.parametrize(
    ("before", "after", "first", "shown"), [(100, 9, 70, 40), (100, 60, 100, 61), (3, 900, 3, 120)]
)
def test_a_death_is_shown_from_its_beginning(before: int, after: int, first: int, shown: int) -> None:
    log = (
        b"".join(b"%d\r\n" % number for number in range(before))
        + b"kernel BUG at mm/slub.c:448!\r\n"
        + b"and so on\n" * after
    )
    told = console.last_words(log)
    assert len(told) == shown
    assert told[0] == ("kernel BUG at mm/slub.c:448!" if first == before else str(first))


def test_why_qemu_ended_is_its_first_word_that_is_no_warning() -> None:
    log = (
        b"qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]\n"
        b"qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69\n"
        b"qemu-system-x86_64: ../../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion failed.\n"
    )
    assert console.complaint(log) == "failed to set MSR 0x10a to 0x69"
    assert console.complaint(b"[    0.0] Linux version 6.1\n") is None


def test_as_many_machines_run_at_once_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = [sys.executable, "-c", "from tests.vm import machine as m\nwith m.turn(m.Path(m.sys.argv[1])): pass"]
    monkeypatch.setenv(machine.AT_ONCE_VARIABLE, "2")
    with machine.turn(tmp_path) as first, machine.turn(tmp_path) as second:
        assert (first, second) == (0, 1)
        third = subprocess.Popen([*wait, str(tmp_path)], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
        assert third.stderr is not None
        waits = third.stderr.readline()
        assert waits == f"vm: another machine is running (process {os.getpid()}); waiting for it to end ...\n"
        assert third.poll() is None
    assert third.wait() == 0
    with machine.turn(tmp_path) as again:
        assert again == 0


def test_what_a_killed_machine_has_left_goes_and_anothers_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "run-0-killed").mkdir()
    with machine.own_directory(tmp_path, 1) as other, machine.own_directory(tmp_path, 0) as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, other])
    assert list(tmp_path.iterdir()) == []


# A process of its own: a session takes over the signals.
_BOOTS_WHAT_NEVER_ANSWERS = """
import sys
from pathlib import Path
from tests.vm import accel, kernels, machine
machine.BOOT_LIMIT_S = 0.5
run, *qemu = sys.argv[1:]
session = machine.Session(
    machine.parse(["--", "true"]),
    kernels.Kernel("6.1.0-9", Path("vmlinuz"), Path("modules")),
    Path(run),
    Path(run) / "console.log",
    accel.Choice(kvm=False),
    lambda: None,
)
try:
    session.run(qemu)
except machine.MachineError as error:
    print(error.status, error, sep="\\n")
"""


def test_a_boot_that_does_not_end_is_a_dead_kernel_and_shows_where_it_stood(tmp_path: Path) -> None:
    qemu = ("sh", "-c", "echo '[    0.9] Freeing initrd memory'; exec sleep 1000")
    done = subprocess.run(
        [sys.executable, "-c", _BOOTS_WHAT_NEVER_ANSWERS, str(tmp_path), *qemu],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(machine.KERNEL_DIED),
        "Linux 6.1.0-9 did not boot within 0.5 s.",
        f"The end of its console ({tmp_path}/console.log):",
        "  [    0.9] Freeing initrd memory",
    ]


def test_an_unknown_kernel_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(kernels.KernelError, match=r"no kernel called '9\.9'.*5\.10, 6\.1, 6\.12, 7\.2"):
        kernels.find("9.9", tmp_path, print)


def test_a_kernel_directory_must_hold_the_modules_of_its_image(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(kernels.KernelError, match="no boot/vmlinuz"):
        kernels.find(str(tmp_path), tmp_path, print)
    (tmp_path / "boot" / "vmlinuz-6.6.6").touch()
    with pytest.raises(kernels.KernelError, match=r"not its modules \(lib/modules/6\.6\.6\)"):
        kernels.find(str(tmp_path), tmp_path, print)
    modules = tmp_path / "lib" / "modules" / "6.6.6"
    modules.mkdir(parents=True)
    assert kernels.find(str(tmp_path), tmp_path, print).modules == modules


def _layout(tmp_path: Path, name: str) -> Path:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF busybox")
    path = tmp_path / name
    images.write(path, busybox, b"\x7fELF pause")
    return path


def test_images_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    assert _layout(tmp_path, "one").read_bytes() == _layout(tmp_path, "two").read_bytes()


def test_every_blob_of_the_layout_is_named_by_its_digest(tmp_path: Path) -> None:
    with tarfile.open(_layout(tmp_path, "layout")) as tar:
        blobs = {}
        for member in tar.getmembers():
            if member.name.startswith("blobs/"):
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                assert member.name == "blobs/sha256/" + hashlib.sha256(data).hexdigest()
                blobs["sha256:" + member.name.rpartition("/")[2]] = data
        index_file = tar.extractfile("index.json")
        assert index_file is not None
        index = json.load(index_file)
    references = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert references == [images.PAUSE, images.WEB, images.BATCH]
    web, batch = (json.loads(blobs[entry["digest"]]) for entry in index["manifests"][1:])
    # three layers in common, and yet two images
    assert web["layers"] == batch["layers"] and len(web["layers"]) == 3
    assert web["config"]["digest"] != batch["config"]["digest"]


def test_the_application_image_has_what_the_kernel_tests_copy_up() -> None:
    with tarfile.open(fileobj=io.BytesIO(images.app_layer())) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert members["app/empty"].size == 0
    assert members["app/rename-me"].size == 5000
    assert members["app/links/second"].islnk() and members["app/links/symbolic"].issym()
    assert members["app/a/b/c/deep/deep.txt"].isreg()
    assert sum(name.startswith("app/data/") and name.endswith(".dat") for name in members) == 300
    with tarfile.open(fileobj=io.BytesIO(images.top_layer())) as tar:
        sizes = {member.name: member.size for member in tar.getmembers()}
    assert sizes["app/big"] == 16 << 20
    assert sizes["app/.wh.hidden"] == 0


def test_a_mount_that_fails_says_where() -> None:
    with pytest.raises(OSError, match="/proc/self"):
        guest.mount("nothing", "/proc/self", "no-such-file-system")


def test_the_agent_runs_a_command_on_pipes() -> None:
    """The whole agent below the port, on this machine: a pipe pair stands in for the virtio port."""
    script = """
import os, socket, struct, sys
from tests.vm import frames, guest
guest.enter_cgroup = lambda path: None
ours, theirs = socket.socketpair()
port = guest.Port.__new__(guest.Port)
port.fd, port.reader = ours.fileno(), frames.Reader()
start = {"tty": [False, False, False], "argv": ["sh", "-c", "cat; echo bad >&2; exit 23"], "cwd": "/",
         "env": dict(os.environ), "rows": 24, "columns": 80}
theirs.sendall(frames.pack(frames.STDIN, b"a\\0b") + frames.pack(frames.STDIN))
status = guest.Carrier(port, guest.Command(start)).run()
ours.close()
data = b""
while piece := theirs.recv(4096):
    data += piece
print(status, sorted(frames.Reader().feed(data)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    expected = [(frames.CONSUMED, b"\0\0\0\3"), (frames.STDOUT, b"a\0b"), (frames.STDERR, b"bad\n")]
    assert done.stdout.strip() == f"23 {expected}"
