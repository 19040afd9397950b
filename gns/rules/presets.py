"""`--preset`: a method as it was published, or with what was found to make it better or quicker.

Refinements belong to no rule: they change what every method has. Each was measured by itself before it came in here;
docs/LOG.md has the figures, and those of what was tried and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gns.rules.optimisation import Optimisation, PhotoSize


@dataclass(frozen=True)
class Refinements:
    """What to do otherwise than published; as it stands here, nothing."""

    coarse_to_fine: bool = False  # learn from reduced photos first
    position_rate: float = 1.0  # times the method's step size of the means

    def applied(self, optimisation: Optimisation) -> Optimisation:
        """The optimiser's calendar with them, at whatever length."""
        rates = replace(
            optimisation.rates,
            means_first=self.position_rate * optimisation.rates.means_first,
            means_last=self.position_rate * optimisation.rates.means_last,
        )
        length = optimisation.iterations
        sizes = tuple(PhotoSize(round(share * length), divisor) for share, divisor in COARSE_TO_FINE)
        return replace(optimisation, rates=rates, photo_sizes=sizes if self.coarse_to_fine else ())


PUBLISHED = Refinements()

# Until which share of the run photos are reduced how many times. What is large and wrong is set right first, for a
# sixteenth and a quarter of the pixels; growth then finds the places that lack detail rather than those that lack form.
COARSE_TO_FINE = ((0.1, 4.0), (0.3, 2.0))


@dataclass(frozen=True)
class Preset:
    """What `--preset` names."""

    summary: str  # half a sentence for --help
    refinements: Refinements
    length: float = 1.0  # of a run, in lengths of the schedule


PRESETS: Mapping[str, Preset] = {
    "paper": Preset("as published", PUBLISHED),
    "best": Preset("better models in less time", Refinements(coarse_to_fine=True, position_rate=2.0)),
    "quick": Preset(
        "the same in a third of the iterations", Refinements(coarse_to_fine=True, position_rate=2.0), length=1 / 3
    ),
}

DEFAULT_PRESET, *_ = PRESETS
