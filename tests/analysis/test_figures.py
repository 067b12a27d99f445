"""Figures are whole PNG files that show what the results say; nothing of pyplot's global state is used."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alternet.analysis.features import Tap
from alternet.analysis.features.fourier import FourierResult
from alternet.analysis.features.similarity import SimilarityResult
from alternet.analysis.features.variance import VarianceResult
from alternet.analysis.figures import (
    draw_density,
    draw_estimates,
    draw_fourier,
    draw_landscape,
    draw_lesion,
    draw_moments,
    draw_noise,
    draw_similarity,
    draw_spectra,
    draw_training,
    draw_training_spectra,
    draw_variance,
    style,
)
from alternet.analysis.figures.density import _draw_densities as fill_densities
from alternet.analysis.figures.eigenvalue_axis import EigenvalueScale
from alternet.analysis.figures.fourier import _draw as fill_fourier
from alternet.analysis.figures.landscape import _draw as fill_landscape
from alternet.analysis.figures.lesion import _draw as fill_lesion
from alternet.analysis.figures.moments import _draw as fill_moments
from alternet.analysis.figures.noise import _draw as fill_noise
from alternet.analysis.figures.similarity import _draw as fill_similarity
from alternet.analysis.figures.spectra import _draw as fill_spectra
from alternet.analysis.figures.training import _draw as fill_training
from alternet.analysis.figures.training_spectra import _draw_densities as fill_training_spectra
from alternet.analysis.figures.training_spectra import _draw_estimates as fill_estimates
from alternet.analysis.figures.variance import _draw as fill_variance
from alternet.analysis.interventions.lesion import LesionResult, Unit
from alternet.analysis.interventions.noise import Noise, NoiseResult
from alternet.analysis.landscape import LandscapeResult
from alternet.analysis.solvers.density import SpectralDensity
from alternet.analysis.solvers.trace import Moments
from alternet.analysis.studies.spectra import SpectraResult, ape, nep

SIZES = [(8, 8), (8, 8), (8, 8), (4, 4), (4, 4), (1, 1)]
KINDS = ["stem", "conv", "msa", "conv", "msa", "conv"]
STAGES = [0, 1, 1, 2, 2, 3]
TAPS = [
    Tap(f"tap{i}", kind, stage, i / 5, f"block{i}", "output")
    for i, (kind, stage) in enumerate(zip(KINDS, STAGES, strict=True))
]


def fourier_result(network="AlterNet", axis="exact"):
    means = [np.linspace(3, 3 - i, size[0] // 2 + (axis == "exact")) for i, size in enumerate(SIZES[:-1])]
    means.append(np.array([0.5]))
    labels = tuple(np.linspace(0, 1, len(mean)) for mean in means)
    return FourierResult(network, 32, tuple(TAPS), tuple(SIZES), labels, tuple(means), axis)


def variance_result(network="AlterNet", values=(1, 2, 1.5, 0.5, 0.25)):
    return VarianceResult(network, 32, tuple(TAPS), tuple(SIZES), np.array([*values, np.nan], dtype=float))


def similarity_result(other=None):
    other_taps = TAPS if other is None else TAPS[:4]
    depths = np.subtract.outer([tap.depth for tap in TAPS], [tap.depth for tap in other_taps])
    cka = np.exp(-abs(depths))
    cka[5] = np.nan
    return SimilarityResult("AlterNet", other, 32, tuple(TAPS), tuple(other_taps), cka)


def spectra_result(values, network="ViT"):
    values = np.array(values, dtype=float)
    count = len(values)
    residuals, converged = np.zeros_like(values), np.ones_like(values, dtype=bool)
    return SpectraResult(values, residuals, converged, np.full(count, 9), np.full(count, 16), network, {})


def history(epochs):
    return [
        {"epoch": i, "learning_rate": 1e-3, "train_loss": 3 / i, "test_loss": 2 / i, "test_accuracy": 1 - 1 / (1 + i)}
        for i in range(1, epochs + 1)
    ]


def random_spectra(network, scale, negative):
    values = scale * np.exp(np.random.default_rng(0).normal(0, 0.3, (20, 5)))
    values[:negative, 0] *= -0.5
    return spectra_result(values, network)


COURSE = {
    "ResNet": {1: random_spectra("ResNet", 50, 4), 5: random_spectra("ResNet", 300, 0)},
    "ViT": {0: random_spectra("ViT", 3, 9), 1: random_spectra("ViT", 10, 8), 5: random_spectra("ViT", 30, 5)},
}


def spectral_density(size, probes):
    rng = np.random.default_rng(size)
    weights = rng.random((probes, 9))
    return SpectralDensity(rng.normal(0, size, (probes, 9)), weights / weights.sum(1, keepdims=True), size, 9 * probes)


DENSITIES = {"blocks.0": spectral_density(300, 4), "head": spectral_density(40, 1)}

MOMENTS = {"blocks.0": Moments(120.0, 3.0, 400.0, 8.0, 60), "head": Moments(-7.0, float("nan"), 9.0, float("nan"), 3)}


UNITS = [Unit(tap.name, tap.kind, tap.stage, tap.depth, tap.module, "zero") for tap in TAPS[1:] if tap.name != "tap3"]


def right_images(*shares, images=40):
    """A row for every share, in which about so many images are right, not only some of the first."""
    return np.array([(np.arange(images) + 1) % images < share * images for share in shares])


def noise_result(network="ViT", frequencies=(0.1, 0.5, 0.9), images=40, **noise):
    noise = Noise(**{"magnitude": 0.2, "half_width": 0.1, "equalize_energy": False, "seed": 0} | noise)
    correct = right_images(*np.linspace(0.7, 0.4, len(frequencies)), images=images)
    return NoiseResult(network, np.arange(images) < 0.8 * images, correct, np.array(frequencies), noise)


def lesion_result(network="AlterNet"):
    correct = right_images(0.1, 0.6, 0.8, 0.7)
    return LesionResult(network, np.arange(40) < 32, correct, tuple(UNITS), (0.5, 0.9))


def landscape_result(network="ViT", steepness=1.0, **changes):
    x = np.linspace(-1, 1, 5)
    squares = x[None] ** 2 + x[:, None] ** 2
    grids = {"nll": 0.5 + steepness * squares, "squared_norm": 40 * (1 + squares), "sum_of_norms": 20 * (1 + squares)}
    result = LandscapeResult(network, 32, "filter", 0, 0.05, "squared", x, x, **grids)
    return replace(result, **changes)


def with_holes(result):
    nll = result.nll.copy()
    nll[0] = np.nan
    return replace(result, nll=nll)


def filled(fill, *results):
    figure = Figure()
    fill(*results, figure)
    return figure


DRAWINGS = {
    "fourier": lambda path: draw_fourier([fourier_result("ResNet"), fourier_result("ViT"), fourier_result()], path),
    "variance": lambda path: draw_variance([variance_result("ResNet"), variance_result()], path),
    "similarity": lambda path: draw_similarity([similarity_result(), similarity_result("ViT")] * 2, path),
    "noise": lambda path: draw_noise([noise_result("ResNet"), noise_result()], path),
    "lesion": lambda path: draw_lesion([lesion_result("ResNet"), lesion_result()], path),
    "spectra": lambda path: draw_spectra([random_spectra("ViT", 30, 5), random_spectra("ResNet", 300, 0)], path),
    "landscape": lambda path: draw_landscape([landscape_result(), with_holes(landscape_result("ResNet", 1e9))], path),
    "density": lambda path: draw_density(DENSITIES, path),
    "moments": lambda path: draw_moments(MOMENTS, path),
    "training spectra": lambda path: draw_training_spectra(COURSE, path),
    "estimates": lambda path: draw_estimates(COURSE, path),
    "training": lambda path: draw_training({"ViT": history(3), "ResNet": history(1)}, path),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_a_whole_png(tmp_path, name):
    path = tmp_path / "new folder" / f"{name}.png"
    DRAWINGS[name](path)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == style.WIDTH * style.DOTS_PER_INCH
        colours = len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))
    assert colours > 50  # an empty page has a handful
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_old_picture_stays_where_a_new_one_fails(tmp_path):
    path = tmp_path / "variance.png"
    draw_variance([variance_result()], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="same first dimension"):  # fewer values than taps
        draw_variance([replace(variance_result(), variance=np.ones(2))], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["variance.png"]


@pytest.mark.parametrize(
    ("draw", "results"),
    [
        (draw_fourier, []),
        (draw_variance, []),
        (draw_similarity, []),
        (draw_noise, []),
        (draw_noise, [noise_result(), noise_result(seed=1)]),
        (draw_noise, [noise_result(), noise_result(equalize_energy=True)]),
        (draw_lesion, []),
        (draw_spectra, []),
        (draw_training, {}),
        (draw_spectra, [spectra_result(np.empty((0, 5)))]),
        (draw_training, {"ViT": []}),
        (draw_training_spectra, {}),
        (draw_estimates, {"ViT": {}}),
        (draw_density, {}),
        (draw_moments, {}),
        (draw_landscape, []),
        (draw_landscape, [landscape_result(), landscape_result(normalize="paper")]),
        (draw_fourier, [fourier_result(), fourier_result(axis="paper")]),
    ],
)
def test_nothing_to_draw_is_an_error(tmp_path, draw, results):
    with pytest.raises(ValueError, match=r"^(results|histories|course|densities|found): .*(got|has no)"):
        draw(results, tmp_path / "figure.png")
    assert not any(tmp_path.iterdir())


class TestLandscape:
    def test_a_column_is_the_surface_and_contours_with_and_without_l2(self):
        results = [landscape_result(), landscape_result("ResNet", 50.0)]
        *panels, scale = filled(fill_landscape, results, ["loss", "nll"]).axes
        assert [axes.name for axes in panels] == ["3d", "rectilinear", "rectilinear"] * 2
        assert [axes.get_title() for axes in panels[::3]] == ["ViT", "ResNet"]
        titles = [axes.get_title(loc="left") or axes.get_title() for axes in panels[:3]]
        assert titles[1:] == ["NLL + L2 (minimum 1.5)", "NLL (minimum 0.5)"]
        assert scale.get_xlabel() == "rise above the minimum of the panel"
        assert panels[0].zz_dataLim.intervalx.tolist() == [results[0].loss.min(), results[0].loss.max()]

    def test_a_fourth_network_stands_below_the_first(self):
        results = [landscape_result(f"{number}", weight_decay=0.0) for number in range(4)]
        *panels, _ = filled(fill_landscape, results, ["nll"]).axes
        places = [axes.get_subplotspec() for axes in panels[::2]]
        assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (0, 2), (2, 0)]

    def test_all_panels_share_levels_that_show_the_flattest_and_the_steepest(self):
        results = [landscape_result(weight_decay=0.0), landscape_result("ResNet", 50.0, weight_decay=0.0)]
        figure = filled(fill_landscape, results, ["nll"])
        flat, steep = (figure.axes[i].collections[0].levels for i in (1, 3))
        assert flat.tolist() == steep.tolist()
        assert 0 < flat[0] <= 0.25  # what the four neighbours of the minimum rise by
        assert flat[-1] == 100
        assert len(flat) > 5

    def test_what_is_not_finite_is_hatched(self):
        for result, hatched in ((landscape_result(), False), (with_holes(landscape_result()), True)):
            figure = filled(fill_landscape, [result], ["nll"])
            assert [bool(axes.patches) for axes in figure.axes[:2]] == [False, hatched]
            assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == (
                ["not finite"] if hatched else []
            )

    @pytest.mark.filterwarnings("error")
    def test_flat_and_lonely_landscapes(self, tmp_path):
        flat = landscape_result(weight_decay=0.0, nll=np.ones((5, 5)))
        lonely = np.full((5, 5), np.nan)
        lonely[2, 2] = 1.0
        for number, result in enumerate((flat, replace(flat, nll=lonely))):
            draw_landscape([result], tmp_path / f"{number}.png")

    def test_the_title_says_what_is_as_in_the_authors_code(self):
        result = landscape_result(normalize="paper", l2_form="paper")
        title = filled(fill_landscape, [result], ["nll"]).get_suptitle()
        assert title.endswith("(32 images; directions normalised over the first axis; L2 unsquared)")


class TestDepthPanels:
    def test_attention_is_shaded_from_the_tap_before_it(self):
        axes = filled(fill_variance, [variance_result()]).axes[0]
        edges = [edge for patch in axes.patches for edge in (patch.get_x(), patch.get_x() + patch.get_width())]
        assert edges == pytest.approx([0.2, 0.4, 0.6, 0.8])

    def test_stages_are_parted_by_dashes(self):
        axes = filled(fill_variance, [variance_result()]).axes[0]
        dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed == pytest.approx([0.5, 0.9])

    def test_curves_hold_the_values_and_leave_single_pixels_out(self):
        result = variance_result()
        curve = next(line for line in filled(fill_variance, [result]).axes[0].lines if len(line.get_xdata()) == 6)
        np.testing.assert_array_equal(curve.get_ydata(), result.variance)
        assert math.isnan(curve.get_ydata()[-1])

    @pytest.mark.parametrize(("smallest", "scale"), [(0.25, "linear"), (0.01, "log")])
    def test_wide_ranges_get_a_logarithmic_axis(self, smallest, scale):
        axes = filled(fill_variance, [variance_result(values=(1, 2, 1.5, 0.5, smallest))]).axes[0]
        assert axes.get_yscale() == scale

    def test_figure_4_has_a_spectrum_per_tap_with_frequencies(self):
        result = fourier_result()
        spectra, trend = filled(fill_fourier, [result]).axes[:2]
        assert len(spectra.lines) == 5
        for line, expected in zip(spectra.lines, result.relative, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), expected)
        assert len({tuple(line.get_color()) for line in spectra.lines}) == 5
        curve = next(line for line in trend.lines if len(line.get_xdata()) == 6)
        np.testing.assert_array_equal(curve.get_ydata(), result.high_frequency)


class TestSimilarity:
    def test_maps_begin_at_the_lower_left(self):
        result = similarity_result("ViT")
        axes = filled(fill_similarity, [result], 3.0).axes[0]
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array().filled(np.nan), result.cka)
        assert image.origin == "lower"
        assert image.get_clim() == (0, 1)
        assert axes.get_ylim() == (-0.5, 5.5)
        assert axes.get_xlim() == (-0.5, 3.5)
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("AlterNet", "ViT")

    def test_every_layer_is_marked_and_stages_are_parted(self):
        axes = filled(fill_similarity, [similarity_result("ViT")], 3.0).axes[0]
        marks = [line for line in axes.lines if line.get_marker() != "None"]
        kinds = [style.KINDS[kind][0] for kind in KINDS]
        assert [line.get_marker() for line in marks] == kinds[:4] + kinds
        assert [line.get_xdata()[0] for line in marks[:4]] == [0, 1, 2, 3]
        assert [line.get_ydata()[0] for line in marks[4:]] == [0, 1, 2, 3, 4, 5]
        boundaries = [[*line.get_xdata(), *line.get_ydata()] for line in axes.lines if line.get_marker() == "None"]
        assert boundaries == [[2.5, 2.5, 0, 1], [0, 1, 2.5, 2.5], [0, 1, 4.5, 4.5]]


class TestSpectra:
    def area(self, figure, side):
        """What the curves left or right of 0 enclose, along a linear axis."""
        curves = [(line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
        return sum(abs(np.diff(x) @ (y[1:] + y[:-1])) / 2 for x, y in curves if side * x[-1] > 0)

    def test_areas_are_proportions_and_do_not_leak_over_zero(self):
        figure = filled(fill_spectra, [spectra_result([[5, 4, 3, 0.1, -0.1]] * 4)], "title")
        assert self.area(figure, -1) == pytest.approx(0.2, abs=1e-3)
        assert self.area(figure, 1) == pytest.approx(0.8, abs=1e-3)
        only_positive = filled(fill_spectra, [spectra_result([[5, 4, 3, 2, 0.1]] * 4)], "title")
        assert self.area(only_positive, -1) == 0

    def test_the_legend_has_nep_and_ape(self):
        figure = filled(fill_spectra, [spectra_result([[5, 4, 3, 1, -1]] * 6)], "title")
        (label,) = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert label == "ViT:  NEP 20% [20, 20],  APE 3.25 [3.25, 3.25]"
        figure = filled(fill_spectra, [spectra_result([[-5, -4]])], "title")
        (label,) = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert label == "ViT:  NEP 100%,  no positive eigenvalue"

    def test_networks_of_different_scale_share_a_bent_axis(self):
        alike = [random_spectra("ViT", 100, 5), random_spectra("ResNet", 200, 0)]
        assert filled(fill_spectra, alike, "title").axes[0].get_xscale() == "linear"
        apart = [random_spectra("ViT", 10, 5), random_spectra("ResNet", 300, 0)]
        axes = filled(fill_spectra, apart, "title").axes[0]
        assert axes.get_xscale() == "asinh"
        low, high = axes.get_xlim()
        assert low < min(result.values.min() for result in apart)
        assert high > max(result.values.max() for result in apart)
        ticks = axes.get_xticks()
        assert 0 in ticks
        assert 300 in ticks
        assert min(ticks) < 0

    def test_a_network_of_zeros_does_not_hide_the_others(self):
        samples = [np.array([-5e3, 1e4]), np.array([3.0, 5.0, 20.0])]
        assert EigenvalueScale.fitting(samples).width == 2.5
        assert EigenvalueScale.fitting([*samples, np.zeros(5)]).width == 2.5
        assert EigenvalueScale.fitting([np.zeros(5)]).width is None

    def test_every_eigenvalue_has_its_tick(self):
        result = random_spectra("ViT", 10, 5)
        figure = filled(fill_spectra, [result], "title")
        assert sorted(figure.axes[1].collections[0].get_positions()) == sorted(result.values.ravel())


def test_training_curves_hold_the_history():
    loss, accuracy = filled(fill_training, {"ViT": history(4)}).axes
    training, test = loss.lines
    assert training.get_ydata().tolist() == [3, 1.5, 1, 0.75]
    assert test.get_ydata().tolist() == [2, 1, 2 / 3, 0.5]
    assert accuracy.lines[0].get_ydata().tolist() == [0.5, 1 - 1 / 3, 0.75, 0.8]
    assert accuracy.get_legend().get_texts()[0].get_text() == "ViT  (80.0%)"


def test_training_spectra_have_a_panel_per_epoch_with_its_networks():
    figure = filled(fill_training_spectra, COURSE, [0, 1, 5], "checkpoint")
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["checkpoint 0", "checkpoint 1", "checkpoint 5"]
    colours = style.network_colours(COURSE)
    shown = [{line.get_color() for line in axes.lines} - {style.GREY} for axes in panels]
    assert shown == [{colours["ViT"]}, set(colours.values()), set(colours.values())]
    assert len({axes.get_xlim() for axes in panels}) == 1


def test_densities_have_a_panel_each():
    panels = filled(fill_densities, DENSITIES).axes
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels] == ["blocks.0: n = 300", "head: n = 40"]
    for axes, density in zip(panels, DENSITIES.values(), strict=True):
        grid, curve = axes.lines[0].get_data()
        np.testing.assert_allclose(curve, density.curve(grid)[0], rtol=1e-6, atol=1e-6 * curve.max())
        assert len(axes.collections) == (1 if len(density.nodes) > 1 else 0)  # one probe has no error


def test_moments_have_their_errors_as_bars():
    trace, norm = filled(fill_moments, MOMENTS).axes
    assert [label.get_text() for label in trace.get_yticklabels()] == ["blocks.0", "head"]
    for axes, values, (low, high) in ((trace, [120, -7], (114, 126)), (norm, [20, 3], (19.6, 20.4))):
        points, bars = axes.containers[0], axes.containers[0][2]
        assert [container[0].get_xdata().item() for container in axes.containers] == values
        np.testing.assert_allclose(bars[0].get_segments()[0][:, 0], (low, high))
        assert points.has_xerr
        assert not axes.containers[1].has_xerr  # of one sample
    assert [text.get_text() for text in trace.texts] == ["120 ± 6", "-7"]


def test_estimates_are_drawn_with_their_intervals():
    proportion, average = filled(fill_estimates, COURSE, "epoch").axes
    for axes, estimate, factor in ((proportion, nep, 100), (average, ape, 1)):
        for line, band, of in zip(axes.lines, axes.collections, COURSE.values(), strict=True):
            found = [estimate(of[epoch].values) for epoch in sorted(of)]
            np.testing.assert_array_equal(line.get_xdata(), sorted(of))
            np.testing.assert_allclose(line.get_ydata(), [factor * each.value for each in found])
            edges = band.get_paths()[0].vertices[:, 1]
            for bound in (each.low for each in found), (each.high for each in found):
                assert all(np.isclose(edges, factor * value).any() for value in bound)
    assert average.get_yscale() == "log"  # 3 to 300


@pytest.mark.filterwarnings("error")
def test_estimates_without_a_positive_eigenvalue():
    negative = replace(random_spectra("ViT", 4, 5), values=np.full((4, 5), -2.0))
    proportion, average = filled(fill_estimates, {"ViT": {1: negative, 5: negative}}, "epoch").axes
    assert np.isnan(average.lines[0].get_ydata()).all()
    assert average.get_xlim() == proportion.get_xlim()


class TestAccuracyDrops:
    def test_noise_has_a_curve_with_its_band_for_every_network(self):
        results = [noise_result("ResNet"), noise_result(frequencies=(0.25, 0.75))]
        figure = filled(fill_noise, results)
        axes = figure.axes[0]
        zero, *curves = axes.lines
        assert list(zero.get_ydata()) == [0, 0]
        for curve, band, result in zip(curves, axes.collections, results, strict=True):
            np.testing.assert_array_equal(curve.get_xdata(), result.frequencies)
            np.testing.assert_array_equal(curve.get_ydata(), [each.value for each in result.drops])
            edges = band.get_paths()[0].vertices[:, 1]
            for bound in [bound for each in result.drops for bound in (each.low, each.high)]:
                assert np.isclose(edges, bound).any()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["ResNet  (80.0%)", "ViT  (80.0%)"]
        assert figure.get_suptitle() == "Robustness to noise of one frequency band, ε = 0.2 (40 images)"

    @pytest.mark.filterwarnings("error")
    def test_a_single_frequency_and_few_images(self, tmp_path):
        draw_noise([noise_result(frequencies=(0.5,), equalize_energy=True)], tmp_path / "one.png")
        draw_noise([noise_result(images=4)], tmp_path / "few.png")
        axes = filled(fill_noise, [noise_result(frequencies=(0.5,))]).axes[0]
        (estimate,) = noise_result(frequencies=(0.5,)).drops
        assert axes.collections[0].get_segments()[0][:, 1].tolist() == [estimate.low, estimate.high]

    def test_lesions_have_their_marks_intervals_and_stages(self):
        result = lesion_result()
        axes = filled(fill_lesion, [result]).axes[0]
        values = [each.value for each in result.drops]
        marks = {line.get_marker(): line.get_xydata().tolist() for line in axes.lines if line.get_marker() != "None"}
        depths = [unit.depth for unit in UNITS]
        points = [[depth, value] for depth, value in zip(depths, values, strict=True)]
        assert marks == {"s": [points[0], points[3]], "v": [points[1], points[2]]}
        stems, intervals = (lines.get_segments() for lines in axes.collections)
        assert [stem[:, 1].tolist() for stem in stems] == [[0, value] for value in values]
        assert [line[:, 1].tolist() for line in intervals] == [[each.low, each.high] for each in result.drops]
        dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed == [0.5, 0.9]  # also where the block behind a boundary is no unit
        assert axes.get_title() == "AlterNet  (80.0%)"

    def test_lesions_of_networks_share_their_scale(self):
        whole = replace(lesion_result("ResNet"), correct=np.tile(np.arange(40) < 32, (4, 1)))
        figure = filled(fill_lesion, [lesion_result(), whole])
        assert len({axes.get_ylim() for axes in figure.axes}) == 1
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ["convolution block", "attention (MSA)", "between two stages"]


def test_networks_keep_their_colours_from_figure_to_figure():
    three = style.network_colours(["ResNet", "ViT", "AlterNet"])
    assert len(set(three.values())) == 3
    assert style.network_colours(["AlterNet"]) == {"AlterNet": three["AlterNet"]}
    assert style.network_colours(["vit_tiny_patch16_224"])["vit_tiny_patch16_224"] == three["ViT"]
    many = style.network_colours(["resnet18", "resnet50", "a", "b", "alternet_18"])
    assert len(set(many.values())) == 5
    assert many["resnet18"] == three["ResNet"]
