#!/usr/bin/env bash
# Runs the whole test suite, browser tests included, and sets up all it needs: ./test.sh [pytest arguments]
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
exec "${PYTHON:-python3}" -m modules.bootstrap.run_tests "$@"
