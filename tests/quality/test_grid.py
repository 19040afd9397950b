"""What a grid asks for, what is finished, what remains and how long that may take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.grid import runs
from benchmarks.grid.estimates import SECONDS_A_UNIT, Estimates, in_words
from benchmarks.grid.measuring import moments_of
from benchmarks.grid.plan import Grid, parse_budget, planned
from benchmarks.grid.results import Results, read_result
from benchmarks.grid.runs import Entrant, Run, method_entrant, variant
from benchmarks.grid.scenes import SceneEntry, located, photo_pixels, read_scenes
from gns.arguments import SceneConfig
from gns.commands.test import BUDGETS
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD
from tests.quality.made_up import FOX, LOWEST, reference_run, run_of, write

REPOSITORY = Path(__file__).resolve().parents[2]
GARDEN = SceneEntry("garden", "garden", ("-i", "images_4"), 600_000)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


# Scenes


def test_scenes_are_those_of_the_table_and_of_the_list_of_budgets(tmp_path: Path) -> None:
    known = read_scenes(REPOSITORY / "benchmarks" / "scenes.txt", BUDGETS)
    assert known["fox480"] == FOX and known["lego"].options == ("-w",)
    assert known["garden"] == GARDEN and len(known) == 5 + 13
    table = tmp_path / "scenes.txt"
    table.write_text("# a remark\nfox fox\nlonely  # and no folder\n")
    with pytest.raises(UserError, match=r"scenes.txt, line 3: expected 'name folder options'"):
        read_scenes(table, BUDGETS)
    with pytest.raises(UserError, match="--scene-table"):
        read_scenes(tmp_path / "none.txt", BUDGETS)


def test_a_scene_is_found_below_the_first_folder_that_has_it(tmp_path: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root / "deep" / "fox480" / "sparse").mkdir(parents=True)
    (tmp_path / "none" / "fox480").mkdir(parents=True)  # the name of a scene, and nothing in it
    roots = [tmp_path / name for name in ("none", "two", "one")]
    assert located(FOX, roots) == tmp_path / "two" / "deep" / "fox480"
    assert located(FOX, roots[:1]) is None


@pytest.mark.parametrize(("resolution", "expected"), [(-1, 800), (1, 800), (4, 50), (20, 200)])
def test_pixels_of_a_photo_follow_the_resolution(tmp_path: Path, resolution: int, expected: int) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "0.png")
    config = SceneConfig(source_path=tmp_path, model_path=tmp_path, resolution=resolution)
    assert photo_pixels(tmp_path, config) == expected


# Runs


def test_a_variant_is_a_name_and_options() -> None:
    assert variant("lowest=--final-cut lowest") == LOWEST
    assert variant("m=--method mcmc -r 2") == Entrant("m", ("--method", "mcmc", "-r", "2"))
    assert LOWEST.method == DEFAULT_METHOD and LOWEST.budgeted
    assert not Entrant("free", ("--method=3dgs",)).budgeted


@pytest.mark.parametrize(
    "text", ["lowest", "=--seed 1", "a b=--seed 1", "../x=--seed 1", "mcmc=--seed 1", "x=--method y"]
)
def test_what_is_no_variant_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        variant(text)


def test_the_key_tells_runs_apart_by_all_that_decides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(LOWEST)
    others = [
        replace(run, budget=1_001),
        replace(run, iterations=3_001),
        replace(run, seed=1),
        replace(run, device="cuda"),
        replace(run, entrant=Entrant("lowest", ("--final-cut", "lowest", "--sh-degree", "1"))),
        replace(run, scene=replace(FOX, options=("-r", "2"))),
        replace(run, scene=GARDEN),
    ]
    first = run.key
    assert first.startswith("fox480-lowest-1000-3000-s0-")
    assert len({first, *(other.key for other in others)}) == 8
    monkeypatch.setattr(runs, "__version__", "next")
    assert run.key != first


def test_a_command_says_what_is_run() -> None:
    run = replace(run_of(LOWEST), scene=GARDEN)
    assert run.command == (
        "python train.py -s garden -i images_4 --final-budget 1000 --iterations 3000 --seed 0 --final-cut lowest"
    )
    assert run.config().images == "images_4" and run.decisive()["--final-cut"] == "lowest"
    own_length = Entrant("short", ("--iterations", "900"))
    assert replace(run, entrant=own_length).config().iterations == 900  # the entrant prevails


# The plan


def grid(**changes: object) -> Grid:
    budgets = [parse_budget("1k"), parse_budget("15%")]
    entrants = [method_entrant(DEFAULT_METHOD), LOWEST, method_entrant("3dgs")]
    plain = Grid([FOX], entrants, budgets, [3_000], [0, 1], "cpu")
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_percentages_wait_for_the_count_of_3dgs(results: Results) -> None:
    before = planned(grid(), results)
    absolute = {run_of(entrant, seed=seed) for entrant in (None, LOWEST) for seed in (0, 1)}
    free = {reference_run(seed) for seed in (0, 1)}  # once for all budgets
    assert set(before.runs) == absolute | free and len(before.runs) == 6 and before.waiting == 4
    write(results, reference_run(1), gaussians=50)  # not the seed that percentages are of
    assert planned(grid(), results).waiting == 4
    write(results, reference_run(), gaussians=2_010)
    after = planned(grid(), results)
    shares = {run_of(entrant, seed=seed, budget=302) for entrant in (None, LOWEST) for seed in (0, 1)}
    assert set(after.runs) == absolute | free | shares and after.waiting == 0


def test_percentages_bring_their_reference_along(results: Results) -> None:
    plan = planned(grid(entrants=[LOWEST], seeds=[7], budgets=[parse_budget("15%")]), results)
    assert list(plan.runs) == [reference_run()] and plan.waiting == 1


def test_the_published_budget_is_that_of_the_list(results: Results) -> None:
    plan = planned(grid(scenes=[GARDEN], entrants=[LOWEST], budgets=[parse_budget("published")], seeds=[0]), results)
    assert [run.budget for run in plan.runs] == [600_000]
    with pytest.raises(UserError, match="fox480 has no published budget"):
        planned(grid(budgets=[parse_budget("published")]), results)


def test_a_run_that_train_would_refuse_is_refused_before_any_is_made(results: Results) -> None:
    with pytest.raises(UserError, match="unknown option --final-cat: did you mean --final-cut"):
        planned(grid(entrants=[Entrant("typo", ("--final-cat", "lowest"))]), results)
    with pytest.raises(UserError, match="'lots' is no budget"):
        parse_budget("lots")


# Results


def test_what_is_written_is_read_back_and_finished(results: Results) -> None:
    run = run_of(LOWEST)
    assert results.finished(run) is None and results.all() == []
    write(results, run, 31.25)
    result = results.finished(run)
    assert result is not None and results.all() == [result]
    assert (result.psnr, result.ssim, result.gaussians, result.key) == (31.25, 31.25 / 40, 1_000, run.key)
    assert (result.entrant_options, result.commits) == (("--final-cut", "lowest"), ["abc"])
    assert result.moments[0].cpu_seconds == 30 and result.command == run.command
    assert results.finished(run_of(LOWEST, seed=1)) is None


def test_a_result_is_outdated_once_an_option_has_another_default(results: Results) -> None:
    run = run_of()
    write(results, run)
    path = results.file(run)
    document = json.loads(path.read_text())

    def store(**options: object) -> None:
        path.write_text(json.dumps({**document, "options": {**document["options"], **options}}))

    store(**{"--gone-since": 1})  # options come and go, and change nothing by themselves
    assert results.finished(run) is not None
    store(**{"--final-cut": "lowest"})
    assert results.finished(run) is None
    path.write_text('{"format": 1')
    assert results.finished(run) is None and read_result(path) is None


def test_a_result_is_outdated_once_its_preset_turns_on_a_new_option(results: Results) -> None:
    plain, refined = run_of(), run_of(variant("best=--preset best"))
    for run in (plain, refined):
        write(results, run)
        document = json.loads(results.file(run).read_text())
        del document["options"]["--larger-steps"]
        results.file(run).write_text(json.dumps(document))
    assert results.finished(plain) is not None
    assert results.finished(refined) is None


def test_the_log_of_a_resumed_run_goes_on_counting() -> None:
    def record(iteration: int, seconds: float, **values: float) -> dict[str, float]:
        return {"iteration": iteration, **values, "seconds": seconds, "processor_seconds": 2 * seconds}

    log = [
        {"iteration": 99, "raw_loss": 0.2},
        record(100, 5.0, loss=0.1),
        record(100, 6.0, held_out_psnr=20.0),
        record(200, 11.0, held_out_psnr=22.0),
        record(200, 3.0, held_out_psnr=22.5),  # resumed from before it
        record(300, 9.0, held_out_psnr=25.0),
    ]
    assert moments_of(log) == [
        {"iteration": 100, "psnr": 20.0, "wall_seconds": 6.0, "cpu_seconds": 12.0},
        {"iteration": 200, "psnr": 22.5, "wall_seconds": 14.0, "cpu_seconds": 28.0},
        {"iteration": 300, "psnr": 25.0, "wall_seconds": 20.0, "cpu_seconds": 40.0},
    ]


# Estimates


def test_estimates_learn_from_the_nearest_that_was_measured(results: Results) -> None:
    pixels = {"fox480": 130_000, "garden": 0}
    unknown = Estimates([], pixels)
    # 3,000 iterations of one unit for themselves, one for the pixels, and one for 15,000 Gaussians
    assert unknown.seconds(run_of(budget=15_000)) == pytest.approx(3_000 * 3 * SECONDS_A_UNIT)
    write(results, run_of(budget=15_000), cpu_seconds=180.0)  # on two threads
    write(results, run_of(LOWEST, budget=15_000), cpu_seconds=360.0)
    write(results, reference_run(), gaussians=30_000, cpu_seconds=3_600.0)
    learned = Estimates(results.all(), pixels)
    assert learned.seconds(run_of(budget=15_000, seed=5)) == pytest.approx(90)
    assert learned.seconds(run_of(LOWEST, budget=15_000, iterations=6_000)) == pytest.approx(360)
    assert learned.seconds(reference_run(3)) == pytest.approx(1_800)  # as many Gaussians as its other seed
    mixed = learned.seconds(run_of(Entrant("new", ()), budget=15_000))
    assert 90 < mixed < 180  # between those with a budget on that scene
    # Nothing is known of that scene: as all with a budget, and one unit less, for pixels.
    assert learned.seconds(Run(GARDEN, LOWEST, 15_000, 3_000, 0)) == pytest.approx(mixed * 2 / 3)


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (150, "2 min"), (9_000, "2 h 30 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
