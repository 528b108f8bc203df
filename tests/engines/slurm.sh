#!/usr/bin/env bash
# Run launch/slurm.sbatch on a Slurm of two nodes on this machine, preempt it, and take a node from it.
#
#   tests/engines/slurm.sh [--work DIR] [--python PYTHON]
#
# Debian's slurmctld, and two slurmd (nodeA, nodeB) with proctrack/linuxproc and no cgroups. A job of configs/tiny.py has one
# process of one CPU device on each node. Four runs of one length, each of which must end as the first, in every parameter,
# every line of metrics.jsonl and the printed table:
#   whole      nobody stops it
#   requeued   scontrol requeue, in the middle
#   signalled  scancel --signal=TERM, as before a time limit or for preemption; the job queues itself again
#   lost       kill -KILL of a node's slurmd, slurmstepd and task; the job names the node, Slurm queues it again, and the node
#              returns
# shellcheck source=tests/engines/lib.sh
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
begin "$0" "$@"

if [[ ! ${ENCLOSED:-} ]]; then
  debian slurmctld slurmd slurm-client munge iproute2 procps
  python_with ""
  note "ran: $(slurmd -V), munge $(dpkg-query -W -f '${Version}' munge), $(versions jax)"
  enclose
fi

STEPS=100 # an epoch has 28 and ends in a checkpoint
AT=40     # the step at which a run is stopped
SLURM_CONF=$WORK/slurm.conf
export SLURM_CONF

daemons() { # start munged, slurmctld and both slurmd
  inside engines nodeA nodeB
  mkdir -p "$WORK"/{state,spool.nodeA,spool.nodeB,munge}
  chmod 0700 "$WORK/munge"
  dd if=/dev/urandom of="$WORK/munge/key" bs=128 count=1 status=none
  chmod 0400 "$WORK/munge/key"
  munged --foreground --force --key-file="$WORK/munge/key" --socket="$WORK/munge.socket" --pid-file="$WORK/munge/pid" \
    --seed-file="$WORK/munge/seed" --log-file="$WORK/munge/log" >"$WORK/munged.log" 2>&1 &
  cat >"$SLURM_CONF" <<-CONF
	ClusterName=engines
	SlurmctldHost=engines
	SlurmctldPort=6817
	SlurmUser=root
	SlurmdUser=root
	AuthType=auth/munge
	AuthInfo=socket=$WORK/munge.socket,cred_expire=5
	CredType=cred/munge
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	MpiDefault=none
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	SlurmdParameters=config_overrides
	ReturnToService=2
	SlurmdTimeout=${SLURMD_TIMEOUT:-30}
	KillWait=30
	StateSaveLocation=$WORK/state
	SlurmdSpoolDir=$WORK/spool.%n
	SlurmctldPidFile=$WORK/slurmctld.pid
	SlurmdPidFile=$WORK/slurmd.%n.pid
	SlurmctldLogFile=$WORK/slurmctld.log
	SlurmdLogFile=$WORK/slurmd.%n.log
	SlurmctldDebug=verbose
	SlurmdDebug=verbose
	NodeName=nodeA NodeHostname=engines NodeAddr=nodeA Port=17001 CPUs=1
	NodeName=nodeB NodeHostname=engines NodeAddr=nodeB Port=17002 CPUs=1
	PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
	CONF
  wait_until 30 "munged" test -S "$WORK/munge.socket"
  slurmctld -D >"$WORK/slurmctld.out" 2>&1 &
  slurmd_of nodeA
  slurmd_of nodeB
  wait_until 60 "two idle nodes" idle 2
}

slurmd_of() { # NODE
  slurmd -D -N "$1" >>"$WORK/slurmd.$1.out" 2>&1 &
  disown # so that its end is not reported
}

idle() { # COUNT: whether so many nodes are idle
  (($(sinfo --noheader --Node --states=idle --format=%n 2>/dev/null | wc -l) == $1))
}

submit() { # NAME: submit the run NAME; set JOB
  JOB=$(
    cd "$ROOT" || exit
    JAXREC_REACHED=$WORK/$1.reached sbatch --parsable --nodes=2 --gpus-per-node=0 --time=30 --output="$WORK/$1.out" \
      launch/slurm.sbatch --config configs/tiny.py --workdir "$WORK/$1" --config.data.directory="$WORK/data" \
      --config.train.duration="$STEPS steps" --config.train.log_seconds=0.001 --config.train.heartbeat_seconds=10
  )
  note "$1: job $JOB"
}

