"""The study of mini-batch spectra: its numbers, its resuming, its summaries."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.studies.spectra import KIND, SpectraResult, ape, density, hessian_spectra, nep


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))


def batches(count=5, seed=0):
    torch.manual_seed(seed)
    return [(torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4,))) for _ in range(count)]


class Stopping(list):
    """Batches that are interrupted, as by Ctrl-C, when number ``at`` is asked for."""

    def __init__(self, items, at):
        super().__init__(items)
        self.at = at

    def __iter__(self):
        for index, item in enumerate(super().__iter__()):
            if index == self.at:
                raise KeyboardInterrupt
            yield item


def study(data=None, net=None, **arguments):
    return hessian_spectra(net or model(), data or batches(), progress=False, **arguments)


def assert_same(found, expected):
    for name in ("values", "residuals", "converged", "products", "sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.network, found.config) == (expected.network, expected.config)


def test_every_row_is_the_top_of_a_dense_hessian():
    net = model().double()
    result = study(net=net, k=3, weight_decay=0.5, tol=1e-6, seed=11)
    assert result.values.shape == result.residuals.shape == result.converged.shape == (5, 3)
    assert result.converged.all()
    for index, batch in enumerate(batches()):
        op = HessianOperator(net, F.cross_entropy, batch, weight_decay=0.5)
        exact = torch.linalg.eigvalsh(op.matmat(torch.eye(op.shape[0], dtype=op.dtype)))
        np.testing.assert_allclose(result.values[index], exact[exact.abs().argsort(descending=True)][:3], rtol=1e-9)
        alone = top_eigenvalues(op, 3, tol=1e-6, seed=11 + index)
        np.testing.assert_array_equal(result.residuals[index], alone.residuals)
        assert result.products[index] == alone.products
    assert result.sizes.tolist() == [4] * 5


def test_soft_targets_and_another_loss():
    def twice(output, targets):
        return 2 * F.cross_entropy(output, targets)

    soft = [(images, F.one_hot(targets, 3).float()) for images, targets in batches()]
    hard, doubled = study(tol=1e-6), study(data=soft, loss=twice, tol=1e-6)
    np.testing.assert_allclose(doubled.values, 2 * hard.values, rtol=1e-5)
    assert doubled.config["loss"] == "twice"


def test_the_model_keeps_its_modes():
    net = model().train()
    net[3].eval()
    study(net=net)
    assert [module.training for module in net] == [True, True, True, False, True]


def test_a_stopped_study_goes_on_where_it_was(tmp_path):
    whole = study()
    out = tmp_path / "deep" / "spectra.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study(data=Stopping(batches(), at=3), out=out)
    lines = out.read_text().splitlines()
    assert len(lines) == 1 + 3
    assert not out.with_suffix(".json").exists()
    assert_same(study(out=out), whole)
    assert out.read_text().splitlines()[:4] == lines
    assert_same(SpectraResult.load(out.with_suffix(".json")), whole)


FORWARD_PASSES = 2  # of a batch: the kept graph's, and one of a small part, by which its memory is bounded


def test_a_file_cut_anywhere_loses_one_batch_at_most(tmp_path):
    out = tmp_path / "spectra.jsonl"
    whole = study(out=out)
    content = out.read_bytes()
    for cut in np.linspace(0, len(content), 12, dtype=int):
        out.write_bytes(content[:cut])
        finished = max(content[:cut].count(b"\n") - 1, 0)
        asked = CountingForward(model())
        assert_same(study(net=asked.net, out=out), whole)
        assert asked.calls == FORWARD_PASSES * (5 - finished) + 5  # of all of them, the loss
        before, after = ([json.loads(line) for line in text.splitlines()] for text in (content, out.read_bytes()))
        assert [{**row, "seconds": None} for row in after[1:]] == [{**row, "seconds": None} for row in before[1:]]


class CountingForward:
    def __init__(self, net):
        self.net, self.calls = net, 0
        net.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tol": 1e-4}, "another study: tol was 0.001 and is 0.0001"),
        ({"k": 3}, "another study: k was 5 and is 3"),
        ({"weight_decay": 0.1}, "another study: weight_decay was 0.0 and is 0.1"),
        ({"seed": 7}, "another study: seed was 0 and is 7"),
        ({"loss": F.multi_margin_loss}, "another study: loss was .*multi_margin"),
        ({"net": model(seed=1)}, "another study: weights was"),
        ({"net": model().double()}, "another study: dtype was"),
        ({"data": batches(4)}, "another study: batches was 5 and is 4"),
        ({"data": batches(seed=1)}, "other images or targets as batch 0"),
        ({"data": [*batches()[:2], *reversed(batches()[2:])]}, "other images or targets as batch 2"),
    ],
)
def test_the_file_of_another_study_is_refused(tmp_path, change, message):
    out = tmp_path / "spectra.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study(data=Stopping(batches(), at=3), out=out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=message):
        study(**change, out=out)
    assert out.read_bytes() == before


def test_further_arguments_are_the_operators_and_part_of_the_study(tmp_path):
    out = tmp_path / "spectra.jsonl"
    head = study(k=2, params="4", engine="jvp", out=out)
    ops = [HessianOperator(model(), F.cross_entropy, batch, params="4") for batch in batches()]
    np.testing.assert_allclose(head.values, [top_eigenvalues(op, 2, seed=i).values for i, op in enumerate(ops)], 1e-4)
    assert head.config["operator"] == {"params": "4"}
    assert_same(study(k=2, params="4", engine="graph", micro_batch=4, out=out), head)  # another way to the same numbers
    with pytest.raises(ValueError, match=r'another study: operator\.params was "4" and is "1"'):
        study(k=2, params="1", out=out)
    frozen = [study(k=2, dropout="frozen", seed=seed).values for seed in (0, 0, 1)]
    np.testing.assert_array_equal(frozen[0], frozen[1])
    assert not np.allclose(frozen[0], frozen[2], rtol=1e-2)


def test_what_fails_at_once_leaves_no_file(tmp_path):
    out = tmp_path / "deep" / "spectra.jsonl"
    with pytest.raises(ValueError, match="params"):
        study(params="no such layer", out=out)
    assert list(tmp_path.iterdir()) == []
    study(params="4", k=2, out=out)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (0, '{"kind": "alternet fourier analysis"}', "is of kind 'alternet fourier analysis'"),
        (0, "images,labels", "damaged in line 1"),
        (2, '{"values": [1, 2', "damaged in line 3"),
        (2, "[1, 2]", "damaged in line 3"),
        (2, '{"values": [1, 2]}', "damaged in line 3: it lacks"),
        (2, {"values": 3.5}, r"a\.jsonl is damaged in line 3: values is 3\.5, expected a list of 5, each a number"),
        (2, {"values": [1.0] * 4}, "damaged in line 3: values is .*, expected a list of 5"),
        (2, {"values": [[1.0]] * 5}, "damaged in line 3: values is .*, expected a list of 5"),
        (3, {"converged": [1] * 5}, "damaged in line 4: converged is .*, each true or false"),
        (3, {"sizes": "four"}, 'damaged in line 4: sizes is "four", expected a whole number'),
        (4, {"data": None}, "damaged in line 5: data is null, expected a text"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, line, replacement, message):
    out = tmp_path / "spectra.jsonl"
    study(out=out)
    lines = out.read_text().splitlines()
    changed = isinstance(replacement, dict)
    lines[line] = json.dumps(json.loads(lines[line]) | replacement) if changed else replacement
    out.write_text("\n".join(lines) + "\n")
    before = out.read_bytes()
    with pytest.raises(ValueError, match=message):
        study(out=out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"a": 1}', '{"a": 1}\n{"b', '{"kind": "another"'])
def test_a_file_of_others_stays_as_it_is(tmp_path, content):
    out = tmp_path / "notes.jsonl"
    out.write_text(content)
    with pytest.raises(ValueError, match=r"out: .*notes\.jsonl is (damaged in line 1|of )"):
        study(out=out)
    assert out.read_text() == content


def test_another_study_keeps_its_torn_line(tmp_path):
    out = tmp_path / "spectra.jsonl"
    study(out=out)
    torn = out.read_bytes()[:-9]
    out.write_bytes(torn)
    with pytest.raises(ValueError, match="another study"):
        study(out=out, k=2)
    assert out.read_bytes() == torn


class Heads(nn.Module):
    """Attention whose number of heads is in none of its weights, nor in its repr."""

    def __init__(self, heads):
        super().__init__()
        self.heads, self.mix = heads, nn.Linear(12, 12)

    def forward(self, x):
        q = self.mix(x).flatten(1).unflatten(1, (self.heads, -1))
        return (q @ q.mT).softmax(-1).matmul(q).flatten(1)


def attentive(heads=3, activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Heads(heads), activation(), nn.Linear(12, 12), nn.Linear(12, 3))


def with_frozen(name):
    net = attentive()
    net.get_parameter(f"{name}.weight").requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"net": attentive(3)}, {"net": attentive(2)}, r"holds batch 0 with another loss: it was 1\.\d+ and is 1\."),
        ({"net": attentive()}, {"net": attentive(activation=nn.ReLU)}, "another study: structure was"),
        ({"net": with_frozen("1.mix")}, {"net": with_frozen("3")}, "another study: names was"),
        (
            {"loss": lambda output, targets: F.cross_entropy(output, targets)},
            {"loss": lambda output, targets: F.cross_entropy(output, targets, label_smoothing=0.1)},
            "holds batch 0 with another loss",
        ),
    ],
)
def test_another_network_or_loss_with_the_same_weights_is_refused(tmp_path, first, second, message):
    out = tmp_path / "spectra.jsonl"
    done = study(out=out, k=2, **first)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=message):
        study(out=out, k=2, **second)
    assert out.read_bytes() == before
    assert_same(study(out=out, k=2, **first), done)


def test_a_loss_rounded_otherwise_is_the_same(tmp_path):
    """As by another number of threads, or on another device."""
    out = tmp_path / "spectra.jsonl"
    done = study(out=out)
    header, *rows = map(json.loads, out.read_text().splitlines())
    rows = [row | {"loss": row["loss"] * (1 + 3e-6)} for row in rows]
    out.write_text("".join(json.dumps(line) + "\n" for line in (header, *rows)))
    assert_same(study(out=out), done)


def test_a_file_of_an_earlier_version_says_what_it_lacks(tmp_path):
    out = tmp_path / "spectra.jsonl"
    study(out=out)
    header, *rows = map(json.loads, out.read_text().splitlines())
    for name in ("names", "structure"):
        del header["config"][name]
    out.write_text("".join(json.dumps(line) + "\n" for line in (header, *rows)))
    with pytest.raises(ValueError, match=r"names was absent and is .*, structure was absent and is .*; remove it to"):
        study(out=out)


def test_diverged_weights_are_named_with_the_batch():
    data = batches()
    data[2][0][1] = float("nan")
    with pytest.raises(FloatingPointError, match="batch 2: the loss is nan"):
        study(data=data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "spectra.json"}, r"out: expected a name that ends in \.jsonl"),
        ({"k": 0}, "k: expected 1 to"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        study(**arguments)


def test_no_batches():
    with pytest.raises(ValueError, match="batches: got none"):
        hessian_spectra(model(), [])


def test_the_bar_says_what_is_done_and_left(tmp_path, capsys):
    out = tmp_path / "spectra.jsonl"
    with pytest.raises(KeyboardInterrupt):
        hessian_spectra(model(), Stopping(batches(), at=3), out=out, network="ViT")
    assert "3/5" in capsys.readouterr().err
    hessian_spectra(model(), batches(), out=out, network="ViT")
    shown = capsys.readouterr().err
    assert "Hessian of ViT" in shown
    assert "5/5" in shown
    hessian_spectra(model(), batches(), progress=False)
    assert capsys.readouterr().err == ""


def test_a_result_comes_back_from_its_file(tmp_path):
    result = study()
    result.save(tmp_path / "result.json")
    assert_same(SpectraResult.load(tmp_path / "result.json"), result)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["kind"] == KIND
    assert content["summary"] == result.summary()


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"kind": KIND, "network": "ViT"}))
    with pytest.raises(ValueError, match="not whole"):
        SpectraResult.load(path)
    with pytest.raises(FileNotFoundError):
        SpectraResult.load(tmp_path / "none.json")


VALUES = np.array([[-4.0, 2, 1], [3, -2, 0], [8, 6, -5], [9, -1, 0.5]])


def test_nep_counts_negative_values_and_ape_averages_positive_ones():
    assert nep(VALUES).value == 4 / 12
    assert ape(VALUES).value == (2 + 1 + 3 + 8 + 6 + 9 + 0.5) / 7
    assert (nep(-np.abs(VALUES) - 1).value, nep(np.abs(VALUES)).value) == (1.0, 0.0)


def test_the_average_of_nothing_is_nan_and_null_in_json():
    estimate = ape(-np.ones((4, 2)))
    assert all(np.isnan([estimate.value, estimate.low, estimate.high]))
    rows = np.ones((4, 2))
    result = SpectraResult(-rows, rows, rows > 0, rows[:, 0], rows[:, 0], "ViT", {})
    assert result.summary()["ape"] == {"value": None, "low": None, "high": None}


def test_few_mini_batches_have_no_interval():
    """The interval of two would be from one to the other, and miss the truth every second time."""
    for count, known in ((1, False), (2, False), (5, False), (6, True)):
        estimate = nep(np.tile(VALUES, (2, 1))[:count])
        assert not math.isnan(estimate.value)
        assert np.isfinite([estimate.low, estimate.high]).tolist() == [known, known]


def test_the_interval_is_over_mini_batches_and_covers_the_truth():
    """Mini-batches all negative or all positive: 100 of them tell about 1/4 as 100 coins do, not as 500."""
    covered, widths = 0, []
    for seed in range(200):
        signs = np.where(np.random.default_rng(seed).random(100) < 0.25, -1.0, 1.0)
        estimate = nep(np.repeat(signs[:, None], 5, axis=1), seed=seed)
        covered += estimate.low <= 0.25 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert 0.90 <= covered / 200 <= 0.99
    np.testing.assert_allclose(np.mean(widths), 2 * 1.96 * np.sqrt(0.25 * 0.75 / 100), rtol=0.05)
    values = np.tile(VALUES, (2, 1))
    assert nep(values, seed=1) == nep(values, seed=1)


def test_the_summary_counts_what_is_not_sure():
    residuals = np.full(VALUES.shape, 0.6)
    converged = np.array([[True, True, False]] * 4)
    result = SpectraResult(VALUES, residuals, converged, np.array([7, 8, 9, 10]), np.full(4, 16), "ViT", {})
    summary = result.summary()
    assert (summary["sign_uncertain"], summary["not_converged"], summary["products"]) == (2, 4, 34)
    assert summary["quantiles"]["0.5"] == np.median(VALUES)
    assert summary["nep"]["value"] == nep(VALUES).value


def test_the_density_is_a_density_of_the_values():
    values = np.random.default_rng(0).normal(30, 5, (400, 5))
    grid = np.linspace(-20, 80, 1001)
    curve = density(values, grid)
    np.testing.assert_allclose(curve.sum() * (grid[1] - grid[0]), 1, rtol=1e-6)
    exact = np.exp(-0.5 * ((grid - 30) / 5) ** 2) / (5 * np.sqrt(2 * np.pi))
    assert np.abs(curve - exact).max() <= 0.08 * exact.max()
    lone = density(np.array([3.0]), np.array([2.0, 3.0]), bandwidth=0.5)
    np.testing.assert_allclose(lone, np.exp([-2.0, 0.0]) / (0.5 * np.sqrt(2 * np.pi)))


def test_a_tail_does_not_smear_the_bulk_and_equal_values_stay_visible():
    grid = np.linspace(-10, 1000, 2000)
    bulk = np.random.default_rng(0).normal(10, 1, 950)
    tail = np.linspace(100, 900, 50)
    assert density(np.concatenate([bulk, tail]), grid).max() > 0.2
    equal = density(np.full((8, 5), 40.0), grid)
    np.testing.assert_allclose(equal.sum() * (grid[1] - grid[0]), 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nep(np.ones(4)), r"values: expected \[batches, k\]"),
        (lambda: ape(np.ones((0, 5))), r"values: expected \[batches, k\]"),
        (lambda: density(np.ones(0), np.arange(3.0)), "values: got none"),
        (lambda: density(np.ones(3), np.arange(3.0), bandwidth=0.0), "bandwidth: expected a positive number"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()
