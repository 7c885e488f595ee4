"""Every command line flag of A1111 1.10.1 with its dest and default, and those of Forge that do no harm.

The rows are the only place that knows a flag. Dests are public names: extensions read them, `GET /sdapi/v1/cmd-flags`
answers with them. Defaults may name `{root}` (the program), `{data}` (--data-dir) and `{models}` (--models-dir); they
are filled in after parsing, so the order of the flags does not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from modules.bootstrap.problem import BootstrapProblem


class Template(str):
    """A default that names `{root}`, `{data}` or `{models}`."""

    __slots__ = ()


@dataclass(frozen=True)
class Flag:
    """One row: the flag, its help sentence, and what argparse is told about it."""

    name: str
    help: str
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dest(self) -> str:
        """The public name: A1111's."""
        return self.name.lstrip("-").replace("-", "_")


def _on(name: str, help: str = "") -> Flag:
    return Flag(name, help, {"action": "store_true"})


def _text(name: str, default: str | None, help: str = "") -> Flag:
    return Flag(name, help, {"default": Template(default) if default and "{" in default else default})


def _number(name: str, default: int | None, help: str = "") -> Flag:
    return Flag(name, help, {"type": int, "default": default})


def _many(name: str, help: str = "") -> Flag:
    return Flag(name, help, {"action": "append"})


