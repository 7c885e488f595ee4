"""The page in other languages, and its theme."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.frontends.ui.language import ENGLISH, Languages
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS
from tests.frontends import words
from tests.frontends.conftest import Served, new_context, open_page, serving

LANGUAGES = ("ru_RU", "zh_CN")


def write(folder: Path, name: str, told: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(told if isinstance(told, str) else json.dumps(told), "utf-8")


def test_a_users_file_adds_to_ours_and_may_be_a_language_of_its_own(tmp_path):
    write(tmp_path, "ru_RU", {"Generate": "Поехали", "Own": "Своё"})
    write(tmp_path, "ar", {"Generate": "توليد", "rtl": True, "count": 3})
    found = Languages([tmp_path])
    assert set(found.names()) == {"ar", *LANGUAGES}
    russian = found.find("ru_RU")
    assert (russian.tag, russian.words["Generate"], russian.words["Own"]) == ("ru-RU", "Поехали", "Своё")
    arabic = found.find("ar")
    assert (arabic.words, arabic.right_to_left) == ({"Generate": "توليد"}, True)


@pytest.mark.parametrize("content", ["", "[1]", "{", '"x"', "[" * 100_000, "\0"])
def test_a_spoiled_file_never_keeps_the_page_from_coming(tmp_path, content):
    write(tmp_path, "zz", content)
    assert Languages([tmp_path]).find("zz").words == {}


def test_the_browsers_language_is_taken_where_there_is_one():
    found = Languages()
    assert found.find("Automatic", "ru,en;q=0.8").tag == "ru-RU"
    assert found.find("Automatic", "zh-TW, zh;q=0.9").tag == "zh-CN"
    assert found.find("Automatic", "fr-FR, zh-CN;q=0.5").tag == "zh-CN"
    assert found.find("Automatic", "en-US,ru;q=0.9") == ENGLISH
    assert found.find("Automatic", "fr") == found.find("Automatic", "") == found.find("None", "ru") == ENGLISH


def test_extensions_may_bring_languages(tmp_path):
    write(tmp_path / "extensions" / "fr" / "localizations", "fr_FR", {"Generate": "Dessiner"})
    found = Languages.of({"localizations_dir": str(tmp_path / "localizations"), "data_dir": str(tmp_path)})
    assert found.find("fr_FR").words == {"Generate": "Dessiner"}
    disabled = Languages.of({"disable_all_extensions": True, "data_dir": str(tmp_path)})
    assert "fr_FR" not in disabled.names()


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("localizations")
    write(folder, "test", {
        "Generate": "Los", "Sampling steps": "Schritte", "Describe the picture": "Beschreib es",
        "Whole picture": "Alles", "Swap width and height": "Tauschen", "{n} of {limit} tokens": "{limit}:{n}",
        "This ( is never closed, so it is text.": "Klammer auf", "Drawing": "Zeichnen", "Euler": "Oiler",
        "There is no picture yet whose seed could be used again.": "Noch nichts.", "cat": "Hund",
    })  # fmt: skip
    with serving(flags={"localizations_dir": str(folder), "theme": "dark"}) as found:
        found.service.change_settings({"localization": "test"})
        yield found


@pytest.mark.browser
def test_the_page_speaks_the_chosen_language_and_leaves_peoples_words_alone(translated, context, watch):
    page = watch.on(context.new_page())
    open_page(page, translated)
    page.wait_for_function("document.querySelector('#txt2img_generate').innerText === 'Los'")
    assert "Schritte" in page.inner_text("#txt2img_steps")
    assert page.get_attribute("#txt2img_prompt textarea", "placeholder") == "Beschreib es"
    page.wait_for_selector("#txt2img_res_switch_btn[title=Tauschen][aria-label=Tauschen]")
    assert page.evaluate("document.documentElement.lang") == "test"
    page.fill("#txt2img_prompt textarea", "cat")
    page.wait_for_selector("#txt2img_token_counter span[title='75:1']")
    page.click("#txt2img_reuse_seed")
    page.wait_for_function("document.querySelector('#easel_toasts').innerText.includes('Noch nichts.')")
    page.fill("#txt2img_steps input[type=number]", "1")
    page.click("#txt2img_generate")
    page.wait_for_selector("#html_info_txt2img .positive")
    assert page.inner_text("#html_info_txt2img .positive") == "cat"
    assert page.input_value("#txt2img_prompt textarea") == "cat"
    assert translated.service.jobs(1)[0].request.prompt == "cat"
    page.click("#txt2img_sampling input")
    assert "Euler" in page.locator("ul[role=listbox] li").all_inner_texts()
    page.close()


@pytest.mark.browser
def test_the_theme_of_the_command_line_holds_unless_the_address_says_otherwise(translated, context, watch):
    page = watch.on(context.new_page())
    dark = "document.body.classList.contains('dark')"
    open_page(page, translated)
    assert page.evaluate(dark)
    page.goto(f"{translated.url}?__theme=light")
    page.wait_for_selector(".easel-example")
    assert not page.evaluate(dark)
    page.close()


def test_the_page_has_the_colour_of_its_theme_before_its_scripts_run(translated):
    """No white flash before a dark page: what is painted first does not ask the system where a theme was asked for."""
    first = {theme: httpx.get(f"{translated.url}?__theme={theme}") for theme in ("dark", "light", "system")}
    rules = {theme: re.findall(r"@media ([^{]*?)\s*{\s*body", page.text) for theme, page in first.items()}
    assert rules == {"dark": ["all"], "light": ["not all"], "system": ["(prefers-color-scheme: dark)"]}
    assert len({page.headers["content-length"] for page in first.values()}) == 1


@pytest.mark.browser
def test_without_a_command_the_theme_follows_the_system_as_it_changes(served, chromium, watch):
    context = new_context(chromium, color_scheme="dark")
    page = watch.on(context.new_page())
    open_page(page, served)
    assert page.evaluate("document.body.classList.contains('dark')")
    page.emulate_media(color_scheme="light")
    page.wait_for_function("!document.body.classList.contains('dark')")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.body.classList.contains('dark')")
    context.close()


def test_every_translation_keeps_the_places_of_its_values():
    for language in LANGUAGES:
        for key, value in words.words_of(language).items():
            assert sorted(words.places(value)) == sorted(words.places(key)), f"{language}: {key}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_of_the_scripts_and_fields_is_translated(language):
    """`python -m tests.frontends.words LANGUAGE` prints what is missing, ready to be filled in."""
    assert words.lacking(words.of_scripts() | words.of_fields(), words.words_of(language)) == []


# What stays as it is in every language: names of the field, of this program and of the stand-in's files.
NAMES = re.compile(
    r"Easel [\d.]+|GPU|CPU|NV|Lanczos|Zero Terminal SNR|Doggettx|InvokeAI|xformers|sdp(-no-mem)?|sub-quadratic|V1"
    r"|bh[12]|logSNR|time_\w+|vary_coeff|postcards|dream|[a-z]{2}_[A-Z]{2}|\W+|Lora|TAESD|Approx (NN|cheap)|Automatic"
    r"|\w+(_\w+)+( ×)?|emphasis|font|localization|precision|tiling|extras|grid|inpaint"  # options
    r"|png|jpg|webp|avif"
    r"|CFG scale|Model hash|Sampler|Steps"  # keys of infotexts
    r"|auto|normal|(low|med)vram|b?float\d+|Alt|Ctrl|Enter|Esc|[\d.×x:%/+-]+|.?"
)


@pytest.mark.browser
def test_every_text_on_the_page_is_translated(served, context, watch):
    page = watch.on(context.new_page())
    open_page(page, served)
    for switch in ("#txt2img_hr-checkbox", "#txt2img_enable-checkbox", "#txt2img_subseed_show"):
        page.check(f"{switch} input")
    found: set[str] = set()
    tabs = "[...document.querySelectorAll('#tabs > .tab-wrapper [role=tab][id^=tab_]')].map((tab) => tab.id)"
    for tab in page.evaluate(tabs):
        page.evaluate("(id) => document.getElementById(id).click()", tab)
        page.wait_for_timeout(600)
        for fold in page.locator(
            "#tabs details:not([open]) > summary:visible, .easel-more > button:visible"
        ).element_handles():
            fold.click()
        page.wait_for_timeout(300)
        found |= set(page.evaluate(words.WALK))
    page.close()
    assert len(found) > 200

    def name(text: str) -> bool:
        return bool(NAMES.fullmatch(text)) or text in (*SAMPLER_NAMES, *SCHEDULE_LABELS, "Carriage Return", "Line Feed")

    for language in LANGUAGES:
        missing = words.lacking(found, words.words_of(language), name)
        assert [text for text in missing if not name(text)] == []
