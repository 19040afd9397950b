"""The shipped CUDA kernels of the renderer, run on the CPU, against the reference renderer and against themselves."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import reference
from gns.gaussian_renderer.backends import kernel_table
from gns.gaussian_renderer.backends.kernel_table import KERNELS, SOURCE_FOLDER, TILE, camera_arguments
from gns.testing.comparison import (
    Outcome,
    assert_gradients_agree,
    assert_images_agree,
    assert_maps_agree,
    assert_outcomes_agree,
    assert_same_bits,
    example,
    judgement,
    judgement_of_maps,
    outside_band,
)
from gns.testing.examples import (
    EXAMPLES,
    Example,
    camera_at,
    example_of,
    gaussians_seen,
    rows,
)
from gns.testing.shim import ShimError, ShimLauncher
from tests.cuda.stages import KERNEL_TOLERANCE, NOT_DRAWN, Stages, evaluate_stages, poisoned, prepared


@cache
def drawn(launcher: ShimLauncher, name: str) -> Outcome:
    """What the kernels make of the named example; run once."""
    return evaluate_stages(launcher, example(name), outside_band(name))


@cache
def listed(launcher: ShimLauncher, name: str) -> Stages:
    """The named example down to its lists: for tests that change neither these nor the parameters."""
    return prepared(launcher, example(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_everything_agrees_with_the_reference(name: str, shim: ShimLauncher) -> None:
    assert_outcomes_agree(drawn(shim, name), judgement(name), outside_band(name), KERNEL_TOLERANCE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_order_of_threads_and_the_width_of_tile_ids_change_no_bit(
    name: str, shim: ShimLauncher, backwards: ShimLauncher
) -> None:
    assert_same_bits(drawn(shim, name), evaluate_stages(backwards, example(name), outside_band(name), wide=True))


@pytest.mark.parametrize("name", EXAMPLES)
def test_maps_agree_with_the_reference(name: str, shim: ShimLauncher, backwards: ShimLauncher) -> None:
    inside = outside_band(name)
    found = evaluate_stages(shim, example(name), inside, maps=True)
    assert_images_agree(found, drawn(shim, name), inside, replace(KERNEL_TOLERANCE, image=0.0))
    assert_maps_agree(found, judgement_of_maps(name), inside, KERNEL_TOLERANCE)
    assert_gradients_agree(found.gradients, judgement_of_maps(name).gradients, KERNEL_TOLERANCE.gradient)
    again = evaluate_stages(backwards, example(name), inside, maps=True)
    assert_same_bits(found, again)


# ---- stage by stage --------------------------------------------------------------------------------------------------


def dense_alphas(scene: Example) -> Tensor:
    """α of every Gaussian at every pixel before any cut-off but the near plane, [N, H, W], in float64."""
    camera = scene.camera
    degree = scene.gaussians.sh_degree if scene.sh_degree is None else scene.sh_degree
    splats = reference.visible_splats(camera, scene.gaussians, degree)
    offsets = splats.means[:, None] - reference.pixel_centers(camera)[None]
    conics = torch.linalg.inv(splats.covariances)
    power = -0.5 * torch.einsum("npi,nij,npj->np", offsets, conics, offsets)
    alphas = torch.zeros(len(scene.gaussians), camera.height * camera.width, dtype=torch.float64)
    alphas[splats.ids] = splats.opacities[:, None] * torch.exp(power)
    return alphas.view(-1, camera.height, camera.width)


def tiles_met(stages: Stages) -> Tensor:
    """Whether each Gaussian is in each tile's list, [N, T]."""
    met = torch.zeros(len(stages.gaussians), len(stages.tile_ranges), dtype=torch.bool)
    for tile, (begin, end) in enumerate(stages.tile_ranges.tolist()):
        met[stages.list[begin:end].long(), tile] = True
    return met


@pytest.mark.parametrize("name", EXAMPLES)
def test_lists_hold_every_contribution_and_little_else(name: str, shim: ShimLauncher) -> None:
    scene, stages = example(name), listed(shim, name)
    columns, down = stages.tiles
    alphas = dense_alphas(scene)
    padded = torch.nn.functional.pad(
        alphas, (0, columns * TILE - scene.camera.width, 0, down * TILE - scene.camera.height)
    )
    strongest = padded.view(-1, down, TILE, columns, TILE).amax(dim=(2, 4)).flatten(1)
    met = tiles_met(stages)
    assert not (strongest >= 1 / 255)[~met].any(), "a contribution is missing from the lists"
    assert torch.equal(met.sum(dim=1), stages.tile_counts.long())
    if met.any():  # the columns' spans also hold tiles that only the ellipse between pixel centres meets
        assert (strongest >= 0.9 / 255)[met].double().mean() > 0.75


