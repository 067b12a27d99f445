"""``alternet hessian``: largest eigenvalues, spectral density or trace of one operator, as JSON and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

