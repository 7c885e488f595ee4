@echo off
rem Starts Easel with the variables of webui-user.bat: webui.bat [flags]. All work is in webui.py.
setlocal
set "easel_python=%PYTHON%"
set "easel_venv=%VENV_DIR%"
if not defined easel_venv set "easel_venv=venv"
cd /d "%~dp0"
rem A second start needs no look around.
if not defined VIRTUAL_ENV if exist "%easel_venv%\Scripts\python.exe" set "easel_python=%easel_venv%\Scripts\python.exe"
if not defined easel_python where /q py && set "easel_python=py"
if not defined easel_python set "easel_python=python"
rem PYTHON may hold quotation marks of its own, as A1111 users write them.
set "easel_python=%easel_python:"=%"
"%easel_python%" "%~dp0webui.py" %*
set "easel_code=%errorlevel%"
if not "%easel_code%"=="0" pause
exit /b %easel_code%
