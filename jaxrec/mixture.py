"""Mix trained models by a gate that is fitted on validation users.

Usage: python -m jaxrec.mixture --members W0,W1 --by country,history --workdir E
"""

from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.paths import as_path

_FORMS = ("learned", "uniform", "best", "average")


def _flags() -> None:
    flags.DEFINE_list("members", None, "workdirs of trained runs on the same titles", required=True)
    flags.DEFINE_list(
        "by", ["history"], "inputs of the gate: features of the user or of the context, and history, the "
        "number of titles in the history",
    )  # fmt: skip
    flags.DEFINE_string("workdir", None, "workdir to write, new or empty", required=True)
    flags.DEFINE_enum(
        "form", "learned", _FORMS, "learned: weights by an MLP; uniform: equal weights; best: the best "
        "member for each value of the first of --by; average: one model with the mean of the parameters",
    )  # fmt: skip
    flags.DEFINE_bool("evaluate", False, "also evaluate the mixture on the test split, with results by user")


def table(result: dict[str, Any]) -> str:
    """Format the losses on validation queries and the mean weights by member."""
    lines = [f"{result['workdir']}: {result['form']} of {len(result['members'])} members"]
    if "loss" not in result:
        return lines[0]
    lines.append(f"mean -log p of {result['queries']:,} validation queries: mixture {result['loss']:.4f}")
    for member, loss, weight in zip(
        result["members"], result["loss_of_members"], result["mean_weights"], strict=True
    ):
        lines.append(f"  {member}: {loss:.4f} alone, mean weight {weight:.3f}")
    return "\n".join(lines)


def main(args: flags.FlagValues) -> None:
    """Fit and write the mixture, and print its losses.

    Raises:
        InputError: The members do not fit one another, an input of the gate is unknown, or the folder is not
            empty.
    """
    from jaxrec.analysis.derived.mixtures import mix
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    members, workdir = tuple(as_path(member) for member in args.members), as_path(args.workdir)
    result = mix(members, tuple(args.by), workdir, args.form)
    if args.evaluate:
        from jaxrec.evaluation.evaluator import evaluate
        from jaxrec.evaluation.results import write_result

        write_result(workdir, evaluate(workdir), True)
    print_result(result, table(result))


if __name__ == "__main__":
    run(main, json_flag, _flags)
