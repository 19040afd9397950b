"""Train, render and score scenes × budgets × seeds, and set the results beside the published ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

import gns
from gns.arguments import SuiteConfig, default_model_path, parse_train
from gns.commands import published
from gns.commands.child import call
from gns.commands.workers import Gpus, Place, done_here, done_on_cluster
from gns.errors import UserError
from gns.rules import DEFAULT_PRESET
from gns.run_folder import RunFolder
from gns.run_history import total
from gns.training.memory import training_bytes
from gns.utils.atomic_files import write_text
from gns.utils.ply_file import count_rows
from gns.utils.quantities import format_count, parse_count
from gns.utils.tables import Rows, as_csv, as_markdown, as_text
from gns.utils.untrusted_json import parse_json

BUDGETS = Path(gns.__file__).parent / "budget.txt"  # of the published tables

_SMALL = 0.4  # the share of each budget in the paper's second table
# What a run is expected to take of a GPU before its scene is read.
_GROWS_TO = 3  # final budgets that the dense model has at most
_PIXELS = 1600 * 1200  # of a photo: wider ones are reduced
_DRIVER = 600_000_000  # bytes of torch and the driver
_SCENE_MARKS = ("sparse", "transforms_train.json", "transforms.json")


@dataclass(frozen=True)
class SuiteScene:
    """One line of budget.txt."""

    dataset: str
    name: str
    budget: int  # Gaussians
    images: str  # folder of the photos inside the scene


@dataclass(frozen=True)
class SceneResult:
    """The scores of a trained scene, or their means; LPIPS and minutes are None where they cannot be had."""

    ssim: float
    psnr: float
    lpips: float | None
    gaussians: int
    minutes: float | None
    psnr_spread: float | None = None  # standard deviation over seeds, where this is a mean over them


Results = dict[SuiteScene, SceneResult | None]  # None: the scene failed


@dataclass(frozen=True)
class SuiteRun:
    """One training of a batch."""

    scene: SuiteScene
    source_path: Path
    scale: float  # of the budget that the list has
    seed: int

    @property
    def budget(self) -> int:
        """Gaussians of the finished model."""
        return round(self.scene.budget * self.scale)

    def folder_name(self, config: SuiteConfig) -> str:
        """The name of the output folder, such as `garden-600k`, or `garden-600k-seed2`."""
        name = default_model_path(self.source_path, format_count(self.budget)).name
        preset = "" if config.preset == DEFAULT_PRESET else f"-{config.preset}"
        return f"{name}{preset}{f'-seed{self.seed}' if self.seed else ''}"

    def label(self, config: SuiteConfig) -> str:
        """What the lines of the run are headed with: the scene, and what tells its runs apart."""
        budget = [format_count(self.budget)] if len(config.scales) > 1 else []
        seed = [f"seed {self.seed}"] if len(config.seeds) > 1 else []
        return ", ".join([self.scene.name, *budget, *seed])


RunResults = dict[SuiteRun, SceneResult | None]  # None: the run failed


def read_budgets(path: Path) -> list[SuiteScene]:
    """The scenes listed in a budget file. Raises UserError naming the line that is not understood."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): name a list of scenes with --budgets") from None
    except ValueError:
        raise UserError(f"{path} is no text: name a list of scenes with --budgets") from None
    scenes = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            dataset, name, budget, images = words
            scenes.append(SuiteScene(dataset, name, parse_count(budget), images))
        except ValueError:
            raise UserError(f"{path}, line {number}: expected 'dataset scene budget images', found {line!r}") from None
    return scenes


def find_scene(data: Path, name: str) -> Path | None:
    """The folder of a scene in `data`, at most two folders deep; None where it is not there."""
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        for folder in sorted(data.glob(pattern)):
            # A folder may have a scene's name by chance: Blender scenes keep photos in `train`.
            if any((folder / mark).exists() for mark in _SCENE_MARKS):
                return folder
    return None


