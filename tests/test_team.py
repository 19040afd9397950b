"""Two processes on the CPU: equal copies, the sums of one process, one kind of checkpoint, and no endless waiting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.arguments import parse_train
from gns.cli import run
from gns.cli import train as train_command
from gns.errors import UserError
from gns.model.adam import BETA1, BETA2, EPSILON, AdamGroup, AdamTensors, adam_step
from gns.rules.base import Calendars
from gns.rules.calendar import every
from gns.rules.edge_growth import Growth, GrowthCalendar
from gns.rules.natural_selection import SelectionCalendar, SelectionPhase
from gns.rules.optimisation import StepPeriod
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene.gaussians import GROUPS
from gns.team import SINGLE, Team, device_option, fingerprint
from gns.testing.colour_gain import ColourGain
from gns.testing.scene_files import small_scene, write_colmap
from gns.testing.tiny import TINY_BUDGET, TINY_ITERATIONS, planted_calendars, same_state, tiny_config
from gns.training.loop import Trainer, train
from gns.training.state import TrainState
from gns.utils.ply_file import count_rows
from gns.utils.torchrun import Place, place
from tests import team_worker
from tests.team_worker import scene

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 600  # a bound on a hang, not on speed: machines of CI are shared


def _play(folder: Path, *names: str, size: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Play scenarios of tests/team_worker.py on `size` processes; what they left behind, by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(size):
        variables = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in {**variables, **address}.items()}}
        command = [sys.executable, "-m", "tests.team_worker", str(folder), *names]
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    try:
        ended = []
        for process in processes:
            output, errors = process.communicate(timeout=SECONDS)
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, output, errors))
        return ended
    finally:
        for process in processes:
            process.kill()


def _result(folder: Path, name: str, rank: int) -> Any:
    return torch.load(folder / f"{name}.{rank}.pt", weights_only=True)


# The run of one process that does the same: twice as many iterations, a step after every second


@dataclass(frozen=True)
class _PairedPhase(SelectionPhase):
    """A phase of which an iteration of two processes is two iterations; a pulse falls on the first of them."""

    def target(self, it: int) -> float:
        return super().target(it + 1)


def _twice(iterations: range) -> range:
    return every(2 * iterations.step, 2 * iterations[0], 2 * iterations[-1])


def _on_one_process(two: Calendars) -> Calendars:
    """The calendars by which one process does, view by view, what two do by `two`."""
    growth, selection = two.rules
    assert isinstance(growth, GrowthCalendar) and isinstance(selection, SelectionCalendar)
    periods = two.optimisation.step_periods
    return Calendars(
        replace(
            two.optimisation,
            iterations=2 * two.optimisation.iterations,
            step_periods=tuple(StepPeriod(2 * of.last, 2 * of.period, 2 * of.sh_rest_period) for of in periods),
        ),
        (
            replace(
                growth,
                early_cleanup=2 * growth.early_cleanup,
                growths=tuple(map(_growth_on_one_process, growth.growths)),
                full_surveys=tuple(2 * it for it in growth.full_surveys),
                opacity_resets=tuple(2 * it for it in growth.opacity_resets),
                recovery_prunes=tuple(2 * it for it in growth.recovery_prunes),
            ),
            SelectionCalendar(tuple(map(_phase_on_one_process, selection.phases))),
        ),
    )


def _growth_on_one_process(two: Growth) -> Growth:
    return replace(
        two,
        observe=every(1, 2 * two.observe[0] - 1, 2 * two.observe[-1]),
        densify=_twice(two.densify),
        survey_until=2 * two.survey_until,
        budget_from=2 * two.budget_from,
        budget_span=2 * two.budget_span,
    )


def _phase_on_one_process(two: SelectionPhase) -> SelectionPhase:
    return _PairedPhase(
        begin=2 * two.begin,
        end=2 * two.end,
        level_until=2 * two.level_until - 1,
        target_zero_at=2 * two.target_zero_at,
        pulse_interval=2 * two.pulse_interval,
        prune_at=_twice(two.prune_at),
        prune_opacity=two.prune_opacity,
        recovery=2 * two.recovery,
    )


def _counted_by_two(state: dict[str, Any]) -> dict[str, Any]:
    """A state of one process, with its iterations counted as two processes count them."""
    selection = dict(state["rules"]["natural_selection"])
    if selection["finished_at"] is not None:
        assert selection["finished_at"] % 2 == 0
        selection["finished_at"] //= 2
    assert state["iteration"] % 2 == 0
    rules = {**state["rules"], "natural_selection": selection}
    return {**state, "iteration": state["iteration"] // 2, "rules": rules}


HANDOVER = 183  # in the selection phase


def _paired() -> AbstractContextManager[None]:
    """The calendars of one process that does what two do."""
    return planted_calendars(_on_one_process(team_worker.calendars()))


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    """The final state of one process that does what the two do; `handover` is its state on the way."""
    config, tiny = tiny_config(iterations=2 * TINY_ITERATIONS), scene()
    with _paired():
        trainer = Trainer(config, tiny)
    state = trainer.begin()
    _advance(trainer, state, 2 * HANDOVER)
    handover = _copy(state.state_dict())
    _advance(trainer, state, 2 * TINY_ITERATIONS)
    return {"whole": state.state_dict(), "handover": handover}


def _advance(trainer: Trainer, state: TrainState, until: int) -> None:
    while state.iteration < until:
        trainer.advance(state)


def _copy(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _copy(value) for name, value in state.items()}
    return state.clone() if isinstance(state, Tensor) else state


@pytest.fixture(scope="module")
def folder(one_process: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave of all scenarios that they survive, and of the death of one."""
    path = tmp_path_factory.mktemp("team")
    torch.save(_counted_by_two(one_process["handover"]), path / "one_process.pt")
    names = ("gathered", "whole", "written", "part", "resumed", "taken_over", "strayed", "diverged", "stopped", "dead")
    first, second = _play(path, *names)
    assert (first.returncode, second.returncode) == (0, 7), first.stderr + second.stderr
    (path / "said").write_text(first.stdout)
    assert second.stdout == ""
    return path


