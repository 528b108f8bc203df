"""Pairs of titles drawn from a policy, of which reward models prefer one: a dataset for DPO and IPO.

At each position of a training row that predicts a title, n titles are drawn from the policy, or are its n
best ones, which are the beams of a model that generates codes. The reward models of another run give rewards
to them; the bounds of a reward are the mean of the models -+
`post.pessimism` standard deviations. The pair of a position is the title of the highest lower bound and the
title of the lowest upper bound. It is kept where the first bound is above the second. Axis letters: B rows, L
positions, P stored plays, n draws, M reward models.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.analysis.rewritten.rewriting import (
    Rewritten,
    content_digest,
    copied_manifest,
    evaluation_of,
    parameters_digest,
    rewrite,
)
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, declarations_for_digest
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import uniform
from jaxrec.core.ids import FIRST_TITLE, SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.core.row_format import Layout
from jaxrec.data.runners.manifest import fingerprint_of
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import BLOCK_ROWS, Dataset
from jaxrec.data.storage.row_blocks import row_blocks
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.models.layers import rng
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, check_same_catalogue, default_checkpoint, load_checkpoint
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import PolicyInputs
from jaxrec.tasks.preference import inputs
from jaxrec.tasks.preference.task import PreferenceTask

LEAST_MODELS = 2  # a single reward model has no bounds
_USERS = 0x9A125  # stream of the draws of users


class RowPairs(NamedTuple):
    """Pairs at the plays of rows.

    Attributes:
        winner: [B, P] int32 ids, 0 for no pair.
        loser: [B, P] int32 ids.
        states: [B] number of positions at which pairs were looked for.
    """

    winner: Any
    loser: Any
    states: Any


def best_pair(title: jax.Array, reward: jax.Array, pessimism: float) -> tuple[jax.Array, jax.Array]:
    """Return winner and loser [...] of drawn titles, 0 where the bounds of the best pair overlap.

    Args:
        title: [..., n] int32 ids, 0 for none.
        reward: [M, ..., n] rewards by the reward models.
        pessimism: Standard deviations between the mean and a bound.
    """
    mean, half = reward.mean(0), pessimism * reward.std(0)
    low = jnp.where(title > 0, mean - half, -jnp.inf)
    high = jnp.where(title > 0, mean + half, jnp.inf)
    is_kept = low.max(-1) > high.min(-1)

    def at(index: jax.Array) -> jax.Array:
        return jnp.where(is_kept, jnp.take_along_axis(title, index[..., None], axis=-1)[..., 0], 0)

    return at(low.argmax(-1)), at(high.argmin(-1))


class PairDrawer:
    """Pairs of training rows: a function of a policy, reward models and a seed.

    Args:
        policy: Run whose policy draws titles.
        models: Run whose reward models prefer.
        config: Config with the settings of the draws.
        layout: Layout of the rows.
    """

    def __init__(
        self, policy: LoadedCheckpoint, models: LoadedCheckpoint, config: Config, layout: Layout
    ) -> None:
        assert isinstance(policy.task, NextItemTask)  # it reads windows
        assert isinstance(models.task, PreferenceTask)  # it has reward models
        self._policy, self._models = policy.task, models.task
        self._size = min(policy.task.size, models.task.size)
        self._salt = int(parameters_digest(policy)[:16], 16)  # other users in each round
        self._layout, self._config = layout, dataclasses.replace(
            config, sampling=dataclasses.replace(config.sampling, window="latest", id_dropout=0.0)
        )  # fmt: skip
        self._params = (policy.params, models.params)
        tasks = (policy.task, models.task)
        self._tables = replicate(tuple(task.title_table(policy.arrays) for task in tasks))
        self._draw = jax.jit(self._pairs)

    def __call__(self, rows: np.ndarray, first: int) -> RowPairs:
        """Return the pairs of rows [B] from the row `first` of the split on, on the host."""
        chosen, out = np.flatnonzero(chosen_users(rows["user"], self._config, self._salt)), None
        for start in range(0, max(len(chosen), 1), BLOCK_ROWS):
            index = chosen[start : start + BLOCK_ROWS]
            words = as_words(rows[index])
            padded, row = np.zeros((BLOCK_ROWS, words.shape[1]), np.uint32), np.zeros(BLOCK_ROWS, int)
            padded[: len(words)], row[: len(words)] = words, first + index
            pairs = jax.device_get(self._draw(self._params, self._tables, padded, row))
            if out is None:
                out = tuple(np.zeros((len(rows), *x.shape[1:]), x.dtype) for x in pairs)
            for whole, part in zip(out, pairs, strict=True):
                whole[index] = part[: len(index)]
        assert out is not None
        return RowPairs(*out)

    def _pairs(self, params: Any, tables: Any, words: jax.Array, row_B: jax.Array) -> RowPairs:
        key_Bx2 = rng.row_keys(self._config.train.seed, 0, row_B)
        x = inputs.training(words, self._layout, self._config, self._size, key_Bx2)
        positions = PolicyInputs(x.windows.window, x.played)
        title_BxLxn = self._policy.pair_candidates(
            params[0], tables[0], positions, key_Bx2, self._config.post
        )
        of_models = self._models.encode_fixed(params[1], tables[1], x.windows.window)
        own = {"params": params[1]}
        drawn = of_models.title[title_BxLxn]
        reward: Any = self._models.model.apply(own, of_models.state, drawn, method="rewards_of_titles")
        present_BxL = x.windows.target > 0

        def at_plays(title_BxL: jax.Array) -> jax.Array:
            plays = jnp.zeros((len(words), x.played.shape[-1]), jnp.int32)
            title_BxL = jnp.where(present_BxL, title_BxL, 0)
            return plays.at[jnp.arange(len(words))[:, None], x.play].set(title_BxL)

        winner_BxL, loser_BxL = best_pair(title_BxLxn, reward, self._config.post.pessimism)
        return RowPairs(at_plays(winner_BxL), at_plays(loser_BxL), present_BxL.sum(1))


def chosen_users(user: np.ndarray, config: Config, salt: int) -> np.ndarray:
    """Return bool [B], True for the users at whose positions pairs are found, by a hash.

    Args:
        user: [B] numbers of users.
        config: Config with `post.pair_users` and `train.seed`.
        salt: Number of the policy, so that each round has its own users.
    """
    return uniform(config.train.seed, _USERS, salt, user) < config.post.pair_users


def _check(config: Config, dataset: Dataset, policy: LoadedCheckpoint, models: LoadedCheckpoint) -> None:
    """Raise InputError unless pairs of both runs can be drawn at the sequences of the dataset."""
    for loaded in (policy, models):
        check_same_catalogue(dataset, loaded)
    _check_candidates(config, policy)
    if dataset.layout.pairs:
        raise InputError(
            f"dataset {dataset.directory}: has pairs already; allowed: the dataset that it was made from"
        )
    count = models.config.post.reward_models
    if count < LEAST_MODELS:
        raise InputError(
            f"rewards: the run {models.config.name!r} has post.reward_models={count}; allowed: "
            f"{LEAST_MODELS} or more, whose spread gives the bounds of a reward"
        )
    if declarations_for_digest(config.labels) != declarations_for_digest(models.config.labels):
        raise InputError(
            f"rewards: the run {models.config.name!r} has other labels than the config; allowed: the same"
        )


def _check_candidates(config: Config, policy: LoadedCheckpoint) -> None:
    """Raise InputError unless the policy can find the candidates, which are at most all titles."""
    post, known = config.post, policy.task.protocols().candidates
    if post.candidates not in known:
        allowed = f"one of {', '.join(known)}" if known else "a run of a policy over single titles"
        raise InputError(
            f"checkpoint: the run {policy.config.name!r}, of task.name={policy.config.task.name!r}, finds no "
            f"pairs with post.candidates={post.candidates!r}; allowed: {allowed}"
        )
    titles = policy.task.layout.num_titles - FIRST_TITLE
    if post.candidates == "best" and post.samples > titles:
        raise InputError(f"post.samples={post.samples}; allowed: at most the {titles:,} titles")


def write_pairs(
    checkpoint: str | AnyPath, rewards: str | AnyPath, config: Config, out: str | AnyPath
) -> Rewritten:
    """Write the dataset of a config with pairs of titles drawn from a policy.

    Args:
        checkpoint: Folder of the run whose policy draws.
        rewards: Folder of the run whose reward models prefer.
        config: Config with the dataset, and with `train.seed` and `post.samples`, `post.pessimism`,
            `post.candidates` and `post.pair_users` of the pairs.
        out: Folder of the dataset with pairs.

    Raises:
        InputError: The runs have no policy or reward models of the dataset's titles, no pair is kept, or
            `out` holds something else.
    """
    policy, models = (load_checkpoint(run, default_checkpoint(run)) for run in (checkpoint, rewards))
    dataset = Dataset(dataset_directory(config), config.data.verify)
    _check(config, dataset, policy, models)
    made_from = {
        "dataset": dataset.fingerprint, "digest": dataset.manifest["digest"],
        "policy": content_digest(policy), "rewards": content_digest(models),
    }  # fmt: skip
    post = config.post
    settings = f"{post.samples} {post.pessimism} {config.train.seed}"
    if (post.candidates, post.pair_users) != ("drawn", 1.0):
        settings += f" {post.candidates} {post.pair_users}"
    own = hashlib.sha256(" ".join((*made_from.values(), settings)).encode()).hexdigest()
    what = f"{dataset.directory} with pairs of {checkpoint} by {rewards} and these settings"
    drawer = PairDrawer(policy, models, config, dataset.layout)
    return rewrite(out, own, what, lambda folder: _write(dataset, drawer, folder, own, made_from))


def _write(
    dataset: Dataset, drawer: Callable[[np.ndarray, int], RowPairs], folder: AnyPath, own: str,
    made_from: dict[str, str],
) -> None:  # fmt: skip
    """Write the dataset with pairs; InputError where no pair is kept."""
    layout = dataclasses.replace(dataset.layout, pairs=True)
    states = kept = first = 0
    with DatasetWriter(folder) as writer:
        writer.begin(layout)
        for rows in row_blocks(dataset.rows(SPLITS[0])):
            out, pairs = np.zeros(len(rows), layout.row_dtype()), drawer(rows, first)
            for name in rows.dtype.names or ():
                out[name] = rows[name]
            out["pair_winner"], out["pair_loser"] = pairs.winner, pairs.loser
            states, kept = states + int(pairs.states.sum()), kept + int((pairs.winner > 0).sum())
            first += len(rows)
            writer.add(SPLITS[0], out)
        if not kept:
            raise InputError(
                f"no pair at {states:,} states is kept: the bounds of their rewards overlap; allowed: a "
                "lower post.pessimism, or more post.samples"
            )
        for split in SPLITS[1:]:
            for rows in row_blocks(dataset.rows(split)):
                writer.add(split, rows)
        counts = made_from | {"states": states, "pairs": kept}
        manifest = copied_manifest(dataset) | {"digest": own, "layout": layout.to_json(), "pairs": counts}
        manifest["fingerprint"] = fingerprint_of(manifest, writer.row_sums())
        users = {split: dataset.user_keys(split) for split in SPLITS[1:]}
        writer.finish(dataset.arrays, users, manifest, evaluation_of(dataset), audited=True)
