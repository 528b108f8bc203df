#!/usr/bin/env bash
# Trains with N processes of M virtual CPU devices each on this machine, as a pod does with a process a host.
#
#   launch/local.sh --processes N [--devices M] -- --config configs/smoe.py:small --workdir W
#
# launch/README.md says what it expects and what it says of a process that is lost.
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
[[ $* == *--config.train.preempted_exit=* ]] || set -- "$@" --config.train.preempted_exit=75
for argument; do
  case $argument in
    --config.train.heartbeat_seconds=*) heartbeat=${argument#*=} ;;
    --config.train.grace_seconds=*) grace=${argument#*=} ;;
  esac
done
patience=$((heartbeat + 5)) # seconds for the others, once one has gone
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

declare -A number=() # of each process by its pid
for ((i = 0; i < processes; i++)); do
  if ((i == 0)); then
    JAXREC_PROCESS=0 "$python" -m jaxrec.train "$@" &
  else # what it prints for people, the first one prints
    JAXREC_PROCESS=$i "$python" -m jaxrec.train "$@" >/dev/null &
  fi
  number[$!]=$i
done

everyone() { # SIGNAL: to those that are left
  for pid in "${!number[@]}"; do kill "-$1" "$pid" 2>/dev/null; done
}
trap 'everyone KILL; [[ -z $own ]] || rm -rf "$own"' EXIT
trap 'everyone TERM' TERM
trap 'everyone INT' INT

ended() { # STATUS: in words
  if (($1 > 128 && $1 < 192)); then echo "killed by SIG$(kill -l $(($1 - 128)))"; else echo "exit status $1"; fi
}

reached() { # PROCESS: the last step it had reached
  sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$JAXREC_REACHED/$1.json" 2>/dev/null
}

lost='' status=0 since=$SECONDS
while ((${#number[@]})); do
  if ((status && SECONDS - since > patience)); then
    for pid in "${!number[@]}"; do
      lost=${lost:-${number[$pid]}} # silent, it was missed by those that jax ended
      echo "local.sh: lost process ${number[$pid]} (still there after $patience s: killed)" >&2
    done
    everyone KILL
    break
  fi
  # With one gone, a sleep of a second stands among those waited for, so that the limit is looked at.
  tick=''
  if ((status)); then sleep 1 & tick=$!; fi
  ended='' code=0
  wait -n -p ended "${!number[@]}" $tick || code=$?
  [[ -n $tick ]] && kill "$tick" 2>/dev/null
  [[ -n $ended && $ended != "$tick" ]] || continue # a signal to this script, or the tick
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
  if ((status == 0)); then # the first to go, which the others then miss
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
