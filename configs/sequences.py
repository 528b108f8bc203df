"""Published next-item models, trained on a plain log of users, titles and times.

python -m jaxrec.train --config configs/sequences.py:sasrec --config.data.path=ratings.csv

ratings.csv (or a Parquet file) has a header and columns of users, titles and times in seconds, with any of
the names in `LOG`; other columns are ignored. ml-1m/ratings.dat is converted by

(echo userId,movieId,rating,timestamp; sed 's/::/,/g' ml-1m/ratings.dat) > ratings.csv

No config was run here on MovieLens-1M or Amazon Beauty, because these files are not available here. Published
HR@10 / NDCG@10 over all titles except those in the user's history, with the user's last play as the target.
sasrec, hstu and hstu_large leave out the stored history, as [1] does, and the others everything that the user
played before (evaluate.seen):

| argument | MovieLens-1M | source |
|---|---|---|
| sasrec | .2853 / .1603; .2877 / .1622 | [1]; [2] |
| hstu | .3097 / .1720; .3227 / .1879 | [1]; [2] |
| hstu_large | .3294 / .1893; .3642 / .2164 | [1]; [2] |
| sasrec_plus | .3152 / .1821 | [3] |
| gru4rec | .2811 / .1648 | [3], as quoted by [1] |
| gsasrec | .3003 / .1726 | [4] |
| esasrec | .3133 / .1772 | [5] |
| fuxi_alpha | .3164 / .1813 | [5] |

Amazon Beauty, `sasrec_plus_beauty`: .0533 / .0327 [3]; with `--config.next_item.loss=bce` and
`--config.next_item.negatives=1`, .0246 / .0126 [3]. These are of the log with 54,542 titles.
`esasrec_beauty` is for the log of 22,363 users and 12,101 titles: .0928 / .0523 [5], and .0921 / .0531 with
`--config.model.experts[0].encoder=sasrec`. MovieLens-20M, `esasrec_ml_20m`: .3289 / .1966 [5].

Common settings, for MovieLens-1M: the latest 200 titles, batches of 128 sequences, Adam at a constant
learning rate of 1e-3 without weight decay or warm-up, one head (hstu_large: two), feed-forward as wide as the
model (HSTU and GRU4Rec have no feed-forward).

[1] github.com/facebookresearch/generative-recommenders,
    configs/ml-1m/{sasrec,hstu}-sampled-softmax-n128[-large]-final.gin and train.py. sasrec and hstu:
    d=50, 2 blocks, dropout .2; hstu_large: 8 blocks of 2 heads of 25. Softmax over the target and 128 titles
    drawn uniformly for each position, the target excluded from the draws; both vectors normalised to length
    1, temperature .05; Adam's betas .9 and .98; initial standard deviation of embeddings .02. 101 epochs
    without validation: each user's last play but one is used for training, and the last model is evaluated.
    The test excludes the titles of the history shown, at most 200 (evaluate.seen="stored"); a quarter of
    MovieLens-1M's users played more, and their earlier titles compete with the target. The order of plays of
    the same second is undefined.
[2] github.com/MobileTeleSystems/RecTools, HSTU tutorial. The version read is an earlier one without these
    figures; these figures, and those of Beauty, are as quoted by others. The settings are, as far as known,
    those of [1]. The best of 100 epochs is chosen by the last play but one of all users, which is not used
    for training. Plays of the same second keep the order of the file.
[3] github.com/antklen/sasrec-bert4rec-recsys23, src/configs/{SASRec,RNN}.yaml (Klenitskiy & Vasilev 2023,
    Turning Dross Into Gold Loss): d=64, softmax over all titles. sasrec_plus: 2 blocks, dropout .1. gru4rec:
    1 layer without dropout, because PyTorch's GRU has no dropout after its only layer, regardless of the
    file's setting. Initial standard deviation of embeddings .02. The best of at most 100 epochs, patience 10,
    is chosen by NDCG@10 of all users' last play but one, which is not used for training. Beauty: the latest
    50 titles.
[4] github.com/asash/gSASRec-pytorch (Petrov & Macdonald 2023), README.md: d=128, 2 blocks, dropout .5, gBCE
    with t=.75 and 256 titles drawn uniformly for each position (128 in the table of results; 256 in the
    config and in the checkpoint's name). Patience 200 epochs; the checkpoint is of epoch 1,793, the best by
    NDCG@10 of the last play but one of 512 users. No user's last play but one is used for training.
[5] github.com/blondered/transformer_benchmark (Tikhonovich et al., RecSys 2025, arXiv 2508.06450),
    README.md and configs/paper/loo/{ml_1m,s3_beauty_ligr}.yaml: SASRec's objective with LiGR blocks and a
    softmax over the target and 256 titles drawn uniformly for each position. esasrec: d=64, 2 blocks,
    dropout .1, feed-forward four times as wide as the model. esasrec_ml_20m: d=256, 4 blocks of 8 heads,
    dropout .2. esasrec_beauty: d=64 as in README.md (the file has 256), 1 block, dropout .2, the latest 50
    titles. Adam's betas .9 and .98 are RecTools' defaults. At most 100 epochs (Beauty: 200), patience 50,
    by the last play but one of all users, which is not used for training. Plays of the same second keep the
    order of the file. Its figures of FuXi-alpha come from the authors' code on the same split; fuxi_alpha
    has the settings of github.com/USTC-StarTeam/FuXi-alpha,
    configs/ml-1m/fuxi-sampled-softmax-n128-final.gin, those of hstu in [1], and whether [5] changed them is
    not stated. All seen titles are left out.

Differences from the published settings: blocks are pre-norm with learned norms ([1], [3] and [4] normalise
only the queries of SASRec, and add the residual to the normalised queries; norms of [1] are not learned);
dropout is applied to the output of a block, not to attention weights, and not inside the feed-forward layer
of [5]; [5] has no norm after the last block, and may draw the target as a negative; input title vectors are
multiplied by sqrt(d), which was not checked for [4], except in gru4rec, as in the code of [3]; positions
count from the newest title; the order of plays of the same second is drawn at random, where [2] to [5] keep
the order of the file. The patience of [3] to [5] ends the training here too. With the settings of [1] the
last checkpoint is evaluated, and 1 user in 100 is held out for a validation that selects nothing. [1] draws
and ranks the 3,883 titles of movies.dat; here the titles are the 3,706 of the log. For HSTU see
jaxrec/models/encoders/hstu.py too.

Configs for available data, without published results: `simulated`, the simulated service of smoe.py:small,
and `kuairand` (with --config.source.directory=DIR), real watch logs. Both are sasrec_plus with width 48, on
each user's titles that were not abandoned in the end, the last of which is the test target.
"""

