"""`--method improved-gs`: growth straight to the budget, without a selection.

Source: Improved-GS (Deng et al., arXiv 2508.12313), which the first half of gns is made of, with the figures of gns.
"""

from __future__ import annotations

from dataclasses import replace

from gns.rules import edge_growth, gns
from gns.rules.base import Calendars, Method

STANDARD = Calendars(
    gns.STANDARD.optimisation,
    (
        replace(
            edge_growth.STANDARD,
            growths=tuple(replace(growth, ceiling=1.0) for growth in edge_growth.STANDARD.growths),
        ),
    ),
)

METHOD = Method(
    summary="growth straight to the budget, without a selection",
    rules=(edge_growth.EdgeGrowth,),
    schedules={"standard": STANDARD},
)
