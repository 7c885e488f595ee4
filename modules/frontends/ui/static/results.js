// What can be done with the pictures of a results panel besides sending them on: zip, grid, folder, delete, upscale.
"use strict";
(() => {
    const { byId, make, t, ask, address, toast, seedOf, pictureOf, shownTab, panels } = window.easel.tools;

    const blobOf = async (record) => {
        const answer = await fetch(pictureOf(record));
        if (!answer.ok) throw new Error(t("This picture is not there any more."));
        return answer.blob();
    };

    /** A file of all these pictures, made by the server. */
    async function made(kind, records) {
        const answer = await fetch(address(`easel/${kind}`), {
            method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ids: records.map(({ id }) => id) }),
        });
        if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message || t("The server answered {status}.", { status: answer.status }));
        return { blob: await answer.blob(), name: decodeURIComponent(answer.headers.get("x-name") ?? "") };
    }

    function download(blob, name) {
        const link = make("a", { download: name });
        link.href = URL.createObjectURL(blob);
        document.body.append(link);
        link.click();
        link.remove();
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    }

    /** A picture that is no record, over the whole window. */
    function show(blob, name) {
        const dialog = make("dialog", { class: "easel-viewer single", "aria-label": t("Grid") });
        const image = make("img", { alt: t("All pictures side by side") });
        image.src = URL.createObjectURL(blob);
        const save = make("a", { class: "save", download: name, href: image.src, title: t("Save"), "aria-label": t("Save") }, "⤓");
        const close = make("button", { type: "button", class: "close", title: t("Close (Esc)"), "aria-label": t("Close (Esc)") }, "×");
        close.onclick = () => dialog.close();
        dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
        dialog.onclose = () => {
            URL.revokeObjectURL(image.src);
            dialog.remove();
        };
        dialog.append(image, make("div", { class: "bar" }, save, close));
        document.body.append(dialog);
        dialog.showModal();
    }

    const acts = {
        /** A copy in the owner's folder, as A1111's; from another machine, a file for that one. */
        async save(tab, record, records) {
            const get = (one) => download(blob, one.path?.replace(/^.*[\\/]/, "") ?? `${seedOf(one)}.png`);
            const blob = await blobOf(record);
            if (window.easel.shared) return get(record);
            const chosen = window.easel.options.save_selected_only === false ? records : [record];
            const { paths, problem } = await ask("easel/save", "POST", { ids: chosen.map(({ id }) => id) });
            toast(paths.length === 1 ? t("Saved as {path}", { path: paths[0] })
                : t("{n} pictures saved in {folder}", { n: paths.length, folder: paths[0].replace(/[\\/][^\\/]*$/, "") }), "note",
            { [t("Download")]: () => get(record) });
            if (problem) toast(problem, "warning");
        },
        async zip(tab, record, records) {
            const { blob, name } = await made("zip", records);
            download(blob, `${name || `${tab}-${records.length}`}.zip`);
        },
        async grid(tab, record, records) { show((await made("grid", records)).blob, `grid-${seedOf(records[0])}.png`); },
        async folder(tab, record) { await ask("easel/folder", "POST", { id: record.id }); },
        async delete(tab, record) {
            await ask("history/delete", "POST", { ids: [record.id] });
            const { gallery } = panels[tab];
            gallery.remove(record.id);
            toast(t("The picture is in the trash."), "note", {
                [t("Take back")]: async () => {
                    await ask("history/restore", "POST", { ids: [record.id] }).catch((error) => toast(error.message, "error"));
                    gallery.add(record);
                },
            });
        },
        /** Hires fix from this picture on, by the form's values; the result joins the pictures shown. */
        async upscale(tab, record) {
            const answer = await fetch(address("inputs"), {
                method: "POST", body: await blobOf(record), headers: { "content-type": "application/octet-stream" },
            });
            const { id, message } = await answer.json();
            if (!answer.ok) throw new Error(message);
            const [seed, subseed] = [seedOf(record), seedOf(record, "Variation seed")].map((text) => text == null ? -1 : BigInt(text));
            if ([seed, subseed].some((number) => number > BigInt(Number.MAX_SAFE_INTEGER))) throw new Error(t("This seed is too large to be sent on; upscale the picture in Extras."));
            window.easel.first = { first_picture: id, seed: Number(seed), subseed: Number(subseed), width: record.width, height: record.height };
            window.easel.beside = true;
            byId(`${tab}_generate`).click();
        },
    };

    const act = (name) => {
        const tab = shownTab(), gallery = panels[tab]?.gallery, record = gallery?.current();
        if (record) acts[name](tab, record, gallery.records).catch((error) => toast(error.message, "error"));
    };
    document.addEventListener("click", (event) => {
        const tool = event.target.closest?.(".easel-tools [data-do]");
        if (tool && Object.hasOwn(acts, tool.dataset.do)) act(tool.dataset.do);
    });
    document.addEventListener("keydown", (event) => {
        const here = document.activeElement?.closest?.(".easel-gallery");
        if (event.key === "Delete" && here && !document.querySelector("dialog[open]")) act("delete");
    });

    // Folders of the machine Easel runs on are nothing to who sits elsewhere.
    const tell = (tab) => {
        const button = byId(`${tab}_open_folder`), why = window.easel.noFolders;
        if (!button || !why) return;
        button.disabled = true;
        button.title = t(why);
    };
    document.addEventListener("easel:mounted", (event) => tell(event.detail));
    window.easel.tools.TABS.forEach(tell);  // what was there before this script
})();
