"""The PNG Info tab: drop a picture, see what it says about itself, send that on. All in the page's script."""

from __future__ import annotations

from modules.frontends.ui.panel import plain

FRAME = """
<div class="easel-pnginfo">
  <div id="pnginfo_image" class="easel-drop" tabindex="0" role="button" aria-label="Choose a picture to read">
    <p>Drop a picture here, paste one, or click to choose.</p>
  </div>
  <div class="easel-told" aria-live="polite">
    <div id="pnginfo_buttons" class="easel-tools" hidden>
      <button type="button" class="easel-tool" data-do="send" data-to="txt2img">Send to txt2img</button>
      <button type="button" class="easel-tool" data-do="send" data-to="img2img">Send to img2img</button>
      <button type="button" class="easel-tool" data-do="send" data-to="inpaint">Send to inpaint</button>
      <button type="button" class="easel-tool" data-do="send" data-to="extras">Send to extras</button>
      <button type="button" class="easel-tool" data-do="copy">Copy settings</button>
    </div>
    <div id="html_info_pnginfo"></div>
    <div class="easel-told-empty">
      <p>Every picture remembers how it was drawn.</p>
      <small>Put one in that was made here or by another web UI: its prompt and settings are shown, and go to a form
        with one click.</small>
    </div>
  </div>
</div>
"""


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "pnginfo_panel")
