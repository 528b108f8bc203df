#!/usr/bin/env bash
# Prepare, train, evaluate and recommend in buckets: s3:// of moto's server, gs:// of gcp-storage-emulator
# (gcs_emulator.py).
#
#   tests/engines/buckets.sh [--work DIR] [--python PYTHON]
#
# The servers are reached through a proxy (proxy.py) that cuts connections. For each scheme, beside a run on this machine:
#   data     prepared in the bucket; the fingerprint must be the local one
#   killed   a run that is killed (SIGKILL) while it saves a checkpoint, and started again
#   cut      a run whose connections are cut for some seconds, and later until it ends; each end must be in one line of error,
#            and the run is started again
# Both must end as the local run; the last one is then evaluated, and recommends, from the bucket.
# shellcheck source=tests/engines/lib.sh
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
begin "$0" "$@"

if [[ ! ${ENCLOSED:-} ]]; then
  debian iproute2 procps
  python_with remote 'moto[server]' gcp-storage-emulator
  note "ran: $(versions s3fs aiobotocore gcsfs moto gcp-storage-emulator orbax-checkpoint tensorstore jax)"
  enclose
fi

EPOCHS=5
SHORT=4 # seconds of the first cut
declare -A PORT=([s3]=5001 [gs]=5002) PROXY
export AWS_ENDPOINT_URL=http://localhost:5001 AWS_ACCESS_KEY_ID=engine AWS_SECRET_ACCESS_KEY=engine
export AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export STORAGE_EMULATOR_HOST=http://localhost:5002 FSSPEC_GS_TOKEN=anon FSSPEC_GCS_TOKEN=anon
export TENSORSTORE_GCS_HTTP_URL=http://localhost:5002
export GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false # it looks for the kind of a bucket by gRPC, which the emulator does not have

answers() { (: <"/dev/tcp/localhost/$1") 2>/dev/null; }

servers() {
  local scheme
  "$PYTHON" -m moto.server -H localhost -p 6001 >"$WORK/moto.log" 2>&1 &
  (cd "$WORK" && exec "$PYTHON" "$ROOT/tests/engines/gcs_emulator.py" start --host=localhost --port=6002 --default-bucket=bucket) \
    >"$WORK/gcs.log" 2>&1 &
  for scheme in s3 gs; do
    wait_until 60 "the server of $scheme" answers $((PORT[$scheme] + 1000))
    "$PYTHON" "$ROOT/tests/engines/proxy.py" "${PORT[$scheme]}" $((PORT[$scheme] + 1000)) >"$WORK/proxy.$scheme.log" 2>&1 &
    PROXY[$scheme]=$!
    wait_until 30 "the proxy of $scheme" answers "${PORT[$scheme]}"
  done
  "$PYTHON" -c 'import fsspec; fsspec.filesystem("s3").mkdir("bucket")'
}

command_of() { # NAME COMMAND ARGUMENT...: run a command of jaxrec; NAME.out and NAME.err have its output
  local name=$1 command=$2
  shift 2
  (cd "$WORK" && exec "$PYTHON" -m "jaxrec.$command" "$@") >"$WORK/$name.out" 2>>"$WORK/$name.err"
}

train() { # NAME DATA WORKDIR
  command_of "$1" train --config "$ROOT/configs/tiny.py" --config.data.directory="$2" --workdir="$3" \
    --config.train.duration="$EPOCHS epochs" --config.train.log_seconds=0.001
}

printed() { # NAME TEXT: whether its standard error has a text
  grep -qs -- "$2" "$WORK/$1.err"
}

fingerprint() { grep -oE 'fingerprint [0-9a-f]+' "$WORK/$1.out"; }

