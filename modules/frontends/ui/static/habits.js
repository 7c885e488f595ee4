// What hands bring along from A1111: the menu of Generate, a picture dragged from the gallery, sizes pasted as 1024x768,
// the frame that shows what a size leaves of the source, words for a picture, a screen that stays awake.
"use strict";
(() => {
    const { $, byId, make, t, ask, toast, write, pause, store, panels, TABS } = window.easel.tools;
    const option = (key, usual) => window.easel.options[key] ?? usual;

    // ---- Generate forever: right click, or the menu key, on Generate ----

    const EVERY = 500;  // milliseconds between looks whether the tab is idle
    const forever = {};
    function stop(tab) {
        clearInterval(forever[tab]);
        delete forever[tab];
        byId(`${tab}_forever`)?.remove();
    }
    function start(tab) {
        if (forever[tab]) return;
        const out = make("button", { type: "button", class: "easel-link" }, t("Cancel"));
        out.onclick = () => stop(tab);
        byId(`${tab}_queue`)?.after(make("div", { id: `${tab}_forever`, class: "easel-queue", role: "status" }, `${t("Generating forever")} · `, out));
        const again = () => { if (!panels[tab].active() && !panels[tab].session.waiting().length && !window.easel.sending) byId(`${tab}_generate`)?.click(); };
        forever[tab] = setInterval(again, EVERY);
        again();
    }
    document.addEventListener("easel:refused", ({ detail: tab }) => stop(tab));
    document.addEventListener("easel:over", ({ detail: { tab, view } }) => { if (view.state === "failed") stop(tab); });

    function menu(entries, x, y, back) {
        $(".easel-menu")?.remove();
        const box = make("div", { class: "easel-menu", role: "menu" }, ...entries.map(([name, act]) => {
            const item = make("button", { type: "button", role: "menuitem" }, name);
            item.onclick = () => { close(); act(); };
            return item;
        }));
        const close = () => {
            box.remove();
            document.removeEventListener("pointerdown", outside, true);
            back?.focus?.();
        };
        const outside = (event) => { if (!box.contains(event.target)) close(); };
        box.addEventListener("keydown", (event) => {
            const items = [...box.children], at = items.indexOf(document.activeElement);
            const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
            if (by) items[(at + by + items.length) % items.length].focus();
            else if (event.key === "Escape" || event.key === "Tab") close();
            else return;
            event.preventDefault();
            event.stopPropagation();
        });
        document.body.append(box);
        box.style.left = `${Math.min(x, innerWidth - box.offsetWidth - 8)}px`;
        box.style.top = `${Math.min(y, innerHeight - box.offsetHeight - 8)}px`;
        document.addEventListener("pointerdown", outside, true);
        box.firstChild.focus();
    }
    document.addEventListener("contextmenu", (event) => {
        const button = event.target.closest?.(TABS.map((tab) => `#${tab}_generate`).join());
        if (!button) return;
        event.preventDefault();
        const tab = button.id.replace("_generate", ""), place = button.getBoundingClientRect();
        menu([[t("Generate forever"), () => start(tab)], [t("Cancel generate forever"), () => stop(tab)]],
            event.clientX || place.left, event.clientY || place.bottom, button);
    });

    // ---- a size, pasted ----

    document.addEventListener("paste", (event) => {
        const box = event.target.closest?.(TABS.flatMap((tab) => [`#${tab}_width`, `#${tab}_height`]).join());
        const found = box && /^\s*(\d{2,5})\s*[x×*]\s*(\d{2,5})\s*$/i.exec(event.clipboardData?.getData("text") ?? "");
        if (!found) return;
        event.preventDefault();
        const tab = box.id.replace(/_(width|height)$/, "");
        for (const [k, side] of ["width", "height"].entries()) {
            const input = $(`#${tab}_${side} input[type=number]`);
            write(input, found[k + 1]);
            input.dispatchEvent(new Event("change", { bubbles: true }));
            input.dispatchEvent(new Event("blur"));
        }
    }, true);

    // ---- what a size leaves of the source ----

    let fading = null;
    document.addEventListener("input", (event) => {
        const source = window.easel.source;
        if (!event.target.closest?.("#img2img_width, #img2img_height") || !source?.image || !source.frame) return;
        const [width, height] = ["width", "height"].map((side) => Number($(`#img2img_${side} input[type=number]`)?.value));
        const [w, h] = source.size();
        if (!(width > 0 && height > 0)) return;
        let shown = byId("imageARPreview");
        if (!shown) source.frame.append(shown = make("i", { id: "imageARPreview", "aria-hidden": "true" }));
        const scale = Math.min(w / width, h / height), [x, y] = [width * scale / w * 100, height * scale / h * 100];
        shown.style.cssText = `left:${(100 - x) / 2}%;top:${(100 - y) / 2}%;width:${x}%;height:${y}%`;
        clearTimeout(fading);
        fading = setTimeout(() => shown.remove(), 2000);
    });

    // ---- words for the source picture ----

    window.easel.interrogate = async (model) => {
        const source = window.easel.source, button = byId(model === "clip" ? "interrogate" : "deepbooru");
        if (!source?.image) return toast(t("There is no picture yet that could be described."));
        button.disabled = true;
        try {
            const picture = source.strokes.paint.length ? await new Promise((done) => source.painted().toBlob(done, "image/png")) : source.blob;
            let view = await ask("easel/interrogate", "POST", { image: await store(picture), model });
            while (["queued", "running"].includes(view.state)) {
                await pause(300);
                view = await ask(`model-tasks/${view.id}`);
            }
            if (view.result == null) throw new Error(view.error || t("The picture could not be described."));
            write($("#img2img_prompt textarea"), view.result);
        } catch (error) {
            toast(error.message, "error");
        } finally {
            button.disabled = false;
        }
    };
    window.easel.whenThere(["interrogate"], (button) => {
        button.setAttribute("aria-label", t("Describe the source picture in the prompt (CLIP)"));
        button.title = t(window.easel.noWords || "Describe the source picture in the prompt (CLIP)");
        button.disabled = Boolean(window.easel.noWords);
    });
    window.easel.whenThere(["deepbooru"], (button) => {
        button.hidden = !window.easel.tagger;  // few have its file, and the row is full
        button.title = t("Write the source picture's tags into the prompt (DeepBooru)");
        button.setAttribute("aria-label", button.title);
    });

    // ---- the screen stays awake while something is drawn ----

    let awake = null;
    async function wake() {
        const wanted = document.body.classList.contains("easel-running") && option("prevent_screen_sleep_during_generation", true);
        if (!wanted) {
            awake?.release().catch(() => {});
            awake = null;
        } else if (!awake && !document.hidden && navigator.wakeLock) {
            awake = await navigator.wakeLock.request("screen").catch(() => null);
            awake?.addEventListener("release", () => { awake = null; });
        }
    }
    new MutationObserver(wake).observe(document.body ?? document.documentElement, { attributes: true, attributeFilter: ["class"] });
    document.addEventListener("visibilitychange", wake);

    // ---- how the gallery is shown ----

    function shape() {
        const height = String(option("gallery_height", ""));
        for (const tab of [...TABS, "extras"]) {
            const root = byId(`${tab}_gallery`);
            if (!root) continue;
            root.classList.toggle("easel-no-pictures", Boolean(option("do_not_show_images", false)));
            const stage = $(".easel-stage", root);
            stage.style.height = stage.style.minHeight = CSS.supports("height", height) ? height : "";
        }
        document.documentElement.style.setProperty("--easel-editor-height", `${option("img2img_editor_height", 720)}px`);
    }
    document.addEventListener("easel:mounted", shape);
    document.addEventListener("easel:settings", shape);
    shape();

    // A middle click opens a picture in a tab of its own.
    document.addEventListener("auxclick", (event) => {
        const image = event.button === 1 && event.target.closest?.("img.easel-picture, .easel-thumbs img");
        if (!image) return;
        event.preventDefault();
        window.open(image.src.replace(/\/thumbnail$/, ""), "_blank", "noopener");
    });

    // ---- the divider between settings and pictures: dragged, moved by arrow keys, back by a double click ----

    const SPLIT = "easel.split", LEAST = 320, STEP = 24;  // pixels
    let left = Number(localStorage.getItem(SPLIT)) || 0;
    function split(width = left) {
        left = width;
        try { if (left) localStorage.setItem(SPLIT, String(left)); else localStorage.removeItem(SPLIT); } catch { /* private windows may refuse */ }
        for (const root of document.querySelectorAll(".easel-workspace")) {
            if (left) root.style.setProperty("--easel-left", `${left}px`);
            else root.style.removeProperty("--easel-left");
            $(".easel-divider", root)?.setAttribute("aria-valuenow", String(left || LEAST));
        }
    }
    function divide(tab) {
        const root = byId(`${tab}_workspace`);
        if (!root || $(".easel-divider", root)) return;
        const line = make("div", { class: "easel-divider", role: "separator", tabindex: "0", "aria-orientation": "vertical", "aria-valuemin": String(LEAST), "aria-valuemax": "4000",
            "aria-label": t("Width of the settings"), title: t("Drag: another width · double click: the usual one") });
        const most = () => root.clientWidth - LEAST;
        const put = (width) => split(Math.round(Math.max(LEAST, Math.min(most(), width))));
        const now = () => $(".easel-toprow", root).getBoundingClientRect().width;
        line.addEventListener("pointerdown", (event) => {
            if (event.button !== 0) return;
            event.preventDefault();
            line.setPointerCapture(event.pointerId);
            const [from, before] = [event.clientX, now()], sign = getComputedStyle(root).direction === "rtl" ? -1 : 1;
            line.onpointermove = (moved) => put(before + sign * (moved.clientX - from));
            line.onpointerup = line.onpointercancel = () => { line.onpointermove = null; };
        });
        line.addEventListener("dblclick", () => split(0));
        line.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
            if (by) put(now() + by);
            else if (event.key === "Home" || event.key === "Enter") split(0);
            else return;
            event.preventDefault();
            event.stopPropagation();
        });
        root.append(line);
        split();
    }
    document.addEventListener("easel:mounted", ({ detail }) => divide(detail));
    [...TABS, "extras"].forEach(divide);
})();
