"""Result files: written whole or not at all, and recognised when they are read back."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_discards: ContextVar[bool] = ContextVar("discards", default=False)


@contextmanager
def discarding() -> Iterator[None]:
    """Inside, what ``written_whole`` would write is thrown away: of processes with the same results one keeps them."""
    token = _discards.set(True)
    try:
        yield
    finally:
        _discards.reset(token)


def check_folder(name: str, folder: Path) -> None:
    """ValueError unless files can be written into ``folder``, which argument ``name`` gives; it is not made yet."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ValueError(f"{name}: got {folder}, expected a folder, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: got {folder}, expected a folder to write in, but {there} is not writable")


def file_stem(name: str) -> str:
    """``name`` with a dash for what not every file system takes in the name of a file."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that becomes ``path`` when the block ends without an exception.

    Missing parent folders are made. Whatever stops the block, ``path`` holds either what it held before or all that
    the block wrote. The temporary name ends like ``path``: writers that look at the suffix see the right one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        if not _discards.get():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON with its ``kind``, so that ``load_json`` can tell it from other files.

    Raises ValueError for NaN and infinities, which JSON has not: write them as None.
    """
    text = json.dumps({"kind": kind, **content}, indent=1, allow_nan=False)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def json_number(value: float) -> float | None:
    """``value`` as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else value


def load_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The content that ``save_json`` wrote under ``kind``.

    Raises FileNotFoundError where there is no file, ValueError where it is not JSON or of another kind.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path}: expected a JSON file of kind {kind!r}, and it is not JSON: {error}") from None
    found = content.pop("kind", None) if isinstance(content, dict) else None
    if found != kind:
        raise ValueError(f"{path}: expected a JSON file of kind {kind!r}, got kind {found!r}")
    return content


def save_csv(path: str | os.PathLike[str], columns: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write a line of ``columns`` (names with blanks between) and one line per row, for other programs."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns.split())
        table.writerows(rows)


@contextmanager
def complete(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Inside, content that lacks a key or has the wrong type under it is a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a JSON file of kind {kind!r}, and it is not whole: {error!r}") from error
