"""The browser that the suite drives."""

from __future__ import annotations

import pytest

from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.run_tests import BROWSERS, ensure_browser, find_browser
from modules.bootstrap.system import System


@pytest.mark.parametrize("name", BROWSERS)
def test_each_kind_of_chromium_is_found(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser({}) is None
    browser = tmp_path / name
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    assert find_browser({}) == str(browser)
    assert ensure_browser(System(), {}) == str(browser)


def test_a_named_one_comes_first(tmp_path):
    mine = tmp_path / "my chromium"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    assert find_browser({"CHROMIUM": str(mine)}) == str(mine)
    assert find_browser({"CHROMIUM": str(tmp_path / "none")}) is None


def test_without_one_and_without_a_way_to_get_it_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BootstrapProblem, match="need Chromium"):
        ensure_browser(System(), {})
