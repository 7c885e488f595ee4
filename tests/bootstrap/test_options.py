"""From the command line to one frozen value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.bootstrap.flags import FLAGS, NEVER
from modules.bootstrap.options import Options, read_options
from modules.bootstrap.problem import BootstrapProblem
from modules.schema.folders import Folders
from modules.schema.settings import Settings

ROOT = Path("/program")


def options(line: str = "", **environ: str) -> Options:
    return read_options(line.split(), environ, ROOT)


def test_folders_without_flags_are_a1111s():
    assert Folders(**{**options().paths.for_schema(), "extra": {}}) == Folders.under(ROOT)
    assert options().paths.outputs == ROOT / "outputs"


def test_folder_flags_arrive_in_the_folders():
    found = Folders(
        **options("--data-dir /d --models-dir /m --ckpt-dir /c --vae-dir /v --lora-dir /l").paths.for_schema()
    )
    assert found.checkpoint_dirs == (Path("/m/Stable-diffusion"), Path("/c"), ROOT / "models/Stable-diffusion")
    assert found.vae_dirs == (Path("/m/VAE"), Path("/v"))
    assert (found.lora, found.embeddings, found.state) == (Path("/l"), Path("/d/embeddings"), Path("/d/.easel"))
    assert found.extra["esrgan_models_path"] == Path("/m/ESRGAN")


def test_relative_folders_count_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options("--data-dir mine --ckpt-dir more").paths.checkpoint_dirs == (
        tmp_path / "mine/models/Stable-diffusion",
        tmp_path / "more",
        ROOT / "models/Stable-diffusion",
    )


def test_an_a1111_folder_lends_its_models():
    paths = options("--forge-ref-a1111-home /a1111").paths
    assert paths.checkpoint_dirs == (ROOT / "models/Stable-diffusion", Path("/a1111/models/Stable-diffusion"))
    assert (paths.lora, paths.embeddings) == (Path("/a1111/models/Lora"), Path("/a1111/embeddings"))
    assert options("--forge-ref-a1111-home /a1111 --lora-dir /l").paths.lora == Path("/l")


def test_style_files_may_have_wildcards(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("name,prompt,negative_prompt\n")
    found = options(f"--styles-file {tmp_path}/*.csv --styles-file {tmp_path}/new.csv").paths.styles_files
    assert [path.name for path in found] == ["a.csv", "b.csv", "new.csv"]


@pytest.mark.parametrize(
    ("line", "host", "port", "first", "local"),
    [
        ("", "127.0.0.1", None, 7860, True),
        ("--listen", "0.0.0.0", None, 7860, False),
        ("--listen --server-name me.example", "me.example", None, 7860, False),
        ("--port 9000", "127.0.0.1", 9000, 9000, True),
        ("--nowebui", "127.0.0.1", None, 7861, True),
        ("--share", "127.0.0.1", None, 7860, False),
    ],
)
def test_where_to_answer(line, host, port, first, local):
    found = options(line)
    assert (found.host, found.port, found.first_port, found.is_local) == (host, port, first, local)
    assert found.extension_access is local


def test_passwords_are_read_from_flag_and_file_and_never_shown(tmp_path):
    (tmp_path / "users").write_text("ann:secret1\nbob:secret2,\n")
    found = options(f"--gradio-auth me:secret0 --gradio-auth-path {tmp_path}/users --api-auth x:secret:3")
    assert found.users == (("me", "secret0"), ("ann", "secret1"), ("bob", "secret2"))
    assert found.api_users == (("x", "secret:3"),)
    assert "secret" not in str(found.shown_flags())
    assert found.shown_flags()["port"] is None


@pytest.mark.parametrize("line", ["--gradio-auth secret", "--api-auth a:b,:secret", "--gradio-auth secret:"])
def test_a_wrong_password_entry_is_refused_without_repeating_it(line):
    with pytest.raises(BootstrapProblem, match="name:password") as caught:
        options(line)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["--port 0", "--port 70000", "--gradio-auth-path /no/such/file"])
def test_values_that_cannot_be_are_refused(line):
    with pytest.raises(BootstrapProblem) as caught:
        options(line)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "device", "precision"),
    [
        ("", None, None),
        ("--no-half", None, "float32"),
        ("--precision full --device-id 1", "1", "float32"),
        ("--all-in-fp16 --gpu-device-id 2", "2", "float16"),
        ("--unet-in-bf16", None, "bfloat16"),
        ("--use-cpu all", "cpu", None),
        ("--use-cpu interrogate", None, None),
        ("--always-cpu", "cpu", None),
    ],
)
def test_device_and_precision(line, device, precision):
    assert (options(line).device, options(line).precision) == (device, precision)


@pytest.mark.parametrize(
    ("line", "before", "after"),
    [
        ("", None, None),
        ("--device-id 1", None, "1"),
        ("--device-id 1", "4,7", "7"),
        ("--device-id 5", "4,7", "5"),
        ("--use-cpu all", "4,7", ""),
    ],
)
def test_the_card_is_chosen_by_cudas_own_variable(line, before, after):
    environ = {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    assert options(line).environment(environ).get("CUDA_VISIBLE_DEVICES") == after


def test_how_much_is_told_on_the_terminal_is_a1111s_variable():
    assert options("--loglevel debug").environment({})["SD_WEBUI_LOG_LEVEL"] == "DEBUG"
    assert "SD_WEBUI_LOG_LEVEL" not in options("").environment({})
    with pytest.raises(BootstrapProblem, match="WARNING"):
        options("--loglevel loud")


def test_names_and_hashes_are_settings():
    assert options("--filenames-max-length 40 --no-hashing").settings == {
        "filenames_max_length": 40, "hash_models": False,
    }  # fmt: skip
    assert options("--filenames-max-length 128").settings == {}
    with pytest.raises(BootstrapProblem, match="255"):
        options("--filenames-max-length 1000")


def test_flags_without_effect_are_named_once():
    one = options("--controlnet-preprocessor-models-dir /c").notices
    assert one == ("--controlnet-preprocessor-models-dir is accepted but changes nothing yet.",)
    both = options("--controlnet-preprocessor-models-dir /c --update-all-extensions --api-log --listen").notices
    assert both == (
        "--update-all-extensions and --controlnet-preprocessor-models-dir are accepted but change nothing yet.",
    )
    assert options("--controlnet-dir /c").notices == ()
    assert "never run" in options("--disable-safe-unpickle").notices[0]
    # Defaults that move along with the data folder are nobody's wish, and what A1111 ignores too is no news.
    assert options("--data-dir /d --port 1 --unload-gfpgan --skip-torch-cuda-test").notices == ()


@pytest.mark.parametrize("dest", sorted(NEVER))
def test_what_never_acts_is_one_sentence_that_names_its_flag(dest):
    (row,) = [row for row in FLAGS if row.dest == dest]
    value = {"ngrok_options": ['{"a":1}'], "directml": []}.get(dest, ["1"])
    found = read_options([row.name, *([] if row.told.get("action") == "store_true" else value)], {}, ROOT)
    (said,) = found.notices
    assert said.startswith(row.name)
    assert found.settings == {}


def test_a_test_server_has_the_api_and_the_shipped_model():
    found = options("--test-server")
    assert (found.flags["api"], found.flags["disable_nan_check"]) == (True, True)
    assert found.settings == {"disable_nan_check": True}
    assert found.checkpoint == ROOT / "models/Stable-diffusion/postcards.safetensors"
    assert (Path(__file__).parents[2] / "models/Stable-diffusion/postcards.safetensors").is_file()
    assert options("--test-server --ckpt /x/a.safetensors").checkpoint == Path("/x/a.safetensors")


@pytest.mark.parametrize("flag", ["--disable-all-extensions", "--disable-extra-extensions"])
def test_extensions_can_be_disabled(flag):
    assert options().paths.for_schema()["extensions"] == ROOT / "extensions"
    assert options(flag).paths.for_schema()["extensions"] is None
    assert options(flag).notices == ()


def test_names_may_have_what_only_windows_forbids():
    assert options("--unix-filenames-sanitization").settings == {"unix_filenames_sanitization": True}


def test_a_checkpoint_is_chosen_only_by_asking():
    assert options().checkpoint is None
    assert options("--ckpt /x/a.safetensors").checkpoint == Path("/x/a.safetensors")


def test_options_are_frozen():
    found = options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.flags["port"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("", {}),
        ("--medvram", {"memory_use": "medvram"}),
        ("--medvram --lowvram", {"memory_use": "lowvram"}),
        ("--medvram-sdxl", {"memory_use_sdxl": "medvram"}),
        ("--always-batch-cond-uncond --precision autocast", {}),
        ("--upcast-sampling", {"upcast_sampling": True}),
        ("--use-cpu sd esrgan", {"use_cpu": "sd,esrgan"}),
        ("--use-cpu all", {"use_cpu": "all"}),  # a CUDA card is not even seen, one of Apple's is
        ("--xformers", {"automatic_attention": "xformers"}),
        ("--force-enable-xformers", {"automatic_attention": "xformers"}),
        ("--opt-sdp-attention", {"automatic_attention": "sdp"}),
        ("--opt-sdp-no-mem-attention", {"automatic_attention": "sdp-no-mem"}),
        ("--opt-split-attention", {"automatic_attention": "Doggettx"}),
        ("--opt-split-attention-v1", {"automatic_attention": "V1"}),
        ("--opt-split-attention-invokeai", {"automatic_attention": "InvokeAI"}),
        ("--disable-opt-split-attention", {"automatic_attention": "None"}),
        (
            "--opt-sub-quad-attention --sub-quad-q-chunk-size 512 --sub-quad-kv-chunk-size 128 "
            "--sub-quad-chunk-threshold 70",
            {
                "automatic_attention": "sub-quadratic", "sub_quad_q_chunk_size": 512, "sub_quad_kv_chunk_size": 128,
                "sub_quad_chunk_threshold": 70,
            },
        ),
        ("--no-half-vae --opt-channelslast", {"vae_precision": "float32", "opt_channelslast": True}),
        (
            "--no-half --disable-nan-check",
            {
                "precision": "float32", "vae_precision": "float32", "text_precision": "float32",
                "disable_nan_check": True,
            },
        ),
        (
            "--unet-in-fp8-e4m3fn --vae-in-bf16",
            {"fp8_storage": "Enable", "fp8_format": "float8_e4m3fn", "vae_precision": "bfloat16"},
        ),
    ],
)  # fmt: skip
def test_flags_of_memory_and_speed_are_settings(line, settings):
    found = options(line).settings
    assert found == settings
    assert not options(line).notices
    Settings().with_options(found)
