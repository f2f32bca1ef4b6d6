#!/bin/bash
{% for line in directives -%}
#SBATCH {{ line }}
{% endfor %}
# Made by `promptide submit`: a Ray cluster on the nodes of this job, and the command on it.
set -euo pipefail
unset RAY_ADDRESS  # of another cluster

{% for name in env -%}
: "{{ '${' ~ name ~ ':?export it before sbatch}' }}"
{% endfor -%}
cd {{ folder | shell }}
{% if setup -%}
set +u  # what conda and modules activate reads variables that are not set
{% for line in setup -%}
{{ line }}
{% endfor -%}
set -u
{% endif %}
# The token stays in the environment that Slurm hands to the job's own steps: in no file, on no
# command line.
RAY_AUTH_TOKEN="$({{ python | shell }} -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_name="${nodes[0]}"
head_addresses="$(srun --nodes=1 --ntasks=1 --nodelist="$head_name" hostname --ip-address)"
head_ip=""
for address in $head_addresses; do
  if [[ -z "$head_ip" && "$address" =~ ^[0-9]+(\.[0-9]+){3}$ ]]; then
    head_ip="$address"
  fi
done
if [[ -z "$head_ip" ]]; then
  echo "error: $head_name has no IPv4 address: hostname --ip-address says $head_addresses" >&2
  exit 1
fi
steps=()
finish() {
  status=$?
  kill "${steps[@]}" 2>/dev/null || true
  wait
  exit "$status"
}
trap finish EXIT

srun --nodes=1 --ntasks=1 --cpus-per-task={{ cpus }} --nodelist="$head_name" \
  {{ ray | shell }} start --head --node-ip-address="$head_ip" --port={{ port }} {{ room }} --block &
steps+=("$!")
export RAY_ADDRESS="$head_ip:{{ port }}"
for name in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --cpus-per-task={{ cpus }} --nodelist="$name" \
    {{ ray | shell }} start --address="$RAY_ADDRESS" {{ room }} --block &
  steps+=("$!")
done

echo "waiting for ${#nodes[@]} nodes at $RAY_ADDRESS"
waited=0
timeout {{ start_seconds }} {{ python | shell }} - "${#nodes[@]}" <<'WAIT' || waited=$?
import sys
import time

import ray

while True:
    try:
        ray.init("auto", log_to_driver=False)
        break
    except ConnectionError:
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(1)
WAIT
if [[ "$waited" == 124 ]]; then  # timeout(1)
  echo "error: {{ start_seconds }} seconds (submit.options.start_seconds) were not enough for" \
    "${#nodes[@]} nodes to join $RAY_ADDRESS; above is what ray start says on each" >&2
fi
if [[ "$waited" != 0 ]]; then
  exit "$waited"
fi

# Its words are promptide's to read, not the shell's.
# shellcheck disable=SC2016
{{ command }}
