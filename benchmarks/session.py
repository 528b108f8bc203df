"""One event more in a session: the session encoded on a cached history, against both encoded again.

    python -m benchmarks.session [--config configs/session.py] [--histories 32,128] [--events 8] [--batch 64]
        [--rounds 20] [--json F]

`encode_history` runs once a session and `encode_session` at each request. The rival runs both at each
request, as a model without a cache does. Both look titles up in cached projections, and both run in turn
(A B A B ...). Rows are random and full: each history has all its titles, each session all its events. The
longest expert of the history reads all titles of the rows. A round repeats a call; beside the time of the
clock, which other programs of the machine change, the processor time of all threads is compared.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from jaxrec.config.loading import load_config
from jaxrec.config.rules.sessions import PLAY
from jaxrec.config.schema import Config
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID
from jaxrec.core.registry import SESSION_ENCODERS
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import as_words
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.loading import build_task

_CALLS = 10  # of a round
_CATEGORIES = 20  # ids of each category but the titles' own


def _flags() -> None:
    flags.DEFINE_string("config", "configs/session.py", "config whose model reads sessions")
    flags.DEFINE_list("histories", ["32", "128"], "numbers of titles of a history")
    flags.DEFINE_integer("events", 8, "events of a session, a multiple of 4", lower_bound=4)
    flags.DEFINE_integer("titles", 1_000, "titles of the catalogue", lower_bound=10)
    flags.DEFINE_integer("batch", 64, "requests of a call", lower_bound=1)
    flags.DEFINE_integer("rounds", 20, "counted rounds", lower_bound=1)


def sized(config: Config, history: int, events: int) -> Config:
    """Return a copy of a config whose rows hold `history` titles and `events` events, which its experts read.

    The longest expert of the history reads all titles; the others keep their windows.
    """
    experts, longest = [], max(e.max_len for e in config.model.experts if e.encoder not in SESSION_ENCODERS)
    for expert in config.model.experts:
        size = events if expert.encoder in SESSION_ENCODERS else min(expert.max_len, history)
        experts.append(replace(expert, max_len=history if expert.max_len == longest else size))
    experts = [replace(e, max_len=events) if e.encoder in SESSION_ENCODERS else e for e in experts]
    data = replace(config.data, max_history=history, session=events)
    return replace(config, data=data, model=replace(config.model, experts=tuple(experts)))


def layout_of(config: Config, titles: int) -> Layout:
    """Return a layout with the features of a config and any categories."""
    specs = []
    for f in config.features:
        size = titles if f.name == TITLE_ID else 0 if f.kind == "number" else _CATEGORIES
        specs.append(
            FeatureSpec(f.name, f.kind, f.where, f.width, size, 0 if f.name == TITLE_ID else f.most or 1)
        )
    data, kinds = config.data, (PLAY, *(signal.name for signal in config.signals))
    pools = (data.hard, data.trending, data.tailing, data.random)
    return Layout(
        titles, data.max_history, data.num_targets, pools, data.negatives, tuple(specs), session=data.session,
        session_kinds=kinds,
    )  # fmt: skip


def random_rows(layout: Layout, batch: int) -> np.ndarray:
    """Return full random rows [batch] of a layout."""
    r, rows = np.random.default_rng(0), np.zeros(batch, layout.query_dtype())
    for name in ("history_title", "session_title", "target"):
        rows[name] = r.integers(FIRST_TITLE, layout.num_titles, rows[name].shape)
    for name in ("history_age", "session_age"):
        rows[name] = np.sort(r.uniform(1, 14, rows[name].shape))[:, ::-1]
    rows["session_kind"] = r.integers(1, 1 + len(layout.session_kinds), rows["session_kind"].shape)
    rows["history_completion"], rows["session_value"] = 0.5, 0.5
    for name in (n for n in ("user_categories", "context_categories") if n in (rows.dtype.names or ())):
        rows[name] = r.integers(FIRST_TITLE, _CATEGORIES, rows[name].shape)
    return rows


def rivals_of(config: Config, titles: int, batch: int) -> dict[str, Callable[[], Any]]:
    """Return the two ways to encode the requests of a batch, compiled.

    Raises:
        InputError: The config's model reads no session.
    """
    layout = layout_of(config, titles)
    task: Any = build_task(config, layout, 0.5, 1, 1)
    if not task.view.session_kinds:
        raise InputError(f"config {config.name!r}: allowed: a model with an expert of the session")
    r = np.random.default_rng(1)
    table = TitleTable(
        jnp.asarray(r.integers(FIRST_TITLE, _CATEGORIES, (titles, layout.columns("title", "category")))),
        jnp.zeros((titles, layout.columns("title", "number")), jnp.float32),
    )
    params = jax.jit(lambda key: task.init_params(key, table))(jax.random.key(0))
    history = ranking_inputs.queries(as_words(random_rows(layout, batch)), task.view).history
    model = task.model
    projections = jax.jit(lambda p: model.apply({"params": p}, table, method="catalogue"))(params)

    def encode_history(params: Any, history: Any, projections: Any) -> Any:
        return model.apply({"params": params}, history, table, None, projections, method="encode_history")

    def encode_session(params: Any, histories: Any, tail: Any, projections: Any) -> Any:
        arguments = histories, tail, table, 1.0, None, projections
        return model.apply({"params": params}, *arguments, method="encode_session").vector_BxF

    cached = jax.jit(encode_history)(params, history, projections)
    event = jax.jit(encode_session)
    again = jax.jit(lambda p, h, t: encode_session(p, encode_history(p, h, t), h.session, t))
    same = event(params, cached, history.session, projections), again(params, history, projections)
    np.testing.assert_allclose(*same, rtol=1e-4, atol=1e-5)
    return {
        "both again": lambda: again(params, history, projections).block_until_ready(),
        "one event more": lambda: event(params, cached, history.session, projections).block_until_ready(),
    }


def timed(rivals: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Return the time of the clock and the processor time of `_CALLS` calls of each rival, by round."""
    processor: dict[str, list[float]] = {name: [] for name in rivals}

    def repeated(name: str) -> None:
        started = time.process_time()
        for _ in range(_CALLS):
            rivals[name]()
        processor[name].append(time.process_time() - started)

    clock = interleaved({name: partial(repeated, name) for name in rivals}, rounds)
    return clock, {name: Timing(tuple(seconds[-rounds:])) for name, seconds in processor.items()}


def main(args: flags.FlagValues) -> Report:
    config, rows, figures = load_config(args.config), [], dict[str, Any]()
    for history in args.histories:
        if not history.isdecimal() or int(history) % 4 or not int(history):
            raise InputError(f"--histories={history}; allowed: multiples of 4, separated by commas")
        rivals = rivals_of(sized(config, int(history), args.events), args.titles, args.batch)
        timings, processor = timed(rivals, args.rounds)
        faster, cheaper = (ratio(t["both again"], t["one event more"]) for t in (timings, processor))
        of = {name: timing.rate(_CALLS * args.batch) for name, timing in timings.items()}
        figures[history] = {"requests_per_second": of, "ratio": faster, "processor_ratio": cheaper}
        name = f"history of {history} titles, {args.events} events"
        rows += [
            (f"{name}: history and session again", spread(of["both again"], "requests/s", 0), ""),
            (f"{name}: one event more", spread(of["one event more"], "requests/s", 0), spread(faster, "x")),
            (f"{name}: one event more, processor time", "", spread(cheaper, "x")),
        ]
    title = f"One event more in a session, {args.batch} requests a call"
    return Report(title, {"metrics": figures}, rows)


if __name__ == "__main__":
    run(main, _flags)
