"""Communication of a training step, and a forecast of its scaling efficiency.

    python -m benchmarks.scaling [--titles 5000,4000000] [--json F]

The step of Table 3's model is compiled, from shapes alone, for 1, 2, 4 and 8 virtual devices of this
machine. The bytes of all collectives are read from the compiled program. From these bytes, published link
speeds and an assumed compute rate follows the rate of a chip among many compared with that of one chip alone
(weak scaling: the per-device batch is constant). The forecast is not measured; the report lists its
assumptions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import links
from benchmarks.command import Report, run
from jaxrec.config.schema import Model
from jaxrec.config.tree import choices
from jaxrec.core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
KINDS = choices(Model, "item_table_sharding")
CHIPS = (1, 8, 32, 64, 256)
_MIB, _GIB = 2**20, 2**30
# Adam reads a parameter, its gradient and two moments and writes three of them: 7 passes over a state of 3.
_PASSES = 7 / 3


def _flags() -> None:
    flags.DEFINE_list("kinds", list(KINDS), "values of model.item_table_sharding")
    flags.DEFINE_list("titles", ["5000", "4000000"], "numbers of rows of the title table")
    flags.DEFINE_list(
        "devices", ["1", "2", "4", "8"], "virtual devices; the forecast extrapolates the last two"
    )
    flags.DEFINE_integer("width", 64, "width of a title's id embedding", lower_bound=1)
    flags.DEFINE_integer("share", 1024, "per-device batch in examples; half of it is measured as well")
    flags.DEFINE_float("utilisation", 0.3, "assumed fraction of a chip's bfloat16 peak", 0.001, 1.0)


# ---------------------------------------------------------------- figures of compiled programs


def _compiled(titles: int, width: int, batch: int, kind: str) -> dict[str, Any]:
    """Return `lowered.account` of the step for the devices of this process."""
    from benchmarks.lowered import account, program_of

    return account(program_of(titles, width, batch, kind))


def compiled(devices: int, jobs: list[tuple[int, int, int, str]]) -> list[dict[str, Any]]:
    """Return `_compiled` of each (titles, width, batch, kind).

    The step is compiled in a process with `devices` virtual devices.
    """
    shape = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": shape, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.scaling", "child", json.dumps(jobs)]
    completed = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(completed.stdout)


def measure(
    kinds: list[str], titles: list[int], devices: list[int], width: int, per_device: int
) -> dict[str, Any]:
    """Return kind -> titles -> "devices x per-device batch" -> `_compiled`.

    Half the per-device batch is compiled for the largest number of devices only.
    """
    out: dict[str, Any] = {kind: {str(v): {} for v in titles} for kind in kinds}
    for n in devices:
        batch_sizes = (per_device, per_device // 2) if n == devices[-1] else (per_device,)
        jobs = [(v, width, n * s, kind) for kind in kinds for v in titles for s in batch_sizes]
        for (v, _, batch, kind), account in zip(jobs, compiled(n, jobs), strict=True):
            out[kind][str(v)][f"{n} x {batch // n}"] = account
            print(f"{kind}, {v} titles, {n} x {batch // n}: {account}", file=sys.stderr, flush=True)
    return out


# ---------------------------------------------------------------- forecast


def extrapolate(few: tuple[int, float], many: tuple[int, float], n: int, power: int) -> float:
    """Return the value at n of the curve a + b n^power through two points (n, value).

    The value is not below 0.
    """
    slope = (many[1] - few[1]) / (many[0] ** power - few[0] ** power)
    return max(many[1] + slope * (n**power - many[0] ** power), 0.0)


def predict(
    cluster: links.Cluster, few: tuple[int, dict[str, Any]], many: tuple[int, dict[str, Any]],
    n: int, flops: float, utilisation: float,
) -> dict[str, float]:  # fmt: skip
    """Return the seconds of a step on n chips, as `computing`, `update` and `sending`.

    `update` is the optimizer's update by its memory traffic.

    Args:
        cluster: Cluster of chips.
        few: Second largest number of compiled devices and its figures.
        many: Largest number of compiled devices and its figures.
        n: Number of chips.
        flops: Floating-point operations of a step on one chip.
        utilisation: Assumed fraction of the chip's peak.
    """
    state_bytes = extrapolate((few[0], few[1]["held"]), (many[0], many[1]["held"]), n, -1)
    sending = 0.0
    if n > 1:
        for kind, entry in many[1]["sent"].items():
            few_bytes = few[1]["sent"].get(kind, {"bytes": 0})["bytes"]
            bytes_each = extrapolate((few[0], few_bytes), (many[0], entry["bytes"]), n, 1) / entry["count"]
            sending += entry["count"] * links.seconds(cluster, kind, bytes_each, n)
    return {
        "computing": flops / (utilisation * cluster.flops),
        "update": _PASSES * state_bytes / cluster.memory,
        "sending": sending,
    }


def efficiency(alone: dict[str, float], among: dict[str, float]) -> tuple[float, float]:
    """Return the examples per second of a chip among others, relative to one alone.

    The first value assumes no overlap of communication and computation; the second assumes full overlap.
    """
    alone_seconds, own_seconds = alone["computing"] + alone["update"], among["computing"] + among["update"]
    return alone_seconds / (own_seconds + among["sending"]), alone_seconds / max(
        own_seconds, among["sending"]
    )


def forecast(figures: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each kind, titles, cluster and number of chips."""
    from benchmarks.lowered import layout_of, program_of
    from benchmarks.step_parts import work

    few, many = config["devices"][-2:]
    per_device, use, rows = config["share"], config["utilisation"], []
    for titles in config["titles"]:
        layout = layout_of(titles, config["width"])
        flops = work(
            program_of(titles, config["width"], per_device, "replicated").config, layout, per_device
        ).factored
        for cluster in links.CLUSTERS:
            for kind in config["kinds"]:
                accounts = figures[kind][str(titles)]
                few_and_many = (
                    (few, accounts[f"{few} x {per_device}"]),
                    (many, accounts[f"{many} x {per_device}"]),
                )
                # One chip alone holds the whole table, for both kinds.
                alone = predict(cluster, *few_and_many, 1, flops, use)
                for n in CHIPS:
                    if n <= cluster.chips:
                        among = predict(cluster, *few_and_many, n, flops, use)
                        least, most = efficiency(alone, among)
                        rows.append({"kind": kind, "titles": titles, "cluster": cluster.name, "chips": n,
                                     "least": least, "most": most, **among})  # fmt: skip
    return rows


