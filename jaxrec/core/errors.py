"""Exceptions that a command reports in one line."""


class InputError(ValueError):
    """Invalid user input.

    Commands print the message as one line, `error: ...`, and exit with status 2. The message names the file,
    key or column, the value, and the allowed values.
    """


class RunError(Exception):
    """A run that cannot go on, with valid input.

    Commands print the message as one line, `error: ...`, and exit with status 1.
    """
