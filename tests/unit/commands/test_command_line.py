"""The command line as a whole: what every option keeps to, what is said of a typing error, what a start costs."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kubetrace import __version__, tracers
from kubetrace.commands import exits, help
from kubetrace.commands.group import kubetrace
from tests.nodes import captured

ROOT = Path(__file__).parents[3]
RECORDING = ROOT / "tests" / "recordings" / "copyup-1.ktrace"
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "100"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kubetrace", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answered(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, where nothing is traced or shown in place."""
    out, err = io.StringIO(), io.StringIO()
    words = list(map(str, arguments))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        exits.run(lambda: kubetrace.main(words, prog_name="kubetrace", standalone_mode=False))
    gc.enable()  # a run that had begun to attach has it off
    status = ended.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def commands() -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(kubetrace)
    for name in kubetrace.list_commands(ctx):
        command = kubetrace.get_command(ctx, name)
        assert command is not None
        yield name, command


COMMANDS = dict(commands())


# Every command and option.


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for_with_its_unit_and_default(name: str) -> None:
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option):
            continue
        text = option.help or ""
        where = f"{name} {option.opts}"
        assert text and text[0].isalnum(), where
        if option.is_flag:
            assert text.endswith("."), where
            continue
        default = re.search(r"  \[default: (.+)\]$", text)
        assert default, where
        if isinstance(option.default, str):
            # behind it may come what it means; a number without a unit is told with one
            told = default[1].replace("1s", "1") if option.opts[-1] == "--interval" else default[1]
            assert told == option.default or told.startswith(f"{option.default},"), where
        assert option.metavar, where
        units = {"TIME": r"\d(ms|us|s|m|h)\b|as --from", "SIZE": r"\d(Ki|Mi|M)\b", "N": r"rows|times|sets"}
        if option.metavar in units:
            assert re.search(units[option.metavar], text), where


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_one_form(name: str) -> None:
    command = COMMANDS[name]
    text = command.help or ""
    assert text.partition("\n")[0].endswith((".", ",", ".\n")) or "." in text.partition("\n\n")[0], name
    assert name in ("help", "completion") or re.search(rf"^  kubetrace {name}\b", text, re.MULTILINE), "no example"
    # the same options mean the same, and are called the same, everywhere
    for option in command.params:
        if isinstance(option, click.Option):
            for short, long in (("-o", "--output"), ("-n", "--namespace"), ("-p", "--pod"), ("-c", "--container")):
                assert (short in option.opts) == (long in option.opts), option.opts


def test_one_option_has_one_help_in_all_commands() -> None:
    texts: dict[tuple[str, str | None], set[str | None]] = {}
    for command in COMMANDS.values():
        for option in command.params:
            if isinstance(option, click.Option):
                texts.setdefault((option.opts[-1], option.metavar), set()).add(option.help)
    # what depends on the tracer, on what the command prints and on what it would overwrite
    assert {name for (name, _), found in texts.items() if len(found) > 1} <= {"--by", "--sort", "--force", "--output"}


def test_options_that_look_at_the_node_are_where_the_node_is_looked_at() -> None:
    at_node = {
        name
        for name, command in COMMANDS.items()
        if any("--host-root" in param.opts for param in command.params if isinstance(param, click.Option))
    }
    assert at_node == {*tracers.names(), "top", "run", "record", "images", "pod", "node", "who", "doctor", "agent"}


def test_help_and_a_commands_own_help_are_one() -> None:
    assert run("help").stdout == run("--help").stdout
    for name in ("copyup", "info"):
        assert run("help", name).stdout == run(name, "--help").stdout == run(name, "-h").stdout
    assert (run("help", "copyp").returncode, run("help").returncode) == (2, 0)


def test_version_names_what_a_report_should() -> None:
    first, *rest = run("--version").stdout.splitlines()
    assert first == f"kubetrace, version {__version__}"
    told = {line.split()[0]: line for line in rest}
    head = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told["commit"].split()[1].removesuffix("-dirty") == head
    assert re.search(r"libbpf +1\.\d", told["libbpf"])
    assert "x86_64" in told["objects"] and all(name in told["objects"] for name in tracers.names())


# What is said of a typing error.


