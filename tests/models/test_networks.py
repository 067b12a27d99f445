"""AlterNet's structure, its errors, and what training needs of it."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from timm.layers import DropPath
from torch.func import functional_call, grad, jvp, vmap

from alternet import AlterNet, AttentionBlock, BasicBlock, Bottleneck


def kinds(model):
    names = {BasicBlock: "b", Bottleneck: "B", AttentionBlock: "a"}
    return ["".join(names[type(block)] for block in model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)]


def shallow(**arguments):
    """Five blocks, one of them attention on padded windows."""
    sizes = {"widths": (4, 4, 4, 4), "num_heads": (1, 1, 1, 1), "head_dim": 4, "window_size": 3, "stem_pool": False}
    return AlterNet(BasicBlock, (1, 2, 1, 1), (0, 1, 0, 0), num_classes=3, **sizes, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("alternet_18", {}, ["bb", "ba", "ba", "ba"]),
        ("alternet_34", {}, ["bbb", "bbba", "bababa", "baba"]),
        ("alternet_50", {}, ["BBB", "BBBa", "BaBaBa", "BaBa"]),
        ("alternet_50", {"msa_depths": (0, 1, 1, 2)}, ["BBB", "BBBa", "BBBBBa", "BaBa"]),
        ("alternet_50", {"msa_depths": (1, 1, 3, 2)}, ["BBa", "BBBa", "BaBaBa", "BaBa"]),
        ("alternet_18", {"msa_depths": [0, 0, 0, 0]}, ["bb", "bb", "bb", "bb"]),
        ("alternet_101", {}, ["BBB", "BBBa", "B" * 17 + "BaBaBa", "BaBa"]),
    ],
)
def test_where_attention_is(small, name, arguments, expected):
    with torch.device("meta"):
        assert kinds(small(name, **arguments)) == expected


def test_paper_resnet_has_no_attention(small, images):
    model = small(msa_depths=(0, 0, 0, 0))
    assert not any("attn" in name for name in model.state_dict())
    assert model(images).shape == (2, 5)


def test_heads_widths_and_windows_of_the_stages(small):
    model = small("alternet_50", msa_depths=(1, 1, 1, 1))
    layers = [model.get_submodule(f"layer{stage}")[-1].attn for stage in (1, 2, 3, 4)]
    assert [layer.num_heads for layer in layers] == [1, 2, 2, 3]
    assert [layer.dim for layer in layers] == [8, 12, 16, 24]
    assert [layer.dim_out for layer in layers] == [32, 48, 64, 96]
    assert {tuple(layer.pos_embedding.shape) for layer in layers} == {(7, 7)}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("msa_depths", (0, 2, 1, 1), "msa_depths asks for 2 attention blocks in stage 2.*at most 1"),
        ("msa_depths", (0, 1, 1), "msa_depths must be 4 integers, each at least 0"),
        ("msa_depths", (0, 1, 1, -1), "msa_depths must be 4 integers, each at least 0"),
        ("msa_depths", 1, "msa_depths must be 4 integers"),
        ("msa_depths", (0, 1, 1, 1.0), "msa_depths must be 4 integers"),
        ("depths", (2, 2, 0, 2), "depths must be 4 integers, each at least 1"),
        ("widths", (8, 8, 8), "widths must be 4 integers, each at least 1"),
        ("num_heads", (1, 0, 1, 1), "num_heads must be 4 integers, each at least 1"),
        ("head_dim", 0, "head_dim must be a positive integer, got 0"),
        ("window_size", 0, "window_size must be a positive integer, got 0"),
        ("window_size", -4, "window_size must be a positive integer, got -4"),
        ("in_chans", 0, "in_chans must be a positive integer, got 0"),
        ("num_classes", -1, "num_classes must be an integer, at least 0, got -1"),
        ("drop_rate", 1.0, "drop_rate must be at least 0 and below 1, got 1.0"),
        ("drop_path_rate", -0.1, "drop_path_rate must be at least 0 and below 1, got -0.1"),
        ("global_pool", "", "num_classes must be 0, got 5"),
        ("img_size", (32, 32, 3), "img_size must be 2 integers, each at least 1"),
    ],
)
def test_wrong_arguments(small, argument, value, message):
    with pytest.raises(ValueError, match=message):
        small(**{argument: value})


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 16, 16), (2, 1, 16, 16), (2, 3, 16, 0)])
def test_wrong_images(small, shape):
    with pytest.raises(ValueError, match=r"images must be \[batch, 3, height, width\].*got \[" + str(shape[0])):
        small()(torch.zeros(shape))


def test_attention_block_widens_without_stride():
    block = AttentionBlock(12, 8, expansion=4, num_heads=2, head_dim=4, window_size=3)
    assert block(torch.randn(2, 12, 5, 4)).shape == (2, 32, 5, 4)
    with pytest.raises(ValueError, match="dim_in must be a multiple of the expansion 4, got 10"):
        AttentionBlock(10, 8, expansion=4, num_heads=2)


def test_skip_is_the_raw_input_unless_it_changes_shape():
    """With the branch silenced a block is the identity, or the shortcut of the activated input."""
    x = torch.randn(2, 8, 6, 6)
    same, wider = BasicBlock(8, 8).eval(), BasicBlock(8, 12, stride=2).eval()
    for block in (same, wider):
        torch.nn.init.zeros_(block.conv2[2].weight)
    torch.testing.assert_close(same(x), x, rtol=0, atol=0)
    torch.testing.assert_close(wider(x), wider.shortcut(torch.relu(wider.bn(x))), rtol=0, atol=0)


def test_drop_path_rises_linearly(small):
    rates = [module.drop_prob for module in small(drop_path_rate=0.14).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14])  # none in the first of 8 blocks
    assert not any(isinstance(module, DropPath) for module in small().modules())


def test_dropout_before_the_dense_layer(small, images):
    model = small(drop_rate=0.5)
    features = model.forward_features(images)
    dropped = model.forward_head(features, pre_logits=True)
    assert 0 < (dropped == 0).sum() < dropped.numel()
    assert torch.equal(*(model.eval().forward_head(features) for _ in range(2)))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 23), (33, 33)])
@pytest.mark.parametrize("stem_pool", [False, True])
def test_any_image_size(small, size, stem_pool):
    model = small(stem_pool=stem_pool).eval()
    images = torch.randn(2, 3, *size)
    out = model(images)
    assert out.shape == (2, 5)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(model(images[1:]), out[1:])  # images do not see each other, padded or not


@pytest.mark.parametrize("compiled", [False, True])
def test_checkpointing_changes_nothing_but_memory(compiled, images):
    plain = shallow(drop_path_rate=0.0 if compiled else 0.3)  # compiled code draws other random numbers
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    run = torch.compile(checkpointed, fullgraph=True, backend="aot_eager") if compiled else checkpointed
    saved = []
    for model in (plain, run):
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved[-1].append(t.numel()) or t, lambda t: t):
            saved.append([])
            loss = model(images).square().sum()
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")
    for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(a, b), name  # running statistics are updated once, not twice
    if not compiled:
        assert sum(saved[1]) < sum(saved[0]) / 3  # elements that autograd keeps between forward and backward


def test_hessian_vector_product(small):
    """Forward over reverse through the whole network, padded windows included, against reverse over reverse."""
    model = small(widths=(4, 4, 8, 8), num_heads=(1, 1, 1, 2), head_dim=4, msa_depths=(1, 1, 1, 1)).double().eval()
    images = torch.randn(2, 3, 10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    vector = {name: torch.cos(torch.arange(p.numel()).double()).view(p.shape) for name, p in parameters.items()}

    def loss(parameters):
        return functional_call(model, parameters, (images,)).logsumexp(-1).sum()

    _, forward = jvp(grad(loss), (parameters,), (vector,))
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(gradient, vector.values(), strict=True))
    for name, want in zip(leaves, torch.autograd.grad(inner, list(leaves.values())), strict=True):
        torch.testing.assert_close(forward[name], want, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")
    assert forward["layer4.1.attn.pos_embedding"].abs().max() > 0


def test_per_sample_gradients(small, images):
    model = small().double().eval()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, image):
        return functional_call(model, parameters, (image[None],)).logsumexp(-1).sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, images.double())
    for index, image in enumerate(images.double()):
        for name, alone in grad(loss)(parameters, image).items():
            torch.testing.assert_close(together[name][index], alone, rtol=1e-9, atol=1e-12)


def test_compiled_training_step(images):
    model = shallow()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for run in (model, compiled):
        run(images).square().sum().backward()
    for a, b in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; import alternet, timm; assert timm.is_model('alternet_18')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pretrained_weights_do_not_exist():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("alternet_18", pretrained=True)
