"""The advice on copy-ups, word by word."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.session.view import short_name
from kubetrace.tracers.copyup.remedy import Name, Offender, remedies, trigger_of
from kubetrace.views.text import escape

MIB = 1 << 20


def lines(*offenders: Offender, top: int = 5) -> list[str]:
    return [remedy.text(escape) for remedy in remedies(offenders, top)]


def one(path: str, trigger: str, copied: int = 64 * MIB, *, copies: int = 1, is_directory: bool = False) -> str:
    offender = Offender(path, trigger, copies, copied, is_directory, 3, "RUN mkdir -p /app/logs && make install")
    (line,) = lines(offender)
    return line


ORIGIN = "(image layer 3, RUN mkdir -p /app/logs && make install)"


@pytest.mark.parametrize(
    ("path", "trigger", "copied", "line"),
    [
        (
            "/app/logs/app.log",
            "append",
            64 * MIB,
            f"64 MiB copied to append to /app/logs/app.log {ORIGIN}: mount an emptyDir at /app/logs",
        ),
        (
            "/app/data/index.db",
            "open-write",
            64 * MIB,
            f"64 MiB copied to write to /app/data/index.db {ORIGIN}: mount a volume at /app/data, filled by an init "
            "container",
        ),
        (
            "/app/log",
            "truncate",
            64 * MIB,
            f"64 MiB copied to truncate /app/log {ORIGIN}: open it with O_TRUNC (in a shell: > file), which copies "
            "nothing, or mount an emptyDir at /app",
        ),
        (
            "/app/big",
            "chmod",
            64 * MIB,
            f"64 MiB copied to change the mode of /app/big {ORIGIN}: set the mode in the image: COPY --chmod=..., or "
            "RUN chmod in the layer that adds it",
        ),
        (
            "/app/big",
            "chown",
            64 * MIB,
            f"64 MiB copied to change the owner of /app/big {ORIGIN}: set the owner in the image: COPY --chown=..., or "
            "RUN chown in the layer that adds it",
        ),
        (
            "/app/big",
            "utimes",
            64 * MIB,
            f"64 MiB copied to set the times of /app/big {ORIGIN}: leave its times alone (touch, cp -p, tar and rsync "
            "set them), or mount a volume at /app, filled by an init container",
        ),
        (
            "/app/big",
            "rename",
            64 * MIB,
            f"64 MiB copied to rename /app/big {ORIGIN}: give it the new name in the image, or mount a volume at /app, "
            "filled by an init container",
        ),
        (
            "/app/big",
            "link",
            64 * MIB,
            f"64 MiB copied to make a hard link to /app/big {ORIGIN}: make the link in the image, or a symbolic link, "
            "which copies nothing",
        ),
        (
            "/app/big",
            "xattr",
            64 * MIB,
            f"64 MiB copied to set an extended attribute of /app/big {ORIGIN}: set it in the image: RUN setcap or "
            "setfattr in the layer that adds it",
        ),
        (
            "/app/big",
            "other",
            64 * MIB,
            f"64 MiB copied to change /app/big {ORIGIN}: mount a volume at /app, filled by an init container",
        ),
        (
            "/etc/ld.so.cache",
            "open-write",
            30_000,
            f"29 KiB copied to write to /etc/ld.so.cache {ORIGIN}: make the change in the image, or mount a file over "
            "/etc/ld.so.cache (ConfigMap or Secret with subPath)",
        ),
        (
            "/app.log",
            "append",
            4096,
            f"4.0 KiB copied to append to /app.log {ORIGIN}: make the change in the image, or mount a file over "
            "/app.log (ConfigMap or Secret with subPath)",
        ),
    ],
)
def test_advice_on_one_file(path: str, trigger: str, copied: int, line: str) -> None:
    assert one(path, trigger, copied) == line


def test_advice_on_one_directory() -> None:
    assert one("/app/cache", "create", 0, is_directory=True) == (
        f"only metadata copied to make something in /app/cache {ORIGIN}: mount an emptyDir at /app/cache"
    )
    assert one("/app/cache", "unlink", 0, is_directory=True) == (
        f"only metadata copied to remove something in /app/cache {ORIGIN}: remove it in the image, in the layer that "
        "adds it"
    )


def test_a_file_of_which_nothing_was_copied_is_not_named() -> None:
    for trigger in ("open-truncate", "truncate", "chown", "open-write"):
        assert lines(Offender("/app/pid", trigger, 3, 0, False, 3, "COPY")) == []
    assert lines(Offender("/app", "open-write", 3, 0, True, 3, "COPY")) == []
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
        f"mount an emptyDir at /app/{'d' * 31}…{'d' * 35}"
    )
    (brief,) = remedies([Offender("/app/log", "append", 1, 7, False, 1, "COPY", "shop/web/app")])
    assert brief.text(short_name) == brief.text(escape)


def test_system_directories_are_not_found_by_the_letters_of_others() -> None:
    assert one("/etcetera/x", "append").endswith("mount an emptyDir at /etcetera")
    assert "subPath" in one("/usr/share/x/y", "append")


def test_what_is_unknown_of_the_layer_is_left_out() -> None:
    assert lines(Offender("/a/b", "append", 1, 7)) == ["7 B copied to append to /a/b: mount an emptyDir at /a"]
    assert lines(Offender("/a/b", "append", 1, 7, layer=2)) == [
        "7 B copied to append to /a/b (image layer 2): mount an emptyDir at /a"
    ]


def test_long_dockerfile_line_is_cut() -> None:
    (line,) = lines(Offender("/a/b", "append", 1, 7, layer=2, line="RUN " + "x" * 100))
    assert line == f"7 B copied to append to /a/b (image layer 2, RUN {'x' * 43}…): mount an emptyDir at /a"


def test_several_copies_and_whose_they_are() -> None:
    (line,) = lines(Offender("/a/b", "append", 23, 23 * MIB, whose="shop/cart-7d/main"))
    assert line == ("shop/cart-7d/main: 23 MiB copied in 23 copy-ups to append to /a/b: mount an emptyDir at /a")


def files(directory: str, count: int, trigger: str = "open-write", layer: int = 2) -> list[Offender]:
    return [Offender(f"{directory}/{n:03}.dat", trigger, 1, 1024, False, layer, "COPY data /app") for n in range(count)]


def test_many_files_of_one_directory_are_one_matter() -> None:
    assert lines(*files("/app/data", 307)) == [
        "307 KiB copied to write to 307 files in /app/data (image layer 2, COPY data /app): mount a volume at "
        "/app/data, filled by an init container"
    ]
    assert len(lines(*files("/app/data", 2))) == 2


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
    tree = [Offender("/app", "chown", 1, 0, True, 1, "RUN adduser")]
    for name in ("bin", "lib", "share"):
        tree.append(Offender(f"/app/{name}", "chown", 1, 0, True, 1, "RUN adduser"))
        tree += [Offender(f"/app/{name}/{n}", "chown", 1, MIB, False, 1, "RUN adduser") for n in range(7)]
    assert lines(*tree) == [
        "21 MiB copied to change the owner of 25 files and directories in /app (image layer 1, RUN adduser): set the "
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
    found = [offender for name in ("var", "srv", "opt") for offender in files(f"/{name}/x", 3)]
    assert sorted(line.split(" in ")[1].split(" ")[0] for line in lines(*found)) == ["/opt/x", "/srv/x", "/var/x"]


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
        "mount an emptyDir at /a"
    )


def test_append_is_an_open_write_with_its_flag() -> None:
    assert trigger_of("open-write", os.O_WRONLY | os.O_APPEND) == "append"
    assert trigger_of("open-write", os.O_RDWR) == "open-write"
    assert trigger_of("chmod", os.O_APPEND) == "chmod"


PATHS = st.lists(st.binary(max_size=4).map(lambda raw: raw.replace(b"/", b"")), max_size=4).map(b"/".join)
OFFENDERS = st.builds(
    Offender,
    PATHS.map(lambda path: b"/" + path) | PATHS,
    st.sampled_from(["append", "chown", "create", "other", "nonsense"]),
    st.integers(1, 99),
    st.integers(0, 2**50),
    st.booleans(),
    st.none() | st.integers(1, 120),
    st.none() | st.text(max_size=60),
    st.none() | st.text(max_size=3),
)


@given(st.lists(OFFENDERS, max_size=30))
def test_every_byte_is_in_one_line_and_no_line_breaks(offenders: list[Offender]) -> None:
    found = remedies(offenders, 1000)
    assert sum(remedy.copied_bytes for remedy in found) == sum(one.copied_bytes for one in offenders)
    named = [one for one in offenders if one.copied_bytes or (one.is_directory and one.trigger in ("chown", "create"))]
    assert sum(remedy.files for remedy in found) == len(named)
    assert all(remedy.text(escape).isprintable() for remedy in found)
