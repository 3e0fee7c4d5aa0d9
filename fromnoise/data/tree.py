"""Where the bytes are: a folder, a zip, a tar or one file, seen as a flat list of named entries.

Everything above reads through `Tree.read` and never learns which kind it has.  Archives are read in memory, member by
member, and nothing is ever extracted under a member's name, so `../../x` or `/etc/x` as a name can do no harm.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import time
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from fromnoise.errors import FromNoiseError, Unreadable, reason

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_SILENT = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
# One file is read whole before it is looked at: an uncompressed image at the limit of 50 megapixels needs 0.8 GB.
MAX_FILE = 1 << 30
ZARR = ".zarr"  # the ending of folders that are one file to their users
STAMP = 16  # bytes
SETTLED = 2_000_000_000  # nanoseconds; the coarsest times of a common file system (FAT) are in steps of 2 s


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that takes no part in the set, and why; `link` says that it is another name of a file that does."""

    name: str
    reason: str
    link: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file: its POSIX name relative to the root, its size in bytes, its place in an archive, and its stamp.

    The stamp (16 bytes) changes whenever name or content do; it is empty where that cannot be promised.
    """

    name: str
    size: int
    place: int = 0
    stamp: bytes = b""

    @property
    def suffix(self) -> str:
        return suffix(self.name)


class Entries:
    """Entries as columns, so that ten million files are a name, two numbers and a stamp each.

    `stamps` is (n, 2) uint64, zeros for an empty stamp.
    """

    def __init__(self, found: Iterable[Entry], *, by_name: bool = True) -> None:
        names: list[str] = []
        sizes, places, stamps = array("q"), array("q"), bytearray()
        for entry in found:
            names.append(entry.name)
            sizes.append(entry.size)
            places.append(entry.place)
            stamps += entry.stamp or bytes(STAMP)
        order = sorted(range(len(names)), key=names.__getitem__) if by_name else range(len(names))
        self.names = [names[i] for i in order]
        self.sizes, self.places = (np.array(column, dtype=np.int64)[order] for column in (sizes, places))
        self.stamps = np.frombuffer(bytes(stamps), dtype=np.uint64).reshape(-1, 2)[order]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Entry:
        return Entry(
            name=self.names[place],
            size=int(self.sizes[place]),
            place=int(self.places[place]),
            stamp=self.stamps[place].tobytes(),
        )


@runtime_checkable
class Tree(Protocol):
    """A flat list of files.  `sequential` trees are cheap to read only in the order of their entries."""

    name: str
    entries: Entries
    skipped: tuple[Skipped, ...]
    sequential: bool

    def open(self, entry: Entry) -> BufferedIOBase: ...
    def path(self, entry: Entry) -> Path | None: ...


def read(tree: Tree, entry: Entry) -> bytes:
    """All bytes of one file.  Raises Unreadable."""
    if entry.size > MAX_FILE:
        raise Unreadable(f"is too large to be one example, {entry.size / 1e9:.1f} GB: cut it into several")
    try:
        with tree.open(entry) as file:
            return file.read()
    except Exception as error:  # zipfile and tarfile raise many kinds for a broken member
        raise Unreadable(f"cannot be read: {reason(error)}") from error


def suffix(name: str) -> str:
    """`.png` of `a/b.PNG`, `.nii.gz` of `c.nii.gz`, empty where there is none."""
    stem, ending = posixpath.splitext(name.lower())
    return posixpath.splitext(stem)[1] + ending if ending == ".gz" else ending


def ignored(name: str) -> bool:
    """Hidden files and what operating systems leave behind: no part of anybody's data, and never mentioned."""
    parts = [part for part in name.split("/") if part not in ("..", ".", "")]
    return any(part.startswith(".") or part.lower() in _SILENT for part in parts)


def _stamp(info: os.stat_result, *name: str | int) -> bytes:
    """From what a file system says of a file; ctime is there because no program can set it back."""
    said = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, *name)
    # A file that is written to again at once may keep its times, so one just written has no stamp yet (as in git).
    recent = time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) < SETTLED
    return b"" if recent else blake2b(repr(said).encode(), digest_size=STAMP).digest()


def _tidy(name: str) -> str:
    """A member's name as a table would give it: `./a.png` is `a.png`."""
    return posixpath.normpath(name.replace("\\", "/"))


