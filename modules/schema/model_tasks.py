"""Work on model files: merging checkpoints, converting one to safetensors. Plain data, like a request for pictures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from modules.schema.fields import Frozen, fact
from modules.schema.request import InputName

METHODS = ("Weighted sum", "Add difference", "No interpolation")


class MergeTask(Frozen):
    """Checkpoints by any of their names. Names and meaning of the fields are A1111's."""

    kind: Literal["merge"] = "merge"
    primary_model_name: str = fact("", label="Primary model (A)")
    secondary_model_name: str | None = fact(None, label="Secondary model (B)")
    tertiary_model_name: str | None = fact(None, label="Tertiary model (C)")
    interp_method: Literal["Weighted sum", "Add difference", "No interpolation"] = fact(
        "Weighted sum", label="Interpolation Method", choices=METHODS
    )
    multiplier: float = fact(0.3, label="Multiplier (M)", ge=0, le=1, step=0.05, hint="0 is model A")
    save_as_half: bool = fact(False, label="Save as float16")
    custom_name: str = fact("", label="Custom Name", hint="Empty: made from the models' names.")
    config_source: int = fact(0, label="Copy config from", ge=0, le=3, choices=(0, 1, 2, 3),
                              hint="0 A, B or C; 1 B; 2 C; 3 don't")  # fmt: skip
    bake_in_vae: str = fact("None", label="Bake in VAE")
    discard_weights: str = fact("", label="Discard weights with matching name", hint="a regular expression")
    save_metadata: bool = fact(True, label="Save metadata")
    add_merge_recipe: bool = fact(True, label="Add merge recipe metadata")
    copy_metadata_fields: bool = fact(True, label="Copy metadata from merged models")
    metadata: dict[str, Any] = fact({}, label="Metadata in JSON format")


class ConvertTask(Frozen):
    """Write a checkpoint (a pickle, a diffusers folder) once more as one safetensors file; the original stays."""

    kind: Literal["convert"] = "convert"
    checkpoint: str
    save_as_half: bool = fact(False, label="Save as float16")


class InterrogateTask(Frozen):
    """Words for a kept picture, chosen by CLIP, or the tags of DeepDanbooru; the task's result is the text."""

    kind: Literal["interrogate"] = "interrogate"
    image: InputName
    model: Literal["clip", "deepdanbooru"] = "clip"


ModelTask = Annotated[MergeTask | ConvertTask | InterrogateTask, Field(discriminator="kind")]
MODEL_TASK: TypeAdapter[ModelTask] = TypeAdapter(ModelTask)


class TaskView(Frozen):
    """A task from outside. `progress` is 0…1; `result` is the name of the checkpoint that was made, or
    the words for the picture."""

    id: str
    task: ModelTask
    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    progress: float = 0.0
    text: str = ""
    error: str | None = None
    error_code: str | None = None
    result: str | None = None
