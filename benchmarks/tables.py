"""Tables that can be pasted into a document."""

from __future__ import annotations

from typing import Any


def markdown(rows: list[dict[str, Any]], *, header: bool = True) -> str:
    """The rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0])] if header else []
    lines += [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in line.values()] for line in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
