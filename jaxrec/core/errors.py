"""The one exception that means "the user's input is wrong"."""


class InputError(ValueError):
    """Bad input. Commands print its text as one line, `error: ...`, and exit with 2.

    The text names the file, key or column, the value met, and what is allowed.
    """
