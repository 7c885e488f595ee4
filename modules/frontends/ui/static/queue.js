// The Queue tab: what is drawn, what waits, what is over. One stream of news while it, or the History, is to be seen.
//
//   live    the stream; others listen with easel.queue.listen(element, act)
//   page    the tab: rows keep their elements, so that the focus and a drag survive every change
"use strict";
(() => {
    const { $, byId, make, t, heard, ask, address, toast } = window.easel.tools;
    const HANDLE = "M7 5h0 M13 5h0 M7 10h0 M13 10h0 M7 15h0 M13 15h0";

    /** A drawing of strokes on 20 by 20. */
    function icon(path) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "path");
        svg.setAttribute("viewBox", "0 0 20 20");
        svg.setAttribute("aria-hidden", "true");
        line.setAttribute("d", path);
        svg.append(line);
        return svg;
    }
    function button(label, text, act, more = {}) {
        const made = make("button", { type: "button", title: label, "aria-label": label, ...more }, text);
        made.onclick = act;
        return made;
    }

    // ---- news, while somebody looks ----

    const live = {
        source: null,
        listeners: new Map(),  // element → what to call while it is to be seen
        seen: new Set(),
        listen(element, act) {
            this.listeners.set(element, act);
            new IntersectionObserver(([entry]) => {
                if (entry.isIntersecting) this.seen.add(element); else this.seen.delete(element);
                this.turn();
            }).observe(element);
        },
        turn() {
            const wanted = this.seen.size > 0 && !document.hidden;
            if (!wanted) {
                this.source?.close();
                this.source = null;
            } else if (!this.source) {
                this.source = new EventSource(address("queue/events"));
                this.source.onmessage = (message) => {
                    const told = JSON.parse(message.data);
                    for (const element of this.seen) this.listeners.get(element)(told);
                };
                this.source.onerror = () => {
                    if (this.source?.readyState !== EventSource.CLOSED) return;
                    this.source = null;
                    setTimeout(() => this.turn(), 1500);
                };
            }
        },
    };
    document.addEventListener("visibilitychange", () => live.turn());

    // ---- words ----

    function duration(seconds) {
        const s = Math.max(1, Math.round(seconds));
        if (s < 60) return t("{n} s", { n: s });
        if (s < 3600) return t("{n} min", { n: Math.round(s / 60) });
        return t("{h} h {m} min", { h: Math.floor(s / 3600), m: Math.round(s / 60) % 60 });
    }
    function ago(time) {
        const s = Date.now() / 1000 - time;
        if (s < 60) return t("just now");
        return s < 86400 ? t("{time} ago", { time: duration(s) }) : new Date(time * 1000).toLocaleString();
    }
    const pictures = ({ n_iter, batch_size, source }) => n_iter * (source?.extras ? source.images.length : batch_size);
    const work = ({ request }) => request.source?.extras ? 1e6 : request.steps * pictures(request) * request.width * request.height;

    function about({ request }) {
        const { source, width, height, steps, sampler, checkpoint, hires } = request, count = pictures(request);
        const parts = [t(source?.extras ? "Extras" : source?.mask ? "Inpaint" : source ? "img2img" : "txt2img")];
        if (!source?.extras) parts.push(`${width}×${height}`, steps === 1 ? t("1 step") : t("{n} steps", { n: steps }), sampler);
        if (hires) parts.push(t("hires fix"));
        parts.push(count === 1 ? t("1 picture") : t("{n} pictures", { n: count }));
        if (checkpoint) parts.push(checkpoint);
        return parts.join(" · ");
    }
    const named = (view) => view.request.prompt.trim() || (view.request.source?.extras ? t("Enlarging pictures") : t("(no prompt)"));
    const short = (view) => named(view).slice(0, 60);

    async function act(path, body = {}) {
        try {
            return await ask(path, "POST", body);
        } catch (error) {
            toast(error.message, "error");
            return null;
        }
    }

    // ---- the tab ----

    const page = {
        root: null,
        moving: 0,   // moves that the server has not answered
        queue: { jobs: [], ended: [], held: false, others_before: 0, trouble: null },
        rows: new Map(),     // job → its element
        dragged: null,
        running: null,       // the newest progress

        build(root) {
            this.root = root;
            this.line = make("p", { class: "easel-queue-line", role: "status" });
            this.hold = make("button", { type: "button", id: "queue_hold", class: "easel-pill" });
            this.hold.onclick = () => this.act(this.queue.held ? "queue/release" : "queue/hold");
            this.cancelAll = make("button", { type: "button", id: "queue_cancel_all", class: "easel-pill danger" });
            this.cancelAll.onclick = () => this.askTwice();
            this.said = make("p", { class: "easel-unseen", role: "status" });
            this.trouble = make("p", { class: "easel-queue-trouble", role: "alert", hidden: "" });
            this.now = make("ul", { id: "queue_now", class: "easel-queue-list", "aria-label": t("Being drawn") });
            this.waiting = make("ol", { id: "queue_waiting", class: "easel-queue-list", "aria-label": t("Waiting") });
            this.over = make("ul", { id: "queue_over", class: "easel-queue-list over", "aria-label": t("Over") });
            this.empty = make("div", { class: "easel-queue-empty" },
                icon("M3 5h14 M3 10h14 M3 15h8"),
                make("p", {}, t("Nothing waits.")),
                make("small", {}, t("Press Generate as often as you like: jobs line up here and are drawn one after the other, whether this page is open or not. They survive a reload and a restart.")));
            this.heads = Object.fromEntries([["now", t("Now")], ["waiting", t("Waiting")], ["over", t("Over")]]
                .map(([name, text]) => [name, make("h2", {}, text)]));
            this.hint = make("small", { class: "easel-queue-hint" }, t("Drag a job to another place, or press Alt with ↑ or ↓."));
            root.replaceChildren(make("div", { class: "easel-queue-bar" }, this.line, this.hold, this.cancelAll), this.trouble, this.empty,
                this.heads.now, this.now, this.heads.waiting, this.hint, this.waiting, this.heads.over, this.over, this.said);
            this.waiting.addEventListener("keydown", (event) => this.key(event));
            live.listen(root, (told) => this.news(told));
            this.draw();
        },
        async act(path, body) {
            const told = await act(path, body);
            if (told?.jobs) this.take(told);
            return told;
        },
        news(told) {
            this.running = told.running;
            if (told.kind === "queue") this.take(told.queue); else this.progress();
        },
        take(queue) {
            if (this.moving) return;
            this.queue = queue;
            if (!this.dragged) this.draw();
        },

        draw() {
            const { jobs, ended, held, trouble } = this.queue;
            const running = jobs.filter((job) => job.state === "running"), waiting = jobs.filter((job) => job.state !== "running");
            this.line.textContent = this.summary(running, waiting);
            this.hold.replaceChildren(icon(held ? "M6 4l9 6-9 6z" : "M7 4v12 M13 4v12"), held ? t("Go on") : t("Pause the queue"));
            this.hold.title = held ? t("Begin with the next job again") : t("The job being drawn goes on; no other is begun until you say so");
            this.hold.setAttribute("aria-pressed", String(held));
            this.cancelAll.hidden = waiting.length < 2;
            this.askOnce(waiting.length);
            this.trouble.hidden = !trouble;
            this.trouble.textContent = trouble ?? "";
            this.empty.hidden = jobs.length > 0;
            this.heads.now.hidden = !running.length;
            this.heads.waiting.hidden = !waiting.length;
            this.hint.hidden = waiting.length < 2;
            this.heads.over.hidden = !ended.length;
            const left = new Map(this.rows), focused = document.activeElement;
            this.fill(this.now, running, left, (view) => this.runningRow(view));
            this.fill(this.waiting, waiting, left, (view) => this.waitingRow(view));
            this.fill(this.over, ended, left, (view) => this.overRow(view));
            for (const [id, row] of left) {
                row.remove();
                this.rows.delete(id);
            }
            // A row that changes its place loses the focus.
            if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
            this.placed(waiting);
            this.progress();
        },
        summary(running, waiting) {
            const { held, others_before: others } = this.queue, n = waiting.length;
            const parts = [];
            if (held) parts.push(t("Paused: nothing further is begun"));
            else if (running.length) parts.push(t("Drawing"));
            if (n) parts.push(n === 1 ? t("1 job waits") : t("{n} jobs wait", { n }));
            if (others) parts.push(others === 1 ? t("1 other before you") : t("{n} others before you", { n: others }));
            return parts.join(" · ") || t("The queue is empty");
        },
        /** The list shows these jobs in this order; an element is made where a job is new here or has changed its kind. */
        fill(list, views, left, build) {
            let before = list.firstElementChild;
            for (const view of views) {
                let row = left.get(view.id);
                if (!row || row.parentElement !== list || row.dataset.state !== view.state) {
                    const focused = row?.contains(document.activeElement);
                    row?.remove();
                    if (row === before) before = list.firstElementChild;
                    row = build(view);
                    row.dataset.id = view.id;
                    row.dataset.state = view.state;
                    this.rows.set(view.id, row);
                    if (focused) requestAnimationFrame(() => row.focus());
                }
                left.delete(view.id);
                if (row === before) before = before.nextElementSibling;
                else list.insertBefore(row, before);
            }
        },

        runningRow(view) {
            const picture = make("div", { class: "easel-queue-picture" });
            const bar = make("div", { class: "easel-queue-progress", role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": "0", "aria-valuemax": "100" }, make("i"));
            return make("li", { class: "easel-job running", tabindex: "-1" }, picture,
                make("div", { class: "easel-job-text" }, make("p", { class: "easel-job-prompt", translate: "no" }, named(view)),
                    make("small", {}, about(view)), bar, make("small", { class: "easel-job-left" })),
                make("div", { class: "easel-job-acts" },
                    button(t("Go on with the next picture"), t("Skip"), () => act(`jobs/${view.id}/skip`), { class: "easel-pill" }),
                    button(t("Stop this job; finished pictures stay"), t("Interrupt"), () => act(`jobs/${view.id}/cancel`), { class: "easel-pill danger" })));
        },
        waitingRow(view) {
            const paused = view.state === "paused";
            const handle = make("span", { class: "easel-job-handle", title: t("Drag to another place") }, icon(HANDLE));
            handle.addEventListener("pointerdown", (event) => this.drag(event, view.id));
            const row = make("li", { class: `easel-job waiting${paused ? " paused" : ""}`, tabindex: "0", "aria-label": short(view) },
                handle, make("span", { class: "easel-job-place" }),
                make("div", { class: "easel-job-text" }, make("p", { class: "easel-job-prompt", translate: "no" }, named(view)),
                    make("small", {}, about(view)), make("small", { class: "easel-job-left" })),
                make("div", { class: "easel-job-acts" },
                    button(t("Earlier (Alt+↑)"), icon("M10 16V5 M5 9l5-5 5 5"), () => this.step(view.id, -1), { class: "easel-round up" }),
                    button(t("Later (Alt+↓)"), icon("M10 4v11 M5 11l5 5 5-5"), () => this.step(view.id, 1), { class: "easel-round down" }),
                    button(paused ? t("Let this job take its turn again (P)") : t("Pass this job over until you say so (P)"),
                        icon(paused ? "M6 4l9 6-9 6z" : "M7 4v12 M13 4v12"), () => this.pause(view.id), { class: "easel-round pause" }),
                    button(t("Take this job out of the queue (Delete)"), icon("M5 5l10 10 M15 5L5 15"), () => this.cancel(view.id), { class: "easel-round cancel" })));
            return row;
        },
        overRow(view) {
            const saved = view.images.filter(({ path }) => path);  // others are in no history: masks, what was stopped
            const shown = saved.slice(0, 6).map((record) => {
                const image = make("img", { loading: "lazy", alt: "" });
                image.src = address(`pictures/${encodeURIComponent(record.id)}/thumbnail`);
                return button(t("Open this picture in the history"), image, () => window.easel.history?.open(record.id), { class: "easel-job-picture" });
            });
            if (saved.length > 6) shown.push(make("span", { class: "easel-job-more" }, `+${saved.length - 6}`));
            const states = { done: t("Done"), failed: t("Failed"), cancelled: t("Interrupted") };
            const took = view.started ? duration(view.finished - view.started) : "";
            return make("li", { class: `easel-job over ${view.state}`, tabindex: "-1" },
                make("div", { class: "easel-job-pictures" }, ...(shown.length ? shown : [make("span", { class: "easel-job-none" }, icon(view.state === "failed" ? "M10 5v6 M10 14v1" : "M6 10h8"))])),
                make("div", { class: "easel-job-text" }, make("p", { class: "easel-job-prompt", translate: "no" }, named(view)),
                    make("small", {}, make("b", {}, states[view.state]), ` · ${[ago(view.finished), took, about(view)].filter(Boolean).join(" · ")}`),
                    ...(view.error ? [make("small", { class: "easel-job-error" }, heard(view.error))] : [])),
                make("div", { class: "easel-job-acts" },
                    button(t("Put the same job into the queue once more; a seed that was left open is drawn anew"), t("Run again"), async () => {
                        if (await act(`jobs/${view.id}/again`)) toast(t("Put into the queue."));
                    }, { class: "easel-pill again" })));
        },

        /** Places, and when each waiting job begins, from what the last ones took. */
        placed(waiting) {
            const done = this.queue.ended.filter((view) => view.state === "done" && view.started && view.finished > view.started).slice(0, 10);
            const spent = done.reduce((sum, view) => sum + view.finished - view.started, 0), each = done.reduce((sum, view) => sum + work(view), 0);
            const rate = each ? spent / each : null;
            const drawn = this.queue.jobs.find((view) => view.state === "running");
            let at = drawn ? this.running?.eta ?? (rate && work(drawn) * rate) : 0;
            let place = 0;
            for (const view of waiting) {
                const row = this.rows.get(view.id), left = $(".easel-job-left", row);
                const passed = view.state === "paused";
                if (!passed) place += 1;
                $(".easel-job-place", row).textContent = passed ? "–" : String(place);
                const known = rate && at !== null && !this.queue.others_before;
                left.textContent = passed ? t("Paused") : this.queue.held || !known ? "" : at < 1 ? t("next") : t("begins in about {time}", { time: duration(at) });
                if (!passed && known) at += work(view) * rate;
                const index = waiting.indexOf(view);
                $(".up", row).disabled = index === 0;
                $(".down", row).disabled = index === waiting.length - 1;
            }
        },
        progress() {
            const told = this.running, row = told && this.rows.get(told.id);
            if (!row || row.dataset.state !== "running") return;
            const bar = $(".easel-queue-progress", row), percent = Math.floor(told.progress * 100);
            bar.firstElementChild.style.width = `${percent}%`;
            bar.setAttribute("aria-valuenow", String(percent));
            const parts = [told.cancelling ? t("Interrupting…") : told.text ? heard(told.text) : t("Starting…")];
            if (told.steps) parts.push(`${told.step}/${told.steps}`, `${percent}%`);
            if (told.eta != null) parts.push(t("{time} left", { time: duration(told.eta) }));
            $(".easel-job-left", row).textContent = parts.join(" · ");
            if (!told.preview) return;
            // Put in once it is loaded, so that the row never flickers.
            const image = new Image(), place = $(".easel-queue-picture", row);
            image.alt = "";
            image.onload = () => { if (this.running?.preview === told.preview) place.replaceChildren(image); };
            image.src = address(told.preview);
        },

        // ---- what can be done with a waiting job ----

        ids() { return this.queue.jobs.filter((view) => view.state !== "running").map((view) => view.id); },
        async move(id, to) {
            const others = this.ids().filter((one) => one !== id), before = others[to] ?? null;
            const was = this.queue, rest = was.jobs.filter((view) => view.id !== id);
            const at = before ? rest.findIndex((view) => view.id === before) : rest.length;
            // There at once, so that the next press counts from there; what is told meanwhile is of before.
            this.moving += 1;
            this.queue = { ...was, jobs: rest.toSpliced(at, 0, was.jobs.find((view) => view.id === id)) };
            this.draw();
            const told = await act(`jobs/${id}/move`, { before });
            const queue = await ask("queue").catch(() => was);
            this.moving -= 1;
            this.take(queue);
            if (told) this.said.textContent = t("Now in place {n}.", { n: to + 1 });
        },
        step(id, by) {
            const to = this.ids().indexOf(id) + by;
            if (to >= 0 && to < this.ids().length) this.move(id, to);
        },
        pause(id) {
            const view = this.queue.jobs.find((one) => one.id === id);
            if (view) act(`jobs/${id}/${view.state === "paused" ? "resume" : "pause"}`);
        },
        async cancel(id) {
            const view = this.queue.jobs.find((one) => one.id === id), at = this.ids().indexOf(id);
            const had = this.rows.get(id)?.contains(document.activeElement);
            if (!await act(`jobs/${id}/cancel`)) return;
            if (had) this.rows.get(this.ids().filter((one) => one !== id)[Math.max(0, at - (at === this.ids().length - 1))])?.focus();
            toast(t("Taken out of the queue."), "note", { [t("Undo")]: () => act(`jobs/${view.id}/again`) });
        },
        askOnce(count) {
            clearTimeout(this.asked);
            this.asked = 0;
            this.cancelAll.textContent = t("Cancel all waiting");
            this.cancelAll.dataset.count = count;
        },
        askTwice() {
            const ids = this.ids();
            if (!this.asked) {
                this.cancelAll.textContent = t("Really cancel {n} jobs?", { n: ids.length });
                this.asked = setTimeout(() => this.askOnce(ids.length), 4000);
                return;
            }
            this.askOnce(0);
            for (const id of ids) act(`jobs/${id}/cancel`);
        },
        key(event) {
            const row = event.target.closest(".easel-job");
            if (!row || event.ctrlKey || event.metaKey) return;
            const id = row.dataset.id, up = event.key === "ArrowUp", down = event.key === "ArrowDown";
            if (up || down) {
                if (event.altKey) this.step(id, up ? -1 : 1);
                else (up ? row.previousElementSibling : row.nextElementSibling)?.focus();
            } else if (event.target !== row || event.altKey) return;
            else if (event.key === "Delete") this.cancel(id);
            else if (event.key.toLowerCase() === "p") this.pause(id);
            else return;
            event.preventDefault();
            event.stopPropagation();
        },
        /** A row follows the pointer, the others make room; let go, it is moved there. Escape puts it back. */
        drag(event, id) {
            if (event.button !== 0) return;
            event.preventDefault();
            const rows = [...this.waiting.children], row = this.rows.get(id), from = rows.indexOf(row), handle = event.currentTarget;
            const boxes = rows.map((one) => one.getBoundingClientRect()), height = boxes[from].height + 8, top = scrollY;
            let to = from;
            this.dragged = id;
            row.classList.add("dragged");
            this.waiting.classList.add("dragging");
            handle.setPointerCapture(event.pointerId);
            const over = ({ clientY }) => {
                const by = clientY - event.clientY + scrollY - top, middle = boxes[from].top + boxes[from].height / 2 + by;
                to = rows.filter((one, k) => k !== from && boxes[k].top + boxes[k].height / 2 < middle).length;
                row.style.translate = `0 ${by}px`;
                rows.forEach((one, k) => {
                    if (k !== from) one.style.translate = k > from && k <= to ? `0 ${-height}px` : k < from && k >= to ? `0 ${height}px` : "";
                });
            };
            const end = (moved) => {
                stop.abort();
                row.classList.remove("dragged");
                this.waiting.classList.remove("dragging");
                for (const one of rows) one.style.translate = "";
                this.dragged = null;
                if (!moved || to === from) return this.draw();
                this.move(id, to);
            };
            const stop = new AbortController(), { signal } = stop;
            handle.addEventListener("pointermove", over, { signal });
            handle.addEventListener("pointerup", () => end(true), { signal });
            handle.addEventListener("pointercancel", () => end(false), { signal });
            document.addEventListener("keydown", (pressed) => { if (pressed.key === "Escape") end(false); }, { signal, capture: true });
        },
    };

    window.easel.queue = { listen: (element, act) => live.listen(element, act), icon, button };

    window.easel.whenThere(["queue_page"], (root) => page.build(root));
})();
