#!/usr/bin/env bash
# Prepare a dataset by Beam's portable runner on three external worker pools, and kill one of the pools.
#
#   tests/engines/beam.sh [--work DIR] [--python PYTHON]
#
# A job server of Beam (job_server.py), and three apache_beam.runners.worker.worker_pool_main, each of which starts one
# worker process. Three preparations of one config:
#   local      without Beam
#   portable   PortableRunner, environment_type=EXTERNAL; the dataset must be the local one, file by file
#   killed     a pool and its worker are killed in the middle: the command ends with one line, leaves no dataset, and is
#              started again, with a new pool; the dataset must be the local one
# shellcheck source=tests/engines/lib.sh
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
begin "$0" "$@"

if [[ ! ${ENCLOSED:-} ]]; then
  debian iproute2 procps
  python_with beam
  note "ran: $(versions apache-beam grpcio jax)"
  enclose
fi

CONFIG=(--config "$ROOT/configs/tiny.py" --config.source.users=3000 --config.data.partitions=12)
POOLS=(engines:50001 engines:50002 engines:50003)
declare -A POOL

start_pool() { # PORT
  PATH=$(dirname "$PYTHON"):$PATH setsid "$PYTHON" -m apache_beam.runners.worker.worker_pool_main --service_port="$1" \
    >>"$WORK/pool.$1.log" 2>&1 &
  POOL[$1]=$!
  disown # so that its end is not reported
}

listening() { # PORT...
  local port
  for port; do (: <"/dev/tcp/localhost/$port") 2>/dev/null || return 1; done
}

servers() { # start three pools, and the job server
  local port
  for port in 50001 50002 50003; do start_pool "$port"; done
  "$PYTHON" "$ROOT/tests/engines/job_server.py" --port 50000 --pool_port 50010 --pools "$(IFS=,; echo "${POOLS[*]}")" \
    >"$WORK/job_server.log" 2>&1 &
  wait_until 60 "the job server and the pools" listening 50000 50010 50001 50002 50003
}

prepare() { # NAME [FLAG...]: prepare the dataset NAME
  local name=$1
  shift
  (cd "$WORK" && exec "$PYTHON" -m jaxrec.prepare "${CONFIG[@]}" --out "$WORK/$name" "$@") >"$WORK/$name.out" 2>"$WORK/$name.err"
}

on_beam() { # NAME: prepare it on the pools
  prepare "$1" --runner beam \
    --beam_args="--runner=PortableRunner --job_endpoint=localhost:50000 --environment_type=EXTERNAL --environment_config=engines:50010"
}

fingerprint() { # NAME
  grep -oE 'fingerprint [0-9a-f]+' "$WORK/$1.out"
}

same_dataset() { # NAME: is the local one, file by file
  [[ $(fingerprint "$1") == "$(fingerprint local)" ]] || fail "$1: $(fingerprint "$1"), local: $(fingerprint local)"
  diff -r "$WORK/local" "$WORK/$1" >"$WORK/$1.diff" || fail "$1 and local differ in files: $WORK/$1.diff"
}

inside engines
servers
began=$SECONDS
prepare local
note "local: $(fingerprint local), $((SECONDS - began)) s"

began=$SECONDS
on_beam portable || fail "portable: $(tail -n 1 "$WORK/portable.err")"
same_dataset portable
note "portable: $(fingerprint portable), $((SECONDS - began)) s, workers: $(grep -c ': pool ' "$WORK/job_server.log")"
grep ': pool ' "$WORK/job_server.log"

worker_seconds() { # processor time of each pool's worker
  local port
  for port in "${!POOL[@]}"; do echo "pool $port: $(ps -o time= -g "${POOL[$port]}" | paste -sd' ')"; done
}
worker_seconds

began=$SECONDS
on_beam killed &
DRIVER=$!
before=$(wc -l <"$WORK/job_server.log")
in_build() { tail -n +"$((before + 1))" "$WORK/job_server.log" | grep -q 'running .*build'; }
wait_until 200 "the stage build" in_build
note "kill -KILL of the pool at port 50002 and its worker"
ps -o pid,args -g "${POOL[50002]}"
kill -KILL -- "-${POOL[50002]}"
status=0
wait "$DRIVER" || status=$?
note "the command ended with status $status, $((SECONDS - began)) s after its start"
message=$(grep -v ' preparing ' "$WORK/killed.err")
echo "$message"
((status == 1)) && [[ $message =~ ^error:\ the\ Beam\ job\ failed && $message != *$'\n'* ]] || fail "killed: not one line of error"
[[ ! -e $WORK/killed && ! -e $WORK/.killed.partial ]] || fail "killed: files remain"
start_pool 50002
wait_until 60 "the new pool" listening 50002
began=$SECONDS
on_beam killed || fail "killed, started again: $(tail -n 1 "$WORK/killed.err")"
same_dataset killed
note "killed, started again: $(fingerprint killed), $((SECONDS - began)) s"
echo "ok: by the portable runner on three worker pools, before and after the loss of one, the dataset is that of one machine"
