"""mountinfo lines of real kernels, and a round trip of every name that an overlay can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.attribution.mountinfo import (
    Overlay,
    absolute_lowerdirs,
    overlay_options,
    parse,
    parse_line,
    unescape,
)

PLAIN = (
    b"246 25 0:149 / /run/containerd/x/rootfs rw,relatime shared:69 - overlay overlay "
    b"rw,lowerdir=/s/4/fs:/s/3/fs,upperdir=/s/18/fs,workdir=/s/18/work,index=off"
)


def test_overlay_line() -> None:
    mount = parse_line(PLAIN)
    assert mount is not None
    assert (mount.mount_id, mount.device, mount.root, mount.mount_point) == (246, 149, "/", "/run/containerd/x/rootfs")
    assert (mount.fstype, mount.source) == ("overlay", "overlay")
    assert overlay_options(mount.super_options) == Overlay(("/s/4/fs", "/s/3/fs"), "/s/18/fs", "/s/18/work")


def test_device_number_is_the_kernels_own() -> None:
    mount = parse_line(b"107 79 254:3 /kubelet /var/lib/kubelet rw,relatime shared:12 master:2 - ext4 /dev/vda rw")
    assert mount is not None
    assert mount.device == 254 * 1_048_576 + 3
    assert mount.root == "/kubelet"


def test_lines_without_optional_fields_or_options() -> None:
    private = parse_line(b"1 0 0:5 / / rw - tmpfs tmpfs rw")
    assert private is not None and private.fstype == "tmpfs"
    # An empty source is written as nothing between two spaces.
    empty = parse_line(b"1 0 0:5 / / rw - tmpfs  rw,size=1k")
    assert empty is not None and (empty.source, empty.super_options) == ("", "rw,size=1k")


def test_what_is_no_mountinfo_line_is_left_out() -> None:
    for line in (b"", b"\0", b"1 2 3", b"1 0 0:x / / rw - tmpfs t rw", b"a b c d e f - g h i", b"- - - - - - - -"):
        assert parse_line(line) is None
    assert len(list(parse(b"garbage\n" + PLAIN + b"\n\xff\xfe\n" + PLAIN))) == 2


def test_escapes_measured_on_5_10_to_7_2() -> None:
    # mount -o 'lowerdir=sp ace\:x:le\,ft'
    shown = r"rw,lowerdir=sp\040ace\134:x:le\134\054ft,upperdir=/u,workdir=/w"
    assert overlay_options(shown).lowerdirs == ("sp ace:x", "le,ft")


def test_relative_layers_stay_relative() -> None:
    assert overlay_options("rw,lowerdir=4/fs:3/fs,upperdir=18/fs,workdir=18/work") == Overlay(
        ("4/fs", "3/fs"), "18/fs", "18/work"
    )


def test_relative_layers_are_below_the_directory_of_all_layers() -> None:
    base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    found = (f"{base}/4/fs", f"{base}/3/fs")
    assert absolute_lowerdirs(("4/fs", "3/fs"), f"{base}/18/fs", f"{base}/18/work") == found
    assert absolute_lowerdirs(("4/fs", f"{base}/3/fs"), f"{base}/18/fs/", None) == found
    # docker: l/ holds short links to the layers.
    assert absolute_lowerdirs(("l/ABC",), "/d/overlay2/x/diff", "/d/overlay2/x/work") == ("/d/overlay2/l/ABC",)
    # No upper directory (a read-only view), or one that says nothing.
    assert absolute_lowerdirs(("4/fs",), None, f"{base}/18/work") == (f"{base}/4/fs",)
    assert absolute_lowerdirs(("4/fs", "/a"), None, None) == ("4/fs", "/a")
    assert absolute_lowerdirs(("4/fs",), "18/fs", "") == ("4/fs",)


def test_line_of_the_new_mount_api_with_odd_names_and_data_layers() -> None:
    # Linux 6.18: fsconfig() with the directories a:b, c\:d, "co,mma", "sp ace", data1 and da:ta2, metacopy=on.
    line = (
        rb"71 63 0:40 / /tmp/ft/m rw,relatime - overlay none rw,lowerdir+=/tmp/ft/a:b,lowerdir+=/tmp/ft/c\134:d,"
        rb"lowerdir+=/tmp/ft/co\054mma,lowerdir+=/tmp/ft/sp\040ace,datadir+=/tmp/ft/data1,datadir+=/tmp/ft/da:ta2,"
        rb"upperdir=/tmp/ft/u,workdir=/tmp/ft/w,redirect_dir=on,uuid=on,metacopy=on"
    )
    mount = parse_line(line)
    assert mount is not None
    names = ("a:b", "c\\:d", "co,mma", "sp ace", "data1", "da:ta2")
    assert overlay_options(mount.super_options) == Overlay(
        tuple(f"/tmp/ft/{name}" for name in names), "/tmp/ft/u", "/tmp/ft/w"
    )


def test_hundred_and_twenty_layers_by_either_interface() -> None:
    layers = tuple(f"/snapshots/{number}/fs" for number in range(120, 0, -1))
    old = "rw,lowerdir=" + ":".join(layers) + ",upperdir=/snapshots/121/fs,workdir=/snapshots/121/work"
    new = "rw," + ",".join(f"lowerdir+={one}" for one in layers) + ",upperdir=/snapshots/121/fs"
    assert overlay_options(old).lowerdirs == overlay_options(new).lowerdirs == layers


@pytest.mark.parametrize(
    ("lowerdir", "layers"),
    [
        # a colon of a name as octal, and as the backslash that quoted it
        (r"/a\072b:/c", ("/a:b", "/c")),
        (r"/a\134:b:/c", ("/a:b", "/c")),
        (r"/a\134\134:/c", ("/a\\", "/c")),
        (r"/a\134\072b:/c", ("/a:b", "/c")),
        (r"/sp\040ace:/c", ("/sp ace", "/c")),
        (r"/a\134", ("/a\\",)),
    ],
)
def test_layers_are_told_apart_before_escapes_are_undone(lowerdir: str, layers: tuple[str, ...]) -> None:
    assert overlay_options(f"rw,lowerdir={lowerdir},upperdir=/u,workdir=/w").lowerdirs == layers


def test_layers_that_were_mounted_elsewhere_or_are_descriptors() -> None:
    base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    idmapped = ("/tmp/ovl-idmapped1/79/fs", "/tmp/ovl-idmapped1/78/fs")
    assert absolute_lowerdirs(idmapped, f"{base}/80/fs", f"{base}/80/work") == (f"{base}/79/fs", f"{base}/78/fs")
    numbers = ("7", "8", "9")
    assert absolute_lowerdirs(numbers, "/var/lib/containers/storage/overlay/ID/diff", None) == numbers


def test_new_mount_api_repeats_the_option_and_takes_it_as_it_is() -> None:
    shown = r"rw,lowerdir+=/a:b,lowerdir+=/c\134:d,datadir+=/data,upperdir=/u,workdir=/w,redirect_dir=on,uuid=on"
    assert overlay_options(shown).lowerdirs == ("/a:b", "/c\\:d", "/data")


def test_data_only_layers_come_last() -> None:
    assert overlay_options("rw,lowerdir=/a:/b::/data1::/data2").lowerdirs == ("/a", "/b", "/data1", "/data2")


def test_read_only_overlay_has_no_upperdir() -> None:
    assert overlay_options("ro,lowerdir=/a:/b") == Overlay(("/a", "/b"), None, None)


def test_names_that_are_not_utf8_come_back_as_they_are() -> None:
    assert unescape(b"/a\\012b\xff\\134c").encode("utf-8", "surrogateescape") == b"/a\nb\xff\\c"
    assert unescape(b"/end\\") == "/end\\"
    assert unescape(b"/\\777").encode("utf-8", "surrogateescape") == b"/\xff"


# A name: any bytes but NUL and slash; the kernel's escapes and overlayfs's quotes as their documentation says.
NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: b"/" + raw.replace(b"\0", b"0").replace(b"/", b"1"))


def escaped(value: bytes, also: bytes) -> bytes:
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" + also else bytes([byte]) for byte in value)


def quoted(layer: bytes) -> bytes:
    for char in (b"\\", b":", b","):
        layer = layer.replace(char, b"\\" + char)
    return layer


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@given(st.lists(NAMES, min_size=1, max_size=5), NAMES, NAMES, NAMES, st.booleans())
def test_round_trip_of_any_names(layers: list[bytes], upper: bytes, work: bytes, point: bytes, new_api: bool) -> None:
    if new_api:
        lower = b",".join(b"lowerdir+=" + escaped(layer, b",=") for layer in layers)
    else:
        lower = b"lowerdir=" + escaped(b":".join(quoted(layer) for layer in layers), b",=")
    options = b",".join(
        [b"rw", lower, b"upperdir=" + escaped(quoted(upper), b",="), b"workdir=" + escaped(quoted(work), b",=")]
    )
    line = b"36 35 0:98 / %s rw,noatime master:1 - overlay overlay %s" % (escaped(point, b"#"), options)
    (mount,) = parse(line + b"\n")
    assert mount.mount_point == text(point)
    found = overlay_options(mount.super_options)
    assert found == Overlay(tuple(text(layer) for layer in layers), text(upper), text(work))


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(junk: bytes) -> None:
    for mount in parse(junk + b"\n" + PLAIN[:60] + junk):
        overlay_options(mount.super_options)
    overlay_options(text(junk))
