"""What a browser says to the viewer first, and how long tests wait for an answer."""

from __future__ import annotations

from typing import Any

import viser

PATIENCE = 60.0  # seconds
PROTOCOL: Any = f"viser-v{viser.__version__}"
