"""How the package hangs together: what may import what, what is cheap to import, and who may name a method."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gns.rules import METHODS
from gns.utils.option_table import described_fields

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "gns"


def _module(path: Path, root: Path = REPOSITORY) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _ran_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from _ran_at_import(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from _ran_at_import(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from _ran_at_import(handler.body)


def _imports(source: str, modules: set[str]) -> set[str]:
    """Those of `modules` that a module imports when it is imported itself."""
    found: set[str] = set()
    for statement in _ran_at_import(ast.parse(source).body):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        if isinstance(statement, ast.ImportFrom):
            assert statement.level == 0 and statement.module, "imports are absolute"
            # A name of a package is its submodule where there is one; the package itself is then only the way to it.
            within = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= within & modules
            if within - modules:
                found.add(statement.module)
    return found & modules


def _graph(root: Path, package: Path) -> dict[str, set[str]]:
    sources = {_module(path, root): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    return {name: _imports(source, set(sources)) for name, source in sources.items()}


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """Some modules that import each other in a circle, in that order."""
    finished: set[str] = set()

    def search(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return None
        for imported in sorted(graph[name]):
            if circle := search(imported, [*path, name]):
                return circle
        finished.add(name)
        return None

    return next((circle for name in sorted(graph) if (circle := search(name, []))), None)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = _graph(REPOSITORY, PACKAGE)
    assert len(graph) > 60 and "gns.training.state" in graph["gns.training.loop"]  # the graph is not empty
    assert _circle(graph) is None


@pytest.mark.parametrize(
    ("line", "circle"),
    [
        ("from p.a import x", ["p.a", "p.b"]),
        ("from p import a", ["p.a", "p.b"]),
        ("import p.a", ["p.a", "p.b"]),
        ("try:\n    import p.a\nexcept ImportError:\n    pass", ["p.a", "p.b"]),
        ("class B:\n    from p.a import x", ["p.a", "p.b"]),
        ("if x:\n    pass\nelse:\n    from p.a import x", ["p.a", "p.b"]),
        ("from p import c", None),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.a", None),
        ("def f():\n    import p.a", None),
    ],
)
def test_a_circle_would_be_found(tmp_path: Path, line: str, circle: list[str] | None) -> None:
    package = tmp_path / "p"
    package.mkdir()
    for name, source in {"__init__": "", "a": "import p.b", "b": line, "c": ""}.items():
        (package / f"{name}.py").write_text(source)
    assert _circle(_graph(tmp_path, package)) == circle


# Names


def _strings(path: Path) -> set[str]:
    """The string constants of a file, documentation excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    documentation = {id(statement.value) for statement in first if isinstance(statement, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return {node.value for node in constants if isinstance(node.value, str)}


def _decisive(source: str) -> set[str]:
    """The strings that code compares with, looks up, has for a default or passes by name."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                found += [node.left, *node.comparators]
            case ast.keyword() | ast.MatchValue() | ast.AnnAssign():
                found.append(node.value)
            case ast.Subscript():
                found.append(node.slice)
            case ast.arguments():
                found += [*node.defaults, *node.kw_defaults]
            case ast.Tuple() | ast.List() | ast.Set():
                found += node.elts
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _names(path: Path) -> set[str]:
    """Everything that the code of a file names: variables, attributes, imports, arguments."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for field in ("id", "attr", "arg", "name"):
            name = getattr(node, field, None)
            found |= {name} if isinstance(name, str) else set()
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= set(node.module.split("."))
    return found


OUTSIDE_RULES = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "rules" not in path.parents]


def test_no_file_outside_the_rules_names_one() -> None:
    """Nor its class, options or sources of chance: a rule moves in without anybody else hearing of it."""
    rules = {rule for method in METHODS.values() for rule in method.rules}
    own = {rule.name for rule in rules} | {rule.__name__ for rule in rules} | {rule.Options.__name__ for rule in rules}
    tables = [field for rule in rules for field in described_fields(rule.Options)]
    options = {field.name for field in tables}
    choices = {choice for field in tables for choice in field.metadata["option"].choices}
    chances = {chance for rule in rules for chance in rule.chances}
    own -= {"NoOptions"}
    chances -= {"split"}  # of the photos too
    assert {"edge_growth", "NaturalSelection", "SelectionOptions"} <= own and "multinomial" in choices
    assert len(OUTSIDE_RULES) > 60
    for path in OUTSIDE_RULES:
        assert not _names(path) & (own | options), path
        assert not _strings(path) & (own | options | chances | choices), path


def test_no_file_outside_the_rules_names_a_method() -> None:
    """The default comes from the registry. (As the package's name "gns" is everywhere, where nothing depends on it.)"""
    for path in OUTSIDE_RULES:
        if PACKAGE / "testing" not in path.parents:
            assert not _decisive(path.read_text(encoding="utf-8")) & set(METHODS), path


@pytest.mark.parametrize(
    "line",
    [
        "x = method == 'gns'",
        "x = method in ('gns', 'other')",
        "x = METHODS['gns']",
        "def f(method='gns'): pass",
        "def f(*, method='gns'): pass",
        "f(method='gns')",
        "method: str = 'gns'",
        "match method:\n    case 'gns': pass",
    ],
)
def test_a_method_that_is_named_would_be_found(line: str) -> None:
    assert "gns" in _decisive(line)
    assert not _decisive(line.replace("'gns'", "DEFAULT.x")) & set(METHODS)


def test_no_file_outside_the_rules_names_an_iteration() -> None:
    """All dates of training lie in calendars: there is no number of thousands in the loop and around it."""
    files = [
        *(PACKAGE / "arguments").rglob("*.py"),
        *(PACKAGE / "training").rglob("*.py"),
        *(PACKAGE / "model").rglob("*.py"),
    ]
    for path in files:
        constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        numbers = {node.value for node in constants if type(node.value) is int}
        assert not {number for number in numbers if number >= 1_000 and number % 100 == 0}, path


# What is cheap


def _imported_by(code: str) -> set[str]:
    """The modules that are there after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import gns.arguments, gns.rules, gns.cli",
        "import gns.rules\nfor m in gns.rules.METHODS.values():\n for r in m.rules: r.Options()",
        "import gns.arguments as a\na.parse_train(['-s', 'a', '--final-budget', '5k', '--final-cut', 'lowest'])",
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit: pass",
    ],
    ids=["import", "registry", "parse", "help"],
)
def test_options_do_not_wait_for_torch(code: str) -> None:
    imported = _imported_by(code)
    assert "gns.rules.natural_selection" in imported
    assert not {"torch", "numpy", "gns_native"} & imported


def test_the_torch_of_a_rule_is_there_when_it_is_used() -> None:
    code = "from gns.rules import natural_selection as n\nassert n.torch.ones(2).sum() == 2"
    assert "torch" in _imported_by(code)
