#!/usr/bin/env bash
# Writes requirements.lock anew from pyproject.toml: versions and hashes, no address of a registry. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/../.."
# hatchling builds the package itself, without reaching out a second time.
echo 'hatchling>=1.27' | uv pip compile pyproject.toml - --quiet --generate-hashes --no-emit-index-url --no-header \
  --no-annotate --extra images --extra dashboard --extra metrics --extra s3 --extra ssh --extra kubernetes \
  --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
  --output-file deploy/container/requirements.lock "$@"