# Sums


def test_sums_are_formed_in_the_order_of_ranks(tmp_path: Path) -> None:
    assert [process.returncode for process in _play(tmp_path, "sums", size=3)] == [0, 0, 0]

    def added(order: Sequence[int]) -> list[Tensor]:
        totals = team_worker.addends(100)
        for rank in order:
            totals = [total + values for total, values in zip(totals, team_worker.addends(rank), strict=True)]
        return totals

    assert not torch.equal(added((0, 2, 1))[3], added((0, 1, 2))[3])
    for rank in (0, 1, 2):
        for found, wanted in zip(_result(tmp_path, "sums", rank), added((0, 1, 2)), strict=True):
            assert torch.equal(found, wanted)


def test_gathered_by_rank(folder: Path) -> None:
    for rank in (0, 1):
        values, flags = _result(folder, "gathered", rank)
        assert values.tolist() == [[0.5, -1.0], [1.5, -1.0]]
        assert flags == [True, False]


# Training


def test_two_processes_hold_the_same_to_the_bit(folder: Path) -> None:
    first, second = (_result(folder, "whole", rank) for rank in (0, 1))
    assert same_state(first, second)
    assert first["iteration"] == TINY_ITERATIONS and len(first["population"]["statistics"]["visits"]) == TINY_BUDGET


def test_two_processes_do_what_one_does_in_twice_the_iterations(folder: Path, one_process: dict[str, Any]) -> None:
    """Growth with surveys, selection, cut, summed gradients: every bit of the state."""
    two, one = _result(folder, "whole", 0), _counted_by_two(one_process["whole"])
    selection = two["rules"]["natural_selection"]
    assert selection["finished_at"] is not None and selection["initial_target"] is not None
    assert selection == one["rules"]["natural_selection"]
    assert same_state(two, one)


def test_two_processes_train_a_part_as_one_does(folder: Path) -> None:
    """Its gradients are summed over the processes, unspent ones too, and every process takes the same steps."""
    first, second = (_result(folder, "part", rank) for rank in (0, 1))
    assert same_state(first, second)
    with _paired():
        config = tiny_config(iterations=2 * TINY_ITERATIONS)
        trainer = Trainer(config, scene(), parts=[ColourGain(5, period=4)])
    one = trainer.begin()
    _advance(trainer, one, 2 * team_worker.PART_ITERATIONS)
    gain = first["parts"]["colour_gain"]
    assert gain["gradient"].any() and (gain["gains"] != 1).all()
    assert same_state(first, _counted_by_two(one.state_dict()))


def test_a_run_repeats_itself_and_nothing_depends_on_who_listens(folder: Path) -> None:
    for rank in (0, 1):
        assert same_state(_result(folder, "written", rank), _result(folder, "whole", rank))


