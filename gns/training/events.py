"""What a run tells those who watch it, and how they answer.

A listener hears events; it can look at the model, as a copy, but has no way to change what is trained. A plain function
of an event is a listener too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gns.scene import Gaussians
    from gns.training.state import TrainState

E = TypeVar("E", bound="Event")


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """Something that happened after `iteration` iterations."""

    iteration: int
    _state: TrainState = field(repr=False)

    def then(self, kind: type[E], **facts: Any) -> E:
        """What this led to, at the same moment."""
        return kind(iteration=self.iteration, _state=self._state, **facts)

    @property
    def gaussians(self) -> Gaussians:
        """The model at this moment, in the world: a copy, outside autograd; see `TrainState.gaussians`."""
        return self._state.gaussians

    @property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """What the parts of the run keep beside the model (`gns.training.parts`), by their names."""
        found = {name: part.record() for name, part in self._state.parts.items()}
        return {name: record for name, record in found.items() if record is not None}

    @property
    def count(self) -> int:
        """The number of Gaussians at this moment."""
        return len(self._state.population)


class Started(Event):
    """Training begins, or goes on, after `iteration` iterations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IterationEnded(Event):
    """One more iteration is done. In a run of 30,000 it happens 30,000 times: be quick."""

    last: bool  # of the run
    stop: bool  # somebody asked for the end, and this iteration is the last before it
    overdue: bool  # the clock asks for a checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress(Event):
    """The losses of some more iterations are known, up to ten or twenty iterations ago."""

    losses: int  # how many, since the last time
    loss: float  # smoothed
    report: Mapping[str, float]  # what the rules report
    readings: Sequence[tuple[int, float]] = ()  # each of these iterations, and its loss


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutScored(Event):
    """The held-out photos were measured."""

    psnr: float  # mean over the photos, in dB
    views: int
    masked: int = 0  # of them have a mask: only their pixels that count were compared
    fitted: float | None = None  # mean over their right halves, with colours fitted on the left ones (`gns.metrics`)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSaved(Event):
    """A model was written."""

    path: Path
    sha256: str = ""  # of the file


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointSaved(Event):
    """A checkpoint was written, from which the run can go on."""

    path: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Remark(Event):
    """A rule, or another listener, has something to say to the user."""

    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Stopped(Event):
    """The run ends before its last iteration because somebody asked for it."""

    path: Path | None  # the output folder, from which it can go on


@dataclass(frozen=True, kw_only=True, eq=False)
class Signalled(Event):
    """What the run was stopped by: a signal of the operating system."""

    number: int


class Finished(Event):
    """The last iteration is done, and everything is written."""


Callback = Callable[[Event], object]


class Listener:
    """Somebody who watches a run. By default nothing happens.

    In a team every process has the same listeners, which decide `due` alike; those that write do so on the first.
    """

    def hear(self, event: Event) -> Iterable[Event]:
        """Take note of what happened, and return what that led to: events that all listeners then hear."""
        return ()

    def keep(self, moment: IterationEnded) -> Iterable[Event]:
        """Write what a run is taken up from again, and return what that led to.

        Called when all listeners have heard of this moment and of what that led to: a process that dies on the way
        comes to this moment again, and one that dies later has lost nothing of it.
        """
        return ()

    def due(self, moment: IterationEnded) -> bool:
        """Whether the end of this iteration is one at which something is kept: losses are then read before."""
        return False

    def wants_stop(self) -> bool:
        """Whether somebody asks for the end."""
        return False

    def wants_checkpoint(self) -> bool:
        """Whether somebody asks for a checkpoint."""
        return False

    def close(self) -> None:
        """Let go of everything: the run is over, however it ended."""


class CallbackListener(Listener):
    """A user's function of an event."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def hear(self, event: Event) -> Iterable[Event]:
        self._callback(event)
        return ()
