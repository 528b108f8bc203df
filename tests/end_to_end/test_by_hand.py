"""From raw plays to the final tables, on a service of twelve users: every figure again by plain loops."""

import json
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import NamedTuple

import hand_loops as loops
import hand_service as service
import numpy as np
import pytest
from hand_service import SPACING, TITLES, USERS
from scipy import stats

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.json_io import write_json
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import per_user
from jaxrec.evaluation.correction import candidate_shifts
from jaxrec.evaluation.details.validator import Validator
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import per_query
from jaxrec.evaluation.results import per_user as per_user_columns
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import TitleScores
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import trainer

LISTS = ("enabled", "disabled")
FIRST, SECOND = service.parameters(11), service.parameters(9)  # after the first epoch, and after the second
UNUSED = service.parameters(1)
EXACT = {"rel": 1e-6, "abs": 1e-9}


class FixedSteps:
    """Steps without gradients: at the end of an epoch the averaged parameters are those of a table.

    The parameters themselves are others, which no evaluation reads. `seen` collects (step, validation loss,
    whether it is fresh) before each step.
    """

    def __init__(self, dataset, per_epoch):
        self._keys, self._per_epoch, self.seen = dataset.arrays.title_key, per_epoch, []

    def lower(self, *arguments):
        return lambda: None

    def __call__(self, state, batch, table):
        self.seen.append((int(state.step), float(state.validation), bool(state.fresh)))
        step = int(state.step) + batch.steps
        chosen = FIRST if step <= self._per_epoch else SECOND
        tables = [service.as_params(p, self._keys) for p in (UNUSED, chosen)]
        params, average, at, used = replicate((*tables, np.int32(step), np.bool_(False)))
        sums = {"loss": (np.float32(8), np.float32(8)), "gradient_norm": (np.float32(1), np.float32(1))}
        return state._replace(params=params, average=average, step=at, fresh=used), replicate(sums)


