"""The recommender in the usual PyTorch style: the peer of `benchmarks.step`.

The model has padded histories, `nn.Embedding`, one linear layer for query, key and value, fused attention,
MLP heads on the concatenation of user, title and product, and a fused AdamW. The settings come from the
config and the dataset, so any config can be compared. `benchmarks.peers.torch_check` loads jaxrec's
parameters into the model and checks that both compute the same function.
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


class Histories(NamedTuple):
    """Right-aligned histories [B, L], 0 for padding; ids and numbers [B, ...]."""

    title: Any
    completion: Any
    sessions: Any
    age: Any
    user_categories: Any
    user_numbers: Any
    context_categories: Any
    context_numbers: Any


class Examples(NamedTuple):
    """A training batch: the fields of jaxrec.core.batch.Batch, one history per row."""

    history: Histories
    positive: Any  # [B, K] title ids, 0 where absent
    completion: Any  # [B, K]
    negative: Any  # [B, N]
    hard: Any  # [B, N] bool
    valid: Any  # [B] bool


def examples(batch: Batch) -> Examples:
    """Return our batch, one history per row, in the peer's form, integers as int64."""
    ours, outcomes = batch.history._asdict(), {"completion": batch.outcome.completion}
    ours |= ours["past"]._asdict()
    history = Histories(*(tensor(ours[name]) for name in Histories._fields))
    fields = batch._asdict() | outcomes
    return Examples(history, *(tensor(fields[name]) for name in Examples._fields[1:]))


def tensor(x: Any) -> Tensor:
    """Return a tensor; integers become int64."""
    x_tensor = torch.from_numpy(np.array(x))
    return x_tensor if x_tensor.dtype in (torch.bool, torch.float32) else x_tensor.long()


def to_device(batch: Examples, device: str) -> Examples:
    """Return the batch on a device."""
    return Examples(Histories(*(x.to(device) for x in batch.history)), *(x.to(device) for x in batch[1:]))


class Features(nn.Module):
    """Concatenated feature vectors [..., width] of ids [..., c] and numbers [..., n]."""

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
            feature_ids = ids[..., i : i + f.columns]
            i += f.columns
            if f.columns == 1:
                out.append(part(feature_ids.squeeze(-1)))
            else:
                out.append(part(feature_ids.reshape(-1, f.columns)).view(*ids.shape[:-1], f.width))
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
    """Transformer blocks over the last `window` titles, pooled: [B, L, D] to [B, D]."""

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
        not_empty = valid.any(1, keepdim=True)
        mask = (valid | ~not_empty)[:, None, None]  # an empty history attends to its padding, to stay finite
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        alpha = self.pool(x).squeeze(-1).masked_fill(~valid, -1e9).softmax(1)
        return torch.where(not_empty, (alpha.unsqueeze(-1) * x).sum(1), self.empty)


def mlp(sizes: list[int], last_bias: bool = True) -> nn.Sequential:
    """Return linear layers of `sizes` with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=last_bias))


class Outputs(NamedTuple):
    """Scores per task, and the gate with and without noise.

    Scores: "ctr" (logits) and "ranking" [B, C], "completion" [B, positives].
    """

    scores: dict[str, Tensor]
    gate: Tensor
    clean_gate: Tensor


def _title_features(layout: Layout, categories: Tensor) -> tuple[Features, Tensor]:
    """Return the titles' features and ids [V, columns], where a title id comes first."""
    specs = sorted(layout.of("title"), key=lambda f: f.name != TITLE_ID)
    if specs and specs[0].name == TITLE_ID:
        specs[0] = replace(specs[0], size=layout.num_titles, columns=1)
        categories = torch.cat([torch.arange(layout.num_titles)[:, None], categories.long()], 1)
    return Features(tuple(specs)), categories


