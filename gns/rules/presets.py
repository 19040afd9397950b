"""`--preset`: a method as it was published, or with what was found to make it better or quicker.

Refinements belong to no rule: they change what every method has. Each was measured by itself before it came in here;
docs/LOG.md has the figures, and those of what was tried and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gns.rules.base import Calendars
from gns.rules.calendar import Calendar
from gns.rules.edge_growth import GrowthCalendar
from gns.rules.optimisation import PhotoSize

PUBLISHED_SHARE = 0.5  # of the run, in which the model grows


@dataclass(frozen=True)
class Refinements:
    """What to do otherwise than published; as it stands here, nothing."""

    far_points: bool = False  # start with points far away too, where photos show what no point explains
    coarse_to_fine: bool = False  # learn from reduced photos first
    larger_steps: bool = False  # of all parameters but opacities
    squared_error: bool = False  # in the loss, once growth is over
    dense_model: float = 1.0  # times the number of Gaussians that selection begins with
    error_growth: bool = False  # by where renderings are unlike the photos, in place of the photos' edges
    growth_share: float = PUBLISHED_SHARE  # of the run, in which the model grows
    growth_interval: int = 1  # iterations from one event of growth to the next at least, however short the run
    reset_epochs: float = 0.0  # how often each photo is seen from a reset of all opacities to the next, at least
    weight_averaging: float = 0.0  # share of the run, at its end, over whose steps the model is the mean
    sh_decay: float = 0.0  # share of the harmonics above degree 0 that each step takes away

    def applied(self, calendars: Calendars) -> Calendars:
        """A method's calendars with them, at its natural length."""
        published = calendars.optimisation
        larger = {name: factor * getattr(published.rates, name) for name, factor in LARGER_STEPS.items()}
        rates = replace(published.rates, **larger) if self.larger_steps else published.rates
        sizes = tuple(
            PhotoSize(round(share * published.iterations), divisor, at_most)
            for share, divisor, at_most in COARSE_TO_FINE
        )
        # Squared once growth is over: PSNR counts squares, and where a few pixels are far off, L1 is content with the
        # median of what the photos say of them. Growth goes on as published, since its threshold is in units of the
        # loss's gradient.
        optimisation = replace(
            published,
            rates=rates,
            photo_sizes=sizes if self.coarse_to_fine else (),
            squared_after=PUBLISHED_SHARE * published.iterations if self.squared_error else math.inf,
            averaged_after=(1 - self.weight_averaging) * published.iterations if self.weight_averaging else math.inf,
            sh_decay=self.sh_decay,
        )
        return self._paced(Calendars(optimisation, tuple(map(self._grown, calendars.rules))))

    def _grown(self, calendar: Calendar) -> Calendar:
        """A rule's calendar with what concerns growth; the calendars of other rules stay as they are.

        Growth that overshoots the budget, for a selection to come, does so by more; any other still ends at it.
        """
        if not isinstance(calendar, GrowthCalendar):
            return calendar
        growths = (
            replace(growth, ceiling=self.dense_model * growth.ceiling) if growth.ceiling > 1 else growth
            for growth in calendar.growths
        )
        spaced = tuple(growth.spaced(self.growth_interval) for growth in growths)
        return replace(calendar, growths=spaced, by_error=self.error_growth, reset_epochs=self.reset_epochs)

    def _paced(self, calendars: Calendars) -> Calendars:
        """Growth in its share of the run, what follows as long as before, and the refinement in all that is left.

        So for methods that grow once, to the middle of the run as they are published; others stay as they are.
        """
        growing = [calendar for calendar in calendars.rules if isinstance(calendar, GrowthCalendar)]
        if self.growth_share == PUBLISHED_SHARE or not growing or len(growing[0].growths) > 1:
            return calendars
        shift = (self.growth_share - PUBLISHED_SHARE) * calendars.optimisation.iterations
        factor = self.growth_share / PUBLISHED_SHARE
        rules = (
            calendar.scaled(factor) if isinstance(calendar, GrowthCalendar) else calendar.scaled(1.0, shift)
            for calendar in calendars.rules
        )
        return Calendars(calendars.optimisation.paced(self.growth_share), tuple(rules))


PUBLISHED = Refinements()
# Opacities are not lowered again before they could come back: in a short run with many photos once; with few of them as
# often as published, which keeps the space before their cameras clear.
# Growth ends a little sooner than published: its iterations cost most, and surveys of errors make them cost more. (In a
# quarter of a short run it ends too soon where photos are many.) Of surveys a short run would make more than it has use
# for: one of ten photos every 19 iterations, where it has 7,000.
BETTER = Refinements(
    far_points=True,
    coarse_to_fine=True,
    larger_steps=True,
    squared_error=True,
    error_growth=True,
    growth_share=0.4,
    growth_interval=50,
    reset_epochs=6.0,
    weight_averaging=0.05,
    sh_decay=1e-4,  # at twice that train490 lost 0.25 dB (docs/LOG.md)
)

# Until which share of the run photos are reduced how many times, and until which iteration at most. What is large and
# wrong is set right first, for a sixteenth and a quarter of the pixels; growth then finds the places that lack detail
# rather than those that lack form. In a long run that is done long before a third of it, and the rest is missed later.
COARSE_TO_FINE = ((0.1, 4.0, 700), (0.3, 2.0, 2_100))


# Times the method's step sizes. The published ones leave a model on its way, at 7,000 iterations and at 30,000: rates
# that fall towards the end make it worse, and the positions gain most where theirs have fallen most. Opacities are left
# as they are, since selection is measured in their steps: half of them cost 0.4 dB, twice of them a whole one. The base
# colour takes smaller ones.
LARGER_STEPS: Mapping[str, float] = {
    "means_first": 2.0,
    "means_last": 8.0,
    "log_scales": 2.0,
    "quats": 5.0,
    "sh_dc": 0.5,
    "sh_rest": 4.0,
}


@dataclass(frozen=True)
class Preset:
    """What `--preset` names."""

    summary: str  # half a sentence for --help
    refinements: Refinements
    length: float = 1.0  # of a run, in lengths of the schedule


PRESETS: Mapping[str, Preset] = {
    "paper": Preset("as published", PUBLISHED),
    "best": Preset("with the refinements that docs/LOG.md measures", BETTER),
    "quick": Preset("these in a third of the time: 34 % of the iterations", BETTER, 0.34),
}

DEFAULT_PRESET, *_ = PRESETS
