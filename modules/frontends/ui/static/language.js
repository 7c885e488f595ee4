// The page in the language of the setting "localization" (ui/language.py): texts, titles, placeholders and names for
// screen readers, as they come into the page. What people wrote themselves stays: everything in SKIP or translate="no".
"use strict";
(() => {
    const { words, language } = window.easel;
    document.documentElement.lang = language.tag;
    if (language.rtl) document.documentElement.dir = "rtl";
    if (!Object.keys(words).length) return;

    const ATTRIBUTES = ["title", "placeholder", "aria-label", "alt"];
    const SKIP = "[translate=no], textarea, script, style, .easel-info, ul.options, [role=listbox], [data-testid=token], .token, datalist, "
        + ".easel-example, .easel-note";
    const found = (text) => {
        const key = text.trim().replace(/\s+/g, " ");
        // Gradio names the two parts of a slider after its label.
        const part = /^(number input|range slider) for (.+)$/.exec(key);
        const word = part && Object.hasOwn(words, `${part[1]} for {name}`)
            ? words[`${part[1]} for {name}`].replace("{name}", () => words[part[2]] ?? part[2])
            : key && Object.hasOwn(words, key) ? words[key] : undefined;
        // The same text again would be a change again, for ever.
        return word === undefined || word === key ? null : word;
    };

    function text(node) {
        const word = found(node.data), parent = node.parentElement;
        if (word === null || !parent || parent.closest(SKIP)) return;
        if (parent.tagName === "OPTION" && !parent.hasAttribute("value")) parent.value = parent.textContent;
        node.data = /^\s*/.exec(node.data)[0] + word + /\s*$/.exec(node.data)[0];
        if (parent.closest("#tabs > .tab-wrapper")) fit();
    }
    /** Gradio has measured which tabs have room by their English names: let it measure once more. */
    let fitting = 0;
    function fit() {
        clearTimeout(fitting);
        fitting = setTimeout(() => window.dispatchEvent(new Event("resize")), 50);
    }
    function attribute(element, name) {
        const word = found(element.getAttribute(name) ?? "");
        // A text box's own words are its placeholder and name; what is written in it is not touched.
        if (word === null || (element.closest(SKIP) && !element.matches("textarea"))) return;
        element.setAttribute(name, word);
    }
    function element(root) {
        const walk = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
        for (let node = root; node; node = walk.nextNode()) {
            if (node.nodeType === Node.TEXT_NODE) text(node);
            else for (const name of ATTRIBUTES) if (node.hasAttribute?.(name)) attribute(node, name);
        }
    }

    new MutationObserver((changes) => {
        for (const change of changes) {
            if (change.type === "characterData") text(change.target);
            else if (change.type === "attributes") attribute(change.target, change.attributeName);
            else for (const node of change.addedNodes) node.nodeType === Node.TEXT_NODE ? text(node) : element(node);
        }
    }).observe(document.documentElement, {
        childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES,
    });
    element(document.documentElement);
})();
