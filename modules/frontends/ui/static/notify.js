// A finished job is heard, and seen from another window where the browser was allowed to say so.
"use strict";
(() => {
    const { t, address, panels } = window.easel.tools;
    let sound = null;

    /** The sound's address, asked for anew each time: the owner may have put a file there. */
    async function play() {
        const { options } = window.easel;
        if (!options.notification_audio) return;
        const answer = await fetch(address("easel/notification")).catch(() => null);
        if (answer?.status !== 200) return;
        sound ??= new Audio();
        sound.id = "audio_notification";
        URL.revokeObjectURL(sound.src);
        sound.src = URL.createObjectURL(await answer.blob());
        sound.volume = Math.min(1, options.notification_volume / 100);
        window.easel.played = (window.easel.played ?? 0) + 1;
        await sound.play().catch(() => { /* browsers let a page be heard only after a click in it */ });
    }

    function tell(count) {
        if (document.hasFocus() || !("Notification" in window) || Notification.permission !== "granted") return;
        const note = new Notification(t("Easel"), { body: count === 1 ? t("The picture is finished.") : t("{n} pictures are finished.", { n: count }) });
        note.onclick = () => {
            window.focus();
            note.close();
        };
    }

    document.addEventListener("easel:over", ({ detail: { tab, view } }) => {
        if (view.state !== "done" || !view.images.length || panels[tab].session.waiting().length) return;
        play();
        tell(view.images.length);
    });
    window.easel.allowNotes = async () => "Notification" in window && await Notification.requestPermission() === "granted";
})();
