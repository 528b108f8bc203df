# shellcheck shell=bash
# Functions that the scripts of this folder share; each of them sources this file and calls `begin "$0" "$@"` first.
#
# A script installs what it needs as root of a Debian 12 machine, and then starts itself again in namespaces of its own:
# process ids, mounts, network (loopback alone) and host name. Nothing that it starts outlives it, reaches another machine
# or takes a port of this one.
set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ROOT

fail() { # MESSAGE: the last line of a script that failed
  echo "failed: $*"
  exit 1
}

note() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

begin() { # SCRIPT [--work DIR] [--python PYTHON]: read the options; the rest of the script runs twice, see `enclose`
  SCRIPT=$(realpath "$1")
  shift
  trap '((BASH_SUBSHELL)) || fail "$(basename "$SCRIPT"), line $LINENO: \"$BASH_COMMAND\" ended with status $?; logs are in ${WORK:-no folder}"' ERR
  while (($#)); do
    case $1 in
      --work) WORK=$2 ;;
      --python) PYTHON=$2 ;;
      *) fail "$1 is no option; usage: $(basename "$SCRIPT") [--work DIR] [--python PYTHON]" ;;
    esac
    shift 2
  done
  ((EUID == 0)) || fail "must run as root"
  : "${WORK:=$(mktemp -d -t jaxrec-engine-XXXXXX)}"
  mkdir -p "$WORK"
  WORK=$(realpath "$WORK")
  export WORK PYTHON=${PYTHON:-} SCRIPT
  export PYTHONPATH=$ROOT PYTHONDONTWRITEBYTECODE=1 JAX_PLATFORMS=cpu XDG_CACHE_HOME=$WORK/cache
  export JAX_COMPILATION_CACHE_DIR=$WORK/cache/programs JAX_DISABLE_MOST_OPTIMIZATIONS=true # to compile sooner, as in tests
}

debian() { # PACKAGE...: install packages that are missing; no service of theirs starts
  local missing=() name policy=/usr/sbin/policy-rc.d
  for name; do dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name"); done
  ((${#missing[@]})) || return 0
  note "installing ${missing[*]}"
  [[ ! -e $policy ]] || fail "$policy exists; it decides which services start, and this script needs it for itself"
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  {
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  } >"$WORK/apt.log" 2>&1 || { rm -f "$policy"; fail "apt-get: $(tail -n 1 "$WORK/apt.log")"; }
  rm -f "$policy"
}

python_with() { # EXTRAS PACKAGE...: set PYTHON to an interpreter with jaxrec's dependencies, unless --python named one
  local extras=$1
  shift
  if [[ ! $PYTHON ]]; then
    PYTHON=$WORK/venv/bin/python
    debian python3-venv
    note "installing jaxrec's dependencies in $WORK/venv"
    python3 -m venv "$WORK/venv"
    "$PYTHON" -m pip install -q -c "$ROOT/constraints.txt" -e "$ROOT${extras:+[$extras]}" "$@" >"$WORK/pip.log" 2>&1 ||
      fail "pip: $(tail -n 1 "$WORK/pip.log")"
  fi
  export PYTHON
}

versions() { # PACKAGE...: print the version of each Python package
  "$PYTHON" -c 'import sys, importlib.metadata as m; print(", ".join(f"{n} {m.version(n)}" for n in sys.argv[1:]))' "$@"
}

enclose() { # end this run of the script; run it again within namespaces, with ENCLOSED set
  local child
  ENCLOSED=1 unshare --mount --pid --fork --kill-child --mount-proc --net --uts bash "$SCRIPT" --work "$WORK" --python "$PYTHON" &
  child=$!
  trap 'kill -KILL "$child" 2>/dev/null; fail "stopped by a signal"' INT TERM HUP
  trap - ERR
  local status=0
  wait "$child" || status=$?
  exit "$status"
}

inside() { # HOST...: name this machine `engines`; give each HOST an address of a network that nothing else is on
  local host last=1
  mount --make-rprivate /
  hostname engines
  ip link set lo up
  ip link add network type veth peer name unused # Slurm listens on no address if loopback is the only one
  ip link set network up
  ip link set unused up
  echo '127.0.0.1 localhost' >"$WORK/hosts"
  for host in "$@"; do
    ip address add "10.77.0.$last/24" dev network
    echo "10.77.0.$last $host" >>"$WORK/hosts"
    last=$((last + 1))
  done
  mount --bind "$WORK/hosts" /etc/hosts
}

wait_until() { # SECONDS WHAT COMMAND...: run a command until it succeeds
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "waited in vain for $what"
    sleep 0.2
  done
}

reached() { # WORKDIR STEP: whether a run has logged a step
  [[ -e $1/metrics.jsonl ]] && grep -q "^{\"step\": $2," "$1/metrics.jsonl"
}

same_runs() { # FIRST SECOND: both runs trained and evaluated to the same numbers
  "$PYTHON" "$ROOT/tests/engines/same_runs.py" "$@" 2>>"$WORK/same_runs.log"
}
