"""The training loop: a schedule applied to a population, one view an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from gns.arguments import TrainConfig
from gns.densification import Densification
from gns.errors import UserError
from gns.gaussian_renderer import render, set_threads
from gns.journal import Journal, say
from gns.losses import photometric_loss
from gns.population import Population
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene, View
from gns.scene.initialisation import initial_gaussians
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.sampler import ViewSampler
from gns.schedule import SCHEDULES, Phase, Schedule
from gns.selection import NaturalSelection, SelectionState, all_but_faintest
from gns.utils.devices import pick_device

Note = Callable[[int, View, Tensor], None]  # iteration, view, photometric loss (a scalar)

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
    def begin(cls, config: TrainConfig, scene: Scene) -> TrainState:
        """The state before the first iteration."""
        seeds = {name: 4 * config.seed + index for index, name in enumerate((_VIEWS, *_SOURCES))}
        return cls(
            iteration=0,
            population=Population(initial_gaussians(scene.points, config.sh_degree)),
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
    def from_state_dict(cls, saved: Mapping[str, Any], config: TrainConfig, scene: Scene) -> TrainState:
        """The state that `state_dict` described; training goes on as if it had never stopped.

        Raises UserError where the checkpoint does not fit the run.
        """
        state = cls.begin(config, scene)
        try:
            state.iteration = saved["iteration"]
            state.population = Population.from_state_dict(saved["population"])
            state.sampler.load_state_dict(saved["sampler"])
            for name, generator in state.generators.items():
                generator.set_state(saved["generators"][name])
            state.selection = SelectionState(**saved["selection"])
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

    def __init__(self, config: TrainConfig, scene: Scene) -> None:
        self.scene = scene
        self.when: Schedule = SCHEDULES[config.schedule].scaled(config.iterations)
        self.densifier = Densification(scene.train, config.final_budget)
        self.selector = NaturalSelection(config.final_budget, config.final_cut, config.detach_pressure)
        self.background = torch.tensor(scene.background)

    def advance(self, state: TrainState, note: Note | None = None) -> None:
        """Train one iteration, changing `state`; `note` is told the view and its loss.

        Raises UserError where no Gaussian is left.
        """
        it, when, alive = state.iteration + 1, self.when, state.population
        phase, growth = when.phase(it), when.growth(it)
        if phase and it == phase.begin:
            state.selection = SelectionState()

        view = self.scene.train[state.sampler.next()]
        sh_degree = min(when.sh_degree(it), alive.gaussians.sh_degree)
        seen = render(view.camera, alive.gaussians, self.background, sh_degree=sh_degree, accumulate=True)
        loss = photometric_loss(seen.image, view.image, view.mask)
        if note:
            note(it, view, loss.detach())
        (loss + self._pressure(state, phase, it)).backward()  # type: ignore[no-untyped-call]

        if growth:
            alive.observe(seen)
            if it in growth.densify:
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
            alive.step(groups, when.learning_rates(it, self.scene.extent, factor))
        state.iteration = it

    def _pressure(self, state: TrainState, phase: Phase | None, it: int) -> Tensor | float:
        """What a pulse adds to the loss of iteration `it`; 0 at any other. Lets the controller act first."""
        if phase is None or it not in phase.pulses or state.selection.settled is not None:
            return 0.0
        logits = state.population.gaussians.logits
        state.selection = self.selector.adapt(state.selection, logits, phase, it)
        return 0.0 if state.selection.skipped else self.selector.penalty(state.selection, logits, phase, it)

    def _select(self, state: TrainState, phase: Phase, it: int) -> None:
        """Let the faint die and, where the contest ends, draw the survivors."""
        alive = state.population
        if it in phase.deaths:
            alive.keep(self.selector.living(alive.opacities, phase))
        if self.selector.is_over(len(alive), phase, it):
            alive.keep(self.selector.survivors(alive.opacities, state.generators["final cut"]))
            state.selection = self.selector.settle(state.selection, it)


def train(
    config: TrainConfig, scene: Scene, run: RunFolder | None = None, *, checkpoint: Mapping[str, Any] | None = None
) -> TrainState:
    """Train to `config.iterations`, from the beginning or from a checkpoint's state, and return the final state.

    With a `run` folder, models, checkpoints and the log are written there. Raises UserError where the loss stops being
    finite or a file cannot be written, and KeyboardInterrupt after Ctrl-C, once a checkpoint is saved.
    """
    # The native renderer and loss have a thread pool of their own: torch's workers would spin against it between calls.
    torch.set_num_threads(1)
    set_threads(config.threads)
    trainer = Trainer(config, scene)
    state = TrainState.from_state_dict(checkpoint, config, scene) if checkpoint else TrainState.begin(config, scene)
    with Journal(config, scene, run, state) as journal:
        while state.iteration < config.iterations:
            trainer.advance(state, journal.note)
            journal.record()
    return state


def run_training(config: TrainConfig) -> int:
    """What train.py does: read the scene, train, leave everything in the output folder. Returns the exit status."""
    pick_device(config.device)  # refuses, before anything is written, what this version cannot train on
    run = RunFolder.create(config.model_path, config)
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
    run.write_scene(scene)
    train(config, scene, run, checkpoint=checkpoint)
    return 0


def _checkpoint(config: TrainConfig, run: RunFolder) -> dict[str, Any] | None:
    """The state to start from, where there is one."""
    if config.resume:
        return run.load_checkpoint()
    return read_checkpoint(config.start_checkpoint) if config.start_checkpoint else None
