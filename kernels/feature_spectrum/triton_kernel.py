"""The Triton kernel: one read of the maps gives their wrapped anti-diagonal sums and their variances."""

import triton
import triton.language as tl


@triton.jit
def feature_spectrum_kernel(
    maps_ptr,  # [B, C, H, W]
    sums_ptr,  # [B, C, n] float32, contiguous
    shift_ptr,  # [B, C] float32, contiguous
    variance_ptr,  # [B, C] float32, contiguous
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    C,
    H,
    W,
    n,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """BLOCK_C maps of one image, a row at a time: column j holds the pixels of anti-diagonal j, so that nothing moves.

    ``sums`` and the variance are of x - shift, the mean of the map's first row. A constant adds the same to every
    anti-diagonal, and so to F(0) only; the amplitudes of high frequencies are the more exact for it. Nor does the
    variance suffer: (shift - mean)² is at most H times the variance.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    j = tl.arange(0, BLOCK_N)
    ptr = maps_ptr + b * stride_b + c[:, None].to(tl.int64) * stride_c
    inside = (c[:, None] < C) & (j[None, :] < W)
    first = tl.load(ptr + j[None, :].to(tl.int64) * stride_w, mask=inside, other=0.0).to(tl.float32)
    shift = tl.sum(first, 1) / W

    sums = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    for h in tl.range(0, H, loop_unroll_factor=4):  # loads of four rows are on their way at the same time
        w = tl.where(j >= h, j - h, j - h + n)
        inside = (c[:, None] < C) & ((j < n) & (w < W))[None, :]
        x = tl.load(ptr + w[None, :].to(tl.int64) * stride_w, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, x - shift[:, None], 0.0)
        sums += centred
        squares += centred * centred
        ptr += stride_h

    where = b * C + c
    total = tl.sum(sums, 1)
    pixels = H * W
    variance = (tl.sum(squares, 1) - total * total / pixels) / tl.maximum(pixels - 1, 1)
    tl.store(shift_ptr + where, shift, mask=c < C)
    tl.store(variance_ptr + where, variance, mask=c < C)
    tl.store(sums_ptr + where[:, None] * n + j[None, :], sums, mask=(c[:, None] < C) & (j[None, :] < n))
