// What is said about prompts: token counters and what is odd, asked of the server; and styles.
//
//   easel:form     event of easel.js: the form's values changed
//   counters       ask the server what it would count, some moments after the last key
//   easel:checked  event for the editor (editor.js): the answer about one prompt
//   stylesDialog   save, change and delete styles
"use strict";
(() => {
    const { $, byId, make, ask, toast, write, pause, t, heard, utf16 } = window.easel.tools;
    const TABS = window.easel.tools.TABS;
    const COUNT_AFTER = 250, PROBLEMS_AFTER = 900;  // milliseconds without a key

    const shortened = (text) => text.length > 40 ? `${text.slice(0, 24)}…${text.slice(-12)}` : text;

    /** The prompts of one tab; what others call of it comes back. */
    function promptsOf(TAB) {
        const PROMPTS = {
            prompt: { box: `#${TAB}_prompt textarea`, counter: `${TAB}_token_counter` },
            negative_prompt: { box: `#${TAB}_neg_prompt textarea`, counter: `${TAB}_negative_token_counter` },
        };
        const HIRES = { prompt: { box: "#hires_prompt textarea" }, negative_prompt: { box: "#hires_neg_prompt textarea" } };

        // ---- counters ----

        /** Questions about one pair of prompts; those of the hires pass have no counter and no notes. */
        const countersOf = (PROMPTS) => ({
            asked: null,   // what the newest question was about
            waiting: null,
            told: {},      // by prompt, problems as shown

            form({ prompt, negative_prompt, styles, steps, checkpoint }) {
                const question = { prompt: prompt ?? "", negative_prompt: negative_prompt ?? "", styles: styles ?? [],
                    steps: Math.min(150, Math.max(1, Math.round(steps) || 20)), checkpoint: checkpoint || null };
                const key = JSON.stringify(question);
                if (key === this.asked) return;
                this.asked = key;
                clearTimeout(this.waiting);
                this.waiting = setTimeout(() => this.ask(question, key), COUNT_AFTER);
            },
            async ask(question, key) {
                let answer;
                try {
                    answer = await ask("prompt/check", "POST", question);
                } catch (error) {
                    if (this.asked === key) this.asked = null;  // asked again with the next change
                    return;
                }
                if (this.asked !== key) return;
                for (const name of Object.keys(PROMPTS)) {
                    this.report(name, question[name], answer[name], false);
                    this.count(name, question[name], answer[name], answer.counted);
                    if (answer[name].problems.length <= (this.told[name]?.length ?? 0)) this.tell(name, question[name], answer[name]);
                }
                // An open bracket is no mistake while it is being written.
                await pause(PROBLEMS_AFTER);
                if (this.asked !== key) return;
                for (const name of Object.keys(PROMPTS)) {
                    this.report(name, question[name], answer[name], true);
                    this.tell(name, question[name], answer[name]);
                }
            },
            report(name, text, check, told) {
                document.dispatchEvent(new CustomEvent("easel:checked", { detail: { box: PROMPTS[name].box, text, check, told } }));
            },
            count(name, text, { tokens, limit, boundaries }, counted) {
                const place = byId(PROMPTS[name].counter);
                if (!place) return;
                place.hidden = !counted;
                const starts = boundaries.map((at) => `“${text.slice(utf16(text, at)).trim().split(/\s+/)[0].slice(0, 30)}”`);
                const chunks = starts.map((word, k) => t("chunk {n} begins at {word}", { n: k + 2, word })).slice(0, 8).join(", ");
                const shown = make("span", { title: `${t("{n} of {limit} tokens", { n: tokens, limit })}${chunks ? `; ${chunks}` : ""}` },
                    `${tokens}/${limit}`);
                place.replaceChildren(shown);
            },
            tell(name, text, { problems }) {
                this.told[name] = problems;
                byId(PROMPTS[name].counter)?.classList.toggle("odd", problems.length > 0);
                const place = byId(`${PROMPTS[name].counter}_notes`);
                if (!place) return;
                const notes = problems.slice(0, 3).map(({ start, end, message, fix }) => {
                    const [from, to] = [utf16(text, start), utf16(text, end)];
                    const line = make("button", { type: "button", class: "easel-note" },
                        make("mark", {}, shortened(text.slice(from, to))), ` ${heard(message)}`);
                    line.onclick = () => {
                        const box = $(PROMPTS[name].box);
                        box.focus();
                        box.setSelectionRange(from, to);
                    };
                    if (!fix) return line;
                    const right = make("button", { type: "button", class: "easel-link" }, t("Write {text}", { text: shortened(fix) }));
                    right.onclick = () => {
                        const box = $(PROMPTS[name].box);
                        if (box.value === text) window.easel.editor.of(box).fix([from, to, message, fix]);
                    };
                    return make("div", {}, line, right);
                });
                if (problems.length > 3) notes.push(make("span", { class: "easel-note" }, t("and {n} more", { n: problems.length - 3 })));
                place.replaceChildren(...notes);
            },
        });
        const counters = countersOf(PROMPTS), hires = countersOf(HIRES);

        document.addEventListener("easel:form", (event) => { 
            const form = event.detail;
            if (form.tab !== TAB) return;
            counters.form(form);
            if (form.hires) hires.form({ ...form, prompt: form["hires.hr_prompt"], negative_prompt: form["hires.hr_negative_prompt"], styles: [] });
        });

        // ---- styles ----

        const stylesDialog = {
            dialog: null,
            styles: [],

            build() {
                const button = (id, text, hint, act, kind = "") => {
                    const made = make("button", { type: "button", id, class: kind, title: hint }, text);
                    made.onclick = act;
                    return made;
                };
                this.name = make("input", { id: `${TAB}_styles_edit_select`, list: `${TAB}_styles_known`, maxlength: "200",
                    placeholder: t("Choose a style, or write a new name"), autocomplete: "off" });
                this.known = make("datalist", { id: `${TAB}_styles_known` });
                this.prompt = make("textarea", { id: `${TAB}_edit_style_prompt`, rows: "3" });
                this.negative = make("textarea", { id: `${TAB}_edit_style_neg_prompt`, rows: "2" });
                this.note = make("p", { class: "easel-dialog-note", role: "status" });
                this.remove = button(`${TAB}_edit_style_delete`, t("Delete"), t("Delete this style"), () => this.delete());
                this.keep = button(`${TAB}_edit_style_save`, t("Save"), t("Save this style"), () => this.save(), "primary");
                const field = (name, box) => make("label", {}, make("span", {}, name), box);
                this.dialog = make("dialog", { id: `${TAB}_styles_dialog`, class: "easel-dialog", "aria-label": t("Styles") },
                    make("h2", {}, t("Styles")),
                    field(t("Name"), this.name), this.known,
                    field(t("Prompt"), this.prompt), field(t("Negative prompt"), this.negative),
                    make("p", { class: "easel-dialog-hint" }, t("{prompt} marks where your own text goes; without it the style is put behind it.")),
                    this.note,
                    make("div", { class: "easel-dialog-row" }, this.remove,
                        button(`${TAB}_style_copy`, t("Copy prompts"), t("Copy the prompts of the page into this style"), () => this.copy()),
                        button(`refresh_${TAB}_styles`, t("Reload"), t("Read the styles files again"), () => this.load()),
                        make("span"),
                        button(`${TAB}_edit_style_close`, t("Close"), t("Close (Esc)"), () => this.dialog.close()), this.keep));
                this.name.addEventListener("input", () => this.show());
                this.dialog.addEventListener("click", (event) => {
                    if (event.target === this.dialog) this.dialog.close();
                });
                document.body.append(this.dialog);
            },
            async open() {
                if (!this.dialog) this.build();
                this.dialog.showModal();
                await this.load();
                const chosen = $(`#${TAB}_styles .token, #${TAB}_styles [data-testid="token"]`)?.textContent.trim();
                if (chosen && !this.name.value) {
                    this.name.value = chosen;
                    this.show();
                }
            },
            current() { return this.styles.find((style) => style.name === this.name.value); },
            async load(listed = null) {
                try {
                    listed ??= await ask("styles");
                } catch (error) {
                    return this.say(error.message);
                }
                this.styles = listed.styles;
                this.known.replaceChildren(...this.styles.map((style) => make("option", { value: style.name })));
                this.say(listed.warnings.join(" "));
                this.buttons();
                byId(`${TAB}_styles_reload`)?.click();
            },
            show() {
                const style = this.current();
                if (style) {
                    this.prompt.value = style.prompt;
                    this.negative.value = style.negative_prompt;
                }
                this.buttons();
            },
            buttons() {
                this.remove.disabled = !this.current();
                this.keep.disabled = !this.name.value.trim();
            },
            copy() {
                this.prompt.value = $(PROMPTS.prompt.box).value;
                this.negative.value = $(PROMPTS.negative_prompt.box).value;
            },
            async save() {
                const style = { name: this.name.value, prompt: this.prompt.value, negative_prompt: this.negative.value };
                await this.change("styles", style, t("Saved."));
            },
            async delete() {
                const name = this.name.value;
                if (!confirm(t("Delete the style “{name}”?", { name }))) return;
                if (await this.change("styles/delete", { name }, t("Deleted."))) {
                    this.name.value = "";
                    this.buttons();
                }
            },
            async change(path, body, done) {
                try {
                    await this.load(await ask(path, "POST", body));
                    this.say(done);
                    return true;
                } catch (error) {
                    this.say(error.message, "error");
                    return false;
                }
            },
            say(text, kind = "") {
                this.note.textContent = heard(text);
                this.note.className = `easel-dialog-note ${kind}`;
            },
        };
        const clearPrompts = () => {
            const boxes = Object.values(PROMPTS).map(({ box }) => $(box)), texts = boxes.map((box) => box.value);
            if (!texts.some(Boolean)) return;
            boxes.forEach((box) => write(box, ""));
            boxes[0].focus();
            toast(t("Prompts cleared."), "note", { [t("Undo")]: () => boxes.forEach((box, k) => write(box, texts[k])) });
        };

        /** Names for what Gradio leaves without one, once the page stands. */
        async function label() {
            const wanted = [`#${TAB}_style_apply`, `#${TAB}_clear_prompt`, `#${TAB}_styles input`,
                ...Object.values(PROMPTS).flatMap(({ box, counter }) => [box, `#${counter}`])];
            while (!wanted.every((selector) => $(selector))) await pause(50);
            const names = {
                [`${TAB}_style_apply`]: t("Put the chosen styles into the prompts"), [`${TAB}_styles_edit_button`]: t("Edit styles"),
                [`${TAB}_clear_prompt`]: t("Clear both prompts"),
            };
            for (const [id, name] of Object.entries(names)) {
                byId(id).setAttribute("aria-label", name);
                byId(id).title = name;
            }
            const input = $(`#${TAB}_styles input`);
            input.setAttribute("aria-label", t("Styles"));
            input.setAttribute("placeholder", t("Styles"));
            for (const [name, { box, counter }] of Object.entries(PROMPTS)) {
                $(box).setAttribute("aria-describedby", `${counter} ${counter}_notes`);
                if (!$("span", byId(counter))) counters.count(name, "", { tokens: 0, limit: 75, boundaries: [] }, true);
            }
        }
        document.addEventListener("easel:mounted", (event) => { if (event.detail === TAB) label(); });
        if (byId(`${TAB}_generate`)) label();
        return { editStyles: () => stylesDialog.open(), clearPrompts };
    }

    const prompts = Object.fromEntries(TABS.map((tab) => [tab, promptsOf(tab)]));
    window.easel.editStyles = (tab) => prompts[tab].editStyles();
    window.easel.clearPrompts = (tab) => prompts[tab].clearPrompts();
})();
