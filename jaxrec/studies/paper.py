"""The paper's Tables 4 to 8 as rows of a study; the paper's claims; further rows.

The paper's tables need eighteen trainings per seed: seven rows of Table 4, two more of Table 5 (its K=1 is
the first row of Table 4), three of Table 6 (medium is S-MoE STL of Table 4), two of Table 7 and four of
Table 8 (0.52 is S-MoE STL). In Table 4, SASRec and GRU4Rec use the published dot product. The paper does
not state which head its peers use, so two more trainings use this system's MLP head (`matcher`). Table
`options` holds variants that are in none of the paper's tables. Table `beyond` holds changes that improve
the ranking, up to configs/best.py, and a gate that does not collapse.
"""

from dataclasses import replace
from typing import Any

from jaxrec.config.schema import TRAIN_MIXES, Config, Expert
from jaxrec.studies.declared.study import Claim, Figures, Premise, ResultTable, Row

TABLES = (
    ResultTable("4", "Table 4: variants of the model"),
    ResultTable("5", "Table 5: the next K titles", next_k=(1, 3)),
    ResultTable("6", "Table 6: negatives in training"),
    ResultTable("7", "Table 7: tasks and the personalised loss"),
    ResultTable("8", "Table 8: target entropy"),
    ResultTable("options", "Options outside the paper's tables"),
    ResultTable("beyond", "Beyond the paper: what configs/best.py is made of"),
)
ALL = ("4", "5", "6", "7", "8")

STL = {"objective.ranking": 0.0, "objective.regression": 0.0, "objective.personalised": False}
MTL = {"objective.personalised": False}


def _k1(disabled: Figures, enabled: Figures) -> dict[tuple[str, int], Figures]:
    return {("disabled", 1): disabled, ("enabled", 1): enabled}


def _k3(disabled: Figures, enabled: Figures) -> dict[tuple[str, int], Figures]:
    return {("disabled", 3): disabled, ("enabled", 3): enabled}


def _models(mid_term: Expert) -> tuple[Row, ...]:
    """Return the rows of Table 4 and of the other tables' shared rows.

    Args:
        mid_term: The mid-term expert of the base config.
    """
    published = {**STL, "model.features": ("title_id",), "model.head": "dot"}  # no metadata, as in the paper
    ours = {"model.head": "matcher"}
    sasrec = {"model.experts": (replace(mid_term, encoder="sasrec"),)}
    gru4rec = {"model.experts": (replace(mid_term, encoder="gru4rec"),)}
    return (
        Row(
            "smoe_pl", {},
            {"4": "S-MoE (PHNS+MTL+PL)", "5": "K=1", "7": "CTR+Ranking+Regression+PL",
             "options": "S-MoE (PHNS+MTL+PL)", "beyond": "S-MoE (PHNS+MTL+PL)"},
            _k1((0.7235, 0.8547, 0.9589, 0.8195), (0.6065, 0.7864, 0.9356, 0.7363))
            | _k3((0.6696, 0.8242, 0.9482, 0.7824), (0.5290, 0.7388, 0.9162, 0.6794)),
        ),
        Row(
            "smoe_mtl", MTL, {"4": "S-MoE (PHNS+MTL)", "7": "CTR+Ranking+Regression"},
            _k1((0.7205, 0.8527, 0.9577, 0.8172), (0.5978, 0.7813, 0.9337, 0.7302)),
        ),
        Row(
            "smoe_stl", STL,
            {"4": "S-MoE (PHNS+STL)", "6": "medium PHNS", "7": "CTR", "8": "TE=0.52"},
            _k1((0.7108, 0.8470, 0.9552, 0.8104), (0.5885, 0.7749, 0.9303, 0.7227)),
        ),
        Row(
            "vmoe_stl", {**STL, "model.experts": (mid_term, mid_term)}, {"4": "V-MoE (PHNS+STL)"},
            _k1((0.7085, 0.8462, 0.9557, 0.8092), (0.5846, 0.7724, 0.9292, 0.7198)),
        ),
        Row(
            "bst_stl", {**STL, "model.experts": (mid_term,)}, {"4": "BST (PHNS+STL)", "8": "BST (PHNS+STL)"},
            _k1((0.7094, 0.8463, 0.9551, 0.8095), (0.5862, 0.7738, 0.9300, 0.7213)),
        ),
        Row(
            "sasrec", published | sasrec, {"4": "SASRec (PHNS+STL)"},
            _k1((0.5886, 0.7647, 0.9120, 0.7154), (0.4626, 0.6743, 0.8605, 0.6124)),
        ),
        Row(
            "gru4rec", published | gru4rec, {"4": "GRU4Rec (PHNS+STL)"},
            _k1((0.4383, 0.6468, 0.8299, 0.5858), (0.3074, 0.5449, 0.7639, 0.4726)),
        ),
        Row("sasrec_matcher", published | sasrec | ours, {"4": "SASRec, our matcher"}),
        Row("gru4rec_matcher", published | gru4rec | ours, {"4": "GRU4Rec, our matcher"}),
    )  # fmt: skip


