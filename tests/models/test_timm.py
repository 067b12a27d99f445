"""What timm asks of its models, asked of ours."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

NAMES = ["alternet_18", "alternet_34", "alternet_50", "alternet_101", "alternet_152"]
RUN = NAMES[:3]  # the two others differ from these in depth only


def test_registered():
    assert timm.list_models("alternet_*") == NAMES
    assert timm.list_pretrained("alternet_*") == []


def test_the_line_of_the_readme():
    model = timm.create_model("alternet_18", num_classes=10, img_size=32, window_size=4, stem_pool=False)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_default_configuration_is_true(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        config = model.default_cfg
        features = model.forward_features(torch.randn(1, *config["input_size"]))
        assert features.shape == (1, model.num_features, *config["pool_size"])
        assert model.forward_head(features).shape == (1, config["num_classes"])
        state = model.state_dict()
    assert config["first_conv"] + ".weight" in state
    assert config["classifier"] + ".weight" in state
    assert model.get_classifier() is model.get_submodule(config["classifier"])


def test_image_size_goes_into_the_configuration(small):
    model = small(img_size=(28, 30), in_chans=1)
    assert model.pretrained_cfg["input_size"] == (1, 28, 30)
    assert model.pretrained_cfg["pool_size"] == (4, 4)
    assert resolve_model_data_config(model)["input_size"] == (1, 28, 30)
    assert model.forward_features(torch.randn(1, 1, 28, 30)).shape[2:] == (4, 4)
    other = small(img_size=32, pretrained_cfg_overlay={"crop_pct": 1.0})
    assert (other.pretrained_cfg["crop_pct"], other.pretrained_cfg["input_size"]) == (1.0, (3, 32, 32))


@pytest.mark.parametrize("name", RUN)
def test_backward_reaches_every_parameter(small, images, name):
    model = small(name)
    model(images).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", RUN)
def test_head(small, images, name):
    model = small(name).eval()
    features = model.forward_features(images)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (2, model.num_features, 2, 2)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.forward_head(features), model(images))
    torch.testing.assert_close(model.get_classifier()(pooled), model(images))
    torch.testing.assert_close(pooled, features.mean((2, 3)))

    model.reset_classifier(0)
    torch.testing.assert_close(model(images), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images), features)
    model.reset_classifier(7, "catavgmax")
    assert (model.num_classes, model.head_hidden_size) == (7, 2 * model.num_features)
    assert model(images).shape == (2, 7)
    assert not model.head.training
    with pytest.raises(ValueError, match="num_classes must be 0, got 7"):
        model.reset_classifier(7, "")


def test_no_head_from_the_start(small, images):
    assert small(num_classes=0)(images).shape == (2, 24)
    assert small(num_classes=0, global_pool="")(images).shape == (2, 24, 2, 2)
    assert isinstance(small(num_classes=0).get_classifier(), torch.nn.Identity)


def test_new_head_keeps_the_dtype(small, images):
    model = small().double()
    model.reset_classifier(3)
    assert model(images.double()).dtype == torch.float64


@pytest.mark.parametrize("stem_pool", [False, True])
def test_feature_info_is_true(small, stem_pool):
    model = small(features_only=True, stem_pool=stem_pool).eval()
    images = torch.randn(1, 3, 64, 64)
    for out, channels, reduction in zip(
        model(images), model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert out.shape == (1, channels, 64 // reduction, 64 // reduction)


@pytest.mark.parametrize("way", ["list", "dict", "hook", "fx", "getter"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_features_only(small, images, way):
    whole = small().eval()
    wanted = whole.forward_intermediates(images, indices=[1, 3], intermediates_only=True)
    model = small(features_only=True, feature_cls=way, out_indices=(1, 3)).eval()
    out = model(images)
    for got, want in zip(out.values() if isinstance(out, dict) else out, wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_forward_intermediates(small, images):
    model = small().eval()
    features, everything = model.forward_intermediates(images)
    torch.testing.assert_close(features, model.forward_features(images))
    assert [tuple(x.shape[1:]) for x in everything] == [(8, 16, 16), (8, 16, 16), (12, 8, 8), (16, 4, 4), (24, 2, 2)]
    assert (everything[-1] < 0).any()  # the residual stream; normalised and activated on request
    torch.testing.assert_close(model.forward_intermediates(images, norm=True)[1][-1], features)

    last, early = model.forward_intermediates(images, indices=[0, 2], stop_early=True)
    torch.testing.assert_close(early, [everything[0], everything[2]])
    torch.testing.assert_close(last, everything[2])
    assert len(model.forward_intermediates(images, indices=2, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize(("indices", "layers"), [([0], 0), ([1, 2], 2), ([-1], 4)])
def test_pruning_keeps_what_is_wanted(small, images, indices, layers):
    model = small().eval()
    wanted = model.forward_intermediates(images, indices, intermediates_only=True)
    kept = model.prune_intermediate_layers(indices)
    torch.testing.assert_close(model.forward_intermediates(images, kept, intermediates_only=True), wanted)
    stages = {name.split(".")[0] for name in model.state_dict()} & {"layer1", "layer2", "layer3", "layer4"}
    assert len(stages) == layers
    assert model(images).shape == (2, model.num_features, *wanted[-1].shape[2:])


def test_parameter_groups(small):
    model = small(msa_depths=(1, 1, 1, 1))
    tables = {f"layer{stage}.1.attn.pos_embedding" for stage in (1, 2, 3, 4)}
    assert model.no_weight_decay() == tables
    plain, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    exempt = {id(parameter) for parameter in plain["params"]}
    assert {id(model.get_parameter(name)) for name in tables} < exempt
    assert len(exempt) + len(decayed["params"]) == len(list(model.parameters()))

    groups = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    order = ["layer0.layer0.0", "layer1.0.conv1", "layer1.1.conv", "layer4.1.conv", "classifier.0.dense"]
    scales = [scale[id(model.get_parameter(f"{name}.weight"))] for name in order]
    assert scales == sorted(scales)
    assert len(set(scales)) == len(scales)


def test_copies(small, images, tmp_path):
    model = small().eval()
    other = small(drop_path_rate=0.1).eval()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))


def test_channels_last(small, images):
    model = small().eval()
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [16, 19])
def test_bfloat16_autocast(small, size):
    model = small()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all(), name
    model.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model(images)
    torch.testing.assert_close(low.double(), copy.deepcopy(model).double()(images.double()), rtol=0.05, atol=0.02)


def test_whole_model_in_bfloat16(small, images):
    model = small().eval()
    expected = model(images)
    out = model.bfloat16()(images.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)