A1111: dict[str, tuple[Flag, ...]] = {
    "paths and models": (
        _text("--data-dir", "{root}", "folder of everything you own: models, extensions, outputs, settings"),
        _text("--models-dir", None, "folder of the models; without it: models in the data folder"),
        _text("--config", "{root}/configs/v1-inference.yaml", "ldm configuration; Easel reads the checkpoint itself"),
        _text("--ckpt", "{root}/model.ckpt", "a checkpoint file to list and to choose first"),
        _text("--ckpt-dir", None, "a second folder of checkpoints"),
        _text("--vae-dir", None, "a second folder of VAEs"),
        _text("--vae-path", None, "this VAE for every checkpoint"),
        _text("--embeddings-dir", "{data}/embeddings", "folder of textual inversion embeddings"),
        _text("--hypernetwork-dir", "{models}/hypernetworks", "folder of hypernetworks"),
        _text(
            "--textual-inversion-templates-dir", "{root}/textual_inversion_templates", "prompt templates of training"
        ),
        _text("--localizations-dir", "{root}/localizations", "folder of translations"),
        _text("--gfpgan-dir", "./GFPGAN", "a second folder of GFPGAN models"),
        _text("--gfpgan-model", None, "the file that the name GFPGAN stands for"),
        _text("--gfpgan-models-path", "{models}/GFPGAN", "folder of GFPGAN models"),
        _text("--codeformer-models-path", "{models}/Codeformer", "folder of CodeFormer models"),
        _text("--esrgan-models-path", "{models}/ESRGAN", "folder of ESRGAN upscalers"),
        _text("--bsrgan-models-path", "{models}/BSRGAN", "folder of BSRGAN upscalers"),
        _text("--realesrgan-models-path", "{models}/RealESRGAN", "folder of RealESRGAN upscalers"),
        _text("--dat-models-path", "{models}/DAT", "folder of DAT upscalers"),
        _text("--clip-models-path", None, "folder of CLIP weights for interrogation"),
        _many("--styles-file", "a table of styles; may be given often and with wildcards"),
        _text("--ui-config-file", "{data}/ui-config.json", "defaults of the page's controls"),
        _text("--ui-settings-file", "{data}/config.json", "settings"),
        _on("--no-download-sd-model", "Easel never downloads a model"),
        _on("--do-not-download-clip", "Easel never downloads a tokenizer or text encoder"),
        # Of A1111's built-in extensions:
        _text("--lora-dir", "{models}/Lora", "folder of LoRA files"),
        _text("--lyco-dir-backcompat", "{models}/LyCORIS", "folder of LyCORIS files"),
        _text("--ldsr-models-path", "{models}/LDSR", "folder of LDSR upscalers"),
        _text("--scunet-models-path", "{models}/ScuNET", "folder of ScuNET denoisers"),
        _text("--swinir-models-path", "{models}/SwinIR", "folder of SwinIR upscalers"),
    ),
    "server": (
        _on("--listen", "answer on every network interface, not only on this machine"),
        _text("--server-name", None, "address to answer on"),
        _number("--port", None, "port; without it 7860 or the next free one"),
        _on("--share", "a public address through Gradio's tunnel"),
        _text("--ngrok", None, "token of an ngrok tunnel"),
        Flag("--ngrok-options", "options of the ngrok tunnel, as JSON", {"type": json.loads, "default": {}}),
        _text("--ngrok-region", "", "ignored, as in A1111"),
        _text("--subpath", None, "serve below /<subpath>, for a reverse proxy"),
        _text("--tls-keyfile", None, "key for https; needs --tls-certfile"),
        _text("--tls-certfile", None, "certificate for https; needs --tls-keyfile"),
        Flag(
            "--disable-tls-verify",
            "self-signed certificates are accepted anyway",
            {"action": "store_false", "default": None},
        ),
        _text("--cors-allow-origins", None, "origins other pages may call from, with commas between"),
        _text("--cors-allow-origins-regex", None, "the same as one regular expression"),
        _text("--gradio-auth", None, "name:password[,name:password] for the page"),
        _text("--gradio-auth-path", None, "file of name:password, by line or comma (keeps them off the command line)"),
        _many("--gradio-allowed-path", "a folder whose files the page may show"),
        _on("--api", "serve /sdapi/v1 beside the page"),
        _on("--nowebui", "serve the API alone, on port 7861"),
        _text("--api-auth", None, "name:password[,name:password] for the API"),
        _on("--api-log", "print a line per API call"),
        _on("--api-server-stop", "let the API stop and restart the server"),
        _number("--timeout-keep-alive", 30, "seconds an idle connection stays open"),
        _on("--no-gradio-queue", "jobs wait in Easel's own queue, however the page talks to the server"),
        _on("--enable-insecure-extension-access", "let extensions be switched from other machines"),
        _on("--allow-code", "allow the custom code script"),
        _on("--autolaunch", "open the page in the browser"),
        _on("--disable-safe-unpickle"),
        _on("--administrator"),
        _on("--hide-ui-dir-config", "hide folders and file name patterns in the settings"),
        _on("--freeze-settings", "no setting can be changed"),
        _text("--freeze-settings-in-sections", None, "no setting of these sections can be changed (commas between)"),
        _text("--freeze-specific-settings", None, "these settings cannot be changed (commas between)"),
    ),
    "memory and precision": (
        _on("--medvram", "keep one of text encoder, denoiser and VAE on the card at a time"),
        _on("--medvram-sdxl", "the same for SDXL only"),
        _on("--lowvram", "also keep the denoiser in parts"),
        _on("--lowram", "keep no weights in RAM beside a card"),
        _on("--no-half", "the model in float32"),
        _on("--no-half-vae", "the VAE in float32"),
        Flag(
            "--precision",
            "full: float32, half: float16, autocast: what the machine does best",
            {"choices": ["full", "half", "autocast"], "default": "autocast"},
        ),
        _on("--upcast-sampling", "float16 weights, sampling in float32"),
        _on("--opt-channelslast", "channels-last memory format"),
        _on("--disable-model-loading-ram-optimization", "Easel never holds weights twice while it loads"),
        _on("--disable-nan-check", "do not stop at NaN"),
        _on("--always-batch-cond-uncond", "ignored, as in A1111"),
    ),
    "attention": (
        _on("--xformers", "attention of xformers"),
        _on("--force-enable-xformers", "the same"),
        _on("--xformers-flash-attention", "the same"),
        _on("--opt-sdp-attention", "torch's fused attention"),
        _on("--opt-sdp-no-mem-attention", "torch's fused attention, the repeatable kind"),
        _on("--opt-split-attention", "attention in slices of rows (Doggettx)"),
        _on("--opt-split-attention-v1", "attention head by head"),
        _on("--opt-split-attention-invokeai", "attention in slices of heads or rows"),
        _on("--opt-sub-quad-attention", "attention in chunks of rows and keys"),
        _number("--sub-quad-q-chunk-size", 1024, "rows per chunk"),
        _number("--sub-quad-kv-chunk-size", None, "keys per chunk; without it the square root of their number"),
        _number("--sub-quad-chunk-threshold", None, "percent of the memory up to which nothing is chunked"),
        _on("--disable-opt-split-attention", "attention as one product"),
    ),
    "device": (
        _text("--device-id", None, "number of the CUDA card to use"),
        Flag(
            "--use-cpu",
            "parts that run on the CPU: all, sd, vae, gfpgan, codeformer, esrgan, ...",
            {"nargs": "+", "type": str.lower, "default": []},
        ),
        _on("--use-ipex", "install torch's build for Intel cards"),
    ),
    "start": (
        _on("--skip-install", "install nothing"),
        _on("--skip-prepare-environment", "make no venv, check and install nothing"),
        _on("--reinstall-torch", "install torch anew, for instance after a change of cards"),
        _on("--exit", "stop when everything is installed"),
        _on("--skip-python-version-check"),
        _on("--skip-torch-cuda-test", "Easel starts without a card anyway"),
        _on("--skip-version-check"),
        _on("--reinstall-xformers"),
        _on("--update-check"),
        _on("--update-all-extensions"),
        _on("--test-server", "a server for tests: the API too, the shipped model, no stop at NaN"),
        _on("--log-startup", "print what each part of the start took"),
        _on("--dump-sysinfo", "write what a report of a problem needs into a file, and stop"),
        _text("--loglevel", None, "CRITICAL, ERROR, WARNING, INFO or DEBUG"),
        _on("--skip-load-model-at-start"),
        _on("--ui-debug-mode", "Easel's page never waits for a model"),
        _on("--no-hashing", "compute no hashes of checkpoints and VAEs; infotexts then lack them"),
        _text("--theme", None, "light or dark"),
        _on("--use-textbox-seed", "always so: a seed is written as text, with all its digits"),
        _on("--gradio-debug", "Easel stays in the foreground anyway"),
        _on("--disable-console-progressbars", "Easel prints none"),
        _on("--no-progressbar-hiding", "Easel's stays as long as it has something to say"),
        _on("--disable-all-extensions", "read and run nothing of the folder extensions"),
        _on("--disable-extra-extensions", "the same"),
        _on("--no-prompt-history", "Easel writes no params.txt"),
        _on("--unix-filenames-sanitization", "file names keep what only Windows forbids"),
        _number("--filenames-max-length", 128, "longest text in a file name"),
        _on("-f", "allow root (Easel does not mind)"),
    ),
    "without effect in A1111 too": (
        _number("--max-batch-count", 16),
        _on("--unload-gfpgan"),
        _on("--deepdanbooru"),
        _on("--show-negative-prompt"),
        _text("--gradio-img2img-tool", None),
        _text("--gradio-inpaint-tool", None),
        Flag("--gradio-queue", "", {"action": "store_true", "default": True}),
        _on("--enable-console-prompts"),
        _on("--add-stop-route"),
    ),
}

