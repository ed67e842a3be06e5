#!/bin/bash
# @{title}
# Submit it with `sbatch FILE`, from a folder that all nodes see. Written by `fairsweep manifest slurm`, for Ray @{ray} and
# fairsweep @{fairsweep}.
#
# Versions  All nodes run one environment: that of the line under "Environment". The sweep refuses to begin on nodes with
#           other versions of Python, Ray, PyTorch or fairsweep, and names them.
# Storage   storage=@{storage} has to be seen by all nodes, which is tried before anything is trained.
# Token     Made for this job in a folder of yours (0600) that all nodes see; nobody else on these nodes can use the Ray.
# The end   @{warning} s before the time limit trials end at their next report, with a checkpoint; the last lines of the
#           output say how to go on. A job that SLURM starts anew (--requeue, a lost node) goes on by itself.
#SBATCH --job-name=@{name}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@{cpus}
#SBATCH --gpus-per-node=@{gpus}
#SBATCH --mem=@{memory}
#SBATCH --time=@{time}
#SBATCH --partition=@{partition}
#SBATCH --account=@{account}
#SBATCH --signal=B:TERM@@{warning}
#SBATCH --output=@{output}
set -euo pipefail

# Environment
@{activate}
FAIRSWEEP=${FAIRSWEEP:-fairsweep}

# Token
umask 077
export RAY_AUTH_MODE=token
shared=${FAIRSWEEP_SHARED:-$HOME/.fairsweep}/slurm-$SLURM_JOB_ID
mkdir -p "$shared"
export RAY_AUTH_TOKEN_PATH=$shared/token
unset RAY_AUTH_TOKEN
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

# Nodes. The head's address is the one that another node finds, which its own /etc/hosts may have otherwise.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes[0]}
others=("${nodes[@]:1}")
address_of() {
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" getent ahostsv4 "$2" | awk 'NR == 1 { print $1 }'
}
head_ip=$(address_of "${nodes[-1]}" "$head_node")
port=${FAIRSWEEP_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/fairsweep-$SLURM_JOB_ID} # of this job alone: others' /tmp/ray belongs to others
ray_start=(ray start --block --disable-usage-stats "--num-cpus=$SLURM_CPUS_PER_TASK" "--num-gpus=@{gpus_each}"
  --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0)
steps=()
driver=
end() {
  trap - EXIT
  [ -z "$driver" ] || kill -TERM "$driver" 2> /dev/null || true
  for step in "${steps[@]}"; do kill -TERM "$step" 2> /dev/null || true; done
  wait || true
  rm -rf "$shared"
}
trap end EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head_node" mkdir -p "$RAY_TMPDIR"
srun --nodes=1 --ntasks=1 --nodelist="$head_node" \
  "${ray_start[@]}" --head "--node-ip-address=$head_ip" "--port=$port" --include-dashboard=false &
steps+=($!)
for _ in $(seq 120); do
  if (exec 3<> "/dev/tcp/$head_ip/$port") 2> /dev/null; then break; fi
  kill -0 "${steps[0]}" || { echo "Ray's head on $head_node has ended" >&2; exit 1; }
  sleep 1
done
for node in "${others[@]}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" bash -c 'mkdir -p "$RAY_TMPDIR" && exec "$@"' start \
    "${ray_start[@]}" "--address=$head_ip:$port" "--node-ip-address=$(address_of "$node" "$node")" &
  steps+=($!)
done

export RAY_ADDRESS=$head_ip:$port
"${PYTHON:-python}" - "${#nodes[@]}" << 'END'
import sys
import time

import ray

wanted, until = int(sys.argv[1]), time.monotonic() + 180
ray.init(log_to_driver=False, logging_level="ERROR")
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > until:
        sys.exit(f"{there} of {wanted} nodes have joined Ray after 180 s")
    time.sleep(1)
END

# The sweep
words=(@{words})
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
  words=(@{again})
fi
$FAIRSWEEP "${words[@]}" &
driver=$!
trap 'kill -TERM "$driver" 2> /dev/null || true' TERM
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2> /dev/null; do # a signal has ended the wait, not the sweep
  code=0
  wait "$driver" || code=$?
done
driver=
exit "$code"