# ---------------------------------------------------------------- the report


def _assumptions(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    link_rows = [(f"source: {c.name}", "as published", c.source) for c in links.CLUSTERS]
    few, many = config["devices"][-2:]
    return [
        ("read", "bytes of collectives, memory of a device", "from float32 programs of XLA's CPU backend"),
        ("assumed: computing", f"{config['utilisation']:.0%} of the bfloat16 peak", "not measured"),
        ("assumed: work", "matrix products, forward and twice that backward", "from shapes"),
        ("assumed: update", "7 passes over parameters at the memory's rate", "Adam touches every row"),
        ("assumed: growth", f"bytes a + b n, held a + b / n, through {few} and {many} devices", ""),
        ("assumed: rounds", "one of a sharded table's look-ups", "ids spread round-robin"),
        ("assumed: latency", "1 us a step of a ring, 5 us between hosts", "no source"),
        ("assumed: links", "rings at the full published rate", "no other traffic"),
        ("two bounds", "no overlap; full overlap", "examples/s of a chip, relative to one alone"),
        *link_rows,
    ]  # fmt: skip


def table(
    figures: dict[str, Any], rows: list[dict[str, Any]], config: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """Return the report's rows: compiled programs, forecast, assumptions."""
    out = []
    for kind, by_titles in figures.items():
        for titles, by_size in by_titles.items():
            for size, account in by_size.items():
                by_kind = ", ".join(
                    f"{name} {at['bytes'] / _MIB:.2f} in {at['count']}"
                    for name, at in account["sent"].items()
                )
                total = sum(at["bytes"] for at in account["sent"].values()) / _MIB
                memory = f"largest {account['largest'] / _MIB:.2f}; held {account['held'] / _GIB:.2f} GiB"
                label = f"{kind}, {int(titles):,} titles, {size}"
                out.append((label, f"{total:.2f} MiB", f"{by_kind or 'none'}; {memory}"))
    at: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        at.setdefault((row["kind"], row["titles"], row["cluster"]), []).append(row)
    for (kind, titles, cluster), sizes in at.items():
        chips = "; ".join(
            f"{x['chips']}: {x['least']:.0%} to {x['most']:.0%}" for x in sizes if x["chips"] > 1
        )
        times = ", ".join(
            f"{name} {1e3 * sizes[-1][name]:.2f}" for name in ("computing", "update", "sending")
        )
        label = f"{kind}, {titles:,} titles, {cluster}"
        out.append((label, chips, f"ms of a step on {sizes[-1]['chips']}: {times}"))
    return out + _assumptions(config)


def _numbers(name: str, texts: list[str], least: int) -> list[int]:
    invalid = [x for x in texts if not x.isdecimal() or not int(x)]
    if invalid or len(texts) < least:
        raise InputError(f"--{name}={','.join(texts)}: allowed: {least} or more whole numbers from 1")
    return sorted(int(x) for x in texts)


def main(args: flags.FlagValues) -> Report:
    unknown = [x for x in args.kinds if x not in KINDS]
    if unknown:
        raise InputError(f"--kinds={unknown[0]}: allowed: {', '.join(KINDS)}")
    devices, titles = _numbers("devices", args.devices, 2), _numbers("titles", args.titles, 1)
    config = {"kinds": args.kinds, "titles": titles, "devices": devices, "width": args.width,
              "share": args.share, "utilisation": args.utilisation}  # fmt: skip
    figures = measure(args.kinds, titles, devices, args.width, args.share)
    rows = forecast(figures, config)
    return Report("scaling", {**config, "compiled": figures, "forecast": rows}, table(figures, rows, config))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps([_compiled(*job) for job in json.loads(sys.argv[2])]))
    else:
        run(main, _flags)
