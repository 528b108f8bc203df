"""Batch arrays on the host and on a device.

Axis letters in names: B examples, R packed rows, L history, K next titles, N negatives, V titles.
"""

from typing import Any, NamedTuple

import numpy as np

# ---------------------------------------------------------------- inputs of a training or evaluation step


class Packing(NamedTuple):
    """Slots of a per-device batch of B examples whose histories share rows.

    titles [R, W]: for each slot of the longest window W, the source
      (example * stored history + stored column) * W + number of newer titles in the example's history;
      B * stored history * W in an empty slot.
    shorter: for each shorter window w, longest first, [R_w, w] flat indices into the slots of `titles`;
      R * W in an empty slot.
    """

    titles: Any
    shorter: tuple[Any, ...]


class PackingPlan(NamedTuple):
    """Slots of histories that share rows, before the titles are known: every shard of a batch has this plan.

    starts: for each window, longest first, [S] int32: the slot of the oldest title of each of the S examples
      of a shard, row * window + position. A host batch repeats it for each local device.
    """

    starts: tuple[Any, ...]


class HostBatch(NamedTuple):
    """Batch on the host, as transferred to the devices: packed rows and validity.

    Attributes:
        words: [B, words] uint32, packed rows.
        valid: [B] bool; False for padding at an epoch's tail.
        packing: Slots where histories share rows; None: one row per history.
        place: [B] row index in its split, -1 for padding; None: the rows are in order. Stays on the host.
    """

    words: np.ndarray
    valid: np.ndarray
    packing: Packing | None = None
    place: np.ndarray | None = None


class IndexBatch(NamedTuple):
    """Training batch on the host whose rows the devices hold: indices instead of packed rows.

    Attributes:
        rows: [local devices * B] int32, the rows of the global batch, one shard after another, once for each
            local device.
        valid: [B / processes] bool; False for padding.
        plan: Slots where histories share rows, for the `Packing` that the devices make; None: one row per
            history.
    """

    rows: np.ndarray
    valid: np.ndarray
    plan: PackingPlan | None = None


class TrieLevel(NamedTuple):
    """Level of a trie: m child nodes of the nodes of the level above.

    Attributes:
        token: [m] int32 token of each child, in the order of the nodes.
        parent: [m] int32 parent of each child.
        first: [nodes above + 1] int32 first child of each node; its children are consecutive.
        slot: [largest number of children] int32, 0, 1, ...: the slots of one gather. The shape is the number,
            which programs need when they are compiled.
        several: int32 nodes above that have several children.
        leaf: [m + 1] int32 number of leaves of the whole trie before those below each child.
        open_leaves: [m] or [B, m] int32 number of allowed leaves below each child.
        dense: [nodes above, tokens] int32 child by token, -1 for none; None: the level has no such table.
    """

    token: Any
    parent: Any
    first: Any
    slot: Any
    several: Any
    leaf: Any
    open_leaves: Any
    dense: Any = None


class TitleTrie(NamedTuple):
    """Trie of the codes of titles, built by `codes.trie`.

    Attributes:
        levels: One level for each token of a code; the root is the only node above the first.
        title: [leaves] int32 id of the title of each leaf.
        node: [V, depth] int32 nodes of the path of each title, by id; 0 for ids without a code.
    """

    levels: tuple[TrieLevel, ...]
    title: Any
    node: Any


class TitleTable(NamedTuple):
    """Features of all titles, indexed by id and transferred to the device once.

    Attributes:
        categories: [V, columns] int32.
        numbers: [V, columns] float32, standardised.
        rank: [V] int32 popularity rank, V for padding, unknown and ids without a title; None: the order of
            ids. Training reads it where ids may have no title.
        maturity: [V, 2] float32, log1p of the age in days and log1p of the plays; None where it is not read.
        masked: [V] bool, titles whose ids are replaced by the unknown id; None: none.
        trie: Trie of the titles' codes; None without codes.
    """

    categories: Any
    numbers: Any
    rank: Any = None
    maturity: Any = None
    masked: Any = None
    trie: TitleTrie | None = None


# ---------------------------------------------------------------- what is known when, checked by mypy


class Known:
    """Base of the inputs of models: what is known when a title is requested.

    Models take subclasses of `Known`, losses take `Outcome`. `after` and, in offline runs, `observed` are the
    only ways from one to the other.
    """

    __slots__ = ()


