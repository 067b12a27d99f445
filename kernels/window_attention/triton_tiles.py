"""What the Triton kernels of window attention share: where a window's tokens are, and what they think of each other.

Conventions of every kernel of this folder:

- A program has BLOCK slots: the tokens of PACK windows of one image, one window after the other, padded to a power of
  two. A whole window is in one tile, so that there is no loop over keys.
- Maps come as a pointer and four strides, in elements: from tangent to tangent, image to image, head to head, pixel to
  pixel. With CHANNELS_LAST the channels of a pixel are neighbours; else pixels are, and a channel is a whole plane of
  them. So all maps share one tile of 32-bit offsets: a tile for each would take all registers there are.
- ``tokens`` is where the slots lie: the image, and pixels in it. ``label`` is the window of a token, and a number of
  its own for a slot that holds none (beyond the border, or beyond the last window): a query sees the keys of its label.
  So a slot without a token sees itself, reads zeros, adds zero to every sum, and is not written.
- ``None`` in place of a pointer is a zero tangent (or an absent table, or a result nobody needs), as in the kernels of
  attention: it is a compile-time constant, and its products are not compiled.
- The whole row of probabilities is there, so that row sums need nothing from earlier kernels: with <P, X> the row sum
  of P∘X, the derivative of the softmax in direction X is P∘(X - <P, X>).
"""

import triton
import triton.language as tl

from ..attention.triton_tiles import LOG2_E, times_transposed, times_transposed_tangent


@triton.jit
def slots(index, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, BLOCK: tl.constexpr):
    """Of every slot: which of the program's windows, and the row and the column in it.

    They are the same for every ``index``, a number that changes in the loop round the call: the compiler does not see
    that, or it would keep in registers, over the whole loop, what is cheaply computed again.
    """
    slot = index * (WINDOW_H * WINDOW_W) + tl.arange(0, BLOCK)
    token = slot % (WINDOW_H * WINDOW_W)
    return slot // (WINDOW_H * WINDOW_W) - index, token // WINDOW_W, token % WINDOW_W


