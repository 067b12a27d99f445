"""The half-diagonal against torch.fft.fft2 and the definition, the variance against torch.var, in float64."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alternet.kernels import SpectrumAccumulator, available_backends, feature_spectrum, use_backend
from alternet.kernels.feature_spectrum import Spectrum, frequencies

CPU_BUILT = available_backends()["cpu"] is None
needs_cpu = pytest.mark.skipif(not CPU_BUILT, reason="the C++ extension is not built")


def maps(*size, batch=2, channels=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator) + 0.5).to(dtype)


def definition(x):
    """log(|Σ x[h, w] exp(-iπf(h + w))| + 1e-6), term by term, mean over channels: [B, K]."""
    steps = (torch.arange(x.shape[-2])[:, None] + torch.arange(x.shape[-1])).flatten()
    phases = torch.pi * torch.outer(steps.double(), frequencies(*x.shape[-2:])[0])
    amplitudes = (x.double().flatten(2).to(torch.complex128) @ torch.polar(torch.ones_like(phases), -phases)).abs()
    return (amplitudes + 1e-6).log().mean(1)


def variance(x):
    return x.double().flatten(2).var(2).mean(1)


def padded(x):
    """Rows, channels and images with NaN between them, the last ones too."""
    room = x.new_full((x.shape[0], x.shape[1] + 1, x.shape[2] + 1, x.shape[3] + 3), torch.nan)
    view = room[:, :-1, 1:, 2:-1]
    return view.copy_(x)


def sparse(x):
    room = x.new_full((*x.shape[:3], 2 * x.shape[3]), torch.nan)
    return room[..., ::2].copy_(x)


def tokens(x):
    """Laid out as tokens behind a class token."""
    room = x.new_full((x.shape[0], 1 + x.shape[2] * x.shape[3], x.shape[1]), torch.nan)
    return room[:, 1:].mT.unflatten(2, x.shape[2:]).copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "tokens": tokens,
    "padded": padded,
    "sparse": sparse,
    "columns first": lambda x: x.mT.contiguous().mT,
}


class TestFrequencies:
    @pytest.mark.parametrize(
        ("side", "exact", "paper"),
        [
            (1, [0], [0]),
            (2, [0, 1], [0]),
            (3, [0, 2 / 3], [0, 1]),
            (6, [0, 1 / 3, 2 / 3, 1], [0, 0.5, 1]),
            (7, [0, 2 / 7, 4 / 7, 6 / 7], [0, 1 / 3, 2 / 3, 1]),
        ],
    )
    def test_labels(self, side, exact, paper):
        computed, label = frequencies(side, side)
        assert computed.tolist() == label.tolist() == pytest.approx(exact)
        computed, label = frequencies(side, side, "paper")
        assert label.tolist() == pytest.approx(paper)
        assert computed.tolist() == pytest.approx([2 * k / side for k in range(len(paper))])

    def test_a_map_that_is_not_square_has_those_of_its_longer_side(self):
        assert frequencies(3, 8)[0].tolist() == frequencies(8, 3)[0].tolist() == frequencies(8, 8)[0].tolist()


@pytest.mark.usefixtures("backend")
class TestNumbers:
    """Of every backend that computes in float64 here."""

    @pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 14, 15, 32])
    def test_square_maps_have_the_diagonal_of_fft2(self, side):
        x = maps(side, side)
        diagonal = (torch.fft.fft2(x).abs() + 1e-6).log().diagonal(dim1=-2, dim2=-1).mean((0, 1))
        spectrum = feature_spectrum(x)
        torch.testing.assert_close(spectrum.half_diagonal()[1], diagonal[: side // 2 + 1], rtol=0, atol=1e-9)
        torch.testing.assert_close(spectrum.half_diagonal("paper")[1], diagonal[: (side + 1) // 2], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [(3, 8), (8, 3), (1, 5), (6, 1), (7, 5), (33, 20), (2, 1100)])
    def test_other_maps_have_the_transform_at_equal_frequencies(self, size):
        spectrum = feature_spectrum(maps(*size), per_image=True)
        torch.testing.assert_close(spectrum.log_amplitude, definition(maps(*size)), rtol=0, atol=1e-9)
        torch.testing.assert_close(spectrum.variance, variance(maps(*size)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("size", [(8, 8), (3, 8), (7, 4)])
    def test_a_constant_has_no_amplitude_but_at_zero(self, size):
        spectrum = feature_spectrum(torch.full((1, 1, *size), 5.0, dtype=torch.float64))
        assert spectrum.log_amplitude[0].item() == pytest.approx(math.log(5 * size[0] * size[1]))
        assert (spectrum.log_amplitude[1:] < math.log(1.1e-6)).all()
        assert spectrum.variance.item() < 1e-25

    def test_a_very_long_map(self):
        x = torch.full((1, 1, 1, 100_000), 5.0, dtype=torch.float64)
        values = feature_spectrum(x).log_amplitude
        assert values[0].item() == pytest.approx(math.log(5e5))
        assert (values[1:] < math.log(1.1e-6)).all()

    def test_a_checkerboard_has_all_its_amplitude_at_pi(self):
        board = (-1.0) ** (torch.arange(6)[:, None] + torch.arange(6))
        values = feature_spectrum(board[None, None].double()).log_amplitude
        assert values[-1].item() == pytest.approx(math.log(36))
        assert (values[:-1] < math.log(1.1e-6)).all()

    def test_a_single_pixel_has_no_variance(self):
        spectrum = feature_spectrum(torch.full((2, 3, 1, 1), -2.0, dtype=torch.float64))
        assert spectrum.variance.isnan()
        assert spectrum.log_amplitude.tolist() == pytest.approx([math.log(2 + 1e-6)])

    @settings(max_examples=60, deadline=None)
    @given(
        batch=st.integers(1, 3),
        channels=st.integers(1, 40),
        height=st.integers(1, 20),
        width=st.integers(1, 20),
        layout=st.sampled_from(sorted(LAYOUTS)),
    )
    def test_any_shape_and_strides(self, batch, channels, height, width, layout):
        x = maps(height, width, batch=batch, channels=channels)
        spectrum = feature_spectrum(LAYOUTS[layout](x), per_image=True)
        torch.testing.assert_close(spectrum.log_amplitude, definition(x), rtol=0, atol=1e-9)
        if height * width > 1:
            torch.testing.assert_close(spectrum.variance, variance(x), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_narrow_dtypes_are_as_good_as_fft2_in_float32(self, dtype, layout):
        x = maps(56, 56, batch=1, channels=19, dtype=dtype)
        exact = definition(x)
        fft = (torch.fft.fft2(x.float()).abs() + 1e-6).log().diagonal(dim1=-2, dim2=-1)[..., :29].mean(1)
        spectrum = feature_spectrum(LAYOUTS[layout](x), per_image=True)
        # The largest error is that of one amplitude near 0, where chance decides which of two roundings is the smaller.
        assert (spectrum.log_amplitude - exact).abs().mean() < 8 * (fft - exact).abs().mean()
        torch.testing.assert_close(spectrum.variance, variance(x), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_large_mean_does_not_hide_the_variance(self, layout):
        x = (maps(14, 14) + 1000).float()
        found = feature_spectrum(LAYOUTS[layout](x), per_image=True).variance
        torch.testing.assert_close(found, variance(x), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_a_first_row_unlike_the_others(self, layout):
        """The worst for a kernel that shifts by the mean of the first row: up to 1 + H roundings."""
        x = maps(56, 56).float()
        x[..., 0, :] -= 1e4
        found = feature_spectrum(LAYOUTS[layout](x), per_image=True).variance
        torch.testing.assert_close(found, variance(x), rtol=57 * torch.finfo(torch.float32).eps * 4, atol=0)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_what_is_not_finite_shows(self, layout, value):
        x = maps(9, 9, batch=3).float()
        x[1, 2, 3, 4] = value
        spectrum = feature_spectrum(LAYOUTS[layout](x), per_image=True)
        for values in (spectrum.log_amplitude[:, 0], spectrum.variance):
            assert values.isfinite().tolist() == [True, False, True]

    @pytest.mark.parametrize("scale", [1e30, 1e-30])
    def test_amplitudes_whose_squares_float32_cannot_hold(self, scale):
        x = (maps(8, 8) * scale).float()
        found = feature_spectrum(x, per_image=True).log_amplitude
        torch.testing.assert_close(found, definition(x), rtol=1e-6, atol=1e-5)

    def test_derivatives_are_those_of_the_formula(self):
        x = maps(5, 7)
        cotangent = torch.randn(4, dtype=torch.float64)

        def ours(x):
            spectrum = feature_spectrum(x, plane=True)
            return spectrum.log_amplitude @ cotangent + spectrum.variance + spectrum.radial()[1].sum()

        def eager(x):
            plane = (torch.fft.fft2(x).abs() + 1e-6).log().mean((0, 1))
            rest = Spectrum((5, 7), 6, definition(x).mean(0), variance(x).mean(), plane)
            return rest.log_amplitude @ cotangent + rest.variance + rest.radial()[1].sum()

        gradients = torch.func.grad(ours), torch.func.grad(eager)
        torch.testing.assert_close(*(f(x) for f in gradients), rtol=1e-8, atol=1e-8)
        hessian_products = (torch.func.jvp(f, (x,), (x,))[1] for f in gradients)
        torch.testing.assert_close(*hessian_products, rtol=1e-7, atol=1e-7)

    def test_vmap_and_compile(self):
        x = maps(6, 6, batch=4)
        expected = torch.stack([feature_spectrum(part).log_amplitude for part in x.split(2)])
        mapped = torch.func.vmap(lambda x: feature_spectrum(x).log_amplitude)(x.unflatten(0, (2, 2)))
        torch.testing.assert_close(mapped, expected)
        mapped = torch.func.vmap(lambda x: feature_spectrum(x, per_image=True).variance, 1)(x.unflatten(0, (2, 2)))
        torch.testing.assert_close(mapped.T.flatten(), variance(x))
        compiled = torch.compile(lambda x: feature_spectrum(x).log_amplitude, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x[:2]), expected[0])


@needs_cpu
class TestCpuKernel:
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_results_do_not_depend_on_threads(self, layout):
        x = LAYOUTS[layout](maps(20, 24, batch=3, channels=300).float())
        before = torch.get_num_threads()
        try:
            results = []
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                with use_backend("cpu"):
                    results.append(feature_spectrum(x, per_image=True))
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert torch.equal(other.log_amplitude, results[0].log_amplitude)
            assert torch.equal(other.variance, results[0].variance)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_every_instruction_set_of_this_processor(self, layout, dtype):
        x = maps(13, 18, channels=37, dtype=dtype)
        ops = torch.ops.alternet_native
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        for name in ops.instruction_sets():
            before = ops.use_instruction_set(name)
            try:
                with use_backend("cpu"):
                    found = feature_spectrum(LAYOUTS[layout](x), per_image=True)
            finally:
                ops.use_instruction_set(before)
            torch.testing.assert_close(found.log_amplitude, definition(x), rtol=0, atol=tolerance)
            torch.testing.assert_close(found.variance, variance(x), rtol=tolerance, atol=0)

    def test_maps_larger_than_a_task(self):
        for layout in ("contiguous", "channels_last"):
            x = maps(257, 256, batch=1, channels=20)
            with use_backend("cpu"):
                found = feature_spectrum(LAYOUTS[layout](x), per_image=True)
            torch.testing.assert_close(found.log_amplitude, definition(x), rtol=0, atol=1e-9)

    def test_what_would_leave_the_memory_raises(self):
        for bad in (torch.zeros(2, 3, 4), torch.zeros(0, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int32)):
            with pytest.raises(RuntimeError, match="maps: "):
                torch.ops.alternet_native.feature_spectrum(bad, True)


class TestPlane:
    @pytest.mark.parametrize("size", [(6, 6), (7, 7), (5, 8), (8, 5), (1, 4), (4, 1), (1, 1)])
    def test_it_is_that_of_fft2(self, size):
        x = maps(*size)
        expected = (torch.fft.fft2(x).abs() + 1e-6).log().mean(1)
        torch.testing.assert_close(feature_spectrum(x, plane=True, per_image=True).plane, expected)
        torch.testing.assert_close(feature_spectrum(x, plane=True).plane, expected.mean(0))

    def test_large_batches_are_transformed_in_parts(self):
        x = maps(64, 64, batch=9, channels=16).float()
        expected = (torch.fft.fft2(x).abs() + 1e-6).log().mean((0, 1), dtype=torch.float64)
        torch.testing.assert_close(feature_spectrum(x, plane=True).plane, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("size", [(6, 6), (7, 7), (5, 8), (8, 5), (1, 4), (1, 1)])
    def test_radial_averages_are_those_of_rings(self, size):
        spectrum = feature_spectrum(maps(*size), plane=True)
        labels, values = spectrum.radial()
        assert labels.tolist() == frequencies(*size)[0].tolist()
        rings = [[] for _ in labels]
        for h in range(size[0]):
            for w in range(size[1]):
                radius = math.hypot(2 * min(h, size[0] - h) / size[0], 2 * min(w, size[1] - w) / size[1])
                ring = round(radius * max(size) / 2)
                if ring < len(rings):
                    rings[ring].append(spectrum.plane[h, w].item())
        assert values.tolist() == pytest.approx([sum(ring) / len(ring) for ring in rings])

    def test_radial_averages_need_it(self):
        with pytest.raises(ValueError, match=r"plane: got None; a radial average needs .*plane=True"):
            feature_spectrum(maps(4, 4)).radial()


class TestAccumulator:
    def test_batches_count_by_their_maps(self):
        x = maps(6, 9, batch=7).float()
        seen = SpectrumAccumulator(plane=True)
        for part in x.split(3):
            seen.update(part)
        whole, found = feature_spectrum(x, plane=True), seen.result()
        assert (found.size, found.maps) == (whole.size, whole.maps) == ((6, 9), 21)
        for name in ("log_amplitude", "variance", "plane"):
            torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-12, atol=1e-12)

    def test_accumulators_merge(self):
        x = maps(4, 4, batch=5)
        whole, one, other = SpectrumAccumulator(), SpectrumAccumulator(), SpectrumAccumulator()
        whole.update(x)
        one.update(x[:2])
        other.update(x[2:])
        one.merge(other)
        one.merge(SpectrumAccumulator())
        torch.testing.assert_close(one.result().log_amplitude, whole.result().log_amplitude)
        assert one.maps == whole.maps == 15
        assert other.maps == 9

    @pytest.mark.parametrize("side", [1, 5])
    def test_states_are_json(self, side):
        seen = SpectrumAccumulator(plane=True)
        seen.update(maps(side, side))
        again = SpectrumAccumulator.from_state(json.loads(json.dumps(seen.state(), allow_nan=False)))
        for name, value in vars(seen.result()).items():
            torch.testing.assert_close(getattr(again.result(), name), value, rtol=0, atol=0, equal_nan=True)
        assert SpectrumAccumulator.from_state(SpectrumAccumulator().state()).maps == 0

    def test_it_keeps_no_graph(self):
        seen = SpectrumAccumulator()
        seen.update(maps(4, 4).requires_grad_())
        assert not seen.result().log_amplitude.requires_grad

    def test_tokens_come_with_a_grid(self):
        x = maps(4, 6)
        seen = SpectrumAccumulator()
        seen.update(x.flatten(2).mT, (4, 6))
        torch.testing.assert_close(seen.result().log_amplitude, feature_spectrum(x).log_amplitude)

    def test_errors(self):
        seen = SpectrumAccumulator()
        with pytest.raises(ValueError, match="result: there is none"):
            seen.result()
        seen.update(maps(4, 4))
        with pytest.raises(ValueError, match=r"x: maps of 4 x 5, expected \(4, 4\) as before"):
            seen.update(maps(4, 5))
        with pytest.raises(ValueError, match="other: plane is True, expected False"):
            seen.merge(SpectrumAccumulator(plane=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0,), TypeError, "x: expected a tensor, got float"),
        ((torch.zeros(1, 1, 2, 2, dtype=torch.int64),), TypeError, r"x: dtype torch\.int64, expected one of float16"),
        ((torch.zeros(1, 4, 3),), ValueError, r"x: shape \(1, 4, 3\), expected maps"),
        ((torch.zeros(1, 1, 2, 2), (2, 2)), ValueError, r"x: shape \(1, 1, 2, 2\), expected maps"),
        ((torch.zeros(1, 0, 2, 2),), ValueError, r"x: shape \(1, 0, 2, 2\) has no entries"),
        ((torch.zeros(1, 5, 3), (2, 2)), ValueError, r"grid: got \(2, 2\) for 5 tokens, expected 2 x 2"),
        ((torch.zeros(1, 4, 3), (-2, -2)), ValueError, r"grid: expected two integers, 1 or more, got \(-2, -2\)"),
        ((torch.zeros(1, 4, 3), (2.0, 2.0)), TypeError, r"grid: expected two integers, 1 or more, got \(2.0, 2.0\)"),
        ((torch.zeros(1, 4, 3), 4), TypeError, "grid: expected two integers, 1 or more, got 4"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        feature_spectrum(*arguments)


def test_an_unknown_axis_is_an_error():
    with pytest.raises(ValueError, match="axis: got 'log', expected one of"):
        feature_spectrum(torch.zeros(1, 1, 2, 2)).half_diagonal("log")
