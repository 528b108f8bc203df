"""The closing table and test.json of a small hand-written result."""

import json

import pytest

from jaxrec.reporting import result_table


def test_table_of_rankings_of_all_titles(result):
    values = {"hr@1": 0.1, "hr@10": 0.3, "hr@100": 0.8, "ndcg@10": 0.2, "mrr@10": 0.15,
              "coverage@10": 1.0, "novelty@10": 9.5, "popularity_lift@10": 1.25}  # fmt: skip
    result["catalogue"] = {"model": values, "popularity": values | {"hr@1": 0.02}, "seen": "stored",
                           "titles": 1000, "users": 10, "examples": 1234}  # fmt: skip
    result["lists"] = result["lists_k3"] = {}
    text = result_table.format_table(result)
    assert "PHNS" not in text and "p(choice)" not in text and "all 1,000 titles, history excluded" in text
    head, model, popular, count = text.split("excluded\n")[1].splitlines()[:4]
    assert head.split() == ["HR@1", "HR@10", "NDCG@10", "MRR@10", "coverage", "novelty", "lift"]
    assert model.split() == ["model", "0.1000", "0.3000", "0.2000", "0.1500", "1.0000", "9.5000", "1.2500"]
    assert popular.split()[:2] == ["popularity", "0.0200"] and count == "1,234 queries of 10 users"
    assert max(map(len, (head, model))) <= 100
    result["catalogue"] |= {"seen": "all", "popularity_7_days": values, "repeated_targets": 34}
    lines = result_table.format_table(result).splitlines()
    assert "all 1,000 titles, all that the user played excluded" in lines
    assert any(line.startswith("popularity 7 days ") for line in lines)
    assert "1,234 queries of 10 users; the target of 34 was played before, and competes" in lines
    result["catalogue"] |= {"model_mmr": values | {"ild@10": 0.75}, "diversity": 0.3}
    lines = result_table.format_table(result).splitlines()
    (mmr,) = (line for line in lines if line.startswith("model mmr  "))
    assert mmr.split()[-2:] == ["1.2500", "0.7500"] and "model mmr: lists chosen with diversity 0.3" in lines
    assert any(line.endswith(" ILD@10") for line in lines) and max(map(len, lines)) <= 100


@pytest.mark.parametrize("filtered, text", [(True, "history excluded"), (False, "history included")])
def test_results_from_before_the_seen_protocols_are_read(result, filtered, text):
    result["catalogue"] = {"model": {}, "filtered": filtered, "titles": 9, "users": 1, "examples": 1}
    assert f"all 9 titles, {text}" in result_table.format_table(result)


CLOSING = """\
tiny: best checkpoint, step 4,321, test users

K=1                                       PHNS-enabled                       PHNS-disabled
                     NDCG@1   NDCG@5 Recall@5    MRR@5   NDCG@1   NDCG@5 Recall@5    MRR@5
model                0.2500   0.3500   0.4500   0.3000   0.5000   0.6000   0.7000   0.5500
popularity           0.1250   0.2250   0.3250   0.1750   0.4000   0.5000   0.6000   0.4500
abandoned last       0.2000   0.3000   0.4000   0.2500   0.4000   0.5000   0.6000   0.4500
in history first     0.1000   0.2000   0.3000   0.1500   0.4000   0.5000   0.6000   0.4500
in history last      0.2100   0.3100   0.4100   0.2600   0.4000   0.5000   0.6000   0.4500
oracle, p/q          0.3750   0.4750   0.5750   0.4250   0.6000   0.7000   0.8000   0.6500
oracle, p alone      0.3000   0.4000   0.5000   0.3500   0.5500   0.6500   0.7500   0.6000
1,234 queries of 10 users

K=3                                       PHNS-enabled                       PHNS-disabled
                     NDCG@1   NDCG@5 Recall@5    MRR@5   NDCG@1   NDCG@5 Recall@5    MRR@5
model                0.2000   0.3000   0.4000   0.2500   0.4500   0.5500   0.6500   0.5000
popularity           0.1000   0.2000   0.3000   0.1500   0.3500   0.4500   0.5500   0.4000
1,234 queries of 10 users

NDCG@1 by hard negatives in the enabled list (K=1)
hard negatives            2       10
queries               1,230        4
model                0.5000   0.1000

gate: mean weights 0.250, 0.750; entropy 0.500; mutual information 0.0625 nats

enabled: 50% of the way from popularity to the oracle, on NDCG@1
disabled: 50% of the way from popularity to the oracle, on NDCG@1"""


