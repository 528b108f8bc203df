"""python -m benchmarks.scaling [--titles 5000,4000000] [--json F]: what a step sends, and what it will cost.

The step of Table 3's model is compiled, from shapes alone, for 1, 2, 4 and 8 virtual devices of this machine;
the bytes of every collective are read from the compiled program. From them, published link speeds and an
assumed rate of computing follows how fast a chip of many would be beside one alone (weak scaling: every chip
keeps its share of the batch). Nothing of the second part is measured; its assumptions are in the report.
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
from jaxrec.config.validation import NAMES
from jaxrec.core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
KINDS = NAMES["model.title_table"]
CHIPS = (1, 8, 32, 64, 256)
_MIB, _GIB = 2**20, 2**30
# Adam reads a parameter, its gradient and two moments and writes three of them: 7 passes over a state of 3.
_PASSES = 7 / 3


def _flags() -> None:
    flags.DEFINE_list("kinds", list(KINDS), "of model.title_table")
    flags.DEFINE_list("titles", ["5000", "4000000"], "rows of the title table")
    flags.DEFINE_list("devices", ["1", "2", "4", "8"], "virtual ones; the last two numbers are drawn on")
    flags.DEFINE_integer("width", 64, "of a title's own embedding", lower_bound=1)
    flags.DEFINE_integer("share", 1024, "examples of a batch that each device has; half is tried too")
    flags.DEFINE_float("utilisation", 0.3, "assumed: share of a chip's bfloat16 peak", 0.001, 1.0)


# ---------------------------------------------------------------- what is read from compiled programs


def _compiled(titles: int, width: int, batch: int, kind: str) -> dict[str, Any]:
    """`lowered.account` of the step for the devices there are."""
    from benchmarks.lowered import account, program_of

    return account(program_of(titles, width, batch, kind))


def compiled(devices: int, jobs: list[tuple[int, int, int, str]]) -> list[dict[str, Any]]:
    """`_compiled` of each (titles, width, batch, kind), by a process with so many devices."""
    shape = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": shape, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.scaling", "child", json.dumps(jobs)]
    said = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(said.stdout)


def measured(
    kinds: list[str], titles: list[int], devices: list[int], width: int, share: int
) -> dict[str, Any]:
    """Kind -> titles -> "devices x share" -> `_compiled`; half the share with the most devices alone."""
    out: dict[str, Any] = {kind: {str(v): {} for v in titles} for kind in kinds}
    for n in devices:
        shares = (share, share // 2) if n == devices[-1] else (share,)
        asked = [(v, width, n * s, kind) for kind in kinds for v in titles for s in shares]
        for (v, _, batch, kind), found in zip(asked, compiled(n, asked), strict=True):
            out[kind][str(v)][f"{n} x {batch // n}"] = found
            print(f"{kind}, {v} titles, {n} x {batch // n}: {found}", file=sys.stderr, flush=True)
    return out


# ---------------------------------------------------------------- what follows on paper


def through(few: tuple[int, float], many: tuple[int, float], n: int, power: int) -> float:
    """At n, of the curve a + b n^power through two points (n, value); not below 0."""
    slope = (many[1] - few[1]) / (many[0] ** power - few[0] ** power)
    return max(many[1] + slope * (n**power - many[0] ** power), 0.0)


def predicted(
    cluster: links.Cluster, few: tuple[int, dict[str, Any]], many: tuple[int, dict[str, Any]],
    n: int, flops: float, utilisation: float,
) -> dict[str, float]:  # fmt: skip
    """Seconds of a step on n chips: `computing`, the optimizer's `update` by its traffic to memory, and
    `sending`. `few` and `many` are two numbers of devices and what was compiled for them."""
    held = through((few[0], few[1]["held"]), (many[0], many[1]["held"]), n, -1)
    sending = 0.0
    if n > 1:
        for kind, at in many[1]["sent"].items():
            before = few[1]["sent"].get(kind, {"bytes": 0})["bytes"]
            each = through((few[0], before), (many[0], at["bytes"]), n, 1) / at["count"]
            sending += at["count"] * links.seconds(cluster, kind, each, n)
    return {
        "computing": flops / (utilisation * cluster.flops),
        "update": _PASSES * held / cluster.memory,
        "sending": sending,
    }


def efficiency(alone: dict[str, float], among: dict[str, float]) -> tuple[float, float]:
    """Examples a second of a chip among others, beside one alone: where nothing is sent while it computes,
    and where all is that can be."""
    whole, own = alone["computing"] + alone["update"], among["computing"] + among["update"]
    return whole / (own + among["sending"]), whole / max(own, among["sending"])


def forecast(figures: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind, titles, cluster and number of chips."""
    from benchmarks.lowered import layout_of, program_of
    from benchmarks.step_parts import work

    few, many = config["devices"][-2:]
    share, use, rows = config["share"], config["utilisation"], []
    for titles in config["titles"]:
        layout = layout_of(titles, config["width"])
        flops = work(program_of(titles, config["width"], share, "replicated").config, layout, share).factored
        for cluster in links.CLUSTERS:
            for kind in config["kinds"]:
                found = figures[kind][str(titles)]
                given = (few, found[f"{few} x {share}"]), (many, found[f"{many} x {share}"])
                # One chip alone holds all there is, of either kind.
                alone = predicted(cluster, *given, 1, flops, use)
                for n in CHIPS:
                    if n <= cluster.chips:
                        among = predicted(cluster, *given, n, flops, use)
                        least, most = efficiency(alone, among)
                        rows.append({"kind": kind, "titles": titles, "cluster": cluster.name, "chips": n,
                                     "least": least, "most": most, **among})  # fmt: skip
    return rows


