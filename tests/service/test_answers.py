"""Answers of the service: equal to the library's, and each documented answer at a limit."""

import asyncio
import json

import jsonschema
import numpy as np
import pytest

import jaxrec.serving
from jaxrec.service.batching import Batcher
from jaxrec.service.metrics import Metrics, RequestMetrics
from jaxrec.service.options import ServiceError, ServiceOptions


@pytest.fixture(scope="module")
def served(export_folder):
    return jaxrec.serving.load(export_folder)


def columns(user, plays):
    table = {name: [play[name] for play in plays] for name in plays[0]}
    return {"user_id": [user] * len(plays), **table}


def test_answers_are_those_of_the_library_in_every_batch(client, served, recommender_of_checkpoint, plays):
    answer = client.post("/v1/recommend", {"history": plays(3), "k": 3}).json()
    best = [title["title"] for title in answer["titles"]]  # of every request: every second one denies them
    bodies = [
        {
            "user": f"u{i}", "history": plays(3 + i, i), "k": 5 + i % 2, "filter_watched": i % 2 == 0,
            "deny": best if i % 2 else [],
        }
        for i in range(6)
    ]  # fmt: skip
    alone = [client.post("/v1/recommend", body).json() for body in bodies]
    client.service.cache.clear()
    together = client.gather(*[("POST", "/v1/recommend", {"json": body}) for body in bodies])
    for body, one, other in zip(bodies, alone, [r.json() for r in together], strict=True):
        filters = jaxrec.Filters(watched=body["filter_watched"], deny=body["deny"])
        for recommender in (served, recommender_of_checkpoint):
            expected = recommender.recommend(columns(body["user"], body["history"]), body["k"], filters)
            spread = np.ptp(expected["score"]) or 1.0
            for answer in (one, other):
                titles = answer["titles"]
                assert [t["rank"] for t in titles] == expected["rank"].tolist()
                scores = np.array([t["score"] for t in titles])
                np.testing.assert_allclose(scores, expected["score"], atol=1e-5 * spread)
                differ = np.array([t["title"] for t in titles]) != expected["title"]
                assert not (np.abs(scores - expected["score"])[differ] > 1e-5 * spread).any()
                assert differ.mean() < 0.5


def test_scores_and_similar_titles_are_those_of_the_library(client, served, plays):
    history, titles = plays(5), served.titles[[5, 3, 3, 100]].tolist()
    answer = client.post("/v1/score", {"user": 1, "history": history, "titles": titles}).json()
    expected = served.score(columns(1, history), titles)
    assert [one["title"] for one in answer["scores"]] == titles
    np.testing.assert_allclose([one["score"] for one in answer["scores"]], expected["score"], atol=1e-5)
    answer = client.post("/v1/similar", {"title": titles[0], "k": 4}).json()
    assert [one["title"] for one in answer["titles"]] == served.similar(titles[:1], 4)["similar"].tolist()


def test_features_context_and_time_of_a_request(client, served, plays):
    history = plays(4)
    users = {"user_id": ["ann"], "device": ["tv"], "time": [history[2]["time"]]}
    expected = served.recommend(columns("ann", history), 3, users=users)
    body = {"user": "ann", "history": history, "k": 3, "features": {"device": "tv"}}
    answer = client.post("/v1/recommend", body | {"time": history[2]["time"]}).json()
    assert [one["title"] for one in answer["titles"]] == expected["title"].tolist()


def test_reasons_are_differences_of_scores(client, served, plays):
    history = plays(3, seed=5)
    body = {"user": 1, "history": history, "k": 2, "explain": True}
    titles = client.post("/v1/recommend", body).json()["titles"]
    base = served.score(columns(1, history), [titles[0]["title"]])["score"][0]
    now = history[-1]["time"] + 1
    for weight in titles[0]["reasons"]["plays"]:
        rest = [play for play in history if play["title_id"] != weight["title"]]
        other = served.score(columns(1, rest), [titles[0]["title"]], now=now)["score"][0]
        np.testing.assert_allclose(weight["weight"], base - other, atol=1e-5)
        assert weight["weight"] > 0
    assert all(len(title["reasons"]["plays"]) <= 3 for title in titles)
    ranks = [title["reasons"]["popularity_rank"] for title in titles]
    assert all(1 <= rank <= len(served.titles) for rank in ranks)


