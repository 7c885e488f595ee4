@echo off
rem Your settings, and the command that starts Easel: webui-user.bat [flags]
rem Take the rem away from a line to use it. Lines of an A1111 file work here too; those about git and repositories have no meaning any more and may stay.

rem The Python that makes the venv; empty: the one on the search path, from 3.10 on
rem set PYTHON=
rem Folder of the venv; empty: venv; a single - uses the running Python and makes none
rem set VENV_DIR=
rem Flags, for example: --listen --port 7861 (webui-user.bat --help lists them)
rem set COMMANDLINE_ARGS=

rem Another torch than the one chosen for this machine: the whole command, or only the index to take it from
rem set TORCH_COMMAND=pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126
rem set TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
rem Another index for all other packages, and another list of them
rem set INDEX_URL=
rem set REQS_FILE=requirements.txt

call "%~dp0webui.bat" %*
