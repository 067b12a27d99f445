"""A file that grows by one JSON line per finished piece of work: a killed study loses the piece in hand only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alternet.analysis.studies.settings import differences

START_AGAIN = "remove it to start again"
NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", list: "a list"}
SHOWN = 40  # characters of what should not be there

Kind = type | tuple[type, int]  # of a value in a row: one of NAMES, or (one of NAMES, length) for a list of them


class Journal:
    """Rows (JSON objects) behind a header line with what they depend on. Without a path, only the list ``rows``.

    Opening a file that exists reads its rows. What a killed process left of a line is cut off. A new file is there with
    its first row: what fails before that leaves nothing behind.

    Args:
        path: ends in ``.jsonl``; its folder is made.
        kind: tells these files from others.
        config: JSON values; a file with another config belongs to another study.
        columns: the names that every row has, each with the kind of its value.

    Raises:
        ValueError: another ending; a file that is damaged, of another kind, or of another study. It stays as it is.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, kind: str, config: dict[str, Any], columns: Mapping[str, Kind]
    ) -> None:
        self.kind, self.config, self.columns = kind, config, columns
        self.rows: list[dict[str, Any]] = []
        self._header: dict[str, Any] | None = {"kind": kind, "config": config}  # until it is written
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        if self.path.suffix != ".jsonl":
            raise ValueError(f"out: expected a name that ends in .jsonl, got {self.path.name!r}")
        if self.path.exists():
            self._resume(self.path)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, which is on disk when this returns."""
        self._write([row] if self._header is None else [self._header, row])
        self._header = None
        self.rows.append(row)

    def check_length(self, most: int) -> None:
        """ValueError where there are more rows: two processes that write one file leave some of them twice."""
        if len(self.rows) > most:
            raise ValueError(f"out: {self.path} holds {len(self.rows)} rows, expected at most {most}; {START_AGAIN}")

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.path is None:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _resume(self, path: Path) -> None:
        """Take the rows that are there. The file is touched last: what is refused may be anybody's."""
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole:
            header, *rows = (self._object(line, n) for n, line in enumerate(content[:whole].splitlines(), start=1))
            self._check_header(header)
            for number, row in enumerate(rows, start=2):
                self._check_row(row, number)
            self._header, self.rows = None, rows
        else:
            self._check_torn_header(content)
        os.truncate(path, whole)

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._damaged(number, str(error)) from None
        if not isinstance(found, dict):
            raise self._damaged(number, f"it is {_shown(found)}, expected an object")
        return found

    def _check_header(self, header: dict[str, Any]) -> None:
        if header.get("kind") != self.kind:
            raise ValueError(f"out: {self.path} is of kind {header.get('kind')!r}, expected {self.kind!r}")
        changed = differences(header.get("config"), self.config)
        if changed:
            raise ValueError(f"out: {self.path} belongs to another study: {', '.join(changed)}; {START_AGAIN}")

    def _check_torn_header(self, content: bytes) -> None:
        """Without a whole line, what is there must be the beginning of a header of this kind."""
        start = json.dumps({"kind": self.kind}).removesuffix("}").encode()
        if content[: len(start)] != start[: len(content)]:
            text = content[:SHOWN].decode(errors="replace")
            raise ValueError(f"out: {self.path} is of another kind, expected {self.kind!r}: it begins with {text!r}")

    def _check_row(self, row: dict[str, Any], number: int) -> None:
        missing = sorted(self.columns.keys() - row.keys())
        if missing:
            raise self._damaged(number, f"it lacks {missing}")
        for name, kind in self.columns.items():
            if not _is_of(kind, row[name]):
                raise self._damaged(number, f"{name} is {_shown(row[name])}, expected {_words(kind)}")

    def _damaged(self, number: int, reason: str) -> ValueError:
        return ValueError(f"out: {self.path} is damaged in line {number}: {reason}")


def _is_of(kind: Kind, value: Any) -> bool:
    if isinstance(kind, tuple):
        of, length = kind
        return isinstance(value, list) and len(value) == length and all(_is_of(of, item) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))  # a bool is no number


def _words(kind: Kind) -> str:
    return f"a list of {kind[1]}, each {NAMES[kind[0]]}" if isinstance(kind, tuple) else NAMES[kind]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
