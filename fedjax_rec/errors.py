"""The one exception that a user's mistake raises: what, where, how to fix, in one line."""

__all__ = ["InputError", "TrainingError"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where (the file and line, or the
    option) and how to fix it. The command line prints it and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training cannot go on (a NaN in a client's loss). The last good checkpoint stays.

    The message is one line that names the round and the client. The command line prints
    it and exits with status 2.
    """