class Outcome(NamedTuple):
    """Outcomes of requests: what is known after them, which losses read and models must not.

    Attributes:
        completion: [...] float32 completion of each title, in [0, 1].
        label: [..., T] values of the stored labels; None for rows without labels.
        label_known: [...] uint32; bit i is set where label i is known.
        label_filled: [...] uint32; bit i is set where label i is a prediction; None: none is, or predictions
            do not count.
        declared: Declared heads, each with the labels of the candidates; made by `tasks.heads`.
        signals: [..., S] values of the signals that are interaction features, NaN without an event; None for
            rows without such features. Of tokens: the last value of each kind that has values.
        kinds: [...] uint32; bit i is set where an event of kind i is in the token; None: the rows have no
            tokens.
        seconds: [...] log1p of the seconds watched in the token; None as for `kinds`.
    """

    completion: Any
    label: Any = None
    label_known: Any = None
    declared: tuple[Any, ...] = ()
    signals: Any = None
    label_filled: Any = None
    kinds: Any = None
    seconds: Any = None


class PastOutcome(NamedTuple):
    """Outcomes of plays before the request, known input of a model; made by `after` alone.

    Attributes:
        completion: As of `Outcome`.
        signals: As of `Outcome`.
        kinds: As of `Outcome`.
        seconds: As of `Outcome`.
    """

    completion: Any
    signals: Any = None
    kinds: Any = None
    seconds: Any = None


def after(outcome: Outcome) -> PastOutcome:
    """Return the outcomes of plays as input for later requests.

    Args:
        outcome: Outcomes of plays that all precede the request, as the history of a row holds them.
    """
    return PastOutcome(outcome.completion, outcome.signals, outcome.kinds, outcome.seconds)


class ObservedOutcome(NamedTuple):
    """Early outcomes of the target, input of an offline model; made by `observed` alone.

    Attributes:
        numbers: [B, 2 * labels] float32: of each label the value, 0 where unknown, and 1 where it is known.
    """

    numbers: Any


def observed(outcome: Outcome) -> ObservedOutcome:
    """Return early outcomes of the target as input of a model that predicts later ones.

    Args:
        outcome: Outcome whose `label` holds the numbers of `ObservedOutcome`. Only features of where="label"
            are among them, which configs of offline runs alone may have.
    """
    return ObservedOutcome(outcome.label)


# ---------------------------------------------------------------- decoded batches


class SessionTail(NamedTuple):
    """Events of the session before each request, oldest first, right-aligned.

    Attributes:
        title: [B, S] int32, 0 for padding and for an event of no title.
        kind: [B, S] int32, 0 for padding; kind i + 1 is `Layout.session_kinds[i]`.
        past: Outcomes of the events; `completion` [B, S] is their value, as in `data.sessions.events`.
        age: [B, S] float32 log1p(seconds from the event to the request).
    """

    title: Any
    kind: Any
    past: PastOutcome
    age: Any


class _HistoryFields(NamedTuple):
    """Fields of `History`: a NamedTuple has no other base class."""

    title: Any
    past: PastOutcome
    sessions: Any
    age: Any
    example: Any
    newer: Any
    shorter: Any
    user_categories: Any
    user_numbers: Any
    context_categories: Any
    context_numbers: Any
    observed: ObservedOutcome | None = None
    session: SessionTail | None = None


class History(_HistoryFields, Known):
    """Model inputs of B examples.

    A row holds the titles of one example, or of several packed examples.

    Attributes:
        title: [R, L] int32, 0 for padding.
        past: [R, L] outcomes of the plays of the history.
        sessions: [R, L] float32 number of plays of the title so far.
        age: [R, L] float32 log1p(seconds since the title's last play).
        example: [R, L] int32 index of the example that owns the title; B for padding.
        newer: [R, L] int32 number of newer titles in the same example; less than L.
        shorter: {w: [R_w, w] int32} for each shorter window w: flat indices into the rows; R * L for an empty
            slot.
        user_categories: [B, columns] int32.
        user_numbers: [B, columns] float32.
        context_categories: [B, columns] int32.
        context_numbers: [B, columns] float32.
        observed: [B, columns] early outcomes of the target; None: the model reads none.
        session: Events of the session of each request; None: the model reads none.
    """

    __slots__ = ()


class Batch(NamedTuple):
    """Decoded training batch.

    Attributes:
        history: Inputs of the model.
        positive: [B, K] int32, 0 where absent. Models score them as candidates.
        outcome: [B, K] outcomes of the positives.
        negative: [B, N] int32.
        hard: [B, N] bool, True for a title that the user abandoned.
        valid: [B] bool, False for padding.
        weight: [B] weight of each example in the loss; None: all are 1.
    """

    history: History
    positive: Any
    outcome: Outcome
    negative: Any
    hard: Any
    valid: Any
    weight: Any = None
