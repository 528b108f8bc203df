"""The recommender in PyTorch, as a PyTorch user would write it: what `benchmarks.step` measures us beside.

Padded histories, `nn.Embedding`, one linear layer for query, key and value, fused attention, the
matchers on the concatenation of user, title and product, and a fused AdamW. The fields are the config's
and the dataset's own, so any config can be compared. `benchmarks.peers.torch_check` loads our
parameters into it and holds the two to be the same function.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxrec.config.schema import Config, Objective, Optimizer, Sampling
from jaxrec.core.batch import Batch, TitleTable
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import FeatureSpec, Layout

TASKS = ("ctr", "ranking", "completion")


class Requests(NamedTuple):
    """Right-aligned histories [B, L], 0 where there is no title, and the ids and numbers of each request."""

    title: Any
    completion: Any
    sessions: Any
    age: Any
    user_categories: Any
    user_numbers: Any
    context_categories: Any
    context_numbers: Any


class Examples(NamedTuple):
    """A training batch; the fields of jaxrec.schema.Batch with a history a row."""

    history: Requests
    positive: Any  # [B, K] title ids, 0 where absent
    completion: Any  # [B, K]
    negative: Any  # [B, N]
    hard: Any  # [B, N] bool
    valid: Any  # [B] bool


def examples(batch: Batch) -> Examples:
    """Our batch, with a history a row, as the peer's, on the host; whole numbers become int64."""
    history = Requests(*(tensor(getattr(batch.history, name)) for name in Requests._fields))
    return Examples(history, *(tensor(getattr(batch, name)) for name in Examples._fields[1:]))


def tensor(x: Any) -> Tensor:
    found = torch.from_numpy(np.array(x))
    return found if found.dtype in (torch.bool, torch.float32) else found.long()


def moved(batch: Examples, device: str) -> Examples:
    """On a device."""
    return Examples(Requests(*(x.to(device) for x in batch.history)), *(x.to(device) for x in batch[1:]))


class Features(nn.Module):
    """The vectors of a place's features, concatenated: ids [..., c] and numbers [..., n] to [..., width]."""

    def __init__(self, features: tuple[FeatureSpec, ...]):
        super().__init__()
        self.features = features
        self.width = sum(f.width for f in features)
        self.parts = nn.ModuleList(
            nn.Linear(f.columns, f.width)
            if f.kind == "number"
            else nn.EmbeddingBag(f.size, f.width, mode="mean", padding_idx=0)
            if f.columns > 1
            else nn.Embedding(f.size, f.width, padding_idx=0)
            for f in features
        )

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        out, i, n = [numbers[..., :0]], 0, 0
        for f, part in zip(self.features, self.parts, strict=True):
            if f.kind == "number":
                out.append(F.relu(part(numbers[..., n : n + f.columns])))
                n += f.columns
                continue
            own = ids[..., i : i + f.columns]
            i += f.columns
            if f.columns == 1:
                out.append(part(own.squeeze(-1)))
            else:
                out.append(part(own.reshape(-1, f.columns)).view(*ids.shape[:-1], f.width))
        return torch.cat(out, -1)


class Block(nn.Module):
    """A pre-norm transformer block over padded sequences."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=1e-6)
        self.hidden = nn.Linear(width, feedforward)
        self.out = nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, L, D = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(B, L, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, D / heads]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.attention_out(y.transpose(1, 2).reshape(B, L, D)))
        return x + self.dropout(self.out(F.relu(self.hidden(self.feedforward_norm(x)))))


class Expert(nn.Module):
    """Transformer blocks over the last `window` titles, then attention pooling: [B, L, D] to [B, D]."""

    def __init__(self, width: int, window: int, layers: int, heads: int, feedforward: float, dropout: float):
        super().__init__()
        self.window = window
        hidden = round(feedforward * width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pool = nn.Linear(width, 1, bias=False)
        self.empty = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x, valid = x[:, -self.window :], valid[:, -self.window :]
        some = valid.any(1, keepdim=True)
        mask = (valid | ~some)[:, None, None]  # a history of padding alone attends to it, to stay finite
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        alpha = self.pool(x).squeeze(-1).masked_fill(~valid, -1e9).softmax(1)
        return torch.where(some, (alpha.unsqueeze(-1) * x).sum(1), self.empty)


def mlp(sizes: list[int], last_bias: bool = True) -> nn.Sequential:
    """Linear layers of `sizes` with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=last_bias))


class Outputs(NamedTuple):
    """ "ctr" (logits) and "ranking" [B, C], "completion" [B, positives]; the gate with noise and without."""

    scores: dict[str, Tensor]
    gate: Tensor
    clean_gate: Tensor