class Run(NamedTuple):
    """The finished run, and its evaluations of the best and of the last checkpoint."""

    workdir: object
    dataset: Dataset
    steps: FixedSteps
    best: object
    last: object


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hand")
    config = service.config()
    config.data.directory, config.optimizer.ema_decay = str(folder / "data"), 0.5
    prepare(service.HandSource(), config, folder / "data")
    dataset = Dataset(folder / "data")
    steps = FixedSteps(dataset, dataset.rows("train").rows // 8)
    with pytest.MonkeyPatch.context() as patch:
        service.use_table(patch)
        patch.setattr(trainer, "parallelize_step", lambda *arguments: steps)
        trainer.train(config, dataset, folder / "run", SimpleNamespace(requested=None))
        lists = EvaluationOptions(lists=(*LISTS, "catalogue"), heads=True)
        best = evaluate(folder / "run", lists)
        last = evaluate(folder / "run", EvaluationOptions(heads=True), which="last")
    return Run(folder / "run", dataset, steps, best, last)


# ---------------------------------------------------------------- queries and their lists


def queries_of(dataset, split="test"):
    """Return (query by loops, row of the dataset) in the order of the rows."""
    by_key = {(q.user, q.position): q for q in loops.queries(split)}
    rows, keys = dataset.rows(split).all(), dataset.user_keys(split)
    pairs = [(by_key.pop((str(keys[row["user"]]), int(row["position"]))), row) for row in rows]
    assert not by_key  # every query has a row
    return pairs


def titles_of(dataset, ids):
    return [str(dataset.arrays.title_key[i - FIRST_TITLE]) if i >= FIRST_TITLE else "" for i in ids]


def candidates(dataset, row, name, k):
    return titles_of(dataset, [row["target"][k], *row[f"list_{name}"][k]])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rows_hold_the_histories_and_targets_of_the_log(run, split):
    for query, row in queries_of(run.dataset, split):
        assert titles_of(run.dataset, row["target"]) == query.titles + [""] * (3 - len(query.titles))
        history = [""] * (4 - len(query.history)) + [title for title, _, _ in query.history]
        assert titles_of(run.dataset, row["history_title"]) == history
        for i, (_, minutes, time) in enumerate(query.history, 4 - len(query.history)):
            assert row["history_abandoned"][i] == (minutes < 5)
            assert row["history_completion"][i] == pytest.approx(min(minutes, 100) / 100, abs=1e-3)
            assert row["history_age"][i] == pytest.approx(math.log1p(query.time - time), rel=1e-3)
        assert row["mood"] == pytest.approx(service.mood(USERS.index(query.user)))


def test_lists_hold_the_abandoned_titles_and_else_titles_never_met(run):
    most = 0
    for query, row in queries_of(run.dataset):
        met = {play.title for play in loops.of_user(query.user)}
        for k in range(len(query.titles)):
            assert row["num_hard"][k] == min(3, len(query.hard))
            enabled, disabled = (candidates(run.dataset, row, name, k)[1:] for name in LISTS)
            n = row["num_hard"][k]
            # Columns are by pool: hard negatives first, then trending, tailing and random ones.
            assert set(enabled[:n]) <= query.hard and not set(enabled[n:]) & met
            assert not set(disabled) & met
            assert len({*enabled}) == len({*disabled}) == 10
            most = max(most, len(query.hard))
    assert most > 3  # some pool is larger than the list's share


# ---------------------------------------------------------------- training


def mean_score(dataset, parameters):
    """Return the loss of the hand model: the sum of the scores of the first enabled list, over queries."""
    sums = [
        sum(parameters.scores[USERS.index(q.user)][TITLES.index(t)]
            for t in candidates(dataset, row, "enabled", 0)[1:])
        for q, row in queries_of(dataset, "validation")
    ]  # fmt: skip
    return sum(sums) / len(sums)


def model_ranks(dataset, parameters, split, name, k=1, sign=1):
    """Return (user, rank) of each of the next k titles, by the scores of the table."""
    out = []
    for query, row in queries_of(dataset, split):
        scores = parameters.scores[USERS.index(query.user)]
        for j in range(min(k, len(query.titles))):
            chosen = candidates(dataset, row, name, j)
            out.append((query.user, loops.rank([sign * scores[TITLES.index(t)] for t in chosen])))
    return out


def ndcg_1(dataset, parameters, split, name):
    ranks = [r for _, r in model_ranks(dataset, parameters, split, name)]
    return loops.metrics(ranks)["ndcg@1"]


def test_the_best_checkpoint_is_that_of_the_enabled_list(run):
    """The first epoch is better on the enabled list, the second on the disabled one."""
    enabled, disabled = (
        [ndcg_1(run.dataset, p, "validation", name) for p in (FIRST, SECOND)] for name in LISTS
    )
    assert enabled[0] > enabled[1] and disabled[0] < disabled[1]
    per_epoch = run.dataset.rows("train").rows // 8
    assert run.best.result["step"] == per_epoch and run.best.result["which"] == "best"
    assert run.last.result["step"] == 2 * per_epoch and run.last.result["which"] == "last"


def test_the_plateau_is_shown_the_loss_of_the_enabled_list(run):
    per_epoch = run.dataset.rows("train").rows // 8
    fresh = [(step, loss) for step, loss, is_fresh in run.steps.seen if is_fresh]
    assert fresh == [(per_epoch, pytest.approx(mean_score(run.dataset, FIRST), rel=1e-6))]


def test_lines_of_metrics_hold_both_lists_of_the_validation_users(run):
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if line["split"] == "validation"]
    assert len(validated) == 2
    for line, parameters in zip(validated, (FIRST, SECOND), strict=True):
        assert line["loss"] == pytest.approx(mean_score(run.dataset, parameters), rel=1e-6)
        for name in LISTS:
            ranks = [r for _, r in model_ranks(run.dataset, parameters, "validation", name)]
            for metric, value in loops.metrics(ranks).items():
                assert line[f"{name}/{metric}"] == pytest.approx(value, **EXACT), (name, metric)


# ---------------------------------------------------------------- the final table


