"""Values that break arithmetic, in every input of the renderer, on the CPU and in the CUDA kernels as emulated.

What holds: the process goes on, colours and alpha are finite, what is not drawn gets no gradient, and a Gaussian that
is not drawn changes no bit of the picture or of the other Gaussians' gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer import importance, render
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.losses.photometric import dissimilarity, photometric_loss
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import GROUPS, as_planes
from gns.testing.comparison import BOTH
from gns.testing.examples import camera_at, converted, gaussians_seen, rows
from gns.testing.shim import ShimLauncher, compiler

CPU = torch.device("cpu")
COUNT = 24
POISON = (
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.2, -0.2),
    *(1e-45, -1e-45, 1.2e-38, 1e-38, -1e-38, 1e38, -1e38, 3.4e38, 1e30, -1e30, 1e19, 1e-19, 88.0, -88.0, 130.0, -130.0),
    *(math.log(1 / 254), math.log(99.0), 1 / 255, 0.99),  # logits at which opacity is exactly 1/255 and 0.99
)


@dataclass(frozen=True)
class Plant:
    """A value in one number of one Gaussian; `column` counts within its group, and wraps."""

    group: str
    row: int
    column: int
    value: float


plants = st.lists(
    st.builds(Plant, st.sampled_from(GROUPS), st.integers(0, COUNT - 1), st.integers(0, 44), st.sampled_from(POISON)),
    min_size=1,
    max_size=8,
)


def quietly(examples: int) -> settings:
    """The same examples every time; how long they take does not matter."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.fixture(params=["cpu", "cuda shim"])
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether everything on the CPU goes through the CUDA backend."""
    if request.param != "cpu":
        if compiler() is None:
            pytest.skip("no C++ compiler to build the CUDA kernels with")
        monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, ShimLauncher()))
    yield request.param != "cpu"


def poisoned(plant: list[Plant], dtype: torch.dtype = torch.float32) -> Gaussians:
    gaussians = converted(gaussians_seen(VIEW, COUNT, seed=4, sh_degree=2), dtype)
    for each in plant:
        values = getattr(gaussians, each.group)[each.row].reshape(-1)
        getattr(gaussians, each.group)[each.row] = values.index_fill(
            0, torch.tensor(each.column % len(values)), each.value
        ).reshape(getattr(gaussians, each.group)[each.row].shape)
    return gaussians


VIEW = camera_at(37, 29, seed=2)
BACKGROUND = (0.2, 0.4, 0.6)


@dataclass
class Drawn:
    """A picture and what came back."""

    image: Tensor
    alpha: Tensor
    radii: Tensor
    importance: Tensor
    gradients: dict[str, Tensor]


def draw(gaussians: Gaussians, camera: Camera = VIEW, background: tuple[float, ...] = BACKGROUND) -> Drawn:
    leaves = Gaussians(*(values.clone().requires_grad_() for _, values in gaussians.named_tensors()))
    edges = torch.linspace(0, 1, camera.width * camera.height).reshape(camera.height, camera.width)
    output = render(camera, leaves, background, edges=edges, screen_gradients=BOTH)
    weights = torch.linspace(-1, 1, output.image.numel()).reshape(output.image.shape)
    torch.autograd.backward((output.image * weights).sum() + output.alpha.sum())
    assert output.importance is not None
    gradients = {name: values.grad for name, values in leaves.named_tensors() if values.grad is not None}
    screen = {"abs_grad": output.abs_grad, "signed_grad": output.signed_grad}
    return Drawn(output.image.detach(), output.alpha.detach(), output.radii, output.importance, gradients | screen)


def assert_sound(gaussians: Gaussians, camera: Camera = VIEW) -> Drawn:
    """What holds whatever the values are."""
    drawn = draw(gaussians, camera)
    for name in ("image", "alpha", "radii", "importance"):
        assert torch.isfinite(getattr(drawn, name)).all(), name
    assert (drawn.alpha >= 0).all() and (drawn.alpha <= 1).all() and (drawn.radii >= 0).all()
    hidden = drawn.radii == 0
    for name, gradient in drawn.gradients.items():
        assert (gradient[hidden] == 0).all(), f"{name} of Gaussians that are not drawn"
    shown = (~hidden).nonzero()[:, 0]
    alone = draw(rows(gaussians, shown), camera)
    assert torch.equal(alone.image, drawn.image) and torch.equal(alone.alpha, drawn.alpha)
    for name, gradient in alone.gradients.items():
        assert torch.equal(gradient.nan_to_num(), drawn.gradients[name][shown].nan_to_num()), name
    return drawn


@quietly(40)
@given(plant=plants)
def test_poisoned_parameters_do_no_harm(emulated: bool, plant: list[Plant]) -> None:
    assert_sound(poisoned(plant))


@quietly(15)
@given(plant=plants)
def test_poisoned_parameters_do_no_harm_in_double_precision(plant: list[Plant]) -> None:
    drawn = draw(poisoned(plant, torch.float64))
    assert torch.isfinite(drawn.image).all() and torch.isfinite(drawn.alpha).all()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_drawn(emulated: bool, group: str, value: float) -> None:
    drawn = assert_sound(poisoned([Plant(group, 5, 0, value)]))
    assert drawn.radii[5] == 0


@quietly(25)
@given(
    index=st.integers(0, 15),
    value=st.sampled_from([value for value in POISON if abs(value) <= 1e15 or not math.isfinite(value)]),
    focal=st.sampled_from([1e-3, 1.0, 30.0, 1e6, 1e30, math.inf, math.nan, 0.0, -30.0]),
)
def test_poisoned_cameras_do_no_harm(emulated: bool, index: int, value: float, focal: float) -> None:
    pose = VIEW.world_to_camera.copy()
    pose.reshape(-1)[index] = value
    for changes in ({"world_to_camera": pose}, {"fx": focal}, {"fy": focal, "cx": value}):
        try:
            camera = replace(VIEW, **changes)
        except UserError as error:  # which is as good as a picture
            assert "photo example" in str(error)
            continue
        drawn = draw(poisoned([]), camera)
        assert torch.isfinite(drawn.image).all() and torch.isfinite(drawn.alpha).all()


def placed(depths: list[float], *, logit: float = 2.0, size: float = 0.05) -> Gaussians:
    """Gaussians in the middle of the view at these depths from an unmoved camera."""
    count = len(depths)
    means = torch.zeros(count, 3)
    means[:, 2] = torch.tensor(depths)
    return Gaussians(
        means=means,
        log_scales=torch.full((count, 3), math.log(size)),
        quats=torch.zeros(count, 4),  # which stand for no rotation
        opacity_logits=torch.full((count,), logit),
        sh_dc=torch.ones(count, 1, 3),
        sh_rest=torch.zeros(count, 8, 3),
    )


def test_at_the_camera_on_the_near_plane_and_behind_nothing_is_drawn(emulated: bool) -> None:
    camera = replace(camera_at(32, 24, moved=False), cx=16.0, cy=12.0)
    near = float(np.nextafter(np.float32(0.2), np.float32(1)))
    drawn = assert_sound(placed([0.0, 0.1, 0.2, -1.0, -0.0, near, 1.0]), camera)
    assert (drawn.radii > 0).tolist() == [False, False, False, False, False, True, True]


def test_twenty_thousand_in_one_tile_and_one_over_every_tile(emulated: bool) -> None:
    camera = replace(camera_at(48, 32, moved=False), cx=24.0, cy=8.0)
    count = 500 if emulated else 20_000
    crowd = placed([1.0 + index / count for index in range(count)], logit=-4.0, size=1e-4)
    crowd.log_scales[7] = 3.0  # wider than the view
    drawn = assert_sound(crowd, camera)
    assert (drawn.radii > 0).all() and (drawn.alpha > 0).all()


@pytest.mark.parametrize(("logit", "seen"), [(-5.5373, True), (-5.5375, False), (4.5951, True), (1e30, True)])
def test_opacities_about_the_cut_off_and_the_cap(emulated: bool, logit: float, seen: bool) -> None:
    """ln(1/254) = −5.53733 is the logit of exactly 1/255, ln 99 = 4.59512 that of 0.99."""
    camera = replace(camera_at(31, 23, moved=False), cx=15.5, cy=11.5)
    drawn = assert_sound(placed([1.0], logit=logit), camera)
    assert bool(drawn.alpha[11, 15] > 0) == seen
    assert drawn.alpha.max() <= 0.99 + 1e-6


# What has no Gaussians in it


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38, -1e38, 1e-45])
def test_a_poisoned_background_is_seen_where_it_shows(emulated: bool, value: float) -> None:
    drawn, clean = draw(poisoned([]), background=(value, 0.4, 0.6)), draw(poisoned([]))
    assert torch.equal(drawn.image[1:], clean.image[1:]) and torch.equal(drawn.alpha, clean.alpha)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_poisoned_edges_spoil_only_their_tile(emulated: bool, value: float) -> None:
    gaussians, edges = poisoned([]), torch.zeros(VIEW.height, VIEW.width)
    edges[3, 4] = value
    scores = importance(VIEW, gaussians, edges)
    edges[:16, :16] = 1.0
    there = importance(VIEW, gaussians, edges) > 0
    assert there.any() and not there.all() and (scores[~there] == 0).all()


@quietly(25)
@given(
    value=st.sampled_from(POISON),
    at=st.tuples(st.integers(0, 2), st.integers(0, 22), st.integers(0, 30)),
    squared=st.booleans(),
)
def test_a_poisoned_image_spoils_the_loss_and_no_more(
    emulated: bool, value: float, at: tuple[int, int, int], squared: bool
) -> None:
    image = torch.full((3, 23, 31), 0.5)
    image[at] = value
    image.requires_grad_()
    target = torch.full((23, 31, 3), 100, dtype=torch.uint8)
    loss = photometric_loss(image, target, squared=squared)
    torch.autograd.backward(loss)
    assert image.grad is not None
    if abs(value) <= 1e15:
        assert math.isfinite(loss.item()) and torch.isfinite(image.grad).all()
    elif not math.isfinite(value):
        assert not math.isfinite(loss.item())  # which stops a training
    far = torch.ones(23, 31, dtype=torch.bool)
    far[max(0, at[1] - 10) : at[1] + 11, max(0, at[2] - 10) : at[2] + 11] = False  # twice the window's reach
    assert torch.isfinite(image.grad[:, far]).all()
    assert torch.isfinite(dissimilarity(image, target)[far]).all()


@quietly(40)
@given(gradient=st.sampled_from(POISON), value=st.sampled_from(POISON), row=st.integers(0, 36))
def test_a_poisoned_gradient_spoils_one_number(emulated: bool, gradient: float, value: float, row: int) -> None:
    tensors = [as_planes(torch.linspace(-1, 1, 37)) for _ in range(4)]
    tensors[3].abs_()
    clean = [values.clone() for values in tensors]
    tensors[0][row], tensors[1][row] = value, gradient
    for each in (tensors, clean):
        adam_step([AdamGroup(AdamTensors(*each), rate=0.01, step=3)])
    others = torch.arange(37) != row
    for spoilt, expected in zip(tensors, clean, strict=True):
        assert torch.equal(spoilt[others], expected[others])
    if not math.isfinite(gradient):
        assert not math.isfinite(tensors[0][row])  # which is noticed, see gns.training.losses