LIMITS = [
    ("a user never seen", "recommend", {"user": "nobody", "k": 3}, 200, ""),
    ("an unknown title to score", "score", {"titles": [5]}, 404, "title 5 is unknown; allowed: "),
    ("an unknown title", "similar", {"title": "x"}, 404, "title 'x' is unknown; allowed: "),
    ("k above the export", "recommend", {"k": 21}, 422, "k=21: Input should be less than or equal to 20"),
    ("k of similar", "similar", {"title": "x", "k": 21}, 422, "k=21: "),
    ("another key", "recommend", {"histroy": []}, 422, "histroy=[]: Extra inputs are not permitted"),
    ("text for a number", "recommend", {"k": "3"}, 422, "k='3': Input should be a valid integer"),
    ("no titles", "score", {"titles": []}, 422, "titles=[]: "),
    ("too many with reasons", "recommend", {"k": 20, "explain": True}, 200, ""),
    (
        "a wrong time",
        "recommend",
        {"time": "yesterday"},
        422,
        "users, column 'time', row 1='yesterday'; allowed: a time such as",
    ),
]


@pytest.mark.parametrize("name, route, body, status, message", LIMITS, ids=[case[0] for case in LIMITS])
def test_a_limit_has_its_answer(client, name, route, body, status, message):
    response = client.post(f"/v1/{route}", body)
    assert response.status_code == status, response.text
    assert status == 200 or response.json()["error"].startswith(message), response.text


def test_histories_at_the_limits(client, served, plays):
    answer = client.post("/v1/recommend", {"k": 3}).json()
    assert answer["empty_history"] and len(answer["titles"]) == 3 and answer["user"] is None
    unknown = [play | {"title_id": 5} for play in plays(4)]
    answer = client.post("/v1/recommend", {"history": unknown, "k": 3}).json()
    assert answer["empty_history"] and answer["plays_of_unknown_titles"] == 4
    long = plays(10_000)
    answer = client.post("/v1/recommend", {"history": long, "k": 3, "filter_watched": False}).json()
    expected = served.recommend(columns(1, long), 3, jaxrec.Filters(watched=False))
    assert [one["title"] for one in answer["titles"]] == expected["title"].tolist()
    response = client.post("/v1/recommend", {"history": [*long, long[0]]})
    assert response.status_code == 422 and response.json()["error"].startswith("history: List should have")
    titles = served.titles[:3].tolist()
    answer = client.post("/v1/recommend", {"allow": titles, "deny": titles[:2], "k": 3}).json()
    assert [one["title"] for one in answer["titles"]] == titles[2:]
    assert client.post("/v1/recommend", {"allow": [], "k": 3}).json()["titles"] == []


def test_bodies_that_are_not_served(client):
    for content, status, message in (
        (b"{nope", 400, "the body is not JSON: key must be a string at line 1 column 2"),
        (b"\xff", 400, "the body is not JSON: "),
        (b"[]", 422, "body=[]: Input should be an object"),
        (b" " * (2**21 + 1), 413, "the body is too large; allowed: 2097152 bytes"),
        (b'{"history":[{"title_id":1,"time":1,"seconds_viewed":NaN}]}', 422, "history.0.seconds_viewed"),
    ):
        response = client.request("POST", "/v1/recommend", content=content)
        assert response.status_code == status, response.text
        assert response.json()["error"].startswith(message)
    assert client.get("/nowhere").status_code == 404
    assert client.get("/v1/recommend").json() == {"error": "Method Not Allowed"}
    assert client.get("/v1/titles?limit=0").status_code == 422
    assert client.get(f"/v1/titles?text={'a' * 201}").status_code == 422


def test_a_number_without_a_fraction_is_a_whole_number(client, plays):
    """JSON Schema's integer: 5.0 is one, 5.5 is none."""
    body = {"history": plays(4, 12), "k": 5}
    as_floats = [play | {"title_id": float(play["title_id"])} for play in body["history"]]
    expected = client.post("/v1/recommend", body).json()
    assert client.post("/v1/recommend", {"history": as_floats, "k": 5.0}).json() == expected
    refused = client.post("/v1/recommend", body | {"k": 5.5})
    assert refused.status_code == 422 and "k" in refused.json()["error"]


def test_a_repeated_request_is_answered_by_the_cache(client, plays):
    body = {"user": "cached", "history": plays(4, 77), "k": 3}
    first = client.post("/v1/recommend", body)
    batches = client.service.metrics.batch._sum.get()
    assert client.post("/v1/recommend", dict(reversed(body.items()))).content == first.content
    assert client.service.metrics.batch._sum.get() == batches
    changed = body | {"history": [body["history"][0] | {"seconds_viewed": 1.0}, *body["history"][1:]]}
    for other in (body | {"k": 4}, body | {"user": "other"}, changed):
        client.post("/v1/recommend", other)
    assert client.service.metrics.batch._sum.get() == batches + 3
    assert 'jaxrec_cache_lookups_total{result="hit"}' in client.get("/metrics").text


def test_the_cache_drops_the_least_recent_answer():
    from jaxrec.service.answers.cache import AnswerCache, cache_key

    cache = AnswerCache(2)
    for key in (b"a", b"b"):
        cache.put(key, key)
    assert cache.get(b"a") == b"a"
    cache.put(b"c", b"c")
    assert cache.get(b"b") is None and cache.get(b"a") == b"a" and len(cache) == 2
    assert cache_key("ab", "c", b"") != cache_key("a", "bc", b"")


