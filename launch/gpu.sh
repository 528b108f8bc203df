#!/usr/bin/env bash
# Every figure of one accelerator, in one call: the step in bfloat16 beside PyTorch on the same chip, the other
# benchmarks, and an epoch of configs/smoe.py:paper, input included, once prepared. It has not been run as it stands: what an
# H200 gave so far (benchmarks/results/h200.md) was taken piece by piece. The first step of PyTorch takes a minute and more to
# compile, each of ours some 20 s, and a million users some minutes to prepare; nothing may run beside the epoch.
#
#   launch/gpu.sh [OUT]
#
# Wants jaxrec installed with the extras cuda and peers, PyTorch with CUDA. Results: OUT/*.json, OUT/*.txt, and
# OUT/epoch-*/metrics.jsonl, whose "input_stall" is the share of the time that waited for the stream.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python}
mkdir -p "$out"
"$python" -c 'import jax; print(jax.devices()); assert jax.default_backend() != "cpu", "no accelerator"'

# As benchmarks.step asks for them, so that it reads the same rows.
data=$out/paper-data rows=(--config.source.users=1000000 --config.source.test_only_users=0 --config.data.partitions=8)
[ -e "$data/manifest.json" ] || "$python" -m jaxrec.prepare --config configs/smoe.py:paper --out "$data" "${rows[@]}"

# The step at once (no parts), 1,000,000 examples/s wanted at 8192, and twice torch.compile. Both share the card: jax takes
# three quarters of its memory unless told.
for batch in 8192 1024 32768; do
  XLA_PYTHON_CLIENT_MEM_FRACTION=.4 "$python" -m benchmarks.step --dtype bfloat16 --batch "$batch" --rows service --parts rate \
    --data "$data" --users 1000000 --json "$out/step-$batch.json" | tee "$out/step-$batch.txt"
done
"$python" -m benchmarks.roofline --json "$out/roofline.json" | tee "$out/roofline.txt"
"$python" -m benchmarks.gains --batch 8192 --dtype bfloat16 --json "$out/gains.json" | tee "$out/gains.txt"
# Whichever form wins there is worth a run of benchmarks.step as `_FASTEST` of jaxrec/models/layers/attention.py.
"$python" -m benchmarks.attention --dtype bfloat16 --json "$out/attention.json" | tee "$out/attention.txt"
"$python" -m benchmarks.stream --json "$out/stream.json" | tee "$out/stream.txt"
"$python" -m benchmarks.evaluate --json "$out/evaluate.json" | tee "$out/evaluate.txt"
"$python" -m benchmarks.save --json "$out/save.json" | tee "$out/save.txt"

for prefetch in 2 4; do # threads that make batches
  time "$python" -m jaxrec.train --config configs/smoe.py:paper --workdir "$out/epoch-$prefetch" \
    --config.data.directory="$data" "${rows[@]}" --config.model.dtype=bfloat16 --config.train.length="1 epochs" \
    --config.train.log_seconds=1 --config.train.prefetch="$prefetch"
done
