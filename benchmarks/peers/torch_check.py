"""Whether `torch_smoe` loaded with our parameters is our function: outputs, gradients, one update.

Where it is not, a comparison of speed says nothing, so the benchmark asks first, as a test does.
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
MOST_APART = {"outputs": 1e-5, "gradients": 1e-4, "update": 1e-3}


def converted(model: Smoe, tree: Tree) -> dict[str, Tensor]:
    """Our parameters, or gradients in their shape, under the model's names and in its shapes.

    Padding's rows of embeddings, and the keys' bias that we do not have, are zero. Raises ValueError
    where a name of either is left over.
    """
    ours = {"/".join(path): np.array(x) for path, x in flatten(tree)}
    out: dict[str, np.ndarray] = {}

    def dense(name: str, kernel: str, bias: str = "") -> None:
        x = ours.pop(kernel)
        out[f"{name}.weight"] = x.T if x.ndim == 2 else x[None]
        if bias:
            out[f"{name}.bias"] = ours.pop(bias).reshape(-1)

    def columns(name: str, part: Features, place: str) -> None:
        for i, f in enumerate(part.features):
            at = f"title/{TITLE_ID}" if (name, f.name) == ("title", TITLE_ID) else f"{place}/{f.name}"
            if f.kind == "number":
                dense(f"{name}.parts.{i}", f"{at}/kernel", f"{at}/bias")
            else:
                out[f"{name}.parts.{i}.weight"] = x = ours.pop(f"{at}/embedding")
                x[0] = 0.0

    columns("title", model.title, "title/columns")
    columns("user", model.user, "user")
    columns("context", model.context, "context")
    columns("interaction", model.interaction, "history")
    dense("input", "history/kernel", "history/bias")
    out["position"] = ours.pop("history/position")
    expert: Any  # mypy knows a module's attributes as Tensor | Module
    for e, expert in enumerate(model.experts):
        at = f"expert_{e}"
        norms = [("norm", "norm")]
        for i in range(len(expert.blocks)):
            to, of = f"experts.{e}.blocks.{i}", f"{at}/encoder/block_{i}"
            norms += [(f"blocks.{i}.{n}_norm", f"block_{i}/{n}_norm") for n in ("attention", "feedforward")]
            dense(f"{to}.qkv", f"{of}/attention/kernel")
            query, value = (ours.pop(f"{of}/attention/{n}_bias") for n in ("query", "value"))
            out[f"{to}.qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
            dense(f"{to}.attention_out", f"{of}/attention/out/kernel", f"{of}/attention/out/bias")
            for name in ("hidden", "out"):
                dense(f"{to}.{name}", f"{of}/{name}/kernel", f"{of}/{name}/bias")
        for to, of in norms:
            out[f"experts.{e}.{to}.weight"] = ours.pop(f"{at}/encoder/{of}/scale")
            out[f"experts.{e}.{to}.bias"] = ours.pop(f"{at}/encoder/{of}/bias")
        dense(f"experts.{e}.pool", f"{at}/pool/attention")
        out[f"experts.{e}.empty"] = ours.pop(f"{at}/pool/empty")
    if model.gate is not None:
        last = (len(model.gate) - 1) // 2
        for i in range(last + 1):
            at = "gate/mlp/" + (f"hidden_{i}" if i < last else "out")
            dense(f"gate.{2 * i}", f"{at}/kernel", f"{at}/bias")
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
        raise ValueError(f"left over: of ours {sorted(ours)}, of the peer's {sorted(theirs ^ set(out))}")
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in out.items()}


def flatten(tree: Tree, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(path, array) of each leaf of nested dicts."""
    found = []
    for name, x in tree.items():
        found += flatten(x, (*path, name)) if isinstance(x, dict) else [((*path, name), x)]
    return found


def load(model: Smoe, params: Tree) -> None:
    """Gives the model our parameters."""
    model.load_state_dict(converted(model, params), strict=True)


def shaken(params: Tree) -> Tree:
    """Parameters as after some training: no bias is zero, which would hide one that stands elsewhere."""
    r = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.05) * r.standard_normal(x.shape, "f4"), params)


def check(
    program: RankingTask, params: Tree, batch: Batch, given: Examples, table: TitleTable
) -> dict[str, float]:
    """How far the two are from being the same function; raises ValueError where a comparison is void.

    In float32, from `params` shaken, without dropout or noise; `given` is `batch` in the peer's form.
    "outputs": the largest difference of the loss, a gate or a score of a candidate that exists; at most
    1e-5. "gradients": of each array the largest difference as a share of its largest entry, in the worst
    array; at most 1e-4. "update": the largest difference of a parameter after one update from equal
    gradients, as a share of the rate; at most 1e-3.
    """
    config = copy.deepcopy(program.config)
    config.model.dtype = "float32"
    program, params = replace(program, config=config), shaken(params)
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
    candidate = torch.cat([given.positive, given.negative], 1)
    with torch.no_grad():
        theirs = model(given.history, candidate, torch.tensor(tau), K)
    peer_loss = trainer.loss(given, torch.tensor(tau))
    peer_loss.backward()
    apart = [(peer_loss.detach(), loss), (theirs.gate, out.gate_BxE)]
    for task, score in theirs.scores.items():
        exists = candidate[:, : score.shape[1]] > 0
        apart.append((score[exists], np.asarray(out.scores[task])[exists.numpy()]))
    found = {"outputs": _most((a - tensor(b)).abs().max() for a, b in apart)}
    slopes, own = converted(model, grads), dict(model.named_parameters())
    found["gradients"] = _most(_share(p.grad, slopes[n]) for n, p in own.items())
    for name, p in own.items():
        p.grad = slopes[name]
    trainer.optimizer.step()
    moved = converted(model, update(params, grads))
    rate = config.optimizer.learning_rate
    found["update"] = _most((p.detach() - moved[n]).abs().max() / rate for n, p in own.items())
    for name, most in MOST_APART.items():
        if not found[name] <= most:
            raise ValueError(
                f"the comparison is void: {name} differ by {found[name]:.3g}, more than {most:g}"
            )
    return found


def _share(theirs: Tensor | None, ours: Tensor) -> Tensor:
    """The largest difference as a share of our largest entry; what is all zero must be so in both."""
    assert theirs is not None
    return (theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-12)


def _most(found: Iterable[Tensor]) -> float:
    """The largest; NaN where there is one, which `max` would lose."""
    return float(np.max([x.item() for x in found]))
