"""Kinds of faults in files: checkpoints, shards and arrays, manifests."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.lab import Trial, Verdict


def _cut(path: Path, draws: random.Random) -> str:
    size = draws.randrange(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    return f"{path.name} cut to {size} bytes"


def _flip(path: Path, draws: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at, bit = draws.randrange(len(content)), draws.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name} flipped"


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def _saved(paths: list[Path]) -> Callable[[], None]:
    """Return a function that puts back the contents that the files have now."""
    kept = {path: path.read_bytes() for path in paths}

    def restore() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    return restore


def _damaged_step(trial: Trial) -> Path:
    """Return the step of a stopped run to damage: mostly the newest."""
    trial.continue_stopped()
    steps = sorted((trial.workdir / "checkpoints").iterdir(), key=lambda p: int(p.name))
    return steps[-1] if trial.draws.random() < 0.8 else steps[0]


def _damage_checkpoint(trial: Trial, damage: Callable[[Path, random.Random], str]) -> Verdict:
    step = _damaged_step(trial)
    path = trial.draws.choice(_files(step))
    restore = _saved([path])
    trial.moment = f"step {step.name}, {path.relative_to(step).parts[0]}: {damage(path, trial.draws)}"
    return trial.end_damaged(restore, rf"{step.name}|{re.escape(path.name)}|damaged")


def checkpoint_cut(trial: Trial) -> Verdict:
    """Cut a file of a checkpoint."""
    return _damage_checkpoint(trial, _cut)


def checkpoint_flipped(trial: Trial) -> Verdict:
    """Flip a bit of a file of a checkpoint."""
    return _damage_checkpoint(trial, _flip)


def checkpoint_half_deleted(trial: Trial) -> Verdict:
    """Delete a random half of the files of a checkpoint."""
    step = _damaged_step(trial)
    files = _files(step)
    deleted = trial.draws.sample(files, len(files) // 2)
    restore = _saved(deleted)
    for path in deleted:
        path.unlink()
    trial.moment = f"step {step.name}: {len(deleted)} of {len(files)} files deleted"
    if (step / "checksums.json") in deleted:
        trial.moment += ", the checksums too"
    return trial.end_damaged(restore, rf"{step.name}|damaged")


def _damage_data(trial: Trial, damage: Callable[[Path, random.Random], str]) -> Verdict:
    trial.copy_data()
    if trial.draws.random() < 0.7:
        trial.continue_stopped()
    shards, arrays = sorted(trial.data.glob("*.rows")), sorted(trial.data.glob("*.npy"))
    path = trial.draws.choice(shards if trial.draws.random() < 0.75 else arrays)
    restore = _saved([path])
    trial.moment = damage(path, trial.draws)
    return trial.end_damaged(restore, re.escape(path.name))


def shard_cut(trial: Trial) -> Verdict:
    """Cut a shard or an array of the dataset."""
    return _damage_data(trial, _cut)


def shard_flipped(trial: Trial) -> Verdict:
    """Flip a bit of a shard or an array of the dataset."""
    return _damage_data(trial, _flip)


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(tree, dict | list) or not tree:
        return [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for key, value in items for leaf in _leaves(value, (*path, key))]


def _edited(value: Any, draws: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return draws.choice((value + 1, -value - 1, value * 10 + 1, None))
    return f"{value}x" if isinstance(value, str) else draws.choice((None, 1))


def manifest_edited(trial: Trial) -> Verdict:
    """Change or remove one value of the dataset's manifest."""
    trial.copy_data()
    if trial.draws.random() < 0.7:
        trial.continue_stopped()
    path = trial.data / "manifest.json"
    restore, manifest = _saved([path]), json.loads(path.read_bytes())
    *parents, key = trial.draws.choice(_leaves(manifest))
    at = manifest
    for parent in parents:
        at = at[parent]
    if trial.draws.random() < 0.2:
        trial.moment = f"removed {[*parents, key]}"
        del at[key]
    else:
        before, at[key] = at[key], _edited(at[key], trial.draws)
        trial.moment = f"{[*parents, key]}: {before!r:.40} became {at[key]!r:.40}"
    path.write_text(json.dumps(manifest, indent=1))
    return trial.end_damaged(restore, r"manifest\.json|prepared with other")


KINDS = {
    "checkpoint cut": checkpoint_cut,
    "checkpoint flipped": checkpoint_flipped,
    "checkpoint half deleted": checkpoint_half_deleted,
    "shard cut": shard_cut,
    "shard flipped": shard_flipped,
    "manifest edited": manifest_edited,
}
