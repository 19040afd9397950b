"""The training loop: a schedule applied to a population, one view an iteration and process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gns.arguments import TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer import ScreenGradients, release_memory, render, set_threads, thread_count
from gns.gaussian_renderer.devices import described, pick_device
from gns.losses.photometric import photometric_loss
from gns.model.initialisation import initial_gaussians
from gns.model.population import Population
from gns.rules.calendar import SCHEDULES, Phase, Schedule
from gns.rules.edge_growth import Densification
from gns.rules.natural_selection import NaturalSelection, SelectionState, all_but_faintest
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene, View
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.sampler import ViewSampler
from gns.team import ALONE, Team, device_option, joined_team
from gns.training.memory import room_for_photos, shortage_explained, training_bytes, views_on
from gns.training.recorder import Journal, say
from gns.utils.torchrun import place
from gns.utils.workspace import Workspace

Note = Callable[[int, Sequence[str], Tensor], None]  # iteration, names of all processes' views, own photometric loss

CPU = torch.device("cpu")

# One generator a source of chance: drawing more from one leaves the others as they were.
_VIEWS, *_SOURCES = ("views", "survey", "split", "final cut")


@dataclass(eq=False)
class TrainState:
    """Everything that changes during a run, and exactly what a checkpoint holds."""

    iteration: int  # finished iterations
    population: Population
    sampler: ViewSampler
    generators: dict[str, torch.Generator]
    selection: SelectionState = field(default_factory=SelectionState)

    @classmethod
    def begin(cls, config: TrainConfig, scene: Scene, device: torch.device = CPU) -> TrainState:
        """The state before the first iteration; the population on `device`, all sources of chance on the CPU."""
        seeds = {name: 4 * config.seed + index for index, name in enumerate((_VIEWS, *_SOURCES))}
        return cls(
            iteration=0,
            population=Population(initial_gaussians(scene.points, config.sh_degree).to(device)),
            sampler=ViewSampler(len(scene.train), torch.Generator().manual_seed(seeds[_VIEWS])),
            generators={name: torch.Generator().manual_seed(seeds[name]) for name in _SOURCES},
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers and strings. Its tensors are the live ones: save them before going on."""
        return {
            "iteration": self.iteration,
            "population": self.population.state_dict(),
            "sampler": self.sampler.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "selection": asdict(self.selection),
        }

    @classmethod
    def from_state_dict(
        cls, saved: Mapping[str, Any], config: TrainConfig, scene: Scene, device: torch.device = CPU
    ) -> TrainState:
        """The state that `state_dict` described; training goes on as if it had never stopped, on any device.

        Raises UserError where the checkpoint does not fit the run.
        """
        state = cls.begin(config, scene, device)
        try:
            state.iteration = saved["iteration"]
            state.population = Population.from_state_dict(saved["population"], device)
            state.sampler.load_state_dict(saved["sampler"])
            for name, generator in state.generators.items():
                generator.set_state(saved["generators"][name])
            state.selection = SelectionState(**saved["selection"])
        except torch.cuda.OutOfMemoryError:  # a RuntimeError, but not the checkpoint's fault
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"the checkpoint does not fit this scene or this version of gns ({error})") from error
        if state.population.gaussians.sh_degree != config.sh_degree:
            raise UserError(
                f"the checkpoint was trained with --sh-degree {state.population.gaussians.sh_degree}, "
                f"not {config.sh_degree}: give that degree"
            )
        if state.iteration >= config.iterations:
            raise UserError(
                f"the checkpoint is of iteration {state.iteration}, past the end of the run: raise --iterations"
            )
        return state


