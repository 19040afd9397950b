"""The pictures of a run as SVG inside a page, drawn by matplotlib, which is optional (`pip install ".[plot]"`).

Lines and text have the colour of the page's text, so that they are read on light and dark pages alike.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.report.facts import Facts
from gns.rules.base import Stretch
from gns.training.census import LARGEST_LOGIT, LOGIT_BINS, SIZE_BINS, SMALLEST_SIZE

Floats = npt.NDArray[np.float64]

ABSENT = 'The plots need matplotlib, which is not installed: run pip install ".[plot]" in the folder of gns and remake '
ABSENT += "this page with gns report. The figures behind them are in log.jsonl."

_INK = "#010203"  # stands for the colour of the page's text
_BLUE, _ORANGE, _GREEN, _GREY = "#3b82f6", "#e8800c", "#1a9e5c", "#8a8f98"
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#b05ad6", "#d64550", "#12a3b4")
_WIDE, _TALL = 9.0, 3.2  # inches; on the page it is as wide as there is room
_FONT = 9  # points
_SHADES = {True: _ORANGE, False: _GREY}  # of stretches, by whether they select
_COLUMNS = 240  # of the picture of opacities
_OPACITY_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Plot:
    """A picture with its heading and what it says."""

    title: str
    caption: str
    svg: str


def available() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def plots_of(facts: Facts) -> list[Plot]:
    """All pictures for which the log of a run has figures. Needs matplotlib."""
    drawn = [
        _population(facts),
        _opacities(facts),
        _controller(facts),
        *[_survival(record, facts) for record in facts.records if "survival" in record],
        _loss(facts),
    ]
    return [plot for plot in drawn if plot is not None]


def compared(models: Sequence[Facts]) -> list[Plot]:
    """Populations and scores of several runs over each other."""
    figure, axes = _figure()
    for colour, facts in zip(_cycle(len(models)), models, strict=True):
        axes.plot(*facts.series("gaussians"), color=colour, label=facts.name)
    axes.set(xlabel="iteration", ylabel="Gaussians", ylim=(0, None))
    axes.legend(frameon=False, fontsize=_FONT)
    plots = [Plot("Population", "Gaussians over the iterations of each run.", _svg(figure, "population"))]
    scored = [(facts, facts.figures["PSNR"]) for facts in models if facts.figures.get("PSNR") is not None]
    if scored:
        figure, axes = _figure()
        for colour, (facts, psnr) in zip(_cycle(len(scored)), scored, strict=True):
            axes.plot([facts.model_bytes / 1e6], [psnr], "o", color=colour, markersize=9)
            axes.annotate(
                facts.name, (facts.model_bytes / 1e6, psnr), xytext=(9, -4), textcoords="offset points", color=_INK
            )
        axes.set(xlabel="size of the model in MB", ylabel="held-out PSNR in dB")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.margins(0.25)
        plots.append(Plot("Quality and size", "Up and to the left is better.", _svg(figure, "quality")))
    return plots


def _population(facts: Facts) -> Plot | None:
    iterations, counts = facts.series("gaussians")
    if len(iterations) < 2:
        return None
    figure, axes = _figure()
    axes.plot(iterations, counts, color=_BLUE, linewidth=1.8)
    budget = facts.config.final_budget if facts.config else None
    if budget:
        axes.axhline(budget, color=_INK, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"budget {budget:,}",
            (1, budget),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            color=_INK,
            fontsize=_FONT,
        )
    axes.set(xlabel="iteration", ylabel="Gaussians", ylim=(0, max(counts) * 1.18))
    _mark(axes, facts.stretches)
    births, deaths = sum(facts.series("births")[1]), sum(facts.series("deaths")[1])
    died = f" In all {births:,} were born and {deaths:,} dropped." if births or deaths else ""
    return Plot(
        "Population",
        f"Gaussians over the run: {max(counts):,} at most, {counts[-1]:,} at the end.{died}",
        _svg(figure, "population"),
    )


def _opacities(facts: Facts) -> Plot | None:
    """A histogram a column; over it what selection's controller compares."""
    iterations, counted = facts.series("opacities")
    if len(iterations) < 2:
        return None
    table = np.array(counted, dtype=np.float64).T  # [bins, records]
    shares = table / np.maximum(table.sum(axis=0), 1)
    columns = np.linspace(iterations[0], iterations[-1], _COLUMNS)
    nearest = np.clip(np.searchsorted(iterations, columns), 0, len(iterations) - 1)
    figure, axes = _figure()
    box = (iterations[0], iterations[-1], -LARGEST_LOGIT, LARGEST_LOGIT)
    image = axes.imshow(
        np.sqrt(shares[:, nearest]), extent=box, origin="lower", aspect="auto", cmap="magma", interpolation="nearest"
    )
    image.set_clim(0, float(np.sqrt(np.quantile(shares, 0.999))))
    for key, colour, label in (("target", "#ffffff", "target"), ("opacity_at_rank", "#53e0ff", "opacity at rank B")):
        axes.plot(*_without_gaps(*_logits(*facts.series(key))), color=colour, linewidth=1.3, label=label)
    if facts.series("target")[0]:
        axes.legend(loc="upper left", facecolor="#444444", labelcolor="#ffffff", edgecolor="none", fontsize=_FONT)
    ticks = [math.log(opacity / (1 - opacity)) for opacity in _OPACITY_TICKS]
    axes.set_yticks(ticks, [f"{opacity:g}" for opacity in _OPACITY_TICKS])
    axes.set(xlabel="iteration", ylabel="opacity", xlim=box[:2], ylim=box[2:])
    _mark(axes, facts.stretches, shaded=False)
    caption = (
        "The share of Gaussians of each opacity, brighter where there are more; the axis is even in the logit. "
        "Selection pushes all of them down alike, and those whose pixels nobody else explains climb back."
    )
    return Plot("Opacities", caption, _svg(figure, "opacities"))


