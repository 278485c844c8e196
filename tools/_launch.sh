# Sourced by dist_*.sh and slurm_*.sh: where the tools are, which Python runs them, and one process a device.
# shellcheck shell=bash

tools=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
export PYTHONPATH="${tools%/*}${PYTHONPATH:+:$PYTHONPATH}"

fail() {
    echo "$*" >&2
    exit 2
}

# $PYTHON, else that of the environment in use, else the one `make` set up, else python3.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        echo python
    elif [ -x "${tools%/*}/.venv/bin/python" ]; then
        echo "${tools%/*}/.venv/bin/python"
    else
        echo python3
    fi
}

# launch TOOL DEVICES [arguments of the tool ...]: DEVICES processes here, joined with those of the other nodes.
launch() {
    local tool=$1 devices=$2 python present
    shift 2
    python=$(find_python)
    [[ $devices =~ ^[1-9][0-9]*$ ]] || fail "the number of devices must be 1 or more, not '$devices'"
    # No CUDA device at all: processes on the CPU, as many as requested.
    # SIG_DFL: Ctrl-C while torch is imported ends without a traceback
    present=$("$python" -c 'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import torch
print(torch.cuda.device_count())') ||
        fail "$python cannot import torch: activate the environment it is in, or name its Python in PYTHON"
    if [ "$present" -gt 0 ] && [ "$devices" -gt "$present" ]; then
        fail "$devices GPUs asked for, $present there: ask for at most $present, or see CUDA_VISIBLE_DEVICES"
    fi
    local rendezvous=(--standalone)  # one node, and a port that is free
    if [ "${NNODES:-1}" -gt 1 ] || [ -n "${PORT:-}" ]; then
        rendezvous=(--nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}"
            --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}")
    fi
    exec "$python" -m mmseg_tr.cli.launch "${rendezvous[@]}" --nproc-per-node "$devices" \
        "$tools/$tool" "$@" --launcher pytorch
}

# slurm TOOL PARTITION JOB_NAME [arguments of the tool ...]: $GPUS tasks, $GPUS_PER_NODE on a node.
slurm() {
    local tool=$1 partition=$2 job=$3 gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
    shift 3
    command -v srun > /dev/null || fail "srun is not here: on a machine without Slurm use dist_${tool%.py}.sh"
    [ "$gpus" -ge "$per_node" ] || per_node=$gpus
    # shellcheck disable=SC2086 # SRUN_ARGS is a list of words
    exec srun -p "$partition" --job-name="$job" --gres="gpu:$per_node" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "$(find_python)" -u "$tools/$tool" "$@" --launcher slurm
}
