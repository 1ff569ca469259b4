#!/usr/bin/env bash
# Starts a script on several processes with MindSpore's msrun, shows what rank 0 prints, and leaves nothing running.
set -euo pipefail

readonly DEFAULT_WORKERS=8
readonly DEFAULT_MASTER_PORT=8118
readonly DEFAULT_CLUSTER_TIME_OUT=7200
readonly EXIT_BAD_INPUT=2

show_help() {
  cat <<'HELP'
Run a script on several processes (ranks) with msrun.

  bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" [WORKER_NUM]
  bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" WORKER_NUM MASTER_PORT LOG_DIR JOIN CLUSTER_TIME_OUT
  bash scripts/msrun_launcher.sh "SCRIPT ARGUMENTS" WORKER_NUM LOCAL_WORKER MASTER_ADDR MASTER_PORT NODE_RANK \
       LOG_DIR JOIN CLUSTER_TIME_OUT

  "SCRIPT ARGUMENTS"  one word for the shell; quotes inside it work: "run.py --prompt 'two words'"
  WORKER_NUM          ranks on all nodes together (8); parallel.tensor_parallel_size must be the same number
  LOCAL_WORKER        ranks on this node
  MASTER_ADDR         the address of node 0, as the other nodes reach it
  MASTER_PORT         a free port of node 0; the one after it is used too (one node: any two free ones);
                      a port that another job or program has is refused at once
  NODE_RANK           0 on node 0, 1 on the next node, ...
  LOG_DIR             where every rank's output goes (output/msrun_log)
  JOIN                True: wait, show rank 0's output, end with its exit code (the default); False: go on in the background
  CLUSTER_TIME_OUT    seconds within which all ranks must have started (7200)

One node, two ranks:
  bash scripts/msrun_launcher.sh "scripts/run_generate.py --config configs/smollm2_135m.yaml --prompt 'Hello there'" 2

Two nodes with four ranks each. On node 0, whose address is 192.168.1.10:
  bash scripts/msrun_launcher.sh "scripts/run_generate.py --config model.yaml" 8 4 192.168.1.10 8118 0 logs True 600
and on node 1 the same with NODE_RANK 1:
  bash scripts/msrun_launcher.sh "scripts/run_generate.py --config model.yaml" 8 4 192.168.1.10 8118 1 logs True 600

A rank that dies, fails or hangs ends the whole job on all nodes within 30 seconds, with one line that says why.
HELP
}

refuse() {
  echo "error: $1" >&2
  exit "$EXIT_BAD_INPUT"
}

require_integer() {  # NAME VALUE LOWEST HIGHEST
  [[ $2 =~ ^-?[0-9]{1,9}$ ]] && (($2 >= $3 && $2 <= $4)) || refuse "$1 is '$2'; it must be an integer from $3 to $4"
}

case "${1:-}" in
  -h | --help)
    show_help
    exit 0
    ;;
esac

worker_num=$DEFAULT_WORKERS
master_addr=127.0.0.1
master_port=""
node_rank=0
log_dir=output/msrun_log
join=True
cluster_time_out=$DEFAULT_CLUSTER_TIME_OUT
case $# in
  1) ;;
  2) worker_num=$2 ;;
  6) worker_num=$2 master_port=$3 log_dir=$4 join=$5 cluster_time_out=$6 ;;
  9)
    worker_num=$2 master_addr=$4 master_port=$5 node_rank=$6 log_dir=$7 join=$8 cluster_time_out=$9
    ;;
  *) refuse "$# arguments are given; 1, 2, 6 or 9 are allowed, see --help" ;;
