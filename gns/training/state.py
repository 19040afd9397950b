"""Everything that changes during a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from gns.errors import UserError
from gns.model.initialisation import initial_gaussians
from gns.model.population import Population
from gns.rules import Plan, all_rules
from gns.scene import Gaussians, Scene
from gns.scene.frame import WORLD, LocalFrame
from gns.scene.sampler import ViewSampler
from gns.training.parts import Part

_VIEWS = "views"  # the loop's own source of chance
# Seeds are dealt to so many sources at least, whatever the method has: runs of one seed see the views in one order, and
# methods that grow alike grow the same.
_DEALT = 4


@dataclass(eq=False)
class TrainState:
    """What a checkpoint holds, and nothing else: the same state goes on to the same bits."""

    plan: Plan  # what the run is made by: not in the checkpoint, which configuration decides
    iteration: int  # finished iterations
    population: Population
    sampler: ViewSampler
    generators: dict[
        str, torch.Generator
    ]  # one a source of chance: drawing more from one leaves the others as they were
    rules: dict[str, Any]  # what each rule remembers
    parts: dict[str, Part]
    frame: LocalFrame = WORLD  # the coordinates of the population

    @classmethod
    def begin(
        cls,
        plan: Plan,
        scene: Scene,
        *,
        seed: int,
        sh_degree: int,
        device: torch.device,
        antialiased: bool = False,
        chances: Sequence[str] = (),
        parts: Sequence[Part] = (),
        frame: LocalFrame = WORLD,
    ) -> TrainState:
        """The state before the first iteration; the population on `device`, all sources of chance on the CPU.

        `scene` is in the coordinates of `frame`; `chances` are sources besides those of the rules.
        """
        sources = (_VIEWS, *plan.chances, *chances)
        seeds = {name: max(len(sources), _DEALT) * seed + index for index, name in enumerate(sources)}
        generators = {name: torch.Generator().manual_seed(seeds[name]) for name in sources[1:]}
        gaussians = replace(initial_gaussians(scene.points, sh_degree), antialiased=antialiased)
        for rule in plan.rules:
            gaussians = rule.initial(gaussians, generators)
        return cls(
            plan=plan,
            iteration=0,
            population=Population(gaussians.to(device), plan.extras),
            sampler=ViewSampler(len(scene.train), torch.Generator().manual_seed(seeds[_VIEWS])),
            generators=generators,
            rules={rule.name: rule.begin() for rule in plan.rules},
            parts={part.name: part for part in parts},
            frame=frame,
        )

    def rendered(self) -> Gaussians:
        """What is drawn: the population's Gaussians, or what the rules make of them. Differentiable."""
        return self._drawn(self.population.gaussians)

    def _drawn(self, gaussians: Gaussians) -> Gaussians:
        for rule in self.plan.rules:
            gaussians = rule.rendered(self.rules[rule.name], self.population, gaussians)
        return gaussians

    @property
    def gaussians(self) -> Gaussians:
        """The model as it is drawn at the moment, in the world: a copy, outside autograd.

        Where parameters are averaged it is made of their mean.
        """
        with torch.no_grad():
            mean = self.population.mean
            drawn = self._drawn(self.population.gaussians if mean is None else mean)
            return drawn.mapped(lambda values: values.detach().clone()).in_world(self.frame)

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers and strings. Its tensors are the live ones: save them before going on."""
        return {
            "iteration": self.iteration,
            "frame": {"offset": torch.tensor(self.frame.offset, dtype=torch.float64), "scale": self.frame.scale},
            "population": self.population.state_dict(),
            "sampler": self.sampler.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "rules": {name: asdict(memory) for name, memory in self.rules.items()},
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }

    def adapted(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint of another method's run holds, as this state takes it.

        Rules that both have go on. Others of this one begin, as if they had been there and done nothing; those that it
        lacks are left out, with their numbers and their chance. `self` is a state before the first iteration. Raises
        UserError where that is no checkpoint's content.
        """
        try:
            memories, generators, begun = saved["rules"], dict(saved["generators"]), self.state_dict()
            for kind in all_rules():
                if kind.name in memories and kind.name not in self.rules:
                    for name in kind.chances:
                        generators.pop(name, None)
            for rule in self.plan.rules:
                if rule.name not in memories:
                    generators |= {name: begun["generators"][name] for name in rule.chances}
            return {
                **saved,
                "rules": {name: memories.get(name, memory) for name, memory in begun["rules"].items()},
                "generators": generators,
                "population": Population.with_extras(saved["population"], self.plan.extras),
            }
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise UserError(f"the checkpoint does not fit this version of gns ({error})") from error

    def restore(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Become the state that `state_dict` described; training goes on as if it had never stopped, on any device.

        Raises UserError where the checkpoint does not fit the run.
        """
        if _frame_of(saved) != self.frame:
            raise UserError(
                "the checkpoint was trained in other coordinates: its cameras lie elsewhere or are in other units"
            )
        sh_degree = self.population.gaussians.sh_degree
        try:
            for kind, own in (("generators", self.generators), ("rules", self.rules), ("parts", self.parts)):
                if set(saved[kind]) != set(own):
                    raise ValueError(f"its {kind} are {', '.join(saved[kind]) or 'none'}")
            self.iteration = saved["iteration"]
            self.population = Population.from_state_dict(
                saved["population"], self.plan.extras, device, antialiased=self.population.gaussians.antialiased
            )
            self.sampler.load_state_dict(saved["sampler"])
            for name, generator in self.generators.items():
                generator.set_state(saved["generators"][name])
            self.rules = {rule.name: rule.restored(saved["rules"][rule.name]) for rule in self.plan.rules}
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
        except torch.cuda.OutOfMemoryError:  # a RuntimeError, but not the checkpoint's fault
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint does not fit this scene, its method or this version of gns ({error})"
            ) from error
        if spoilt := not_finite(self.population):
            raise UserError(
                f"the checkpoint of iteration {self.iteration} holds {spoilt} that are not finite: delete it to go on "
                "from the one before"
            )
        if self.population.gaussians.sh_degree != sh_degree:
            raise UserError(
                f"the checkpoint was trained with --sh-degree {self.population.gaussians.sh_degree}, not {sh_degree}: "
                "give that degree"
            )


def _frame_of(saved: Mapping[str, Any]) -> LocalFrame:
    """The coordinates of a checkpoint; the world for one from before there were others."""
    if "frame" not in saved:
        return WORLD
    x, y, z = saved["frame"]["offset"].tolist()
    return LocalFrame((x, y, z), saved["frame"]["scale"])


def not_finite(population: Population) -> str:
    """The name of the first group with a parameter, a moment or a mean that is not finite, "" where there is none."""
    for name, group in population.state_dict()["groups"].items():
        if not all(bool(torch.isfinite(values).all()) for values in group.values() if isinstance(values, torch.Tensor)):
            return str(name)
    if population.mean is not None:
        for name, values in population.mean.named_tensors():
            if not bool(torch.isfinite(values).all()):
                return f"mean {name}"
    return ""
