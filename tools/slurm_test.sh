#!/usr/bin/env bash
# Test under Slurm: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py ...]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS; PYTHON.
set -eu
# shellcheck source=tools/_launch.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_launch.sh"
[ $# -ge 4 ] || fail "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py ...]"
slurm test.py "$1" "$2" "$3" "$4" "${@:5}"
