#!/usr/bin/env bash
# Runs all tests in three steps: side by side; those marked `real`, two files at a time; those marked `alone`. Fails
# where one of the steps does. For `make test`: tests/run.sh PYTHON "OPTIONS OF THE FIRST STEP" [OPTIONS OF ALL]
set -uo pipefail
python=$1 together=$2
shift 2
said=$(mktemp -d)

# Where there is room, folders of the first step lie in memory: their runs would wait for a disk half of the time.
# Those of the other steps lie on the disk, and meet one.
memory=
free=$(df --output=avail --block-size=1G /dev/shm 2>/dev/null | tail -n 1) # nothing without /dev/shm or GNU df
if ((${free:-0} >= 4)); then
  memory=$(mktemp -d -p /dev/shm)
  printf '#!/bin/sh\n' >"$memory/program" && chmod +x "$memory/program"
  if ! "$memory/program" 2>/dev/null; then # nothing may be executed there
    rm -r "$memory"
    memory=
  fi
fi
trap 'rm -rf "$said" $memory' EXIT

# shellcheck disable=SC2086 # several options
PYTEST_DEBUG_TEMPROOT=$memory "$python" -m pytest -m "not real and not alone" --durations=40 $together "$@" |
  tee "$said/first"
first=$?
# With their paths: to collect all tests takes each process seconds, and tests/test_project.py knows the markers' places.
"$python" -m pytest -m "real and not alone" --durations=20 -n 2 --dist loadfile tests/real "$@" | tee "$said/second"
second=$?
"$python" -m pytest -m alone tests/real/test_hosts.py tests/faults/test_chaos.py "$@" | tee "$said/third"
third=$?

echo
grep -hE '^(FAILED|ERROR) ' "$said/first" "$said/second" "$said/third"
echo "side by side: $(tail -n 1 "$said/first")"
echo "real parts:   $(tail -n 1 "$said/second")"
echo "alone:        $(tail -n 1 "$said/third")"
exit $((first || second || third))