@pytest.mark.parametrize(
    ("line", "meant", "do"),
    [
        ("copyp", "'copyup'", "kubetrace copyup"),
        ("wrties -n shop", "'writes'", "kubetrace writes"),
        ("help dcotor", "'doctor'", "kubetrace help doctor"),
        ("copyup --evnts", "'--events'", "kubetrace copyup --events"),
        ("copyup --by contaner", "'container'", "--by container"),
        ("copyup --sort MAX-LATECY", "'MAX-LATENCY'", "--sort MAX-LATENCY"),
        ("copyup --columns pod,fil", "'FILE'", "--columns FILE"),
        ("copyup --columns pod,+szie", "'SIZE'", "--columns SIZE"),
        ("copyup -o jsn", "'json'", "--output json"),
        ("copyup --hook fenty", "'fentry'", "--hook fentry"),
        ("record copup x.ktrace", "'copyup'", "kubetrace record copyup"),
        ("agent wirtes", "'writes'", "kubetrace agent writes"),
        ("completion fsh", "'fish'", "fish"),
        (f"replay {RECORDING} copyp", "'copyup'", f"kubetrace replay {RECORDING} copyup"),
    ],
)
def test_what_may_have_been_meant_is_said(line: str, meant: str, do: str) -> None:
    done = answered(*line.split())
    what, why, try_ = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert what.startswith("Error: ") and why.startswith(f"Did you mean {meant}") and try_ == f"Try:  {do}"


@pytest.mark.parametrize(
    "line", ["copyup --by xyzzy", "xyzzy", "copyup --sort xyzzy", "copyup -o xyzzy", "agent xyzzy"]
)
def test_where_nothing_is_near_all_are_named(line: str) -> None:
    done = answered(*line.split())
    what, try_ = done.stderr.splitlines()
    assert done.returncode == 2 and "'xyzzy'" in what and try_.count("|") > 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("replay", "missing argument 'FILE'."),
        ("doctor extra", "got unexpected extra argument (extra)"),
        ("copyup --top none", "invalid value for '--top'"),
        ("copyup -d", "option '-d' requires an argument."),
        ("copyup -A -n shop", "-A and -n exclude one another."),
        ("copyup -o name", "there is no --output name here."),
        ("copyup -o json --columns pod", "--columns is for tables, lines and CSV."),
        ("writes --columns pod,p99", "there is no column 'p99'."),
        (f"export {RECORDING}", "which format?"),
        (f"export {RECORDING} -o /tmp/x.pdf", "the format is not told by /tmp/x.pdf."),
    ],
)
def test_what_was_asked_wrongly_is_said_in_one_form(line: str, what: str) -> None:
    done = answered(*line.split())
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and lines[0].startswith(f"Error: {what}") and lines[-1].startswith("Try:  ")


# Exit statuses.


@pytest.mark.parametrize(
    "line",
    [
        "replay FILE",
        "info FILE",
        f"info {RECORDING} FILE",
        "export FILE --format csv",
        "run FILE.bpf.c",
        "who --host-root FILE 1",
        "doctor --host-root FILE",
        "copyup --host-root FILE",
    ],
)
def test_a_missing_file_is_one_exit_status_everywhere(line: str, tmp_path: Path) -> None:
    done = answered(*line.replace("FILE", str(tmp_path / "nowhere")).split())
    assert done.returncode == 1 and "nowhere" in done.stderr and done.stderr.startswith("Error: ")


def test_lost_events_are_an_error_only_where_they_are_to_be() -> None:
    # the recording has lost 17
    for command in (["replay", RECORDING, "--final"], ["export", RECORDING, "--format", "json"]):
        assert run(*command).returncode == 0
        done = run(*command, "--strict")
        assert done.returncode == 3 and "Error: 17 events were lost." in done.stderr
        assert done.stdout == run(*command).stdout


def test_exit_statuses_are_documented_once() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    for status, meaning in exits.STATUSES.items():
        assert f"| {status} | {meaning} |" in text


# Columns, sorts, objects.


def test_a_column_is_named_by_its_head_or_its_key() -> None:
    shown = run("replay", RECORDING, "--final", "--no-headers", "--columns", "FILE,copied_bytes,+size").stdout
    first = shown.splitlines()[0].split()
    assert first == [r"/var/cache/\x1b[31m\xff", "10", "MiB", "10", "MiB"]
    head = run("replay", RECORDING, "--final", "--columns", "+LAST").stdout.splitlines()[1].split()
    assert (head[0], head[-1]) == ("NAMESPACE", "LAST") and "COPIES" in head
    lines = run("replay", RECORDING, "--final", "-o", "csv", "--columns", "path,pod").stdout.splitlines()
    assert lines[:2] == ["path,pod", "/etc/nginx/nginx.conf,web-0"]
    lines = run("replay", RECORDING, "--final", "--events", "--columns", "pod,why", "--no-headers").stdout.splitlines()
    assert lines[0].split() == ["web-0", "open-write"]