class Smoe(nn.Module):
    """BST, V-MoE or S-MoE, as the config states; `table` holds the titles' features."""

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
        self.longest = max(e.max_len for e in m.experts)
        self.input = nn.Linear(title + self.interaction.width + self.context.width, m.width)
        self.position = nn.Parameter(torch.zeros(self.longest, m.width))
        self.dropout = nn.Dropout(m.dropout)
        self.experts = nn.ModuleList(
            Expert(m.width, e.max_len, e.num_layers, e.num_heads, e.mlp_ratio, e.dropout) for e in m.experts
        )
        E = len(m.experts)
        self.noise = m.gate.noise_std
        self.gate = mlp([self.user.width + E * m.width, *m.gate.hidden, E]) if E > 1 else None
        user, product = m.width + self.user.width + self.context.width, m.head_hidden[-1]
        self.has_product = m.matcher_product
        if self.has_product:
            self.product_user = nn.Linear(user, product, bias=False)
            self.product_title = nn.Linear(title, product, bias=False)
        task_weights = dict(zip(TASKS, (o.ctr, o.ranking, o.regression), strict=True))
        sizes = [user + title + (product if self.has_product else 0), *m.head_hidden, 1]
        self.heads = nn.ModuleDict(
            {task: mlp(sizes, task != "ranking") for task, weight in task_weights.items() if weight > 0}
        )

    def titles(self, ids: Tensor) -> Tensor:
        """Return title vectors [..., F]; the caller masks the vector of id 0."""
        return self.title(self.categories[ids], self.numbers[ids])

    def rows(self, history: Histories, titles: Tensor, context: Tensor) -> Tensor:
        """Return the experts' input [B, L, D]."""
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

    def forward(self, history: Histories, candidate: Tensor, temperature: Tensor, positives: int) -> Outputs:
        """Score candidates [B, C]; completion only for the first `positives` of them."""
        history = Histories._make([x[:, -self.longest :] for x in history[:4]] + list(history[4:]))
        L = history.title.shape[1]
        titles = self.titles(torch.cat([history.title, candidate], 1))  # one look-up for both
        user_features = self.user(history.user_categories, history.user_numbers)
        context = self.context(history.context_categories, history.context_numbers)
        x = self.dropout(self.rows(history, titles[:, :L], context))
        pooled = [expert(x, history.title > 0) for expert in self.experts]
        if self.gate is None:
            gate = clean = torch.ones_like(pooled[0][:, :1])
            mixture = pooled[0]
        else:
            z = self.gate(torch.cat([user_features, *pooled], -1)).float()
            gate = clean = (z / temperature).softmax(-1)
            if self.training and self.noise:
                gate = ((z + self.noise * torch.randn_like(z)) / temperature).softmax(-1)
            mixture = (gate.unsqueeze(-1) * torch.stack(pooled, 1)).sum(1)
        user = torch.cat([mixture, user_features, context], -1)
        return Outputs(self.score(user, titles[:, L:], positives), gate, clean)

    def score(self, user: Tensor, titles: Tensor, positives: int) -> dict[str, Tensor]:
        B, C, _ = titles.shape
        inputs = [user[:, None].expand(B, C, -1), titles]
        if self.has_product:
            inputs.append(self.product_user(user)[:, None] * self.product_title(titles))
        pairs = torch.cat(inputs, -1)
        scores = {}
        for task, head in self.heads.items():
            s = head(pairs[:, :positives] if task == "completion" else pairs).squeeze(-1).float()
            scores[task] = s.sigmoid() if task == "completion" else s
        return scores


# ---------------------------------------------------------------- objective


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the masked mean over the last axis; 0 where the mask is empty."""
    return x.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def objective(
    out: Outputs, batch: Examples, o: Objective, sampling: Sampling, threshold: float, target: float | None
) -> Tensor:
    """Return Eq. 15 of the paper, as the mean over valid examples."""
    K = batch.positive.shape[1]
    present, exists = batch.positive > 0, batch.negative > 0
    label = out.clean_gate.new_tensor(sampling.target_weights[:K])
    weight = torch.ones_like(batch.completion)
    if o.personalised:
        weight = (1.0 + o.alpha * (batch.completion - threshold)).clamp(min=0.0)
    total = torch.zeros_like(batch.completion[:, 0])
    if o.ctr:
        positive, negative = out.scores["ctr"].split([K, batch.negative.shape[1]], 1)
        soft_mask = {"hard": batch.hard, "all": exists, "none": torch.zeros_like(exists)}[o.soft_on]
        soft = torch.where(soft_mask, o.soft_negative, 0.0)
        positive_loss = F.binary_cross_entropy_with_logits(
            positive, label.expand_as(positive), reduction="none"
        )
        negative_loss = F.binary_cross_entropy_with_logits(negative, soft, reduction="none")
        negatives = negative_loss.masked_fill(~exists, 0.0).sum(1, keepdim=True)
        terms = 1 + exists.sum(1, keepdim=True)
        total = total + o.ctr * _mean((positive_loss + negatives) / terms * weight, present)
    if o.ranking:
        positive, negative = out.scores["ranking"].split([K, batch.negative.shape[1]], 1)
        violation = F.relu(o.margin - (positive[:, :, None] - negative[:, None]))  # [B, K, N]
        positive_loss = _mean(violation, exists[:, None].expand_as(violation))
        total = total + o.ranking * _mean(positive_loss * weight * label, present)
    if o.regression:
        total = total + o.regression * _mean((out.scores["completion"] - batch.completion).square(), present)
    if o.entropy and target is not None and out.clean_gate.shape[1] > 1:
        entropy = torch.special.entr(out.clean_gate).sum(1)
        total = total + o.entropy * (entropy - target).square()
    return total.masked_fill(~batch.valid, 0.0).sum() / batch.valid.sum().clamp(min=1)


class Trainer:
    """Training step of a model: forward, backward, update.

    `config.model.dtype` "bfloat16" means autocast. With `compiled`, model and objective go through
    `torch.compile` at fixed shapes. The update is PyTorch's fused kernel in both cases.
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
        """Perform one update and return the loss before the update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, temperature)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _optimizer(model: Smoe, o: Optimizer) -> torch.optim.Optimizer:
    optimizer_class = torch.optim.AdamW if o.weight_decay_mode == "decoupled" else torch.optim.Adam
    return optimizer_class(model.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay, fused=True)
