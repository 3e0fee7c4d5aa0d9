"""The media that data are recognised as, in the order in which equal numbers of files decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.codec import CODECS, Codec, Medium, VideoCodec, videofile
from fromnoise.codec.medium import HEAD
from fromnoise.data import frames
from fromnoise.data.fields import Fields
from fromnoise.data.image import Images
from fromnoise.data.sound import Sounds
from fromnoise.data.video import Videos
from fromnoise.data.volume import Volumes
from fromnoise.data.writing import Writings
from fromnoise.errors import FromNoiseError, Unreadable, reason

IMAGE, TEXT, FIELD, VIDEO, VOLUME = Images(), Writings(), Fields(), Videos(), Volumes()
MEDIA: dict[str, Medium[Any, Any]] = {medium.name: medium for medium in (IMAGE, Sounds(), VIDEO, TEXT, FIELD, VOLUME)}


def add_medium(medium: Medium[Any, Any]) -> None:
    """Makes one more medium known, with its codec.  Raises FromNoiseError where another claims its name or files."""
    for other in MEDIA.values():
        if medium.name == other.name or medium.suffixes & other.suffixes:
            raise FromNoiseError(f"The medium {medium.name} takes the name or files of {other.name}: choose others.")
    MEDIA[medium.name] = medium
    CODECS[medium.name] = medium.codec


def read_as(path: Path, codec: Codec) -> np.ndarray:
    """One file as a raw example for `codec`; a picture is a clip of one frame, and a folder of numbered ones a clip.

    Raises FromNoiseError where it cannot be read as that.
    """
    medium = MEDIA[str(codec.to_json()["kind"])]
    try:
        if isinstance(codec, VideoCodec) and path.is_dir():
            return frames.clip_in(path, codec)
        data = path.read_bytes()
        if not data:
            raise Unreadable("is empty: copy or export it again")
        if isinstance(codec, VideoCodec) and _still(path, data):
            return frames.frame(data, codec.image)[None]
        return medium.read(data, medium.probe(data), codec)
    except OSError as error:
        raise FromNoiseError(f"Cannot read {path} ({reason(error)}): give another file.") from error
    except Unreadable as error:
        raise FromNoiseError(f"{path} {error}.") from error


def _still(path: Path, data: bytes) -> bool:
    """Whether a file is one picture; its ending says so where damage has left nothing else of that."""
    if IMAGE.sniff(data[:HEAD]):
        return not videofile.animated(data)
    return path.suffix.lower() in IMAGE.suffixes and not VIDEO.sniff(data[:HEAD])


def formats() -> str:
    """All formats that are read, for people."""
    return ", ".join(medium.formats for medium in MEDIA.values())
