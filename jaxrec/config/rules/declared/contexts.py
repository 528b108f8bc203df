"""Rules of text, of titles that contexts name, of missing contexts, and of titles that match a text."""

from jaxrec.config.schema import Config, Feature
from jaxrec.config.tree import among, require

NULL, MOST_FREQUENT, NAME_OF = "null", "most_frequent", "name_of:"


def named_title(feature: Feature) -> str:
    """Return the feature whose title's name stands for a missing value of a text; "" for another rule."""
    return feature.impute.removeprefix(NAME_OF) if feature.impute.startswith(NAME_OF) else ""


def check_context_kinds(key: str, feature: Feature, config: Config) -> None:
    """Check the kinds "text" and "title" of a feature, and its rule for missing values."""
    if feature.kind == "text":
        _check_text(key, feature, config)
    if feature.kind == "title":
        allowed = "be context with kind='title': the title of a page"
        require(feature.where == "context", f"{key}.where", feature.where, allowed)
        _check_presence(key, feature)
    _check_impute(f"{key}.impute", feature, config)


def _check_text(key: str, feature: Feature, config: Config) -> None:
    """Check a feature of text: where it is, and its width, since all of them share one table."""
    allowed = "be title or context with kind='text': names of titles, and queries"
    require(feature.where in ("title", "context"), f"{key}.where", feature.where, allowed)
    _check_presence(key, feature)
    first = next(f for f in config.features if f.kind == "text")
    allowed = f"be {first.width}, as of feature {first.name!r}: all text features share one table"
    require(feature.width == first.width, f"{key}.width", feature.width, allowed)


def _check_presence(key: str, feature: Feature) -> None:
    require(feature.width >= 2, f"{key}.width", feature.width, "be at least 2: the last column is presence")


def _check_impute(key: str, feature: Feature, config: Config) -> None:
    """Check the rule for missing values: its name, the feature that it reads, and the kind that it is for."""
    rule, source = feature.impute, named_title(feature)
    if not rule.startswith(NAME_OF):
        among(key, rule, (NULL, MOST_FREQUENT, f"{NAME_OF}<feature>"))
    if rule == NULL:
        return
    allowed = f"be {NULL!r} unless where='context': other features are not those of a request"
    require(feature.where == "context", key, rule, allowed)
    if rule == MOST_FREQUENT:
        require(feature.kind == "category", key, rule, f"be {NULL!r} unless kind='category'")
        return
    require(feature.kind == "text", key, rule, f"be {NULL!r} unless kind='text': names are text")
    titles = [f.name for f in config.features if f.where == "context" and f.kind == "title"]
    require(bool(titles), key, rule, f"be {NULL!r}: no feature has kind='title' and where='context'")
    among(key, source, titles)
    has_names = any(f.where == "title" and f.kind == "text" for f in config.features)
    require(has_names, key, rule, f"be {NULL!r}: no feature of titles has kind='text'")


def check_matching(config: Config) -> None:
    """Check the stored titles that match the text of a request, and those that training takes."""
    stored, taken = config.data.matching, config.sampling.matching
    require(stored >= 0, "data.matching", stored, "be at least 0")
    require(
        0 <= taken <= stored, "sampling.matching", taken, f"be in [0, {stored}], with data.matching={stored}"
    )
    if not stored:
        return
    is_request = config.rows == "ranking" and config.data.examples == "requests"
    allowed = "be 0 unless rows are of requests: other rows have no text"
    require(is_request, "data.matching", stored, allowed)
    for where, what in (("context", "queries"), ("title", "names")):
        has_text = any(f.where == where and f.kind == "text" for f in config.features)
        require(
            has_text,
            "data.matching",
            stored,
            f"be 0: no feature has kind='text' and where={where!r} ({what})",
        )
    drawn = config.sampling.negatives - round(config.sampling.mix.hard * config.sampling.negatives)
    allowed = f"be at most {drawn}, the negatives that are not hard"
    require(taken <= drawn, "sampling.matching", taken, allowed)
