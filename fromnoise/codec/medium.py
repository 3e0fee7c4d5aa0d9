"""A medium: which files are its own, what is seen of a file without reading it, and the codec that this leads to.

The data side of the program knows media by this protocol only; `data/media.py` lists them.  The other half of a medium,
which network it is given and how that is trained, is its recipe (`recipes.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from fromnoise.codec.codec import Codec
from fromnoise.types import Shape

HEAD = 512  # bytes: DICOM and NIfTI say what they are behind byte 128 and 344
POSITION = "position"  # the column that says where in a whole its parts lie
Size = int | float | tuple[int, ...]


@runtime_checkable
class Header(Protocol):
    """What is known of an example without reading it: a frozen dataclass of JSON values."""

    @property
    def size(self) -> Shape:
        """Its extent: (height, width) in pixels, (frames,) of sound."""
        ...

    @property
    def channels(self) -> int: ...

    @property
    def mode(self) -> str:
        """In a word: RGB; 44.1 kHz stereo."""
        ...

    @property
    def dtype(self) -> str: ...


H = TypeVar("H", bound=Header)
C = TypeVar("C", bound=Codec)


@runtime_checkable
class Medium(Protocol[H, C]):
    """One kind of data.  Everything it decides is a rule that it can say in a sentence."""

    @property
    def name(self) -> str:
        """In a word, as `image`; also the `kind` of its codec's JSON."""
        ...

    @property
    def formats(self) -> str:
        """The formats that are read, for people."""
        ...

    @property
    def suffixes(self) -> frozenset[str]:
        """The endings of its files, in lower case with the dot."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """What `Header.size` counts, in words, as `height` and `width`."""
        ...

    @property
    def header(self) -> type[H]: ...

    @property
    def codec(self) -> type[C]: ...

    def sniff(self, head: bytes) -> bool:
        """Whether a file without a known ending is of this medium, by its first `HEAD` bytes."""
        ...

    def probe(self, data: bytes) -> H:
        """The header of a file held in memory; cheap.  Raises Unreadable with the reason."""
        ...

    def read(self, data: bytes, header: H, codec: C) -> np.ndarray:
        """The raw example of a probed file, as `codec.store` takes it.  Raises Unreadable with reason and remedy."""
        ...

    def family(self, header: H) -> str:
        """What examples must share to be one set, in words; the largest family is the set."""
        ...

    def common(self, headers: Counter[H]) -> tuple[H, list[str]]:
        """What the examples of one family are all brought to, its size aside, and the sentences that say so."""
        ...

    def choose(self, common: H, headers: Counter[H], size: Size | None) -> tuple[C, list[str]]:
        """The codec for a set, before `fitted`, and the sentences that say what was decided.

        `size` is what the user asked for.  Raises FromNoiseError where that cannot be.
        """
        ...

    def remarks(self, header: H, codec: C, headers: Counter[H]) -> list[str]:
        """What is odd about such an example, as the end of a sentence that begins with "3 files "."""
        ...


@runtime_checkable
class Rows(Protocol):
    """Raw examples by number, in memory or read when they are asked for; an array (n, …) is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> np.ndarray: ...


@runtime_checkable
class Scalable(Protocol):
    """Raw examples by number that are read as a codec needs them, since whole they may not fit into memory."""

    def __len__(self) -> int: ...

    def read(self, row: int, codec: Any, /) -> np.ndarray:
        """As `Medium.read`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Gathered:
    """n examples out of some files: `raws` as `codec.store` takes them, and of each its header, the file that it is
    from ("" for none), its own name, and the hash of its content, (n, 2) uint64.

    broken    files that give none, with the reason
    notes     the decisions taken, as sentences
    columns   what is known of each example besides, by name
    maps      columns of values that lie on the examples, (n, *space), NaN where there are none; `columns` name them
    split     where the medium has decided it, places in `splits.NAMES`, and `why`, as the end of "split by"
    nameless  whether the names of files and folders tell too much to be kept: then nothing is read off them but what
              tables say, and files that are left out are listed without
    """

    raws: Rows
    headers: tuple[Header, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    digests: np.ndarray
    notes: tuple[str, ...]
    broken: Mapping[str, str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    maps: Mapping[str, Rows] = field(default_factory=dict)
    split: Sequence[int] = ()
    why: str = ""
    nameless: bool = False


@runtime_checkable
class Gathering(Protocol):
    """What a `Medium` has besides where a file may hold many examples, or several files one."""

    def gather(
        self, files: Mapping[str, bytes], size: Size | None, maps: Mapping[str, Mapping[str, bytes]]
    ) -> Gathered:
        """The examples of all files of a set, each read when it is asked for, which may raise Unreadable.

        `size` is what the user asked for; `maps` are the files that belong to others, by column and name of the other.
        Raises Unreadable where examples are not enough, with why and a remedy.
        """
        ...


@runtime_checkable
class Sharing(Protocol):
    """What a `Medium` has besides where another has endings of its files too, as animated pictures and stacks have."""

    @property
    def shared(self) -> frozenset[str]:
        """The endings, which are the other's unless `share` or more of the files are this medium's."""
        ...

    @property
    def share(self) -> float:
        """From 0 to 1."""
        ...

    def claims(self, data: bytes) -> bool:
        """Whether a file with such an ending is of this medium."""
        ...
