"""The trainer learns, decays what it should, follows its schedule, and resumes exactly."""

import csv
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alternet.analysis.files import load_json
from alternet.analysis.training import loop as training
from alternet.analysis.training.checkpoints import checkpoint_epoch, save_checkpoint
from alternet.analysis.training.data import ImageData, Pictures
from alternet.analysis.training.loop import kept_file, train
from alternet.analysis.training.networks import Network
from alternet.analysis.training.recipe import PAPER

from .small_networks import tiny_alternet

VIT = Network(
    "vit",
    "vit_tiny_patch16_224",
    {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 3},
)
ALTERNET = tiny_alternet(4, 4, 8, 8)  # has batch statistics, and convolutions beside attention
RECIPE = PAPER.changed(epochs=4, warmup_epochs=1, batch_size=16, learning_rate=3e-3, crop_padding=1)


def colours(train_count: int = 64, test_count: int = 30) -> ImageData:
    """Noise in which the channel that stands out is the class."""

    def split(count):
        rng = np.random.default_rng(count)
        targets = np.arange(count) % 3
        images = rng.integers(0, 60, (count, 8, 8, 3)).astype(np.uint8)
        images[np.arange(count), :, :, targets] += 150
        return Pictures(images, targets)

    return ImageData("colours", ("r", "g", "b"), 8, split(train_count), split(test_count), (0.3,) * 3, (0.3,) * 3)


def rows(folder) -> list[dict]:
    return load_json(folder / "history.json", training.HISTORY_KIND)["rows"]


@pytest.fixture(scope="module", params=[VIT, ALTERNET], ids=lambda network: network.name)
def finished(request, tmp_path_factory):
    """A run that was never stopped: network, folder, trained model."""
    folder = tmp_path_factory.mktemp("finished")
    return request.param, folder, train(request.param, colours(), RECIPE, folder, seed=3)


