// The Extras tab: finished pictures made larger. The job and its pictures are followed as those of the drawing tabs are.
"use strict";
(() => {
    const { $, byId, make, t, ask, address, toast, dropZone, store, isPicture } = window.easel.tools;
    const TAB = "extras", FORM = "easel.extras.form";
    const MODES = [
        ["single", "Single Image", "One picture"],
        ["batch", "Batch Process", "Several pictures, one after the other"],
        ["folder", "Batch from Directory", "All pictures of a folder of this machine"],
    ];

    const extras = {
        mode: "single",
        blob: null,      // the single picture
        blobs: [],       // those of a batch
        form: null,

        async build(root) {
            this.root = root;
            this.tabs = MODES.map(([mode, name, hint]) => {
                const tab = make("button", { type: "button", role: "tab", id: `extras_${mode}_tab`, "data-mode": mode, title: t(hint) }, t(name));
                tab.onclick = () => this.choose(mode);
                return tab;
            });
            const row = make("div", { class: "easel-modes", role: "tablist", "aria-label": t("What to enlarge") }, ...this.tabs);
            row.addEventListener("keydown", (event) => {
                const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
                if (!by) return;
                event.preventDefault();
                event.stopPropagation();
                const open = this.tabs.filter((tab) => !tab.disabled), at = open.findIndex((tab) => tab.dataset.mode === this.mode);
                const next = open[(at + by + open.length) % open.length];
                this.choose(next.dataset.mode);
                next.focus();
            });
            this.zone = make("div", { id: "extras_image", class: "easel-drop", tabindex: "0", role: "button", "aria-label": t("Picture to enlarge: choose a file") });
            this.many = make("div", { id: "extras_image_batch", class: "easel-drop", tabindex: "0", role: "button", "aria-label": t("Pictures to enlarge: choose files") });
            this.list = make("div", { class: "easel-thumbs easel-sources", hidden: "" });
            this.folder = make("input", { type: "text", id: "extras_batch_input_dir", autocomplete: "off", spellcheck: "false",
                placeholder: t("Whole path of a folder on this machine"), "aria-label": t("Input directory") });
            this.output = make("input", { type: "text", id: "extras_batch_output_dir", autocomplete: "off", spellcheck: "false",
                placeholder: t("Empty: where pictures of Extras are saved"), "aria-label": t("Output directory") });
            this.panes = {
                single: make("div", {}, this.zone), batch: make("div", {}, this.many, this.list),
                folder: make("div", { class: "easel-form" }, ...[["Input directory", this.folder], ["Output directory", this.output]].map(([name, input]) =>
                    make("div", { class: "easel-field" }, make("span", { class: "easel-field-name" }, t(name)), input))),
            };
            root.replaceChildren(row, ...Object.values(this.panes));
            dropZone(this.zone, ([file]) => this.put(file), { several: true });
            dropZone(this.many, (files) => this.add(files), { several: true });
            this.choose(this.mode);
            this.draw();
            byId("extras_generate").addEventListener("click", () => this.generate());
            byId("extras_interrupt").addEventListener("click", () => window.easel.interrupt(TAB));
            byId("extras_skip").addEventListener("click", () => window.easel.skip(TAB));
            try {
                const { parts, local } = await ask("easel/extras");
                this.show(parts);
                if (!local) {
                    const tab = this.tabs[2];
                    tab.disabled = true;
                    tab.title = t("Folders of this machine are open only to who sits at it.");
                }
            } catch (error) {
                toast(error.message, "error");
            }
        },
        show(parts) {
            this.form = window.easel.controls.form(parts, TAB);
            const place = byId("extras_form"), kept = localStorage.getItem(FORM);
            try { this.form.set(JSON.parse(kept ?? "{}")); } catch { /* of another version */ }
            const refresh = make("button", { type: "button", class: "easel-link", id: "extras_refresh" }, t("Look for new upscalers"));
            refresh.onclick = () => this.refresh();
            const swap = make("button", { type: "button", class: "easel-brush", id: "extras_res_switch_btn", title: t("Swap width and height") }, "⇅");
            swap.onclick = () => {
                const [width, height] = ["upscaling_resize_w", "upscaling_resize_h"].map((key) => this.form.control(key));
                const before = width.get();
                width.set(height.get());
                height.set(before);
                this.changed();
            };
            this.swap = swap;
            this.size = make("p", { class: "easel-told-size", id: "extras_final_size" });
            this.form.control("upscaling_crop").element.after(swap);
            this.form.control("extras_upscaler_2_visibility").element.after(refresh);
            this.form.element.append(this.size);
            this.why = make("p", { class: "easel-why", role: "status" });
            this.form.element.prepend(this.why);
            this.form.onchange = () => this.changed();
            place.replaceChildren(this.form.element);
            this.changed();
        },
        async refresh() {
            try {
                const { parts } = await ask("easel/extras?refresh=true");
                for (const { key, choices } of parts[0].options) {
                    if (key === "upscaler_1" || key === "upscaler_2") this.form.control(key).choose(choices);
                }
                toast(t("The list of upscalers is new."));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        changed() {
            const { form } = this, values = form.flat(), toSize = values.resize_mode === 1;
            try { localStorage.setItem(FORM, JSON.stringify(values)); } catch { /* private windows may refuse */ }
            // Splitting and cropping around a focal point take that size too.
            const sized = toSize || values.split_oversized || values.focal_crop;
            for (const key of ["upscaling_resize_w", "upscaling_resize_h"]) form.control(key).element.hidden = !sized;
            form.control("upscaling_crop").element.hidden = !toSize;
            this.swap.hidden = !sized;
            for (const key of ["upscaling_resize", "max_side_length"]) form.control(key).element.hidden = toSize;
            form.control("extras_upscaler_2_visibility").element.hidden = values.upscaler_2 === "None";
            const idle = this.nothing(values);
            byId("extras_generate").disabled = Boolean(idle);
            byId("extras_generate").title = idle || "Ctrl+Enter";
            this.why.textContent = idle;
            this.say(values);
        },
        /** Why nothing would become of a picture; "" where something would. */
        nothing(values) {
            const acts = values.upscaler_1 !== "None" || values.upscaler_2 !== "None" && values.extras_upscaler_2_visibility > 0;
            const others = ["split_oversized", "focal_crop", "auto_crop", "gfpgan_visibility", "codeformer_visibility", "caption"].some((key) => values[key]) || values.flip?.length;
            return acts || others ? "" : t("Choose an upscaler first.");
        },
        say(values) {
            const picture = this.mode === "single" && $("img", this.zone);
            if (!picture?.naturalWidth) return void (this.size.textContent = "");
            const { naturalWidth: w, naturalHeight: h } = picture;
            const eight = (side) => Math.floor(side / 8) * 8;  // as upscalers leave it
            let size = [w, h].map((side) => eight(side * values.upscaling_resize));
            if (values.resize_mode === 1) {
                const [x, y] = [values.upscaling_resize_w, values.upscaling_resize_h], factor = Math.max(x / w, y / h);
                size = values.upscaling_crop ? [x, y] : [w, h].map((side) => eight(side * factor));
            }
            this.size.textContent = t("from {from} to {to}", { from: `${w}×${h}`, to: size.join("×") });
        },
        choose(mode) {
            this.mode = mode;
            for (const tab of this.tabs) {
                tab.setAttribute("aria-selected", String(tab.dataset.mode === mode));
                tab.tabIndex = tab.dataset.mode === mode ? 0 : -1;
            }
            for (const [name, pane] of Object.entries(this.panes)) pane.hidden = name !== mode;
            if (this.form) this.changed();
        },
        put(blob) {
            if (!isPicture(blob)) return toast(t("This file is no picture that the browser can show."), "error");
            this.blob = blob;
            if (!this.root) return;
            this.choose("single");
            this.draw();
        },
        add(files) {
            this.blobs.push(...files.filter(isPicture));
            this.choose("batch");
            this.draw();
        },
        draw() {
            const hint = make("p", {}, t("Drop a picture here, paste one, or click to choose."));
            if (this.blob) {
                const image = make("img", { alt: t("The picture to enlarge") });
                image.onload = () => { if (this.form) this.changed(); };
                image.src = URL.createObjectURL(this.blob);
                const other = make("button", { type: "button", class: "easel-brush corner", "aria-label": t("Take the picture away"), title: t("Take the picture away") }, "×");
                other.onclick = (event) => {
                    event.stopPropagation();
                    this.blob = null;
                    this.draw();
                };
                this.zone.replaceChildren(image, other);
            } else this.zone.replaceChildren(hint);
            const count = this.blobs.length;
            this.many.replaceChildren(make("p", {}, count === 1 ? t("1 picture; drop or choose more.") : count ? t("{n} pictures; drop or choose more.", { n: count }) : t("Drop pictures here, or click to choose several.")));
            this.list.hidden = !count;
            this.list.replaceChildren(...this.blobs.map((blob, k) => {
                const image = make("img", { alt: blob.name ?? "" });
                image.src = URL.createObjectURL(blob);
                image.onload = () => URL.revokeObjectURL(image.src);
                const tile = make("button", { type: "button", class: "thumbnail-item", title: t("Leave {name} out", { name: blob.name ?? "" }) }, image);
                tile.onclick = () => {
                    this.blobs.splice(k, 1);
                    this.draw();
                };
                return tile;
            }));
        },
        async images() {
            if (this.mode === "single") return this.blob ? [await store(this.blob)] : [];
            if (this.mode === "batch") {
                const found = [];
                for (const blob of this.blobs) found.push(await store(blob));
                return found;
            }
            return [];
        },
        async generate() {
            if (!this.form || byId("extras_generate").disabled) return;
            try {
                const images = await this.images();
                const source = { images, extras: this.form.get() };
                if (this.mode === "folder") {
                    if (!this.folder.value.trim()) throw new Error(t("Name the folder first."));
                    source.batch = { input_dir: this.folder.value.trim(), output_dir: this.output.value.trim() };
                } else if (!images.length) throw new Error(t("There is no picture to enlarge yet; drop one into the frame."));
                const { id } = await ask("jobs", "POST", { source });
                window.easel.submitted(TAB, JSON.stringify({ id }));
            } catch (error) {
                toast(error.message, "error");
            }
        },
    };
    window.easel.extras = extras;

    // ---- the result beside its source ----

    /** A slider over the picture: left of it the source, right of it the result. */
    document.addEventListener("easel:shown", async ({ detail: { tab, record, frame } }) => {
        if (tab !== TAB) return;
        const old = $(".easel-compare", frame);
        if (old?.dataset.of === record?.id) return;
        old?.remove();
        const before = record?.parents?.[0];
        if (!before || frame.dataset.kind !== "picture") return;
        const url = address(`easel/inputs/${before}`);
        const there = await fetch(url).then((answer) => answer.status === 200, () => false);
        if (!there || $(".easel-compare", frame) || !frame.querySelector(`img[src$="${record.id}"]`)) return;
        const image = make("img", { alt: t("The picture before") });
        const slide = make("input", { type: "range", min: "0", max: "100", step: "0.1", value: "50", "aria-label": t("Compare with the picture before") });
        const over = make("div", { class: "easel-compare" }, image, make("i"), make("span", { class: "left" }, t("Before")),
            make("span", { class: "right" }, t("After")), slide);
        over.dataset.of = record.id;
        slide.oninput = () => over.style.setProperty("--at", `${slide.value}%`);
        image.src = url;
        frame.append(over);
    });

    document.addEventListener("paste", (event) => {
        const pasted = [...(event.clipboardData?.files ?? [])].filter(isPicture);
        if (!pasted.length || !byId("extras_image")?.parentElement?.parentElement?.offsetParent) return;
        if (extras.mode === "batch") extras.add(pasted);
        else extras.put(pasted[0]);
    });

    window.easel.whenThere(["mode_extras", "extras_form", "extras_generate", "extras_interrupt", "extras_skip"], (root) => extras.build(root));
})();
