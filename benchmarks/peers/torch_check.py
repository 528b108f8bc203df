"""Check that `torch_smoe` with our parameters equals our model.

Outputs, gradients and one update are compared. A comparison of speed is meaningless where they differ, so
both the benchmark and a test run the check first.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.torch_smoe import Examples, Features, Smoe, Trainer, tensor
from jaxrec.core.batch import Batch, TitleTable
from jaxrec.core.ids import TITLE_ID
from jaxrec.losses import ranking
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import optimizer

Tree = dict[str, Any]
LARGEST_DIFFERENCE = {"outputs": 1e-5, "gradients": 1e-4, "update": 1e-3}


def convert(model: Smoe, tree: Tree) -> dict[str, Tensor]:
    """Return our parameters, or gradients, under the peer's names and in its shapes.

    Embedding rows of padding are zero, and so is the bias of keys, which jaxrec does not have.

    Raises:
        ValueError: A parameter of either model has no counterpart.
    """
    ours = {"/".join(path): np.array(x) for path, x in flatten(tree)}
    out: dict[str, np.ndarray] = {}

    def dense(name: str, kernel: str, bias: str = "") -> None:
        x = ours.pop(kernel)
        out[f"{name}.weight"] = x.T if x.ndim == 2 else x[None]
        if bias:
            out[f"{name}.bias"] = ours.pop(bias).reshape(-1)

    def columns(name: str, module: Features, prefix: str) -> None:
        for i, f in enumerate(module.features):
            path = f"title/{TITLE_ID}" if (name, f.name) == ("title", TITLE_ID) else f"{prefix}/{f.name}"
            if f.kind == "number":
                dense(f"{name}.parts.{i}", f"{path}/kernel", f"{path}/bias")
            else:
                out[f"{name}.parts.{i}.weight"] = x = ours.pop(f"{path}/embedding")
                x[0] = 0.0

    columns("title", model.title, "title/columns")
    columns("user", model.user, "user")
    columns("context", model.context, "context")
    columns("interaction", model.interaction, "history")
    dense("input", "history/kernel", "history/bias")
    out["position"] = ours.pop("history/position")
    expert: Any  # mypy types a module's attributes as Tensor | Module
    for e, expert in enumerate(model.experts):
        path = f"expert_{e}"
        norms = [("norm", "norm")]
        for i in range(len(expert.blocks)):
            peer_name, our_name = f"experts.{e}.blocks.{i}", f"{path}/encoder/block_{i}"
            norms += [(f"blocks.{i}.{n}_norm", f"block_{i}/{n}_norm") for n in ("attention", "feedforward")]
            dense(f"{peer_name}.qkv", f"{our_name}/attention/kernel")
            query, value = (ours.pop(f"{our_name}/attention/{n}_bias") for n in ("query", "value"))
            out[f"{peer_name}.qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
            dense(
                f"{peer_name}.attention_out",
                f"{our_name}/attention/out/kernel",
                f"{our_name}/attention/out/bias",
            )
            for name in ("hidden", "out"):
                dense(f"{peer_name}.{name}", f"{our_name}/{name}/kernel", f"{our_name}/{name}/bias")
        for peer_name, our_name in norms:
            out[f"experts.{e}.{peer_name}.weight"] = ours.pop(f"{path}/encoder/{our_name}/scale")
            out[f"experts.{e}.{peer_name}.bias"] = ours.pop(f"{path}/encoder/{our_name}/bias")
        dense(f"experts.{e}.pool", f"{path}/pool/attention")
        out[f"experts.{e}.empty"] = ours.pop(f"{path}/pool/empty")
    if model.gate is not None:
        last = (len(model.gate) - 1) // 2
        for i in range(last + 1):
            path = "gate/mlp/" + (f"hidden_{i}" if i < last else "out")
            dense(f"gate.{2 * i}", f"{path}/kernel", f"{path}/bias")
    if model.has_product:
        dense("product_user", "product/user")
        dense("product_title", "product/title")
    head: Any
    for task, head in model.heads.items():
        ends = ["", *(f"_{i}" for i in range(1, (len(head) - 1) // 2)), "_out"]
        for i, end in enumerate(ends):
            bias = "" if end == "_out" and task == "ranking" else f"matcher_{task}/bias{end}"
            dense(f"heads.{task}.{2 * i}", f"matcher_{task}/kernel{end}", bias)
    theirs = {name for name, _ in model.named_parameters()}
    if ours or theirs != set(out):
        raise ValueError(f"no counterpart: of ours {sorted(ours)}, of the peer's {sorted(theirs ^ set(out))}")
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in out.items()}


def flatten(tree: Tree, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return (path, array) of each leaf of nested dicts."""
    leaves = []
    for name, x in tree.items():
        leaves += flatten(x, (*path, name)) if isinstance(x, dict) else [((*path, name), x)]
    return leaves


