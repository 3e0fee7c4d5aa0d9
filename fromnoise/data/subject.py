"""Who scans are of, as far as files and folders tell: rather two people taken for one than one for two.

A file that says whom it is of is believed: a patient's number in DICOM, `sub-…` in a path as BIDS has it.  Others are
of one subject where they share

study    the number of a DICOM study
folder   the folder that they lie in, or above folders of visits and kinds of scans (`visit2`, `2019-05-12`, `T1`),
         where there are several folders and this one is not called by a plain word for a class or a split (`PLAIN`)
name     in a folder of many people, the name of the file but for such words, as `anna_visit1` and `anna_visit2`

Of names nothing is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

from fromnoise.data.blocks import Volume
from fromnoise.data.splits import OPEN, split_of

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
# What folders and parts of names are called that tell scans of one person apart: visits, dates, kinds and places.
_VISIT = re.compile(
    r"(?:(?:ses|session|visit|timepoint|tp|day|week|month|year|baseline|follow-?up|fu|pre|post|before|after|acq|run|echo"
    r"|series|study|anat|func|dwi|perf|fmap|t1|t1w|t2|t2w|t2s|flair|pd|pdw|swi|ct|mr|mri|pet|nii|nifti|dicom|dcm|data"
    r"|raw|source|images?|scans?|volumes?|heads?|brains?|chest|abdomen|body|left|right)[-_ ]?\d*"
    r"|(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d)",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\.(?:nii|nii\.gz|(?:ome\.)?tiff?)$", re.IGNORECASE)
# What folders are called that hold many people.
PLAIN = re.compile(
    r"healthy|well|normals?|controls?|ill|sick|diseased?|abnormal|patients|cases|subjects|people|participants|benign"
    r"|malignant|tumou?rs?|cancer|lesions?|positive|negative|male|female|men|women|young|old|adults|children|ad|mci|cn|hc"
    r"|hgg|lgg|covid|pneumonia|others?",
    re.IGNORECASE,
)


def subjects(volumes: Sequence[Volume]) -> tuple[list[int], bool]:
    """Of each scan the number of its subject, and whether folders told that several are of one."""
    paths = [PurePosixPath(volume.file) for volume in volumes]
    several = len({path.parent for path in paths}) > 1
    ties, folders = [], Counter[tuple[str, ...]]()
    for volume, path in zip(volumes, paths, strict=True):
        if volume.certain:
            ties.append([("person", volume.subject)])
        elif said := _SUBJECT.search(volume.file):
            ties.append([("person", said[0])])
        else:
            folder = _folder(path.parent.parts) if several else ()
            tie = ("folder", *folder) if folder else ("name", *_common(path))
            folders.update([tuple(folder)] if folder else [])
            ties.append([tie, ("study", volume.subject)] if volume.subject else [tie])
    return _joined(ties), max(folders.values(), default=0) > 1


def _folder(parts: Sequence[str]) -> Sequence[str]:
    """The folder of one subject that a file lies in or below; () where there is none."""
    count = len(parts)
    while count and _VISIT.fullmatch(parts[count - 1]):
        count -= 1
    return parts[:count] if count and not _plain(parts[count - 1]) else ()


def _plain(name: str) -> bool:
    return PLAIN.fullmatch(name) is not None or split_of(name) != OPEN


def _common(path: PurePosixPath) -> tuple[str, ...]:
    """What files of one subject share where many people lie in one folder: path and name but for visits and kinds."""
    folders = [part for part in path.parts[:-1] if not _VISIT.fullmatch(part)]
    stem = _ENDING.sub("", path.name)
    words = [word for word in re.split(r"[_\s]+|-(?=\D)", stem) if not _VISIT.fullmatch(word)]
    return (*folders, *(words or [path.name]))


def _joined(ties: Sequence[Iterable[Hashable]]) -> list[int]:
    """Numbers from 0 on, equal for what is tied to one another, directly or through others."""
    above: dict[Hashable, Hashable] = {}

    def top(tie: Hashable) -> Hashable:
        while above.setdefault(tie, tie) != tie:
            tie = above[tie]
        return tie

    for several in ties:
        first, *others = several
        for other in others:
            above[top(other)] = top(first)
    place: dict[Hashable, int] = {}
    return [place.setdefault(top(first), len(place)) for first, *_ in ties]