@pytest.mark.parametrize(
    ("sort", "copies"),
    [
        ("COPIED", ["10 MiB", "2.0 KiB", "900 B", "0 B", "0 B", "0 B"]),
        ("-copied", ["10 MiB", "2.0 KiB", "900 B", "0 B", "0 B", "0 B"]),
        ("+copied_bytes", ["0 B", "0 B", "0 B", "900 B", "2.0 KiB", "10 MiB"]),
    ],
)
def test_a_sort_takes_heads_and_an_order(sort: str, copies: list[str]) -> None:
    out = run("replay", RECORDING, "--final", "--columns", "copied", "--no-headers", "--sort", sort).stdout
    assert [line.strip() for line in out.splitlines()[:6]] == copies


def test_names_are_sorted_from_a_or_from_z() -> None:
    def pods(sort: str) -> list[str]:
        options = ("--by", "pod", "--columns", "pod", "--no-headers", "--sort", sort)
        return run("replay", RECORDING, "--final", *options).stdout.splitlines()[:2]

    assert pods("POD") == pods("+pod") == ["cgroup:31337", "web-0"]
    assert pods("-pod") == ["web-0", "cgroup:31337"]


def test_colours_are_drawn_on_a_pipe_only_where_they_are_asked_for() -> None:
    plain = run("replay", RECORDING, "--final").stdout
    assert "\x1b" not in plain and plain == run("replay", RECORDING, "--final", "--color", "never").stdout
    painted = run("replay", RECORDING, "--final", "--color", "always").stdout
    assert "\x1b[1;7m" in painted or "\x1b[1;31m" in painted
    stripped = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", painted).splitlines()]
    assert stripped == plain.splitlines()


def test_objects_are_one_in_json_yaml_and_templates() -> None:
    import yaml

    for command in (["info", RECORDING], ["replay", RECORDING, "--final"]):
        as_json = [json.loads(line) for line in run(*command, "-o", "json").stdout.splitlines()]
        assert list(yaml.safe_load_all(run(*command, "-o", "yaml").stdout)) == as_json
        assert run(*command, "-o", "jsonl").stdout == run(*command, "-o", "json").stdout
    rows = [row for row in as_json if row["type"] == "copyup" and "\x1b" not in row["path"]]
    shown = run("replay", RECORDING, "--final", "-o", "jsonpath={.pod} {.path}").stdout.splitlines()
    assert [f"{row['pod'] or 'null'} {row['path']}" for row in rows] == [line for line in shown if "\\x1b" not in line]


def test_the_old_name_of_the_tables_as_objects_still_works() -> None:
    new = run("replay", RECORDING, "--final", "-o", "json-tables").stdout
    assert run("replay", RECORDING, "--final", "-o", "windows").stdout == new
    assert json.loads(new.splitlines()[0])["type"] == "window"


def test_info_takes_several_recordings() -> None:
    other = RECORDING.with_name("writes-1.ktrace")
    found = [json.loads(line) for line in run("info", RECORDING, other, "-o", "json").stdout.splitlines()]
    assert [Path(one["file"]).name for one in found] == ["copyup-1.ktrace", "writes-1.ktrace"]
    assert run("info", RECORDING, other).stdout.count("Node: ") == 2


@pytest.mark.parametrize(("name", "begins"), [("x.jsonl", '{"type"'), ("x.csv", "type,"), ("x.perfetto.json", "{")])
def test_a_files_name_tells_its_format(name: str, begins: str, tmp_path: Path) -> None:
    assert run("export", RECORDING, "--output", tmp_path / name).returncode == 0
    text = (tmp_path / name).read_text()
    assert text.startswith(begins) and (name != "x.perfetto.json" or "traceEvents" in text)


# Names of the node's pods.


