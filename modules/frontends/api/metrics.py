"""`GET /metrics` in Prometheus' text format (version 0.0.4).

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import psutil

from modules.schema.record import JobState
from modules.schema.version import VERSION


def metrics_text(stats: Mapping[str, Any]) -> str:
    """`stats`: the service's own (`GenerationService.stats`)."""
    return "".join(_lines(stats))


def _lines(stats: Mapping[str, Any]) -> Iterator[str]:
    jobs, worker = stats.get("jobs", {}), stats.get("worker", {})
    yield from _metric("easel_info", "gauge", "The version that runs.", {f'{{version="{VERSION}"}}': 1})
    states = {f'{{state="{state}"}}': jobs.get(state, 0) for state in get_args(JobState)}
    yield from _metric("easel_jobs", "gauge", "Jobs by state.", states)
    yield from _metric("easel_pictures_total", "counter", "Finished pictures.", {"": stats.get("pictures", 0)})
    yield from _metric("easel_drawing", "gauge", "1 while a job is drawn.", {"": int(bool(stats.get("running")))})
    yield from _metric(
        "easel_paused", "gauge", "1 while the disk holds the queue.", {"": int(bool(stats.get("trouble")))}
    )
    yield from _metric(
        "easel_worker_ready", "gauge", "1 while the engine is loaded.", {"": int(bool(worker.get("ready")))}
    )
    restarts = {"": worker.get("restarts", 0)}
    yield from _metric("easel_worker_restarts_total", "counter", "Drawing processes that had to be replaced.", restarts)
    memory = {'{process="server"}': psutil.Process().memory_info().rss}
    if worker.get("pid"):
        with contextlib.suppress(psutil.Error):
            memory['{process="worker"}'] = psutil.Process(worker["pid"]).memory_info().rss
    yield from _metric("easel_resident_bytes", "gauge", "Memory of our processes.", memory)


def _metric(name: str, kind: str, help: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
    for labels, value in values.items():
        yield f"{name}{labels} {value}\n"
