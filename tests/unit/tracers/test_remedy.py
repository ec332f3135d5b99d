"""The advice on copy-ups, word by word."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.session.view import short_name
from kubetrace.tracers.copyup.remedy import Name, Offender, is_runtime, remedies, trigger_of
from kubetrace.views.text import escape

MIB = 1 << 20


def lines(*offenders: Offender, top: int = 5) -> list[str]:
    return [remedy.text(escape) for remedy in remedies(offenders, top)]


def one(path: str, trigger: str, copied: int = 64 * MIB, *, copies: int = 1, is_directory: bool = False) -> str:
    offender = Offender(path, trigger, copies, copied, is_directory, 3, "RUN mkdir -p /app/logs && make install")
    (line,) = lines(offender)
    return line


ORIGIN = "(image layer 3, RUN mkdir -p /app/logs && make install)"


FILLED = ", filled by an init container"


@pytest.mark.parametrize(
    ("path", "trigger", "line"),
    [
        ("/app/logs/app.log", "append", "append to {path} {origin}: mount a volume at /app/logs" + FILLED),
        ("/app/data/index.db", "open-write", "write to {path} {origin}: mount a volume at /app/data" + FILLED),
        ("/app/data/index.db", "open-truncate", "replace {path} {origin}: mount a volume at /app/data" + FILLED),
        (
            "/app/log",
            "truncate",
            "truncate {path} {origin}: open it with O_TRUNC (in a shell: > file), which copies nothing, or mount a "
            "volume at /app" + FILLED,
        ),
        (
            "/app/big",
            "chmod",
            "change the mode of {path} {origin}: set the mode in the image: COPY --chmod=..., or RUN chmod in the "
            "layer that adds it",
        ),
        (
            "/app/big",
            "chmod-same",
            "set the mode that it has already on {path} {origin}: nothing is changed, so leave it out: find ... ! "
            "-perm MODE -exec chmod MODE {{}} +",
        ),
        (
            "/app/big",
            "chown",
            "change the owner of {path} {origin}: set the owner in the image: COPY --chown=..., or RUN chown in the "
            "layer that adds it",
        ),
        (
            "/app/big",
            "chown-same",
            "set the owner that it has already on {path} {origin}: nothing is changed, so leave it out: find ... ! "
            "-user OWNER -exec chown OWNER {{}} +",
        ),
        (
            "/app/big",
            "utimes",
            "set the times of {path} {origin}: leave its times alone, or set them in the image",
        ),
        ("/app/big", "rename", "rename {path} {origin}: mount a volume at /app" + FILLED),
        ("/app/big", "link", "make a hard link to {path} {origin}: make the link in the image"),
        (
            "/app/big",
            "xattr",
            "set an extended attribute of {path} {origin}: set it in the image: RUN setcap or setfattr in the layer "
            "that adds it",
        ),
        ("/app/big", "other", "change {path} {origin}: mount a volume at /app" + FILLED),
        ("/etc/ld.so.cache", "open-write", "write to {path} {origin}: make the change in the image"),
        ("/usr/share/x/y/z", "append", "append to {path} {origin}: mount a volume at /usr/share/x/y" + FILLED),
        (
            "/app.log",
            "append",
            "append to {path} {origin}: let it be written in a directory of its own, with a volume there",
        ),
        (
            "/var/lib/app.db",
            "append",
            "append to {path} {origin}: let it be written in a directory of its own, with a volume there",
        ),
    ],
)
def test_advice_on_one_file(path: str, trigger: str, line: str) -> None:
    assert one(path, trigger) == "64 MiB copied to " + line.format(path=path, origin=ORIGIN)


def test_a_file_of_which_nothing_was_copied_is_not_named() -> None:
    for trigger in ("open-truncate", "truncate", "chown", "open-write"):
        assert lines(Offender("/app/pid", trigger, 3, 0, False, 3, "COPY")) == []
    for trigger in ("open-write", "create", "unlink", "chmod"):
        assert lines(Offender("/app", trigger, 3, 0, True, 3, "COPY")) == []
    shared = [Offender(f"/app/{n}", "chown", 1, 0) for n in range(7)]
    copied = [Offender(f"/app/big{n}", "chown", 1, MIB) for n in range(3)]
    (line,) = lines(*shared, *copied)
    assert line.startswith("3.0 MiB copied to change the owner of 3 files in /app: ")


def test_a_very_long_path_loses_its_middle_on_a_terminal() -> None:
    path = b"/app/" + b"/".join([b"d" * 200] * 15) + b"/\x1b[2Jlog"
    (remedy,) = remedies([Offender(path, "append", 1, 7, False, 1, "COPY", "shop/" + "p" * 250 + "/app")])
    whole = remedy.text(escape)
    assert len(whole) > 6000 and "/\\x1b[2Jlog (image layer 1" in whole
    assert remedy.text(short_name) == (
        f"shop/{'p' * 31}…{'p' * 31}/app: 7 B copied to append to /app/…/\\x1b[2Jlog (image layer 1, COPY): "
        f"mount a volume at /app/{'d' * 31}…{'d' * 35}, filled by an init container"
    )
    (brief,) = remedies([Offender("/app/log", "append", 1, 7, False, 1, "COPY", "shop/web/app")])
    assert brief.text(short_name) == brief.text(escape)


def test_system_directories_are_not_found_by_the_letters_of_others() -> None:
    assert one("/etcetera/x", "append").endswith("mount a volume at /etcetera" + FILLED)
    assert one("/usr/lib/x/y", "append").endswith("make the change in the image")


def test_what_is_unknown_of_the_layer_is_left_out() -> None:
    assert lines(Offender("/a/b", "append", 1, 7)) == [
        "7 B copied to append to /a/b: mount a volume at /a, filled by an init container"
    ]
    assert lines(Offender("/a/b", "append", 1, 7, layer=2)) == [
        "7 B copied to append to /a/b (image layer 2): mount a volume at /a, filled by an init container"
    ]


def test_long_dockerfile_line_is_cut() -> None:
    (line,) = lines(Offender("/a/b", "append", 1, 7, layer=2, line="RUN " + "x" * 100))
    assert line == f"7 B copied to append to /a/b (image layer 2, RUN {'x' * 43}…): mount a volume at /a" + FILLED


def test_several_copies_and_whose_they_are() -> None:
    (line,) = lines(Offender("/a/b", "append", 23, 23 * MIB, whose="shop/cart-7d/main"))
    assert line == "shop/cart-7d/main: 23 MiB copied in 23 copy-ups to append to /a/b: mount a volume at /a" + FILLED


def files(directory: str, count: int, trigger: str = "open-write", layer: int = 2) -> list[Offender]:
    return [Offender(f"{directory}/{n:03}.dat", trigger, 1, 1024, False, layer, "COPY data /app") for n in range(count)]


def test_many_files_of_one_directory_are_one_matter() -> None:
    assert lines(*files("/app/data", 307)) == [
        "307 KiB copied to write to 307 files in /app/data (image layer 2, COPY data /app): mount a volume at "
        "/app/data" + FILLED
    ]
    assert len(lines(*files("/app/data", 2))) == 1
    assert len(lines(*files("/app/data", 2, "chown"))) == 2


def written(*paths: str, whose: str = "shop/web/app", program: bytes = b"app") -> list[Offender]:
    return [Offender(path, "open-write", 1, 4096, whose=whose, program=program) for path in paths]


def made(*paths: str, trigger: str = "create", whose: str = "shop/web/app") -> list[Offender]:
    return [Offender(path, trigger, 1, 0, True, whose=whose) for path in paths]


def mounts(*offenders: Offender) -> list[str]:
    found = [remedy.record() for remedy in remedies(offenders, 100)]
    assert all(record["mount"]["filled"] and record["mount"]["kind"] == "volume" for record in found if record["mount"])
    return sorted(os.fsdecode(record["mount"]["path"]) for record in found if record["mount"])


@pytest.mark.parametrize(
    ("offenders", "place"),
    [
        # what initdb made and a server changed: five directories, and one place
        (
            written(*(f"/var/lib/postgresql/15/main/{x}" for x in ("pg_wal/0001", "base/5/1259", "global/1262"))),
            "/var/lib/postgresql/15/main",
        ),
        # one file is enough to know it by
        (written("/data/pg/base/16384/2619"), "/data/pg"),
        (written("/data/pg/global/pg_control"), "/data/pg"),
        (written("/data/pg/postmaster.pid"), "/data/pg"),
        # temp-rewriteaof is made beside the directory, and renamed into it
        (written("/var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof"), "/var/lib/redis"),
        (written("/redis/dump.rdb"), "/redis"),
        (written("/var/lib/mysql/ibdata1", "/var/lib/mysql/mysql/innodb_table_stats.ibd"), "/var/lib/mysql"),
        (written("/var/lib/mysql/shop/orders.ibd", "/var/lib/mysql/aria_log_control"), "/var/lib/mysql"),
        (written("/data/db/journal/WiredTigerLog.1", "/data/db/WiredTiger.wt"), "/data/db"),
        (written("/srv/site/.git/index"), "/srv/site"),
        # directories that are made in, renamed into or removed from belong to it
        ([*written("/app/data/a/1"), *made("/app/data/b")], "/app/data"),
        ([*written("/app/data/a/1"), *made("/app/data", trigger="rename")], "/app/data"),
        ([*written("/app/data/a/1"), *made("/app/data/tmp", trigger="unlink")], "/app/data"),
        # what is written where another volume is needed needs none of its own
        (written("/var/log/app.log", "/var/log/nginx/access.log"), "/var/log"),
        (written("/app/logs/app.log", "/app/settings.json"), "/app"),
    ],
)
def test_what_belongs_together_has_one_place(offenders: list[Offender], place: str) -> None:
    assert mounts(*offenders) == [place]
    # what other containers write is theirs
    other = written("/var/lib/other/x", "/app/other/x", whose="shop/other/app")
    assert [one for one in mounts(*offenders, *other) if "other" not in one] == [place]


def test_a_programs_logs_have_a_place_of_their_own() -> None:
    assert mounts(*written("/app/logs/app.log", "/app/data/x/index")) == ["/app/data/x", "/app/logs"]
    assert mounts(*written("/var/lib/redis/dump.rdb", "/var/log/redis/redis.log")) == [
        "/var/lib/redis",
        "/var/log/redis",
    ]


def test_no_volume_hides_the_system() -> None:
    for path in ("/etc/nginx/nginx.conf", "/usr/lib/python3/x.pyc", "/bin/x", "/var/lib/dpkg/status", "/opt/x", "/x"):
        assert mounts(*written(path)) == []


def test_the_owner_of_a_database_needs_no_image() -> None:
    found = [*written("/pg/base/5/1"), Offender("/pg/pg_hba.conf", "chown", 1, 4096, whose="shop/web/app")]
    assert mounts(*found) == ["/pg"]
    assert len(lines(*found)) == 1


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (b"dpkg", "install packages"),
        (b"dpkg-deb", "install packages"),
        (b"apt-get", "install packages"),
        (b"pip3.11", "install packages"),
        (b"npm install", "install packages"),
        (b"update-alternat", "install packages"),
        (b"tar", "unpack or check out"),
        (b"rsync", "unpack or check out"),
        (b"git", "unpack or check out"),
        (b"tarantool", "mount a volume"),
        (b"gems", "mount a volume"),
        (b"aptly", "mount a volume"),
    ],
)
def test_who_installs_and_unpacks_is_told_by_its_name(program: bytes, what: str) -> None:
    found = [
        Offender(f"/app/{name}", trigger, 1, 1024, whose="shop/web/app", program=program)
        for name, trigger in (("a/1", "rename"), ("a/2", "link"), ("b/3", "open-truncate"))
    ]
    line = lines(*found)[0]
    assert line.startswith("shop/web/app: ") and f" by {program.decode()} to " in line and f": {what}" in line
    assert (mounts(*found) == []) is (what != "mount a volume")
    if what != "mount a volume":
        assert len(lines(*found)) == 1 and " 3 files in /app: " in line


def test_programs_are_named() -> None:
    found = [Offender("/d/1", "append", 1, size, program=name) for size, name in ((5, b"small"), (900, b"large"))]
    assert " copied in 2 copy-ups by large and small to append to /d/1: " in lines(*found)[0]
    found.append(Offender("/d/1", "append", 1, 70, program=b"third"))
    assert " by large, third and 1 more to " in lines(*found)[0]


def test_what_failed_comes_first() -> None:
    failed = Offender("/d/big", "open-write", 3, 0, whose="shop/web/app", error="ENOSPC", size_bytes=1 << 30)
    small = Offender("/d/2", "append", 1, 0, whose="shop/web/app", error="ENOSPC")
    assert lines(*files("/app", 5), failed, small)[0] == (
        "shop/web/app: 4 copies to write to 2 files, the largest /d/big (1.0 GiB) failed with ENOSPC: the disk with "
        "the writable layers is full; make room there"
    )
    (line,) = lines(Offender("/d/big", "append", 1, 0, error="EIO"))
    assert line.startswith("1 copy to append to /d/big (0 B) failed with EIO: the program was told that error")


def test_the_runtime_is_known_by_its_processes_names() -> None:
    assert is_runtime(b"runc:[2:INIT]\0\0\0") and is_runtime(b"crun")
    assert not is_runtime(b"runc") and not is_runtime(b"nginx")


def test_files_of_several_layers_say_which() -> None:
    found = [Offender(f"/app/{layer}", "chown", 1, 1024, False, layer, f"COPY {layer}") for layer in (7, 1, 3, 4)]
    assert "3 files in /app (image layers 1, 3 and 7): set the owner" in lines(*found[:3])[0]
    assert "4 files in /app (4 image layers): set the owner" in lines(*found)[0]
    unknown = Offender("/app/x", "chown", 1, 1)
    assert "4 files in /app: set the owner" in lines(*found[:3], unknown)[0]
    # One layer, but who adds it is not known of all.
    same = [Offender(f"/app/{n}", "chown", 1, 1024, False, 2, "COPY" if n else None) for n in range(3)]
    assert "3 files in /app (image layer 2): set the owner" in lines(*same)[0]


def test_recursive_chown_is_one_matter() -> None:
    tree = []
    for name in ("bin", "lib", "share"):
        tree += [Offender(f"/app/{name}/{n}", "chown", 1, MIB, False, 1, "RUN adduser") for n in range(7)]
    assert lines(*tree) == [
        "21 MiB copied to change the owner of 21 files in /app (image layer 1, RUN adduser): set the "
        "owner in the image: COPY --chown=..., or RUN chown in the layer that adds them"
    ]


def test_different_reasons_and_containers_are_different_matters() -> None:
    found = [
        *(Offender(f"/a/{n}", "append", 1, 10, whose="one") for n in range(3)),
        *(Offender(f"/a/{n}", "append", 1, 20, whose="two") for n in range(3)),
        *(Offender(f"/a/{n}", "chmod", 1, 30, whose="two") for n in range(3)),
    ]
    assert [line.split(" (")[0].split(": set")[0].split(": mount")[0] for line in lines(*found)] == [
        "two: 90 B copied to change the mode of 3 files in /a",
        "two: 60 B copied to append to 3 files in /a",
        "one: 30 B copied to append to 3 files in /a",
    ]


def test_top_level_is_never_one_matter() -> None:
    found = [offender for name in ("var", "srv", "opt") for offender in files(f"/{name}/lib/x", 3)]
    assert mounts(*found) == ["/opt/lib/x", "/srv/lib/x", "/var/lib/x"]
    metadata = [offender for name in ("var", "srv", "opt") for offender in files(f"/{name}", 3, "chown")]
    assert sorted(line.split(" in ")[1].split(" ")[0] for line in lines(*metadata)) == ["/opt", "/srv", "/var"]


def test_worst_come_first_and_the_order_of_arrival_does_not_matter() -> None:
    found = [
        Offender("/a/small", "append", 5, 10),
        Offender("/b/large", "append", 1, 1000),
        Offender("/c/often", "append", 9, 10),
        Offender("/d/tie", "append", 5, 10),
        *files("/data", 5, "chown"),
    ]
    wanted = lines(*found)
    assert [line.split(" to ")[2].split(" ")[0] if "append" in line else "/data" for line in wanted] == [
        "/data",
        "/b/large:",
        "/c/often:",
        "/a/small:",
        "/d/tie:",
    ]
    chance = random.Random(3)
    for _ in range(20):
        chance.shuffle(found)
        assert lines(*found) == wanted
    assert lines(*found, top=2) == wanted[:2]
    assert lines() == []


def test_names_are_apart_from_our_words() -> None:
    offender = Offender(b"/a/\x1b[2J\n\xff", "append", 1, 7, False, 1, "RUN \x1b[31m", "evil\u202e")
    (remedy,) = remedies([offender])
    names = [part.text for part in remedy.parts if isinstance(part, Name)]
    assert names == ["evil\u202e", b"/a/\x1b[2J\n\xff", "RUN \x1b[31m", b"/a"]
    assert all(part.isascii() and part.isprintable() for part in remedy.parts if isinstance(part, str))
    assert remedy.text(escape) == (
        "evil\\u202e: 7 B copied to append to /a/\\x1b[2J\\n\\xff (image layer 1, RUN \\x1b[31m): "
        "mount a volume at /a, filled by an init container"
    )


def test_append_is_an_open_write_with_its_flag() -> None:
    assert trigger_of("open-write", os.O_WRONLY | os.O_APPEND) == "append"
    assert trigger_of("open-write", os.O_RDWR) == "open-write"
    assert trigger_of("chmod", os.O_APPEND) == "chmod"


PATHS = st.lists(st.binary(max_size=4).map(lambda raw: raw.replace(b"/", b"")), max_size=4).map(b"/".join)
OFFENDERS = st.builds(
    Offender,
    PATHS.map(lambda path: b"/" + path) | PATHS,
    st.sampled_from(["append", "chown", "chmod-same", "create", "other", "nonsense"]),
    st.integers(1, 99),
    st.integers(0, 2**50),
    st.booleans(),
    st.none() | st.integers(1, 120),
    st.none() | st.text(max_size=60),
    st.none() | st.text(max_size=3),
    st.sampled_from([b"", b"dpkg", b"tar", b"\xff\n"]),
    st.none() | st.just("ENOSPC"),
    st.integers(0, 2**50),
)


@given(st.lists(OFFENDERS, max_size=30))
def test_every_byte_is_in_one_line_and_no_line_breaks(offenders: list[Offender]) -> None:
    found = remedies(offenders, 1000)
    named = [one for one in offenders if one.copied_bytes or one.error]
    assert sum(remedy.copied_bytes for remedy in found) == sum(one.copied_bytes for one in named)
    assert sum(remedy.files for remedy in found) == len(named)
    assert all(remedy.text(escape).isprintable() for remedy in found)
    assert all(remedy.record()["mount"] is None or remedy.action == "mount" for remedy in found)
