// The prompt editor: what a prompt means is seen while it is written. The text box stays the browser's own; behind it lies
// the same text once more, coloured ("ink"), so that keys, input methods, spelling and selections work as everywhere.
//
//   read        the prompt language as prompt/parse.py reads it, per character: kind and weight
//   Ink         the coloured text behind a box, in step with its size and scrolling
//   History     undo and redo over everything that changes a box: typing, weights, send-to, paste, cleared prompts
//   completion  names of networks, embeddings, wildcards, styles and tags at the cursor
//   hover       effective weight, or what is odd, under the pointer
//   keys        Ctrl+↑/↓ weights, Alt+←/→ move parts, Ctrl+. writes what was probably meant
//   earlier     prompts that were generated with, to take again
"use strict";
(() => {
    const { $, byId, make, ask, t, heard, toast, write, utf16, TABS } = window.easel.tools;
    const { options } = window.easel;
    const SELECTOR = ".prompt textarea";
    const isNegative = (box) => Boolean(box.closest("[id$=neg_prompt]"));

    // ---- read ----

    const PLAIN = 0, BRACKET = 1, WEIGHT = 2, EDIT = 3, TAG = 4, COMMENT = 5, WILDCARD = 6, WORD = 7, ESCAPE = 8, CHOICE = 9;
    const CLASSES = ["", "bracket", "weight", "edit", "tag", "comment", "wildcard", "word", "escape", "edit"];
    const WHEN = /^\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*$/;
    const NEVER = "\u0001";  // stands for what is no sign of the language any more

    /** {kinds, weights} for each UTF-16 unit of a prompt, and `pairs`: place of a bracket → place of its other. */
    function read(text, negative, { emphasis = "Original", enable_prompt_comments: comments = true, prompt_wildcards: wild = "Files" } = {}) {
        const kinds = new Uint8Array(text.length), weights = new Float64Array(text.length).fill(1), pairs = new Map();
        const chars = text.split("");
        const mark = (from, to, kind, blank = null) => {
            kinds.fill(kind, from, to);
            if (blank !== null) chars.fill(blank, from, to);
        };
        if (comments) for (const { 0: found, index } of text.matchAll(/#[^\n]*/g)) mark(index, index + found.length, COMMENT, " ");
        if (!negative) for (const { 0: found, index } of chars.join("").matchAll(/<[\p{L}\p{N}_]+:[^>]+>/gu)) mark(index, index + found.length, TAG, NEVER);
        if (wild !== "Off") {
            for (const { 0: found, index } of chars.join("").matchAll(/__[\p{L}\p{N}_\-./*]+?__/gu)) mark(index, index + found.length, WILDCARD, NEVER);
        }
        if (wild === "Files and choices") {
            const open = [];
            chars.forEach((char, at) => {
                if (char === "{" && chars[at - 1] !== "\\") open.push([at]);
                else if (char === "|" && open.length) open[open.length - 1].push(at);
                else if (char === "}" && open.length) {
                    const places = open.pop();
                    if (places.length > 1) for (const place of [...places, at]) mark(place, place + 1, CHOICE, NEVER);
                }
            });
        }
        const masked = chars.join("");
        let from = 0;
        const parts = [];
        if (!negative) {
            for (const { index } of masked.matchAll(/\bAND\b/g)) {
                parts.push([from, index]);
                mark(index, index + 3, WORD);
                from = index + 3;
            }
        }
        parts.push([from, masked.length]);
        for (const [start, end] of parts) {
            const part = masked.slice(start, end);
            const share = parts.length > 1 && /:\s*[-+]?(?:\d+\.?|\d*\.\d+)\s*$/.exec(part);
            if (share) mark(start + share.index, start + share.index + share[0].trimEnd().length, WEIGHT);
            const rest = readEdits(part, start, mark, pairs);
            if (emphasis !== "None") readEmphasis(rest, start, { mark, weights, pairs, counts: emphasis !== "Ignore" });
        }
        return { kinds, weights, pairs };
    }

    /** Marks prompt editing and alternation; the part with their signs taken out. */
    function readEdits(part, offset, mark, pairs) {
        const groups = [], frames = [];
        let broken = false;
        const literal = () => {
            if (frames.some((frame) => frame.bars.length)) broken = true;
            frames.length = 0;
        };
        for (const { 0: token, index: at } of part.matchAll(/\\[^\n]|[\\[\]():|]|[^\\[\]():|]+/g)) {
            if (token === "\\") return part;
            if (token === "(" || token === "[") frames.push({ bracket: token, at, colons: [], bars: [] });
            else if (token === ":" && frames.length) frames[frames.length - 1].colons.push(at);
            else if (token === "|") {
                if (frames[frames.length - 1]?.bracket !== "[") return part;
                frames[frames.length - 1].bars.push(at);
            } else if (token === ")") {
                if (frames[frames.length - 1]?.bracket !== "(" || frames.pop().colons.length > 1) literal();
            } else if (token === "]") {
                const frame = frames[frames.length - 1];
                if (frame?.bracket !== "[") { literal(); continue; }
                frames.pop();
                const { colons, bars } = frame, last = colons[colons.length - 1];
                if (bars.length ? !colons.length : (colons.length === 1 || colons.length === 2) && WHEN.test(part.slice(last + 1, at))) {
                    groups.push([frame.at, at, bars.length ? bars : colons, bars.length ? null : last]);
                } else {
                    if (bars.length) return part;
                    if (colons.length) literal();
                }
            }
            if (broken) return part;
        }
        literal();
        if (broken) return part;
        const rest = part.split("");
        for (const [open, close, signs, when] of groups) {
            for (const at of [open, close, ...signs]) {
                mark(offset + at, offset + at + 1, EDIT);
                rest[at] = NEVER;
            }
            if (when !== null) {
                mark(offset + when, offset + close, EDIT);
                rest.fill(NEVER, when, close);
            }
            pairs.set(offset + open, offset + close).set(offset + close, offset + open);
        }
        return rest.join("");
    }

    /** Marks emphasis and fills in weights; brackets of both kinds may overlap, as in prompt/parse.py. */
    function readEmphasis(part, offset, { mark, weights, pairs, counts }) {
        const below = [0], factor = [1], opened = [0], top = { "(": 0, "[": 0 }, pieces = [];
        const close = (bracket, by, at) => {
            const opener = top[bracket];
            if (!opener) return false;
            factor[opener] = by;
            top[bracket] = below[opener];
            pairs.set(offset + opened[opener], offset + at).set(offset + at, offset + opened[opener]);
            return true;
        };
        const piece = (from, to) => pieces.push([from, to, top["("], top["["]]);
        for (const match of part.matchAll(/\\[()[\]\\]|\\|[([\])]|:\s*([+-]?[.\d]+)\s*\)|[^\\()[\]:]+|:/g)) {
            const token = match[0], from = match.index, to = from + token.length;
            if (token[0] === "\\") {
                mark(offset + from, offset + to, ESCAPE);
                piece(from, to);
            } else if (token === "(" || token === "[") {
                below.push(top[token]);
                factor.push(token === "(" ? 1.1 : 1 / 1.1);  // never closed is closed at the end
                opened.push(from);
                top[token] = below.length - 1;
                mark(offset + from, offset + to, BRACKET);
                piece(from, to);
            } else if (match[1] !== undefined && top["("]) {
                const number = Number(match[1]), right = Number.isFinite(number) && /\d/.test(match[1]);
                piece(from, to);
                if (right) mark(offset + from, offset + to - 1, WEIGHT);
                mark(offset + to - 1, offset + to, BRACKET);
                close("(", right ? number : 1.1, to - 1);
            } else if (token === ")" || token === "]") {
                const bracket = token === ")" ? "(" : "[";
                piece(from, to);
                if (close(bracket, bracket === "(" ? 1.1 : 1 / 1.1, from)) mark(offset + from, offset + to, BRACKET);
            } else {
                piece(from, to);
                for (const { index } of token.matchAll(/\bBREAK\b/g)) mark(offset + from + index, offset + from + index + 5, WORD);
            }
        }
        if (!counts) return;
        const product = [1];
        for (let k = 1; k < below.length; k++) product[k] = Math.min(1e30, Math.max(-1e30, product[below[k]] * factor[k]));
        for (const [from, to, round, square] of pieces) weights.fill(product[round] * product[square], offset + from, offset + to);
    }

    const shownWeight = (weight) => String(Math.abs(weight) >= 1e6 ? weight.toExponential(1) : Math.round(weight * 1000) / 1000);

    // ---- one box ----

    const native = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    const COPIED = ["fontFamily", "fontSize", "fontWeight", "fontStyle", "lineHeight", "letterSpacing", "wordSpacing", "tabSize",
        "textAlign", "direction", "textIndent", "paddingTop", "paddingRight", "paddingBottom", "paddingLeft"];
    const TOGETHER = 700;  // milliseconds between keys that are undone as one
    const MOST_STEPS = 300;

    class Editor {
        constructor(box) {
            this.box = box;
            this.negative = isNegative(box);
            this.text = native.get.call(box);
            this.problems = [];    // [from, to, message, fix]
            this.boundaries = [];  // where chunks 2, 3, … begin
            this.runs = [];
            this.pair = [];
            this.steps = [{ text: this.text }];
            this.at = 0;
            this.ink = make("div", { class: "easel-ink-text" });
            this.pane = make("div", { class: "easel-ink", "aria-hidden": "true", translate: "no" }, this.ink);
            box.before(this.pane);
            box.parentElement.classList.add("easel-inked");
            box.setAttribute("aria-autocomplete", "list");
            const editor = this;
            // What the page puts in (send-to, paste, styles) comes without an event.
            Object.defineProperty(box, "value", {
                configurable: true,
                get() { return native.get.call(box); },
                set(text) {
                    native.set.call(box, text);
                    editor.changed("page");
                },
            });
            box.addEventListener("input", (event) => this.changed(event.inputType || "page"));
            box.addEventListener("beforeinput", (event) => {
                const back = { historyUndo: -1, historyRedo: 1 }[event.inputType];
                if (!back) return;
                event.preventDefault();
                this.step(back);
            });
            box.addEventListener("compositionstart", () => { this.composing = true; });
            box.addEventListener("compositionend", () => {
                this.composing = false;
                this.changed("composition");
            });
            box.addEventListener("scroll", () => {
                this.scrolled();
                hover.hide();
                completion.follow();
            }, { passive: true });
            box.addEventListener("mousemove", (event) => hover.over(this, event));
            box.addEventListener("mouseleave", () => hover.hide());
            box.addEventListener("blur", () => { completion.close(); this.drawSoon(); });
            new ResizeObserver(() => this.fit()).observe(box);
            this.fit();
            this.draw();
        }

        // -- ink --

        fit() {
            const style = getComputedStyle(this.box);
            for (const name of COPIED) this.ink.style[name] = style[name];
            Object.assign(this.pane.style, {
                top: `${this.box.offsetTop + this.box.clientTop}px`, left: `${this.box.offsetLeft + this.box.clientLeft}px`,
                width: `${this.box.clientWidth}px`, height: `${this.box.clientHeight}px`,
            });
            this.scrolled();
        }
        scrolled() {
            this.pane.scrollTop = this.box.scrollTop;
        }
        drawSoon() {
            this.waiting ??= requestAnimationFrame(() => this.draw());
        }
        draw() {
            if (this.waiting) cancelAnimationFrame(this.waiting);
            this.waiting = null;
            const text = this.text, { kinds, weights, pairs } = this.told ??= read(text, this.negative, options);
            const caret = document.activeElement === this.box ? this.box.selectionStart : -1;
            this.pair = [caret - 1, caret].filter((at) => at >= 0 && pairs.has(at)).slice(0, 1).flatMap((at) => [at, pairs.get(at)]);
            // Runs end where anything changes.
            const cuts = new Set([...this.boundaries, ...this.pair.flatMap((at) => [at, at + 1]), ...this.problems.flatMap(([from, to]) => [from, to])]);
            const runs = [];
            for (let from = 0, at = 1; at <= text.length; at++) {
                if (at < text.length && kinds[at] === kinds[from] && weights[at] === weights[from] && !cuts.has(at)) continue;
                const problem = this.problems.find(([start, end]) => start <= from && at <= end) ?? null;
                const weight = weights[from], chunk = this.boundaries.indexOf(from);
                const names = [CLASSES[kinds[from]], weight > 1 ? "up" : weight < 1 ? "down" : "", problem ? "odd" : "",
                    chunk >= 0 ? "chunk" : "", this.pair.includes(from) ? "pair" : ""].filter(Boolean).join(" ");
                const piece = text.slice(from, at);
                runs.push({ key: `${names}|${weight}|${chunk}|${piece}`, names, weight, problem, chunk, piece, from });
                from = at;
            }
            this.put(runs);
            this.scrolled();
        }
        /** Only what differs is made anew, so that a key in a long prompt costs a few elements. */
        put(runs) {
            const old = this.runs;
            let head = 0, tail = 0;
            while (head < old.length && head < runs.length && old[head].key === runs[head].key) head++;
            while (tail < old.length - head && tail < runs.length - head
                && old[old.length - 1 - tail].key === runs[runs.length - 1 - tail].key) tail++;
            for (let k = head; k < old.length - tail; k++) old[k].node.remove();
            const next = tail ? old[old.length - tail].node : this.end ??= this.ink.appendChild(document.createTextNode("\u200b"));
            for (let k = 0; k < runs.length; k++) {
                const run = runs[k];
                if (k < head) run.node = old[k].node;
                else if (k >= runs.length - tail) run.node = old[old.length - runs.length + k].node;
                else {
                    run.node = make("span", run.names ? { class: run.names } : {}, run.piece);
                    if (run.weight !== 1) run.node.style.setProperty("--heat", String(Math.min(1, Math.abs(Math.log(Math.max(Math.abs(run.weight), 0.05))) / Math.log(2))));
                    if (run.chunk >= 0) run.node.dataset.chunk = String(run.chunk + 2);
                    next.before(run.node);
                }
                run.node.run = run;
            }
            this.runs = runs;
        }
        /** The place on the screen of a character. */
        rectOf(at) {
            let low = 0, high = this.runs.length - 1;
            while (low < high) {
                const middle = (low + high + 1) >> 1;
                if (this.runs[middle].from <= at) low = middle; else high = middle - 1;
            }
            const run = this.runs[low], range = document.createRange();
            if (!run) range.selectNode(this.end);
            else {
                const length = run.piece.length, offset = Math.min(at - run.from, length);
                range.setStart(run.node.firstChild, offset);
                range.setEnd(run.node.firstChild, Math.min(offset + 1, length));
            }
            const rects = range.getClientRects();
            return rects[rects.length - 1] ?? range.getBoundingClientRect();
        }

        // -- changes --

        changed(how) {
            const text = native.get.call(this.box);
            this.box.toggleAttribute("data-filled", Boolean(text));
            if (text === this.text) {
                if (how === "composition") this.remember(how);
                return;
            }
            this.shift(this.text, text);
            this.text = text;
            this.told = null;
            if (!this.stepping && !this.composing) this.remember(how);
            this.drawSoon();
            if (how === "insertText" || how.startsWith("delete")) completion.ask(this);
            else completion.close();
        }
        /** Problems and boundaries behind a change move along; those inside it wait for the next check. */
        shift(before, after) {
            let head = 0;
            const shorter = Math.min(before.length, after.length);
            while (head < shorter && before[head] === after[head]) head++;
            let tail = 0;
            while (tail < shorter - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
            const by = after.length - before.length, last = before.length - tail;
            this.problems = this.problems.filter(([from, to]) => to <= head || from >= last)
                .map((problem) => problem[0] >= last ? [problem[0] + by, problem[1] + by, problem[2], problem[3]] : problem);
            this.boundaries = this.boundaries.filter((at) => at <= head || at >= last).map((at) => at >= last && at > head ? at + by : at);
        }
        checked(text, { boundaries, problems }, told) {
            if (text !== this.text) return;
            this.boundaries = boundaries.map((at) => utf16(text, at));
            if (told) this.problems = problems.map(({ start, end, message, fix }) => [utf16(text, start), utf16(text, end), message, fix]);
            this.drawSoon();
        }

        // -- undo and redo --

        remember(how) {
            const now = { text: this.text, how, time: performance.now() }, last = this.steps[this.at];
            if (last.text === this.text) return;
            const typed = how === "insertText" || how.startsWith("deleteContent");
            const goesOn = typed && !this.apart && last.how === how && now.time - last.time < TOGETHER
                && !(how === "insertText" && /[\s,]$/.test(last.text.slice(0, this.box.selectionStart - 1)));
            this.apart = false;
            this.steps.length = this.at + 1;
            if (goesOn || (this.steps.length === 1 && !last.text && how === "page" && !last.how)) this.steps[this.at] = now;
            else this.steps.push(now);
            if (this.steps.length > MOST_STEPS) this.steps.shift();
            this.at = this.steps.length - 1;
        }
        step(by) {
            const next = this.steps[this.at + by];
            if (!next) return;
            this.at += by;
            const before = this.text, after = next.text;
            let tail = 0;
            while (tail < Math.min(before.length, after.length) && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
            this.stepping = true;
            native.set.call(this.box, after);
            this.box.setSelectionRange(after.length - tail, after.length - tail);
            this.box.dispatchEvent(new Event("input", { bubbles: true }));
            this.stepping = false;
        }
        /** Replace text[from:to], as one step, and select a part. */
        type(from, to, text, select) {
            this.apart = true;
            this.box.focus();
            this.box.setSelectionRange(from, to);
            if (!document.execCommand("insertText", false, text)) {
                this.box.setRangeText(text, from, to);
                this.box.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertReplacementText" }));
            }
            this.apart = true;  // nor does what follows belong to it
            this.box.setSelectionRange(...select);
        }
        fixAtCaret() {
            const caret = this.box.selectionStart;
            const problem = this.problems.find(([from, to, , fix]) => fix && from <= caret && caret <= to);
            if (!problem) return false;
            this.fix(problem);
            return true;
        }
        fix([from, to, , fix]) {
            this.type(from, to, fix, [from + fix.length, from + fix.length]);
            completion.close();
        }
    }

    const editors = new WeakMap();
    const editorOf = (box) => editors.get(box) ?? null;

    // ---- hover ----

    const hover = {
        tip: null,
        over(editor, event) {
            if (event.buttons) return this.hide();
            cancelAnimationFrame(this.waiting);
            this.waiting = requestAnimationFrame(() => {
                const { box } = editor;
                box.style.pointerEvents = "none";
                const run = document.elementFromPoint(event.clientX, event.clientY)?.run;
                box.style.pointerEvents = "";
                const lines = [];
                if (run?.problem) lines.push(heard(run.problem[2]), ...(run.problem[3] ? [t("Ctrl+. writes {text}", { text: run.problem[3] })] : []));
                else if (run && run.weight !== 1) lines.push(`× ${shownWeight(run.weight)}`);
                if (run?.chunk >= 0) lines.push(t("Chunk {n} begins here", { n: run.chunk + 2 }));
                if (lines.length) this.show(lines, event); else this.hide();
            });
        },
        show(lines, { clientX, clientY }) {
            if (!this.tip) {
                this.tip = make("div", { class: "easel-tip", role: "tooltip", translate: "no" });
                document.body.append(this.tip);
            }
            this.tip.replaceChildren(...lines.map((line) => make("div", {}, line)));
            this.tip.hidden = false;
            const { width, height } = this.tip.getBoundingClientRect();
            this.tip.style.left = `${Math.max(8, Math.min(clientX + 12, innerWidth - width - 8))}px`;
            this.tip.style.top = `${clientY + 22 + height > innerHeight ? clientY - height - 12 : clientY + 22}px`;
        },
        hide() {
            cancelAnimationFrame(this.waiting);
            if (this.tip) this.tip.hidden = true;
        },
    };

    // ---- completion ----

    const KINDS = { lora: "lora", lyco: "lora", hypernet: "hypernet" };
    const FRESH = 20000;  // milliseconds for which names are believed
    const SHOWN = 60;
    const TAGS_AFTER = 120;

    const completion = {
        editor: null,
        place: null,
        items: [],
        chosen: -1,
        names: null,    // promise of them
        namesAt: -Infinity,
        asked: 0,       // number of the newest question; answers to older ones are dropped

        load() {
            if (performance.now() - this.namesAt >= FRESH) {
                this.namesAt = performance.now();
                this.names = ask("prompt/names").catch(() => { this.namesAt = -Infinity; });
            }
            return this.names;
        },
        async ask(editor) {
            const { box } = editor, turn = ++this.asked, caret = box.selectionStart;
            if (caret !== box.selectionEnd || editor.composing) return this.close();
            const place = this.placeOf(editor.text, caret, editor.negative);
            if (!place) return this.close();
            if (place.kinds) return this.show(editor, place, place.kinds, true);
            // Until the names are there, Enter must not take one that fitted what was written before.
            if (place.kind !== "word" || place.from !== this.place?.from) this.hide();
            const names = await this.load();
            if (turn !== this.asked || !names) return;
            const items = this.matching(names, place);
            const sure = place.kind !== "word";
            this.show(editor, place, items, sure);
            if (sure || place.tag.length < 2) return;
            await new Promise((resolve) => setTimeout(resolve, TAGS_AFTER));
            if (turn !== this.asked) return;
            const tags = await ask(`prompt/tags?start=${encodeURIComponent(place.tag.slice(0, 100))}`).catch(() => []);
            if (turn !== this.asked || !tags.length) return;
            const more = tags.map(({ name, count, alias }) => ({
                name, kind: t("Tag"), detail: [alias && `← ${alias}`, count ? count.toLocaleString() : ""].filter(Boolean).join("  "),
                from: place.tagFrom, text: this.written(name, editor.text.slice(caret)),
            }));
            this.show(editor, place, [...items, ...more], false);
        },
        /** What is being written at the cursor. */
        placeOf(text, caret, negative) {
            const line = text.slice(Math.max(0, caret - 300), caret), base = caret - line.length;
            const tag = negative ? null : /<(\w*)(?::([^:<>\n]*))?$/.exec(line);
            if (tag) {
                const from = base + tag.index;
                if (tag[2] === undefined) {
                    const kinds = ["lora", "hypernet"].filter((kind) => kind.startsWith(tag[1])).map((kind) =>
                        ({ name: `<${kind}:`, kind: t("Network tag"), from, text: `<${kind}:`, again: true }));
                    return kinds.length ? { kinds } : null;
                }
                if (!KINDS[tag[1]]) return null;
                const rest = /^[^:<>\n,]*(?::[\d.+-]*)?>/.exec(text.slice(caret));
                return { kind: KINDS[tag[1]], word: tag[2], from, to: caret + (rest ? rest[0].length : 0), called: tag[1] };
            }
            const wildcard = /(?:^|[^\p{L}\p{N}_])__([\p{L}\p{N}\-./]*(?:_[\p{L}\p{N}\-./]+)*_?)$/u.exec(line);
            if (wildcard) {
                const from = caret - wildcard[1].length - 2;
                return { kind: "wildcard", word: wildcard[1], from, to: caret + (text.startsWith("__", caret) ? 2 : 0) };
            }
            const word = /[^\s,()[\]{}|:<>]{2,}$/.exec(line);
            if (!word || /^[\d.]+$/.test(word[0])) return null;
            const segment = /[^,()[\]{}|:<>\n]*$/.exec(line)[0].trimStart();
            return { kind: "word", word: word[0], from: caret - word[0].length, to: caret, tag: segment, tagFrom: caret - segment.length };
        },
        matching(names, { kind, word, from, called }) {
            const wanted = word.toLowerCase();
            const ranked = (list, limit) => {
                const starts = [], holds = [];
                for (const name of list) {
                    const at = name.toLowerCase().indexOf(wanted);
                    if (at === 0) starts.push(name);
                    else if (at > 0 && holds.length < limit) holds.push(name);
                    if (starts.length >= limit) break;
                }
                return [...starts, ...holds].slice(0, limit);
            };
            const strength = Number(options.extra_networks_default_multiplier ?? 1);
            if (kind === "lora" || kind === "hypernet") {
                return ranked(names[kind], SHOWN).map((name) => ({ name, kind: kind === "lora" ? "LoRA" : t("Hypernetwork"), from, text: `<${called}:${name}:${strength}>` }));
            }
            if (kind === "wildcard") return ranked(names.wildcard, SHOWN).map((name) => ({ name, kind: t("Wildcard"), from, text: `__${name}__` }));
            return [
                ...ranked(names.embedding, 20).map((name) => ({ name, kind: t("Embedding"), from, text: name })),
                ...ranked(names.style, 20).map((name) => ({ name, kind: t("Style"), from, text: "", style: name })),
            ].filter((item) => item.text !== word);
        },
        /** A tag as a prompt says it: no underscores, brackets escaped, a comma behind it. */
        written(name, after) {
            const text = (/\p{L}{2}/u.test(name) ? name.replaceAll("_", " ") : name).replace(/[()]/g, "\\$&");
            return /^\s*,/.test(after) ? text : `${text}, `;
        },
        build() {
            this.list = make("ul", { id: "easel_completion", class: "easel-completion", role: "listbox", "aria-label": t("Suggestions"), translate: "no", hidden: "" });
            this.list.addEventListener("mousedown", (event) => event.preventDefault());  // the box keeps the focus
            this.list.addEventListener("click", (event) => {
                const at = [...this.list.children].indexOf(event.target.closest("li"));
                if (this.items[at]) this.take(this.items[at]);
            });
            document.body.append(this.list);
        },
        show(editor, place, items, sure) {
            if (!this.list) this.build();
            if (document.activeElement !== editor.box) return;
            if (!items.length) return this.hide();
            Object.assign(this, { editor, place, items, sure, chosen: sure ? 0 : -1 });
            this.list.replaceChildren(...items.map((item, k) => make("li", { id: `easel_completion_${k}`, role: "option" },
                make("b", {}, item.name), ...(item.detail ? [make("span", {}, item.detail)] : []), make("small", {}, item.kind))));
            this.list.hidden = false;
            editor.box.setAttribute("aria-controls", this.list.id);
            editor.draw();
            this.list.scrollTop = 0;
            this.mark();
            this.follow();
        },
        /** Beneath, or above, the place where the name begins. */
        follow() {
            if (!this.isOpen) return;
            const spot = this.editor.rectOf(this.items[0].from), { width, height } = this.list.getBoundingClientRect();
            this.list.style.left = `${Math.max(8, Math.min(spot.left, innerWidth - width - 8))}px`;
            this.list.style.top = `${spot.bottom + 4 + height > innerHeight && spot.top > height ? spot.top - height - 4 : spot.bottom + 4}px`;
        },
        get isOpen() { return Boolean(this.list && !this.list.hidden); },
        close() {
            this.asked++;
            this.hide();
        },
        hide() {
            if (!this.isOpen) return;
            this.list.hidden = true;
            this.editor.box.removeAttribute("aria-activedescendant");
        },
        mark() {
            [...this.list.children].forEach((line, k) => line.setAttribute("aria-selected", String(k === this.chosen)));
            const line = this.list.children[this.chosen];
            if (line) this.editor.box.setAttribute("aria-activedescendant", line.id);
            else this.editor.box.removeAttribute("aria-activedescendant");
            line?.scrollIntoView({ block: "nearest" });
        },
        take(item) {
            const { editor, place } = this, to = place.to ?? editor.box.selectionStart;
            this.close();
            editor.type(item.from, to, item.text, Array(2).fill(item.from + item.text.length));
            if (item.again) this.ask(editor);
            else this.close();
            if (item.style) this.takeStyle(editor.box, item.style);
        },
        async takeStyle(box, name) {
            const tab = TABS.find((tab) => box.closest(`#tab_${tab}`)) ?? TABS[0];
            const boxes = [`#${tab}_prompt textarea`, `#${tab}_neg_prompt textarea`].map((selector) => $(selector));
            try {
                const texts = await ask("styles/apply", "POST", { styles: [name], prompt: boxes[0].value.trimEnd(), negative_prompt: boxes[1].value });
                write(boxes[0], texts.prompt);
                write(boxes[1], texts.negative_prompt);
            } catch (error) {
                toast(heard(error.message), "error");
            }
        },
        /** True where the key was for the list. */
        key(event) {
            if (!this.isOpen || event.ctrlKey || event.metaKey || event.altKey) return false;
            const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
            if (by) {
                const count = this.items.length;
                this.chosen = Math.abs(by) === 1 ? (Math.max(this.chosen, by < 0 ? 0 : -1) + by + count) % count
                    : Math.max(0, Math.min(count - 1, this.chosen + by));
                this.mark();
            } else if (event.key === "Escape") this.close();
            else if ((event.key === "Tab" && !event.shiftKey) || (event.key === "Enter" && !event.shiftKey && this.chosen >= 0)) this.take(this.items[Math.max(0, this.chosen)]);
            else return false;
            return true;
        },
    };

    // ---- keys ----

    const rounded = (weight) => String(Math.round(weight * 1000) / 1000);

    /** The innermost <…> around a place, [from, to] with its signs. */
    function tagAround(text, at) {
        const from = text.lastIndexOf("<", at - 1), to = text.indexOf(">", at);
        if (from < 0 || to < 0 || text.slice(from + 1, at).includes(">") || !/^<\w+:[^<>]+>$/.test(text.slice(from, to + 1))) return null;
        return [from, to + 1];
    }

    /** What stands between the innermost brackets around a place: [from, to] without them. */
    function groupAround(text, at, [open, close]) {
        let depth = 0, from = -1;
        for (let i = at - 1; i >= 0; i--) {
            if (text[i - 1] === "\\") continue;
            if (text[i] === close) depth++;
            if (text[i] === open && depth-- === 0) { from = i + 1; break; }
        }
        if (from < 0) return null;
        depth = 0;
        for (let i = from; i < text.length; i++) {
            if (text[i - 1] === "\\") continue;
            if (text[i] === open) depth++;
            if (text[i] === close && depth-- === 0) return [from, i];
        }
        return null;
    }

    function wordAround(text, at) {
        const white = { Tab: "\t", "Carriage Return": "\r", "Line Feed": "\n" };
        const ends = `${options.keyedit_delimiters ?? ".,\\/!?%^*;:{}=`~() "}[]<>${(options.keyedit_delimiters_whitespace ?? Object.keys(white)).map((name) => white[name]).join("")}`;
        let from = at, to = at;
        while (from > 0 && !ends.includes(text[from - 1])) from--;
        while (to < text.length && !ends.includes(text[to])) to++;
        return from < to ? [from, to] : null;
    }

    function changeWeight(editor, sign) {
        const { box, text } = editor, step = Number(options.keyedit_precision_attention ?? 0.1);
        let [from, to] = [box.selectionStart, box.selectionEnd];
        const tag = tagAround(text, from === to ? from : from + 1);
        if (tag && tag[1] >= to) {
            const by = sign * Number(options.keyedit_precision_extra ?? 0.05);
            const parts = text.slice(tag[0] + 1, tag[1] - 1).split(":");
            const number = parts.findIndex((part, k) => k > 1 && /^[+-]?[\d.]+$/.test(part));
            if (number < 0) parts.splice(2, 0, rounded(1 + by));
            else parts[number] = rounded(Number(parts[number]) + by);
            const changed = `<${parts.join(":")}>`;
            return editor.type(...tag, changed, [tag[0], tag[0] + changed.length]);
        }
        if (from === to) {
            const { kinds } = read(text, editor.negative, options);
            const square = groupAround(text, from, "[]");
            // [x] weighs less; [a:b:when] and [a|b] are no weights.
            const range = groupAround(text, from, "()")
                ?? (square && kinds[square[0] - 1] === BRACKET ? square : null) ?? wordAround(text, from);
            if (!range) return;
            [from, to] = range;
            const weighted = /:\s*[+-]?[\d.]+\s*$/.exec(text.slice(from, to));
            if (weighted && text[from - 1] === "(") to = from + weighted.index;
        }
        while (to > from && /\s/.test(text[to - 1])) to--;
        while (from < to && /\s/.test(text[from])) from++;
        if (from === to) return;
        const inner = text.slice(from, to);
        const after = /^(?:\s*:\s*([+-]?[\d.]+)\s*)?\)/.exec(text.slice(to));
        let [start, end, weight] = [from, to, 1];
        if (text[from - 1] === "(" && text[from - 2] !== "\\" && after) {
            [start, end, weight] = [from - 1, to + after[0].length, Number(after[1] ?? 1.1)];
            // ((x)) becomes one number.
            while (after[1] === undefined && text[start - 1] === "(" && text[start - 2] !== "\\" && text[end] === ")") {
                [start, end, weight] = [start - 1, end + 1, weight * 1.1];
            }
        } else if (text[from - 1] === "[" && text[from - 2] !== "\\" && text[to] === "]") {
            [start, end, weight] = [from - 1, to + 1, 1 / 1.1];
        }
        if (!Number.isFinite(weight)) return;
        weight += sign * step;
        if (rounded(weight) === "1") return editor.type(start, end, inner, [start, start + inner.length]);
        editor.type(start, end, `(${inner}:${rounded(weight)})`, [start + 1, start + 1 + inner.length]);
    }

    /** Move the parts between commas that the selection touches past their neighbour. */
    function move(editor, direction) {
        const { box, text } = editor, parts = text.split(",");
        const starts = [0];
        for (const part of parts) starts.push(starts[starts.length - 1] + part.length + 1);
        const partAt = (place) => Math.max(0, starts.findLastIndex((start, k) => k < parts.length && start <= place));
        const first = partAt(box.selectionStart), last = Math.max(first, partAt(box.selectionEnd));
        const other = direction < 0 ? first - 1 : last + 1;
        if (other < 0 || other >= parts.length) return;
        const low = Math.min(first, other), high = Math.max(last, other);
        const words = parts.slice(low, high + 1).map((part) => part.trim());
        const turned = direction < 0 ? [...words.slice(1), words[0]] : [words[words.length - 1], ...words.slice(0, -1)];
        // Each place keeps its own white space.
        turned.forEach((word, k) => {
            const part = parts[low + k], before = /^\s*/.exec(part)[0], after = /\s*$/.exec(part.trimStart())[0];
            parts[low + k] = before + word + after;
        });
        const begin = first + direction, end = last + direction;
        const from = parts.slice(0, begin).join(",").length + (begin ? 1 : 0) + /^\s*/.exec(parts[begin])[0].length;
        const to = parts.slice(0, end + 1).join(",").length - /\s*$/.exec(parts[end].trimStart())[0].length;
        editor.type(0, text.length, parts.join(","), [from, Math.max(from, to)]);
    }

    // Before the page's own keys, of which Esc and Enter may be for the list.
    window.addEventListener("keydown", (event) => {
        const editor = event.target.matches?.(SELECTOR) ? editorOf(event.target) : null;
        if (!editor || event.isComposing) return;
        const control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
        const vertical = { ArrowUp: 1, ArrowDown: -1 }[event.key], sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (completion.key(event)) { /* the list's */ }
        else if (vertical && control && !event.altKey) changeWeight(editor, vertical);
        else if (sideways && event.altKey && !control && options.keyedit_move !== false) move(editor, sideways);
        else if (control && !event.altKey && key === "z") editor.step(event.shiftKey ? 1 : -1);
        else if (control && !event.altKey && !event.shiftKey && key === "y") editor.step(1);
        else if (control && key === "." && editor.fixAtCaret()) { /* written */ }
        else if (control && key === " ") completion.ask(editor);
        else return;
        event.preventDefault();
        event.stopPropagation();
    }, true);
    window.addEventListener("scroll", () => completion.follow(), { passive: true });
    document.addEventListener("selectionchange", () => {
        const editor = editorOf(document.activeElement);
        if (!editor) return;
        const caret = editor.box.selectionStart, pairs = editor.told?.pairs;
        if (editor.pair.length || pairs?.has(caret) || pairs?.has(caret - 1)) editor.drawSoon();
    });

    // ---- earlier prompts ----

    const KEPT = "easel.prompts", MOST_KEPT = 200;

    const earlier = {
        all() {
            try {
                const kept = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
                return Array.isArray(kept) ? kept.filter((entry) => typeof entry?.prompt === "string") : [];
            } catch { return []; }
        },
        keep(tab) {
            const [prompt, negative] = ["prompt", "neg_prompt"].map((name) => $(`#${tab}_${name} textarea`)?.value ?? "");
            if (!prompt.trim() || prompt.length > 20000) return;
            const rest = this.all().filter((entry) => entry.prompt !== prompt || entry.negative !== negative);
            try {
                localStorage.setItem(KEPT, JSON.stringify([{ prompt, negative, time: Date.now() }, ...rest].slice(0, MOST_KEPT)));
            } catch { /* private windows may refuse */ }
        },
        open(tab) {
            this.tab = tab;
            if (!this.dialog) this.build();
            this.search.value = "";
            this.draw();
            this.dialog.showModal();
        },
        build() {
            this.search = make("input", { type: "search", placeholder: t("Search"), "aria-label": t("Search earlier prompts") });
            this.search.oninput = () => this.draw();
            this.list = make("div", { class: "easel-earlier", translate: "no" });
            this.none = make("p", { class: "easel-dialog-hint" });
            const button = (text, act) => {
                const made = make("button", { type: "button" }, text);
                made.onclick = act;
                return made;
            };
            this.dialog = make("dialog", { id: "easel_earlier", class: "easel-dialog wide", "aria-label": t("Earlier prompts") },
                make("h2", {}, t("Earlier prompts")), this.search, this.list, this.none,
                make("div", { class: "easel-dialog-row" }, button(t("Forget all"), () => {
                    localStorage.removeItem(KEPT);
                    this.draw();
                }), make("span"), button(t("Close"), () => this.dialog.close())));
            this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
            document.body.append(this.dialog);
        },
        draw() {
            const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean), all = this.all();
            const found = all.filter(({ prompt, negative }) => words.every((word) => `${prompt}\n${negative}`.toLowerCase().includes(word)));
            this.list.replaceChildren(...found.map((entry) => {
                const line = make("button", { type: "button" }, make("span", {}, entry.prompt),
                    ...(entry.negative ? [make("small", {}, `− ${entry.negative}`)] : []),
                    make("time", {}, new Date(entry.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })));
                line.onclick = () => {
                    write($(`#${this.tab}_prompt textarea`), entry.prompt);
                    write($(`#${this.tab}_neg_prompt textarea`), entry.negative ?? "");
                    this.dialog.close();
                    $(`#${this.tab}_prompt textarea`).focus();
                };
                return line;
            }));
            this.none.textContent = found.length ? "" : all.length ? t("No earlier prompt has these words.")
                : t("Prompts that you generate with are kept here, in this browser.");
        },
    };
    document.addEventListener("click", (event) => {
        const tab = /^(\w+)_generate$/.exec(event.target.closest?.("button")?.id ?? "")?.[1];
        if (TABS.includes(tab)) earlier.keep(tab);
    }, true);

    // ---- into the page ----

    document.addEventListener("easel:checked", ({ detail: { box, text, check, told } }) => editorOf($(box))?.checked(text, check, told));

    function look() {
        for (const box of document.querySelectorAll(SELECTOR)) if (!editors.has(box)) editors.set(box, new Editor(box));
        for (const tab of TABS) {
            const row = byId(`${tab}_tools`);
            if (!row || byId(`${tab}_earlier`)) continue;
            const button = make("button", { type: "button", id: `${tab}_earlier`, class: "lg secondary easel-icon", title: t("Earlier prompts"), "aria-label": t("Earlier prompts") });
            button.onclick = () => earlier.open(tab);
            row.append(button);
        }
    }
    let looking = null;
    new MutationObserver(() => { looking ??= requestAnimationFrame(() => { looking = null; look(); }); })
        .observe(document.documentElement, { childList: true, subtree: true });
    look();
    window.easel.editor = { read, of: editorOf };
})();
