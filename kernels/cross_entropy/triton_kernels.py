"""Triton kernels of cross-entropy: a row a program, in blocks of classes; no softmax is kept.

Weights of classes q = kept target + spread; where there is an index instead of a target, target is 1 at it and 0
elsewhere. A tangent that is None is zero.
"""

import triton
import triton.language as tl


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _target(target_ptr, offsets, columns, mask, label):
    """The target of a block of classes; ``label`` is the row's class, -1 where it has none."""
    if target_ptr is None:
        return tl.where(mask & (columns == label), 1.0, 0.0)
    else:
        return _load(target_ptr, offsets, mask)


@triton.jit
def _label(index_ptr, row, ignore_index):
    """The class of a row (-1: it has none), and whether the row counts."""
    if index_ptr is None:
        return tl.full([], -1, tl.int64), True
    else:
        label = tl.load(index_ptr + row)
        return label, label != ignore_index


@triton.jit
def _row_sum(ptr, start, C, BLOCK_C: tl.constexpr):
    total = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        total += _load(ptr, start + columns, columns < C)
    return tl.sum(total, 0)


@triton.jit
def cross_entropy_forward_kernel(
    logits_ptr,  # [rows, C]
    target_ptr,  # [rows, C] or None
    index_ptr,  # [rows] int64 or None
    loss_ptr,  # [rows] float32
    lse_ptr,  # [rows] float32
    C,
    kept,
    spread,
    ignore_index,
    BLOCK_C: tl.constexpr,
):
    """lse in one sweep (a running maximum a lane), loss = sum of q (lse - z) in another."""
    row = tl.program_id(0).to(tl.int64)
    label, counts = _label(index_ptr, row, ignore_index)
    top = tl.full([BLOCK_C], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        z = tl.load(logits_ptr + row * C + columns, mask=columns < C, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, z)
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - finite) + tl.exp(z - finite)
        top = higher
    highest = tl.max(top, 0)
    lse = highest + tl.log(tl.sum(total * tl.exp(top - highest), 0))
    tl.store(lse_ptr + row, lse)

    loss = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        mask = columns < C
        q = kept * _target(target_ptr, row * C + columns, columns, mask, label) + spread
        slack = lse - _load(logits_ptr, row * C + columns, mask)
        skipped = (~mask) | ((q == 0.0) & (slack == float("inf")))
        loss += tl.where(skipped, 0.0, q * slack)
    tl.store(loss_ptr + row, tl.where(counts, tl.sum(loss, 0), 0.0))


@triton.jit
def cross_entropy_tangent_kernel(
    logits_ptr,  # [rows, C]
    target_ptr,  # [rows, C] or None
    index_ptr,  # [rows] int64 or None
    lse_ptr,  # [rows] float32
    t_logits_ptr,  # [T, rows, C] or None
    t_target_ptr,  # [T, rows, C] or None
    t_loss_ptr,  # [T, rows] float32
    t_lse_ptr,  # [T, rows] float32
    rows,
    C,
    kept,
    spread,
    ignore_index,
    BLOCK_C: tl.constexpr,
):
    """lse' = sum p z', loss' = sum q (lse' - z') + q' (lse - z), as s lse' - sum q z' + sum q' (lse - z), s = sum q."""
    row = (tl.program_id(0) % rows).to(tl.int64)
    place = tl.program_id(0).to(tl.int64)  # t * rows + row
    label, counts = _label(index_ptr, row, ignore_index)
    lse = tl.load(lse_ptr + row)
    t_lse = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        mask = columns < C
        if t_logits_ptr is not None:
            p = tl.exp(_load(logits_ptr, row * C + columns, mask) - lse)
            t_lse += p * _load(t_logits_ptr, place * C + columns, mask)
    t_lse = tl.sum(t_lse, 0)
    t_loss = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        mask = columns < C
        if t_logits_ptr is not None:
            q = kept * _target(target_ptr, row * C + columns, columns, mask, label) + spread
            t_loss += tl.where(mask, q * (t_lse - _load(t_logits_ptr, place * C + columns, mask)), 0.0)
        if t_target_ptr is not None:
            slack = lse - _load(logits_ptr, row * C + columns, mask)
            t_loss += kept * _load(t_target_ptr, place * C + columns, mask) * slack
    tl.store(t_loss_ptr + place, tl.where(counts, tl.sum(t_loss, 0), 0.0))
    tl.store(t_lse_ptr + place, t_lse)


