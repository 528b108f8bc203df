"""Beam search over codes of titles: caches, masking by the trie, and a trie of a million titles.

    python -m benchmarks.beam [--titles 1000] [--width 32] [--json F]

The model has the size of `configs/onerec.py:small` and initial parameters, which cost the same as trained
ones. Requests are answered in batches: encoder, decoder and beams. Three rivals answer the same requests:

- "cached": `Generator.beam`. The keys and values of the history are computed once a request, and those of the
  decoder are gathered by the parents of beams.
- "without caches": at every level each beam computes the keys and values of its history, and decodes its
  whole prefix.
- "open": "cached" without the trie. Every beam has as many children at a level as the trie has slots there,
  so that both decode as many tokens; most codes are no title. The difference is what masking costs. It is
  measured in processor time, which other processes of the machine do not add to, over many rounds in turn.

A million titles are generated as sessions of five, in beams. A title is invalid if its id is none of the
catalogue, or if its log probability from one pass over the whole session differs from that of its beam, which
then has taken a token that is no child.

The trie of a million titles has random codes. A step finds the open children of all beams of a batch, and
their log probabilities.
"""

import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from benchmarks.measure import Timing, interleaved, median_interval, ratio
from jaxrec.codes.residual_codes import random_codes
from jaxrec.codes.trie import build_trie, nbytes
from jaxrec.config.schema import Codes, Expert, Model
from jaxrec.core.batch import TitleTable, TitleTrie
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.generative.generator import Generator
from jaxrec.models.generative.trie_steps import child_log_pi, children
from jaxrec.models.next_item import Catalogue, ItemWindow

_SESSION = 5  # titles of a session, as OneRec generates
_SPREAD = 0.4  # standard deviation of the noise that is added to initial parameters
_TOLERANCE = 1e-2  # of log probabilities of sessions, whose rounding errors are about 1e-4


def _flags() -> None:
    flags.DEFINE_integer("titles", 1_000, "titles of the beam search", lower_bound=10)
    flags.DEFINE_integer("levels", 3, "levels of clusters", lower_bound=1)
    flags.DEFINE_integer("size", 16, "tokens of a level", lower_bound=2)
    flags.DEFINE_integer("width", 32, "beams", lower_bound=1)
    flags.DEFINE_integer("history", 16, "plays of a request", lower_bound=1)
    flags.DEFINE_integer("requests", 256, "requests of a batch", lower_bound=1)
    flags.DEFINE_integer("generated", 1_000_000, "titles that are generated in sessions", lower_bound=1)
    flags.DEFINE_integer("large", 1_000_000, "titles of the large trie, of 4 levels", lower_bound=10)
    flags.DEFINE_integer("rounds", 7, "rounds; each times all rivals once", lower_bound=1)
    flags.DEFINE_integer("masking_rounds", 201, "rounds of the comparison with open beams", lower_bound=1)
    flags.DEFINE_bool("quick", False, "few titles, requests and rounds, to test the benchmark")