class Folder:
    """A folder of any nesting, or those of its files that `only` names (relative to it, or absolute)."""

    sequential = False

    def __init__(self, root: Path, only: Sequence[str] | None = None) -> None:
        self.name = str(root if only is None or len(only) != 1 else root / only[0])
        self._root = root
        self._real = os.path.realpath(root)
        self._skipped: list[Skipped] = []
        self.entries = Entries(self._walk("", {self._real}) if only is None else self._named(only))
        self.skipped = tuple(self._skipped)

    def open(self, entry: Entry) -> BufferedIOBase:
        return open(self._root / entry.name, "rb")

    def path(self, entry: Entry) -> Path:
        return self._root / entry.name

    def _named(self, names: Sequence[str]) -> Iterator[Entry]:
        for name in names:
            try:
                info = os.stat(self._root / name)
                # A Zarr is a folder, whose own times say nothing of what is in it.
                stamp = b"" if stat.S_ISDIR(info.st_mode) else _stamp(info, name)
                yield Entry(name=name, size=info.st_size, stamp=stamp)
            except OSError as error:
                self._skip(name, f"cannot be read: {reason(error)}")

    def _walk(self, prefix: str, seen: set[str]) -> Iterator[Entry]:
        """The files below the folder whose name is `prefix`, which ends in a slash or is empty for the root."""
        folder = os.path.join(self._root, prefix)
        try:
            found = sorted(os.listdir(folder))
        except OSError as error:
            if not prefix:
                raise FromNoiseError(f"The folder {self._root} cannot be read: {reason(error)}.") from error
            self._skip(prefix.rstrip("/"), f"folder cannot be read: {reason(error)}")
            return
        for one in found:
            if ignored(one):
                continue
            name, path = prefix + one, os.path.join(folder, one)
            try:
                info = os.lstat(path)
                link = stat.S_ISLNK(info.st_mode)
                info = os.stat(path) if link else info
            except OSError as error:
                self._skip(name, f"cannot be read: {reason(error)}")
                continue
            if stat.S_ISDIR(info.st_mode) and suffix(one) == ZARR:
                yield Entry(name=name, size=0)
            elif stat.S_ISDIR(info.st_mode):
                real = os.path.realpath(path)
                if real in seen or (link and self._inside(real)):
                    self._skip(name, "symbolic link to a folder that is in the set already", link=True)
                else:
                    yield from self._walk(name + "/", seen | {real})
            elif link and (target := self._target(path)):
                self._skip(name, f"exact duplicate: a symbolic link to {target}, which is kept once", link=True)
            elif not stat.S_ISREG(info.st_mode):
                self._skip(name, "not a regular file")
            else:
                yield Entry(name=name, size=info.st_size, stamp=_stamp(info, name))

    def _target(self, path: str) -> str:
        """The name that a link's target has in the set, empty where it has none."""
        real = os.path.realpath(path)
        name = os.path.relpath(real, self._real).replace(os.sep, "/")
        return name if self._inside(real) and not ignored(name) else ""

    def _inside(self, real: str) -> bool:
        return real.startswith(self._real.rstrip(os.sep) + os.sep)

    def _skip(self, name: str, reason: str, link: bool = False) -> None:
        self._skipped.append(Skipped(name=name, reason=reason, link=link))


class Zip:
    """The members of a zip file."""

    sequential = False

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            raise FromNoiseError(
                f"The archive {file} cannot be opened ({reason(error)}): pack or download it again."
            ) from error
        self._members = self._zip.infolist()
        files = [(i, m) for i, m in enumerate(self._members) if not m.is_dir() and not ignored(m.filename)]
        locked = {i for i, m in files if m.flag_bits & 1}
        info = os.stat(file)
        self.entries = Entries(
            Entry(name=_tidy(m.filename), size=m.file_size, place=i, stamp=_stamp(info, m.filename, i))
            for i, m in files
            if i not in locked
        )
        self.skipped = tuple(
            Skipped(name=m.filename, reason="encrypted: unpack the archive with its password")
            for i, m in files
            if i in locked
        )

    def open(self, entry: Entry) -> BufferedIOBase:
        return cast(BufferedIOBase, self._zip.open(self._members[entry.place]))

    def path(self, entry: Entry) -> None:
        return None


class Tar:
    """The members of a tar file, compressed or not, in the order in which they lie there."""

    sequential = True

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        try:
            self._tar = tarfile.open(file)  # noqa: SIM115 (stays open as long as the tree)
            self._members = self._tar.getmembers()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise FromNoiseError(
                f"The archive {file} cannot be opened ({reason(error)}): pack or download it again."
            ) from error
        info = os.stat(file)
        entries, skipped = [], []
        names = {_tidy(member.name) for member in self._members if member.isreg()}
        for i, member in enumerate(self._members):
            if member.isdir() or ignored(member.name):
                continue
            if member.isreg():
                stamp = _stamp(info, member.name, i)
                entries.append(Entry(name=_tidy(member.name), size=member.size, place=i, stamp=stamp))
            elif member.issym() or member.islnk():
                skipped.append(self._link(member, names))
            else:
                skipped.append(Skipped(name=member.name, reason="not a regular file"))
        self.entries, self.skipped = Entries(entries, by_name=False), tuple(skipped)

    def open(self, entry: Entry) -> BufferedIOBase:
        file = self._tar.extractfile(self._members[entry.place])
        assert file is not None, "only regular members become entries"
        return cast(BufferedIOBase, file)

    def path(self, entry: Entry) -> None:
        return None

    @staticmethod
    def _link(member: tarfile.TarInfo, names: set[str]) -> Skipped:
        # Hard links name a member; symbolic links are relative to their own folder.
        folder = "" if member.islnk() else posixpath.dirname(member.name)
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        if target in names:
            why = f"exact duplicate: a link to {target}, which is kept once"
            return Skipped(name=member.name, reason=why, link=True)
        return Skipped(name=member.name, reason=f"link to {member.linkname}, which is not in the archive")


def open_tree(source: Path) -> Tree:
    """The tree at a path.  Raises FromNoiseError where there is nothing, or an archive that is broken."""
    try:
        kind = source.stat().st_mode
    except OSError as error:
        raise FromNoiseError(
            f"{source} cannot be opened ({reason(error)}): check the path, or try a bundled set, emoji or digits."
        ) from error
    if stat.S_ISDIR(kind) and source.suffix.lower() != ZARR:
        return Folder(source)
    name = source.name.lower()
    if name.endswith(ZIP_SUFFIXES):
        return Zip(source)
    if name.endswith(TAR_SUFFIXES):
        return Tar(source)
    return Folder(source.parent, only=[source.name])
