"""Work on model files goes on in a process of its own: seen from outside, cancelled, and told how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from modules.pipeline.model_tasks import Workshop
from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.schema.model_tasks import ConvertTask, MergeTask, TaskView
from modules.schema.settings import Settings
from modules.service.model_tasks import ModelTasks
from modules.service.worker import ThreadWorker
from tests.weights.tiny import tiny_tensors, write_tiny_sd15


@pytest.fixture
def folders(tmp_path, test_seed) -> Folders:
    folders = Folders.under(tmp_path)
    for n, name in enumerate("ab"):
        write_tiny_sd15(folders.checkpoint_dirs[0] / f"{name}.safetensors", test_seed + n)
    return folders


@pytest.fixture
def tasks(folders) -> Iterator[ModelTasks]:
    tasks = ModelTasks(folders, Settings, lambda folders: ThreadWorker(partial(Workshop, folders)))
    yield tasks
    tasks.close()


def ended(tasks: ModelTasks, id: str) -> TaskView:
    deadline = time.monotonic() + 120
    while (view := tasks.view(id)).state in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.02)
    return view


def test_a_conversion_in_a_process_of_its_own(folders, test_seed):
    tensors = tiny_tensors(test_seed)
    torch.save({"state_dict": tensors}, folders.checkpoint_dirs[0] / "old.ckpt")
    tasks = ModelTasks(folders, Settings)
    try:
        view = ended(tasks, tasks.submit(ConvertTask(checkpoint="old")))
    finally:
        tasks.close()
    assert (view.state, view.progress, view.result, view.error) == ("done", 1.0, "old.safetensors", None)
    found = load_file(folders.checkpoint_dirs[0] / "old.safetensors")
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_tasks_take_turns_and_tell_how_they_ended(tasks):
    good = tasks.submit(MergeTask(primary_model_name="a", secondary_model_name="b", custom_name="ab"))
    bad = tasks.submit(MergeTask(primary_model_name="a", secondary_model_name="nobody"))
    dropped = tasks.submit(MergeTask(primary_model_name="a", secondary_model_name="b", custom_name="never"))
    tasks.cancel(dropped)
    assert ended(tasks, good).result == "ab.safetensors"
    view = ended(tasks, bad)
    assert (view.state, view.error_code) == ("failed", "not_found")
    assert "No checkpoint is called 'nobody'" in (view.error or "")
    assert tasks.view(dropped).state == "cancelled"
    assert [view.id for view in tasks.views()] == [dropped, bad, good]
    assert ended(tasks, tasks.submit(ConvertTask(checkpoint="a"))).state == "failed"  # after a pause, a new worker
    with pytest.raises(NotFound):
        tasks.view("x")
