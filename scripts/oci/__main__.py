"""scripts/image: build kubetrace's OCI image and say what is in it."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oci import build
from oci.files import BuildError
from oci.wheels import MACHINES

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Read the command line and build."""
    own = {machine: name for name, machine in MACHINES.items()}.get(platform.machine(), "amd64")
    parser = argparse.ArgumentParser(
        prog="scripts/image",
        description="Build the OCI image for kubectl debug node and for DaemonSets: as a layout directory and as a tar "
        "for 'ctr -n k8s.io images import'. Needs no container engine, registry or root. The same inputs give the same "
        "digest; SOURCE_DATE_EPOCH is the commit's time if it is not set.",
        epilog="Examples:  scripts/image   scripts/image --arch amd64,arm64 --bcc --name registry.example/kubetrace",
    )
    parser.add_argument(
        "--arch", default=own, metavar="LIST", help=f"of {', '.join(MACHINES)}, by commas (default {own})"
    )
    parser.add_argument("--bcc", action="store_true", help="a second tag, VERSION-bcc, with python3-bpfcc")
    parser.add_argument(
        "--name", default="localhost/kubetrace", help="the image's name without a tag (default %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=CHECKOUT / "dist" / "image", metavar="DIR", help="default dist/image"
    )
    given = parser.parse_args()
    architectures = given.arch.split(",")
    unknown = [name for name in architectures if name not in MACHINES]
    if unknown or len(set(architectures)) != len(architectures):
        parser.error(f"--arch {given.arch}: give each of {', '.join(MACHINES)} once at most")
    if ":" in given.name.rpartition("/")[2] or not given.name:
        parser.error(f"--name {given.name}: the tag is kubetrace's version; give the name without one")
    cache = Path(os.environ.get("KUBETRACE_CACHE") or os.path.expanduser("~/.cache/kubetrace")).absolute()
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="kubetrace-image-") as work:
            built = build.images(
                CHECKOUT,
                architectures,
                given.name,
                given.output,
                apt=cache / "image",
                work=Path(work),
                epoch=_epoch(),
                revision=_git("rev-parse", "HEAD"),
                with_bcc=given.bcc,
            )
    except BuildError as error:
        print(f"scripts/image: {error}", file=sys.stderr)
        return 1
    print((given.output / build.SIZES).read_text(), end="")
    print(f"\nBuilt in {time.monotonic() - begun:.0f} s: {given.output}")
    for reference, digest in built.items():
        print(f"  {reference}  {digest}")
        print(f"    ctr -n k8s.io images import {given.output}/kubetrace-{reference.rpartition(':')[2]}.tar")
    return 0


def _epoch() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "0"
    if not given.isdecimal():
        raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}, and no number of seconds.")
    return int(given)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", CHECKOUT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
