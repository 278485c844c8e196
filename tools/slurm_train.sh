#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of tools/train.py ...]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS; PYTHON.
set -eu
# shellcheck source=tools/_launch.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_launch.sh"
[ $# -ge 3 ] || fail "usage: $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py ...]"
if [ $# -ge 4 ] && [[ $4 != -* ]]; then
    slurm train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
else
    slurm train.py "$1" "$2" "$3" "${@:4}"
fi
