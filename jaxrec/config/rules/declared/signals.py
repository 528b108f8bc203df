"""The rules of a config's signals: names, values, and what each source can give."""

import math

from jaxrec.config.declarations import Signal
from jaxrec.config.schema import Config, Source, Tables
from jaxrec.config.tree import among, require

EVERY_ROW = "*"  # `column` of a signal with an event in every row of the interactions
PLAY = "play"  # name of the plays among the kinds of events
_MOST_SIGNALS = 127  # the kind of an event is an int8


def check_signals(config: Config) -> None:
    """Raise InputError for the first invalid declaration in `config.signals`."""
    signals, seen = config.signals, set[str]()
    allowed = f"hold at most {_MOST_SIGNALS} signals, not {len(signals)}"
    require(len(signals) <= _MOST_SIGNALS, "signals", signals, allowed)
    for i, signal in enumerate(signals):
        key, name = f"signals[{i}]", signal.name
        require(name.isidentifier(), f"{key}.name", name, "be letters, digits and '_', no digit first")
        require(name != PLAY, f"{key}.name", name, "not be 'play', the name of the log's plays")
        require(name not in seen, f"{key}.name", name, "be unlike the signals before it")
        seen.add(name)
        unit, seconds = signal.unit, signal.value == "seconds"
        require(0 < unit < math.inf, f"{key}.unit", unit, "be above 0")
        allowed = f"be 1 with value={signal.value!r}: only seconds have a unit"
        require(seconds or unit == 1, f"{key}.unit", unit, allowed)
        if config.source.generated_signals:
            _check_generated(key, signal, config.source)
        else:
            _check_origin(key, signal, config.source)


def _check_generated(key: str, signal: Signal, source: Source) -> None:
    """Check a signal of a source that generates its signals, by name."""
    values, reader = source.generated_signals, type(source).__name__
    among(f"{key}.name", signal.name, values)
    allowed = f"be {values[signal.name]}: a {reader} source generates {signal.name!r}"
    require(signal.value == values[signal.name], f"{key}.value", signal.value, allowed)
    allowed = f"be title: the signals of a {reader} source are about titles"
    require(signal.about == "title", f"{key}.about", signal.about, allowed)
    for name in ("column", "table"):
        allowed = f"be empty: a {reader} source generates its signals"
        require(not getattr(signal, name), f"{key}.{name}", getattr(signal, name), allowed)
    allowed = f"be 1: a {reader} source generates seconds"
    require(signal.unit == 1, f"{key}.unit", signal.unit, allowed)


def _check_origin(key: str, signal: Signal, source: Source) -> None:
    """Check where the events of a signal are read from."""
    column, table, reader = signal.column, signal.table, type(source).__name__
    if isinstance(source, Tables):
        require(bool(column or table), f"{key}.column", column, f"name a column, unless {key}.table is set")
        allowed = f"be empty where {key}.table={table!r}: events come from a column or a table of their own"
        require(not (column and table), f"{key}.column", column, allowed)
        require(all(column.split("|")) or not column, f"{key}.column", column, "name one on each side of '|'")
    else:
        allowed = f"not be declared: a {reader} source gives no signals"
        require(bool(source.signal_columns), f"{key}.name", signal.name, allowed)
        allowed = f"be empty: the signals of a {reader} source are columns of its logs"
        require(not table, f"{key}.table", table, allowed)
        among(f"{key}.column", column, (EVERY_ROW, *source.signal_columns))
        allowed = f"be event, seconds, number or sign: the columns of a {reader} source hold no text"
        require(signal.value != "text", f"{key}.value", signal.value, allowed)
    if column == EVERY_ROW:
        allowed = "be event with column='*': every row is an event without a value"
        require(signal.value == "event", f"{key}.value", signal.value, allowed)
