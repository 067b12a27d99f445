"""The noise has the band's frequencies and no others, the energy that was asked for, and depends on the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alternet.kernels import frequency_noise
from alternet.kernels.frequency_noise import PAPER_HALF_WIDTH, band
from alternet.kernels.frequency_noise.random_signs import random_signs

ZEROS = torch.zeros(3, 2, 32, 32, dtype=torch.float64)


def amplitudes(noise):
    return torch.fft.fft2(noise).abs()


def square_radius(height, width):
    """max(|f_h|, |f_w|) of every bin of fft2, in units of π."""
    rows, columns = (2 * torch.fft.fftfreq(side, dtype=torch.float64).abs() for side in (height, width))
    return torch.maximum(rows[:, None], columns)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    frequency=st.floats(0, 1),
    half_width=st.floats(0.05, 0.5),
    equalize=st.booleans(),
)
def test_energy_lies_in_the_band_only(height, width, frequency, half_width, equalize):
    distance = (square_radius(height, width) - frequency).abs()
    if not (distance <= half_width).any():
        return
    x = torch.zeros(2, 2, height, width, dtype=torch.float64)
    options = {"magnitude": 0.5, "half_width": half_width, "equalize_energy": equalize, "seed": 3}
    spectrum = amplitudes(frequency_noise(x, frequency, **options))
    assert spectrum[..., distance > half_width + 1e-9].abs().sum() < 1e-9 * (1 + spectrum.max())
    assert spectrum.max() > 0


@pytest.mark.parametrize("frequency", [0.1, 0.5, 0.9])
def test_inside_the_band_the_plain_noise_is_that_of_the_signs(frequency):
    noise = frequency_noise(ZEROS, frequency, magnitude=0.3, seed=1)
    signs = random_signs(1, 0, 3, 2 * 32 * 32, torch.device("cpu")).view(3, 2, 32, 32)
    spectrum = torch.fft.fft2(0.3 * (signs.double() * 2 - 1))
    ring = (square_radius(32, 32) - frequency).abs() <= PAPER_HALF_WIDTH
    torch.testing.assert_close(torch.fft.fft2(noise), spectrum * ring, rtol=0, atol=1e-12)


def test_equalized_noise_has_the_energy_of_unfiltered_noise():
    for frequency in (0.1, 0.5, 0.9):
        noise = frequency_noise(ZEROS, frequency, magnitude=0.3, equalize_energy=True, seed=1)
        torch.testing.assert_close(noise.square().mean((1, 2, 3)), torch.full((3,), 0.09, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "frequency"),
    [((2000, 1, 28, 28), 0.0), ((500, 1, 14, 14), 0.0), ((9999, 1, 4, 4), 1.0), ((500, 1, 2, 2), 1.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equalized_noise_where_signs_have_nothing_in_the_band(shape, frequency, dtype):
    """As many +1 as -1, say; then it is still noise of the band, of random sign, by image."""
    x, options = torch.zeros(shape, dtype=dtype), {"magnitude": 0.3, "equalize_energy": True, "seed": 0}
    noise = frequency_noise(x, frequency, **options)
    torch.testing.assert_close(noise.square().mean((1, 2, 3)), torch.full(shape[:1], 0.09, dtype=dtype))
    plain = frequency_noise(x, frequency, magnitude=0.3, seed=0)
    empty = plain.abs().amax((1, 2, 3)) < 1e-5
    assert 0 < empty.sum() < len(empty)
    outside = (square_radius(*shape[2:]) - frequency).abs() > PAPER_HALF_WIDTH
    assert amplitudes(noise[empty])[..., outside].amax() < 1e-3
    assert 0 < (noise[empty, 0, 0, 0] > 0).sum() < empty.sum()
    i = int(empty.nonzero()[0])
    alone = frequency_noise(x[:1], frequency, **options, first_image=i)
    torch.testing.assert_close(alone[0], noise[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("equalize", [False, True])
def test_compiles_whole(equalize):
    def noisy(x, frequency):
        return frequency_noise(x, frequency, magnitude=0.3, equalize_energy=equalize, seed=1)

    compiled = torch.compile(noisy, fullgraph=True, backend="aot_eager")
    for side, frequency in ((8, 0.5), (8, 0.25), (9, 0.65)):
        x = torch.randn(3, 2, side, side)
        torch.testing.assert_close(compiled(x, frequency), noisy(x, frequency))


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), frequency=st.floats(0, 1), half_width=st.floats(0, 0.2))
def test_a_band_without_frequencies_is_refused(height, width, frequency, half_width):
    x = torch.zeros(1, 1, height, width)
    if band(height, width, frequency, half_width).any():
        frequency_noise(x, frequency, magnitude=1, half_width=half_width, seed=0)
    else:
        with pytest.raises(ValueError, match="frequency: no frequency of"):
            frequency_noise(x, frequency, magnitude=1, half_width=half_width, seed=0)


def test_plain_noise_grows_with_the_ring():
    energy = [frequency_noise(ZEROS, f, magnitude=1, seed=1).square().mean().item() for f in (0.1, 0.5, 0.9)]
    share = [((square_radius(32, 32) - f).abs() <= PAPER_HALF_WIDTH).double().mean().item() for f in (0.1, 0.5, 0.9)]
    assert energy == pytest.approx(share, rel=0.3)
    assert energy[0] < energy[1] < energy[2]


def test_zero_magnitude_adds_nothing():
    assert (frequency_noise(ZEROS, 0.5, magnitude=0, equalize_energy=True, seed=1) == 0).all()


def test_it_depends_on_the_seed_alone():
    def noise(seed):
        return frequency_noise(ZEROS, 0.5, magnitude=1, seed=seed)

    before = torch.random.get_rng_state()
    first = noise(7)
    torch.rand(10)
    assert torch.equal(first, noise(7))
    assert not torch.equal(first, noise(8))
    torch.random.set_rng_state(before)
    noise(7)
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_does_not_depend_on_the_batches():
    x = torch.randn(5, 3, 9, 12, dtype=torch.float64)
    whole = frequency_noise(x, 0.5, magnitude=1, half_width=0.2, seed=2)
    parts = [
        frequency_noise(x[first:last], 0.5, magnitude=1, half_width=0.2, seed=2, first_image=first)
        for first, last in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-14)
    added = whole - x
    assert all((added[i] - added[j]).abs().max() > 0.1 for i in range(5) for j in range(i))


def test_signs_are_fair_and_independent():
    signs = random_signs(0, 0, 64, 4096, torch.device("cpu")).double() * 2 - 1
    assert abs(signs.mean().item()) < 4 / signs.numel() ** 0.5
    assert signs.mean(0).abs().max() < 6 / 8
    correlations = signs @ signs.T / 4096 - torch.eye(64, dtype=torch.float64)
    assert correlations.abs().max() < 6 / 64
    assert (amplitudes(signs.view(64, 64, 64)).square().mean(0) / 4096 - 1).abs().max() < 1


def test_signs_stay_what_they_are():
    """Of SplitMix64 by Python's integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    start = mix(mix((12 + golden) & mask) + 6 * golden & mask)
    words = [mix(start + word * golden & mask) for word in (1, 2)]
    expected = [bool(words[j // 64] >> j % 64 & 1) for j in range(100)]
    assert random_signs(12, 5, 2, 100, torch.device("cpu"))[1].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    noisy = frequency_noise(ZEROS.to(dtype), 0.5, magnitude=0.3, seed=1)
    assert noisy.dtype == dtype
    exact = frequency_noise(ZEROS, 0.5, magnitude=0.3, seed=1)
    torch.testing.assert_close(noisy.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_the_derivative_is_the_identity():
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    noisy = frequency_noise(x, 0.5, magnitude=1, half_width=0.5, equalize_energy=True, seed=0)
    cotangent = torch.randn_like(x)
    assert torch.equal(torch.autograd.grad(noisy, x, cotangent)[0], cotangent)


def test_the_half_plane_is_that_of_the_whole():
    for height, width in ((8, 8), (7, 5), (1, 6)):
        whole = (square_radius(height, width) - 0.6).abs() <= 0.23
        assert torch.equal(band(height, width, 0.6, 0.23), whole[:, : width // 2 + 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 1.0}, TypeError, "x: expected a tensor, got float"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.int64)}, TypeError, "x: dtype torch.int64, expected one of float16"),
        ({"x": torch.zeros(1, 4, 4)}, ValueError, r"x: shape \(1, 4, 4\), expected images"),
        ({"frequency": 1.5}, ValueError, "frequency: got 1.5, expected 0 to 1"),
        ({"frequency": float("nan")}, ValueError, "frequency: got nan"),
        ({"magnitude": -1.0}, ValueError, "magnitude: got -1.0"),
        ({"magnitude": float("inf")}, ValueError, "magnitude: got inf"),
        ({"half_width": -0.1}, ValueError, "half_width: got -0.1"),
        ({"frequency": 0.3, "half_width": 0.01}, ValueError, "no frequency of a 4 x 4 map is within 0.01 of 0.3"),
        ({"seed": 1 << 63}, ValueError, "seed: got"),
        ({"seed": None}, TypeError, "seed: expected an integer, got None"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer, got 1.5"),
        ({"frequency": "a"}, TypeError, "frequency: expected a number, got 'a'"),
        ({"magnitude": "a"}, TypeError, "magnitude: expected a number, got 'a'"),
        ({"half_width": None}, TypeError, "half_width: expected a number, got None"),
        ({"first_image": 1.5}, TypeError, "first_image: expected an integer, got 1.5"),
        ({"first_image": -1}, ValueError, "first_image: got -1"),
    ],
)
def test_errors(change, error, message):
    arguments = {"x": torch.zeros(1, 1, 4, 4), "frequency": 0.5, "magnitude": 1.0, "half_width": 0.2, "seed": 0}
    with pytest.raises(error, match=message):
        frequency_noise(**{**arguments, **change})
