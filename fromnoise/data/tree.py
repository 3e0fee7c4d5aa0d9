"""Where the bytes are: a folder, a zip, a tar or one file, seen as a flat list of named entries.

Everything above reads through `Tree.read` and never learns which kind it has.  Archives are read in memory, member by
member, and nothing is ever extracted under a member's name, so `../../x` or `/etc/x` as a name can do no harm.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Protocol, cast, runtime_checkable

from fromnoise.errors import FromNoiseError

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_SILENT = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
# One file is read whole before it is looked at: an uncompressed image at the limit of 50 megapixels needs 0.8 GB.
MAX_FILE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that takes no part in the set, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file: its POSIX name relative to the root, its size in bytes, and its place in an archive."""

    name: str
    size: int
    place: int = 0

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@runtime_checkable
class Tree(Protocol):
    """A flat list of files.  `sequential` trees are cheap to read only in the order of their entries."""

    name: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    sequential: bool

    def open(self, entry: Entry) -> BufferedIOBase: ...
    def path(self, entry: Entry) -> Path | None: ...


class Unreadable(Exception):
    """This file gives nothing; the message says why."""


def read(tree: Tree, entry: Entry) -> bytes:
    """All bytes of one file.  Raises Unreadable."""
    if entry.size > MAX_FILE:
        raise Unreadable(f"too large to be one image: {entry.size / 1e9:.1f} GB")
    try:
        with tree.open(entry) as file:
            return file.read()
    except Exception as error:  # zipfile and tarfile raise many kinds for a broken member
        raise Unreadable(f"cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why, on one line: the system's own words where it was the system."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0]


def ignored(name: str) -> bool:
    """Hidden files and what operating systems leave behind: no part of anybody's data, and never mentioned."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", ".", "/")]
    return any(part.startswith(".") or part.lower() in _SILENT for part in parts)


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
        found = self._walk(str(root), {self._real}) if only is None else self._named(only)
        self.entries = tuple(sorted(found, key=lambda entry: entry.name))
        self.skipped = tuple(self._skipped)

    def open(self, entry: Entry) -> BufferedIOBase:
        return open(self._root / entry.name, "rb")

    def path(self, entry: Entry) -> Path:
        return self._root / entry.name

    def _named(self, names: Sequence[str]) -> Iterator[Entry]:
        for name in names:
            try:
                yield Entry(name=name, size=(self._root / name).stat().st_size)
            except OSError as error:
                self._skipped.append(Skipped(name=name, reason=f"cannot be read: {reason(error)}"))

    def _walk(self, folder: str, seen: set[str]) -> Iterator[Entry]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            if folder == str(self._root):
                raise FromNoiseError(f"The folder {self._root} cannot be read: {reason(error)}.") from error
            self._skip(folder, f"folder cannot be read: {reason(error)}")
            return
        for name in names:
            if ignored(name):
                continue
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                real = os.path.realpath(path)
                if real in seen or (os.path.islink(path) and self._inside(real)):
                    self._skip(path, "symbolic link to a folder that is in the set already")
                else:
                    yield from self._walk(path, seen | {real})
            else:
                yield from self._entry(path)

    def _entry(self, path: str) -> Iterator[Entry]:
        try:
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                real = os.path.realpath(path)
                info = os.stat(path)
                if self._inside(real) and not ignored(os.path.relpath(real, self._real)):
                    target = self._relative(real, self._real)
                    return self._skip(path, f"exact duplicate: a symbolic link to {target}, which is kept once")
        except OSError as error:
            return self._skip(path, f"cannot be read: {reason(error)}")
        if not stat.S_ISREG(info.st_mode):
            return self._skip(path, "not a regular file")
        yield Entry(name=self._relative(path, str(self._root)), size=info.st_size)

    def _inside(self, real: str) -> bool:
        return real.startswith(self._real.rstrip(os.sep) + os.sep)

    @staticmethod
    def _relative(path: str, root: str) -> str:
        return os.path.relpath(path, root).replace(os.sep, "/")

    def _skip(self, path: str, reason: str) -> None:
        self._skipped.append(Skipped(name=self._relative(path, str(self._root)), reason=reason))


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
        self.entries = tuple(
            sorted(
                (Entry(name=_tidy(m.filename), size=m.file_size, place=i) for i, m in files if i not in locked),
                key=lambda entry: entry.name,
            )
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
        entries, skipped = [], []
        names = {_tidy(member.name) for member in self._members if member.isreg()}
        for i, member in enumerate(self._members):
            if member.isdir() or ignored(member.name):
                continue
            if member.isreg():
                entries.append(Entry(name=_tidy(member.name), size=member.size, place=i))
            elif member.issym() or member.islnk():
                skipped.append(Skipped(name=member.name, reason=self._link(member, names)))
            else:
                skipped.append(Skipped(name=member.name, reason="not a regular file"))
        self.entries, self.skipped = tuple(entries), tuple(skipped)

    def open(self, entry: Entry) -> BufferedIOBase:
        file = self._tar.extractfile(self._members[entry.place])
        assert file is not None, "only regular members become entries"
        return cast(BufferedIOBase, file)

    def path(self, entry: Entry) -> None:
        return None

    @staticmethod
    def _link(member: tarfile.TarInfo, names: set[str]) -> str:
        # Hard links name a member; symbolic links are relative to their own folder.
        folder = "" if member.islnk() else posixpath.dirname(member.name)
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        if target in names:
            return f"exact duplicate: a link to {target}, which is kept once"
        return f"link to {member.linkname}, which is not in the archive"


def open_tree(source: Path) -> Tree:
    """The tree at a path.  Raises FromNoiseError where there is nothing, or an archive that is broken."""
    try:
        kind = source.stat().st_mode
    except OSError as error:
        raise FromNoiseError(
            f"{source} cannot be opened ({reason(error)}): check the path, or try a bundled set, emoji or digits."
        ) from error
    if stat.S_ISDIR(kind):
        return Folder(source)
    name = source.name.lower()
    if name.endswith(ZIP_SUFFIXES):
        return Zip(source)
    if name.endswith(TAR_SUFFIXES):
        return Tar(source)
    return Folder(source.parent, only=[source.name])
