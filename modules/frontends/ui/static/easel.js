// The page's script. Gradio holds the form; jobs are followed here, by id, whatever happens to the page.
//
//   makePanel(TAB)      a tab that draws: its session of jobs, its event stream, its gallery
//     follow            one event stream at a time: the oldest unfinished job of this tab
//     gallery           pictures of the session, the picture so far, the one selected
//   viewer              the whole window for one picture
//   easel               what Gradio's events and the other scripts call
//
// Addresses are relative to the page, so that a sub-path behind a proxy works.
"use strict";
(() => {
    const TABS = ["txt2img", "img2img"];
    const PANELS = [...TABS, "extras"];  // tabs whose jobs are followed; those before it have a form of Gradio's
    const TITLE = document.title || "Easel";
    const FINAL = new Set(["done", "failed", "cancelled"]);
    const MOST_WAITED = 3000;  // milliseconds that a form waits for the answer to the one before it
    const ROOT = new URL("./", document.baseURI);

    // ---- small tools ----

    const $ = (selector, from = document) => from.querySelector(selector);
    const byId = (id) => document.getElementById(id);
    const make = (tag, attributes = {}, ...children) => {
        const element = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        element.append(...children);
        return element;
    };
    const address = (path) => new URL(path, ROOT).href;
    const pictureOf = (record) => address(`pictures/${encodeURIComponent(record.id)}`);
    const stored = (key, other) => {
        try { return JSON.parse(localStorage.getItem(key)) ?? other; } catch { return other; }
    };
    const store = (key, value) => {
        try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* private windows may refuse */ }
    };
    /** A sentence for people in the page's language; {name} in it stands for a value. */
    const t = (text, values = {}) =>
        (easel.words[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
    /** A sentence of the server, likewise; {name} in the words stands for whatever is written there. */
    function heard(message) {
        if (Object.hasOwn(easel.words, message)) return easel.words[message];
        patterns ??= Object.keys(easel.words).filter((key) => /\{\w+\}/.test(key)).map((key) => {
            const names = [...key.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
            const parts = key.split(/\{\w+\}/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
            return { key, names, sure: key.replace(/\{\w+\}/g, "").length, test: new RegExp(`^${parts.join("(.*)")}$`, "s") };
        }).sort((a, b) => b.sure - a.sure);
        for (const { key, names, test } of patterns) {
            const found = test.exec(message);
            if (found) return t(key, Object.fromEntries(names.map((name, k) => [name, found[k + 1]])));
        }
        return message;
    }
    let patterns = null;
    const titled = (text) => { document.title = easel.options.show_progress_in_title === false ? TITLE : text; };
    /** Where a character of Python's count stands in a string of JavaScript's. */
    function utf16(text, position) {
        let at = 0;
        for (const character of text) {
            if (position-- <= 0) break;
            at += character.length;
        }
        return at;
    }
    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

    /** JSON of an address; an Error with the server's sentence, and its status, where it refuses. */
    async function ask(path, method = "GET", body = {}) {
        const sent = { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
        const options = method === "GET" ? {} : sent;
        const answer = await fetch(address(path), options);
        const data = await answer.json().catch(() => ({}));
        if (!answer.ok) {
            throw Object.assign(new Error(data.message || t("The server answered {status}.", { status: answer.status })),
                { status: answer.status });
        }
        return data;
    }

    function duration(seconds) {
        const s = Math.max(0, Math.round(seconds)), two = (n) => String(n).padStart(2, "0");
        if (s < 60) return `${s}s`;
        if (s < 3600) return `${two(Math.floor(s / 60))}:${two(s % 60)}`;
        return `${two(Math.floor(s / 3600))}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    }

    /** One sentence in a corner; `kind` is error, warning or note, `acts` what can be done about it, by name. */
    function toast(message, kind = "note", acts = {}) {
        let place = byId("easel_toasts");
        if (!place) {
            place = make("div", { id: "easel_toasts" });
            new MutationObserver(() => settle()).observe(place, { childList: true });
            setInterval(() => { if (byId("easel_toasts")?.childElementCount) settle(); }, 300);  // whatever opens beneath
        }
        for (const old of place.children) if (old.dataset.message === message) old.remove();
        const close = make("button", { type: "button", "aria-label": t("Close this message") }, "×");
        const box = make("div", { class: `easel-toast ${kind}`, role: kind === "error" ? "alert" : "status" },
            make("span", { translate: "no" }, heard(message)), ...Object.entries(acts).map(([name, act]) => {
                const made = make("button", { type: "button", class: "easel-link act" }, name);
                made.onclick = () => { act(); box.remove(); };
                return made;
            }), close);
        box.dataset.message = message;
        close.onclick = () => box.remove();
        const shown = kind === "error" ? 30000 : kind === "warning" || Object.keys(acts).length ? 12000 : 4000;
        let going = 0;
        const wait = () => { going = setTimeout(() => box.remove(), shown); };
        box.onpointerenter = () => clearTimeout(going);  // being read
        box.onpointerleave = wait;
        place.append(box);
        wait();
        settle(place);
    }

    // Messages lie in the first of these places where they cover nothing that is clicked or written in, or else where
    // they cover least. [x, y]: 0 left or top, 1 right or bottom. Narrow windows have room for nothing beside anything:
    // there they lie at the bottom, above what is fixed there, and the page can be scrolled out from under them.
    const CORNERS = [[1, 0], [1, 1], [0, 1], [0.5, 1], [0.5, 0], [0, 0]], BOTTOM = 1;
    const CLICKED = "button, a[href], input, select, textarea, summary, [role=button], [role=tab]";
    const EDGE = 16, NARROW = 900;  // pixels
    function settle(place = byId("easel_toasts")) {
        if (!place) return;
        const host = [...document.querySelectorAll("dialog:modal")].pop() ?? document.body, narrow = innerWidth <= NARROW;
        if (place.parentElement !== host) host.append(place);
        const { offsetWidth: width, offsetHeight: height } = place, said = place.childElementCount ? height + EDGE : 0;
        document.documentElement.style.setProperty("--easel-said", narrow ? `${said}px` : "0px");
        if (!said) return;
        const bar = host === document.body && [...document.querySelectorAll(".easel-generate-box")]
            .find((one) => one.offsetHeight && getComputedStyle(one).position === "fixed");
        const below = EDGE + (bar ? bar.offsetHeight : 0);
        // What lies in a closed fold has a place, though it is not seen.
        const there = [...host.querySelectorAll(CLICKED)]
            .filter((one) => !place.contains(one) && !one.matches(".easel-picture") && one.checkVisibility())
            .map((one) => one.getBoundingClientRect()).filter((box) => box.width && box.height);
        const covered = ([x, y]) => {
            const left = EDGE + x * (innerWidth - width - 2 * EDGE), top = y ? innerHeight - height - below : EDGE;
            return there.reduce((sum, box) => sum + Math.max(0, Math.min(box.right, left + width) - Math.max(box.left, left))
                * Math.max(0, Math.min(box.bottom, top + height) - Math.max(box.top, top)), 0);
        };
        let best = Number(place.dataset.corner ?? 0);  // it stays as long as it may
        if (narrow) best = BOTTOM;
        else if (covered(CORNERS[best])) {
            const costs = CORNERS.map(covered);
            best = costs.indexOf(Math.min(...costs));
        }
        const [x, y] = CORNERS[best];
        place.dataset.corner = String(best);
        place.style.left = `calc(${EDGE}px + ${x} * (100vw - ${width + 2 * EDGE}px))`;
        [place.style.top, place.style.bottom] = y ? ["auto", `${below}px`] : [`${EDGE}px`, "auto"];
    }
    document.addEventListener("close", () => settle(), true);  // at once: some windows are gone once they are closed
    // Escape takes the newest message away, where it has nothing else to do.
    document.addEventListener("keydown", (event) => {
        const last = byId("easel_toasts")?.lastElementChild;
        if (event.key !== "Escape" || event.defaultPrevented || !last || $("dialog[open]")) return;
        event.preventDefault();
        last.remove();
    });

    const seedOf = (record, key = "Seed") =>
        new RegExp(`(?:^|, )${key}: (\\d+)`, "m").exec(record.infotext)?.[1] ?? (key === "Seed" ? String(record.seed) : null);
    const alt = (record) => record.infotext.split("\n")[0].slice(0, 200) || t("Picture with seed {seed}", { seed: seedOf(record) });

    /** An infotext to read: prompt, negative prompt, and the parameters as pairs. Text only, never HTML. */
    function infoBox(infotext) {
        const lines = infotext.split("\n");
        const last = lines.length > 1 && /^Steps: /.test(lines[lines.length - 1]) ? lines.pop() : "";
        const at = lines.findIndex((line) => line.startsWith("Negative prompt: "));
        const prompt = (at < 0 ? lines : lines.slice(0, at)).join("\n");
        const box = make("div", { class: "easel-info", translate: "no" });
        if (prompt) box.append(make("p", { class: "positive" }, prompt));
        if (at >= 0) {
            const negative = lines.slice(at).join("\n").slice("Negative prompt: ".length);
            box.append(make("p", { class: "negative" }, make("span", {}, t("Negative prompt")), ` ${negative}`));
        }
        const pairs = make("dl");
        for (const [, key, value] of last.matchAll(/\s*([^:,]+): ("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)/g)) {
            pairs.append(make("div", {}, make("dt", {}, key), make("dd", {}, value)));
        }
        box.append(pairs);
        return box;
    }

    /** A tab that draws. Its blocks may come into the page only when the tab is first opened. */
    function makePanel(TAB) {
        const SESSION = `easel.${TAB}.session`;

        // ---- the session: jobs that this browser submitted since it was last idle ----

        const session = {
            jobs: [],      // {id, view} in order of submission
            active: null,  // id being followed
            add(id, beside = false) {
                if (!beside && this.jobs.every((job) => job.over)) {
                    this.jobs = [];
                    gallery.clear();
                }
                if (!this.jobs.some((job) => job.id === id)) this.jobs.push({ id, over: false });
                this.keep();
            },
            job(id) { return this.jobs.find((job) => job.id === id); },
            waiting() { return this.jobs.filter((job) => !job.over && job.id !== this.active); },
            keep() { store(SESSION, this.jobs.slice(-50).map((job) => job.id)); },
        };

        /** Follow the oldest job that is not over; nothing where there is none. */
        function pump() {
            if (session.active) return showQueue();
            const next = session.jobs.find((job) => !job.over);
            if (next) follow(next.id); else idle();
            showQueue();
        }

        let stream = null, active = false;
        let stopping = false;  // interrupt after the picture at hand
        const cancel = (id) => ask(`jobs/${id}/cancel`, "POST").catch((error) => toast(error.message, "error"));

        async function follow(id) {
            session.active = id;
            stopping = false;
            gallery.begin();
            running(true);
            say(t("Starting…"), null);
            while (session.active === id) {
                try {
                    const view = await ask(`jobs/${encodeURIComponent(id)}`);
                    if (session.active !== id) return;
                    gallery.shape(view.request);
                    view.images.forEach((record) => gallery.add(record));
                    warn(id, view.warnings);
                    if (FINAL.has(view.state)) return over(id, view);
                    if (view.state === "queued") waitingLine(view);
                    if (view.state === "running") progress(view);
                    await streamOf(id);
                    if (session.active === id) await pause(500);  // the stream broke: look at the job and come back
                } catch (error) {
                    if (error.status === 404) return over(id, null);
                    say(t("The connection to Easel is lost; trying again…"), null);
                    await pause(1500);
                }
            }
        }

        /** Events of a job until its end, or until the stream is closed for good. */
        function streamOf(id) {
            return new Promise((resolve) => {
                const source = new EventSource(address(`events/${encodeURIComponent(id)}`));
                let queued = null;
                const close = () => {
                    clearInterval(queued);
                    source.close();
                    if (stream === source) stream = null;
                    resolve();
                };
                stream?.close();
                stream = source;
                source.onmessage = (message) => {
                    const event = JSON.parse(message.data);
                    if (session.active !== id || event.kind === "end") return close();
                    if (event.kind === "queued") {
                        queued ??= setInterval(() => ask(`jobs/${id}`).then(waitingLine, () => {}), 2000);
                    } else {
                        clearInterval(queued);
                    }
                    if (event.kind === "progress") progress(event);
                    else if (event.kind === "started") say(t("Loading the model…"), null);
                    else if (event.kind === "preview") gallery.preview(address(event.url));
                    else if (event.kind === "image") {
                        const fresh = gallery.add(event.record);
                        if (fresh && stopping && gallery.countOf(id) % gallery.each === 0) cancel(id);
                    }
                    else if (event.kind === "warned") warn(id, [event.message]);
                    else if (FINAL.has(event.kind)) {
                        close();
                        ask(`jobs/${id}`).then((view) => over(id, view), () => over(id, null));
                    }
                };
                source.onerror = () => {
                    if (source.readyState === EventSource.CLOSED) close();
                    else say(t("The connection to Easel is lost; trying again…"), null);
                };
            });
        }

        /** Warnings of a job, each once, whether they came as events or with the job. */
        function warn(id, messages) {
            const job = session.job(id);
            for (const message of messages) {
                if (job?.warned?.has(message)) continue;
                if (job) (job.warned ??= new Set()).add(message);
                toast(message, "warning");
            }
        }

        /** A job came to its end (`view`), or is not known any more (null). */
        function over(id, view) {
            if (session.active !== id) return;
            const job = session.job(id);
            if (job) job.over = true;
            session.active = null;
            view?.images.forEach((record) => gallery.add(record));
            gallery.end();
            if (view) closing(view);
            pump();
            if (view) document.dispatchEvent(new CustomEvent("easel:over", { detail: { tab: TAB, view } }));
        }

        function closing(view) {
            const seconds = view.finished && view.started ? view.finished - view.started : 0;
            const count = view.images.filter(({ role, incomplete, path }) => role !== "mask" && (path || !incomplete)).length;
            const lost = view.images.some(({ incomplete, path }) => incomplete && !path);
            const pictures = count === 1 ? t("1 picture") : t("{n} pictures", { n: count });
            const unsaved = view.images.filter((record) => record.problem);
            const saved = view.images.find((record) => record.path);
            let line = "";
            if (view.state === "done") line = t("{pictures} in {seconds} s", { pictures, seconds: seconds.toFixed(1) });
            if (view.state === "cancelled") line = count ? t("Interrupted; {pictures} kept", { pictures }) : t("Interrupted");
            if (saved) line += ` · ${t("saved in {folder}", { folder: saved.path.replace(/[\\/][^\\/]*$/, "") })}`;
            if (lost) line += ` · ${t("what was stopped is not saved")}`;
            if (view.state === "failed") line = view.error ? heard(view.error) : t("The job failed.");
            log(line, view.state === "failed" ? "error" : "");
            if (view.state === "failed") toast(line, "error");
            for (const message of new Set(unsaved.map((record) => record.problem))) toast(message, "error");
        }

        // ---- progress ----

        function progress(at) {
            const steps = at.steps || 0, fraction = steps ? Math.min(1, at.step / steps) : 0;
            const percent = Math.floor(fraction * 100);
            const eta = at.eta == null ? "" : ` ETA: ${duration(at.eta)}`;
            if (!at.step) return say(`${heard(at.text || "Starting")}…`, null);
            const words = [heard(at.text || "Sampling")];
            if (steps) words.push(`${at.step}/${steps}`, `${percent}%`);
            if (at.eta != null) words.push(t("{time} left", { time: duration(at.eta) }));
            say(words.join(" · "), fraction);
            titled(`[${percent}%${eta}] ${TITLE}`);
        }

        function waitingLine(view) {
            if (view.state !== "queued" || session.active !== view.id) return;
            say(view.position > 1 ? t("Waiting, place {n} in the queue", { n: view.position }) : t("Waiting for the worker…"), null);
            titled(`[${t("In queue")}] ${TITLE}`);
            if (view.position > 1) return;
            ask("queue").then(({ held }) => {
                if (held && session.active === view.id) say(t("The queue is paused; it goes on from the Queue tab."), null);
            }, () => {});
        }

        /** The line over the picture and the bar; `fraction` null is "something is going on". */
        function say(text, fraction) {
            const root = gallery.root();
            if (!root) return;
            const status = $(".easel-status", root), bar = $(".easel-bar", root);
            status.hidden = !text;
            $(".easel-status-text", root).textContent = text || "";
            bar.classList.toggle("on", Boolean(text));
            bar.classList.toggle("unknown", fraction == null);
            bar.firstElementChild.style.width = fraction == null ? "" : `${fraction * 100}%`;
            if (fraction == null) bar.removeAttribute("aria-valuenow");
            else bar.setAttribute("aria-valuenow", String(Math.floor(fraction * 100)));
        }

        function running(on) {
            active = on;
            document.body.classList.toggle("easel-running", Object.values(panels).some((panel) => panel.active()));
            for (const id of [`${TAB}_interrupt`, `${TAB}_skip`]) if (byId(id)) byId(id).disabled = !on;
            if (byId(`${TAB}_interrupt`)) byId(`${TAB}_interrupt`).textContent = t("Interrupt");
        }

        function idle() {
            running(false);
            say("", 0);
            if (!document.body.classList.contains("easel-running")) document.title = TITLE;
        }

        function showQueue() {
            const place = byId(`${TAB}_queue`), count = session.waiting().length;
            if (!place) return;
            place.replaceChildren();
            if (!count) return;
            const clear = make("button", { type: "button", class: "easel-link" }, t("Clear"));
            clear.onclick = () => {
                for (const job of session.waiting()) {
                    job.over = true;
                    ask(`jobs/${job.id}/cancel`, "POST").catch((error) => toast(error.message, "error"));
                }
                showQueue();
            };
            place.append(make("div", { class: "easel-queue", role: "status" }, `${t("{n} in queue", { n: count })} · `, clear));
        }

        function log(text, kind = "") {
            const place = byId(`html_log_${TAB}`);
            if (place) place.replaceChildren(make("div", { class: `easel-log ${kind}` }, text));
        }

        // ---- the gallery ----

        const gallery = {
            records: [],
            selected: -1,    // index of the picture shown; the live preview where `live`
            live: false,     // a job is running and the stage shows its preview
            pinned: false,   // the user chose a picture while a job runs
            previewUrl: null,
            size: [1, 1],
            previewSize: [1, 1],
            batches: 1,      // of the running job, and pictures in each
            each: 1,
            several: false,  // the running job draws more than one picture: its row is there from the start

            root() { return byId(`${TAB}_gallery`); },
            current() { return this.records[this.selected]; },

            clear() {
                this.records = [];
                this.selected = -1;
                this.previewUrl = null;
                this.pinned = false;
                info(null);
                log("");
                this.draw();
            },
            begin() {
                this.live = true;
                this.pinned = false;
                this.previewUrl = null;
                this.draw();
            },
            end() {
                this.live = false;
                this.previewUrl = null;
                this.tidy();
                if (!this.pinned) this.selected = this.firstOfNewest();
                this.draw();
            },
            /** Parts of a finished grid that were not asked for by themselves are not shown; they are in the folder. */
            tidy() {
                const whole = new Set(this.records.filter(({ role }) => role === "grid").map(({ job }) => job));
                const shown = this.current();
                this.records = this.records.filter(({ role, job }) => role !== "part" || !whole.has(job));
                this.selected = this.records.indexOf(shown);
                if (this.selected < 0) this.pinned = false;
            },
            /** A job's grid, or its last picture. */
            firstOfNewest() {
                const last = this.records.findLastIndex(({ role }) => role !== "mask"), job = this.records[last]?.job;
                const grid = this.records.findIndex((record) => record.job === job && record.role === "grid");
                return grid < 0 ? last : grid;
            },
            shape(request) {
                this.size = [request.width, request.height];
                [this.batches, this.each] = [request.script ? Infinity : request.n_iter, request.batch_size];
                this.several = request.n_iter * request.batch_size > 1 || Boolean(request.script);
                this.draw();
            },
            add(record) {
                if (this.records.some((known) => known.id === record.id)) return false;
                // Grids of a job come first, masks after all its pictures, whatever was finished first.
                const before = this.records.findIndex(({ job, index }) => job === record.job && index > record.index);
                const at = before < 0 ? this.records.length : before;
                if (this.selected >= at) this.selected += 1;
                this.records.splice(at, 0, record);
                if (!this.pinned && record.role !== "mask") this.selected = record.role === "grid" ? this.firstOfNewest() : at;
                this.previewUrl = null;
                this.draw();
                return true;
            },
            countOf(job) { return this.records.filter((record) => record.job === job && !["grid", "mask"].includes(record.role)).length; },
            preview(url) {
                if (!this.live) return;
                // Shown once it is loaded, so that the stage never flickers; a later one wins.
                const image = new Image();
                image.onload = () => {
                    if (!this.live || this.wanted !== image) return;
                    this.previewUrl = url;
                    // A grid of the batch may be wider, or higher, than one picture.
                    const [w, h] = this.size, wide = (image.naturalWidth * h) / (image.naturalHeight * w);
                    this.previewSize = Math.abs(Math.log(wide)) < 0.2 ? this.size : [w * Math.max(1, wide), h * Math.max(1, 1 / wide)];
                    this.draw();
                };
                this.wanted = image;
                image.src = url;
            },
            remove(id) {
                const at = this.records.findIndex((record) => record.id === id);
                if (at < 0) return;
                this.records.splice(at, 1);
                if (this.selected >= at) this.selected = Math.max(this.selected - 1, this.records.length - 1 < 0 ? -1 : 0);
                this.draw();
            },
            select(index) {
                if (!this.records.length) return;
                this.selected = (index + this.records.length) % this.records.length;
                this.pinned = true;
                this.draw();
            },
            showsPreview() { return this.live && !this.pinned && this.previewUrl; },

            draw() {
                const root = this.root();
                if (!root) return;
                const record = this.current();
                const frame = $(".easel-frame", root), empty = $(".easel-empty", root);
                const showing = this.showsPreview() || record || this.live;
                root.dataset.state = this.live ? "running" : record ? "pictures" : "empty";
                frame.hidden = !showing;
                empty.hidden = Boolean(showing);
                if (this.showsPreview()) this.drawFrame(frame, this.previewUrl, t("The picture so far"), this.previewSize, "preview");
                else if (record) {
                    const size = [record.width, record.height];
                    this.drawFrame(frame, pictureOf(record), alt(record), size, "picture");
                } else if (this.live) this.drawFrame(frame, null, "", this.size, "blank");
                this.drawThumbs(root);
                const tools = byId(`image_buttons_${TAB}`);
                if (tools) tools.hidden = !record;
                if (record) {
                    const save = byId(`download_${TAB}`);
                    if (save) save.href = `${pictureOf(record)}?download=true`;
                }
                info(record);
                viewer.draw();
                document.dispatchEvent(new CustomEvent("easel:shown", { detail: { tab: TAB, record, frame } }));
            },
            drawFrame(frame, url, text, [width, height], kind) {
                frame.dataset.kind = kind;
                // Of the stage: on narrow screens it is no higher than the picture wants.
                frame.parentElement.style.setProperty("--w", width);
                frame.parentElement.style.setProperty("--h", height);
                let image = $("img", frame);
                if (!url) return frame.replaceChildren();
                if (!image) {
                    image = make("img", { class: "easel-picture", tabindex: "0", role: "button", decoding: "async" });
                    image.onclick = () => { if (easel.options.js_modal_lightbox !== false) viewer.open(this); };
                    frame.replaceChildren(image);
                }
                if (image.getAttribute("src") !== url) image.src = url;
                image.alt = text;
                image.setAttribute("aria-label", kind === "picture" ? `${text}. ${t("Enlarge")}` : text);
            },
            drawThumbs(root) {
                const row = $(".easel-thumbs", root);
                const tiles = this.records.length + (this.live ? 1 : 0);
                row.hidden = tiles < 2 && !(this.live && this.several);
                const old = new Map([...row.children].map((tile) => [tile.dataset.id, tile]));
                this.records.forEach((record, index) => {
                    let tile = old.get(record.id);
                    if (!tile) {
                        const image = make("img", { loading: "lazy", decoding: "async", alt: "" });
                        image.src = `${pictureOf(record)}/thumbnail`;
                        tile = make("button", { type: "button", class: "thumbnail-item" }, image);
                        tile.dataset.id = record.id;
                    }
                    if (row.children[index] !== tile) row.insertBefore(tile, row.children[index] ?? null);
                    tile.onclick = () => this.select(index);
                    const chosen = index === this.selected && !this.showsPreview();
                    tile.classList.toggle("selected", chosen);
                    tile.setAttribute("aria-pressed", String(chosen));
                    tile.setAttribute("aria-label", t("Picture {n} of {count}, seed {seed}", { n: index + 1, count: this.records.length, seed: seedOf(record) }));
                    old.delete(record.id);
                });
                old.forEach((tile) => tile.remove());
                if (this.live) {
                    const tile = make("button", { type: "button", class: "thumbnail-item live", "aria-label": t("The picture being drawn") });
                    tile.dataset.id = "live";
                    tile.classList.toggle("selected", Boolean(this.showsPreview()));
                    tile.onclick = () => { this.pinned = false; this.draw(); };
                    row.append(tile);
                }
                if (!this.pinned) row.scrollLeft = row.scrollWidth;
            },
        };

        /** What the picture shown was drawn with. */
        function info(record) {
            const place = byId(`html_info_${TAB}`);
            if (!place || place.dataset.shown === (record?.id ?? "")) return;
            place.dataset.shown = record?.id ?? "";
            place.replaceChildren();
            if (!record) return;
            const box = infoBox(record.infotext);
            if (record.filmstrip) {
                const strip = make("img", { class: "easel-filmstrip", loading: "lazy", alt: t("The picture after some of its steps") });
                strip.src = `${pictureOf(record)}/filmstrip`;
                box.prepend(strip);
            }
            place.append(box);
        }

        return {
            session, gallery, log,
            active: () => active,
            /** `beside`: its pictures join those that are there. */
            submitted(id, beside = false) {
                session.add(id, beside);
                pump();
            },
            /** Once: after the picture at hand, where others wait behind it; once more: at once. */
            interrupt() {
                if (!session.active) return;
                byId(`${TAB}_interrupt`).textContent = t("Interrupting…");
                if (easel.options.interrupt_after_current && gallery.batches > 1 && !stopping) {
                    stopping = true;
                    return say(t("Interrupting after this picture; press once more to stop at once"), null);
                }
                cancel(session.active);
            },
            skip() {
                if (!session.active) return;
                ask(`jobs/${session.active}/skip`, "POST").catch((error) => toast(error.message, "error"));
            },
            /** The tab's blocks came into the page. */
            mounted() {
                label(TAB);
                running(Boolean(session.active));
                gallery.draw();
                showQueue();
            },
            kept() {
                const ids = stored(SESSION, []);
                return Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [];
            },
            /** Jobs of an earlier visit, oldest first. */
            comeBack(views) {
                for (const view of views) {
                    if (session.job(view.id)) continue;
                    session.jobs.push({ id: view.id, over: FINAL.has(view.state) });
                    if (FINAL.has(view.state)) view.images.forEach((record) => gallery.add(record));
                }
                gallery.tidy();
                if (!gallery.pinned) gallery.selected = gallery.firstOfNewest();
                session.keep();
                const last = views[views.length - 1];
                if (last && FINAL.has(last.state)) closing({ ...last, error: null, state: last.state === "failed" ? "" : last.state });
                pump();
            },
        };
    }

    const panels = Object.fromEntries(PANELS.map((tab) => [tab, makePanel(tab)]));
    const shownTab = () => PANELS.find((tab) => byId(`${tab}_generate`)?.offsetParent) ?? null;
    const tabOf = ({ request: { source } }) => source?.extras ? "extras" : source ? "img2img" : "txt2img";

    // ---- the whole window for one picture ----

    const viewer = {
        dialog: null,
        gallery: null,
        build() {
            const button = (name, label, text, act) => {
                const made = make("button", { type: "button", class: name, "aria-label": label, title: label }, text);
                made.onclick = act;
                return made;
            };
            this.image = make("img", { alt: "" });
            this.save = button("save", t("Save (S)"), "⤓", () => byId(`save_${shownTab()}`)?.click());
            this.dialog = make("dialog", { id: "lightboxModal", class: "easel-viewer", "aria-label": t("Picture") },
                this.image,
                button("previous", t("Previous picture (←)"), "‹", () => this.turn(-1)),
                button("next", t("Next picture (→)"), "›", () => this.turn(1)),
                make("div", { class: "bar" }, this.save,
                    button("zoom", t("Own size or whole window (Z)"), "⤡", () => this.zoom()),
                    button("tile", t("Side by side with itself (T)"), "⊞", () => this.tile()),
                    button("close", t("Close (Esc)"), "×", () => this.dialog.close())));
            this.dialog.addEventListener("click", (event) => {
                if (event.target === this.dialog) this.dialog.close();
            });
            this.image.onclick = () => this.zoom();
            document.body.append(this.dialog);
        },
        get isOpen() { return Boolean(this.dialog?.open); },
        zoom() { this.dialog.classList.toggle("actual"); },
        /** Whether it could be laid side by side: the window filled with it. */
        tile() {
            const on = this.dialog.classList.toggle("tiled");
            this.dialog.style.backgroundImage = on ? `url("${this.image.src}")` : "";
        },
        turn(by) { this.gallery.select(this.gallery.selected + by); },
        open(gallery) {
            if (!gallery?.current()) return;
            this.gallery = gallery;
            if (!this.dialog) this.build();
            if (!this.isOpen) {
                if (this.dialog.classList.contains("tiled")) this.tile();
                this.dialog.classList.toggle("actual", easel.options.js_modal_lightbox_initially_zoomed === false);
                this.dialog.showModal();
            }
            this.draw();
        },
        draw() {
            if (!this.isOpen) return;
            const record = this.gallery.current();
            if (!record) return this.dialog.close();
            this.image.src = pictureOf(record);
            this.image.alt = alt(record);
            if (this.dialog.classList.contains("tiled")) this.dialog.style.backgroundImage = `url("${this.image.src}")`;
            this.dialog.classList.toggle("single", this.gallery.records.length < 2);
        },
        key(event) {
            const acts = {
                ArrowLeft: () => this.turn(-1),
                ArrowRight: () => this.turn(1),
                s: () => this.save.click(),
                z: () => this.zoom(),
                t: () => this.tile(),
            };
            const act = acts[event.key];
            if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
            event.preventDefault();
            act();
        },
    };

    // ---- the form ----

    /** Write into a Gradio text box as a hand would. */
    function write(box, text) {
        box.value = text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function markField(id) {
        const box = id && $("textarea, input", byId(id) ?? document.createElement("div"));
        if (!box) return;
        box.setAttribute("aria-invalid", "true");
        box.focus();
        box.addEventListener("input", () => box.removeAttribute("aria-invalid"), { once: true });
    }

    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
            toast(t("Copied."));
        } catch {
            toast(t("The browser does not let this page copy; select the text below the picture instead."), "warning");
        }
    }

    /** The button of a tab that a narrow window has put away: Gradio knows it by its name only. */
    function further(name) {
        const found = Object.values(window.gradio_config.components).find(({ props }) => props.elem_id === `tab_${name}`);
        const names = [found?.props.label, t(found?.props.label ?? "")];
        return [...document.querySelectorAll("#tabs > .tab-wrapper .overflow-dropdown button")]
            .find((button) => names.includes(button.textContent.trim()));
    }

    /** Open a tab of the page and wait until its blocks are there. */
    async function openTab(name, wanted) {
        (byId(`tab_${name}-button`) ?? further(name))?.click();
        for (let k = 0; k < 200 && !byId(wanted); k++) await pause(25);
        await pause(60);  // and until Gradio listens to them
    }

    /** Let a tab's form take what an infotext tells. */
    let incoming = "";
    async function take(tab, infotext) {
        await openTab(tab, `${tab}_take`);
        incoming = infotext;
        byId(`${tab}_take`).click();
    }

    /** Let a tab's form take values, as its draft and presets hold them. */
    async function fill(tab, values) {
        await openTab(tab, `${tab}_fill`);
        incoming = JSON.stringify(values);
        byId(`${tab}_fill`).click();
    }

    const without = (infotext, key) => infotext.replace(new RegExp(`(^|, )${key}: [^,\\n]*(, )?`, "m"), (all, before, after) => before && after ? ", " : before && !after ? "" : "");

    /** A picture, its infotext and size go to a tab: "txt2img", "img2img", "extras", or a mode of img2img. */
    async function send(to, { blob, infotext, width, height, id = null }) {
        if (easel.options.send_seed === false) infotext = without(infotext, "Seed");
        if (easel.options.send_size === false) infotext = without(infotext, "Size");
        if (to === "txt2img") return take("txt2img", infotext);
        if (to === "extras") {
            await openTab("extras", "extras_image");
            return easel.extras.put(blob);
        }
        await openTab("img2img", "mode_img2img");
        await easel.source?.put(blob, to, id);
        // As large as the picture is, which with hires fix is more than it says.
        if (infotext) await take("img2img", infotext.replace(/((?:^|, )Size: )\d+x\d+/m, `$1${width}x${height}`));
    }

    async function sendRecord(to, record) {
        try {
            const answer = await fetch(pictureOf(record));
            if (!answer.ok) throw new Error(t("This picture is not there any more."));
            await send(to, { ...record, blob: await answer.blob() });
        } catch (error) {
            toast(error.message, "error");
        }
    }

    const easel = {
        ...{ words: {}, language: { tag: "en" }, options: {}, ...window.easelPage },  // of ui/routes.py; words: English → the page's language
        source: null,  // the picture of img2img (pictures.js)
        extras: null,  // the pictures to enlarge (extras.js)
        first: null,   // goes with the next form of txt2img: the picture that hires fix goes on from (results.js)
        sending: false,  // a form is on its way
        turn: null,      // the promise that the newest form was answered
        answered: null,  // what keeps it for the form that is on its way
        beside: false, // the next job's pictures join those shown
        /** Calls `act` with elements once all are in the page; Gradio builds a tab piece by piece when it is first opened. */
        whenThere(ids, act) {
            const look = () => {
                const found = ids.map(byId), all = found.every(Boolean);
                if (all) {
                    watching.disconnect();
                    act(...found);
                }
                return all;
            };
            const watching = new MutationObserver(look);
            if (!look()) watching.observe(document.documentElement, { childList: true, subtree: true });
        },
        submitted(tab, answer) {
            const { id, error } = JSON.parse(answer);
            this.sending = false;
            this.answered?.();
            const beside = this.beside;
            this.beside = false;
            if (!error) return panels[tab].submitted(id, beside);
            toast(error.message, "error");
            panels[tab].log(error.message, "error");
            document.dispatchEvent(new CustomEvent("easel:refused", { detail: tab }));
            markField(error.field);
        },
        interrupt(tab) { panels[tab].interrupt(); },
        skip(tab) { panels[tab].skip(); },
        /** What goes with a form: names of uploaded pictures as JSON. */
        async collect(tab) {
            // One form after the other, or a busy server might take the second one first.
            const before = this.turn;
            let done;
            this.turn = new Promise((resolve) => { done = resolve; });
            await Promise.race([before, pause(MOST_WAITED)]);
            this.answered = done;
            this.sending = true;
            const first = this.first;
            this.first = null;
            if (first && tab === "txt2img") return JSON.stringify(first);
            if (tab !== "img2img" || !this.source) return "";
            try {
                return JSON.stringify(await this.source.upload());
            } catch (error) {
                toast(error.message, "error");
                return "";
            }
        },
        incoming: () => incoming,
        seedOfSelected(tab, field, seed) {
            const record = panels[tab].gallery.current();
            if (!record) toast(t("There is no picture yet whose seed could be used again."));
            if (!record) return seed;
            return (field === "subseed" ? seedOf(record, "Variation seed") : seedOf(record)) ?? seed;
        },
        sizeOfSource(size) {
            const found = this.source?.size();
            if (!found) toast(t("There is no picture yet whose size could be taken."));
            return found?.map((side) => Math.min(2048, Math.max(64, side))) ?? size;  // as far as the sliders go
        },
        keep(tab, names, values) {
            const form = Object.fromEntries(names.map((name, k) => [name, values[k]]));
            store(`easel.${tab}.draft`, form);
            document.dispatchEvent(new CustomEvent("easel:form", { detail: { ...form, tab } }));
        },
        tools: { $, byId, make, t, heard, ask, address, copy, toast, write, pause, utf16, infoBox, seedOf, pictureOf, send, take, fill, openTab, shownTab, panels, TABS },
    };
    window.easel = easel;
    window.gradioApp ??= () => document;

    document.addEventListener("keydown", (event) => {
        if (viewer.isOpen) return viewer.key(event);
        const tab = shownTab();
        if (!tab || $("dialog[open]")) return;
        const gallery = panels[tab].gallery;
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            byId(`${tab}_generate`)?.click();
        } else if (event.key === "Enter" && event.altKey) {
            event.preventDefault();
            easel.skip(tab);
        } else if (event.key === "Escape" && panels[tab].session.active && !$("ul.options, [role=listbox]:not([hidden])")) {
            event.preventDefault();
            easel.interrupt(tab);
        } else if (gallery.root()?.contains(document.activeElement)) {
            if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
                event.preventDefault();
                gallery.select(gallery.selected + (event.key === "ArrowLeft" ? -1 : 1));
            } else if ((event.key === "Enter" || event.key === " ") && event.target.matches("img.easel-picture")) {
                event.preventDefault();
                viewer.open(gallery);
            }
        }
    }, true);

    document.addEventListener("click", (event) => {
        const example = event.target.closest?.(".easel-example");
        if (example) {
            const box = $("#txt2img_prompt textarea");
            write(box, example.textContent);
            box.focus();
        }
        const tool = event.target.closest?.("[data-do]");
        const gallery = panels[shownTab()]?.gallery, record = gallery?.current();
        if (!tool || !record) return;
        if (tool.dataset.do === "copy") copy(record.infotext);
        if (tool.dataset.do === "enlarge") viewer.open(gallery);
        if (tool.dataset.do === "send") sendRecord(tool.dataset.to, record);
    });

    // A slider takes a typed number beyond its ends as its end, without a word: say it.
    document.addEventListener("change", (event) => {
        const box = event.target;
        if (!box.matches?.(".easel-slider input[type=number]") || box.value === "") return;
        const value = Number(box.value), taken = Math.min(Math.max(value, Number(box.min)), Number(box.max));
        if (value === taken) return;
        const name = $("label", box.closest(".easel-slider")).textContent.trim();
        toast(t("{name} goes from {min} to {max}; {value} was taken as {taken}.", { name, min: box.min, max: box.max, value, taken }), "warning");
    }, true);

    /** Names for what Gradio leaves without one, and hints that need no place. */
    function label(tab, tries = 40) {
        const names = {
            [`#${tab}_prompt textarea`]: t("Prompt"), [`#${tab}_neg_prompt textarea`]: t("Negative prompt"),
            [`#${tab}_res_switch_btn`]: t("Swap width and height"), [`#${tab}_random_seed`]: t("Draw a new seed each time"),
            [`#${tab}_reuse_seed`]: t("Use the seed of the picture shown"), "#refresh_sd_model_checkpoint": t("Look for new files"),
            [`#${tab}_random_subseed`]: t("Draw a new variation seed each time"),
            [`#${tab}_reuse_subseed`]: t("Use the variation seed of the picture shown"),
            [`#${tab === "txt2img" ? "paste" : `${tab}_paste`}`]:
                "Read the settings of a picture from the prompt box; the last picture's if it is empty",
            "#img2img_detect_image_size_btn": t("Take the size of the source picture"),
        };
        let late = false;
        for (const [selector, name] of Object.entries(names)) {
            const element = $(selector);
            if (!element) {
                late ||= selector.includes(tab) || selector === "#paste";
                continue;
            }
            element.setAttribute("aria-label", name);
            if (element.tagName === "BUTTON") element.title = name;
        }
        if (late && tries) setTimeout(() => label(tab, tries - 1), 100);  // a busy machine puts parts in later
        if (byId(`${tab}_generate`) && !byId(`${tab}_generate`).title) byId(`${tab}_generate`).title = "Ctrl+Enter";
        byId(`${tab}_interrupt`)?.setAttribute("title", t("Stop this job (Esc)"));
        byId(`${tab}_skip`)?.setAttribute("title", t("Go on with the next picture (Alt+Enter)"));
        $(`#${tab}_seed input, #${tab}_seed textarea`)?.setAttribute("inputmode", "numeric");
    }

    /** What this browser was doing: its last sessions; where it had none, whatever is running now. */
    async function comeBack() {
        const kept = {};
        for (const tab of PANELS) {
            const views = panels[tab].kept().map((id) => ask(`jobs/${encodeURIComponent(id)}`).catch(() => null));
            kept[tab] = (await Promise.all(views)).filter(Boolean);
        }
        if (!Object.values(kept).flat().some((view) => !FINAL.has(view.state))) {
            const all = await ask("jobs?limit=50").catch(() => []);
            for (const tab of PANELS) {
                const running = all.filter((view) => !FINAL.has(view.state) && tabOf(view) === tab);
                if (running.length) kept[tab] = running.reverse();
            }
        }
        for (const tab of PANELS) panels[tab].comeBack(kept[tab]);
    }

    // Gradio builds the page after this script may have run, a tab's blocks when it is first opened, and those in pieces:
    // a tab is mounted when all is there that the scripts look for at that moment.
    const NEEDED = (tab) => [`#${tab}_workspace`, `#${tab}_gallery .easel-stage`, `#html_log_${tab}`, `#${tab}_queue`, `#${tab}_generate`, `#${tab}_interrupt`,
        ...(TABS.includes(tab) ? [`#${tab}_prompt textarea`, `#${tab}_neg_prompt textarea`, `#${tab}_extra_tabs`, `#${tab}_scripts`, `#${tab}_open_folder`] : [])];
    const unseen = new Set(PANELS);
    function look() {
        for (const tab of unseen) {
            if (!NEEDED(tab).every((selector) => $(selector))) continue;
            unseen.delete(tab);
            panels[tab].mounted();
            document.dispatchEvent(new CustomEvent("easel:mounted", { detail: tab }));
            if (tab === TABS[0]) comeBack();
        }
        if (!unseen.size) watch.disconnect();
    }
    const watch = new MutationObserver(look);
    watch.observe(document.documentElement, { childList: true, subtree: true });
    look();
})();
