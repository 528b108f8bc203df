"""Share one folder of slates of the tiny run, for two events that overlap and two regions."""

import csv
import json

import numpy as np
import pytest
from event_files import event


@pytest.fixture(scope="session")
def slate_inputs(recommender_of_checkpoint, once):
    """A folder with events.json and licences.csv; the most popular title is that of the second event."""
    arrays = recommender_of_checkpoint.arrays
    most_popular = arrays.title_key[arrays.id_of_rank[0] - 2].item()

    def make(folder):
        folder.mkdir()
        events = [
            event(priority=1, recap_regions=["us"]),
            event("gala", most_popular, start=20, regions=["us"], priority=2),
        ]
        (folder / "events.json").write_text(json.dumps({"events": events}))
        with (folder / "licences.csv").open("w") as file:
            rows = csv.writer(file)
            rows.writerow(["title_id", "region"])
            # "de" lacks every third title, so that its slates differ.
            rows.writerows([key, "us"] for key in arrays.title_key.tolist())
            rows.writerows([key, "de"] for i, key in enumerate(arrays.title_key.tolist()) if i % 3)

    return once("slate-inputs", make)


@pytest.fixture(scope="session")
def build(tiny_run, slate_inputs):
    """Return a function that writes slates of the tiny run to a folder and returns the result."""
    from jaxrec.live_events.segments.rules import parse_rule
    from jaxrec.live_events.slates.building import SlateOptions, build_slates

    def make(folder, segments, **more):
        licences = str(slate_inputs / "licences.csv")
        options = SlateOptions(parse_rule(segments), **({"licences": licences} | more))
        return build_slates(tiny_run / "run", str(slate_inputs / "events.json"), str(folder), options)

    return make


@pytest.fixture(scope="session")
def slates_folder(build, once):
    """Slates of four clusters."""
    return once("slates", lambda folder: build(folder, "kmeans:4"))


@pytest.fixture(scope="session")
def training(tiny):
    from jaxrec.live_events.segments.training_users import training_queries

    return training_queries(tiny)


@pytest.fixture(scope="session")
def title_keys(tiny):
    return np.array([*map(str, tiny.arrays.title_key.tolist())], object)
