"""docs/runfile.md, from the models and docstrings of `coppice.runfile`:

python -m coppice.runfile_docs > docs/runfile.md
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
from typing import Any

from coppice import runfile
from coppice.runfile import RunFile

_SELF_EXPLANATORY = {
    "name": "What the run is called: at most 100 letters, digits, `_`, `.` and `-`, no sign first.",
    "seed": "Of everything random: the same seed, data and machine type give the same result.",
    "data.name": "`digits` comes with scikit-learn; `mnist` reads the four idx files; `arrays` are your own.",
    "batch": "Samples in one step of training.",
    "learning_rate": "Of the first step.",
    "momentum": "Of SGD.",
    "weight_decay": "Of SGD.",
    "schedule": "How the learning rate falls:",
    "search.lower": "Lowest crate that is tried.",
    "search.upper": "Highest crate that is tried.",
    "reference.iterations": "Steps of training; 0: `weights` as they are.",
}
"""Keys whose names say enough where the code stands, but not on a page of their own."""


def document() -> str:
    """The whole page."""
    schema = RunFile.model_json_schema()
    parts = [_INTRODUCTION]
    plain = [key for key in schema["properties"] if _section_of(key) is None]
    parts.append(_table("", RunFile, plain, schema))
    for key in schema["properties"]:
        section = _section_of(key)
        if section is not None:
            about = inspect.cleandoc(section.__doc__ or "").replace("\n", " ")
            parts.append(f"## {key}\n\n{about}\n")
            parts.append(_table(key, section, list(section.model_fields), schema["$defs"][section.__name__]))
    return "\n".join(parts)


_INTRODUCTION = """\
# The run file

A YAML file says what a run is: the network, the data, how it is trained, searched and judged. Only `name`
must be given. A mistake is answered in one line with the file, the key and what was expected, before
anything starts. `jobs/digits.yaml` is the example to read. While a run lives, the master keeps the checked
file, every default filled in, in the work folder's `run.json`, where the other roles find it.

Between two starts of the same run, `work` and `evaluators` may change, and the roles that start from then
on go by it; with anything else changed, the work folder is refused and wants another `--work`, or `--fresh`.

This page is written by `python -m coppice.runfile_docs > docs/runfile.md`.

## At the top
"""


def _section_of(key: str) -> Any:
    kind: Any = RunFile.model_fields[key].annotation
    return kind if hasattr(kind, "model_fields") else None


def _table(place: str, model: Any, keys: list[str], schema: dict[str, Any]) -> str:
    lines = ["| key | default | expected | meaning |", "|---|---|---|---|"]
    for key in keys:
        field = model.model_fields[key]
        default = "none: must be given" if field.is_required() else f"`{json.dumps(field.get_default())}`"
        cells = (
            f"`{place}.{key}`" if place else f"`{key}`",
            "" if default == "`null`" else default,
            _expected(schema["properties"][key]),
            meaning(place, key, model),
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def meaning(place: str, key: str, model: Any) -> str:
    """What a key means: its docstring, else our words; "" where nobody says anything."""
    said = _SELF_EXPLANATORY.get(f"{place}.{key}" if place else key) or _SELF_EXPLANATORY.get(key, "")
    for owner in model.__mro__:
        if owner.__module__ == runfile.__name__ and key in _docstrings(owner):
            said = _docstrings(owner)[key]
            break
    return f"{said} {_alias_docstring('Schedule')}" if key == "schedule" else said


@functools.cache
def _docstrings(model: Any) -> dict[str, str]:
    """The docstrings that stand below the fields of a class."""
    definition = ast.parse(inspect.getsource(model)).body[0]
    return _following(getattr(definition, "body", []))


def _alias_docstring(alias: str) -> str:
    return _following(ast.parse(inspect.getsource(runfile)).body)[alias]


def _following(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for statement, after in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        else:
            continue
        said = after.value if isinstance(after, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(said, ast.Constant) and isinstance(said.value, str):
            found[target.id] = " ".join(said.value.split())
    return found


def _expected(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_expected(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"a list of {_expected(schema['items'])}"
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "object": "keys and values",
        "boolean": "`true` or `false`",
    }
    limits = [f"{text} {_number(schema[key])}" for key, text in _LIMITS.items() if key in schema]
    return ", ".join([words[schema["type"]], *limits])


def _number(value: float) -> str:
    if abs(value) < 1e6:
        return f"{value:g}"
    number = int(value)
    return f"{number:,}" if number & (number - 1) else f"2^{number.bit_length() - 1}"


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


if __name__ == "__main__":
    print(document(), end="")
