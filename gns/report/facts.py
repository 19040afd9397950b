"""What a report tells, gathered from the output folder of a run: from its files alone, never from the scene."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gns.arguments import TrainConfig
from gns.rules import plan_of
from gns.rules.base import Stretch
from gns.run_folder import RunFolder
from gns.run_history import Record, lasting
from gns.scoring import METRICS
from gns.summary import Summary, read_summary
from gns.team import SINGLE
from gns.utils.option_table import described_fields, flag, option_of
from gns.utils.ply_file import count_rows


@dataclass(frozen=True)
class ShownView:
    """A held-out view: its PNGs, and its scores by metric; those that are not known are left out."""

    name: str  # of the photo
    photo: Path
    render: Path
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything that is told of one run."""

    name: str
    path: Path
    config: TrainConfig | None  # None: another program wrote the folder
    iteration: int  # of the model
    gaussians: int
    model_bytes: int
    model_sha256: str
    summary: Summary
    figures: Mapping[str, Any]  # means over the held-out views, as in results.json
    views: Sequence[ShownView]
    records: Sequence[Record]  # of log.jsonl, those that lasted
    stretches: Sequence[Stretch]

    def series(self, key: str) -> tuple[list[int], list[Any]]:
        """Iterations and values of all records that have `key`."""
        found = [(record["iteration"], record[key]) for record in self.records if record.get(key) is not None]
        return [iteration for iteration, _ in found], [value for _, value in found]


def gather(run: RunFolder) -> Facts:
    """The facts of the newest model of a run. Raises UserError where none is saved."""
    iteration = run.resolve_iteration(None)
    model = run.model_path(iteration)
    summary = read_summary(run.path)
    config = run.config if isinstance(run.config, TrainConfig) else None
    figures, per_view = _figures(run, iteration, summary)
    return Facts(
        name=run.path.resolve().name,
        path=run.path,
        config=config,
        iteration=iteration,
        gaussians=count_rows(model),
        model_bytes=model.stat().st_size,
        model_sha256=run.model_digest(iteration),
        summary=summary,
        figures=figures,
        views=_views(run, iteration, per_view),
        records=lasting(run.read_log()),
        stretches=stretches_of(config) if config else (),
    )


def _figures(run: RunFolder, iteration: int, summary: Summary) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Means, and scores by metric and PNG: what metrics.py wrote, else what training measured at its end."""
    method = f"ours_{iteration}"
    results, per_view = _read(run.results_path), _read(run.per_view_path)
    if method in results and method in per_view and _is_of(run, iteration, results[method]):
        return results[method], per_view[method]
    own = summary.get("held_out") or {} if summary.get("iterations") == iteration else {}
    return {name: value for name, value in own.items() if name != "per_view"}, own.get("per_view", {})


def _is_of(run: RunFolder, iteration: int, scores: Any) -> bool:
    """Whether scores are of the model that is there: by its digest, or where there is none by the date."""
    digest = scores.get("model_sha256") if isinstance(scores, dict) else None
    if digest is not None:
        return bool(digest == run.model_digest(iteration))
    return run.results_path.stat().st_mtime >= run.model_path(iteration).stat().st_mtime


def _read(path: Path) -> dict[str, Any]:
    found = _parsed(path)
    return found if isinstance(found, dict) else {}


def _read_list(path: Path) -> list[Any]:
    found = _parsed(path)
    return found if isinstance(found, list) else []


def _parsed(path: Path) -> Any:
    """What a JSON file holds; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _views(run: RunFolder, iteration: int, per_view: Mapping[str, Any]) -> list[ShownView]:
    renders, truths = run.renders_path("test", iteration), run.truth_path("test", iteration)
    names = sorted(path.name for path in renders.glob("*.png") if (truths / path.name).exists())
    cameras = _read_list(run.path / "cameras.json")  # held-out ones come first, in the order of their PNGs
    photos = [camera.get("img_name") for camera in cameras if isinstance(camera, dict)]
    known = {metric: scores for metric in METRICS if isinstance(scores := per_view.get(metric), dict)}
    return [
        ShownView(
            str((index < len(photos) and photos[index]) or name),
            truths / name,
            renders / name,
            {metric: scores[name] for metric, scores in known.items() if scores.get(name) is not None},
        )
        for index, name in enumerate(names)
    ]


def stretches_of(config: TrainConfig) -> list[Stretch]:
    """The parts of the run, by its calendars alone."""
    plan = plan_of(
        config.method,
        config.schedule,
        config.iterations,
        config.rules,
        budget=config.final_budget or 0,
        extent=1.0,
        background=(0.0, 0.0, 0.0),
        views=(),
        team=SINGLE,
        refinements=config.refinements,
    )
    return [stretch for rule in plan.rules for stretch in rule.stretches()]


def command_of(config: TrainConfig) -> str:
    """The command line that repeats a run: the options that differ from their defaults."""
    words = ["python", "train.py"]
    for table in (config, *config.rules.values()):
        for option_field in described_fields(type(table)):
            value, described = getattr(table, option_field.name), option_of(option_field)
            if described.session or option_field.name == "start_checkpoint" or value == option_field.default:
                continue
            # By default the number of iterations is the schedule's; written out, it is the same run.
            name = described.short or flag(option_field.name)
            if isinstance(value, bool):
                words.append(flag(option_field.name) if value else flag(option_field.name).replace("--", "--no-"))
            else:
                words += [name, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)
