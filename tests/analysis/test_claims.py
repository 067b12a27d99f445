"""Verdicts follow the intervals, intervals follow the data, and each claim looks at the numbers it names."""

import csv
import json
import math

import numpy as np
import pytest

from alternet.analysis.claims import CASES, judge, judge_study, save_claims, verdict
from alternet.analysis.features import Tap
from alternet.analysis.features.per_image import PerImage
from alternet.analysis.studies import paper
from alternet.analysis.studies.spectra import SpectraResult, ape, nep

BATCHES, IMAGES = 24, 200


def spectra(negative: float, size: float, batches: int = BATCHES, seed: int = 0) -> SpectraResult:
    """Eigenvalues of about ``size``, a share ``negative`` of them below 0."""
    rng = np.random.default_rng(seed)
    values = size * rng.uniform(0.8, 1.2, (batches, 5))
    values = np.where(rng.random(values.shape) < negative, -values, values)
    whole = {"residuals": np.zeros_like(values), "converged": np.ones_like(values, bool)}
    return SpectraResult(
        values, **whole, products=np.full(batches, 9), sizes=np.full(batches, 16), network="", config={}
    )


def stream(kinds: str, steps: dict[str, float], *, spread: float = 0.1, sizes: tuple = (), correct: float = 0.9):
    """A network whose sub-blocks of a kind ("a" attention, "m" MLP, "c" convolution) change both statistics by a step.

    ``|`` begins a stage, which halves the maps. The variance changes by the exponential of the step.
    """
    rng = np.random.default_rng(1)
    names = {"a": "msa", "m": "mlp", "c": "conv"}
    taps, sizes, changes = [Tap("stem", "stem", 0, 0.0, "", "output")], [(32, 32)], []
    stage = 1
    for letter in kinds:
        if letter == "|":
            stage += 1
            continue
        kind = names[letter]
        taps.append(Tap(f"{stage}.{len(taps)}", kind, stage, 0.5, "", "output"))
        sizes.append((64 >> stage, 64 >> stage))
        changes.append(
            np.full(IMAGES, steps[kind] if sizes[-1] == sizes[-2] else 100.0) + rng.normal(0, spread, IMAGES)
        )
    path = np.cumsum([rng.normal(0, 1, IMAGES), *changes], axis=0).T
    right = np.arange(IMAGES) < correct * IMAGES
    return PerImage("", tuple(taps), tuple(sizes), path, np.exp(path), right)


RESNET = stream("cc|cc|cc", {"conv": 0.3}, correct=0.80)
VIT = stream("amamam", {"msa": -0.2, "mlp": 0.4}, correct=0.70)
ALTERNET = stream("cc|ca|ca", {"conv": 0.3, "msa": -0.2}, correct=0.95)
AS_CLAIMED = {"resnet": spectra(0.02, 300), "vit": spectra(0.5, 30), "alternet": spectra(0.2, 200)}
FEATURES = {"resnet": RESNET, "vit": VIT, "alternet": ALTERNET}


def by_statement(claims, start):
    (claim,) = [claim for claim in claims if claim.statement.startswith(start)]
    return claim


@pytest.mark.parametrize(
    ("low", "high", "expected", "found"),
    [
        (0.1, 0.2, "> 0", "supported"),
        (-0.1, 0.2, "> 0", "undecided"),
        (-0.2, -0.1, "> 0", "not supported"),
        (0.0, 0.0, "> 0", "not supported"),  # no difference at all is not more
        (0.0, 0.2, "> 0", "undecided"),
        (-0.2, -0.1, "< 0", "supported"),
        (-0.2, 0.1, "< 0", "undecided"),
        (0.0, 0.0, "< 0", "not supported"),
        (0.2, 0.9, "< 1", "supported"),
        (0.9, 1.1, "< 1", "undecided"),
        (1.1, 1.2, "> 1", "supported"),
        (math.nan, math.nan, "> 1", "undecided"),
    ],
)
def test_verdict(low, high, expected, found):
    assert verdict(low, high, expected) == found


def test_everything_as_in_the_paper_is_supported():
    claims = judge(AS_CLAIMED, FEATURES)
    assert len(claims) == 4 + len(CASES) + 2
    assert {claim.verdict for claim in claims} == {"supported"}
    assert all(claim.low <= claim.value <= claim.high for claim in claims)


def test_everything_the_other_way_round_is_not_supported():
    other = {"resnet": AS_CLAIMED["vit"], "vit": AS_CLAIMED["resnet"], "alternet": spectra(0.9, 1000)}
    features = {
        "resnet": stream("cc|cc|cc", {"conv": -0.3}, correct=0.95),
        "vit": stream("amamam", {"msa": 0.2, "mlp": -0.4}),
        "alternet": stream("cc|ca|ca", {"conv": -0.3, "msa": 0.2}, correct=0.7),
    }
    assert {claim.verdict for claim in judge(other, features)} == {"not supported"}


