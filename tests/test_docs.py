"""The programs in the documentation run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gns import exports, rules
from gns.gaussian_renderer import backends
from gns.scene import readers

DOCS = Path(__file__).resolve().parents[1] / "docs"


def _program(page: str) -> str:
    """All Python blocks of a page, each at its own line, so that a traceback points into the page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    code = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block[1].splitlines()):
            code[first + offset] = line
    return "\n".join(code)


@pytest.fixture(autouse=True)
def _lists_as_they_were() -> Iterator[None]:
    """What a page adds to a list is gone afterwards."""
    lists: list[dict[Any, Any]] = [rules.METHODS, exports.EXPORTS, backends.IN_USE]
    before, formats = [dict(entries) for entries in lists], list(readers.READERS)
    yield
    for entries, known in zip(lists, before, strict=True):
        entries.clear()
        entries.update(known)
    readers.READERS[:] = formats


@pytest.mark.parametrize("page", ["python.md", "extending.md"])
def test_the_programs_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program(page)
    assert len(program.split()) > 100
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(DOCS / page), "exec", dont_inherit=True), {"__name__": page})
    if page == "python.md":
        assert (tmp_path / "history.png").stat().st_size > 1000