@triton.jit
def cross_entropy_backward_kernel(
    logits_ptr,  # [rows, C]
    target_ptr,  # [rows, C] or None
    index_ptr,  # [rows] int64 or None
    lse_ptr,  # [rows] float32
    grad_ptr,  # [rows] float32
    d_logits_ptr,  # [rows, C] or None
    d_target_ptr,  # [rows, C] or None
    C,
    kept,
    spread,
    ignore_index,
    BLOCK_C: tl.constexpr,
):
    """d_z = g (s p - q) with p = exp(z - lse) and s = sum q; d_target = kept g (lse - z)."""
    row = tl.program_id(0).to(tl.int64)
    label, counts = _label(index_ptr, row, ignore_index)
    lse = tl.load(lse_ptr + row)
    grad = tl.where(counts, tl.load(grad_ptr + row), 0.0)
    total = kept + spread * C
    if target_ptr is not None:
        total = kept * _row_sum(target_ptr, row * C, C, BLOCK_C) + spread * C
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        mask = columns < C
        offsets = row * C + columns
        z = _load(logits_ptr, offsets, mask)
        if d_logits_ptr is not None:
            q = kept * _target(target_ptr, offsets, columns, mask, label) + spread
            d_logits = grad * (total * tl.exp(z - lse) - q)
            tl.store(d_logits_ptr + offsets, d_logits.to(d_logits_ptr.dtype.element_ty), mask=mask)
        if d_target_ptr is not None:
            d_target = kept * grad * (lse - z)
            tl.store(d_target_ptr + offsets, d_target.to(d_target_ptr.dtype.element_ty), mask=mask)


@triton.jit
def cross_entropy_backward_tangent_kernel(
    logits_ptr,  # [rows, C]
    target_ptr,  # [rows, C] or None
    index_ptr,  # [rows] int64 or None
    lse_ptr,  # [rows] float32
    grad_ptr,  # [rows] float32
    t_logits_ptr,  # [T, rows, C] or None
    t_target_ptr,  # [T, rows, C] or None
    t_lse_ptr,  # [T, rows] float32, with t_logits
    t_grad_ptr,  # [T, rows] float32 or None
    t_d_logits_ptr,  # [T, rows, C] or None
    t_d_target_ptr,  # [T, rows, C] or None
    rows,
    C,
    kept,
    spread,
    ignore_index,
    BLOCK_C: tl.constexpr,
):
    """The tangent of ``cross_entropy_backward_kernel``."""
    row = (tl.program_id(0) % rows).to(tl.int64)
    place = tl.program_id(0).to(tl.int64)  # t * rows + row
    label, counts = _label(index_ptr, row, ignore_index)
    lse = tl.load(lse_ptr + row)
    grad = tl.where(counts, tl.load(grad_ptr + row), 0.0)
    t_grad = 0.0
    if t_grad_ptr is not None:
        t_grad = tl.where(counts, tl.load(t_grad_ptr + place), 0.0)
    total = kept + spread * C
    if target_ptr is not None:
        total = kept * _row_sum(target_ptr, row * C, C, BLOCK_C) + spread * C
    t_total = 0.0
    if t_target_ptr is not None:
        t_total = kept * _row_sum(t_target_ptr, place * C, C, BLOCK_C)
    for first in range(0, C, BLOCK_C):
        columns = first + tl.arange(0, BLOCK_C)
        mask = columns < C
        z = _load(logits_ptr, row * C + columns, mask)
        p = tl.exp(z - lse)
        t_slack = tl.zeros([BLOCK_C], tl.float32)  # (lse - z)'
        if t_logits_ptr is not None:
            t_slack = tl.load(t_lse_ptr + place) - _load(t_logits_ptr, place * C + columns, mask)
        if t_d_logits_ptr is not None:
            q = kept * _target(target_ptr, row * C + columns, columns, mask, label) + spread
            moved = p * (t_total - total * t_slack)
            if t_target_ptr is not None:
                moved -= kept * _load(t_target_ptr, place * C + columns, mask)
            t_d = t_grad * (total * p - q) + grad * moved
            tl.store(t_d_logits_ptr + place * C + columns, t_d.to(t_d_logits_ptr.dtype.element_ty), mask=mask)
        if t_d_target_ptr is not None:
            t_d = kept * (t_grad * (lse - z) + grad * t_slack)
            tl.store(t_d_target_ptr + place * C + columns, t_d.to(t_d_target_ptr.dtype.element_ty), mask=mask)