class Trainer:
    """What stays the same during a run, and the step from one state to the next."""

    def __init__(
        self,
        config: TrainConfig,
        scene: Scene,
        team: Team = ALONE,
        device: torch.device = CPU,
        views: Sequence[View] | None = None,
    ) -> None:
        """`views` are the training views with their pixels on `device`; default: as the scene has them."""
        self.scene = scene
        self.views = scene.train if views is None else views
        self.team = team
        self.when: Schedule = SCHEDULES[config.schedule].scaled(config.iterations)
        # The run that a team imitates: that of one process which sees as many views.
        self._alone: Schedule = SCHEDULES[config.schedule].scaled(config.iterations * team.size)
        self.densifier = Densification(self.views, config.final_budget, team)
        self.selector = NaturalSelection(config.final_budget, config.final_cut, config.detach_pressure)
        self.background = torch.tensor(scene.background, device=device)
        self._workspace = Workspace(device)

    def advance(self, state: TrainState, note: Note | None = None) -> None:
        """Train one iteration, changing `state`; `note` is told all views and the loss of this process's own.

        Raises UserError where no Gaussian is left or another process is lost.
        """
        it, when, alive = state.iteration + 1, self.when, state.population
        phase, growth = when.phase(it), when.growth(it)
        if phase and it == phase.begin:
            state.selection = SelectionState()

        self._learn(state, it, note)
        if growth and it in growth.densify:
            self.densifier.densify(
                alive,
                growth,
                it,
                survey_all=when.surveys_all_views(it),
                survey_generator=state.generators["survey"],
                split_generator=state.generators["split"],
            )
        if it == when.early_cleanup:
            alive.keep(alive.opacities >= when.early_cleanup_opacity)
        if it in when.recovery_prunes:
            alive.keep(all_but_faintest(alive.opacities, when.recovery_prune_fraction))
        if it in when.opacity_resets:
            alive.reset_opacities(when.opacity_reset_ceiling)
        if phase and state.selection.settled is None:
            self._select(state, phase, it)
        if groups := when.stepping(it):
            factor = self.selector.opacity_factor(state.selection, phase, it)
            alive.step(groups, when.learning_rates(it, self.scene.extent, factor), self._merged_steps(it))
        state.iteration = it

    def _learn(self, state: TrainState, it: int, note: Note | None) -> None:
        """Look at one view: add its gradients, and while the model grows its statistics.

        When this returns nothing holds on to the rendering any more: its memory may be released.
        """
        alive, phase, growing = state.population, self.when.phase(it), self.when.growth(it) is not None
        drawn = [state.sampler.next() for _ in range(self.team.size)]
        view = self.views[drawn[self.team.rank]]
        seen = render(
            view.camera,
            alive.gaussians,
            self.background,
            sh_degree=min(self.when.sh_degree(it), alive.gaussians.sh_degree),
            screen_gradients=ScreenGradients(absolute=growing),
            accumulate=True,
            workspace=self._workspace,
        )
        loss = photometric_loss(seen.image, view.image, view.mask, self._workspace)
        if note:
            note(it, [self.scene.train[index].camera.name for index in drawn], loss.detach())
        pressure = self._pressure(state, phase, it)
        with self.team.summing(alive.sums(statistics=growing)):
            # The sum over the views carries the pressure once, as it would on one process.
            (loss + pressure if self.team.leads else loss).backward()  # type: ignore[no-untyped-call]
            if growing:
                alive.observe(seen)

    def _merged_steps(self, it: int) -> dict[str, int]:
        """How many steps of the run on one process a step at `it` stands for, by parameter group."""
        ours, alone = self.when.iterations_per_step(it), self._alone.iterations_per_step(it * self.team.size)
        return {name: max(1, round(ours[name] * self.team.size / alone[name])) for name in ours}

    def _pressure(self, state: TrainState, phase: Phase | None, it: int) -> Tensor | float:
        """What a pulse adds to the loss of iteration `it`; 0 at any other. Lets the controller act first."""
        if phase is None or it not in phase.pulses or state.selection.settled is not None:
            return 0.0
        opacity_logits = state.population.gaussians.opacity_logits
        state.selection = self.selector.adapt(state.selection, opacity_logits, phase, it)
        return 0.0 if state.selection.skipped else self.selector.penalty(state.selection, opacity_logits, phase, it)

    def _select(self, state: TrainState, phase: Phase, it: int) -> None:
        """Let the faint die and, where the contest ends, draw the survivors."""
        alive = state.population
        if it in phase.deaths:
            alive.keep(self.selector.living(alive.opacities, phase))
        if self.selector.is_over(len(alive), phase, it):
            alive.keep(self.selector.survivors(alive.opacities, state.generators["final cut"]))
            state.selection = self.selector.settle(state.selection, it)
            release_memory()  # a third of the Gaussians is left


