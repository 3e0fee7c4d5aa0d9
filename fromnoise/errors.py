"""What can go wrong in ways a user can mend.  Free of imports, so that the command line starts at once."""


class FromNoiseError(ValueError):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do."""


class TrainingStopped(Exception):
    """Training was asked to stop; everything is saved, and the message says how to go on."""
