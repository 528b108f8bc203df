"""Evaluate a checkpoint on stored candidate lists or on rankings of all titles.

Usage: python -m jaxrec.evaluate --checkpoint W
"""

import os
import re
import sys
from pathlib import Path

from absl import flags, logging

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, report_failure, run
from jaxrec.cli.flags import blend_flag, hosts_flags, json_flag, verify_flag
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LISTS, SPLITS, TRUTH
from jaxrec.core.paths import AnyPath, as_path

_LISTS = (*LISTS, CATALOGUE, TRUTH)
_SESSIONS = ("on", "off", "shuffled")
_OLD_SEEN = {"filtered": "stored"}


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string("data", "", "dataset; empty: the dataset of the training")
    flags.DEFINE_string(
        "out", "", "folder for the result and the Parquet files, in place of the workdir and its report; "
        "empty: the workdir",
    )  # fmt: skip
    flags.DEFINE_list(
        "lists", [], f"candidate lists, out of {', '.join(_LISTS)}; {CATALOGUE} ranks all titles; {TRUTH} is "
        "the value of a next-item model as a policy on the simulated service, at the queries whose truth is "
        "stored; empty: the stored lists, or all titles for a next-item model",
    )  # fmt: skip
    flags.DEFINE_enum(
        "seen", None, ["all", "stored", "kept", *_OLD_SEEN],
        "titles left out of rankings of all titles: all (everything that the user played before), stored "
        "(the titles of the stored history; old name: filtered) or kept (none); empty: the value of the "
        "config",
    )  # fmt: skip
    flags.DEFINE_integer(
        "retrieve", 0, "also evaluate two-stage rankings of all titles: number of titles that the retrieval "
        "head selects for the ranking head; 0: disabled", lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_float(
        "diversity", 0.0, f"also evaluate lists chosen by MMR, with --lists={CATALOGUE}: weight of "
        "dissimilarity, from 0 to 1, as in recommend --diversity; 0: disabled",
    )  # fmt: skip
    flags.DEFINE_list(
        "next_k", [], "numbers of next titles that are queries, such as 1,3; empty: the value of the config"
    )
    flags.DEFINE_string("split", "test", f"split: one of {', '.join(SPLITS[1:])}")
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")
    flags.DEFINE_bool("heads", False, "also evaluate every other head that can rank titles")
    flags.DEFINE_bool(
        "gradients", False, "also compare the gradients of every two heads with respect to the parameters "
        "that they share, over 32 batches of validation rows",
    )  # fmt: skip


def _flags_of_other_results() -> None:
    """Define the flags of results beside those of the lists."""
    flags.DEFINE_list(
        "session", [], f"also evaluate by position in the session, with the session {', '.join(_SESSIONS)}: "
        "shuffled gives each request the session of another user with as many events; empty: disabled",
    )  # fmt: skip
    flags.DEFINE_list(
        "delay_hours", [], "also evaluate a model of sequences on scores that were computed so many hours "
        "before the request, such as 0,6,24,48: the plays since are cut; empty: disabled",
    )  # fmt: skip
    flags.DEFINE_string(
        "reward_models", "", "also evaluate the policy by the reward models of this workdir, a run of the "
        "task preference that the policy was not trained by; empty: disabled",
    )  # fmt: skip
    flags.DEFINE_list(
        "slices", [], "also evaluate slices of the queries: features of the user or of the context, such as "
        "country,tenure; country*tenure is a slice for each pair of values",
    )  # fmt: skip
    flags.DEFINE_string(
        "against", "", "with --slices, workdir of a run on the same titles, whose results on these queries "
        "give the regret of each slice; empty: none",
    )  # fmt: skip
    flags.DEFINE_integer(
        "report_users", None, "number of users whose histories and recommendations are in report.html; 0: "
        "none; empty: the value of the config", lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_bool(
        "per_user", False, "also write the mean metrics of each user and the ranks of each query as Parquet"
    )
    flags.DEFINE_string(
        "segments", "", "also evaluate slates by number of segments on rankings of all titles, beside slates "
        "of each user and popularity: a folder that python -m jaxrec.live slates wrote; empty: disabled",
    )  # fmt: skip


def main(args: flags.FlagValues) -> None:
    """Check the flags, join the cluster, evaluate, and print the result.

    Raises:
        InputError: A flag is invalid, or `evaluator.evaluate` raises the error.
    """
    for name in args.lists:
        if name not in _LISTS:
            raise InputError(f"--lists={name}; allowed: {', '.join(_LISTS)}")
    if args.split not in SPLITS[1:]:
        raise InputError(f"--split={args.split}; allowed: {', '.join(SPLITS[1:])}")
    for name in args.session:
        if name not in _SESSIONS:
            raise InputError(f"--session={name}; allowed: {', '.join(_SESSIONS)}")
    _check_delay_hours(args.delay_hours)
    if args.retrieve and CATALOGUE not in args.lists:
        raise InputError(f"--retrieve={args.retrieve}; allowed only with --lists={CATALOGUE}")
    without_catalogue = args.lists and CATALOGUE not in args.lists
    if args.diversity and (without_catalogue or not 0.0 <= args.diversity <= 1.0):
        raise InputError(f"--diversity={args.diversity:g}; allowed: 0 to 1, with --lists={CATALOGUE}")
    if args.segments and without_catalogue:
        raise InputError(f"--segments={args.segments}; allowed only with --lists={CATALOGUE}")
    if args.against and not args.slices:
        raise InputError(f"--against={args.against}; allowed only with --slices")
    whole = all(k.isdecimal() and int(k) > 0 for k in args.next_k)
    if not whole or len(set(args.next_k)) < len(args.next_k):
        allowed = "whole numbers above 0, such as 1,3, each once"
        raise InputError(f"--next-k={','.join(args.next_k)}; allowed: {allowed}")
    if args.seen in _OLD_SEEN:
        print(f"--seen={args.seen} is now --seen={_OLD_SEEN[args.seen]}", file=sys.stderr, flush=True)
    workdir, data = as_path(args.checkpoint), args.data and as_path(args.data)
    from jaxrec.runtime import compilation_cache, multihost

    cluster = multihost.find_cluster(os.environ, args.coordinator, args.processes, args.process, args.hosts)
    compilation_cache.enable()
    with multihost.multihost_session(report_failure):
        multihost.initialize(cluster)
        _evaluate_on_host(args, workdir, data)


def _check_delay_hours(texts: list[str]) -> None:
    """Raise InputError unless all texts are finite numbers of at least 0, each once."""
    is_number = all(re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text) for text in texts)
    if not is_number or len({float(text) for text in texts}) < len(texts):
        allowed = "numbers of at least 0, such as 0,6,24,48, each once"
        raise InputError(f"--delay-hours={','.join(texts)}; allowed: {allowed}")


def _evaluate_on_host(args: flags.FlagValues, workdir: AnyPath, data: AnyPath | None) -> None:
    """Evaluate on every process; write and print the result on the first process."""
    from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
    from jaxrec.evaluation.results import write_result
    from jaxrec.runtime import host_memory, multihost

    with hide_libraries(*UNUSED_LIBRARIES):  # tensorboardX imports them without need
        from jaxrec.reporting.result_table import format_table

    host_memory.retain_freed_memory()
    if args.segments:
        from jaxrec.live_events.slates.folder import read_manifest

        read_manifest(args.segments)  # a damaged folder ends the command before minutes of evaluation
    if args.verify and multihost.is_first_process():
        _verify(workdir, data)
    options = EvaluationOptions(
        split=args.split,
        lists=tuple(args.lists) or ((CATALOGUE,) if args.segments else ()),
        next_k=tuple(int(k) for k in args.next_k) or None,
        heads=args.heads,
        seen=_OLD_SEEN.get(args.seen, args.seen),
        retrieve=args.retrieve,
        diversity=args.diversity,
        report_users=args.report_users,
        blend=args.blend,
        gradients=args.gradients,
        session=tuple(args.session),
        delay_hours=tuple(float(h) for h in args.delay_hours),
    )
    evaluation = evaluate(workdir, options, which=args.which, data=data or None)
    if args.reward_models:
        from jaxrec.analysis.reward_models import with_reward_models

        models = as_path(args.reward_models)
        evaluation = with_reward_models(evaluation, workdir, models, data or None)
    if args.slices:
        from jaxrec.evaluation.slices.results import with_slices

        against = as_path(args.against) if args.against else None
        evaluation = with_slices(evaluation, workdir, tuple(args.slices), against, data or None)
    if args.segments:
        from jaxrec.live_events.slates.quality import with_segments

        evaluation = with_segments(evaluation, workdir, args.segments, data or None)
    if multihost.is_first_process():
        write_result(workdir, evaluation, args.per_user, args.out and as_path(args.out))
        print_result(evaluation.result, format_table(evaluation.result))


def _verify(workdir: AnyPath, data: AnyPath | None) -> None:
    """Compare all files of the checkpoints and the dataset with their checksums, and check the rows.

    Raises:
        InputError: A file is damaged, or the workdir is in a bucket.
    """
    from jaxrec.checkpoints.checkpointer import Checkpointer
    from jaxrec.checkpoints.seals import verify_steps
    from jaxrec.data.storage.audit import log_verified
    from jaxrec.tasks.loading import CHECKPOINTS, read_meta

    if not isinstance(workdir, Path):
        raise InputError(f"--verify: {workdir} is in a bucket, where files are compared as they are read")
    for step, files in verify_steps(workdir / CHECKPOINTS).items():
        state = f"{files} files are as written" if files else "has no checksums"
        logging.info("checkpoint %s, step %d: %s", workdir / CHECKPOINTS, step, state)
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        log_verified(data or read_meta(checkpoints, "last")["dataset_directory"])


if __name__ == "__main__":
    run(main, json_flag, hosts_flags, verify_flag, blend_flag, _flags, _flags_of_other_results)