FORGE: tuple[Flag, ...] = (
    _number("--gpu-device-id", None, "number of the CUDA card to use"),
    *(_on(f"--all-in-{kind}", f"denoiser, VAE and text encoder in {kind}") for kind in ("fp32", "fp16")),
    *(_on(f"--unet-in-{kind}", f"the denoiser in {kind}") for kind in ("bf16", "fp16")),
    *(_on(f"--unet-in-{kind}", "the denoiser's weights in 8 bits") for kind in ("fp8-e4m3fn", "fp8-e5m2")),
    *(_on(f"--vae-in-{kind}", f"the VAE in {kind}") for kind in ("fp16", "fp32", "bf16")),
    _on("--vae-in-cpu", "the VAE on the processor"),
    *(_on(f"--clip-in-{kind}", "the text encoder's weights in 8 bits") for kind in ("fp8-e4m3fn", "fp8-e5m2")),
    *(_on(f"--clip-in-{kind}", f"the text encoder in {kind}") for kind in ("fp16", "fp32")),
    _on("--attention-split", "as --opt-split-attention"),
    _on("--attention-quad", "as --opt-sub-quad-attention"),
    _on("--attention-pytorch", "as --opt-sdp-attention"),
    _on("--force-upcast-attention", "attention in float32"),
    _on("--disable-attention-upcast", "attention never in float32 of its own"),
    _on("--disable-xformers", "do not use xformers, even where it is fastest"),
    Flag("--directml", "", {"nargs": "?", "type": int, "const": -1, "default": None}),
    _on("--disable-ipex-hijack", "Easel changes nothing of torch"),
    *(_on(f"--always-{kind}", "all weights on the card") for kind in ("gpu", "high-vram")),
    _on("--always-normal-vram", "as many weights on the card as fit"),
    *(_on(f"--always-{kind}", "as --lowvram") for kind in ("low-vram", "no-vram")),
    _on("--always-cpu", "as --use-cpu all"),
    _on("--always-offload-from-vram", "clear the card after each job"),
    _on("--pytorch-deterministic", "only repeatable operations"),
    _on("--cuda-malloc", "CUDA's own asynchronous allocator"),
    _on("--cuda-stream", "always so: weights are copied while the card computes"),
    _on("--pin-shared-memory", "always so: weights that wait in RAM are pinned, where that fits"),
    _on("--disable-gpu-warning", "Easel has none"),
    _on("--skip-google-blockly", "Easel has none"),
    _text("--text-encoder-dir", None, "folder of text encoders for files of a denoiser alone"),
    _text("--forge-ref-a1111-home", None, "an A1111 folder whose models are used too"),
    _text("--controlnet-dir", None, "one more folder of ControlNets"),
    _text("--controlnet-preprocessor-models-dir", None),
)

