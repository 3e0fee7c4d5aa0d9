"""What a sample's file says of how it was made: one JSON object, in whatever place the format has for words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fromnoise.errors import FromNoiseError


def written(recipe: Mapping[str, object]) -> str:
    """A recipe as ASCII, which every format takes."""
    return json.dumps(dict(recipe), ensure_ascii=True)


def read_by(file: Path, words: Callable[[Path], str | bytes], *unreadable: type[Exception]) -> dict[str, object]:
    """The recipe in the `words` of a file.  Raises FromNoiseError where there is none, also for errors `unreadable`."""
    try:
        recipe = json.loads(words(file))
    except (OSError, ValueError, *unreadable) as error:
        raise FromNoiseError(f"{file} holds no recipe: only files that fromnoise wrote itself do.") from error
    assert isinstance(recipe, dict)
    return recipe
