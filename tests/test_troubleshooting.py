"""docs/troubleshooting.md quotes what roles say: every quoted line must be one that they can say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs/troubleshooting.md"
NAMES = {"{names.ASIDE}": "aside", "{names.RUN}": "run.json", "{names.OUTER}": "outer"}


@cache
def _sayings() -> str:
    """Every text in the source, with … for what is filled in, each on a line."""
    texts = []
    for path in sorted((REPO / "coppice").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(_pieces(node)))
    return "\n".join(" ".join(text.split()) for text in texts)


def _pieces(text: ast.JoinedStr) -> Iterator[str]:
    for part in text.values:
        if isinstance(part, ast.Constant):
            yield str(part.value)
        else:
            yield NAMES.get(
                f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else "", "…"
            )


def _quotes() -> list[str]:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row[1])]


@pytest.mark.parametrize("quote", _quotes())
def test_what_the_page_quotes_can_be_said(quote: str) -> None:
    said = _sayings()
    for fragment in re.split(r"…|; ", quote):  # some lines are put together from two
        fragment = fragment.strip(" ;:,()")
        if len(fragment) > 3:
            assert fragment in said, f"nothing in coppice/ says {fragment!r}"


def test_the_page_is_long_enough_to_be_of_use() -> None:
    assert len(_quotes()) > 40
