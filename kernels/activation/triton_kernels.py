"""Triton kernels of activations: a tile of rows and columns a program, every tensor read once.

The bias's gradient is summed by one program over its chunk of rows and added up afterwards: no atomics, so that results
do not depend on the order of programs. A tensor that is None is zero.
"""

import triton
import triton.language as tl


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _program(D, BLOCK_D: tl.constexpr):
    """The number of the program among those of its tile of columns."""
    return tl.program_id(0) // tl.cdiv(D, BLOCK_D)


@triton.jit
def _columns(D, BLOCK_D: tl.constexpr):
    return (tl.program_id(0) % tl.cdiv(D, BLOCK_D)).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)


@triton.jit
def _plus_shared(value, ptr, offset, columns, D):
    """``value`` plus a row of D numbers."""
    if ptr is None:
        return value
    else:
        return value + _load(ptr, offset + columns, columns < D)[None, :]


@triton.jit
def _value(u, KIND: tl.constexpr):
    if KIND == "relu":
        return tl.where((u > 0.0) | (u != u), u, 0.0)
    elif KIND == "gelu":
        return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))
    else:
        return u * _sigmoid(_bounded(u))[0]


@triton.jit
def _derivatives(u, KIND: tl.constexpr):
    """φ' and φ''."""
    if KIND == "relu":
        return tl.where(u <= 0.0, 0.0, 1.0), tl.zeros_like(u)  # 1 at NaN, as PyTorch has it
    elif KIND == "gelu":
        u = _bounded(u)
        pdf = 0.3989422804014327 * tl.exp2(-0.7213475204444817 * u * u)
        return 0.5 + 0.5 * tl.erf(u * 0.7071067811865476) + u * pdf, (2.0 - u * u) * pdf
    else:
        u = _bounded(u)
        s, spread = _sigmoid(u)
        v1 = 1.5957691216057308 * (1.0 + 0.134145 * u * u)
        v2 = 1.5957691216057308 * 0.26829 * u
        s1 = spread * v1
        return s + u * s1, 2.0 * s1 + u * spread * (v2 + v1 * v1 * (1.0 - 2.0 * s))


@triton.jit
def _bounded(u):
    """Up to where its exponential vanishes: derivatives are finite beyond."""
    return tl.where(u > 20.0, 20.0, tl.where(u < -20.0, -20.0, u))


@triton.jit
def _sigmoid(u):
    """s = (1 + tanh v) / 2 with v = sqrt(2/π) (u + 0.044715 u³), and s (1 - s)."""
    e = tl.exp2(tl.minimum(-2.302208198144325 * (u + 0.044715 * u * u * u), 120.0))
    s = 1.0 / (1.0 + e)
    return s, e * s * s