def test_a_full_queue_and_a_late_answer():
    batcher = Batcher(ServiceOptions(max_queue=1, timeout=0.01), Metrics())  # its thread does not run

    async def fill():
        late = asyncio.create_task(batcher.submit(lambda: 1))
        await asyncio.sleep(0)
        with pytest.raises(ServiceError) as full:
            await batcher.submit(lambda: 2)
        with pytest.raises(ServiceError) as timeout:
            await late
        return full.value, timeout.value

    full, timeout = asyncio.run(fill())
    assert (full.status, full.retry_after, timeout.status) == (503, 1, 504)
    assert full.message.startswith("1 requests wait; ") and "no answer within 0.01 s" in timeout.message


def test_one_failure_leaves_the_others_of_a_batch(client, plays, monkeypatch):
    model, answer = client.service.holder.model, type(client.service.holder.model).answer

    def failing(self, jobs):
        if any(job.user == "bad" for job in jobs):
            raise ValueError("bad")
        return answer(self, jobs)

    monkeypatch.setattr(type(model), "answer", failing)
    calls = [
        ("POST", "/v1/recommend", {"json": {"user": u, "history": plays(2, 9)}}) for u in ("bad", "good")
    ]
    assert [r.status_code for r in client.gather(*calls)] == [500, 200]


def test_requests_are_counted_by_route_and_status(client, plays):
    metrics = client.service.metrics

    def counts():
        pairs = [("/v1/recommend", status) for status in ("200", "422", "500")] + [("unknown", "404")]
        return [metrics.requests.labels(*pair)._value.get() for pair in pairs]

    before, seconds = counts(), metrics.seconds.labels("/v1/recommend")._sum.get()
    client.post("/v1/recommend", {"history": plays(2, 31)})
    client.post("/v1/recommend", {"history": plays(2, 31), "k": 0})
    client.get("/nowhere")
    assert [b - a for a, b in zip(before, counts(), strict=True)] == [1, 1, 0, 1]
    assert metrics.seconds.labels("/v1/recommend")._sum.get() > seconds


def test_an_error_that_no_handler_answers_is_counted_as_500():
    metrics = Metrics()

    async def failing(scope, receive, send):
        raise RuntimeError("broken")

    async def call(kind):
        await RequestMetrics(failing, metrics)({"type": kind}, None, None)

    for kind in ("http", "lifespan"):
        with pytest.raises(RuntimeError):
            asyncio.run(call(kind))
    assert metrics.requests.labels("unknown", "500")._value.get() == 1


def test_answers_fit_the_openapi_description(client, plays):
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/recommend", "/v1/search", "/v1/score", "/v1/similar", "/v1/titles", "/v1/manifest", "/healthz",
        "/readyz", "/metrics",
    }  # fmt: skip
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            options = {}
            if method == "post":
                options["json"] = operation["requestBody"]["content"]["application/json"]["example"]
            response = client.request(method.upper(), path, **options)
            if path == "/v1/search":  # `test_search.py` has a model that reads queries
                assert response.status_code == 422 and "reads no query" in response.text
                continue
            assert response.status_code == 200, (path, response.text)
            if path != "/metrics":
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
                jsonschema.validate(response.json(), schema | {"components": description["components"]})
    for body in ({"k": 0}, {"history": [*plays(1), {}]}):
        response = client.post("/v1/recommend", body)
        assert str(response.status_code) in description["paths"]["/v1/recommend"]["post"]["responses"]
        assert set(json.loads(response.text)) == {"error"}


def test_titles_are_found_by_name_and_shown_with_it(client, monkeypatch):
    """Names of the popular titles 1 and 3; the key of title 2 is no part of them."""
    model = client.service.holder.model
    first, second, third = model.find_titles("", 3)
    assert [title["popularity_rank"] for title in (first, second, third)] == [1, 2, 3]
    names = np.array([""] * len(model.titles), object)
    for title, name in ((first, "The Long Night"), (third, "Night Train")):
        names[model.titles.index(title["title"])] = name
    by_rank = model.recommender.arrays.id_of_rank - 2
    texts = np.array([f"{names[row]}\n{model.titles[row]}".lower() for row in by_rank.tolist()])
    monkeypatch.setattr(model, "names", names)
    monkeypatch.setattr(model, "_texts", texts)
    matches = client.get("/v1/titles?text=NIGHT&limit=5").json()["titles"]
    assert [(t["title"], t["name"]) for t in matches] == [
        (first["title"], "The Long Night"), (third["title"], "Night Train"),
    ]  # fmt: skip
    assert [t["title"] for t in client.get(f"/v1/titles?text={second['title']}").json()["titles"]] == [
        second["title"]
    ]
