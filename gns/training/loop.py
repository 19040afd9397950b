"""The training loop: rules applied to a population, one view an iteration and process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import torch
from torch import Tensor

from gns.appearance.exposure import Exposure, iterations_to_watch
from gns.arguments import Config, TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer import ScreenGradients, render
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.losses import Loss, photometric_loss
from gns.losses.free_space import free_space_loss, nearest_depths
from gns.losses.inverse_depth import decayed_weight, inverse_depth_loss
from gns.model.adam import BackwardStep
from gns.model.population import Population
from gns.rules import METHODS, Plan, optimisation_of, plan_of
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene, View
from gns.scene.far_points import with_far_points
from gns.scene.gaussians import GROUPS
from gns.scene.on_demand import AHEAD, memory_of
from gns.scene.suggestion import suggested_budget
from gns.team import SINGLE, Team
from gns.training.events import Callback, CallbackListener, Listener
from gns.training.listeners import Bar, Checkpoints, HeldOut, Log, Models, Stop, TensorBoard
from gns.training.memory import refuse_too_large, room_for_photos, shortage_explained, training_bytes, views_on
from gns.training.parts import Part
from gns.training.recorder import Recorder
from gns.training.scaled_views import ScaledViews
from gns.training.state import TrainState
from gns.utils.workspace import Workspace

AddLoss = Callable[[int, Sequence[str], Tensor], None]  # iteration, names of all processes' views, own photometric loss

C = TypeVar("C", bound=Config)

CPU = torch.device("cpu")
BACKGROUNDS = "backgrounds"  # the source of chance of --random-background


class Trainer:
    """What stays the same during a run, and the step from one state to the next."""

    def __init__(
        self,
        config: Config,
        scene: Scene,
        team: Team = SINGLE,
        device: torch.device = CPU,
        views: Sequence[View] | None = None,
        losses: Sequence[Loss] = (),
        parts: Sequence[Part] = (),
    ) -> None:
        """`views` are those of `scene.local().train` with their pixels on `device`; default: as they are.

        Where they are no `ScaledViews` they become such, since photos may be reduced at first. All training is in the
        coordinates of the scene's frame.
        """
        self.config, self.scene, self.team, self.device = config, scene.local(), team, device
        self._frame = scene.frame
        views = self.scene.train if views is None else views
        self.views = views if isinstance(views, ScaledViews) else ScaledViews(views)
        self.plan = _plan(config, self.scene, team, self.views)
        # The run that a team imitates: that of one process which sees as many views.
        self._single = optimisation_of(config.method, config.schedule, config.iterations * team.size)
        self._losses, self._parts = losses, parts
        self._background = torch.tensor(scene.background, device=device)
        self._nearest = [0.0] * len(self.scene.train)  # depths before which nothing is; 0 where that is not asked
        if config.free_space_weight:
            self._nearest = nearest_depths([view.camera for view in self.scene.train], self.scene.points)
        self._workspace = Workspace(device)

    def begin(self, earlier: TrainState | Mapping[str, Any] | None = None, *, adapt: bool = False) -> TrainState:
        """The state before the first iteration, or an earlier one: itself, or from what a checkpoint holds of it.

        That may be of another method's run with `adapt`; see `TrainState.adapted`. Raises UserError where it does not
        fit this run.
        """
        fresh = TrainState.begin(
            self.plan,
            self._start() if earlier is None else self.scene,
            seed=self.config.seed,
            sh_degree=self.config.sh_degree,
            antialiased=self.config.antialiasing,
            chances=[BACKGROUNDS] if self.config.random_background else [],
            device=self.device,
            parts=self._parts,
            frame=self._frame,
        )
        if earlier is None:
            return fresh
        # A copy: the earlier state stays as it is, and may be continued again.
        saved = deepcopy(earlier.state_dict()) if isinstance(earlier, TrainState) else earlier
        fresh.restore(fresh.adapted(saved) if adapt else saved, self.device)
        if fresh.iteration >= self.config.iterations:
            raise UserError(
                f"the checkpoint is of iteration {fresh.iteration}, past the end of the run: raise --iterations"
            )
        return fresh

    def _start(self) -> Scene:
        """The scene with all points to begin from: of those far away not more than a tenth of the budget."""
        if not self.config.refinements.far_points:
            return self.scene
        budget = self.config.final_budget
        most = None if budget is None else budget // 10
        return replace(self.scene, points=with_far_points(self.scene.points, self.scene.train, self.scene.extent, most))

    def advance(self, state: TrainState, add_loss: AddLoss | None = None) -> None:
        """Train one iteration, changing `state`; `add_loss` is told all views and the loss of this process's own.

        Raises UserError where no Gaussian is left or another process is lost.
        """
        it, rules, memory = state.iteration + 1, self.plan.rules, state.rules
        self.views.use(self.plan.optimisation.photo_divisor(it))
        for rule in rules:
            memory[rule.name] = rule.prepare(memory[rule.name], state.population, it)
        stepped = self._learn(state, it, add_loss)
        for rule in rules:
            memory[rule.name] = rule.edit(memory[rule.name], state.population, it, state.generators)
        if not stepped:
            self._step(state, it)
        for part in state.parts.values():
            part.step(it)
        for rule in rules:
            memory[rule.name] = rule.stepped(memory[rule.name], state.population, it, state.generators)
        self._average(state, it)
        state.iteration = it

    def _learn(self, state: TrainState, it: int, add_loss: AddLoss | None) -> bool:
        """Look at one view: add its gradients, and where rules ask for them its statistics.

        Returns whether the optimiser has stepped on the way. When this returns nothing holds on to the rendering any
        more: its memory may be released.
        """
        population, rules, memory = state.population, self.plan.rules, state.rules
        drawn = [state.sampler.next() for _ in range(self.team.size)]
        own = drawn[self.team.rank]
        view = self.views[own].decoded()
        coming = state.sampler.upcoming(AHEAD * self.team.size)
        self.views.decode_ahead(coming[self.team.rank :: self.team.size])
        background, photo = self._background, view.image
        if self.config.random_background:
            background = self._random_background(state)
            photo = view.over(background, self._background)
        gaussians, step = state.rendered(), None
        if self._steps_in_backward(state, gaussians, it):
            step = population.step_in_backward(self._rates(state, it), self.plan.optimisation.decays)
        else:
            population.gradients_are_zero = False
        observers = [(rule, wanted) for rule in rules if (wanted := rule.wants(it)) is not None]
        output = render(
            view.camera,
            gaussians,
            background,
            sh_degree=min(self.plan.optimisation.sh_degree(it), population.gaussians.sh_degree),
            screen_gradients=reduce(or_, (wanted for _, wanted in observers), ScreenGradients()),
            accumulate=True,
            inverse_depth=view.inverse_depth is not None or self._nearest[own] > 0,
            workspace=self._workspace,
            step=step,
        )
        image = output.image
        for part in state.parts.values():
            image = part.applied(image, own)
        squared = self.plan.optimisation.squared_error(it)
        loss = photometric_loss(image, photo, view.mask, self._workspace, squared=squared)
        if add_loss:
            add_loss(it, [self.scene.train[index].camera.name for index in drawn], loss.detach())
        if view.inverse_depth is not None:
            loss = loss + self._depth_weight(it) * inverse_depth_loss(output, view)
        if self._nearest[own] > 0:
            loss = loss + self.config.free_space_weight * free_space_loss(output, self._nearest[own])
        for further in self._losses:
            loss = loss + further(output, view)
        penalties = [rule.penalty(memory[rule.name], population, it) for rule in rules]
        if step is not None:
            _hand_over(penalties, population, step)
        elif self.team.is_main:  # the sum over the views carries them once, as it would on one process
            loss = sum((penalty for penalty in penalties if penalty is not None), start=loss)
        with self.team.summing(self._sums(state, statistics=bool(observers))):
            loss.backward()  # type: ignore[no-untyped-call]
            for rule, _ in observers:
                memory[rule.name] = rule.observe(memory[rule.name], population, output, it)
        return step is not None

    def _steps_in_backward(self, state: TrainState, gaussians: Gaussians, it: int) -> bool:
        """Whether the optimiser may step as soon as the renderer has the gradients of `it`, with the same result.

        There is then nothing to sum them with, the `gaussians` to draw are the parameters themselves, and no rule acts
        before the optimiser's turn.
        """
        if not backend_of(self.device).steps_in_backward or self.team.size > 1:
            return False
        population = state.population
        periods = self.plan.optimisation.iterations_per_step(it, population.groups)
        leaves = population.gaussians.named_tensors()
        return (
            population.gradients_are_zero
            and population.groups == GROUPS
            and all(period == 1 for period in periods.values())
            and all(drawn is leaf for (_, drawn), (_, leaf) in zip(gaussians.named_tensors(), leaves, strict=True))
            and all(rule.leaves_alone(state.rules[rule.name], population, it) for rule in self.plan.rules)
        )

    def _random_background(self, state: TrainState) -> Tensor:
        """RGB in [0, 1] for the view of this process; all processes draw for all, so that their chance stays one."""
        drawn = torch.rand(self.team.size, 3, generator=state.generators[BACKGROUNDS])
        return drawn[self.team.rank].to(self.device)

    def _depth_weight(self, it: int) -> float:
        config = self.config
        return decayed_weight(it, config.iterations, config.depth_l1_weight_init, config.depth_l1_weight_final)

    def _sums(self, state: TrainState, *, statistics: bool) -> list[Tensor]:
        """All that grows by one view after the other."""
        of_parts = [values for part in state.parts.values() for values in part.sums()]
        return [*state.population.sums(statistics=statistics), *of_parts]

    def _step(self, state: TrainState, it: int) -> None:
        """Let the optimiser step where it is due."""
        names = state.population.groups
        periods = self.plan.optimisation.iterations_per_step(it, names)
        due = [name for name in names if it % periods[name] == 0]
        if due:
            merged, decays = self._merged_steps(it, periods), self.plan.optimisation.decays
            state.population.step(due, self._rates(state, it), merged, decays)

    def _average(self, state: TrainState, it: int) -> None:
        """Let the parameters count towards their mean where that is due and they have changed."""
        optimisation = self.plan.optimisation
        if not optimisation.averages(it):  # of a run that was once to end sooner there may be one
            state.population.forget_mean()
        elif it % optimisation.iterations_per_step(it, ["means"])["means"] == 0:
            state.population.average()

    def _rates(self, state: TrainState, it: int) -> dict[str, float]:
        """Step size of every parameter group at `it`."""
        factors: dict[str, float] = {}
        for rule in self.plan.rules:
            factors |= rule.rate_factors(state.rules[rule.name], it)
        return self.plan.learning_rates(it, self.scene.extent, factors)

    def _merged_steps(self, it: int, periods: Mapping[str, int]) -> dict[str, int]:
        """How many steps of the run on one process a step at `it` stands for, by parameter group."""
        size = self.team.size
        single = self._single.iterations_per_step(it * size, tuple(periods))
        return {name: max(1, round(periods[name] * size / single[name])) for name in periods}


def _hand_over(penalties: Sequence[Tensor | None], population: Population, step: BackwardStep) -> None:
    """Let the step in the backward pass spend the penalties' gradients too: autograd would add them too late."""
    leaves = [values for _, values in population.gaussians.named_tensors()]
    for penalty in penalties:
        if penalty is not None:
            for number, gradient in enumerate(torch.autograd.grad(penalty, leaves, allow_unused=True)):
                if gradient is not None:
                    step.add(number, gradient)


