#!/usr/bin/env bash
# Starts Easel with the settings of webui-user.sh: ./webui.sh [flags]. All work is in webui.py.
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)" || exit 1

if [[ -f "$here/webui-user.sh" ]]; then
    # shellcheck source=webui-user.sh
    source "$here/webui-user.sh"
fi
export COMMANDLINE_ARGS TORCH_COMMAND TORCH_INDEX_URL INDEX_URL REQS_FILE
export VENV_DIR="${VENV_DIR:-${venv_dir:-}}"

newest_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

python="${PYTHON:-${python_cmd:-}}"
venv="${VENV_DIR:-venv}"
[[ "$venv" == /* ]] || venv="$here/$venv"
if [[ -z "${VIRTUAL_ENV:-}" && "$VENV_DIR" != "-" && -x "$venv/bin/python" ]]; then
    python="$venv/bin/python" # a second start needs no look around
elif [[ -z "$python" ]]; then
    python="$(newest_python)"
fi
if [[ -z "$python" ]]; then
    echo "Easel needs Python 3.10 or newer and found none: install one, or name it in python_cmd in webui-user.sh." >&2
    exit 4
fi
exec "$python" "$here/webui.py" "$@"
