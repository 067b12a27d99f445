"""Triton kernels of batch normalisation: a channel of a group a program, in blocks of its B S numbers.

Few channels leave a large GPU idle: a channel is not shared by programs, so that its sums need no second kernel and do
not depend on the order of programs. A tensor that is None is zero, or one for the weight.
"""

import triton
import triton.language as tl


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _scalar(ptr, offset, absent: tl.constexpr):
    if ptr is None:
        return absent
    else:
        return tl.load(ptr + offset).to(tl.float32)


@triton.jit
def _places(first, channel, C, S, count, BLOCK: tl.constexpr):
    """Offsets of numbers first ... of a channel (g, c), channel = g C + c, and which of them are there."""
    i = first + tl.arange(0, BLOCK)
    group, c = channel // C, channel % C
    row = group * (count // S) + i // S  # of [G B, C, S]
    return (row * C + c) * S + i % S, i < count


@triton.jit
def _rstd(var, eps):
    return 1.0 / tl.sqrt_rn(var + eps)


@triton.jit
def _passed(v, normal, weight, bias, RELU: tl.constexpr):
    """act'(y) v; where y is NaN, v, as PyTorch has it."""
    if RELU:
        return tl.where(normal * weight + bias <= 0.0, 0.0, v)
    else:
        return v


@triton.jit
def batch_norm_forward_kernel(
    x_ptr,  # [G, B, C, S]
    weight_ptr,  # [G | 1, C] or None
    bias_ptr,  # [G | 1, C] or None
    mean_ptr,  # [G | 1, C] or None: of x
    var_ptr,  # [G | 1, C] or None
    y_ptr,  # [G, B, C, S]
    batch_mean_ptr,  # [G, C] float32
    batch_var_ptr,  # [G, C] float32
    weight_size,
    mean_size,
    C,
    S,
    count,
    eps,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = act(weight x̂ + bias) of one channel."""
    channel = tl.program_id(0).to(tl.int64)
    if mean_ptr is None:
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            offsets, mask = _places(first, channel, C, S, count, BLOCK)
            total += _load(x_ptr, offsets, mask)
        mean = tl.sum(total, 0) / count
        squares = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            offsets, mask = _places(first, channel, C, S, count, BLOCK)
            centred = tl.where(mask, _load(x_ptr, offsets, mask) - mean, 0.0)
            squares += centred * centred
        var = tl.sum(squares, 0) / count
    else:
        mean = tl.load(mean_ptr + channel % mean_size)
        var = tl.load(var_ptr + channel % mean_size)
    rstd = _rstd(var, eps)
    tl.store(batch_mean_ptr + channel, mean)
    tl.store(batch_var_ptr + channel, var)
    weight = _scalar(weight_ptr, channel % weight_size, 1.0)
    bias = _scalar(bias_ptr, channel % weight_size, 0.0)
    for first in range(0, count, BLOCK):
        offsets, mask = _places(first, channel, C, S, count, BLOCK)
        y = (_load(x_ptr, offsets, mask) - mean) * rstd * weight + bias
        if RELU:
            y = tl.where(y <= 0.0, 0.0, y)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_tangent_kernel(
    x_ptr,  # [G, B, C, S]
    weight_ptr,  # [G | 1, C] or None
    bias_ptr,  # [G | 1, C] or None
    mean_ptr,  # [G, C] float32
    var_ptr,  # [G, C] float32
    t_x_ptr,  # [T, G, B, C, S] or None
    t_weight_ptr,  # [T, G | 1, C] or None
    t_bias_ptr,  # [T, G | 1, C] or None
    t_y_ptr,  # [T, G, B, C, S]
    t_mean_ptr,  # [T, G, C] float32
    t_var_ptr,  # [T, G, C] float32
    weight_size,
    channels,
    C,
    S,
    count,
    eps,
    TRAINING: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y' = act'(y) (weight' x̂ + weight x̂' + bias') of one channel and tangent."""
    channel = (tl.program_id(0) % channels).to(tl.int64)
    t = (tl.program_id(0) // channels).to(tl.int64)
    step = t * channels * count
    mean, rstd = tl.load(mean_ptr + channel), _rstd(tl.load(var_ptr + channel), eps)
    weight, bias = _scalar(weight_ptr, channel % weight_size, 1.0), _scalar(bias_ptr, channel % weight_size, 0.0)
    t_weight = _scalar(t_weight_ptr, t * weight_size + channel % weight_size, 0.0)
    t_bias = _scalar(t_bias_ptr, t * weight_size + channel % weight_size, 0.0)
    t_mean = 0.0
    t_var = 0.0
    if TRAINING and t_x_ptr is not None:
        total = tl.zeros([BLOCK], tl.float32)
        product = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            offsets, mask = _places(first, channel, C, S, count, BLOCK)
            t_x = _load(t_x_ptr, step + offsets, mask)
            total += t_x
            product += t_x * ((_load(x_ptr, offsets, mask) - mean) * rstd)
        t_mean = tl.sum(total, 0) / count
        t_var = 2.0 * tl.sum(product, 0) / (count * rstd)
    tl.store(t_mean_ptr + tl.program_id(0), t_mean)
    tl.store(t_var_ptr + tl.program_id(0), t_var)
    growth = -0.5 * rstd * rstd * t_var  # rstd' / rstd
    for first in range(0, count, BLOCK):
        offsets, mask = _places(first, channel, C, S, count, BLOCK)
        normal = (_load(x_ptr, offsets, mask) - mean) * rstd
        t_normal = normal * growth
        if t_x_ptr is not None:
            t_normal += (_load(t_x_ptr, step + offsets, mask) - t_mean) * rstd
        t_y = _passed(normal * t_weight + t_normal * weight + t_bias, normal, weight, bias, RELU)
        tl.store(t_y_ptr + step + offsets, t_y.to(t_y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_backward_kernel(
    x_ptr,  # [G, B, C, S]
    weight_ptr,  # [G | 1, C] or None
    bias_ptr,  # [G | 1, C] or None
    mean_ptr,  # [G, C] float32
    var_ptr,  # [G, C] float32
    grad_ptr,  # [G, B, C, S]
    d_x_ptr,  # [G, B, C, S] or None
    d_weight_ptr,  # [G, C] float32
    d_bias_ptr,  # [G, C] float32
    weight_size,
    C,
    S,
    count,
    eps,
    TRAINING: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """With h = act'(y) g: d_x = weight rstd (h - mean(h) - x̂ mean(h x̂)), d_weight = sum h x̂, d_bias = sum h."""
    channel = tl.program_id(0).to(tl.int64)
    mean, rstd = tl.load(mean_ptr + channel), _rstd(tl.load(var_ptr + channel), eps)
    weight, bias = _scalar(weight_ptr, channel % weight_size, 1.0), _scalar(bias_ptr, channel % weight_size, 0.0)
    total = tl.zeros([BLOCK], tl.float32)
    product = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, BLOCK):
        offsets, mask = _places(first, channel, C, S, count, BLOCK)
        normal = (_load(x_ptr, offsets, mask) - mean) * rstd
        h = _passed(_load(grad_ptr, offsets, mask), normal, weight, bias, RELU)
        total += h
        product += h * normal
    s_h, s_hx = tl.sum(total, 0), tl.sum(product, 0)
    tl.store(d_weight_ptr + channel, s_hx)
    tl.store(d_bias_ptr + channel, s_h)
    m_h, m_hx = s_h / count, s_hx / count
    if d_x_ptr is not None:
        for first in range(0, count, BLOCK):
            offsets, mask = _places(first, channel, C, S, count, BLOCK)
            normal = (_load(x_ptr, offsets, mask) - mean) * rstd
            h = _passed(_load(grad_ptr, offsets, mask), normal, weight, bias, RELU)
            if TRAINING:
                h -= m_h + normal * m_hx
            d_x = h * (weight * rstd)
            tl.store(d_x_ptr + offsets, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_backward_tangent_kernel(
    x_ptr,  # [G, B, C, S]
    weight_ptr,  # [G | 1, C] or None
    bias_ptr,  # [G | 1, C] or None
    mean_ptr,  # [G, C] float32
    var_ptr,  # [G, C] float32
    grad_ptr,  # [G, B, C, S]
    t_x_ptr,  # [T, G, B, C, S] or None
    t_weight_ptr,  # [T, G | 1, C] or None
    t_mean_ptr,  # [T, G, C] float32, or None
    t_var_ptr,  # [T, G, C] float32, or None
    t_grad_ptr,  # [T, G, B, C, S] or None
    t_d_x_ptr,  # [T, G, B, C, S] or None
    t_d_weight_ptr,  # [T, G, C] float32
    t_d_bias_ptr,  # [T, G, C] float32
    weight_size,
    channels,
    C,
    S,
    count,
    eps,
    TRAINING: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The tangent of ``batch_norm_backward_kernel`` for one channel and tangent."""
    place = tl.program_id(0).to(tl.int64)
    channel, t = place % channels, place // channels
    step = t * channels * count
    mean, rstd = tl.load(mean_ptr + channel), _rstd(tl.load(var_ptr + channel), eps)
    weight, bias = _scalar(weight_ptr, channel % weight_size, 1.0), _scalar(bias_ptr, channel % weight_size, 0.0)
    t_weight = _scalar(t_weight_ptr, t * weight_size + channel % weight_size, 0.0)
    t_mean = _scalar(t_mean_ptr, place, 0.0)
    growth = -0.5 * rstd * rstd * _scalar(t_var_ptr, place, 0.0)  # rstd' / rstd
    total = tl.zeros([BLOCK], tl.float32)
    product = tl.zeros([BLOCK], tl.float32)
    t_total = tl.zeros([BLOCK], tl.float32)
    t_product = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, BLOCK):
        offsets, mask = _places(first, channel, C, S, count, BLOCK)
        normal = (_load(x_ptr, offsets, mask) - mean) * rstd
        h = _passed(_load(grad_ptr, offsets, mask), normal, weight, bias, RELU)
        total += h
        product += h * normal
        t_normal = normal * growth
        if t_x_ptr is not None:
            t_normal += (_load(t_x_ptr, step + offsets, mask) - t_mean) * rstd
        t_product += h * t_normal
        if t_grad_ptr is not None:
            t_h = _passed(_load(t_grad_ptr, step + offsets, mask), normal, weight, bias, RELU)
            t_total += t_h
            t_product += t_h * normal
    s_th, s_thx = tl.sum(t_total, 0), tl.sum(t_product, 0)
    tl.store(t_d_weight_ptr + place, s_thx)
    tl.store(t_d_bias_ptr + place, s_th)
    m_h, m_hx = tl.sum(total, 0) / count, tl.sum(product, 0) / count
    m_th, m_thx = s_th / count, s_thx / count
    scale = weight * rstd
    t_scale = t_weight * rstd + scale * growth
    if t_d_x_ptr is not None:
        for first in range(0, count, BLOCK):
            offsets, mask = _places(first, channel, C, S, count, BLOCK)
            normal = (_load(x_ptr, offsets, mask) - mean) * rstd
            h = _passed(_load(grad_ptr, offsets, mask), normal, weight, bias, RELU)
            t_normal = normal * growth
            if t_x_ptr is not None:
                t_normal += (_load(t_x_ptr, step + offsets, mask) - t_mean) * rstd
            t_d_x = h * t_scale
            if TRAINING:
                t_d_x -= (m_h + normal * m_hx) * t_scale + (m_th + t_normal * m_hx + normal * m_thx) * scale
            if t_grad_ptr is not None:
                t_d_x += _passed(_load(t_grad_ptr, step + offsets, mask), normal, weight, bias, RELU) * scale
            tl.store(t_d_x_ptr + step + offsets, t_d_x.to(t_d_x_ptr.dtype.element_ty), mask=mask)
