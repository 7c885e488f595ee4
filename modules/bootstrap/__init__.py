"""From bare Python to a running program: venv, pinned packages, flags; standard library only."""
