"""One of the processes that tests/test_team.py starts: plays scenarios with the others and leaves the results.

Called as `python -m tests.team_worker FOLDER SCENARIO…`, with the environment that torchrun sets. What a scenario
returns, or the sentence that it ends with, goes to FOLDER/SCENARIO.RANK.pt.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from gns import team as distributed
from gns.errors import UserError
from gns.losses.photometric import photometric_loss
from gns.rules.base import Calendars
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.team import Team, joined_team
from gns.testing.colour_gain import ColourGain
from gns.testing.tiny import planted_calendars, summing_calendars, tiny_config, tiny_scene
from gns.training import loop, recorder
from gns.training.loop import Trainer, train
from gns.training.state import TrainState

SUMMED = (1, 7, 8, 20)  # lengths of tensors, summed in pieces of 8


PART_ITERATIONS = 35  # of the scenario with a part, which has a gradient then that it has not spent


def calendars() -> Calendars:
    """All of the method in TINY_ITERATIONS, with gradients summed over several iterations at the end."""
    return summing_calendars(sh_degree_interval=1)


def scene() -> Scene:
    """Five views to train on: two processes cannot share them evenly."""
    return tiny_scene(train_views=5)


def addends(rank: int) -> list[Tensor]:
    """What process `rank` adds: numbers of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(rank)
    scale = 10.0 ** torch.arange(-3, 4)
    rows = [torch.randn(n, generator=generator) * scale[torch.arange(n) % 7] for n in SUMMED]
    return [*rows, torch.randn(3, 5, generator=generator).T]  # the last stored as planes


def _sums(team: Team, folder: Path) -> list[Tensor]:
    totals = [values.clone() for values in addends(100)]
    totals[-1] = addends(100)[-1]
    with patch.object(distributed, "_PIECE", 8), team.summing(totals):
        for total, values in zip(totals, addends(team.rank), strict=True):
            total += values
    return totals


def _gathered(team: Team, folder: Path) -> Any:
    return team.gather(torch.tensor([team.rank + 0.5, -1.0])), team.any(team.rank == 1, False)


def _whole(team: Team, folder: Path) -> dict[str, Any]:
    return train(scene(), tiny_config(), team=team).state_dict()


def _written(team: Team, folder: Path) -> dict[str, Any]:
    """The same run with everything that rank 0 writes and says."""
    config = tiny_config(
        folder, test_iterations=(40,), save_iterations=(50,), checkpoint_iterations=(77,), quiet=not team.is_main
    )
    run = RunFolder.create(config.model_path, config) if team.is_main else None
    return train(scene(), config, run=run, team=team).state_dict()


def _part(team: Team, folder: Path) -> dict[str, Any]:
    """A colour gain beside the Gaussians, which steps after every second iteration."""
    trainer = Trainer(tiny_config(), scene(), team, parts=[ColourGain(5, period=2)])
    state = trainer.begin()
    while state.iteration < PART_ITERATIONS:
        trainer.advance(state)
    return state.state_dict()


def _resumed(team: Team, folder: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(folder / "model" / "checkpoints" / "iteration_77.pt")
    return train(scene(), tiny_config(), resume_from=checkpoint, team=team).state_dict()


def _taken_over(team: Team, folder: Path) -> dict[str, Any]:
    """Goes on from what one process has left."""
    checkpoint = torch.load(folder / "one_process.pt", weights_only=True)
    return train(scene(), tiny_config(), resume_from=checkpoint, team=team).state_dict()


def _strayed(team: Team, folder: Path) -> None:
    """One bit changes on one process, when no row is removed any more."""

    def stray(state: TrainState) -> None:
        with torch.no_grad():
            state.population.gaussians.opacity_logits.view(torch.int32)[5] ^= 1

    checkpoint = torch.load(folder / "one_process.pt", weights_only=True)
    with patch.object(recorder, "COMPARE_EVERY", 20), _on_rank(team, 1, 278, stray):
        train(scene(), tiny_config(), resume_from=checkpoint, team=team)


def _diverged(team: Team, folder: Path) -> None:
    with _on_rank(team, 1, 25, lambda _: None, loss=torch.nan):
        train(scene(), tiny_config(), team=team)


def _stopped(team: Team, folder: Path) -> tuple[int, list[int]]:
    config = tiny_config(folder / "stopped")
    run = RunFolder.create(config.model_path, config) if team.is_main else None
    save = RunFolder.save_checkpoint

    def save_slowly(folder: RunFolder, state: dict[str, Any], iteration: int) -> Path:
        time.sleep(0.5)
        return save(folder, state, iteration)

    with (
        patch.object(RunFolder, "save_checkpoint", save_slowly),
        _on_rank(team, 1, 30, lambda _: os.kill(os.getpid(), signal.SIGINT)),
    ):
        state = train(scene(), config, run=run, team=team)
    return state.iteration, RunFolder(config.model_path, config).checkpoint_iterations()


def _dead(team: Team, folder: Path) -> None:
    with _on_rank(team, 1, 10, lambda _: os._exit(7)):
        train(scene(), tiny_config(), team=team)


def _silent(team: Team, folder: Path) -> None:
    with _on_rank(team, 1, 10, lambda _: time.sleep(4)):
        train(scene(), tiny_config(), team=team)


SCENARIOS: dict[str, Callable[[Team, Path], Any]] = {
    function.__name__[1:]: function
    for function in (
        _sums,
        _gathered,
        _whole,
        _written,
        _part,
        _resumed,
        _taken_over,
        _strayed,
        _diverged,
        _stopped,
        _dead,
        _silent,
    )
}


@contextmanager
def _on_rank(
    team: Team, rank: int, iteration: int, action: Callable[[TrainState], None], loss: float = 1.0
) -> Iterator[None]:
    """Let `action` happen on one process before `iteration`, whose loss there is multiplied by `loss`."""
    advance, now = Trainer.advance, 0

    def advancing(trainer: Trainer, state: TrainState, *arguments: Any) -> None:
        nonlocal now
        now = state.iteration + 1
        if team.rank == rank and now == iteration:
            action(state)
        advance(trainer, state, *arguments)

    def losing(*arguments: Any, **options: Any) -> Tensor:
        value = photometric_loss(*arguments, **options)
        return value * loss if team.rank == rank and now == iteration else value

    with patch.object(Trainer, "advance", advancing), patch.object(loop, "photometric_loss", losing):
        yield


def main(folder: Path, names: list[str]) -> None:
    """Play the scenarios, one after the other."""
    torch.set_num_threads(1)
    if names == ["silent"]:
        distributed.TIMEOUT = timedelta(seconds=2)
    with planted_calendars(calendars()), joined_team(torch.device("cpu")) as team:
        for name in names:
            result: Any
            try:
                result = SCENARIOS[name](team, folder)
            except UserError as error:
                result = f"{type(error).__name__}: {error}"
            torch.save(result, folder / f"{name}.{team.rank}.pt")
        if names[-1] in ("dead", "silent"):
            os._exit(0)  # without the farewell, for which the others are missing


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