from dataclasses import replace

from jaxrec.config import (
    Columns,
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    KuaiRand,
    Model,
    NextItem,
    Optimizer,
    Sampling,
    Simulator,
    Tables,
    Task,
    Train,
)
from jaxrec.core.errors import InputError

LOG = Columns(  # the first existing of several names; "": the log has no column of this kind
    user="user_id|userId|UserId|UserID|user",
    title="item_id|movie_id|movieId|MovieID|title_id|item|title",
    time="timestamp|Timestamp|unix_timestamp|time",
    time_unit="s",
    seconds="",
    runtime="",
)
# Fraction of users whose last play but one is a validation target.
_ALL_USERS, _FEW_USERS = 1.0, 0.01


def _base_config(width: int, expert: Expert, next_item: NextItem, epochs: int, validation: float) -> Config:
    """Return the settings shared by all configs of this file.

    Fields for examples of a watch log are set to the values allowed for a log without watch times.
    """
    return Config(
        source=Tables(titles="", columns=replace(LOG)),
        features=(Feature("title_id", "category", "title", width=width),),
        data=Data(
            split="last",
            targets="any",
            max_history=expert.max_len,
            num_targets=1,
            validation_share=validation,
        ),
        sampling=Sampling(id_dropout=0.0),
        model=Model(
            width=width,
            experts=(expert,),
            dropout=expert.dropout,
            head="dot",
            embedding_init_std=0.02,
        ),
        task=Task(name="next_item"),
        next_item=next_item,
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0, plateau_factor=1.0),
        train=Train(duration=f"{epochs} epochs", batch_size=128),
        evaluate=Evaluate(batch_size=256, next_k=(1,)),
    )


def sasrec() -> Config:
    """Return SASRec with the settings of [1], which leave out the stored history only."""
    expert = Expert(max_len=200, num_layers=2, num_heads=1, mlp_ratio=1.0, dropout=0.2, encoder="sasrec")
    loss = NextItem(loss="sampled_softmax", negatives=128, temperature=0.05)
    config = _base_config(50, expert, loss, epochs=101, validation=_FEW_USERS)
    config.model.cosine = True
    config.optimizer.beta2 = 0.98
    config.evaluate.checkpoint, config.evaluate.seen = "last", "stored"
    return config


