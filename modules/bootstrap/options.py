"""What the flags and variables come to: one frozen value, handed to whoever needs it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.bootstrap.flags import SECRET, absolute, notices, parse_flags
from modules.bootstrap.problem import BootstrapProblem

LOG_LEVELS = "CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"


@dataclass(frozen=True)
class Paths:
    """Absolute folders and files. The first of `checkpoint_dirs` and `vae_dirs` is in the models folder, the last
    of `checkpoint_dirs` the program's own.

    `root` is the program, `data` everything a user owns, `models` the models in it, `outputs` the pictures, `state` our
    own database, `extensions` None where they are disabled, `extra` further model folders by A1111's flag name. Nothing
    is created here.
    """

    root: Path
    data: Path
    models: Path
    checkpoint_dirs: tuple[Path, ...]
    vae_dirs: tuple[Path, ...]
    embeddings: Path
    lora: Path
    styles_files: tuple[Path, ...]
    settings_file: Path
    ui_config_file: Path
    state: Path
    wildcards: Path
    extensions: Path | None
    outputs: Path
    extra: Mapping[str, Path] = field(default_factory=dict)

    def for_schema(self) -> dict[str, Any]:
        """Arguments of `modules.schema.folders.Folders`, which this room may not import."""
        names = (
            "data models checkpoint_dirs vae_dirs embeddings lora styles_files settings_file ui_config_file state "
            "wildcards extensions"
        )
        return {name: getattr(self, name) for name in names.split()} | {"extra": dict(self.extra)}


@dataclass(frozen=True)
class Options:
    """Everything decided on the command line.

    `flags`: every A1111 dest with its value. `host`/`port`: where to answer; port None means 7860 (7861 with --nowebui)
    or the next free one, a given port means that one or an error. `users`, `api_users`: names with passwords, empty
    means open. `origins`, `origins_pattern`: other sites that may call. `certificate`: its file and that of its key.
    `device`: number of the card to use, "cpu", or None for the best. `precision`: float32, float16, bfloat16 or None
    for what fits. `notices`: sentences to show once.
    """

    paths: Paths
    flags: Mapping[str, Any]
    host: str
    port: int | None
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    origins_pattern: str | None = None
    certificate: tuple[str, str] | None = None
    device: str | None = None
    precision: str | None = None
    checkpoint: Path | None = None
    notices: tuple[str, ...] = ()

    @property
    def first_port(self) -> int:
        """The port to try first."""
        return self.port or (7861 if self.flags["nowebui"] else 7860)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the command line decides, by their names."""
        vae = self.paths.extra.get("vae_path")
        decided: dict[str, Any] = {"precision": self.precision, "sd_vae": vae and vae.name}
        if vae:
            decided["sd_vae_overrides_per_model_preferences"] = True
        decided |= _performance(self.flags)
        return {name: value for name, value in decided.items() if value is not None}

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page (A1111: not cmd_opts.webui_is_non_local)."""
        return not any(self.flags[name] for name in ("share", "listen", "ngrok", "server_name"))

    @property
    def extension_access(self) -> bool:
        """Whether the page may install extensions (A1111: not cmd_opts.disable_extension_access)."""
        return self.is_local or self.flags["enable_insecure_extension_access"]

    def shown_flags(self) -> dict[str, Any]:
        """All flags, passwords and tokens masked: what `GET /sdapi/v1/cmd-flags` may tell."""
        return {name: "***" if value and name in SECRET else value for name, value in self.flags.items()}

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Variables that must be set before the first import of torch."""
        # On Apple's cards, operations Metal lacks run on the CPU instead of raising.
        wanted = {"PYTORCH_ENABLE_MPS_FALLBACK": environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "1")}
        if self.flags["cuda_malloc"]:
            known = environ.get("PYTORCH_ALLOC_CONF") or environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
            others = [part for part in known.split(",") if part and not part.startswith("backend:")]
            wanted["PYTORCH_ALLOC_CONF"] = ",".join(["backend:cudaMallocAsync", *others])
        if self.flags["pytorch_deterministic"]:  # cuBLAS is repeatable with a workspace of fixed size only
            wanted["CUBLAS_WORKSPACE_CONFIG"] = environ.get("CUBLAS_WORKSPACE_CONFIG") or ":4096:8"
        if self.flags["loglevel"]:
            wanted["SD_WEBUI_LOG_LEVEL"] = self.flags["loglevel"].upper()
        if self.device == "cpu":
            wanted["CUDA_VISIBLE_DEVICES"] = ""
        elif self.device is not None:
            # The number counts among the cards that are visible already.
            visible = [card for card in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
            among = self.device.isdigit() and int(self.device) < len(visible)
            wanted["CUDA_VISIBLE_DEVICES"] = visible[int(self.device)] if among else self.device
            if self.flags["use_ipex"]:
                wanted["ZE_AFFINITY_MASK"] = self.device
        return wanted


def read_options(arguments: list[str], environ: Mapping[str, str], root: Path) -> Options:
    """The command line and COMMANDLINE_ARGS as Options. Raises BootstrapProblem (exit code 2)."""
    parsed = parse_flags(arguments, environ, root)
    flags = dict(parsed.values)
    checkpoint = absolute(flags["ckpt"]) if any(row.dest == "ckpt" for row in parsed.chosen) else None
    if flags["test_server"]:
        flags["api"] = flags["disable_nan_check"] = True
        checkpoint = checkpoint or root / "models" / "Stable-diffusion" / "postcards.safetensors"
    if flags["loglevel"] and flags["loglevel"].upper() not in LOG_LEVELS:
        raise BootstrapProblem(f"--loglevel {flags['loglevel']}: choose {', '.join(LOG_LEVELS)}.", exit_code=2)
    if flags["port"] is not None and not 0 < flags["port"] < 65536:
        raise BootstrapProblem(f"--port {flags['port']}: a port is a number from 1 to 65535.", exit_code=2)
    _name_length(flags["filenames_max_length"])
    return Options(
        paths=_paths(flags, root),
        flags=MappingProxyType(flags),
        host=flags["server_name"] or ("0.0.0.0" if flags["listen"] else "127.0.0.1"),
        port=flags["port"],
        users=_users("--gradio-auth", flags["gradio_auth"]) + _users_of_file(flags["gradio_auth_path"]),
        api_users=_users("--api-auth", flags["api_auth"]),
        origins=tuple(
            filter(None, (part.strip().rstrip("/") for part in (flags["cors_allow_origins"] or "").split(",")))
        ),
        origins_pattern=_pattern(flags["cors_allow_origins_regex"]),
        certificate=_certificate(flags),
        device=_device(flags),
        precision=_precision(flags),
        checkpoint=checkpoint,
        notices=tuple(notices(parsed.chosen)),
    )


def _paths(flags: Mapping[str, Any], root: Path) -> Paths:
    data = Path(flags["data_dir"])
    models = absolute(flags["models_dir"]) if flags["models_dir"] else data / "models"
    checkpoints, vaes = [models / "Stable-diffusion"], [models / "VAE"]
    embeddings, lora = absolute(flags["embeddings_dir"]), absolute(flags["lora_dir"])
    if flags["ckpt_dir"]:
        checkpoints.append(absolute(flags["ckpt_dir"]))
    if flags["vae_dir"]:
        vaes.append(absolute(flags["vae_dir"]))
    if flags["forge_ref_a1111_home"]:
        other = absolute(flags["forge_ref_a1111_home"])
        checkpoints.append(other / "models" / "Stable-diffusion")
        vaes.append(other / "models" / "VAE")
        # There is one folder of each; the other program's is taken unless the user names one.
        embeddings = other / "embeddings" if embeddings == data / "embeddings" else embeddings
        lora = other / "models" / "Lora" if lora == models / "Lora" else lora
    # Wherever the user's data lie, the model that ships with the program can be drawn with.
    shipped = root / "models" / "Stable-diffusion"
    if shipped not in checkpoints:
        checkpoints.append(shipped)
    disabled = flags["disable_all_extensions"] or flags["disable_extra_extensions"]
    extra = {name: absolute(path) for name, path in flags.items() if name.endswith("_models_path") and path}
    extra["hypernetworks"] = absolute(flags["hypernetwork_dir"])
    further = ("lyco_dir_backcompat", "controlnet_dir", "text_encoder_dir", "vae_path", "gfpgan_dir", "gfpgan_model")
    extra |= {name: absolute(flags[name]) for name in further if flags[name] and flags[name] != "./GFPGAN"}
    return Paths(
        root=root,
        data=data,
        models=models,
        checkpoint_dirs=tuple(checkpoints),
        vae_dirs=tuple(vaes),
        embeddings=embeddings,
        lora=lora,
        styles_files=_styles(flags["styles_file"]) or (data / "styles.csv",),
        settings_file=absolute(flags["ui_settings_file"]),
        ui_config_file=absolute(flags["ui_config_file"]),
        state=data / ".easel",
        wildcards=data / "wildcards",
        extensions=None if disabled else data / "extensions",
        outputs=data / "outputs",
        extra=extra,
    )


def _styles(patterns: list[str]) -> tuple[Path, ...]:
    """Each pattern's files in order of name; a plain name is taken even if no file is there yet."""
    found: list[Path] = []
    for pattern in patterns:
        path = str(absolute(pattern))
        matches = sorted(glob.glob(path)) if glob.has_magic(path) and not os.path.exists(path) else [path]
        found += [Path(match) for match in matches if Path(match) not in found]
    return tuple(found)


def _users(flag: str, text: str | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for place, entry in enumerate(filter(None, (part.strip() for part in (text or "").split(","))), start=1):
        name, colon, password = entry.partition(":")
        if not (name and colon and password):
            # The entry itself may be a password, so it is not repeated.
            raise BootstrapProblem(f"{flag}: entry {place} must be name:password, with commas between.", exit_code=2)
        pairs.append((name, password))
    return tuple(pairs)


def _users_of_file(path: str | None) -> tuple[tuple[str, str], ...]:
    if not path:
        return ()
    try:
        text = absolute(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BootstrapProblem(f"--gradio-auth-path {path} cannot be read: {reason}.", exit_code=2) from None
    return _users(f"--gradio-auth-path {path}", ",".join(text.splitlines()))


def _pattern(text: str | None) -> str | None:
    try:
        return re.compile(text).pattern if text else None
    except re.error as error:
        raise BootstrapProblem(f"--cors-allow-origins-regex is no regular expression ({error}).", exit_code=2) from None


def _certificate(flags: Mapping[str, Any]) -> tuple[str, str] | None:
    files = flags["tls_certfile"], flags["tls_keyfile"]
    if not any(files):
        return None
    if not all(files):
        raise BootstrapProblem("--tls-certfile and --tls-keyfile go together; give both.", exit_code=2)
    if flags["share"]:
        raise BootstrapProblem("--share brings its own https; leave --tls-certfile and --tls-keyfile out.", exit_code=2)
    return str(absolute(files[0])), str(absolute(files[1]))


def _device(flags: Mapping[str, Any]) -> str | None:
    if "all" in flags["use_cpu"] or flags["always_cpu"]:
        return "cpu"
    if flags["gpu_device_id"] is not None:
        return str(flags["gpu_device_id"])
    return flags["device_id"]


def _precision(flags: Mapping[str, Any]) -> str | None:
    if flags["no_half"] or flags["precision"] == "full" or flags["all_in_fp32"]:
        return "float32"
    if flags["unet_in_bf16"]:
        return "bfloat16"
    if flags["precision"] == "half" or flags["all_in_fp16"] or flags["unet_in_fp16"]:
        return "float16"
    return None


def _name_length(wanted: int) -> int | None:
    if not 1 <= wanted <= 255:
        raise BootstrapProblem(f"--filenames-max-length {wanted}: a length is from 1 to 255.", exit_code=2)
    return wanted if wanted != 128 else None


ATTENTION_FLAGS = {
    "opt_sdp_no_mem_attention": "sdp-no-mem",
    "opt_sdp_attention": "sdp",
    "attention_pytorch": "sdp",
    "xformers": "xformers",
    "force_enable_xformers": "xformers",
    "xformers_flash_attention": "xformers",
    "opt_sub_quad_attention": "sub-quadratic",
    "attention_quad": "sub-quadratic",
    "opt_split_attention_v1": "V1",
    "opt_split_attention_invokeai": "InvokeAI",
    "opt_split_attention": "Doggettx",
    "attention_split": "Doggettx",
    "disable_opt_split_attention": "None",
}
"""What Automatic then takes; the last of several that are given counts."""
MEMORY_FLAGS = {
    "always_gpu": "normal", "always_high_vram": "normal", "always_normal_vram": "auto", "medvram": "medvram",
    "lowvram": "lowvram", "always_low_vram": "lowvram", "always_no_vram": "lowvram",
}  # fmt: skip
WHOLE_FLAGS = {"all_in_fp16": "float16", "all_in_fp32": "float32", "no_half": "float32"}
"""The number type of every part for which no other flag names one."""
VAE_FLAGS = {
    **WHOLE_FLAGS, "vae_in_fp16": "float16", "vae_in_bf16": "bfloat16", "vae_in_fp32": "float32",
    "no_half_vae": "float32",
}  # fmt: skip
TEXT_FLAGS = {
    **WHOLE_FLAGS, "clip_in_fp8_e4m3fn": "float8_e4m3fn", "clip_in_fp8_e5m2": "float8_e5m2", "clip_in_fp16": "float16",
    "clip_in_fp32": "float32",
}  # fmt: skip
FP8_FLAGS = {"unet_in_fp8_e4m3fn": "float8_e4m3fn", "unet_in_fp8_e5m2": "float8_e5m2"}
UPCAST_FLAGS = {"force_upcast_attention": True, "disable_attention_upcast": False}


def _performance(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of speed, memory and names, None where no flag decides."""

    def last(table: Mapping[str, Any]) -> Any:
        return next((value for name, value in reversed(list(table.items())) if flags[name]), None)

    parts = [part for name in flags["use_cpu"] for part in name.split(",") if part]
    parts += ["all"] * flags["always_cpu"] + ["vae"] * flags["vae_in_cpu"]
    fp8 = last(FP8_FLAGS)
    return {
        "automatic_attention": last(ATTENTION_FLAGS),
        "sub_quad_q_chunk_size": flags["sub_quad_q_chunk_size"] if flags["sub_quad_q_chunk_size"] != 1024 else None,
        "sub_quad_kv_chunk_size": flags["sub_quad_kv_chunk_size"] or None,
        "sub_quad_chunk_threshold": flags["sub_quad_chunk_threshold"] or None,
        "memory_use": last(MEMORY_FLAGS),
        "memory_use_sdxl": "medvram" if flags["medvram_sdxl"] else None,
        "vae_precision": last(VAE_FLAGS),
        "text_precision": last(TEXT_FLAGS),
        "upcast_attn": last(UPCAST_FLAGS),
        "upcast_sampling": flags["upcast_sampling"] or None,
        "use_cpu": ",".join(dict.fromkeys(parts)) or None,
        "fp8_storage": fp8 and "Enable",
        "fp8_format": fp8,
        "opt_channelslast": flags["opt_channelslast"] or None,
        "hash_models": False if flags["no_hashing"] else None,
        "filenames_max_length": _name_length(flags["filenames_max_length"]),
        "unix_filenames_sanitization": flags["unix_filenames_sanitization"] or None,
        "disable_nan_check": flags["disable_nan_check"] or None,
        "disable_xformers": flags["disable_xformers"] or None,
        "lowram": flags["lowram"] or None,
        "offload_after_job": flags["always_offload_from_vram"] or None,
        "deterministic": flags["pytorch_deterministic"] or None,
    }
