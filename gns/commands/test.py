"""Train, render and score many scenes, and set the results beside the published ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gns
from gns.arguments import SuiteConfig, default_model_path, parse_train
from gns.commands import published
from gns.commands.child import call
from gns.errors import UserError
from gns.run_folder import RunFolder
from gns.run_history import total
from gns.utils.atomic_files import write_text
from gns.utils.ply_file import count_rows
from gns.utils.quantities import format_count, parse_count
from gns.utils.tables import Rows, as_csv, as_markdown, as_text
from gns.utils.untrusted_json import parse_json

BUDGETS = Path(gns.__file__).parent / "budget.txt"  # of the published tables

_SMALL = 0.4  # the share of each budget in the paper's second table
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
    """The scores of one trained scene; LPIPS and minutes are None where they cannot be had."""

    ssim: float
    psnr: float
    lpips: float | None
    gaussians: int
    minutes: float | None


Results = dict[SuiteScene, SceneResult | None]  # None: the scene failed


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
    """Train, render and score every scene of the list that is found; write and print the tables.

    Steps whose result is there already are skipped. Returns the exit status: 1 where a scene failed, else 0. Raises
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
    results: Results = {}
    for index, (scene, folder) in enumerate(found.items(), start=1):
        _say(config, f"[{index}/{len(found)}] {scene.name}")
        try:
            results[scene] = _run_scene(config, scene, folder)
        except UserError as error:
            print(f"error: {scene.name}: {error}", file=sys.stderr)
            results[scene] = None
    _write_tables(config, scenes, results)
    return 1 if None in results.values() else 0


def _run_scene(config: SuiteConfig, scene: SuiteScene, source_path: Path) -> SceneResult:
    """Bring one scene to its scores, doing only what is not done. Raises UserError where a step fails."""
    budget = round(scene.budget * _SMALL) if config.small else scene.budget
    model_path = config.output / default_model_path(source_path, format_count(budget)).name
    machine = [
        "--device",
        config.device,
        "--threads",
        str(config.threads),
        *(["--quiet"] if config.quiet or config.json else []),
    ]
    training = [
        *("-s", str(source_path), "-m", str(model_path), "-i", scene.images),
        *("--final-budget", str(budget), "--iterations", str(config.iterations)),
        *("--schedule", config.schedule, "--seed", str(config.seed), *machine),
    ]
    run = RunFolder(model_path, parse_train(training))
    if run.saved_iterations() or run.checkpoint_iterations():
        training.append("--resume")
        parse_train(training)  # refuses a folder that was trained with other options
    if config.iterations not in run.saved_iterations():
        call("train", training)
    if not _is_scored(run, config.iterations):
        call("render", ["-m", str(model_path), "--iteration", str(config.iterations), "--skip-train", *machine])
        call("metrics", ["-m", str(model_path), *machine])
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


def _write_tables(config: SuiteConfig, scenes: Sequence[SuiteScene], results: Results) -> None:
    """One table a data set, as text on the screen and as text, CSV and Markdown in the output folder."""
    tables = {
        dataset: comparison_table(
            dataset,
            {scene: result for scene, result in results.items() if scene.dataset == dataset},
            scene_count=sum(scene.dataset == dataset for scene in scenes),
        )
        for dataset in dict.fromkeys(scene.dataset for scene in results)
    }
    remark = "Published figures are those of the full budgets.\n" if config.small else ""
    text = "\n".join(f"{dataset}\n{as_text(table)}" for dataset, table in tables.items()) + remark
    markdown = "\n".join(f"### {dataset}\n\n{as_markdown(table)}" for dataset, table in tables.items())
    lines = [[dataset, *row] for dataset, table in tables.items() for row in table[1:]]
    header = ["dataset", *next(iter(tables.values()))[0]]
    stem = _tables_path(config, "").name
    write_text(_tables_path(config, ".txt"), text)
    write_text(_tables_path(config, ".md"), markdown + (f"\n{remark}" if remark else ""))
    write_text(_tables_path(config, ".csv"), as_csv([header, *lines]))
    scored = [{**asdict(scene), "result": result and asdict(result)} for scene, result in results.items()]
    write_text(_tables_path(config, ".json"), json.dumps({"scenes": scored}, indent=2) + "\n")
    _say(config, f"\n{text}\nwritten to {config.output / stem}.txt, .md, .csv and .json")


def _tables_path(config: SuiteConfig, ending: str) -> Path:
    return config.output / f"results-{config.schedule}{'-small' if config.small else ''}{ending}"


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
        _cell(result.psnr, 2),
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
