"""Proposal of a config for raw files: formats, roles, units and features, each with its reason."""

from dataclasses import replace
from typing import Any, NamedTuple

from jaxrec.config.schema import (
    Columns,
    Config,
    Data,
    Evaluate,
    Expert,
    Gate,
    Model,
    NextItem,
    Optimizer,
    Sampling,
    Tables,
    Task,
    Train,
)
from jaxrec.sources.proposals.features import propose_features
from jaxrec.sources.proposals.roles import (
    LogRoles,
    Role,
    key_role,
    log_roles,
    runtime_role,
    units_of_watch_time,
)
from jaxrec.sources.proposals.summary import TableSample, sample_table

_EMBEDDING, _WIDTH = 32, 48


class Proposal(NamedTuple):
    """Proposed config of raw files.

    Attributes:
        config: The config, which may be written and run.
        reasons: Dotted key of a field -> reason.
        tables: Name of a table -> what it holds, as JSON.
        left_out: Table and column -> reason why it is no feature.
    """

    config: Config
    reasons: dict[str, str]
    tables: dict[str, Any]
    left_out: dict[str, str]


def propose(interactions: str, titles: str = "", users: str = "", name: str = "own_data") -> Proposal:
    """Propose a config for raw files.

    Args:
        interactions: Log: a file, a folder or a glob.
        titles: Titles table, or "".
        users: Users table, or "".
        name: Name of the config.

    Raises:
        InputError: A file is invalid, or its columns have no roles.
    """
    log = sample_table("--interactions", interactions)
    title_table = sample_table("--titles", titles) if titles else None
    user_table = sample_table("--users", users) if users else None
    roles = log_roles(log)
    reasons = {f"source.columns.{role}": choice.reason for role, choice in
               (("user", roles.user), ("title", roles.title), ("time", roles.time))}  # fmt: skip
    columns = Columns(roles.user.column, roles.title.column, roles.time.column, seconds="", runtime="")
    columns.time_unit = roles.unit.unit  # type: ignore[assignment]
    columns.time_decimals = roles.unit.decimals
    reasons["source.columns.time_unit"] = roles.unit.reason
    _add_titles(columns, reasons, log, roles, title_table)
    if user_table:
        key = key_role(user_table, log.frame[roles.user.column], "user")
        columns.user_key, reasons["source.columns.user_key"] = key.column, key.reason
    features = propose_features(
        {
            where: table
            for where, table in (("title", title_table), ("user", user_table), ("context", log))
            if table
        },
        {
            "title": {columns.title_key},
            "user": {columns.user_key},
            "context": {columns.user, columns.title, columns.time, columns.seconds, columns.log_runtime},
        },
        bool(columns.seconds),
        _EMBEDDING,
    )
    columns.list_separator = features.separator or columns.list_separator
    source = Tables(interactions, titles, users, columns)
    for table, where in ((log, "interactions"), (title_table, "titles"), (user_table, "users")):
        if table:
            setattr(source, f"{where}_format", table.form)
            reasons |= {f"source.{where}_format.{field}": reason for field, reason in table.reasons.items()}
    config = _ranking_config(name) if columns.seconds else _sequence_config(name)
    config.source = source
    # Positions of sequences have features of titles alone.
    kept = features.features if columns.seconds else tuple(f for f in features.features if f.where == "title")
    config.features = kept
    reasons |= {f"features[{i}]": features.reasons[f.name] for i, f in enumerate(kept)}
    named = (("interactions", log), ("titles", title_table), ("users", user_table))
    summaries = {where: table.to_json() for where, table in named if table}
    return Proposal(config, reasons, summaries, features.left_out)


def _add_titles(
    columns: Columns, reasons: dict[str, str], log: TableSample, roles: LogRoles, titles: TableSample | None
) -> None:
    """Add the key of the titles table, runtimes and watch times to `columns` and `reasons`."""
    runtime: Role | None = None
    if titles:
        key = key_role(titles, log.frame[roles.title.column], "title")
        columns.title_key, reasons["source.columns.title_key"] = key.column, key.reason
        runtime = runtime_role(titles, key.column)
    if roles.seconds is None:
        reasons["source.columns.seconds"] = "no name fits a watch time; plays are read without watch times"
        return
    units = units_of_watch_time(log, roles, titles, columns.title_key, runtime)
    if units is None:
        why = "completion needs runtimes, of a titles table or in the log"
        reasons["source.columns.seconds"] = f"{roles.seconds.column!r} is not read: {why}"
        return
    columns.seconds, columns.seconds_unit = roles.seconds.column, units.watch  # type: ignore[assignment]
    reasons |= {"source.columns.seconds": roles.seconds.reason, "source.columns.seconds_unit": units.reason}
    if runtime:
        columns.runtime, reasons["source.columns.runtime"] = runtime.column, runtime.reason
    if units.runtime:
        columns.runtime_unit = units.runtime  # type: ignore[assignment]
        reasons["source.columns.runtime_unit"] = units.reason
    if roles.runtime and titles and runtime:
        missing = int((~(titles.numbers(runtime.column) > 0).fill_null(False)).sum())
        if missing and _same_unit(log, roles, titles, columns, runtime):
            columns.log_runtime = roles.runtime.column
            reasons["source.columns.log_runtime"] = f"{missing:,} titles of the titles table have no runtime"
    elif roles.runtime and units.runtime:
        columns.log_runtime = roles.runtime.column
        reasons["source.columns.log_runtime"] = f"{roles.runtime.reason}; no titles table has runtimes"


def _same_unit(
    log: TableSample, roles: LogRoles, titles: TableSample, columns: Columns, runtime: Role
) -> bool:
    """Return True if the runtimes of the log and of the titles table have medians within a factor of 4."""
    assert roles.runtime is not None
    of_log, of_titles = log.numbers(roles.runtime.column), titles.numbers(runtime.column)
    medians = [float(values.filter(values > 0).median() or 1) for values in (of_log, of_titles)]  # type: ignore[arg-type]
    return max(medians) <= 4 * min(medians)


def _ranking_config(name: str) -> Config:
    """Return the paper's model, reduced for two CPU cores."""
    experts = (
        Expert(max_len=7, num_layers=1, num_heads=4, mlp_ratio=1.0),
        Expert(max_len=20, num_layers=1, num_heads=4, mlp_ratio=2.0),
    )
    return Config(
        name=name,
        model=Model(width=_WIDTH, experts=experts, gate=Gate(hidden=(64, 32))),
        optimizer=Optimizer(learning_rate=2e-3),
        train=Train(duration="8 epochs"),
    )


def _sequence_config(name: str) -> Config:
    """Return SASRec with a softmax over all titles, for plays without watch times."""
    expert = Expert(max_len=52, num_layers=2, num_heads=2, mlp_ratio=2.0, dropout=0.1, encoder="sasrec")
    return Config(
        name=name,
        task=Task("next_item"),
        data=Data(split="last", targets="any", max_history=52, num_targets=1),
        sampling=Sampling(id_dropout=0.0),
        model=Model(width=_WIDTH, experts=(expert,), dropout=0.1, head="dot", embedding_init_std=0.02),
        next_item=NextItem(),
        optimizer=Optimizer(weight_decay=0.0, plateau_factor=1.0),
        train=Train(duration="20 epochs"),
        evaluate=replace(Evaluate(), next_k=(1,)),
    )