def test_closing_table(result):
    assert result_table.format_table(result) == CLOSING
    assert result_table.format_table(json.loads(json.dumps(result))) == CLOSING  # as read from a file


def test_table_of_one_list_without_an_oracle(result):
    for key in ("lists_k3", "baselines_k3", "by_hard", "gate"):
        del result[key]
    result["lists"] = {"disabled": result["lists"]["disabled"] | {"ndcg@1": float("nan")}}
    other = {"ndcg@1": None, "ndcg@5": 0.5, "recall@5": 0.5, "mrr@5": 0.5}
    popular = result["baselines"]["popularity"]["disabled"]
    result["baselines"] = {"popularity": {"disabled": popular}, "other": {"disabled": other}}
    text = result_table.format_table(result)
    assert text.splitlines()[4:] == [
        "model                     -   0.6000   0.7000   0.5500",
        "popularity           0.4000   0.5000   0.6000   0.4500",
        "other                     -   0.5000   0.5000   0.5000",
        "1,234 queries of 10 users",
    ]


def test_fraction_of_the_gap_between_popularity_and_the_oracle(result):
    assert result_table.oracle_fraction(result) == pytest.approx({"enabled": 0.5, "disabled": 0.5})
    result["baselines"]["oracle"] = result["baselines"]["popularity"]  # no gap
    assert result_table.oracle_fraction(result) == {}
    del result["baselines"]["oracle"]
    assert result_table.oracle_fraction(result) == {}


def test_test_json_is_the_result_with_null_for_values_that_are_not_finite(result, tmp_path):
    result["lists"]["enabled"]["mrr@5"] = float("nan")
    path = result_table.write_test_json(tmp_path, result)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert path.name == "test.json"
    assert written["lists"]["enabled"].pop("mrr@5") is None
    del result["lists"]["enabled"]["mrr@5"]
    assert written == result


def test_table_of_gradients(result):
    """Eight heads fit into 100 columns, a ninth begins another block; what is not defined is a dash."""
    heads = [f"a_head_of_a_long_name_{i}" for i in range(9)]
    cosine = [[1.0 if i == j else -(i * 10 + j) / 1000 for j in range(9)] for i in range(9)]
    error = [[(i * 10 + j) / 10000 for j in range(9)] for i in range(9)]
    cosine[2][0] = error[0][2] = None
    result["gradients"] = {
        "split": "validation", "heads": heads, "batches": 32, "batch_size": 4096, "cosine": cosine,
        "cosine_error": error, "norm": [0.0125, *[1.0] * 8], "norm_error": [0.0] * 9,
    }  # fmt: skip
    lines = result_table.format_table(result).splitlines()
    title = "Gradients of shared parameters: means over 32 batches of 4,096 validation rows"
    table = lines[lines.index(title) :][:23]
    assert max(map(len, table)) <= 100
    assert table[2].split() == ["norm", *"12345678"] and table[12].split() == ["norm", "9"]
    first = ["1", "a_head_of_a_lon", "0.0125", "1.000", "0.000", "-", "0.000", "0.000"]
    assert table[3].split() == [*first, "0.001", "0.001", "0.001"]
    assert table[5].split()[3:6] == ["-", "-0.021", "1.000"]
    assert table[13].split()[-1] == "0.001" and table[21].split()[-1] == "1.000"
