"""Searches over HTTP: the model with the query as a context, its documented limits, and the demo page."""

import jsonschema
import numpy as np
import pytest

from jaxrec.service.answers.search import SearchColumns
from jaxrec.service.options import ServiceError
from jaxrec.service.schemas import Column
from jaxrec.serving import load
from jaxrec.serving.filters import Filters


@pytest.fixture(scope="module")
def search_client(make_client, searching):
    return make_client(searching, max_batch=2)


def play(client, i):
    titles = client.service.holder.model.titles
    return {"title_id": titles[i], "time": 1_735_689_600_000 + i, "seconds_viewed": 3000.0}


def test_a_search_is_a_request_with_a_query_on_the_canvas_of_searches(search_client):
    model = search_client.service.holder.model
    assert model.names is not None and all(model.names)
    query, history = str(model.names[3])[:2], [play(search_client, i) for i in (5, 9)]
    body = {"history": history, "k": 5, "matches_first": False}
    answer = search_client.post("/v1/search", body | {"query": query}).json()
    assert {title["match"] for title in answer["titles"]} == {None}
    assert answer["query"] == query and len(answer["titles"]) == 5 and not answer["empty_history"]
    features = {"canvas": "search", "query": query}
    same = search_client.post(
        "/v1/recommend",
        {
            "history": history,
            "k": 5,
            "features": features,
            "filter_watched": False,
            "filter_abandoned": False,
        },
    ).json()
    assert [{**title, "match": None} for title in same["titles"]] == answer["titles"]
    other = search_client.post("/v1/search", body | {"query": str(model.names[40])[:4]}).json()
    scores = [[t["score"] for t in a["titles"]] for a in (answer, other)]
    assert scores[0] != scores[1]
    on_page = {"features": {"canvas": "similar", "source": model.titles[7]}}
    paged = search_client.post("/v1/search", body | {"query": query} | on_page).json()
    assert [t["score"] for t in paged["titles"]] != scores[0]  # the canvas of the request comes first


@pytest.mark.parametrize(
    "query", ["", "b", "ba", "x" * 10_000, "поиск", "\U0001f600\U0001f525", "a\0b", "  ", "北京"]
)
def test_any_query_is_answered_for_nobody(search_client, query):
    response = search_client.post("/v1/search", {"query": query, "k": 3})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["query"] == query and len(answer["titles"]) == 3 and answer["empty_history"]
    assert answer["order"] == "top picks" and all(np.isfinite(t["score"]) for t in answer["titles"])


def test_an_empty_query_is_none_and_later_characters_are_not_read(search_client):
    def titles(query, **body):
        body = {"query": query, "k": 5, "matches_first": False} | body
        return search_client.post("/v1/search", body).json()["titles"]

    assert titles("") == titles("   ")
    assert titles("ba" * 64 + "zzz") == titles("ba" * 64)
    assert titles("BA") == titles("ba")
    model = search_client.service.holder.model
    source = model.titles[11]
    page = {"features": {"source": source}}
    named = titles(str(model.names[11]), **page)
    assert titles("", **page) == named  # the name of the page's title stands for no query
    unknown = titles("ba", features={"source": "nowhere"})
    assert unknown != titles("ba")  # the vector of the unknown title is not that of none


