"""The disk with a kernel's headers: over 9p, a compiler would look each of thousands of files up for milliseconds."""

import shutil
import tempfile
from pathlib import Path

from tests.vm import stage

# of an architecture's directory and of the kernel's
_WANTED = ("include", "arch/x86/include", "Makefile")


def disk(tree: Path) -> Path:
    """What a compiler needs of the tree of a kernel's headers packages; made once."""
    made = tree.with_name(f"{tree.name}.ext4")
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=tree.parent, prefix="headers-") as name:
            copy = Path(name) / "tree"
            for directory in sorted((tree / "usr" / "src").iterdir()):
                for part in _WANTED:
                    origin, target = directory / part, copy / directory.name / part
                    if origin.is_dir():
                        shutil.copytree(origin, target, symlinks=True)
                    elif origin.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(origin, target)
            files = sum(1 for _ in copy.rglob("*"))
            size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file() and not path.is_symlink())
            stage.write_ext4(Path(name) / "disk", copy, (size + files * 6144 >> 20) * 5 // 4 + 16)
            (Path(name) / "disk").rename(made)
    return made
