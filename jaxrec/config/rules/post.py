"""Rules of post-training: the objective, its reward, and what the rewards of positions need."""

import math

from jaxrec.config.declarations import Post
from jaxrec.config.rules.codes import GENERATIVE
from jaxrec.config.schema import Config
from jaxrec.config.tree import among, require

PREFERENCE = "preference"
PAIRS = ("dpo", "ipo")  # objectives that learn from pairs, and read no reward
SHOWN = "wbc"  # objective that learns from what was shown
# Field -> the objectives that read it.
_READ_BY = {
    "baseline": ("exponential", "ppo"), "beta": ("exponential", *PAIRS), "clip": ("exponential",),
    "alpha": ("cql",), "tau": ("cql",), "ratio_clip": ("ppo",), "kappa": ("ppo",),
    "samples": ("ppo", *PAIRS), "refresh": ("ppo",), "eta": PAIRS, "rest": PAIRS, "candidates": PAIRS,
    "pair_users": PAIRS,
}  # fmt: skip


def check_post(config: Config) -> None:
    """Raise InputError for the first invalid field of `post`; all have their defaults for other tasks."""
    post, default = config.post, Post()
    if config.task.name == GENERATIVE and post.objective in PAIRS:
        _check_numbers(post)
        _check_generative(config)
        return
    if config.task.name != PREFERENCE:
        for name, value in vars(default).items():
            set_to = getattr(post, name)
            allowed = f"be {value!r} with task.name={config.task.name!r}: post is of the task {PREFERENCE!r}"
            require(set_to == value, f"post.{name}", set_to, allowed)
        return
    _check_numbers(post)
    _check_reward(config)
    _check_sequences(config)


def _check_numbers(post: Post) -> None:
    for name in ("beta", "clip", "alpha", "tau", "ratio_clip"):
        value = getattr(post, name)
        require(math.isfinite(value) and value > 0, f"post.{name}", value, "be a finite number above 0")
    for name in ("pessimism", "kappa", "eta", "rest"):
        value = getattr(post, name)
        require(0 <= value < math.inf, f"post.{name}", value, "be finite and at least 0")
    require(0 < post.pair_users <= 1, "post.pair_users", post.pair_users, "be above 0 and at most 1")
    require(post.ratio_clip < 1, "post.ratio_clip", post.ratio_clip, "be below 1")
    for name in ("samples", "refresh"):
        require(getattr(post, name) >= 1, f"post.{name}", getattr(post, name), "be at least 1")
    require(post.reward_models >= 0, "post.reward_models", post.reward_models, "be at least 0")


def _check_reward(config: Config) -> None:
    """Check the reward that the objective reads, and the models of it."""
    post, names = config.post, [reward.name for reward in config.rewards]
    if post.reward:
        require(bool(names), "post.reward", post.reward, "be empty: the config declares no reward")
        among("post.reward", post.reward, names)
    weighs = post.objective not in ("bc", *PAIRS)
    allowed = f"name a reward with post.objective={post.objective!r}"
    require(bool(post.reward) or not weighs, "post.reward", post.reward, allowed)
    allowed = "be 0 without post.reward: a reward model learns a reward"
    require(bool(post.reward) or not post.reward_models, "post.reward_models", post.reward_models, allowed)
    if post.objective in ("reward", SHOWN):
        low = next(reward.low for reward in config.rewards if reward.name == post.reward)
        allowed = f"be the name of a reward of low >= 0, not {low!r}: rewards are weights"
        require(low >= 0, "post.reward", post.reward, allowed)
    allowed = f"be above 0 with post.objective={SHOWN!r}: the objective learns from what was shown"
    require(post.objective != SHOWN or config.data.served > 0, "data.served", config.data.served, allowed)
    least = {"observed": 0, "model": 1, "ensemble": 2}[post.source]
    allowed = f"be at least {least} with post.source={post.source!r}"
    require(post.reward_models >= least, "post.reward_models", post.reward_models, allowed)
    allowed = f"be 'observed' with post.objective={post.objective!r}, which reads no reward"
    require(weighs or post.source == "observed", "post.source", post.source, allowed)
    _check_readers(post)
    _check_policies(config)


def _check_readers(post: Post) -> None:
    """Check that what only other objectives read has its default."""
    for name, readers in _READ_BY.items():
        value, default = getattr(post, name), getattr(Post(), name)
        reads = f"{readers[0]} reads" if len(readers) == 1 else f"{', '.join(readers)} read"
        allowed = f"be {default!r} with post.objective={post.objective!r}: only {reads} it"
        require(post.objective in readers or value == default, f"post.{name}", value, allowed)


def _check_policies(config: Config) -> None:
    """Check what objectives need that compare the policy with that of the start."""
    post, such = config.post, f"with post.objective={config.post.objective!r}"
    if post.objective == "exponential":
        allowed = f"be another {such}: 'group' is of draws, for ppo"
        require(post.baseline != "group", "post.baseline", post.baseline, allowed)
    if post.objective == "ppo":
        for key, value, wanted, why in (
            ("baseline", post.baseline, ("value", "group"), "draws have no other"),
            ("source", post.source, ("model", "ensemble"), "nobody rated the titles that are drawn"),
        ):
            require(value in wanted, f"post.{key}", value, f"be one of {', '.join(wanted)} {such}: {why}")
        least = f"be at least 2 {such} and post.baseline='group': one draw has no mean to exceed"
        require(post.baseline != "group" or post.samples > 1, "post.samples", post.samples, least)
    if post.objective == "ppo" or post.objective in PAIRS:
        allowed = f"be the run of a policy {such}: its parameters are the reference"
        require(bool(config.start.workdir), "start.workdir", config.start.workdir, allowed)


def _check_generative(config: Config) -> None:
    """Check the pairs of a generative model: they are of single titles, among its beams."""
    post, such = config.post, f"with task.name={GENERATIVE!r} and post.objective={config.post.objective!r}"
    _check_readers(post)
    for key, value, wanted, why in (
        ("codes.titles", config.codes.titles, 1, "a pair is of single titles"),
        ("post.candidates", post.candidates, "best", "a pair is of beams"),
        ("post.source", post.source, "observed", "the objective reads no reward"),
        ("post.reward", post.reward, "", "the objective reads no reward"),
        ("post.reward_models", post.reward_models, 0, "the model has none"),
        ("post.reward_gradient", post.reward_gradient, False, "the model has no reward models"),
        ("evaluate.checkpoint", config.evaluate.checkpoint, "last", "the best by NDCG imitates best"),
    ):
        require(value == wanted, key, value, f"be {wanted!r} {such}: {why}")
    _check_policies(config)


def _check_sequences(config: Config) -> None:
    """Check that a policy can be trained on the sequences, and that imitation does not choose it."""
    such = f"with task.name={PREFERENCE!r}"
    for key, value, wanted, why in (
        ("next_item.loss", config.next_item.loss, "softmax", "a policy has probabilities of all titles"),
        ("next_item.personalised", config.next_item.personalised, False, "rewards are the weights"),
        ("sampling.stochastic_length", config.sampling.stochastic_length, 0.0, "each position has a reward"),
    ):
        require(value == wanted, key, value, f"be {wanted!r} {such}: {why}")
    allowed = f"be 'new' or 'every' {such}: a policy does not choose a title that was played"
    require(config.data.targets != "any", "data.targets", config.data.targets, allowed)
    if config.post.objective != "bc":
        allowed = f"be 'last' with post.objective={config.post.objective!r}: the best by NDCG imitates best"
        require(
            config.evaluate.checkpoint == "last", "evaluate.checkpoint", config.evaluate.checkpoint, allowed
        )
