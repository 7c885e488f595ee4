"""What a start took, and the file of --dump-sysinfo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.service.startup import Startup, process_age
from modules.service.sysinfo import dump


def test_parts_of_a_start_add_up_and_are_told() -> None:
    clock, said = iter([1.5, 2.0, 4.25]), []
    startup = Startup(said.append, lambda: next(clock))
    for part in ("imports", "queue", "page"):
        startup.done(part)
    assert startup.records == {"imports": 1.5, "queue": 0.5, "page": 2.25}
    assert startup.total == 4.25
    assert said[1] == "   2.00 s: queue took 0.50 s"
    assert 0 < process_age() < 24 * 3600


def test_sysinfo_is_a_file_or_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"CLIP_stop_at_last_layers": 2, "outdir_samples": "/secret"}')
    flags = {"listen": True, "gradio_auth": "ann:word"}
    assert dump(tmp_path, flags, tmp_path / "config.json", tmp_path / "state") == 0
    (written,) = tmp_path.glob("sysinfo-*.json")
    assert str(written) in capsys.readouterr().out
    text = written.read_text()
    assert json.loads(text)["Flags"] == ["listen"]
    assert json.loads(text)["Config"]["CLIP_stop_at_last_layers"] == 2
    assert "secret" not in text
    assert "word" not in text
    assert dump(tmp_path / "config.json", flags, tmp_path / "config.json", tmp_path / "state") == 1
    assert capsys.readouterr().err.count("\n") == 1
