"""Slates of a trained model: means, titles that may be shown, the same bytes twice."""

import json
import shutil

import jsonschema
import numpy as np
import polars as pl
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.live_events.segments.assignment import assign, offset_segments
from jaxrec.live_events.segments.rules import parse_rule
from jaxrec.live_events.slates import folder as folders
from jaxrec.live_events.slates.payloads import SCHEMA
from jaxrec.live_events.slates.streamed import SegmentScorer, UserRanker, UserVectors, rank_titles
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import load_checkpoint


@pytest.fixture(scope="module")
def parts(recommender_of_checkpoint):
    """Task, parameters, table and correction of the tiny run."""
    r = recommender_of_checkpoint
    return r.loaded.task, r.loaded.params, replicate(r.loaded.task.title_table(r.arrays)), r.correction


@pytest.fixture(scope="module")
def probability(recommender_of_checkpoint, training):
    """Softmax [U, V - 2] of the scores of the recommender, in float64."""
    ids = np.arange(FIRST_TITLE, FIRST_TITLE + 200)
    scores = recommender_of_checkpoint._scorer.scores(training, ids).astype(np.float64)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_means_over_segments_are_those_of_all_probabilities(parts, training, probability):
    task, params, table, correction = parts
    segment = np.stack([np.arange(len(training)) % 3, 3 + np.arange(len(training)) % 2], axis=1)
    means = SegmentScorer(task, table, correction, 6, 2)(params, training, segment)
    assert means.users.tolist() == [79, 79, 79, 119, 118, 0]
    for s in range(5):
        of_segment = probability[(segment == s).any(axis=1)]
        np.testing.assert_allclose(means.probability[s, FIRST_TITLE:], of_segment.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(
            means.log_probability[s, FIRST_TITLE:], np.log(of_segment).mean(axis=0), atol=1e-4
        )
    # A segment without users has the means of all users of its segmentation.
    empty = means.select(slice(3, 6)).probability[2, FIRST_TITLE:]
    np.testing.assert_allclose(empty, probability.mean(axis=0), rtol=1e-4)


def test_users_go_to_the_nearest_centroid_of_their_vectors(parts, training):
    task, params, table, _ = parts
    vectors = UserVectors(task, table)
    of_all = vectors.all(params, training)
    assert of_all.shape[0] == len(training) and of_all.std(axis=0).max() > 0
    centroids = of_all[::40], of_all[:7]
    segment = vectors.assign(params, training, centroids)
    for a, of_set in enumerate(centroids):
        expected = np.linalg.norm(of_all[:, None] - of_set[None], axis=2).argmin(axis=1)
        assert (segment[:, a] == expected).mean() > 0.99


def test_user_slates_are_the_best_titles_of_each_region(parts, training, probability, tiny):
    task, params, table, correction = parts
    eligible = np.zeros((2, 202), bool)
    eligible[0, FIRST_TITLE:], eligible[1, FIRST_TITLE::2] = True, True
    best = UserRanker(task, table, correction, eligible, 20)(params, training[:30])
    for region, mask in enumerate(eligible[:, FIRST_TITLE:]):
        for user in range(30):
            of_user = np.where(mask, probability[user], -1)
            shown = of_user[best[user, region] - FIRST_TITLE]
            np.testing.assert_allclose(shown, np.sort(of_user)[::-1][:20], rtol=1e-4)


def test_of_equal_means_the_more_popular_title_comes_first():
    means = np.array([[9.0, 9, 1, 3, 3, 5]])
    ranked = rank_titles(
        means, np.array([False, False, True, True, True, False]), np.array([9, 9, 0, 2, 1, 3]), 4
    )
    assert ranked.tolist() == [[4, 3, 2, 0]]


def every_slate(folder, manifest):
    """Yield event, stage, region and the payload of each segment, all of which fit the schema."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    read = {p["hash"]: json.loads(folders.read_payload(folder, p["hash"])) for p in manifest["payloads"]}
    for document in read.values():
        validator.validate(document)
    for event, stages in manifest["slates"].items():
        for stage, regions in stages.items():
            for region in regions:
                for segment in range(len(manifest["segments"]["names"])):
                    name = folders.payload_of(manifest, event, stage, region, segment)
                    yield event, stage, region, read[name]


@pytest.mark.parametrize("segments", ["kmeans:4", "feature:segment", "one", "user"])
def test_slates_hold_licensed_titles_once_and_slots_alone_hold_events(
    build, slates_folder, tmp_path, segments, title_keys, tiny
):
    folder = slates_folder
    if segments != "kmeans:4":
        folder = tmp_path / "slates"
        build(folder, segments, titles=5, spare=5)
    manifest = folders.read_manifest(folder)
    titles, spare = manifest["titles"], manifest["spare"]
    popular = str(tiny.arrays.title_key[tiny.arrays.id_of_rank[0] - 2])
    unlicensed, of_events = {*title_keys[::3]}, {"fight-2026", popular}
    checked = 0
    for event, stage, region, document in every_slate(folder, manifest):
        slots = [slot["title"] for slot in document["slots"]]
        expected = stage != "cancelled" and (event == "fight" or region == "us")
        expected &= not (stage == "ended" and region == "de")
        assert slots == [{"fight": "fight-2026", "gala": popular}[event]] * expected
        ranked = [t for t in (*document["titles"], *document["spare"]) if t not in slots]
        assert len(document["titles"]) == titles and len(ranked) == titles + spare
        assert len({*ranked}) == len(ranked) and not {*ranked} & of_events
        assert {*ranked} <= {*title_keys} and not (region == "de" and {*ranked} & unlicensed)
        checked += len(document["titles"])
    names = manifest["segments"]["names"]
    assert checked == titles * len(names) * 5 * 2 * 2
    users = pl.read_parquet(folder / folders.SEGMENTS)
    keys = np.concatenate(
        [tiny.user_keys(s)[np.unique(tiny.rows(s).all()["user"])] for s in ("validation", "test")]
    )
    assert users["user"].to_list() == keys.tolist() and users["segment"].max() < len(names)
    assert names[-1] == "default"


def test_the_same_checkpoint_has_the_same_bytes(build, slates_folder, tmp_path):
    result = build(tmp_path / "again", "kmeans:4")
    files = {p.relative_to(slates_folder): p.read_bytes() for p in slates_folder.rglob("*") if p.is_file()}
    again = tmp_path / "again"
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert result["kappa"] == len(files) - 2 and result["places"] == 40 * 5 * 5 * 2 * 2
    # Two events, five stages and two regions share slates where they are equal.
    assert result["kappa"] < result["slates"]


def test_slates_of_a_segment_are_in_the_order_of_its_means(
    tiny_run, tiny, training, slates_folder, title_keys
):
    loaded = load_checkpoint(tiny_run / "run", "best")
    table = replicate(loaded.task.title_table(loaded.arrays))
    correction = load_or_fit_correction(tiny_run / "run", loaded, table, tiny)
    (own,) = assign(loaded, tiny, table, [parse_rule("kmeans:4")], training, tiny.rows("test").all()[:8])
    segment, (part,) = offset_segments([own])
    means = SegmentScorer(loaded.task, table, correction, 4, 1)(loaded.params, training, segment).select(part)
    everyone = means.users[None] @ means.probability
    rank, eligible = loaded.arrays.rank_of_id, np.arange(202) >= FIRST_TITLE
    eligible &= rank != 0  # the title of an event
    expected = rank_titles(np.concatenate([means.probability, everyone]), eligible, rank, 60)
    manifest = folders.read_manifest(slates_folder)
    slates = [d for *key, d in every_slate(slates_folder, manifest) if key == ["fight", "cancelled", "us"]]
    for document, ids in zip(slates, expected, strict=True):
        assert [*document["titles"], *document["spare"]] == title_keys[ids - FIRST_TITLE].tolist()


def test_another_folder_and_too_few_titles_are_refused(build, slates_folder, slate_inputs, tmp_path):
    with pytest.raises(InputError, match="allowed: a new or an empty folder"):
        build(slates_folder, "one")
    with pytest.raises(InputError, match=r"region 'de': 13. titles may be on the slates of"):
        build(tmp_path / "o", "one", titles=190)
    with pytest.raises(InputError, match="--segments=kmeans:999; allowed: K up to 237, the training users"):
        build(tmp_path / "o", "kmeans:999")
    assert not (tmp_path / "o").exists()


def test_a_damaged_folder_is_refused(slates_folder, tmp_path):
    copy = shutil.copytree(slates_folder, tmp_path / "copy")
    manifest = folders.read_manifest(copy)
    name = manifest["payloads"][0]["hash"]
    (copy / folders.PAYLOADS / f"{name}.json").write_text("{}")
    with pytest.raises(InputError, match=f"payload {name} is damaged"):
        folders.read_payload(copy, name)
    with pytest.raises(InputError, match="is damaged"):
        folders.read_payload(copy, "../manifest")
    broken = manifest | {"slates": {"fight": {"live": {"us": [0]}}}}
    (copy / "manifest.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="has 1 of 5 segments; make the slates again"):
        folders.read_manifest(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: No such file"):
        folders.read_manifest(copy)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("match", "live", "us", 0), "event='match' has no slates; allowed: "),
        (("fight", "half", "us", 0), "stage='half' has no slates; allowed: "),
        (("fight", "live", "fr", 0), "region='fr' has no slates; allowed: de, us"),
        (("fight", "live", "us", 5), "segment=5; allowed: 0 to 4"),
    ],
)
def test_a_slate_that_is_not_there_is_refused(slates_folder, key, message):
    with pytest.raises(InputError, match=message):
        folders.payload_of(folders.read_manifest(slates_folder), *key)