in_bucket() { # SCHEME
  local scheme=$1 bucket=$1://bucket job status
  command_of "$scheme-data" prepare --config "$ROOT/configs/tiny.py" --out "$bucket/data" ||
    fail "$scheme: prepare: $(tail -n 1 "$WORK/$scheme-data.err")"
  [[ $(fingerprint "$scheme-data") == "$(fingerprint data)" ]] || fail "$scheme: $(fingerprint "$scheme-data")"
  note "$scheme: prepared, $(fingerprint "$scheme-data")"

  train "$scheme-killed" "$bucket/data" "$bucket/killed" &
  job=$!
  wait_until 300 "epoch 3" printed "$scheme-killed" '^epoch 3:'
  pkill -KILL -P "$job" # the command; $job is a shell that waits for it
  wait "$job" 2>/dev/null || note "$scheme: killed after epoch 3"
  train "$scheme-killed" "$bucket/data" "$bucket/killed" || fail "$scheme: resumed: $(tail -n 1 "$WORK/$scheme-killed.err")"
  [[ $(starts "$scheme-killed") =~ ^0\ [1-9] ]] || fail "$scheme: started again at $(starts "$scheme-killed")"
  same_runs "$WORK/run" "$bucket/killed" || fail "$scheme: the killed run is not the local one"

  train "$scheme-cut" "$bucket/data" "$bucket/cut" &
  job=$!
  wait_until 300 "epoch 1" printed "$scheme-cut" '^epoch 1:'
  kill -USR1 "${PROXY[$scheme]}"
  sleep "$SHORT"
  kill -USR2 "${PROXY[$scheme]}"
  wait_until 300 "epoch 3, after a cut of $SHORT s" past_the_cut "$scheme" "$job"
  if running "$job"; then
    note "$scheme: survived a cut of $SHORT s"
  else
    one_line "$scheme" "$job"
    train "$scheme-cut" "$bucket/data" "$bucket/cut" &
    job=$!
    wait_until 300 "epoch 3" printed "$scheme-cut" '^epoch 3:'
  fi
  kill -USR1 "${PROXY[$scheme]}"
  one_line "$scheme" "$job"
  kill -USR2 "${PROXY[$scheme]}"
  wait_until 30 "the proxy of $scheme" answers "${PORT[$scheme]}"
  train "$scheme-cut" "$bucket/data" "$bucket/cut" || fail "$scheme: resumed: $(tail -n 1 "$WORK/$scheme-cut.err")"
  same_runs "$WORK/run" "$bucket/cut" || fail "$scheme: the run whose connections were cut is not the local one"
  echo "$scheme: starts of killed at $(starts "$scheme-killed"), of cut at $(starts "$scheme-cut"); $(sort -u "$WORK/proxy.$scheme.log" | paste -sd';')"

  command_of "$scheme-evaluate" evaluate --checkpoint "$bucket/cut" --json || fail "$scheme: evaluate"
  recommend "$scheme" "$bucket/cut"
  cmp "$WORK/local.csv" "$WORK/$scheme.csv" || fail "$scheme: other recommendations"
  "$PYTHON" - "$WORK/run/test.json" "$WORK/$scheme-evaluate.out" <<-'CODE' || fail "$scheme: another evaluation"
	import json, sys
	first, second = (json.load(open(name)) for name in sys.argv[1:])
	assert all(first[part] == second[part] for part in ("lists", "lists_k3", "baselines", "dataset", "step"))
	CODE
  note "$scheme: evaluated and recommended from the bucket, as on this machine"
}

running() { [[ -e /proc/$1/stat && $(cut -d' ' -f3 "/proc/$1/stat") != Z ]]; } # PID

past_the_cut() { # SCHEME JOB
  printed "$1-cut" '^epoch 3:' || ! running "$2"
}

one_line() { # SCHEME JOB: wait for the end of the job, which must be in one line of error
  local message status=0
  wait "$2" || status=$?
  message=$(tac "$WORK/$1-cut.err" | sed '/ parameters, /Q' | tac | grep -v '^step \|^epoch \|^[WI][0-9]\|google_auth_provider')
  note "$1: without a connection the run ended with status $status"
  echo "$message"
  ((status == 1)) && [[ $message =~ ^error:\ a\ bucket\ cannot\ be\ accessed && $message != *$'\n'* ]] ||
    fail "$1: not one line of error: $WORK/$1-cut.err"
}

starts() { # NAME: the steps at which its starts began
  sed -nE 's/.* parameters, (from step ([0-9,]+) )?to step .*/\2/p' "$WORK/$1.err" | sed 's/^$/0/' | paste -sd' '
}

recommend() { # NAME WORKDIR: recommend to two users; NAME.csv has the titles
  printf '%s\n' user_id,title_id,time,seconds_viewed ann,3,1733000000,3000 ann,17,1733100000,5000 cyd,44,1733200000,4000 \
    >"$WORK/histories.csv"
  command_of "recommend-$1" recommend --checkpoint "$2" --histories "$WORK/histories.csv" --k 10 --out "$WORK/$1.csv" ||
    fail "$1: recommend: $(tail -n 1 "$WORK/recommend-$1.err")"
}

inside engines
servers
command_of data prepare --config "$ROOT/configs/tiny.py" --out "$WORK/data"
train run "$WORK/data" "$WORK/run"
recommend local "$WORK/run"
note "local: $(fingerprint data)"
for scheme in ${SCHEMES:-s3 gs}; do in_bucket "$scheme"; done
echo "ok: in buckets of ${SCHEMES:-s3 gs}, killed, cut and started again, runs ended as on this machine"
