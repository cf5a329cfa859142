"""A small file system that a test can fill."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NoSmallDisk(Exception):
    """No file system of limited size can be mounted here."""


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of ``mebibytes`` at ``folder``. Raise ``NoSmallDisk`` where this user may not."""
    folder.mkdir(exist_ok=True)
    options = f"size={mebibytes}m,mode=755"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise NoSmallDisk("only root may mount a file system of limited size") from None
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Fill a file system to its last block; return the file to delete to make room again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 4096):
            with suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    return ballast
