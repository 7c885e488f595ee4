#!/usr/bin/env bash
# Your settings, and the command that starts Easel: ./webui-user.sh [flags]
# Take the # away from a line to use it. Lines of an A1111 file work here too; those about git, clones and
# repositories have no meaning any more and may stay.

# Flags (./webui-user.sh --help lists them), for example: "--listen --port 7861"
#export COMMANDLINE_ARGS=""

# The Python that makes the venv; without it the newest python3 from 3.10 on
#python_cmd="python3"

# Folder of the venv; "-" uses the running Python and makes none
#venv_dir="venv"

# Another torch than the one chosen for this machine: the whole command, or only the index to take it from
#export TORCH_COMMAND="pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126"
#export TORCH_INDEX_URL="https://download.pytorch.org/whl/cpu"

# Another index for all other packages, and another list of them
#export INDEX_URL=""
#export REQS_FILE="requirements.txt"

# Sourced (by webui.sh) this file only sets variables; run as a command it starts Easel.
(return 0 2>/dev/null) || exec "$(dirname -- "${BASH_SOURCE[0]}")/webui.sh" "$@"