def _title_features(layout: Layout, categories: Tensor) -> tuple[Features, Tensor]:
    """The titles' features, and their ids [V, columns]: a title's own id is the first, where it is one."""
    specs = sorted(layout.of("title"), key=lambda f: f.name != TITLE_ID)
    if specs and specs[0].name == TITLE_ID:
        specs[0] = replace(specs[0], size=layout.titles, columns=1)
        categories = torch.cat([torch.arange(layout.titles)[:, None], categories.long()], 1)
    return Features(tuple(specs)), categories


class Smoe(nn.Module):
    """BST, V-MoE or S-MoE by the config, for a dataset of `layout` whose titles have the features `table`."""

    categories: Tensor
    numbers: Tensor

    def __init__(self, config: Config, layout: Layout, table: TitleTable):
        super().__init__()
        m, o = config.model, config.objective
        self.title, categories = _title_features(layout, torch.as_tensor(table.categories))
        self.user, self.context = Features(layout.of("user")), Features(layout.of("context"))
        self.interactions = tuple(f.name for f in layout.of("interaction"))
        self.interaction = Features(layout.of("interaction"))
        self.register_buffer("categories", categories, persistent=False)
        self.register_buffer("numbers", torch.as_tensor(table.numbers), persistent=False)
        title = self.title.width
        self.longest = max(e.window for e in m.experts)
        self.input = nn.Linear(title + self.interaction.width + self.context.width, m.width)
        self.position = nn.Parameter(torch.zeros(self.longest, m.width))
        self.dropout = nn.Dropout(m.dropout)
        self.experts = nn.ModuleList(
            Expert(m.width, e.window, e.layers, e.heads, e.feedforward, e.dropout) for e in m.experts
        )
        E = len(m.experts)
        self.noise = m.gate.noise
        self.gate = mlp([self.user.width + E * m.width, *m.gate.hidden, E]) if E > 1 else None
        user, product = m.width + self.user.width + self.context.width, m.matcher[-1]
        self.has_product = m.matcher_product
        if self.has_product:
            self.product_user = nn.Linear(user, product, bias=False)
            self.product_title = nn.Linear(title, product, bias=False)
        wanted = dict(zip(TASKS, (o.ctr, o.ranking, o.regression), strict=True))
        sizes = [user + title + (product if self.has_product else 0), *m.matcher, 1]
        self.heads = nn.ModuleDict(
            {task: mlp(sizes, task != "ranking") for task, weight in wanted.items() if weight > 0}
        )

    def titles(self, ids: Tensor) -> Tensor:
        """Title vectors [..., F]; what stands for id 0 is masked by who asks."""
        return self.title(self.categories[ids], self.numbers[ids])

    def rows(self, history: Requests, titles: Tensor, context: Tensor) -> Tensor:
        """The experts' input [B, L, D]."""
        B, L = history.title.shape
        scaled = {
            "completion": 2.0 * history.completion - 1.0,
            "sessions": torch.log1p(history.sessions) - 1.0,
            "age": (history.age - 12.0) / 4.0,
        }
        numbers = [scaled[name] for name in self.interactions]
        stacked = torch.stack(numbers, -1) if numbers else titles[..., :0]
        x = torch.cat(
            [titles, self.interaction(history.title[..., None], stacked), context[:, None].expand(B, L, -1)],
            -1,
        )
        x = self.input(x) + self.position[:L].flip(0)  # positions count from the newest
        return x.masked_fill((history.title == 0).unsqueeze(-1), 0.0)

    def forward(self, history: Requests, candidate: Tensor, temperature: Tensor, positives: int) -> Outputs:
        """Scores of candidates [B, C], of which completion is wanted for the first `positives`."""
        history = Requests._make([x[:, -self.longest :] for x in history[:4]] + list(history[4:]))
        L = history.title.shape[1]
        titles = self.titles(torch.cat([history.title, candidate], 1))  # one look-up for both
        customer = self.user(history.user_categories, history.user_numbers)
        context = self.context(history.context_categories, history.context_numbers)
        x = self.dropout(self.rows(history, titles[:, :L], context))
        pooled = [expert(x, history.title > 0) for expert in self.experts]
        if self.gate is None:
            gate = clean = torch.ones_like(pooled[0][:, :1])
            mixture = pooled[0]
        else:
            z = self.gate(torch.cat([customer, *pooled], -1)).float()
            gate = clean = (z / temperature).softmax(-1)
            if self.training and self.noise:
                gate = ((z + self.noise * torch.randn_like(z)) / temperature).softmax(-1)
            mixture = (gate.unsqueeze(-1) * torch.stack(pooled, 1)).sum(1)
        user = torch.cat([mixture, customer, context], -1)
        return Outputs(self.score(user, titles[:, L:], positives), gate, clean)

    def score(self, user: Tensor, titles: Tensor, positives: int) -> dict[str, Tensor]:
        B, C, _ = titles.shape
        parts = [user[:, None].expand(B, C, -1), titles]
        if self.has_product:
            parts.append(self.product_user(user)[:, None] * self.product_title(titles))
        pairs = torch.cat(parts, -1)
        scores = {}
        for task, head in self.heads.items():
            s = head(pairs[:, :positives] if task == "completion" else pairs).squeeze(-1).float()
            scores[task] = s.sigmoid() if task == "completion" else s
        return scores


