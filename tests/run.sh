#!/usr/bin/env bash
# Installs into .venv and runs the fast tests. Arguments go to pytest in their place:
#   bash tests/run.sh -m slow
#   bash tests/run.sh tests/search -k filter
set -euo pipefail
cd "$(dirname "$0")/.."
bash tests/install.sh
. .venv/bin/activate
test $# -gt 0 || set -- -m "not slow"
exec python -m pytest -q --numprocesses auto --maxprocesses 4 "$@"
