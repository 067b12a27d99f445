"""Networks and data that one rank and several ranks measure alike."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from alternet.analysis.studies.spectra import hessian_spectra

LOSS = cross_entropy
SIZES = (3, 2, 4, 1, 2)  # images of the batches: unequal shares for two ranks and for three


def network(dtype=torch.float64):
    """523 parameters, which neither 2 nor 3 divides."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Linear(10, 3)).to(dtype)


def normed():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 4, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for size in SIZES
    ]


def one_batch():
    images, targets = zip(*batches(), strict=True)
    return torch.cat(images), torch.cat(targets)


def loader():
    """Shuffles by the global generator."""
    images, targets = one_batch()
    return DataLoader(TensorDataset(images, targets), batch_size=5, shuffle=True)


class Noisy(Sequence):
    """Batches with noise from the global generator."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        images, targets = self.batches[i]
        return images + torch.randn_like(images), targets


class Fading(nn.Module):
    """Fades from call to call, by an attribute that is no buffer; ``rate`` 0 does not."""

    def __init__(self, rate):
        super().__init__()
        self.network, self.rate, self.calls = network(), rate, 0

    def forward(self, x):
        self.calls += self.rate
        return self.network(x) / (1 + self.calls)


def vector(n, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(2)).to(dtype)


def wide():
    """304,003 parameters, and few activations: what its product needs is vectors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 1000), nn.Linear(1000, 3))


def wide_batch():
    return torch.randn(6, 300, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def study(**arguments):
    """Of 7 mini-batches."""
    data = [*batches(), *batches()[:2]]
    return hessian_spectra(network(), data, loss=LOSS, k=2, tol=1e-6, weight_decay=0.1, progress=False, **arguments)
