"""Lenses: every camera model of COLMAP, and how a photo becomes the one that a pinhole would have taken.

Each model is one function from ideal to distorted image coordinates, (x, y) = (X/Z, Y/Z) in, distorted (x, y) out, both
in units of the focal length. The equations are those of COLMAP's documented camera models; the OpenCV ones are in
OpenCV's calib3d documentation, the fisheye with tangential and thin-prism terms is Project Aria's, the field-of-view
model is Devernay & Faugeras (2001), the division model Fitzgibbon (2001), the enhanced unified model Khomutenko et al.
(2016). Written here rather than called from OpenCV because OpenCV lacks half of them and counts pixel centres from 0
where COLMAP counts from 0.5; OpenCV does the resampling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from gns.errors import UserError

Floats = npt.NDArray[np.float64]
Coefficients = Mapping[str, float]  # a coefficient that the model lacks reads as 0
Distortion = Callable[[Floats, Floats, Coefficients], tuple[Floats, Floats]]

# A lens that moves no pixel further than this is a pinhole: resampling would only blur.
NEGLIGIBLE_PIXELS = 0.01
# The undistorted image is at most this much wider and higher than the photo, as in COLMAP's undistorter: the rim of a
# fisheye would otherwise stretch over a picture of unlimited size.
MAX_GROWTH = 2.0
MIN_GROWTH = 0.2


def _tangential(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Displacement by a lens that is not parallel to the sensor (p1, p2)."""
    xx, xy, yy = x * x, x * y, y * y
    return 2 * c["p1"] * xy + c["p2"] * (3 * xx + yy), c["p1"] * (xx + 3 * yy) + 2 * c["p2"] * xy


