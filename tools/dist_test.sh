#!/usr/bin/env bash
# Test on several devices: tools/dist_test.sh CONFIG CHECKPOINT DEVICES [arguments of tools/test.py ...]
# Environment: PORT, and on several machines NNODES, NODE_RANK, MASTER_ADDR; PYTHON.
set -eu
# shellcheck source=tools/_launch.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_launch.sh"
[ $# -ge 3 ] || fail "usage: $0 CONFIG CHECKPOINT DEVICES [arguments of test.py ...]"
launch test.py "$3" "$1" "$2" "${@:4}"