def load(model: Smoe, params: Tree) -> None:
    """Load our parameters into the model."""
    model.load_state_dict(convert(model, params), strict=True)


def perturb(params: Tree) -> Tree:
    """Return parameters with noise added, as after some training.

    No bias stays zero: a zero bias would hide an error in the mapping of the biases.
    """
    r = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.05) * r.standard_normal(x.shape, "f4"), params)


def check(
    program: RankingTask, params: Tree, batch: Batch, peer_batch: Examples, table: TitleTable
) -> dict[str, float]:
    """Compare the two models and return their largest differences.

    Both run in float32, from perturbed `params`, without dropout or gate noise.

    Args:
        program: Our task.
        params: Our parameters, before the perturbation.
        batch: Batch for our model.
        peer_batch: The same batch in the peer's form.
        table: Features of the titles.

    Returns:
        "outputs": the largest difference of the loss, a gate weight or the score of an existing candidate;
        at most 1e-5. "gradients": the largest difference in an array relative to the array's largest entry,
        over all arrays; at most 1e-4. "update": the largest difference of a parameter after one update from
        equal gradients, relative to the learning rate; at most 1e-3.

    Raises:
        ValueError: A difference is too large, so that a comparison of speed is meaningless.
    """
    config = copy.deepcopy(program.config)
    config.model.dtype = "float32"
    program, params = replace(program, config=config), perturb(params)
    batch = jax.tree.map(jnp.asarray, batch)
    tau, K = config.model.gate.start_temperature, batch.positive.shape[1]
    candidates = jnp.concatenate([batch.positive, batch.negative], 1)

    def ours(p: Tree) -> tuple[Any, Any]:
        out = program.model.apply({"params": p}, batch.history, candidates, table, tau, None, K)
        total, _ = ranking.objective(
            out, batch, config.objective, config.sampling, program.threshold, config.model.gate.target_entropy
        )
        return total / batch.valid.sum(), out

    @jax.jit
    def update(p: Tree, grads: Tree) -> Tree:
        tx = optimizer.make(config.optimizer)
        updates, _ = tx.update(grads, tx.init(p), p, value=jnp.float32(0), fresh=jnp.bool_(False))
        return optimizer.apply(p, updates)

    with jax.default_matmul_precision("highest"):
        (loss, out), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)

    model = Smoe(config, program.layout, table).eval()
    load(model, params)
    trainer = Trainer(model, config, program.threshold)
    candidate = torch.cat([peer_batch.positive, peer_batch.negative], 1)
    with torch.no_grad():
        theirs = model(peer_batch.history, candidate, torch.tensor(tau), K)
    peer_loss = trainer.loss(peer_batch, torch.tensor(tau))
    peer_loss.backward()
    pairs = [(peer_loss.detach(), loss), (theirs.gate, out.gate_BxE)]
    for task, score in theirs.scores.items():
        exists = candidate[:, : score.shape[1]] > 0
        pairs.append((score[exists], np.asarray(out.scores[task])[exists.numpy()]))
    differences = {"outputs": _largest((a - tensor(b)).abs().max() for a, b in pairs)}
    peer_gradients, peer_params = convert(model, grads), dict(model.named_parameters())
    differences["gradients"] = _largest(
        _relative_difference(p.grad, peer_gradients[n]) for n, p in peer_params.items()
    )
    for name, p in peer_params.items():
        p.grad = peer_gradients[name]
    trainer.optimizer.step()
    updated = convert(model, update(params, grads))
    rate = config.optimizer.learning_rate
    differences["update"] = _largest(
        (p.detach() - updated[n]).abs().max() / rate for n, p in peer_params.items()
    )
    for name, allowed in LARGEST_DIFFERENCE.items():
        if not differences[name] <= allowed:
            raise ValueError(
                f"the models differ: {name} by {differences[name]:.3g}; allowed: at most {allowed:g}"
            )
    return differences


def _relative_difference(theirs: Tensor | None, ours: Tensor) -> Tensor:
    """Return the largest difference relative to our largest entry.

    An array of zeros must be zero in both models.
    """
    assert theirs is not None
    return (theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-12)


def _largest(values: Iterable[Tensor]) -> float:
    """Return the largest value, or NaN where a value is NaN, which `max` would ignore."""
    return float(np.max([x.item() for x in values]))
