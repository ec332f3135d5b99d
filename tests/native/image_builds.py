"""The two builds of the image that test_image.py looks at: this checkout's, and that of a copy elsewhere."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.vm import stage

# Debian's name -> EM_X86_64, EM_AARCH64
ARCHITECTURES = {"amd64": 62, "arm64": 183}


class Builds:
    """Both run beside one another from when this is made: each waits for apt and pip most of the time.

    In directories of their own: another run of these tests may build the same image at the same time.
    """

    def __init__(self, directory: Path) -> None:
        self._pool = ThreadPoolExecutor(2)
        # both tags for this machine; scripts/vm --image then has them too
        self.here: Future[Path] = self._pool.submit(_build, directory / "image")
        # for every architecture
        self.elsewhere: Future[Path] = self._pool.submit(_build_another, directory / "another" / "check out")

    def close(self) -> None:
        """Wait for what still runs: it writes into the directory."""
        self._pool.shutdown(cancel_futures=True)


def _build(output: Path) -> Path:
    stage.build_image(output, stage.CHECKOUT, "--bcc")
    stage.keep_image(output, stage.cache_directory())
    return output


def _build_another(checkout: Path) -> Path:
    for name in ("bpf", "scripts", "src"):
        left_out = shutil.ignore_patterns("__pycache__", "*.bpf.o")
        shutil.copytree(stage.CHECKOUT / name, checkout / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(stage.CHECKOUT / name, checkout / name)
    output = checkout.with_name("image")
    stage.build_image(output, checkout, "--arch", ",".join(ARCHITECTURES))
    return output
