"""YAML and JSON as clusters exchange them: read with nothing but plain values in it."""

from __future__ import annotations

import json
import re
from typing import Any

from coppice.openpai.errors import JobFileError
from coppice.yamlfile import parse_yaml

MAX_JOB_BYTES = 1 << 20
"""Ten times what a job has that carries the largest run file."""
_COMMENT_LINE = re.compile(r"^\s*//.*$", re.MULTILINE)


def from_yaml(text: str, origin: str) -> Any:
    """Aliases and all, as OpenPAI takes it. Raises `JobFileError` naming `origin`."""
    return parse_yaml(text, origin, JobFileError, lenient=True)


def from_json(text: str, origin: str) -> Any:
    """JSON in which whole lines may be comments (//), as in OpenPAI's own examples."""
    try:
        return json.loads(_COMMENT_LINE.sub("", text))
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise JobFileError(f"{origin}{where}: not valid JSON ({what})") from error
