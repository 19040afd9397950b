"""`--method gns`: growth to several budgets, then natural selection down to one.

Source: Deng et al., arXiv 2511.16980; `FAST` is its variant "FastSplatting". Rates and step periods are those of the
released code.
"""

from __future__ import annotations

from gns.rules import edge_growth, natural_selection
from gns.rules.base import Calendars, Method
from gns.rules.optimisation import LearningRates, Optimisation, StepPeriod

RATES = LearningRates(
    means_first=4e-5,
    means_last=2e-6,
    log_scales=5e-3,
    quats=1e-3,
    opacity_logits=2.5e-2,
    sh_dc=2.5e-3,
    sh_rest=2.5e-4,
)

STANDARD = Calendars(
    Optimisation(
        iterations=30_000,
        sh_degree_interval=1_000,
        step_periods=(StepPeriod(20_000, 1, 1), StepPeriod(24_000, 5, 5), StepPeriod(30_000, 20, 20)),
        rates=RATES,
    ),
    (edge_growth.STANDARD, natural_selection.STANDARD),
)

FAST = Calendars(
    Optimisation(
        iterations=15_000,
        sh_degree_interval=500,
        step_periods=(
            StepPeriod(3_000, 1, 1),
            StepPeriod(6_000, 1, 5),
            StepPeriod(10_000, 10, 10),
            StepPeriod(15_000, 20, 20),
        ),
        rates=RATES,
    ),
    (edge_growth.FAST, natural_selection.FAST),
)

METHOD = Method(
    summary="grow to several budgets, then natural selection",
    rules=(edge_growth.EdgeGrowth, natural_selection.NaturalSelection),
    schedules={"standard": STANDARD, "fast": FAST},
)
