"""Live events: slates by stage, a plan of the update, and its simulation.

Usage: python -m jaxrec.live plan --config configs/live.py
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import NO_CONFIG, config_flag, json_flag
from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.live_events.planning import plan_document, plan_text
from jaxrec.live_events.scenario import LiveConfig, check_scenario


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


def _scenario_flag() -> None:
    """Declare --config for a scenario of live events."""
    config_flag(lambda spec: load_file(spec, LiveConfig), default=LiveConfig())


def _checked_scenario(args: flags.FlagValues) -> LiveConfig:
    """Return the checked scenario of --config.

    Raises:
        InputError: --config is missing, or a value is not allowed.
    """
    if not args["config"].present:
        raise InputError(NO_CONFIG.replace("smoe", "live"))
    check_scenario(args.config)
    return args.config


def plan(args: flags.FlagValues) -> None:
    """Print the plan of a scenario.

    Raises:
        InputError: The scenario is invalid.
        RunError: No plan fits the capacities.
    """
    document = plan_document(_checked_scenario(args))
    print_result(document, plan_text(document))


SUBCOMMANDS: dict[str, Subcommand] = {
    "plan": Subcommand("plan the update of all devices under the capacities", plan, (_scenario_flag,)),
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
