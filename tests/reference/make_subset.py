"""Cuts golden_subset/ out of the golden runs: `python -m tests.reference.make_subset /path/to/golden`.

The subset keeps what holds the prompt language, samplers' schedules and noise, and the treatment of source pictures, in
two megabytes: requests and conditionings of the prompt groups, the text tower that gave them (without the rows of words
that no request uses; its U-Net and autoencoder are zeros and draw nothing), and the function-level records.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save, save_file

from modules.prompt.parse import parse_emphasis, parse_prompt
from modules.prompt.tokens import CLIP, END, START, bracket_chunk
from modules.prompt.tokens import chunk as chunks

TARGET = Path(__file__).parent / "golden_subset"
GROUPS = {"prompt", "prompt_heun", "prompt_ddim", "prompt_neg", "emphasis"}
MODEL = "tiny-r"
STRIDE = 16
"""Every so many features of each conditioning are kept; all of its tokens are."""
UNITS = ("philox.", "brownian.", "torch_cpu.", "alphas_cumprod", "sigmas")
EMBEDDING = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


def main(source: Path) -> None:
    for folder in ("models/Stable-diffusion", "unit", "inputs"):
        (TARGET / folder).mkdir(parents=True, exist_ok=True)
    cases, hashes = [], set()
    for case in json.loads((source / "cases.json").read_text("utf-8")):
        if case["group"] in GROUPS and "result" in case and case["request"]["override_settings"][
            "sd_model_checkpoint"] == MODEL:  # fmt: skip
            calls = case["result"]["calls"]
            hashes |= {name for call in calls for name in call[-2:]}
            kept = {key: case[key] for key in ("id", "group", "endpoint", "request")}
            cases.append(kept | {"result": {"calls": calls, "all_seeds": case["result"]["all_seeds"]}})
    (TARGET / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")

    conditionings = load_file(source / "conds.safetensors")
    cut = {name: conditionings[name][..., ::STRIDE].contiguous() for name in sorted(hashes)}
    save_file(cut, TARGET / "conds.safetensors", {"stride": str(STRIDE)})

    with lzma.open(source / "models" / "Stable-diffusion" / f"{MODEL}.safetensors.xz") as packed:
        model = load(packed.read())
    used = torch.zeros(len(model[EMBEDDING]), dtype=torch.bool)
    used[list(_tokens(cases))] = True
    model[EMBEDDING] = torch.where(used[:, None], model[EMBEDDING], 0)
    text = "cond_stage_model."
    model = {key: value if key.startswith(text) else torch.zeros_like(value) for key, value in model.items()}
    with lzma.open(TARGET / "models" / "Stable-diffusion" / f"{MODEL}.safetensors.xz", "w", preset=9) as out:
        out.write(save(model))
    shutil.copy(source / "models" / "Stable-diffusion" / f"{MODEL}.yaml", TARGET / "models" / "Stable-diffusion")

    units = load_file(source / "unit" / "unit.safetensors")
    save_file({k: v for k, v in units.items() if k.startswith(UNITS)}, TARGET / "unit" / "unit.safetensors")
    facts = json.loads((source / "unit" / "unit.json").read_text("utf-8"))
    (TARGET / "unit" / "unit.json").write_text(json.dumps(facts, ensure_ascii=False, separators=(",", ":")), "utf-8")
    shutil.copy(source / "engine_lists.json", TARGET)
    for picture in [*(source / "unit").glob("*.png"), *(source / "inputs").glob("*.png")]:
        shutil.copyfile(picture, TARGET / picture.parent.name / picture.name)


def _tokens(cases: list[dict]) -> set[int]:
    """Every token that encoding these requests needs."""
    found = {START, END}
    for case in cases:
        for field, negative in (("prompt", False), ("negative_prompt", True)):
            for reading in parse_prompt(case["request"].get(field, ""), 40, negative=negative).texts:
                for chunk in (*chunks(parse_emphasis(reading), CLIP), *bracket_chunk(reading, CLIP)):
                    found |= set(chunk.ids)
                found |= set(CLIP.encode(reading))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
