"""The rules of a config's source, features and data: what prepares a dataset."""

from datetime import date

from jaxrec.config.rules.declared.availability import check_availability
from jaxrec.config.rules.declared.contexts import check_context_kinds
from jaxrec.config.rules.declared.labels import check_stored_labels, check_watch_times
from jaxrec.config.rules.declared.signals import check_signals
from jaxrec.config.rules.declared.tokens import PLAYS_ALONE, check_tokens
from jaxrec.config.rules.examples import check_fold, check_impressions, check_served
from jaxrec.config.rules.increments import check_increments
from jaxrec.config.rules.sessions import check_sessions
from jaxrec.config.schema import LIST_MIXES, Config, Feature, FileFormat, Tables
from jaxrec.config.tree import among, require
from jaxrec.core import registry
from jaxrec.core.errors import InputError
from jaxrec.core.ids import INTERACTION_FEATURES, POOLS
from jaxrec.core.paths import scheme_of

PARTS_OF_RUNTIME = ("fraction", "percent")  # units of watch times that need no runtimes
FEATURE_PLACES = ("title", "user", "context", "interaction", "label")
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(2106, 2, 7)  # the range of unsigned seconds in 32 bits


def whole(count: float) -> bool:
    """Return True if a count is a whole number to within 1e-6."""
    return abs(count - round(count)) < 1e-6


def _check_source(config: Config) -> None:
    """Check what can be checked without reading the source; the simulator checks its own ranges."""
    source, path = config.source, config.data.path
    for name in source.required:
        where = getattr(source, name)
        require(bool(where), f"source.{name}", where, "not be empty")
    if isinstance(source, Tables):
        _check_tables(source, path)
    else:
        require(not path, "data.path", path, "be empty: only a Tables source has its log there")
    if not source.has_watch_times:
        _check_without_watch_time(config, f"a {type(source).__name__} source holds ratings, which do")
    elif isinstance(source, Tables) and not source.columns.seconds:
        _check_without_watch_time(config, "a log without source.columns.seconds does")


def _check_tables(source: Tables, path: str) -> None:
    log, titles, columns = source.interactions, source.titles, source.columns
    require(bool(log or path), "source.interactions", log, "name the files, unless data.path does")
    require(
        not (log and path), "data.path", path, f"be empty where source.interactions={log!r} names the log"
    )
    for name, value in vars(columns).items():
        if not isinstance(value, str):  # time_decimals, null_words, outcomes
            continue
        key, optional = f"source.columns.{name}", name in ("seconds", "runtime", "log_runtime")
        require(bool(value) or optional, key, value, "not be empty")
        if value and name != "list_separator":
            require(all(value.split("|")), key, value, "name a column on both sides of each '|'")
    for name in ("interactions", "titles", "users", "signals"):
        _check_format(f"source.{name}_format", getattr(source, f"{name}_format"))
    if columns.seconds and not columns.log_runtime and columns.seconds_unit not in PARTS_OF_RUNTIME:
        why = f"source.columns.seconds={columns.seconds!r} needs the runtimes of titles, or log_runtime"
        require(bool(titles), "source.titles", titles, f"name the titles table: {why}")
        require(bool(columns.runtime), "source.columns.runtime", columns.runtime, f"not be empty: {why}")


def _check_format(key: str, form: FileFormat) -> None:
    """Check the format of the text files of one table."""
    separator, quote = form.separator, form.quote
    require(not set(separator) & set("\r\n"), f"{key}.separator", separator, "hold no end of a line")
    require(len(quote.encode()) <= 1, f"{key}.quote", quote, "be one ASCII character, or empty for none")
    require(
        not quote or quote not in separator, f"{key}.quote", quote, f"not occur in separator={separator!r}"
    )
    try:
        "".encode(form.encoding)
    except LookupError:
        allowed = "be an encoding of Python, such as utf-8, latin-1 or utf-16"
        raise InputError(f"{key}.encoding={form.encoding!r} must {allowed}") from None
    for i, name in enumerate(form.header):
        require(bool(name), f"{key}.header[{i}]", name, "not be empty")
        require(form.header.index(name) == i, f"{key}.header[{i}]", name, "be unlike the names before it")


def _check_without_watch_time(config: Config, such: str) -> None:
    """Check the settings of a source without watch times, which trains one task, or sequences."""
    why = f"{such} not contain watch times"
    allowed = f"be new or any, for no title counts as abandoned: {why}"
    require(config.data.targets != "every", "data.targets", config.data.targets, allowed)
    check_watch_times(config.labels, why)
    if config.rows == "next_item":
        personalised = config.next_item.personalised
        allowed = f"be False, for Eq. 13 weighs by completion: {why}"
        require(not personalised, "next_item.personalised", personalised, allowed)
        return
    objective, hard = config.objective, config.sampling.mix.hard
    for key, value, allowed in (
        ("sampling.mix.hard", hard, "0, for nobody is known to have abandoned one"),
        ("objective.personalised", objective.personalised, "False, for Eq. 13 weighs by completion"),
        *(
            (f"objective.{head.weight}", getattr(objective, head.weight), "0, for it predicts completion")
            for head in registry.HEADS.values()
            if not head.ranks
        ),
    ):
        require(not value, key, value, f"be {allowed}: {why}")
    for i, feature in enumerate(config.features):
        known = (feature.where, feature.name) != ("interaction", "completion")
        require(known, f"features[{i}].name", feature.name, f"be sessions or age: {why}")