@pytest.mark.parametrize("name", EXAMPLES)
def test_lists_are_near_to_far_and_slots_are_used_once(name: str, shim: ShimLauncher) -> None:
    stages = listed(shim, name)
    assert stages.slots.sort().values.tolist() == list(range(len(stages.list)))
    ranges = [(begin, end) for begin, end in stages.tile_ranges.tolist() if begin < end]
    assert [begin for begin, _ in ranges] == [0, *(end for _, end in ranges[:-1])][: len(ranges)]
    assert (ranges[-1][1] if ranges else 0) == len(stages.list)
    for begin, end in ranges:
        members = stages.list[begin:end].long()
        depths = stages.depth_keys[members]
        assert (depths[1:] >= depths[:-1]).all() and not (depths == NOT_DRAWN).any()
        nearer = (depths[1:] > depths[:-1]) | (members[1:] > members[:-1])
        assert nearer.all(), "equal depths must keep the order of their indices"
    for gaussian in stages.tile_counts.nonzero().flatten().tolist():
        first, count = int(stages.slot_begin[gaussian]), int(stages.tile_counts[gaussian])
        assert sorted(stages.slots[stages.list == gaussian].tolist()) == list(range(first, first + count))


def test_depth_keys_are_the_bits_of_the_depth(shim: ShimLauncher) -> None:
    scene = example("33x47, degree 2")
    stages = prepared(shim, scene)
    drawn = stages.depth_keys != NOT_DRAWN
    pose = torch.from_numpy(scene.camera.world_to_camera)
    depths = scene.gaussians.means @ pose[2, :3] + pose[2, 3]
    assert torch.equal(drawn, stages.radii > 0)
    torch.testing.assert_close(stages.depth_keys.view(torch.float32)[drawn].double(), depths[drawn], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_three_forward_kernels_agree_to_the_bit(name: str, shim: ShimLauncher) -> None:
    scene, stages = example(name), listed(shim, name)
    background, edges = scene.background.float(), scene.edges.float()
    image, alpha, none = stages.blend(background)
    scored_image, scored_alpha, scores = stages.blend(background, edges)
    assert none is None and scores is not None
    assert torch.equal(image, scored_image) and torch.equal(alpha, scored_alpha)
    assert torch.equal(stages.score(edges), scores) and torch.isfinite(scores).all()


def test_importance_needs_no_colours(shim: ShimLauncher) -> None:
    scene, stages = example("33x47, degree 2"), prepared(shim, example("33x47, degree 2"))
    with_colours = stages.score(scene.edges.float())
    stages.gaussians.sh_dc.fill_(math.nan)
    stages.project(with_colour=False)
    stages.list_instances()
    assert torch.equal(stages.score(scene.edges.float()), with_colours)


@pytest.mark.parametrize("name", ["deep opaque stack", "wide giants", "2000 in one tile", "130x70, degree 3"])
def test_the_backward_pass_writes_every_slot(name: str, shim: ShimLauncher) -> None:
    """Poisoned slots: what the early end of a tile leaves out must come out zero."""
    scene, stages = example(name), prepared(shim, example(name))
    image, alpha, _ = stages.blend(scene.background.float())
    stages.blend_backward(image, alpha, scene.image_weights.float(), None)
    assert torch.isfinite(stages.packets).all()
    if name == "deep opaque stack":
        last = stages.packets[stages.slots[stages.tile_ranges[0, 1] - 1].long()]
        assert not last.any(), "no pixel should see the last Gaussian of this example"


def test_gradients_are_added_to(shim: ShimLauncher) -> None:
    scene, stages = example("33x47, degree 2"), prepared(shim, example("33x47, degree 2"))
    image, alpha, _ = stages.blend(scene.background.float())
    stages.blend_backward(image, alpha, scene.image_weights.float(), None)
    fresh, added = stages.empty_gradients(), stages.empty_gradients(7.0)
    screen = stages.project_backward(fresh)
    for first, second in zip(screen, stages.project_backward(added), strict=True):
        assert first.any() and torch.equal(first, second), "screen gradients are written, not added to"
    for name, values in fresh.items():
        torch.testing.assert_close(added[name], values + 7.0, rtol=1e-6, atol=1e-5)
    undrawn = stages.tile_counts == 0
    assert undrawn.any()
    for values in added.values():
        assert (values[undrawn] == 7.0).all()


def test_without_a_gradient_of_alpha_none_is_taken(shim: ShimLauncher) -> None:
    scene = example("15x17, degree 0")
    stages = prepared(shim, scene)
    image, alpha, _ = stages.blend(scene.background.float())
    weights = scene.image_weights.float()
    stages.blend_backward(image, alpha, weights, None)
    without = stages.packets
    stages.blend_backward(image, alpha, weights, torch.zeros_like(alpha))
    assert torch.equal(stages.packets, without)


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_screen_gradients_all_others_keep_their_bits(name: str, shim: ShimLauncher) -> None:
    scene, stages = example(name), prepared(shim, example(name))
    image, alpha, _ = stages.blend(scene.background.float())
    found = []
    for screen in (True, False):
        stages.blend_backward(image, alpha, scene.image_weights.float(), scene.alpha_weights.float(), screen=screen)
        gradients = stages.empty_gradients()
        found.append((stages.packets, gradients, stages.project_backward(gradients)))
    (packets, gradients, (absolute, signed)), (plain_packets, plain_gradients, (no_absolute, plain_signed)) = found
    others = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
    assert torch.equal(packets[:, others], plain_packets[:, others])
    assert all(torch.equal(values, plain_gradients[name]) for name, values in gradients.items())
    assert not plain_packets[:, [6, 7]].any() and not no_absolute.any()
    assert absolute.any() == bool(packets.any())
    assert torch.equal(signed, plain_signed)


def test_optional_outputs_may_be_left_out(shim: ShimLauncher) -> None:
    scene, stages = example("16x16, degree 1"), prepared(shim, example("16x16, degree 1"))
    image, alpha, _ = stages.blend(scene.background.float())
    stages.blend_backward(image, alpha, scene.image_weights.float(), None)
    gradients, others = stages.empty_gradients(), stages.empty_gradients()
    stages.project_backward(gradients)
    omitted = Omit(shim, {"project": (37,), "blend": (8,), "project_backward": (42, 43)})
    again = Stages(omitted, stages.camera, stages.gaussians, stages.sh_degree)
    again.project()
    again.list_instances()
    assert torch.equal(again.blend(scene.background.float())[0], image)
    again.blend_backward(image, alpha, scene.image_weights.float(), None)
    again.project_backward(others)
    for name, values in gradients.items():
        assert torch.equal(values, others[name])


class Omit(ShimLauncher):
    """Passes None for the last arguments of some kernels."""

    def __init__(self, launcher: ShimLauncher, positions: dict[str, tuple[int, ...]]) -> None:
        self._launcher, self._positions = launcher, positions

    def launch(self, name: str, grid: object, block: object, arguments: object) -> None:
        given = list(arguments)  # type: ignore[call-overload]
        positions = self._positions.get(name, ())
        assert positions == tuple(range(len(given) - len(positions), len(given)))
        for position in positions:
            given[position] = None
        self._launcher.launch(name, grid, block, given)  # type: ignore[arg-type]


# ---- bad values ------------------------------------------------------------------------------------------------------

SPOILT = 13


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group", ["means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest"])
def test_a_gaussian_that_is_not_finite_is_simply_not_drawn(group: str, value: float, shim: ShimLauncher) -> None:
    camera = camera_at(33, 20, seed=3)
    gaussians = gaussians_seen(camera, 40, seed=9, margin=-0.1)
    getattr(gaussians, group)[SPOILT].view(-1)[-1] = value
    everywhere = torch.ones(20, 33, dtype=torch.bool)
    outcome = evaluate_stages(shim, example_of(camera, gaussians), everywhere)
    others = example_of(camera, rows(gaussians, torch.arange(40) != SPOILT))
    assert outcome.radii[SPOILT] == 0
    assert torch.equal(outcome.image, evaluate_stages(shim, others, everywhere).image)
    for name, gradient in outcome.gradients.items():
        assert torch.isfinite(gradient).all() and not gradient[SPOILT].any(), name


@pytest.mark.parametrize("value", [80.0, -80.0, 30.0, -30.0])
@pytest.mark.parametrize("group", ["log_scales", "opacity_logits", "quats"])
def test_extreme_parameters_make_no_nan(group: str, value: float, shim: ShimLauncher) -> None:
    camera = camera_at(33, 20, seed=3)
    gaussians = gaussians_seen(camera, 40, seed=9, margin=-0.1)
    getattr(gaussians, group)[SPOILT] = value
    outcome = evaluate_stages(shim, example_of(camera, gaussians), torch.ones(20, 33, dtype=torch.bool))
    for values in (outcome.image, outcome.alpha, outcome.radii, outcome.importance, *outcome.gradients.values()):
        assert torch.isfinite(values).all()


# ---- the table -------------------------------------------------------------------------------------------------------

LETTERS = {
    torch.float32: "f",
    torch.int32: "i",
    torch.int16: "s",
    torch.int64: "l",
    torch.uint8: "b",
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_table_has_the_signature_of_each_kernel(name: str, shim: ShimLauncher) -> None:
    letters = [LETTERS[argument.dtype] for argument in KERNELS[name].arguments]
    arrays = [bool(argument.shape) for argument in KERNELS[name].arguments]
    expected = "".join(c.upper() if array else c for c, array in zip(letters, arrays, strict=True))
    assert shim.signature(name) == expected


def _expanded(text: str, source: str) -> str:
    """`text` with the macro of one parameter that `source` may define for lists of arguments."""
    macro = re.search(r"#define (GNS_\w+_ARGUMENTS)\(k\)((?:.*\\\n)*.*)", source)
    if macro is None:
        return text
    return re.sub(macro[1] + r"\((\w+)\)", lambda use: re.sub(r"\bk\b", use[1], macro[2]).replace("##", ""), text)


def test_the_table_has_the_argument_names_of_each_kernel() -> None:
    for kernel in KERNELS.values():
        source = (SOURCE_FOLDER / kernel.source).read_text()
        stem = kernel.name.removesuffix("_wide")
        macros = {"tiles.cu": f" {stem}##SUFFIX(", "blend_backward.cu": " NAME("}
        begin, plain = source.find('extern "C"'), f" {stem}("
        start = source.find(plain, begin)
        if start < 0 or kernel.source == "tiles.cu":
            start = source.find(macros[kernel.source], begin)
        text = _expanded(source[source.index("(", start) + 1 : source.index(") {", start)], source).replace("\\", "")
        names = [part.split()[-1].lstrip("*") for part in text.split(",")]
        listed = [argument.name for argument in kernel.arguments]
        if names[0] == "GNS_CAMERA_ARGUMENTS":
            camera = [argument.name for argument in KERNELS["project"].arguments[:24]]
            names = camera + names[1:]
        assert names == listed, kernel.name


def test_the_numbers_of_the_table_are_those_of_the_sources() -> None:
    device = (SOURCE_FOLDER / "device.cuh").read_text()
    maths = (SOURCE_FOLDER.parent / "splat_math.h").read_text()
    assert f"constexpr int kSplat = {kernel_table.SPLAT // 4};" in device
    assert f"constexpr int kFootprint = {kernel_table.FOOTPRINT // 4};" in device
    assert f"constexpr int kTile = {kernel_table.TILE};" in maths
    assert f"constexpr int kPacket = {kernel_table.PACKET};" in maths
    adam = (SOURCE_FOLDER / "adam.cu").read_text()
    assert f"GNS_ADAM_SEEK({kernel_table.ADAM_TENSORS - 1})\n  gns::step_part" in adam
    assert "constexpr int kEach = 4;" in adam and "kAdamThreads = 256;" in adam and kernel_table.ADAM_PART == 4 * 256
    assert f"constexpr double kFrustumMargin = {kernel_table.FRUSTUM_MARGIN};" in maths


def test_camera_arguments_are_in_the_order_of_the_table() -> None:
    camera = replace(camera_at(30, 20, seed=4), name="view")
    values = dict(
        zip((a.name for a in KERNELS["project"].arguments), camera_arguments(camera, antialiased=True), strict=False)
    )
    assert len(camera_arguments(camera, antialiased=False)) == 24 and values["antialiased"] == 1
    assert (values["width"], values["height"], values["fx"], values["cy"]) == (30, 20, camera.fx, camera.cy)
    assert values["r5"] == camera.rotation[1, 2] and values["tz"] == camera.translation[2]
    assert values["center_y"] == pytest.approx(camera.center[1])
    assert values["limit_y"] == pytest.approx(1.3 * 10 / camera.fy)


def test_wrong_arguments_are_refused(shim: ShimLauncher) -> None:
    count = torch.zeros(3, dtype=torch.int32)
    scores, importance = torch.zeros(5), torch.zeros(3)
    shim.launch("sum_scores", (1,), (256, 1, 1), (3, count, count, scores, importance))
    wrong = [
        (3, count, count, scores),
        (3, count, count, scores.double(), importance),
        (3, count, count, torch.zeros(5, 2)[:, 0], importance),
        (3, count, count, None, importance),
        (count, count, count, scores, importance),
        (3.0, count, count, scores, importance),
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError), match="sum_scores"):
            shim.launch("sum_scores", (1,), (256, 1, 1), arguments)


def test_a_grid_without_blocks_is_refused(shim: ShimLauncher) -> None:
    nothing = torch.zeros(0, dtype=torch.int32)
    with pytest.raises(ShimError, match="none"):
        shim.launch("sum_scores", (0, 1, 1), (256, 1, 1), (0, nothing, nothing, poisoned(0), poisoned(0)))
