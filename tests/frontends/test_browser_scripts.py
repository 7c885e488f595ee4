"""The script picker in a real browser, over the shipped model: a prompt matrix and an X/Y/Z plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from modules.imaging.metadata import read_infotext
from tests.frontends.conftest import Program, Watch, open_program


def grids(program: Program) -> list[Path]:
    return sorted(program.data.glob("outputs/txt2img-grids/????-??-??/*.png"))


def generate(page: Any, steps: int, seed: int) -> None:
    """Small and quick; waits until the job is over."""
    for field, value in (("steps", steps), ("width", 128), ("height", 128)):
        page.fill(f"#txt2img_{field} input[type=number]", str(value))
        page.press(f"#txt2img_{field} input[type=number]", "Tab")
    page.fill("#txt2img_seed :is(input, textarea)", str(seed))
    page.evaluate("document.querySelector('#html_log_txt2img .easel-log')?.replaceChildren()")  # of the job before
    page.click("#txt2img_generate")
    page.wait_for_selector("#html_log_txt2img .easel-log:has-text('pictures in')")


def test_a_prompt_matrix_and_a_plot(program: Program, real_context: Any, watch: Watch, test_seed: int) -> None:
    page = open_program(real_context, program, watch)
    picker = page.locator("#txt2img_script_container")
    picker.scroll_into_view_if_needed()
    assert picker.locator("#script_list option").all_inner_texts() == [
        "None", "Prompt matrix", "Prompts from file or textbox", "X/Y/Z plot",
    ]  # fmt: skip
    assert picker.locator(".easel-script-body").is_hidden()

    picker.locator("#script_list").select_option("prompt matrix")
    page.fill("#txt2img_prompt textarea", "a red house|night")
    page.fill("#script_txt2img_prompt_matrix_margin_size input[type=number]", "6")
    generate(page, 2, test_seed % 1000)
    (matrix,) = grids(program)
    with Image.open(matrix) as image:
        assert image.size == (2 * 128 + 6, 128 + image.height - 128)
    assert len(program.pictures()) == 2
    assert page.locator("#txt2img_gallery .thumbnail-item").count() == 3
    assert "grids" in (page.locator("#html_log_txt2img").inner_text())

    picker.locator("#script_list").select_option("x/y/z plot")
    page.fill("#txt2img_prompt textarea", "a red house")
    page.select_option("#script_txt2img_xyz_plot_x_type", "CFG Scale")
    page.fill("#script_txt2img_xyz_plot_x_values", "1-7 [2]")
    page.select_option("#script_txt2img_xyz_plot_y_type", "Sampler")
    chips = page.locator("#script_txt2img_xyz_plot_y_values_dropdown .easel-chip")
    for name in ("Euler", "DDIM"):
        chips.get_by_text(name, exact=True).click()
    page.reload()  # what was chosen stays
    page.wait_for_selector("#script_txt2img_xyz_plot_x_values")
    generate(page, 2, test_seed % 1000)
    plot = next(path for path in grids(program) if "xyz_grid" in path.name)
    with Image.open(plot) as image:
        assert image.width > 2 * 128
        told = read_infotext(image) or ""
    assert 'X Type: CFG Scale, X Values: 1-7 [2], Y Type: Sampler, Y Values: "Euler,DDIM"' in told
    assert len(program.pictures()) == 6

    picker.locator("#script_list").select_option("")
    page.fill("#txt2img_prompt textarea", told)
    page.click("#paste")
    page.wait_for_function("document.querySelector('#script_list').value === 'x/y/z plot'")
    assert page.input_value("#script_txt2img_xyz_plot_x_values") == "1-7 [2]"
    assert page.locator("#script_txt2img_xyz_plot_y_values_dropdown [aria-pressed=true]").all_inner_texts() == [
        "Euler", "DDIM",
    ]  # fmt: skip

    page.fill("#script_txt2img_xyz_plot_x_values", "many")
    page.click("#txt2img_generate")
    page.wait_for_selector("text=is no number")
