// Extra networks: LoRA and kin, embeddings and hypernetworks as cards; a click puts one into the prompt, or takes it out.
"use strict";
(() => {
    const { $, byId, make, ask, address, toast, write, t } = window.easel.tools;
    const KINDS = [
        ["lora", "Lora", (name) => `<lora:${name}:1>`],
        ["embedding", "Textual Inversion", (name) => name],
        ["hypernetwork", "Hypernetworks", (name) => `<hypernet:${name}:1>`],
    ];
    const AT_MOST = 200;  // cards drawn at once; the search finds the others

    const browser = {
        dialog: null,
        tab: "txt2img",
        kind: "lora",
        models: [],

        build() {
            this.tabs = KINDS.map(([kind, name]) => {
                const tab = make("button", { type: "button", role: "tab", "data-kind": kind }, name);
                tab.onclick = () => this.choose(kind);
                return tab;
            });
            this.search = make("input", { type: "search", id: "extra_networks_search", placeholder: t("Search"), "aria-label": t("Search networks") });
            this.search.oninput = () => this.draw();
            this.cards = make("div", { class: "easel-cards", role: "group", "aria-label": "Networks" });
            this.note = make("p", { class: "easel-dialog-note", role: "status" });
            const button = (text, act) => {
                const made = make("button", { type: "button" }, text);
                made.onclick = act;
                return made;
            };
            this.dialog = make("dialog", { id: "extra_networks", class: "easel-dialog wide", "aria-label": "Extra networks" },
                make("div", { class: "easel-kinds", role: "tablist", "aria-label": "Kind" }, ...this.tabs),
                this.search, this.cards, this.note,
                make("div", { class: "easel-dialog-row" }, button("Reload", () => this.load()), make("span"), button("Close", () => this.dialog.close())));
            this.dialog.addEventListener("click", (event) => {
                if (event.target === this.dialog) this.dialog.close();
            });
            document.body.append(this.dialog);
        },
        async open(tab) {
            if (!this.dialog) this.build();
            this.tab = tab;
            this.dialog.showModal();
            this.choose(this.kind);
            await this.load();
        },
        async load() {
            try {
                this.models = (await ask("models")).filter((model) => KINDS.some(([kind]) => kind === model.kind));
                this.models.sort((a, b) => a.name.localeCompare(b.name));
            } catch (error) {
                toast(error.message, "error");
            }
            this.draw();
        },
        choose(kind) {
            this.kind = kind;
            for (const tab of this.tabs) tab.setAttribute("aria-selected", String(tab.dataset.kind === kind));
            this.draw();
        },
        draw() {
            const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
            const found = this.models.filter((model) => model.kind === this.kind
                && words.every((word) => `${model.path} ${model.description}`.toLowerCase().includes(word)));
            this.cards.replaceChildren(...found.slice(0, AT_MOST).map((model) => this.card(model)));
            const [, name] = KINDS.find(([kind]) => kind === this.kind);
            this.note.textContent = found.length > AT_MOST ? t("{n} of {count} are shown; search for the others.", { n: AT_MOST, count: found.length })
                : found.length ? "" : words.length ? t("Nothing is called that.") : t("No files of the kind {name} were found; put some into their folder and press Reload.", { name });
        },
        textOf(model) {
            const name = model.name.split(/[\\/]/).pop();
            return KINDS.find(([kind]) => kind === model.kind)[2](name);
        },
        card(model) {
            const text = this.textOf(model);
            const about = [model.family, model.problem ?? model.description].filter(Boolean).join(" · ");
            const card = make("button", { type: "button", class: "easel-card", title: model.problem ?? model.path },
                make("strong", { translate: "no" }, model.name), make("small", { translate: "no" }, about));
            if (model.preview) {
                const image = make("img", { loading: "lazy", alt: "" });
                image.src = address(`models/preview?path=${encodeURIComponent(model.path)}`);
                card.prepend(image);
            }
            const mark = () => card.setAttribute("aria-pressed", String(this.box().value.includes(text)));
            card.disabled = Boolean(model.problem);
            card.onclick = () => {
                this.toggle(text);
                mark();
            };
            mark();
            return card;
        },
        box() { return $(`#${this.tab}_prompt textarea`); },
        toggle(text) {
            const box = this.box(), now = box.value;
            const joined = now.trimEnd() ? `${now.trimEnd()}${text.startsWith("<") ? " " : ", "}${text}` : text;
            const without = now.split(`, ${text}`).join("").split(` ${text}`).join("").split(text).join("");
            write(box, now.includes(text) ? without : joined);
        },
    };
    window.easel.openNetworks = (tab) => browser.open(tab);

    /** A name for its button, where there is one. */
    document.addEventListener("easel:mounted", (event) => name(event.detail));
    function name(tab) {
        const button = byId(`${tab}_extra_networks`);
        if (!button) return;
        button.title = t("Extra networks: LoRA, embeddings, hypernetworks");
        button.setAttribute("aria-label", button.title);
    }
    window.easel.tools.TABS.forEach(name);
})();