OWN: tuple[Flag, ...] = (
    _many("--host-name", "a further name this server is called by, for instance behind a reverse proxy"),
    _many("--webhook", "an address that jobs may ask to be called at their end"),
)

FLAGS: tuple[Flag, ...] = (*(flag for group in A1111.values() for flag in group), *FORGE, *OWN)

# Accepted, and a line at the start says that they change nothing yet. A flag that begins to act leaves this list.
NOT_YET: frozenset[str] = frozenset((
    # Extensions bring wildcards and translations so far, no code; no preprocessor of ControlNet needs a model.
    "enable_insecure_extension_access", "update_all_extensions", "controlnet_preprocessor_models_dir",
))  # fmt: skip

# Flags that will never do what A1111 does with them, each with its reason.
NEVER: dict[str, str] = {
    "directml": "--directml changes nothing: DirectML has no build for the torch used here. Easel draws on NVIDIA "
    "cards, on AMD cards under Linux, on Intel cards with --use-ipex, and else on the processor.",
    "disable_model_loading_ram_optimization": "--disable-model-loading-ram-optimization changes nothing: weights are "
    "read straight into their place, there is no other way.",
    "gradio_allowed_path": "--gradio-allowed-path changes nothing: files are shown by their picture's id alone.",
    "disable_safe_unpickle": "--disable-safe-unpickle changes nothing: code inside model files is never run.",
    "allow_code": "--allow-code changes nothing: no script runs code written on the page, because whoever reaches the "
    "page could do anything then.",
    "ngrok": "--ngrok opens no tunnel: Easel brings no client of ngrok. Use --share, or run ngrok beside Easel and "
    "start with --host-name and the tunnel's name.",
    "ngrok_options": "--ngrok-options changes nothing: Easel brings no client of ngrok.",
    "reinstall_xformers": "--reinstall-xformers installs nothing: xformers is not among Easel's packages; one that you "
    "install for this torch is used with --xformers.",
    "textual_inversion_templates_dir": "--textual-inversion-templates-dir changes nothing: embeddings are used here, "
    "not trained.",
    "update_check": "--update-check changes nothing: Easel asks no other machine for anything, so it knows of no newer "
    "version; `git pull` fetches one.",
}

