"""The Dockerfile copies what is there, and .dockerignore lets it through."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def _sources() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    return [source for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for source in line.split()[:-1]]


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    let_through = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert len(_sources()) >= 5
    for source in _sources():
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in let_through


def test_the_build_has_all_that_pyproject_names() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.findall(r'^readme = "(.*)"|^license-files = \["(.*)"\]|^wheel.packages = \["(.*)"\]', project, re.M):
        assert "".join(name) in _sources()
    assert "CMakeLists.txt" in _sources()
