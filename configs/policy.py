"""Policy over titles on the simulated service: imitation, then post-training from ratings.

python -m jaxrec.train --config configs/policy.py:small --workdir BC                      # 1 to 2 minutes
python -m jaxrec.train --config configs/policy.py:asft --config.start.workdir=BC --workdir ASFT
python -m jaxrec.evaluate --checkpoint ASFT --lists truth
python -m jaxrec.pairs --checkpoint BC --rewards BC --config configs/policy.py:dpo --out PAIRS
python -m jaxrec.train --config configs/policy.py:dpo --config.start.workdir=BC --config.data.directory=PAIRS

on two CPU cores. The argument is the objective, with the settings of `small`:

| argument | objective |
|---|---|
| small | behaviour cloning (BC), with four reward models beside it |
| bc | BC for as many steps as the other objectives have: the control |
| reward | reward-weighted BC |
| exp_rsft | exp(r / beta) without a baseline |
| asft | exp((r - V) / beta), V a value of the state: A-SFT |
| cql | conservative Q-learning of one step |
| ppo, ppo_kl | proximal policy optimisation by the reward models of the start, without and with a KL term |
| grpo | the same with advantages of the group of draws, and a KL term |
| dpo, ipo | pairs that `python -m jaxrec.pairs` wrote: the dataset is that folder, `data.directory` |
| wbc | weighted binary classification of the titles that were shown: rows hold 20 of them for each play |
| kuairand | `small` on KuaiRand, with a reward from long_view, like, comment and hate |
| composite | `small` with a reward from completion and thumbs: ratings are not seen |
| tiny | `small` at the size of configs/tiny.py, for tests |

All first plays are targets, abandoned or not, and a fifth of the plays runs on by habit. The reward is the
rating, from 1 to 5, and every play is rated. `docs/policies.md` has the results.

The reward `composite` is 1 + 3 completion + thumb, from 1 to 5; the thumb is -1, 0 or 1. Habit and clickbait
bend it. List adds are no term of it: on the simulated service a list add is of another title than the play.

`kuairand` reads the folder that `configs/kuairand.py` describes. Real logs have no truth: policies on them
are measured by the reward models of another run alone, `evaluate --reward_models`.
"""

from configs import kuairand_labels
from jaxrec.config import (
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Label,
    Model,
    Optimizer,
    Post,
    Reward,
    Sampling,
    Signal,
    Simulator,
    Task,
    Term,
    Train,
)
from jaxrec.core.errors import InputError

REWARD = "stars"
START = "runs/bc"  # run of `small` that ppo, dpo and ipo start from, without another start.workdir
_NO_CLIP = 1e9  # above exp(4 / beta) at the lowest beta: the weights of `exp_rsft` are not clipped
COMPOSITE = "composite"
COMPOSITE_EDITS = {  # dotted key -> value: a reward from what users do, without ratings
    "signals": (Signal("thumb", "sign"),),
    "labels": (Label("completion", "completion", hours=72), Label("thumb", "last", "thumb", hours=72)),
    "rewards": (
        Reward(COMPOSITE, (Term("completion", 3.0), Term("thumb", 1.0)), base=1.0, unknown="observed"),
    ),
    "post.reward": COMPOSITE,
}
SHOWN_EDITS = {  # dotted key -> value: what was shown beside each play
    "signals": (Signal("rating", "number"), Signal("impression")),
    "data.served": 20,
}
_FEEDBACK = ("long_view", "like", "comment", "hate")
OBJECTIVES = {
    "bc": Post(reward=REWARD),
    "reward": Post("reward", REWARD),
    "exp_rsft": Post("exponential", REWARD, baseline="zero", clip=_NO_CLIP),
    "asft": Post("exponential", REWARD),
    "cql": Post("cql", REWARD),
    "wbc": Post("wbc", REWARD),
    "ppo": Post("ppo", REWARD, "model", reward_models=4),
    "ppo_kl": Post("ppo", REWARD, "model", kappa=0.1, reward_models=4),
    "grpo": Post("ppo", REWARD, "model", "group", kappa=0.1, reward_models=4),
    "dpo": Post("dpo", REWARD, beta=0.1, samples=8),
    "ipo": Post("ipo", REWARD, beta=0.1, samples=8),
}