# Values that must not be shown to anybody.
SECRET: frozenset[str] = frozenset({"gradio_auth", "api_auth", "ngrok", "ngrok_options", "webhook"})


@dataclass(frozen=True)
class Parsed:
    """`values`: every dest with its value, paths absolute. `chosen`: the rows that differ from their default."""

    values: Mapping[str, Any]
    chosen: tuple[Flag, ...]


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, without 150 lines of usage above it."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            import difflib  # only on the way out

            near = difflib.get_close_matches(unknown.split()[0], [flag.name for flag in FLAGS], n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            message = f"No flag is called {unknown}.{guess} --help lists them; IGNORE_CMD_ARGS_ERRORS=1 passes over it"
        raise BootstrapProblem(f"{message[:1].upper()}{message[1:]}.", exit_code=2)


def parser() -> argparse.ArgumentParser:
    """A parser of every row."""
    made = _Parser(
        prog="webui.py",
        description="Easel, a Stable Diffusion web UI. Flags may also stand in the variable COMMANDLINE_ARGS.",
    )
    groups = {**A1111, "of Forge": FORGE, "of Easel": OWN}
    for title, rows in groups.items():
        group = made.add_argument_group(title)
        for row in rows:
            group.add_argument(row.name, help=_help(row), **row.told)
    return made


def _help(row: Flag) -> str:
    if row.dest in NOT_YET:
        return f"{row.help} (changes nothing yet)".strip()
    return row.help or "accepted, changes nothing"


def split_arguments(line: str, *, windows: bool = os.name == "nt") -> list[str]:
    """COMMANDLINE_ARGS as a shell would split it; on Windows a backslash is part of a path, not an escape."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=False)
    reader.whitespace_split = True
    reader.commenters = ""
    if windows:
        reader.escape = ""
    try:
        return list(reader)
    except ValueError as error:
        raise BootstrapProblem(
            f"COMMANDLINE_ARGS cannot be read ({error}): every quotation mark needs its partner.", exit_code=2
        ) from None


def parse_flags(arguments: Sequence[str], environ: Mapping[str, str], root: Path) -> Parsed:
    """The command line as values. `arguments`: without the program's name; `root`: the program's folder.

    COMMANDLINE_ARGS is appended, so it wins where both name a flag. Raises BootstrapProblem with exit code 2.
    """
    line = [*arguments, *split_arguments(environ.get("COMMANDLINE_ARGS", ""))]
    made = parser()
    if environ.get("IGNORE_CMD_ARGS_ERRORS"):
        found, unknown = made.parse_known_args(line)
        if unknown:
            print(f"Passing over unknown flags: {' '.join(unknown)}", file=sys.stderr)
    else:
        found = made.parse_args(line)
    values = vars(found)
    chosen = tuple(row for row in FLAGS if values[row.dest] != made.get_default(row.dest))

    # Absolute before anything is derived from it, so that a later change of the working folder moves nothing.
    data = root if isinstance(values["data_dir"], Template) else absolute(values["data_dir"])
    models = absolute(values["models_dir"]) if values["models_dir"] else data / "models"
    values["data_dir"] = str(data)
    for dest, value in values.items():
        if isinstance(value, Template):
            values[dest] = os.path.normpath(value.format(root=root, data=data, models=models))
    values["gradio_allowed_path"] = [str(data), *(values["gradio_allowed_path"] or [])]
    for name in ("styles_file", "host_name", "webhook"):
        values[name] = values[name] or []
    return Parsed(values, chosen)


def absolute(path: str) -> Path:
    """A path as the user means it: from the working folder, `~` is home."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def notices(rows: Sequence[Flag]) -> list[str]:
    """Sentences for the terminal about flags that do less than their name says."""
    idle = [row.name for row in rows if row.dest in NOT_YET]
    said = [NEVER[row.dest] for row in rows if row.dest in NEVER]
    if len(idle) == 1:
        said.append(f"{idle[0]} is accepted but changes nothing yet.")
    elif idle:
        said.append(f"{', '.join(idle[:-1])} and {idle[-1]} are accepted but change nothing yet.")
    return said
