// The Settings tab: all options from one list of the server; search, apply what was changed, put one back.
"use strict";
(() => {
    const { $, byId, make, ask, toast, t } = window.easel.tools;

    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

    const page = {
        options: new Map(),  // key → option, as the server has it
        changed: new Map(),  // key → value not applied yet
        rows: new Map(),

        async build(root) {
            this.root = root;
            this.search = make("input", { type: "search", id: "settings_search", placeholder: t("Search settings"), "aria-label": t("Search settings") });
            this.search.oninput = () => this.filter();
            this.apply = make("button", { type: "button", id: "settings_submit", class: "easel-apply" }, t("Apply settings"));
            this.apply.onclick = () => this.send();
            this.list = make("div", { class: "easel-options" });
            this.none = make("p", { class: "easel-told-size", hidden: "" }, t("No setting has that word in it."));
            root.replaceChildren(make("div", { class: "easel-settings-bar" }, this.search, this.apply), this.none, this.list);
            try {
                this.show(await ask("easel/settings"));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        show(sections) {
            this.rows.clear();
            this.list.replaceChildren(...sections.map(({ name, about, options }) => {
                for (const option of options) this.options.set(option.key, option);
                return make("section", { "aria-label": name }, make("h2", {}, name[0].toUpperCase() + name.slice(1)), make("p", {}, about),
                    ...options.map((option) => this.row(option)));
            }));
            this.mark();
            this.filter();
        },
        row(option) {
            const input = this.input(option);
            input.id = `setting_${option.key}`;
            const read = () => {
                const value = this.valueOf(option, input);
                if (same(value, option.value)) this.changed.delete(option.key);
                else this.changed.set(option.key, value);
                this.mark();
            };
            input.addEventListener("input", read);
            input.addEventListener("change", read);
            const reset = make("button", { type: "button", class: "easel-reset", title: t("Put back: {value}", { value: this.words(option.default) }),
                "aria-label": t("Put {name} back to {value}", { name: t(option.label), value: this.words(option.default) }) }, "↺");
            reset.onclick = () => {
                this.write(option, input, option.default);
                read();
            };
            const row = make("div", { class: "easel-option" },
                make("label", { for: input.id }, option.label), input, reset,
                ...(option.hint ? [make("small", {}, option.hint)] : []));
            row.dataset.words = `${option.label} ${option.hint} ${option.key} ${t(option.label)} ${t(option.hint)}`.toLowerCase();
            this.write(option, input, option.value);
            this.rows.set(option.key, row);
            return row;
        },
        input({ value, default: usual, choices, ge, le, step }) {
            if (Array.isArray(usual)) return make("select", { multiple: "", size: String(Math.min(6, choices.length)) }, ...choices.map((choice) => make("option", { value: String(choice) }, String(choice))));
            if (choices.length) return make("select", {}, ...choices.map((choice) => make("option", { value: String(choice) }, String(choice))));
            if (typeof usual === "boolean") return make("input", { type: "checkbox" });
            if (typeof usual === "number") {
                const limits = { type: "number", step: String(step ?? "any"), ...(ge == null ? {} : { min: ge }), ...(le == null ? {} : { max: le }) };
                return make("input", limits);
            }
            return make("input", { type: "text", autocomplete: "off" });
        },
        write(option, input, value) {
            if (input.type === "checkbox") input.checked = value;
            else if (input.multiple) for (const each of input.options) each.selected = value.includes(each.value);
            else input.value = value ?? "";
        },
        valueOf(option, input) {
            if (input.type === "checkbox") return input.checked;
            if (input.multiple) return [...input.selectedOptions].map((each) => each.value);
            if (input.type === "number") return input.value === "" ? option.value : Number(input.value);
            return input.value === "" && option.default === null ? null : input.value;
        },
        words(value) {
            return value === true ? t("on") : value === false ? t("off") : value === "" || value === null ? t("nothing") : String(value);
        },
        mark() {
            for (const [key, row] of this.rows) {
                const option = this.options.get(key), now = this.changed.has(key) ? this.changed.get(key) : option.value;
                row.classList.toggle("pending", this.changed.has(key));
                row.classList.toggle("other", !same(now, option.default));
                $(".easel-reset", row).disabled = same(now, option.default);
            }
            this.apply.disabled = !this.changed.size;
            this.apply.textContent = this.changed.size ? (this.changed.size === 1 ? t("Apply 1 change") : t("Apply {n} changes", { n: this.changed.size })) : t("Apply settings");
        },
        filter() {
            const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
            for (const row of this.rows.values()) row.hidden = !words.every((word) => row.dataset.words.includes(word));
            for (const section of this.list.children) section.hidden = !$(".easel-option:not([hidden])", section);
            this.none.hidden = [...this.list.children].some((section) => !section.hidden) || !this.rows.size;
        },
        async send() {
            try {
                const changed = Object.fromEntries(this.changed);
                this.show(await ask("easel/settings", "POST", changed));
                Object.assign(window.easel.options, changed);
                this.changed.clear();
                this.mark();
                toast(t("Settings applied; they hold for the next job."));
            } catch (error) {
                toast(error.message, "error");
            }
        },
    };

    function look() {
        const root = byId("settings");
        if (!root) return;
        watch.disconnect();
        page.build(root);
    }
    const watch = new MutationObserver(look);
    watch.observe(document.documentElement, { childList: true, subtree: true });
    look();
})();
