"""Networks of a few hundred parameters, and their dense float64 Hessians by a path of PyTorch's own."""

import copy
import functools

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet import AlterNet, BasicBlock
from alternet.analysis.training.networks import Network
from alternet.kernels import use_backend


class TokenTransformer(nn.Module):
    """PyTorch's own attention, which calls the fused kernel and has a fast path of its own in eval mode."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, activation="gelu", batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x).flatten(2).mT).mean(1))


def tiny_alternet(*widths):
    """Of four stages, for pictures of 8 x 8 pixels in three classes, as a study gets it."""
    size = {"img_size": 8, "num_classes": 3, "stem_pool": False, "window_size": 2}
    heads = {"num_heads": [1, 1, 1, 1], "head_dim": 4}
    return Network("alternet", "alternet_18", {**size, "widths": list(widths), **heads})


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Dropout(0.5), nn.Linear(10, 3))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def norms():
    """Those that only PyTorch serves."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 2),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.Tanh(),
        nn.RMSNorm(16),
        nn.Linear(16, 3),
    )


def vit():
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 1, "num_heads": 2, "mlp_ratio": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, drop_path_rate=0.5, attn_drop_rate=0.5, **size)


def alternet():
    size = {"widths": [2] * 4, "num_heads": [2] * 4, "head_dim": 2, "window_size": 2, "stem_pool": False}
    return AlterNet(BasicBlock, depths=[1, 2, 1, 1], msa_depths=[0, 1, 0, 0], num_classes=3, **size)


MODELS = {
    "mlp": mlp,
    "convolutional": convolutional,
    "norms": norms,
    "vit": vit,
    "transformer": TokenTransformer,
    "alternet": alternet,
}


def build(name, dtype=torch.float64):
    """The network with running statistics and norms that are not their initial ones."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d | nn.RMSNorm):
            module.weight.data.uniform_(0.5, 1.5)
    return model.to(dtype).train()


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.tensor([0, 1, 2, 1, 0])


def inputs(name, dtype=torch.float64):
    images, targets = batch(dtype)
    return (images[:, :, :4, :4] if name == "mlp" else images), targets


def dense_hessian(model, images, targets, *, training=False):
    """Double backward through the module itself on PyTorch's plain operations, all columns at once."""
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    parameters = list(model.parameters())
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), use_backend("reference"):
        loss = F.cross_entropy(model(images), targets)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        entries = torch.cat([part.flatten() for part in gradient])
        eye = torch.eye(len(entries), dtype=entries.dtype)
        rows = torch.autograd.grad(entries, parameters, eye, is_grads_batched=True)
    torch.backends.mha.set_fastpath_enabled(fastpath)
    return torch.cat([part.flatten(1) for part in rows], dim=1)


@functools.cache
def exact_hessian(name, training=False):
    """The dense float64 Hessian of a network above, by its name."""
    return dense_hessian(build(name), *inputs(name), training=training)


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()
