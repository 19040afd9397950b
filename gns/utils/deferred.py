"""Modules that are imported when they are first used.

The command line and config.json follow from the options of every rule, and `--help` should not wait for torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for the module of its name, and imports it when one of its attributes is asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)  # so that the next look-up costs nothing
        return value


def deferred(name: str) -> Any:
    """A stand-in for the module `name`. Attributes that others replace later (in tests) keep their first value."""
    return _Deferred(name)
