"""The pages: facts, pictures and plots put into the templates beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from gns import __version__
from gns.arguments import decisive_options
from gns.errors import UserError
from gns.report import plots
from gns.report.facts import Facts, ShownView, command_of, gather
from gns.report.pictures import data_uri, error_picture, read_reduced, width_for
from gns.report.viewer import Viewer, viewer_of
from gns.run_folder import RunFolder
from gns.utils.atomic_files import write_text
from gns.utils.option_table import flag, to_json

REPORT = "report.html"

_COURSE_ROWS = 40
_COMPARED_VIEWS = 8
_NO_VIEWS = "There are no pictures of held-out views: the run held no photos out, or render.py has not drawn them yet."

Row = tuple[str, str]


def write_report(model_path: Path) -> Path:
    """Write report.html into the output folder of a run and return its path.

    It tells what the folder's files tell: no scene is read, and held-out views are shown where render.py, or training
    at its end, has drawn them. The viewer of the model is inside, or where that is large a file beside it. Raises
    UserError where no model is saved or the page cannot be written.
    """
    run = RunFolder.open(model_path)
    facts = gather(run)
    viewer: Viewer | None = None
    try:
        viewer, no_viewer = viewer_of(run, facts.iteration), ""
    except UserError as error:
        no_viewer = f"The model cannot be shown: {error}."
    path = model_path / REPORT
    write_text(path, _rendered("report.html.j2", **_report(facts), viewer=viewer, no_viewer=no_viewer))
    return path


def write_comparison(model_paths: Sequence[Path], path: Path) -> None:
    """Write one page about several runs. Raises UserError as `write_report` does."""
    write_text(
        path, _rendered("compare.html.j2", **_comparison([gather(RunFolder.open(each)) for each in model_paths]))
    )


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("gns.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["megabytes"] = _megabytes
    page = environment.get_template(template).render(version=__version__, **values)
    return page.encode(errors="replace").decode()  # a path may have bytes that are no text


def _report(facts: Facts) -> dict[str, Any]:
    drawn = plots.plots_of(facts) if plots.available() else []
    no_plots = [] if drawn else [plots.ABSENT if not plots.available() else "log.jsonl has nothing to draw."]
    views, reduced, width = _shown(facts.views)
    selects = any(stretch.selects for stretch in facts.stretches)
    return {
        "title": facts.name,
        "subtitle": _subtitle(facts),
        "tiles": _tiles(facts),
        "remarks": _remarks(facts),
        "views": views,
        "reduced": reduced,
        "card_width": f"{min(72, max(20, 2 * width / 16)):.0f}rem",
        "no_views": _NO_VIEWS,
        "plots_heading": "Selection" if selects else "Course of the run",
        "plots": drawn,
        "no_plots": no_plots,
        "course_header": ["iteration", "Gaussians", "born", "dropped", "loss", "target", "opacity at rank B"],
        "course": _course(facts),
        "rows": _rows(facts),
        "options": _options(facts),
        "command": command_of(facts.config) if facts.config else "",
        "path": str(facts.path.resolve()),
    }


def _subtitle(facts: Facts) -> str:
    method = f"{facts.config.method}, {facts.config.schedule} schedule, " if facts.config else ""
    finished = facts.summary.get("finished", "")  # 2026-01-31T12:34:56+00:00
    when = f"{finished[:10]}, {finished[11:16]} UTC" if finished.endswith("+00:00") else "at an unknown time"
    return f"{method}iteration {facts.iteration:,}. Trained {when}."


def _tiles(facts: Facts) -> list[dict[str, str]]:
    figures, summary = facts.figures, facts.summary
    asked = facts.config.final_budget if facts.config else None
    tiles = [
        ("Gaussians", f"{facts.gaussians:,}", f"of {asked:,} asked for" if asked else ""),
        ("size of the model", _megabytes(facts.model_bytes), ""),
    ]
    views = f"over {len(facts.views)} views" if facts.views else ""
    for name, unit, digits in (("PSNR", " dB", 2), ("SSIM", "", 4), ("LPIPS", "", 4)):
        if figures.get(name) is not None:
            tiles.append((f"held-out {name}", f"{figures[name]:.{digits}f}{unit}", views if name == "PSNR" else ""))
    if summary.get("seconds") is not None:
        tiles.append(("training took", _duration(summary["seconds"]), ""))
    if summary.get("peak_memory_bytes"):
        tiles.append(("peak memory", _megabytes(summary["peak_memory_bytes"]), ""))
    return [{"name": name, "value": value, "more": more} for name, value, more in tiles]


def _remarks(facts: Facts) -> list[str]:
    remarks = []
    asked = facts.config.final_budget if facts.config else None
    if asked and facts.gaussians < asked:
        remarks.append(f"Only {facts.gaussians:,} Gaussians grew, fewer than the {asked:,} asked for: all were kept.")
    if facts.config and facts.iteration < facts.config.iterations:
        remarks.append(f"The run was not finished: this is the model of iteration {facts.iteration:,}.")
    if facts.figures.get("masked_views"):
        remarks.append(
            f"{facts.figures['masked_views']} held-out views have a mask: scores are of the pixels that count."
        )
    return remarks


def _shown(views: Sequence[ShownView]) -> tuple[list[dict[str, Any]], bool, int]:
    """The views with their pictures, whether these are reduced, and their width in pixels."""
    if not views:
        return [], False, 0
    with Image.open(views[0].photo) as image:
        size = image.size
    width = width_for(3 * len(views), size)
    shown = []
    for view in views:
        photo, render = read_reduced(view.photo, width), read_reduced(view.render, width)
        if photo.shape != render.shape:
            raise UserError(f"{view.render} and {view.photo} differ in size: delete their folder and render again")
        shown.append(
            {
                "name": view.name,
                "photo": data_uri(photo),
                "render": data_uri(render),
                "error": data_uri(error_picture(photo, render)),
                "width": photo.shape[1],
                "height": photo.shape[0],
                "scores": _scores(view.scores),
            }
        )
    return shown, width < size[0], width


def _scores(scores: Mapping[str, float]) -> str:
    units = {"PSNR": (2, " dB"), "SSIM": (4, ""), "LPIPS": (4, "")}
    return ", ".join(
        f"{name} {scores[name]:.{digits}f}{unit}" for name, (digits, unit) in units.items() if name in scores
    )


def _course(facts: Facts) -> list[list[str]]:
    """Some records of the log, evenly chosen; births and deaths are sums since the row before."""
    records = [record for record in facts.records if "gaussians" in record]
    if not records:
        return []
    chosen = sorted({int(index) for index in np.linspace(0, len(records) - 1, min(_COURSE_ROWS, len(records)))})
    rows, since = [], 0
    for index in chosen:
        passed = records[since : index + 1]
        since = index + 1
        record = records[index]
        rows.append(
            [
                f"{record['iteration']:,}",
                f"{record['gaussians']:,}",
                *(f"{sum(each.get(key, 0) for each in passed):,}" for key in ("births", "deaths")),
                *(_number(record.get(key)) for key in ("loss", "target", "opacity_at_rank")),
            ]
        )
    return rows


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _rows(facts: Facts) -> list[Row]:
    summary, config = facts.summary, facts.config
    scene = summary.get("scene", {})
    rows: list[tuple[str, Any]] = [
        ("scene", scene.get("path") or (config and config.source_path)),
        ("photos", scene and f"{scene['training_views']} to learn from, {scene['held_out_views']} held out"),
        ("points to start from", scene and f"{scene['points']:,}"),
        ("method", config and f"{config.method}, {config.schedule} schedule, {config.iterations:,} iterations"),
        ("seed", config and str(config.seed)),
        ("degree of colour", config and str(config.sh_degree)),
        ("model", f"point_cloud/iteration_{facts.iteration}/point_cloud.ply, {facts.model_bytes:,} bytes"),
        ("SHA-256 of the model", facts.model_sha256),
        (
            "version of gns",
            " ".join(filter(None, (summary.get("gns"), summary.get("commit") and f"({summary['commit']})"))),
        ),
        ("Python, torch", summary and f"{summary['python']}, {summary['torch']}"),
        ("compiler of the kernels", summary.get("compiler")),
        ("device", summary.get("device")),
        ("processor", summary.get("processor")),
        ("instruction set, threads", summary and f"{summary['instruction_set']}, {summary['threads']}"),
        ("system", summary.get("system")),
        ("time", summary.get("seconds") is not None and _duration(summary["seconds"])),
        ("processor time", summary.get("cpu_seconds") is not None and _duration(summary["cpu_seconds"])),
        ("sessions", summary.get("sessions") and str(summary["sessions"])),
        ("peak memory", summary.get("peak_memory_bytes") and _megabytes(summary["peak_memory_bytes"])),
        (
            "peak memory of the GPU",
            summary.get("peak_gpu_memory_bytes") and _megabytes(summary["peak_gpu_memory_bytes"]),
        ),
        ("LPIPS", facts.figures.get("LPIPS_absent") and f"absent: {facts.figures['LPIPS_absent']}"),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _options(facts: Facts) -> list[Row]:
    if facts.config is None:
        return []
    tables = [to_json(table) for table in (facts.config, *facts.config.rules.values())]
    return [(name, str(value)) for table in tables for name, value in table.items()]


def _comparison(models: Sequence[Facts]) -> dict[str, Any]:
    drawn = plots.compared(models) if plots.available() else []
    return {
        "title": f"{len(models)} models",
        "remarks": []
        if len({len(facts.views) for facts in models}) == 1
        else ["They were scored on different photos."],
        **_figures_table(models),
        "views": _compared_views(models),
        "no_views": _NO_VIEWS,
        "plots": drawn,
        "no_plots": [] if drawn else [plots.ABSENT],
        "differences_header": ["option", *(facts.name for facts in models)],
        "differences": _differences(models),
    }


def _figures_table(models: Sequence[Facts]) -> dict[str, Any]:
    """The figures of all, without columns in which no model has any."""
    names = ["model", "Gaussians", "MB", "PSNR", "SSIM", "LPIPS", "time", "peak memory"]
    rows = [_figures(facts) for facts in models]
    known = [column for column in range(len(names)) if any(row[column] for row in rows)]
    return {"header": [names[at] for at in known], "rows": [[row[at] for at in known] for row in rows]}


def _figures(facts: Facts) -> list[str]:
    figures, summary = facts.figures, facts.summary
    return [
        facts.name,
        f"{facts.gaussians:,}",
        f"{facts.model_bytes / 1e6:.2f}",
        *(
            "" if figures.get(name) is None else f"{figures[name]:.{digits}f}"
            for name, digits in (("PSNR", 2), ("SSIM", 4), ("LPIPS", 4))
        ),
        "" if summary.get("seconds") is None else _duration(summary["seconds"]),
        _megabytes(summary["peak_memory_bytes"]) if summary.get("peak_memory_bytes") else "",
    ]


def _compared_views(models: Sequence[Facts]) -> list[dict[str, Any]]:
    """The first views of which every model has a render, a row each: the photo, then the renders."""
    by_name = [{view.name: view for view in facts.views} for facts in models]
    names = sorted(set.intersection(*(set(views) for views in by_name)))[:_COMPARED_VIEWS]
    rows = []
    for name in names:
        views = [views[name] for views in by_name]
        with Image.open(views[0].photo) as image:
            width = width_for((len(models) + 1) * len(names), image.size)
        cells = [("photo", views[0].photo, "")]
        for facts, view in zip(models, views, strict=True):
            cells.append((facts.name, view.render, f"{view.scores['PSNR']:.2f} dB" if "PSNR" in view.scores else ""))
        pictures = [(label, read_reduced(path, width), score) for label, path, score in cells]
        rows.append(
            {
                "name": name,
                "cells": [
                    {
                        "name": label,
                        "picture": data_uri(pixels),
                        "width": pixels.shape[1],
                        "height": pixels.shape[0],
                        "score": score,
                    }
                    for label, pixels, score in pictures
                ],
            }
        )
    return rows


def _differences(models: Sequence[Facts]) -> list[list[str]]:
    options = [_compared_options(facts) for facts in models]
    names = dict.fromkeys(name for each in options for name in each)
    rows = [[name, *(str(each.get(name, "")) for each in options)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _compared_options(facts: Facts) -> dict[str, Any]:
    """What may have made a difference: the scene, and the options that decide about results."""
    if facts.config is None:
        return {}
    return {flag("source_path"): facts.config.source_path, **decisive_options(facts.config)}


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
