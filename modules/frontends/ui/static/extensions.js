// Extensions: their sections in the forms, and the tab that switches them; all of it from lists of the server.
"use strict";
(() => {
    const { byId, make, t, ask, toast, pause, TABS } = window.easel.tools;
    const { controls } = window.easel;
    const store = (tab) => `easel.${tab}.sections`;

    class Sections {
        constructor(tab) {
            this.tab = tab;
            this.form = null;
            this.values = {};  // of every control that was touched, by key
            this.seen = "";  // what was pasted last, so that a reload does not paste it again
            try {
                const kept = JSON.parse(localStorage.getItem(store(tab)) || "{}");
                if (kept.values && typeof kept.values === "object") this.values = kept.values;
                if (typeof kept.seen === "string") this.seen = kept.seen;
            } catch { /* a broken memory is none */ }
        }
        keep() {
            if (this.form) this.values = { ...this.values, ...this.form.flat() };
            try {
                localStorage.setItem(store(this.tab), JSON.stringify({ values: this.values, seen: this.seen }));
            } catch { /* no room: it is forgotten with the page */ }
        }
        mount(root) {
            this.root = root;
            this.load();
        }
        async load() {
            if (!this.root) return;  // its tab was not opened yet
            let parts;
            try {
                parts = await ask(`easel/sections/${this.tab}`);
            } catch (error) {
                toast(error.message, "error");
                return;
            }
            this.form = controls.form(parts, `${this.tab}_ext`);
            this.form.set(this.values);
            this.form.onchange = () => this.keep();
            this.root.replaceChildren(...parts.length ? [this.form.element] : []);
        }
        /** What goes along with Generate. */
        text() {
            const on = Object.entries(this.form?.get() ?? {}).filter(([, own]) => own);
            return on.length ? JSON.stringify({ sections: Object.fromEntries(on) }) : "";
        }
        /** What a pasted infotext tells: sections that are on; all others are off. */
        paste(text) {
            if (text === this.seen) return;
            const { sections } = JSON.parse(text);
            for (const key of [...Object.keys(this.values), ...(this.form?.keys() ?? [])]) {
                if (typeof this.values[key] === "boolean" && !key.includes(".")) this.values[key] = false;
            }
            for (const [key, own] of Object.entries(sections)) {
                this.values[key] = true;
                for (const [name, value] of Object.entries(own)) this.values[`${key}.${name}`] = value;
            }
            this.seen = text;
            this.form?.set(this.values);
            this.keep();
        }
    }

    const forms = new Map(TABS.map((tab) => [tab, new Sections(tab)]));
    /** The values of a form with what its sections hold put in at that place. */
    window.easel.withSections = (tab, values, place) => values.map((value, k) => (k === place ? forms.get(tab).text() : value));
    // What is pasted into a form comes through its hidden field, and with it every other change of the form.
    const keep = window.easel.keep;
    window.easel.keep = (tab, names, values) => {
        const text = values[names.indexOf("extensions")];
        if (text) {
            try {
                forms.get(tab).paste(text);
            } catch { /* not ours */ }
        }
        keep.call(window.easel, tab, names, values);
    };
    for (const tab of TABS) window.easel.whenThere([`${tab}_extension_sections`], (root) => forms.get(tab).mount(root));

    // ---- the tab ----

    const POLLS = 20;
    const page = {
        async build(root) {
            this.list = make("ul", { class: "easel-extensions", id: "extensions_installed" });
            this.apply = make("button", { type: "button", id: "extensions_apply", class: "easel-apply" }, t("Apply"));
            this.apply.onclick = () => this.send();
            this.disabled = make("select", { id: "extensions_disable_all", "aria-label": t("Disable all extensions") },
                ...["none", "extra", "all"].map((value) => make("option", { value, translate: "no" }, value)));
            this.bar = make("div", { class: "easel-extensions-bar" }, this.apply,
                make("label", { class: "easel-field" }, make("span", { class: "easel-field-name" }, t("Disable all extensions")), this.disabled));
            this.why = make("p", { class: "easel-why", id: "extensions_why", role: "status" });
            root.replaceChildren(this.bar, this.why, this.list);
            await this.load();
        },
        async load() {
            try {
                this.show(await ask("easel/extensions"));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        show(listing) {
            const { rows, frozen, disabled, flag } = listing;
            this.listing = listing;
            this.disabled.value = disabled;
            this.apply.disabled = this.disabled.disabled = Boolean(frozen) || flag;
            this.why.textContent = flag ? t("Extensions are disabled: Easel was started with --disable-all-extensions or --disable-extra-extensions.")
                : frozen ? t(frozen) : disabled !== "none" ? t("None of them takes part: all are disabled.") : "";
            this.list.replaceChildren(...rows.length ? rows.map((row) => this.row(row))
                : [make("li", { class: "easel-extensions-none" }, make("p", {}, t("There is no extension yet.")), make("small", {}, t("Put its folder into the folder extensions and come back.")))]);
        },
        row(row) {
            const locked = this.apply.disabled || !row.possible;
            const box = make("input", { type: "checkbox", id: `extension_${row.key}`, "data-key": row.key });
            box.checked = row.on;
            box.disabled = locked;
            const head = make("label", { class: "easel-extension-head", for: box.id }, box, make("strong", { translate: "no" }, row.name),
                make("span", { class: "easel-extension-version", translate: "no" }, row.version), make("span", { class: "easel-extension-state" }, this.state(row)));
            const lines = [];
            const line = (kind, ...parts) => lines.push(make("p", { class: `easel-extension-${kind}` }, ...parts));
            if (row.description) line("about", make("span", { translate: "no" }, row.description));
            if (row.author) line("about", t("By {name}", { name: row.author }));
            if (row.possible) {
                line("needs", t("It says that it needs:"), " ", ...row.needs.length ? row.needs.map(({ name, about, new: fresh }) =>
                    make("span", { class: `easel-extension-need${fresh && !row.on ? " new" : ""}`, title: name }, t(about))) : [make("span", {}, t("nothing besides drawing"))]);
            }
            if (row.brings.length) line("about", t("Brings {data}.", { data: row.brings.map((word) => t(word)).join(", ") }));
            for (const text of [row.problem, row.failed]) if (text) line("problem", make("span", { translate: "no" }, text));
            if (row.note) line("about", t(row.note));
            const shown = Boolean(byId(`tab_ext-${row.key}`) ?? byId(`tab_ext-${row.key}-button`));
            if (row.tab && row.on !== shown) line("about", row.on ? t("Its tab is there once Easel is started anew.") : t("Its tab goes once Easel is started anew."));
            const asked = make("p", { class: "easel-extension-asked", hidden: "" }, t("Its code will run as you do, and nothing keeps it from more than it says. Switch on only what you trust; Apply agrees."));
            box.onchange = () => { asked.hidden = !box.checked || row.on; };
            return make("li", { "data-key": row.key, class: row.on ? "on" : "" }, head, ...lines, asked);
        },
        state(row) {
            if (row.problem || row.failed) return t("failed");
            if (row.on) return t("on");
            return row.possible ? t("off") : row.brings.length ? t("data only") : t("not run");
        },
        async send() {
            const needs = new Map(this.listing.rows.map((row) => [row.key, row.needs.map(({ name }) => name)]));
            const chosen = [...this.list.querySelectorAll("input:checked")].map((box) => box.dataset.key);
            this.apply.disabled = true;
            try {
                const on = Object.fromEntries(chosen.map((key) => [key, needs.get(key)]));
                this.show(await ask("easel/extensions", "POST", { on, disabled: this.disabled.value }));
                toast(t("Done. The next picture is drawn with these."));
                for (const form of forms.values()) await form.load();
                document.dispatchEvent(new CustomEvent("easel:extensions"));
                this.watch();
            } catch (error) {
                this.apply.disabled = false;
                toast(error.message, "error");
            }
        },
        /** What the drawing process could not load is known once it has begun anew. */
        async watch() {
            const round = this.round = {};
            for (let k = 0; k < POLLS && this.round === round; k++) {
                await pause(1000);
                const touched = [...this.list.querySelectorAll("input")].some((box) => box.checked !== this.listing.rows.find(({ key }) => key === box.dataset.key).on);
                if (touched || this.round !== round || this.list.offsetParent === null) return;
                const listing = await ask("easel/extensions").catch(() => null);
                if (listing && JSON.stringify(listing) !== JSON.stringify(this.listing)) this.show(listing);
            }
        },
    };
    window.easel.whenThere(["extensions_page"], (root) => page.build(root));
})();
