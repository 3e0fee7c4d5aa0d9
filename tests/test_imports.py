"""Imports point one way: a file imports only from what stands before it, and only what the package asks for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fromnoise"

# A name is a file or a folder; inside a folder any order without cycles will do.
LINES = (
    "version errors types rng shuffle cond caption config",
    "codec data",
    "sheet",
    "prior path target posterior process",
    "nets",
    "denoise",
    "guide observe extend template grid stepper unmask sample stream",
    "density objectives build",
    "runtime memory optim ema checkpoint trainer",
    "release beyond folder generate gridsearch session",
    "edit",
    "evaluate explain report appraise proofread fewsteps",
    "recipes prepare distill api forecast",
    "serve export display asking cli",
    "__init__ __main__",
)
ORDER = [name for line in LINES for name in line.split()]

DISTRIBUTIONS = {"PIL": "pillow"}  # where the name of a module is not that of its package


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; `from package import module` counts as the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else str(node.module)


def place(module: str) -> int:
    """The line of a module in the order; the package itself is its `__init__`."""
    top = module.split(".")[1] if "." in module else "__init__"
    assert top in ORDER, f"{module} has no place in the order: add it where it belongs"
    return ORDER.index(top)


OWN = {name: sorted(m for m in set(imports(path)) if m in FILES) for name, path in FILES.items()}


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_from_what_stands_before_it(module):
    package = module.split(".")[:2]
    for imported in OWN[module]:
        if imported.split(".")[:2] != package:
            assert place(imported) < place(module), f"{module} imports {imported}, which stands after it"


def test_no_cycles_within_a_package():
    try:
        list(TopologicalSorter(OWN).static_order())
    except CycleError as error:
        pytest.fail(f"imports form a cycle: {' <- '.join(error.args[1])}")


def test_the_package_asks_for_exactly_what_it_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (lines for name, lines in project["optional-dependencies"].items() if name not in ("bench", "test"))
    asked = [*project["dependencies"], *chain.from_iterable(extras)]
    declared = {re.split(r"[<>=!~ \[;]", line)[0].lower() for line in asked}
    tops = {name.split(".")[0] for path in FILES.values() for name in imports(path)}
    foreign = tops - set(sys.stdlib_module_names) - {"fromnoise"}
    assert {DISTRIBUTIONS.get(name, name).lower() for name in foreign} == declared


@pytest.mark.parametrize("module", ["fromnoise", "fromnoise.cli"])
def test_starting_up_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
