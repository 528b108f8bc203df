#!/usr/bin/env bash
# Walk from raw files of a watch log to an answer over HTTP, in an empty folder, with the seconds of each station.
#
#   docs/walk.sh LOG [TITLES [USERS]] -- [OPTIONS of the training, such as --config.train.duration="1 epochs"]
#
# The commands are those of docs/own-data.md, recommend.md, export.md, serve.md and report.md. The results stay in the current
# folder: my_service.py, runs/my_service, recommendations.parquet, export, answer.json. Requires the extra serve and curl.
set -euo pipefail

files=()
while (($#)) && [[ $1 != -- ]]; do
  files+=("$1")
  shift
done
(($# == 0)) || shift
if ((${#files[@]} < 1 || ${#files[@]} > 3)); then
  echo "error: no file of a log; usage: docs/walk.sh LOG [TITLES [USERS]] -- [OPTIONS of the training]" >&2
  exit 2
fi
python=${PYTHON:-python} port=${PORT:-8642}
tables=(--interactions "${files[0]}")
[[ -z ${files[1]-} ]] || tables+=(--titles "${files[1]}")
[[ -z ${files[2]-} ]] || tables+=(--users "${files[2]}")

times=''
station() { # NAME COMMAND...
  local name=$1 began=$SECONDS
  shift
  echo "+ $*"
  "$@"
  times+=" $name $((SECONDS - began))"
}

station check "$python" -m jaxrec.prepare --check "${tables[@]}" --write-config my_service.py
station train "$python" -m jaxrec.train --config my_service.py --workdir runs/my_service "$@"
station recommend "$python" -m jaxrec.recommend --checkpoint runs/my_service --histories "${files[0]}" --k 10 \
  --out recommendations.parquet
station export "$python" -m jaxrec.export --checkpoint runs/my_service --out export

"$python" -m jaxrec.serve --export export --port "$port" &
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
ready() { # until the programs are compiled, or the service has ended
  until curl --silent --fail "http://localhost:$port/readyz" >/dev/null; do
    kill -0 "$service"
    sleep 0.2
  done
}
station serve ready
# The latest plays of the log's first user, in the columns of the config.
"$python" - "${files[0]}" >request.json <<'PYTHON'
import json, sys
import polars as pl
from jaxrec.config.loading import load_config
columns, file = load_config("my_service.py").source.columns, sys.argv[1]
frame = pl.scan_parquet(file) if file.endswith((".parquet", ".pq")) else pl.scan_csv(file)
plays = frame.filter(pl.col(columns.user) == pl.col(columns.user).first()).sort(columns.time).tail(20)
history = plays.select(c for c in (columns.title, columns.time, columns.seconds) if c).collect().to_dicts()
print(json.dumps({"user": "first", "history": history, "k": 5, "explain": True}))
PYTHON
ask() {
  curl --silent --show-error --fail --header 'Content-Type: application/json' --data @request.json \
    "http://localhost:$port/v1/recommend" | tee answer.json
  echo
}
station answer ask
kill -TERM "$service"
wait "$service"
station report "$python" -m jaxrec.report runs/my_service
echo "seconds:$times"
