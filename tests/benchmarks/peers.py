"""Other programs beside which Easel is measured, each in a process of its own with its own Python.

    with Peer("comfyui", folder, python, path, "sd1", torch.bfloat16, "cpu", threads=2) as peer:
        peer.seconds("denoiser")                 # (wall, processor) of one guided call

The child is this file: it loads the checkpoint with the other program's own code, found in its checkout, and does one
piece of work at each line it is sent, so that both programs take turns. It imports nothing of Easel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

Work = dict[str, Callable[[], Any]]
MARK = "easel: "
"""Begins the lines that are meant for us; others are the program's own."""


class Peer:
    """`python`: the interpreter that has what the other program needs. RuntimeError with its words where it fails."""

    def __init__(
        self, name: str, folder: Path, python: str, path: Path, inputs: Path, dtype: str, device: str, threads: int
    ) -> None:
        told = {"folder": str(folder.resolve()), "path": str(path), "inputs": str(inputs), "dtype": dtype}
        command = [python, __file__, name, json.dumps({**told, "device": device, "threads": threads})]
        self._child = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._said: list[str] = []
        self.version: str = self._answer()["version"]

    def seconds(self, work: str) -> tuple[float, float]:
        """Wall and processor seconds of one piece of work: "denoiser" or "decoder"."""
        assert self._child.stdin is not None
        self._child.stdin.write(work + "\n")
        self._child.stdin.flush()
        found = self._answer()
        return found["wall"], found["processor"]

    def close(self) -> None:
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._child.wait(60)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        out: IO[str] | None = self._child.stdout
        assert out is not None
        for line in out:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
            self._said.append(line)
        raise RuntimeError("the other program ended: " + "".join(self._said[-20:]).strip())


# ------------------------------------------------------------------------------------------------ in the child


def comfyui(folder: str, path: str, inputs: str, dtype: str, device: str) -> tuple[str, Work]:
    """ComfyUI, as its own start would set it up for this device and number type."""
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype]
    sys.argv = ["main.py", f"--{short}-unet", f"--{short}-vae", *(["--cpu"] if device == "cpu" else [])]
    import comfy.options  # type: ignore[import-not-found]  # of the checkout, as all below

    comfy.options.enable_args_parsing()
    import comfy.model_management  # type: ignore[import-not-found]
    import comfy.sd  # type: ignore[import-not-found]
    import comfyui_version  # type: ignore[import-not-found]
    import torch

    patcher, _, vae, _ = comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=False)
    comfy.model_management.load_models_gpu([patcher, vae.patcher])
    x, t, context, y = torch.load(inputs, weights_only=True, map_location=device)
    net = patcher.model.diffusion_model

    return comfyui_version.__version__, {
        "denoiser": lambda: net(x, timesteps=t, context=context, y=y),
        "decoder": lambda: vae.first_stage_model.decode(x[:1].to(vae.vae_dtype)),
    }


def stand_in(folder: str, path: str, inputs: str, dtype: str, device: str) -> tuple[str, Work]:
    """No program: what is said to it and by it, rehearsed (tests/memory/test_gpu_all.py)."""
    print("a word of its own", flush=True)
    return "0", {"denoiser": lambda: sum(range(10**5)), "decoder": lambda: open(path, "rb").close()}


PEERS = {"comfyui": comfyui, "stand-in": stand_in}


def serve(name: str, told: dict[str, Any]) -> None:
    """Loads, then works at each line of the standard input until it ends."""
    sys.path[0] = told["folder"]
    threads = told.pop("threads")
    say = sys.stdout
    if name != "stand-in":
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
    version, work = PEERS[name](**told)
    print(MARK + json.dumps({"version": version}), file=say, flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        work[line.strip()]()
        if told["device"] == "cuda":
            import torch

            torch.cuda.synchronize()
        spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(MARK + json.dumps(spent), file=say, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
