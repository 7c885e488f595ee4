"""/sdapi/v1 as AUTOMATIC1111 1.10 has it: the same paths, fields, defaults and answers, over our own front desk.

Each route translates a body into a request or a question, and what comes back into A1111's words. What A1111 does with
weights loaded and state shared happens elsewhere: a request waits for its job, and jobs come from the same queue as
everybody's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import psutil
from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, Field, create_model

from modules.frontends.api import answers as a
from modules.frontends.api.bodies import Common, Img2Img, Lenient, Txt2Img, cleaned, request_of
from modules.frontends.api.control_units import without_pictures
from modules.frontends.api.errors import JobFailed, Refused
from modules.frontends.api.extras import (
    ExtraBatch,
    Extras,
    ExtraSingle,
    enlarge,
    extras_of,
    html_info,
    needs_model,
    restorers,
)
from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.api.native import Mine, Streams, user_of
from modules.frontends.api.pictures import from_text, to_text
from modules.frontends.api.scripts import names_of, script_items, sections_of
from modules.frontends.desk import FrontDesk
from modules.imaging.metadata import open_bounded, read_infotext
from modules.imaging.upscale import UPSCALERS, unknown
from modules.prompt import infotext
from modules.prompt.parse import extract_tags
from modules.sampling.table import normalise
from modules.schema.errors import BadFile, BadRequest, EaselError, NotFound
from modules.schema.model_tasks import InterrogateTask
from modules.schema.record import JobView
from modules.schema.request import GenerationRequest, Source
from modules.schema.scripts import scripts_of
from modules.schema.settings import SECTION_OF, Api, is_place
from modules.schema.unused_options import UNUSED
from modules.weights.library import clip_pair_file, tagger_file

NO_CLIP = (
    "Model 'clip' not found: put a CLIP with both towers (ViT-L-14 in Hugging Face's or open_clip's layout, "
    ".safetensors) into models/CLIP."
)
NO_TAGGER = "Model 'deepdanbooru' not found: put model-resnet_custom_v3.pt into models/torch_deepdanbooru."
LATENT_UPSCALE_MODES = (
    "Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)", "Latent (nearest)",
    "Latent (nearest-exact)",
)  # fmt: skip
OWNERS_ONLY = frozenset(Api.model_fields) | {"enabled_extensions"}
"""Settings that the API neither changes nor overrides."""
TASKS_KEPT = 500
Stop = Callable[[str], bool]
"""Asked to "stop", "kill" or "restart" the server; False where that cannot be done."""


class ImageBody(Lenient):
    image: str = Field("", description="A picture in base64")


class PngInfoBody(BaseModel):
    image: str = Field(description="A picture in base64")


class InterrogateBody(ImageBody):
    model: str = "clip"  # or deepdanbooru


class CreateEmbedding(Lenient):
    name: str
    num_vectors_per_token: int = 1
    overwrite_old: bool = False
    init_text: str = "*"


class CreateHypernetwork(Lenient):
    name: str
    enable_sizes: list[int] = Field([])
    overwrite_old: bool = False
    layer_structure: list[float] | None = None
    activation_func: str | None = None
    weight_init: str | None = None
    add_layer_norm: bool = False
    use_dropout: bool = False
    dropout_structure: list[float] | None = None


# Every setting by its flat name, for the documentation, and those of A1111 that change nothing here.
Options = create_model("Options", __base__=a.Answer, **dict.fromkeys((*UNUSED, *SECTION_OF), (Any, None)))  # type: ignore[call-overload]


class Tasks:
    """Which job a client's own task id stands for; the newest are remembered."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str | None, str], str] = {}

    def remember(self, user: str | None, task: str, job: str) -> None:
        self._jobs.pop((user, task), None)
        self._jobs[user, task] = job
        while len(self._jobs) > TASKS_KEPT:
            del self._jobs[next(iter(self._jobs))]

    def job(self, user: str | None, task: str) -> str | None:
        return self._jobs.get((user, task))


