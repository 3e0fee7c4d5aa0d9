"""What can go wrong in ways a user can mend.  Free of imports, so that the command line starts at once."""


class FromNoiseError(ValueError):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do."""


class Advice(UserWarning):
    """Something the user may want to mend, in one sentence; the work goes on."""


class TrainingStopped(Exception):
    """Training was asked to stop; everything is saved, and the message says how to go on."""


class Unreadable(Exception):
    """This file gives nothing; the message says why."""


def reason(error: Exception) -> str:
    """Why, on one line: the system's own words where it was the system."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0]
