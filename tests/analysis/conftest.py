"""The networks of these tests are toys: a second thread only adds waiting, above all beside other processes."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def npz(tmp_path_factory) -> str:
    """64 training and 24 test images of noise, 8 x 8 pixels, in three classes."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{what}": values
        for split, count in (("train", 64), ("test", 24))
        for what, values in (("x", rng.integers(0, 256, (count, 8, 8, 3), np.uint8)), ("y", np.arange(count) % 3))
    }
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    np.savez(path, **arrays, classes=np.array(["a", "b", "c"]))
    return str(path)
