"""Rules of sessions: stored events of a request's session, the experts that read them, and the intent."""

from jaxrec.config.heads import INTENT
from jaxrec.config.schema import Config, Data
from jaxrec.config.tree import among, require
from jaxrec.core.registry import SESSION_ENCODERS

PLAY = "play"  # name of the plays among the events of a session


def check_sessions(config: Config) -> None:
    """Raise InputError for stored sessions that rows cannot have, or that nothing can make."""
    data, gap = config.data, config.data.session_gap_minutes
    allowed = "be 0 or a multiple of 4: rows are read as words of four bytes"
    require(data.session >= 0 and data.session % 4 == 0, "data.session", data.session, allowed)
    require(gap > 0, "data.session_gap_minutes", gap, "be above 0")
    if not data.session:
        default = Data().session_gap_minutes
        allowed = f"be {default:g} with data.session=0: there are no sessions"
        require(gap == default, "data.session_gap_minutes", gap, allowed)
        return
    allowed = f"be 0 where task.name is {config.task.name!r}: sessions are of rows of the task ranking"
    require(config.rows == "ranking", "data.session", data.session, allowed)
    allowed = "be 0 with data.examples='impressions': sessions are of requests"
    require(data.examples == "requests", "data.session", data.session, allowed)


def check_session_experts(config: Config) -> None:
    """Raise InputError for experts that read sessions without any, or that fit no other setting."""
    model, data = config.model, config.data
    readers = [i for i, expert in enumerate(model.experts) if expert.encoder in SESSION_ENCODERS]
    for i in readers:
        expert, key = model.experts[i], f"model.experts[{i}]"
        allowed = "not be of a session with data.session=0: rows hold no sessions"
        require(data.session > 0, f"{key}.encoder", expert.encoder, allowed)
        allowed = "not be of a session with model.target_in_sequence=True: a session is no history"
        require(not model.target_in_sequence, f"{key}.encoder", expert.encoder, allowed)
        allowed = f"be at most data.session={data.session}"
        require(expert.max_len <= data.session, f"{key}.max_len", expert.max_len, allowed)
    if readers and len(readers) == len(model.experts):  # they read the history as far as their own windows
        longest = max(expert.max_len for expert in model.experts)
        allowed = f"be at most data.max_history={data.max_history} without an expert of the history"
        require(longest <= data.max_history, "model.experts[0].max_len", longest, allowed)
    if any(model.experts[i].encoder == "session_counts" for i in readers):
        _check_categories(config, "an expert with encoder='session_counts'")
    kinds = (PLAY, *(signal.name for signal in config.signals))
    for i, name in enumerate(config.sampling.session_events):
        key = f"sampling.session_events[{i}]"
        require(bool(readers), key, name, "be left out without an expert that reads sessions")
        among(key, name, kinds)


def check_intent(config: Config) -> None:
    """Raise InputError for an intent without categories of titles, or without a vector of the user."""
    weight, model = config.objective.intent, config.model
    require(weight >= 0, "objective.intent", weight, "be at least 0")
    if not weight:
        return
    allowed = f"be 0 where task.name is {config.task.name!r}: the intent is a head of the task ranking"
    require(config.rows == "ranking", "objective.intent", weight, allowed)
    allowed = "be 0 with model.head='dot': the model has one head"
    require(model.head == "matcher", "objective.intent", weight, allowed)
    allowed = "be 0 with model.target_in_sequence=True: a user has a vector for each candidate"
    require(not model.target_in_sequence, "objective.intent", weight, allowed)
    for i, head in enumerate(config.objective.heads):
        allowed = "not be that of the head of objective.intent"
        require(head.name != INTENT, f"objective.heads[{i}].name", head.name, allowed)
    _check_categories(config, f"objective.intent={weight:g}")


def _check_categories(config: Config, reason: str) -> None:
    """Check that `model.intent_of` names categories of titles that the model reads."""
    model, read = config.model, config.model.features
    names = [
        f.name for f in config.features
        if f.where == "title" and f.kind in ("category", "categories") and f.name != "title_id"
        and (not read or f.name in read)
    ]  # fmt: skip
    allowed = f"be one of {', '.join(names) or 'no feature'}: {reason} needs categories of titles"
    require(model.intent_of in names, "model.intent_of", model.intent_of, allowed)