def _check_features(config: Config) -> None:
    seen: set[str] = set()
    for i, feature in enumerate(config.features):
        key = f"features[{i}]"
        require(bool(feature.name), f"{key}.name", feature.name, "not be empty")
        require(feature.name not in seen, f"{key}.name", feature.name, "be unlike the features before it")
        seen.add(feature.name)
        among(f"{key}.kind", feature.kind, registry.FEATURE_KINDS)
        among(f"{key}.where", feature.where, FEATURE_PLACES)
        require(feature.width >= 1, f"{key}.width", feature.width, "be at least 1")
        if feature.where == "interaction":
            _check_interaction(key, feature, config)
        check_context_kinds(key, feature, config)
        if feature.kind == "categories":
            require(
                feature.where == "title", f"{key}.where", feature.where, "be title: only titles have lists"
            )
            require(feature.most >= 1, f"{key}.most", feature.most, "be at least 1: the longest list kept")
        else:
            require(feature.most == 0, f"{key}.most", feature.most, "be 0 unless kind is categories")
    titles = [f for f in config.features if f.where == "title"]
    require(bool(titles), "features", tuple(sorted(seen)), "hold at least one of where='title'")


def _check_interaction(key: str, feature: Feature, config: Config) -> None:
    """Check a feature of the titles of histories: one that is always there, or a signal about titles."""
    signals = {signal.name: signal for signal in config.signals}
    among(f"{key}.name", feature.name, (*INTERACTION_FEATURES, *signals))
    require(feature.kind == "number", f"{key}.kind", feature.kind, "be number, as of every interaction")
    if feature.name in INTERACTION_FEATURES:
        return
    signal = signals[feature.name]
    allowed = f"not be a signal about {signal.about!r}: the positions of a history are titles"
    require(signal.about == "title", f"{key}.name", feature.name, allowed)
    allowed = "not be a signal of text: an interaction is a number"
    require(signal.value != "text", f"{key}.name", feature.name, allowed)


def _check_data(config: Config) -> None:
    data = config.data
    try:
        scheme_of(data.directory)
    except InputError as error:
        raise InputError(f"data.directory={error}") from None
    require(0 <= data.seed < 2**32, "data.seed", data.seed, "be in [0, 2**32)")
    for name in ("num_targets", "negatives", "partitions"):
        require(getattr(data, name) >= 1, f"data.{name}", getattr(data, name), "be at least 1")
    for name in ("truth_queries", "validation_truth_queries", "workers", "request_window_seconds", *POOLS):
        require(getattr(data, name) >= 0, f"data.{name}", getattr(data, name), "be at least 0")
    for name in ("abandon_threshold", "max_invalid_fraction"):
        require(0 <= getattr(data, name) <= 1, f"data.{name}", getattr(data, name), "be in [0, 1]")
    for name in ("max_history", "hard"):  # rows are read as words of four bytes
        value = getattr(data, name)
        require(value >= 4 and value % 4 == 0, f"data.{name}", value, "be a multiple of 4, at least 4")
    _day(config, "earliest", before="latest")
    for name, mix in LIST_MIXES.items():
        for pool in POOLS:
            allowed = (
                f"give the {name} list a whole count of {pool} negatives, {getattr(mix, pool):g} of them"
            )
            require(whole(getattr(mix, pool) * data.negatives), "data.negatives", data.negatives, allowed)


def _day(config: Config, name: str, before: str) -> None:
    """Check that two fields of the data are dates, one before the other."""
    days = []
    for key in (name, before):
        text = getattr(config.data, key)
        try:
            days.append(date.fromisoformat(text))
        except ValueError:
            raise InputError(f"data.{key}={text!r} must be a date, as '2024-01-31'") from None
    allowed = f"be before {before}={getattr(config.data, before)!r}"
    require(days[0] < days[1], f"data.{name}", getattr(config.data, name), allowed)


def _check_split(config: Config) -> None:
    data = config.data
    for name in ("train_share", "validation_share"):
        require(getattr(data, name) > 0, f"data.{name}", getattr(data, name), "be above 0")
    if data.split == "time":
        _day(config, "validation_from", before="test_from")
    for name in ("validation_from", "test_from"):
        value = getattr(data, name)
        require(data.split == "time" or not value, f"data.{name}", value, "be empty unless split is 'time'")
    share = data.validation_share
    if data.split == "users":
        both = data.train_share + share
        allowed = f"leave a share of users for the test with train_share={data.train_share:g}"
        require(both < 1 - 1e-9, "data.validation_share", share, f"{allowed} (they add to {both:g})")
    require(share <= 1, "data.validation_share", share, "be at most 1")


def _check_examples(config: Config) -> None:
    """Check what rows of sequences need."""
    data = config.data
    if config.rows == "ranking":
        return
    require(
        data.num_targets == 1,
        "data.num_targets",
        data.num_targets,
        f"be 1 where task.name is {config.task.name!r}",
    )
    places = ("title",) if data.tokens == PLAYS_ALONE else ("title", "context")
    for i, feature in enumerate(config.features):
        allowed = (
            f"be {' or '.join(places)} where task.name is {config.task.name!r}: their positions have "
            f"features of {'titles alone' if len(places) == 1 else 'titles, and of the context of requests'}"
        )
        selects = data.only.startswith(f"{feature.name}=")  # read in preparation, not by the model
        require(feature.where in places or selects, f"features[{i}].where", feature.where, allowed)
    reason = "for sequences keep seconds since 1970 in 32 bits"
    first, last = date.fromisoformat(data.earliest), date.fromisoformat(data.latest)
    require(first >= _FIRST_DAY, "data.earliest", data.earliest, f"be {_FIRST_DAY} or later, {reason}")
    require(last <= _LAST_DAY, "data.latest", data.latest, f"be {_LAST_DAY} or earlier, {reason}")


DATA_RULES = (
    _check_source, _check_features, check_signals, check_stored_labels, check_availability, _check_data,
    _check_split, check_fold, check_increments, _check_examples, check_served, check_sessions,
    check_impressions, check_tokens,
)  # fmt: skip
