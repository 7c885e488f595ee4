// ControlNet: units of a form, each with a picture and a net; all of it from one list of the server (ui/control.py).
//
// Pictures stay in the browser until Generate is pressed; the rest of the units is kept over a reload.
"use strict";
(() => {
    const { $, byId, make, t, ask, address, toast, dropZone, store, isPicture, TABS } = window.easel.tools;
    const { controls } = window.easel;
    const place = (tab) => `easel.${tab}.controlnet`;
    const UNSET = -1;

    class Unit {
        constructor(units, number, kept) {
            this.units = units;
            this.number = number;
            this.on = kept?.on === true;
            this.values = kept?.values && typeof kept.values === "object" ? { ...kept.values } : {};
            this.blob = null;
        }
        id(name) { return `${this.units.tab}_controlnet_${this.number}_${name}`; }
        get(name) { return this.values[name] ?? this.units.page.fields.find((field) => field.name === name)?.value ?? UNSET; }
        set(name, value) {
            this.values[name] = value;
            this.units.keep();
        }
        get preprocessor() {
            const all = this.units.page.preprocessors;
            return all.find(({ name }) => name === this.get("module")) ?? all[0];
        }
        /** The picture that its net looks at; in img2img the source stands for one that is left out. */
        picture() { return this.blob ?? (this.units.tab === "img2img" ? window.easel.source?.blob : null) ?? null; }

        build() {
            this.zone = make("div", { id: this.id("image"), class: "easel-drop small", tabindex: "0", role: "button", "aria-label": t("Picture for ControlNet: choose a file") });
            this.zone.addEventListener("paste", (event) => {
                const file = [...(event.clipboardData?.files ?? [])].find(isPicture);
                if (!file) return;
                event.preventDefault();
                event.stopPropagation();
                this.put(file);
            });
            const button = (name, label, act) => {
                const made = make("button", { type: "button", class: "easel-brush", id: this.id(name) }, label);
                made.onclick = act;
                return made;
            };
            this.other = button("other", t("Other picture"), () => this.file.click());
            this.away = button("remove", t("Remove"), () => this.put(null));
            this.run = button("preview", t("Run preprocessor"), () => this.preview());
            this.run.title = t("Shows what the net will look at.");
            this.shown = make("figure", { class: "easel-control-map", hidden: "" });
            const refresh = button("refresh", "🔄", () => this.units.load());
            refresh.className = "easel-icon easel-refresh";
            refresh.title = t("Look through the folder anew");
            refresh.setAttribute("aria-label", refresh.title);
            this.numbers = make("div", { class: "easel-control-numbers" });
            const field = (name) => this.field(this.units.page.fields.find((one) => one.name === name));
            this.enable = controls.of({ label: "Enable", default: false, value: this.on }, this.id("enable"));
            this.enable.onchange = () => {
                this.on = this.enable.get();
                this.units.keep();
            };
            this.element = make("div", { class: "easel-control-unit", role: "tabpanel", id: this.id("unit") },
                this.zone, make("div", { class: "easel-brushes" }, this.other, this.away, this.run), this.shown,
                make("div", { class: "easel-control-switches" }, this.enable.element, field("pixel_perfect")),
                make("div", { class: "easel-pair" }, field("module"), make("div", { class: "easel-control-model" }, field("model"), refresh)),
                field("weight"), field("guidance_start"), field("guidance_end"),
                this.numbers, field("control_mode"), field("resize_mode"), ...(this.units.tab === "txt2img" ? [field("hr_option")] : []));
            this.file = dropZone(this.zone, (file) => this.put(file), { mayOpen: () => !this.blob });
            this.drawNumbers();
            this.showPicture();
            return this.element;
        }
        field(field) {
            const held = this.values[field.name];
            const made = controls.of({
                label: field.label, hint: field.hint, ge: field.ge, le: field.le, step: field.step, default: field.value, value: held === undefined || held === UNSET ? field.value : held,
                choices: field.choices.map(([, choice]) => choice), names: ["control_mode", "resize_mode", "hr_option"].includes(field.name) ? field.choices.map(([name]) => name) : [],
            }, this.id(field.name));
            if (field.name === "module" || field.name === "model") made.element.setAttribute("translate", "no");
            if (field.name === "model") this.offer(made);
            made.onchange = () => {
                this.set(field.name, made.get());
                if (field.name === "module") Object.assign(this.values, { threshold_a: UNSET, threshold_b: UNSET });
                if (["module", "pixel_perfect"].includes(field.name)) this.drawNumbers();
            };
            return made.element;
        }
        /** The models there are; one that is asked for and is not there stays, so that it can be told. */
        offer(made) {
            const { models } = this.units.page, wanted = String(this.get("model"));
            const found = models.find((title) => title === wanted) ?? models.find((title) => sameNet(title, wanted));
            made.choose(found ? models : [...models, wanted]);
            made.set(found ?? wanted);
            if (found) this.values.model = found;
        }
        /** What the preprocessor takes, and nothing else. */
        drawNumbers() {
            const { sized, a, b } = this.preprocessor;
            const parts = [sized && !this.get("pixel_perfect") && this.units.page.fields.find(({ name }) => name === "processor_res"), a, b].filter(Boolean);
            this.numbers.hidden = !parts.length;
            this.numbers.replaceChildren(...parts.map((part) => this.field(part)));
        }
        put(blob) {
            this.blob = blob;
            if (blob && !this.on) {
                this.on = true;
                this.enable.set(true);
                this.units.keep();
            }
            this.shown.hidden = true;
            this.showPicture();
        }
        showPicture() {
            const there = Boolean(this.blob);
            this.other.hidden = this.away.hidden = !there;
            if (there) {
                const image = make("img", { alt: t("Picture for ControlNet") });
                image.src = URL.createObjectURL(this.blob);
                image.onload = () => URL.revokeObjectURL(image.src);
                image.onerror = () => {
                    toast(t("This file is no picture that the browser can show."), "error");
                    this.put(null);
                };
                this.zone.replaceChildren(image);
                return;
            }
            const empty = this.units.tab === "img2img" ? t("Without a picture of its own it looks at the source. Drop one here, paste one, or click to choose.")
                : t("Drop a picture here, paste one, or click to choose.");
            this.zone.replaceChildren(make("p", {}, empty));
        }
        async preview() {
            const picture = this.picture();
            if (!picture) return toast(t("There is no picture to look at yet; drop one into the frame."));
            const side = (name) => $(`#${this.units.tab}_${name} input[type=number]`)?.value || "512";
            const query = new URLSearchParams({ unit: JSON.stringify(this.asked()), width: side("width"), height: side("height") });
            this.run.disabled = true;
            try {
                const answer = await fetch(address(`easel/control/map?${query}`), { method: "POST", body: picture, headers: { "content-type": "application/octet-stream" } });
                if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message || t("The server answered {status}.", { status: answer.status }));
                const image = make("img", { alt: t("What the net will look at") });
                image.src = URL.createObjectURL(await answer.blob());
                await image.decode();
                this.shown.replaceChildren(image, make("figcaption", { translate: "no" }, `${this.preprocessor.name} · ${image.naturalWidth}×${image.naturalHeight}`));
                this.shown.hidden = false;
            } catch (error) {
                toast(error.message, "error");
            } finally {
                this.run.disabled = false;
            }
        }
        asked() {
            const names = [...this.units.page.fields.map(({ name }) => name), "threshold_a", "threshold_b"];
            return Object.fromEntries(names.map((name) => [name, this.get(name)]));
        }
        /** The unit as the server wants it, its picture uploaded. */
        async sent() {
            return { ...this.asked(), image: this.blob ? await store(this.blob) : null };
        }
    }

    /** Whether two titles mean one net: the same name, or the same hash behind another. */
    function sameNet(title, wanted) {
        const parts = (text) => text.match(/^(.*?)(?:\s*\[([0-9a-f]+)\])?$/i).slice(1);
        const [[name, hash], [other, code]] = [parts(title), parts(wanted)];
        return name === other || Boolean(hash && code && hash === code);
    }

    class Units {
        constructor(tab) {
            this.tab = tab;
            this.page = null;
            this.shown = 0;
            this.kept = [];
            try {
                const kept = JSON.parse(localStorage.getItem(place(tab)) || "[]");
                if (Array.isArray(kept)) this.kept = kept;
            } catch { /* a broken memory is none */ }
            this.all = [];
        }
        keep() {
            const kept = this.all.map(({ on, values }) => ({ on, values }));
            try {
                localStorage.setItem(place(this.tab), JSON.stringify(kept));
            } catch { /* no room: it is forgotten with the page */ }
            this.tell();
            changed(this.tab);
        }
        async mount(root) {
            this.count = make("span", { class: "easel-control-count" });
            this.body = make("div", { class: "easel-control-body" });
            this.fold = make("details", { class: "easel-own-more", id: `${this.tab}_controlnet_fold` }, make("summary", {}, make("span", { translate: "no" }, "ControlNet"), this.count), this.body);
            root.replaceChildren(this.fold);
            await this.load();
        }
        async load() {
            try {
                this.page = await ask("easel/control");
            } catch (error) {
                toast(error.message, "error");
                return;
            }
            if (!this.all.length) this.all = Array.from({ length: this.page.units }, (_, k) => new Unit(this, k, this.kept[k]));
            if (this.waiting) this.paste(this.waiting);
            else this.draw();
            changed(this.tab);
        }
        draw() {
            this.tabs = this.all.map(({ number }) => {
                const name = t("Unit {number}", { number });
                const made = make("button", { type: "button", role: "tab", id: `${this.tab}_controlnet_${number}_tab`, "aria-label": name }, name);
                made.onclick = () => this.choose(number);
                return made;
            });
            const row = make("div", { class: "easel-modes", role: "tablist", "aria-label": t("Units of ControlNet") }, ...this.tabs);
            row.addEventListener("keydown", (event) => {
                const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
                if (!by) return;
                event.preventDefault();
                event.stopPropagation();
                this.choose((this.shown + by + this.all.length) % this.all.length);
                this.tabs[this.shown].focus();
            });
            this.body.replaceChildren(row, ...this.all.map((unit) => unit.build()));
            this.choose(this.shown);
            this.tell();
        }
        choose(number) {
            this.shown = number;
            this.all.forEach((unit, k) => {
                unit.element.hidden = k !== number;
                this.tabs[k].setAttribute("aria-selected", String(k === number));
                this.tabs[k].tabIndex = k === number ? 0 : -1;
            });
        }
        /** How many are on, to be seen while they are folded. */
        tell() {
            const on = this.all.filter((unit) => unit.on).length;
            this.count.textContent = on ? t("{n} on", { n: on }) : "";
            this.all.forEach((unit, k) => this.tabs?.[k].classList.toggle("on", unit.on));
        }
        /** What an infotext tells: its units are on with all it says of them, the others off. Pictures stay. */
        paste({ units }) {
            if (!this.page) {
                this.waiting = { units };
                return;
            }
            this.waiting = null;
            this.all.forEach((unit, k) => {
                unit.on = k < units.length;
                if (unit.on) unit.values = { ...units[k] };
            });
            if (units.length) this.fold.open = true;
            this.draw();
            this.keep();
        }
        /** What is on, without pictures: for what the form would take of memory. */
        outline() {
            const on = this.page ? this.all.filter((unit) => unit.on && unit.get("model") !== "None") : [];
            return on.length ? JSON.stringify(on.map((unit) => unit.asked())) : "";
        }
        async text() {
            const on = this.all.filter((unit) => unit.on);
            try {
                return on.length ? JSON.stringify(await Promise.all(on.map((unit) => unit.sent()))) : "";
            } catch (error) {
                toast(error.message, "error");
                return "[0]";  // refused by the server, so that nothing is drawn without them
            }
        }
    }

    const units = new Map(TABS.map((tab) => [tab, new Units(tab)]));
    /** The values of a form with its units put in at that place, once their pictures are on the server. */
    window.easel.withUnits = async (tab, values, at) => {
        const text = await units.get(tab).text();
        return values.map((value, k) => (k === at ? text : value));
    };
    // What is pasted into a form comes through its hidden field, and with it every other change of the form.
    const seen = new Map(), last = new Map(), keep = window.easel.keep;
    const changed = (tab) => {
        const [names, values] = last.get(tab) ?? [];
        if (names) keep.call(window.easel, tab, names, values.map((value, k) => (names[k] === "controlnet" ? units.get(tab).outline() : value)));
    };
    window.easel.keep = (tab, names, values) => {
        const text = values[names.indexOf("controlnet")];
        if (text && seen.get(tab) !== text) {
            seen.set(tab, text);
            try {
                units.get(tab).paste(JSON.parse(text));
            } catch { /* not ours */ }
        }
        last.set(tab, [names, values]);
        changed(tab);
    };
    const mount = (tab) => {
        const root = byId(`${tab}_controlnet_units`);
        if (root && !byId(`${tab}_controlnet_fold`)) units.get(tab).mount(root);
    };
    document.addEventListener("easel:mounted", (event) => mount(event.detail));
    TABS.forEach(mount);
})();
