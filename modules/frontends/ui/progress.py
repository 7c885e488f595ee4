"""The results panel: gallery, progress, infotext and log. The page's script fills it by following jobs by id.

Gradio only places these blocks; it never updates them, so a running job does not depend on a Gradio session.
"""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

GALLERY = """
<div id="{tab}_gallery" class="easel-gallery" data-state="empty">
  <div class="easel-stage">
    <div class="easel-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"><i></i></div>
    <div class="easel-empty">
      <svg viewBox="0 0 64 64" aria-hidden="true"><path d="M14 12h36v28H14z M20 58l6-18 M44 58l-6-18 M32 40v14 M32 6v6
        M19 33l8-9 6 6 5-5 7 8"/></svg>
      <p>Your pictures appear here.</p>
      <p class="easel-first">{first}</p>
      <p class="easel-keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd> generate · <kbd>Alt</kbd> <kbd>Enter</kbd> skip ·
        <kbd>Esc</kbd> interrupt</p>
    </div>
    <div class="easel-frame" hidden></div>
    <div class="easel-status" aria-live="off" hidden><span class="easel-status-text"></span></div>
  </div>
  <div class="easel-thumbs" role="group" aria-label="Pictures" hidden></div>
</div>
"""
# How a tab's first picture comes about.
FIRST = {
    "txt2img": "Describe one in the prompt, and press Generate.",
    "img2img": "Put a picture into the frame, say what it should become, and press Generate.",
    "extras": "Put a picture into the frame, choose an upscaler, and press Generate.",
}
TOOLS = """
<div id="image_buttons_{tab}" class="easel-tools" hidden>
  <button type="button" class="easel-tool" id="save_{tab}" data-do="save"
    title="Put a copy of this picture into the folder for saved ones (S)">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M4 4h10l2 2v10H4z M7 4v4h6V4 M7 16v-5h6v5"/></svg>Save</button>
  <button type="button" class="easel-tool" data-do="copy" title="Copy the prompt and settings of this picture">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M7 7V4h9v9h-3 M4 7h9v9H4z"/></svg>Copy settings</button>
  <button type="button" class="easel-tool" data-do="enlarge" title="Fill the window with this picture">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M3 8V3h5 M12 3h5v5 M17 12v5h-5 M8 17H3v-5"/></svg>
    Enlarge</button>
  <button type="button" class="easel-tool" id="{tab}_send_to_img2img" data-do="send" data-to="img2img"
    title="Draw over this picture in img2img, with its settings">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M3 4h14v12H3z M3 13l4-4 4 4 2-2 4 4"/></svg>To img2img</button>
  <button type="button" class="easel-tool" id="{tab}_send_to_inpaint" data-do="send" data-to="inpaint"
    title="Draw a part of this picture anew, with its settings">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M4 16l1-4 8-8 3 3-8 8z M11 6l3 3"/></svg>To inpaint</button>
  <button type="button" class="easel-tool" id="{tab}_send_to_extras" data-do="send" data-to="extras"
    title="Enlarge this picture in Extras">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M3 17V9h8v8z M9 5V3h8v8h-2 M13 7l4-4"/></svg>To extras</button>
  {others}
  <a class="easel-tool easel-bare" id="download_{tab}" download href="#" aria-label="Download"
    title="Download this picture with its settings inside">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M10 3v9 M6 9l4 4 4-4 M4 16h12"/></svg></a>
  <button type="button" class="easel-tool easel-bare" id="save_zip_{tab}" data-do="zip" aria-label="Save all as a zip"
    title="Save all these pictures in one zip file">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M4 3h12v14H4z M10 3v2 M10 7v2 M10 11v2 M9 13h2v3H9z"/></svg>
  </button>
  <button type="button" class="easel-tool easel-bare" id="{tab}_grid" data-do="grid" aria-label="Grid of all"
    title="All these pictures side by side, as one">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M3 3h14v14H3z M10 3v14 M3 10h14"/></svg></button>
  <button type="button" class="easel-tool easel-bare" id="{tab}_open_folder" data-do="folder"
    aria-label="Open its folder" title="Show the folder this picture is saved in">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M2 5h6l2 2h8v9H2z"/></svg></button>
  <button type="button" class="easel-tool easel-bare" id="{tab}_delete" data-do="delete" aria-label="Delete"
    title="Throw this picture away (Del); it can be taken back">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M3.5 5.5h13M8 5.5V3h4v2.5M5 5.5l.8 11.5h8.4L15 5.5"/></svg>
  </button>
</div>
"""
UPSCALE = """<button type="button" class="easel-tool" id="{tab}_upscale" data-do="upscale"
    title="Draw this picture once more at a larger size, by the values of Hires. fix">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M10 2l1.8 5.2L17 9l-5.2 1.8L10 16l-1.8-5.2L3 9l5.2-1.8z"/>
    </svg>Upscale</button>"""
TO_TXT2IMG = """<button type="button" class="easel-tool" id="{tab}_send_to_txt2img" data-do="send" data-to="txt2img"
    title="Draw with the settings of this picture in txt2img">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M4 5h12 M10 5v11 M7 16h6"/></svg>To txt2img</button>"""


def results_panel(tab: str) -> Mapping[str, gr.HTML]:
    """The blocks of the panel, ids as A1111's."""
    others = (UPSCALE if tab == "txt2img" else TO_TXT2IMG).format(tab=tab)
    with gr.Column(elem_id=f"{tab}_results", elem_classes="easel-results"):
        with gr.Column(elem_id=f"{tab}_results_panel"):
            gallery = gr.HTML(
                GALLERY.format(tab=tab, first=FIRST[tab]), elem_id=f"{tab}_gallery_container", js_on_load=None,
                apply_default_css=False,
            )  # fmt: skip
            tools = gr.HTML(TOOLS.format(tab=tab, others=others), js_on_load=None, apply_default_css=False)
            info = gr.HTML("", elem_id=f"html_info_{tab}", js_on_load=None, apply_default_css=False)
            log = gr.HTML("", elem_id=f"html_log_{tab}", js_on_load=None, apply_default_css=False)
    return {"gallery": gallery, "tools": tools, "info": info, "log": log}
