"""Lens models against COLMAP and OpenCV; undistorted photos against where known points must appear."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gns.errors import UserError
from gns.utils.undistortion import MODELS, Lens, undistort, undistorted_lens

# Pixels that COLMAP 4.2 (pycolmap, Camera.img_from_cam) gives the rays of RAYS, for a camera of 640 × 480.
RAYS = np.array([[0.3, -0.2], [-0.45, 0.5]])
COLMAP: dict[str, tuple[tuple[float, ...], list[tuple[float, float]]]] = {
    "SIMPLE_PINHOLE": ((500.0, 320.0, 240.0), [(470.0, 140.0), (95.0, 490.0)]),
    "PINHOLE": ((500.0, 510.0, 330.0, 235.0), [(480.0, 133.0), (105.0, 490.0)]),
    "SIMPLE_RADIAL": ((500.0, 330.0, 235.0, -0.1), [(478.05, 136.3), (115.18125, 473.6875)]),
    "RADIAL": ((500.0, 330.0, 235.0, -0.1, 0.03), [(478.12605, 136.2493), (113.799145, 475.223172)]),
    "OPENCV": (
        (500.0, 510.0, 330.0, 235.0, -0.1, 0.03, 0.002, -0.003),
        [(477.54105, 134.672086), (112.062895, 481.687685)],
    ),
    "OPENCV_FISHEYE": (
        (400.0, 410.0, 330.0, 235.0, 0.05, -0.01, 0.003, -0.001),
        [(445.845015, 155.83924), (168.946365, 418.422196)],
    ),
    "FULL_OPENCV": (
        (500.0, 510.0, 330.0, 235.0, -0.1, 0.03, 0.002, -0.003, 0.004, 0.05, -0.02, 0.01),
        [(476.631983, 135.290252), (116.107308, 477.104017)],
    ),
    "FOV": ((400.0, 410.0, 330.0, 235.0, 0.9), [(453.953902, 150.298167), (158.657689, 430.139854)]),
    "SIMPLE_RADIAL_FISHEYE": ((400.0, 330.0, 235.0, 0.05), [(445.86096, 157.75936), (168.76964, 414.144844)]),
    "RADIAL_FISHEYE": ((400.0, 330.0, 235.0, 0.05, -0.01), [(445.844445, 157.77037), (168.964463, 413.928374)]),
    "THIN_PRISM_FISHEYE": (
        (400.0, 410.0, 330.0, 235.0, 0.05, -0.01, 0.002, -0.003, 0.003, -0.001, 0.004, -0.005),
        [(445.605518, 155.888337), (168.431048, 418.737527)],
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        (
            400.0,
            410.0,
            330.0,
            235.0,
            0.05,
            -0.01,
            0.003,
            -0.001,
            0.002,
            -0.0005,
            0.002,
            -0.003,
            0.004,
            -0.001,
            0.003,
            -0.002,
        ),
        [(446.398318, 155.643793), (170.453468, 417.52856)],
    ),
    "SIMPLE_DIVISION": ((400.0, 330.0, 235.0, -0.1), [(448.479288, 156.013808), (157.481956, 426.686716)]),
    "DIVISION": ((400.0, 410.0, 330.0, 235.0, -0.1), [(448.479288, 154.039153), (157.481956, 431.478884)]),
    "SIMPLE_FISHEYE": ((400.0, 330.0, 235.0), [(445.17138, 158.21908), (171.547686, 411.058127)]),
    "FISHEYE": ((400.0, 410.0, 330.0, 235.0), [(445.17138, 156.299557), (171.547686, 415.45958)]),
    "EUCM": ((400.0, 410.0, 330.0, 235.0, 0.6, 1.1), [(445.222078, 156.264913), (171.311204, 415.728907)]),
}
DISTORTED = [name for name in COLMAP if not name.endswith("PINHOLE")]


def lens_of(model: str) -> Lens:
    return Lens.from_parameters(model, 640, 480, COLMAP[model][0])


def photo_of_dot(lens: Lens, ray: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """A photo of one soft bright dot, drawn where the lens sees `ray`."""
    u, v = lens.project(*(np.array([value]) for value in ray))
    columns, rows = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
    dot = 250 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 3.0**2))
    return np.asarray(dot.round(), np.uint8)


def centroid(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    columns, rows = np.meshgrid(np.arange(image.shape[1]) + 0.5, np.arange(image.shape[0]) + 0.5)
    weights = image / image.sum()
    return np.array([(weights * columns).sum(), (weights * rows).sum()])


def test_every_model_is_covered() -> None:
    assert set(COLMAP) == set(MODELS)
    assert sorted(model.number for model in MODELS.values()) == list(range(17))


@pytest.mark.parametrize("model", COLMAP)
def test_models_agree_with_colmap(model: str) -> None:
    pixels = np.stack(lens_of(model).project(RAYS[:, 0], RAYS[:, 1]), axis=1)
    np.testing.assert_allclose(pixels, COLMAP[model][1], atol=2e-6)


@pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
def test_models_agree_with_opencv(model: str) -> None:
    lens = lens_of(model)
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (100, 2))
    points, zero = np.concatenate([rays, np.ones((100, 1))], axis=1)[:, None], np.zeros(3)
    if model == "OPENCV_FISHEYE":
        expected, _ = cv2.fisheye.projectPoints(points, zero, zero, matrix, np.array(lens.coefficients))
    else:
        expected, _ = cv2.projectPoints(points, zero, zero, matrix, np.array(lens.coefficients))
    pixels = np.stack(lens.project(rays[:, 0], rays[:, 1]), axis=1)
    np.testing.assert_allclose(pixels, expected.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize("model", DISTORTED)
@pytest.mark.parametrize("ray", [(0.0, 0.0), (0.35, -0.25), (-0.4, 0.3)])
def test_a_known_ray_lands_on_its_pinhole_pixel(model: str, ray: tuple[float, float]) -> None:
    lens = lens_of(model)
    target = undistorted_lens(lens)
    seen = centroid(undistort(photo_of_dot(lens, ray), lens))
    expected = np.array([target.fx * ray[0] + target.cx, target.fy * ray[1] + target.cy])
    assert np.abs(seen - expected).max() < 0.1  # a dot of σ = 3 is skewed a little by the resampling itself


@pytest.mark.parametrize("model", DISTORTED)
def test_no_black_border(model: str) -> None:
    lens = lens_of(model)
    target = undistorted_lens(lens)
    x = (np.array([0, target.width / 2, target.width]) - target.cx) / target.fx
    y = (np.array([0, target.height / 2, target.height]) - target.cy) / target.fy
    u, v = lens.project(*np.meshgrid(x, y))
    assert u.min() > -1e-6 and u.max() < 640 + 1e-6 and v.min() > -1e-6 and v.max() < 480 + 1e-6
    # and little of the photo is given away: a side of the rectangle lies on the photo's edge, but for a pixel
    slack = min(u.min(), v.min(), 640 - u.max(), 480 - v.max())
    assert slack < 1.5


def test_the_principal_point_stays_the_real_one() -> None:
    lens = lens_of("OPENCV")
    target = undistorted_lens(lens)
    assert target.cx / target.width == pytest.approx(330 / 640)
    assert target.cy / target.height == pytest.approx(235 / 480)
    assert (target.fx, target.fy) == (lens.fx, lens.fy)


@pytest.mark.parametrize("model", [name for name in MODELS if "FISHEYE" not in name])
def test_zero_distortion_is_a_pinhole(model: str) -> None:
    count = len(MODELS[model].coefficient_names)
    lens = Lens("PINHOLE" if not count else model, 640, 480, 500, 510, 330, 235, (0.0,) * count)
    assert lens.is_pinhole
    assert undistorted_lens(lens) == Lens("PINHOLE", 640, 480, 500, 510, 330, 235)


@pytest.mark.parametrize("model", [name for name in MODELS if "FISHEYE" in name])
def test_a_fisheye_is_no_pinhole_even_with_zero_coefficients(model: str) -> None:
    lens = Lens(model, 640, 480, 400, 400, 320, 240, (0.0,) * len(MODELS[model].coefficient_names))
    assert not lens.is_pinhole


def test_small_but_visible_distortion_is_not_ignored() -> None:
    lens = Lens.from_parameters("SIMPLE_RADIAL", 640, 480, (500, 320, 240, 1e-3))  # 0.26 px in the corner
    assert not lens.is_pinhole


def test_a_fisheye_of_more_than_180_degrees_is_cut_to_twice_the_photo() -> None:
    lens = Lens.from_parameters("OPENCV_FISHEYE", 800, 800, (220, 220, 400, 400, 0, 0, 0, 0))
    target = undistorted_lens(lens)
    assert (target.width, target.height) == (1600, 1600)


def test_a_polynomial_that_turns_round_is_not_followed() -> None:
    # r (1 − 0.5 r²) has its largest value 0.54 at r = 0.816; the photo's corner lies at 0.8 and shows no such ray.
    lens = Lens.from_parameters("SIMPLE_RADIAL", 640, 480, (500, 320, 240, -0.5))
    target = undistorted_lens(lens)
    assert np.hypot(target.cx / target.fx, target.cy / target.fy) <= 0.82


def test_hopeless_distortion_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be undistorted"):
        undistorted_lens(Lens.from_parameters("SIMPLE_RADIAL", 640, 480, (500, 320, 240, -500.0)))
    with pytest.raises(UserError, match="cannot be undistorted"):
        undistorted_lens(Lens.from_parameters("SIMPLE_RADIAL", 640, 480, (500, -20, 240, -0.1)))


@pytest.mark.parametrize("parameters", [(500.0, 320.0), (500.0, 320.0, 240.0, 0.1, 0.1), (-1.0, 320.0, 240.0, 0.1)])
def test_wrong_parameters_raise(parameters: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Lens.from_parameters("SIMPLE_RADIAL", 640, 480, parameters)


def test_resizing_scales_the_projection() -> None:
    lens = lens_of("THIN_PRISM_FISHEYE")
    u, v = lens.project(RAYS[:, 0], RAYS[:, 1])
    small_u, small_v = lens.resized(320, 120).project(RAYS[:, 0], RAYS[:, 1])
    np.testing.assert_allclose(small_u, u / 2)
    np.testing.assert_allclose(small_v, v / 4)


def test_colour_and_grey_are_undistorted_alike() -> None:
    grey = photo_of_dot(lens_of("OPENCV"), (0.3, 0.2))
    colour = undistort(np.repeat(grey[:, :, None], 3, axis=2), lens_of("OPENCV"))
    assert (colour == undistort(grey, lens_of("OPENCV"))[:, :, None]).all()