def sasrec_plus() -> Config:
    """Return SASRec with a softmax over all titles [3]."""
    expert = Expert(max_len=200, num_layers=2, num_heads=1, mlp_ratio=1.0, dropout=0.1, encoder="sasrec")
    config = _base_config(64, expert, NextItem(loss="softmax"), epochs=100, validation=_ALL_USERS)
    config.train.patience = 10
    return config


def sasrec_plus_beauty() -> Config:
    """Return `sasrec_plus` for Amazon Beauty."""
    config = sasrec_plus()
    config.data.max_history = 52  # a multiple of 4, so two more titles are stored than the model reads
    config.model.experts = (replace(config.model.experts[0], max_len=50),)
    return config


def gsasrec() -> Config:
    """Return gSASRec [4]."""
    expert = Expert(max_len=200, num_layers=2, num_heads=1, mlp_ratio=1.0, dropout=0.5, encoder="sasrec")
    loss = NextItem(loss="gbce", negatives=256, calibration=0.75)
    config = _base_config(128, expert, loss, epochs=2000, validation=512 / 6040)
    config.model.untied_item_embeddings = True
    config.train.patience = 200
    return config


def esasrec() -> Config:
    """Return eSASRec [5] for MovieLens-1M."""
    expert = Expert(max_len=200, num_layers=2, num_heads=1, mlp_ratio=4.0, dropout=0.1, encoder="ligr")
    loss = NextItem(loss="sampled_softmax", negatives=256)
    config = _base_config(64, expert, loss, epochs=100, validation=_ALL_USERS)
    config.optimizer.beta2, config.train.patience = 0.98, 50
    return config


def esasrec_ml_20m() -> Config:
    """Return eSASRec [5] for MovieLens-20M."""
    config = esasrec()
    config.model.width = config.features[0].width = 256
    expert = config.model.experts[0]
    config.model.experts = (replace(expert, num_layers=4, num_heads=8, dropout=0.2),)
    config.model.dropout = 0.2
    return config


def esasrec_beauty() -> Config:
    """Return eSASRec [5] for Amazon Beauty."""
    config = esasrec()
    config.data.max_history = 52  # a multiple of 4, so two more titles are stored than the model reads
    config.model.experts = (replace(config.model.experts[0], max_len=50, num_layers=1, dropout=0.2),)
    config.model.dropout, config.train.duration = 0.2, "200 epochs"
    return config


def hstu() -> Config:
    """Return HSTU with the settings of [1]."""
    config = sasrec()
    config.model.experts = (replace(config.model.experts[0], encoder="hstu"),)
    return config


def hstu_large() -> Config:
    """Return the large HSTU of [1]."""
    config = hstu()
    config.model.experts = (replace(config.model.experts[0], num_layers=8, num_heads=2),)
    return config


def fuxi_alpha() -> Config:
    """Return FuXi-alpha with the settings of its authors, evaluated as in [5]."""
    config = hstu()
    config.model.experts = (replace(config.model.experts[0], encoder="fuxi"),)
    config.evaluate.seen = "all"
    return config


def gru4rec() -> Config:
    """Return GRU4Rec with a softmax over all titles [3]."""
    config = sasrec_plus()
    config.model.experts = (Expert(max_len=200, num_layers=1, num_heads=1, dropout=0.0, encoder="gru4rec"),)
    config.model.dropout, config.model.position, config.model.scaled_inputs = 0.0, "none", False
    return config


def simulated() -> Config:
    """Return `sasrec_plus` with width 48 on the simulated service."""
    expert = Expert(max_len=32, num_layers=2, num_heads=2, mlp_ratio=2.0, dropout=0.1, encoder="sasrec")
    config = _base_config(48, expert, NextItem(loss="softmax"), epochs=20, validation=0.2)
    config.source, config.data.targets = Simulator(), "new"
    return config


def kuairand() -> Config:
    """Return `simulated` on KuaiRand."""
    config = simulated()
    config.source = KuaiRand()
    return config


PUBLISHED = (
    sasrec, sasrec_plus, sasrec_plus_beauty, gsasrec, hstu, hstu_large, gru4rec, esasrec, esasrec_ml_20m,
    esasrec_beauty, fuxi_alpha,
)  # fmt: skip
CONFIGS = {f.__name__: f for f in (*PUBLISHED, simulated, kuairand)}


def get_config(name: str = "sasrec") -> Config:
    """Return the config of a name in CONFIGS."""
    if name not in CONFIGS:
        raise InputError(f"configs/sequences.py:{name}: the argument must be one of {', '.join(CONFIGS)}")
    config = CONFIGS[name]()
    config.name = f"sequences-{name}"
    return config
