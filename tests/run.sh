#!/usr/bin/env bash
# Runs all tests in two steps, those marked `alone` behind the others, and fails where either does. For `make test`:
# tests/run.sh PYTHON "OPTIONS OF THE FIRST STEP" [OPTIONS OF BOTH]
set -uo pipefail
python=$1 together=$2
shift 2
said=$(mktemp -d)
trap 'rm -r "$said"' EXIT

# shellcheck disable=SC2086 # several options
"$python" -m pytest -m "not alone" --durations=40 $together "$@" | tee "$said/first"
first=$?
"$python" -m pytest -m alone --durations=10 "$@" | tee "$said/second"
second=$?

echo
grep -hE '^(FAILED|ERROR) ' "$said/first" "$said/second"
echo "side by side: $(tail -n 1 "$said/first")"
echo "alone:        $(tail -n 1 "$said/second")"
exit $((first || second))