class Rivals(Generator):
    """Generator with slower and wrong forms of its beam search."""

    def without_caches(
        self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie, width: int
    ) -> tuple[jax.Array, jax.Array]:
        """Return ids and log probabilities of `beam`; every beam computes them from its whole prefix."""
        h_BxLxD = self(window, catalogue)
        B, _, D = h_BxLxD.shape
        node, score = jnp.zeros((B, 1), jnp.int32), jnp.zeros((B, 1))
        x_BxWxTxD = self.decoder.first_input(h_BxLxD[:, -1:])
        for i, level in enumerate(trie.levels):
            W = node.shape[1]
            h_NxLxD = jnp.repeat(h_BxLxD, W, axis=0)
            memory = self.decoder.memory(h_NxLxD, jnp.repeat(window.title_BxL > 0, W, axis=0)[:, None])
            decoded = self.decoder(x_BxWxTxD.reshape(B * W, 1, -1, D), memory)
            logits = self.decoder.logits(i, decoded.h_BxNxTxD[:, 0, -1]).reshape(B, W, -1)
            among = children(level, node)
            total = (score[..., None] + child_log_pi(level, logits, among)).reshape(B, -1)
            kept = jnp.sort(jax.lax.top_k(total, min(width, total.shape[1]))[1], axis=1)
            score, node, token = (
                jnp.take_along_axis(x.reshape(B, -1), kept, axis=1) for x in (total, among.node, among.token)
            )
            if i < len(trie.levels) - 1:
                parent = (kept // len(level.slot))[:, :, None, None]
                new = self.decoder.token_input(i, token)[:, :, None]
                x_BxWxTxD = jnp.concatenate([jnp.take_along_axis(x_BxWxTxD, parent, axis=1), new], axis=2)
        score, place = jax.lax.top_k(score, score.shape[1])
        return trie.title[jnp.take_along_axis(node, place, axis=1)], score

    def open(
        self, window: ItemWindow, catalogue: Catalogue, slots: tuple[int, ...], width: int
    ) -> tuple[jax.Array, jax.Array]:
        """Return last tokens and log probabilities of beams over the first `slots` tokens of every level."""
        h_BxLxD = self(window, catalogue)
        memory = self.decoder.memory(h_BxLxD, (window.title_BxL > 0)[:, None])
        score, caches = jnp.zeros((len(h_BxLxD), 1)), None
        x = self.decoder.first_input(h_BxLxD[:, -1:])
        for i, K in enumerate(slots):
            decoded = self.decoder(x, memory, caches)
            log_pi = jax.nn.log_softmax(self.decoder.logits(i, decoded.h_BxNxTxD[:, :, 0])[..., :K])
            total = (score[..., None] + log_pi).reshape(len(score), -1)
            kept = jnp.sort(jax.lax.top_k(total, min(width, total.shape[1]))[1], axis=1)
            score, token = jnp.take_along_axis(total, kept, axis=1), kept % K
            if i < self.codes.levels:
                x = self.decoder.token_input(i, token)[:, :, None]
                index = (kept // K)[:, :, None, None, None]
                caches = jax.tree.map(partial(jnp.take_along_axis, indices=index, axis=1), decoded.caches)
        return token, score


def _requests(requests: int, history: int, titles: int, seed: int) -> ItemWindow:
    """Return windows of random titles."""
    draws = np.random.default_rng(seed)
    title = draws.integers(FIRST_TITLE, titles + FIRST_TITLE, (requests, history)).astype(np.int32)
    seconds = np.arange(1_000, 1_000 + history, dtype=np.uint32) + np.zeros_like(title).astype(np.uint32)
    return ItemWindow(jnp.asarray(title), jnp.asarray(seconds), jnp.asarray(seconds + 1))


class Made(NamedTuple):
    """A model with the catalogue and the trie that it generates from."""

    model: Rivals
    params: Any
    catalogue: Catalogue
    trie: TitleTrie


def _make(args: Any, titles: int) -> Made:
    """Return a model of sessions of `titles` titles with initial parameters."""
    V = args.titles + FIRST_TITLE
    codes = Codes(levels=args.levels, size=args.size, beam=args.width, titles=titles)
    config = Model(width=48, experts=(Expert(args.history, 2, 2, 2.0, 0.0, "hstu"),), dropout=0.0, head="dot")
    model = Rivals("float32", (FeatureSpec("title_id", "category", "title", 48, V),), V, config, codes=codes)
    table = TitleTable(jnp.zeros((V, 0), jnp.int32), jnp.zeros((V, 0), jnp.float32))
    window = _requests(1, args.history, args.titles, 0)
    params: Any = jax.jit(partial(model.init, method="of_table"))(jax.random.key(0), window, table)
    catalogue: Any = model.apply(params, table, method="catalogue")
    tokens = random_codes(args.titles, args.levels, args.size, 0).tokens
    trie = build_trie(tokens, np.arange(FIRST_TITLE, V), V, args.size)
    return Made(model, params, catalogue, jax.tree.map(jnp.asarray, trie))


def _beams(args: Any) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Return the timings of the rivals for a batch of requests: with and without caches, then open.

    "open" runs in turn with "cached" alone. After "without caches", which takes much memory, both are slower.
    The second timings are of the processor.
    """
    model, params, catalogue, trie = _make(args, 1)
    window = _requests(args.requests, args.history, args.titles, 0)

    def rival(method: str, *more: Any) -> Any:
        call = jax.jit(lambda p, w, c, t: model.apply(p, w, c, *t, *more, args.width, method=method))
        of_titles = () if method == "open" else (trie,)
        return lambda: jax.block_until_ready(call(params, window, catalogue, of_titles))

    slots = tuple(len(level.slot) for level in trie.levels)
    cached, plain, unmasked = rival("beam"), rival("without_caches"), rival("open", slots)
    if not (np.asarray(cached()[0])[:, 0] == np.asarray(plain()[0])[:, 0]).mean() > 0.99:
        raise RuntimeError("the form without caches has other titles")
    of_caches = interleaved({"cached": cached, "without caches": plain}, args.rounds)
    both = {"cached": cached, "open": unmasked}
    return of_caches, interleaved(both, args.masking_rounds, warmup=3, clock=time.process_time)


def _masking_share(cached: Timing, unmasked: Timing) -> dict[str, float]:
    """Return the share of masking in the time of a search: median over the rounds, and its 95% interval."""
    shares = [1.0 - b / a for a, b in zip(cached.seconds, unmasked.seconds, strict=True)]
    low, high = median_interval(shares)
    return {"median": statistics.median(shares), "low": low, "high": high, "rounds": len(shares)}


def _generate(args: Any) -> dict[str, int]:
    """Return the numbers of titles that are generated in sessions, invalid, and repeated in a session."""
    model, params, catalogue, trie = _make(args, _SESSION)
    draws = np.random.default_rng(0)  # initial parameters give all titles nearly the same probability
    params = jax.tree.map(lambda x: x + _SPREAD * draws.normal(size=x.shape).astype(x.dtype), params)

    @jax.jit
    def generate(window: ItemWindow) -> tuple[jax.Array, jax.Array, jax.Array]:
        sessions: Any = model.apply(params, window, catalogue, trie, args.width, method="sessions")
        newest = jnp.full(sessions.id_BxWxm.shape[:2], window.title_BxL.shape[1] - 1)
        inputs = window, catalogue, trie, newest, sessions.id_BxWxm, None, None
        coded: Any = model.apply(params, *inputs, method="chosen")
        return sessions.id_BxWxm, sessions.log_pi_BxWxm, jnp.cumsum(coded.log_pi, axis=-1)

    counts, batch = {"titles": 0, "invalid": 0, "repeated": 0}, 0
    while counts["titles"] < args.generated:
        window = _requests(args.requests, args.history, args.titles, batch)
        ids, score, exact = map(np.asarray, generate(window))
        is_title = (ids >= FIRST_TITLE) & (ids < args.titles + FIRST_TITLE)
        ordered, batch = np.sort(ids, axis=-1), batch + 1
        counts["titles"] += ids.size
        counts["invalid"] += int((~is_title | ~(np.abs(score - exact) < _TOLERANCE)).sum())
        counts["repeated"] += int((ordered[..., 1:] == ordered[..., :-1]).sum())
    return counts


def _large_trie(args: Any) -> dict[str, float]:
    """Return bytes, seconds of building, and seconds of a step of a large trie of 4 levels."""
    size = max(round((args.large * 1.05) ** 0.25 + 0.5), 2)
    tokens = random_codes(args.large, 4, size, 0).tokens
    began = time.perf_counter()
    host = build_trie(
        tokens, np.arange(FIRST_TITLE, args.large + FIRST_TITLE), args.large + FIRST_TITLE, size
    )
    built = time.perf_counter() - began
    trie = jax.tree.map(jnp.asarray, host)
    draws = np.random.default_rng(0)
    steps: dict[str, Any] = {}
    for i, level in enumerate(host.levels):
        node = draws.integers(0, len(level.first) - 1, (args.requests, args.width)).astype(np.int32)
        logits = jnp.asarray(draws.normal(size=(args.requests, args.width, size)), jnp.float32)
        call = jax.jit(lambda level, node, logits: child_log_pi(level, logits, children(level, node)))
        inputs = trie.levels[i], jnp.asarray(node), logits
        steps[f"level {i + 1}"] = partial(
            lambda call, inputs: jax.block_until_ready(call(*inputs)), call, inputs
        )
    seconds = {f"seconds of {name}": t.median for name, t in interleaved(steps, args.rounds).items()}
    return {"titles": args.large, "tokens": size, "bytes": nbytes(host), "seconds to build": built} | seconds


def main(args: flags.FlagValues) -> Report:
    """Time the rivals and the large trie."""
    if args.quick:
        quick = {
            "titles": 60, "requests": 8, "generated": 600, "large": 2_000, "rounds": 1, "width": 8,
            "masking_rounds": 3,
        }  # fmt: skip
        for name, value in quick.items():
            setattr(args, name, value)
    (timings, of_masking), generated, trie = _beams(args), _generate(args), _large_trie(args)
    rates = {name: timing.rate(args.requests) for name, timing in timings.items()}
    by_processor = {name: timing.rate(args.requests) for name, timing in of_masking.items()}
    speed = ratio(timings["without caches"], timings["cached"])
    share = _masking_share(of_masking["cached"], of_masking["open"])
    of_median = f"{share['low']:.1%} to {share['high']:.1%}: 95% interval, {share['rounds']} rounds"
    rows = [
        (f"{name}, requests/{unit}", f"{rate['median']:.0f}", f"{rate['least']:.0f} to {rate['most']:.0f}")
        for unit, of_unit in (("s", rates), ("processor second", by_processor))
        for name, rate in of_unit.items()
    ]
    rows += [
        ("caches, times faster", f"{speed['median']:.1f}", f"{speed['least']:.1f} to {speed['most']:.1f}"),
        ("share of masking", f"{share['median']:.1%}", of_median),
        ("generated titles", f"{generated['titles']:,}", f"in sessions of {_SESSION}"),
        ("of these invalid", f"{generated['invalid']:,}", "no title, or another log probability"),
        ("repeated in a session", f"{generated['repeated']:,}", ""),
        (f"trie of {args.large:,} titles, MiB", f"{trie['bytes'] / 2**20:.1f}", "4 levels and a last token"),
        ("seconds to build it", f"{trie['seconds to build']:.2f}", "one core, NumPy"),
    ]
    rows += [
        (name.replace("seconds", "milliseconds"), f"{1000 * x:.2f}", f"{args.requests} x {args.width} beams")
        for name, x in trie.items() if name.startswith("seconds of")
    ]  # fmt: skip
    figures = {
        "requests_per_second": rates, "requests_per_processor_second": by_processor, "caches": speed,
        "masking_share": share, "generated": generated, "trie": trie,
    }  # fmt: skip
    return Report("Beam search over codes", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
