"""Folders of numbered pictures as clips: which pictures are frames, and the clips that they make, read frame by frame.

frames   pictures of a folder whose names differ in their last number alone: `frame_0001.png`, `frame_0002.png`, …
clips    every folder of such where a rate is asked for.  Without that, only what can hardly be anything else: two
         folders or more, of which nine in ten hold `FEWEST` frames or more and nothing besides, called frames, numbered
         from 0 or 1 on without gaps, of one size, and no text or table describes a frame by itself.  Where but the word
         or the start is missing, or some folders, fewer than half, are otherwise, the set is one of pictures, and a
         sentence says how it becomes one of clips
rate     what column `fps` of a table says of a folder, else what is asked for, else `RATE`
run      of a folder whose numbers have gaps, or in which pictures are unreadable or of another size than most, the
         longest run without is the clip; a folder of one frame is none
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.codec.image import ImageCodec, convert
from fromnoise.codec.timing import seen
from fromnoise.codec.video import VideoCodec
from fromnoise.codec.videofile import VideoHeader, shrunk
from fromnoise.data import image, pairs
from fromnoise.data.listing import Items
from fromnoise.data.splits import OPEN
from fromnoise.data.stack import Stack
from fromnoise.data.table import Table
from fromnoise.data.tree import Folder, Skipped, Tree, read
from fromnoise.errors import FromNoiseError, Unreadable

RATE, FEWEST = 12, 4
_FASTEST, _FINEST = 1000, 1001  # frames a second, and the largest denominator of a rate
_SHARE, _LEAST = 0.9, 0.25  # of folders that look like clips, and of pictures that are frames
_LOOKED, _MOST = 32, 100_000  # folders that are looked at without being asked to, and pictures of one
_MAP = "a map of a frame, and only clips that are files have maps: save clips and maps as animated WebP"
_NAME = re.compile(r"(.*?)(\d{1,18})(\D*)", re.DOTALL)
_CALLED = re.compile(r"frames?[\W_]*$", re.IGNORECASE)
Tables = Sequence[tuple[str, Table]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbered:
    """The pictures of a folder that differ in a number alone, in its order: `places` are among the entries of a tree,
    `before` is what their names say before it."""

    numbers: np.ndarray
    places: np.ndarray
    before: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Clips by the names of their folders, and the rate that was asked for, None where the names alone say that they
    are clips."""

    folders: dict[str, Numbered]
    rate: Fraction | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Raw clips by number, read as a codec needs them: of each the places of its frames in a tree, and its rate."""

    tree: Tree
    places: Sequence[np.ndarray]
    rates: Sequence[Fraction]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: int, codec: VideoCodec) -> np.ndarray:
        """(n, h, w, c) uint8, the frames that are seen at the codec's rate, `shrunk`.  Raises Unreadable."""
        places = self.places[row]
        times = np.arange(len(places) + 1) / float(self.rates[row])
        wanted, back = np.unique(seen(times, Fraction(codec.rate)), return_inverse=True)
        return np.stack([self._frame(place, codec.image) for place in places[wanted].tolist()])[back]

    def _frame(self, place: int, codec: ImageCodec) -> np.ndarray:
        entry = self.tree.entries[place]
        try:
            return frame(read(self.tree, entry), codec)
        except Unreadable as error:
            why = f"has {posixpath.basename(entry.name)}, which cannot be used ({error})"
            raise Unreadable(f"{why}, so that the whole clip is left out: replace that frame") from error


def frame(data: bytes, codec: ImageCodec) -> np.ndarray:
    """A picture as a frame (h, w, c) uint8 of the codec's channels, `shrunk`.  Raises Unreadable."""
    header, at_least = image.probe(data), (codec.height, codec.width)
    if why := _odd(header):
        raise Unreadable(why)
    pixels = image.decode(data, header, at_least)
    pixels = np.rint(pixels / 257).astype(np.uint8) if header.dtype == "uint16" else pixels
    pixels = convert(pixels, codec.channels)
    height, width = shrunk(pixels.shape[0], pixels.shape[1], at_least)
    if (height, width) == pixels.shape[:2]:
        return pixels
    small = Image.fromarray(pixels.squeeze(2) if codec.channels == 1 else pixels)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)).reshape(height, width, -1)


