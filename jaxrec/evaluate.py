"""python -m jaxrec.evaluate --checkpoint W: judge a checkpoint alone, on frozen lists or over all titles."""

import os

from absl import flags

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, report_failure, run
from jaxrec.cli.flags import hosts_flags, json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LISTS, SPLITS
from jaxrec.core.paths import AnyPath, as_path

_LISTS = (*LISTS, CATALOGUE)


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the workdir of a training run", required=True)
    flags.DEFINE_string("data", "", "the dataset; empty: the one it was trained on")
    flags.DEFINE_list(
        "lists", [], f"which lists, of {', '.join(_LISTS)}; the last ranks all titles; empty: the frozen "
        "ones, or all titles where the model is of sequences"
    )  # fmt: skip
    flags.DEFINE_enum(
        "seen", "filtered", ["filtered", "kept"], "titles of the stored history, where all titles are ranked"
    )
    flags.DEFINE_integer(
        "retrieve", 0, "where all titles are ranked, also in two stages: so many titles by the retrieval "
        "head, in the order of the head that ranks; 0: not", lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_list(
        "next_k", [], "how many next titles are queries, such as 1,3; empty: as the config says"
    )
    flags.DEFINE_string("split", "test", f"one of {', '.join(SPLITS[1:])}")
    flags.DEFINE_enum("which", None, ["best", "last"], "which checkpoint; empty: as the config says")
    flags.DEFINE_bool("heads", False, "also judge by each other head that can rank, where there are several")
    flags.DEFINE_bool(
        "per_user", False, "also write each user's mean metrics and each query's ranks, as Parquet"
    )


def main(found: flags.FlagValues) -> None:
    for name in found.lists:
        if name not in _LISTS:
            raise InputError(f"--lists={name}; allowed: {', '.join(_LISTS)}")
    if found.split not in SPLITS[1:]:
        raise InputError(f"--split={found.split}; allowed: {', '.join(SPLITS[1:])}")
    if found.retrieve and CATALOGUE not in found.lists:
        raise InputError(f"--retrieve={found.retrieve}; allowed with --lists={CATALOGUE}")
    if not all(k.isdigit() and int(k) > 0 for k in found.next_k):
        raise InputError(f"--next-k={','.join(found.next_k)}; allowed: whole numbers above 0, such as 1,3")
    workdir, data = as_path(found.checkpoint), found.data and as_path(found.data)
    from jaxrec.runtime import compilation_cache, multihost

    joining = multihost.find_cluster(
        os.environ, found.coordinator, found.processes, found.process, found.hosts
    )
    compilation_cache.enable()
    with multihost.multihost_session(report_failure):
        multihost.initialize(joining)
        _on_every_host(found, workdir, data)


def _on_every_host(found: flags.FlagValues, workdir: AnyPath, data: AnyPath | None) -> None:

    from jaxrec.evaluation.evaluator import evaluate
    from jaxrec.evaluation.results import write_result
    from jaxrec.runtime import host_memory, multihost

    with hide_libraries(*UNUSED_LIBRARIES):  # see jaxrec.train
        from jaxrec.reporting import html_report

    host_memory.retain_freed_memory()
    judged = evaluate(
        workdir,
        which=found.which,
        data=data or None,
        split=found.split,
        lists=tuple(found.lists),
        next_k=tuple(int(k) for k in found.next_k) or None,
        heads=found.heads,
        seen=found.seen,
        retrieve=found.retrieve,
    )
    if multihost.is_first_process():
        write_result(workdir, judged, found.per_user)
        print_result(judged.result, html_report.format_table(judged.result))


if __name__ == "__main__":
    run(main, json_flag, hosts_flags, _flags)
