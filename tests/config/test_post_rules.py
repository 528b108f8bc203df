"""Refusals of post-training: one line that names the key, the value and what is allowed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Post, Reward, Term
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.tasks.loading import build_task
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

ROOT = Path(__file__).resolve().parents[2]
POLICY = str(ROOT / "configs/policy.py")


def config_with(post, **values):
    config = load_config(f"{POLICY}:tiny")
    config.post = post
    for key, value in values.items():
        *parents, last = key.split("__")
        node = config
        for part in parents:
            node = getattr(node, part)
        setattr(node, last, value)
    return config


STARTED = {"start__workdir": "runs/bc"}
LOW = (Reward("stars", (Term("stars"),), base=-3.0, low=-2.0, high=2.0),)


@pytest.mark.parametrize(("post", "values", "text"), [
    (Post("dqo", "stars"), {}, "post.objective='dqo' must be one of bc, reward, exponential, cql, wbc, ppo"),
    (Post("ppo", "stars", "model", reward_models=1), {}, "start.workdir='' must be the run of a policy with"),
    (Post("dpo"), {}, "start.workdir='' must be the run of a policy with post.objective='dpo'"),
    (Post("ppo", "stars"), STARTED, "post.source='observed' must be one of model, ensemble with"),
    (Post("ppo", "stars", "model", "soft", reward_models=1), STARTED, "baseline='soft' must be one of value"),
    (Post("ppo", "stars", "model"), STARTED, "post.reward_models=0 must be at least 1 with post.source"),
    (Post("ppo", "", "model", reward_models=1), STARTED, "post.reward='' must name a reward with"),
    (Post("ppo", "stars", "model", "group", reward_models=1, samples=1), STARTED, "post.samples=1 must be"),
    (Post("ppo", "stars", "model", reward_models=1, samples=0), STARTED, "post.samples=0 must be at least 1"),
    (Post("ppo", "stars", "model", reward_models=1, refresh=0), STARTED, "post.refresh=0 must be at least 1"),
    (Post("ppo", "stars", "model", reward_models=1, kappa=-0.1), STARTED, "post.kappa=-0.1 must be finite"),
    (Post("ppo", "stars", "model", reward_models=1, ratio_clip=1.0), STARTED, "post.ratio_clip=1.0 must"),
    (Post("ppo", "stars", "model", reward_models=1, eta=0.5), STARTED, "post.eta=0.5 must be 0.1 with post"),
    (Post("exponential", "stars", baseline="group"), {}, "post.baseline='group' must be another with"),
    (Post("exponential", "stars", samples=9), {}, "post.samples=9 must be 4 with post.objective='expo"),
    (Post("dpo", beta=-0.1), STARTED, "post.beta=-0.1 must be a finite number above 0"),
    (Post("ipo", eta=-1.0), STARTED, "post.eta=-1.0 must be finite and at least 0"),
    (Post("dpo", "stars", "model", reward_models=1), STARTED, "post.source='model' must be 'observed' with"),
    (Post("ppo", "stars", "model", reward_models=1, samples=999), STARTED, "post.samples=999 must be at"),
    (Post("cql", "stars", alpha=-1.0), {}, "post.alpha=-1.0 must be a finite number above 0"),
    (Post("cql", "stars", tau=0.0), {}, "post.tau=0.0 must be a finite number above 0"),
    (Post("cql", "stars", beta=1.0), {}, "with post.objective='cql': only exponential, dpo, ipo read it"),
    (Post("exponential", "stars", tau=2.0), {}, "post.tau=2.0 must be 1.0 with post.objective='exponential'"),
    (Post("exponential", "stars", beta=0.0), {}, "post.beta=0.0 must be a finite number above 0"),
    (Post("exponential", "stars", beta=-1.0), {}, "post.beta=-1.0 must be a finite number above 0"),
    (Post("exponential", "stars", clip=0.0), {}, "post.clip=0.0 must be a finite number above 0"),
    (Post("exponential", "joy"), {}, "post.reward='joy' must be one of stars"),
    (Post("exponential", "stars"), {"rewards": ()}, "post.reward='stars' must be empty: the config declares"),
    (Post("exponential"), {}, "post.reward='' must name a reward with post.objective='exponential'"),
    (Post("reward", "stars"), {"rewards": LOW}, "post.reward='stars' must be the name of a reward of low"),
    (Post(reward_models=2), {}, "post.reward_models=2 must be 0 without post.reward"),
    (Post("exponential", "stars", "model"), {}, "post.reward_models=0 must be at least 1 with post"),
    (Post("exponential", "stars", "ensemble", reward_models=1), {}, "reward_models=1 must be at least 2"),
    (Post("bc", "stars", "model", reward_models=1), {}, "post.source='model' must be 'observed' with"),
    (Post("reward", "stars", beta=1.0), {}, "post.beta=1.0 must be 0.5 with post.objective='reward'"),
    (Post("bc", "stars", baseline="zero"), {}, "post.baseline='zero' must be 'value' with post"),
    (Post("exponential", "stars", pessimism=-1.0), {}, "post.pessimism=-1.0 must be finite and at least 0"),
    (Post("exponential", "stars", reward_models=2**9), {}, "post.reward_models=512 must be at most 256"),
    (Post("exponential", "stars"), {"evaluate__checkpoint": "best"}, "evaluate.checkpoint='best' must"),
    (Post("exponential", "stars"), {"next_item__loss": "bce"}, "next_item.loss='bce' must be 'softmax' with"),
    (Post("exponential", "stars"), {"next_item__personalised": True}, "next_item.personalised=True must be"),
    (Post("bc"), {"sampling__stochastic_length": 1.5}, "sampling.stochastic_length=1.5 must be 0.0 with"),
    (Post("wbc", "stars"), {}, "data.served=0 must be above 0 with post.objective='wbc'"),
    (Post("wbc"), {}, "post.reward='' must name a reward with post.objective='wbc'"),
    (Post("bc"), {"data__targets": "any"}, "data.targets='any' must be 'new' or 'every' with task.name='pre"),
    (Post("bc", "stars"), {"task__name": "next_item"}, "post.reward='stars' must be '' with task"),
    (Post("exponential"), {"task__name": "next_item"}, "post.objective='exponential' must be 'bc' with task"),
])  # fmt: skip
def test_a_wrong_post_is_one_line(post, values, text):
    with pytest.raises(InputError) as caught:
        check(config_with(post, **values))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_objective_of_the_config_passes_and_has_the_dataset_of_its_start():
    small = load_config(f"{POLICY}:small")
    for name in ("bc", "reward", "exp_rsft", "asft", "cql", "ppo", "ppo_kl", "grpo", "dpo", "ipo"):
        config = load_config(f"{POLICY}:{name}")
        check(config)
        assert digest(config) == digest(small)
    for name in ("wbc", "composite", "kuairand"):  # other rows, labels and plays
        config = load_config(f"{POLICY}:{name}")
        if name == "kuairand":  # the directory is that of the machine
            config.source.directory = "D"
        check(config)
    imitation = config_with(Post(), evaluate__checkpoint="best")
    check(imitation)  # the best imitation may be chosen by NDCG


@pytest.mark.parametrize("name", ["small", pytest.param("asft", marks=pytest.mark.slow)])
def test_a_policy_step_traces_at_full_size(name):
    config = load_config(f"{POLICY}:{name}")
    feature = FeatureSpec("title_id", "category", "title", 48, 1002)
    layout = Layout(1002, 16, 1, (0, 0, 0, 0), 0, (feature,), "next_item", ("stars",))
    task = build_task(config, layout, 0.5, 10, 100)
    state, size = StateInit(task).abstract(), config.train.batch_size
    words = jax.ShapeDtypeStruct((size, layout.row_dtype().itemsize // 4), jnp.uint32)
    host = HostBatch(words, jax.ShapeDtypeStruct((size,), jnp.bool_))
    table = empty_table(task.layout, task.config)
    step = jax.make_jaxpr(TrainStep(task), axis_env=[(AXIS, 1)], return_shape=True)
    after, sums = step(state, host, table)[1]
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert {"loss", "nll", "reward", "weight", "effective_share", "clipped"} <= set(sums)
    heads = {"reward_0", "reward_3"} if name == "small" else {"value"}
    assert heads <= set(state.params)