def clip_in(folder: Path, codec: VideoCodec) -> np.ndarray:
    """The numbered pictures of a folder as one clip (n, h, w, c) uint8, each of them a frame.  Raises Unreadable."""
    tree = Folder(folder)
    names = tree.entries.names
    places = [
        place for place, name in enumerate(names) if "/" not in name and tree.entries[place].suffix in image.SUFFIXES
    ]
    numbered, _ = _numbered(names, places)
    frames = []
    for place in numbered.places.tolist():
        try:
            frames.append(frame(read(tree, tree.entries[place]), codec.image))
        except Unreadable as error:
            raise Unreadable(f"holds {names[place]}, which is no frame ({error}): replace or remove it") from error
    if len({one.shape for one in frames}) != 1:
        raise Unreadable("holds no numbered pictures of one size: give a clip, a picture, or the folder of its frames")
    return np.stack(frames)


def find(tree: Tree, places: Sequence[int], fps: float | None) -> tuple[Clips | None, list[Skipped], list[str]]:
    """The clips of the pictures at `places`, None where they are pictures; those that are no frames; sentences."""
    if fps == 0:
        return None, [], []
    if fps is None:
        clips, hint = _seem(tree, places)
        if not clips:
            return None, [], [hint] * bool(hint)
    names, skipped = tree.entries.names, list[Skipped]()
    maps = pairs.taken(pairs.beside(names[place] for place in places))
    inside: dict[str, list[int]] = defaultdict(list)
    for place in places:
        if names[place] in maps:
            skipped.append(Skipped(name=names[place], reason=_MAP))
        else:
            inside[posixpath.dirname(names[place])].append(place)
    folders = {}
    for folder, some in inside.items():
        numbered, others = _numbered(names, some)
        why = "no frame: its name differs from others in its folder in more than the last number"
        skipped += [Skipped(name=names[place], reason=why) for place in others]
        if len(numbered.places):
            folders[folder or Path(tree.name).stem] = numbered
    _check(tree, folders, sum(map(len, inside.values())))
    return Clips(folders=folders, rate=None if fps is None else _rate(fps, "--fps")), skipped, []


def _check(tree: Tree, folders: Mapping[str, Numbered], pictures: int) -> None:
    """Raises FromNoiseError where so few of the pictures are frames that the rate can hardly be meant."""
    frames = sum(len(one.places) for one in folders.values() if len(one.places) > 1)
    if frames < max(2, _LEAST * pictures):
        raise FromNoiseError(
            f"{tree.name} holds no folders of numbered pictures, which alone have --fps ({frames:,} of its "
            f"{pictures:,} pictures differ from others in their folder in the last number alone): name frames as in "
            "clip01/0001.png, a folder for each clip, or leave --fps out."
        )


def join(tree: Tree, clips: Clips, found: Items, tables: Tables) -> tuple[Items, Stack, list[Skipped], list[str]]:
    """The clips as rows of stack 0, out of the pictures `found` among a tree's entries; frames that are left out;
    sentences."""
    said, skipped, lacking = _rates(tables), list[Skipped](), list[str]()
    names, headers, digests, runs, rates = [], [], [], [], []
    for name, numbered in clips.folders.items():
        run, lacks = _run(tree, numbered, found, skipped)
        lacking += [f"{name} ({lacks})"] * bool(lacks)
        if len(run) < 2:
            why = "a single frame, and a clip has two or more: leave it out, or train on pictures with --fps 0"
            skipped += [Skipped(name=tree.entries.names[place], reason=why) for place in found.row[run].tolist()]
            continue
        rate = said.get(name) or clips.rate or Fraction(RATE)
        names.append(name)
        headers.append(_header([found.headers[code] for code in set(found.header[run].tolist())], len(run), rate))
        digests.append(blake2b(f"{rate} ".encode() + found.digest[run].tobytes(), digest_size=16).digest())
        runs.append(found.row[run])
        rates.append(rate)
    kinds = {header: code for code, header in enumerate(dict.fromkeys(headers))}
    items = Items(
        headers=tuple(kinds),
        header=np.array([kinds[header] for header in headers], dtype=np.int32),
        digest=np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2),
        split=np.full(len(names), OPEN, dtype=np.int8),
        stack=np.zeros(len(names), dtype=np.int32),
        row=np.arange(len(names)),
    )
    stack = Stack(pixels=Frames(tree=tree, places=runs, rates=rates), name=tree.name, names=names)
    return items, stack, skipped, _told(names, runs, said, clips.rate, lacking)


