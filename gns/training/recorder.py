"""What a run tells and keeps on its way: progress, log, held-out scores, models, checkpoints; and how it is stopped."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from gns.arguments import TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.metrics import decibels
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene
from gns.team import ALONE, Team
from gns.utils.png import from_eight_bit, to_eight_bit
from gns.utils.readback import Readback

if TYPE_CHECKING:
    from gns.training.loop import TrainState

LOSSES_AT_ONCE = 10  # read together; on a GPU after as many more, when they have long arrived: the host never waits
LOG_EVERY = 100
COMPARE_EVERY = 500  # iterations after which the processes of a team compare their models
CHECKPOINT_SECONDS = 300.0  # the most work that a crash can cost
SMOOTHING = 0.9  # of the displayed loss, from one reading to the next


class Journal:
    """The chronicler of a run, inside a `with` block: `note` tells it a loss, `record` the end of an iteration.

    It reads the state and never changes it: a run has the same result with and without. In a `team` every process has
    one, because all act at the same iterations; only that of the first process has a `run` and speaks.
    """

    def __init__(
        self, config: TrainConfig, scene: Scene, run: RunFolder | None, state: TrainState, team: Team = ALONE
    ) -> None:
        self._config = config
        self._scene = scene
        self._run = run
        self._state = state
        self._team = team
        self._unread: list[tuple[int, Sequence[str], Tensor]] = []  # iteration, names of the team's views, own loss
        self._sent: list[tuple[int, Sequence[str], Tensor]] = []  # the same, their losses on their way to the host
        self._smooth_loss: float | None = None
        self._skip_reported = False
        # On a CPU losses are at hand, and iterations so long that a team should hear of Ctrl-C in each.
        device = state.population.gaussians.means.device
        slow = team.size > 1 and device.type == "cpu"
        self._at_once = 1 if slow else LOSSES_AT_ONCE
        self._losses = Readback(device, LOSSES_AT_ONCE, torch.float32)
        self._started = self._checkpointed = time.monotonic()
        self._tests = {*config.test_iterations, config.iterations}
        self._saves = {*config.save_iterations, config.iterations}
        self._checkpoints = {*config.checkpoint_iterations}

    def __enter__(self) -> Journal:
        self._bar = tqdm(
            total=self._config.iterations,
            initial=self._state.iteration,
            desc="training",
            unit="it",
            dynamic_ncols=True,
            disable=self._config.quiet,
        )
        self._stop = _StopRequest()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.forget()
        self._bar.close()
        # A diverged run may stop on something else first: the cause is the better news. A team may not be all here.
        if kind is not None and issubclass(kind, UserError) and self._team.size == 1:
            self._read_losses()

    def note(self, it: int, views: Sequence[str], loss: Tensor) -> None:
        """Take down this process's photometric loss of iteration `it`, a scalar; it is read later."""
        self._unread.append((it, views, loss))

    def record(self) -> None:
        """Show, test, save and stop, as is due after the iteration that has just ended.

        Raises UserError where a loss is not finite, a file cannot be written, or a team's models differ, and
        KeyboardInterrupt if asked to stop.
        """
        it = self._state.iteration
        finished = it == self._config.iterations
        asked, overdue = self._asked_to_stop_or_save()
        stopping = asked and not finished
        checkpoint = (it in self._checkpoints or stopping or overdue) and not finished
        # Losses are read before anything is kept: a diverged state never replaces a good one.
        if checkpoint or it in self._tests or it in self._saves:
            self._read_losses()
        elif len(self._unread) == self._at_once:
            self._receive_losses()
            self._send_losses()
            if not self._losses.queued:
                self._receive_losses()
        if checkpoint or it in self._saves or it % COMPARE_EVERY == 0:
            self._team.require_equal(self._state.state_dict(), it)
        if it in self._tests and self._scene.test and self._team.leads:
            self._test(it)
        if it in self._saves and self._run:
            path = self._run.save_model(self._state.population.gaussians, it)
            self._say(f"iteration {it}: {len(self._state.population):,} Gaussians in {path}")
        if checkpoint and self._run:
            self._run.save_checkpoint(self._state.state_dict(), it)
            self._checkpointed = time.monotonic()
        if stopping:
            self._tell_how_to_resume(it)
            self._team.wait()  # torchrun ends all processes when the first one leaves
            raise KeyboardInterrupt

    def _asked_to_stop_or_save(self) -> tuple[bool, bool]:
        """Whether a signal asks for the end, and whether the clock asks for a checkpoint.

        Those come to one process of a team; all learn of them when they read their losses.
        """
        asked, overdue = self._stop.asked, time.monotonic() - self._checkpointed > CHECKPOINT_SECONDS
        if self._team.size == 1:
            return asked, overdue
        if len(self._unread) < self._at_once:
            return False, False
        asked, overdue = self._team.any(asked, overdue and self._team.leads)
        return asked, overdue

    def _read_losses(self) -> None:
        """Read all losses noted so far, and wait for those that have not been computed yet."""
        self._receive_losses()
        self._send_losses()
        self._receive_losses()

    def _send_losses(self) -> None:
        """Let the losses noted since the last time travel to the host."""
        self._sent, self._unread = self._unread, []
        if self._sent:
            self._losses.start(torch.stack([loss for _, _, loss in self._sent]))

    def _receive_losses(self) -> None:
        """Refuse a loss of those sent that is not finite, show and log the others."""
        sent, self._sent = self._sent, []
        if not sent:
            return
        losses = self._team.gather(self._losses.finish()).T.tolist()  # by iteration and process
        for (it, views, _), of_views in zip(sent, losses, strict=True):
            for view, loss in zip(views, of_views, strict=True):
                if not math.isfinite(loss):
                    self._unread = []  # the first to diverge is the news, not those that came after
                    raise UserError(self._diverged(it, view))
        mean = sum(map(sum, losses)) / (len(losses) * self._team.size)
        old = mean if self._smooth_loss is None else self._smooth_loss
        self._smooth_loss = SMOOTHING * old + (1 - SMOOTHING) * mean
        self._show(len(losses))

    def _diverged(self, it: int, view: str) -> str:
        kept = self._run.checkpoint_iterations() if self._run else []
        where = f" (the last good checkpoint is {self._run.checkpoint_path(kept[-1])})" if self._run and kept else ""
        return (
            f"training diverged: the loss of view {view} at iteration {it} is not finite; check the camera of that "
            f"photo and the scale of the scene{where}"
        )

    def _show(self, count: int) -> None:
        state, budget = self._state, self._config.final_budget
        self._bar.set_postfix_str(
            f"loss {self._smooth_loss:.4f}, {len(state.population):,}/{budget:,} Gaussians", refresh=False
        )
        self._bar.update(count)
        if state.iteration % LOG_EVERY < count:
            self._log({"loss": self._smooth_loss, "gaussians": len(state.population), "rate": state.selection.rate})
        if state.selection.skipped and not self._skip_reported:
            self._skip_reported = True
            self._say(
                f"iteration {state.iteration}: only {len(state.population):,} Gaussians grew, fewer than the budget of "
                f"{budget:,}: all are kept, and there is no selection"
            )

    def _test(self, it: int) -> None:
        score = held_out_psnr(self._state.population.gaussians, self._scene)
        self._say(f"iteration {it}: PSNR {score:.2f} dB over {len(self._scene.test)} held-out views")
        self._log({"held_out_psnr": score})

    def _tell_how_to_resume(self, it: int) -> None:
        if self._run is None:
            return
        program = "gns train" if sys.argv[0].endswith("gns") else "python train.py"
        if self._team.size > 1:  # any other number will do as well
            program = f"torchrun --nproc-per-node {self._team.size} train.py"
        command = f"{program} -m {shlex.quote(str(self._run.path))} --resume"
        tqdm.write(f"Stopped after iteration {it}. To go on: {command}", file=sys.stderr)

    def _log(self, values: dict[str, Any]) -> None:
        if self._run:
            seconds = round(time.monotonic() - self._started, 2)
            self._run.log({"iteration": self._state.iteration, **values, "seconds": seconds})

    def _say(self, text: str) -> None:
        say(text, self._config.quiet)


class _StopRequest:
    """Remembers a first Ctrl-C (or SIGTERM) until the iteration is done; a second one acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._usual: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._usual = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.forget()

    def forget(self) -> None:
        """Give the signals back."""
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual = {}


@torch.no_grad()
def held_out_psnr(gaussians: Gaussians, scene: Scene) -> float:
    """Mean PSNR in dB over the held-out views (at least one), on 8-bit images as `metrics.py` measures it."""
    background = torch.tensor(scene.background, device=gaussians.means.device)
    scores = []
    for view in scene.test:  # one picture at a time: many would not fit beside a model
        image = to_eight_bit(render(view.camera, gaussians, background).image)
        photo = view.image.to(image.device)
        scores.append(decibels(from_eight_bit(image), from_eight_bit(photo)))
    return float(torch.stack(scores).mean())


def say(text: str, quiet: bool) -> None:
    """Print a line without breaking a progress bar, unless `quiet`."""
    if not quiet:
        tqdm.write(text)
