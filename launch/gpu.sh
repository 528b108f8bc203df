#!/usr/bin/env bash
# Measure one accelerator in one call.
#
#   launch/gpu.sh [--quick] [--rehearse] [OUT]
#
# --quick     about six minutes: the tests of the kernels and of code that only a GPU runs, the step from the stream and from
#             rows on the device, PyTorch eager and torch.compile, an epoch by the train command, HSTU
# (without)   the same, and all other benchmarks: three batch sizes, roofline, gains, attention, stream, evaluate, save
# --rehearse  all commands on any machine with sizes so small that the figures mean nothing
#
# Requires jaxrec with the extras cuda, peers and dev, and PyTorch with CUDA. A stage that fails does not stop the others; the
# last lines list the seconds of each stage and those that failed. Results: OUT/*.json, OUT/*.txt, and
# OUT/epoch-*/metrics.jsonl, whose "input_stall" is the fraction of the time spent waiting for input.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

quick='' rehearse='' out=benchmarks/results/gpu
for argument; do
  case $argument in
    --quick) quick=1 ;;
    --rehearse) rehearse=1 ;;
    -*) echo "error: $argument is no option; usage: launch/gpu.sh [--quick] [--rehearse] [OUT]" >&2 && exit 2 ;;
    *) out=$argument ;;
  esac
done
python=${PYTHON:-python}
mkdir -p "$out"
if [[ -z $rehearse ]]; then
  "$python" -c 'import jax; assert jax.default_backend() != "cpu", "no accelerator"' || exit 2
fi

# Sizes: users of the rows, batch, other batches, rounds of interleaved timings, steps of HSTU, epochs.
users=1000000 batch=8192 others='1024 32768' rounds=7 steps=400 epochs=3 dtype=bfloat16 compile=eager,compiled
[[ -z $quick ]] || users=400000 others='' rounds=5
[[ -z $rehearse ]] || users=1500 batch=64 others='' rounds=1 steps=4 epochs=1 dtype=float32 compile=${REHEARSED_PEERS-}

# The same overrides as in benchmarks.step, so that it reads the same rows.
data=$out/paper-data
rows=(--config.source.users="$users" --config.source.test_only_users=0 --config.data.partitions=8)
hstu=(--config configs/sequences.py:simulated --config.model.experts[0].encoder=hstu --config.source.users="$users"
  --config.source.test_only_users=0 --config.train.batch_size="$batch" --config.data.directory="$out/hstu-data")
config=configs/smoe.py:paper
[[ -z $rehearse ]] || config=configs/tiny.py
paper=(--config "$config")

failed='' times=''
stage() { # NAME COMMAND...: runs a command, with its output in OUT/NAME.txt too
  local name=$1 began=$SECONDS
  shift
  echo "== $name: $*"
  if ! "$@" 2>&1 | tee "$out/$name.txt"; then failed+=" $name"; fi
  times+=" $name $((SECONDS - began))"
}
train() { # NAME ARGUMENTS...
  rm -rf "${out:?}/$1"
  stage "$1" "$python" -m jaxrec.train "${@:2}" --workdir "$out/$1" --config.train.log_seconds=1
}

stage versions "$python" -c 'import jax, jaxlib; print(jax.__version__, jaxlib.__version__, jax.devices())'
[[ -e $data/manifest.json ]] || stage prepare "$python" -m jaxrec.prepare "${paper[@]}" --out "$data" "${rows[@]}"

# Kernels are compiled here, not interpreted. Tests of other code do not depend on the device.
stage kernels "$python" -m pytest -q -n 0 -p no:cacheprovider tests/models/kernels tests/models/test_gpu_branches.py

# Both libraries share the card, and jax reserves three quarters of its memory by default.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.4}
step=(-m benchmarks.step --config "$config" --dtype "$dtype" --rows service --parts rate --data "$data" --users "$users"
  --rounds "$rounds")
[[ -z $rehearse ]] || step+=(--seconds 0.1)
stage step-never "$python" "${step[@]}" --batch "$batch" --resident never --peers= --json "$out/step-never.json"
stage step-always "$python" "${step[@]}" --batch "$batch" --resident always --peers "$compile" --json "$out/step-always.json"
for other in $others; do
  stage "step-$other" "$python" "${step[@]}" --batch "$other" --json "$out/step-$other.json"
done
unset XLA_PYTHON_CLIENT_MEM_FRACTION

for resident in never always; do # with rows read from the dataset, and on the device
  train "epoch-$resident" "${paper[@]}" --config.data.directory="$data" "${rows[@]}" --config.model.dtype="$dtype" \
    --config.train.duration="$epochs epochs" --config.train.resident="$resident" --config.train.batch_size="$batch"
done
train hstu "${hstu[@]}" --config.train.duration="$steps steps"

if [[ -z $quick ]]; then
  small=() # of a rehearsal
  [[ -z $rehearse ]] || small=(--batch 64)
  for prefetch in 4 8; do # threads that make batches; 2 above
    train "prefetch-$prefetch" "${paper[@]}" --config.data.directory="$data" "${rows[@]}" --config.model.dtype="$dtype" \
      --config.train.duration="$epochs epochs" --config.train.resident=never --config.train.prefetch="$prefetch" \
      --config.train.batch_size="$batch"
  done
  stage roofline "$python" -m benchmarks.roofline --config "$config" --dtype "$dtype" "${small[@]}" --json "$out/roofline.json"
  stage gains "$python" -m benchmarks.gains --config "$config" --batch "$batch" --dtype "$dtype" --rounds "$rounds" \
    --json "$out/gains.json"
  # Run benchmarks.step with the fastest form as `_FASTEST` of jaxrec/models/layers/attention.py.
  stage attention "$python" -m benchmarks.attention --dtype "$dtype" --rounds "$rounds" --json "$out/attention.json"
  if [[ -z $rehearse ]]; then # their smallest sizes take minutes on a CPU; each has a test of its own
    for name in stream evaluate save; do
      stage "$name" "$python" -m "benchmarks.$name" --json "$out/$name.json"
    done
  fi
fi

echo "seconds:$times"
for resident in never always; do
  "$python" - "$out/epoch-$resident/metrics.jsonl" <<'PYTHON' || failed+=" summary-$resident"
import json, statistics, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
lines = [line for line in lines if line["split"] == "train"]
for name in ("examples_per_second", "input_stall"):
    values = [line[name] for line in lines[1:] or lines]
    print(f"{sys.argv[1]}: {name} {statistics.median(values):,.3f} ({min(values):,.3f} to {max(values):,.3f})")
PYTHON
done
if [[ -n $failed ]]; then
  echo "failed:$failed" >&2
  exit 1
fi
echo "gpu.sh: all stages ended"