def described(clips: Clips, tables: Tables) -> bool:
    """Whether a table says something of frames by themselves."""
    return any(not table.rows.keys() <= clips.folders.keys() for _, table in tables)


def _numbered(names: Sequence[str], places: Sequence[int]) -> tuple[Numbered, list[int]]:
    """The pictures of one folder that differ in their last number alone, as most do, and the places of the others."""
    alike: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    others = []
    for place in places:
        stem, ending = posixpath.splitext(posixpath.basename(names[place]))
        parts = _NAME.fullmatch(stem)
        if parts is None or int(parts[2]) in (same := alike[parts[1], parts[3] + ending.lower()]):
            others.append(place)
        else:
            same[int(parts[2])] = place
    kept = max(alike, key=lambda one: len(alike[one]), default=("", ""))
    others += [place for one, same in alike.items() if one != kept for place in same.values()]
    order = sorted(alike[kept].items())
    numbers, at = np.array(order, dtype=np.int64).reshape(-1, 2).T
    return Numbered(numbers=numbers, places=at, before=kept[0]), sorted(others)


def _seem(tree: Tree, places: Sequence[int]) -> tuple[bool, str]:
    """Whether pictures are clips by the names and sizes of some of them; a sentence where they may be, else ""."""
    names = tree.entries.names
    some = {posixpath.dirname(names[place]) for place in places[:: max(1, len(places) // _LOOKED)]}
    looked: dict[str, list[int]] = defaultdict(list)
    for place in places:
        folder = posixpath.dirname(names[place])
        if folder in some and len(looked[folder]) < _MOST:
            looked[folder].append(place)
    even = []
    for inside in looked.values():
        numbered, others = _numbered(names, inside)
        if not others and len(numbered.places) >= FEWEST and len(np.unique(np.diff(numbered.numbers))) == 1:
            even.append(numbered)
    called = [one for one in even if _CALLED.search(one.before)]
    # In the order of the tree, as a compressed archive is read from its start to get anywhere.
    ends = sorted({int(place) for one in even for place in one.places[[0, -1]]}) if len(looked) > 1 or called else []
    sizes = dict[int, object]()
    for place in ends:
        with suppress(Unreadable):  # which is said when all are looked at
            sizes[place] = image.probe(read(tree, tree.entries[place])).size
    alike = [one for one in even if ends and sizes.get(int(one.places[0])) == sizes.get(int(one.places[-1]))]
    if 2 * len(alike) <= len(looked):
        return False, ""
    sure = [one for one in called if one in alike and one.numbers[0] in (0, 1) and one.numbers[1] - one.numbers[0] == 1]
    if len(looked) > 1 and len(sure) >= _SHARE * len(looked):
        return True, ""
    where = "their folders" if len(alike) == len(looked) else "most of their folders"
    return False, (
        f"pictures such as {names[alike[0].places[0]]} are numbered without gaps in {where}: if they are frames of "
        "clips, say so with --fps 25, or what their rate is."
    )


def _rate(value: object, where: str) -> Fraction:
    with suppress(ValueError, ZeroDivisionError):
        rate = Fraction(str(value)).limit_denominator(_FINEST)
        if 0 < rate <= _FASTEST:
            return rate
    raise FromNoiseError(f"{where} is {value}, and a rate is frames a second such as 25: write that.")


def _rates(tables: Tables) -> dict[str, Fraction]:
    """The rates of clips by name that column `fps` of tables says."""
    return {
        name: _rate(texts[row], f"Column {column} of {name} in {file}")
        for file, table in tables
        for column, texts in table.columns.items()
        if column.lower() == "fps"
        for name, row in table.rows.items()
        if texts[row]
    }


def _odd(header: image.Header, size: tuple[int, ...] = ()) -> str:
    """Why a picture is no frame of `size`, "" where it is one."""
    if header.channels > 4 or header.dtype not in ("uint8", "uint16"):
        return f"is {header.mode} of {header.dtype}, and frames are grey or colours of 8 or 16 bits: save it as PNG"
    if size and header.size != size:
        return "is {} x {} pixels, and most of its folder are {} x {}: bring it to their size".format(
            *header.size, *size
        )
    return ""


def _run(tree: Tree, numbered: Numbered, found: Items, skipped: list[Skipped]) -> tuple[np.ndarray, str]:
    """The rows of `found` that are the longest run of one clip, and what cuts it off first, "" where nothing; what is
    left out besides goes to `skipped`."""
    if not len(found):
        return np.zeros(0, dtype=np.int64), ""
    at = np.searchsorted(found.row, numbered.places).clip(max=len(found) - 1)
    there = found.row[at] == numbered.places
    at, numbers = at[there], numbered.numbers[there]
    sizes = Counter(found.headers[code].size for code in found.header[at].tolist())
    usual = max(sizes, key=sizes.__getitem__, default=())
    why = {code: _odd(found.headers[code], usual) for code in set(found.header[at].tolist())}
    fits = np.array([not why[code] for code in found.header[at].tolist()], dtype=bool)
    for one in at[~fits].tolist():
        skipped.append(Skipped(name=tree.entries.names[found.row[one]], reason=why[int(found.header[one])]))
    at, numbers = at[fits], numbers[fits]
    steps = np.diff(numbers)
    if len(np.unique(steps)) < 2:
        return at, ""
    usually = Counter(steps.tolist()).most_common(1)[0][0]
    gaps = (np.flatnonzero(steps != usually) + 1).tolist()
    kept = max((slice(a, b) for a, b in pairwise([0, *gaps, len(at)])), key=lambda run: run.stop - run.start)
    cut = [_cut(tree, numbered, int(numbers[gap - 1]), int(numbers[gap])) for gap in gaps]
    for place, one in enumerate(at.tolist()):
        if not kept.start <= place < kept.stop:
            # Of the gaps between a frame and the run the one next to the run.
            unusable = cut[gaps.index(kept.start if place < kept.start else kept.stop)]
            beyond = f"beyond {unusable}, which cannot be used, and of its folder the longest run is: replace that"
            if not unusable:
                beyond = (
                    "beyond a gap in the numbers of its folder, of which the longest run is used: add what is missing"
                )
            skipped.append(Skipped(name=tree.entries.names[found.row[one]], reason=beyond))
    return at[kept], f"{cut[0]} cannot be used" if cut[0] else f"no frame after {numbers[gaps[0] - 1]}"


def _cut(tree: Tree, numbered: Numbered, before: int, after: int) -> str:
    """The file of the first frame between two numbers that are used, "" where there is none at all."""
    between = np.flatnonzero((numbered.numbers > before) & (numbered.numbers < after))
    return posixpath.basename(tree.entries.names[numbered.places[between[0]]]) if len(between) else ""


def _header(headers: Sequence[image.Header], frames: int, rate: Fraction) -> VideoHeader:
    alpha = any(header.alpha for header in headers)
    height, width = headers[0].size
    return VideoHeader(
        frames=frames,
        height=height,
        width=width,
        rate=str(rate),
        channels=4 if alpha else 3 if any(header.channels > 2 for header in headers) else 1,
        alpha=alpha,
        stills=True,
    )


def _told(
    names: Sequence[str],
    runs: Sequence[np.ndarray],
    said: Mapping[str, Fraction],
    asked: Fraction | None,
    lacking: Sequence[str],
) -> list[str]:
    unsaid = sum(name not in said for name in names)
    notes = [
        f"{len(names):,} folders of numbered pictures are clips, {sum(map(len, runs)):,} frames in all; --fps 0 for "
        "pictures."
    ]
    if unsaid and asked is None:
        notes.append(
            f"nothing says how fast {unsaid:,} of them are: {RATE} frames a second are taken; --fps, or a column fps "
            "in a table of folders, for others."
        )
    if lacking:
        notes.append(
            f"{len(lacking):,} of them {'is' if len(lacking) == 1 else 'are'} not whole, such as {lacking[0]}: of each "
            "the longest run without gaps is used."
        )
    return notes
