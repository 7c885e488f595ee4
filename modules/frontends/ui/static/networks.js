// Extra networks and checkpoints as cards, beside the pictures of a tab: a click puts one into the prompt or takes it out.
//
//   library        the lists of cards, fetched by kind, each once while it stays the same
//   makeShelf(T)   the strip of tabs of txt2img or img2img and its panes
//   makePane       one kind of cards: search, sort, folders, and a grid that draws only what is in sight
//   editor         the dialog with all about one card: notes, words, weight, preview, metadata
"use strict";
(() => {
    const { $, byId, make, t, heard, ask, address, toast, write, TABS } = window.easel.tools;
    const KINDS = {
        lora: { page: "lora", name: "Lora", folder: "models/Lora" },
        embedding: { page: "textual_inversion", name: "Textual Inversion", folder: "embeddings" },
        hypernetwork: { page: "hypernetworks", name: "Hypernetworks", folder: "models/hypernetworks" },
        checkpoint: { page: "checkpoints", name: "Checkpoints", folder: "models/Stable-diffusion" },
    };
    const PICTURES = "pictures";
    const SORTS = { name: "Name", created: "Date created", modified: "Date modified", size: "Size", path: "Path" };
    const FAMILIES = { sd1: "SD 1", sd2: "SD 2", sdxl: "SDXL", "sdxl-refiner": "Refiner", sd3: "SD 3", flux: "Flux" };
    const VERSIONS = ["", "SD1", "SD2", "SDXL", "SD3", "Flux"];
    const ORDERS = { Path: "path", Name: "name", "Date Created": "created", "Date Modified": "modified" };
    const LEAST = 150, GAP = 10, SHAPE = 1.3;  // px: width of a card, room between; height / width
    const KEPT = "easel.cards";

    const kept = () => { try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; } };
    const keep = (changes) => {
        try { localStorage.setItem(KEPT, JSON.stringify({ ...kept(), ...changes })); } catch { /* private windows may refuse */ }
    };
    const button = (text, act, attributes = {}) => {
        const made = make("button", { type: "button", ...attributes }, text);
        made.onclick = act;
        return made;
    };
    const icon = (path) => {
        const box = make("span", { class: "easel-drawn", "aria-hidden": "true" });
        box.innerHTML = `<svg viewBox="0 0 20 20"><path d="${path}"/></svg>`;
        return box;
    };
    const bytes = (size) => size >= 1e9 ? `${(size / 1e9).toFixed(2)} GB` : size >= 1e6 ? `${(size / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(size / 1e3))} kB`;
    const day = (seconds) => new Date(seconds * 1000).toLocaleDateString(window.easel.language?.tag || undefined);
    const stemOf = (card) => card.name.slice(card.name.lastIndexOf("/") + 1);
    const folderOf = (card) => card.name.slice(0, Math.max(0, card.name.lastIndexOf("/")));
    const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const pathOf = (path) => `path=${encodeURIComponent(path)}`;

    // ---- the lists ----

    const library = {
        checkpoint: "",     // the one that is drawn with
        lists: {},          // kind → cards in order of their paths
        marks: {},          // kind → what the server calls that state of the list
        /** The cards of a kind, for the checkpoint of now; the same list again while the server says it is the same. */
        async load(kind) {
            const query = this.checkpoint ? `&checkpoint=${encodeURIComponent(this.checkpoint)}` : "";
            const answer = await fetch(address(`cards?kind=${kind}${query}`), { cache: "no-store",
                headers: this.lists[kind] && this.marks[kind] ? { "if-none-match": this.marks[kind] } : {} });
            if (answer.status === 304) return this.lists[kind];
            const cards = await answer.json().catch(() => ({}));
            if (!answer.ok) throw new Error(cards.message || t("The server answered {n}.", { n: answer.status }));
            this.marks[kind] = answer.headers.get("etag");
            for (const [at, card] of cards.entries()) {
                card.at = at;
                card.stem = stemOf(card);
                card.folder = folderOf(card);
                card.title = kind === "checkpoint" ? card.stem : card.word;
                card.key = card.title.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(12, "0"));  // 2 before 10
                card.found = `${card.name} ${card.alias ?? ""} ${card.about ?? ""} ${card.words ?? ""} ${card.hash ?? ""}`.toLowerCase();
            }
            this.lists[kind] = cards;
            return cards;
        },
    };
    try { library.checkpoint = JSON.parse(localStorage.getItem("easel.txt2img.draft"))?.checkpoint ?? ""; } catch { /* nothing kept */ }

    // ---- prompts ----

    /** The places of a card in a text: [from, to, …]. */
    const tagOf = (card) => {
        const names = [...new Set([card.word, card.name, card.stem, card.alias].filter(Boolean))].map(escaped).join("|");
        if (card.kind === "embedding") return new RegExp(`(?<![\\p{L}\\p{N}_])(?:${names})(?![\\p{L}\\p{N}_])`, "giu");
        return new RegExp(`<(?:${card.kind === "hypernetwork" ? "hypernet" : "lora|lyco"}):(?:${names})(?::[^<>]*)?>`, "gu");
    };
    const without = (text, part) => {
        const at = text.lastIndexOf(part);
        if (at < 0) return text;
        const before = text.slice(0, at).replace(/[\s,]+$/, ""), after = text.slice(at + part.length);
        if (!before) return after.replace(/^[\s,]+/, "");
        return before + after;
    };
    const wanted = (key, usual) => window.easel.options?.[key] ?? usual;
    const joined = (text, part, by) => text.trim() ? `${text.trimEnd()}${by}${part}` : part;

    function promptsOf(T) {
        const boxes = { prompt: () => $(`#${T}_prompt textarea`), negative: () => $(`#${T}_neg_prompt textarea`) };
        return {
            last: "prompt",
            box(name) { return boxes[name](); },
            nameOf(element) { return Object.keys(boxes).find((name) => boxes[name]() === element); },
            has(card) {
                const into = card.kind === "embedding" ? Object.keys(boxes) : ["prompt"];
                return into.some((name) => tagOf(card).test(boxes[name]()?.value ?? ""));
            },
            /** Take a card out of the prompts, with the words that came with it. */
            remove(card) {
                for (const name of card.kind === "embedding" ? Object.keys(boxes) : ["prompt"]) {
                    const box = boxes[name]();
                    let text = box.value;
                    for (const [tag] of [...text.matchAll(tagOf(card))]) text = without(text, tag);
                    if (text === box.value) continue;
                    if (card.words && name === "prompt") text = without(text, card.words);
                    write(box, text);
                }
                const negative = boxes.negative();
                if (card.negative && negative) write(negative, without(negative.value, card.negative));
            },
            add(card) {
                const weight = card.weight || window.easel.options?.extra_networks_default_multiplier || 1;
                if (card.kind === "embedding") {
                    const box = boxes[this.last]();
                    write(box, joined(box.value, card.word, ", "));
                } else {
                    const box = boxes.prompt(), tag = `<${card.kind === "hypernetwork" ? "hypernet" : "lora"}:${card.word}:${weight}>`;
                    write(box, joined(box.value, card.words ? `${tag} ${card.words}` : tag, wanted("extra_networks_add_text_separator", " ")));
                }
                const negative = boxes.negative();
                if (card.negative && negative && !negative.value.includes(card.negative)) {
                    write(negative, joined(negative.value, card.negative, ", "));
                }
            },
        };
    }

    // ---- one kind of cards ----

    function makePane(T, kind, prompts) {
        const { page, folder: where } = KINDS[kind], id = `${T}_${page}`;
        const search = make("input", { type: "search", id: `${id}_extra_search`, placeholder: t("Search"), "aria-label": t("Search cards") });
        const sort = make("select", { id: `${id}_extra_sort`, "aria-label": t("Sort by") },
            ...Object.entries(SORTS).map(([key, name]) => make("option", { value: key }, t(name))));
        const turn = button(icon("M6 4v12M3 13l3 3 3-3M11 5h6M11 10h4.5M11 15h3"), () => { view.down = !view.down; keepSort(); draw(); },
            { id: `${id}_extra_sort_dir`, class: "easel-card-tool", "aria-label": t("Reverse the order"), title: t("Reverse the order") });
        const fits = make("input", { type: "checkbox", id: `${id}_extra_fits` });
        const reload = button(icon("M16.5 10a6.5 6.5 0 1 1-2-4.7M16.5 2.5v3.3h-3.3"), () => refresh(),
            { id: `${id}_extra_refresh`, class: "easel-card-tool", "aria-label": t("Look for new files"), title: t("Look for new files") });
        const into = make("span", { class: "easel-into", role: "group", "aria-label": t("Put into") },
            ...[["prompt", "Prompt"], ["negative", "Negative prompt"]].map(([name, label]) =>
                button(t(label), () => { prompts.last = name; showInto(); }, { "data-into": name })));
        const dirs = make("select", { id: `${id}_dirs`, class: "easel-dirs", "aria-label": t("Folder") });
        const tree = make("nav", { id: `${id}_tree`, class: "easel-tree", "aria-label": t("Folders") });
        const sheet = make("div", { class: "easel-sheet" });
        const cards = make("div", { id: `${id}_cards`, class: "easel-cards", role: "group", "aria-label": t(KINDS[kind].name), tabindex: "-1" }, sheet);
        const nothing = make("div", { class: "easel-cards-empty", hidden: "" });
        cards.append(nothing);
        const note = make("p", { class: "easel-cards-note", role: "status" });
        const controls = make("div", { id: `${id}_controls`, class: "easel-cards-controls" }, search, dirs, sort, turn, reload);
        const below = make("div", { class: "easel-cards-below" });
        if (kind !== "checkpoint") below.append(make("label", { class: "easel-fits" }, fits, make("span", {}, t("Fits this model"))));
        if (kind === "embedding") below.append(into);
        below.append(note);
        const root = make("section", { id: `${id}_pane`, class: "easel-pane", role: "tabpanel", "aria-label": t(KINDS[kind].name), hidden: "" },
            controls, below, make("div", { class: "easel-cards-body" }, tree, cards));

        const saved = kept()[kind] ?? {};
        const view = { list: [], shown: [], folder: "", open: new Set([""]), down: saved.down ?? wanted("extra_networks_card_order", "Ascending") === "Descending", columns: 1, height: 0, ready: false };
        const drawn = new Map();   // place in view.shown → element
        sort.value = SORTS[saved.sort] ? saved.sort : ORDERS[wanted("extra_networks_card_order_field", "Path")] ?? "path";
        fits.checked = Boolean(kept().fits);

        const keepSort = () => keep({ [kind]: { sort: sort.value, down: view.down } });
        search.oninput = () => draw();
        sort.onchange = () => { keepSort(); draw(); };
        fits.onchange = () => { keep({ fits: fits.checked }); draw(); };
        dirs.onchange = () => choose(dirs.value);
        cards.addEventListener("scroll", () => place(), { passive: true });
        new ResizeObserver(() => { if (!root.hidden) { layOut(); place(true); } }).observe(cards);

        /** Show what is known, then what the server says. */
        async function load() {
            if (library.lists[kind] && !view.ready) take(library.lists[kind]);
            try {
                take(await library.load(kind));
            } catch (error) {
                toast(heard(error.message), "error");
            }
        }
        function take(list) {
            if (view.ready && view.list === list) return;
            view.list = list;
            view.ready = true;
            folders();
            draw(true);
        }
        async function refresh() {
            root.setAttribute("aria-busy", "true");
            reload.disabled = true;
            try {
                const answer = await fetch(address("cards/refresh"), { method: "POST" });
                if (!answer.ok) throw new Error(t("The server answered {n}.", { n: answer.status }));
                await load();
            } catch (error) {
                toast(heard(error.message), "error");
            }
            reload.disabled = false;
            root.removeAttribute("aria-busy");
        }

        // ---- folders ----

        function folders() {
            const counts = new Map();
            for (const card of view.list) {
                for (let path = card.folder; path; path = path.slice(0, Math.max(0, path.lastIndexOf("/")))) {
                    counts.set(path, (counts.get(path) ?? 0) + 1);
                }
            }
            if (view.folder && !counts.has(view.folder)) view.folder = "";
            const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
            const paths = [...counts.keys()].sort(collator.compare);
            view.counts = counts;
            view.below = new Map();
            for (const path of paths) {
                const above = path.slice(0, Math.max(0, path.lastIndexOf("/")));
                if (!view.below.has(above)) view.below.set(above, []);
                view.below.get(above).push(path);
            }
            root.classList.toggle("flat", !paths.length);
            const option = (path, text) => make("option", { value: path, translate: path ? "no" : "yes" }, text);
            dirs.replaceChildren(option("", t("All folders")), ...paths.map((path) => option(path, `${path} (${counts.get(path)})`)));
            dirs.value = view.folder;
            showTree();
        }
        function showTree() {
            const list = (paths, depth) => make("ul", {}, ...paths.map((path) => {
                const below = view.below.get(path), isOpen = view.open.has(path);
                const row = make("div", { class: "easel-tree-row", style: `--depth: ${depth}` });
                if (below) {
                    row.append(button("›", () => { isOpen ? view.open.delete(path) : view.open.add(path); showTree(); },
                        { class: "easel-tree-open", "aria-expanded": String(isOpen), "aria-label": t("Folders below {name}", { name: path }) }));
                }
                row.append(button(make("span", { translate: "no" }, path.slice(path.lastIndexOf("/") + 1)), () => choose(path),
                    { class: "easel-tree-name", title: path, ...(path === view.folder ? { "aria-current": "true" } : {}) }));
                row.append(make("small", {}, String(view.counts.get(path))));
                return make("li", {}, row, ...(below && isOpen ? [list(below, depth + 1)] : []));
            }));
            const all = make("div", { class: "easel-tree-row", style: "--depth: 0" },
                button(t("All folders"), () => choose(""), { class: "easel-tree-name", ...(view.folder ? {} : { "aria-current": "true" }) }),
                make("small", {}, String(view.list.length)));
            tree.replaceChildren(all, list(view.below.get("") ?? [], 0));
        }
        function choose(path) {
            view.folder = path;
            for (let above = path; above; above = above.slice(0, Math.max(0, above.lastIndexOf("/")))) view.open.add(above);
            dirs.value = path;
            showTree();
            draw();
        }

        // ---- which cards, in which order ----

        function draw(stay = false) {
            const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), { folder } = view;
            view.shown = view.list.filter((card) => (!folder || card.folder === folder || card.folder.startsWith(`${folder}/`))
                && (!fits.checked || kind === "checkpoint" || card.fits !== false) && words.every((word) => card.found.includes(word)));
            const by = sort.value;
            if (by === "name") view.shown.sort((a, b) => a.key < b.key ? -1 : a.key > b.key ? 1 : a.at - b.at);
            else if (by !== "path") view.shown.sort((a, b) => b[by] - a[by] || a.at - b.at);
            if (view.down) view.shown.reverse();
            turn.classList.toggle("turned", view.down);
            const total = view.list.length, count = view.shown.length;
            note.textContent = !view.ready || !total ? "" : count < total ? t("{n} of {all} files", { n: count, all: total }) : total === 1 ? t("1 file") : t("{n} files", { n: total });
            const empty = view.ready && !count;
            root.classList.toggle("empty", empty);
            nothing.hidden = !empty;
            if (empty) {
                const sentence = !total ? t("No files of this kind are there yet; put some into {folder} and press ↻.", { folder: where })
                    : words.length ? t("Nothing here is called that.") : t("None of these files was made for this model.");
                nothing.replaceChildren(icon("M3 5h6v6H3zM11 5h6v6h-6zM3 13h6M11 13h6M3 16h4M11 16h4"), make("p", { role: "status" }, sentence));
            }
            if (!stay) cards.scrollTop = 0;
            layOut();
            place(true);
        }

        // ---- the grid: only what is in sight is in the page ----

        function layOut() {
            const width = cards.clientWidth - 2;
            if (width <= 0) return;
            const asked = wanted("extra_networks_card_width", 0);
            view.columns = Math.max(asked ? 1 : 2, Math.floor((width + GAP) / ((asked || LEAST) + GAP)));
            view.width = asked ? Math.min(asked, width) : (width - GAP * (view.columns - 1)) / view.columns;
            view.height = wanted("extra_networks_card_height", 0) || Math.round(view.width * SHAPE);
            root.style.setProperty("--easel-card-text", wanted("extra_networks_card_text_scale", 1) || 1);
            root.classList.toggle("easel-no-words", wanted("extra_networks_card_text_scale", 1) === 0);
            root.classList.toggle("easel-no-about", !wanted("extra_networks_card_show_desc", true));
            sheet.style.height = `${Math.ceil(view.shown.length / view.columns) * (view.height + GAP) - GAP}px`;
        }
        function place(anew = false) {
            if (!view.height) return;
            const step = view.height + GAP;
            const first = Math.max(0, Math.floor(cards.scrollTop / step) - 1) * view.columns;
            const last = Math.min(view.shown.length, (Math.ceil((cards.scrollTop + cards.clientHeight) / step) + 1) * view.columns);
            for (const [at, element] of drawn) {
                if (anew || at < first || at >= last) { element.remove(); drawn.delete(at); }
            }
            const fresh = [];
            for (let at = first; at < last; at++) {
                if (drawn.has(at)) continue;
                const element = cardOf(view.shown[at], at);
                drawn.set(at, element);
                fresh.push(element);
            }
            sheet.append(...fresh);
        }
        function cardOf(card, at) {
            const { title } = card;
            const family = FAMILIES[card.family] ?? card.family;
            const wrong = card.problem || (card.fits === false ? t("Made for another kind of model; it will not be applied.") : "");
            const main = make("button", { type: "button", class: "easel-card-main", title: wrong || [card.name, card.about].filter(Boolean).join("\n"), translate: "no" },
                make("span", { class: "easel-card-words" }, make("strong", {}, title),
                    ...(card.problem ? [make("small", { translate: "yes" }, heard(card.problem))] : card.about ? [make("small", {}, card.about)] : [])));
            if (card.picture) {
                const image = make("img", { alt: "", loading: "lazy", draggable: "false" });
                image.onerror = () => image.remove();
                image.src = address(`cards/picture?${pathOf(card.path)}&v=${card.picture}`);
                main.prepend(image);
            }
            const marks = make("span", { class: "easel-card-marks" });
            if (card.fits === false) marks.append(make("span", { class: "wrong" }, family ? t("only {family}", { family }) : t("does not fit")));
            else if (family) marks.append(make("span", {}, family));
            if (card.weight) marks.append(make("span", {}, `× ${card.weight}`));
            const box = make("div", { class: "easel-card", style: `width: ${view.width}px; height: ${view.height}px; `
                + `translate: ${(at % view.columns) * (view.width + GAP)}px ${Math.floor(at / view.columns) * (view.height + GAP)}px; --hue: ${hueOf(card.name)}` },
            main, marks, button(icon("M10 9v5M10 6.2v.3M17 10a7 7 0 1 1-14 0 7 7 0 0 1 14 0z"), () => editor.open(T, card, load),
                { class: "easel-card-edit", "aria-label": t("About {name}", { name: title }), title: t("Notes, preview and metadata") }));
            box.classList.toggle("unfit", card.fits === false);
            box.classList.toggle("bare", !card.picture);
            main.dataset.letter = (title.match(/[\p{L}\p{N}]/u)?.[0] ?? "?").toUpperCase();
            main.disabled = Boolean(card.problem);
            main.onclick = () => pressed(card);
            box.card = card;
            box.at = at;
            mark(box);
            return box;
        }
        function hueOf(name) {
            let sum = 0;
            for (let k = 0; k < name.length; k++) sum = (sum * 31 + name.charCodeAt(k)) >>> 0;
            return sum % 360;
        }

        // ---- what a click does ----

        function pressed(card) {
            if (card.kind === "checkpoint") {
                if (card.word === library.checkpoint) return;
                window.easel.chosenCheckpoint = card.word;
                byId("choose_checkpoint")?.click();
                return;
            }
            if (prompts.has(card)) prompts.remove(card);
            else prompts.add(card);
            marks();
        }
        function mark(box) {
            const on = box.card.kind === "checkpoint" ? box.card.word === library.checkpoint : prompts.has(box.card);
            $(".easel-card-main", box).setAttribute("aria-pressed", String(on));
        }
        function marks() {
            for (const box of drawn.values()) mark(box);
        }
        function showInto() {
            for (const each of into.children) each.setAttribute("aria-pressed", String(each.dataset.into === prompts.last));
        }
        showInto();

        cards.addEventListener("keydown", (event) => {
            const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -view.columns, ArrowDown: view.columns, Home: -Infinity, End: Infinity };
            const box = event.target.closest(".easel-card"), move = moves[event.key];
            if (!box || move === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
            event.preventDefault();
            event.stopPropagation();
            const to = Math.min(view.shown.length - 1, Math.max(0, box.at + move)), row = Math.floor(to / view.columns) * (view.height + GAP);
            if (row < cards.scrollTop) cards.scrollTop = row;
            else if (row + view.height > cards.scrollTop + cards.clientHeight) cards.scrollTop = row + view.height - cards.clientHeight;
            place();
            $(".easel-card-main", drawn.get(to))?.focus();
        });

        return { root, load, marks, showInto, search };
    }

    // ---- the strip of a tab ----

    function makeShelf(T) {
        const prompts = promptsOf(T), panes = {};
        let shown = PICTURES, built = false;
        const workspace = () => byId(`${T}_extra_tabs`)?.closest(".easel-workspace");

        function build() {
            built = true;
            const entries = [[PICTURES, "Pictures"], ...Object.entries(KINDS).map(([kind, { name }]) => [kind, name])];
            const strip = make("div", { role: "tablist", "aria-label": t("Pictures and cards") }, ...entries.map(([kind, name]) =>
                button(t(name), () => show(kind), { role: "tab", "data-kind": kind, id: `${T}_${KINDS[kind]?.page ?? PICTURES}_tab` })));
            strip.addEventListener("keydown", (event) => {
                const tabs = [...strip.children], at = tabs.indexOf(document.activeElement);
                const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
                if (at < 0 || to === undefined) return;
                event.preventDefault();
                event.stopPropagation();
                tabs[(to + tabs.length) % tabs.length].focus();
                tabs[(to + tabs.length) % tabs.length].click();
            });
            byId(`${T}_extra_tabs`).replaceChildren(strip);
            const toggle = byId(`${T}_extra_networks`);
            if (toggle) {
                toggle.title = t("Cards of LoRAs, embeddings, hypernetworks and checkpoints");
                toggle.setAttribute("aria-label", toggle.title);
            }
            // The list is fetched while nobody waits for it, so that opening it is a matter of drawing.
            const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 1000));
            if (T === TABS[0]) idle(() => library.load(KINDS[kept().kind] ? kept().kind : "lora").catch(() => {}), { timeout: 3000 });
            // Heard from the whole page: Gradio may put the boxes in after this, or anew.
            document.addEventListener("focusin", ({ target }) => {
                const box = prompts.nameOf(target);
                if (!box) return;
                prompts.last = box;
                panes.embedding?.showInto();
            });
            let waiting = false;
            document.addEventListener("input", ({ target }) => {
                if (waiting || shown === PICTURES || !prompts.nameOf(target)) return;
                waiting = true;
                requestAnimationFrame(() => { waiting = false; panes[shown]?.marks(); });
            });
            byId(`${T}_generate`)?.addEventListener("click", () => show(PICTURES));
            show(PICTURES);
        }
        function show(kind) {
            shown = kind;
            for (const tab of byId(`${T}_extra_tabs`).querySelectorAll("[role=tab]")) {
                const on = tab.dataset.kind === kind;
                tab.setAttribute("aria-selected", String(on));
                tab.tabIndex = on ? 0 : -1;
            }
            workspace()?.classList.toggle("easel-cards-open", kind !== PICTURES);
            for (const [name, pane] of Object.entries(panes)) pane.root.hidden = name !== kind;
            if (kind === PICTURES) return;
            keep({ kind });
            if (!panes[kind]) {
                panes[kind] = makePane(T, kind, prompts);
                byId(`${T}_extra_pane`).append(panes[kind].root);
            }
            panes[kind].root.hidden = false;
            panes[kind].load();
        }
        return {
            mounted() { if (!built && byId(`${T}_extra_tabs`)) build(); },
            toggle() { show(shown === PICTURES ? (KINDS[kept().kind] ? kept().kind : "lora") : PICTURES); },
            /** Another checkpoint: other cards fit. */
            checkpoint() { if (shown !== PICTURES) panes[shown].load(); },
            search() { return shown === PICTURES ? null : panes[shown].search; },
        };
    }

    // ---- all about one card ----

    const editor = {
        dialog: null,
        async open(T, entry, changed) {
            let card;
            try {
                card = await ask(`cards/card?${pathOf(entry.path)}`);
            } catch (error) {
                return toast(heard(error.message), "error");
            }
            if (!this.dialog) {
                this.dialog = make("dialog", { id: "card_editor", class: "easel-dialog easel-card-editor" });
                this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.leave(); });
                this.dialog.addEventListener("cancel", (event) => { event.preventDefault(); this.leave(); });
                document.body.append(this.dialog);
            }
            this.T = T;
            this.entry = entry;
            this.changed = changed;
            this.picture = null;
            this.build(card);
            this.dialog.showModal();
        },
        leave() {
            if (!this.dirty() || confirm(t("Leave without saving what was written?"))) this.dialog.close();
        },
        dirty() { return Boolean(this.picture) || JSON.stringify(this.values()) !== this.before; },
        values() { return Object.fromEntries(Object.entries(this.fields).map(([name, read]) => [name, read()])); },

        build(card) {
            const { model } = card, { kind, title } = this.entry;
            this.fields = {};
            const text = (name, label, value, lines = 1, hint = "") => {
                const box = make(lines > 1 ? "textarea" : "input", lines > 1 ? { rows: String(lines) } : { type: "text" });
                box.value = value;
                box.dataset.field = name;
                box.disabled = !card.writable;
                if (hint) box.placeholder = t(hint);
                this.fields[name] = () => box.value;
                box.addEventListener("input", () => this.check());
                return make("label", {}, make("span", {}, t(label)), box);
            };
            const parts = [text("description", "Description", model.description, 2)];
            if (kind === "lora") {
                parts.push(text("activation", "Words that come with it", model.activation, 2, "for instance: ink wash, black and white"));
                const number = make("input", { type: "number", min: "-10", max: "10", step: "0.05", "data-field": "preferred_weight" });
                number.value = model.preferred_weight || "";
                number.placeholder = "1";
                number.disabled = !card.writable;
                number.addEventListener("input", () => this.check());
                this.fields.preferred_weight = () => Number(number.value) || 0;
                const version = make("select", { "data-field": "sd_version" }, ...VERSIONS.map((name) => make("option", { value: name }, name || t("As the file tells"))));
                version.value = VERSIONS.includes(model.sd_version) ? model.sd_version : "";
                version.disabled = !card.writable;
                version.addEventListener("change", () => this.check());
                this.fields.sd_version = () => version.value;
                parts.push(make("div", { class: "easel-card-pair" },
                    make("label", {}, make("span", {}, t("Preferred weight")), number), make("label", {}, make("span", {}, t("Made for")), version)));
            }
            if (kind === "lora" || kind === "embedding") parts.push(text("negative", "Negative words that come with it", model.negative));
            if (kind === "checkpoint") parts.push(text("vae", "VAE to draw it with", card.vae, 1, "Automatic"));
            parts.push(text("notes", "Notes", model.notes, 4));

            this.image = make("img", { alt: "" });
            this.frame = make("div", { class: "easel-card-preview", style: `--hue: ${this.hue(title)}`, "data-letter": title.slice(0, 1).toUpperCase() }, this.image);
            this.showPicture(this.entry.picture ? address(`cards/picture?${pathOf(model.path)}&v=${this.entry.picture}`) : "");
            const file = make("input", { type: "file", accept: "image/*", hidden: "", "aria-label": t("Preview from a file") });
            file.onchange = () => file.files[0] && this.take(file.files[0]);
            this.frame.ondragover = (event) => event.preventDefault();
            this.frame.ondrop = (event) => {
                event.preventDefault();
                if (card.writable && event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
            };
            const drawn = $(`#${this.T}_gallery .easel-frame img`)?.src ?? "";
            const ours = button(t("Use the picture shown"), () => this.takeFrom(drawn), { class: "easel-use-shown" });
            ours.disabled = !drawn.includes("/pictures/") || !card.writable;
            if (!drawn.includes("/pictures/")) ours.title = t("There is no picture yet; draw one, then come back.");
            const theirs = button(t("From a file…"), () => file.click());
            theirs.disabled = !card.writable;

            const about = [FAMILIES[model.family] ?? model.family, bytes(model.size), day(model.modified)].filter(Boolean).join(" · ");
            this.hash = make("span", { class: "easel-card-hash", translate: "no" }, model.hash ? model.hash : "");
            const lines = make("dl", {}, ...Object.entries(card.facts).map(([name, value]) =>
                make("div", {}, make("dt", {}, t(name)), make("dd", { translate: "no" }, value))));
            lines.append(make("div", {}, make("dt", {}, t("Hash")), make("dd", {}, this.hash, ...(model.hash ? [] : [this.hasher(model.path)]))));
            lines.append(make("div", {}, make("dt", {}, t("File")), make("dd", { translate: "no", class: "easel-card-path" }, model.path)));

            const more = [];
            if (card.tags.length) {
                more.push(make("h3", {}, t("What it was trained on")), make("div", { class: "easel-tags", translate: "no" },
                    ...card.tags.slice(0, 60).map(([tag, count]) => {
                        const chip = button(make("span", {}, tag), () => this.addWord(tag), { title: t("Add to the words that come with it") });
                        chip.append(make("small", {}, String(count)));
                        chip.disabled = kind !== "lora" || !card.writable;
                        return chip;
                    })));
            }
            const entries = Object.entries(card.metadata);
            if (entries.length) {
                more.push(make("details", {}, make("summary", {}, entries.length === 1 ? t("Metadata (1 entry)") : t("Metadata ({n} entries)", { n: entries.length })),
                    make("dl", { class: "easel-card-metadata", translate: "no" }, ...entries.map(([name, value]) =>
                        make("div", {}, make("dt", {}, name), make("dd", {}, pretty(value)))))));
            }
            this.note = make("p", { class: "easel-dialog-note", role: "status" },
                card.writable ? "" : t("Notes and previews are not written over the network; edit them where Easel runs."));
            this.saver = button(t("Save"), () => this.save(), { class: "primary" });
            this.dialog.setAttribute("aria-label", title);
            this.dialog.replaceChildren(
                make("header", {}, make("div", {}, make("h2", { translate: "no" }, title), make("p", {}, about)),
                    button("×", () => this.leave(), { class: "easel-card-close", "aria-label": t("Close") })),
                make("div", { class: "easel-card-sides" },
                    make("div", { class: "easel-card-left" }, this.frame, make("div", { class: "easel-card-row" }, ours, theirs, file), lines),
                    make("div", { class: "easel-card-right" }, ...parts, ...more)),
                make("footer", {}, this.note, button(t("Cancel"), () => this.leave()), this.saver));
            this.before = JSON.stringify(this.values());
            this.check();
        },
        hue(name) { return [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 0) % 360; },
        check() { this.saver.disabled = !this.dirty(); },
        showPicture(address) {
            this.image.hidden = !address;
            if (address) this.image.src = address;
            else this.image.removeAttribute("src");
        },
        take(blob) {
            if (this.url) URL.revokeObjectURL(this.url);
            this.picture = blob;
            this.url = URL.createObjectURL(blob);
            this.showPicture(this.url);
            this.check();
        },
        async takeFrom(source) {
            try {
                const answer = await fetch(source);
                if (!answer.ok) throw new Error(t("This picture is not there any more."));
                this.take(await answer.blob());
            } catch (error) {
                this.say(heard(error.message));
            }
        },
        addWord(tag) {
            const box = $("[data-field=activation]", this.dialog);
            const words = box.value.split(",").map((word) => word.trim()).filter(Boolean);
            box.value = (words.includes(tag) ? words.filter((word) => word !== tag) : [...words, tag]).join(", ");
            this.check();
        },
        hasher(path) {
            const made = button(t("compute"), async () => {
                made.disabled = true;
                made.textContent = t("Reading…");
                try {
                    await ask("models/hash", "POST", { path });
                    for (let k = 0; k < 600 && this.dialog.open && made.isConnected; k++) {
                        await new Promise((resolve) => setTimeout(resolve, 500));
                        const { model } = await ask(`cards/card?${pathOf(path)}`);
                        if (!model.hash) continue;
                        this.hash.textContent = model.hash;
                        return made.remove();
                    }
                } catch (error) {
                    this.say(heard(error.message));
                }
            }, { class: "easel-link" });
            return made;
        },
        say(message) {
            this.note.textContent = message;
            this.note.classList.add("error");
        },
        async save() {
            this.saver.disabled = true;
            const query = pathOf(this.entry.path);
            try {
                if (this.picture) {
                    const answer = await fetch(address(`cards/preview?${query}`), { method: "POST", body: this.picture });
                    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message ?? t("The server answered {n}.", { n: answer.status }));
                    this.picture = null;
                }
                if (this.dirty()) await ask(`cards/notes?${query}`, "POST", this.values());
                await this.changed();
                this.dialog.close();
                toast(t("Saved."));
            } catch (error) {
                this.say(heard(error.message));
                this.saver.disabled = false;
            }
        },
    };
    function pretty(value) {
        try { return JSON.stringify(JSON.parse(value), null, 1).slice(0, 20000); } catch { return value; }
    }

    // ---- the page ----

    const shelves = Object.fromEntries(TABS.map((tab) => [tab, makeShelf(tab)]));
    window.easel.openNetworks = (tab) => shelves[tab].toggle();
    document.addEventListener("easel:form", ({ detail }) => {
        if (!detail.checkpoint || detail.checkpoint === library.checkpoint) return;
        library.checkpoint = detail.checkpoint;
        for (const shelf of Object.values(shelves)) shelf.checkpoint();
    });
    document.addEventListener("easel:mounted", (event) => shelves[event.detail]?.mounted());
    for (const tab of TABS) shelves[tab].mounted();
})();
