"""Every sentence of the page's own: from the scripts, from the facts on fields, and from the page as it stands.

`python -m tests.frontends.words ru_RU` lists those that a language lacks, as JSON to be filled in.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable

from modules.frontends.ui import control, forms
from modules.frontends.ui.app import STATIC
from modules.frontends.ui.language import OURS
from modules.frontends.ui.settings import SECTIONS_ELSEWHERE
from modules.schema.control import PREPROCESSORS, ControlUnit
from modules.schema.fields import all_facts, facts
from modules.schema.settings import Settings

CALL = re.compile(r"""(?<![\w.$])(?:t|tools\.t)\(\s*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)""")

# All texts in the page that are nobody's own words: as static/language.js walks it.
WALK = """() => {
    const skip = "[translate=no], textarea, script, style, noscript, .easel-info, ul.options, datalist,"
        + " [role=listbox], [data-testid=token], .token, .easel-example, .easel-note, #easel_toasts";
    const found = new Set(), take = (text) => { if (text?.trim()) found.add(text.trim().replace(/\\s+/g, " ")); };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = document.body; node; node = walk.nextNode()) {
        const own = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
        if (node.nodeType === Node.TEXT_NODE) { if (!own.closest(skip)) take(node.data); continue; }
        if (own.closest(skip) && !own.matches("textarea")) continue;
        for (const name of ["title", "placeholder", "aria-label", "alt"]) take(own.getAttribute(name));
    }
    return [...found];
}"""


def of_scripts() -> set[str]:
    """What the scripts hand to t()."""
    found = set()
    for path in STATIC.glob("*.js"):
        for literal in CALL.findall(path.read_text("utf-8")):
            assert "${" not in literal, f"{path.name}: t({literal}) needs {{name}} in place of a value"
            text = literal[1:-1] if literal[0] == "`" else ast.literal_eval(literal)
            found.add(" ".join(text.split()))
    return found


def of_fields() -> set[str]:
    """Labels, hints and named choices of the forms and of the Settings tab."""
    found = set()
    for name, field in Settings.model_fields.items():
        if name in SECTIONS_ELSEWHERE:
            continue
        model = field.annotation
        found |= {name[0].upper() + name[1:], (model.__doc__ or "").split("\n")[0].split(" (")[0]}  # type: ignore[union-attr]
        for fact in all_facts(model).values():  # type: ignore[arg-type]
            found |= {fact.label, fact.hint}
    for tab in forms.FORMS:
        found |= {forms.label_of(path) for path in forms.FORMS[tab]}
    for choices in forms.NUMBERED.values():
        found.update(choices)
    for name in control.FIELDS:
        fact = facts(ControlUnit, name)
        found |= {fact.label, fact.hint, *(fact.choices if name in control.NAMED else ())}
    found |= {slider.label for row in PREPROCESSORS for slider in (row.a, row.b) if slider}
    return {" ".join(text.split()) for text in found if text}


def words_of(language: str) -> dict[str, str]:
    return json.loads((OURS / f"{language}.json").read_text("utf-8"))


def places(text: str) -> list[str]:
    """Names in braces, which stand for values."""
    return re.findall(r"\{\w+\}", text)


def lacking(texts: set[str], words: dict[str, str], name: Callable[[str], object] | None = None) -> list[str]:
    """Those of the texts that a language has no words for.

    `name` tells names, which stay as they are. With it a text may be a sentence with its values put in, each of them
    names, single words or texts of ours; so "{n} of {total}" does not stand for whatever has an "of".
    """
    patterns = []
    for key in words if name else ():
        if "{" in key:
            parts = [re.escape(part) for part in re.split(r"\{\w+\}", key)]
            patterns.append(re.compile("(.+)".join(parts)))

    def known(value: str) -> bool:
        return value in words or all(" " not in part or (name and name(part)) for part in re.split(", ?", value))

    def told(text: str) -> bool:
        found = (pattern.fullmatch(text) for pattern in patterns)
        return any(match and all(map(known, match.groups())) for match in found)

    return sorted(text for text in texts if text not in words and not told(text))


def main(language: str) -> None:
    missing = lacking(of_scripts() | of_fields(), words_of(language))
    print(json.dumps(dict.fromkeys(missing, ""), ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
