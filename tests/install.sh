#!/usr/bin/env bash
# Installs the package with all that its checks and tests need into .venv.
# The constraints pin torch to a build that runs anywhere. For the build that suits your GPU:
#   CONSTRAINTS=/dev/null bash tests/install.sh
set -euo pipefail
cd "$(dirname "$0")/.."
constraints=${CONSTRAINTS:-.ci/constraints.txt}
test -d .venv || python3 -m venv .venv
. .venv/bin/activate
pip install --quiet --upgrade pip
pip install --quiet --constraint "$constraints" torch  # first: an unpinned torch may bring CUDA
pip install --quiet --constraint "$constraints" \
  --editable ".[demo,engines,frameworks,mteb,openvino,ray,serve,spark]" --group dev
# Lucene, for the slow tests: one archive in pyserini. What else pyserini needs would take gigabytes.
pip install --quiet --constraint "$constraints" --no-deps pyserini ||
  echo "pyserini could not be installed: the tests of Lucene are skipped" >&2
