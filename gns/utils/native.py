"""The compiled kernels, loaded once, with a clear word where they are missing or old."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import ModuleType

from gns.errors import UserError

_SOURCES = Path(__file__).resolve().parent.parent / "csrc"


def source_hash() -> str:
    """What CMakeLists.txt computes: the hash of the hashes of all sources, in the order of their paths."""
    files = sorted(path for suffix in ("*.h", "*.cpp") for path in _SOURCES.rglob(suffix))
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() + "\n" for path in files)
    return hashlib.sha256(hashes.encode()).hexdigest()


def compiler() -> str:
    """What has compiled the native module, as it says in the note that compilers leave in a library; "" without one."""
    content = Path(str(load().__file__)).read_bytes()
    found = re.search(rb"GCC: \([^)]*\) [\d.]+|(?:[A-Z]\w+ )?clang version [\d.]+", content)
    return found[0].decode().replace("GCC: ", "GCC ") if found else ""


def load() -> ModuleType:
    """The native module.

    Raises:
        UserError: it is not installed, or was built from other sources than those beside this package.
    """
    try:
        import gns_native
    except ImportError as error:
        raise UserError(
            f"gns's compiled kernels cannot be loaded ({error}): run 'pip install .' in the folder of gns"
        ) from error
    if _SOURCES.is_dir() and source_hash() != gns_native.SOURCE_HASH:
        raise UserError(
            "gns's compiled kernels were built from other sources: run 'pip install .' in the folder of gns"
        )
    module: ModuleType = gns_native
    return module
