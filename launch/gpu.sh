#!/usr/bin/env bash
# Every figure of one accelerator, in one call: the step in bfloat16 beside PyTorch on the same chip, the other
# benchmarks, and an epoch of configs/smoe.py:paper, input included, once prepared. Not run yet: no such machine was at hand.
#
#   launch/gpu.sh [OUT]
#
# Wants jaxrec installed with the extras cuda and peers, PyTorch with CUDA. Results: OUT/*.json, OUT/*.txt, and
# OUT/epoch/metrics.jsonl, whose "input_stall" is the share of the time that waited for the stream.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python}
mkdir -p "$out"
"$python" -c 'import jax; print(jax.devices()); assert jax.default_backend() != "cpu", "no accelerator"'

# The step at once (no parts), 1,000,000 examples/s wanted at 8192, and twice torch.compile.
"$python" -m benchmarks.step --dtype bfloat16 --batch 1024,8192,32768 --json "$out/step.json" | tee "$out/step.txt"
"$python" -m benchmarks.gains --batch 8192 --json "$out/gains.json" | tee "$out/gains.txt"
# Whichever form wins there is worth a run of benchmarks.step as `_FASTEST` of jaxrec/nn/attention.py.
"$python" -m benchmarks.attention --dtype bfloat16 --json "$out/attention.json" | tee "$out/attention.txt"
"$python" -m benchmarks.stream --json "$out/stream.json" | tee "$out/stream.txt"
"$python" -m benchmarks.evaluate --json "$out/evaluate.json" | tee "$out/evaluate.txt"
"$python" -m benchmarks.save --json "$out/save.json" | tee "$out/save.txt"

data=$out/paper-data
[ -e "$data/manifest.json" ] || "$python" -m jaxrec.prepare --config configs/smoe.py:paper --out "$data"
time "$python" -m jaxrec.train --config configs/smoe.py:paper --workdir "$out/epoch" \
  --config.data.directory="$data" --config.model.dtype=bfloat16 --config.train.length="1 epochs"
