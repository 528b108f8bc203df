"""The PyTorch peer with our parameters equals our model; its speed is comparable."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="the peer needs torch: pip install jaxrec[peers]")

import torch

from benchmarks.peers import torch_check, torch_smoe
from jaxrec.config.schema import Expert, Gate
from jaxrec.config.validation import mix_counts
from jaxrec.data.loading.batches import TrainBatches
from jaxrec.models.layers import rng
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit


def program_of(dataset, config) -> RankingTask:
    return RankingTask(config, dataset.layout, dataset.manifest["completion_threshold"], 10, 100)


def batch_of(dataset, program):
    """Return rows with short, full and empty histories, the last two rows not valid."""
    host = TrainBatches(dataset.rows("train"), 64, 0, 1)[0]
    s = program.config.sampling
    counts = mix_counts(s.mix, s.negatives)
    key = rng.row_keys(0, 0, jnp.arange(64))
    valid = jnp.arange(64) < 62
    batch = ranking_inputs.training(
        jnp.asarray(host.words), valid, program.view, counts, s.next_k, jnp.int32(0), key
    )
    length = np.asarray((batch.history.title > 0).sum(1))
    assert length.min() == 0 and length.max() == 8
    return batch


def differences_of(dataset, config):
    program = program_of(dataset, config)
    batch = batch_of(dataset, program)
    peer_batch, table = torch_smoe.examples(batch), dataset.arrays.title_table()
    return torch_check.check(program, StateInit(program).init().params, batch, peer_batch, table)


def table_3(config):
    """Return Table 3's model for the tiny dataset's features and history."""
    experts = (Expert(max_len=7, mlp_ratio=1.0), Expert(max_len=8, mlp_ratio=2.0))
    model = replace(config.model, width=96, experts=experts, gate=Gate(), matcher=(128, 64))
    return replace(config, model=model)


def test_peer_with_our_parameters_equals_our_model(tiny, tiny_config):
    differences = differences_of(tiny, table_3(tiny_config))
    assert differences["outputs"] <= 1e-5
    assert differences["gradients"] <= 1e-4  # of each array's largest entry
    assert differences["update"] <= 1e-3  # of the learning rate


def test_peer_equals_our_model_for_other_configs(tiny, tiny_config):
    bst = replace(
        tiny_config,
        model=replace(tiny_config.model, experts=(Expert(8, 1, 2, 1.5, 0.1),), matcher_product=False),
        objective=replace(tiny_config.objective, ranking=0.0, regression=0.0, soft_on="all"),
        optimizer=replace(tiny_config.optimizer, weight_decay_mode="coupled"),
        sampling=replace(tiny_config.sampling, next_k=3),
    )
    differences_of(tiny, bst)
    differences_of(tiny, replace(tiny_config, objective=replace(tiny_config.objective, personalised=False)))


def test_different_models_are_rejected(tiny, tiny_config, monkeypatch):
    objective, optimizer = torch_smoe.objective, torch_smoe._optimizer

    def steeper(*arguments):
        value = objective(*arguments)
        return 1.01 * value - 0.01 * value.detach()

    def without_decay(model, o):
        return optimizer(model, replace(o, weight_decay=0.0))

    wrong = {
        "outputs": (torch_check, "load", lambda model, params: None),
        "gradients": (torch_smoe, "objective", steeper),
        "update": (torch_smoe, "_optimizer", without_decay),
    }
    for figure, (module, name, replacement) in wrong.items():
        with monkeypatch.context() as m, pytest.raises(ValueError, match=f"models differ: {figure} by"):
            m.setattr(module, name, replacement)
            differences_of(tiny, tiny_config)


def test_every_parameter_has_a_counterpart(tiny, tiny_config):
    program = program_of(tiny, tiny_config)
    model = torch_smoe.Smoe(tiny_config, tiny.layout, tiny.arrays.title_table())
    with pytest.raises(ValueError, match=r"no counterpart: of ours \['spare/kernel'\]"):
        torch_check.load(model, {**StateInit(program).init().params, "spare": {"kernel": np.ones(1)}})


def test_training_lowers_the_loss_with_new_draws_each_time(tiny, tiny_config):
    program = program_of(tiny, tiny_config)
    torch.manual_seed(0)
    model = torch_smoe.Smoe(tiny_config, tiny.layout, tiny.arrays.title_table())
    torch_check.load(model, StateInit(program).init().params)
    trainer = torch_smoe.Trainer(model, tiny_config, program.threshold)
    batch, tau = torch_smoe.examples(batch_of(tiny, program)), torch.tensor(1.0)
    candidate = torch.cat([batch.positive, batch.negative], 1)
    one, two = (model(batch.history, candidate, tau, 1) for _ in range(2))
    assert not torch.equal(one.clean_gate, two.clean_gate)  # dropout
    assert (one.gate - one.clean_gate).abs().min() > 0  # noise
    losses = [trainer.step(batch, tau).item() for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]
