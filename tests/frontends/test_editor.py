"""The prompt editor in real Chromium: its reading against the engine's, ink, completion, undo, fixes, keys."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

import pytest

from modules.prompt import parse
from tests.frontends.conftest import Served, Watch, hold_answers, new_context, open_page
from tests.frontends.test_page import PROMPT

pytestmark = pytest.mark.browser
NEGATIVE = "#txt2img_neg_prompt textarea"
INK = "#txt2img_prompt .easel-ink-text"
LIST = "#easel_completion:not([hidden])"


@pytest.fixture(scope="module")
def opened(served: Served, context: Any) -> Any:
    """One page for all tests here."""
    page = context.new_page()
    data = served.service.folders
    for folder, names in ((data.lora, ("ink_wash", "Ink Lines")), (data.embeddings, ("easynegative",))):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f"{name}.pt").write_bytes(b"x")
    for name, text in (
        ("wildcards/animals.txt", "cat\ndog\n"),
        ("tags/mine.csv", 'blue_eyes,0,900,"azure_eyes"\n:d,0,5,\n'),
    ):
        path = data.data / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    served.service.styles.save("Photographic", "photo of {prompt}", "drawing")
    open_page(page, served)
    return page


EMPTY = """() => {
    for (const box of document.querySelectorAll(".prompt textarea")) {
        box.value = "";
        Object.assign(easel.editor.of(box) ?? {}, { steps: [{ text: "" }], at: 0 });
    }
}"""


@pytest.fixture
def page(opened: Any, watch: Watch) -> Any:
    """Prompts are empty, and there is nothing to undo."""
    page = watch.on(opened)
    page.mouse.move(0, 0)
    page.fill(NEGATIVE, "")
    page.fill(PROMPT, "")
    page.evaluate(EMPTY)
    return page


def write(page: Any, text: str, box: str = PROMPT) -> None:
    """As hands do: what the keys send arrives one by one."""
    page.focus(box)
    page.keyboard.press("Control+End")
    page.keyboard.type(text)


PIECES = (
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    ":1.3)",
    "\\(",
    "\\",
    " ",
    ",",
    "cat",
    "0.5",
    "[a:b:3]",
    "[x|y]",
    "(z:0.7)",
    "\n",
    "猫",
    "😀",
    "BREAK",
)


def test_weights_and_edits_are_read_as_the_engine_reads_them(page, test_seed):
    draw = random.Random(test_seed)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 30))) for _ in range(400)] + [
        "(" * 10_000 + "a" + ")" * 10_000
    ]
    read = page.evaluate(
        """(texts) => texts.map((text) => {
            const { kinds, weights } = easel.editor.read(text, true, { enable_prompt_comments: false });
            return { kinds: [...kinds], weights: [...weights] };
        })""",
        texts,
    )
    groups = 0
    for text, found in zip(texts, read):
        units = list(accumulate((len(c.encode("utf-16-le")) // 2 for c in text), initial=0))  # UTF-16 places
        try:
            _, edits = parse._read_edits(text)
        except parse._Unreadable:
            edits = []
        marked = {k for k, kind in enumerate(found["kinds"]) if kind == 3}
        assert bool(edits) == bool(marked), text
        groups += len(edits)
        if not edits:
            for piece, weight, start in parse.emphasis_pieces(text):
                if piece and piece != "BREAK":
                    assert found["weights"][units[start]] == pytest.approx(weight, rel=1e-6), (text, piece)
    assert groups > 20


def test_the_ink_is_the_text_and_stays_in_step(page, test_seed):
    draw = random.Random(test_seed)
    measure = """() => {
        const box = document.activeElement, ink = box.parentElement.querySelector(".easel-ink-text");
        return [ink.textContent === box.value + "\\u200b",
            Math.max(ink.offsetHeight, box.clientHeight), box.scrollHeight, ink.parentElement.scrollTop, box.scrollTop];
    }"""
    for length in (3, 80, 400):
        page.fill(PROMPT, "".join(draw.choices((*PIECES, "word ", "ｗｉｄｅ", "longlonglong" * 4, "שלום"), k=length)))
        page.wait_for_function("easel.editor.of(document.activeElement).waiting === null")
        same, ink, box, shown, scrolled = page.evaluate(measure)
        assert (same, ink, shown) == (True, box, scrolled)
    page.evaluate("document.activeElement.scrollTop = 33")
    page.wait_for_function("document.activeElement.parentElement.querySelector('.easel-ink').scrollTop === 33")
    page.evaluate("document.activeElement.style.width = '200px'")
    page.wait_for_function(
        "((box) => box.parentElement.firstChild.clientWidth === box.clientWidth)(document.activeElement)"
    )
    _, ink, box, _, _ = page.evaluate(measure)
    assert ink == box


def test_emphasis_edits_tags_and_words_are_told_apart(page):
    page.fill(PROMPT, "a (red:1.3) [day:night:0.5] <lora:ink_wash:1> __animals__ AND [dull] # why")
    page.wait_for_selector(f"{INK} .comment")
    found = page.evaluate(
        f"""() => [...document.querySelectorAll('{INK} span')].map((s) => [s.className, s.textContent])"""
    )
    assert ["up", "red"] in found
    assert ["weight up", ":1.3"] in found
    assert ["edit", ":0.5]"] in found
    assert ["tag", "<lora:ink_wash:1>"] in found
    assert ["wildcard", "__animals__"] in found
    assert ["word", "AND"] in found
    assert ["down", "dull"] in found
    assert ["comment", "# why"] in found
    page.fill(NEGATIVE, "<lora:ink_wash:1> AND")  # words, in a negative prompt
    page.wait_for_function(
        "document.querySelector('#txt2img_neg_prompt .easel-ink-text').textContent.startsWith('<lora')"
    )
    assert page.locator("#txt2img_neg_prompt .easel-ink-text :is(.tag, .word)").count() == 0


def test_the_weight_is_told_under_the_pointer(page):
    page.fill(PROMPT, "((glowing)) windows")
    page.wait_for_selector(f"{INK} .up")
    box = page.locator(f"{INK} .up:has-text('glowing')").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".easel-tip:not([hidden])")
    assert page.inner_text(".easel-tip") == "× 1.21"
    page.mouse.move(5, 5)
    page.wait_for_selector(".easel-tip", state="hidden")


def test_chunks_are_marked_where_they_begin(page):
    page.fill(PROMPT, "cat " * 80)
    page.wait_for_selector(f"{INK} .chunk")
    assert page.evaluate(f"document.querySelector('{INK} .chunk').run.from") == 75 * 4
    page.evaluate("document.activeElement.setSelectionRange(0, 0)")
    page.keyboard.type("(")
    page.wait_for_function(f"document.querySelector('{INK} .chunk')?.run.from >= 301 - 4")


def test_names_are_completed_by_keys(page):
    write(page, "a house <lora:wash")
    page.wait_for_selector(LIST)
    page.keyboard.press("Enter")
    assert page.input_value(PROMPT) == "a house <lora:ink_wash:1>"
    write(page, " __ani")
    page.wait_for_selector(LIST)
    page.keyboard.press("Tab")
    assert page.input_value(PROMPT) == "a house <lora:ink_wash:1> __animals__"
    write(page, ", azure")
    page.wait_for_selector(f"{LIST} li:has-text('blue_eyes')")
    page.keyboard.press("Enter")  # nothing is chosen yet: a line break
    page.keyboard.press("Backspace")
    page.wait_for_selector(f"{LIST} li:has-text('blue_eyes')")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute(PROMPT, "aria-activedescendant") == "easel_completion_0"
    page.keyboard.press("Enter")
    assert page.input_value(PROMPT).endswith("__animals__, blue eyes, ")
    write(page, "<l")
    page.wait_for_selector(LIST)
    page.keyboard.press("Escape")
    page.wait_for_selector("#easel_completion", state="hidden")
    assert page.input_value(PROMPT).endswith("<l")


def test_what_fitted_earlier_words_is_not_taken_while_names_are_on_their_way(opened, served, chromium, watch):
    context = new_context(chromium)
    page = watch.on(context.new_page())
    open_page(page, served)
    hold_answers(page, "prompt/names")
    write(page, "<lo")
    page.wait_for_selector(f"{LIST} li:has-text('<lora:')")
    write(page, "ra:wash")
    page.wait_for_selector("#easel_completion", state="hidden")
    page.keyboard.press("Enter")
    assert page.input_value(PROMPT) == "<lora:wash\n"
    page.keyboard.press("Backspace")
    page.evaluate("answer()")
    page.wait_for_selector(f"{LIST} li:has-text('ink_wash')")
    page.keyboard.press("Enter")
    assert page.input_value(PROMPT) == "<lora:ink_wash:1>"
    context.close()


def test_names_are_completed_by_mouse_and_replace_the_whole_tag(page):
    page.fill(PROMPT, "x <lora:in:0.5> y")
    page.evaluate("document.activeElement.setSelectionRange(10, 10)")
    page.keyboard.type("k")
    page.wait_for_selector(LIST)
    assert page.locator(f"{LIST} li b").all_inner_texts() == ["Ink Lines", "ink_wash"]
    page.click(f"{LIST} li:has-text('ink_wash')")
    assert page.input_value(PROMPT) == "x <lora:ink_wash:1> y"
    write(page, "easy", NEGATIVE)
    page.wait_for_selector(f"{LIST} li:has-text('easynegative')")
    page.click(f"{LIST} li")
    assert page.input_value(NEGATIVE) == "easynegative"


def test_a_style_is_written_into_both_prompts(page):
    write(page, "a cat Photogr")
    page.wait_for_selector(f"{LIST} li:has-text('Photographic')")
    page.keyboard.press("Tab")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'photo of a cat'")
    assert page.input_value(NEGATIVE) == "drawing"


def test_what_was_meant_is_written_by_a_click_or_a_key(page):
    page.fill(PROMPT, "a <lora:ink_wsh:0.8> (house")
    page.wait_for_selector(f"{INK} .odd:has-text('<lora')")
    page.click("#txt2img_token_counter_notes button:has-text('Write <lora:ink_wash:0.8>')")
    assert page.input_value(PROMPT) == "a <lora:ink_wash:0.8> (house"
    page.wait_for_selector(f"{INK} .odd:has-text('(')")
    page.evaluate("document.activeElement.setSelectionRange(22, 22)")
    page.keyboard.press("Control+.")
    assert page.input_value(PROMPT) == "a <lora:ink_wash:0.8> \\(house"
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == "a <lora:ink_wsh:0.8> (house"


def test_undo_reaches_over_what_the_page_put_in(page):
    write(page, "one two")
    page.wait_for_timeout(50)
    page.evaluate(
        "easel.tools.take('txt2img', 'sent here\\nSteps: 20, Sampler: Euler, CFG scale: 5, Seed: 1, Size: 128x128')"
    )
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'sent here'")
    page.focus(PROMPT)
    page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == "one two"
    page.keyboard.press("Control+y")
    assert page.input_value(PROMPT) == "sent here"
    page.wait_for_function("JSON.parse(localStorage.getItem('easel.txt2img.draft')).prompt === 'sent here'")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == ""
    page.keyboard.press("Control+Shift+z")
    assert page.input_value(PROMPT) != ""


def test_input_methods_work_and_are_one_step(page):
    client = page.context.new_cdp_session(page)
    write(page, "a ")
    for text in ("ね", "ねこ", "猫"):
        client.send("Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)})
        page.wait_for_function(f"document.querySelector('{INK}').textContent.includes('a {text}')")
    client.send("Input.insertText", {"text": "猫"})
    assert page.input_value(PROMPT) == "a 猫"
    page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == "a "


MORE_WEIGHTS = (
    ("((x)) y", (2, 2), "ArrowUp", "(x:1.31) y"),
    ("[x] y", (1, 1), "ArrowDown", "(x:0.809) y"),
    ("[x:y:0.5]", (1, 1), "ArrowUp", "[(x:1.1):y:0.5]"),
    ("(a:1) b", (1, 1), "ArrowUp", "(a:1.1) b"),
)


def test_more_weights_and_their_settings(page, served):
    def change(text: str, selection: tuple[int, int], key: str) -> str:
        page.fill(PROMPT, text)
        page.evaluate("([a, b]) => document.activeElement.setSelectionRange(a, b)", list(selection))
        page.keyboard.press(key)
        return page.input_value(PROMPT)

    for text, selection, key, expected in MORE_WEIGHTS:
        assert change(text, selection, f"Control+{key}") == expected
    assert change("one, two, three, four", (5, 12), "Alt+ArrowLeft") == "two, three, one, four"
    before = page.evaluate("({...easel.options})")
    page.evaluate(
        "Object.assign(easel.options, {keyedit_precision_attention: 0.025, keyedit_precision_extra: 0.2,"
        " keyedit_delimiters: ',', keyedit_move: false})"
    )
    assert change("a red house, b", (3, 3), "Control+ArrowUp") == "(a red house:1.025), b"
    assert change("<lora:x:1>", (3, 3), "Control+ArrowUp") == "<lora:x:1.2>"
    assert change("a, b", (0, 0), "Alt+ArrowRight") == "a, b"
    page.evaluate("(before) => Object.assign(easel.options, before)", before)


def test_earlier_prompts_can_be_taken_again(page, served):
    page.fill("#txt2img_steps input[type=number]", "1")
    for prompt in ("a green boat", "a blue house"):
        page.fill(PROMPT, prompt)
        page.fill(NEGATIVE, "fog")
        page.click("#txt2img_generate")
    page.fill(PROMPT, "")
    page.fill(NEGATIVE, "")
    page.click("#txt2img_earlier")
    assert page.locator(".easel-earlier button > span").all_inner_texts() == ["a blue house", "a green boat"]
    page.fill("#easel_earlier input", "BOAT")
    page.click(".easel-earlier button")
    assert (page.input_value(PROMPT), page.input_value(NEGATIVE)) == ("a green boat", "fog")
    page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == ""


def test_hires_prompts_are_edited_likewise(page):
    page.check("#txt2img_hr-checkbox input")
    page.click("#txt2img_hr button:has-text('Other model')")
    page.fill("#hires_prompt textarea", "a (red:1.4) __anmals__")
    page.wait_for_selector("#hires_prompt .easel-ink-text .up")
    page.wait_for_selector("#hires_prompt .easel-ink-text .odd")


def test_ten_thousand_characters_stay_fluent(page):
    """Counted, not timed: a key in a long prompt makes few elements anew."""
    page.fill(PROMPT, ("a (red:1.2) house, [blue] sky, <lora:x:1>, " * 240)[:10_000])
    page.wait_for_function("easel.editor.of(document.activeElement).waiting === null")
    page.evaluate(f"""() => {{
            window.made = 0;
            new MutationObserver((changes) => changes.forEach((change) => {{ made += change.addedNodes.length; }}))
                .observe(document.querySelector('{INK}'), {{ childList: true }});
            document.activeElement.setSelectionRange(5000, 5000);
        }}""")
    page.keyboard.type("xyz")
    page.wait_for_function(f"document.querySelector('{INK}').textContent.includes('xyz')")
    assert page.locator(f"{INK} span").count() > 1000
    assert 0 < page.evaluate("made") <= 30
