// Presets: all that a form holds under a name; a family of models may begin with one. Kept by the server, for all browsers.
"use strict";
(() => {
    const { $, byId, make, t, ask, address, toast, fill } = window.easel.tools;
    const NAMES = { txt2img: "txt2img", img2img: "img2img" };
    const WORDS = ["prompt", "negative_prompt", "styles", "hires.hr_prompt", "hires.hr_negative_prompt"];
    const SEEDS = ["seed", "subseed"];
    const held = (tab) => JSON.parse(localStorage.getItem(`easel.${tab}.draft`) ?? "{}");

    const presets = {
        all: {},         // name → {tab, values, families}
        families: {},    // checkpoint → family
        dialog: null,
        tab: "txt2img",

        build() {
            const button = (text, act, kind = "") => {
                const made = make("button", { type: "button", class: kind }, t(text));
                made.onclick = act;
                return made;
            };
            const check = (id, text, on) => {
                const input = make("input", { type: "checkbox", id });
                input.checked = on;
                return make("label", { class: "easel-preset-with" }, input, make("span", {}, t(text)));
            };
            this.title = make("h2");
            this.list = make("div", { class: "easel-tasks", id: "presets_list" });
            this.name = make("input", { id: "presets_name", autocomplete: "off", placeholder: t("Name"), "aria-label": t("Name of the preset") });
            this.name.onkeydown = (event) => { if (event.key === "Enter") this.save(); };
            this.file = make("input", { type: "file", accept: ".json,application/json", hidden: "", id: "presets_file" });
            this.file.onchange = () => {
                if (this.file.files[0]) this.takeIn(this.file.files[0]);
                this.file.value = "";
            };
            this.dialog = make("dialog", { id: "presets_dialog", class: "easel-dialog easel-presets", "aria-label": t("Presets") },
                this.title, this.list,
                make("div", { class: "easel-dialog-row" }, this.name, button("Save", () => this.save(), "primary")),
                make("div", { class: "easel-preset-withs" }, check("presets_words", "Prompts and styles too", true),
                    check("presets_seeds", "Seeds too", false), check("presets_model", "Checkpoint too", false)),
                make("div", { class: "easel-dialog-row" }, button("Import…", () => this.file.click()), button("Export all", () => this.giveOut()),
                    this.file, make("span"), button("Close", () => this.dialog.close())));
            this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
            document.body.append(this.dialog);
        },
        async load() {
            const told = await ask("easel/presets");
            [this.all, this.families] = [told.presets, told.families];
            return told;
        },
        async open(tab) {
            if (!this.dialog) this.build();
            this.tab = tab;
            this.title.textContent = t("Presets of {tab}", { tab: NAMES[tab] });
            this.dialog.showModal();
            await this.load().catch((error) => toast(error.message, "error"));
            this.draw();
        },
        family(tab = this.tab) { return this.families[held(tab).checkpoint] ?? ""; },
        draw() {
            const family = this.family();
            const own = Object.entries(this.all).filter(([, preset]) => preset.tab === this.tab);
            this.list.replaceChildren(...own.length ? own.map(([name, preset]) => this.row(name, preset, family))
                : [make("p", { class: "easel-dialog-hint" }, t("No preset yet. A preset is all that stands in the form, under a name."))]);
        },
        row(name, preset, family) {
            const button = (text, title, act) => {
                const made = make("button", { type: "button", title, "aria-label": title }, text);
                made.onclick = () => act().catch((error) => toast(error.message, "error"));
                return made;
            };
            const begins = preset.families.includes(family);
            const star = button(begins ? "★" : "☆", begins ? t("No longer what {family} begins with", { family })
                : t("Begin with it whenever a checkpoint of the family {family} is chosen", { family }), async () => {
                const families = begins ? preset.families.filter((one) => one !== family) : [...preset.families, family];
                await this.put({ [name]: { ...preset, families } });
            });
            star.setAttribute("aria-pressed", String(begins));
            star.disabled = !family;
            const rest = preset.families.filter(Boolean).join(", ");
            return make("div", { class: "easel-task easel-preset" },
                make("span", {}, make("strong", {}, name), ...rest ? [make("small", {}, ` ${t("default of {families}", { families: rest })}`)] : []),
                make("span", { class: "easel-preset-acts" },
                    button(t("Apply"), t("Put {name} into the form", { name }), async () => { await this.apply(this.tab, name); this.dialog.close(); }),
                    star,
                    button("⤓", t("Export {name} as a file", { name }), async () => this.giveOut(name)),
                    button("×", t("Delete {name}", { name }), async () => {
                        await ask("easel/presets/delete", "POST", { name });
                        toast(t("{name} is deleted.", { name }), "note", { [t("Take back")]: () => this.put({ [name]: preset }) });
                        await this.load();
                        this.draw();
                    })));
        },
        async put(presets) {
            await ask("easel/presets", "POST", { presets });
            await this.load();
            if (this.dialog) this.draw();
        },
        async save() {
            const name = this.name.value.trim(), values = held(this.tab);
            const without = [...byId("presets_words").checked ? [] : WORDS, ...byId("presets_seeds").checked ? [] : SEEDS,
                ...byId("presets_model").checked ? [] : ["checkpoint"], "followed"];
            for (const path of without) delete values[path];
            try {
                const before = this.all[name];
                await this.put({ [name]: { tab: this.tab, values, families: before?.tab === this.tab ? before.families : [] } });
                this.name.value = "";
                toast(before ? t("{name} is changed.", { name }) : t("{name} is saved.", { name }));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        async apply(tab, name, without = []) {
            const before = held(tab), values = { ...this.all[name].values };
            for (const path of without) delete values[path];
            await fill(tab, values);
            return before;
        },
        giveOut(name) {
            const given = name ? { [name]: this.all[name] } : Object.fromEntries(Object.entries(this.all).filter(([, { tab }]) => tab === this.tab));
            const link = make("a", { download: `${name ? name.replace(/[^\w .-]/g, "_") : `presets-${this.tab}`}.json` });
            link.href = URL.createObjectURL(new Blob([JSON.stringify(given, null, 4)], { type: "application/json" }));
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
        },
        async takeIn(file) {
            try {
                const answer = await fetch(address("easel/presets/import"), { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
                const told = await answer.json();
                if (!answer.ok) throw new Error(told.message);
                await this.load();
                this.draw();
                toast(told.names.length === 1 ? t("1 preset was read.") : t("{n} presets were read.", { n: told.names.length }));
            } catch (error) {
                toast(error.message, "error");
            }
        },
    };
    window.easel.openPresets = (tab) => presets.open(tab);
    window.easel.presets = presets;

    // ---- families ----

    const last = {};  // tab → family of the checkpoint before
    document.addEventListener("easel:form", async ({ detail: { tab, checkpoint } }) => {
        if (!(tab in NAMES) || !checkpoint) return;
        if (!(checkpoint in presets.families)) {
            if (presets.asked === checkpoint) return;
            presets.asked = checkpoint;
            await presets.load().catch(() => {});
        }
        const family = presets.families[checkpoint] ?? "";
        document.body.dataset.family = family;
        const before = last[tab];
        last[tab] = family;
        if (before === undefined || before === family) return;
        const name = Object.keys(presets.all).find((one) => presets.all[one].tab === tab && presets.all[one].families.includes(family));
        if (!name) return;
        const form = await presets.apply(tab, name, [...WORDS, ...SEEDS, "checkpoint"]);
        for (const path of ["checkpoint", "followed"]) delete form[path];
        toast(t("{name} is in the form, the default of {family}.", { name, family }), "note", { [t("Take back")]: () => fill(tab, form) });
    });
})();
