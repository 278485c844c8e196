#!/usr/bin/env bash
# Train on several devices: tools/dist_train.sh CONFIG DEVICES [arguments of tools/train.py ...]
# Environment: PORT, and on several machines NNODES, NODE_RANK, MASTER_ADDR; PYTHON.
set -eu
# shellcheck source=tools/_launch.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_launch.sh"
[ $# -ge 2 ] || fail "usage: $0 CONFIG DEVICES [arguments of train.py ...]"
launch train.py "$2" "$1" "${@:3}"