def test_a_canvas_never_trained_on_is_the_unknown_canvas(search_client, searching):
    """The documented meaning, the same over HTTP and in Python; a missing canvas is the most frequent one."""
    query, history = "ba", [play(search_client, i) for i in (5, 9)]

    def over_http(path, **features):
        body = {"history": history, "k": 5, "filter_watched": False, "filter_abandoned": False}
        body |= {"features": features}
        body |= {"query": query, "matches_first": False} if path == "search" else {}
        return [(t["title"], t["score"]) for t in search_client.post(f"/v1/{path}", body).json()["titles"]]

    unknown = over_http("search", canvas="kids")
    assert unknown == over_http("search", canvas="\U0001f600") != over_http("search")
    home = over_http("recommend", canvas="home", query=query)
    assert home == over_http("recommend", query=query) != unknown

    served = load(str(searching))
    plays = {name: [one[name] for one in history] for name in history[0]} | {"user_id": ["u", "u"]}
    for canvas, expected in (("kids", unknown), ("home", home)):
        users = {"user_id": ["u"], "canvas": [canvas], "query": [query]}
        columns = served.recommend(plays, 5, Filters(watched=False, abandoned=False), users=users).columns
        assert columns["title"].tolist() == [title for title, _ in expected]
        np.testing.assert_allclose(columns["score"], [score for _, score in expected], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "body, status, message",
    [
        ({}, 422, "query: Field required"),
        ({"query": 3}, 422, "query=3: Input should be a valid string"),
        ({"query": "ba", "k": 0}, 422, "k=0"),
        ({"query": "ba", "k": 100}, 422, "k=100: Input should be less than or equal to 20"),
        ({"query": "b" * 70_000}, 422, "at most 65536 characters"),
        ({"query": "ba", "page": 1}, 422, "page"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(search_client, body, status, message):
    response = search_client.post("/v1/search", body)
    assert response.status_code == status and message in response.json()["error"]
    assert len(response.json()["error"].splitlines()) == 1


def test_the_description_has_the_route_and_its_example_is_answered(search_client):
    description = search_client.get("/openapi.json").json()
    operation = description["paths"]["/v1/search"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["example"]
    assert body["query"] == "ba"
    answer = search_client.post("/v1/search", body)
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), schema | {"components": description["components"]})
    assert {"400", "401", "413", "422", "503"} <= set(operation["responses"])


def test_the_page_has_a_search_box_where_the_model_reads_queries(search_client):
    columns = search_client.get("/v1/manifest").json()["columns"]
    assert [c["name"] for c in columns.values() if c["kind"] == "free text"] == ["query"]
    page = search_client.get("/").text
    assert 'id="query"' in page and '"/v1/search"' in page and 'id="searching" hidden' in page


def test_a_model_without_queries_refuses_a_search():
    columns = (Column("feature_0", "device", "category", "device"),)
    with pytest.raises(ServiceError, match="this model reads no query"):
        SearchColumns(columns, []).fill({}, "ba")
    text, canvas = Column("f1", "q", "free text", "query"), Column("f2", "c", "category", "canvas")
    filled = SearchColumns((*columns, text, canvas), ["home", "search"])
    assert filled.fill({"c": ["home"]}, "ba") == {"c": ["home"], "q": ["ba"]}
    assert filled.fill({}, "ba") == {"c": ["search"], "q": ["ba"]}
    assert SearchColumns((text, canvas), ["home"]).fill({}, "ba") == {"q": ["ba"]}


def test_titles_that_match_come_first_in_the_order_of_the_model(search_client):
    """A loop over all titles gives the list: by level of the match, then by the score of the model."""
    model = search_client.service.holder.model
    k, query = 20, str(model.names[3])[:2].upper()
    history = [play(search_client, i) for i in (5, 9)]
    body = {"query": query, "k": k, "history": history}
    scores = search_client.post(
        "/v1/score",
        {"history": history, "features": {"canvas": "search", "query": query}, "titles": model.titles},
    ).json()["scores"]
    genres = model.recommender.genres()

    def level(row):
        name = str(model.names[row]).lower()
        if name.startswith(query.lower()):
            return 2
        return int(any(word.startswith(query.lower()) for word in name.split()[1:]))

    assert genres is not None and query.lower() not in {g.lower() for g in genres.values.tolist()}
    order = sorted(range(len(scores)), key=lambda row: (-level(row), -scores[row]["score"]))
    levels = [level(row) for row in order]
    assert 0 < levels.count(2) < k and levels.count(1) and levels.count(2) + levels.count(1) < len(levels)
    answer = search_client.post("/v1/search", body).json()["titles"]
    assert [title["title"] for title in answer] == [model.titles[row] for row in order[:k]]
    assert [title["match"] for title in answer] == [("", "word", "name")[x] or None for x in levels[:k]]
    assert [title["rank"] for title in answer] == [*range(1, k + 1)]
    np.testing.assert_allclose(
        [title["score"] for title in answer],
        [scores[row]["score"] for row in order[:k]],
        rtol=1e-4,
        atol=1e-6,
    )
    few = search_client.post("/v1/search", body | {"k": 2}).json()["titles"]
    assert few == answer[:2]
    denied = search_client.post("/v1/search", body | {"deny": [answer[0]["title"]]}).json()["titles"]
    assert [t["title"] for t in denied[:5]] == [t["title"] for t in answer[1:6]]


def test_a_genre_is_found_by_its_name(search_client):
    model = search_client.service.holder.model
    genres = model.recommender.genres()
    genre = str(genres.values[0])
    answer = search_client.post("/v1/search", {"query": f" {genre.upper()} ", "k": 5}).json()["titles"]
    for title in answer:
        (id_,) = model.ids([title["title"]]).tolist()
        assert genre in model._genres_of(id_) or title["match"] is None
    assert answer[0]["match"] == "name"


def test_requests_of_all_kinds_share_a_batch(search_client):
    """Lists of searches and of recommendations are those that each has alone."""
    model = search_client.service.holder.model
    query = str(model.names[3])[:2]
    history = [play(search_client, i) for i in (5, 9)]
    search = model.search_job(model.schemas.search(query=query, k=9, history=history))
    plain = model.recommend_job(model.schemas.recommend(k=3, history=history))
    together, alone = model.answer([search, plain]), [*model.answer([search]), *model.answer([plain])]
    for ours, theirs in zip(together, alone, strict=True):
        assert [t["title"] for t in ours["titles"]] == [t["title"] for t in theirs["titles"]]
        scores = [[t["score"] for t in x["titles"]] for x in (ours, theirs)]
        np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-6)
    assert [len(answer["titles"]) for answer in together] == [9, 3]