def _equidistant(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The ideal fisheye: image radius θ = atan(r) in place of r."""
    r = np.hypot(x, y)
    scale = np.ones_like(r)
    np.divide(np.arctan(r), r, out=scale, where=r > 1e-8)
    return x * scale, y * scale


def _perspective(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Radial polynomial or rational function, and tangential terms (OpenCV's default model)."""
    r2 = x * x + y * y
    numerator = 1 + r2 * (c["k1"] + r2 * (c["k2"] + r2 * c["k3"]))
    denominator = 1 + r2 * (c["k4"] + r2 * (c["k5"] + r2 * c["k6"]))
    dx, dy = _tangential(x, y, c)
    return x * numerator / denominator + dx, y * numerator / denominator + dy


def _fisheye(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Polynomial in θ (OpenCV's fisheye model), and tangential and thin-prism terms on top."""
    x, y = _equidistant(x, y)
    r2 = x * x + y * y
    radial = 1 + r2 * (c["k1"] + r2 * (c["k2"] + r2 * (c["k3"] + r2 * c["k4"])))
    dx, dy = _tangential(x, y, c)
    return x * radial + dx + c["sx1"] * r2, y * radial + dy + c["sy1"] * r2


def _aria_fisheye(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Degree-6 polynomial in θ²; tangential and thin-prism terms act on its result."""
    x, y = _equidistant(x, y)
    r2 = x * x + y * y
    radial = np.ones_like(r2)
    for degree in range(6):
        radial += c[f"k{degree}"] * r2 ** (degree + 1)
    x, y = x * radial, y * radial
    r2 = x * x + y * y
    dx, dy = _tangential(x, y, {"p1": c["p1"], "p2": c["p0"]})
    return x + dx + r2 * (c["s0"] + r2 * c["s1"]), y + dy + r2 * (c["s2"] + r2 * c["s3"])


def _field_of_view(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Image radius atan(2 r tan(ω/2)) / ω; the ideal pinhole at ω = 0."""
    omega = c["omega"]
    if abs(omega) < 1e-6:
        return x, y
    r = np.hypot(x, y)
    scale = np.full_like(r, 2 * np.tan(omega / 2) / omega)
    np.divide(np.arctan(2 * r * np.tan(omega / 2)), r * omega, out=scale, where=r > 1e-8)
    return x * scale, y * scale


def _division(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """The inverse of x = x_d / (1 + k r_d²); NaN where no image point sees the ray."""
    scale = 2 / (1 + np.sqrt(1 - 4 * c["k"] * (x * x + y * y)))
    return x * scale, y * scale


def _enhanced_unified(x: Floats, y: Floats, c: Coefficients) -> tuple[Floats, Floats]:
    """Projection onto a spheroid, then onto the image."""
    alpha, beta = c["alpha"], c["beta"]
    depth = alpha * np.sqrt(beta * (x * x + y * y) + 1) + (1 - alpha)
    return x / depth, y / depth


@dataclass(frozen=True)
class LensModel:
    """One of COLMAP's camera models."""

    name: str
    number: int  # in COLMAP's binary files
    parameters: str  # in COLMAP's order
    distort: Distortion

    @property
    def names(self) -> list[str]:
        """The parameters' names."""
        return self.parameters.split()

    @property
    def coefficient_names(self) -> list[str]:
        """The parameters that are neither focal length nor principal point."""
        return [name for name in self.names if name not in ("f", "fx", "fy", "cx", "cy")]


MODELS = {
    model.name: model
    for model in (
        LensModel("SIMPLE_PINHOLE", 0, "f cx cy", _perspective),
        LensModel("PINHOLE", 1, "fx fy cx cy", _perspective),
        LensModel("SIMPLE_RADIAL", 2, "f cx cy k1", _perspective),
        LensModel("RADIAL", 3, "f cx cy k1 k2", _perspective),
        LensModel("OPENCV", 4, "fx fy cx cy k1 k2 p1 p2", _perspective),
        LensModel("OPENCV_FISHEYE", 5, "fx fy cx cy k1 k2 k3 k4", _fisheye),
        LensModel("FULL_OPENCV", 6, "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6", _perspective),
        LensModel("FOV", 7, "fx fy cx cy omega", _field_of_view),
        LensModel("SIMPLE_RADIAL_FISHEYE", 8, "f cx cy k1", _fisheye),
        LensModel("RADIAL_FISHEYE", 9, "f cx cy k1 k2", _fisheye),
        LensModel("THIN_PRISM_FISHEYE", 10, "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1", _fisheye),
        LensModel("RAD_TAN_THIN_PRISM_FISHEYE", 11, "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3", _aria_fisheye),
        LensModel("SIMPLE_DIVISION", 12, "f cx cy k", _division),
        LensModel("DIVISION", 13, "fx fy cx cy k", _division),
        LensModel("SIMPLE_FISHEYE", 14, "f cx cy", _fisheye),
        LensModel("FISHEYE", 15, "fx fy cx cy", _fisheye),
        LensModel("EUCM", 16, "fx fy cx cy alpha beta", _enhanced_unified),
    )
}


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a real camera. Distorted (x, y) is seen at pixel (fx·x + cx, fy·y + cy), pixel centres at +0.5."""

    model: str  # a key of MODELS
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    coefficients: tuple[float, ...] = ()  # in the order of the model's `coefficient_names`

    @staticmethod
    def from_parameters(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Lens:
        """A lens from COLMAP's parameter list.

        Raises ValueError where their number is wrong, a value is not finite or a focal length is not positive.
        """
        named = dict(zip(MODELS[model].names, parameters, strict=True))
        focal = named.get("f", 1.0)
        lens = Lens(
            model,
            width,
            height,
            fx=named.get("fx", focal),
            fy=named.get("fy", focal),
            cx=named["cx"],
            cy=named["cy"],
            coefficients=tuple(named[name] for name in MODELS[model].coefficient_names),
        )
        if not np.isfinite(parameters).all() or min(lens.fx, lens.fy) <= 0 or min(width, height) < 1:
            raise ValueError(f"{model} {width} × {height} {parameters}")
        return lens

    def resized(self, width: int, height: int) -> Lens:
        """The same lens for a photo resampled to `width` × `height`."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    @cached_property
    def _named_coefficients(self) -> Coefficients:
        return defaultdict(float, zip(MODELS[self.model].coefficient_names, self.coefficients, strict=True))

    def project(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixel coordinates of the rays (x, y, 1), arrays of one shape; NaN where the lens does not see a ray."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            x, y = MODELS[self.model].distort(x, y, self._named_coefficients)
            return self.fx * x + self.cx, self.fy * y + self.cy

    @cached_property
    def is_pinhole(self) -> bool:
        """Whether no pixel is displaced noticeably; never true of a fisheye, not even with coefficients of zero."""
        u, v = np.meshgrid(np.linspace(0, self.width, 33), np.linspace(0, self.height, 33))
        seen_u, seen_v = self.project((u - self.cx) / self.fx, (v - self.cy) / self.fy)
        return bool((np.hypot(seen_u - u, seen_v - v) <= NEGLIGIBLE_PIXELS).all())


@lru_cache(maxsize=16)
def undistorted_lens(lens: Lens) -> Lens:
    """The PINHOLE whose image every ray of which `lens` has photographed: no black border shows.

    Focal lengths stay, so the middle of the photo keeps its sampling. The image becomes the largest rectangle around
    the principal point, first with the photo's proportions, then grown in width and then in height, whose rays fall
    inside the photo; its principal point is the real one. Size and principal point hence scale by one factor an axis.

    Raises UserError where the principal point lies outside the photo or the distortion leaves less than a fifth.
    """
    if lens.is_pinhole:
        return replace(lens, model="PINHOLE", coefficients=())
    scale = _largest(lambda s: _sees_rectangle(lens, s, s), 0.0)
    if scale < MIN_GROWTH:
        raise UserError(
            f"the {lens.model} camera of {lens.width} × {lens.height} pixels with coefficients {lens.coefficients} "
            "cannot be undistorted: check its calibration, or undistort the photos with COLMAP first"
        )
    scale_x = _largest(lambda s: _sees_rectangle(lens, s, scale), scale)
    scale_y = _largest(lambda s: _sees_rectangle(lens, scale_x, s), scale)
    width, height = max(int(lens.width * scale_x), 1), max(int(lens.height * scale_y), 1)
    return Lens(
        "PINHOLE",
        width,
        height,
        lens.fx,
        lens.fy,
        cx=lens.cx * width / lens.width,
        cy=lens.cy * height / lens.height,
    )


def _largest(usable: Callable[[float], bool], low: float) -> float:
    """The largest usable value up to MAX_GROWTH, by bisection; `low` is known to be usable."""
    high = MAX_GROWTH
    if usable(high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if usable(middle) else (low, middle)
    return low


def _sees_rectangle(lens: Lens, scale_x: float, scale_y: float) -> bool:
    """Whether all rays of the photo's rectangle, scaled about the principal point, fall inside the photo.

    Sampled on lines from the principal point to the border. Along each, the distance from the principal point must
    grow: beyond the radius where a distortion polynomial turns round, it says nothing about the lens.
    """
    along = np.linspace(0, 1, 33)
    low, high = np.zeros_like(along), np.ones_like(along)
    u = lens.width * np.concatenate([along, along, low, high]) - lens.cx
    v = lens.height * np.concatenate([low, high, along, along]) - lens.cy
    fractions = np.append(np.linspace(0, 0.999, 17), 1.0)[:, None]  # the last step is the slope at the border itself
    seen_u, seen_v = lens.project(fractions * scale_x * u / lens.fx, fractions * scale_y * v / lens.fy)
    inside = (seen_u >= 0) & (seen_u <= lens.width) & (seen_v >= 0) & (seen_v <= lens.height)
    outward = np.diff(np.hypot(seen_u - lens.cx, seen_v - lens.cy), axis=0) > 0
    return bool(inside.all() and outward.all())


@lru_cache(maxsize=2)
def _source_pixels(lens: Lens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For each pixel of the undistorted image its (column, row) in the photo, in OpenCV's count from 0. [H, W] each.

    The last two are kept: photos of one camera share them.
    """
    target = undistorted_lens(lens)
    x = (np.arange(target.width) + 0.5 - target.cx) / target.fx
    y = (np.arange(target.height) + 0.5 - target.cy) / target.fy
    columns = np.empty((target.height, target.width), np.float32)
    rows = np.empty_like(columns)
    for start in range(0, target.height, 256):  # in bands: the float64 intermediates of a whole photo are large
        band = slice(start, start + 256)
        u, v = lens.project(*np.meshgrid(x, y[band]))
        columns[band], rows[band] = u - 0.5, v - 0.5
    return columns, rows


def undistort_depth(inverse: npt.NDArray[np.float32], lens: Lens) -> npt.NDArray[np.float32]:
    """Inverse depth [H, W] as `undistorted_lens(lens)` sees it; bilinear, which invents no depths at edges."""
    columns, rows = _source_pixels(lens)
    result = cv2.remap(inverse, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(result, np.float32)


def undistort(image: npt.NDArray[np.uint8], lens: Lens) -> npt.NDArray[np.uint8]:
    """`image` [H, W] or [H, W, 3] as `undistorted_lens(lens)` sees it; bicubic."""
    columns, rows = _source_pixels(lens)
    result = cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(result, np.uint8)