def test_nothing_there_is_undecided_or_not_supported():
    same = dict.fromkeys(("resnet", "vit", "alternet"), spectra(0.3, 100))
    features = {
        "resnet": stream("cc|cc|cc", {"conv": 0.0}, spread=1.0),
        "vit": stream("amamam", {"msa": 0.0, "mlp": 0.0}, spread=1.0),
        "alternet": stream("cc|ca|ca", {"conv": 0.0, "msa": 0.0}, spread=1.0),
    }
    claims = judge(same, features)
    assert {claim.verdict for claim in claims if claim.topic == "Hessian"} == {"not supported"}  # the very same numbers
    assert "supported" not in {claim.verdict for claim in claims if claim.topic == "Fourier"}


def test_hessian_claims_are_differences_of_nep_and_ratios_of_ape():
    claims = judge(AS_CLAIMED, {})
    resnet, vit, alternet = (AS_CLAIMED[name].values for name in ("resnet", "vit", "alternet"))
    less_convex = by_statement(claims, "The loss of a ViT is less convex")
    assert less_convex.value == pytest.approx(nep(vit).value - nep(resnet).value)
    assert less_convex.detail.startswith(f"NEP: ResNet {nep(resnet).value:.1%}, ViT {nep(vit).value:.1%}")
    flatter = by_statement(claims, "The loss of a ViT is flatter")
    assert flatter.value == pytest.approx(ape(vit).value / ape(resnet).value)
    between = by_statement(claims, "AlterNet lies between the two in flatness")
    first, second = ape(resnet).value / ape(alternet).value, ape(alternet).value / ape(vit).value
    assert between.value == pytest.approx(min(first, second))


def test_the_study_judges_the_vit_alone_and_on_less_data():
    less = spectra(0.8, 30, batches=12, seed=1)  # mini-batches of its own, of another number
    claims = judge_study({**AS_CLAIMED, "vit_less": less})
    assert len(claims) == 6
    assert {claim.verdict for claim in claims} == {"supported"}
    assert by_statement(claims, "The loss of a ViT is not convex").value == nep(AS_CLAIMED["vit"].values).value
    data = by_statement(claims, "More data make")
    assert data.value == pytest.approx(nep(less.values).value - nep(AS_CLAIMED["vit"].values).value)
    convex = judge_study({"vit": spectra(0.0, 30), "vit_less": spectra(0.0, 30, seed=1)})
    assert [claim.verdict for claim in convex] == ["not supported", "not supported"]
    assert judge_study({"resnet": AS_CLAIMED["resnet"]}) == ()


def test_less_data_on_the_same_mini_batches_is_paired():
    """A mini-batch more negative everywhere: apart, the difference would drown in that between mini-batches."""
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((24, 1)) < 0.5, -30.0, 30.0) * np.ones((24, 5))
    vit, less = spectra(0, 30), spectra(0, 30)
    vit.values[:], less.values[:] = signs, signs
    less.values[:, 0] = -30
    apart, paired = judge_study({"vit": vit, "vit_less": less, "vit_less_elsewhere": less})[-2:]
    assert apart.value == paired.value > 0
    assert (apart.verdict, paired.verdict) == ("undecided", "supported")


def test_mini_batches_of_other_data_are_resampled_apart():
    """The variance of a difference of independent shares is the sum of theirs."""
    one, other = spectra(0.5, 30, batches=200), spectra(0.5, 30, batches=200, seed=1)
    data = by_statement(judge_study({"vit": one, "vit_less": other}), "More data make")
    assert data.high - data.low == pytest.approx(2 * 1.96 * np.sqrt(2 * 0.25 / 1000), rel=0.1)


def test_paired_mini_batches_make_the_difference_surer():
    """Two networks that differ by a little on every mini-batch, and mini-batches that differ by much."""
    rng = np.random.default_rng(0)
    hard = 10 ** rng.uniform(0, 2, (BATCHES, 1))
    base = spectra(0, 1)
    resnet = SpectraResult(**{**vars(base), "values": base.values * hard})
    vit = SpectraResult(**{**vars(base), "values": base.values * hard * 0.95})
    ratio = by_statement(judge({"resnet": resnet, "vit": vit}, {}), "The loss of a ViT is flatter")
    assert ratio.verdict == "supported"
    assert ape(vit.values).high > ape(resnet.values).low  # which the two intervals alone would not show


def test_intervals_have_the_coverage_they_name():
    """Of 200 studies of the same two networks, about 95 % have an interval round the true difference of NEP."""
    hits = 0
    for seed in range(200):
        found = {
            "resnet": spectra(0.2, 1, batches=40, seed=2 * seed),
            "vit": spectra(0.5, 1, batches=40, seed=2 * seed + 1),
        }
        claim = judge(found, {}, seed=seed)[0]
        hits += claim.low <= 0.3 <= claim.high
    assert 180 <= hits <= 198


