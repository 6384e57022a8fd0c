"""Nothing in the package unpickles, evaluates, or starts a shell: read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    *sorted((ROOT / "coppice").rglob("*.py")),
    *(ROOT / f"{script}.py" for script in ("main1", "loop_outer", "loop_ncs", "evaluator")),
]
EVALUATES = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_YAML = {"load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}
LOADS_BY_NAME = {"coppice/models/build.py"}
"""Imports what the run file names as `module:callable` or `file.py:callable`: the user's own network, code
that the user has chosen to run. Nothing else in the work folder names a module."""
CATCHES = {"coppice/store/doctor/peer.py": ("pickle", "PicklingError")}
"""Names pickle for this one error: `multiprocessing` raises it where it cannot start the doctor's second
process with what the doctor gave it. The two talk over their own pipe; no file is involved."""


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute; "" for anything else, with what can be said."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def sins(tree: ast.Module, file: str) -> Iterator[str]:
    """What must not be, with its line."""
    safe_loaders = {
        each.name
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef) and [dotted(base) for base in each.bases] == ["yaml.SafeLoader"]
    }
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in modules:
            if UNPICKLES & set(module.split(".")) and CATCHES.get(file, ("", ""))[0] != module:
                yield f"{file}: imports {module}"
            hidden = module.startswith(("os.", "subprocess.", "yaml.", "builtins."))
            if hidden and isinstance(node, ast.ImportFrom):  # its calls would look like anybody's
                yield f"{file}: imports {module}; import the module"
        if isinstance(node, ast.Name) and node.id in EVALUATES:
            yield f"{file}:{node.lineno}: {node.id}"
        risky = isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell")
        if isinstance(node, ast.keyword) and risky and not is_constant(node.value, False):
            yield f"{file}:{node.value.lineno}: {node.arg}"
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
                yield f"{file}:{node.lineno}: {name}"
            if name.startswith("pickle.") and (*name.split("."),) != CATCHES.get(file):
                yield f"{file}:{node.lineno}: {name}"
            if node.attr in ("exec_module", "load_module") and file not in LOADS_BY_NAME:
                yield f"{file}:{node.lineno}: {node.attr}"
        if isinstance(node, ast.Call):
            yield from (f"{file}:{node.lineno}: {sin}" for sin in _calls(node, file, safe_loaders))


def _calls(node: ast.Call, file: str, safe_loaders: set[str]) -> Iterator[str]:
    name = dotted(node.func)
    owner, _, last = name.rpartition(".")
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in ("torch.load", "torch.jit.load") and not is_constant(keywords.get("weights_only"), True):
        yield f"{name} without weights_only=True"
    numpy = ("np.load", "numpy.load", "np.save", "np.lib.format.read_array")
    if name in numpy and not is_constant(keywords.get("allow_pickle"), False):
        yield f"{name} without allow_pickle=False"
    if name in ("np.save", "np.lib.format.read_array") and not is_constant(
        keywords.get("allow_pickle"), False
    ):
        yield f"{name} without allow_pickle=False"
    if owner == "yaml" and last in UNSAFE_YAML:
        yield name
    if (
        name == "yaml.load"
        and dotted(keywords.get("Loader", ast.Pass())) not in {"yaml.SafeLoader"} | safe_loaders
    ):
        yield "yaml.load without a SafeLoader"
    by_name = last in ("import_module", "spec_from_file_location", "run_path", "run_module")
    if (
        by_name
        and not all(isinstance(each, ast.Constant) for each in node.args)
        and file not in LOADS_BY_NAME
    ):
        yield f"{name} of a name that is not written here"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert list(sins(ast.parse(path.read_bytes()), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "f = exec",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "import pickle",
        "import pickle as json",
        "from pickle import loads",
        "from joblib import load",
        "import a.dill",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "read(f, allow_pickle=flag)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "yaml.unsafe_load(f)",
        "from yaml import unsafe_load",
        "os.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "importlib.import_module(name)",
        "importlib.util.spec_from_file_location('a', path)",
        "spec.loader.exec_module(module)",
    ],
)
def test_the_search_finds(line: str) -> None:
    assert list(sins(ast.parse(line), "coppice/roles/outer.py"))


@pytest.mark.parametrize(
    "line",
    [
        "re.compile('a')",
        "np.load(f, allow_pickle=False)",
        "torch.load(f, weights_only=True)",
        "model.eval()",
        "importlib.import_module('hdfs.ext')",
        "class L(yaml.SafeLoader): pass\nyaml.load(f, Loader=L)",
        "subprocess.Popen(['ls'], shell=False)",
    ],
)
def test_the_search_lets_pass(line: str) -> None:
    assert not list(sins(ast.parse(line), "coppice/roles/outer.py"))


def test_every_read_of_the_work_folder_has_its_limit() -> None:
    """Roles read by `coppice.work.limits`, which turns what is too large into damage, or do so themselves."""
    files = [*(ROOT / "coppice" / "roles").glob("*.py"), *(ROOT / "coppice" / "work").glob("*.py")]
    unlimited = []
    for path in [*files, ROOT / "coppice" / "report.py", ROOT / "coppice" / "show.py"]:
        tree = ast.parse(path.read_bytes())
        guarded = {
            inner
            for each in ast.walk(tree)
            if isinstance(each, ast.Try)
            if any("TooLarge" in ast.unparse(h.type) for h in each.handlers if h.type is not None)
            for statement in each.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = dotted(node.func.value).rpartition(".")[2].lstrip("_")
            reads = node.func.attr in ("read", "read_many") and owner in ("store", "home")
            if reads and not (node in guarded and len(node.args) == 2):
                unlimited.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unlimited == []


def test_the_limits_are_printed() -> None:
    from coppice.work import limits

    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for name, value in vars(limits).items():
        if name.startswith("MAX_"):
            unit, size = ("GiB", value >> 30) if value >= 1 << 30 else ("MiB", value >> 20)
            assert f"| `{name}` | {size} {unit} |" in page