def run_suite(config: SuiteConfig) -> int:
    """Train, render and score every scene of the list that is found, with every scale of its budget and every seed.

    The line of a run is printed, and the tables are written, as soon as it is done; the tables are printed at the end.
    Steps whose result is there already are skipped. Returns the exit status: 1 where a run failed, else 0. Raises
    UserError where the list cannot be read or no scene of it is found.
    """
    budgets = config.budgets or (Path(BUDGETS.name) if Path(BUDGETS.name).exists() else BUDGETS)
    scenes = read_budgets(budgets)
    found = {scene: folder for scene in scenes if (folder := find_scene(config.data, scene.name))}
    if not found:
        names = ", ".join(scene.name for scene in scenes)
        raise UserError(f"no scene of {budgets} is under {config.data}: put one of them there ({names})")
    if missing := [scene.name for scene in scenes if scene not in found]:
        _say(config, f"not under {config.data}: {', '.join(missing)}")
    runs = [
        SuiteRun(scene, folder.resolve(), scale, seed)
        for scale in _scales(config)
        for scene, folder in found.items()
        for seed in config.seeds
    ]
    config.output.mkdir(parents=True, exist_ok=True)
    results: RunResults = {}
    for run, result in _done(config, runs):
        if isinstance(result, UserError):
            print(f"error: {run.label(config)}: {result}", file=sys.stderr)
        results[run] = None if isinstance(result, UserError) else result
        _say(config, f"[{len(results)}/{len(runs)}] {run.label(config)}: {_line(results[run])}")
        # In the order of the list, whichever was done first.
        _write_tables(config, scenes, {run: results[run] for run in runs if run in results})
    _say(config, f"\n{_tables_path(config, '.txt').read_text(encoding='utf-8')}")
    _say(config, f"written to {_tables_path(config, '')}.txt, .md, .csv and .json")
    return 1 if None in results.values() else 0


def _scales(config: SuiteConfig) -> tuple[float, ...]:
    return (_SMALL,) if config.small else config.scales


def _done(config: SuiteConfig, runs: Sequence[SuiteRun]) -> Iterator[tuple[SuiteRun, SceneResult | UserError]]:
    """Every run with its scores, or with the reason that there are none, as it comes."""
    work = partial(_run_or_reason, replace(config, data=config.data.resolve(), output=config.output.resolve()))
    if config.slurm:
        options = {
            "timeout_min": config.slurm_minutes,
            "mem_gb": config.slurm_gb,
            "gpus_per_node": config.slurm_gpus,
            **({"slurm_partition": config.slurm_partition} if config.slurm_partition else {}),
        }
        return done_on_cluster(
            runs,
            work,
            folder=config.output.resolve() / "slurm",
            jobs=config.jobs,
            threads=config.threads,
            options=options,
        )
    # One run at a time has the device that the option names, and says itself how far it is.
    gpus = Gpus.here() if config.jobs > 1 and config.device in ("auto", "cuda") else None
    return done_here(
        runs,
        work,
        jobs=min(config.jobs, len(runs)),
        threads=config.threads,
        gpus=gpus if gpus and gpus.gpus else None,
        needed=lambda run: _DRIVER + training_bytes(_GROWS_TO * run.budget, 3, _PIXELS, torch.device("cuda")),
    )


def _run_or_reason(config: SuiteConfig, run: SuiteRun, place: Place) -> SceneResult | UserError:
    try:
        return _bring_to_scores(config, run, place)
    except UserError as error:
        return error


