"""Launch configurations of the Triton kernels, as data: (map, head size, dtype class, target) -> tile sizes.

No GPU was at hand: what decided is what the compiler said offline (``python -m benchmarks.static``, Triton 3.8, with a
bias, its tangent and the causal mask, the most that a kernel holds), not a timing. In this order: nothing spilled;
shared memory; the largest tile. ``tests/kernels/test_triton_compile.py`` asks for the first two.
"""

from __future__ import annotations

import torch

from ..triton_launch import Config

BUCKETS = (16, 32, 64, 128, 256)  # head sizes, rounded up to a power of two: the columns of every table
TARGETS = ("sm_80", "sm_86", "sm_90", "sm_100", "gfx90a", "gfx942")

# What a launch differs by beside the target: tf32 is float32 under torch.backends.cuda.matmul.fp32_precision = "tf32".
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "tf32": torch.float32}


def config(name: str, bucket: int, products: str, target: str) -> Config:
    """The configuration of map ``name`` (a row of the tables below) on ``target``.

    ``products`` is "16 bit", "tf32" or "float32".
    """
    if name == "delta":
        return _DELTA[BUCKETS.index(bucket)]
    return Config(*_TABLES[products][target][name][BUCKETS.index(bucket)])


def pair_config(name: str, bucket: int, products: str, target: str) -> Config | None:
    """Likewise of a program that has two tangents; None where each has its own."""
    found = _PAIRS[target].get((name, bucket)) if products == "16 bit" else None
    return None if found is None else Config(*found)


def chunk(name: str, bucket: int, products: str, target: str, places: bool) -> int | None:
    """Columns of an operand that a second-order product reads at a time (``triton_operands``); None: it is held.

    ``places``: whether those of a table's entries take registers too.
    """
    by_chunks = products == "float32" and (bucket == 256 or target.startswith("sm_"))
    by_chunks |= places and (name, bucket, products, target) in _CHUNKS_BESIDE_PLACES
    return min(bucket, 32) if by_chunks else None


# Where no tile holds its operands and places without a spill.
_CHUNKS_BESIDE_PLACES = {
    ("backward_tangent_bias", 256, "16 bit", "sm_86"),
    ("backward_tangent_bias", 128, "tf32", "sm_86"),
}


