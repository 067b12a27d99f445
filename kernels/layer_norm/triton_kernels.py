"""Triton kernels of layer normalisation: a tile of whole rows a program, every tensor read once.

Sums over rows are taken by one program over its chunk of rows and added up afterwards: no atomics, so that results do
not depend on the order of programs. A tensor that is None is zero, or one for the weight.
"""

import triton
import triton.language as tl


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _shared(ptr, batch, b, columns, D, absent: tl.constexpr):
    """The row of b of a tensor [B | 1, 1, D]: ``batch`` is 0 where one row serves all. [1, BLOCK_D]."""
    if ptr is None:
        return tl.full(columns.shape, absent, tl.float32)[None, :]
    else:
        return _load(ptr, b * batch + columns, columns < D)[None, :]


@triton.jit
def layer_norm_forward_kernel(
    x_ptr,  # [B, N, D]
    weight_ptr,  # [B | 1, 1, D] or None
    bias_ptr,  # [B | 1, 1, D] or None
    y_ptr,  # [B, N, D]
    mean_ptr,  # [B, N] float32
    rstd_ptr,  # [B, N] float32
    weight_batch,
    bias_batch,
    N,
    D,
    eps,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """y = weight x̂ + bias of BLOCK_N rows."""
    tiles = tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    rows = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    inside = columns[None, :] < D
    mask = (rows[:, None] < N) & inside
    offsets = (b * N + rows)[:, None] * D + columns[None, :]

    x = _load(x_ptr, offsets, mask)
    mean = tl.sum(x, 1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 1) / D + eps)
    weight = _shared(weight_ptr, weight_batch, b, columns, D, 1.0)
    bias = _shared(bias_ptr, bias_batch, b, columns, D, 0.0)
    y = centred * rstd[:, None] * weight + bias
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + b * N + rows, mean, mask=rows < N)
    tl.store(rstd_ptr + b * N + rows, rstd, mask=rows < N)


