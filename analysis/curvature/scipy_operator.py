"""An operator as SciPy's, for its solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from alternet.analysis.curvature.operator import CurvatureOperator


def scipy_operator(op: CurvatureOperator, dtype: Any = None) -> Any:
    """See ``CurvatureOperator.to_scipy``."""
    try:
        from scipy.sparse import linalg
    except ImportError as error:
        raise ImportError("to_scipy needs SciPy: pip install scipy") from error
    own = np.dtype(str(op.dtype).removeprefix("torch."))
    kind = np.dtype(own if dtype is None else dtype)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected numpy.float32 or numpy.float64, got {kind}")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array, own)).to(op.device)  # a copy: NumPy's may be read-only or strided

    def product(vector: np.ndarray) -> np.ndarray:
        return (op @ tensor(vector).reshape(-1)).cpu().numpy().astype(kind).reshape(vector.shape)

    def products(vectors: np.ndarray) -> np.ndarray:
        return op.matmat(tensor(vectors)).cpu().numpy().astype(kind)

    return linalg.LinearOperator(
        tuple(op.shape), matvec=product, rmatvec=product, matmat=products, rmatmat=products, dtype=kind
    )
