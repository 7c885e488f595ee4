// Sampler options under More: those that the chosen sampler and schedule read. What is changed here becomes an entry of
// "Override settings", as A1111 has it, so it holds for this form alone, goes along with a preset and can be taken out.
"use strict";
(() => {
    const { byId, make, t, ask, fill, TABS } = window.easel.tools;
    const panels = {};
    let listed = null;  // options with readers, as the server has them

    async function options() {
        listed ??= ask("easel/settings").then((sections) => sections.flatMap((section) => section.options).filter(({ readers, told }) => readers.length && told));
        return listed;
    }
    document.addEventListener("easel:settings", () => {
        listed = null;
        for (const panel of Object.values(panels)) panel.draw();
    });

    const number = /^-?\d+(\.\d+)?(e-?\d+)?$/i;
    const read = (text, like) => typeof like === "boolean" ? text === "True" || text === "true" : typeof like === "number" && number.test(text) ? Number(text) : text;
    const written = (value) => value === true ? "True" : value === false ? "False" : String(value);

    function panel(tab, root) {
        const made = {
            values: null,
            entries() { return this.values?.override_settings ?? []; },
            async draw() {
                const { sampler, scheduler } = this.values ?? {};
                if (!sampler || !root.closest(".easel-workspace")) return;
                const wanted = (await options().catch(() => [])).filter(({ readers }) => readers.includes(sampler) || readers.includes(scheduler));
                const key = JSON.stringify([sampler, scheduler, this.entries(), wanted.map(({ key, value }) => [key, value])]);
                if (key === this.drawn) return;
                this.drawn = key;
                root.hidden = !wanted.length;
                root.replaceChildren(make("p", { class: "easel-field-name" }, t("Read by {names}.", { names: sampler })), ...wanted.map((option) => {
                    const entry = this.entries().find((text) => text.startsWith(`${option.told}: `));
                    const value = entry ? read(entry.slice(option.told.length + 2), option.default) : option.value;
                    const control = window.easel.controls.of({ ...option, value }, `${tab}_option_${option.key}`);
                    control.element.addEventListener("change", () => this.put(option, control.get()));
                    return control.element;
                }));
            },
            put(option, value) {
                const others = this.entries().filter((text) => !text.startsWith(`${option.told}: `));
                if (value !== option.value) others.push(`${option.told}: ${written(value)}`);
                fill(tab, { override_settings: others });
            },
        };
        return made;
    }
    document.addEventListener("easel:form", ({ detail: { tab, ...values } }) => {
        // Only models that edit by instruction read it.
        if (tab === "img2img" && "checkpoint" in values) byId("img2img_image_cfg_scale")?.classList.toggle("easel-unread", !window.easel.edits?.includes(values.checkpoint));
        const root = byId(`${tab}_sampler_options`);
        if (!root || !TABS.includes(tab)) return;
        panels[tab] ??= panel(tab, root);
        panels[tab].values = { ...panels[tab].values, ...values };
        panels[tab].draw();
    });
})();