@triton.jit
def activation_forward_kernel(
    x_ptr,  # [B, N, D]
    bias_ptr,  # [B | 1, 1, D] or None
    y_ptr,  # [B, N, D]
    bias_batch,
    N,
    D,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """y = φ(x + bias) of one tile."""
    tiles = tl.cdiv(N, BLOCK_N)
    b = (_program(D, BLOCK_D) // tiles).to(tl.int64)
    rows = _program(D, BLOCK_D) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = _columns(D, BLOCK_D)
    mask = (rows[:, None] < N) & (columns[None, :] < D)
    offsets = (b * N + rows)[:, None] * D + columns[None, :]
    u = _plus_shared(_load(x_ptr, offsets, mask), bias_ptr, b * bias_batch, columns, D)
    tl.store(y_ptr + offsets, _value(u, KIND).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def activation_tangent_kernel(
    x_ptr,  # [B, N, D]
    bias_ptr,  # [B | 1, 1, D] or None
    t_x_ptr,  # [T, B, N, D] or None
    t_bias_ptr,  # [T, B | 1, 1, D] or None
    t_y_ptr,  # [T, B, N, D]
    bias_batch,
    t_bias_tangent,
    T,
    B,
    N,
    D,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """y' = φ'(u) u' of one tile, the tangents one after the other."""
    tiles = tl.cdiv(N, BLOCK_N)
    b = (_program(D, BLOCK_D) // tiles).to(tl.int64)
    rows = _program(D, BLOCK_D) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = _columns(D, BLOCK_D)
    mask = (rows[:, None] < N) & (columns[None, :] < D)
    offsets = (b * N + rows)[:, None] * D + columns[None, :]
    u = _plus_shared(_load(x_ptr, offsets, mask), bias_ptr, b * bias_batch, columns, D)
    slope, _ = _derivatives(u, KIND)
    for t in range(T):
        step = tl.cast(t, tl.int64) * B * N * D
        t_u = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        if t_x_ptr is not None:
            t_u = _load(t_x_ptr, step + offsets, mask)
        t_u = _plus_shared(t_u, t_bias_ptr, b * bias_batch + t * t_bias_tangent, columns, D)
        tl.store(t_y_ptr + step + offsets, (slope * t_u).to(t_y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def activation_backward_kernel(
    x_ptr,  # [B, N, D]
    bias_ptr,  # [B | 1, 1, D] or None
    grad_ptr,  # [B, N, D]
    d_x_ptr,  # [B, N, D] or None
    d_bias_ptr,  # [B, chunks, D] float32 or None
    bias_batch,
    N,
    D,
    CHUNK,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """d_x = φ'(u) g, and its sum over CHUNK rows."""
    chunks = tl.cdiv(N, CHUNK)
    b = (_program(D, BLOCK_D) // chunks).to(tl.int64)
    first = _program(D, BLOCK_D) % chunks * CHUNK
    columns = _columns(D, BLOCK_D)
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        mask = (rows[:, None] < N) & (columns[None, :] < D)
        offsets = (b * N + rows)[:, None] * D + columns[None, :]
        u = _plus_shared(_load(x_ptr, offsets, mask), bias_ptr, b * bias_batch, columns, D)
        slope, _ = _derivatives(u, KIND)
        d = slope * _load(grad_ptr, offsets, mask)
        if d_x_ptr is not None:
            tl.store(d_x_ptr + offsets, d.to(d_x_ptr.dtype.element_ty), mask=mask)
        total += d
    if d_bias_ptr is not None:
        place = _program(D, BLOCK_D).to(tl.int64) * D + columns
        tl.store(d_bias_ptr + place, tl.sum(total, 0), mask=columns < D)


@triton.jit
def activation_backward_tangent_kernel(
    x_ptr,  # [B, N, D]
    bias_ptr,  # [B | 1, 1, D] or None
    grad_ptr,  # [B, N, D]
    t_x_ptr,  # [T, B, N, D] or None
    t_bias_ptr,  # [T, B | 1, 1, D] or None
    t_grad_ptr,  # [T, B, N, D] or None
    t_d_x_ptr,  # [T, B, N, D] or None
    t_d_bias_ptr,  # [T, B, chunks, D] float32 or None
    bias_batch,
    t_bias_tangent,
    B,
    N,
    D,
    CHUNK,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """d_x' = φ''(u) u' g + φ'(u) g' of one tangent, and its sum over CHUNK rows."""
    chunks = tl.cdiv(N, CHUNK)
    t = (_program(D, BLOCK_D) // (chunks * B)).to(tl.int64)
    b = (_program(D, BLOCK_D) // chunks % B).to(tl.int64)
    first = _program(D, BLOCK_D) % chunks * CHUNK
    columns = _columns(D, BLOCK_D)
    step = t * B * N * D
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        mask = (rows[:, None] < N) & (columns[None, :] < D)
        offsets = (b * N + rows)[:, None] * D + columns[None, :]
        u = _plus_shared(_load(x_ptr, offsets, mask), bias_ptr, b * bias_batch, columns, D)
        slope, bend = _derivatives(u, KIND)
        t_u = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        if t_x_ptr is not None:
            t_u = _load(t_x_ptr, step + offsets, mask)
        t_u = _plus_shared(t_u, t_bias_ptr, b * bias_batch + t * t_bias_tangent, columns, D)
        t_d = bend * t_u * _load(grad_ptr, offsets, mask)
        if t_grad_ptr is not None:
            t_d += slope * _load(t_grad_ptr, step + offsets, mask)
        if t_d_x_ptr is not None:
            tl.store(t_d_x_ptr + step + offsets, t_d.to(t_d_x_ptr.dtype.element_ty), mask=mask)
        total += t_d
    if t_d_bias_ptr is not None:
        place = _program(D, BLOCK_D).to(tl.int64) * D + columns
        tl.store(t_d_bias_ptr + place, tl.sum(total, 0), mask=columns < D)
