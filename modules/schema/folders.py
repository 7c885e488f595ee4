"""Where things lie on this machine; built once from the flags, handed to whoever reads or writes files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Absolute paths. `data` is the root for everything a user owns; `state` holds our own database;
    `checkpoint` is one more file to list, `extensions` None where they are disabled, `extra` further model folders by
    the flag that names them."""

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
    extra: dict[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None

    @staticmethod
    def under(data: Path, models: Path | None = None) -> Folders:
        """A1111's layout below one data folder."""
        models = models or data / "models"
        return Folders(
            data=data,
            models=models,
            checkpoint_dirs=(models / "Stable-diffusion",),
            vae_dirs=(models / "VAE",),
            embeddings=data / "embeddings",
            lora=models / "Lora",
            styles_files=(data / "styles.csv",),
            settings_file=data / "config.json",
            ui_config_file=data / "ui-config.json",
            state=data / ".easel",
            wildcards=data / "wildcards",
            extensions=data / "extensions",
        )

    @property
    def database(self) -> Path:
        return self.state / "easel.sqlite3"

    @property
    def memory_history(self) -> Path:
        """What jobs took of the memory predicted for them (`memory.budget.History`)."""
        return self.state / "memory.json"

    @property
    def extension_mark(self) -> Path:
        """Names the extension whose code is being loaded, so that one that ends the process is known."""
        return self.state / "extension-loading"

    @property
    def inputs(self) -> Path:
        """Source pictures of jobs, by content (`imaging.inputs`)."""
        return self.state / "inputs"
