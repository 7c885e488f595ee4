// The History tab: every picture, found by words, rated, compared, traced back and on, thrown away and fetched again.
//
//   grid       only the tiles that are to be seen exist; pictures come a page at a time, from anywhere in the list
//   search     the box is the only truth: filters and chips write into it
//   viewer     one picture, its settings, what it came from and led to
//   compare    two pictures under a slider, and what differs in their settings, in words
//   importing  folders of other programs
"use strict";
(() => {
    const { $, byId, make, t, ask, address, copy, toast, infoBox, send, take, openTab } = window.easel.tools;
    const { icon, button, listen } = window.easel.queue;
    const PAGE = 120, GAP = 6, HEAD = 42, BEYOND = 600;  // pictures at once; pixels between, of a day's line, drawn beyond the edges
    const MOST = 5000;  // pictures that are changed at once (service.history)
    const KEPT = "easel.history";
    const TERM = /-?(?:[A-Za-z]+:)?(?:"[^"]*"?|\S+)/g;  // parts of a search, as the server reads them
    const HEART = "M10 16.5C4 12 2.5 9.5 2.5 7A3.7 3.7 0 0 1 10 5.5 3.7 3.7 0 0 1 17.5 7c0 2.5-1.5 5-7.5 9.5z";
    const STAR = "M10 2.5l2.3 4.9 5.2.7-3.8 3.7.9 5.3-4.6-2.5-4.6 2.5.9-5.3-3.8-3.7 5.2-.7z";
    const hints = () => [
        ["red house", t("pictures with these words")], ['"red house"', t("these words in this order")], ["-night", t("without a word")],
        ["model:", t("part of a model's name")], ["lora:", t("a LoRA or embedding")], ["sampler:", t("a sampler")], ["seed:", t("a seed")],
        ["size:512x768", t("a size; portrait, landscape, square too")], ["rating:>=4", t("four stars or more")], ["is:favourite", t("favourites")],
        ["after:2026-11-01", t("since a day; before:, on:, 7d, today too")], ["task:inpaint", t("txt2img, img2img, inpaint, extras, grid")],
    ];
    const escape = (id) => encodeURIComponent(id);
    const thumbnail = (picture) => address(`pictures/${escape(picture.id)}/thumbnail`);
    const whole = (picture) => address(`pictures/${escape(picture.id)}`);
    const kept = (() => { try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; } })();
    const keep = () => {
        try { localStorage.setItem(KEPT, JSON.stringify({ sort: list.sort, size: list.size })); } catch { /* private windows may refuse */ }
    };
    async function post(path, body = {}) {
        try {
            return await ask(`history/${path}`, "POST", body);
        } catch (error) {
            toast(error.message, "error");
            return null;
        }
    }
    function dayName(key) {
        const [y, m, d] = key.split("-").map(Number), day = new Date(y, m - 1, d), now = new Date();
        const away = Math.round((new Date(now.getFullYear(), now.getMonth(), now.getDate()) - day) / 864e5);
        if (away === 0) return t("Today");
        if (away === 1) return t("Yesterday");
        const far = day.getFullYear() !== now.getFullYear();
        return day.toLocaleDateString(document.documentElement.lang || undefined, { weekday: "long", day: "numeric", month: "long", ...(far ? { year: "numeric" } : {}) });
    }
    const stars = (n) => "★".repeat(n) + "☆".repeat(5 - n);

    // ---- what is found, and where it stands ----

    const list = {
        query: "", sort: kept.sort ?? "newest", shelf: "here", size: kept.size ?? 180,
        groups: [], total: 0, terms: [], trashed: 0, known: 0,
        pages: new Map(),   // number of a page → its pictures, or the promise of them
        asked: 0,           // counts questions: late answers to old ones are dropped

        at(index) {
            const page = this.pages.get(Math.floor(index / PAGE));
            return Array.isArray(page) ? page[index % PAGE] : undefined;
        },
        params() { return `q=${encodeURIComponent(this.query)}&sort=${this.sort}&shelf=${this.shelf}`; },
        async find() {
            const asked = ++this.asked;
            const found = await ask(`history/groups?${this.params()}`);
            if (asked !== this.asked) return false;
            this.pages.clear();
            let start = 0;
            this.groups = found.groups.map(({ key, count }) => {
                const group = { key, count, start };
                start += count;
                return group;
            });
            [this.total, this.terms, this.trashed, this.known] = [found.total, found.terms, found.trashed, found.known];
            return true;
        },
        /** The page with this picture; asked for once. */
        page(number) {
            const there = this.pages.get(number);
            if (there) return Promise.resolve(there);
            const asked = this.asked;
            const promise = ask(`history?${this.params()}&offset=${number * PAGE}&limit=${PAGE}`).then(({ pictures }) => {
                if (asked === this.asked) this.pages.set(number, pictures);
                return pictures;
            }, (error) => {
                if (this.pages.get(number) === promise) this.pages.delete(number);
                throw error;
            });
            this.pages.set(number, promise);
            return promise;
        },
        async picture(index) { return (await this.page(Math.floor(index / PAGE)))[index % PAGE]; },
        indexOf(id) {
            for (const [number, page] of this.pages) {
                const at = Array.isArray(page) ? page.findIndex((picture) => picture.id === id) : -1;
                if (at >= 0) return number * PAGE + at;
            }
            return -1;
        },
        /** Something is true of pictures now, wherever they are shown; an answer on its way may not know it yet. */
        changed(ids, change) {
            const tell = (page) => { for (const picture of page) if (ids.includes(picture.id)) Object.assign(picture, change); };
            for (const page of this.pages.values()) if (Array.isArray(page)) tell(page); else page.then(tell, () => {});
        },
    };

    // ---- the grid ----

    const grid = {
        tiles: new Map(),      // number of a picture → its tile
        heads: new Map(),
        chosen: new Set(),     // ids
        focus: 0,
        columns: 1, side: 0, tops: [], height: 0,

        build() {
            this.canvas = make("div", { class: "easel-tiles", role: "listbox", "aria-multiselectable": "true", "aria-label": t("Pictures") });
            this.scroller = make("div", { class: "easel-shelf", tabindex: "-1" }, this.canvas);
            this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
            this.canvas.addEventListener("click", (event) => this.click(event));
            this.canvas.addEventListener("keydown", (event) => this.key(event));
            this.canvas.addEventListener("focusin", (event) => {
                const tile = event.target.closest("[data-index]");
                if (tile) this.focus = Number(tile.dataset.index);
            });
            new ResizeObserver(() => this.lay()).observe(this.scroller);
            return this.scroller;
        },
        /** Where everything stands, for this width and size. */
        lay() {
            const width = this.scroller.clientWidth;
            if (!width) return;
            const anchor = this.first();
            this.columns = Math.max(1, Math.round((width + GAP) / (Math.min(list.size, width / 3) + GAP)));
            this.side = (width - GAP * (this.columns - 1)) / this.columns;
            let top = 0;
            this.tops = list.groups.map(({ count }) => {
                const here = top;
                top += HEAD + Math.ceil(count / this.columns) * (this.side + GAP);
                return here;
            });
            this.height = top;
            this.canvas.style.height = `${top}px`;
            if (anchor > 0) this.scroller.scrollTop = this.topOf(anchor) - HEAD;
            this.draw();
        },
        first() {
            if (!this.tops.length || this.scroller.scrollTop < HEAD) return 0;
            return this.rangeAt(this.scroller.scrollTop + HEAD, 1)[0];
        },
        groupAt(top) {
            let low = 0, high = this.tops.length - 1;
            while (low < high) {
                const middle = (low + high + 1) >> 1;
                if (this.tops[middle] <= top) low = middle; else high = middle - 1;
            }
            return low;
        },
        groupOf(index) {
            let low = 0, high = list.groups.length - 1;
            while (low < high) {
                const middle = (low + high + 1) >> 1;
                if (list.groups[middle].start <= index) low = middle; else high = middle - 1;
            }
            return low;
        },
        topOf(index) {
            const at = this.groupOf(index), row = Math.floor((index - list.groups[at].start) / this.columns);
            return this.tops[at] + HEAD + row * (this.side + GAP);
        },
        /** First and last number of the pictures between two heights. */
        rangeAt(top, height) {
            const pitch = this.side + GAP;
            const row = (at, y) => Math.min(Math.ceil(list.groups[at].count / this.columns) - 1, Math.max(0, Math.floor((y - this.tops[at] - HEAD) / pitch)));
            const from = this.groupAt(top), to = this.groupAt(top + height);
            const first = list.groups[from].start + row(from, top) * this.columns;
            const last = Math.min(list.groups[to].start + list.groups[to].count, list.groups[to].start + (row(to, top + height) + 1) * this.columns) - 1;
            return [first, last, from, to];
        },
        draw() {
            if (!this.side) return;
            if (list.total && !this.tops.length) return;
            if (!list.total) {
                this.canvas.replaceChildren();
                this.tiles.clear();
                this.heads.clear();
                return;
            }
            const top = Math.max(0, this.scroller.scrollTop - BEYOND), height = this.scroller.clientHeight + 2 * BEYOND;
            const [first, last, from, to] = this.rangeAt(top, height);
            for (const [index, tile] of this.tiles) {
                if (index >= first && index <= last) continue;
                if (tile.contains(document.activeElement)) continue;  // the focus may be scrolled away, but not lost
                tile.remove();
                this.tiles.delete(index);
            }
            for (const [at, head] of this.heads) {
                if (at >= from && at <= to) continue;
                head.remove();
                this.heads.delete(at);
            }
            for (let at = from; at <= to; at++) this.head(at);
            for (let index = first; index <= last; index++) this.tile(index);
            this.fetch(first, last);
        },
        head(at) {
            const { key, count } = list.groups[at];
            let head = this.heads.get(at);
            if (!head) {
                const name = list.sort === "rated" ? (key === "0" ? t("Not rated") : stars(Number(key))) : dayName(key);
                head = make("div", { class: "easel-day", role: "presentation" }, make("strong", {}, name), make("span", {}, count.toLocaleString()));
                this.heads.set(at, head);
                this.canvas.append(head);
            }
            head.style.translate = `0 ${this.tops[at]}px`;
        },
        tile(index) {
            let tile = this.tiles.get(index);
            if (!tile) {
                tile = make("div", { class: "easel-tile", role: "option", "aria-selected": "false", "aria-label": t("On its way…"), tabindex: "-1", "data-index": String(index) });
                this.tiles.set(index, tile);
                this.canvas.append(tile);
            }
            const at = this.groupOf(index), place = index - list.groups[at].start;
            const x = (place % this.columns) * (this.side + GAP), y = this.tops[at] + HEAD + Math.floor(place / this.columns) * (this.side + GAP);
            tile.style.cssText = `width:${this.side}px;height:${this.side}px;translate:${x}px ${y}px`;
            tile.setAttribute("aria-posinset", String(index + 1));
            tile.setAttribute("aria-setsize", String(list.total));
            tile.tabIndex = index === this.focus ? 0 : -1;
            const picture = list.at(index);
            if (picture && tile.dataset.id !== picture.id) this.show(tile, picture);
            if (picture) this.mark(tile, picture);
        },
        show(tile, picture) {
            tile.dataset.id = picture.id;
            tile.title = picture.prompt;
            const image = make("img", { alt: "", decoding: "async", draggable: "false" });
            image.onload = () => image.classList.add("there");
            image.onerror = () => {
                picture.missing = true;
                this.mark(tile, picture);
            };
            const check = make("span", { class: "easel-pick", "aria-hidden": "true", title: t("Choose (Ctrl+click, X)") }, icon("M4 10l4 4 8-9"));
            const like = make("span", { class: "easel-like", "aria-hidden": "true" }, icon(HEART));
            tile.replaceChildren(image, make("span", { class: "easel-gone", "aria-hidden": "true" }, t("The file is gone")), check, like,
                make("span", { class: "easel-stars", "aria-hidden": "true" }), make("span", { class: "easel-made", "aria-hidden": "true" }));
            if (!picture.missing) image.src = thumbnail(picture);
        },
        mark(tile, picture) {
            const chosen = this.chosen.has(picture.id);
            tile.setAttribute("aria-selected", String(chosen));
            tile.classList.toggle("favourite", picture.favourite);
            tile.classList.toggle("missing", picture.missing);
            $(".easel-stars", tile).textContent = "★".repeat(picture.rating);
            $(".easel-made", tile).textContent = picture.task === "txt2img" ? "" : picture.task;
            const words = [picture.prompt.slice(0, 120) || t("(no prompt)"), picture.rating && t("{n} stars", { n: picture.rating }),
                picture.favourite && t("favourite"), picture.missing && t("the file is gone")];
            tile.setAttribute("aria-label", words.filter(Boolean).join(", "));
        },
        /** Pages for these pictures, once the scrolling rests a moment. */
        fetch(first, last) {
            const wanted = [];
            for (let number = Math.floor(first / PAGE); number <= Math.floor(last / PAGE); number++) if (!list.pages.has(number)) wanted.push(number);
            clearTimeout(this.timer);
            if (!wanted.length) return;
            const get = () => wanted.forEach((number) => list.page(number).then(() => this.draw(), (error) => toast(error.message, "error")));
            if (list.pages.size) this.timer = setTimeout(get, 60); else get();
        },
        refresh() {
            for (const [index, tile] of this.tiles) {
                const picture = list.at(index);
                if (picture) this.mark(tile, picture);
            }
            this.bar();
        },
        /** Other groups: their heads are made anew. Tiles stay till the pictures that replace theirs are there, so that
            nothing flickers and a click meets the picture it was meant for. */
        regroup() {
            for (const head of this.heads.values()) head.remove();
            this.heads.clear();
            this.tops = [];
            for (const [index, tile] of this.tiles) {
                if (index < list.total) continue;
                tile.remove();
                this.tiles.delete(index);
            }
        },
        go(index, show = true) {
            this.focus = Math.min(list.total - 1, Math.max(0, index));
            if (this.focus < 0) return;
            const top = this.topOf(this.focus), { scrollTop, clientHeight } = this.scroller;
            if (show && top - HEAD < scrollTop) this.scroller.scrollTop = top - HEAD;
            if (show && top + this.side > scrollTop + clientHeight) this.scroller.scrollTop = top + this.side + GAP - clientHeight;
            this.draw();
            for (const [number, tile] of this.tiles) tile.tabIndex = number === this.focus ? 0 : -1;
            this.tiles.get(this.focus)?.focus({ preventScroll: true });
        },
        /** One row up or down, over the lines of days, in the same column. */
        vertical(by) {
            const at = this.groupOf(this.focus), group = list.groups[at], place = this.focus - group.start, next = place + by * this.columns;
            const column = place % this.columns, rows = Math.ceil(group.count / this.columns);
            if (next >= 0 && next < group.count) return group.start + next;
            if (by > 0 && Math.floor(place / this.columns) < rows - 1) return group.start + group.count - 1;
            const beside = list.groups[at + by];
            if (!beside) return this.focus;
            const last = Math.floor((beside.count - 1) / this.columns) * this.columns;
            return beside.start + Math.min(beside.count - 1, (by > 0 ? 0 : last) + column);
        },

        // ---- choosing ----

        targets() {
            const focused = list.at(this.focus);
            return this.chosen.size ? [...this.chosen] : focused ? [focused.id] : [];
        },
        choose(index, range = false) {
            const picture = list.at(index);
            if (!picture) return;
            if (range && this.from !== undefined) {
                for (let k = Math.min(this.from, index); k <= Math.max(this.from, index); k++) if (list.at(k)) this.chosen.add(list.at(k).id);
            } else if (!this.chosen.delete(picture.id)) this.chosen.add(picture.id);
            this.from = index;
            this.refresh();
        },
        /** Everything that was found, as far as one act may change at once. */
        async chooseAll() {
            const asked = list.asked, pages = Math.ceil(Math.min(list.total, MOST) / PAGE);
            for (let number = 0; number < pages; number++) {
                const found = await list.page(number).catch(() => []);
                if (asked !== list.asked) return;
                for (const picture of found) if (this.chosen.size < MOST) this.chosen.add(picture.id);
            }
            this.refresh();
        },
        drop() {
            this.chosen.clear();
            this.refresh();
        },
        click(event) {
            const tile = event.target.closest("[data-id]");
            if (!tile) return;
            const index = Number(tile.dataset.index);
            this.go(index, false);
            if (event.target.closest(".easel-pick") || event.ctrlKey || event.metaKey || event.shiftKey || (this.chosen.size && event.pointerType === "touch")) {
                this.choose(index, event.shiftKey);
            } else if (event.target.closest(".easel-like")) acts.favourite([tile.dataset.id], !tile.classList.contains("favourite"));
            else if (list.at(index)?.id === tile.dataset.id) viewer.open(index);
            else viewer.meet(tile.dataset.id, index);
        },
        key(event) {
            if (event.altKey) return;
            const control = event.ctrlKey || event.metaKey, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
            const rows = Math.max(1, Math.floor(this.scroller.clientHeight / (this.side + GAP)) - 1);
            const moves = {
                ArrowLeft: () => this.focus - 1, ArrowRight: () => this.focus + 1, ArrowUp: () => this.vertical(-1), ArrowDown: () => this.vertical(1),
                Home: () => 0, End: () => list.total - 1, PageUp: () => this.focus - rows * this.columns, PageDown: () => this.focus + rows * this.columns,
            };
            if (moves[key]) {
                const to = Math.min(list.total - 1, Math.max(0, moves[key]()));
                if (event.shiftKey && this.from === undefined) this.from = this.focus;
                this.go(to);
                if (event.shiftKey) this.choose(to, true);
            } else if (control && key === "a") this.chooseAll();
            else if (control) return;
            else if (key === "Enter") viewer.open(this.focus);
            else if (key === " " || key === "x") this.choose(this.focus, event.shiftKey);
            else if (key === "Escape" && this.chosen.size) this.drop();
            else if (!acts.key(key, this.targets(), list.at(this.focus))) return;
            event.preventDefault();
            event.stopPropagation();
        },
        /** What can be done with all that are chosen. */
        bar() {
            const ids = [...this.chosen], n = ids.length, trash = list.shelf === "trash";
            tab.chosenBar.hidden = !n;
            if (!n) return;
            const pill = (label, text, act, more) => button(label, text, act, { class: "easel-pill", ...more });
            tab.chosenBar.replaceChildren(
                make("strong", { role: "status" }, n === 1 ? t("1 chosen") : t("{n} chosen", { n })),
                ...(n === 2 ? [pill(t("Both under a slider, and what differs in words (C)"), t("Compare"), () => compare.open(...ids), { id: "history_compare" })] : []),
                ...(trash ? [pill(t("Back to where they were"), t("Restore"), () => acts.restore(ids))] : [
                    pill(t("Favourites (F)"), t("Favourite"), () => acts.favourite(ids, true)),
                    pill(t("To the trash (Delete)"), t("Delete"), () => acts.remove(ids), { class: "easel-pill danger" })]),
                pill(t("Choose none (Esc)"), t("Clear"), () => this.drop()));
        },
    };

    // ---- what can be done with pictures ----

    const acts = {
        async favourite(ids, favourite) {
            if (!await post("mark", { ids, favourite })) return;
            list.changed(ids, { favourite });
            this.shown(ids, { favourite });
        },
        async rate(ids, rating) {
            if (!await post("mark", { ids, rating })) return;
            list.changed(ids, { rating });
            this.shown(ids, { rating });
        },
        shown(ids, change) {
            grid.refresh();
            viewer.changed(ids, change);
        },
        async remove(ids) {
            const imported = ids.filter((id) => (list.at(list.indexOf(id)) ?? viewer.picture)?.imported).length;
            const gone = (await post("delete", { ids }))?.ids;
            if (!gone) return;
            grid.chosen.clear();
            const words = imported === gone.length ? (gone.length === 1 ? t("Out of the history; its file stays where it is.") : t("{n} pictures out of the history; their files stay where they are.", { n: gone.length }))
                : gone.length === 1 ? t("Moved to the trash.") : t("{n} pictures moved to the trash.", { n: gone.length });
            toast(words, "note", { [t("Undo")]: () => this.restore(gone) });
            await tab.refresh();
            await viewer.gone(gone);
        },
        async restore(ids) {
            const back = (await post("restore", { ids }))?.ids;
            if (!back) return;
            grid.chosen.clear();
            toast(back.length === 1 ? t("The picture is back.") : t("{n} pictures are back.", { n: back.length }));
            await tab.refresh();
            await viewer.gone(back);
        },
        async emptyTrash() {
            const count = (await post("empty"))?.count;
            if (count !== undefined) toast(t("The trash is empty."));
            await tab.refresh();
        },
        /** Keys that mean the same in the grid and in the viewer. */
        key(key, ids, picture) {
            if (!ids.length) return false;
            if (/^[0-5]$/.test(key)) this.rate(ids, Number(key));
            else if (key === "f") this.favourite(ids, !(ids.length === 1 && picture?.favourite));
            else if ((key === "Delete" || key === "Backspace") && list.shelf !== "trash") this.remove(ids);
            else if (key === "c") compare.pick(ids.length === 2 ? ids : [picture?.id]);
            else return false;
            return true;
        },
        async blob(path) {
            const answer = await fetch(address(path));
            if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message ?? t("This picture is not there any more."));
            return answer.blob();
        },
        async send(to, detail) {
            try {
                const blob = to === "txt2img" ? null : await this.blob(`pictures/${escape(detail.id)}`);
                await send(to, { ...detail, blob });
                viewer.close();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        /** Everything that Generate needs to draw the same picture: form, source and mask. */
        async restoreSettings(detail) {
            try {
                const sources = Object.entries(detail.parents).filter(([, kind]) => kind === "source").map(([name]) => name);
                const masks = Object.entries(detail.parents).filter(([, kind]) => kind === "mask").map(([name]) => name);
                if (detail.task === "extras" && sources.length) {
                    const blob = await this.blob(`history/sources/${sources[0]}`);
                    await openTab("extras", "extras_image");
                    await window.easel.extras.put(blob);
                } else if (sources.length) {
                    const [blob, mask] = [await this.blob(`history/sources/${sources[0]}`), masks.length ? await this.blob(`history/sources/${masks[0]}`) : null];
                    await openTab("img2img", "mode_img2img");
                    await window.easel.source.put(blob, mask ? "upload" : "img2img");
                    if (mask) await window.easel.source.putMask(mask);
                    await take("img2img", detail.infotext);
                } else await take("txt2img", detail.infotext);
                viewer.close();
                toast(t("All settings are back: Generate draws the same picture again."));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        /** The job of a picture once more with its seeds; what comes out is laid beside it. */
        async drawAgain(detail) {
            try {
                const made = await ask(`jobs/${escape(detail.job)}/again?same=true`, "POST");
                viewer.close();
                toast(t("Drawing it again; both pictures are shown when it is done."));
                let view;
                do {
                    await new Promise((done) => setTimeout(done, 500));
                    view = await ask(`jobs/${escape(made.id)}`);
                } while (!["done", "failed", "cancelled"].includes(view.state));
                const picture = view.images.find((one) => one.index === detail.number && one.path);
                if (picture) await compare.open(detail.id, picture.id);
                else toast(view.error ?? t("It was not drawn again."), "error");
            } catch (error) {
                toast(error.message, "error");
            }
        },
    };

    // ---- one picture ----

    const viewer = {
        picture: null, index: -1, detail: null,

        build() {
            this.image = make("img", { alt: "", tabindex: "0" });
            this.image.onclick = () => this.dialog.classList.toggle("actual");
            this.stage = make("div", { class: "easel-viewer-stage" }, this.image,
                button(t("Previous picture (←)"), icon("M12 4l-6 6 6 6"), () => this.turn(-1), { class: "easel-turn previous" }),
                button(t("Next picture (→)"), icon("M8 4l6 6-6 6"), () => this.turn(1), { class: "easel-turn next" }));
            this.side = make("div", { class: "easel-viewer-side" });
            this.dialog = make("dialog", { id: "history_viewer", class: "easel-look", "aria-label": t("Picture") }, this.stage, this.side,
                button(t("Close (Esc)"), icon("M5 5l10 10 M15 5L5 15"), () => this.close(), { class: "easel-round close" }));
            this.dialog.addEventListener("keydown", (event) => this.key(event));
            this.dialog.addEventListener("close", () => {
                this.picture = null;
                if (!tab.root.offsetParent) return;
                if (this.index >= 0) grid.go(this.index);
                if (tab.stale) tab.refresh();
            });
            document.body.append(this.dialog);
        },
        get isOpen() { return Boolean(this.dialog?.open); },
        close() { if (this.isOpen) this.dialog.close(); },
        async open(index) {
            const picture = await list.picture(index).catch(() => null);
            if (picture) this.show(picture, index);
        },
        /** A picture by its id, from wherever it is spoken of. */
        async openId(id) {
            try {
                this.show(await ask(`history/${escape(id)}`), list.indexOf(id));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        /** The picture of a tile that stood where the list, of which the answer is on its way, has another. */
        async meet(id, index) {
            await list.picture(index).catch(() => null);
            const now = list.indexOf(id);
            if (now < 0) this.openId(id); else this.open(now);
        },
        async show(picture, index) {
            if (!this.dialog) this.build();
            [this.picture, this.index, this.detail] = [picture, index, null];
            this.dialog.classList.remove("actual");
            this.dialog.classList.toggle("missing", picture.missing);
            this.image.src = picture.missing ? "" : whole(picture);
            this.image.alt = picture.prompt.slice(0, 200) || t("Picture with seed {seed}", { seed: picture.seed });
            this.image.style.setProperty("--w", picture.width);
            this.image.style.setProperty("--h", picture.height);
            $(".previous", this.stage).disabled = index <= 0;
            $(".next", this.stage).disabled = index < 0 || index >= list.total - 1;
            if (!this.isOpen) {
                this.side.replaceChildren();
                this.dialog.showModal();
            }
            try {
                const [detail, lineage] = await Promise.all([ask(`history/${escape(picture.id)}`), ask(`history/${escape(picture.id)}/lineage`)]);
                if (this.picture?.id !== picture.id) return;
                this.detail = Object.assign(detail, { rating: picture.rating, favourite: picture.favourite });
                this.fill(detail, lineage);
                for (const near of [index - 1, index + 1]) if (list.at(near) && !list.at(near).missing) new Image().src = whole(list.at(near));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        fill(detail, lineage) {
            const pill = (label, text, act, more = {}) => button(label, text, act, { class: "easel-pill", ...more });
            const rate = make("div", { class: "easel-rate", role: "group", "aria-label": t("Rating") }, ...[1, 2, 3, 4, 5].map((n) =>
                button(n === 1 ? t("1 star (1)") : t("{n} stars ({n})", { n }), icon(STAR), () => acts.rate([detail.id], detail.rating === n ? 0 : n), { class: "easel-star", "data-n": String(n) })));
            const like = button(t("Favourite (F)"), icon(HEART), () => acts.favourite([detail.id], !detail.favourite), { class: "easel-round like" });
            const save = make("a", { class: "easel-pill", href: `${whole(detail)}?download=true`, download: "", title: t("Save this picture with its settings inside (S)") }, t("Download"));
            const where = make("p", { class: "easel-viewer-file", translate: "no" }, detail.path);
            const when = new Date(detail.created * 1000).toLocaleString(document.documentElement.lang || undefined, { dateStyle: "long", timeStyle: "short" });
            const about = [when, `${detail.width}×${detail.height}`, detail.task, detail.imported ? t("imported") : ""].filter(Boolean).join(" · ");
            const acting = detail.trashed ? [pill(t("Back to where it was"), t("Restore"), () => acts.restore([detail.id]), { id: "history_restore" })] : [
                pill(t("All of its settings, and what it was drawn from, back into the form"), t("Restore all settings"), () => acts.restoreSettings(detail), { id: "history_restore_settings", class: "easel-pill main" }),
                pill(t("Its settings to txt2img"), t("To txt2img"), () => acts.send("txt2img", detail), { "data-to": "txt2img" }),
                pill(t("Draw over this picture in img2img"), t("To img2img"), () => acts.send("img2img", detail), { "data-to": "img2img" }),
                pill(t("Draw a part of this picture anew"), t("To inpaint"), () => acts.send("inpaint", detail), { "data-to": "inpaint" }),
                pill(t("Enlarge this picture"), t("To extras"), () => acts.send("extras", detail), { "data-to": "extras" }),
                ...(detail.job ? [pill(t("Draw it once more from what was asked for, and look whether it comes out the same"), t("Draw again"), () => acts.drawAgain(detail), { id: "history_again" })] : []),
                pill(t("Compare it with another picture (C)"), t("Compare…"), () => compare.pick([detail.id])),
                save,
                pill(t("Copy the prompt and settings of this picture"), t("Copy settings"), () => copy(detail.infotext)),
                pill(t("To the trash (Delete)"), t("Delete"), () => acts.remove([detail.id]), { class: "easel-pill danger" }),
            ];
            this.side.replaceChildren(
                make("div", { class: "easel-viewer-marks" }, like, rate), make("div", { class: "easel-viewer-acts" }, ...acting),
                make("p", { class: "easel-viewer-about" }, about),
                detail.infotext ? infoBox(detail.infotext) : make("p", { class: "easel-viewer-about" }, t("This picture says nothing about how it was drawn.")),
                ...this.lineage(detail, lineage), where);
            this.marks();
        },
        /** came from … this … led to …, and what else the same job drew. */
        lineage(detail, { came_from: came, led_to: led, beside }) {
            const thumb = (picture, label, extra = "") => {
                const image = make("img", { alt: "", loading: "lazy" });
                image.src = thumbnail(picture);
                const made = button(label, image, () => this.openId(picture.id), { class: `easel-relative ${extra}` });
                if (picture.missing) made.classList.add("missing");
                return made;
            };
            const one = ({ picture, source, kind, steps, trashed }) => {
                const label = kind === "mask" ? t("Its mask") : steps < -1 || steps > 1 ? t("{n} pictures away", { n: Math.abs(steps) }) : steps < 0 ? t("Drawn from this") : t("Drawn out of it");
                if (picture) return make("span", { class: "easel-kin" }, thumb(picture, trashed ? t("{what}; in the trash", { what: label }) : label, trashed ? "trashed" : ""), make("small", {}, kind === "mask" ? t("mask") : picture.task));
                const image = make("img", { alt: label, title: t("{what}: it came from outside", { what: label }), class: "easel-relative outside", loading: "lazy" });
                image.onerror = () => image.replaceWith(make("span", { class: "easel-relative outside lost" }, "?"));
                image.src = address(`history/sources/${source}/thumbnail`);
                return make("span", { class: "easel-kin" }, image, make("small", {}, kind === "mask" ? t("mask") : t("from outside")));
            };
            const row = (name, id, members) => members.length ? [make("h3", {}, name), make("div", { class: "easel-kinship", id }, ...members)] : [];
            return [
                ...row(t("Came from"), "history_came_from", came.map(one)),
                ...row(t("Led to"), "history_led_to", led.map(one)),
                ...row(t("Drawn in the same job"), "history_beside", beside.map((picture) => thumb(picture, t("Open this picture")))),
            ];
        },
        marks() {
            const detail = this.detail, like = $(".like", this.side);
            if (!detail || !like) return;
            like.setAttribute("aria-pressed", String(detail.favourite));
            for (const star of this.side.querySelectorAll(".easel-star")) star.setAttribute("aria-pressed", String(Number(star.dataset.n) <= detail.rating));
        },
        changed(ids, change) {
            for (const one of [this.picture, this.detail]) if (one && ids.includes(one.id)) Object.assign(one, change);
            if (this.isOpen) this.marks();
        },
        /** The picture shown has left the list: the next one takes its place. */
        async gone(ids) {
            if (!this.isOpen || !ids.includes(this.picture.id)) return;
            if (this.index < 0 || !list.total) return this.close();
            await this.open(Math.min(this.index, list.total - 1));
        },
        turn(by) {
            const to = this.index + by;
            if (this.index >= 0 && to >= 0 && to < list.total) this.open(to);
        },
        key(event) {
            if (event.ctrlKey || event.metaKey || event.altKey) return;
            const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
            const own = { ArrowLeft: () => this.turn(-1), ArrowRight: () => this.turn(1), z: () => this.dialog.classList.toggle("actual"), s: () => $("a[download]", this.side)?.click() };
            if (own[key]) own[key]();
            else if (!acts.key(key, [this.picture.id], this.picture)) return;
            event.preventDefault();
            event.stopPropagation();
        },
    };

    // ---- two pictures ----

    const compare = {
        first: null,
        /** The first of two is remembered until the second is picked. */
        pick(ids) {
            if (ids.length === 2) return this.open(...ids);
            const [id] = ids;
            if (!id) return;
            if (this.first && this.first !== id) {
                const first = this.first;
                this.first = null;
                return this.open(first, id);
            }
            this.first = id;
            viewer.close();
            toast(t("Now open the other picture and press C, or Compare."), "note", { [t("Forget it")]: () => { this.first = null; } });
        },
        build() {
            this.images = [0, 1].map(() => make("img", { alt: "", draggable: "false" }));
            this.slider = make("input", { type: "range", min: "0", max: "100", value: "50", step: "0.5", "aria-label": t("How much of the first picture is seen") });
            this.slider.oninput = () => this.stage.style.setProperty("--at", `${this.slider.value}%`);
            this.stage = make("div", { class: "easel-both" }, this.images[1], make("div", { class: "easel-over" }, this.images[0]), make("i", { class: "easel-line" }), this.slider);
            this.words = make("div", { class: "easel-differences", id: "history_differences" });
            this.dialog = make("dialog", { id: "history_comparison", class: "easel-look compare", "aria-label": t("Two pictures compared") },
                make("div", { class: "easel-viewer-stage" }, this.stage), make("div", { class: "easel-viewer-side" }, this.words),
                button(t("Close (Esc)"), icon("M5 5l10 10 M15 5L5 15"), () => this.dialog.close(), { class: "easel-round close" }));
            document.body.append(this.dialog);
        },
        async open(one, other) {
            if (!this.dialog) this.build();
            try {
                const [a, b, found] = await Promise.all([ask(`history/${escape(one)}`), ask(`history/${escape(other)}`), ask(`history/compare?one=${escape(one)}&other=${escape(other)}`)]);
                viewer.close();
                [a, b].forEach((picture, k) => {
                    this.images[k].src = whole(picture);
                    this.images[k].alt = k ? t("The second picture") : t("The first picture");
                });
                this.stage.style.setProperty("--w", Math.max(a.width, b.width));
                this.stage.style.setProperty("--h", Math.max(a.height, b.height));
                this.slider.value = "50";
                this.slider.oninput();
                this.fill(a, b, found);
                if (!this.dialog.open) this.dialog.showModal();
                this.slider.focus();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        fill(a, b, { words, changes, pixels, largest }) {
            const byName = new Map();
            for (const change of changes) byName.set(change.name, [...(byName.get(change.name) ?? []), change]);
            const part = ({ kind, before, after, phrase }) => {
                if (kind === "order") return [make("span", { class: "easel-change" }, t("in another order"))];
                if (phrase && kind === "added") return [make("ins", {}, `+ ${after}`)];
                if (phrase && kind === "removed") return [make("del", {}, `− ${before}`)];
                return [make("del", {}, before || t("nothing")), make("span", {}, " → "), make("ins", {}, after || t("nothing"))];
            };
            const rows = [...byName].map(([name, parts]) => make("div", {}, make("dt", {}, name),
                make("dd", { translate: "no" }, ...parts.flatMap((change) => [make("span", { class: "easel-change" }, ...part(change))]))));
            const label = (picture, side) => make("span", {}, make("small", {}, side), picture.path.replace(/^.*[\\/]/, ""));
            this.words.replaceChildren(make("h2", {}, t("What differs")),
                make("p", { class: "easel-sides", translate: "no" }, label(a, t("left")), label(b, t("right"))),
                words ? make("dl", {}, ...rows) : make("p", {}, t("The settings are the same.")),
                ...(pixels === null ? [] : [make("p", { id: "history_apart" }, pixels
                    ? t("{share} % of the pixels differ, by {largest} of 255 at most.", { share: (100 * pixels).toPrecision(2), largest })
                    : t("The pictures are the same, bit for bit."))]),
                make("div", { class: "easel-viewer-acts" },
                    ...(words ? [button(t("Copy the differences in one line"), t("Copy in words"), () => copy(words), { class: "easel-pill" })] : []),
                    button(t("The left picture to the right"), t("Swap"), () => this.open(b.id, a.id), { class: "easel-pill" })));
            this.words.dataset.words = words;
        },
    };

    // ---- folders of other programs ----

    const importing = {
        build() {
            this.folder = make("input", { type: "text", id: "history_import_folder", placeholder: "/home/me/stable-diffusion-webui/outputs", "aria-label": t("Folder"), autocomplete: "off", spellcheck: "false" });
            this.note = make("p", { class: "easel-dialog-note", role: "status" });
            this.bar = make("div", { class: "easel-queue-progress", role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": "0", "aria-valuemax": "100", hidden: "" }, make("i"));
            this.go = button(t("Read the folder and all below it"), t("Import"), () => this.start(), { class: "primary", id: "history_import_start" });
            this.stop = button(t("Stop; what was read stays"), t("Stop"), () => post("import/cancel"), { hidden: "" });
            const close = button(t("Close; an import goes on"), t("Close"), () => this.dialog.close());
            this.dialog = make("dialog", { id: "history_import_dialog", class: "easel-dialog", "aria-label": t("Import pictures") },
                make("h2", {}, t("Import pictures")),
                make("p", { class: "easel-dialog-hint" }, t("Name a folder on the computer that Easel runs on, such as the outputs of AUTOMATIC1111's webui. Its pictures and those of all folders below it are listed here with their prompts and settings. The files are only read: nothing is moved, renamed or deleted, now or later.")),
                this.folder, this.bar, this.note, make("div", { class: "easel-dialog-row" }, close, make("span"), this.stop, this.go));
            this.folder.onkeydown = (event) => { if (event.key === "Enter") this.start(); };
            document.body.append(this.dialog);
        },
        async open() {
            if (!this.dialog) this.build();
            this.note.textContent = "";
            this.note.classList.remove("error");
            this.dialog.showModal();
            const view = await ask("history/import").catch(() => null);
            if (view?.state === "running") this.watch(view);
        },
        async start() {
            try {
                this.watch(await ask("history/import", "POST", { folder: this.folder.value }));
            } catch (error) {
                this.note.textContent = error.message;
                this.note.classList.add("error");
            }
        },
        async watch(view) {
            clearTimeout(this.timer);
            const running = view.state === "running", percent = view.total ? Math.floor(100 * view.looked_at / view.total) : 0;
            this.go.disabled = running;
            this.stop.hidden = this.bar.hidden = !running;
            this.bar.firstElementChild.style.width = `${percent}%`;
            this.bar.setAttribute("aria-valuenow", String(percent));
            this.note.classList.toggle("error", view.state === "failed");
            const parts = [view.error || (running ? (view.total ? t("{n} of {total}", { n: view.looked_at, total: view.total }) : t("Looking for pictures…")) : view.state === "cancelled" ? t("Stopped") : t("Done"))];
            if (view.total || !running) {
                parts.push(t("{n} new", { n: view.added }), t("{n} known already", { n: view.known }));
                if (view.unread) parts.push(t("{n} not readable", { n: view.unread }));
            }
            this.note.textContent = parts.join(" · ");
            if (running) {
                const again = () => ask("history/import").then((next) => this.watch(next), () => { this.timer = setTimeout(again, 2000); });
                this.timer = setTimeout(again, 400);
            } else {
                await tab.refresh();
                if (!this.dialog.open) toast(this.note.textContent, view.state === "failed" ? "error" : "note");
            }
        },
    };

    // ---- the tab ----

    const tab = {
        root: null,

        build(root) {
            this.root = root;
            this.search = make("input", { type: "search", id: "history_search", class: "easel-search", placeholder: t("Search: words, model:, lora:, seed:, size:, rating:, after: …"), "aria-label": t("Search the history"), autocomplete: "off", spellcheck: "false" });
            this.search.oninput = () => {
                this.hints.hidden = Boolean(this.search.value);
                clearTimeout(this.typing);
                this.typing = setTimeout(() => this.look(), 150);
            };
            this.search.onkeydown = (event) => {
                if (event.key === "ArrowDown" && this.hints.hidden) { event.preventDefault(); grid.go(grid.first()); }
                if (event.key === "Enter" || event.key === "Escape") this.hints.hidden = true;
            };
            this.search.onfocus = () => { this.hints.hidden = Boolean(this.search.value); };
            this.hints = make("div", { class: "easel-hints", hidden: "" }, ...hints().map(([text, hint]) => {
                const made = make("button", { type: "button" }, make("code", { translate: "no" }, text), make("span", {}, hint));
                made.onmousedown = (event) => event.preventDefault();  // the focus stays in the box
                made.onclick = () => this.write(`${this.search.value} ${text}`.trim());
                return made;
            }));
            this.search.onblur = () => { this.hints.hidden = true; };
            const select = (id, label, options, act) => {
                const made = make("select", { id, "aria-label": label, title: label }, ...options.map(([value, text]) => make("option", { value }, text)));
                made.onchange = () => act(made.value);
                return made;
            };
            this.favourites = button(t("Only favourites"), icon(HEART), () => this.toggle("is:favourite"), { class: "easel-round like", id: "history_favourites" });
            this.rating = select("history_rating", t("Rating"), [["", t("Any rating")], ...[1, 2, 3, 4, 5].map((n) => [`rating:>=${n}`, n === 5 ? stars(n) : `${stars(n)} +`])], (value) => this.set(/^rating:\S+$/, value));
            this.task = select("history_task", t("How it was made"), [["", t("Any kind")], ...["txt2img", "img2img", "inpaint", "extras", "grid"].map((name) => [`task:${name}`, name])], (value) => this.set(/^task:\S+$/, value));
            this.sort = select("history_sort", t("Order"), [["newest", t("Newest")], ["oldest", t("Oldest")], ["rated", t("Best")]], (value) => {
                list.sort = value;
                keep();
                this.look(true);
            });
            this.sort.value = list.sort;
            this.sizes = make("input", { type: "range", id: "history_size", min: "90", max: "420", step: "10", value: String(list.size), "aria-label": t("Size of the pictures"), title: t("Size of the pictures") });
            this.sizes.oninput = () => {
                list.size = Number(this.sizes.value);
                keep();
                grid.lay();
            };
            this.importer = button(t("List pictures of another program"), t("Import…"), () => importing.open(), { class: "easel-pill", id: "history_import" });
            this.trash = button(t("What was deleted"), t("Trash"), () => this.shelf(list.shelf === "trash" ? "here" : "trash"), { class: "easel-pill", id: "history_trash" });
            this.chips = make("div", { class: "easel-terms" });
            this.count = make("span", { class: "easel-found", role: "status", id: "history_count" });
            this.chosenBar = make("div", { class: "easel-chosen", role: "toolbar", "aria-label": t("Chosen pictures"), hidden: "" });
            this.trashBar = make("div", { class: "easel-trash-bar", hidden: "" },
                make("span", {}, t("Deleted pictures stay here until you empty the trash; Restore puts each back to its old place. Imported pictures are only out of sight: their files were never touched.")),
                button(t("Delete everything in the trash for good"), t("Empty the trash"), () => this.emptying(), { class: "easel-pill danger", id: "history_empty" }));
            this.nothing = make("div", { class: "easel-history-empty", hidden: "" });
            root.replaceChildren(
                make("div", { class: "easel-history-bar" }, make("div", { class: "easel-searching" }, this.search, this.hints),
                    this.favourites, this.rating, this.task, this.sort, this.sizes, this.importer, this.trash),
                make("div", { class: "easel-history-line" }, this.count, this.chips), this.trashBar, this.chosenBar, this.nothing, grid.build());
            listen(root, (told) => { if (told.kind === "queue") this.news(told.queue); });
            this.fit();
            addEventListener("resize", () => this.fit());
            new IntersectionObserver(([entry]) => {
                if (!entry.isIntersecting) return;
                this.fit();
                if (this.stale) this.refresh();
            }).observe(root);
            this.stale = true;
        },
        /** The grid takes what is left of the window. */
        fit() {
            if (!this.root.offsetParent) return;
            const top = grid.scroller.getBoundingClientRect().top + scrollY;
            grid.scroller.style.height = `${Math.max(320, innerHeight - top - 8)}px`;
            grid.lay();
        },

        // ---- searching: the box is the only truth ----

        write(text) {
            this.search.value = text;
            this.hints.hidden = true;
            this.search.focus();
            this.look();
        },
        set(pattern, value) {
            const rest = (this.search.value.match(TERM) ?? []).filter((term) => !pattern.test(term));
            this.search.value = [...rest, value].filter(Boolean).join(" ");
            this.look();
        },
        toggle(term) {
            const on = (this.search.value.match(TERM) ?? []).includes(term);
            this.set(new RegExp(`^${term}$`), on ? "" : term);
        },
        async look(again = false) {
            clearTimeout(this.typing);
            const query = this.search.value.trim();
            if (query === list.query && !again) return;
            list.query = query;
            grid.scroller.scrollTop = 0;
            grid.focus = 0;
            grid.chosen.clear();
            await this.refresh();
        },
        shelf(name) {
            list.shelf = name;
            this.look(true);
        },
        async refresh() {
            this.stale = false;
            this.asked = Date.now() / 1000;
            try {
                if (!await list.find()) return;
            } catch (error) {
                this.stale = true;
                return toast(error.message, "error");
            }
            const focused = grid.canvas.contains(document.activeElement);
            grid.regroup();
            grid.focus = Math.max(0, Math.min(grid.focus, list.total - 1));
            this.told();
            this.fit();
            grid.bar();
            if (focused && list.total) grid.go(grid.focus, false);
        },
        /** Pictures were drawn: those at the top come in, and what is looked at stays in its place. */
        async news(queue) {
            const drawn = [...queue.jobs, ...queue.ended].reduce((sum, view) => sum + view.images.length, 0) + "/" + (queue.ended[0]?.id ?? "");
            if (drawn === this.drawn) return;
            const known = this.drawn !== undefined;
            this.drawn = drawn;
            // The first news may come later than the list, and a picture between the two (seconds; clocks differ a little).
            if (!known && !(queue.ended[0]?.finished > this.asked - 5)) return;
            if (viewer.isOpen || grid.chosen.size) { this.stale = true; return; }
            const first = grid.first(), before = list.total, focused = grid.canvas.contains(document.activeElement);
            await this.refresh();
            const more = list.sort === "newest" ? list.total - before : 0;
            if (first > 0 && more > 0) grid.scroller.scrollTop = grid.topOf(Math.min(list.total - 1, first + more)) - HEAD;
            if (focused) grid.go(grid.focus + Math.max(0, more), false);
        },
        told() {
            const { total, known, trashed, terms, shelf, query } = list, trash = shelf === "trash";
            this.count.textContent = total === 1 ? t("1 picture") : t("{n} pictures", { n: total.toLocaleString() });
            this.chips.replaceChildren(...terms.map((term) => {
                const remove = button(t("Take {term} out of the search", { term: term.text }), "×", () => {
                    const text = this.search.value.trim();
                    this.write(`${text.slice(0, term.start)} ${text.slice(term.end)}`.replace(/\s+/g, " ").trim());
                });
                return make("span", { class: `easel-term${term.problem ? " odd" : ""}`, translate: "no", ...(term.problem ? { title: term.problem } : {}) }, term.text, remove);
            }), ...terms.filter((term) => term.problem).map((term) => make("span", { class: "easel-term-problem" }, term.problem)));
            const has = (pattern) => terms.find(({ text }) => pattern.test(text))?.text ?? "";
            this.favourites.setAttribute("aria-pressed", String(Boolean(has(/^is:favourite$/))));
            this.rating.value = has(/^rating:>=[1-5]$/);
            this.task.value = has(/^task:\w+$/);
            this.trash.textContent = trash ? t("Back to the pictures") : trashed ? t("Trash ({n})", { n: trashed }) : t("Trash");
            this.trash.setAttribute("aria-pressed", String(trash));
            this.trashBar.hidden = !trash || !trashed;
            this.nothing.hidden = total > 0;
            grid.scroller.hidden = !total;
            if (total) return;
            const [title, text] = query ? [t("No picture fits this search."), t("Take a word out of it, or look at all pictures again.")]
                : trash ? [t("The trash is empty."), t("Pictures that you delete wait here until you empty it.")]
                    : [t("Every picture you draw appears here."), t("Search it by words, model, LoRA, seed, size or day; rate, compare, restore all settings with one click, and see what came from what. Pictures of AUTOMATIC1111's webui can be listed too: press Import….")];
            this.nothing.replaceChildren(icon("M3 4h14v12H3z M3 13l4-4 4 4 2-2 4 4 M13 7.5h.01"), make("p", {}, title), make("small", {}, text),
                ...(query ? [button(t("Look at all pictures"), t("Clear the search"), () => this.write(""), { class: "easel-pill" })] : known || trash ? [] : [button(t("List pictures of another program"), t("Import…"), () => importing.open(), { class: "easel-pill" })]));
        },
        emptying() {
            const dialog = make("dialog", { class: "easel-dialog", id: "history_emptying", "aria-label": t("Empty the trash") },
                make("h2", {}, t("Empty the trash")),
                make("p", { class: "easel-dialog-hint" }, list.trashed === 1 ? t("One picture is deleted for good. This cannot be undone.") : t("{n} pictures are deleted for good. This cannot be undone.", { n: list.trashed })),
                make("div", { class: "easel-dialog-row" }, button(t("Keep them"), t("Keep them"), () => dialog.close()), make("span"),
                    button(t("Delete for good"), t("Delete for good"), () => {
                        dialog.close();
                        acts.emptyTrash();
                    }, { class: "danger" })));
            dialog.addEventListener("close", () => dialog.remove());
            document.body.append(dialog);
            dialog.showModal();
        },
    };

    window.easel.history = {
        async open(id) {
            await openTab("history", "history");
            viewer.openId(id);
        },
    };

    window.easel.whenThere(["history"], (root) => tab.build(root));
})();
