#!/usr/bin/env bash
# Train with N processes of M virtual CPU devices each on this machine, like a pod with one process per host.
#
#   launch/local.sh --processes N [--devices M] -- --config configs/smoe.py:small --workdir W
#
# See launch/README.md for the requirements and for the messages about a lost process.
set -uo pipefail

usage() { # MESSAGE
  echo "error: $1; usage: launch/local.sh --processes N [--devices M] -- <arguments of python -m jaxrec.train>" >&2
  exit 2
}

processes='' devices=''
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --processes) processes=${2-} ;;
    --devices) devices=${2-} ;;
    *) usage "$1 is no option" ;;
  esac
  shift 2 || usage "$1 has no value"
done
(($#)) || usage 'no -- before the arguments of train'
shift
[[ $processes =~ ^[1-9][0-9]*$ ]] || usage "--processes=$processes must be a whole number above 0"
[[ -z $devices || $devices =~ ^[1-9][0-9]*$ ]] || usage "--devices=$devices must be a whole number above 0"

python=${PYTHON:-python}
heartbeat=30 grace=25 # as in jaxrec/config/schema.py
[[ $* == *--config.train.preemption_exit_code=* ]] || set -- "$@" --config.train.preemption_exit_code=75
for argument; do
  case $argument in
    --config.train.heartbeat_seconds=*) heartbeat=${argument#*=} ;;
    --config.train.grace_seconds=*) grace=${argument#*=} ;;
  esac
done
patience=$((heartbeat + 5)) # seconds for the remaining processes to end after the first has ended
if [[ -n $devices ]]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS-} --xla_force_host_platform_device_count=$devices"
fi
free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
JAXREC_COORDINATOR=${JAXREC_COORDINATOR:-localhost:$("$python" -c "$free")} || exit 1
export JAXREC_COORDINATOR JAXREC_PROCESSES=$processes
own=''
[[ -n ${JAXREC_REACHED-} ]] || own=$(mktemp -d)
export JAXREC_REACHED=${JAXREC_REACHED:-$own}
mkdir -p "$JAXREC_REACHED" && rm -f "$JAXREC_REACHED"/*.json

declare -A number=() # pid -> number of the process
for ((i = 0; i < processes; i++)); do
  if ((i == 0)); then
    JAXREC_PROCESS=0 "$python" -m jaxrec.train "$@" &
  else # only process 0 prints to standard output
    JAXREC_PROCESS=$i "$python" -m jaxrec.train "$@" >/dev/null &
  fi
  number[$!]=$i
done

everyone() { # SIGNAL: sends SIGNAL to the remaining processes
  for pid in "${!number[@]}"; do kill "-$1" "$pid" 2>/dev/null; done
}
trap 'everyone KILL; [[ -z $own ]] || rm -rf "$own"' EXIT
trap 'everyone TERM' TERM
trap 'everyone INT' INT

ended() { # STATUS: prints a description of an exit status
  if (($1 > 128 && $1 < 192)); then echo "killed by SIG$(kill -l $(($1 - 128)))"; else echo "exit status $1"; fi
}

reached() { # PROCESS: prints the last step of a process
  sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$JAXREC_REACHED/$1.json" 2>/dev/null
}

lost='' status=0 since=$SECONDS
while ((${#number[@]})); do
  if ((status && SECONDS - since > patience)); then
    for pid in "${!number[@]}"; do
      lost=${lost:-${number[$pid]}} # a hung process, for which jax ended the others
      echo "local.sh: lost process ${number[$pid]} (still there after $patience s: killed)" >&2
    done
    everyone KILL
    break
  fi
  # After the first end, also wait for a sleep of one second, so that the limit is checked every second.
  tick=''
  if ((status)); then sleep 1 & tick=$!; fi
  ended='' code=0
  wait -n -p ended "${!number[@]}" $tick || code=$?
  [[ -n $tick ]] && kill "$tick" 2>/dev/null
  [[ -n $ended && $ended != "$tick" ]] || continue # a signal to this script, or the tick process
  process=${number[$ended]}
  unset "number[$ended]"
  ((code == 0)) && continue
  if ((code == 75)); then
    echo "local.sh: process $process was preempted ($(ended $code))" >&2
  elif ((code == 134)); then
    echo "local.sh: process $process ended ($(ended $code): by jax, where it misses another)" >&2
  elif [[ -z $lost ]]; then
    lost=$process
    echo "local.sh: lost process $process ($(ended $code))" >&2
  else
    echo "local.sh: process $process ended as well ($(ended $code))" >&2
  fi
  if ((status == 0)); then # the first process to end; jax then ends the others
    status=$code since=$SECONDS
    ((code == 75)) && patience=$((${grace%.*} + 5))
  fi
done
if ((status && status != 75)); then
  for ((i = 0; i < processes; i++)); do
    step=$(reached $i)
    echo "local.sh: process $i had reached step ${step:-unknown}" >&2
  done
fi
exit $status