def beside_places(config: Config, name: str, bucket: int, products: str, target: str, tangents: int = 1) -> Config:
    """Likewise where the places of a table's entries take registers too: half the tile, or the kernels spill."""
    kernel = name if tangents == 1 else f"{name} x{tangents}"
    if (kernel, bucket) in _BESIDE_PLACES[products].get(target, {}):
        return Config(*_BESIDE_PLACES[products][target][kernel, bucket])
    if "tangent" in name and chunk(name, bucket, products, target, places=True) is not None:
        return config  # operands leave registers for places
    return config._replace(block_m=max(16, config.block_m // 2))


_Tile = tuple[int, int, int, int]  # the fields of a Config
_Table = dict[str, tuple[_Tile, ...]]  # map -> its tile in every column

_Beside = dict[tuple[str, int], _Tile]  # (map, with " x2" of two tangents in a program; head size) -> its tile
_GFX942_BESIDE: _Beside = {
    ("forward", 32): (128, 32, 4, 2),
    ("tangent", 32): (128, 32, 4, 1),
    ("tangent x2", 64): (64, 32, 4, 1),
    ("backward_tangent_bias", 128): (32, 32, 4, 1),
}

# Where the tile that this rule gives spills. Without places some of these do.
_BESIDE_PLACES: dict[str, dict[str, _Beside]] = {
    "16 bit": {
        "sm_80": {("backward_query", 64): (64, 64, 8, 1), ("backward_tangent_bias", 256): (16, 32, 8, 1)},
        "sm_86": {
            ("forward", 32): (128, 32, 4, 3),
            ("backward_query", 64): (64, 64, 8, 1),
        },
        "sm_90": {
            ("forward", 256): (128, 32, 8, 2),
            ("tangent", 128): (128, 32, 8, 2),
            ("backward_tangent_query", 128): (128, 16, 8, 2),
            ("backward_bias", 256): (32, 16, 4, 2),
            ("backward_tangent_bias", 64): (16, 32, 4, 2),
            ("backward_tangent_bias", 128): (16, 32, 4, 1),
        },
        "sm_100": {
            ("forward", 128): (64, 64, 4, 1),
            ("backward_key_value", 128): (32, 128, 4, 2),
            ("backward_tangent_query", 32): (64, 32, 4, 2),
            ("backward_tangent_query x2", 32): (64, 32, 4, 2),
            ("backward_tangent_bias", 64): (32, 32, 4, 2),
            ("backward_tangent_bias", 128): (16, 32, 4, 1),
            ("backward_tangent_bias", 256): (16, 32, 8, 1),
            ("backward_tangent_bias x2", 32): (32, 16, 4, 1),
            ("backward_tangent_bias x2", 64): (16, 32, 4, 1),
        },
        "gfx90a": {
            **_GFX942_BESIDE,
            ("forward", 16): (128, 32, 4, 2),
            ("tangent", 16): (128, 32, 4, 1),
            ("backward_tangent_query", 64): (64, 32, 4, 1),
        },
        "gfx942": _GFX942_BESIDE,
    },
    "tf32": {
        "sm_80": {("backward_key_value", 128): (16, 32, 4, 1), ("backward_tangent_bias", 16): (16, 32, 4, 1)},
        "sm_86": {("backward_tangent_bias", 16): (16, 32, 4, 1)},
        "sm_90": {("backward_key_value", 128): (16, 32, 4, 1), ("backward_bias", 128): (32, 16, 4, 1)},
    },
    "float32": {
        "sm_80": {("backward_tangent_query", 128): (32, 32, 8, 1)},
        "sm_86": {
            ("tangent", 32): (32, 64, 8, 1),
            ("tangent", 256): (16, 32, 4, 1),
            ("backward_key_value", 16): (16, 32, 4, 1),
            ("backward_tangent_query", 256): (32, 16, 8, 1),
            ("backward_tangent_key_value", 16): (32, 64, 8, 1),
            ("backward_tangent_bias", 32): (32, 32, 4, 1),
        },
        "sm_90": {("tangent", 32): (64, 32, 4, 1), ("backward_tangent_query", 128): (32, 64, 8, 1)},
        "sm_100": {("backward_query", 256): (16, 16, 8, 1), ("backward_tangent_query", 64): (32, 64, 8, 1)},
        "gfx90a": {("forward", 32): (128, 32, 4, 2)},
        "gfx942": {("forward", 32): (128, 32, 4, 2)},
    },
}

# The row-wise preprocessing has no tile of keys: 4096 entries, 32 registers of float32 a thread.
_DELTA = tuple(Config(4096 // bucket if bucket > 32 else 64, 1, 4, 1) for bucket in BUCKETS)

# sm_80: a shared memory of at most 99 KiB, since sm_86, sm_89 and sm_120 have no more and use this table too, where
# theirs does not say otherwise. Key tiles of 32 in the key and value kernels: 64 keep four resident operands in
# registers beside two accumulators.
_SM_80: _Table = {
    "forward": ((128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 2), (64, 32, 8, 2)),
    "tangent": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2), (16, 32, 4, 1)),
    "backward_query": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 4, 2), (32, 32, 4, 2)),
    "backward_key_value": ((64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 2), (32, 64, 4, 2), (16, 32, 4, 1)),
    "backward_tangent_query": ((128, 32, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2), (64, 16, 4, 2), (32, 32, 8, 2)),
    "backward_tangent_key_value": ((32, 128, 8, 2), (32, 64, 4, 1), (32, 32, 4, 2), (16, 16, 4, 1), (16, 16, 4, 2)),
    "backward_bias": ((64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 2), (32, 64, 4, 2)),
    "backward_tangent_bias": ((64, 64, 8, 2), (64, 64, 8, 2), (32, 64, 4, 1), (16, 32, 4, 1), (16, 32, 4, 1)),
}

