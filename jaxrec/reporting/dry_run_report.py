"""Text of `train --dry-run`: config, parameters, memory, FLOPs, steps and expected time."""

from typing import Any


def format_dry_run(report: dict[str, Any]) -> str:
    """Return the text of a report, the JSON object that `train --dry-run --json` prints."""
    lines = ["config", *(f"  {key} = {value!r}" for key, value in config_leaves(report["config"]))]
    parameters = report["parameters"]
    width = max(len(p["name"]) for p in parameters)
    lines += ["", f"{'parameter':<{width}}  {'shape':<16}  {'count':>12}  {'bytes':>14}"]
    for p in parameters:
        shape = " x ".join(map(str, p["shape"]))
        lines.append(f"{p['name']:<{width}}  {shape:<16}  {p['count']:>12,}  {p['bytes']:>14,}")
    step = report["step"]
    total, size = f"{report['parameter_count']:,}", report["parameter_bytes"]
    lines += [
        f"{'total':<{width}}  {'':<16}  {total:>12}  {size:>14,}",
        "",
        f"state with the optimizer: {_size(report['state_bytes'])}",
        f"a call of {step['steps_per_call']} step(s), {step['microbatches']} microbatch(es) each, on each of "
        f"{report['devices']} {report['platform']} device(s): arguments "
        f"{_size(step['argument_bytes'])}, temporaries {_size(step['temporary_bytes'])}, "
        + ("FLOPs not reported" if step["flops"] is None else f"{step['flops']:.3g} FLOPs a step")
        + ", by the compiler",
        f"{report['examples']:,} examples, batch size {report['batch_size']:,}: "
        f"{report['steps_per_epoch']:,} steps an epoch, {report['total_steps']:,} steps in all",
        f"estimated {_duration(report['seconds'])}: {report['seconds_per_step']:.3g} s a step, mean of "
        f"{report['timed_steps']} steps after the compilation; without validation, checkpoints and test",
    ]
    return "\n".join(lines)


def config_leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Return dotted key and value of each leaf of a config's JSON."""
    if isinstance(value, dict):
        below = ((inner, f"{key}.{name}".lstrip(".")) for name, inner in value.items())
        return [leaf for one in below for leaf in config_leaves(*one)]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [leaf for i, inner in enumerate(value) for leaf in config_leaves(inner, f"{key}[{i}]")]
    return [(key, value)]


def _size(count: float | None) -> str:
    """Return bytes in MiB."""
    return "not reported" if count is None else f"{count / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
