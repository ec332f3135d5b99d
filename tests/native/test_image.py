"""kubetrace's OCI image as scripts/image builds it: really built, here, and run in a chroot."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from kubetrace import __version__, tracers
from kubetrace.commands import group
from tests.vm import stage

from .image_builds import ARCHITECTURES, Builds

sys.path.insert(0, str(stage.CHECKOUT / "scripts"))
from oci import layers, packages
from oci.files import BuildError, File, Part

NAME = "registry.example/kubetrace"
TAGS = [__version__, f"{__version__}-bcc"]
LIMIT = 45 << 20


class Image:
    """One tag of a layout on disk, for one platform."""

    def __init__(self, layout: Path, tag: str, architecture: str = "") -> None:
        self._layout = layout
        index = json.loads((layout / "index.json").read_text())
        (self.entry,) = (
            e for e in index["manifests"] if e["annotations"]["io.containerd.image.name"] == f"{NAME}:{tag}"
        )
        platforms = self.json(self.entry)["manifests"]
        (self.platform,) = (p for p in platforms if p["platform"]["architecture"].startswith(architecture))
        self.manifest = self.json(self.platform)
        self.config = self.json(self.manifest["config"])

    def blob(self, described: dict[str, Any]) -> bytes:
        """A blob's bytes, if they are what is said of them."""
        data: bytes = (self._layout / "blobs" / described["digest"].replace(":", "/")).read_bytes()
        assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (described["size"], described["digest"])
        return data

    def json(self, described: dict[str, Any]) -> Any:
        return json.loads(self.blob(described))

    def tars(self) -> Iterator[bytes]:
        """Each layer, unpacked by gzip itself, if it is what the configuration says."""
        for described, diff_id in zip(self.manifest["layers"], self.config["rootfs"]["diff_ids"], strict=True):
            assert described["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
            done = subprocess.run(["gzip", "-dc"], input=self.blob(described), capture_output=True, check=True)
            assert f"sha256:{hashlib.sha256(done.stdout).hexdigest()}" == diff_id
            yield done.stdout

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Each entry of each layer, with a regular file's bytes."""
        for tar in self.tars():
            with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
                for member in opened:
                    end = member.offset_data + (member.size if member.isreg() else 0)
                    yield member, tar[member.offset_data : end]


@pytest.fixture(scope="module")
def built(image_builds: Builds) -> Path:
    """Both tags for this machine; scripts/vm --image then has them too."""
    return image_builds.here.result()


@pytest.fixture(scope="module", params=TAGS)
def image(request: pytest.FixtureRequest, built: Path) -> Image:
    return Image(built / "layout", request.param)


@pytest.fixture(scope="module")
def root(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain image's files, unpacked."""
    directory = tmp_path_factory.mktemp("root")
    for tar in Image(built / "layout", __version__).tars():
        subprocess.run(["tar", "-x", "-p", "-C", directory], input=tar, check=True)
    return directory


def sbom(built: Path, image: Image) -> Any:
    tag = image.entry["annotations"]["org.opencontainers.image.ref.name"]
    return json.loads((built / f"sbom-{tag}-{image.platform['platform']['architecture']}.spdx.json").read_text())


@pytest.fixture(scope="module")
def another(image_builds: Builds) -> Path:
    """Built from another checkout, elsewhere, for every architecture."""
    return image_builds.elsewhere.result()


def test_another_checkout_gives_the_same_bytes(built: Path, another: Path) -> None:
    one = Image(built / "layout", __version__)
    other = Image(another / "layout", __version__, one.config["architecture"])
    assert other.config["rootfs"] == one.config["rootfs"]
    assert other.platform == one.platform


def test_an_index_names_each_architecture(another: Path) -> None:
    assert len(json.loads((another / "layout" / "index.json").read_text())["manifests"]) == 1
    for architecture, machine in ARCHITECTURES.items():
        image = Image(another / "layout", __version__, architecture)
        assert image.config["architecture"] == architecture
        objects = [member.name for member, _ in image.members() if member.name.endswith(".bpf.o")]
        assert len(objects) == len(tracers.names())
        for member, data in image.members():
            if data.startswith(b"\x7fELF") and not member.name.endswith(".bpf.o"):
                # e_machine (elf.h)
                assert int.from_bytes(data[18:20], "little") == machine, member.name


def test_the_image_is_small_without_bcc(built: Path) -> None:
    sizes = {tag: sum(layer["size"] for layer in Image(built / "layout", tag).manifest["layers"]) for tag in TAGS}
    assert sizes[__version__] < LIMIT < sizes[f"{__version__}-bcc"]
    # the report says the same
    for tag, size in sizes.items():
        (line,) = re.findall(rf"^image {re.escape(tag)} .*$", (built / "sizes.txt").read_text(), re.MULTILINE)
        assert line.endswith(f" {size / 1024:,.0f} KiB")


def test_the_tags_share_their_layers(built: Path) -> None:
    plain, bcc = (Image(built / "layout", tag).manifest["layers"] for tag in TAGS)
    assert bcc[: len(plain)] == plain


def test_it_says_what_it_is(image: Image) -> None:
    tag = image.entry["annotations"]["org.opencontainers.image.ref.name"]
    assert image.platform["platform"] == {"architecture": image.config["architecture"], "os": "linux"}
    labels = image.config["config"]["Labels"]
    assert labels == image.manifest["annotations"]
    assert labels["org.opencontainers.image.version"] == tag
    assert labels["org.opencontainers.image.title"] == "kubetrace"
    assert labels["org.opencontainers.image.created"] == image.config["created"] == "2023-11-14T22:13:20Z"
    assert "GPL-2.0-only" in labels["org.opencontainers.image.licenses"]
    assert image.config["config"]["Entrypoint"] == ["/usr/bin/kubetrace"]
    assert "User" not in image.config["config"]
    assert len(image.config["history"]) == len(image.manifest["layers"])


def test_files_are_roots_and_none_is_setuid_or_a_device(image: Image) -> None:
    for member, _ in image.members():
        assert (member.uid, member.gid) == (0, 0), member.name
        assert member.isreg() or member.isdir() or member.issym(), member.name
        assert member.name == "tmp" or member.name == "var/tmp" or not member.mode & 0o7022 or member.issym(), (
            member.name
        )


def test_no_registry_is_named_anywhere(built: Path, image: Image) -> None:
    uris = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True).stdout
    code = "from pip._internal.models.index import PyPI as index; print(index.url, index.file_storage_domain)"
    index = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    hosts = {urllib.parse.urlparse(uri).netloc or uri for uri in (*uris.split(), *index.split())}
    assert len(hosts) >= 3
    texts = {"manifest": image.blob(image.platform), "config": image.blob(image.manifest["config"])}
    texts |= {path.name: path.read_bytes() for path in [*built.glob("*.json"), built / "layout" / "index.json"]}
    texts |= {member.name: data for member, data in image.members()}
    here = [str(stage.CHECKOUT), str(stage.cache_directory())]
    found = {name: word for name, data in texts.items() for word in (*hosts, *here) if word.encode() in data}
    assert found == {}


def test_the_sbom_lists_each_package(built: Path, image: Image) -> None:
    document = sbom(built, image)
    assert (document["spdxVersion"], document["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    listed = {package["name"]: package for package in document["packages"]}
    assert len(listed) == len(document["packages"])
    # each that the image has: Debian's by their registers, Python's by their metadata
    names, versions = set(), dict[str, str]()
    for member, data in image.members():
        if "/status.d/" in member.name or member.name.endswith(".dist-info/METADATA"):
            fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", data.decode(), re.MULTILINE))
            name = fields.get("Package") or re.sub(r"[-_.]+", "-", fields["Name"]).lower()
            names.add(name)
            versions[name] = fields["Version"]
    assert {"libc6", "libbpf1", "base-files", "kubetrace", "click", "rich", "prometheus-client"} <= names
    assert {name: listed[name]["versionInfo"] for name in names} == versions
    assert listed.keys() - names == {document["packages"][0]["name"]}
    ids = {package["SPDXID"] for package in document["packages"]}
    assert len(ids) == len(listed) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    related = {(r["spdxElementId"], r["relationshipType"], r["relatedSpdxElement"]) for r in document["relationships"]}
    assert related == {("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")} | {
        ("SPDXRef-image", "CONTAINS", one) for one in ids - {"SPDXRef-image"}
    }
    assert listed[f"{NAME}:{image.entry['annotations']['org.opencontainers.image.ref.name']}"]["checksums"] == [
        {"algorithm": "SHA256", "checksumValue": image.platform["digest"].removeprefix("sha256:")}
    ]
    for name in names:
        (checksum,) = listed[name]["checksums"]
        assert re.fullmatch(r"[0-9a-f]{64}", checksum["checksumValue"])
        (reference,) = listed[name]["externalRefs"]
        assert re.match(rf"pkg:(deb/debian|pypi)/{re.escape(name)}@", reference["referenceLocator"])


def test_every_library_is_there(image: Image) -> None:
    here, linked = set(), dict[str, str]()
    for member, data in image.members():
        here.add(Path(member.name).name)
        linked |= dict.fromkeys(packages.needed(File(data)), member.name)
    assert {name: by for name, by in linked.items() if name not in here} == {}


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin")
    assert chroot is not None
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run([chroot, root, *command], env=environment, capture_output=True, text=True, check=False)


def test_it_runs_and_writes_nothing(root: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    shown = inside(root, "kubetrace", "--version")
    first, commit, libbpf, *_ = shown.stdout.splitlines()
    assert (shown.returncode, first) == (0, f"kubetrace, version {__version__}")
    # the images of this test are built without git, so that two checkouts give the same; libbpf is the image's own
    assert commit == "commit   unknown" and re.fullmatch(r"libbpf   1\.\d+(\.\d+)?", libbpf)
    for name in group.kubetrace.list_commands(click.Context(group.kubetrace)):
        assert inside(root, "kubetrace", name, "--help").returncode == 0, name
    # all that is imported late too, and the engine's library
    code = (
        "import importlib, pkgutil, kubetrace\n"
        "for module in pkgutil.walk_packages(kubetrace.__path__, 'kubetrace.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "from kubetrace.engines.libbpf import library; print(library().log)"
    )
    done = inside(root, "python3", "-IB", "-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


def test_nothing_is_compiled_at_start(root: Path) -> None:
    for source in root.rglob("usr/**/*.py"):
        assert [*source.parent.glob(f"__pycache__/{source.stem}.cpython-*.pyc")], source
    done = inside(root, "python3", "-v", "-c", "import kubetrace.commands.group, kubetrace.session.trace")
    assert "code object from" in done.stderr
    assert not re.search(r"^# (wrote|code object from '[^']*\.py'$)", done.stderr, re.MULTILINE)


def test_its_directories_are_there_to_be_mounted_over(root: Path) -> None:
    for name in (
        "dev",
        "etc/hosts",
        "etc/resolv.conf",
        "host",
        "proc",
        "sys",
        "run/secrets/kubernetes.io/serviceaccount",
    ):
        assert (root / name).exists(), name
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert os.readlink(root / "bin") == "usr/bin"


def test_a_shell_is_there(root: Path) -> None:
    assert inside(root, "sh", "-c", "ls / | grep -c host && ps 2>&1 | head -n 1").returncode == 0


# -- what cannot be built --------------------------------------------------------------------------------------------


def test_a_library_that_no_package_has_is_an_error() -> None:
    elf = Path(sys.executable).resolve().read_bytes()
    python = Part("libpython3.11-minimal", "1", files={"usr/lib/python3.11/lib-dynload/x.so": File(elf)})
    with pytest.raises(BuildError, match=r"no package has l\S+, which a file of the image needs"):
        packages.select([python], "3.11", {"libpython{}-minimal": ["usr/lib/python{}/*"]})


def test_a_package_that_apt_did_not_give_is_an_error() -> None:
    with pytest.raises(BuildError, match="apt did not fetch base-files"):
        packages.select([Part("libc6", "1")], "3.11", packages.WANTED)


def test_a_link_that_leads_nowhere_is_an_error() -> None:
    part = Part("x", "1", files={"usr/lib/libx.so.1": File(link="libx-0.1.so", mode=0o777)})
    with pytest.raises(BuildError, match=r"/usr/lib/libx\.so\.1 leads to libx-0\.1\.so, which is not in the image"):
        layers.check_links([part])
    part.files["usr/lib/libx-0.1.so"] = File(b"")
    layers.check_links([part])


def test_two_files_of_one_name_are_an_error() -> None:
    parts = [Part(name, "1", files={"usr/bin/x": File(b"")}) for name in ("one", "two")]
    with pytest.raises(BuildError, match="two and one both have usr/bin/x"):
        layers.make("x", parts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "riscv64"], "give each of amd64, arm64 once"),
        (["--name", "kubetrace:1"], "the tag is kubetrace's version"),
    ],
)
def test_what_was_asked_wrongly_is_told(options: list[str], words: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(stage.CHECKOUT / "scripts")}
    command = [sys.executable, "-m", "oci", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
