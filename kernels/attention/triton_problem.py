"""One call of a map: its sizes, and what every kernel launched for it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..triton_launch import Config, dot_precision, launch, padded, target
from . import triton_configs

# Programs that the sum of a bias gradient is split into at most where its slot has fewer tiles: enough to fill the
# largest GPU several times, few enough that the parts (a float32 tile each) stay below 8 MiB. No property of the device
# enters, so that the order of the sum, and with it the result, is the same on all.
BIAS_PROGRAMS = 512

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Problem(NamedTuple):
    """Sizes and parameters of a call. query: [B, H, N, D], key: [B, H, M, D], value: [B, H, M, DV]; T tangents."""

    T: int
    B: int
    H: int
    N: int
    M: int
    D: int
    DV: int
    scale: float
    is_causal: bool
    grid: tuple[int, int] | None  # rows and columns, where there is a table or a neighbourhood
    window: tuple[int, int, int, int] | None  # rows up and down, columns left and right, that a query sees
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, *tangents: Tensor | None, **parameters: Any) -> Problem:
        """The problem of these arguments; T is 1 without tangents.

        Raises:
            TypeError: the dtype is none of float16, bfloat16, float32.
        """
        if query.dtype not in _DTYPES:
            raise TypeError(f"query: dtype {query.dtype}, the triton backend has float16, bfloat16 and float32")
        T = next((t.shape[0] for t in tangents if t is not None), 1)
        B, H, N, D = query.shape
        M, DV = value.shape[-2:]
        grid = tuple(parameters["grid"]) or None
        window = tuple(n for size in parameters["kernel_size"] for n in ((size - 1) // 2, size // 2)) or None
        scale, is_causal = float(parameters["scale"]), parameters["is_causal"]
        return cls(T, B, H, N, M, D, DV, scale, is_causal, grid, window, query.dtype, query.device)

    def whole(self, bias: Tensor | None) -> Tensor | None:
        """The bias ([T,] B|1, H|1, N|1, M|1) as a view [[T,] B, H, N, M], stride 0 where it broadcasts."""
        return None if bias is None else bias.expand(*bias.shape[:-4], self.B, self.H, self.N, self.M)

    def whole_table(self, table: Tensor | None) -> Tensor | None:
        """The table ([T,] B|1, H|1, 2h-1, 2w-1) likewise as a view [[T,] B, H, 2h-1, 2w-1]."""
        return None if table is None else table.expand(*table.shape[:-4], self.B, self.H, *table.shape[-2:])

    def query_like(self, width: int, *lead: int) -> Tensor:
        """Uninitialised [*lead, B, H, N, width] in query's dtype."""
        return torch.empty(*lead, self.B, self.H, self.N, width, dtype=self.dtype, device=self.device)

    def key_like(self, width: int, *lead: int) -> Tensor:
        """Uninitialised [*lead, B, H, M, width] in query's dtype."""
        return torch.empty(*lead, self.B, self.H, self.M, width, dtype=self.dtype, device=self.device)

    def row_values(self, *lead: int) -> Tensor:
        """Uninitialised float32 [*lead, B, H, N]."""
        return torch.empty(*lead, self.B, self.H, self.N, dtype=torch.float32, device=self.device)

    def matrices(self, **tensors: Tensor | None) -> dict[str, Any]:
        """``x=tensor`` -> ``x_ptr``, ``x_strides``: what ``triton_tiles`` says a matrix comes as."""
        arguments: dict[str, Any] = {}
        for name, tensor in tensors.items():
            arguments[f"{name}_ptr"], arguments[f"{name}_strides"] = tensor, None
            if tensor is not None:
                strides = (0,) * (5 - tensor.dim()) + tensor.stride()
                arguments[f"{name}_strides"] = (*strides, self.H // max(tensor.shape[-3], 1) or 1)
        return arguments

    def shared(self, gradient: Tensor | None, heads: int) -> Tensor | None:
        """The gradient of a tensor of ``heads`` heads from that of each head of query."""
        if gradient is None or heads == self.H:
            return gradient
        return gradient.unflatten(-3, (heads, self.H // heads)).sum(-3, dtype=torch.float32).to(self.dtype)

    def config(self, name: str) -> Config:
        """The tiles of map ``name`` for this call."""
        config = triton_configs.config(name, *self._kind())
        return config if name == "delta" else self._beside_places(name, config)

    def pair_config(self, name: str) -> Config | None:
        """The tiles where two tangents share a program; None where none do."""
        config = triton_configs.pair_config(name, *self._kind())
        return config and self._beside_places(name, config, tangents=2)

    def _beside_places(self, name: str, config: Config, tangents: int = 1) -> Config:
        return config if self.grid is None else triton_configs.beside_places(config, name, *self._kind(), tangents)

    def _kind(self) -> tuple[int, str, str]:
        """What the configuration tables go by beside the map."""
        return self._bucket(), self._products(), target(self.device)

    def _bucket(self) -> int:
        """The column of the configuration tables."""
        return max(padded(self.D), padded(self.DV))

    def launch_over_rows(self, kernel: Any, **arguments: Any) -> None:
        """One program per tile of rows of out: the two preprocessing kernels."""
        config = self.config("delta")
        programs = _cdiv(self.N, config.block_m) * self.B * self.H
        constants = {"DV": self.DV, "BLOCK_M": config.block_m, "BLOCK_DV": padded(self.DV)}
        launch(kernel, programs, config, self.device, **arguments, H=self.H, N=self.N, **constants)

    def launch_over_queries(self, kernel: Any, name: str, **arguments: Any) -> None:
        """One program per tile of queries of every head, batch and tangent or pair of tangents."""
        for config, groups, given in self._by_tangents(name, arguments):
            programs = _cdiv(self.N, config.block_m) * self.B * self.H * groups
            launch(kernel, programs, config, self.device, **given, **self._sizes(config))

    def launch_over_keys(self, kernel: Any, name: str, **arguments: Any) -> None:
        """One program per tile of keys of every head, batch and tangent or pair of tangents."""
        for config, groups, given in self._by_tangents(name, arguments):
            programs = _cdiv(self.M, config.block_n) * self.B * self.H * groups
            launch(kernel, programs, config, self.device, **given, **self._sizes(config))

    def launch_over_bias(self, kernel: Any, name: str, slot: torch.Size, result: str, **arguments: Any) -> Tensor:
        """One program per tile of the bias's shape ``slot``, or several that share its sum; returns [T, *slot].

        ``result`` is the name of the kernel's output pointer.
        """
        config = self.config(name)
        tiles_n, tiles_m = _cdiv(slot[2], config.block_m), _cdiv(slot[3], config.block_n)
        tangents = arguments.get("T", 1)
        tiles = tangents * slot[0] * slot[1] * tiles_n * tiles_m
        if tiles == 0:
            return torch.empty(tangents, *slot, dtype=self.dtype, device=self.device)
        items = self.B // slot[0] * (self.H // slot[1])
        items *= _cdiv(self.N, config.block_m) // tiles_n * (_cdiv(self.M, config.block_n) // tiles_m)
        splits = max(1, min(items, BIAS_PROGRAMS // tiles))
        dtype = torch.float32 if splits > 1 else self.dtype
        parts = torch.empty(tangents, splits, *slot, dtype=dtype, device=self.device)
        arguments |= {result: parts, "B": self.B, "SPLITS": splits, "REDUCE_N": slot[2] == 1, "REDUCE_M": slot[3] == 1}
        arguments |= dict(zip(("SLOT_B", "SLOT_H", "SLOT_N", "SLOT_M"), slot, strict=True))
        for config, groups, given in self._by_tangents(name, arguments):
            tiles = _cdiv(slot[2], config.block_m) * _cdiv(slot[3], config.block_n)
            programs = groups * splits * slot[0] * slot[1] * tiles
            launch(kernel, programs, config, self.device, **given, **self._sizes(config))
        return parts[:, 0] if splits == 1 else parts.sum(1).to(self.dtype)

    def launch_over_table(self, kernel: Any, name: str, slot: torch.Size, result: str, **arguments: Any) -> Tensor:
        """One program per row of the table's shape ``slot`` and tile of columns, or several; returns [T, *slot]."""
        tangents = arguments.get("T", 1)
        tiles = tangents * math.prod(slot[:3]) * self._tiles_of_a_row(self._within_a_row(self.config(name)))
        assert self.grid is not None
        items = self.B // max(slot[0], 1) * (self.H // max(slot[1], 1)) * self.grid[0]
        splits = max(1, min(items, BIAS_PROGRAMS // max(tiles, 1)))
        shape = (tangents, splits, *slot[:3], self.grid[1], slot[3])
        parts = torch.zeros(shape, dtype=torch.float32, device=self.device)
        arguments |= {result: parts, "B": self.B, "SPLITS": splits, "SLOT_B": slot[0], "SLOT_H": slot[1]}
        for config, groups, given in self._by_tangents(name, arguments):
            within = self._within_a_row(config)
            programs = groups * splits * math.prod(slot[:3]) * self._tiles_of_a_row(within)
            launch(kernel, programs, within, self.device, **given, **self._sizes(within))
        return parts.sum((1, 5)).to(self.dtype)

    def _by_tangents(self, name: str, arguments: dict[str, Any]) -> Iterator[tuple[Config, int, dict[str, Any]]]:
        """Tiles, groups of tangents and arguments of each launch: pairs where two fit, then what is left one by one."""
        if "T" not in arguments:
            yield self.config(name), 1, arguments
            return
        T, pair = arguments["T"], self.pair_config(name)
        arguments = arguments | {"CHUNK": self._chunk(name)}
        paired = 0 if pair is None else T // 2 * 2
        if pair is not None and paired:
            yield pair, paired // 2, arguments | {"T": paired, "TANGENTS": 2}
        if paired < T:
            of_tangents = (key for key, t in arguments.items() if key.startswith("t_") and isinstance(t, Tensor))
            rest = {key: arguments[key][paired:] for key in of_tangents}
            yield self.config(name), T - paired, arguments | rest | {"T": T - paired, "TANGENTS": 1}

    def _within_a_row(self, config: Config) -> Config:
        """The tiles of a table's sum lie within a row of the grid."""
        assert self.grid is not None
        largest = padded(self.grid[1])
        return config._replace(block_m=min(config.block_m, largest), block_n=min(config.block_n, largest))

    def _tiles_of_a_row(self, config: Config) -> int:
        assert self.grid is not None
        return _cdiv(self.grid[1], config.block_m) * _cdiv(self.grid[1], config.block_n)

    def _sizes(self, config: Config) -> dict[str, Any]:
        """What every kernel that makes score tiles is given."""
        return {
            "H": self.H,
            "N": self.N,
            "M": self.M,
            "scale": self.scale,
            "grid_size": self.grid,
            "window": self.window,
            "D": self.D,
            "DV": self.DV,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_D": padded(self.D),
            "BLOCK_DV": padded(self.DV),
            "IS_CAUSAL": self.is_causal,
            "PRECISION": self._precision(),
        }

    def _precision(self) -> str | None:
        """Heads wider than 128 stay in float32: their TF32 operands do not fit in the shared memory of sm_80."""
        precision = dot_precision(self.dtype, target(self.device))
        return "ieee" if precision == "tf32" and self._bucket() > 128 else precision

    def _chunk(self, name: str) -> int | None:
        """What the second-order kernels are given: columns of their operands that a product reads at a time."""
        return triton_configs.chunk(name, *self._kind(), places=self.grid is not None)

    def _products(self) -> str:
        """The kind of products that the configuration tables go by."""
        if self.dtype != torch.float32:
            return "16 bit"
        return "tf32" if self._precision() == "tf32" else "float32"


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)
