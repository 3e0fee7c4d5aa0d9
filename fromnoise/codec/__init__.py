"""Codecs, one medium a file: raw examples on one side, tensors x0 of unit order on the other."""

from __future__ import annotations

from collections.abc import Mapping

from fromnoise.codec.codec import Codec, Divisible, Extensible, Moving, Physical, Playable
from fromnoise.codec.field import FieldCodec
from fromnoise.codec.image import ImageCodec
from fromnoise.codec.medium import Gathered, Gathering, Header, Medium, Rows, Scalable, Sharing, Size
from fromnoise.codec.sound import SoundCodec
from fromnoise.codec.text import TextCodec
from fromnoise.codec.video import VideoCodec
from fromnoise.codec.volume import VolumeCodec
from fromnoise.errors import FromNoiseError

CODECS: dict[str, type[Codec]] = {
    "field": FieldCodec,
    "image": ImageCodec,
    "sound": SoundCodec,
    "text": TextCodec,
    "video": VideoCodec,
    "volume": VolumeCodec,
}

__all__ = [
    "CODECS",
    "Codec",
    "Divisible",
    "Extensible",
    "FieldCodec",
    "Gathered",
    "Gathering",
    "Header",
    "ImageCodec",
    "Medium",
    "Moving",
    "Physical",
    "Playable",
    "Rows",
    "Scalable",
    "Sharing",
    "Size",
    "SoundCodec",
    "TextCodec",
    "VideoCodec",
    "VolumeCodec",
    "codec_from_json",
]


def codec_from_json(data: Mapping[str, object]) -> Codec:
    """The codec that `to_json` described, of whatever medium.  Raises FromNoiseError for an unknown one."""
    if data.get("kind") not in CODECS:
        raise FromNoiseError(f"This version has no codec {data.get('kind')!r}: use a newer fromnoise.")
    return CODECS[str(data["kind"])].from_json(data)
