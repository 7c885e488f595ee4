// The Checkpoint Merger tab: a form, the tasks it started, and files that could be written as safetensors.
"use strict";
(() => {
    const { byId, make, t, ask, toast } = window.easel.tools;
    const ABOUT = {
        "Weighted sum": "A × (1 − M) + B × M. Needs A and B.",
        "Add difference": "A + (B − C) × M. Needs A, B and C.",
        "No interpolation": "A as it is: for another format, another VAE, or without some of its weights.",
    };
    const NEEDS = { "Weighted sum": 2, "Add difference": 3, "No interpolation": 1 };
    const MODELS = ["primary_model_name", "secondary_model_name", "tertiary_model_name"];
    const OVER = new Set(["done", "failed", "cancelled"]);

    const merger = {
        form: null,
        tasks: new Map(),  // id → the view shown last
        timer: null,

        async build(root) {
            this.root = root;
            try {
                this.show(await ask("easel/merger"));
                for (const view of (await ask("model-tasks")).reverse()) this.tasks.set(view.id, view);
                this.drawTasks();
                this.follow();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        show({ parts, ids, pickles, refused }) {
            const { of, form } = window.easel.controls;
            const heading = (text, ...more) => make("h2", {}, t(text), ...more);
            const button = (text, id, act, kind = "easel-brush") => {
                const made = make("button", { type: "button", id, class: kind }, t(text));
                made.onclick = act;
                return made;
            };
            const kept = this.form?.flat();
            this.form = form(parts, "modelmerger");
            if (kept) this.form.set(kept);
            for (const [key, id] of Object.entries(ids)) this.form.control(key).element.id = `modelmerger_${id}`;
            this.metadata = of({ key: "metadata", label: "Metadata in JSON format", default: "{}", lines: 5 }, "modelmerger_metadata");
            this.about = make("p", { class: "easel-told-size", id: "modelmerger_interp_description" });
            this.run = button("Merge", "modelmerger_merge", () => this.merge(), "easel-apply");
            this.refused = refused;
            const elements = (...keys) => keys.map((key) => this.form.control(key).element);
            const row = (...children) => make("div", { class: "easel-merger-row" }, ...children);
            const metadata = make("details", { class: "easel-own-more", id: "modelmerger_metadata_editor" }, make("summary", {}, t("Metadata")),
                make("div", { class: "easel-form" }, ...elements("save_metadata", "add_merge_recipe", "copy_metadata_fields"), this.metadata.element,
                    button("Read metadata from selected checkpoints", "modelmerger_read_metadata", () => this.read())));
            this.pickles = make("div", { class: "easel-form", id: "modelmerger_pickles" });
            this.list = make("div", { class: "easel-tasks", id: "modelmerger_results", role: "status" });
            this.root.replaceChildren(
                make("section", { class: "easel-form", "aria-label": t("Merge") },
                    heading("Merge checkpoints", button("Refresh", "refresh_checkpoint_A", () => this.refresh())),
                    row(...elements(...MODELS)), ...elements("custom_name", "interp_method"), this.about,
                    ...elements("multiplier"), row(...elements("bake_in_vae", "config_source")),
                    ...elements("discard_weights", "save_as_half"), metadata,
                    make("p", { class: "easel-told-size" }, t("Saved as safetensors beside your other checkpoints. A ckpt file can hold a program, so none is written.")),
                    this.run),
                make("section", { class: "easel-form", "aria-label": t("Results") },
                    heading("Progress"), this.list, heading("Convert to safetensors"), this.pickles));
            byId("refresh_checkpoint_A").title = t("Look for new files");
            if (refused) this.root.prepend(make("p", { class: "easel-refused", role: "note" }, t(refused)));
            const half = of({ key: "half", label: "Save as float16", default: false }, "modelmerger_convert_half");
            this.pickles.replaceChildren(...pickles.length ? [
                make("p", { class: "easel-told-size" }, t("Pickles load slower and are never executed here. A converted file lies beside its original, which stays.")),
                half.element,
                ...pickles.map((name) => {
                    const act = button("Convert", `modelmerger_convert_${name}`, () => this.submit({ kind: "convert", checkpoint: name, save_as_half: half.get() }));
                    act.setAttribute("aria-label", t("Convert {name}", { name }));
                    act.disabled = Boolean(refused);
                    return make("div", { class: "easel-task" }, make("span", {}, name), act);
                }),
            ] : [make("p", { class: "easel-told-size" }, t("All checkpoints are safetensors already."))]);
            this.form.onchange = () => this.changed();
            this.changed();
            this.drawTasks();
        },
        changed() {
            const { form } = this, method = form.control("interp_method").get();
            this.about.textContent = t(ABOUT[method]);
            MODELS.forEach((key, k) => {
                const { input } = form.control(key);
                input.disabled = k >= NEEDS[method];
                input.title = input.disabled ? t("{method} does not read this model.", { method }) : "";
            });
            const amount = form.control("multiplier").element, none = method === "No interpolation";
            for (const input of amount.querySelectorAll("input")) input.disabled = none;
            amount.title = none ? t("{method} does not read the multiplier.", { method }) : t("0 is model A");
            const missing = MODELS.slice(0, NEEDS[method]).findIndex((key) => !form.control(key).get());
            const why = this.refused || (missing < 0 ? "" : t("Choose model {letter} first.", { letter: "ABC"[missing] }));
            this.run.disabled = Boolean(why);
            this.run.title = t(why);
        },
        async refresh() {
            try {
                this.show(await ask("easel/merger?refresh=true"));
                byId("refresh_sd_model_checkpoint")?.click();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        async read() {
            const names = MODELS.map((key) => this.form.control(key)).filter(({ input }) => !input.disabled).map((made) => made.get()).filter(Boolean);
            try {
                const found = await ask(`easel/merger/metadata?${new URLSearchParams(names.map((name) => ["names", name]))}`);
                this.metadata.set(JSON.stringify(found, null, 4));
            } catch (error) {
                toast(error.message, "error");
            }
        },
        async merge() {
            let metadata;
            try {
                metadata = JSON.parse(this.metadata.get().trim() || "{}");
                if (metadata === null || typeof metadata !== "object" || Array.isArray(metadata)) throw new Error();
            } catch {
                return toast(t("The metadata is no JSON object; write it as {\"name\": \"value\"}."), "error");
            }
            const values = this.form.get();
            for (const [k, key] of MODELS.entries()) if (k >= NEEDS[values.interp_method]) values[key] = null;
            await this.submit({ kind: "merge", ...values, metadata });
        },
        async submit(task) {
            try {
                const view = await ask("model-tasks", "POST", task);
                this.tasks.set(view.id, view);
                this.drawTasks();
                this.follow();
            } catch (error) {
                toast(error.message, "error");
            }
        },
        /** Ask for the tasks that are not over, until none is left. */
        follow() {
            clearTimeout(this.timer);
            const open = [...this.tasks.values()].filter((view) => !OVER.has(view.state));
            if (!open.length) return;
            this.timer = setTimeout(async () => {
                for (const { id } of open) {
                    const view = await ask(`model-tasks/${id}`).catch(() => null);
                    if (!view) continue;
                    this.tasks.set(id, view);
                    if (!OVER.has(view.state)) continue;
                    if (view.state === "failed") toast(view.error, "error");
                    if (view.state === "done") {
                        toast(t("{name} is in the list of checkpoints.", { name: view.result }));
                        await this.refresh();
                    }
                }
                this.drawTasks();
                this.follow();
            }, 500);
        },
        drawTasks() {
            const tasks = [...this.tasks.values()].reverse();
            this.list.replaceChildren(...tasks.length ? tasks.map((view) => {
                const { task, state } = view, name = task.kind === "convert" ? task.checkpoint : task.custom_name || task.primary_model_name;
                const words = {
                    queued: t("waiting"), done: t("saved as {name}", { name: view.result }), failed: view.error,
                    cancelled: t("interrupted; nothing was left behind"),
                    running: `${t(view.text || "Starting")} · ${Math.floor(view.progress * 100)}%`,
                }[state];
                const row = make("div", { class: `easel-task ${state}` }, make("span", {}, make("strong", {}, name), ` ${words}`));
                if (!OVER.has(state)) {
                    const stop = make("button", { type: "button", class: "easel-brush" }, t("Interrupt"));
                    stop.onclick = () => ask(`model-tasks/${view.id}/cancel`, "POST").catch((error) => toast(error.message, "error"));
                    const bar = make("progress", { max: "1", "aria-label": t("Progress") });
                    bar.value = view.progress;
                    row.append(stop, bar);
                }
                return row;
            }) : [make("p", { class: "easel-told-size" }, t("Nothing was merged or converted yet."))]);
        },
    };
    window.easel.whenThere(["modelmerger"], (root) => merger.build(root));
})();
