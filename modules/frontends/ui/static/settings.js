// The Settings tab: all options from one list of the server; search, apply what was changed, put one back.
"use strict";
(() => {
    const { $, byId, make, ask, toast, TABS, t } = window.easel.tools;

    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

    const page = {
        options: new Map(),  // key → option, as the server has it
        changed: new Map(),  // key → value not applied yet
        rows: new Map(),
        sending: false,

        async build(root) {
            this.root = root;
            this.search = make("input", { type: "search", id: "settings_search", placeholder: t("Search settings"), "aria-label": t("Search settings") });
            this.search.oninput = () => this.filter();
            this.apply = make("button", { type: "button", id: "settings_submit", class: "easel-apply" }, t("Apply settings"));
            this.apply.onclick = () => this.send();
            this.list = make("div", { class: "easel-options" });
            this.none = make("p", { class: "easel-told-size", hidden: "" }, t("No setting has that word in it."));
            this.nav = make("nav", { class: "easel-settings-nav", "aria-label": t("Sections of the settings") });
            this.after = make("div", {});
            root.replaceChildren(make("div", { class: "easel-settings-bar" }, this.search, this.apply), this.nav, this.none, this.list, this.after);
            try {
                this.show(await ask("easel/settings"));
                this.further();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        show(sections) {
            this.sections = sections;
            this.rows.clear();
            const focused = this.list.contains(document.activeElement) ? document.activeElement.id : "";
            this.list.replaceChildren(...sections.map(({ name, about, options }) => {
                for (const option of options) this.options.set(option.key, option);
                return make("section", { "aria-label": t(name[0].toUpperCase() + name.slice(1)) }, make("h2", {}, name[0].toUpperCase() + name.slice(1)), make("p", {}, about),
                    ...options.map((option) => this.row(option)));
            }));
            this.mark();
            this.index();
            this.filter();
            if (focused) byId(focused)?.focus({ preventScroll: true });
        },
        /** The names of all sections, to go to one. */
        index() {
            this.nav.replaceChildren(...[...this.list.children, ...this.after.children].map((section) => {
                const made = make("button", { type: "button" }, section.getAttribute("aria-label"));
                made.section = section;
                made.onclick = () => {
                    section.scrollIntoView();
                    $("input, select, button", section)?.focus({ preventScroll: true });
                };
                return made;
            }));
        },
        /** What is no option: what the forms begin with, and leave to send notes. */
        async further() {
            const button = (text, act) => {
                const made = make("button", { type: "button", class: "easel-brush" }, t(text));
                made.onclick = () => act().catch((error) => toast(error.message, "error"));
                return made;
            };
            const list = make("ul", { class: "easel-defaults", id: "settings_defaults" });
            const draw = (changed) => list.replaceChildren(...changed.length ? changed.map(({ tab, label, value, usual }) =>
                make("li", {}, `${tab} · ${t(label)}: `, make("strong", {}, this.words(value)), ` (${t("usually {value}", { value: this.words(usual) })})`))
                : [make("li", {}, t("Every control begins with Easel's own default."))]);
            const keep = button("Begin with what the forms hold now", async () => {
                const drafts = {};
                for (const tab of TABS) drafts[tab] = JSON.parse(localStorage.getItem(`easel.${tab}.draft`) ?? "{}");
                draw(await ask("easel/defaults", "POST", { drafts }));
                toast(t("Written to ui-config.json; a new page begins so."));
            });
            keep.id = "settings_keep_defaults";
            const notes = button("Let this browser show notes of finished jobs", async () => {
                toast(await window.easel.allowNotes() ? t("Finished jobs are told while another window is in front.")
                    : t("The browser does not allow it for this page."), "note");
            });
            const section = (name, about, ...rest) => make("section", { "aria-label": name }, make("h2", {}, name), make("p", {}, about), ...rest);
            this.after.replaceChildren(
                section(t("Defaults"), t("What the forms of txt2img and img2img begin with (ui-config.json)."), list, keep),
                section(t("Actions"), t("What is done at once."), notes),
                section(t("Sysinfo"), t("What a report of a problem needs to tell of this machine: no passwords, folders or prompts."),
                    make("a", { href: "internal/sysinfo-download", download: "", id: "sysinfo_download" }, t("Download system info"))));
            this.index();
            this.filter();
            draw(await ask("easel/defaults"));
        },
        row(option) {
            const input = this.input(option);
            // An option in the bar above has its A1111 id there.
            input.id = document.querySelector(`#quicksettings_more [id="setting_${option.key}"]`) ? `settings_tab_${option.key}` : `setting_${option.key}`;
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
                ...(option.hint || option.readers.length ? [make("small", {}, make("span", {}, t(option.hint)), " ",
                    ...option.readers.length ? [make("span", {}, t("Read by {names}.", { names: option.readers.join(", ") }))] : [])] : []));
            if (option.disabled) {
                for (const field of [input, ...input.querySelectorAll("input, select, button")]) field.disabled = true;
                reset.hidden = true;
                row.title = t(option.disabled);
            }
            row.dataset.words = `${option.label} ${option.hint} ${option.key} ${t(option.label)} ${t(option.hint)}`.toLowerCase();
            this.write(option, input, this.changed.has(option.key) ? this.changed.get(option.key) : option.value);
            this.rows.set(option.key, row);
            return row;
        },
        input({ value, default: usual, choices, ge, le, step }) {
            if (Array.isArray(usual) && choices.length > 6) return chips(choices);
            if (Array.isArray(usual) && !choices.length) return make("input", { type: "text", autocomplete: "off", "data-list": "", placeholder: t("Names, with commas between") });
            if (Array.isArray(usual)) return make("select", { multiple: "", size: String(Math.min(6, choices.length)) }, ...choices.map((choice) => make("option", { value: String(choice) }, String(choice))));
            if (choices.length) return make("select", {}, ...choices.map((choice) => make("option", { value: String(choice) }, String(choice))));
            if (typeof usual === "boolean") return make("input", { type: "checkbox" });
            if (typeof usual === "number") {
                const limits = { type: "number", step: String(step ?? "any"), ...(ge == null ? {} : { min: ge }), ...(le == null ? {} : { max: le }) };
                return make("input", limits);
            }
            if (/^#[0-9a-f]{6}$/i.test(usual)) return make("input", { type: "color" });
            return make("input", { type: "text", autocomplete: "off" });
        },
        write(option, input, value) {
            if (input.type === "checkbox") input.checked = value;
            else if (input.chosen) input.put(value);
            else if (input.dataset.list === "") input.value = value.join(", ");
            else if (input.multiple) for (const each of input.options) each.selected = value.includes(each.value);
            else input.value = value ?? (input.tagName === "SELECT" ? "None" : "");
        },
        valueOf(option, input) {
            if (input.type === "checkbox") return input.checked;
            if (input.chosen) return [...input.chosen];
            if (input.dataset.list === "") return input.value.split(",").map((name) => name.trim()).filter(Boolean);
            if (input.type === "color") return input.value;
            if (input.multiple) return [...input.selectedOptions].map((each) => each.value);
            if (input.type === "number") return input.value === "" ? option.value : Number(input.value);
            if (option.default === null && (input.value === "" || input.value === "None")) return null;
            return input.value;
        },
        words(value) {
            const text = String(value ?? "");
            return value === true ? t("on") : value === false ? t("off") : text === "" ? t("nothing") : text.trim() ? text : text.replaceAll(" ", "␣");
        },
        mark() {
            for (const [key, row] of this.rows) {
                const option = this.options.get(key), now = this.changed.has(key) ? this.changed.get(key) : option.value;
                row.classList.toggle("pending", this.changed.has(key));
                row.classList.toggle("other", !same(now, option.default));
                $(".easel-reset", row).disabled = same(now, option.default);
            }
            this.apply.disabled = this.sending || !this.changed.size;
            this.apply.textContent = this.changed.size ? (this.changed.size === 1 ? t("Apply 1 change") : t("Apply {n} changes", { n: this.changed.size })) : t("Apply settings");
        },
        filter() {
            const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
            for (const row of this.rows.values()) row.hidden = !words.every((word) => row.dataset.words.includes(word));
            for (const section of this.list.children) section.hidden = !$(".easel-option:not([hidden])", section);
            for (const made of this.nav.children) made.hidden = made.section.hidden;
            this.none.hidden = [...this.list.children].some((section) => !section.hidden) || !this.rows.size;
        },
        async send() {
            const changed = Object.fromEntries(this.changed);
            this.sending = true;
            this.mark();
            try {
                const sections = await ask("easel/settings", "POST", changed);
                // What was changed while the server thought stays to be applied.
                for (const [key, value] of Object.entries(changed)) if (same(this.changed.get(key), value)) this.changed.delete(key);
                this.show(sections);
                Object.assign(window.easel.options, changed);
                document.dispatchEvent(new CustomEvent("easel:settings", { detail: changed }));
                toast(t("Settings applied; they hold for the next job."));
            } catch (error) {
                toast(error.message, "error");
            } finally {
                this.sending = false;
                this.mark();
            }
        },
    };

    /** Several of a long list, in their order: each can be taken out, one more put in. */
    function chips(choices) {
        const root = make("div", { class: "easel-chips", role: "group", translate: "no" });
        root.chosen = [];
        root.put = (chosen) => {
            root.chosen = [...chosen];
            const more = make("select", { "aria-label": t("Add") }, make("option", { value: "" }, t("Add…")),
                ...choices.filter((choice) => !root.chosen.includes(choice)).map((choice) => make("option", { value: choice }, choice)));
            more.onchange = (event) => {
                event.stopPropagation();
                root.put([...root.chosen, more.value]);
                root.dispatchEvent(new Event("change"));
            };
            root.replaceChildren(...root.chosen.map((choice) => {
                const out = make("button", { type: "button", "aria-label": t("Take {name} out", { name: choice }) }, `${choice} ×`);
                out.onclick = () => {
                    root.put(root.chosen.filter((other) => other !== choice));
                    root.dispatchEvent(new Event("change"));
                };
                return out;
            }), more);
        };
        return root;
    }

    // ---- the bar above the tabs ----

    const CHECKPOINT = "sd_model_checkpoint";  // has a control of its own there
    const bar = {
        options: new Map(),
        async build(root) {
            const wanted = window.easel.options.quicksettings_list ?? [CHECKPOINT];
            byId("quicksettings").classList.toggle("easel-no-checkpoint", !wanted.includes(CHECKPOINT));
            const keys = wanted.filter((key) => key !== CHECKPOINT);
            if (!keys.length) return;
            const sections = await ask("easel/settings").catch(() => []);
            const known = new Map(sections.flatMap(({ options }) => options).map((option) => [option.key, option]));
            root.replaceChildren(...keys.filter((key) => known.has(key)).map((key) => {
                const option = known.get(key), input = page.input(option);
                input.id = `setting_${key}`;
                input.title = t(option.hint);
                page.write(option, input, option.value);
                input.addEventListener("change", () => this.change(option, input));
                this.options.set(key, [option, input]);
                return make("label", { class: "easel-quick" }, make("span", {}, t(option.label)), input);
            }));
        },
        async change(option, input) {
            const value = page.valueOf(option, input);
            try {
                const sections = await ask("easel/settings", "POST", { [option.key]: value });
                option.value = value;
                window.easel.options[option.key] = value;
                if (page.root) page.show(sections);
            } catch (error) {
                page.write(option, input, option.value);
                toast(error.message, "error");
            }
        },
    };
    document.addEventListener("easel:settings", ({ detail }) => {
        for (const [key, [option, input]] of bar.options) {
            if (!(key in detail)) continue;
            option.value = detail[key];
            page.write(option, input, detail[key]);
        }
    });
    window.easel.whenThere(["quicksettings_more"], (root) => bar.build(root));

    /** Tabs that the owner does not want to see, by id or name; the settings stay, or they could never come back. */
    function hideTabs() {
        const hidden = new Set((window.easel.options.hidden_tabs ?? []).map((name) => name.toLowerCase()));
        if (!hidden.size) return;
        const tabs = Object.values(window.gradio_config?.components ?? {}).filter(({ type }) => type === "tabitem").map(({ props }) => props);
        const rules = tabs.filter(({ id, label }) => id !== "settings" && (hidden.has(String(id).toLowerCase()) || hidden.has(label.toLowerCase())))
            .map(({ elem_id }) => `#${elem_id}-button { display: none; }`);
        document.head.append(make("style", {}, rules.join(" ")));
    }
    window.easel.whenThere(["tabs"], hideTabs);

    // ---- what a sampler does not read ----

    document.addEventListener("easel:form", ({ detail: { tab, sampler } }) => {
        const schedule = byId(`${tab}_scheduler`), reads = window.easel.schedules?.[sampler] !== false;
        if (!schedule) return;
        schedule.inert = !reads;
        schedule.parentElement.title = reads ? "" : t("{sampler} has a schedule of its own.", { sampler });
    });

    window.easel.whenThere(["settings"], (root) => page.build(root));
    // Extensions were switched: theirs come or go.
    document.addEventListener("easel:extensions", async () => {
        if (page.root) page.show(await ask("easel/settings").catch(() => [...page.sections]));
    });
})();