# sm_86 (sm_89, sm_120): the compiler lays out the same tiles otherwise, and some of them spill.
_SM_86: _Table = {
    **_SM_80,
    "tangent": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 8, 2), (16, 32, 4, 1)),
    "backward_key_value": ((64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 1), (32, 64, 4, 2), (16, 32, 4, 1)),
    "backward_tangent_query": ((128, 32, 8, 2), (128, 32, 8, 2), (64, 32, 8, 2), (32, 16, 4, 2), (16, 32, 4, 1)),
}

# sm_90: tiles of 64 in the dimension that wgmma wants 64 of (queries, or keys where scores are transposed); up to
# 227 KiB with eight warps, half of it with four.
_SM_90: _Table = {
    "forward": ((128, 64, 8, 3), (128, 64, 8, 3), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 2)),
    "tangent": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (32, 32, 4, 2)),
    "backward_query": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 8, 2)),
    "backward_key_value": ((64, 128, 8, 2), (64, 128, 8, 2), (64, 128, 8, 2), (64, 128, 8, 2), (32, 64, 8, 2)),
    "backward_tangent_query": ((128, 32, 8, 2), (128, 32, 8, 2), (128, 32, 8, 2), (128, 32, 8, 2), (32, 32, 8, 2)),
    "backward_tangent_key_value": ((32, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 2), (16, 128, 8, 2), (16, 16, 8, 1)),
    "backward_bias": ((64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 4, 2), (64, 64, 4, 1), (32, 64, 4, 2)),
    "backward_tangent_bias": ((64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 1), (16, 32, 8, 1)),
}

# sm_100: accumulators of the wide products are in tensor memory, so that registers are free for larger tiles.
_SM_100: _Table = {
    "forward": ((128, 64, 8, 3), (128, 64, 8, 3), (128, 64, 8, 3), (128, 64, 8, 3), (64, 32, 8, 2)),
    "tangent": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2), (32, 32, 4, 2)),
    "backward_query": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (32, 32, 4, 2)),
    "backward_key_value": ((64, 128, 8, 2), (64, 128, 8, 2), (64, 128, 8, 2), (64, 128, 8, 2), (16, 32, 4, 1)),
    "backward_tangent_query": ((128, 32, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (64, 32, 8, 2), (32, 32, 8, 2)),
    "backward_tangent_key_value": ((32, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 2), (32, 64, 8, 1), (16, 16, 8, 2)),
    "backward_bias": ((64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2)),
    "backward_tangent_bias": ((64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 1), (16, 32, 4, 1)),
}

# gfx942: 64 KiB of shared memory; one stage, as a second costs a hundred registers. At most 256 registers a thread let
# two waves share a unit, which is given up for a tile of 32 queries by 64 keys.
_GFX942: _Table = {
    "forward": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 4, 1), (64, 32, 4, 1)),
    "tangent": ((128, 64, 8, 1), (128, 64, 8, 1), (128, 64, 8, 1), (64, 32, 4, 1), (64, 32, 4, 1)),
    "backward_query": ((128, 64, 8, 1), (128, 64, 8, 1), (128, 64, 8, 1), (64, 32, 4, 1), (64, 32, 4, 1)),
    "backward_key_value": ((64, 128, 8, 1), (64, 128, 8, 1), (32, 128, 8, 1), (32, 64, 4, 1), (32, 32, 4, 1)),
    "backward_tangent_query": ((128, 32, 8, 1), (128, 32, 8, 1), (128, 32, 8, 1), (64, 32, 4, 1), (32, 16, 4, 1)),
    "backward_tangent_key_value": ((32, 128, 8, 1), (32, 64, 4, 1), (32, 64, 4, 1), (32, 64, 4, 1), (16, 32, 4, 1)),
    "backward_bias": ((64, 64, 4, 1), (64, 64, 4, 1), (64, 64, 4, 1), (64, 64, 4, 1), (64, 64, 4, 1)),
    "backward_tangent_bias": ((64, 64, 8, 1), (64, 64, 8, 1), (64, 64, 8, 1), (64, 64, 8, 1), (64, 64, 4, 1)),
}