@triton.jit
def locate(
    program, SLOTS, GROUPS, layout, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Head, table slot, group of windows, ``tokens`` and ``label`` of this program, and which slots see each other.

    The images that have a table of their own, or all, are a slot; its windows are GROUPS groups of PACK.
    layout: height and width of the map, rows and columns of windows, rows and columns before the map, images of a slot.
    """
    group = program % GROUPS
    slot = program // GROUPS % SLOTS
    head = program // GROUPS // SLOTS
    height, width, rows, columns, top, left, images = layout
    PACK: tl.constexpr = BLOCK // (WINDOW_H * WINDOW_W)
    groups = tl.cdiv(rows * columns, PACK)  # of an image
    of, row, column = slots(group, WINDOW_H, WINDOW_W, BLOCK)
    window = group % groups * PACK + of
    row += window // columns * WINDOW_H - top
    column += window % columns * WINDOW_W - left
    inside = (of < PACK) & (row >= 0) & (row < height) & (column >= 0) & (column < width)  # no row of windows beyond
    label = tl.where(inside, of, -1 - tl.arange(0, BLOCK))
    tokens = (slot * images + group // groups, row * width + column, height * width)
    return head, slot, group, tokens, label, label[:, None] == label[None, :]


@triton.jit
def _place(ptr, strides, t, head, tokens, label, D: tl.constexpr, BLOCK_D: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Pointers and mask of a tile of a head: [BLOCK, BLOCK_D], or [BLOCK_D, BLOCK] where channels are not last."""
    image, pixels, plane = tokens
    channels = tl.arange(0, BLOCK_D)
    ptr += tl.cast(t, tl.int64) * strides[0] + tl.cast(image, tl.int64) * strides[1]
    ptr += tl.cast(head, tl.int64) * strides[2]
    if CHANNELS_LAST:
        inside = label[:, None] >= 0
        if D < BLOCK_D:
            inside = inside & (channels[None, :] < D)
        return ptr + (pixels[:, None] * strides[3] + channels[None, :]), inside
    else:
        inside = label[None, :] >= 0
        if D < BLOCK_D:
            inside = inside & (channels[:, None] < D)
        return ptr + (pixels[None, :] + channels[:, None] * plane), inside


@triton.jit
def load_tokens(
    ptr, strides, t, head, tokens, label, D: tl.constexpr, BLOCK_D: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """The tokens of a head, [BLOCK, BLOCK_D], zeros where there is none; None stays None."""
    if ptr is None:
        return None
    else:
        place, inside = _place(ptr, strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
        tile = tl.load(place, mask=inside, other=0.0)
        if CHANNELS_LAST:
            return tile
        else:
            return tl.trans(tile)


@triton.jit
def store_tokens(
    ptr, strides, tile, t, head, tokens, label, D: tl.constexpr, BLOCK_D: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """Writes what ``load_tokens`` reads, rounded to the map's dtype."""
    place, inside = _place(ptr, strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    rounded = tile.to(ptr.dtype.element_ty)
    if not CHANNELS_LAST:
        rounded = tl.trans(rounded)
    tl.store(place, rounded, mask=inside)


@triton.jit
def load_table(ptr, strides, t, slot, head, index, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, BLOCK: tl.constexpr):
    """What a table adds to the scores of every pair of slots, float32; None stays None.

    strides: from tangent to tangent, slot to slot, head to head. The place of an entry in [2h-1, 2w-1] is a difference
    of two terms, one of the query and one of the key; it is within the table also where they are not of one window.
    index: as in ``slots``.
    """
    if ptr is None:
        return None
    else:
        ptr += tl.cast(t, tl.int64) * strides[0] + slot * strides[1] + head * strides[2]
        _of, row, column = slots(index, WINDOW_H, WINDOW_W, BLOCK)
        place = row * (2 * WINDOW_W - 1) + column
        origin: tl.constexpr = (WINDOW_H - 1) * (2 * WINDOW_W - 1) + WINDOW_W - 1
        return tl.load(ptr + (origin + place[None, :] - place[:, None])).to(tl.float32)


@triton.jit
def softmax(query, key, table, visible, scale, PRECISION: tl.constexpr):
    """P = softmax(s·QKᵀ + table) along the keys; a query to which the table hides every key (-inf) gets zeros."""
    s = times_transposed(query, key, PRECISION) * (scale * LOG2_E)
    if table is not None:
        s += table * LOG2_E
    s = tl.where(visible, s, -float("inf"))
    most = tl.max(s, 1)
    p = tl.exp2(s - tl.where(most == -float("inf"), 0.0, most)[:, None])
    total = tl.sum(p, 1)
    return p * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]


@triton.jit
def centred(p, x):
    """X - <P, X>; None stays None."""
    if x is None:
        return None
    else:
        return x - tl.sum(p * x, 1)[:, None]


@triton.jit
def scores_tangent(query, t_query, key, t_key, t_table, scale, PRECISION: tl.constexpr):
    """S' = s·(Q'Kᵀ + QK'ᵀ) + table'; None where there is none of them. To be called after ``softmax``."""
    product = times_transposed_tangent(query, t_query, key, t_key, PRECISION)
    if product is None:
        return t_table
    else:
        product *= scale
        if t_table is not None:
            product += t_table
        return product


@triton.jit
def store_scores(ptr, tile, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, BLOCK: tl.constexpr):
    """Writes a tile of this program, the pairs of tokens of each of its windows, to [programs, PACK, h·w, h·w]."""
    TOKENS: tl.constexpr = WINDOW_H * WINDOW_W
    PACK: tl.constexpr = BLOCK // TOKENS
    slot = tl.arange(0, BLOCK)
    of, token = slot // TOKENS, slot % TOKENS
    window = tl.program_id(0).to(tl.int64) * PACK + of
    place = (window * TOKENS + token)[:, None] * TOKENS + token[None, :]
    tl.store(ptr + place, tile, mask=(of[:, None] == of[None, :]) & (of[:, None] < PACK))
