"""Checkpoints: whole or absent, refused when they are not one."""

import importlib
import json

import pytest
import torch

from fastad.base.errors import UserError
from fastad.base.files import digest, read_json, write_json
from fastad.training.checkpoint import (
    load_model,
    read_training_state,
    restore_optimizers,
    save_checkpoint,
)
from fastad.training.checkpoint_folder import find_checkpoint, list_checkpoints
from fastad.training.optimizers import make_optimizers
from fastad.training.settings import TrainSettings


@pytest.fixture
def saved(tiny_training, tmp_path):
    model, _ = tiny_training(positions="rope", layout="interleaved", context=30)
    optimizers = make_optimizers(model, TrainSettings())
    path = save_checkpoint(tmp_path, 7, model, optimizers, train_seconds=1.5)
    return model, optimizers, path


def describe(path, description):
    """Replace model.json as if fastad had written it so."""
    content = json.dumps(description).encode()
    (path / "model.json").write_bytes(content)
    manifest = read_json(path / "manifest.json", fix="")
    manifest["files"]["model.json"] = {"bytes": len(content), "digest": digest(content)}
    write_json(path / "manifest.json", manifest, seal=True)


def test_a_loaded_model_is_the_saved_one_without_the_dataset(saved, tmp_path):
    model, _, path = saved
    for where in (path, tmp_path):
        loaded = load_model(where)
        assert loaded.config == model.config
        assert loaded.observation_space == model.observation_space
        assert (loaded.reward_shift, loaded.reward_scale) == (
            model.reward_shift,
            model.reward_scale,
        )
        assert not loaded.training
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_only_the_newest_checkpoints_stay(saved, tmp_path):
    model, optimizers, _ = saved
    for step in (8, 9):
        save_checkpoint(tmp_path, step, model, optimizers, train_seconds=0.0)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-00000008", "step-00000009"]


def test_a_half_written_checkpoint_is_not_seen(saved, tmp_path):
    (tmp_path / "checkpoints" / "step-00000099.part").mkdir()
    assert find_checkpoint(tmp_path).name == "step-00000007"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint; give a folder that `fastad train`"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="does not exist; train one with"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_damaged_file_is_named(saved, file):
    _, _, path = saved
    (path / file).write_text("junk")
    with pytest.raises(UserError, match=f"{file} is missing or damaged"):
        load_model(path)


def test_weights_of_another_model_are_refused(saved):
    _, _, path = saved
    description = json.loads((path / "model.json").read_text())
    description["config"]["width"] = 32
    describe(path, description)
    with pytest.raises(UserError, match=r"model.safetensors does not fit its model.json"):
        load_model(path)


def test_a_newer_format_and_a_foreign_description_are_refused(saved):
    _, _, path = saved
    description = json.loads((path / "model.json").read_text())
    describe(path, description | {"format_version": 4})
    with pytest.raises(UserError, match="format_version=4, but this fastad reads 3; upgrade"):
        load_model(path)
    describe(path, {"format_version": 3, "config": {}})
    with pytest.raises(UserError, match="is not a fastad model"):
        load_model(path)


def test_a_checkpoint_of_the_first_format_is_rolled_out_but_not_resumed(saved, tiny_training):
    model, _, path = saved
    description = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(description | {"format_version": 1}))
    (path / "manifest.json").unlink()
    loaded = load_model(path)
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())
    with pytest.raises(UserError, match="stored optimiser states by position, which no longer fit"):
        read_training_state(path)


def test_a_checkpoint_without_its_manifest_is_damaged(saved):
    _, _, path = saved
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing or damaged"):
        load_model(path)


def test_optimiser_states_hang_on_names_not_on_the_order_of_parameters(tiny_training, tmp_path):
    model, _ = tiny_training()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    first = torch.optim.AdamW(model.parameters(), lr=0.1)
    first.step()
    path = save_checkpoint(tmp_path, 1, model, [first], train_seconds=0.0)
    # The other way round, and by two optimisers.
    parameters = list(model.parameters())[::-1]
    others = [torch.optim.AdamW(part, lr=0.1) for part in (parameters[:3], parameters[3:])]
    kept = read_training_state(path)
    assert (kept.step, kept.train_seconds) == (1, 0.0)
    restore_optimizers(model, others, kept)
    for parameter in parameters:
        (state,) = (other.state[parameter] for other in others if parameter in other.state)
        for field, value in first.state[parameter].items():
            assert torch.equal(state[field], value)


@pytest.mark.parametrize(
    "function",
    ["checkpoint_folder.step_of", "checkpoint.read_checkpoint"],
)
def test_a_checkpoint_that_its_training_deletes_gives_way_to_the_next(
    saved, tmp_path, monkeypatch, function
):
    model, optimizers, chosen = saved
    module, name = function.split(".")
    module = importlib.import_module(f"fastad.training.{module}")
    original = getattr(module, name)

    def meanwhile(*arguments):
        monkeypatch.setattr(module, name, original)
        if chosen.exists():
            save_checkpoint(tmp_path, 9, model, optimizers, train_seconds=0.0, keep=1)
        return original(*arguments)

    monkeypatch.setattr(module, name, meanwhile)
    loaded = load_model(tmp_path)
    assert not chosen.exists()
    assert torch.equal(loaded.heads.policy.weight, model.heads.policy.weight)