# NVIDIA, float32: products are FFMA with whole rows of both operands in registers, so tiles are small. The second-order
# kernels read their operands by chunks (``chunk``): held whole they spilled, 8 to 48 bytes on smaller tiles than these,
# hundreds at heads of 256. What is left spills on some larger tile at exactly 128 registers, 8 to 64 bytes, as if the
# assembler wanted two programs of eight warps to fit; four warps or a smaller tile do not.
_NVIDIA_FLOAT32: _Table = {
    "forward": ((32, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "tangent": ((32, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (16, 32, 4, 1)),
    "backward_query": ((64, 32, 8, 1), (32, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "backward_key_value": ((32, 64, 8, 1), (32, 64, 8, 1), (32, 64, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "backward_tangent_query": ((64, 32, 8, 1), (32, 32, 4, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 32, 8, 1)),
    "backward_tangent_key_value": ((32, 64, 8, 1), (32, 32, 8, 1), (32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)),
    "backward_bias": ((32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "backward_tangent_bias": ((32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1)),
}
_SM_80_FLOAT32: _Table = {
    **_NVIDIA_FLOAT32,
    "tangent": ((64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1)),
    "backward_tangent_query": ((64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 16, 8, 1), (32, 32, 8, 1)),
    "backward_tangent_key_value": ((32, 64, 8, 1), (32, 64, 8, 1), (32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)),
    "backward_tangent_bias": ((64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1)),
}
_SM_86_FLOAT32: _Table = {
    **_NVIDIA_FLOAT32,
    "tangent": ((64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1)),
    "backward_key_value": ((32, 32, 8, 1), (32, 32, 8, 1), (32, 64, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "backward_tangent_query": ((64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1)),
    "backward_tangent_key_value": ((16, 64, 8, 1), (16, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)),
    "backward_bias": ((32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    "backward_tangent_bias": ((64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 16, 8, 1), (32, 16, 8, 1)),
}

# TF32: products are matrix instructions again, whose operands come from shared memory: 32 keys, or a second stage, take
# fewer registers than a tile of 16 x 16. Heads wider than 128 have none (``Problem``).
_TF32: _Table = {
    "tangent": ((32, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1), (16, 16, 8, 1)),
    "backward_tangent_key_value": ((32, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 1), (16, 16, 8, 1)),
    "backward_tangent_bias": ((32, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1)),
}
_SM_80_TF32: _Table = {
    **_NVIDIA_FLOAT32,
    **_TF32,
    "backward_tangent_query": ((32, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)),
    "backward_tangent_key_value": ((32, 32, 8, 1), (16, 32, 8, 1), (32, 32, 8, 1), (16, 16, 8, 1)),
}
_SM_86_TF32: _Table = {
    **_SM_86_FLOAT32,
    **_TF32,
    "backward_tangent_query": ((32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 2)),
}
_SM_90_TF32: _Table = {
    **_NVIDIA_FLOAT32,
    **_TF32,
    "backward_tangent_query": ((32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 1)),
    "backward_bias": ((32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1), (64, 32, 8, 1)),
}
_SM_100_TF32: _Table = {
    **_NVIDIA_FLOAT32,
    **_TF32,
    "tangent": ((32, 32, 4, 1), (32, 32, 8, 1), (32, 32, 8, 1), (16, 16, 8, 1)),
    "backward_query": ((64, 32, 8, 1), (32, 32, 8, 1), (64, 32, 8, 1), (32, 32, 4, 1)),
    "backward_tangent_query": ((32, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 2)),
    "backward_tangent_bias": ((32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1), (16, 32, 8, 1)),
}

# gfx942, float32: matrix instructions exist, operands take twice the registers of 16 bits.
_GFX942_FLOAT32: _Table = {
    "forward": ((128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 4, 1), (32, 32, 4, 1), (16, 16, 4, 1)),
    "tangent": ((128, 64, 8, 1), (64, 32, 4, 1), (64, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
    "backward_query": ((128, 64, 8, 1), (128, 64, 8, 1), (64, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
    "backward_key_value": ((64, 128, 8, 1), (32, 128, 8, 1), (64, 32, 4, 1), (16, 32, 4, 1), (16, 16, 4, 1)),
    "backward_tangent_query": ((128, 32, 8, 1), (128, 16, 8, 1), (64, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
    "backward_tangent_key_value": ((32, 128, 8, 1), (32, 64, 4, 1), (32, 64, 4, 1), (16, 32, 4, 1), (16, 16, 4, 1)),
    "backward_bias": ((64, 64, 4, 1), (64, 64, 4, 1), (64, 64, 4, 1), (32, 32, 4, 1), (16, 16, 4, 1)),
    "backward_tangent_bias": ((64, 64, 8, 1), (64, 64, 8, 1), (64, 64, 4, 1), (16, 16, 4, 1), (16, 16, 4, 1)),
}

_TABLES: dict[str, dict[str, _Table]] = {
    "16 bit": {
        "sm_80": _SM_80, "sm_86": _SM_86, "sm_90": _SM_90, "sm_100": _SM_100, "gfx90a": _GFX942, "gfx942": _GFX942,
    },
    "tf32": {
        "sm_80": _SM_80_TF32, "sm_86": _SM_86_TF32, "sm_90": _SM_90_TF32, "sm_100": _SM_100_TF32,
    },
    "float32": {
        "sm_80": _SM_80_FLOAT32, "sm_86": _SM_86_FLOAT32, "sm_90": _NVIDIA_FLOAT32, "sm_100": _NVIDIA_FLOAT32,
        "gfx90a": _GFX942_FLOAT32, "gfx942": _GFX942_FLOAT32,
    },
}  # fmt: skip

# 16 bit, two tangents in a program, by map and head size: where nothing spills with at least half the resident rows
# (queries, or keys in the key and value kernel) of one tangent, so that what is shared is not lost to tiles read more
# often. float32 has no pairs: without TF32 the operands of one tangent fill the registers.
_Pairs = dict[tuple[str, int], _Tile]
_SM_80_PAIRS: _Pairs = {
    ("tangent", 32): (64, 32, 4, 2),
    ("backward_tangent_query", 64): (32, 32, 4, 2),
}
_SM_86_PAIRS: _Pairs = {("tangent", 32): (64, 32, 4, 2)}
_SM_90_PAIRS: _Pairs = {
    ("tangent", 32): (128, 64, 8, 2),
    ("tangent", 64): (128, 32, 8, 2),
    ("backward_tangent_query", 32): (128, 32, 8, 2),
    ("backward_tangent_query", 64): (128, 16, 8, 2),
    ("backward_tangent_key_value", 32): (32, 128, 8, 2),
}
_SM_100_PAIRS: _Pairs = {
    ("tangent", 32): (128, 64, 8, 2),
    ("tangent", 64): (128, 32, 8, 2),
    ("backward_tangent_query", 32): (128, 32, 8, 2),
    ("backward_tangent_query", 64): (64, 32, 8, 2),
    ("backward_tangent_key_value", 64): (32, 64, 8, 2),
    ("backward_tangent_bias", 32): (64, 64, 8, 1),
    ("backward_tangent_bias", 64): (64, 64, 8, 1),
}
_GFX942_PAIRS: _Pairs = {
    ("tangent", 32): (64, 64, 4, 1),
    ("backward_tangent_query", 32): (128, 32, 8, 1),
    ("backward_tangent_key_value", 32): (32, 64, 4, 1),
    ("backward_tangent_bias", 32): (64, 64, 8, 1),
    ("tangent", 64): (128, 32, 8, 1),
    ("backward_tangent_query", 64): (64, 32, 4, 1),
    ("backward_tangent_key_value", 64): (32, 32, 4, 1),
    ("backward_tangent_bias", 64): (32, 64, 4, 1),
}
_PAIRS = {
    "sm_80": _SM_80_PAIRS, "sm_86": _SM_86_PAIRS, "sm_90": _SM_90_PAIRS, "sm_100": _SM_100_PAIRS,
    "gfx90a": _GFX942_PAIRS, "gfx942": _GFX942_PAIRS,
}  # fmt: skip