def check_block(actual, ranks_by_list, users=4):
    assert actual.keys() == {*LISTS}
    for name, ranks in ranks_by_list.items():
        expected = loops.metrics(ranks) | {"users": users, "examples": len(ranks)}
        assert actual[name] == pytest.approx(expected, **EXACT), name


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("which", ["best", "last"])
def test_model(run, which, k):
    result, parameters = (run.best.result, FIRST) if which == "best" else (run.last.result, SECOND)
    key = {1: "lists", 3: "lists_k3"}[k]
    for head, sign in (("ranking", 1), ("ctr", -1)):
        block = result[key] if head == "ranking" else result["other_heads"]["ctr"][key]
        check_block(
            block,
            {name: [r for _, r in model_ranks(run.dataset, parameters, "test", name, k, sign)]
             for name in LISTS},
        )  # fmt: skip


def mean_draws(dataset):
    """Return title -> how often a training row shows it as a negative that was not abandoned, of ten."""
    rows, draws = dataset.rows("train").all(), defaultdict(float)
    for row in rows:
        filled = row["pool_hard_filled"] != 0
        real, fills = 4 - sum(filled), sum(filled)
        for title, is_fill in zip(titles_of(dataset, row["pool_hard"]), filled, strict=True):
            draws[title] += is_fill * (3 - min(real, 3)) / max(fills, 1)
        for pool, count in (("trending", 4), ("tailing", 3)):
            for title in titles_of(dataset, row[f"pool_{pool}"]):
                draws[title] += count / 4
    return {title: draws[title] / len(rows) for title in TITLES}


@pytest.mark.parametrize("k", [1, 3])
def test_scores_corrected_for_the_negatives_of_a_list(run, k):
    """Titles of each half are shifted by how often training and the list draw them, in nats."""
    draws, popular = mean_draws(run.dataset), loops.trending()
    trained = [np.mean([draws[t] for t in TITLES if (t in popular) == half]) for half in (True, False)]
    hard = np.mean([min(3, len(query.hard)) for query, _ in queries_of(run.dataset)])
    shares = {"enabled": (3 + 3 - hard, 2), "disabled": (5, 3)}
    ranks, rows = defaultdict(list), run.dataset.rows("test").all()
    task = RankingTask(service.config(), run.dataset.layout, 0.5, 4, 8)
    shifts = candidate_shifts(task, run.dataset, rows, (len(rows), 2, 3, 11))
    for l, (name, (in_trending, in_tailing)) in enumerate(shares.items()):
        of_list = (in_trending / len(popular) + 2 / 24, in_tailing / (24 - len(popular)) + 2 / 24)
        shift = math.log(trained[0] / trained[1]) - math.log(of_list[0] / of_list[1])
        for i, (query, row) in enumerate(queries_of(run.dataset)):
            scores = FIRST.scores[USERS.index(query.user)]
            for j in range(min(k, len(query.titles))):
                chosen = candidates(run.dataset, row, name, j)
                assert shifts[i, l, j].tolist() == pytest.approx(
                    [shift * (t in popular) for t in chosen], rel=1e-5
                )
                shifted = [scores[TITLES.index(t)] + shift * (t in popular) for t in chosen]
                ranks[name].append(loops.rank([np.float32(s) for s in shifted]))
    key = {1: "corrected", 3: "corrected_k3"}[k]
    check_block(run.best.result[key], ranks)
    assert run.best.result[key] != run.best.result[key.replace("corrected", "lists")]