def _small() -> Config:
    """Return behaviour cloning with reward models: the run that the others start from."""
    return Config(
        name="policy-small",
        source=Simulator(users=20_000, test_only_users=5_000, habit=0.2, ratings=1.0),
        features=(Feature("title_id", "category", "title", width=48),),
        signals=(Signal("rating", "number"),),
        labels=(Label(REWARD, "last", "rating", hours=72),),
        rewards=(Reward(REWARD, (Term(REWARD),), base=0.0),),
        task=Task("preference"),
        post=Post(reward=REWARD, reward_models=4),
        data=Data(
            targets="every",
            max_history=16,
            num_targets=1,
            train_share=0.9,
            validation_share=0.05,
            validation_truth_queries=4096,
        ),
        sampling=Sampling(id_dropout=0.0),
        model=Model(
            width=48,
            experts=(Expert(max_len=16, num_layers=2, num_heads=2, dropout=0.2, encoder="hstu"),),
            dropout=0.2,
            head="dot",
            head_hidden=(64,),
            embedding_init_std=0.02,
        ),
        optimizer=Optimizer(learning_rate=5e-3, weight_decay=0.0, plateau_factor=1.0),
        train=Train(duration="16 epochs", batch_size=128),
        evaluate=Evaluate(batch_size=512, next_k=(1,), checkpoint="last"),
    )


def _tiny() -> Config:
    config = _small()
    config.name, config.source = "policy-tiny", Simulator(
        users=240, test_only_users=40, titles=60, slate=20, habit=0.2, ratings=1.0
    )  # fmt: skip
    config.features = (Feature("title_id", "category", "title", width=8),)
    config.data.max_history, config.data.truth_queries, config.data.partitions = 8, 64, 2
    config.data.validation_truth_queries = 32
    config.model.width, config.model.head_hidden = 8, (8,)
    config.model.experts = (Expert(max_len=8, num_layers=1, num_heads=2, dropout=0.1, encoder="hstu"),)
    config.train, config.evaluate.batch_size = Train(duration="2 epochs", batch_size=64, log_seconds=0.5), 64
    return config


def _kuairand() -> Config:
    """Return imitation on KuaiRand with reward models, from the labels of the feedback."""
    config, labelled = _small(), kuairand_labels.get_config()
    config.name, config.source = "policy-kuairand", labelled.source
    config.signals = tuple(signal for signal in labelled.signals if signal.name in _FEEDBACK)
    config.labels = tuple(label for label in labelled.labels if label.name in _FEEDBACK)
    config.rewards, config.post.reward = labelled.rewards, labelled.rewards[0].name
    config.data.validation_truth_queries = 0
    config.train.duration = "4 epochs"
    return config


def get_config(name: str = "small") -> Config:
    """Return the config of "small", "composite", "kuairand", "tiny" or a name in OBJECTIVES."""
    if name == "tiny":
        return _tiny()
    config = _small()
    if name == "small":
        return config
    if name == "kuairand":
        return _kuairand()
    if name == COMPOSITE:
        config.name, config.post.reward = "policy-composite", COMPOSITE
        config.signals, config.labels, config.rewards = (
            COMPOSITE_EDITS[key] for key in ("signals", "labels", "rewards")
        )
        return config
    if name not in OBJECTIVES:
        names = ", ".join(("small", COMPOSITE, "kuairand", "tiny", *OBJECTIVES))
        raise InputError(f"configs/policy.py:{name}: the argument must be one of {names}")
    config.name, config.post = f"policy-{name}", OBJECTIVES[name]
    config.optimizer.learning_rate, config.train.duration = 2e-3, "5 epochs"
    if config.post.objective == "wbc":
        config.signals, config.data.served = SHOWN_EDITS["signals"], SHOWN_EDITS["data.served"]
    if config.post.objective in ("ppo", "dpo", "ipo"):
        config.start.workdir = START  # they compare the policy with that of the start
    return config
