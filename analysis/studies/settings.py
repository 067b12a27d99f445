"""What a run was asked to do, kept beside its results so that they are never mixed with those of another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alternet.analysis.files import load_json, save_json

END = object()


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` as they come back from a JSON file (tuples as lists)."""
    return json.loads(json.dumps(settings))


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Every place where two trees of settings differ, as in ``"recipe.epochs was 10 and is 12"``."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [*found, *(key for key in expected if key not in found)]
        pairs = ((f"{name}.{key}".lstrip("."), found.get(key, END), expected.get(key, END)) for key in keys)
        return [line for key, old, new in pairs for line in differences(old, new, key)]
    if found == expected:
        return []
    old, new = ("absent" if value is END else json.dumps(value) for value in (found, expected))
    return [f"{name} was {old} and is {new}"]


def claim_folder(folder: Path, kind: str, what: str, settings: dict[str, Any]) -> None:
    """Write ``config.json`` into a new folder, or see that the one there has the same ``settings``.

    Raises ValueError where ``folder`` has those of another ``what``, or is not empty and has none.
    """
    path = folder / "config.json"
    if path.exists():
        changes = differences(load_json(path, kind), settings)
        if changes:
            raise ValueError(f"{folder} holds a {what} with other settings: {'; '.join(changes)}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than a {what}: expected an empty or a new folder")
    else:
        save_json(path, kind, settings)
