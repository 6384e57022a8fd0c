"""What README and docs tell people to type really is there to be typed."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from coppice.cli import app
from coppice.work import names

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def _indented_lines(document: Path) -> list[str]:
    return [line.strip() for line in document.read_text().splitlines() if line.startswith("    ")]


def _commands(first_word: str) -> list[str]:
    found = []
    for document in DOCUMENTS:
        for line in [*_indented_lines(document), *re.findall(r"`([^`]+)`", document.read_text())]:
            words = line.split("#")[0].split()
            if len(words) > 1 and words[0] == first_word and not words[-1].endswith("..."):
                found.append(line.split("#")[0].strip())
    return sorted(set(found))


@pytest.mark.parametrize("line", _commands("coppice"))
def test_every_coppice_command_can_be_parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_REGISTRY", "registry")  # which docs/registry.md has people set first
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        name, *words = words
        command = command.commands[name]
    if words:  # else only its name is mentioned
        command.make_context(name, words)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    told = {line.split()[1] for line in _commands("make")}
    assert {"run", "test"} <= told <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_run_files_that_are_named_exist(document: Path) -> None:
    for path in re.findall(r"jobs/[\w-]+\.yaml", document.read_text()):
        assert (REPO / path).exists(), f"{document.name}: {path}"


def test_every_variable_of_the_environment_is_documented() -> None:
    code = "\n".join(path.read_text() for path in (REPO / "coppice").rglob("*.py"))
    told = "\n".join(document.read_text() for document in DOCUMENTS)
    ours = {"COPPICE_SUPERVISED"}  # between simulate and the roles that it starts
    read = set(re.findall(r'"(COPPICE_[A-Z_]*[A-Z])"', code)) - ours
    assert len(read) > 10
    assert {name for name in read if name not in told} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_parts_of_coppice_that_are_named_are_there(document: Path) -> None:
    for name in re.findall(r"`(coppice(?:\.\w+)+)", document.read_text()):
        if name not in ("coppice.mask", "coppice.order"):  # keys of a weights file
            pkgutil.resolve_name(name)


def test_the_protocol_page_names_every_file() -> None:
    page = (REPO / "docs" / "protocol.md").read_text()
    for name in sorted(names.OWN_FILES | names.OWN_FOLDERS):
        assert name in page, name


@pytest.mark.parametrize("path", sorted((REPO / "openpai").glob("*.json")), ids=lambda path: path.name)
def test_openpai_jobs_start_scripts_that_exist(path: Path) -> None:
    job = json.loads(path.read_text())
    assert re.fullmatch(r"[A-Za-z0-9\-._]+", job["jobName"])
    for role in job["taskRoles"]:
        script, *arguments = role["command"].split("python ")[1].split()
        assert (REPO / script).exists()
        command = typer.main.get_command(
            app
        ).commands[  # type: ignore[attr-defined]
            {"main1": "master", "loop_outer": "outer", "loop_ncs": "ncs", "evaluator": "evaluator"}[
                script[:-3]
            ]
        ]
        command.make_context(script, arguments)