def make_router(
    streams: Streams,
    tasks: Tasks,
    *,
    flags: Mapping[str, Any],
    stop: Stop | None = None,
    shared: bool = False,
) -> APIRouter:
    """All routes. `flags`: what /cmd-flags tells (no secrets). `stop`: None where the API may not stop the server.
    `shared`: others than the owner can reach it, so folders cannot be changed."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    # ---- drawing ----

    async def drawn(body: Common, request: Request, mine: FrontDesk) -> a.Generated:
        job = await to_thread.run_sync(submit, mine, body)
        if body.force_task_id:
            tasks.remember(user_of(request), body.force_task_id, job)
        view = await streams.run(lambda: wait_for(mine, job))
        return await streams.run(lambda: answer(mine, view, body))

    def submit(mine: FrontDesk, body: Common) -> str:
        refuse_script(body)
        tab = "img2img" if isinstance(body, Img2Img) else "txt2img"
        sections = sections_of(body.alwayson_scripts, body.infotext, mine.extensions, tab)
        settings = mine.settings
        ignored = OWNERS_ONLY & set(body.override_settings or {})
        if ignored:
            body.override_settings = {k: v for k, v in (body.override_settings or {}).items() if k not in ignored}

        def keep(text: str, field: str) -> str:
            try:
                return mine.keep_input(from_text(text, field, settings))
            except BadFile as error:
                raise BadRequest(f"{field} is no picture that can be used: {error.message}", field=field) from None

        many = getattr(body, "batch", None)
        if isinstance(body, Img2Img) and not getattr(body, "init_images", None) and not (many and many.input_dir):
            raise Refused(404, "Init image not found: init_images is empty.", field="init_images")
        made = request_of(body, keep).model_copy(update={"extensions": sections})
        if body.disable_extra_networks:
            made = made.model_copy(update={"prompt": extract_tags(made.prompt)[0]})
        try:
            normalise(made.sampler, made.scheduler)
        except NotFound as error:
            raise Refused(400, error.message, field=error.field) from None
        overridden = {k: v for k, v in made.override_settings.items() if k in SECTION_OF}
        settings.with_options(overridden)  # what is wrong is said now, not in an hour
        if made.checkpoint:
            mine.checkpoint(made.checkpoint)
        job = mine.submit(made)
        if not body.override_settings_restore_afterwards and body.override_settings:
            known = {k: v for k, v in body.override_settings.items() if k in SECTION_OF or k in UNUSED}
            keep_settings(mine, known)
        return job

    @router.post("/txt2img")
    async def txt2img(body: Txt2Img, request: Request, mine: Mine) -> a.Generated:  # type: ignore[valid-type]
        """Draws and answers when the pictures are done; a client that is cut off does not stop it."""
        return await drawn(body, request, mine)

    @router.post("/img2img")
    async def img2img(body: Img2Img, request: Request, mine: Mine) -> a.Generated:  # type: ignore[valid-type]
        """Draws from other pictures; where a mask is white only."""
        return await drawn(body, request, mine)

    def by_model(mine: FrontDesk, pictures: list[str], body: Extras, field: str) -> tuple[list[str], str]:
        """Pictures enlarged by the worker, which alone may run a model, and a sentence on how. Blocks."""
        names = [*UPSCALERS, *upscaler_models(mine.library)]
        for key in ("upscaler_1", "upscaler_2"):
            if getattr(body, key) not in names:
                error = unknown(getattr(body, key), names)
                error.field = key
                raise error
        kept = tuple(mine.keep_input(from_text(text, field, mine.settings)) for text in pictures)
        asked = extras_of(body)
        job = mine.submit(
            GenerationRequest(source=Source(images=kept, extras=asked), override_settings={"samples_save": False})
        )
        view = wait_for(mine, job)
        if view.state == "failed":
            raise JobFailed(view.error_code or "error", view.error or "The pictures could not be enlarged.")
        done = view.images
        size = (done[0].width, done[0].height) if done else (0, 0)
        return [to_text(_bytes(mine, one.id)) for one in done], html_info(asked, size)

    @router.post("/extra-single-image")
    def extra_single_image(body: ExtraSingle, mine: Mine) -> a.ExtraImage:
        """Enlarges a picture."""
        if needs_model(body):
            pictures, told = by_model(mine, [body.image], body, "image")
            return a.ExtraImage(html_info=told, image=pictures[0] if pictures else "")
        files, told = enlarge(from_text(body.image, "image", mine.settings), body, "image")
        return a.ExtraImage(html_info=told, image=to_text(files[0]))

    @router.post("/extra-batch-images")
    def extra_batch_images(body: ExtraBatch, mine: Mine) -> a.ExtraImages:
        """Enlarges pictures, each the same way."""
        if needs_model(body) and body.imageList:
            pictures, told = by_model(mine, [each.data for each in body.imageList], body, "imageList")
            return a.ExtraImages(html_info=told, images=pictures)
        done = [enlarge(from_text(each.data, "imageList", mine.settings), body, "imageList") for each in body.imageList]
        images = [to_text(file) for files, _ in done for file in files]
        return a.ExtraImages(html_info=done[0][1] if done else "", images=images)

    @router.post("/png-info")
    def png_info(body: PngInfoBody, mine: Mine) -> a.PngInfo:
        """What a picture says of how it was made."""
        image = opened(from_text(body.image, "image", mine.settings), "image")
        text = read_infotext(image) or ""
        items = {k: v for k, v in image.info.items() if isinstance(v, str) and k != "parameters"}
        if not text:
            return a.PngInfo(info="", items=items, parameters={})
        told = infotext.parse(text)
        parameters = {"Prompt": told.prompt, "Negative prompt": told.negative_prompt, **told.fields}
        return a.PngInfo(info=text, items={"parameters": text, **items}, parameters=parameters)

    @router.post("/interrogate")
    def interrogate(body: InterrogateBody, mine: Mine) -> a.Caption:
        """Words or tags for a picture, where the model for it is there."""
        if not body.image:
            raise Refused(404, "Image not found: image is empty.", field="image")
        if body.model not in ("clip", "deepdanbooru"):
            raise Refused(404, f"Model {body.model[:40]!r} not found; ask for clip or deepdanbooru.", field="model")
        if body.model == "clip" and clip_pair_file(mine.library.folders) is None:
            raise Refused(404, NO_CLIP, field="model")
        if body.model == "deepdanbooru" and tagger_file(mine.library.folders) is None:
            raise Refused(404, NO_TAGGER, field="model")
        kept = mine.keep_input(from_text(body.image, "image", mine.settings))
        task = mine.model_tasks.submit(InterrogateTask(image=kept, model=body.model))
        while (view := mine.model_tasks.view(task)).state in ("queued", "running"):
            time.sleep(0.05)
        if view.result is None:
            raise JobFailed(view.error_code or "error", view.error or "The picture could not be described.")
        return a.Caption(caption=view.result)

    # ---- what is being drawn ----

    @router.get("/progress")
    def progress(
        mine: Mine,
        skip_current_image: Annotated[bool, Query(description="Leave current_image out.")] = False,
    ) -> a.ProgressNow:
        """How far the present job is; progress 0 and job_count 0 when there is none."""
        view = mine.current()
        if view is None:
            return a.ProgressNow(progress=0.0, eta_relative=0.0, state=a.State())
        if view.state == "queued":
            waits = a.state_of(view).model_copy(update={"job": "waiting"})
            return a.ProgressNow(progress=0.0, eta_relative=0.0, state=waits, textinfo=queue_text(view))
        found = None if skip_current_image else mine.preview(view.id)
        return a.ProgressNow(
            progress=min(1.0, max(0.01, view.progress)),
            eta_relative=max(0.0, view.eta or 0.0),
            state=a.state_of(view),
            current_image=to_text(found[2]) if found else None,
            textinfo=view.text or None,
        )

    @router.post("/interrupt")
    def interrupt(mine: Mine) -> a.Empty:
        """Ends the job that is being drawn; its finished pictures are answered."""
        view = mine.current()
        if view is not None and view.state == "running":
            mine.cancel(view.id)
        return a.Empty()

    @router.post("/skip")
    def skip(mine: Mine) -> None:
        """Goes on with the next batch."""
        view = mine.current()
        if view is not None and view.state == "running":
            mine.skip(view.id)

    # ---- settings ----

    @router.get("/options", response_model=Options)
    def options(mine: Mine) -> dict[str, Any]:
        """Every setting by its name, A1111's that change nothing here too."""
        settings = mine.settings
        found = {**mine.unused_options, **{key: settings.option(key) for key in SECTION_OF}}
        try:
            view = mine.checkpoint()
            return found | {"sd_model_checkpoint": view.title, "sd_checkpoint_hash": view.sha256 or ""}
        except NotFound:
            return found | {"sd_checkpoint_hash": ""}

    @router.post("/options")
    def set_options(values: Annotated[dict[str, Any], Body()], mine: Mine) -> None:
        """Changes settings; all of them or, where one is refused, none."""
        try:
            keep_settings(mine, cleaned(values))
        except ValueError as error:
            raise BadRequest(f"The settings cannot be read: {error}.") from None

    def keep_settings(mine: FrontDesk, values: Mapping[str, Any]) -> None:
        told = {**mine.unused_options, **{key: mine.settings.option(key) for key in SECTION_OF}}
        wanted = {k: v for k, v in values.items() if k not in OWNERS_ONLY and k != "sd_checkpoint_hash"}
        if shared:
            # A client that sends back all it got does not mean to change them.
            wanted = {k: v for k, v in wanted.items() if not (is_place(k) and told.get(k) == v)}
            moved = [k for k in wanted if is_place(k)]
            if moved:
                raise BadRequest(f"{moved[0]} cannot be changed over the network.", field=moved[0])
        if wanted.get("sd_model_checkpoint"):
            wanted["sd_model_checkpoint"] = mine.checkpoint(str(wanted["sd_model_checkpoint"])).name
        mine.change_settings(wanted)

    @router.get("/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        """The command line by A1111's names, secrets left out."""
        return {name: value if _is_plain(value) else str(value) for name, value in flags.items()}

    # ---- lists ----

    @router.get("/samplers")
    def samplers() -> list[a.SamplerItem]:
        return a.sampler_items()

    @router.get("/schedulers")
    def schedulers() -> list[a.SchedulerItem]:
        return a.scheduler_items()

    @router.get("/upscalers")
    def upscalers(mine: Mine) -> list[a.UpscalerItem]:
        models = upscaler_models(mine.library)
        return [a.UpscalerItem(name=name) for name in UPSCALERS] + [
            a.UpscalerItem(name=name, model_name=name, model_path=path) for name, path in models.items()
        ]

    @router.get("/latent-upscale-modes")
    def latent_upscale_modes() -> list[a.Named]:
        return [a.Named(name=name) for name in LATENT_UPSCALE_MODES]

    @router.get("/sd-models")
    def sd_models(mine: Mine) -> list[a.ModelItem]:
        return [a.model_item(view) for view in mine.checkpoints() if not view.problem]

    @router.get("/sd-vae")
    @router.get("/sd-modules", summary="Sd Modules")
    def sd_vae(mine: Mine) -> list[a.FileItem]:
        return [a.FileItem(model_name=file.name, filename=str(file.path)) for file in mine.model_files.vaes()]

    @router.get("/hypernetworks")
    def hypernetworks(mine: Mine) -> list[a.HypernetworkItem]:
        return [a.HypernetworkItem(name=file.name, path=str(file.path)) for file in mine.model_files.hypernetworks()]

    @router.get("/face-restorers")
    def face_restorers(mine: Mine) -> list[a.FaceRestorerItem]:
        """Those whose files are there."""
        return [a.FaceRestorerItem(name=name, cmd_dir=folder) for name, folder in restorers(mine.library).items()]

    @router.get("/realesrgan-models")
    def realesrgan_models(mine: Mine) -> list[a.RealesrganItem]:
        """The upscalers whose files lie in models/RealESRGAN."""
        return [
            a.RealesrganItem(name=name, path=path, scale=None)
            for name, path in upscaler_models(mine.library, "RealESRGAN").items()
        ]

    @router.get("/prompt-styles")
    def prompt_styles(mine: Mine) -> list[a.StyleItem]:
        return [
            a.StyleItem(name=style.name, prompt=style.prompt, negative_prompt=style.negative_prompt)
            for style in mine.styles.known().values()
        ]

    @router.get("/embeddings")
    def embeddings(mine: Mine) -> a.Embeddings:
        """`skipped`: those that the checkpoint's text encoders cannot take, and damaged ones."""
        loaded, skipped = (
            {name: a.EmbeddingItem(shape=sum(seen.widths), vectors=seen.vectors) for name, seen in found.items()}
            for found in mine.prompts.embeddings()
        )
        return a.Embeddings(loaded=loaded, skipped=skipped)

    @router.get("/loras")
    def loras(mine: Mine) -> list[a.LoraItem]:
        return [
            a.LoraItem(
                name=file.name,
                alias=file.metadata.get("ss_output_name") or file.name,
                path=str(file.path),
                metadata=dict(file.metadata),
            )
            for file in mine.model_files.loras()
        ]

    @router.post("/refresh-checkpoints")
    def refresh_checkpoints(mine: Mine) -> None:
        """Looks through the folders of checkpoints anew."""
        mine.checkpoints(refresh=True)

    for name in ("vae", "embeddings", "loras"):
        # These lists are made anew each time they are asked for.
        router.add_api_route(f"/refresh-{name}", _nothing, methods=["POST"], name=f"refresh_{name}")

    @router.get("/scripts")
    def scripts(mine: Mine) -> a.Scripts:
        """Names that script_name and alwayson_scripts take."""
        return a.Scripts(txt2img=names_of("txt2img", mine.extensions), img2img=names_of("img2img", mine.extensions))

    @router.get("/script-info")
    def script_info(mine: Mine) -> list[a.ScriptItem]:
        """What each takes, in the order of script_args; `name` is the key for arguments by name."""
        return script_items(mine.extensions)

    @router.get("/extensions")
    def extensions(mine: Mine) -> list[a.ExtensionItem]:
        """The folders in `extensions`. Where they came from is not known."""
        return [
            a.ExtensionItem(
                name=each.key, remote="", branch="", commit_hash="", commit_date="",
                version=each.declared.version if each.declared else "", enabled=each.on,
            )
            for each in mine.extensions.listed()
        ]  # fmt: skip

    # ---- the machine ----

    @router.get("/memory")
    def memory(mine: Mine) -> a.Memory:
        """Bytes of RAM (free, used by server and worker, in all), and of the graphics card where there is one."""
        return memory_of(mine.stats().get("worker", {}))

    @router.post("/unload-checkpoint")
    def unload_checkpoint(mine: Mine) -> a.Empty:
        """The model is let go of once nothing is drawn with it."""
        mine.unload()
        return a.Empty()

    @router.post("/reload-checkpoint")
    def reload_checkpoint(mine: Mine) -> a.Empty:
        """The model of the settings is loaded."""
        mine.load()
        return a.Empty()

    @router.post("/create/embedding")
    def create_embedding(body: CreateEmbedding) -> a.Info:
        """Refused: nothing is trained here."""
        raise Refused(404, "Embeddings cannot be made here; put finished ones into the embeddings folder.")

    @router.post("/create/hypernetwork")
    def create_hypernetwork(body: CreateHypernetwork) -> a.Info:
        """Refused: nothing is trained here."""
        raise Refused(404, "Hypernetworks cannot be made here; put finished ones into models/hypernetworks.")

    def train(_: Annotated[dict[str, Any], Body()]) -> a.Info:
        """Refused: nothing is trained here."""
        raise Refused(
            404, "Nothing can be trained here; use a training program and put its file into the models folder."
        )

    for name in ("embedding", "hypernetwork"):
        router.add_api_route(f"/train/{name}", train, methods=["POST"], name=f"train_{name}", response_model=a.Info)

    if stop is not None:
        ask = stop

        def stopping(how: str) -> Callable[[], None]:
            def route() -> None:
                """Ends the server; with restart it comes back where its starter knows how."""
                if not ask(how):
                    raise Refused(501, "This server cannot restart itself; start it through webui.sh or webui.bat.")

            return route

        for how in ("kill", "restart", "stop"):
            router.add_api_route(f"/server-{how}", stopping(how), methods=["POST"], name=f"server_{how}")
    return router


def _nothing() -> None:
    """Nothing to do: that list is always of now."""


def wait_for(mine: FrontDesk, job: str) -> JobView:
    """The job once it has ended. Blocks."""
    for _ in mine.follow(job):
        pass
    return mine.job(job)


def answer(mine: FrontDesk, view: JobView, body: Common) -> a.Generated:
    """A finished job in A1111's words; JobFailed where it failed. What an interrupt left is answered as it is."""
    if view.state == "failed":
        raise JobFailed(view.error_code or "error", view.error or "The drawing failed.")
    shown = [image for image in view.images if image.role != "part"]
    pictures = [to_text(_bytes(mine, image.id)) for image in shown] if body.send_images else []
    parameters = body.model_dump(mode="json")
    if not parameters.get("include_init_images"):
        parameters |= {name: None for name in ("init_images", "mask") if name in parameters}
        parameters["alwayson_scripts"] = without_pictures(parameters["alwayson_scripts"])
    return a.Generated(images=pictures, parameters=parameters, info=a.info_of(view))


def _bytes(mine: FrontDesk, id: str) -> bytes:
    found, _ = mine.picture(id)
    if isinstance(found, Path):
        try:
            return found.read_bytes()
        except OSError:
            raise NotFound("A picture was moved away before it could be sent.") from None
    return found


def opened(data: bytes, field: str) -> Any:
    try:
        return open_bounded(data)
    except EaselError as error:
        error.field = field
        raise


def refuse_script(body: Common) -> None:
    """A1111 answers 422 to names it does not know."""
    tab = "img2img" if isinstance(body, Img2Img) else "txt2img"
    if body.script_name and body.script_name.lower() not in {row.key for row in scripts_of(tab)}:
        raise Refused(
            422, f"Script {body.script_name[:60]!r} not found; /scripts lists those there are.", field="script_name"
        )


def queue_text(view: JobView) -> str:
    return f"In queue: {view.position}" if view.position else "Waiting..."


def memory_of(worker: Mapping[str, Any]) -> a.Memory:
    machine = psutil.virtual_memory()
    used = psutil.Process().memory_info().rss
    if worker.get("pid"):
        with contextlib.suppress(psutil.Error):
            used += psutil.Process(worker["pid"]).memory_info().rss
    ram = {"free": machine.available, "used": used, "total": machine.total}
    if worker.get("device") not in ("cuda", "xpu"):
        return a.Memory(ram=ram, cuda={"error": "No CUDA device is in use."})
    total = worker.get("memory") or 0
    nothing = {"current": 0, "peak": 0}
    system = {"free": total, "used": 0, "total": total, **(worker.get("system") or {})}
    cuda = {"system": system} | {
        name: worker.get(name) or nothing for name in ("active", "allocated", "reserved", "inactive")
    }
    return a.Memory(ram=ram, cuda=cuda | {"events": worker.get("events") or {"retries": 0, "oom": 0}})


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)
