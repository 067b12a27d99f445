"""The pieces of a study, by one process or dealt to ranks, each of which keeps what it has finished in its own file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alternet.analysis.distributed.ranks import RankLost, Ranks
from alternet.analysis.progress import Report
from alternet.analysis.studies.journal import START_AGAIN, Journal, Kind

Row = dict[str, Any]
NUMBER = "piece"  # the column of a rank's file that says which row of the study's its row is


class Solve(Protocol):
    """Makes the row of a piece; returns one that is known already, or raises where it belongs to another piece."""

    def __call__(self, number: int, piece: Any, known: Row | None, /) -> Row: ...


def open_journal(
    path: str | os.PathLike[str] | None,
    kind: str,
    config: dict[str, Any],
    columns: Mapping[str, Kind],
    ranks: Ranks | None,
) -> Journal:
    """``Journal(path, …)``; of several ranks the first opens it, and all get its rows, or its error."""
    if ranks is None:
        return Journal(path, kind, config, columns)
    return ranks.from_first(lambda: Journal(path, kind, config, columns))


def check_data(known: Row, data: str, journal: Journal, number: int, what: str = "images or targets") -> None:
    """ValueError unless the row that is known of batch ``number`` is of ``data``, a checksum of its ``what``."""
    if known["data"] != data:
        raise ValueError(f"out: {journal.path} holds other {what} as batch {number}; {START_AGAIN}")


def finish(journal: Journal, pieces: Any, solve: Solve, report: Report, ranks: Ranks | None = None) -> None:
    """Give ``journal`` the rows of all ``pieces`` (which have ``len``, and are the same on every rank), in their order.

    Of what is missing the i-th piece is solved by rank i mod ranks; what is known is dealt likewise, to be looked at. A
    rank's rows go to its own file beside the journal, where a later run finds them, of however many ranks it is. At the
    end the first rank moves them into the journal, and the rows are there on every rank.

    Raises:
        RankLost: another rank has ended; the message says that the study can go on.
        ValueError: there are no pieces (which callers know as ``batches``), or the journal has more rows than pieces.
    """
    if len(pieces) == 0:
        raise ValueError("batches: got none, expected at least one")
    journal.check_length(len(pieces))
    if ranks is None:
        _finish_alone(journal, pieces, solve, report)
        return
    known = ranks.from_first(lambda: _known(journal))
    found = _solve_own(journal, pieces, solve, report, ranks, known)
    try:
        together = ranks.objects(found)
    except RankLost as error:
        kept = "" if journal.path is None else f"; what is finished is in {journal.path.parent}, the same run goes on"
        raise RankLost(f"{error}{kept}") from error
    rows = known | {number: row for own in together for number, row in own.items()}
    missing = [rows[number] for number in range(len(journal.rows), len(pieces))]
    if not ranks.is_first:
        journal.rows.extend(missing)
    ranks.from_first(lambda: _move(missing, journal))
    report(len(pieces), len(pieces))


def _finish_alone(journal: Journal, pieces: Any, solve: Solve, report: Report) -> None:
    known = _known(journal)
    done = len(known)
    report(done, len(pieces))
    for number, piece in enumerate(pieces):
        row = solve(number, piece, known.get(number))
        if number == len(journal.rows):
            journal.append(row)
        if number not in known:
            done += 1
            report(done, len(pieces))
    _move([], journal)


def _solve_own(
    journal: Journal, pieces: Any, solve: Solve, report: Report, ranks: Ranks, known: dict[int, Row]
) -> dict[int, Row]:
    """The rows of this rank's share of what is missing, by their numbers."""
    old = [number for number in range(len(pieces)) if number in known][ranks.rank :: ranks.size]
    new = [number for number in range(len(pieces)) if number not in known][ranks.rank :: ranks.size]
    own = _part(journal, _part_path(journal.path, ranks.rank)) if new else None
    found: dict[int, Row] = {}
    report(len(known), len(pieces))
    for number, piece in _chosen(pieces, sorted([*old, *new])):
        row = solve(number, piece, known.get(number))
        if own is not None and number not in known:
            own.append({NUMBER: number, **row})
            found[number] = row
            # The others are about as far.
            report(len(known) + len(found) * (len(pieces) - len(known)) // len(new), len(pieces))
    return found


def _known(journal: Journal) -> dict[int, Row]:
    """The journal's rows, and those that ranks of earlier runs have left beside it, by their numbers."""
    known: dict[int, Row] = {}
    for path in _part_paths(journal):
        for row in _part(journal, path).rows:
            known[row[NUMBER]] = {name: value for name, value in row.items() if name != NUMBER}
    return known | dict(enumerate(journal.rows))


def _move(rows: list[Row], journal: Journal) -> None:
    """Append the rows that ranks have in files of their own, and remove the files."""
    for row in rows:
        journal.append(row)
    for path in _part_paths(journal):
        path.unlink()


def _part(journal: Journal, path: Path | None) -> Journal:
    return Journal(path, journal.kind, journal.config, {**journal.columns, NUMBER: int})


def _part_path(path: Path | None, rank: int) -> Path | None:
    return None if path is None else path.with_name(f"{path.stem}.rank{rank}.jsonl")


def _part_paths(journal: Journal) -> list[Path]:
    path = journal.path
    return [] if path is None else sorted(path.parent.glob(f"{path.stem}.rank*.jsonl"))


def _chosen(pieces: Any, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """A sequence is read only where it has to be."""
    if isinstance(pieces, Sequence):
        return ((number, pieces[number]) for number in numbers)
    wanted = set(numbers)
    return ((number, piece) for number, piece in enumerate(pieces) if number in wanted)