def train(
    scene: Scene,
    config: Config,
    *,
    on_event: Callback | Listener | None = None,
    resume_from: TrainState | Mapping[str, Any] | None = None,
    start_from: TrainState | Mapping[str, Any] | None = None,
    losses: Sequence[Loss] = (),
    parts: Sequence[Part] = (),
    run: RunFolder | None = None,
    team: Team = SINGLE,
    device: torch.device | None = None,
) -> TrainState:
    """Train to `config.iterations` and return the state at the end, whose `gaussians` are the model.

    Ctrl-C ends it after the iteration under way: the state then has fewer, and can be given to `resume_from`, as can
    what a checkpoint holds. `start_from` is the same of a run of any method: what both methods do goes on, and what
    this one does besides begins; `resume_from` takes precedence. `on_event` hears what happens (`gns.training.events`)
    and cannot change the result; `losses` are added to the photometric one, `parts` trained beside the Gaussians.
    Models, checkpoints and the log go to `run`. All processes of a `team` call this alike. `device` takes precedence
    over the configuration's.

    A scene that is small or far away is trained in the coordinates of its `frame`, in which `losses` see it too. The
    model is in the scene's own again wherever it is handed out.

    Without a budget the model gets the size that the scene suggests (`gns.scene.suggestion`).

    Raises UserError where the loss stops being finite, a file cannot be written, device or memory are missing, or
    another process is lost.
    """
    device = device or pick_device(config.device)
    config = with_budget(config, scene)
    needed, largest = expected_size(config, scene, device)
    refuse_too_large(device, needed, largest, memory_of([*scene.train, *scene.test]))
    with renderer_threads(config.threads), shortage_explained(device, needed, largest):
        room = room_for_photos(device, needed, config.image_memory)
        views = ScaledViews(scene.local().train, lambda views: views_on(views, device, room))
        trainer = Trainer(config, scene, team, device, views, losses, [*_own_parts(config, views), *parts])
        adapt = resume_from is None
        state = trainer.begin(start_from if adapt else resume_from, adapt=adapt)
        team.require_equal(state.state_dict(), state.iteration)
        recorder = Recorder(state, config.iterations, _listeners(config, scene, run, team, on_event), team, run)
        with recorder.listening():
            while state.iteration < config.iterations and not recorder.stopped:
                trainer.advance(state, recorder.add_loss)
                recorder.after_iteration()
    return state


