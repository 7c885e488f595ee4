"""A1111's flags: every name, its dest and its default, as its command line has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.bootstrap.flags import FLAGS, FORGE, NEVER, NOT_YET, OWN, parse_flags, split_arguments
from modules.bootstrap.problem import BootstrapProblem

ROOT = Path("/program")

# Written down apart from the rows: A1111 1.10.1's command line (spec: interface, section 1.2).
OFF = """
no-download-sd-model do-not-download-clip listen share disable-safe-unpickle administrator hide-ui-dir-config
freeze-settings api nowebui api-log api-server-stop no-gradio-queue enable-insecure-extension-access allow-code
autolaunch medvram medvram-sdxl lowvram lowram no-half no-half-vae upcast-sampling opt-channelslast
disable-model-loading-ram-optimization disable-nan-check always-batch-cond-uncond xformers force-enable-xformers
xformers-flash-attention opt-sdp-attention opt-sdp-no-mem-attention opt-split-attention opt-split-attention-v1
opt-split-attention-invokeai opt-sub-quad-attention disable-opt-split-attention use-ipex update-all-extensions
update-check skip-python-version-check skip-torch-cuda-test skip-version-check skip-install skip-prepare-environment
reinstall-xformers reinstall-torch test-server log-startup dump-sysinfo exit skip-load-model-at-start ui-debug-mode
no-hashing use-textbox-seed gradio-debug disable-console-progressbars no-progressbar-hiding disable-all-extensions
disable-extra-extensions no-prompt-history unix-filenames-sanitization unload-gfpgan deepdanbooru show-negative-prompt
enable-console-prompts add-stop-route
"""
NONE = """
models-dir ckpt-dir vae-dir vae-path gfpgan-model clip-models-path server-name port ngrok subpath tls-keyfile
tls-certfile disable-tls-verify cors-allow-origins cors-allow-origins-regex gradio-auth gradio-auth-path api-auth
freeze-settings-in-sections freeze-specific-settings sub-quad-kv-chunk-size sub-quad-chunk-threshold device-id
loglevel theme gradio-img2img-tool gradio-inpaint-tool
"""
VALUES: dict[str, object] = {
    "data-dir": "/program",
    "config": "/program/configs/v1-inference.yaml",
    "ckpt": "/program/model.ckpt",
    "embeddings-dir": "/program/embeddings",
    "hypernetwork-dir": "/program/models/hypernetworks",
    "textual-inversion-templates-dir": "/program/textual_inversion_templates",
    "localizations-dir": "/program/localizations",
    "gfpgan-dir": "./GFPGAN",
    "gfpgan-models-path": "/program/models/GFPGAN",
    "codeformer-models-path": "/program/models/Codeformer",
    "esrgan-models-path": "/program/models/ESRGAN",
    "bsrgan-models-path": "/program/models/BSRGAN",
    "realesrgan-models-path": "/program/models/RealESRGAN",
    "dat-models-path": "/program/models/DAT",
    "lora-dir": "/program/models/Lora",
    "lyco-dir-backcompat": "/program/models/LyCORIS",
    "ldsr-models-path": "/program/models/LDSR",
    "scunet-models-path": "/program/models/ScuNET",
    "swinir-models-path": "/program/models/SwinIR",
    "styles-file": [],
    "ui-config-file": "/program/ui-config.json",
    "ui-settings-file": "/program/config.json",
    "ngrok-options": {},
    "ngrok-region": "",
    "gradio-allowed-path": ["/program"],
    "timeout-keep-alive": 30,
    "precision": "autocast",
    "sub-quad-q-chunk-size": 1024,
    "use-cpu": [],
    "filenames-max-length": 128,
    "max-batch-count": 16,
    "gradio-queue": True,
    "f": False,
}
A1111_DEFAULTS = {**dict.fromkeys(OFF.split(), False), **dict.fromkeys(NONE.split()), **VALUES}


def parse(*arguments: str, **environ: str) -> dict:
    return dict(parse_flags(arguments, environ, ROOT).values)


@pytest.mark.parametrize("name", A1111_DEFAULTS)
def test_each_flag_of_a1111_has_its_dest_and_default(name):
    assert parse()[name.replace("-", "_")] == A1111_DEFAULTS[name]


def test_there_is_no_flag_beyond_a1111_forge_and_our_own():
    others = {row.dest for row in (*FORGE, *OWN)}
    assert {row.dest for row in FLAGS} - others == {n.replace("-", "_") for n in A1111_DEFAULTS}


@pytest.mark.parametrize("name", OFF.split())
def test_each_switch_turns_on(name):
    assert parse(f"--{name}")[name.replace("-", "_")] is True


@pytest.mark.parametrize(
    ("line", "dest", "value"),
    [
        ("--port 7000", "port", 7000),
        ("--use-cpu ALL sd", "use_cpu", ["all", "sd"]),
        ("--styles-file a.csv --styles-file b.csv", "styles_file", ["a.csv", "b.csv"]),
        ("--gradio-allowed-path /pictures", "gradio_allowed_path", ["/program", "/pictures"]),
        ("--precision full", "precision", "full"),
        ("--device-id 1", "device_id", "1"),
        ("--disable-tls-verify", "disable_tls_verify", False),
        ('--ngrok-options {"a":1}', "ngrok_options", {"a": 1}),
        ("--lyco-dir /l", "lyco_dir_backcompat", "/l"),  # argparse's abbreviation, which LyCORIS users write
        ("--directml", "directml", -1),
        ("--directml 2", "directml", 2),
        ("-f", "f", True),
    ],
)
def test_flags_with_values(line, dest, value):
    assert parse(*line.split())[dest] == value


@pytest.mark.parametrize("row", FORGE, ids=lambda row: row.name)
def test_forge_flags_are_accepted(row):
    value = [] if row.told.get("action") or row.told.get("nargs") else ["1"]
    assert parse(row.name, *value)[row.dest] not in (None, False)


def test_the_data_folder_moves_what_lies_in_it_wherever_the_flag_stands():
    values = parse("--embeddings-dir", "/mine", "--data-dir", "/data")
    assert values["esrgan_models_path"] == "/data/models/ESRGAN"
    assert values["ui_settings_file"] == "/data/config.json"
    assert values["gradio_allowed_path"] == ["/data"]
    assert values["localizations_dir"] == "/program/localizations"
    assert values["embeddings_dir"] == "/mine"


def test_the_models_folder_moves_the_models_alone():
    values = parse("--models-dir", "/m", "--data-dir", "/data")
    assert (values["lora_dir"], values["embeddings_dir"]) == ("/m/Lora", "/data/embeddings")


def test_folders_with_braces_in_their_names_are_left_alone():
    assert parse("--data-dir", "/a{b}{data}")["lora_dir"] == "/a{b}{data}/models/Lora"


def test_commandline_args_are_appended_and_win():
    values = parse("--port", "1", "--listen", COMMANDLINE_ARGS='--port 2 --ckpt-dir "/my models"')
    assert (values["port"], values["listen"], values["ckpt_dir"]) == (2, True, "/my models")


def test_windows_paths_keep_their_backslashes():
    line = r'--ckpt-dir C:\models\sd --vae-dir "D:\my vaes\\x"'
    assert split_arguments(line, windows=True) == ["--ckpt-dir", r"C:\models\sd", "--vae-dir", r"D:\my vaes\\x"]
    assert split_arguments(r"a\ b '#c'", windows=False) == ["a b", "#c"]


@pytest.mark.parametrize(
    ("arguments", "environ", "word"),
    [
        (["--xformer_s"], {}, "--xformers"),
        (["--port", "abc"], {}, "--port"),
        (["--precision", "double"], {}, "autocast"),
        (["--port"], {}, "expected one argument"),
        ([], {"COMMANDLINE_ARGS": '--ckpt "open'}, "COMMANDLINE_ARGS"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_code_2(arguments, environ, word):
    with pytest.raises(BootstrapProblem) as caught:
        parse_flags(arguments, environ, ROOT)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_flags_pass_when_asked(capsys):
    assert parse("--of-an-extension", "--listen", IGNORE_CMD_ARGS_ERRORS="1")["listen"] is True
    assert "--of-an-extension" in capsys.readouterr().err


def test_lists_about_flags_name_real_flags():
    dests = {row.dest for row in FLAGS}
    assert dests >= NOT_YET
    assert dests >= NEVER.keys()
    assert not NOT_YET & NEVER.keys()
    assert len(dests) == len(FLAGS)
