"""Operands of the second-order kernels' products: tiles that are held, or places that every product reads by chunks.

float32 products without TF32 have no matrix instruction on NVIDIA GPUs: whole rows of both operands are registers, and
a second-order kernel has eight operands. There an operand is only a ``Place``, and a product of rows reads CHUNK
columns of both at a time, from the nearest cache, in a loop that the compiler leaves one. Heads of 256 on AMD do the
same. CHUNK is None where operands are held.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .triton_tiles import accumulate, dot, load_matrix_tile, times_transposed, times_transposed_tangent


class Place(NamedTuple):
    """Rows ``rows`` [BLOCK] of a matrix [count, width]; ``chunk`` is arange(CHUNK).

    No field is a constant: a function that returns one gives it as a number. The shapes of ``rows`` and ``chunk`` stay.
    """

    ptr: Any
    strides: Any
    rows: Any
    count: Any
    width: Any
    chunk: Any


@triton.jit
def operand(ptr, strides, rows, ROWS, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Rows ``rows`` of a matrix [ROWS, WIDTH], held as ``load_matrix_tile`` reads them or a place; None stays None."""
    if ptr is None:
        return None
    elif CHUNK is None:
        return load_matrix_tile(ptr, strides, rows, ROWS, WIDTH, BLOCK_WIDTH)
    else:
        return Place(ptr, strides, rows, ROWS, WIDTH, tl.arange(0, CHUNK))


@triton.jit
def operands(pointers, strides, rows, ROWS, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """``operand`` of several matrices, a tuple."""
    result = ()
    for k in tl.static_range(len(pointers)):
        result = result + (operand(pointers[k], strides, rows, ROWS, WIDTH, BLOCK_WIDTH, CHUNK),)
    return result


@triton.jit
def load_columns(place, columns):
    """Columns ``columns`` of a place, zeros outside."""
    offsets = place.rows[:, None].to(tl.int64) * place.strides[3] + columns[None, :].to(tl.int64) * place.strides[4]
    inside = (place.rows[:, None] < place.count) & (columns[None, :] < place.width)
    return tl.load(place.ptr + offsets, mask=inside, other=0.0)


@triton.jit
def rows_product(a, b, PRECISION: tl.constexpr):
    """a bᵀ, accumulated in float32."""
    if isinstance(a, tl.tensor):
        return times_transposed(a, b, PRECISION)
    else:
        return add_by_chunks(a, b, tl.zeros([a.rows.shape[0], b.rows.shape[0]], tl.float32), PRECISION)


@triton.jit
def rows_product_tangent(a, t_a, b, t_b, PRECISION: tl.constexpr):
    """The tangent of a bᵀ, a' bᵀ + a b'ᵀ; None where neither has a tangent. To be called after ``a bᵀ``."""
    if isinstance(a, tl.tensor):
        return times_transposed_tangent(a, t_a, b, t_b, PRECISION)
    elif t_a is None:
        return None if t_b is None else rows_product(a, t_b, PRECISION)
    else:
        product = rows_product(t_a, b, PRECISION)
        return product if t_b is None else add_by_chunks(a, t_b, product, PRECISION)


@triton.jit
def add_by_chunks(a, b, total, PRECISION: tl.constexpr):
    """a bᵀ + total of two places."""
    for start in range(0, a.width, a.chunk.shape[0]):
        columns = start + a.chunk
        total = dot(load_columns(a, columns), tl.trans(load_columns(b, columns)), total, PRECISION)
    return total


@triton.jit
def accumulate_rows(a, b, total, PRECISION: tl.constexpr):
    """a b + total of a tile and an operand."""
    if isinstance(b, tl.tensor):
        return accumulate(a, b, total, PRECISION)
    else:
        return accumulate(a, load_columns(b, tl.arange(0, total.shape[1])), total, PRECISION)
