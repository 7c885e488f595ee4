// Pictures that come into the page: the one img2img starts from, with what is painted on it, and those PNG Info reads.
//
//   source       the picture of img2img, its paint and its mask; uploaded when Generate is pressed
//   strokes      what was painted, in order; undo takes the last one away, so nothing is ever copied
//   information  PNG Info
//
// One picture serves all modes: what is chosen, painted or masked stays when the mode, or the tab, changes.
"use strict";
(() => {
    const { $, byId, make, ask, address, toast, infoBox, send, take, shownTab, t } = window.easel.tools;
    const MODES = [
        ["img2img", "img2img", "The whole picture is drawn over"],
        ["sketch", "Sketch", "Paint colours into the picture first"],
        ["inpaint", "Inpaint", "Only what is masked is drawn anew"],
        ["inpaint_sketch", "Inpaint sketch", "Only what is painted over is drawn anew, from its colours"],
        ["upload", "Inpaint upload", "The mask is a picture of its own: white is drawn anew"],
        ["batch", "Batch", "Several pictures one after the other, or those of a folder"],
    ];
    const COPIED = ["img2img", "sketch", "inpaint", "inpaint_sketch"];  // modes between which "Copy image to" stands
    const HINT = "Drop a picture here, paste one, or click to choose.";
    const isPicture = (file) => file?.type?.startsWith("image/");
    const pictureIn = (transfer) => [...(transfer?.files ?? [])].find(isPicture);

    /** The pictures of a drop: files, or one of this page itself, by its address. */
    async function picturesIn(transfer) {
        const files = [...(transfer?.files ?? [])].filter(isPicture);
        const url = transfer?.getData("text/uri-list")?.split(/\r?\n/)[0];
        if (files.length || !url || new URL(url, location.href).origin !== location.origin) return files;
        const answer = await fetch(url.replace(/\/thumbnail$/, "")).catch(() => null);
        const blob = answer?.ok ? await answer.blob() : null;
        return isPicture(blob) ? [blob] : [];
    }
    const holdsPicture = (transfer) => ["Files", "text/uri-list"].some((kind) => transfer?.types?.includes(kind));

    async function decode(blob) {
        try {
            return await createImageBitmap(blob);
        } catch {
            throw new Error(t("This file is no picture that the browser can show."));
        }
    }

    async function store(blob, origin = null) {
        const answer = await fetch(address(origin ? `inputs?origin=${encodeURIComponent(origin)}` : "inputs"), {
            method: "POST", body: blob, headers: { "content-type": "application/octet-stream" },
        });
        const data = await answer.json().catch(() => ({}));
        if (!answer.ok) throw new Error(data.message || t("The server answered {status}.", { status: answer.status }));
        return data.id;
    }

    const pngOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

    /** Something that takes a picture by click, key, or drop; with `several` it gives a list of them. */
    function dropZone(zone, picked, { mayOpen = () => true, several = false } = {}) {
        const file = make("input", { type: "file", accept: "image/*", hidden: "", tabindex: "-1", "aria-hidden": "true" });
        file.multiple = several;
        zone.after(file);
        file.onchange = () => {
            if (file.files[0]) picked(several ? [...file.files] : file.files[0]);
            file.value = "";
        };
        zone.addEventListener("click", () => { if (mayOpen()) file.click(); });
        zone.addEventListener("keydown", (event) => {
            if ((event.key !== "Enter" && event.key !== " ") || event.ctrlKey || event.altKey || !mayOpen()) return;
            event.preventDefault();
            file.click();
        });
        zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
        zone.addEventListener("dragleave", () => zone.classList.remove("over"));
        zone.addEventListener("drop", (event) => {
            event.preventDefault();
            event.stopPropagation();
            zone.classList.remove("over");
            picturesIn(event.dataTransfer).then((dropped) => { if (dropped.length) picked(several ? dropped : dropped[0]); });
        });
        return file;
    }

    Object.assign(window.easel.tools, { dropZone, store, isPicture });

    // ---- img2img ----

    const source = {
        mode: "img2img",
        blob: null,       // the picture as it came
        image: null,      // decoded
        origin: null,     // the picture of the history that it is, if it is one
        maskImage: null,  // of "upload"
        strokes: { paint: [], mask: [] },
        undone: { paint: [], mask: [] },
        erasing: false,
        width: 40,        // of the brush, in pixels of the page
        colours: {},      // of a brush, by mode; else as the settings say
        root: null,

        get colour() {
            const key = this.mode === "sketch" ? "img2img_sketch_default_brush_color" : "img2img_inpaint_sketch_default_brush_color";
            return this.colours[this.mode] ?? window.easel.options[key] ?? "#ffffff";
        },
        layer() { return { sketch: "paint", inpaint_sketch: "paint", inpaint: "mask" }[this.mode] ?? null; },
        size() { return this.image ? [this.image.width, this.image.height] : null; },

        build(root) {
            this.root = root;
            const button = (act, label, text) => {
                const made = make("button", { type: "button", "data-act": act, class: "easel-brush", title: label, "aria-label": label }, text);
                made.onclick = () => this.act(act);
                return made;
            };
            this.tabs = MODES.map(([mode, name, hint]) => {
                const tab = make("button", { type: "button", role: "tab", id: `img2img_${mode}_tab`, "data-mode": mode, title: hint }, name);
                tab.onclick = () => this.choose(mode);
                return tab;
            });
            const row = make("div", { class: "easel-modes", role: "tablist", "aria-label": "What to draw over" }, ...this.tabs);
            row.addEventListener("keydown", (event) => {
                const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = MODES.findIndex(([mode]) => mode === this.mode);
                if (!by) return;
                event.preventDefault();
                event.stopPropagation();
                this.choose(MODES[(at + by + MODES.length) % MODES.length][0]);
                this.tabs.find((tab) => tab.dataset.mode === this.mode).focus();
            });
            this.canvases = {
                base: make("canvas", { class: "base" }), paint: make("canvas", { class: "paint" }), mask: make("canvas", { class: "mask" }),
            };
            this.cursor = make("i", { class: "easel-cursor" });
            this.frame = make("div", { class: "easel-layers", hidden: "" }, ...Object.values(this.canvases), this.cursor);
            this.hint = make("p", {}, HINT);
            this.zone = make("div", { id: "img2img_image", class: "easel-drop", tabindex: "0", role: "button",
                "aria-label": "Source picture: choose a file" }, this.hint, this.frame);
            this.brush = make("input", { type: "range", min: "2", max: "200", value: String(this.width), "aria-label": "Brush size", title: "Brush size ( [ and ] )" });
            this.brush.oninput = () => { this.width = Number(this.brush.value); };
            this.pen = make("input", { type: "color", value: this.colour, "aria-label": "Brush colour", title: "Brush colour" });
            this.pen.oninput = () => { this.colours[this.mode] = this.pen.value; };
            this.zone.title = t("Alt+wheel: closer · F: move · R: whole picture · S: large · Q W: brush");
            this.tools = make("div", { class: "easel-brushes", role: "toolbar", "aria-label": "Painting" },
                button("brush", "Brush (B)", "Brush"), button("eraser", "Eraser (E)", "Eraser"), this.pen, this.brush,
                button("undo", "Undo (Ctrl+Z)", "Undo"), button("redo", "Redo (Ctrl+Y)", "Redo"), button("clear", "Take away everything painted", "Clear"));
            this.other = make("div", { class: "easel-brushes" }, button("replace", "Choose another picture", "Other picture"),
                button("remove", "Take the picture away", "Remove"));
            this.copies = make("div", { class: "easel-brushes easel-copies", role: "group", "aria-label": t("Copy image to") }, make("span", {}, t("Copy image to")),
                ...MODES.filter(([mode]) => COPIED.includes(mode)).map(([mode, name]) => {
                    const made = make("button", { type: "button", class: "easel-brush", "data-copy": mode }, t(name));
                    made.onclick = () => this.copyTo(mode);
                    return made;
                }));
            this.maskZone = make("div", { id: "img_inpaint_mask", class: "easel-drop small", tabindex: "0", role: "button",
                "aria-label": "Mask: choose a file" }, make("p", {}, "The mask: drop it here, or click to choose."));
            this.batch = batchPane();
            root.replaceChildren(row, this.batch.element, this.tools, this.zone, this.other, this.copies, this.maskZone);
            this.file = dropZone(this.zone, (file) => this.put(file), { mayOpen: () => !this.image });
            dropZone(this.maskZone, (file) => this.putMask(file));
            this.listen();
            closer();
            this.choose(this.mode);
            if (this.image) this.show();
        },
        listen() {
            let stroke = null;
            const at = (event) => {
                const box = this.frame.getBoundingClientRect();
                return [(event.clientX - box.left) / box.width * this.image.width, (event.clientY - box.top) / box.height * this.image.height];
            };
            this.frame.addEventListener("pointerdown", (event) => {
                const layer = this.layer();
                if (!layer || event.button !== 0) return;
                event.preventDefault();
                this.zone.focus({ preventScroll: true });
                this.frame.setPointerCapture(event.pointerId);
                const scale = this.image.width / this.frame.getBoundingClientRect().width;
                stroke = { erase: this.erasing || event.altKey, width: this.width * scale, colour: layer === "mask" ? window.easel.options.img2img_inpaint_mask_brush_color ?? "#ffffff" : this.colour, points: [at(event)] };
                this.strokes[layer].push(stroke);
                this.undone[layer] = [];
                this.draw(layer, stroke);
            });
            this.frame.addEventListener("pointermove", (event) => {
                const box = this.frame.getBoundingClientRect();
                const zoom = box.width / this.frame.offsetWidth;  // the frame may be enlarged
                this.cursor.style.cssText = `left:${(event.clientX - box.left) / zoom}px;top:${(event.clientY - box.top) / zoom}px;width:${this.width / zoom}px;height:${this.width / zoom}px`;
                if (!stroke) return;
                stroke.points.push(...(event.getCoalescedEvents?.() ?? [event]).map(at), at(event));
                this.draw(this.layer(), stroke);
            });
            const end = () => { stroke = null; this.buttons(); };
            this.frame.addEventListener("pointerup", end);
            this.frame.addEventListener("pointercancel", end);
            this.zone.addEventListener("keydown", (event) => {
                const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
                const act = control ? { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key] : { b: "brush", e: "eraser", "[": "thinner", "]": "thicker" }[key];
                if (!act || !this.layer()) return;
                event.preventDefault();
                this.act(act);
            });
        },
        choose(mode) {
            this.mode = mode;
            if (!this.root) return;
            const workspace = this.root.closest(".easel-workspace");
            if (workspace) workspace.dataset.mode = mode;
            for (const tab of this.tabs) {
                tab.setAttribute("aria-selected", String(tab.dataset.mode === mode));
                tab.tabIndex = tab.dataset.mode === mode ? 0 : -1;
            }
            this.maskZone.hidden = mode !== "upload";
            this.batch.element.hidden = mode !== "batch";
            this.zone.hidden = mode === "batch";
            this.pen.hidden = this.layer() !== "paint";
            this.pen.value = this.colour;
            this.canvases.mask.hidden = mode !== "inpaint";
            this.canvases.paint.hidden = this.layer() !== "paint";
            this.frame.style.setProperty("--easel-mask-alpha", mode === "inpaint_sketch" ? Number(forms.img2img?.mask_alpha) || 0 : 0);
            this.buttons();
        },
        act(name) {
            const layer = this.layer();
            const strokes = this.strokes[layer], undone = this.undone[layer];
            if (name === "brush" || name === "eraser") this.erasing = name === "eraser";
            else if (name === "undo" && strokes.length) undone.push(strokes.pop());
            else if (name === "redo" && undone.length) strokes.push(undone.pop());
            else if (name === "clear") strokes.push({ clear: true });
            else if (name === "thinner" || name === "thicker") {
                this.width = Math.min(200, Math.max(2, Math.round(this.width * (name === "thicker" ? 1.2 : 1 / 1.2))));
                this.brush.value = String(this.width);
            } else if (name === "replace") this.file.click();
            else if (name === "remove") this.remove();
            if (["undo", "redo", "clear"].includes(name)) this.redraw(layer);
            this.buttons();
        },
        buttons() {
            const layer = this.layer(), there = Boolean(this.image);
            this.tools.hidden = !there || !layer;
            this.other.hidden = !there || this.mode === "batch";
            this.copies.hidden = !there || !COPIED.includes(this.mode);
            this.copies.id = `img2img_copy_to_${this.mode}`;
            for (const button of this.copies.querySelectorAll("[data-copy]")) button.disabled = button.dataset.copy === this.mode;
            this.frame.classList.toggle("paintable", Boolean(layer));
            for (const button of this.tools.querySelectorAll("[data-act]")) {
                const act = button.dataset.act;
                if (act === "undo" || act === "clear") button.disabled = !this.strokes[layer]?.length;
                if (act === "redo") button.disabled = !this.undone[layer]?.length;
                if (act === "brush" || act === "eraser") button.setAttribute("aria-pressed", String(this.erasing === (act === "eraser")));
            }
        },
        /** Another picture to start from. What was masked stays where the new one has the same size. */
        async put(blob, mode = null, origin = null) {
            try {
                const image = await decode(blob);
                const same = this.image && this.image.width === image.width && this.image.height === image.height;
                if (!same) this.strokes.mask = [];
                this.strokes.paint = [];
                this.undone = { paint: [], mask: [] };
                [this.blob, this.image, this.origin] = [blob, image, origin];
            } catch (error) {
                return toast(error.message, "error");
            }
            if (mode) this.choose(mode);
            this.show();
        },
        /** Go on in another mode with the picture as it is seen: what was painted in colours becomes part of it. */
        async copyTo(mode) {
            const { strokes: { paint }, blob, image, origin } = this;
            if (this.layer() !== "paint" || !paint.length) return this.choose(mode);
            const before = this.mode, masked = this.strokes.mask;
            await this.put(await pngOf(this.painted()), mode, origin);
            toast(t("What was painted is part of the picture now."), "note", { [t("Undo")]: () => {
                Object.assign(this, { blob, image, origin, strokes: { paint, mask: masked } });
                this.choose(before);
                this.show();
            } });
        },
        remove() {
            [this.blob, this.image] = [null, null];
            this.strokes = { paint: [], mask: [] };
            this.undone = { paint: [], mask: [] };
            this.show();
        },
        async putMask(blob) {
            try {
                await decode(blob);
            } catch (error) {
                return toast(error.message, "error");
            }
            this.maskImage = blob;
            const image = make("img", { alt: "The mask" });
            image.src = URL.createObjectURL(blob);
            this.maskZone.replaceChildren(image);
        },
        show() {
            if (!this.root) return;
            this.frame.hidden = !this.image;
            this.hint.hidden = Boolean(this.image);
            if (this.image) {
                const [width, height] = this.size();
                this.frame.style.setProperty("--w", width);
                this.frame.style.setProperty("--h", height);
                for (const canvas of Object.values(this.canvases)) [canvas.width, canvas.height] = [width, height];
                this.canvases.base.getContext("2d").drawImage(this.image, 0, 0);
                this.redraw("paint");
                this.redraw("mask");
            }
            this.zone.setAttribute("aria-label", this.image ? t("Source picture, {width} by {height} pixels", { width: this.size()[0], height: this.size()[1] }) : t("Source picture: choose a file"));
            this.buttons();
            scaled();
        },
        redraw(layer) {
            const canvas = this.canvases?.[layer];
            if (!canvas) return;
            canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
            for (const stroke of this.strokes[layer]) this.draw(layer, stroke, true);
        },
        draw(layer, { clear, erase, width, colour, points }) {
            const canvas = this.canvases[layer], pen = canvas.getContext("2d");
            if (clear) return pen.clearRect(0, 0, canvas.width, canvas.height);
            pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
            pen.strokeStyle = colour;
            pen.lineWidth = width;
            pen.lineCap = pen.lineJoin = "round";
            pen.beginPath();
            pen.moveTo(...points[0]);
            for (const point of points) pen.lineTo(...point);
            pen.stroke();
        },
        /** Black and white: white where a layer is painted; null where it is not. */
        maskOf(layer) {
            const canvas = make("canvas", {});
            [canvas.width, canvas.height] = this.size();
            const pen = canvas.getContext("2d");
            pen.drawImage(this.canvases[layer], 0, 0);
            pen.globalCompositeOperation = "source-in";
            pen.fillStyle = "#fff";
            pen.fillRect(0, 0, canvas.width, canvas.height);
            if (!pen.getImageData(0, 0, canvas.width, canvas.height).data.some((value, k) => k % 4 === 3 && value > 127)) return null;
            pen.globalCompositeOperation = "destination-over";
            pen.fillStyle = "#000";
            pen.fillRect(0, 0, canvas.width, canvas.height);
            return canvas;
        },
        painted() {
            const canvas = make("canvas", {});
            [canvas.width, canvas.height] = this.size();
            const pen = canvas.getContext("2d");
            pen.drawImage(this.canvases.base, 0, 0);
            if (this.mode === "inpaint_sketch") pen.globalAlpha = 1 - (Number(forms.img2img?.mask_alpha) || 0) / 100;
            pen.drawImage(this.canvases.paint, 0, 0);
            return canvas;
        },
        /** Everything the server needs, stored there: {mode, image, mask, width, height}. */
        async upload() {
            if (this.mode === "batch") return { mode: "batch", ...await this.batch.upload() };
            if (!this.image) return {};
            const { mode } = this, [width, height] = this.size(), layer = this.layer();
            const picture = layer === "paint" && this.strokes.paint.length ? await pngOf(this.painted()) : this.blob;
            let mask = mode === "upload" ? this.maskImage : null;
            if (mode === "inpaint" || mode === "inpaint_sketch") {
                const canvas = this.maskOf(layer);
                mask = canvas && await pngOf(canvas);
            }
            const [image, masked] = await Promise.all([store(picture, this.origin), mask && store(mask)]);
            return { mode, image, mask: masked, width, height };
        },
    };
    window.easel.source = source;

    /** What the mode Batch asks for. Folders are those of the machine Easel runs on. */
    function batchPane() {
        const blobs = [];
        const zone = make("div", { id: "img2img_batch_upload", class: "easel-drop small", tabindex: "0", role: "button", "aria-label": t("Pictures: choose files") });
        const field = (id, name, hint) => {
            const input = make("input", { type: "text", id, autocomplete: "off", spellcheck: "false", placeholder: t(hint), "aria-label": t(name) });
            return { input, element: make("div", { class: "easel-field" }, make("span", { class: "easel-field-name" }, t(name)), input) };
        };
        const into = field("img2img_batch_input_dir", "Input directory", "Whole path of a folder; instead of pictures");
        const out = field("img2img_batch_output_dir", "Output directory", "Empty: where pictures of img2img are saved");
        const masks = field("img2img_batch_inpaint_mask_dir", "Inpaint batch mask directory (required for inpaint batch processing only)", "One mask for all, or one of each picture's name");
        const info = field("img2img_batch_png_info_dir", "PNG info directory", "Empty: the pictures themselves");
        const use = make("input", { type: "checkbox", id: "img2img_batch_use_png_info" });
        const props = ["Prompt", "Negative prompt", "Seed", "CFG scale", "Sampler", "Steps", "Model hash"].map((name) => {
            const input = make("input", { type: "checkbox", value: name });
            input.checked = false;
            return [input, make("label", { class: "easel-prop" }, input, make("span", {}, t(name)))];
        });
        const told = make("details", { class: "easel-own-more" }, make("summary", {}, t("PNG info")),
            make("div", { class: "easel-form" }, make("label", { class: "easel-prop" }, use, make("span", {}, t("Append png info to prompts"))),
                info.element, make("div", { class: "easel-props" }, ...props.map(([, label]) => label))));
        const folders = [into, out, masks];
        const element = make("div", { class: "easel-form easel-batch" }, zone, ...folders.map((one) => one.element), told);
        if (window.easel.shared) for (const { input } of [...folders, info]) {
            input.disabled = true;
            input.title = t("Folders of this machine are open only to who sits at it.");
        }
        const draw = () => {
            const clear = make("button", { type: "button", class: "easel-link" }, t("Clear"));
            clear.onclick = (event) => {
                event.stopPropagation();
                blobs.length = 0;
                draw();
            };
            zone.replaceChildren(make("p", {}, blobs.length ? `${blobs.length === 1 ? t("1 picture; drop or choose more.") : t("{n} pictures; drop or choose more.", { n: blobs.length })} ` : t("Drop pictures here, or click to choose several."), ...blobs.length ? [clear] : []));
        };
        dropZone(zone, (files) => {
            blobs.push(...files.filter(isPicture));
            draw();
        }, { several: true });
        draw();
        return {
            element,
            async upload() {
                const images = [], dir = into.input.value.trim();
                if (!dir) for (const blob of blobs) images.push(await store(blob));
                return {
                    images, batch: {
                        input_dir: dir, output_dir: out.input.value.trim(), inpaint_mask_dir: masks.input.value.trim(),
                        names: dir ? [] : blobs.map((blob) => blob.name ?? ""), use_png_info: use.checked,
                        png_info_props: props.filter(([input]) => input.checked).map(([input]) => input.value),
                        png_info_dir: info.input.value.trim(),
                    },
                };
            },
        };
    }

    // ---- a closer look: Alt+wheel zooms, Ctrl+wheel changes the brush, F (or the middle button) and moving pans, R puts back ----

    const view = { scale: 1, x: 0, y: 0, panning: false };

    function place() {
        const { scale } = view, frame = source.frame, box = source.zone.getBoundingClientRect();
        const reach = (side, length) => Math.max(0, (length * scale - side) / 2 + side / 2);
        view.x = Math.max(-reach(box.width, box.width), Math.min(reach(box.width, box.width), view.x));
        view.y = Math.max(-reach(box.height, box.height), Math.min(reach(box.height, box.height), view.y));
        frame.style.transform = scale === 1 ? "" : `translate(${view.x}px, ${view.y}px) scale(${scale})`;
        source.zone.classList.toggle("zoomed", scale !== 1);
    }

    function zoomBy(factor, clientX, clientY) {
        const before = view.scale, box = source.zone.getBoundingClientRect();
        const scale = Math.min(16, Math.max(1, before * factor));
        const [x, y] = [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
        Object.assign(view, scale === 1 ? { x: 0, y: 0 } : { x: x - (x - view.x) * scale / before, y: y - (y - view.y) * scale / before });
        view.scale = scale;
        place();
    }

    function closer() {
        const { zone } = source;
        zone.addEventListener("wheel", (event) => {
            if (!source.image || !(event.altKey || event.ctrlKey)) return;
            event.preventDefault();
            if (event.altKey) zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.clientX, event.clientY);
            else if (source.layer()) source.act(event.deltaY < 0 ? "thicker" : "thinner");
        }, { passive: false });
        let from = null;
        zone.addEventListener("pointerdown", (event) => {
            if (event.button !== 1 || !source.image) return;
            event.preventDefault();
            from = [event.clientX - view.x, event.clientY - view.y];
            zone.setPointerCapture(event.pointerId);
        });
        zone.addEventListener("pointermove", (event) => {
            if (view.panning && !from) from = [event.clientX - view.x, event.clientY - view.y];
            if (!from || view.scale === 1) return;
            Object.assign(view, { x: event.clientX - from[0], y: event.clientY - from[1] });
            place();
        });
        zone.addEventListener("pointerup", (event) => { if (event.button === 1) from = null; });
        const over = () => zone.matches(":hover, :focus, :focus-within");
        const typing = (event) => event.target.matches?.("input:not([type=range]), textarea, select");
        document.addEventListener("keydown", (event) => {
            if (!source.image || !over() || typing(event) || event.ctrlKey || event.altKey || event.metaKey) return;
            const key = event.key.toLowerCase();
            const act = { r: () => { Object.assign(view, { scale: 1, x: 0, y: 0 }); place(); }, f: () => { view.panning = true; },
                q: () => source.layer() && source.act("thinner"), w: () => source.layer() && source.act("thicker"),
                s: () => zone.classList.toggle("whole"), o: () => zone.classList.toggle("bare") }[key];
            if (!act) return;
            event.preventDefault();
            act();
        });
        document.addEventListener("keyup", (event) => {
            if (event.key.toLowerCase() !== "f") return;
            view.panning = false;
            from = null;
        });
    }

    // ---- sizes, in words ----

    const forms = {};
    const eight = (value) => Math.floor(value / 8) * 8;

    /** "from 512x512 to 1024x1024" for hires fix, and for a source that is scaled. */
    function scaled() {
        const first = forms.txt2img, place = byId("txtimg_hr_finalres");
        if (first && place) {
            const [width, height] = [Number(first.width), Number(first.height)];
            let [x, y] = [Number(first["hires.hr_resize_x"]), Number(first["hires.hr_resize_y"])];
            if (!x && !y) [x, y] = [Math.floor(width * first["hires.hr_scale"]), Math.floor(height * first["hires.hr_scale"])];
            else if (!x) x = Math.floor(y * width / height);
            else if (!y) y = Math.floor(x * height / width);
            place.textContent = t("from {before} to {after}", { before: `${width}×${height}`, after: `${x}×${y}` });
        }
        const second = forms.img2img, preview = byId("img2img_scale_resolution_preview"), size = source.size();
        if (!second || !preview) return;
        preview.textContent = size ? t("from {before} to {after}", { before: size.join("×"), after: size.map((side) => Math.max(64, eight(side * second.scale))).join("×") })
            : t("of the source picture");
    }
    document.addEventListener("easel:form", (event) => {
        forms[event.detail.tab] = event.detail;
        if (source.root) source.frame.style.setProperty("--easel-mask-alpha", source.mode === "inpaint_sketch" ? Number(event.detail.mask_alpha ?? forms.img2img?.mask_alpha) || 0 : 0);
        scaled();
    });

    // ---- PNG Info ----

    const information = {
        told: null,
        asked: 0,
        build(zone) {
            this.zone = zone;
            dropZone(zone, (file) => this.read(file));
            document.addEventListener("click", (event) => {
                const tool = event.target.closest?.("#pnginfo_buttons [data-do]");
                if (!tool || !this.told) return;
                if (tool.dataset.do === "copy") window.easel.tools.copy(this.told.infotext);
                else send(tool.dataset.to, this.told).catch((error) => toast(error.message, "error"));
            });
        },
        async read(blob) {
            const turn = ++this.asked, buttons = byId("pnginfo_buttons");
            buttons.hidden = true;  // until this one is read they would send the one before
            const told = await readPicture(blob);
            if (turn !== this.asked) return;
            if (told) this.told = { ...told, blob };
            buttons.hidden = !this.told;
            if (!told) return;
            const image = make("img", { alt: "The picture read" });
            image.src = URL.createObjectURL(blob);
            this.zone.replaceChildren(image);
            const place = byId("html_info_pnginfo");
            const size = make("p", { class: "easel-told-size" }, t("{size} pixels", { size: `${told.width}×${told.height}` }));
            const others = Object.entries(told.texts).map(([name, text]) =>
                make("details", { translate: "no" }, make("summary", {}, name), make("p", {}, text)));
            place.replaceChildren(size, told.infotext ? infoBox(told.infotext) : make("p", {}, t("This picture says nothing about how it was drawn.")), ...others);
        },
    };

    async function readPicture(blob) {
        try {
            const answer = await fetch(address("easel/read"), {
                method: "POST", body: blob, headers: { "content-type": "application/octet-stream" },
            });
            const data = await answer.json();
            if (!answer.ok) throw new Error(data.message);
            return data;
        } catch (error) {
            toast(error.message, "error");
            return null;
        }
    }

    // A picture dropped on a prompt tells its settings to the form.
    document.addEventListener("dragover", (event) => {
        if (event.target.closest?.(".prompt") && holdsPicture(event.dataTransfer)) event.preventDefault();
    });
    document.addEventListener("drop", async (event) => {
        if (!event.target.closest?.(".prompt") || !holdsPicture(event.dataTransfer)) return;
        event.preventDefault();
        const [blob] = await picturesIn(event.dataTransfer);
        if (!blob) return;
        const told = await readPicture(blob);
        if (told?.infotext) take(shownTab(), told.infotext);
        else if (told) toast(t("This picture says nothing about how it was drawn."), "warning");
    });
    document.addEventListener("paste", (event) => {
        const blob = pictureIn(event.clipboardData);
        if (!blob) return;
        if (byId("pnginfo_image")?.offsetParent) information.read(blob);
        else if (shownTab() === "img2img") source.put(blob);
    });

    // ---- into the page, when its tabs are opened ----

    window.easel.whenThere(["mode_img2img"], (place) => source.build(place));
    window.easel.whenThere(["pnginfo_image"], (zone) => information.build(zone));
})();
