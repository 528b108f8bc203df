"""Counts of the values of a column: the most frequent one, by any division into chunks."""

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.ids import UNKNOWN
from jaxrec.data.columns.category_codes import CountedCodes
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn

DEVICE = Feature("device", "category", "context", 4, impute="most_frequent")


def test_the_most_frequent_value_of_equals_is_the_first():
    codes = CountedCodes()
    codes.encode(np.array(["b", "", "a", ""]))
    codes.encode(np.array(["c", "b", "a", ""]))
    values, _ = codes.finish()
    assert codes.counts() == {"b": 2, "a": 2, "c": 1} and values == ["a", "b", "c"]
    assert codes.most_frequent(values) == 2
    assert CountedCodes().most_frequent([]) == UNKNOWN
    unseen = CountedCodes()
    assert unseen.most_frequent(["a"]) == UNKNOWN  # a value of an earlier dataset alone


def test_chunks_of_other_workers_have_the_counts_of_all():
    chunks = [np.array(["tv", "web"]), np.array(["web", "tv", "web"]), np.array(["", "phone"])]
    whole, fitted = FeatureColumns((DEVICE,), "context"), FittedColumn()
    for i in (2, 0, 1):
        own, part = FeatureColumns((DEVICE,), "context"), FittedColumn()
        own.add({"device": chunks[i]}, len(chunks[i]))
        part.add(own.fitted(i))
        fitted.add(part)
    whole.finish_from(fitted)
    alone = FeatureColumns((DEVICE,), "context")
    for chunk in chunks:
        alone.add({"device": chunk}, len(chunk))
    alone.finish()
    assert whole.specs == alone.specs and whole.specs[0].imputed == 4  # phone, tv, web
