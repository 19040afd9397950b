"""The judge: a renderer in float64 torch, dense (every Gaussian against every pixel) and differentiated by autograd.

It shares no code with the native kernels and is written to be read beside the paper (Kerbl et al. 2023, "3D Gaussian
Splatting for Real-Time Radiance Field Rendering"). It is slow, and its memory grows with Gaussians × pixels: use it on
small scenes only. Where training needs something other than the true derivative, a comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gns.gaussian_renderer.output import ABSOLUTE, RenderOutput, ScreenGradients
from gns.scene import Camera, Gaussians

NEAR = 0.2  # Gaussians whose mean is at this view depth or nearer are not drawn
FRUSTUM_MARGIN = 1.3  # the Jacobian is evaluated no further out than this many half-widths of the view
DILATION = 0.3  # px², added to the diagonal of every 2D covariance
ALPHA_CAP = 0.99
ALPHA_FLOOR = 1.0 / 255.0  # fainter contributions are skipped
TRANSMITTANCE_FLOOR = 1e-4  # a pixel is finished before the Gaussian that would take it below this

_PAIRS_AT_ONCE = 2**21  # Gaussian-pixel pairs per chunk: bounds the temporaries of a render without gradients


@dataclass(frozen=True, eq=False)
class Splats:
    """M of the N Gaussians as they lie on the image plane, nearest first. Float64, lengths in pixels."""

    ids: Tensor  # [M] int64, rows in the Gaussians
    means: Tensor  # [M, 2]
    depths: Tensor  # [M], of the means in front of the camera
    covariances: Tensor  # [M, 2, 2], dilated
    opacities: Tensor  # [M]
    colors: Tensor  # [M, 3]


def render(
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor,
    *,
    edges: Tensor | None = None,
    sh_degree: int | None = None,
    screen_gradients: ScreenGradients = ABSOLUTE,
    inverse_depth: bool = False,
    counts: bool = False,
) -> RenderOutput:
    """Draw the Gaussians, on the CPU, in float64 whatever their dtype.

    `background` is RGB, [3]. `edges` [H, W] asks for the edge-weighted importance. `sh_degree` is the highest
    spherical-harmonic degree in use, by default all that the Gaussians hold. Raises ValueError where they hold less.
    `inverse_depth` and `counts` ask for these pictures.

    All six groups of parameters receive gradients, in their own dtype. Calling backward fills `abs_grad` and
    `signed_grad` in place, as `screen_gradients` asks.
    """
    splats = visible_splats(camera, gaussians, _active_degree(gaussians, sh_degree))
    count, height, width = len(gaussians), camera.height, camera.width
    abs_grad = torch.zeros(count if screen_gradients.absolute else 0, 2, dtype=torch.float64)
    signed_grad = torch.zeros(count if screen_gradients.signed else 0, 2, dtype=torch.float64)
    if screen_gradients.signed:
        _sum_into(signed_grad, splats, camera)
    importance = None if edges is None else torch.zeros(count, dtype=torch.float64)
    background = background.to(torch.float64)

    colors, alphas, inverse_depths, numbers = [], [], [], []
    for pixels in torch.split(pixel_centers(camera), _pixels_at_once(splats)):
        means = splats.means
        if screen_gradients.absolute:
            means = _copy_per_pixel(splats, pixels, camera, abs_grad)
        alpha = contributions(splats, means, pixels)
        transmittance = torch.cat([torch.ones_like(pixels[:, :1]), torch.cumprod(1 - alpha, dim=1)], dim=1)
        weights = transmittance[:, :-1] * alpha
        left = transmittance[:, -1]
        colors.append(weights @ splats.colors + left[:, None] * background)
        alphas.append(1 - left)
        inverse_depths.append(weights @ (1 / splats.depths))
        numbers.append((alpha > 0).sum(dim=1))
        if edges is not None and importance is not None:
            column, row = pixels.floor().long().unbind(dim=1)
            importance[splats.ids] += edges[row, column].to(torch.float64) @ weights.detach()

    radii = torch.zeros(count, dtype=torch.float64)
    radii[splats.ids] = _radii(splats).detach()
    return RenderOutput(
        image=torch.cat(colors).T.reshape(3, height, width),
        alpha=torch.cat(alphas).reshape(height, width),
        radii=radii,
        inverse_depth=torch.cat(inverse_depths).reshape(height, width) if inverse_depth else None,
        counts=torch.cat(numbers).reshape(height, width).int() if counts else None,
        abs_grad=abs_grad,
        importance=importance,
        signed_grad=signed_grad,
    )


def near_cutoff(camera: Camera, gaussians: Gaussians, *, sh_degree: int | None = None) -> Tensor:
    """Pixels [H, W] (bool) in which rounding alone may decide whether a Gaussian is added.

    These have an α within 1e-5 (relative) of 1/255, or a transmittance that comes within 1e-4 (relative) of the one at
    which a pixel is finished. A comparison with a less exact renderer leaves them out.
    """
    with torch.no_grad():
        splats = visible_splats(camera, gaussians, _active_degree(gaussians, sh_degree))
        doubtful = []
        for pixels in torch.split(pixel_centers(camera), _pixels_at_once(splats)):
            alpha = falloff(splats, splats.means, pixels).clamp(max=ALPHA_CAP)
            after = torch.cumprod(1 - _skip_faint(alpha), dim=1)
            before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
            at_floor = (alpha / ALPHA_FLOOR - 1).abs() < 1e-5
            at_end = (after / TRANSMITTANCE_FLOOR - 1).abs() < 1e-4
            reached = before > TRANSMITTANCE_FLOOR * (1 - 1e-4)
            doubtful.append((reached & (at_floor | at_end)).any(dim=1))
    return torch.cat(doubtful).reshape(camera.height, camera.width)


# ---- from the world to the image plane -------------------------------------------------------------------------------


def visible_splats(camera: Camera, gaussians: Gaussians, sh_degree: int) -> Splats:
    """The Gaussians that are drawn, ordered by view depth and, where that is equal, by index.

    A Gaussian is drawn if its parameters are finite, its depth is beyond the near plane, its opacity is at least 1/255
    and the bounding box of its α ≥ 1/255 ellipse contains the centre of at least one pixel.
    """
    with torch.no_grad():
        everything = torch.arange(len(gaussians))
        splats = project(camera, gaussians, everything, sh_degree)
        depths = _to_view(camera, gaussians.means.to(torch.float64))[:, 2]
        # Every condition is a positive comparison, so that NaN fails it.
        a, b, c = _entries(splats.covariances)
        drawn = _finite(gaussians, sh_degree) & (depths > NEAR)
        drawn &= (splats.opacities >= ALPHA_FLOOR) & (a * c - b * b > 0)
        drawn &= _covers_a_pixel(camera, splats)
        ids = everything[drawn]
        ids = ids[torch.sort(depths[ids], stable=True).indices]
    # Projecting the drawn ones again, this time for autograd, keeps the others out of the graph: their gradients are
    # exact zeros even where their projection is NaN.
    return project(camera, gaussians, ids, sh_degree)


def project(camera: Camera, gaussians: Gaussians, ids: Tensor, sh_degree: int) -> Splats:
    """Activate and project the Gaussians `ids` [M], in that order, drawn or not."""
    means, log_scales, quats, opacity_logits, sh_dc, sh_rest = (
        values[ids].to(torch.float64) for _, values in gaussians.named_tensors()
    )
    view = _to_view(camera, means)
    x, y, z = view.unbind(dim=1)
    world_axes = rotation_matrices(quats) * log_scales.exp()[:, None, :]
    view_axes = _matrix(camera.rotation) @ world_axes
    image_axes = projection_jacobians(camera, view) @ view_axes
    sharp = image_axes @ image_axes.mT
    covariances = sharp + DILATION * torch.eye(2, dtype=torch.float64)
    opacities = torch.sigmoid(opacity_logits)
    if gaussians.antialiased:  # the 2D filter of Mip-Splatting (Yu et al. 2024)
        opacities = opacities * torch.sqrt(torch.linalg.det(sharp) / torch.linalg.det(covariances))
    directions = normalize(means - _matrix(camera.center), dim=1)
    return Splats(
        ids=ids,
        means=torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], dim=1),
        depths=z,
        covariances=covariances,
        opacities=opacities,
        colors=sh_colors(directions, torch.cat([sh_dc, sh_rest], dim=1), sh_degree),
    )


def projection_jacobians(camera: Camera, view: Tensor) -> Tensor:
    """Derivative of the pixel position by the view position `view` [M, 3]: [M, 2, 3] (Zwicker et al. 2001, EWA).

    J = [[fx/z, 0, −fx·tx/z²], [0, fy/z, −fy·ty/z²]], where tx is x with x/z clamped to ±1.3·tan(fovx/2): far outside
    the view the linearisation would blow a Gaussian up over the whole image. tan(fovx/2) is W/(2·fx), also where the
    principal point is off centre.

    Not the true derivative: where the clamp acts, tx is a constant for the gradient, although it equals limit·z. So x
    receives nothing from J02, and z receives 2·fx·tx/z³ · dL/dJ02, as if x/z had not been clamped. Every trainer of
    this family does so; the true factor is 1 instead of 2.
    """
    x, y, z = view.unbind(dim=1)
    tx = _clamped(x, z, FRUSTUM_MARGIN * 0.5 * camera.width / camera.fx)
    ty = _clamped(y, z, FRUSTUM_MARGIN * 0.5 * camera.height / camera.fy)
    zero = torch.zeros_like(z)
    rows = [camera.fx / z, zero, -camera.fx * tx / z**2, zero, camera.fy / z, -camera.fy * ty / z**2]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def _clamped(x: Tensor, z: Tensor, limit: float) -> Tensor:
    """`x` where |x/z| ≤ limit; elsewhere ±limit·z, held constant for the gradient."""
    ratio = (x / z).detach()
    return torch.where(ratio.abs() <= limit, x, ratio.clamp(-limit, limit) * z.detach())


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [M, 3, 3] of quaternions (w, x, y, z) of any length; the zero quaternion gives the identity."""
    w, x, y, z = normalize(quats, dim=1).unbind(dim=1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def sh_colors(directions: Tensor, coefficients: Tensor, degree: int) -> Tensor:
    """RGB [M, 3] seen along unit `directions` [M, 3]: max(Σ coefficient · basis + 0.5, 0), gradient zero where clamped.

    `coefficients` is [M, K, 3] with K ≥ (degree + 1)²; those of higher degrees are ignored.
    """
    basis = sh_basis(directions, degree)
    return torch.relu(torch.einsum("mk,mkc->mc", basis, coefficients[:, : basis.shape[1]]) + 0.5)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to `degree` (0 to 3) at unit `directions` [M, 3]: [M, (degree + 1)²]."""
    x, y, z = directions.unbind(dim=1)
    xx, yy, zz = x * x, y * y, z * z
    values = [
        0.28209479177387814 * torch.ones_like(x),
        -0.4886025119029199 * y,
        0.4886025119029199 * z,
        -0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy),
        -0.5900435899266435 * x * (xx - 3 * yy),
    ]
    return torch.stack(values[: (degree + 1) ** 2], dim=1)


# ---- on the image plane ----------------------------------------------------------------------------------------------


def pixel_centers(camera: Camera) -> Tensor:
    """Centres (u, v) of all pixels, row by row: [H·W, 2]."""
    v, u = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64) + 0.5,
        torch.arange(camera.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    return torch.stack([u, v], dim=-1).reshape(-1, 2)


def falloff(splats: Splats, means: Tensor, pixels: Tensor) -> Tensor:
    """Opacity times the 2D Gaussian of each splat at `pixels` [P, 2], without cut-offs: [P, M].

    `means` is [M, 2], or [P, M, 2] where every pixel has its own copy.
    """
    dx, dy = (means - pixels[:, None]).unbind(dim=-1)
    a, b, c = _entries(splats.covariances)
    distance = (c * dx**2 - 2 * b * dx * dy + a * dy**2) / (a * c - b * b)
    return splats.opacities * torch.exp(-0.5 * distance)


def contributions(splats: Splats, means: Tensor, pixels: Tensor) -> Tensor:
    """α of each splat in each pixel, [P, M], zero where it is skipped: too faint, or the pixel already finished."""
    full = falloff(splats, means, pixels)
    # Not the true derivative: the gradient passes the cap as if it were absent.
    capped = full + (full.clamp(max=ALPHA_CAP) - full).detach()
    alpha = _skip_faint(capped)
    # The product never grows along a pixel's list, so all that follow the first to cross the floor are dropped too.
    unfinished = torch.cumprod(1 - alpha.detach(), dim=1) >= TRANSMITTANCE_FLOOR
    return torch.where(unfinished, alpha, 0.0)


def _skip_faint(alpha: Tensor) -> Tensor:
    return torch.where(alpha >= ALPHA_FLOOR, alpha, 0.0)


def _copy_per_pixel(splats: Splats, pixels: Tensor, camera: Camera, abs_grad: Tensor) -> Tensor:
    """The 2D means [P, M, 2], one copy a pixel: backward then adds the absolute gradient of each copy to `abs_grad`."""
    copies = splats.means.expand(len(pixels), -1, -1)

    def accumulate(gradient: Tensor) -> None:
        abs_grad[splats.ids] += gradient.abs().sum(dim=0) * _half_size(camera)

    if copies.requires_grad:
        copies.register_hook(accumulate)  # type: ignore[no-untyped-call]
    return copies


def _sum_into(signed_grad: Tensor, splats: Splats, camera: Camera) -> None:
    """Let backward add the gradient of each 2D mean, that of all pixels together, to `signed_grad`."""

    def accumulate(gradient: Tensor) -> None:
        signed_grad[splats.ids] += gradient * _half_size(camera)

    if splats.means.requires_grad:
        splats.means.register_hook(accumulate)  # type: ignore[no-untyped-call]


def _half_size(camera: Camera) -> Tensor:
    """Screen gradients are stated by the mean in normalised device coordinates: the image is 2 wide and 2 high, [2]."""
    return torch.tensor([camera.width / 2, camera.height / 2], dtype=torch.float64)


def _visibility_level(splats: Splats) -> Tensor:
    """τ = 2·ln(255·opacity), [M]: α ≥ 1/255 inside the ellipse dᵀ Σ⁻¹ d ≤ τ."""
    return 2 * torch.log(splats.opacities / ALPHA_FLOOR)


def _radii(splats: Splats) -> Tensor:
    """Half the longest extent of each α ≥ 1/255 ellipse, [M]."""
    a, b, c = _entries(splats.covariances)
    largest_variance = (a + c) / 2 + torch.hypot((a - c) / 2, b)
    return torch.sqrt(_visibility_level(splats) * largest_variance)


def _covers_a_pixel(camera: Camera, splats: Splats) -> Tensor:
    """Whether the bounding box of each α ≥ 1/255 ellipse contains the centre of a pixel, [M] bool."""
    variances = splats.covariances.diagonal(dim1=1, dim2=2)
    extent = torch.sqrt(_visibility_level(splats)[:, None] * variances)
    first = torch.ceil(splats.means - extent - 0.5).clamp(min=0)
    last = torch.minimum(torch.floor(splats.means + extent - 0.5), torch.tensor([camera.width - 1, camera.height - 1]))
    return (first <= last).all(dim=1)


# ---- small matters ---------------------------------------------------------------------------------------------------


def _entries(covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of the symmetric matrices [[a, b], [b, c]]."""
    return covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]


def _active_degree(gaussians: Gaussians, sh_degree: int | None) -> int:
    if sh_degree is None:
        return gaussians.sh_degree
    if not 0 <= sh_degree <= gaussians.sh_degree:
        raise ValueError(f"sh_degree is {sh_degree}, but the Gaussians hold degrees 0 to {gaussians.sh_degree}")
    return sh_degree


def _finite(gaussians: Gaussians, sh_degree: int) -> Tensor:
    """Whether all parameters in use are finite, [N] bool."""
    finite = torch.ones(len(gaussians), dtype=torch.bool)
    for name, values in gaussians.named_tensors():
        used = values[:, : (sh_degree + 1) ** 2 - 1] if name == "sh_rest" else values
        finite &= torch.isfinite(used).flatten(start_dim=1).all(dim=1) if used.dim() > 1 else torch.isfinite(used)
    return finite


def _to_view(camera: Camera, points: Tensor) -> Tensor:
    return points @ _matrix(camera.rotation).T + _matrix(camera.translation)


def _matrix(array: object) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float64)


def _pixels_at_once(splats: Splats) -> int:
    return max(1, _PAIRS_AT_ONCE // max(1, len(splats.ids)))