def test_a_pods_files_are_found_by_its_name(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    pod = root / "sys/fs/cgroup/kubepods/burstable/pod7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
    cart = pod / "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
    (cart / "cgroup.procs").write_text("971\n1013\n")
    captured.database("meta.db", root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db")
    (root / "var/lib/kubelet/pods" / pod.name[3:] / "volumes/kubernetes.io~empty-dir/cache").mkdir(parents=True)
    (found,) = [
        json.loads(line)
        for line in run("who", "--host-root", root, "shop/cart-7d4b9c6f5d-x2x9z", "-o", "json").stdout.splitlines()
    ]
    assert [one["cgroup_id"] for one in found["cgroups"]] == [os.stat(pod).st_ino]
    assert found["labels"] == {"app": "cart"}
    assert [one["kind"] for one in found["containers"]] == ["sandbox", "container"]
    container = found["containers"][1]
    assert (container["container"], container["pids"]) == ("cart", [971, 1013])
    assert container["cgroups"][0]["cgroup_id"] == os.stat(cart).st_ino
    # of the captured mountinfo and config.json
    assert container["upperdir"].endswith("/snapshots/18/fs") and container["layers"] == 3
    assert {mount["at"]: mount["volume"] for mount in container["mounts"]}["/etc/one.conf"] == "conf"
    assert [(one["kind"], one["name"]) for one in found["volumes"]] == [("empty-dir", "cache")]
    names = run("who", "--host-root", root, "shop/cart-7d4b9c6f5d-x2x9z", "-o", "name").stdout
    assert names == "shop/pod/cart-7d4b9c6f5d-x2x9z\n"
    shown = run("who", "--host-root", root, "shop/cart-7d4b9c6f5d-x2x9z").stdout
    assert "Labels:     app=cart\n" in shown and "Pids:       971 1013\n" in shown
    assert (
        "            /etc/one.conf  volume conf, read-only\n" in shown
        and "            /hl  /run/disk/hostdata\n" in shown
    )
    # /etc/hosts, hostname and resolv.conf, the log of its end, /dev/shm
    assert "            and 5 that every container has, such as /etc/hosts (-o wide)\n" in shown
    wide = run("who", "--host-root", root, "shop/cart-7d4b9c6f5d-x2x9z", "-o", "wide").stdout
    assert "            /etc/hosts  /var/lib/kubelet/pods/" in wide and "that every container" not in wide
    assert "Labels:     not known" in run("who", "--host-root", root, "shop/web-node1").stdout
    done = run("who", "--host-root", root, "shop/cart-7d4b9c6f5d-x2x9")
    assert done.returncode == 1 and "Did you mean 'shop/cart-7d4b9c6f5d-x2x9z'?" in done.stderr


def test_names_that_a_shell_would_have_to_quote_are_not_completed(tmp_path: Path) -> None:
    from kubetrace.node.host import Host
    from kubetrace.node.named import names

    for name in ("shop_web-0_u1/app", "shop_$(reboot)_u2", "a b_c_u3", "shop_-n_u4", "shop_b\n_u5", "x_y"):
        (tmp_path / "var/log/pods" / name).mkdir(parents=True)
    (tmp_path / "var/log/pods/shop_web-0_u1/;ls").mkdir()
    assert names(Host(tmp_path)) == {("shop", "web-0"): ["app"]}


def test_without_log_directories_the_runtimes_own_records_name_the_pods(tmp_path: Path) -> None:
    from kubetrace.node.host import Host
    from kubetrace.node.named import names

    root = captured.build("v2-systemd", tmp_path)
    logs = names(Host(root))
    (root / "var/log/pods").rename(root / "var/log/away")
    bundles = names(Host(root))
    wanted = {(one.namespace, one.pod) for one in captured.expected("v2-systemd").values()}
    assert bundles.keys() <= wanted and len(bundles) > 2
    assert bundles.keys() <= logs.keys() and set(logs) <= wanted


# What a start costs: modules, which no busy machine makes more of.


def _modules(code: str, **environment: str) -> int:
    """How many there are in the end; those of tracers are left out, for another tracer is no fault."""
    count = "sum(not name.startswith('kubetrace.tracers.') for name in sys.modules)"
    counted = f"import atexit, os, sys; atexit.register(lambda: os.write(2, str({count}).encode())); {code}"
    done = subprocess.run(
        [sys.executable, "-c", counted],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.isdigit(), done.stderr
    return int(done.stderr)


@pytest.mark.parametrize(
    ("words", "completes"),
    [
        ("kubetrace ", "copyup"),
        ("kubetrace copyup --", "--events"),
        ("kubetrace copyup --host-root ROOT -n ", "shop"),
        ("kubetrace writes --host-root ROOT -n shop -p ", "web-0"),
        ("kubetrace who --host-root ROOT sh", "shop/web-0"),
        ("kubetrace replay ", "file"),
        ("kubetrace record wr", "writes"),
        ("kubetrace agent ", "copyup"),
    ],
)
def test_help_and_completion_import_little(words: str, completes: str, tmp_path: Path) -> None:
    (tmp_path / "var/log/pods/shop_web-0_u1/app").mkdir(parents=True)
    bare = _modules("pass")
    start = "from kubetrace.commands.start import main; main()"
    line = words.replace("ROOT", str(tmp_path))
    asked = {help.COMPLETION: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    out = subprocess.run(
        [sys.executable, "-c", start], env={**ENVIRONMENT, **asked}, capture_output=True, text=True, check=True
    ).stdout
    assert completes in re.split(r"[,\n]", out)
    assert _modules(f"sys.argv = ['kubetrace', '--help']; {start}") <= 2 * bare
    assert _modules(start, **asked) <= 4 * bare
