"""Easel's look: neutral greys, so that a picture's colours are seen as they are, and one accent. System fonts only."""

from __future__ import annotations

from urllib.parse import parse_qs

import gradio as gr
from gradio.themes.utils.colors import Color
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACCENT = Color("#f0faf7", "#d8f1ea", "#b2e2d6", "#82cdbb", "#53b29e", "#369683", "#28796a", "#236156", "#204e46", "#1d413b", "#0c2521", name="easel")  # fmt: skip  # noqa: E501
GREY = Color("#fafaf9", "#f4f4f3", "#e7e6e4", "#d5d4d1", "#a6a4a0", "#777571", "#57554f", "#42413d", "#2a2a28", "#1d1d1c", "#141413", name="easel_grey")  # fmt: skip  # noqa: E501
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def make_theme() -> gr.themes.Base:
    """The Gradio theme; light and dark follow the system or `?__theme=`."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=GREY,
        text_size="sm",
        spacing_size="sm",
        radius_size="md",
        font=FONT,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        body_text_color="#262624",
        body_text_color_dark="#ececea",
        body_text_color_subdued="#66645f",
        body_text_color_subdued_dark="#a3a19c",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="#1a1a19",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*body_text_color_subdued",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#343432",
        input_background_fill="#ffffff",
        input_background_fill_dark="#20201f",
        input_border_color="*neutral_300",
        input_border_color_dark="#3b3b38",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, *primary_500 22%, transparent)",
        input_placeholder_color="#8a8883",
        input_placeholder_color_dark="#807e79",
        button_border_width="1px",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="#2b7f70",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#282826",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="#333331",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#3f3f3c",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        loader_color="*primary_500",
    )


# What Gradio's page paints by before its scripts run, and what it says in its place for a theme that was asked for; as
# long, so that the page stays as long as it was said to be.
BY_SYSTEM = b"@media (prefers-color-scheme: dark)"
ASKED = {"dark": b"@media all".ljust(len(BY_SYSTEM)), "light": b"@media not all".ljust(len(BY_SYSTEM))}


class ThemeInAddress:
    """Gradio takes the theme from the page's address; where none stands, the command line's is put in. The page has the
    colour of that theme from its first moment."""

    def __init__(self, app: ASGIApp, theme: str | None) -> None:
        self.app, self.theme = app, theme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET"):
            return await self.app(scope, receive, send)
        query = scope["query_string"].decode("latin-1")
        if self.theme and "__theme=" not in query:
            # Relative, so that a sub-path stays.
            answer = RedirectResponse(f"?{query}{'&' if query else ''}__theme={self.theme}")
            return await answer(scope, receive, send)
        asked = ASKED.get(parse_qs(query).get("__theme", [""])[-1], BY_SYSTEM)

        async def painted(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": message.get("body", b"").replace(BY_SYSTEM, asked, 1)}
            await send(message)

        await self.app(scope, receive, painted)
