"""Door "configs and flags": settings of windows and targets of sequences."""

from pathlib import Path

from tests.bad_inputs.case import Case
from tests.bad_inputs.configs import TINY, nothing, text

SEQUENCES = str(Path(__file__).resolve().parents[2] / "configs" / "sequences.py")
GENERATIVE = str(Path(SEQUENCES).with_name("onerec.py"))


def value(
    key: str, content: str, text: str, config: str = f"{SEQUENCES}:simulated", more: tuple[str, ...] = ()
) -> Case:
    """Return a case of one value on the command line, of a config of sequences; `more` are further flags."""
    command = ("train", "--config", config, "--workdir", "w", f"--config.{key}={content}", *more)
    return Case(f"{key}={content} of {Path(config).name}", nothing, command, text)


def tokens(name: str, *lines: str, message: str) -> Case:
    """Return a case of a config file: long histories of tokens with edits, which may read `c`."""
    body = "".join(f"    {line}\n" for line in lines)
    content = (
        "from configs import foundation\nfrom jaxrec.config import *\n\n\ndef get_config():\n"
        f"    c = foundation.get_config('tiny_tokens')\n{body}    return c\n"
    )
    command = ("train", "--config", "configs2/c.py", "--workdir", "w")
    return Case(name, text(content, "configs2/c.py"), command, message)


CASES = [
    tokens(
        "a kind of tokens that is no signal",
        "c.data.tokens = ('play', 'thumbs')",
        message="data.tokens[1]='thumbs' must be one of play, trailer, thumb, list_add; did you mean thumb?",
    ),
    tokens(
        "a kind of tokens twice",
        "c.data.tokens = ('play', 'thumb', 'play')",
        message="data.tokens[2]='play' must be unlike the kinds before it",
    ),
    tokens(
        "tokens without plays",
        "c.data.tokens = ('trailer', 'thumb')",
        message="data.tokens=('trailer', 'thumb') must hold 'play'",
    ),
    tokens(
        "a negative time to merge",
        "c.data.merge_minutes = -1.0",
        message="data.merge_minutes=-1.0 must be a finite number, at least 0",
    ),
    tokens(
        "tokens of the task ranking",
        "c.task.name, c.model.head, c.data.num_targets = 'preference', 'dot', 1",
        "c.objective.heads, c.next_item.horizon_hours = (), 0.0",
        message="must be ('play',) with task.name='preference'",
    ),
    tokens(
        "hidden contexts of tokens",
        "c.sampling.context_dropout = 0.5",
        message="sampling.context_dropout=0.5 must be 0 with data.tokens",
    ),
    tokens(
        "text in the context of tokens",
        "c.features = (*c.features, Feature('query', 'text', 'context', 4))",
        message="features[3].kind='text' must be category or number in a context of tokens",
    ),
    tokens(
        "a head on pairs of a sequence",
        "c.objective.heads = (Head('kind', 'token:kind', 'pair', 'softmax'),)",
        message="objective.heads[0].on='pair' must be state with task.name='next_item'",
    ),
    tokens(
        "a personalised head of a sequence",
        "c.objective.heads = (Head('kind', 'token:kind', 'state', 'softmax', personalised=True),)",
        message="objective.heads[0].personalised=True must be False with task.name='next_item'",
    ),
    tokens(
        "a kind that is no category",
        "c.objective.heads = (Head('kind', 'token:kind', 'state', 'mse'),)",
        message="objective.heads[0].loss='mse' must be softmax with of='token:kind'",
    ),
    tokens(
        "a head of tokens that are not there",
        "c.data.tokens, c.features = ('play',), c.features[:2]",
        "c.model.features = ('title_id',)",
        message="objective.heads[0].of='token:kind' must not be of tokens unless data.tokens holds several",
    ),
    value(
        "data.merge_minutes",
        "5",
        "data.merge_minutes=5.0 must be 10 with data.tokens=('play',): plays are not merged",
        TINY,
    ),
    value("model.attention_span", "5", "model.attention_span=5 must divide model.experts[0].max_len=32"),
    value("model.attention_span", "-8", "model.attention_span=-8 must be at least 0"),
    value("model.attention_span", "64", "model.attention_span=64 must divide model.experts[0].max_len=32"),
    value(
        "model.experts[0].encoder",
        "gru4rec",
        "model.attention_span=8 must be 0 with encoder='gru4rec': block-local are sasrec, hstu, ligr",
        more=("--config.model.attention_span=8",),
    ),
    value("model.attention_span", "7", "model.attention_span=7 must be 0 with task.name='ranking'", TINY),
    tokens(
        "a delay below 0",
        "c.evaluate.delay_hours = (0.0, -6.0)",
        message="evaluate.delay_hours[1]=-6.0 must be a finite number, at least 0",
    ),
    tokens(
        "a delay twice",
        "c.evaluate.delay_hours = (6.0, 6.0)",
        message="evaluate.delay_hours[1]=6.0 must be unlike the delays before it",
    ),
    value("model.project", "-1", "model.project=-1 must be at least 0"),
    value("model.project", "8", "model.project=8 must be 0 with task.name='ranking'", TINY),
    value(
        "model.project",
        "8",
        "model.project=8 must be 0 with task.name='generative'",
        f"{GENERATIVE}:tiny",
    ),
    value("next_item.weight", "-1", "next_item.weight=-1.0 must be a finite number, at least 0"),
    value("next_item.weight", "0.5", "next_item.weight=0.5 must be 1 without objective.heads"),
    value("next_item.weight", "0", "next_item.weight=0.0 must be 1 with task.name='ranking'", TINY),
    tokens(
        "no loss of titles and no label",
        "c.next_item.weight, c.objective.heads = 0.0, c.objective.heads[:2]",
        message="next_item.weight=0.0 must be above 0 without a head of a label or a reward",
    ),
    tokens(
        "delays of a model that ranks no titles",
        "c.next_item.weight, c.evaluate.delay_hours = 0.0, (0.0, 6.0)",
        message="evaluate.delay_hours=(0.0, 6.0) must be empty with next_item.weight=0",
    ),
    value("next_item.horizon_hours", "-1", "next_item.horizon_hours=-1.0 must be at least 0"),
    value("next_item.half_life_hours", "0", "next_item.half_life_hours=0.0 must be above 0"),
    value("next_item.most", "0", "next_item.most=0 must be at least 1"),
    value("next_item.most", "100", "next_item.most=100 must be at most 64"),
    value(
        "sampling.latest_share", "0.7", "sampling.latest_share=0.7 must be 0.5 with sampling.window='latest'"
    ),
    value("sampling.latest_share", "1.5", "sampling.latest_share=1.5 must be in [0, 1]"),
    value("sampling.window", "mixt", "sampling.window='mixt' must be one of latest, random, mixed"),
    value(
        "next_item.horizon_hours",
        "24",
        "next_item.horizon_hours=24.0 must be 0 with task.name='generative'",
        f"{GENERATIVE}:tiny",
    ),
]
