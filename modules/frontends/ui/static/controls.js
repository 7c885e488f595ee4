// Controls made from the facts of a field (frontends/ui/own_forms.py), in the look of the Gradio ones beside them.
//
//   controls.of(option, id)   one control: {element, input, get(), set(value), choose(choices), onchange}
//   controls.form(parts, T)   all of a form: {element, get(), set(values), control(key)}; ids are T_key
"use strict";
(() => {
    const { $, make, t } = window.easel.tools;

    function slider(option, id) {
        const { label, ge, le, step } = option;
        const limits = { min: String(ge), max: String(le), step: String(step) };
        const number = make("input", { type: "number", "aria-label": t(label), ...limits });
        const range = make("input", { type: "range", "aria-label": t(label), tabindex: "-1", ...limits });
        const name = make("label", {}, make("span", {}, t(label)));
        const element = make("div", { id, class: "easel-slider easel-own" }, make("div", { class: "wrap" },
            make("div", { class: "head" }, name, make("div", { class: "tab-like-container" }, number)),
            make("div", { class: "slider_input_container" }, range)));
        name.onclick = () => number.focus();
        const fill = () => range.style.setProperty("--range_progress", `${(range.value - ge) / (le - ge) * 100}%`);
        const made = {
            element, input: number,
            get: () => Number(number.value === "" ? option.default : number.value),
            set(value) {
                number.value = String(value);
                range.value = String(value);
                fill();
            },
        };
        range.addEventListener("input", () => { number.value = range.value; fill(); made.onchange?.(); });
        number.addEventListener("input", () => { range.value = number.value; fill(); made.onchange?.(); });
        number.addEventListener("change", () => {
            made.set(Math.min(le, Math.max(ge, made.get())));
            made.onchange?.();
        });
        return made;
    }

    /** A choice of at most three short words, all to be seen; else a list. */
    function choice(option, id) {
        const names = option.names.length ? option.names : option.choices.map(String);
        if (option.names.length && names.length < 5) {
            const inputs = option.choices.map((value) => make("input", { type: "radio", name: id, value: String(value) }));
            const rows = inputs.map((input, k) => make("label", {}, input, make("span", {}, t(names[k]))));
            const element = make("div", { id, class: "easel-radio easel-own" },
                make("span", { class: "easel-field-name", "data-testid": "block-info" }, t(option.label)),
                make("div", { class: "wrap", role: "radiogroup", "aria-label": t(option.label) }, ...rows));
            const made = {
                element, input: inputs[0],
                get: () => option.choices[Math.max(0, inputs.findIndex((input) => input.checked))],
                set: (value) => inputs.forEach((input, k) => { input.checked = option.choices[k] === value; }),
            };
            inputs.forEach((input) => input.addEventListener("change", () => made.onchange?.()));
            return made;
        }
        const select = make("select", { "aria-label": t(option.label) });
        const element = make("div", { id, class: "easel-field" },
            make("span", { class: "easel-field-name" }, t(option.label)), select);
        const made = {
            element, input: select,
            choices: option.choices,
            get: () => made.choices[select.selectedIndex] ?? null,
            set(value) {
                const at = made.choices.indexOf(value);
                select.selectedIndex = at < 0 ? 0 : at;
            },
            /** Other choices; what was chosen stays where it is among them. */
            choose(choices, words = choices.map(String)) {
                const before = made.get();
                made.choices = choices;
                select.replaceChildren(...words.map((word, k) => make("option", { value: String(choices[k]) }, word)));
                made.set(before);
            },
        };
        made.choose(option.choices, names);
        select.addEventListener("change", () => made.onchange?.());
        return made;
    }

    /** Any of a few words. */
    function several(option, id) {
        const inputs = option.choices.map((value) => make("input", { type: "checkbox", value: String(value) }));
        const element = make("div", { id, class: "easel-several" }, make("span", { class: "easel-field-name" }, t(option.label)),
            ...inputs.map((input, k) => make("div", { class: "easel-check easel-own" }, make("label", {}, input, make("span", {}, t(String(option.choices[k])))))));
        const made = {
            element, input: inputs[0],
            get: () => option.choices.filter((_, k) => inputs[k].checked),
            set: (values) => inputs.forEach((input, k) => { input.checked = Array.isArray(values) && values.includes(option.choices[k]); }),
        };
        inputs.forEach((input) => input.addEventListener("change", () => made.onchange?.()));
        return made;
    }

    function check(option, id) {
        const input = make("input", { type: "checkbox" });
        const element = make("div", { id, class: "easel-check easel-own" }, make("label", {}, input, make("span", {}, t(option.label))));
        const made = { element, input, get: () => input.checked, set: (value) => { input.checked = Boolean(value); } };
        input.addEventListener("change", () => made.onchange?.());
        return made;
    }

    function text(option, id) {
        const input = option.lines ? make("textarea", { rows: String(option.lines) }) : make("input", { type: "text", autocomplete: "off" });
        input.setAttribute("aria-label", t(option.label));
        if (option.placeholder) input.placeholder = t(option.placeholder);
        const element = make("div", { id, class: "easel-field" }, make("span", { class: "easel-field-name" }, t(option.label)), input);
        const made = { element, input, get: () => input.value, set: (value) => { input.value = value ?? ""; } };
        input.addEventListener("input", () => made.onchange?.());
        return made;
    }

    function number(option, id) {
        const input = make("input", { type: "number", step: "any", "aria-label": t(option.label) });
        const element = make("div", { id, class: "easel-field" }, make("span", { class: "easel-field-name" }, t(option.label)), input);
        const made = { element, input, get: () => Number(input.value === "" ? option.default : input.value), set: (value) => { input.value = String(value); } };
        input.addEventListener("input", () => made.onchange?.());
        return made;
    }

    /** The control of an option, holding its value. What cannot be chosen at present says why. */
    function of(option, id) {
        const kind = Array.isArray(option.default) ? several : option.choices?.length ? choice : typeof option.default === "boolean" ? check
            : typeof option.default !== "number" ? text : option.le != null && option.step != null ? slider : number;
        const made = kind({ names: [], choices: [], ...option }, id);
        made.option = option;
        made.set(option.value ?? option.default);
        if (option.hint) made.element.title = t(option.hint);
        if (option.disabled) {
            for (const input of made.element.querySelectorAll("input, select, textarea")) input.disabled = true;
            made.element.title = t(option.disabled);
        }
        return made;
    }

    /** A fold that its switch, the first thing in it, opens. */
    function fold(part, id) {
        const made = check({ label: part.label }, `${id}-checkbox`);
        made.set(part.on);
        const body = make("div", { class: "easel-fold-body" });
        const element = make("div", { id, class: "easel-fold easel-switched" }, made.element, body);
        if (part.hint) element.title = t(part.hint);
        return { ...made, element, body, switch: made };
    }

    function form(parts, T) {
        const idOf = (key) => `${key.startsWith(`${T}_`) ? "" : `${T}_`}${key.replaceAll(".", "_")}`;
        const found = new Map();
        const element = make("div", { class: "easel-form" });
        for (const part of parts) {
            const section = part.key ? fold(part, idOf(part.key)) : null;
            if (section) found.set(part.key, section.switch);
            for (const option of part.options) {
                const made = of(option, idOf(option.key));
                found.set(option.key, made);
                (section?.body ?? element).append(made.element);
            }
            if (section) element.append(section.element);
        }
        const whole = {
            element,
            control: (key) => found.get(key),
            keys: () => [...found.keys()],
            /** Nested values; a part that is switched off is null. */
            get() {
                const values = {};
                for (const part of parts) {
                    const on = !part.key || found.get(part.key).get();
                    const own = Object.fromEntries(part.options.map(({ key }) => [key.split(".").pop(), found.get(key).get()]));
                    if (part.key) values[part.key] = on ? own : null;
                    else Object.assign(values, own);
                }
                return values;
            },
            flat: () => Object.fromEntries([...found].map(([key, made]) => [key, made.get()])),
            set(values) {
                for (const [key, value] of Object.entries(values)) {
                    const made = found.get(key);
                    if (made && typeof value === typeof made.get()) made.set(value);
                }
            },
            onchange: null,
        };
        for (const made of found.values()) made.onchange = () => whole.onchange?.();
        return whole;
    }

    window.easel.controls = { of, form };
})();
