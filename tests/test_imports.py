"""The code keeps to the import arrows of DESIGN.md, and light commands stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lcodec"


def read_arrows() -> dict[str, set[str]]:
    """group -> the groups it may import, out of DESIGN.md. A group is a module or folder right below lcodec/."""
    text = (PACKAGE / "DESIGN.md").read_text(encoding="utf-8")
    rows = re.findall(r"^    (\w+) +->(.*)$", text, re.M)
    return {group: set(re.findall(r"\w+", targets)) for group, targets in rows}


ARROWS = {**read_arrows(), "errors": set()}  # which is open to all
FORBIDDEN_OUTSIDE = {group: {"torch"} for group in ("entropy", "weights", "decoder", "image", "cpu")}
MODULES = sorted(PACKAGE.rglob("*.py")) + sorted(PACKAGE.rglob("*.pyx")) + sorted(PACKAGE.rglob("*.pxd"))


def group_of(module: str) -> str:
    """lcodec.cli.encode -> cli, lcodec -> lcodec."""
    parts = module.split(".")
    group = parts[1] if len(parts) > 1 else "lcodec"
    return "container" if group == "header" else group  # the first half of one thing


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Everything that a module imports, also inside functions, as absolute names."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":  # Cython: no ast for it
        found = re.findall(r"^\s*from\s+([\w.]+)\s+c?import\b", text, re.M)
        return set(found) | set(re.findall(r"^\s*c?import\s+([\w.]+)", text, re.M))
    modules: set[str] = set()
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            # `from lcodec import x` names a module or something of lcodec itself
            for alias in node.names:
                is_module = module == "lcodec" and (PACKAGE / alias.name).with_suffix(".py").exists()
                is_module |= module == "lcodec" and (PACKAGE / alias.name).is_dir()
                modules.add(f"lcodec.{alias.name}" if is_module else module)
    return modules


def test_groups_of_the_design_are_the_groups_of_the_code():
    assert len(MODULES) > 10
    groups = {group_of(name_of(path)) for path in MODULES}
    assert groups == set(ARROWS)
    assert set.union(*ARROWS.values()) <= groups


def test_arrows_of_the_design_have_no_circle():
    left = dict(ARROWS)
    while free := {group for group, targets in left.items() if not targets & set(left)}:
        left = {group: targets for group, targets in left.items() if group not in free}
    assert left == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_along_the_arrows_of_the_design(path):
    group = group_of(name_of(path))
    inside = {group_of(m) for m in imported_modules(path) if m.split(".")[0] == "lcodec"}
    assert inside - {group, "errors"} <= ARROWS[group]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_no_library_that_its_group_must_not_know(path):
    group = group_of(name_of(path))
    outside = {m.split(".")[0] for m in imported_modules(path)} - {"lcodec"}
    assert not outside & FORBIDDEN_OUTSIDE.get(group, set())
    if group in ("container", "errors"):
        assert outside <= set(sys.stdlib_module_names)


def test_an_arrow_against_the_design_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "lcodec" / "entropy" / "bad.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from lcodec import codec\n    from ..nets import x\n    import torch\n")
    assert imported_modules(path) == {"lcodec.codec", "lcodec.nets", "torch"}


def test_every_package_is_listed_in_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^packages = \[(.*?)\]", text, re.M | re.S)
    assert block is not None
    listed = set(re.findall(r'"([\w.]+)"', block.group(1)))
    found = {name_of(path) for path in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"lcodec.models"}


def test_every_compiled_source_is_listed_in_pyproject():
    """A header that is missing there is missing in the source archive."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    files = [*(ROOT / "csrc").iterdir(), *PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")]
    paths = {str(path.relative_to(ROOT)) for path in files}
    assert paths <= set(re.findall(r'"([\w./]+)"', text))


@pytest.mark.parametrize(
    "statement",
    [
        "import lcodec",
        "import lcodec.container, lcodec.image",
        "from lcodec.cli import cli; cli(['--help'], standalone_mode=False)",
        "from lcodec.cli import cli; cli(['encode', '--help'], standalone_mode=False)",
        "from lcodec.cli import cli; cli(['bench', '--help'], standalone_mode=False)",
        "from lcodec.cli import cli; cli(['version'], standalone_mode=False)",
    ],
)
def test_light_uses_do_not_load_torch(statement):
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
