"""Live events: slates by stage, a plan of the update, and its simulation.

Usage: python -m jaxrec.live plan --config configs/live.py
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from jaxrec.cli.app import run
from jaxrec.cli.flags import json_flag
from jaxrec.live_events.slates import command as slates


class Subcommand(NamedTuple):
    """A command of live events.

    Attributes:
        purpose: Purpose, in one line.
        main: Called with the values of the flags; returns the exit status or None.
        declare: Functions that declare the flags.
    """

    purpose: str
    main: Callable[[flags.FlagValues], int | None]
    declare: tuple[Callable[[], None], ...]


SUBCOMMANDS: dict[str, Subcommand] = {
    "slates": Subcommand(slates.PURPOSE, slates.main, (slates.declare,)),
}


def usage() -> str:
    """Return the list of the commands of live events."""
    lines = [f"  {name:<9} {command.purpose}" for name, command in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m jaxrec.live COMMAND [--flag ...]",
            *lines,
            "python -m jaxrec.live COMMAND --help lists the flags.",
        ]
    )


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(usage())
        return
    if name not in SUBCOMMANDS:
        allowed = ", ".join(SUBCOMMANDS)
        print(f"error: {name!r} is no command of live events; allowed: {allowed}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    command = SUBCOMMANDS[name]
    run(command.main, *command.declare, json_flag)


if __name__ == "__main__":
    main()