@triton.jit
def layer_norm_tangent_kernel(
    x_ptr,  # [B, N, D]
    weight_ptr,  # [B | 1, 1, D] or None
    mean_ptr,  # [B, N] float32
    rstd_ptr,  # [B, N] float32
    t_x_ptr,  # [T, B, N, D] or None
    t_weight_ptr,  # [T, B | 1, 1, D] or None
    t_bias_ptr,  # [T, B | 1, 1, D] or None
    t_y_ptr,  # [T, B, N, D]
    t_mean_ptr,  # [T, B, N] float32
    t_rstd_ptr,  # [T, B, N] float32
    weight_batch,
    t_weight_tangent,
    t_bias_batch,
    t_bias_tangent,
    T,
    B,
    N,
    D,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """y' = weight' x̂ + weight x̂' + bias' of BLOCK_N rows, the tangents one after the other."""
    tiles = tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    rows = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    mask = (rows[:, None] < N) & (columns[None, :] < D)
    places = b * N + rows
    offsets = places[:, None] * D + columns[None, :]

    mean = _load(mean_ptr, places, rows < N)[:, None]
    rstd = _load(rstd_ptr, places, rows < N)[:, None]
    normal = tl.where(mask, (_load(x_ptr, offsets, mask) - mean) * rstd, 0.0)
    weight = _shared(weight_ptr, weight_batch, b, columns, D, 1.0)
    for t in range(T):
        step = tl.cast(t, tl.int64) * B * N
        t_y = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        t_mean = tl.zeros([BLOCK_N, 1], tl.float32)
        growth = tl.zeros([BLOCK_N, 1], tl.float32)  # rstd' / rstd
        if t_x_ptr is not None:
            t_x = _load(t_x_ptr, step * D + offsets, mask)
            t_mean = (tl.sum(t_x, 1) / D)[:, None]
            growth = -rstd * (tl.sum(normal * t_x, 1) / D)[:, None]
            t_y += weight * ((t_x - t_mean) * rstd + normal * growth)
        if t_weight_ptr is not None:
            t_y += normal * _shared(t_weight_ptr + t * t_weight_tangent, weight_batch, b, columns, D, 0.0)
        if t_bias_ptr is not None:
            t_y += _shared(t_bias_ptr + t * t_bias_tangent, t_bias_batch, b, columns, D, 0.0)
        tl.store(t_y_ptr + step * D + offsets, t_y.to(t_y_ptr.dtype.element_ty), mask=mask)
        tl.store(t_mean_ptr + step + places[:, None], t_mean, mask=rows[:, None] < N)
        tl.store(t_rstd_ptr + step + places[:, None], growth * rstd, mask=rows[:, None] < N)


@triton.jit
def layer_norm_backward_kernel(
    x_ptr,  # [B, N, D]
    weight_ptr,  # [B | 1, 1, D] or None
    mean_ptr,  # [B, N] float32
    rstd_ptr,  # [B, N] float32
    grad_ptr,  # [B, N, D]
    d_x_ptr,  # [B, N, D] or None
    d_weight_ptr,  # [B, chunks, D] float32 or None
    d_bias_ptr,  # [B, chunks, D] float32 or None
    weight_batch,
    N,
    D,
    CHUNK,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """With a = weight g: d_x = rstd (a - mean(a) - x̂ mean(a x̂)), d_weight = sum g x̂, d_bias = sum g of CHUNK rows."""
    chunks = tl.cdiv(N, CHUNK)
    b = (tl.program_id(0) // chunks).to(tl.int64)
    first = tl.program_id(0) % chunks * CHUNK
    columns = tl.arange(0, BLOCK_D)
    weight = _shared(weight_ptr, weight_batch, b, columns, D, 1.0)
    d_weight = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    d_bias = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        mask = (rows[:, None] < N) & (columns[None, :] < D)
        places = b * N + rows
        offsets = places[:, None] * D + columns[None, :]
        mean = _load(mean_ptr, places, rows < N)[:, None]
        rstd = _load(rstd_ptr, places, rows < N)[:, None]
        normal = tl.where(mask, (_load(x_ptr, offsets, mask) - mean) * rstd, 0.0)
        grad = _load(grad_ptr, offsets, mask)
        if d_x_ptr is not None:
            a = weight * grad
            d_x = rstd * (a - (tl.sum(a, 1) / D)[:, None] - normal * (tl.sum(a * normal, 1) / D)[:, None])
            tl.store(d_x_ptr + offsets, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        d_weight += grad * normal
        d_bias += grad
    place = tl.program_id(0).to(tl.int64) * D + columns
    if d_weight_ptr is not None:
        tl.store(d_weight_ptr + place, tl.sum(d_weight, 0), mask=columns < D)
    if d_bias_ptr is not None:
        tl.store(d_bias_ptr + place, tl.sum(d_bias, 0), mask=columns < D)


@triton.jit
def layer_norm_backward_tangent_kernel(
    x_ptr,  # [B, N, D]
    weight_ptr,  # [B | 1, 1, D] or None
    mean_ptr,  # [B, N] float32
    rstd_ptr,  # [B, N] float32
    grad_ptr,  # [B, N, D]
    t_x_ptr,  # [T, B, N, D] or None
    t_weight_ptr,  # [T, B | 1, 1, D] or None
    t_mean_ptr,  # [T, B, N] float32, with t_x
    t_rstd_ptr,  # [T, B, N] float32, with t_x
    t_grad_ptr,  # [T, B, N, D] or None
    t_d_x_ptr,  # [T, B, N, D] or None
    t_d_weight_ptr,  # [T, B, chunks, D] float32 or None
    t_d_bias_ptr,  # [T, B, chunks, D] float32 or None
    weight_batch,
    t_weight_tangent,
    B,
    N,
    D,
    CHUNK,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The tangent of ``layer_norm_backward_kernel`` for one tangent and CHUNK rows."""
    chunks = tl.cdiv(N, CHUNK)
    t = (tl.program_id(0) // (chunks * B)).to(tl.int64)
    b = (tl.program_id(0) // chunks % B).to(tl.int64)
    first = tl.program_id(0) % chunks * CHUNK
    columns = tl.arange(0, BLOCK_D)
    step = t * B * N
    weight = _shared(weight_ptr, weight_batch, b, columns, D, 1.0)
    t_d_weight = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    t_d_bias = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        mask = (rows[:, None] < N) & (columns[None, :] < D)
        places = b * N + rows
        offsets = places[:, None] * D + columns[None, :]
        mean = _load(mean_ptr, places, rows < N)[:, None]
        rstd = _load(rstd_ptr, places, rows < N)[:, None]
        normal = tl.where(mask, (_load(x_ptr, offsets, mask) - mean) * rstd, 0.0)
        grad = _load(grad_ptr, offsets, mask)
        a = weight * grad
        t_a = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        if t_weight_ptr is not None:
            t_a += grad * _shared(t_weight_ptr + t * t_weight_tangent, weight_batch, b, columns, D, 0.0)
        if t_grad_ptr is not None:
            t_grad = _load(t_grad_ptr, step * D + offsets, mask)
            t_a += weight * t_grad
            t_d_weight += t_grad * normal
            t_d_bias += t_grad
        m_tax = (tl.sum(t_a * normal, 1) / D)[:, None]
        t_d_x = t_a - (tl.sum(t_a, 1) / D)[:, None]
        if t_x_ptr is not None:
            growth = _load(t_rstd_ptr, step + places, rows < N)[:, None] / tl.where(rows[:, None] < N, rstd, 1.0)
            t_mean = _load(t_mean_ptr, step + places, rows < N)[:, None]
            t_normal = (_load(t_x_ptr, step * D + offsets, mask) - t_mean) * rstd + normal * growth
            t_normal = tl.where(mask, t_normal, 0.0)
            m_ax = (tl.sum(a * normal, 1) / D)[:, None]
            m_tax += (tl.sum(a * t_normal, 1) / D)[:, None]
            t_d_x += growth * (a - (tl.sum(a, 1) / D)[:, None] - normal * m_ax) - t_normal * m_ax
            t_d_weight += grad * t_normal
        if t_d_x_ptr is not None:
            t_d_x = rstd * (t_d_x - normal * m_tax)
            tl.store(t_d_x_ptr + step * D + offsets, t_d_x.to(t_d_x_ptr.dtype.element_ty), mask=mask)
    place = tl.program_id(0).to(tl.int64) * D + columns
    if t_d_weight_ptr is not None:
        tl.store(t_d_weight_ptr + place, tl.sum(t_d_weight, 0), mask=columns < D)
    if t_d_bias_ptr is not None:
        tl.store(t_d_bias_ptr + place, tl.sum(t_d_bias, 0), mask=columns < D)
