"""docs/results.md: the numbers in its tables, what is said where there are none, its plots and crops."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import quality, quality_report
from benchmarks.grid import tables
from benchmarks.grid.groups import Group, grouped
from benchmarks.grid.pictures import most_different, write_crops
from benchmarks.grid.plots import mean_course
from benchmarks.grid.results import Results
from benchmarks.grid.runs import Entrant
from benchmarks.grid.scenes import SceneEntry
from benchmarks.grid.statistics import figure, paired
from gns.arguments import TrainConfig
from gns.model.initialisation import initial_gaussians
from gns.rules import DEFAULT_METHOD
from gns.run_folder import RunFolder
from gns.testing.scene_files import small_scene, write_colmap
from gns.utils.tables import Rows
from tests.quality.made_up import FOX, LOWEST, MACHINE, figures, reference_run, run_of, write

LEGO = SceneEntry("lego", "lego", ("-w",))
SHARE = 300  # 15 % of 3DGS's 2,000


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


def groups_of(results: Results) -> list[Group]:
    return grouped(results.all())


def row(rows: Rows, *start: str) -> list[str]:
    """The only row that begins so, by its first cells."""
    (found,) = (list(each) for each in rows if tuple(each[: len(start)]) == start)
    return found


def write_pairs(results: Results, reference: list[float], ours: list[float], scene: SceneEntry = FOX) -> None:
    """Runs of 3DGS and of the default method at SHARE, seed by seed."""
    for seed, psnr in enumerate(reference):
        write(results, reference_run(seed, scene), psnr, gaussians=2_000 + seed)
    for seed, psnr in enumerate(ours):
        write(results, run_of(budget=SHARE, seed=seed, scene=scene), psnr)


# Statistics


def test_means_spreads_and_intervals() -> None:
    three = figure([1.0, 2.0, 3.0])
    assert (three.mean, three.spread, three.n) == (2.0, 1.0, 3)
    assert three.error == pytest.approx(3**-0.5)
    assert three.interval == pytest.approx((2 - 4.303 * 3**-0.5, 2 + 4.303 * 3**-0.5))  # Student's t, 2 degrees
    assert (three.spread_text(2), three.error_text(1)) == ("2.00 ± 1.00", "+2.0 ± 0.6")
    one = figure([1.5])
    assert (one.spread, one.error, one.interval, one.spread_text(2)) == (None, None, None, "1.50")
    many = figure([0.0, 1.0] * 20)
    assert many.error and many.interval == pytest.approx((0.5 - 2.228 * many.error, 0.5 + 2.228 * many.error))


def test_differences_are_taken_seed_by_seed() -> None:
    difference = paired({0: 30.0, 1: 33.0, 2: 99.0}, {0: 29.0, 1: 31.0, 5: 0.0})
    assert difference is not None and (difference.mean, difference.n) == (1.5, 2)
    assert difference.spread == pytest.approx(0.5**0.5)  # far less than either scatters
    assert paired({0: 1.0}, {1: 1.0}) is None


# Tables


@pytest.mark.parametrize(
    ("reference", "ours", "cells"),
    [
        ([30.0, 31.0, 30.5], [31.0, 32.01, 31.5], ["+1.00 ± 0.00", "+0.99 to +1.02", "3", "shown"]),
        ([30.0, 31.0, 30.5], [30.2, 31.21, 30.7], ["+0.20 ± 0.00", "+0.19 to +0.22", "3", "refuted"]),
        ([30.0, 31.0], [30.5, 32.0], ["+0.75 ± 0.25", "-2.43 to +3.93", "2", "undecided"]),
        ([30.0, 31.0], [30.7], ["+0.70", "-", "1", "above, in a single pair of runs"]),
        ([30.0], [30.5, 29.0], ["+0.50", "-", "1", "below, in a single pair of runs"]),
    ],
)
def test_the_claim_is_judged_by_its_interval(
    results: Results, reference: list[float], ours: list[float], cells: list[str]
) -> None:
    write_pairs(results, reference, ours)
    rows = tables.claim(groups_of(results), ["fox480", "lego"], [DEFAULT_METHOD])
    assert row(rows, "fox480") == ["fox480", "3,000", DEFAULT_METHOD, "300", *cells]
    assert row(rows, "lego")[-1] == "not measured"


def test_the_claim_needs_runs_at_its_very_budget(results: Results) -> None:
    write_pairs(results, [30.0, 31.0], [])
    write(results, run_of(budget=SHARE + 1), 35.0)
    assert row(tables.claim(groups_of(results), ["fox480"], [DEFAULT_METHOD]), "fox480")[-1] == "not measured"


def test_3dgs_stands_beside_its_published_figure(results: Results) -> None:
    write_pairs(results, [30.0, 31.0], [31.0, 32.0], LEGO)
    cells = row(tables.beside_reference(groups_of(results), DEFAULT_METHOD), "lego")
    assert cells[2:6] == ["2,000", "30.50 ± 0.71", "0.7625 ± 0.0177", "-"]  # published for 30,000 iterations alone
    assert cells[6:] == ["not measured", "not measured", "+1.00 ± 0.00 (2)", "not measured"]
    long = [replace(group, iterations=30_000) for group in groups_of(results)]
    assert row(tables.beside_reference(long, DEFAULT_METHOD), "lego")[5] == "35.78"
    for size in ([400, 400], None):
        smaller = [replace(long[0], results=[replace(result, photo_size=size) for result in long[0].results])]
        assert row(tables.beside_reference(smaller, DEFAULT_METHOD), "lego")[5] == "35.78, of 800×800 pixels"


def test_variants_are_set_against_the_baseline_at_equal_budgets(results: Results) -> None:
    for seed, psnr in enumerate((30.0, 31.0)):
        write(results, run_of(seed=seed), psnr, cpu_seconds=100.0)
        write(results, run_of(LOWEST, seed=seed), psnr + 0.5 + 0.2 * seed, cpu_seconds=50.0)
        write(results, run_of(seed=seed, scene=LEGO), psnr, cpu_seconds=100.0)
        write(results, run_of(LOWEST, seed=seed, scene=LEGO), psnr - 0.2, cpu_seconds=150.0, gaussians=900)
    write(results, run_of(LOWEST, seed=2), 10.0)  # a seed that the baseline lacks
    write(results, run_of(LOWEST, budget=2_000), 40.0)  # a budget that it lacks
    rows = tables.against_baseline(groups_of(results), DEFAULT_METHOD)
    fox = ["lowest", "fox480", "3,000", "1,000", "+0.60 ± 0.10", "+0.60", "100 %", "+0.0150 ± 0.0025", "× 0.50", "2"]
    lego = [
        "lowest",
        "lego",
        "3,000",
        "1,000, ends with 900",
        "-0.20 ± 0.00",
        "-0.20",
        "0 %",
        "-0.0050 ± 0.0000",
        "× 1.50",
        "2",
    ]
    mean = ["**lowest**", "mean of 2 scenes", "", "", "+0.20", "", "", "+0.0050", "× 1.00", ""]
    assert [list(cells) for cells in rows[1:]] == [fox, lego, mean]


def test_one_photo_that_goes_wrong_shows_in_the_mean_and_not_in_the_median(results: Results) -> None:
    names, gains = [f"{index}.png" for index in range(7)], [0.3, 0.2, -6.0, 0.4, 0.1, 0.3, 0.3]
    for seed in (0, 1):
        write(results, run_of(seed=seed), per_view={"PSNR": dict.fromkeys(names, 30.0)})
        better = {name: 30.0 + gain + 0.1 * seed for name, gain in zip(names, gains, strict=True)}
        write(results, run_of(LOWEST, seed=seed), per_view={"PSNR": better})
    write(results, run_of(LOWEST, seed=2), per_view={"PSNR": dict.fromkeys(names, 99.0)})  # the baseline lacks it
    (cells,) = tables.against_baseline(groups_of(results), DEFAULT_METHOD)[1:]
    assert cells[5:7] == ["+0.30", "86 %"]


def test_where_photos_were_not_scored_alike_nothing_is_said_of_them(results: Results) -> None:
    write(results, run_of(), per_view={"PSNR": {"0.png": 30.0, "1.png": None}})
    write(results, run_of(LOWEST), per_view={"PSNR": {"1.png": 31.0, "2.png": 32.0}})
    (cells,) = tables.against_baseline(groups_of(results), DEFAULT_METHOD)[1:]
    assert cells[5:7] == ["-", "-"]


def test_all_runs_of_a_scene(results: Results) -> None:
    write_pairs(results, [30.0], [29.0, 30.0])
    write(results, run_of(Entrant("bare", ()), budget=5_000), 28.0, cpu_seconds=None)
    (group,) = groups_of(results)
    assert [list(cells) for cells in tables.all_runs(group, {})[1:]] == [
        ["open", "3dgs", "2,000", "30.00", "0.7500", "100", "1.00", "1"],
        ["300 (15 %)", DEFAULT_METHOD, "300", "29.50 ± 0.71", "0.7375 ± 0.0177", "100", "1.00", "2"],
        ["5,000", "bare", "5,000", "28.00", "0.7000", "-", "1.00", "1"],
    ]


def test_fitted_scores_have_a_column_where_exposures_were_learned(results: Results) -> None:
    write(results, run_of(), 20.0, scores={"PSNR": 20.0, "SSIM": 0.5, "PSNR_fitted": 26.0})
    assert "PSNR fitted, dB" not in tables.all_runs(groups_of(results)[0], {})[0]
    exposed = Entrant("exposed", ("--exposure",))
    write(results, run_of(exposed), 21.0, scores={"PSNR": 21.0, "SSIM": 0.5, "PSNR_fitted": 27.0})
    rows = tables.all_runs(groups_of(results)[0], {})
    column = rows[0].index("PSNR fitted, dB")
    assert [cells[column] for cells in rows[1:]] == ["26.00", "27.00"]


def test_scores_of_all_machines_count_and_times_are_compared_on_one(results: Results) -> None:
    other = {**MACHINE, "processor": "Slide rule"}
    for seed, machine in enumerate((MACHINE, {**MACHINE, "threads": 8}, other)):
        write(results, run_of(seed=seed), 30.0, machine=machine, cpu_seconds=100.0 * (1 + seed))
    write(results, run_of(LOWEST), 31.0, cpu_seconds=150.0)
    write(results, run_of(LOWEST, seed=1), 32.0, machine=other, cpu_seconds=1e6)
    write(results, run_of(LOWEST, seed=2), 33.0, machine=other, cpu_seconds=150.0)
    (group,) = groups_of(results)
    (cells,) = tables.against_baseline([group], DEFAULT_METHOD)[1:]
    assert cells[4] == "+2.00 ± 0.58" and cells[-2:] == ["× 0.75", "3"]
    numbers = {name: index for index, name in enumerate(group.machines, start=1)}
    header, *rows = tables.all_runs(group, numbers)
    column = list(header).index("processor s (machine)")
    assert [row[column] for row in rows] == ["150 (1), 300 (2)", "150 (1), 500,075 (2)"]


def test_times_at_different_commits_are_not_compared(results: Results) -> None:
    write(results, run_of(), 30.0, cpu_seconds=100.0)
    write(results, run_of(LOWEST), 31.0, cpu_seconds=150.0, sessions=[{**figures()["sessions"][0], "commit": "later"}])
    (cells,) = tables.against_baseline(groups_of(results), DEFAULT_METHOD)[1:]
    assert cells[4:] == ["+1.00", "+1.00", "100 %", "+0.0250", "-", "1"]


def test_the_same_run_on_cpu_and_gpu_is_two(results: Results) -> None:
    for device, psnr in (("cpu", 30.0), ("cuda", 31.0)):
        write(results, replace(run_of(), device=device), psnr, machine={**MACHINE, "device": "Sun"})
    groups = groups_of(results)
    assert [group.title for group in groups] == ["fox480, 3,000 iterations", "fox480, 3,000 iterations, cuda"]
    assert [tables.all_runs(group, {})[1][3] for group in groups] == ["30.00", "31.00"]


def test_one_name_is_not_two_things(results: Results) -> None:
    write(results, run_of())
    write(results, run_of(LOWEST))
    write(results, run_of(replace(LOWEST, options=("--final-cut", "multinomial"))))
    (group,) = groups_of(results)
    assert sorted(group.entrants) == [DEFAULT_METHOD, "lowest (--final-cut lowest)", "lowest (--final-cut multinomial)"]


def test_the_command_of_a_table_asks_for_its_runs(results: Results) -> None:
    write_pairs(results, [30.0, 31.0], [31.0])
    write(results, run_of(LOWEST, budget=177))
    command = tables.command(groups_of(results))
    assert command == (
        f"python benchmarks/quality.py --scenes fox480 --methods {DEFAULT_METHOD} 3dgs "
        "--variants 'lowest=--final-cut lowest' --budgets 177 15% --iterations 3000 --seeds 0 1"
    )
    words = shlex.split(command)[2:]
    assert quality._parser().parse_args(words).variants == ["lowest=--final-cut lowest"]


# Plots


def test_the_course_of_a_run_is_a_mean_over_seeds(results: Results) -> None:
    write(results, run_of(), 30.0)
    write(results, run_of(seed=1), 32.0)
    (group,) = groups_of(results)
    assert mean_course(group.of(DEFAULT_METHOD, 1_000)) == ([30.0, 60.0, 90.0], [29.0, 30.0, 31.0])
    assert mean_course({}) == ([], [])


# Crops


def test_crops_lie_where_models_differ_most() -> None:
    photo = torch.zeros(3, 20, 30)
    bad_everywhere, bad_here = photo + 0.5, photo + 0.5
    bad_here[:, 12:16, 20:25] = 0.9
    assert most_different(photo, [bad_everywhere, bad_here], 4, 5) == (12, 20)


def test_crops_of_kept_models(results: Results, tmp_path: Path) -> None:
    scene = write_colmap(tmp_path / "scene", small_scene(count=9))
    for index, entrant in enumerate((None, LOWEST)):
        run = run_of(entrant)
        config = TrainConfig(source_path=scene, model_path=results.work_folder(run) / "model", final_budget=100)
        gaussians = initial_gaussians(small_scene(count=9).points, 1)
        gaussians.opacity_logits += 2 * index
        RunFolder.create(config.model_path, config).save_model(gaussians, 10)
        write(results, run)
    write(results, run_of(Entrant("lost", ())))  # its model is not there
    (group,) = groups_of(results)
    path = tmp_path / "crops.png"
    assert write_crops(results, group, 1_000, ["lost", DEFAULT_METHOD, "lowest"], path) == [DEFAULT_METHOD, "lowest"]
    with Image.open(path) as sheet:
        assert sheet.width == 3 * (220 + 6) + 6  # the photo and two models
    assert write_crops(results, group, 1_000, ["lost", "lowest"], tmp_path / "none.png") == []
    where = ["--results", str(results.path), "--crops-folder", str(tmp_path / "local")]
    assert quality_report.main([*where, "--crops", "fox480"]) == 0 and (tmp_path / "local" / "fox480.png").exists()
    assert quality_report.main([*where, "--crops", "lego"]) == 2


# The page


def test_without_runs_everything_is_not_measured(results: Results, tmp_path: Path) -> None:
    assert quality_report.main(["--results", str(results.path), "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "results.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert len(sections) == 4 + 5 + 2
    for section in sections:
        assert "not measured" in section.lower(), section
    assert not (tmp_path / "results" / "demo.png").exists()


def test_the_page_has_tables_plots_commands_and_the_same_bits_again(results: Results, tmp_path: Path) -> None:
    write_pairs(results, [30.0, 31.0], [31.0, 32.5])
    write(results, run_of(LOWEST, budget=SHARE), 31.5)
    write(results, run_of(seed=9), 99.0, version="of yore")
    docs = tmp_path / "docs"
    arguments = ["--results", str(results.path), "--docs", str(docs)]
    assert quality_report.main(arguments) == 0
    page = (docs / "results.md").read_text()
    assert "1 results of other versions are left out" in page and "99.0" not in page
    assert "| fox480 | 3,000 | gns | 300 | +1.25 ± 0.25 |" in page
    assert "| lowest | fox480 | 3,000 | 300 (15 %) |" in page
    assert "| machine 1 | Abacus, beads | 2 | 2.0 | 5 | abc |" in page
    assert "## fox480, 3,000 iterations\n" in page and page.count("```bash") == 5
    named = re.findall(r"\]\((results/\S+)\)", page)
    assert named == ["results/fox480-3000-budget.svg", "results/fox480-3000-time-1.svg"]
    drawn = {name: (docs / name).read_bytes() for name in named}
    assert all(content.startswith(b"<?xml") for content in drawn.values())
    (docs / "results" / "old.svg").touch()
    assert quality_report.main(arguments) == 0
    assert {name: (docs / name).read_bytes() for name in named} == drawn
    assert (docs / "results.md").read_text() == page
    assert not (docs / "results" / "old.svg").exists()