def test_only_the_first_process_writes_and_speaks(folder: Path) -> None:
    path = folder / "model"
    run_folder = RunFolder.open(path)
    assert run_folder.saved_iterations() == [50, TINY_ITERATIONS]
    assert run_folder.checkpoint_iterations() == [77]
    assert [record["iteration"] for record in run_folder.read_log() if "held_out_psnr" in record] == [
        40,
        TINY_ITERATIONS,
    ]
    assert (folder / "said").read_text().count("held-out views") == 2


def test_two_processes_resume_their_checkpoint(folder: Path) -> None:
    assert same_state(_result(folder, "resumed", 0), _result(folder, "whole", 0))


def test_two_processes_go_on_from_one(folder: Path) -> None:
    for rank in (0, 1):
        assert same_state(_result(folder, "taken_over", rank), _result(folder, "whole", 0))


def test_one_process_goes_on_from_two(folder: Path, one_process: dict[str, Any]) -> None:
    saved = read_checkpoint(folder / "model" / "checkpoints" / "iteration_77.pt")
    with _paired():
        config = tiny_config(iterations=2 * TINY_ITERATIONS)
        continued = train(scene(), config, resume_from={**saved, "iteration": 2 * 77})
    assert same_state(continued.state_dict(), one_process["whole"])


# When something goes wrong


def test_a_copy_that_strays_by_one_bit_is_found(folder: Path) -> None:
    for rank in (0, 1):
        assert "UserError: after iteration 280 the model of process 1 is no longer" in _result(folder, "strayed", rank)


def test_a_loss_of_another_process_is_named(folder: Path) -> None:
    views, state = scene().train, Trainer(tiny_config(), scene()).begin()
    name = [views[state.sampler.next()].camera.name for _ in range(2 * 25)][-1]
    for rank in (0, 1):
        assert f"loss of view {name} at iteration 25 is not finite" in _result(folder, "diverged", rank)


def test_a_stop_of_one_process_stops_all_with_a_checkpoint(folder: Path) -> None:
    for rank in (0, 1):
        assert _result(folder, "stopped", rank) == (30, [30])


def test_the_death_of_a_process_ends_the_others(folder: Path) -> None:
    assert "UserError: lost touch with another process" in _result(folder, "dead", 0)
    assert not (folder / "dead.1.pt").exists()


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    assert [process.returncode for process in _play(tmp_path, "silent")] == [0, 0]
    assert "UserError: lost touch with another process" in _result(tmp_path, "silent", 0)


# One process


def test_a_team_of_one_exchanges_nothing() -> None:
    total = torch.ones(3)
    with SINGLE.summing([total]):
        total += 1
    assert total.tolist() == [2, 2, 2]
    assert SINGLE.any(True, False) == [True, False]
    SINGLE.require_equal({}, 1)
    assert place() == Place()


def test_rules_know_the_team() -> None:
    trainer = Trainer(tiny_config(), scene(), Team(1, 2))
    assert [(rule.run.team.rank, rule.run.team.size) for rule in trainer.plan.rules] == [(1, 2)] * 2


def test_fingerprints_see_every_bit() -> None:
    values = torch.randn(4, 3)
    state: dict[str, Any] = {"a": values, "b": {"n": 3, "x": None, "none": torch.zeros(0)}}
    seen = {fingerprint(state)}
    for place_ in range(12):
        for bit in range(32):
            changed = values.clone()
            changed.view(-1).view(torch.int32)[place_] ^= 1 << bit if bit < 31 else -(1 << 31)
            seen.add(fingerprint({**state, "a": changed}))
    assert len(seen) == 1 + 12 * 32
    seen |= {
        fingerprint({**state, "a": values[[1, 0, 2, 3]]}),
        fingerprint({**state, "b": {**state["b"], "n": 4}}),
        fingerprint({**state, "b": {**state["b"], "none": torch.zeros(1)}}),
        fingerprint({"a": values}),
    }
    assert len(seen) == 1 + 12 * 32 + 4
    assert fingerprint(_copy(state)) == fingerprint(state)
    assert -(1 << 63) <= fingerprint(state) < 1 << 63
    assert fingerprint({"a": torch.ones(3, dtype=torch.uint8)}) != fingerprint({"a": torch.ones(2, dtype=torch.uint8)})


# Rates


