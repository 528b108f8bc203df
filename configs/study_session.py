"""Study of in-session signals: what the events since the user came back add to the history before.

python -m jaxrec.study --config configs/study_session.py --seeds 3 --jobs 1 --workdir S
python -m jaxrec.study --config configs/study_session.py --tables premise --seeds 3 --jobs 1 --workdir S
python -m benchmarks.session_study --workdir S      # by position in the session, and with shuffled sessions

`no_tail` has the history as of the session's begin alone, and `today` the history up to the request, as rows
without sessions have it. `plays`, `trailers` and `all` read the session: its plays, its plays and trailers,
and all its events. `all_intent` predicts the next title's genre too, `counts` has engineered counts of the
session's genres in place of the events. `balance` spreads the gate by a load-balancing term, and `alone` has
the expert of the session, which attends to the history's titles, and no gate.
"""

from dataclasses import replace

from configs import session, smoe, tiny
from jaxrec.config import (
    Config,
    Data,
    Evaluate,
    Expert,
    Gate,
    Model,
    Optimizer,
    Simulator,
    Train,
)
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study

TAIL, RIVALS, GATE = "tail", "rivals", "gate"  # tables
INTENT = 0.2  # weight of the term of the intent


def rows(base: Config) -> tuple[Row, ...]:
    """Return the rows of the study; the base has the experts of the history."""
    history = base.model.experts
    events = session.expert(base)
    read = {"model.experts": (*history, events)}
    counted = {"model.experts": (*history, replace(events, encoder="session_counts"))}

    kinds = "sampling.session_events"
    return (
        Row("no_tail", {}, dict.fromkeys((TAIL, RIVALS), "history as of the session's begin")),
        Row("all", read, dict.fromkeys((TAIL, RIVALS, GATE), "all events of the session")),
        Row("trailers", {**read, kinds: ("play", "trailer")}, {TAIL: "plays and trailers"}),
        Row("plays", {**read, kinds: ("play",)}, {TAIL: "plays"}),
        Row("today", {"data.session": 0}, {RIVALS: "history up to the request"}),
        Row("counts", counted, {RIVALS: "counts of the session's genres"}),
        Row("all_intent", {**read, "objective.intent": INTENT}, {RIVALS: "all events, with intent"}),
        Row("alone", {"model.experts": (events,)}, {GATE: "the session's expert alone"}),
        Row("balance", {**read, "objective.balance": 0.1}, {GATE: "all events, balanced gate"}),
    )


def _claims() -> tuple[Claim, ...]:
    return (
        Claim("the session's events help", (("all", "no_tail"),), lists=("enabled",)),
        Claim("trailers add to plays", (("trailers", "plays"),), lists=("enabled",)),
        Claim("intent adds to the events", (("all_intent", "all"),), lists=("enabled",)),
        Claim("events beat engineered counts", (("all", "counts"),), lists=("enabled",)),
    )


def _small() -> Config:
    """Return a config that one core trains in about a minute."""
    experts = tuple(
        Expert(w, num_layers=1, num_heads=2, mlp_ratio=f, dropout=0.1) for w, f in ((7, 1.0), (20, 2.0))
    )
    return Config(
        name="session-small",
        source=Simulator(users=6_000, test_only_users=3_000, titles=500),
        features=smoe.features(16),
        data=Data(max_history=20, train_share=0.85, validation_share=0.1),
        model=Model(width=24, experts=experts, gate=Gate(hidden=(16,)), dropout=0.1, head_hidden=(48, 24)),
        optimizer=Optimizer(learning_rate=3e-3),
        train=Train(duration="800 steps", batch_size=192),
        evaluate=Evaluate(batch_size=1024),
    )


def get_config(scale: str = "small") -> Study:
    """Return the study for "small" or "tiny"."""
    if scale not in ("small", "tiny"):
        raise InputError(f"configs/study_session.py:{scale}: the argument must be small or tiny")
    config = _small() if scale == "small" else tiny.get_config()
    if scale == "tiny":
        config.train.duration = "40 steps"
    config = session.with_sessions(config, 20 if scale == "small" else 8)
    config.evaluate.next_k, config.evaluate.report = (1,), False
    tables = (
        ResultTable(TAIL, "What a model reads of the session"),
        ResultTable(RIVALS, "Other forms of the session"),
        ResultTable(GATE, "The session's expert without a gate, and with a balanced gate"),
    )
    premises = (
        Premise("The mood of a sitting", "source.mood", "all", "no_tail"),
        Premise("The mood of a sitting, by plays alone", "source.mood", "plays", "no_tail", (0.0, 1.0)),
        Premise(
            "The mood of a sitting, by the history up to the request",
            "source.mood",
            "today",
            "no_tail",
            (0.0, 1.0),
        ),
        Premise("A mood that moves within a sitting", "source.mood_moves", "all", "no_tail", (0.0, 0.3)),
    )
    return Study(f"session-{scale}", config, rows, tables, (TAIL, RIVALS), _claims(), premises)
