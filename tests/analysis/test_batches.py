"""Batches: deterministic, independent of one another, and augmented as the recipe says."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from alternet.analysis.training.batches import eval_batches, hessian_batches, train_batches
from alternet.analysis.training.data import ImageData, Pictures, as_tensor
from alternet.analysis.training.recipe import PAPER, Recipe
from alternet.analysis.training.seeding import derived_seed, seeded

PLAIN = PAPER.changed(batch_size=4, mixup=0.0, cutmix=0.0, label_smoothing=0.0, rand_augment="", crop_padding=0)


def some_data(count: int = 40, size: int = 8, flip: bool = False) -> ImageData:
    rng = np.random.default_rng(1)
    splits = [Pictures(rng.integers(0, 256, (n, size, size, 3), np.uint8), np.arange(n) % 5) for n in (count, 10)]
    return ImageData("noise", tuple("abcde"), size, *splits, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), flip)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("make", [train_batches, hessian_batches])
def test_batches_are_fixed_by_the_seed_and_by_nothing_else(make):
    data, recipe = some_data(flip=True), PAPER.changed(batch_size=4)
    more = {"epoch": 2} if make is train_batches else {"fraction": 0.5, "batch_size": 4}
    batches = make(data, recipe, seed=7, **more)
    first = list(batches)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert same(first, list(batches))  # read again
    assert same(first[2:3], [make(data, recipe, seed=7, **more)[2]])  # out of order, from a fresh object
    assert not same(first, list(make(data, recipe, seed=8, **more)))


def test_the_callers_randomness_is_left_alone():
    batches = train_batches(some_data(flip=True), PAPER.changed(batch_size=4), seed=0, epoch=0)
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    batches[0]
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_an_epoch_has_every_picture_once_in_another_order():
    data = some_data(42)  # the last two do not fill a batch
    orders = [train_batches(data, PLAIN, seed=0, epoch=epoch).order for epoch in (0, 1)]
    assert all(len(set(order.tolist())) == 40 for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    batches = train_batches(data, PLAIN, seed=0, epoch=0)
    assert len(batches) == 10
    images, targets = batches[3]
    chosen = orders[0][12:16]
    assert torch.equal(images, as_tensor([data.train[i][0] for i in chosen], data))
    assert torch.equal(targets, torch.eye(5)[torch.tensor(chosen % 5)])


def test_mixing_and_smoothing_keep_targets_a_distribution():
    batches = train_batches(some_data(), PAPER.changed(batch_size=8), seed=0, epoch=0)
    targets = torch.cat([targets for _, targets in batches])
    assert targets.shape == (40, 5)
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    assert targets.min() >= 0.1 / 5 - 1e-6  # the smoothing's share of every class
    assert ((targets > 0.05).sum(1) == 2).any()  # two classes in one picture
    smooth = train_batches(some_data(), PLAIN.changed(label_smoothing=0.1), seed=0, epoch=0)[0][1]
    torch.testing.assert_close(smooth.max(1).values, torch.full((4,), 0.92))


def test_crops_move_pictures_and_flips_mirror_them_only_where_allowed():
    def variants(data, recipe):
        batches = [train_batches(data, recipe, seed=0, epoch=epoch) for epoch in range(20)]
        wanted = 3
        found = {}
        for epoch in batches:
            number, place = divmod(epoch.order.tolist().index(wanted), 4)
            image = epoch[number][0][place]
            found[image.numpy().tobytes()] = image
        return list(found.values())

    original = as_tensor([some_data().train[3][0]], some_data())[0]
    assert len(variants(some_data(), PLAIN)) == 1
    mirrored = variants(some_data(flip=True), PLAIN)
    assert len(mirrored) == 2
    assert any(torch.equal(image, original.flip(2)) for image in mirrored)
    moved = variants(some_data(), PLAIN.changed(crop_padding=1))
    picture = Image.fromarray(np.pad(some_data().train.images[3], ((1, 1), (1, 1), (0, 0))))
    crops = [picture.crop((x, y, x + 8, y + 8)) for x in range(3) for y in range(3)]
    expected = list(as_tensor(crops, some_data()))
    assert 3 < len(moved) <= 9
    assert all(any(torch.equal(image, crop) for crop in expected) for image in moved)


def test_rand_augment_changes_pictures():
    plain, changed = (
        train_batches(some_data(), PLAIN.changed(rand_augment=name), seed=0, epoch=0)[0][0]
        for name in ("", "rand-m9-n2-mstd1.0")
    )
    assert not torch.equal(plain, changed)


def test_hessian_batches_are_a_fraction_without_repeats_and_nested():
    data = some_data(80)
    small, large = (hessian_batches(data, PLAIN, seed=0, fraction=f, batch_size=4) for f in (0.1, 0.5))
    assert (len(small), len(large)) == (2, 10)
    assert set(small.order) <= set(large.order)
    assert len(set(large.order)) == 40
    assert len(hessian_batches(some_data(320), PLAIN, seed=0)) == 2  # the paper's: 10 %, batches of 16


def test_evaluation_covers_the_test_set_in_order_or_evenly():
    batches = eval_batches(some_data(), batch_size=4)
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 1, 2, 3, 4] * 2
    assert batches[-1][1].tolist() == [3, 4]
    assert [targets.tolist() for _, targets in batches[1:]] == [[4, 0, 1, 2], [3, 4]]
    assert eval_batches(some_data(), limit=4).order.tolist() == [0, 3, 6, 9]
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches[3]


def test_evaluation_in_random_order_has_the_same_pictures():
    plain, first, again, other = (eval_batches(some_data(), 4, limit=9, seed=seed).order for seed in (None, 1, 1, 2))
    assert sorted(first) == sorted(other) == plain.tolist() == sorted(plain)
    assert first.tolist() == again.tolist() != plain.tolist()
    assert other.tolist() != first.tolist()


def test_too_little_data_for_a_batch():
    with pytest.raises(ValueError, match="batch_size: got 96, expected at most 40"):
        train_batches(some_data(), PAPER, seed=0, epoch=0)
    with pytest.raises(
        ValueError, match=r"fraction: got 0\.1, which is 4 of 40 pictures, expected at least one mini-batch of 16"
    ):
        hessian_batches(some_data(), PAPER, seed=0)
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            hessian_batches(some_data(), PAPER, seed=0, fraction=fraction)
    for size in (0, -4, 3):
        with pytest.raises(ValueError, match=f"batch_size: got {size}, expected an even number"):
            hessian_batches(some_data(), PAPER, seed=0, fraction=1.0, batch_size=size)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("warmup_epochs", 305),
        ("batch_size", 7),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("clip_norm", 0.0),
        ("label_smoothing", 1.0),
        ("drop_path", -0.1),
        ("mixup", -1.0),
        ("crop_padding", -4),
    ],
)
def test_recipe_checks_its_settings(setting, value):
    with pytest.raises(ValueError, match=setting):
        Recipe(**{setting: value})


def test_derived_seeds_differ_by_purpose():
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), ("a", 0)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    with seeded(3, "x"):
        first = torch.rand(2), np.random.rand(2), random.random()
    with seeded(3, "x"):
        assert torch.equal(torch.rand(2), first[0])
        np.testing.assert_array_equal(np.random.rand(2), first[1])
        assert random.random() == first[2]
