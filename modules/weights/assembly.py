"""Models that come in pieces, put together under the names of one LDM file: diffusers folders, a U-Net with its
companions, a checkpoint with another VAE.

Nothing is read here but headers: a piece's tensor keeps where it lies (`TensorInfo.file`), so the result is read like
any other file. Torch-free.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from modules.schema.errors import BadFile
from modules.weights import layouts
from modules.weights.layouts import UNET, VAE, Move

if TYPE_CHECKING:  # that module opens folders through this one
    from modules.weights.headers import Header, TensorInfo

MAX_JSON = 16 * 2**20
INDEX = "model_index.json"
# The U-Net's context width tells which text encoders belong to it: their widths, in the order of the LDM file.
TOWERS: dict[int, tuple[int, ...]] = {768: (768,), 1024: (1024,), 2048: (768, 1280), 1280: (1280,)}
Texts = Literal["sd1", "sd2", "sdxl", "refiner"]
KINDS: dict[int, Texts] = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "refiner"}


def is_model_folder(path: Path) -> bool:
    """Whether this is a folder in the diffusers layout."""
    try:
        return path.is_dir() and (path / INDEX).is_file()
    except OSError:
        return False


def files_of(path: Path) -> tuple[Path, ...]:
    """The files a model is made of: the file itself, or the weight files of a diffusers folder, in a fixed order.

    Raises:
        BadFile: a part of the folder is missing.
    """
    if not is_model_folder(path):
        return (path,)
    index = _json(path / INDEX)
    return tuple(
        file for part in ("unet", "vae", "text_encoder", "text_encoder_2") if _has(path, index, part)
        for file in _part_files(path, part)
    )  # fmt: skip


def stamp_of(path: Path) -> tuple[int, int]:
    """(bytes, newest modification time in ns) over all files of a model; OSError where it is gone."""
    statuses = [os.stat(file) for file in files_of(path)]
    if path.is_dir():
        statuses.append(os.stat(path / INDEX))
    return sum(s.st_size for s in statuses), max(s.st_mtime_ns for s in statuses)


def read_folder(path: Path, read: Callable[[Path], Header]) -> Header:
    """The header of a diffusers folder under LDM names. `read` reads one file's header.

    Raises:
        BadFile: a part is missing or damaged, or the model is of a kind that has no such layout.
    """
    index = _json(path / INDEX)
    if not _has(path, index, "unet"):
        what = index.get("_class_name")
        raise BadFile(f"{path.name} is a diffusers folder without a U-Net ({what}); SD and SDXL models are drawn with.")
    parts = {
        name: _merged([read(file) for file in _part_files(path, name)])
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        if _has(path, index, name)
    }
    tensors = moved(parts["unet"], layouts.unet_moves(parts["unet"].tensors), UNET)
    if "vae" in parts:
        tensors |= vae_tensors(parts["vae"])
    towers = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
    if "text_encoder_2" in parts:
        kind: Texts = "sdxl" if len(towers) == 2 else "refiner"
    else:
        kind = "sd2" if _json(path / "text_encoder" / "config.json").get("hidden_act") == "gelu" else "sd1"
    tensors |= text_tensors(kind, towers)
    metadata = {"format": "diffusers"}
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    if scheduler.get("prediction_type") in ("v_prediction", "epsilon"):
        metadata["modelspec.prediction_type"] = "v" if scheduler["prediction_type"] == "v_prediction" else "epsilon"
    if scheduler.get("rescale_betas_zero_snr") is True:
        metadata["easel.zero_terminal_snr"] = "true"
    size = sum(part.size for part in parts.values())
    return replace(parts["unet"], path=path, tensors=MappingProxyType(tensors), metadata=metadata, size=size)


def vae_tensors(header: Header) -> dict[str, TensorInfo]:
    """The autoencoder of a file, in whatever layout, as a checkpoint holds it.

    Raises:
        BadFile: there is none in it.
    """
    keys = header.tensors
    if layouts.is_diffusers_vae(keys):
        return moved(header, layouts.vae_moves(keys), VAE)
    for prefix in (VAE, "vae.", ""):
        if f"{prefix}decoder.conv_in.weight" in keys and f"{prefix}encoder.conv_in.weight" in keys:
            inside = [k for k in keys if k.startswith((f"{prefix}encoder.", f"{prefix}decoder."))]
            inside += [k for k in keys if k.startswith((f"{prefix}quant_conv.", f"{prefix}post_quant_conv."))]
            return moved(header, [Move(k[len(prefix) :], (k,)) for k in inside], VAE)
    raise BadFile(f"{header.path.name} holds no autoencoder (VAE); choose another VAE, or Automatic.")


def with_vae(header: Header, vae: Header) -> Header:
    """A checkpoint's header with the autoencoder of another file in place of its own.

    Raises:
        BadFile: the file holds none, or one for latents with another number of channels.
    """
    theirs = vae_tensors(vae)
    wanted, key = header.shape(UNET + "out.2.weight"), VAE + "decoder.conv_in.weight"
    if wanted and wanted[0] != theirs[key].shape[1]:
        raise BadFile(
            f"{vae.path.name} is a VAE for {theirs[key].shape[1]}-channel latents, {header.path.name} has {wanted[0]}; "
            "choose another VAE, or Automatic."
        )
    own = {k: info for k, info in header.tensors.items() if not k.startswith(VAE)}
    return replace(header, tensors=MappingProxyType(own | theirs))


def is_unet_only(header: Header) -> bool:
    """Whether a file holds a U-Net in a known layout but no text encoder."""
    keys = header.tensors
    bare = "input_blocks.0.0.weight" in keys or layouts.is_diffusers_unet(keys)
    bundled = UNET + "input_blocks.0.0.weight" in keys
    return bare or (bundled and not any(k.startswith(("cond_stage_model.", "conditioner.")) for k in keys))


def complete(header: Header, read: Callable[[Path], Header], vaes: Iterable[Path], encoders: Iterable[Path]) -> Header:
    """A file of a U-Net alone together with the VAE and the text encoders it needs, out of files on this machine.

    Raises:
        BadFile: some are not there; the sentence says which and where to put them.
    """
    keys = header.tensors
    if layouts.is_diffusers_unet(keys):
        tensors = moved(header, layouts.unet_moves(keys), UNET)
    elif "input_blocks.0.0.weight" in keys:
        tensors = moved(header, [Move(key, (key,)) for key in keys], UNET)
    else:
        tensors = dict(keys)
    width = _context(tensors)
    if width not in TOWERS:
        raise BadFile(f"{header.path.name} is a U-Net of a kind that is not known here; choose another checkpoint.")
    missing, towers = [], []
    if VAE + "decoder.conv_in.weight" not in tensors:
        vae = next(filter(None, (_as_vae(path, read) for path in vaes)), None)
        if vae:
            tensors |= vae
        else:
            missing.append("a VAE in models/VAE")
    known = [found for found in (_as_tower(path, read) for path in encoders) if found]
    for wanted in TOWERS[width]:
        tower = next((found for size, found in known if size == wanted), None)
        if tower is None:
            missing.append(f"a CLIP text encoder {wanted} wide in models/text_encoder")
        else:
            towers.append(tower)
    if missing:
        raise BadFile(
            f"{header.path.name} holds a U-Net alone and needs {' and '.join(missing)}; put "
            f"{'it' if len(missing) == 1 else 'them'} there, or choose a checkpoint that holds everything."
        )
    return replace(header, tensors=MappingProxyType(tensors | text_tensors(KINDS[width], towers)))


def text_tensors(kind: Texts, towers: list[Header]) -> dict[str, TensorInfo]:
    """Hugging Face text encoders under the names that an LDM file of this kind has for them."""
    tensors: dict[str, TensorInfo] = {}
    for n, tower in enumerate(map(_nested, towers)):
        root = "cond_stage_model." if kind in ("sd1", "sd2") else f"conditioner.embedders.{n}."
        keys = tower.tensors
        if kind == "sd1" or (kind == "sdxl" and n == 0):
            tensors |= moved(tower, layouts.clip_moves(keys), f"{root}transformer.")
        else:
            layers = 24 if kind == "sd2" and _width(tower) == 1024 else 0
            tensors |= moved(tower, layouts.open_clip_moves(keys, layers), f"{root}model.")
    return tensors


def ema_tensors(header: Header) -> Header:
    """The header with the averaged weights (`model_ema.`) in place of the trained ones, where the file holds both.

    Their names are those of the trained ones below `model.` with every dot removed.
    """
    swapped = {
        key: ema
        for key in header.tensors
        if key.startswith("model.")
        and (ema := header.tensors.get("model_ema." + key.removeprefix("model.").replace(".", "")))
    }
    return replace(header, tensors=MappingProxyType({**header.tensors, **swapped}))


def _as_vae(path: Path, read: Callable[[Path], Header]) -> dict[str, TensorInfo] | None:
    try:
        return vae_tensors(read(path))
    except BadFile:
        return None  # a damaged file of somebody else is no reason to stop looking


def _as_tower(path: Path, read: Callable[[Path], Header]) -> tuple[int, Header] | None:
    try:
        header = read(path)
    except BadFile:
        return None
    width = _width(header)
    return (width, header) if width else None


def _nested(tower: Header) -> Header:
    """transformers 5 leaves `text_model.` out of its keys."""
    if "embeddings.token_embedding.weight" not in tower.tensors:
        return tower
    tensors = {
        key if key.startswith("text_projection") else f"text_model.{key}": replace(info, file=info.file or tower.path)
        for key, info in tower.tensors.items()
    }
    return replace(tower, tensors=tensors)


def _width(tower: Header) -> int:
    shape = _nested(tower).shape("text_model.embeddings.token_embedding.weight")
    return shape[1] if shape and len(shape) == 2 else 0


def _context(tensors: Mapping[str, TensorInfo]) -> int:
    for key, info in tensors.items():
        if key.endswith(".attn2.to_k.weight") and key.startswith(UNET) and len(info.shape) == 2:
            return info.shape[1]
    return 0


def moved(header: Header, moves: Iterable[Move], prefix: str) -> dict[str, TensorInfo]:
    """The tensors of a file under their LDM names behind a prefix; those that are not there are left out."""
    tensors: dict[str, TensorInfo] = {}
    for move in moves:
        parts = [header.tensors.get(key) for key in move.keys]
        found = [replace(part, file=part.file or header.path) for part in parts if part is not None]
        if len(found) != len(parts):
            continue  # the net will miss it by name
        one = found[0]
        if len(found) > 1:
            shape = (sum(p.shape[0] for p in found), *one.shape[1:]) if one.shape else ()
            one = replace(one, shape=shape, parts=tuple(found))
        if move.transposed and len(one.shape) == 2:
            one = replace(one, shape=one.shape[::-1], transposed=True)
        if move.square and len(one.shape) == 2:
            one = replace(one, shape=(*one.shape, 1, 1))
        tensors[prefix + move.name] = one
    return tensors


def _merged(headers: list[Header]) -> Header:
    """The shards of one part as one header."""
    tensors = {key: replace(info, file=h.path) for h in headers for key, info in h.tensors.items()}
    return replace(headers[0], tensors=tensors, size=sum(h.size for h in headers))


def _has(path: Path, index: Mapping[str, Any], part: str) -> bool:
    entry = index.get(part)
    return (path / part).is_dir() and not (isinstance(entry, list) and entry == [None, None])


def _part_files(path: Path, part: str) -> list[Path]:
    """The weight files of one part: one file, or the shards an index names; safetensors before pickles."""
    folder = path / part
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    for ending, variant, stem in itertools.product((".safetensors", ".bin"), ("", ".fp16"), stems):
        one = folder / f"{stem}{variant}{ending}"
        if one.is_file():
            return [one]
        for index in (f"{one.name}.index.json", f"{stem}{ending}.index{variant}.json"):
            if (folder / index).is_file():
                return _shards(folder, _json(folder / index))
    raise BadFile(f"{path.name} lacks the weights of its {part} folder; download the whole model again.")


def _shards(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    names = index.get("weight_map")
    shards = sorted(set(names.values())) if isinstance(names, dict) and all(map(_plain, names.values())) else []
    if not shards:
        raise BadFile(f"{folder.parent.name}: the list of weight files in {folder.name} is damaged; download it again.")
    for shard in shards:
        if not (folder / shard).is_file():
            raise BadFile(f"{folder.parent.name} lacks {folder.name}/{shard}; download the whole model again.")
    return [folder / shard for shard in shards]


def _plain(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and not set(name) & set("/\\:\0") and name not in (".", "..")


def _json(path: Path) -> dict[str, Any]:
    """A small JSON object; {} where there is none or it is damaged."""
    try:
        if path.stat().st_size > MAX_JSON:
            return {}
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
