"""The same Gaussians, camera, loss and optimiser work with gsplat."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Result, Skipped, crowd, median, milliseconds
from benchmarks.gpu.timing import photo_of, time_iteration
from gns.gaussian_renderer import render
from gns.losses.photometric import photometric_loss
from gns.metrics import psnr
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.model.population import Population
from gns.rules import screen_gradients
from gns.scene import Camera, Gaussians


def gsplat(bench: Bench) -> Result:
    """An iteration of gsplat on the same Gaussians, camera, photo and loss, and with as much optimiser work."""
    try:
        package = importlib.import_module("gsplat")
    except ImportError as error:
        raise Skipped(f"gsplat is not installed ({error})") from error
    start = time.perf_counter()
    _build()
    built = time.perf_counter() - start
    count = bench.timed[0]
    camera, gaussians = crowd(count, *bench.size, bench.device)
    photo = photo_of(bench)
    with torch.no_grad():
        ours = render(camera, gaussians, torch.zeros(3, device=bench.device)).image
    theirs = _Gsplat(package.rasterization, camera, gaussians, photo)
    result: Result = {
        "version": package.__version__,
        "seconds to load or build": round(built, 2),
        "gaussians": count,
        "PSNR between the pictures": psnr(theirs.image().detach(), ours),
    }
    for optimiser in ("torch fused Adam", "Adam of gns"):
        body = theirs.iteration(optimiser)
        result[f"iteration with {optimiser}"] = median(milliseconds(bench.device, body, bench.rounds))
    times, _ = time_iteration(bench, camera, Population(gaussians, screen_gradients.EXTRAS), photo)
    result["iteration of gns"] = median(times)
    fastest = min(value for name, value in result.items() if name.startswith("iteration with"))
    result["gns is faster by"] = fastest / result["iteration of gns"]
    return result


def _build() -> None:
    """Load gsplat's kernels, for which it may have to compile them first; raises Skipped where there will be none."""
    try:
        kernels = importlib.import_module("gsplat.cuda._backend")._C
    except Exception as error:  # of its build, in which anything of the toolkit and the host compiler may be missing
        raise Skipped(f"gsplat's kernels could not be built ({type(error).__name__}: {error})") from error
    if kernels is None:
        raise Skipped("gsplat has no kernels for this torch, and there is no CUDA toolkit (nvcc) to build them with")


class _Gsplat:
    """gsplat's renderer in the place of ours."""

    def __init__(self, rasterization: Callable[..., Any], camera: Camera, gaussians: Gaussians, photo: Tensor) -> None:
        device = photo.device
        self._rasterization, self._camera, self._photo = rasterization, camera, photo
        # Rows, as gsplat reads them; six groups, as we have them.
        self._leaves = {
            name: values.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for name, values in gaussians.named_tensors()
        }
        self._pose = torch.from_numpy(camera.world_to_camera).float().to(device)[None]
        matrix = [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
        self._intrinsics = torch.tensor([matrix], device=device)

    def image(self) -> Tensor:
        """[3, H, W]."""
        leaves = self._leaves
        pictures, _, self._seen = self._rasterization(
            means=leaves["means"],
            quats=leaves["quats"],
            scales=leaves["log_scales"].exp(),
            opacities=leaves["opacity_logits"].sigmoid(),
            colors=torch.cat([leaves["sh_dc"], leaves["sh_rest"]], dim=1),
            viewmats=self._pose,
            Ks=self._intrinsics,
            width=self._camera.width,
            height=self._camera.height,
            sh_degree=3,
            near_plane=0.2,
            packed=False,
            absgrad=True,
        )
        picture: Tensor = pictures[0].permute(2, 0, 1)
        return picture

    def iteration(self, optimiser: str) -> Callable[[], None]:
        """Render, loss, backward, step."""
        leaves = list(self._leaves.values())
        adam = torch.optim.Adam(leaves, lr=0.0, eps=1e-15, fused=True)
        moments = [(torch.zeros_like(leaf).detach(), torch.zeros_like(leaf).detach()) for leaf in leaves]

        def iterate() -> None:
            photometric_loss(self.image(), self._photo).backward()  # type: ignore[no-untyped-call]
            if optimiser == "torch fused Adam":
                adam.step()
                adam.zero_grad(set_to_none=True)
                return
            adam_step([_flat_group(leaf, *pair) for leaf, pair in zip(leaves, moments, strict=True)])
            adam.zero_grad(set_to_none=True)

        return iterate


def _flat_group(leaf: Tensor, first: Tensor, second: Tensor) -> AdamGroup:
    assert leaf.grad is not None
    tensors = AdamTensors(leaf.detach().view(-1), leaf.grad.reshape(-1), first.view(-1), second.view(-1))
    return AdamGroup(tensors, 0.0, 1)