def _ablations() -> tuple[Row, ...]:
    """Return the rows of Tables 5 to 8."""
    next_k = {"sampling.next_k": 3}
    entropies = {
        0.48: _k1((0.7102, 0.8472, 0.9561, 0.8103), (0.5842, 0.7722, 0.9293, 0.7194)),
        0.56: _k1((0.7088, 0.8454, 0.9542, 0.8087), (0.5872, 0.7736, 0.9291, 0.7215)),
        0.60: _k1((0.7062, 0.8448, 0.9551, 0.8075), (0.5828, 0.7711, 0.9285, 0.7183)),
        0.64: _k1((0.7091, 0.8460, 0.9550, 0.8092), (0.5862, 0.7730, 0.9288, 0.7207)),
    }
    return (
        Row(
            "k3_equal", {**next_k, "sampling.target_weights": (1.0, 1.0, 1.0)}, {"5": "K=3, equal"},
            _k1((0.6935, 0.8404, 0.9567, 0.8011), (0.5601, 0.7618, 0.9292, 0.7056))
            | _k3((0.6586, 0.8205, 0.9499, 0.7768), (0.5093, 0.7293, 0.9152, 0.6670)),
        ),
        Row(
            "k3_weighted", {**next_k, "sampling.target_weights": (1.0, 0.6, 0.3)}, {"5": "K=3, weighted"},
            _k1((0.7272, 0.8575, 0.9605, 0.8227), (0.6068, 0.7870, 0.9363, 0.7368))
            | _k3((0.6770, 0.8302, 0.9521, 0.7890), (0.5304, 0.7418, 0.9198, 0.6821)),
        ),
        Row(
            "phns_none", {**STL, "sampling.mix": TRAIN_MIXES["none"]}, {"6": "no PHNS"},
            _k1((0.7568, 0.8753, 0.9673, 0.8441), (0.3694, 0.6416, 0.8834, 0.5612)),
        ),
        Row(
            "phns_hard", {**STL, "sampling.mix": TRAIN_MIXES["hard"]}, {"6": "hard PHNS"},
            _k1((0.6932, 0.8362, 0.9510, 0.7975), (0.5756, 0.7647, 0.9236, 0.7114)),
        ),
        Row(
            "phns_easy", {**STL, "sampling.mix": TRAIN_MIXES["easy"]}, {"6": "easy PHNS"},
            _k1((0.7100, 0.8470, 0.9558, 0.8102), (0.5850, 0.7737, 0.9308, 0.7210)),
        ),
        Row(
            "ctr_ranking", {**MTL, "objective.regression": 0.0}, {"7": "CTR+Ranking"},
            _k1((0.7207, 0.8526, 0.9575, 0.8172), (0.5996, 0.7819, 0.9333, 0.7311)),
        ),
        Row(
            "ctr_ranking_pl", {"objective.regression": 0.0}, {"7": "CTR+Ranking+PL"},
            _k1((0.7219, 0.8534, 0.9580, 0.8180), (0.6052, 0.7854, 0.9348, 0.7352)),
        ),
        *(
            Row(f"entropy_{value:.2f}", {**STL, "model.gate.target_entropy": value},
                {"8": f"TE={value:.2f}"}, figures)
            for value, figures in entropies.items()
        ),
    )  # fmt: skip


def _options(base: Config) -> tuple[Row, ...]:
    """Return rows that change one setting of S-MoE (PHNS+MTL+PL).

    `bst_target` changes BST (PHNS+STL) instead.
    """
    mid_term = base.model.experts[-1]
    edits: dict[str, tuple[str, dict[str, Any]]] = {
        "no_product": ("matcher without the product", {"model.matcher_product": False}),
        "time_gap": ("position by time gap", {"model.position": "time_gap"}),
        "no_position": ("no position", {"model.position": "none"}),
        "uncertainty": ("task weights by uncertainty", {"objective.weighting": "uncertainty"}),
        "averaging": ("task weights averaged dynamically", {"objective.weighting": "averaging"}),
        "softmax": ("softmax over candidates for the hinge", {"objective.ranking_loss": "softmax"}),
        "keeps_abandoned": ("histories show abandoned titles", {"sampling.history_keeps_abandoned": True}),
        "coupled": ("coupled weight decay", {"optimizer.weight_decay_mode": "coupled"}),
        "soft_all": ("soft label on all negatives", {"objective.soft_on": "all"}),
        "soft_none": ("no soft label", {"objective.soft_on": "none"}),
        "no_entropy": ("no target entropy", {"model.gate.target_entropy": None}),
        "long_term": (
            f"a third expert, of the last {base.data.max_history}",
            {"model.experts": (*base.model.experts, replace(mid_term, max_len=base.data.max_history))},
        ),
    }
    in_sequence = {**STL, "model.experts": (mid_term,), "model.target_in_sequence": True}
    return (
        *(Row(name, edit, {"options": label}) for name, (label, edit) in edits.items()),
        Row("bst_target", in_sequence, {"options": "BST, target in the sequence"}, against="bst_stl"),
    )


