// Scripts: the list at the end of a form and what the chosen one takes; all of it from one list of the server.
"use strict";
(() => {
    const { $, byId, make, t, ask, toast, TABS } = window.easel.tools;
    const { controls } = window.easel;
    const store = (tab) => `easel.${tab}.script`;

    class Picker {
        constructor(tab) {
            this.tab = tab;
            this.page = null;
            this.chosen = "";
            this.values = {};  // key of a script → {argument: value}; what is not there is at its default
            try {
                const kept = JSON.parse(localStorage.getItem(store(tab)) || "{}");
                if (typeof kept.chosen === "string") this.chosen = kept.chosen;
                if (kept.values && typeof kept.values === "object") this.values = kept.values;
            } catch { /* a broken memory is none */ }
        }
        keep() {
            try {
                localStorage.setItem(store(this.tab), JSON.stringify({ chosen: this.chosen, values: this.values }));
            } catch { /* no room: it is forgotten with the page */ }
        }
        async mount(root) {
            this.body = make("div", { class: "easel-script-body" });
            this.list = make("select", { id: "script_list", "data-tab": this.tab });
            const none = make("option", { value: "" }, t("None"));
            this.list.append(none);
            root.replaceChildren(make("label", { class: "easel-script-head" }, make("span", { class: "easel-field-name" }, t("Script")), this.list), this.body);
            this.list.onchange = () => {
                this.chosen = this.list.value;
                this.keep();
                this.draw();
            };
            await this.load();
        }
        async load() {
            try {
                this.page = await ask(`easel/scripts/${this.tab}`);
            } catch (error) {
                toast(error.message, "error");
                return;
            }
            this.list.replaceChildren(this.list.firstChild, ...this.page.scripts.map(({ key, title }) => make("option", { value: key }, t(title))));
            if (!this.page.scripts.some(({ key }) => key === this.chosen)) this.chosen = "";
            this.list.value = this.chosen;
            this.draw();
        }
        /** What a pasted infotext tells: its script, or none. */
        paste({ name, args }) {
            this.chosen = name;
            if (name) this.values[name] = { ...this.values[name], ...args };
            this.keep();
            if (this.page) {
                this.list.value = name;
                this.draw();
            }
        }
        script() { return this.page?.scripts.find(({ key }) => key === this.chosen); }
        get(name) {
            const own = this.values[this.chosen] ?? {};
            if (name in own) return own[name];
            return this.script().fields.find((field) => field.name === name)?.value ?? [];
        }
        set(name, value) {
            (this.values[this.chosen] ??= {})[name] = value;
            this.keep();
        }
        /** What goes along with Generate. */
        text() {
            const script = this.script();
            if (!script) return "";
            const args = {};
            for (const field of script.fields) {
                args[field.name] = this.get(field.name);
                if (field.kind === "axis") args[`${field.name[0]}_values_dropdown`] = this.get(`${field.name[0]}_values_dropdown`);
            }
            return JSON.stringify({ name: script.key, args });
        }
        id(name) { return `script_${this.tab}_${this.chosen.replaceAll("/", "").replaceAll(" ", "_")}_${name}`; }

        draw() {
            const script = this.script();
            this.body.hidden = !script;
            this.body.replaceChildren();
            if (!script) return;
            const switches = make("div", { class: "easel-script-switches" });
            let put = false;
            for (const field of script.fields) {
                if (field.kind === "axis") this.body.append(this.axis(field));
                else if (/^[xyz]_values$/.test(field.name)) continue;
                else if (field.kind === "switch") {
                    switches.append(this.field(field));
                    if (!put) this.body.append(switches);
                    put = true;
                } else this.body.append(this.field(field));
            }
            if (script.fields.some(({ kind }) => kind === "axis")) this.body.insertBefore(this.swaps(), switches);
        }
        field(field) {
            if (field.kind === "several") {
                const group = make("fieldset", { class: "easel-script-field", id: this.id(field.name), title: t(field.hint) }, make("legend", { class: "easel-field-name" }, t(field.label)));
                group.append(this.chips(field.name, field.choices.map(([name]) => name)));
                return group;
            }
            const made = controls.of({
                label: field.label, hint: field.hint, ge: field.ge, le: field.le, step: field.step, default: field.value,
                value: this.get(field.name), lines: field.lines > 1 ? field.lines : 0, choices: field.choices.map(([, choice]) => choice),
                names: field.choices.map(([name]) => name),
            }, this.id(field.name));
            made.onchange = () => {
                this.set(field.name, made.get());
                if (field.name === "csv_mode") this.draw();
            };
            if (field.name !== "prompt_txt") return made.element;
            const file = make("input", { type: "file", accept: ".txt,text/plain" });
            file.onchange = async () => {
                if (!file.files.length) return;
                made.set(await file.files[0].text());
                made.onchange();
            };
            return make("div", { class: "easel-script-field" }, made.element, make("label", { class: "easel-chip easel-script-file" }, t("Load a file of prompts"), file));
        }
        /** Buttons that are in or out; the chosen ones are an argument. */
        chips(name, choices) {
            const group = make("div", { class: "easel-chips" });
            for (const choice of choices) {
                const chip = make("button", { type: "button", class: "easel-chip", translate: "no", "aria-pressed": String(this.get(name).includes(choice)) }, choice);
                chip.onclick = () => {
                    const now = this.get(name), out = now.includes(choice);
                    this.set(name, choices.filter((each) => (each === choice ? !out : now.includes(each))));
                    chip.setAttribute("aria-pressed", String(!out));
                };
                group.append(chip);
            }
            return group;
        }
        axis(field) {
            const letter = field.name[0], type = this.get(field.name);
            const known = this.page.axes.find(({ label }) => label === type) ?? this.page.axes[0];
            const select = make("select", { id: this.id(field.name) }, ...this.page.axes.map(({ label }) => make("option", { value: label }, t(label))));
            select.value = known.label;
            select.onchange = () => {
                this.set(field.name, select.value);
                this.set(`${letter}_values`, "");
                this.set(`${letter}_values_dropdown`, []);
                this.draw();
                byId(this.id(field.name)).focus();
            };
            const row = make("div", { class: "easel-script-axis" },
                make("label", { class: "easel-script-field" }, make("span", { class: "easel-field-name" }, t(field.label)), select));
            if (known.kind === "text" && known === this.page.axes[0]) return row;
            const label = t("{axis} values", { axis: letter.toUpperCase() });
            if (known.choices.length && !this.get("csv_mode")) {
                const name = `${letter}_values_dropdown`;
                const all = make("button", { type: "button", class: "easel-chip-all", title: t("Choose all, or none") }, t("All"));
                all.onclick = () => {
                    this.set(name, this.get(name).length === known.choices.length ? [] : [...known.choices]);
                    this.draw();
                };
                row.append(make("fieldset", { class: "easel-script-field", id: this.id(name) },
                    make("legend", { class: "easel-field-name" }, label, all), this.chips(name, known.choices)));
                return row;
            }
            const examples = { whole: "1, 2, 3 · 1-9 (+2) · 1-9 [5]", number: "0.5, 1 · 0-1 (+0.25) · 0-1 [5]", switch: "Yes, No", text: "a, b, \"c, d\"" };
            const input = make("input", { type: "text", id: this.id(`${letter}_values`), autocomplete: "off", spellcheck: "false", placeholder: examples[known.kind] });
            input.value = this.get(`${letter}_values`);
            input.oninput = () => this.set(`${letter}_values`, input.value);
            row.append(make("label", { class: "easel-script-field" }, make("span", { class: "easel-field-name" }, label), input));
            return row;
        }
        swaps() {
            const row = make("div", { class: "easel-script-swaps" });
            for (const [one, other] of [["x", "y"], ["y", "z"], ["x", "z"]]) {
                const names = { one: one.toUpperCase(), other: other.toUpperCase() };
                const button = make("button", { type: "button", class: "easel-chip", title: t("Swap {one} and {other} axes", names) }, `${names.one} ⇄ ${names.other}`);
                button.onclick = () => {
                    for (const part of ["type", "values", "values_dropdown"]) {
                        const kept = this.get(`${one}_${part}`);
                        this.set(`${one}_${part}`, this.get(`${other}_${part}`));
                        this.set(`${other}_${part}`, kept);
                    }
                    this.draw();
                };
                row.append(button);
            }
            return row;
        }
    }

    const pickers = new Map(TABS.map((tab) => [tab, new Picker(tab)]));
    /** The values of a form with what its script is to do put in at that place. */
    window.easel.withScript = (tab, values, place) => values.map((value, k) => (k === place ? pickers.get(tab).text() : value));
    // What is pasted into a form comes through its hidden field, and with it every other change of the form.
    const seen = new Map(), keep = window.easel.keep;
    window.easel.keep = (tab, names, values) => {
        const text = values[names.indexOf("script")];
        if (text && seen.get(tab) !== text) {
            seen.set(tab, text);
            try {
                pickers.get(tab).paste(JSON.parse(text));
            } catch { /* not ours */ }
        }
        keep.call(window.easel, tab, names, values);
    };
    const mount = (tab) => {
        const root = byId(`${tab}_scripts`);
        if (root && !$(".easel-script-head", root)) pickers.get(tab).mount(root);
    };
    document.addEventListener("easel:mounted", (event) => mount(event.detail));
    TABS.forEach(mount);
})();