def _bring_to_scores(config: SuiteConfig, suite_run: SuiteRun, place: Place) -> SceneResult:
    """Bring one run to its scores, doing only what is not done. Raises UserError where a step fails."""
    model_path = config.output / suite_run.folder_name(config)
    # Runs side by side would write their bars over each other's.
    is_alone = config.jobs == 1 and not config.slurm
    log = None if is_alone else model_path.with_name(f"{model_path.name}.log")
    step = partial(call, log=log, environment=place.environment) if log or place.environment else call
    machine = [
        "--device",
        config.device,
        "--threads",
        str(place.threads),
        *(["--quiet"] if config.quiet or config.json or not is_alone else []),
    ]
    training = [
        *("-s", str(suite_run.source_path), "-m", str(model_path), "-i", suite_run.scene.images),
        *("--final-budget", str(suite_run.budget), "--iterations", str(config.iterations)),
        *("--schedule", config.schedule, "--preset", config.preset, "--seed", str(suite_run.seed), *machine),
    ]
    run = RunFolder(model_path, parse_train(training))
    if run.saved_iterations() or run.checkpoint_iterations():
        training.append("--resume")
        parse_train(training)  # refuses a folder that was trained with other options
    if config.iterations not in run.saved_iterations():
        step("train", training)
    if not _is_scored(run, config.iterations):
        step("render", ["-m", str(model_path), "--iteration", str(config.iterations), "--skip-train", *machine])
        step("metrics", ["-m", str(model_path), *machine])
    return _read_result(run, config.iterations)


def _is_scored(run: RunFolder, iteration: int) -> bool:
    """Whether results.json has scores for the model of `iteration` as it is now."""
    if not run.results_path.exists() or f"ours_{iteration}" not in read_results(run):
        return False
    return run.is_model(iteration, str(read_results(run)[f"ours_{iteration}"].get("model_sha256")))


def read_results(run: RunFolder) -> dict[str, dict[str, Any]]:
    """What metrics.py has written. Raises UserError where it is damaged."""
    try:
        results = parse_json(run.results_path.read_text(encoding="utf-8"))
    except ValueError:
        results = None
    if not isinstance(results, dict) or not all(isinstance(scores, dict) for scores in results.values()):
        raise UserError(f"{run.results_path} is damaged: delete it")
    return results


def _read_result(run: RunFolder, iteration: int) -> SceneResult:
    scores = read_results(run)[f"ours_{iteration}"]
    ssim, psnr = scores["SSIM"], scores["PSNR"]
    assert ssim is not None and psnr is not None  # only LPIPS can be absent
    return SceneResult(
        ssim=ssim,
        psnr=psnr,
        lpips=scores["LPIPS"],
        gaussians=count_rows(run.model_path(iteration)),
        minutes=_training_minutes(run),
    )


def _training_minutes(run: RunFolder) -> float | None:
    """Minutes that the run's log accounts for."""
    seconds = total(run.read_log(), "seconds")
    return None if seconds is None else seconds / 60


def _write_tables(config: SuiteConfig, scenes: Sequence[SuiteScene], results: RunResults) -> None:
    """One table a data set and scale, as text, CSV and Markdown in the output folder; in the JSON a record a run."""
    tables = {
        (dataset, scale): comparison_table(
            dataset,
            _over_seeds({run: result for run, result in results.items() if run.scale == scale}, dataset),
            scene_count=sum(scene.dataset == dataset for scene in scenes),
        )
        for dataset, scale in dict.fromkeys((run.scene.dataset, run.scale) for run in results)
    }
    several = len(_scales(config)) > 1
    titles = {key: f"{key[0]}, {key[1]:g} of each budget" if several else key[0] for key in tables}
    remark = "" if _scales(config) == (1.0,) else "Published figures are those of the full budgets.\n"
    text = "\n".join(f"{titles[key]}\n{as_text(table)}" for key, table in tables.items()) + remark
    markdown = "\n".join(f"### {titles[key]}\n\n{as_markdown(table)}" for key, table in tables.items())
    lines = [[titles[key], *row] for key, table in tables.items() for row in table[1:]]
    header = ["dataset", *next(iter(tables.values()))[0]]
    write_text(_tables_path(config, ".txt"), text)
    write_text(_tables_path(config, ".md"), markdown + (f"\n{remark}" if remark else ""))
    write_text(_tables_path(config, ".csv"), as_csv([header, *lines]))
    scored = [
        {
            **asdict(run.scene),
            "budget": run.budget,
            "scale": run.scale,
            "seed": run.seed,
            "model_path": str(config.output / run.folder_name(config)),
            "result": result and {name: value for name, value in asdict(result).items() if name != "psnr_spread"},
        }
        for run, result in results.items()
    ]
    write_text(_tables_path(config, ".json"), json.dumps({"scenes": scored}, indent=2) + "\n")


