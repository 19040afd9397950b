"""How much memory is there and free, by what Linux and containers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gns.utils import main_memory
from gns.utils.main_memory import available_memory

GIGA = 10**9


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the system says it in; none exists yet."""
    monkeypatch.setattr(main_memory, "_CONTAINER", (tmp_path / "max",))
    monkeypatch.setattr(main_memory, "_CONTAINER_USE", (tmp_path / "current", tmp_path / "stat"))
    monkeypatch.setattr(main_memory, "_MACHINE", tmp_path / "meminfo")
    return tmp_path


def test_what_is_free_is_what_linux_calls_available(system: Path) -> None:
    assert available_memory() == main_memory.main_memory()  # a system that does not say
    (system / "meminfo").write_text("MemTotal: 16000 kB\nMemFree: 5 kB\nMemAvailable:    1000000 kB\nBuffers: 7 kB\n")
    assert available_memory() == 1_024_000_000


def test_a_container_has_less_and_may_drop_files_that_nobody_uses(system: Path) -> None:
    (system / "max").write_text(f"{GIGA}\n")
    (system / "current").write_text("900000000\n")
    (system / "stat").write_text("anon 5\nactive_file 7\ninactive_file 300000000\ninactive_anon 9\n")
    assert available_memory() == 400_000_000
    (system / "current").write_text(f"{2 * GIGA}\n")
    assert available_memory() == 0