esac
local_worker=$worker_num
(($# < 9)) || local_worker=$3

require_integer WORKER_NUM "$worker_num" 1 100000
require_integer LOCAL_WORKER "$local_worker" 1 "$worker_num"
((worker_num % local_worker == 0)) ||
  refuse "WORKER_NUM is $worker_num and LOCAL_WORKER $local_worker; each node must have the same number of ranks"
require_integer NODE_RANK "$node_rank" 0 $((worker_num / local_worker - 1))
[[ -z $master_port ]] || require_integer MASTER_PORT "$master_port" 1 65534
require_integer CLUSTER_TIME_OUT "$cluster_time_out" -1 100000000
[[ $join == True || $join == False ]] || refuse "JOIN is '$join'; it must be True or False"
[[ -n $master_addr ]] || refuse "MASTER_ADDR is empty; it must be the address of node 0"
[[ -n $log_dir ]] || refuse "LOG_DIR is empty; it must be a folder"

# msrun starts `python` from PATH, so the folder that has both comes first there.
find_bin() {
  local repository bin
  repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  for bin in "${VIRTUAL_ENV:-}/bin" "$repository/.venv/bin" "$(dirname "$(command -v msrun || true)")"; do
    if [[ -x $bin/python && -x $bin/msrun ]]; then
      echo "$bin"
      return
    fi
  done
  return 1
}
bin=$(find_bin) || refuse "no msrun with a python beside it is found; install MindSpore, or activate its environment"
export PATH="$bin:$PATH"

# Words as a shell would split them, quotes and all, but without running anything.
command_words=()
mapfile -d '' -t command_words < <(python -c '
import shlex, sys
try:
    words = shlex.split(sys.argv[1])
except ValueError:
    sys.exit(1)
sys.stdout.write("".join(word + "\0" for word in words))
' "$1")
wait $! || refuse "\"$1\" cannot be split into words; is a quote left open?"
((${#command_words[@]})) || refuse "the script is empty; the first argument must be \"SCRIPT ARGUMENTS\""
[[ -f ${command_words[0]} ]] || refuse "no script '${command_words[0]}'; the first argument must be \"SCRIPT ARGUMENTS\""

if ((local_worker == worker_num)); then
  read -r free_port control_port < <(python -m mindspore_paged.launch.msrun ports 2)
  master_port=${master_port:-$free_port}
  export MINDSPORE_PAGED_CONTROL_PORT=${MINDSPORE_PAGED_CONTROL_PORT:-$control_port}
fi
master_port=${master_port:-$DEFAULT_MASTER_PORT}
control_port=${MINDSPORE_PAGED_CONTROL_PORT:-$((master_port + 1))}
require_integer MINDSPORE_PAGED_CONTROL_PORT "$control_port" 1 65535
((control_port != master_port)) || refuse "MINDSPORE_PAGED_CONTROL_PORT is $control_port, and so is MASTER_PORT"
ports=() # that this node's processes listen at, after its address
((node_rank > 0)) || ports=("$master_addr" "$master_port" "$control_port")

mkdir -p "$log_dir" || refuse "LOG_DIR '$log_dir' cannot be made"

if [[ $join == False ]]; then
  python -m mindspore_paged.launch.msrun check "${ports[@]}" || exit
  nohup bash "${BASH_SOURCE[0]}" "$1" "$worker_num" "$local_worker" "$master_addr" \
    "$master_port" "$node_rank" "$log_dir" True "$cluster_time_out" \
    >"$log_dir/launcher.log" 2>&1 </dev/null &
  echo "started; process $! runs the job (TERM ends it all), and its output is in $log_dir/launcher.log"
  exit 0
fi

job="$$-$(date +%s%N)"
export MINDSPORE_PAGED_JOB=$job
export PYTHONUNBUFFERED=1
export GLOG_v=${GLOG_v:-3} # MindSpore's warnings would bury rank 0's text; GLOG_v=2 shows them
export MS_NODE_TIMEOUT=${MS_NODE_TIMEOUT:-600} # ranks may compile at different speeds; the supervisor sees hangs sooner
threads=$(($(nproc) / local_worker))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

shown_log=$log_dir/worker_$((node_rank * local_worker)).log
msrun_pid=""
clean_up() {
  trap '' INT TERM HUP
  if [[ -n $msrun_pid ]] && kill -INT "$msrun_pid" 2>/dev/null; then # at this msrun kills its workers
    for _ in {1..20}; do
      kill -0 "$msrun_pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$msrun_pid" 2>/dev/null || true
  fi
  # Every process of the job carries its name, also one that was just being started.
  local environment process
  while read -r environment; do
    process=${environment#/proc/}
    kill -KILL "${process%/environ}" 2>/dev/null || true
  done < <(grep -lzsxF "MINDSPORE_PAGED_JOB=$job" /proc/[0-9]*/environ)
}
trap clean_up EXIT

# What the supervisor says of an end by a signal; nothing after any other end.
interruption() {
  grep -hs -m 1 '^interrupted by SIG' "$log_dir/scheduler.log" "$shown_log" | head -n 1 || true
}

# Tell the supervisor, or on a node without it the ranks, that the job must end; what is finished is written meanwhile.
interrupt() {  # SIGNAL EXIT_CODE
  trap "exit $2" INT TERM HUP # the second signal ends everything at once
  local process ranks=() supervisor=()
  for process in $(cat "/proc/$msrun_pid/task/$msrun_pid/children" 2>/dev/null); do
    ! grep -qzxF MS_ROLE=MS_SCHED "/proc/$process/environ" 2>/dev/null || supervisor=("$process")
    ! grep -qzxF MS_ROLE=MS_WORKER "/proc/$process/environ" 2>/dev/null || ranks+=("$process")
  done
  ((${#supervisor[@]})) || supervisor=("${ranks[@]}")
  local tenths=42 asked
  asked=$(sed -n 's/^a signal ends this job within \([0-9]\{1,6\}\) s$/\1/p' "$log_dir/scheduler.log" 2>/dev/null | tail -n 1 || true)
  [[ -z $asked ]] || tenths=$((10 * asked + 30))
  if ((${#supervisor[@]})) && kill -s "$1" "${supervisor[@]}" 2>/dev/null; then
    for ((; tenths > 0; tenths--)); do
      kill -0 "$msrun_pid" 2>/dev/null || break
      sleep 0.1
    done
    # A job that was given time may have come to its end, as a server does that has answered all it had to.
    if [[ -n $asked ]] && ((tenths > 0)) && wait "$msrun_pid"; then
      msrun_pid=""
      exit 0
    fi
  fi
  local line
  line=$(interruption)
  echo "${line:-interrupted by SIG$1}" >&2
  exit "$2"
}
trap 'interrupt INT 130' INT
trap 'interrupt TERM 143' TERM
trap 'interrupt HUP 129' HUP

# The ports are claimed before anything of an earlier or another job is touched.
exec {answer}< <(exec python -m mindspore_paged.launch.msrun run "$log_dir" "${ports[@]}" -- \
  msrun --worker_num="$worker_num" --local_worker_num="$local_worker" --master_addr="$master_addr" \
  --master_port="$master_port" --node_rank="$node_rank" --log_dir="$log_dir" --join=True --tail_worker_log="$worker_num" \
  --cluster_time_out="$cluster_time_out" "${command_words[@]}" </dev/null)
msrun_pid=$!
read -r -u "$answer" || wait "$msrun_pid" || exit
exec {answer}<&-
touch "$shown_log"
tail -n +1 -s 0.2 -f --pid="$msrun_pid" "$shown_log" &
tail_pid=$!

exit_code=0
wait "$msrun_pid" || exit_code=$?
msrun_pid=""
wait "$tail_pid" || true
line=$(interruption)
if [[ -z $line ]]; then # a signal to msrun itself, which ends its ranks at once; at SIGINT it says that all went well
  ! grep -qF "msrun process received SIGINT" "$log_dir/msrun.log" || exit_code=130
  ((exit_code <= 128)) || line="interrupted by SIG$(kill -l "$exit_code"): msrun was ended, and its ranks with it"
fi
if [[ -n $line ]]; then
  grep -qxF -- "$line" "$shown_log" || echo "$line" >&2
  name=${line#interrupted by SIG}
  exit $((128 + $(kill -l "${name%%:*}")))
fi
((exit_code)) || exit 0

# msrun ends with 1 whatever happened, but writes down the code of the first worker that it sees fail. One that was
# killed (below 0) counts as 1: whether msrun sees it before the others, which end with 1, is chance.
worker_code=$(sed -n 's/.*exit with exception\. Error code: \([0-9]\{1,\}\)\..*/\1/p' "$log_dir/msrun.log" | head -n 1)
exit_code=${worker_code:-$exit_code}
reason=$(grep -hs -m 1 '^error: ' "$log_dir/scheduler.log" "$shown_log" | head -n 1 || true)
reason=${reason:-"error: $(tail -n 1 "$log_dir/msrun.log")"}
# What rank 0 printed itself has been seen, be it at the end of a line of text.
if ! grep -qF -- "$reason" "$shown_log" && [[ $reason != "error: rank 0: "* && $reason != "error: all ranks: "* ]]; then
  echo "$reason" >&2
fi
# Every rank's log says why it ended, also where msrun killed a rank before it could write that itself.
for log in "$log_dir"/worker_*.log; do
  grep -qF -- "$reason" "$log" || echo "$reason" >>"$log"
done
echo "the job failed with exit code $exit_code; the output of every rank is in $log_dir/worker_*.log" >&2
exit "$exit_code"
