#!/usr/bin/env bash
# Train on all hosts of a Cloud TPU VM slice.
#
#   launch/tpu_vm.sh install NAME ZONE
#   launch/tpu_vm.sh train NAME ZONE --config configs/smoe.py:paper --workdir /mnt/shared/runs/smoe
#
# Requires gcloud, logged in to the project, an existing slice (gcloud compute tpus tpu-vm create NAME --zone ZONE
# --accelerator-type v5litepod-16 --version v2-alpha-tpuv5-lite), and a workdir on storage that all hosts share.
# install copies this repository to all hosts and installs it. train starts one process per host; the processes get the
# addresses of the others from the slice. train may be run again after any end: it resumes. Not run on a TPU yet: tests
# replace gcloud.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
}

(($# >= 3)) || usage
what=$1 name=$2 zone=$3
shift 3

everywhere() { # COMMAND: runs COMMAND on all hosts at once
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"
}

case $what in
  install)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$name:jaxrec.tar.gz" --zone "$zone" --worker=all
    everywhere 'mkdir -p jaxrec && tar -xzf jaxrec.tar.gz -C jaxrec && cd jaxrec && python3 -m venv .venv &&
      .venv/bin/pip install -q -c constraints.txt -e ".[tpu]"'
    ;;
  train)
    arguments=''
    (($#)) && arguments=$(printf ' %q' "$@")
    everywhere "cd jaxrec && exec .venv/bin/python -m jaxrec.train --hosts=auto$arguments"
    ;;
  *) usage ;;
esac