def _controller(facts: Facts) -> Plot | None:
    iterations, _ = facts.series("target")
    if len(iterations) < 2:
        return None
    figure, axes = _figure()
    for key, colour, label in (("target", _GREY, "target"), ("opacity_at_rank", _BLUE, "opacity at rank B")):
        axes.plot(*_without_gaps(*facts.series(key)), color=colour, label=label, linewidth=1.8)
    axes.set(xlabel="iteration", ylabel="opacity", ylim=(0, None))
    _, values = facts.series("opacity_at_rank")
    right = axes.twinx()
    first, last = iterations[0], iterations[-1]
    rates = [(at, rate) for at, rate in zip(*facts.series("rate"), strict=True) if first <= at <= last]
    right.plot(*_without_gaps(*map(list, zip(*rates, strict=True))), color=_ORANGE, label="pressure λ", linewidth=1.2)
    right.set_yscale("log")
    right.set_ylabel("pressure λ")
    lines = [*axes.get_lines(), *right.get_lines()]
    names = [line.get_label() for line in lines]
    # Above the axes: the lines cross all of them.
    axes.legend(lines, names, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=_FONT)
    caption = (
        "B is the budget. While the B-th most opaque Gaussian lies above the target the pressure rises, while it lies "
        f"below it falls. Its opacity was {values[0]:.2f} when selection began, and {values[-1]:.3g} when it was last "
        "compared."
    )
    return Plot("The controller", caption, _svg(figure, "controller"))


def _survival(record: Any, facts: Facts) -> Plot:
    survival = record["survival"]
    figure, panels = _figure(columns=2)
    opacity_edges = np.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, LOGIT_BINS + 1)
    size_edges = np.linspace(SMALLEST_SIZE, 0, SIZE_BINS + 1)
    total = 0
    for axes, key, edges in zip(panels, ("opacity", "size"), (opacity_edges, size_edges), strict=True):
        before, survived = (np.array(survival[key][name], dtype=np.float64) for name in ("before", "survived"))
        total, left = int(before.sum()), int(survived.sum())
        axes.stairs(survived, edges, fill=True, color=_BLUE, label="survived")
        axes.stairs(before, edges, baseline=survived, fill=True, color=_ORANGE, alpha=0.75, label="died")
        middle = (edges[:-1] + edges[1:]) / 2
        share = axes.twinx()
        known = before >= max(10.0, 0.002 * total)  # a share of a handful says nothing
        share.plot(middle[known], survived[known] / before[known], color=_INK, linewidth=1.2, marker=".", markersize=3)
        share.set(ylim=(0, 1), ylabel="share that survived")
        axes.set_ylabel("Gaussians")
        shown = edges[:-1][before > 0]
        axes.set_xlim(float(shown.min()) - 0.5, float(shown.max()) + 0.5 + (edges[1] - edges[0]))
    panels[0].set_xticks(
        [math.log(o / (1 - o)) for o in _OPACITY_TICKS[1:-1]], [f"{o:g}" for o in _OPACITY_TICKS[1:-1]]
    )
    panels[0].set_xlabel(f"opacity at iteration {survival['since']:,}")
    panels[1].set_xticks(range(int(SMALLEST_SIZE), 1), [f"$10^{{{e}}}$" for e in range(int(SMALLEST_SIZE), 1)])
    low, high = np.nonzero(np.array(survival["size"]["before"]))[0][[0, -1]]
    panels[1].set_xlim(size_edges[low] - 0.1, size_edges[high + 1] + 0.1)
    panels[1].set_xlabel("size: largest σ, in extents of the scene")
    panels[0].legend(frameon=False, fontsize=_FONT)
    caption = (
        f"Of {total:,} Gaussians that were there when {survival['stretch']} began (iteration {survival['since']:,}) "
        f"{left:,} were left at its end (iteration {record['iteration']:,}), by the opacity and the size that they had "
        "at its beginning. The line is the share that survived."
    )
    return Plot("Who died", caption, _svg(figure, f"survival-{record['iteration']}"))


