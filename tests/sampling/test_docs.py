"""docs/samplers.md lists the rows as they are."""

from __future__ import annotations

from pathlib import Path

from modules.sampling.table import AUTOMATIC, SAMPLERS, SCHEDULES, resolve

DOCUMENT = Path(__file__).parents[2] / "docs" / "samplers.md"


def sampler_lines() -> list[str]:
    lines = [
        "| sampler | other names | Automatic is | calls counted a step | grid | options |",
        "|---|---|---|---|---|---|",
    ]
    for row in SAMPLERS:
        own = resolve(row, AUTOMATIC).label if row.uses_schedule else "–"
        names, options = ", ".join(row.aliases) or "–", ", ".join(row.reads) or "–"
        lines.append(f"| {row.name} | {names} | {own} | {row.order} | {row.grid} | {options} |")
    return lines


def schedule_lines() -> list[str]:
    lines = ["| schedule | name | options |", "|---|---|---|"]
    return lines + [f"| {row.label} | {row.name} | {', '.join(row.reads) or '–'} |" for row in SCHEDULES]


def test_the_document_lists_every_row() -> None:
    text = DOCUMENT.read_text("utf-8")
    for line in (*sampler_lines(), *schedule_lines()):
        assert line in text, f"docs/samplers.md lacks the line {line}"
