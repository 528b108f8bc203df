"""Models of sequences as others published them, on a log that says only who played what, and when.

python -m jaxrec.train --config configs/sequences.py:sasrec --config.data.path=ratings.csv

ratings.csv (or Parquet) has a header and columns of users, titles and times in seconds, by any of the names
in `LOG`; other columns are left alone. ml-1m/ratings.dat becomes one by

(echo userId,movieId,rating,timestamp; sed 's/::/,/g' ml-1m/ratings.dat) > ratings.csv

None was run here on the files named: they are not at hand. Published, HR@10 / NDCG@10 over the whole
catalogue with seen titles left out, each user's last play the target:

| argument | MovieLens-1M | by whom |
|---|---|---|
| sasrec | .2853 / .1603; .2877 / .1622 | [1]; [2] |
| hstu | .3097 / .1720; .3227 / .1879 | [1]; [2] |
| hstu_large | .3294 / .1893; .3642 / .2164 | [1]; [2] |
| sasrec_plus | .3152 / .1821 | [3] |
| gru4rec | .2811 / .1648 | [3], as [1] quotes it |
| gsasrec | .3003 / .1726 | [4] |

Amazon Beauty, `sasrec_plus_beauty`: .0533 / .0327 [3]; with `--config.next_title.loss=bce` and
`--config.next_title.negatives=1`, .0246 / .0126 [3].

Settings, of MovieLens-1M. All: the latest 200 titles, batches of 128 sequences, Adam at a constant rate of
1e-3 with no weight decay and no warm-up, one head (hstu_large: two), feed-forward as wide as the model (HSTU
and GRU4Rec have none).

[1] github.com/facebookresearch/generative-recommenders,
    configs/ml-1m/{sasrec,hstu}-sampled-softmax-n128[-large]-final.gin and its train.py: sasrec and hstu d=50,
    2 blocks, dropout .2; hstu_large 8 blocks of 2 heads of 25; softmax over the target and 128 titles drawn
    evenly for each place, the target itself left out of them; both vectors to length 1, temperature .05;
    Adam's betas .9 and .98; embeddings start at .02; 101 epochs and no validation: each user's last play but
    one is trained on, and the last model is judged. Left out at the test are the titles of the history shown,
    at most 200. Plays of the same second lie in no certain order.
[2] github.com/MobileTeleSystems/RecTools, its HSTU tutorial, of which an earlier version was read, without
    these figures: they, and Beauty's, are as others quote them. As far as known the settings of [1]; of 100
    epochs the best by the last play but one of every user, which is not trained on. Plays of the same second
    stay in the file's order.
[3] github.com/antklen/sasrec-bert4rec-recsys23, src/configs/{SASRec,RNN}.yaml (Klenitskiy & Vasilev 2023,
    Turning Dross Into Gold Loss): d=64, softmax over all titles; sasrec_plus 2 blocks, dropout .1; gru4rec 1
    layer, and no dropout: PyTorch's GRU has none after its only layer, whatever the file says. Embeddings
    start at .02. Of at most 100 epochs, patience 10, the best by NDCG@10 of every user's last play but one,
    which is not trained on. Beauty: the latest 50.
[4] github.com/asash/gSASRec-pytorch (Petrov & Macdonald 2023), README.md: d=128, 2 blocks, dropout .5, gBCE
    with t=.75 and 256 titles drawn evenly for each place (its table of results says 128, its config and the
    checkpoint's name 256). Patience 200 epochs, and the checkpoint is of epoch 1,793: the best by NDCG@10 of
    512 users' last play but one, which is not trained on, of any user.

Otherwise here: blocks are pre-norm with learned norms ([1], [3] and [4] have SASRec norm the queries alone,
and add to those; norms of [1] are not learned); dropout is on what a block adds, not on attention's
weights; titles' vectors are times sqrt(d) where they are read, which was not looked up of [4]; positions
count from the newest; plays of the same second lie in an order that is drawn, where [2] to [4] keep the
file's. Training does not stop early: the best checkpoint of all epochs is judged, with the settings of [1]
the last, where 1 user in 100 is held out for a validation that chooses nothing. [1] draws and ranks the
3,883 titles of movies.dat; here they are the 3,706 of the log. Of HSTU see
jaxrec/models/encoders/hstu.py too.

On data that are at hand, which no one has published on: `simulated`, the simulated service of smoe.py:small,
and `kuairand` (with --config.source.directory=DIR), real watch logs: sasrec_plus, 48 wide, of each user's
titles that ended up not abandoned, the last of them the test.
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
    NextTitle,
    Optimizer,
    Sampling,
    Simulator,
    Tables,
    Train,
)
from jaxrec.core.errors import InputError

LOG = Columns(  # of several names the first that there is; "": the log has no such column
    user="user_id|userId|UserId|UserID|user",
    title="item_id|movie_id|movieId|MovieID|title_id|item|title",
    time="timestamp|Timestamp|unix_timestamp|time",
    time_unit="s",
    seconds="",
    runtime="",
)
_EVERY_USER, _FEW_USERS = 1.0, 0.01  # whose last play but one is the validation's


def _plain(width: int, expert: Expert, next_title: NextTitle, epochs: int, validation: float) -> Config:
    """What all have in common; requests' fields are set to what a log without watch times allows."""
    return Config(
        source=Tables(titles="", columns=replace(LOG)),
        features=(Feature("title_id", "category", "title", width=width),),
        data=Data(
            examples="sequences",
            split="last",
            targets="any",
            history=expert.window,
            next_k=1,
            validation_share=validation,
        ),
        sampling=Sampling(unknown_rate=0.0),
        model=Model(
            width=width,
            experts=(expert,),
            dropout=expert.dropout,
            head="dot",
            embedding_spread=0.02,
        ),
        next_title=next_title,
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0, plateau_factor=1.0),
        train=Train(length=f"{epochs} epochs", batch_size=128),
        evaluate=Evaluate(batch_size=256, next_k=(1,)),
    )


