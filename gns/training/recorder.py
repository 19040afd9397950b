"""What a run tells on its way: losses as they become known, and events to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor

from gns.errors import UserError
from gns.run_folder import RunFolder
from gns.team import SINGLE, Team
from gns.training.events import Event, Finished, IterationEnded, Listener, Progress, Remark, Started, Stopped
from gns.training.losses import Diverged, LossReader, Reading, Spoilt
from gns.training.state import TrainState, not_finite

COMPARE_EVERY = 500  # iterations after which the processes of a team compare their models
SMOOTHING = 0.9  # of the displayed loss, from one reading to the next


class Recorder:
    """Hears of every loss and iteration, and lets the listeners hear of what that means.

    It reads the state and never changes it: a run has the same result with and without. In a `team` every process has
    one, because all act at the same iterations.
    """

    def __init__(
        self,
        state: TrainState,
        iterations: int,
        listeners: Sequence[Listener],
        team: Team = SINGLE,
        run: RunFolder | None = None,
    ) -> None:
        self.stopped = False  # whether somebody asked for the end
        self._state = state
        self._iterations = iterations
        self._listeners = listeners
        self._team = team
        self._run = run
        self._losses = LossReader(state.population.gaussians.means.device, team, self._parameters)
        self._smooth_loss: float | None = None
        self._remarks: set[str] = set()  # rules and parts that have had their say

    @contextmanager
    def listening(self) -> Iterator[Recorder]:
        """The block in which the run takes place."""
        with ExitStack() as at_the_end:
            for listener in self._listeners:
                at_the_end.callback(listener.close)
            try:
                self._emit(Started(iteration=self._state.iteration, _state=self._state))
                yield self
                if not self.stopped:
                    self._emit(Finished(iteration=self._state.iteration, _state=self._state))
            except UserError:
                # A diverged run may stop on something else first: the cause is the better news. A team may not be all
                # here.
                if self._team.size == 1:
                    self._read_all()
                raise

    def add_loss(self, it: int, views: Sequence[str], loss: Tensor) -> None:
        """Take down this process's photometric loss of iteration `it`, a scalar; it is read later."""
        self._losses.add(it, views, loss)

    def after_iteration(self) -> None:
        """Tell the listeners that an iteration has ended, once it is certain that what they keep is sound.

        Raises UserError where a loss is not finite, a file cannot be written, or a team's models differ.
        """
        it = self._state.iteration
        moment = self._moment(it)
        due = moment.stop or any(listener.due(moment) for listener in self._listeners)
        # Losses are read before anything is kept: a diverged state never replaces a good one.
        if due:
            self._read_all()
        elif self._losses.full:
            self._tell(self._read(self._losses.read_some))
        if due or it % COMPARE_EVERY == 0:
            self._team.require_equal(self._state.state_dict(), it)
        self._emit(moment)
        for listener in self._listeners:
            for effect in listener.keep(moment):
                self._emit(effect)
        if moment.stop:
            self.stopped = True
            self._emit(Stopped(iteration=it, _state=self._state, path=self._run.path if self._run else None))
            self._team.wait()  # torchrun ends all processes when the first one leaves

    def _moment(self, it: int) -> IterationEnded:
        """The end of this iteration. Wishes come to one process of a team; all learn of them when they read losses."""
        stop = any(listener.wants_stop() for listener in self._listeners)
        overdue = any(listener.wants_checkpoint() for listener in self._listeners)
        if self._team.size > 1:
            stop, overdue = (
                self._team.any(stop, overdue and self._team.is_main) if self._losses.full else (False, False)
            )
        last = it == self._iterations
        return IterationEnded(
            iteration=it, _state=self._state, last=last, stop=stop and not last, overdue=overdue and not last
        )

    def _read_all(self) -> None:
        self._tell(self._read(self._losses.read_all))

    def _read(self, read: Callable[[], list[Reading]]) -> list[Reading]:
        try:
            return read()
        except Diverged as diverged:
            raise UserError(
                f"training diverged: the loss of view {diverged.view} at iteration {diverged.iteration} is not finite; "
                f"check the camera of that photo and the scale of the scene{self._last_good()}"
            ) from None
        except Spoilt as spoilt:
            what = not_finite(self._state.population)
            first, last = spoilt.iterations[0], spoilt.iterations[-1]
            raise UserError(
                f"training diverged: {what} are not finite after an iteration of {first} to {last}, which learned from "
                f"{', '.join(dict.fromkeys(spoilt.views))}; check the cameras of these photos and the scale of the "
                f"scene{self._last_good()}"
            ) from None

    def _last_good(self) -> str:
        """Where to go on from after a divergence: what is not finite is never kept."""
        kept = self._run.checkpoint_iterations() if self._run else []
        return f" (the last good checkpoint is {self._run.checkpoint_path(kept[-1])})" if self._run and kept else ""

    def _parameters(self) -> list[Tensor]:
        return [values for _, values in self._state.population.gaussians.named_tensors()]

    def _tell(self, readings: Sequence[Reading]) -> None:
        """Let the listeners hear of losses, and of what the rules have to say."""
        if not readings:
            return
        mean = sum(loss for _, loss in readings) / len(readings)
        old = mean if self._smooth_loss is None else self._smooth_loss
        self._smooth_loss = SMOOTHING * old + (1 - SMOOTHING) * mean
        state, report = self._state, dict[str, float]()
        for rule in state.plan.rules:
            report |= rule.report(state.rules[rule.name])
            self._remark(rule.name, rule.remark(state.rules[rule.name], state.population))
        for part in state.parts.values():
            self._remark(part.name, part.remark())
        self._emit(
            Progress(
                iteration=state.iteration,
                _state=state,
                losses=len(readings),
                loss=self._smooth_loss,
                report=report,
                readings=readings,
            )
        )

    def _remark(self, name: str, text: str | None) -> None:
        """Let a rule or a part have its say, once."""
        if text and name not in self._remarks:
            self._remarks.add(name)
            self._emit(Remark(iteration=self._state.iteration, _state=self._state, text=text))

    def _emit(self, event: Event) -> None:
        """Let all listeners hear an event, and then what it led to: nobody hears of an effect before its cause."""
        effects = [effect for listener in self._listeners for effect in listener.hear(event)]
        for effect in effects:
            self._emit(effect)
