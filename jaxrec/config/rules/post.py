"""Rules of post-training: the objective, its reward, and what the rewards of positions need."""

import math

from jaxrec.config.declarations import Post
from jaxrec.config.schema import Config
from jaxrec.config.tree import among, require

PREFERENCE = "preference"
# Field -> the one objective that reads it.
_READ_BY = {
    "baseline": "exponential", "beta": "exponential", "clip": "exponential", "alpha": "cql", "tau": "cql",
}  # fmt: skip


def check_post(config: Config) -> None:
    """Raise InputError for the first invalid field of `post`; all have their defaults for other tasks."""
    post, default = config.post, Post()
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
    for name in ("beta", "clip", "alpha", "tau"):
        value = getattr(post, name)
        require(math.isfinite(value) and value > 0, f"post.{name}", value, "be a finite number above 0")
    require(0 <= post.pessimism < math.inf, "post.pessimism", post.pessimism, "be finite and at least 0")
    require(post.reward_models >= 0, "post.reward_models", post.reward_models, "be at least 0")


def _check_reward(config: Config) -> None:
    """Check the reward that the objective reads, and the models of it."""
    post, names = config.post, [reward.name for reward in config.rewards]
    if post.reward:
        require(bool(names), "post.reward", post.reward, "be empty: the config declares no reward")
        among("post.reward", post.reward, names)
    weighs = post.objective != "bc"
    allowed = f"name a reward with post.objective={post.objective!r}"
    require(bool(post.reward) or not weighs, "post.reward", post.reward, allowed)
    allowed = "be 0 without post.reward: a reward model learns a reward"
    require(bool(post.reward) or not post.reward_models, "post.reward_models", post.reward_models, allowed)
    if post.objective == "reward":
        low = next(reward.low for reward in config.rewards if reward.name == post.reward)
        allowed = f"be the name of a reward of low >= 0, not {low!r}: rewards are weights"
        require(low >= 0, "post.reward", post.reward, allowed)
    least = {"observed": 0, "model": 1, "ensemble": 2}[post.source]
    allowed = f"be at least {least} with post.source={post.source!r}"
    require(post.reward_models >= least, "post.reward_models", post.reward_models, allowed)
    allowed = f"be 'observed' with post.objective={post.objective!r}, which reads no reward"
    require(weighs or post.source == "observed", "post.source", post.source, allowed)
    for name, reader in _READ_BY.items():
        value, default = getattr(post, name), getattr(Post(), name)
        allowed = f"be {default!r} with post.objective={post.objective!r}: only {reader} reads it"
        require(post.objective == reader or value == default, f"post.{name}", value, allowed)


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