def _over_seeds(results: RunResults, dataset: str) -> Results:
    """The mean over the seeds of each scene of a data set; None for a scene of which a seed failed."""
    of_scene: dict[SuiteScene, list[SceneResult | None]] = {}
    for run, result in results.items():
        if run.scene.dataset == dataset:
            of_scene.setdefault(run.scene, []).append(result)
    means: Results = {}
    for scene, by_seed in of_scene.items():
        done = [result for result in by_seed if result is not None]
        means[scene] = None
        if len(done) == len(by_seed):
            spread = stdev(result.psnr for result in done) if len(done) > 1 else None
            means[scene] = replace(_mean_result(done), psnr_spread=spread)
    return means


def _line(result: SceneResult | None) -> str:
    """The scores of one run in a line."""
    if result is None:
        return "failed"
    ssim, psnr, lpips, gaussians, minutes = _cells(result)
    return f"PSNR {psnr}, SSIM {ssim}, LPIPS {lpips}, {gaussians} Gaussians, {minutes} minutes"


def _tables_path(config: SuiteConfig, ending: str) -> Path:
    preset = "" if config.preset == DEFAULT_PRESET else f"-{config.preset}"
    return config.output / f"results-{config.schedule}{preset}{'-small' if config.small else ''}{ending}"


def suite_told(config: SuiteConfig) -> dict[str, Any]:
    """What `--json` says of the scenes: the figures of each, None where it failed."""
    told: dict[str, Any] = json.loads(_tables_path(config, ".json").read_text(encoding="utf-8"))
    return told


def comparison_table(dataset: str, results: Results, *, scene_count: int) -> Rows:
    """A row a scene, their mean, and the published means of the data set, as text cells under a header.

    `scene_count` is the number of scenes the published means are over: the label of ours tells where it has fewer.
    """
    rows = [["scene", "SSIM", "PSNR", "LPIPS", "Gaussians", "minutes", "published PSNR"]]
    done = {scene: result for scene, result in results.items() if result is not None}
    for scene, result in results.items():
        theirs = _cell(published.PSNR.get(scene.name), 2)
        rows.append([scene.name, *(_cells(result) if result else ["failed", "", "", "", ""]), theirs])
    if done:
        label = "mean" if len(done) == scene_count else f"mean of {len(done)} of {scene_count}"
        theirs = _cell(_mean([published.PSNR.get(scene.name) for scene in done]), 2)
        rows.append([label, *_cells(_mean_result(list(done.values()))), theirs])
    for method in published.MEANS.get(dataset, ()):
        result = SceneResult(*method[1:])
        rows.append([f"{method.method} (published)", *_cells(result), ""])
    return rows


def _cells(result: SceneResult) -> list[str]:
    return [
        _cell(result.ssim, 3),
        _cell(result.psnr, 2) + ("" if result.psnr_spread is None else f" ± {result.psnr_spread:.2f}"),
        _cell(result.lpips, 3),
        f"{result.gaussians:,}".replace(",", " "),
        _cell(result.minutes, 1),
    ]


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _mean_result(results: Sequence[SceneResult]) -> SceneResult:
    """The plain mean over scenes; absent where one scene has no figure."""
    ssim, psnr = _mean([result.ssim for result in results]), _mean([result.psnr for result in results])
    assert ssim is not None and psnr is not None
    return SceneResult(
        ssim=ssim,
        psnr=psnr,
        lpips=_mean([result.lpips for result in results]),
        gaussians=round(sum(result.gaussians for result in results) / len(results)),
        minutes=_mean([result.minutes for result in results]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _say(config: SuiteConfig, text: str) -> None:
    if not config.quiet:
        print(text, flush=True)
