"""Live events: slates by stage, a plan of the update, and its simulation.

Usage: python -m jaxrec.live plan --config configs/live.py
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import NO_CONFIG, config_flag, json_flag
from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.live_events.figures import write_figures
from jaxrec.live_events.fleet.results import table
from jaxrec.live_events.fleet.simulation import simulate as simulation_of
from jaxrec.live_events.fleet.strategies import STRATEGIES
from jaxrec.live_events.planning import plan_document, plan_text
from jaxrec.live_events.scenario import LiveConfig, check_scenario
from jaxrec.live_events.slates import command as slates
from jaxrec.live_events.wire import command as produce


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


def _simulate_flags() -> None:
    flags.DEFINE_string(
        "devices", "", "number of devices, such as 1e6; empty: audience.devices of the config"
    )
    flags.DEFINE_list("strategy", ["all"], f"all, or some of {', '.join(STRATEGIES)}")
    flags.DEFINE_string("out", "", "folder for live.json and the figures; empty: none are written")


def _devices(text: str, default: int) -> int:
    """Return the number of devices of --devices.

    Raises:
        InputError: The text is no whole number.
    """
    try:
        value = float(text or default)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"--devices={text}; allowed: a whole number, such as 1e6")


def simulate(args: flags.FlagValues) -> None:
    """Simulate strategies, print their table, and write live.json and figures to --out.

    Raises:
        InputError: The scenario or a flag is invalid.
        RunError: No plan fits the capacities.
    """
    args.config.audience.devices = _devices(args.devices, args.config.audience.devices)
    config = _checked_scenario(args)
    names = STRATEGIES if args.strategy == ["all"] else args.strategy
    started = time.perf_counter()
    simulation = simulation_of(config, names)
    document = {
        "devices": config.audience.devices,
        "plan": dataclasses.asdict(simulation.plan),
        "strategies": simulation.rows,
        "seconds": time.perf_counter() - started,
    }
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "live.json", document | {"figures": write_figures(folder, simulation.outcomes)})
    print_result(document, table(simulation.rows))


SUBCOMMANDS: dict[str, Subcommand] = {
    "plan": Subcommand("plan the update of all devices under the capacities", plan, (_scenario_flag,)),
    "simulate": Subcommand(
        "simulate strategies of the update on a fleet of devices", simulate, (_scenario_flag, _simulate_flags)
    ),
    "slates": Subcommand(slates.PURPOSE, slates.main, (slates.declare,)),
    "produce": Subcommand(produce.PURPOSE, produce.main, (produce.declare,)),
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
