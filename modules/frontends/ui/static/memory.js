// Memory: a line below Generate says what the form would take; a click on it, what is held now, and frees it.
"use strict";
(() => {
    const { byId, make, t, ask, toast, TABS } = window.easel.tools;
    const ASK_AFTER = 300, LOOK_AGAIN = 1500, TRY_AGAIN = 3000;  // milliseconds

    const size = (bytes) => bytes >= 1e8 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
    const amount = (bytes) => (bytes / 1e9).toFixed(bytes < 1e10 ? 1 : 0);

    function lineOf(tab) {
        const line = {
            asked: null,
            waiting: null,
            told: null,

            form(values) {
                const key = JSON.stringify({ ...values, prompt: "", negative_prompt: "", seed: 0 });
                if (key === this.asked) return;
                this.asked = key;
                this.values = values;
                this.later(ASK_AFTER);
            },
            later(ms) {
                clearTimeout(this.waiting);
                this.waiting = setTimeout(() => this.ask(), ms);
            },
            async ask() {
                const key = this.asked, { checkpoint, tab: _, followed: __, ...form } = this.values;
                try {
                    const told = await ask("easel/memory", "POST", { tab, checkpoint: checkpoint || null, form });
                    if (this.asked !== key) return;
                    this.show(told);
                    if (!told) this.later(TRY_AGAIN);  // the engine is still starting
                } catch {
                    if (this.asked === key) this.show(null);  // what is wrong with the form, Generate says
                }
            },
            show(told) {
                const place = byId(`${tab}_memory`);
                if (!place) return;
                place.classList.add("easel-memory");
                this.told = told;
                if (!told) return place.replaceChildren();
                const values = { need: amount(told.peak), total: amount(told.total) };
                const text = !told.fits ? t("Needs about {need} GB of memory, there are {total}", values)
                    : told.measured ? t("{need} of {total} GB of memory", values)
                    : t("About {need} of {total} GB of memory", values);
                const more = [
                    told.placement === "streamed" && t("weights streamed"), told.placement === "parked" && t("weights parked"),
                    told.tiled && t("VAE in tiles"), told.split && t("one prompt at a time"),
                ].filter(Boolean);
                const button = make("button", { type: "button", title: t("What is held now") }, [text, ...more].join(" · "));
                button.classList.toggle("over", !told.fits);
                button.onclick = () => dialog.open(told);
                place.replaceChildren(button);
            },
        };
        return line;
    }

    const lines = Object.fromEntries(TABS.map((tab) => [tab, lineOf(tab)]));
    document.addEventListener("easel:form", (event) => lines[event.detail.tab]?.form(event.detail));

    const dialog = {
        build() {
            const button = (text, act, kind = "") => {
                const made = make("button", { type: "button", class: kind }, text);
                made.onclick = act;
                return made;
            };
            this.table = make("table", { class: "easel-memory-table" });
            this.note = make("p", { class: "easel-dialog-note", role: "status" });
            this.box = make("dialog", { id: "easel_memory", class: "easel-dialog", "aria-label": t("Memory") },
                make("h2", {}, t("Memory")), this.table, this.note,
                make("div", { class: "easel-dialog-row" },
                    button(t("Free memory"), () => this.free()), make("span"), button(t("Close"), () => this.box.close(), "primary")));
            this.box.addEventListener("click", (event) => { if (event.target === this.box) this.box.close(); });
            document.body.append(this.box);
        },
        async open(told) {
            if (!this.box) this.build();
            this.told = told;
            this.note.textContent = "";
            await this.look();
            this.box.showModal();
            this.again();
        },
        again() {
            setTimeout(async () => {
                if (!this.box.open) return;
                await this.look();
                this.again();
            }, LOOK_AGAIN);
        },
        async look() {
            try {
                this.show(await ask("memory"));
            } catch (error) {
                this.note.textContent = error.message;
            }
        },
        show(now) {
            const places = [["RAM", now.ram], ...(now.vram ? [[now.device_name, now.vram]] : [])];
            const row = (name, cells) => make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", {}, cell)));
            const held = (name) => places.map(([, place]) => size(place[name]));
            const needed = this.told && (now.vram ? ["", size(this.told.peak)] : [size(this.told.peak)]);
            this.table.replaceChildren(
                make("thead", {}, make("tr", {}, make("th"), ...places.map(([name]) => make("th", { scope: "col" }, name)))),
                make("tbody", {},
                    row(t("Weights"), held("weights")), row(t("Activations"), held("activations")), row(t("Cache"), held("cache")),
                    row(t("Easel altogether"), held("used")), row(t("Free"), held("free")), row(t("Total"), held("total")),
                    ...(needed ? [row(t("This picture would take"), needed)] : [])));
            this.note.textContent = now.checkpoint ? t("Loaded: {name}", { name: now.checkpoint }) : t("No model is loaded.");
        },
        async free() {
            try {
                await ask("memory/free", "POST");
                toast(t("The model is let go of as soon as nothing is drawn with it; the next picture loads it again."));
                await this.look();
            } catch (error) {
                toast(error.message, "error");
            }
        },
    };
})();