def test_sub_blocks_vary_too():
    """One of three attention blocks goes the other way: images alone would be sure, three blocks are not."""
    vit = stream("amamam", {"msa": -0.2, "mlp": 0.4}, spread=0.01)
    vit.high_frequency[:, -2:] += 0.9
    claim = by_statement(judge({}, {"vit": vit}), "MSAs are low-pass filters")
    assert (claim.verdict, claim.detail) == ("undecided", "2 of 3 sub-blocks as claimed")
    assert claim.value == pytest.approx(-0.2, abs=0.01)


def test_steps_between_map_sizes_are_left_out():
    """``stream`` puts a huge step at every stage boundary; in the last stages of AlterNet only attention is judged."""
    claims = judge({}, FEATURES)
    assert by_statement(claims, "Convolutions are high-pass filters").value == pytest.approx(0.3, abs=0.05)
    assert by_statement(claims, "Convolutions are high-pass filters").detail.startswith(
        "4 of 4"
    )  # stage 1 has the stem's size
    only_between = stream("c|c|c", {"conv": 0.3})
    named = [claim.statement for claim in judge({}, {"resnet": only_between})]
    assert [name for name in named if name.startswith("Variance peaks")] == []


def test_variance_peak_needs_every_stage():
    claim = by_statement(judge({}, FEATURES), "Variance peaks")
    assert (claim.verdict, claim.detail) == ("supported", "3 of 3 stages as claimed")
    sunken = stream("cc|cc|cc", {"conv": 0.3}, spread=0.01)
    sunken.variance[:, 2] = 0.5 * sunken.variance[:, 1]
    claim = by_statement(judge({}, {"resnet": sunken}), "Variance peaks")
    assert (claim.verdict, claim.detail) == ("not supported", "2 of 3 stages as claimed")
    assert claim.value == pytest.approx(math.log(0.5), abs=0.01)


def test_accuracy():
    claim = by_statement(judge({}, FEATURES), "AlterNet beats")
    assert claim.value == pytest.approx(0.15)
    assert claim.detail == "ResNet 80.0%, ViT 70.0%, AlterNet 95.0%"
    assert claim.low < 0.15 < claim.high


def test_what_is_missing_is_left_out():
    assert judge({}, {}) == ()
    assert judge({"vit": AS_CLAIMED["vit"]}, {}) == ()
    assert len(judge({name: AS_CLAIMED[name] for name in ("resnet", "vit")}, {})) == 2
    assert {claim.statement for claim in judge({}, {"vit": VIT})} == {c.statement for c in CASES if c.network == "vit"}


@pytest.mark.parametrize("batches", [1, 2, 5, 6])
def test_few_mini_batches_decide_nothing(batches):
    """Two lie on one side of the truth by chance in every second study."""
    claims = judge({name: spectra(n, s, batches=batches) for name, n, s in (("resnet", 0, 300), ("vit", 0.5, 30))}, {})
    assert {claim.verdict for claim in claims} == {"undecided" if batches < 6 else "supported"}
    assert math.isnan(claims[0].low) == (batches < 6)


def test_no_positive_eigenvalue_leaves_flatness_undecided():
    claims = judge({"resnet": spectra(0.1, 300), "vit": spectra(1.0, 30)}, {})
    assert [claim.verdict for claim in claims] == ["supported", "undecided"]


def test_networks_must_share_their_mini_batches():
    with pytest.raises(ValueError, match=r"as many mini-batches for all networks, got \[12, 24\]"):
        judge({**AS_CLAIMED, "vit": spectra(0.5, 30, batches=12)}, {})


def test_same_seed_same_intervals():
    assert judge(AS_CLAIMED, FEATURES) == judge(AS_CLAIMED, FEATURES)
    assert judge(AS_CLAIMED, FEATURES) != judge(AS_CLAIMED, FEATURES, seed=1)


def test_files(tmp_path):
    claims = judge({"resnet": spectra(0.1, 300), "vit": spectra(1.0, 30)}, {})
    save_claims(claims, tmp_path)
    stored = json.loads((tmp_path / "claims.json").read_text())
    assert stored["level"] == 0.95
    assert [row["verdict"] for row in stored["claims"]] == ["supported", "undecided"]
    assert stored["claims"][1]["value"] is None
    with (tmp_path / "claims.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["statement"] for row in rows] == [claim.statement for claim in claims]
    assert float(rows[0]["value"]) == claims[0].value


def test_the_papers_numbers():
    assert len(paper.VIT_MSA_STEPS) == len(paper.VIT_MLP_STEPS) == 12
    assert [len(stage) for stage in paper.RESNET_STAGES] == [3, 4, 6, 3]  # ResNet-50
    assert len(paper.RESNET_STEPS) == 13
    assert paper.RESNET_STEPS[0] == 0.97
    assert sum(paper.RESNET_STEPS[:3]) == pytest.approx(paper.RESNET_STAGES[0][-1] - paper.RESNET_STEM)