# ---------------------------------------------------------------- the objective


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the last axis of x where mask; 0 where there is nothing."""
    return x.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def objective(
    out: Outputs, batch: Examples, o: Objective, sampling: Sampling, threshold: float, target: float | None
) -> Tensor:
    """Eq. 15, the mean over valid examples."""
    K = batch.positive.shape[1]
    present, exists = batch.positive > 0, batch.negative > 0
    label = out.clean_gate.new_tensor(sampling.labels[:K])
    weight = torch.ones_like(batch.completion)
    if o.personalised:
        weight = (1.0 + o.alpha * (batch.completion - threshold)).clamp(min=0.0)
    total = torch.zeros_like(batch.completion[:, 0])
    if o.ctr:
        positive, negative = out.scores["ctr"].split([K, batch.negative.shape[1]], 1)
        on = {"hard": batch.hard, "all": exists, "none": torch.zeros_like(exists)}[o.soft_on]
        soft = torch.where(on, o.soft_negative, 0.0)
        of_positive = F.binary_cross_entropy_with_logits(
            positive, label.expand_as(positive), reduction="none"
        )
        of_negative = F.binary_cross_entropy_with_logits(negative, soft, reduction="none")
        negatives = of_negative.masked_fill(~exists, 0.0).sum(1, keepdim=True)
        terms = 1 + exists.sum(1, keepdim=True)
        total = total + o.ctr * _mean((of_positive + negatives) / terms * weight, present)
    if o.ranking:
        positive, negative = out.scores["ranking"].split([K, batch.negative.shape[1]], 1)
        short = F.relu(o.margin - (positive[:, :, None] - negative[:, None]))  # [B, K, N]
        of_positive = _mean(short, exists[:, None].expand_as(short))
        total = total + o.ranking * _mean(of_positive * weight * label, present)
    if o.regression:
        total = total + o.regression * _mean((out.scores["completion"] - batch.completion).square(), present)
    if o.entropy and target is not None and out.clean_gate.shape[1] > 1:
        entropy = torch.special.entr(out.clean_gate).sum(1)
        total = total + o.entropy * (entropy - target).square()
    return total.masked_fill(~batch.valid, 0.0).sum() / batch.valid.sum().clamp(min=1)


class Trainer:
    """A model's training step: forward, backward, update. `dtype` "bfloat16" is autocast.

    With `compiled`, model and objective go through `torch.compile` at fixed shapes; the update is
    PyTorch's own fused kernel either way.
    """

    def __init__(self, model: Smoe, config: Config, threshold: float, compiled: bool = False):
        self.model, c = model, config
        device, low = next(model.parameters()).device.type, c.model.dtype == "bfloat16"

        def loss(batch: Examples, temperature: Tensor) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=low):
                candidates = torch.cat([batch.positive, batch.negative], 1)
                out = model(batch.history, candidates, temperature, batch.positive.shape[1])
            return objective(out, batch, c.objective, c.sampling, threshold, c.model.gate.target_entropy)

        self.loss: Callable[[Examples, Tensor], Tensor] = (
            torch.compile(loss, dynamic=False) if compiled else loss
        )
        self.optimizer = _optimizer(model, c.optimizer)

    def step(self, batch: Examples, temperature: Tensor) -> Tensor:
        """One update; the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, temperature)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _optimizer(model: Smoe, o: Optimizer) -> torch.optim.Optimizer:
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in model.named_parameters():
        groups[o.decay_spares == "nothing" or not (name.endswith("bias") or "norm" in name)].append(p)
    kind = torch.optim.AdamW if o.decay == "decoupled" else torch.optim.Adam
    decayed, spared = (
        {"params": groups[decays], "weight_decay": o.weight_decay * decays} for decays in (True, False)
    )
    return kind([decayed, spared], lr=o.learning_rate, fused=True)
