#!/usr/bin/env bash
# Measure all figures of one accelerator in one call: the step in bfloat16 compared with PyTorch on the same chip, the other
# benchmarks, and an epoch of configs/smoe.py:paper with its input pipeline. The whole script has not been run: the figures of
# an H200 (benchmarks/results/h200.md) were measured one by one. The first step of PyTorch takes more than a minute to compile,
# each of ours about 20 s. The preparation of a million users takes some minutes. Run nothing else during the epoch.
#
#   launch/gpu.sh [OUT]
#
# Requires jaxrec with the extras cuda and peers, and PyTorch with CUDA. Results: OUT/*.json, OUT/*.txt, and
# OUT/epoch-*/metrics.jsonl, whose "input_stall" is the fraction of the time spent waiting for input.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python}
mkdir -p "$out"
"$python" -c 'import jax; print(jax.devices()); assert jax.default_backend() != "cpu", "no accelerator"'

# The same overrides as in benchmarks.step, so that it reads the same rows.
data=$out/paper-data rows=(--config.source.users=1000000 --config.source.test_only_users=0 --config.data.partitions=8)
[ -e "$data/manifest.json" ] || "$python" -m jaxrec.prepare --config configs/smoe.py:paper --out "$data" "${rows[@]}"

# The step without microbatches. Targets: 1,000,000 examples/s at 8192, and twice torch.compile. Both libraries share the
# card, and jax reserves three quarters of its memory by default.
for batch in 8192 1024 32768; do
  XLA_PYTHON_CLIENT_MEM_FRACTION=.4 "$python" -m benchmarks.step --dtype bfloat16 --batch "$batch" --rows service --parts rate \
    --data "$data" --users 1000000 --json "$out/step-$batch.json" | tee "$out/step-$batch.txt"
done
"$python" -m benchmarks.roofline --json "$out/roofline.json" | tee "$out/roofline.txt"
"$python" -m benchmarks.gains --batch 8192 --dtype bfloat16 --json "$out/gains.json" | tee "$out/gains.txt"
# Run benchmarks.step with the fastest form as `_FASTEST` of jaxrec/models/layers/attention.py.
"$python" -m benchmarks.attention --dtype bfloat16 --json "$out/attention.json" | tee "$out/attention.txt"
"$python" -m benchmarks.stream --json "$out/stream.json" | tee "$out/stream.txt"
"$python" -m benchmarks.evaluate --json "$out/evaluate.json" | tee "$out/evaluate.txt"
"$python" -m benchmarks.save --json "$out/save.json" | tee "$out/save.txt"

for prefetch in 2 4; do # threads that prepare batches
  time "$python" -m jaxrec.train --config configs/smoe.py:paper --workdir "$out/epoch-$prefetch" \
    --config.data.directory="$data" "${rows[@]}" --config.model.dtype=bfloat16 --config.train.duration="1 epochs" \
    --config.train.log_seconds=1 --config.train.prefetch="$prefetch"
done
