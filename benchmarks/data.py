"""Fetch the real data sets of the benchmarks: `python -m benchmarks.data FOLDER [NAME ...]`.

They are taken by name from Debian's packages, through apt as it is set up on the machine; nothing is installed.

name      package                 what                                                             licence
fashion   dataset-fashion-mnist   70,000 grey pictures of garments, 28 × 28, 10 classes (IDX)      MIT
clipart   openclipart-png         6,900 PNG of any size by category, 1,221 links to them, a bomb   public domain
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fromnoise.errors import FromNoiseError


@dataclass(frozen=True, kw_only=True)
class Source:
    """A Debian package and the folder in it that is wanted."""

    package: str
    inside: str


SOURCES = {
    "fashion": Source(package="dataset-fashion-mnist", inside="usr/share/datasets/fashion-mnist"),
    "clipart": Source(package="openclipart-png", inside="usr/share/openclipart/png"),
}


def fetch(name: str, folder: Path) -> Path:
    """The data set in `folder/name`, fetched unless it is there; whole or not there, also when interrupted.

    Raises FromNoiseError where apt is missing or does not deliver the package.
    """
    target, source = folder / name, SOURCES[name]
    if target.is_dir():
        return target
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FromNoiseError(
            f"There is no apt on this machine: on Debian or Ubuntu run `apt-get download {source.package}` and "
            f"`dpkg -x {source.package}*.deb unpacked`, then copy unpacked/{source.inside} to {target}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        # apt fetches as its own user, who must be able to enter.
        work.chmod(0o755)
        _apt("download", source.package, work)
        package = next(work.glob("*.deb"))
        _run(["dpkg", "-x", str(package), "unpacked"], work)
        (work / "unpacked" / source.inside).rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the real data sets of the benchmarks from Debian's packages.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(SOURCES)}; all of them by default")
    choices = parser.parse_args()
    unknown = set(choices.names) - set(SOURCES)
    if unknown:
        parser.error(f"no such data set: {', '.join(sorted(unknown))}")
    try:
        for name in choices.names or SOURCES:
            target = fetch(name, choices.folder)
            files = sum(path.is_file() for path in target.rglob("*"))
            print(f"{name}: {target} ({files:,} files)")
    except FromNoiseError as error:
        sys.exit(str(error))


def _apt(verb: str, package: str, folder: Path) -> None:
    """`apt-get VERB PACKAGE`, after fetching the package lists if they are missing."""
    if not list(Path("/var/lib/apt/lists").glob("*Packages*")):
        _run(["apt-get", "update", "-qq"], folder)
    _run(["apt-get", verb, "-qq", package], folder)


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        says = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FromNoiseError(f"`{' '.join(command)}` failed ({says}): mend apt's set-up, then try again.")


if __name__ == "__main__":
    main()
