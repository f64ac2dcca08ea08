"""What is built holds exactly the package, and the source tree keeps its layout rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = ("chaos", "checkpointing", "graphs", "guardrails", "nodes", "serving")
RELATIVE = ("checkpointing", "guardrails", "nodes")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel from the tree (tree/) and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", str(ROOT)]
    subprocess.run([*build, "--outdir", str(folder)], check=True, capture_output=True)
    subprocess.run([*build, "--wheel", "--outdir", str(folder / "tree")], check=True, capture_output=True)
    return folder


def package_files() -> set[str]:
    """Every file of the package that git tracks or would track, as it is named in a wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FLOORS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = {f"holdfast/{name}" for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    return names | {"holdfast/__init__.py", "holdfast/py.typed"}


def wheel_files(folder: Path) -> set[str]:
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_from_the_tree_and_the_one_from_the_sdist_hold_the_package_and_nothing_else(built: Path) -> None:
    assert wheel_files(built) == package_files()
    assert wheel_files(built / "tree") == package_files()


def test_the_sdist_holds_the_package_and_its_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    floors = {name.removeprefix("holdfast/") for name in package_files() if name.count("/") > 1}
    assert floors <= names
    assert "src/holdfast/__init__.py" in names
    assert "tests/test_packaging.py" in names


def test_the_wheel_installs_one_top_level_name(built: Path) -> None:
    assert {name.partition("/")[0] for name in wheel_files(built)} == {"holdfast"}


def test_every_floor_is_linked_and_named_wherever_packaging_needs_it() -> None:
    """A new folder that is forgotten in one place would be missing from the wheel or from the checks."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = config["tool"]["hatch"]["build"]["targets"]
    floors = set(FLOORS)
    assert floors <= set(targets["sdist"]["only-include"])
    assert floors <= set(targets["wheel"]["only-include"])
    assert floors <= set(targets["wheel"]["sources"])
    assert floors <= set(config["tool"]["pyright"]["include"])
    assert floors == set(config["tool"]["importlinter"]["contracts"][0]["layers"])
    links = {link.name: link for link in (ROOT / "src" / "holdfast").iterdir() if link.is_symlink()}
    assert set(links) == floors
    assert all(str(link.readlink()) == f"../../{name}" for name, link in links.items())


def test_no_code_imports_a_floor_by_its_folder() -> None:
    """`import nodes` would work in the checkout, and nowhere else."""
    for file in python_files(*FLOORS, "tests", "samples", "benchmarks"):
        roots = {name.partition(".")[0] for name in absolute_imports(file)}
        assert not roots & set(FLOORS), file


def test_the_lower_floors_import_one_another_relatively() -> None:
    """CONTRIBUTING.md, layout rule 1."""
    for file in python_files(*RELATIVE):
        assert not [name for name in absolute_imports(file) if name.startswith("holdfast")], file


def test_the_public_names_are_sorted_and_exist() -> None:
    import holdfast

    assert holdfast.__all__ == sorted(holdfast.__all__)
    for name in holdfast.__all__:
        assert getattr(holdfast, name).__doc__
    with pytest.raises(AttributeError):
        _ = holdfast.nothing_of_the_kind  # type: ignore[attr-defined]


def test_pins_are_names_and_versions_and_no_lock_file_is_kept() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin) for pin in pins)
    assert not [name for name in ("uv.lock", "poetry.lock", "package-lock.json") if (ROOT / name).exists()]


def python_files(*folders: str) -> list[Path]:
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert files
    return files


def absolute_imports(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return names
