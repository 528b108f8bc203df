#!/usr/bin/env bash
# Compile training steps by the real compilers of NVIDIA GPUs and TPUs, on a machine that has neither.
#
#   tests/engines/compilers.sh [--work DIR] [--python PYTHON]
#
# XLA's compilers come with jax's extras for CUDA and TPUs, and need no device. Each config's step is compiled with the
# kernels, the packing and the collectives that it would have there: one H200, two of them, and four TPUs v5e. A program
# that a compiler refuses fails the script. Nothing runs on a device.
# shellcheck source=tests/engines/lib.sh
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
begin "$0" "$@"
python_with test,cuda,tpu
unset JAX_DISABLE_MOST_OPTIMIZATIONS # the programs are those of training
note "ran: $(versions jax jaxlib libtpu)"
cd "$ROOT" || exit

CONFIGS=(tiny.py smoe.py:small best.py sasrec.py gru4rec.py hstu.py bst.py vmoe.py sequences.py:simulated policy.py:small
  foundation.py:small session.py unicorn.py:small)
count=0
for config in "${CONFIGS[@]}"; do
  name=${config//[.:]/-}
  for device in h200 h200:2 v5e:2x2; do
    began=$SECONDS
    "$PYTHON" -m benchmarks.compiled --config "configs/$config" --device "$device" --batch 256 --users 600 \
      --data "$WORK/data/$name" >"$WORK/$name-$device.txt" 2>"$WORK/$name-$device.err" ||
      fail "$config for $device: $(tail -n 1 "$WORK/$name-$device.err"); logs are in $WORK"
    note "$config for $device: $(sed -n 's/^| all | \(.*\) |$/\1/p' "$WORK/$name-$device.txt"), $((SECONDS - began)) s"
    count=$((count + 1))
  done
done
echo "ok: $count programs compiled"
