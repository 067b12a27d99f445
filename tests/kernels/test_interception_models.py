"""``second_order()`` and ``second_order_model``: other people's models, whole, on our operators."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import _get_current_function_mode_stack

from alternet.kernels import second_order, second_order_model

from .graphs import ours


class Encoder(nn.Module):
    """``nn.MultiheadAttention`` as torchvision's ViT calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


def vit():
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes)


def swin():
    """Relative-position biases, and masks of shifted windows."""
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **sizes)


def pooled_vit():
    """Without a class token: a learned query pools by attention."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, class_token=False, global_pool="map", **sizes)


def torchvision_vit():
    return torchvision.models.VisionTransformer(16, 4, 2, 3, 24, 48, num_classes=5)


def resnet():
    """On the statistics of the batch; torch.func cannot move running ones."""
    model = timm.create_model("resnet10t", num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return model


MODELS = {
    "timm ResNet, BatchNorm in training": (resnet, (4, 3, 32, 32)),
    "timm ViT": (vit, (2, 3, 16, 16)),
    "timm ViT, pooled by attention": (pooled_vit, (2, 3, 16, 16)),
    "timm Swin": (swin, (2, 3, 32, 32)),
    "torchvision ViT": (torchvision_vit, (2, 3, 16, 16)),
    "nn.MultiheadAttention": (Encoder, (2, 7, 16)),
    "nn.TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), (2, 5, 16)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("permanent", [False, True])
def test_hessian_vector_products_of_models_are_pytorchs(name: str, permanent: bool):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = build().double().train(), torch.randn(shape, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}

    def product(loss):
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
        return torch.autograd.grad(first, list(leaves.values()), list(direction.values()), materialize_grads=True)

    def loss(p):
        return functional_call(model, p, (x,)).square().mean()

    with sdpa_kernel(SDPBackend.MATH):
        want = product(loss)

    def in_context(p):
        with second_order():
            return loss(p)

    for module in model.modules() if not permanent else ():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # Swin's default is an explicit composition, which nothing can see as attention
    inside = in_context if not permanent else loss
    if permanent:
        second_order_model(model)

    assert ours(inside({name: p.clone().requires_grad_() for name, p in parameters.items()}))
    for got in (product(inside), jvp(grad(inside), (parameters,), (direction,))[1].values()):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_training_step_compiles_whole():
    model, x = vit().train(), torch.randn(2, 3, 16, 16)

    def step(x):
        with second_order():
            return model(x).square().mean()

    want = torch.autograd.grad(step(x), list(model.parameters()))
    got = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(x), list(model.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_permanent_form_survives_copies_pickles_and_a_second_call():
    model = second_order_model(second_order_model(Encoder()))
    assert len(model._forward_pre_hooks) == 1
    assert type(model) is Encoder
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    x = torch.randn(2, 7, 16)
    for twin in (model, copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert ours(twin(x))
    Encoder().load_state_dict(model.state_dict())


def test_permanent_form_leaves_nothing_behind_when_forward_raises():
    model = second_order_model(Encoder())
    with pytest.raises((RuntimeError, AssertionError)):
        model(torch.randn(2, 7, 15))
    assert not _get_current_function_mode_stack()
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        second_order_model("vit")


def test_permanent_form_leaves_alone_what_is_round_it_when_a_hook_raises():
    def refuse(module, args):
        raise ValueError("refused")

    model = Encoder()
    model.register_forward_pre_hook(refuse)
    second_order_model(model)
    with second_order():
        with pytest.raises(ValueError, match="refused"):
            model(torch.randn(2, 7, 16))
        assert len(_get_current_function_mode_stack()) == 1


def test_what_a_network_does_in_place_to_a_norms_result_is_no_copy():
    """In place on a view autograd copies all of its base, in every derivative."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.LayerNorm([4, 4]), nn.ReLU(inplace=True))
    seen, waiting = set(), [second_order_model(network)(x).grad_fn]
    while waiting:
        node = waiting.pop()
        seen.add(type(node).__name__)
        waiting += [before for before, _ in node.next_functions if before is not None]
    assert not {"CopySlices", "AsStridedBackward0"} & seen


@pytest.mark.parametrize("permanent", [False, True])
def test_checkpointed_stretches_are_recomputed_inside(permanent: bool):
    """The backward passes run outside; blocks recompute what they saved, in every one of them."""
    torch.manual_seed(0)
    model, x = vit().double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    leaves = list(model.parameters())
    direction = [torch.randn_like(p) for p in leaves]

    def product(context):
        with context:
            loss = model(x).square().mean()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return loss, torch.autograd.grad(first, leaves, direction)

    want = product(sdpa_kernel(SDPBackend.MATH))[1]
    model.set_grad_checkpointing(True)
    if permanent:
        second_order_model(model)
    loss, got = product(contextlib.nullcontext() if permanent else second_order())
    assert not _get_current_function_mode_stack()
    assert ours(loss)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
