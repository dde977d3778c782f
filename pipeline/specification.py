"""Specifications: what values depend on, as plain JSON, named by a digest and compared for people."""

import hashlib
import json
import reprlib
from typing import Any

from pipeline.durable import Json


def fingerprint(specification: Json) -> str:
    """Digest a specification: sha256 of its canonical JSON."""
    text = json.dumps(specification, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:
    """List where two specifications differ, a line each; parts with names are matched by them."""
    stored, wanted = _by_name(stored), _by_name(wanted)
    if isinstance(stored, dict) and isinstance(wanted, dict):
        lines = []
        for key in [*stored, *(key for key in wanted if key not in stored)]:
            place = f"{where}.{key}" if where else str(key)
            if key not in wanted:
                lines.append(f"  {place}: only stored")
            elif key not in stored:
                lines.append(f"  {place}: only wanted")
            else:
                lines += differences(stored[key], wanted[key], place)
        return lines
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        return [
            line
            for k, pair in enumerate(zip(stored, wanted, strict=True))
            for line in differences(*pair, f"{where}[{k}]")
        ]
    return [] if stored == wanted else [f"  {where}: stored {reprlib.repr(stored)}, wanted {reprlib.repr(wanted)}"]


def _by_name(value: Any) -> Any:
    """Turn a list of records with names into a dictionary; leave anything else alone."""
    named = isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value)
    return {item["name"]: item for item in value} if named else value