def with_budget(config: C, scene: Scene) -> C:
    """`config` with the budget that the scene suggests, where its method takes one and none is given."""
    if config.final_budget is not None or not METHODS[config.method].budgeted:
        return config
    return replace(config, final_budget=suggested_budget(scene))


def expected_size(config: Config, scene: Scene, device: torch.device) -> tuple[int, int]:
    """The bytes of memory that the run takes on `device`, and the most Gaussians that it will have."""
    plan = _plan(config, scene, SINGLE, scene.train)
    largest = max(len(scene.points.positions), *(rule.most() for rule in plan.rules))
    pixels = max(view.camera.width * view.camera.height for view in scene.train)
    return training_bytes(largest, config.sh_degree, pixels, device), largest


def _plan(config: Config, scene: Scene, team: Team, views: Sequence[View]) -> Plan:
    return plan_of(
        config.method,
        config.schedule,
        config.iterations,
        config.rules,
        budget=config.final_budget or 0,
        extent=scene.extent,
        background=scene.background,
        views=views,
        team=team,
        refinements=config.refinements,
    )


def _own_parts(config: Config, views: Sequence[View]) -> list[Part]:
    """What the options ask to be trained beside the Gaussians."""
    return [Exposure(views, watch=iterations_to_watch(len(views), config.iterations))] if config.exposure else []


def _listeners(
    config: Config, scene: Scene, run: RunFolder | None, team: Team, on_event: Callback | Listener | None
) -> list[Listener]:
    """Those who watch a run, in the order in which they hear of things."""
    stop = Stop()
    listeners = [
        stop,
        Bar(config.iterations, config.final_budget or 0, processes=team.size, quiet=config.quiet or not team.is_main),
        *([Log(run, config.iterations, each_loss=config.log_every_iteration)] if run else []),
        *([TensorBoard(run.path)] if run and config.tensorboard else []),
        HeldOut(scene, config.test_iterations, fits_exposure=config.exposure, is_main=team.is_main),
    ]
    if isinstance(config, TrainConfig):
        listeners += [Models(run, config.save_iterations), Checkpoints(run, config.checkpoint_iterations)]
        if config.viewer and team.is_main:
            from gns.training.listeners.viewer import Viewer  # imported here: it brings what few runs need

            port, alone = config.viewer_port, team.size == 1
            listeners.append(Viewer(scene, port, may_pause=alone, quiet=config.quiet, asked_to_stop=stop.wants_stop))
    if on_event is not None:
        listeners.append(on_event if isinstance(on_event, Listener) else CallbackListener(on_event))
    return listeners
