"""Exception for invalid user input."""


class InputError(ValueError):
    """Invalid user input.

    Commands print the message as one line, `error: ...`, and exit with status 2. The message names the file,
    key or column, the value, and the allowed values.
    """
