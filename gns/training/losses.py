"""The losses of a run on their way to the host, which does not wait for the device that forms them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gns.team import Team
from gns.utils.readback import Readback

AT_ONCE = 10  # read together; on a GPU after as many more, when they have long arrived: the host never waits


class Diverged(Exception):
    """The loss of a view stopped being finite."""

    def __init__(self, iteration: int, view: str) -> None:
        super().__init__(iteration, view)
        self.iteration, self.view = iteration, view


class Spoilt(Exception):
    """The parameters stopped being finite after one of some iterations, which learned from `views`."""

    def __init__(self, iterations: Sequence[int], views: Sequence[str]) -> None:
        super().__init__(iterations, views)
        self.iterations, self.views = iterations, views


class LossReader:
    """Takes losses as they are formed, and hands them out some at a time.

    Parameters that are not finite give no loss that is not finite: their Gaussians are not drawn. So the sum of all
    `parameters` travels with the losses, and they are looked at one by one where it is not finite.
    """

    def __init__(
        self, device: torch.device, team: Team, parameters: Callable[[], Sequence[Tensor]] = lambda: ()
    ) -> None:
        self._team = team
        self._parameters = parameters
        # On a CPU losses are at hand, and iterations so long that a team should hear of Ctrl-C in each.
        self._at_once = 1 if team.size > 1 and device.type == "cpu" else AT_ONCE
        self._readback = Readback(device, AT_ONCE + 1, torch.float32)
        self._unread: list[tuple[int, Sequence[str], Tensor]] = []  # iteration, names of the team's views, own loss
        self._sent: list[tuple[int, Sequence[str], Tensor]] = []  # the same, their losses on their way to the host

    def add(self, it: int, views: Sequence[str], loss: Tensor) -> None:
        """Take this process's loss of iteration `it`, a scalar."""
        self._unread.append((it, views, loss))

    @property
    def full(self) -> bool:
        """Whether it is time to read: the same iteration on all processes of a team."""
        return len(self._unread) >= self._at_once

    def read_some(self) -> list[float]:
        """The mean losses of iterations that have arrived by now. Raises Diverged or Spoilt."""
        arrived = self._receive()
        self._send()
        return arrived if self._readback.queued else arrived + self._receive()

    def read_all(self) -> list[float]:
        """The mean losses of all iterations so far; waits for them. Raises Diverged or Spoilt."""
        arrived = self._receive()
        self._send()
        return arrived + self._receive()

    def _send(self) -> None:
        self._sent, self._unread = self._unread, []
        if self._sent:
            losses = [loss for _, _, loss in self._sent]
            total = sum((values.detach().sum() for values in self._parameters()), start=torch.zeros_like(losses[0]))
            self._readback.start(torch.stack([*losses, total]))

    def _receive(self) -> list[float]:
        """The losses that were sent, a mean over the processes for each iteration."""
        sent, self._sent = self._sent, []
        if not sent:
            return []
        *losses, totals = self._team.gather(self._readback.finish()).T.tolist()  # by iteration and process; sums
        for (it, views, _), of_views in zip(sent, losses, strict=True):
            for view, loss in zip(views, of_views, strict=True):
                if not math.isfinite(loss):
                    self._unread = []  # the first to diverge is the news, not those that came after
                    raise Diverged(it, view)
        finite = all(map(math.isfinite, totals)) or all(torch.isfinite(values).all() for values in self._parameters())
        if not finite:
            self._unread = []
            raise Spoilt([it for it, _, _ in sent], [view for _, views, _ in sent for view in views])
        return [sum(of_views) / len(of_views) for of_views in losses]
