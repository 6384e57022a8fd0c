"""Files that users write and read, YAML or JSON: taken whole and strictly, and what to say of a mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coppice.errors import CoppiceError, printable


class _Loader(yaml.SafeLoader):
    """YAML without what only hides mistakes here: keys given twice, and aliases (which may go in circles)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases such as *this are not taken", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value[:40]!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For JSON what the loader does for YAML."""
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin[:40]!r} is given twice")
    return content


def read_yaml(
    path: str | Path, *, kind: str, examples: str, most_bytes: int, error: type[CoppiceError]
) -> dict[Any, Any]:
    """The mapping that a user's file holds. `kind`: what it should be ("run file"); `examples`: of its keys.

    Most JSON is YAML, but not what is indented by tabs: a file named .json is read as JSON.

    Raises `error`: one line with the file and what is wrong with it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(most_bytes + 1)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); give the path of a {kind}") from problem
    if len(text) > most_bytes:
        raise error(f"{path}: larger than {most_bytes:,} bytes; this is not a {kind}")
    as_json = str(path).lower().endswith(".json")
    try:
        if as_json:
            content = json.loads(text, object_pairs_hook=_no_twins)
        else:
            content = parse_yaml(text, str(path), error)
    except (ValueError, RecursionError) as problem:
        what = str(problem) if isinstance(problem, ValueError) else "nested too deeply"
        raise error(f"{path}: not valid JSON ({printable(what, ' ')[:200]})") from problem
    if not isinstance(content, dict):
        raise error(f"{path}: expected keys such as {examples}, found {type(content).__name__}")
    return content


def parse_yaml(text: str | bytes, origin: str, error: type[CoppiceError], *, lenient: bool = False) -> Any:
    """Plain values from YAML that came from `origin`. Raises `error`: one line with line and mistake.

    `lenient`: keys given twice and aliases are taken, as most programs take them.
    """
    try:
        return yaml.safe_load(text) if lenient else yaml.load(text, Loader=_Loader)
    except Exception as problem:  # a YAMLError, or what PyYAML's code stumbles over: !!int "", !!bool maybe
        where = getattr(problem, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        what = printable(getattr(problem, "problem", None) or "not readable as text", " ")[:200]
        if what.startswith(("could not determine a constructor", "found undefined tag handle")):
            what = "! begins a tag; put the value in quotes"  # the tag may be half a password: not repeated
        raise error(f"{origin}{line}: not valid YAML ({what})") from problem


class _Dumper(yaml.SafeDumper):
    """Without anchors, which not every reader takes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""YAML counts these as line breaks, too, and makes line feeds or spaces of them outside of double quotes."""


_READ_OTHERWISE = re.compile(
    r"[yYnN]|[-+]?(0o[0-7]+|(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?)"
)
"""Text to PyYAML, but a number or a yes to OpenPAI's and Kubernetes' readers: a password 83914e27, say."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _OTHER_BREAKS.search(text) else "|" if "\n" in text else None
    if _READ_OTHERWISE.fullmatch(text):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(content: Any) -> str:
    """Keys in the order given, no line broken, text of several lines as it is."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def first_mistake(error: ValidationError, model: type[BaseModel]) -> str:
    """What pydantic found wrong in a file that `model` describes, in a line: the first key, what was expected
    there, and how many more."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    said = f"{expected(first, place, model)}{more}"
    if not place and first["type"] == "value_error":  # of several keys, which it names
        return said
    key = printable(".".join(place), " ")[:120] or "the whole file"
    return f"{key}: {said}"


def expected(problem: Any, place: list[str], model: type[BaseModel], secret: bool = False) -> str:
    """What pydantic found wrong at `place` of a file that `model` describes, as the end of a sentence.

    `secret`: what was found there is not repeated.
    """
    if problem["type"] == "extra_forbidden":
        section: Any = model
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key; expected one of {', '.join(section.model_fields)}"
    if problem["type"] == "missing":
        return "missing; this key has no default"
    given = "something else" if secret else repr(problem.get("input"))[:80]
    if problem["type"] == "model_type":
        return f"expected keys and values, found {given}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{message}, found {given}" if place and not secret else message
