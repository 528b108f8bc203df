#!/usr/bin/env bash
# Trains with N processes on this machine, as a pod would with one process a host.
#
#   launch/local.sh N --config configs/smoe.py:small --workdir W
set -euo pipefail
processes=$1
shift
export JAXREC_COORDINATOR=${JAXREC_COORDINATOR:-localhost:12355} JAXREC_PROCESSES=$processes
trap 'kill $(jobs -p) 2>/dev/null' EXIT
for ((i = 1; i < processes; i++)); do
  JAXREC_PROCESS=$i "${PYTHON:-python}" -m jaxrec.train "$@" >/dev/null &
done
JAXREC_PROCESS=0 "${PYTHON:-python}" -m jaxrec.train "$@"
wait
