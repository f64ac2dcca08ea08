"""How a node puts a task to a model: instructions, then the material as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

MARK: Final = "\n\nMaterial (JSON):\n"


def render(task: str, material: Mapping[str, Any]) -> str:
    """A task and what it is about. JSON, so that no document can pose as an instruction's end."""
    return task + MARK + json.dumps(material, ensure_ascii=False, indent=1)


def material_of(text: str) -> Any:
    """What `render` put in, or a tool's JSON result; None when there is none.

    >>> material_of(render("Count.", {"apples": 2}))
    {'apples': 2}
    >>> material_of("no material") is None
    True
    """
    try:
        return json.loads(text.partition(MARK)[2] or text)
    except (ValueError, RecursionError):
        return None