def sasrec() -> Config:
    expert = Expert(window=200, layers=2, heads=1, feedforward=1.0, dropout=0.2, kind="sasrec")
    loss = NextTitle(loss="sampled_softmax", negatives=128, temperature=0.05)
    config = _plain(50, expert, loss, epochs=101, validation=_FEW_USERS)
    config.model.cosine = True
    config.optimizer.b2 = 0.98
    config.evaluate.which = "last"
    return config


def sasrec_plus() -> Config:
    expert = Expert(window=200, layers=2, heads=1, feedforward=1.0, dropout=0.1, kind="sasrec")
    return _plain(64, expert, NextTitle(loss="softmax"), epochs=100, validation=_EVERY_USER)


def sasrec_plus_beauty() -> Config:
    config = sasrec_plus()
    config.data.history = 52  # a multiple of 4: two titles more are stored, and left out of the ranking
    config.model.experts = (replace(config.model.experts[0], window=50),)
    return config


def gsasrec() -> Config:
    expert = Expert(window=200, layers=2, heads=1, feedforward=1.0, dropout=0.5, kind="sasrec")
    loss = NextTitle(loss="gbce", negatives=256, calibration=0.75)
    config = _plain(128, expert, loss, epochs=2000, validation=512 / 6040)
    config.model.two_tables = True
    return config


def hstu() -> Config:
    config = sasrec()
    config.model.experts = (replace(config.model.experts[0], kind="hstu"),)
    return config


def hstu_large() -> Config:
    config = hstu()
    config.model.experts = (replace(config.model.experts[0], layers=8, heads=2),)
    return config


def gru4rec() -> Config:
    config = sasrec_plus()
    config.model.experts = (Expert(window=200, layers=1, heads=1, dropout=0.0, kind="gru4rec"),)
    config.model.dropout, config.model.position = 0.0, "none"
    return config


def simulated() -> Config:
    expert = Expert(window=32, layers=2, heads=2, feedforward=2.0, dropout=0.1, kind="sasrec")
    config = _plain(48, expert, NextTitle(loss="softmax"), epochs=20, validation=0.2)
    config.source, config.data.targets = Simulator(), "new"
    return config


def kuairand() -> Config:
    config = simulated()
    config.source = KuaiRand()
    return config


PUBLISHED = (sasrec, sasrec_plus, sasrec_plus_beauty, gsasrec, hstu, hstu_large, gru4rec)
CONFIGS = {f.__name__: f for f in (*PUBLISHED, simulated, kuairand)}


def get_config(name: str = "sasrec") -> Config:
    """By a name of CONFIGS."""
    if name not in CONFIGS:
        raise InputError(f"configs/sequences.py:{name}: the argument must be one of {', '.join(CONFIGS)}")
    config = CONFIGS[name]()
    config.name = f"sequences-{name}"
    return config
