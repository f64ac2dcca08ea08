"""The README's examples are run as they stand."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(language: str) -> list[str]:
    found = [text for kind, text in BLOCKS if kind == language]
    assert found
    return found


def test_every_block_is_of_a_kind_that_is_looked_after() -> None:
    """`sh` holds the two commands, which CI runs; mermaid is a picture; the rest is run here."""
    assert {kind for kind, _ in BLOCKS} == {"console", "python", "sh", "mermaid"}
    targets = re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_python_examples_run(monkeypatch: pytest.MonkeyPatch, database_uri: str) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE_URI", database_uri)
    names: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(blocks("python")):
        exec(compile(code, f"README.md, example {number + 1}", "exec"), names)  # noqa: S102 - that is the test


def test_the_console_examples_print_what_the_page_says(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    for block in blocks("console"):
        for step in block.split("\n$ "):
            command, _, expected = step.removeprefix("$ ").partition("\n")
            printed = run(command, environment, tmp_path)
            checker = doctest.OutputChecker()
            example = doctest.Example(command, expected if expected.endswith("\n") else expected + "\n")
            assert checker.check_output(example.want, printed, LOOSE), checker.output_difference(
                example, printed, LOOSE
            )


def run(command: str, environment: dict[str, str], folder: Path) -> str:
    """What a command prints, both streams in their order."""
    words = shlex.split(command)
    start = {"holdfast": [sys.executable, "-m", "holdfast.serving"], "python": [sys.executable]}[words[0]]
    ran = subprocess.run(
        [*start, *words[1:]],
        env=environment | {"PYTHONUNBUFFERED": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        encoding="utf-8",
    )
    return ran.stdout


def test_what_the_page_links_to_is_there() -> None:
    headings = {re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in README.splitlines()}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / target).exists(), target
    for path in re.findall(r"`((?:notebooks|samples|checkpointing|guardrails)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
