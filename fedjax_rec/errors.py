"""What a user is told when something is wrong: what, where, how to fix it, in one line."""

__all__ = ["InputError", "RunWarning", "TrainingError"]


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


class RunWarning(UserWarning):
    """Something about a run that its user should know: it goes on, but perhaps not as meant.

    Host work may warn so in every round. A run tells its user once, in the terminal and among
    the warnings of its summary.
    """
