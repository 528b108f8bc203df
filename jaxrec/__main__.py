"""Console script `jaxrec`: `jaxrec train ...` is `python -m jaxrec.train ...`.

Usage: jaxrec COMMAND [--flag ...]
"""

import runpy
import sys

COMMANDS = {
    "prepare": "prepare a dataset from a source, or check raw files",
    "train": "prepare if needed, train or resume, evaluate",
    "evaluate": "evaluate a checkpoint",
    "describe": "describe signals, labels, rewards, tasks and features, and flag leaks",
    "pairs": "draw pairs of titles from a policy, for DPO and IPO",
    "retrieve": "write the titles that a retrieval head selects as served titles",
    "fill": "predict the unknown labels of a dataset by an offline model",
    "mixture": "mix trained models by a gate that is fitted on validation users",
    "stabilise": "give a checkpoint vectors like those of an earlier run, with the same scores",
    "tokenise": "write titles as codes, for a generative model",
    "report": "write the page of a run, or of several runs side by side",
    "compare": "test the difference between two evaluated runs",
    "recommend": "recommend titles to any users, from a checkpoint",
    "embed": "write the vectors of users or of titles",
    "export": "export a checkpoint for serving by jax and NumPy alone",
    "serve": "serve an export over HTTP",
    "live": "show live events on all devices at once: plan and simulate the update",
    "study": "reproduce the tables of the paper",
    "days": "update models day by day, each evaluated on the day after",
}
GROUPS = {
    "data": ("prepare", "describe", "fill", "retrieve", "tokenise"),
    "training and evaluation": (
        "train",
        "pairs",
        "evaluate",
        "report",
        "compare",
        "study",
        "days",
        "stabilise",
        "mixture",
    ),
    "serving": ("recommend", "embed", "export", "serve", "live"),
}


def usage() -> str:
    """Return the list of commands by group."""
    lines = []
    for group, names in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<10} {COMMANDS[name]}" for name in names)]
    return "\n".join(["usage: jaxrec COMMAND [--flag ...]", *lines, "jaxrec COMMAND --help lists the flags."])


def main() -> None:
    """Run the command that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h", "help"):
        print(usage())
        return
    if command not in COMMANDS:
        print(f"error: {command!r} is no command; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"jaxrec.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