@pytest.mark.parametrize(("length", "size", "merged"), [(30_000, 2, 1), (15_000, 2, 2), (3_750, 8, 8), (30_000, 1, 1)])
def test_a_step_stands_for_those_of_one_process(length: int, size: int, merged: int) -> None:
    """What matters is how many views a step has here, and in the run of one process that sees as many views."""
    trainer = Trainer(tiny_config(iterations=length), scene(), Team(0, size))

    def steps(it: int) -> set[int]:
        periods = trainer.plan.optimisation.iterations_per_step(it, GROUPS)
        return set(trainer._merged_steps(it, periods).values())

    assert steps(length // 2) == {merged}
    assert steps(length) == {1}  # both sum 20 views by then


def test_a_merged_step_is_adams_with_the_rate_of_a_batch() -> None:
    """√k · rate, β^k (arXiv 2406.18533) and k decays, on gradients over √k; then plain steps, as if all had been."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    merged, decay = 4, 0.01
    peer = start.clone().requires_grad_()
    adam = torch.optim.Adam([peer], lr=0.01 * 2, betas=(BETA1**merged, BETA2**merged), eps=EPSILON)
    kept = (1 - decay) ** merged
    parameter, first, second = start.clone(), torch.zeros(50), torch.zeros(50)
    for step in range(1, 8):
        gradient = torch.randn(50, generator=generator)
        peer.grad = gradient / 2
        peer.detach().mul_(kept)
        adam.step()
        adam_step([AdamGroup(AdamTensors(parameter, gradient, first, second), 0.01, merged * step, merged, decay)])
        assert not gradient.any()
    assert torch.allclose(parameter, peer.detach(), rtol=0, atol=1e-6)
    assert (parameter - start).abs().max() > 0.05

    plain = [parameter.clone(), first.clone(), second.clone()]
    gradient = torch.randn(50, generator=generator)
    expected = BETA1 * plain[1] + (1 - BETA1) * gradient
    adam_step([AdamGroup(AdamTensors(parameter, gradient, first, second), 0.01, merged * 7 + 1)])
    assert torch.allclose(first, expected)


def test_a_merged_step_goes_about_as_far_as_the_steps_it_stands_for() -> None:
    """A drift under noise ten times as large, which is what Adam meets here."""
    generator = torch.Generator().manual_seed(0)
    moved = []
    for merged in (1, 4):
        parameter, first, second = (torch.zeros(2_000) for _ in range(3))
        for step in range(merged, 2_000 + 1, merged):
            gradient = merged * 0.1 + merged**0.5 * torch.randn(2_000, generator=generator)
            adam_step([AdamGroup(AdamTensors(parameter, gradient, first, second), 0.01, step, merged)])
        moved.append(-float(parameter.mean()))
    assert moved[1] == pytest.approx(moved[0], rel=0.05)
    assert moved[0] == pytest.approx(2_000 * 0.01 * 0.1, rel=0.1)


# The command


def _under_torchrun(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for name, value in (("RANK", 1), ("WORLD_SIZE", size), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))


def test_without_iterations_a_team_sees_as_many_views_as_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["-s", "scene", "--final-budget", "1000"]
    assert parse_train(arguments).iterations == 30_000
    _under_torchrun(monkeypatch, 8)
    assert place() == Place(1, 8, 1, 8)
    assert parse_train(arguments).iterations == 3_750
    assert parse_train([*arguments, "--schedule", "fast"]).iterations == 1_875
    assert parse_train([*arguments, "--iterations", "7000"]).iterations == 7_000


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = Place(3, 4, 1, 2)
    assert [device_option(name, second) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert device_option("cuda:1", Place(1, 2, 0, 1)) == "cuda:1"
    with pytest.raises(UserError, match="cuda:0 is one GPU, and 2 processes"):
        device_option("cuda:0", second)
    with pytest.raises(UserError, match=r"4 processes .* 2 GPUs: .* --nproc-per-node 2"):
        device_option("auto", Place(0, 4, 0, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_option("auto", second) == "auto"


def _torchrun(arguments: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def test_torchrun_trains_stops_at_ctrl_c_and_one_process_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    model = tmp_path / "model"
    options = ["--final-budget", "100", "--iterations", "400", "--sh-degree", "1", "--threads", "1", "--device", "cpu"]
    process = _torchrun(["-s", str(tmp_path / "scene"), "-m", str(model), *options, "--checkpoint-iterations", "20"])
    try:
        deadline = time.monotonic() + SECONDS
        while not (model / "checkpoints" / "iteration_20.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode != 0
    run_folder = RunFolder.open(model)
    last = run_folder.checkpoint_iterations()[-1]
    assert 20 < last < 400
    assert f"Stopped after iteration {last}. To go on: torchrun --nproc-per-node 2 train.py -m {model}" in errors
    assert errors.count("To go on:") == 1
    assert run(train_command, ["-m", str(model), "--resume", "--quiet"]) == 0
    assert count_rows(run_folder.model_path(400)) == 100
