"""A file that grows by one JSON line per finished piece of work: a killed study loses the piece in hand only."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from alternet.analysis.studies.settings import differences

START_AGAIN = "remove it to start again"


class Journal:
    """Rows (JSON objects) behind a header line with what they depend on. Without a path, only the list ``rows``.

    Opening a file that exists reads its rows. What a killed process left of a line is cut off. A new file is there with
    its first row: what fails before that leaves nothing behind.

    Args:
        path: ends in ``.jsonl``; its folder is made.
        kind: tells these files from others.
        config: JSON values; a file with another config belongs to another study.
        columns: the names that every row has.

    Raises:
        ValueError: another ending; a file that is damaged, of another kind, or of another study.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, kind: str, config: dict[str, Any], columns: Collection[str]
    ) -> None:
        self.kind, self.config, self.columns = kind, config, columns
        self.rows: list[dict[str, Any]] = []
        self._header: dict[str, Any] | None = {"kind": kind, "config": config}  # until it is written
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        if self.path.suffix != ".jsonl":
            raise ValueError(f"out: expected a name that ends in .jsonl, got {self.path.name!r}")
        lines = self._whole_lines() if self.path.exists() else []
        if not lines:
            return
        self._header = None
        header, *self.rows = lines
        if header.get("kind") != kind:
            raise ValueError(f"out: {self.path} is of kind {header.get('kind')!r}, expected {kind!r}")
        changed = differences(header.get("config"), config)
        if changed:
            raise ValueError(f"out: {self.path} belongs to another study: {', '.join(changed)}; {START_AGAIN}")
        for number, row in enumerate(self.rows, start=2):
            missing = sorted(set(columns) - row.keys())
            if missing:
                raise ValueError(f"out: {self.path} is damaged in line {number}: it lacks {missing}")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, which is on disk when this returns."""
        self._write([row] if self._header is None else [self._header, row])
        self._header = None
        self.rows.append(row)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.path is None:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[dict[str, Any]]:
        assert self.path is not None
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                lines.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"out: {self.path} is damaged in line {number}: {error}") from None
        os.truncate(self.path, whole)
        return lines