# ---------------------------------------------------------------- the report


def _assumptions(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    of_links = [(f"source: {c.name}", "as published", c.source) for c in links.CLUSTERS]
    few, many = config["devices"][-2:]
    return [
        ("read", "bytes of collectives, what a device holds", "from float32 programs of XLA's CPU backend"),
        ("assumed: computing", f"{config['utilisation']:.0%} of the bfloat16 peak", "not measured"),
        ("assumed: work", "matrix products, forward and twice that backward", "from shapes"),
        ("assumed: update", "7 passes over parameters at the memory's rate", "Adam touches every row"),
        ("assumed: growth", f"bytes a + b n, held a + b / n, through {few} and {many} devices", ""),
        ("assumed: rounds", "one of a split table's look-ups", "ids dealt round-robin"),
        ("assumed: latency", "1 us a step of a ring, 5 us between hosts", "not seen in any source"),
        ("assumed: links", "rings at the full published rate", "nobody else on them"),
        ("two bounds", "nothing overlaps; all does", "examples/s of a chip, beside one alone"),
        *of_links,
    ]  # fmt: skip


def table(
    figures: dict[str, Any], rows: list[dict[str, Any]], config: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """Rows of the report: what was compiled, what follows, what was assumed."""
    out = []
    for kind, by_titles in figures.items():
        for titles, by_size in by_titles.items():
            for size, found in by_size.items():
                parts = ", ".join(
                    f"{name} {at['bytes'] / _MIB:.2f} in {at['count']}" for name, at in found["sent"].items()
                )
                total = sum(at["bytes"] for at in found["sent"].values()) / _MIB
                held = f"largest {found['largest'] / _MIB:.2f}; held {found['held'] / _GIB:.2f} GiB"
                what = f"{kind}, {int(titles):,} titles, {size}"
                out.append((what, f"{total:.2f} MiB", f"{parts or 'none'}; {held}"))
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
        what = f"{kind}, {titles:,} titles, {cluster}"
        out.append((what, chips, f"ms of a step on {sizes[-1]['chips']}: {times}"))
    return out + _assumptions(config)


def _numbers(name: str, given: list[str], least: int) -> list[int]:
    wrong = [x for x in given if not x.isdecimal() or not int(x)]
    if wrong or len(given) < least:
        raise InputError(f"--{name}={','.join(given)}: allowed: {least} or more whole numbers from 1")
    return sorted(int(x) for x in given)


def main(found: flags.FlagValues) -> Report:
    wrong = [x for x in found.kinds if x not in KINDS]
    if wrong:
        raise InputError(f"--kinds={wrong[0]}: allowed: {', '.join(KINDS)}")
    devices, titles = _numbers("devices", found.devices, 2), _numbers("titles", found.titles, 1)
    config = {"kinds": found.kinds, "titles": titles, "devices": devices, "width": found.width,
              "share": found.share, "utilisation": found.utilisation}  # fmt: skip
    figures = measured(found.kinds, titles, devices, found.width, found.share)
    rows = forecast(figures, config)
    return Report("scaling", {**config, "compiled": figures, "forecast": rows}, table(figures, rows, config))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps([_compiled(*job) for job in json.loads(sys.argv[2])]))
    else:
        run(main, _flags)