state() { # JOB: print its state
  scontrol show job "$1" | grep -o 'JobState=[A-Z_]*' | cut -d= -f2
}

in_state() { [[ $(state "$1") == "$2" ]]; }

ended() { # JOB: whether it has left the nodes
  case $(state "$1") in COMPLETED | FAILED | NODE_FAIL | CANCELLED | TIMEOUT | OUT_OF_MEMORY) return 0 ;; *) return 1 ;; esac
}

kill_node() { # NODE: kill its slurmd, and the job's processes and their slurmstepd there, as a power cut would
  local pids=() pid
  for pid in $(pgrep -f -- 'jaxrec\.train' || true); do
    grep -qz "^SLURMD_NODENAME=$1$" "/proc/$pid/environ" || continue
    # The batch script, and what it started, has the node's name too; the step's daemon is the parent of the task.
    pids+=("$pid" "$(ps -o ppid= -p "$pid" | tr -d ' ')")
  done
  ((${#pids[@]} >= 2)) || fail "no task on $1"
  pids+=("$(pgrep -f -- "slurmd -D -N $1")")
  note "kill -KILL on $1: $(ps -o args= -p "${pids[*]}" | cut -c1-50 | sort -u | paste -sd,)"
  kill -KILL "${pids[@]}"
}

finish() { # NAME: wait for the job, which must succeed, and compare with the run that nobody stopped
  wait_until 400 "the end of job $JOB" ended "$JOB"
  in_state "$JOB" COMPLETED || fail "$1: job $JOB ended as $(state "$JOB"); see $WORK/$1.out"
  scontrol show job "$JOB" | grep -oE '(Restarts|RunTime|ExitCode)=[^ ]*' | tr '\n' ' '
  echo
  [[ $1 == whole ]] || {
    same_runs "$WORK/whole" "$WORK/$1" || fail "$1 is not the run that nobody stopped"
    [[ $(table "$1") == "$(table whole)" ]] || fail "$1 printed another table"
  }
}

table() { # NAME: the last printed table
  tac "$WORK/$1.out" | sed -n '/^disabled: /,/^tiny: /p' | tac
}

resumed() { # NAME: the steps at which its starts began
  sed -nE 's/.*parameters, from step ([0-9,]+) .*/\1/p' "$WORK/$1.out" | sort -u | tr '\n' ' '
}

daemons
sinfo --Node --long | tail -n 2

submit whole
finish whole
[[ $(table whole) ]] || fail "whole printed no table"

requeued() {
  submit requeued
  wait_until 300 "step $AT" reached "$WORK/requeued" "$AT"
  note "scontrol requeue"
  scontrol requeue "$JOB"
  finish requeued
  grep -q 'Slurm has done so itself' "$WORK/requeued.out" || fail "requeued: the job's output does not say who queued it again"
}

signalled() {
  submit signalled
  wait_until 300 "step $AT" reached "$WORK/signalled" "$AT"
  note "scancel --signal=TERM"
  scancel --signal=TERM "$JOB"
  finish signalled
  grep -q 'having saved; queued again' "$WORK/signalled.out" || fail "signalled: the job did not queue itself again"
}

lost() {
  submit lost
  wait_until 300 "step $AT" reached "$WORK/lost" "$AT"
  kill_node nodeB
  local began=$SECONDS
  wait_until 200 "the end of job $JOB" left "$JOB"
  note "job $JOB left the nodes after $((SECONDS - began)) s, and is $(state "$JOB")"
  grep -E 'srun: error|NODE FAILURE|slurm.sbatch:|"process"' "$WORK/lost.out"
  grep -q 'Node failure on nodeB' "$WORK/lost.out" || fail "lost: the job's output does not name the node"
  grep -q 'slurm.sbatch: ended with' "$WORK/lost.out" || fail "lost: the job's output does not have its status"
  slurmd_of nodeB
  in_state "$JOB" FAILED && submit lost # otherwise Slurm itself has queued it again, because of --requeue
  finish lost
}

left() { # JOB: whether it no longer runs
  case $(state "$1") in RUNNING | COMPLETING) return 1 ;; *) return 0 ;; esac
}

for run in ${RUNS:-requeued signalled lost}; do
  "$run"
  echo "$run: its starts began at steps: 0 $(resumed "$run")"
done
echo "ok: on a Slurm of two nodes, ${RUNS:-requeued signalled lost} ended as the run that nobody stopped"