CLICK = {"objective.ranking": 0.0, "objective.regression": 0.0}  # click task alone, with personalised loss
AVERAGE = {"optimizer.ema_decay": 0.995}


def _beyond() -> tuple[Row, ...]:
    """Return a row with a balanced gate, and the steps from smoe.py to best.py.

    configs/best.py is the last row.

    The gate of `smoe_balanced` does not collapse; the row is compared with `smoe_stl`.
    """
    edits: dict[str, tuple[str, dict[str, Any]]] = {
        "narrow": ("embeddings a quarter as wide at the start", {"model.embedding_init_std": 0.05}),
        "average": ("the parameters' average", AVERAGE),
        "click": ("the click task alone", CLICK),
        "softmax_alone": (
            "the ranking task alone, a softmax",
            {"objective.ctr": 0.0, "objective.regression": 0.0, "objective.ranking_loss": "softmax"},
        ),
        "best": ("the click task alone, the parameters' average", CLICK | AVERAGE),
    }
    balanced = {**STL, "objective.balance": 0.1}
    return (
        Row(
            "smoe_balanced", balanced, {"beyond": "S-MoE (PHNS+STL), experts used evenly"}, against="smoe_stl"
        ),
        *(Row(name, edit, {"beyond": label}) for name, (label, edit) in edits.items()),
    )


def rows(base: Config) -> tuple[Row, ...]:
    """Return all rows of the study.

    The base is an S-MoE with all tasks and the personalised loss.

    The last expert of the base is the mid-term expert. SASRec, GRU4Rec, BST and V-MoE consist of mid-term
    experts.
    """
    return (*_models(base.model.experts[-1]), *_ablations(), *_options(base), *_beyond())


CLAIMS = (
    Claim("MTL over STL", (("smoe_mtl", "smoe_stl"),)),
    Claim("PL over MTL", (("smoe_pl", "smoe_mtl"),)),
    Claim("S-MoE over BST", (("smoe_stl", "bst_stl"),)),
    Claim("S-MoE over V-MoE", (("smoe_stl", "vmoe_stl"),)),
    Claim("BST over SASRec over GRU4Rec", (("bst_stl", "sasrec"), ("sasrec", "gru4rec"))),
    Claim(
        "BST over SASRec over GRU4Rec, all with our matcher",
        (("bst_stl", "sasrec_matcher"), ("sasrec_matcher", "gru4rec_matcher")),
    ),
    Claim("the whole system over BST", (("smoe_pl", "bst_stl"),)),
    Claim("PHNS helps where negatives are hard", (("smoe_stl", "phns_none"),), ("enabled",)),
    Claim("PHNS costs where they are not", (("phns_none", "smoe_stl"),), ("disabled",)),
    Claim("weighted K=3 over equal K=3", (("k3_weighted", "k3_equal"),), next_k=(1, 3)),
    Claim("weighted K=3 over K=1", (("k3_weighted", "smoe_pl"),), next_k=(1, 3)),
    Claim(
        "target entropy is best at 0.52",
        tuple(("smoe_stl", f"entropy_{value}") for value in ("0.48", "0.56", "0.60", "0.64")),
    ),
    Claim("a balanced gate over a collapsed one", (("smoe_balanced", "smoe_stl"),)),
    Claim("best.py over smoe.py", (("best", "smoe_pl"),)),
)

PREMISES = (
    Premise("the mixture's gain with the size of moods", "source.mood", "smoe_stl", "bst_stl"),
    Premise("the same with a balanced gate", "source.mood", "smoe_balanced", "bst_stl"),
    Premise("the personalised loss's gain with clickbait", "source.clickbait", "smoe_pl", "smoe_mtl"),
    Premise("hard negatives' gain with clickbait", "source.clickbait", "smoe_stl", "phns_none"),
)
