"""What can go wrong in ways a user can mend.  Imports next to nothing, so that the command line starts at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FromNoiseError(ValueError):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do."""


class NotJudged(FromNoiseError):
    """A set is too small to judge samples by; the message says why, and what can be said.  Everything else is done."""


class Advice(UserWarning):
    """Something the user may want to mend, in one sentence; the work goes on."""


class TrainingStopped(Exception):
    """Training was asked to stop; everything is saved, and the message says how to go on."""


class Unreadable(Exception):
    """This file gives nothing; the message says why, as what goes on from its name: "is empty: copy it again"."""


def reason(error: Exception) -> str:
    """Why, on one line: the system's own words where it was the system."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0]


@contextmanager
def extra(what: str, name: str) -> Iterator[None]:
    """Around the import of a package that not everybody has: where it is missing, `what` it is for and how to get it,
    by the extra `name` of fromnoise, as a FromNoiseError."""
    try:
        yield
    except ImportError as error:
        raise FromNoiseError(f'{what}: pip install "fromnoise[{name}]".') from error