def train(
    config: TrainConfig,
    scene: Scene,
    run: RunFolder | None = None,
    *,
    checkpoint: Mapping[str, Any] | None = None,
    team: Team = ALONE,
    device: torch.device = CPU,
) -> TrainState:
    """Train to `config.iterations`, from the beginning or from a checkpoint's state, and return the final state.

    With a `run` folder, models, checkpoints and the log are written there; by the first process of a `team`, all of
    which call this with the same arguments. Raises UserError where the loss stops being finite, a file cannot be
    written or another process is lost, and KeyboardInterrupt after Ctrl-C, once a checkpoint is saved.
    """
    # The native renderer and loss have a thread pool of their own: torch's workers would spin against it between calls.
    torch.set_num_threads(1)
    set_threads(config.threads)
    if config.threads == 0:
        set_threads(max(1, thread_count() // place().local_size))  # all cores, shared among this machine's processes
    largest, needed = _expected_size(config, scene, device)
    with shortage_explained(device, needed, largest):
        views = views_on(scene.train, device, room_for_photos(device, needed))
        trainer = Trainer(config, scene, team, device, views)
        if checkpoint:
            state = TrainState.from_state_dict(checkpoint, config, scene, device)
        else:
            state = TrainState.begin(config, scene, device)
        team.require_equal(state.state_dict(), state.iteration)
        with Journal(config, scene, run, state, team) as journal:
            while state.iteration < config.iterations:
                trainer.advance(state, journal.note)
                journal.record()
    return state


def _expected_size(config: TrainConfig, scene: Scene, device: torch.device) -> tuple[int, int]:
    """The most Gaussians that the run will have, and the bytes of the device's memory that they take."""
    ceiling = max(growth.ceiling for growth in SCHEDULES[config.schedule].growths)
    largest = max(len(scene.points.positions), math.ceil(ceiling * config.final_budget))
    pixels = max(view.camera.width * view.camera.height for view in scene.train)
    return largest, training_bytes(largest, config.sh_degree, pixels, device)


def run_training(config: TrainConfig) -> int:
    """What train.py does: read the scene, train, leave everything in the output folder. Returns the exit status.

    Under torchrun every process calls this, and they train together.
    """
    # Refuses, before anything is written, what cannot be trained on.
    device = pick_device(device_option(config.device, place()))
    with joined_team(device) as team:
        return _train_together(config if team.leads else replace(config, quiet=True), team, device)


def _train_together(config: TrainConfig, team: Team, device: torch.device) -> int:
    """`run_training` for a process of `team`; only the first one writes."""
    run = RunFolder.create(config.model_path, config) if team.leads else RunFolder(config.model_path, config)
    if config.resume and config.iterations in run.saved_iterations():
        say(f"{config.model_path} is finished: its model is {run.model_path(config.iterations)}", config.quiet)
        return 0
    checkpoint = _checkpoint(config, run)
    scene = read_scene(
        config.source_path,
        SceneOptions(
            images=config.images,
            resolution=config.resolution,
            eval=config.eval,
            white_background=config.white_background,
            seed=config.seed,
        ),
        lambda text: say(text, config.quiet),
    )
    if team.leads:
        run.write_scene(scene)
    say(f"training on {described(device)}", config.quiet)
    if team.size > 1:
        say(f"{team.size} processes: each of {config.iterations:,} iterations takes {team.size} views", config.quiet)
    train(config, scene, run if team.leads else None, checkpoint=checkpoint, team=team, device=device)
    return 0


def _checkpoint(config: TrainConfig, run: RunFolder) -> dict[str, Any] | None:
    """The state to start from, where there is one."""
    if config.resume:
        return run.load_checkpoint()
    return read_checkpoint(config.start_checkpoint) if config.start_checkpoint else None
