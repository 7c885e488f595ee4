"""The one exception of this room: a sentence for the terminal and an exit code."""

from __future__ import annotations


class BootstrapProblem(Exception):
    """What is wrong, what is allowed and what to do, in one sentence; the program ends with `exit_code`.

    2: a flag cannot be as it is given; 4: the environment (venv, packages) cannot be made ready.
    """

    def __init__(self, sentence: str, *, exit_code: int = 4) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
