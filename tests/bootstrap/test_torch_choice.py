"""The right torch for made-up machines."""

from __future__ import annotations

import sys

import pytest

from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.system import amd_architectures, look, read_nvidia_smi
from modules.bootstrap.torch_choice import PACKAGES, Machine, choose

PLAIN = ("install", *PACKAGES)


def index_of(machine: Machine) -> str:
    """The index of the first attempt, by its last word; "default" for none."""
    pip = choose(machine).attempts[0].pip
    assert pip[:3] == PLAIN
    return pip[pip.index("--index-url") + 1].rpartition("/")[2] if "--index-url" in pip else "default"


@pytest.mark.parametrize(
    ("machine", "index"),
    [
        (Machine("Linux", "x86_64", nvidia=True, driver=580, compute=8.9), "default"),  # RTX 4090
        (Machine("Linux", "x86_64", nvidia=True, driver=590, compute=9.0), "default"),  # H200
        (Machine("Linux", "x86_64", nvidia=True), "default"),  # nothing known of the card
        (Machine("Linux", "x86_64", nvidia=True, driver=550, compute=8.6), "cu126"),  # older driver
        (Machine("Linux", "x86_64", nvidia=True, driver=580, compute=6.1), "cu126"),  # GTX 1080
        (Machine("Linux", "x86_64", nvidia=True, driver=570, compute=12.0), "default"),  # RTX 5090: 12.6 knows it not
        (Machine("Linux", "aarch64", nvidia=True, driver=580, compute=9.0), "default"),  # Grace Hopper
        (Machine("Windows", "AMD64", nvidia=True, driver=581, compute=8.6), "cu130"),  # RTX 3060
        (Machine("Windows", "AMD64", nvidia=True, driver=560, compute=7.5), "cu126"),
        (Machine("Windows", "AMD64", nvidia=True, driver=581, compute=5.2), "cu126"),  # GTX 970
        (Machine("Windows", "AMD64"), "default"),
        (Machine("Windows", "ARM64", nvidia=True), "default"),
        (Machine("Windows", "AMD64", amd=("gfx1100",)), "default"),
        (Machine("Linux", "x86_64", amd=("gfx1100",)), "rocm7.2"),  # RX 7900
        (Machine("Linux", "x86_64", amd=("gfx1036", "gfx1201")), "rocm7.2"),  # a processor's graphics and a RX 9070
        (Machine("Linux", "x86_64", amd=("gfx1036",)), "cpu"),  # a processor's graphics alone
        (Machine("Linux", "x86_64", nvidia=True, driver=580, compute=8.9, amd=("gfx1100",)), "default"),
        (Machine("Linux", "x86_64"), "cpu"),
        (Machine("Linux", "aarch64"), "cpu"),
        (Machine("Darwin", "arm64"), "default"),
    ],
)
def test_choice(machine, index):
    assert index_of(machine) == index


def test_a_machine_without_a_card_falls_back_to_the_default_index():
    first, second = choose(Machine("Linux", "x86_64")).attempts
    assert first.probe is not None
    assert first.probe.startswith("https://download.pytorch.org/whl/cpu")
    assert first.pip[-4:] == ("--retries", "0", "--timeout", "15")
    assert (second.pip, second.probe) == (PLAIN, None)


@pytest.mark.parametrize("machine", [Machine("Linux", "x86_64", nvidia=True), Machine("Darwin", "x86_64")])
def test_the_user_has_the_last_word(machine):
    by_index = choose(machine, index_url="https://mirror.example/cu132")
    assert by_index.attempts[0].pip == (*PLAIN, "--index-url", "https://mirror.example/cu132")
    command = "pip install torch==2.11.0 --index-url 'https://x/y z'"
    by_command = choose(machine, command=command, index_url="https://ignored.example")
    assert [a.pip for a in by_command.attempts] == [("install", "torch==2.11.0", "--index-url", "https://x/y z")]


@pytest.mark.parametrize("command", ["conda install torch", "pip install", "pip install 'torch"])
def test_a_torch_command_that_pip_cannot_follow_is_refused(command):
    with pytest.raises(BootstrapProblem, match="TORCH_COMMAND"):
        choose(Machine("Linux", "x86_64"), command=command)


def test_intel_macs_are_told():
    with pytest.raises(BootstrapProblem, match="Intel"):
        choose(Machine("Darwin", "x86_64"))


def test_reads_what_nvidia_smi_says():
    assert read_nvidia_smi("580.65.06, 8.9\n580.65.06, 6.1\n") == (580, 6.1)
    assert read_nvidia_smi("470.82, [N/A]\n") == (470, None)
    assert read_nvidia_smi("") == (None, None)


def test_reads_what_the_kernel_says_of_amd_cards(tmp_path):
    for node, version in enumerate((0, 90010, 110000, 100306, 90402)):
        folder = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 8\ngfx_target_version {version}\nvendor_id 4098\n")
    assert amd_architectures(tmp_path) == ("gfx1036", "gfx1100", "gfx90a", "gfx942")
    assert amd_architectures(tmp_path / "none") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
def test_a_driver_without_its_device_is_another_machines(tmp_path, monkeypatch):
    """A container sees the host's /proc, also when it was given no card."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(version)
    assert not look(tmp_path).nvidia
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert look(tmp_path).nvidia
    assert look(tmp_path).driver == 535
