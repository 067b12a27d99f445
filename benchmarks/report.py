"""Where results go, and what they say they ran on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alternet.analysis.machine import describe

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, threads and versions, for people to read."""
    about = describe()
    return f"{about['processor']}, torch {about['torch']}, Python {about['Python']}"


def line(cells: list[Any]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def save(folder: Path, name: str, content: dict[str, Any], text: str) -> None:
    """Write ``content`` as ``name``.json and ``text`` as ``name``.md, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text + "\n")
    print(f"written: {folder}/{name}.md, {name}.json")


def save_answers(folder: Path, name: str, rows: dict[str, dict[str, str]], note: str) -> None:
    """Print and write a table of what is answered to each question, a column for everyone who is asked."""
    titles = next(iter(rows.values()))
    lines = [f"| | {' | '.join(titles)} |", f"|---{'|---' * len(titles)}|"]
    lines += [line([question, *answers.values()]) for question, answers in rows.items()]
    text = "\n".join([*lines, "", note])
    print(text)
    save(folder, name, {"note": note, "rows": rows}, text)