def _loss(facts: Facts) -> Plot | None:
    iterations, losses = facts.series("loss")
    if len(iterations) < 2:
        return None
    figure, axes = _figure()
    axes.plot(iterations, losses, color=_BLUE, linewidth=1.2, label="loss, smoothed")
    axes.set(xlabel="iteration", ylabel="loss", yscale="log")
    scored, scores = facts.series("held_out_psnr")
    if scores:
        right = axes.twinx()
        right.plot(scored, scores, "o-", color=_GREEN, markersize=5, label="held-out PSNR")
        right.set_ylabel("held-out PSNR in dB")
        right.margins(0.3)
    _mark(axes, facts.stretches)
    caption = "The training loss, 0.8 L1 + 0.2 (1 − SSIM) and what rules add"
    if facts.config and facts.config.refinements.squared_error:
        caption += "; once errors are squared 0.6 RMSE + 0.4 (1 − SSIM), which is larger"
    told = ", ".join(f"{score:.2f} dB at {at:,}" for at, score in zip(scored, scores, strict=True))
    return Plot("Loss and score", f"{caption}." + (f" Held-out PSNR: {told}." if told else ""), _svg(figure, "loss"))


def _figure(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDE, _TALL), layout="constrained")
    axes = figure.subplots(1, columns)
    for each in np.atleast_1d(axes):
        each.xaxis.set_major_formatter("{x:,.0f}")
        each.yaxis.set_major_formatter("{x:,g}" if columns == 1 else "{x:,.0f}")
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    """The picture as an element of a page; its ids begin with `name`, so that those of several do not meet."""
    from matplotlib import rc_context

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(axes.yaxis.get_label_position() == "right")
        axes.spines[:].set_color(_INK)
        axes.tick_params(which="both", colors=_INK, labelsize=_FONT)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=_INK, fontsize=_FONT)
        if (legend := axes.get_legend()) is not None and not legend.get_frame_on():
            for text in legend.get_texts():
                text.set_color(_INK)
    file = io.StringIO()
    # Text stays text, to be found and read aloud; the same figures give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gns"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r'<svg aria-hidden="true" \1\2', svg, count=1)
    return svg.replace(_INK, "currentColor")


def _mark(axes: Any, stretches: Sequence[Stretch], *, shaded: bool = True) -> None:
    """The parts of a run behind, or as lines over, what is drawn."""
    low, high = axes.get_xlim()
    for stretch in stretches:
        first, last = max(stretch.first, low), min(stretch.last, high)
        if shaded:
            axes.axvspan(first, max(last, first + (high - low) / 400), color=_SHADES[stretch.selects], alpha=0.13, lw=0)
            axes.annotate(
                stretch.name,
                (first, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                fontsize=_FONT,
                color=_INK,
            )
        else:
            for at in (first, last):
                axes.axvline(at, color="#ffffff", linewidth=0.6, linestyle=":")
    axes.set_xlim(low, high)


def _logits(iterations: Sequence[int], opacities: Sequence[float]) -> tuple[list[int], list[float]]:
    inside = [(at, min(max(o, 1e-4), 1 - 1e-4)) for at, o in zip(iterations, opacities, strict=True)]
    return [at for at, _ in inside], [math.log(o / (1 - o)) for _, o in inside]


def _without_gaps(iterations: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line that is broken where a phase ends and the next begins long after."""
    steps = np.diff(iterations)
    usual = float(np.median(steps)) if len(steps) else 1.0
    drawn_at: list[float] = []
    drawn: list[float] = []
    for index, (at, value) in enumerate(zip(iterations, values, strict=True)):
        if index and at - iterations[index - 1] > 5 * usual:
            drawn_at.append(math.nan)
            drawn.append(math.nan)
        drawn_at.append(at)
        drawn.append(value)
    return drawn_at, drawn


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]