RULES = {
    "popularity": loops.popularity,
    "abandoned_rule": loops.abandoned_last,
    "in_history_rule": loops.in_history_first,
    "not_in_history_rule": loops.in_history_last,
    "item_to_item": loops.item_to_item(),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_baselines(run, name, k):
    rows = run.best.result[{1: "baselines", 3: "baselines_k3"}[k]]
    assert rows.keys() == {*RULES, *(("oracle", "oracle_p") if k == 1 else ())}
    ranks = defaultdict(list)
    for query, row in queries_of(run.dataset):
        for list_name in LISTS:
            for j in range(min(k, len(query.titles))):
                chosen = candidates(run.dataset, row, list_name, j)
                scores = [RULES[name](query, title, query.hard) for title in chosen]
                ranks[list_name].append(loops.rank(scores))
    check_block(rows[name], ranks)


def test_the_rows_of_baselines_differ(run):
    """Rows that were equal could be exchanged unseen: each differs from the others."""
    rows = run.best.result["baselines"]
    enabled = {name: rows[name]["enabled"]["ndcg@5"] for name in rows}
    # No target is in the history here: "abandoned last" is "in history last".
    assert enabled.pop("not_in_history_rule") == enabled["abandoned_rule"]
    assert len({round(value, 6) for value in enabled.values()}) == len(enabled) == 6


def test_oracles(run):
    for row_name, divided in (("oracle", True), ("oracle_p", False)):
        ranks = defaultdict(list)
        for query, row in queries_of(run.dataset):
            for name in LISTS:
                chosen = candidates(run.dataset, row, name, 0)
                p = [loops.true_probability(query, title) for title in chosen]
                q = [loops.density(query, title, name) if divided else 1.0 for title in chosen]
                # Stored as float32, in which equal quotients stay equal.
                ranks[name].append(loops.rank([np.float32(a / b) for a, b in zip(p, q, strict=True)]))
        check_block(run.best.result["baselines"][row_name], ranks)


def test_by_hard_negatives(run):
    ranks = defaultdict(list)
    by_query = model_ranks(run.dataset, FIRST, "test", "enabled")
    for (_, rank), (query, _) in zip(by_query, queries_of(run.dataset), strict=True):
        ranks[str(min(3, len(query.hard)))].append((query.user, rank))
    assert run.best.result["by_hard"].keys() == ranks.keys() and len(ranks) == 4
    for n, pairs in ranks.items():
        counts = {"users": len({user for user, _ in pairs}), "examples": len(pairs)}
        expected = loops.metrics([r for _, r in pairs]) | counts
        assert run.best.result["by_hard"][n] == pytest.approx(expected, **EXACT)


def test_gate(run):
    gate, weights = run.best.result["gate"], []
    groups = {"by_history": defaultdict(list), "by_gap": defaultdict(list), "by_mood": defaultdict(list)}
    moods = sorted(service.mood(USERS.index(query.user)) for query, _ in queries_of(run.dataset))
    edges = np.quantile(moods, [0.2, 0.4, 0.6, 0.8])
    for query, _ in queries_of(run.dataset):
        own = FIRST.gate[USERS.index(query.user)].tolist()
        weights.append(own)
        length = len(query.read)
        groups["by_history"][{0: "none", 1: "1", 2: "2"}.get(length, "3 to 4")].append(own)
        if query.read:
            newest = max(time for title, _, time in query.history if title in query.read)
            age = query.time - newest
            assert age % SPACING == 0 and 3600 < age < 86_400
            groups["by_gap"]["under a day"].append(own)
        at = sum(service.mood(USERS.index(query.user)) >= edge for edge in edges.astype(np.float32))
        groups["by_mood"][at].append(own)
    mean = np.mean(weights, axis=0)
    of_each = np.mean([loops.entropy(own) for own in weights])
    assert gate["mean"] == pytest.approx(mean.tolist(), rel=1e-6)
    assert gate["entropy"] == pytest.approx(of_each, rel=1e-6)
    assert gate["entropy_of_mean"] == pytest.approx(loops.entropy(mean), rel=1e-6)
    assert gate["information"] == pytest.approx(loops.entropy(mean) - of_each, rel=1e-4)
    assert gate["collapsed"] == (loops.entropy(mean) - of_each < 0.01)
    for name in ("by_history", "by_gap"):
        assert gate[name].keys() == groups[name].keys()
        for group, own in groups[name].items():
            assert gate[name][group]["queries"] == len(own)
            assert gate[name][group]["weights"] == pytest.approx(np.mean(own, axis=0).tolist(), rel=1e-6)
    by_mood = [own for _, own in sorted(groups["by_mood"].items())]
    assert [g["queries"] for g in gate["by_mood"].values()] == [len(own) for own in by_mood]
    for group, own in zip(gate["by_mood"].values(), by_mood, strict=True):
        assert group["weights"] == pytest.approx(np.mean(own, axis=0).tolist(), rel=1e-6)


# ---------------------------------------------------------------- all titles


def test_rankings_of_all_titles(run):
    """All that the user played before the query is left out, in the stored history or not."""
    catalogue, expected, shown = run.best.result["catalogue"], defaultdict(list), defaultdict(list)
    with np.load(run.workdir / "correction.npz") as stored:
        assert str(stored["head"]) == "ranking" and len(stored["log_q"])
        scale = float(stored["scale"])
        log_q = dict(zip(run.dataset.arrays.title_key, stored["log_q"][FIRST_TITLE:], strict=True))
    for query, _ in queries_of(run.dataset):
        target, scores = query.titles[0], FIRST.scores[USERS.index(query.user)].astype(np.float32)
        eligible = [t for t in loops.by_popularity() if t == target or t not in query.seen]
        plain = {t: scores[TITLES.index(t)] for t in eligible}
        by_model = {
            "model_uncorrected": plain,
            "model": {t: np.float32(scale) * plain[t] + log_q[t] for t in eligible},
        }
        for name, score in by_model.items():
            expected[name].append(loops.rank([score[target], *(score[t] for t in eligible if t != target)]))
            shown[name] += sorted(eligible, key=lambda t: -score[t])[:10]
        for name, order in (
            ("popularity", loops.by_popularity()),
            ("popularity_7_days", loops.popularity_of_7_days(query)),
        ):
            left = [t for t in order if t in eligible]
            expected[name].append(1 + left.index(target))
            shown[name] += left[:10]
    plays = {t: sum(t == title for _, title in loops.training_pairs()) for t in TITLES}
    chosen = np.mean([plays[query.titles[0]] for query, _ in queries_of(run.dataset)])
    assert catalogue["seen"] == "all" and catalogue["titles"] == 24 and catalogue["repeated_targets"] == 0
    assert catalogue["cold_targets"] == sum(not plays[q.titles[0]] for q, _ in queries_of(run.dataset)) > 0
    for name, ranks in expected.items():
        values = loops.catalogue_metrics(ranks) | {
            "coverage@10": len({*shown[name]}) / 24,
            "novelty@10": np.mean([-math.log2(max(plays[t], 1) / sum(plays.values())) for t in shown[name]]),
            "popularity_lift@10": np.mean([plays[t] for t in shown[name]]) / chosen,
        }
        assert catalogue[name] == pytest.approx(values, **EXACT), name
    assert len({catalogue[name]["ndcg@10"] for name in expected}) == 4


def test_validation_of_sequences_leaves_out_the_titles_of_the_history(tmp_path, monkeypatch):
    """The best checkpoint of a next-item model is chosen by ranks among titles not in the stored history."""
    config = service.config()
    config.task.name, config.features = "next_item", config.features[:1]
    config.data.num_targets, config.model.head = 1, "dot"
    prepare(service.HandSource(), config, tmp_path / "d")
    dataset = Dataset(tmp_path / "d")
    scores = np.full(FIRST_TITLE + 24, -9.0, np.float32)
    scores[FIRST_TITLE:] = np.arange(24) * 7 % 24
    history = dataset.rows("validation").all()["history_title"]

    def score_all_titles(self, params, host, table, heads=()):
        from jaxrec.tasks import next_item_inputs

        rows = next_item_inputs.queries(host.words, self.layout, self.size)[1]
        by_title = np.broadcast_to(scores, (len(host.words), len(scores)))
        return TitleScores({"next_item": params + by_title}, rows["target"][:, 0], rows["history_title"])

    monkeypatch.setattr(NextItemTask, "score_all_titles", score_all_titles)
    task = NextItemTask(config, dataset.layout, 0.5, 4, 8)
    table = replicate(TitleTable(*(np.zeros((FIRST_TITLE + 24, 0), t) for t in ("int32", "float32"))))
    validator = Validator(task, table, dataset.rows("validation"))
    assert (validator.watched, validator.metric) == ("catalogue", "ndcg@10")
    values, lists = validator(replicate(np.float32(0)))
    ranks, among_all, losses = [], [], []
    for row, titles in zip(dataset.rows("validation").all(), history, strict=True):
        own, target = scores[row["target"][0]], row["target"][0]
        rivals = [t for t in range(FIRST_TITLE, len(scores)) if t != target]
        ranks.append(1 + sum(not scores[t] < own for t in rivals if t not in titles))
        among_all.append(1 + sum(not scores[t] < own for t in rivals))
        losses.append(math.log(sum(math.exp(s - own) for s in scores[FIRST_TITLE:])))
    assert ranks != among_all
    assert lists["catalogue"] == pytest.approx(loops.catalogue_metrics(ranks), **EXACT)
    assert values["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


# ---------------------------------------------------------------- users and tests


def test_columns_of_each_user(run):
    """Means over the queries of a user: of both heads, for one and for three next titles, of all titles."""
    columns = per_user_columns(run.best)
    users = [str(user) for user in columns["user"]]
    assert sorted(users) == ["ida", "jan", "kim", "lou"]
    ranks = run.best.ranked.by_order["model"].ranks
    of_all = list(zip([q.user for q, _ in queries_of(run.dataset)], ranks, strict=True))
    for i, user in enumerate(users):
        for k, suffix in ((1, ""), (3, "_k3")):
            for head, sign in (("", 1), ("_ctr", -1)):
                for name in LISTS:
                    by_user = model_ranks(run.dataset, FIRST, "test", name, k, sign)
                    own = [rank for other, rank in by_user if other == user]
                    assert columns[f"queries{suffix}"][i] == len(own)
                    for metric, value in loops.metrics(own).items():
                        column = f"{name}{head}{suffix}/{metric}"
                        assert columns[column][i] == pytest.approx(value, **EXACT), column
        own = [int(rank) for other, rank in of_all if other == user]
        for metric, value in loops.catalogue_metrics(own).items():
            assert columns[f"catalogue/{metric}"][i] == pytest.approx(value, **EXACT), metric


def test_two_checkpoints_are_compared_user_by_user(run, tmp_path):
    for which, evaluation in (("best", run.best), ("last", run.last)):
        (tmp_path / which).mkdir()
        write_json(tmp_path / which / "eval-test-best.json", evaluation.result)
        columns = per_user_columns(evaluation), per_query(evaluation)
        per_user.write(tmp_path / which, per_user.encode("eval-test-best", *columns))
    compared = per_user.compare(*(per_user.read(tmp_path / which) for which in ("best", "last")))["metrics"]
    assert [*compared] == [f"{n}/{m}" for n in LISTS for m in ("ndcg@1", "ndcg@5", "recall@5", "mrr@5")]
    for column, tests in compared.items():
        name, metric = column.split("/")
        values = [defaultdict(list), defaultdict(list)]
        for side, parameters in zip(values, (FIRST, SECOND), strict=True):
            for user, rank in model_ranks(run.dataset, parameters, "test", name):
                side[user].append(loops.metrics([rank])[metric])
        means = [[np.mean(side[user]) for user in sorted(side)] for side in values]
        assert [tests["first"], tests["second"]] == pytest.approx([np.mean(m) for m in means], **EXACT)
        difference = np.round(np.subtract(*means), 12)
        by_query = np.concatenate([np.subtract(values[0][u], values[1][u]) for u in sorted(values[0])])
        for test, d in ((tests["users"], difference), (tests["queries_as_the_paper"], by_query)):
            check_tests(test, d)


def check_tests(test, d):
    """Check both tests of differences, from their definitions."""
    n, mean = len(d), sum(d) / len(d)
    assert (test["n"], test["zeros"]) == (n, int((d == 0).sum()))
    assert test["mean"] == pytest.approx(mean, **EXACT)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1))
    assert test["sd"] == pytest.approx(sd, **EXACT)
    t = mean / (sd / math.sqrt(n)) if sd else 0.0
    assert sd or not mean
    assert test["t"] == pytest.approx(t, **EXACT)
    assert test["t_p"] == pytest.approx(2 * stats.t.sf(abs(t), n - 1), **EXACT)
    sizes = stats.rankdata(abs(d[d != 0]))
    ahead, behind = sizes[d[d != 0] > 0].sum(), sizes[d[d != 0] < 0].sum()
    assert test["wilcoxon"] == pytest.approx(min(ahead, behind))