def test_files_of_a_run(finished):
    network, folder, model = finished
    assert {entry.name for entry in folder.iterdir()} == {
        "history.csv",
        "history.json",
        "last.safetensors",
        "model.safetensors",
        "warmup.safetensors",
    }
    assert not model.training
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, model.state_dict()[name])
    again = network.build(checkpoint=folder / "model.safetensors")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(images), model(images))
    warm = load_file(folder / "warmup.safetensors")
    assert any(not torch.equal(tensor, model.state_dict()[name]) for name, tensor in warm.items())
    with (folder / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["test_loss"]) for row in table] == [row["test_loss"] for row in rows(folder)]
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("stop_after", [1, 6, 8, 15], ids=lambda update: f"update {update}")
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(finished, stop_after, tmp_path, monkeypatch):
    network, folder, model = finished

    class Stop(BaseException):
        pass

    class Loss(training.SoftTargetCrossEntropy):
        calls = 0

        def forward(self, *args):
            Loss.calls += 1
            if Loss.calls > stop_after:
                raise Stop
            return super().forward(*args)

    monkeypatch.setattr(training, "SoftTargetCrossEntropy", Loss)
    with pytest.raises(Stop):
        train(network, colours(), RECIPE, tmp_path, seed=3)
    monkeypatch.undo()
    torch.manual_seed(stop_after)  # the process that goes on has other global generators
    resumed = train(network, colours(), RECIPE, tmp_path, seed=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    without_time = [{**row, "seconds": 0} for row in rows(tmp_path)]
    assert without_time == [{**row, "seconds": 0} for row in rows(folder)]


def test_a_finished_run_is_only_loaded(finished, monkeypatch):
    network, folder, model = finished

    def no_more(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(training._Run, "train_epoch", no_more)
    again = train(network, colours(), RECIPE, folder, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_it_learns(tmp_path):
    train(VIT, colours(192), RECIPE.changed(epochs=8, mixup=0.0, cutmix=0.0, rand_augment=""), tmp_path)
    history = rows(tmp_path)
    assert history[-1]["test_accuracy"] > 0.95
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["test_loss"] < math.log(3)


def test_schedule_is_linear_then_cosine(tmp_path, monkeypatch):
    rates = []
    step = training.CosineLRScheduler.step_update

    def record(schedule, number):
        step(schedule, number)
        rates.append({group["lr"] for group in schedule.optimizer.param_groups})

    monkeypatch.setattr(training.CosineLRScheduler, "step_update", record)
    train(VIT, colours(), RECIPE.changed(warmup_epochs=2), tmp_path)
    assert all(len(groups) == 1 for groups in rates)
    peak = RECIPE.learning_rate
    warmup = [peak * (1 + 7 * number / 8) / 8 for number in range(8)]
    cosine = [peak * (1 + math.cos(math.pi * number / 8)) / 2 for number in range(8)]
    np.testing.assert_allclose([rate for (rate,) in rates], warmup + cosine, rtol=1e-12)


def test_weight_decay_spares_what_is_one_dimensional():
    run = training._Run(ALTERNET, colours(), RECIPE, None, 0, torch.device("cpu"), frozenset())
    decayed = {id(p) for g in run.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    spared = [name for name, parameter in run.model.named_parameters() if id(parameter) not in decayed]
    assert "layer1.0.bn.weight" in spared
    assert any(name.endswith("pos_embedding") for name in spared)  # named by the model
    assert all(dict(run.model.named_parameters())[name].dim() == 1 or "pos_embedding" in name for name in spared)
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {0.0, RECIPE.weight_decay}


def test_drop_path_is_on_in_training_and_off_after(finished):
    _, _, model = finished
    rates = {module.drop_prob for module in model.modules() if hasattr(module, "drop_prob")}
    assert max(rates) == pytest.approx(RECIPE.drop_path)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), model(images))


def test_seed_decides(tmp_path):
    short = RECIPE.changed(epochs=1, warmup_epochs=0)
    models = [train(VIT, colours(), short, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, same, other = (model.state_dict()["head.weight"] for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": RECIPE.changed(epochs=9)}, r"recipe\.epochs was 4 and is 9"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"data": colours(96)}, r"data\.train was 64 and is 96"),
    ],
    ids=["recipe", "seed", "data"],
)
def test_folder_of_another_run(finished, change, message):
    network, folder, _ = finished
    arguments = {"data": colours(), "recipe": RECIPE, "seed": 3} | change
    with pytest.raises(ValueError, match=f"belongs to a training with other settings: {message}$"):
        train(network, folder=folder, **arguments)


def test_broken_or_foreign_state(tmp_path):
    (tmp_path / "last.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"last\.safetensors cannot be read as safetensors"):
        train(VIT, colours(), RECIPE, tmp_path)
    save_checkpoint(tmp_path / "last.safetensors", {"a": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(ValueError, match="belongs to a training with other settings: network was null"):
        train(VIT, colours(), RECIPE, tmp_path)


def test_diverging_run_says_so(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss became (nan|inf) in epoch \d; a learning rate below 1e\+2"):
        train(VIT, colours(), RECIPE.changed(learning_rate=1e20), tmp_path)


def test_model_that_timm_does_not_know_or_cannot_build():
    with pytest.raises(ValueError, match="timm knows no 'vit_gigantic'"):
        Network("a", "vit_gigantic").build()
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 could not be built with .*wings"):
        Network("a", "vit_tiny_patch16_224", {"wings": 2}).build()
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 could not be built with .*division"):
        Network("a", "vit_tiny_patch16_224", {"patch_size": 0}).build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 16}, "model: VisionTransformer does not take pictures of 8 x 8 pixels: Input height"),
        ({"num_classes": 7}, r"model: VisionTransformer gives \[1, 7\] for a picture, expected \[1, 3\]"),
    ],
    ids=["size", "classes"],
)
def test_network_that_does_not_fit_the_data(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(Network("a", VIT.model, VIT.arguments | change), colours(), RECIPE, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_kept_epochs_are_the_weights_after_them(tmp_path):
    recipe = RECIPE.changed(epochs=3)
    train(VIT, colours(), recipe, tmp_path / "kept", seed=3, keep_epochs=(0, 2, 3))
    kept = {path.name for path in (tmp_path / "kept").glob("epoch-*")}
    assert kept == {"epoch-0.safetensors", "epoch-2.safetensors", "epoch-3.safetensors"}
    start = VIT.build(seed=3, drop_path_rate=recipe.drop_path).state_dict()
    for name, tensor in load_file(tmp_path / "kept" / kept_file(0)).items():
        assert torch.equal(tensor, start[name])
    last, final = (load_file(tmp_path / "kept" / name) for name in (kept_file(3), training.FINAL))
    assert all(torch.equal(last[name], final[name]) for name in final)
    assert [checkpoint_epoch(tmp_path / "kept" / kept_file(epoch)) for epoch in (0, 2, 3)] == [0, 2, 3]
    train(VIT, colours(), recipe, tmp_path / "plain", seed=3)
    plain = load_file(tmp_path / "plain" / training.FINAL)
    assert all(torch.equal(plain[name], final[name]) for name in final)  # keeping changes nothing


def test_epochs_that_were_not_kept_are_gone(tmp_path):
    recipe = RECIPE.changed(epochs=2)
    train(VIT, colours(), recipe, tmp_path, seed=3, keep_epochs=(2,))
    train(VIT, colours(), recipe, tmp_path, seed=3, keep_epochs=(2,))
    with pytest.raises(ValueError, match=r"keep_epochs: .* is past epoch 1 and did not keep it; train in a new folder"):
        train(VIT, colours(), recipe, tmp_path, seed=3, keep_epochs=(1, 2))
    with pytest.raises(ValueError, match="keep_epochs: got 3, expected 0 to 2"):
        train(VIT, colours(), recipe, tmp_path, seed=3, keep_epochs=(3,))
