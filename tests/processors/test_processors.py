"""The kernels as another processor runs them: cross-compiled for 64-bit Arm (NEON) and executed in an emulator.

Needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user-static); on
Arm itself all tests run the NEON build.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import reference
from gns.scene import Camera, Gaussians
from gns.testing.comparison import BOTH
from gns.testing.examples import camera_at, gaussians_seen
from gns.testing.reference_loss import reference_photometric_loss

CSRC = Path(__file__).resolve().parents[2] / "gns" / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
FLAGS = (
    "-std=c++20",
    "-O2",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-DGNS_ISA=baseline",
    "-DGNS_COUNTERS",
)
BACKGROUND = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)  # as in harness.cpp

pytestmark = pytest.mark.skipif(
    COMPILER is None or EMULATOR is None, reason="no compiler and emulator for 64-bit Arm are installed"
)


@dataclass(frozen=True, eq=False)
class Problem:
    """What the harness reads."""

    camera: Camera
    gaussians: Gaussians
    photo: Tensor  # uint8 [H, W, 3]

    def write(self, path: Path) -> None:
        camera = self.camera
        head = np.array([camera.width, camera.height, len(self.gaussians), self.gaussians.sh_degree], np.int32)
        pinhole = np.array([camera.fx, camera.fy, camera.cx, camera.cy, *camera.world_to_camera.ravel()], np.float32)
        planes = [values.movedim(0, -1).float().numpy().tobytes() for _, values in self.gaussians.named_tensors()]
        path.write_bytes(b"".join([head.tobytes(), pinhole.tobytes(), *planes, self.photo.numpy().tobytes()]))


def _problem() -> Problem:
    camera = camera_at(53, 38, seed=3)
    generator = torch.Generator().manual_seed(1)
    photo = torch.randint(0, 256, (camera.height, camera.width, 3), generator=generator, dtype=torch.uint8)
    return Problem(camera, gaussians_seen(camera, 400, seed=2), photo)


def _expected(problem: Problem) -> dict[str, Tensor]:
    """The reference's answer, in the order in which the harness writes."""
    leaves = Gaussians(*(values.clone().requires_grad_() for _, values in problem.gaussians.named_tensors()))
    output = reference.render(
        problem.camera, leaves, BACKGROUND, edges=problem.photo[..., 0] / 255.0, screen_gradients=BOTH
    )
    # A pixel next to a cut-off may fall on either side of it: it must not decide. None does in this scene.
    assert reference.near_cutoff(problem.camera, problem.gaussians).sum() <= 2
    loss = reference_photometric_loss(output.image, problem.photo)
    torch.autograd.backward(loss)
    gradients = {name: values.grad for name, values in leaves.named_tensors()}
    assert all(gradient is not None for gradient in gradients.values())
    values = {"image": output.image, "alpha": output.alpha, "radii": output.radii, "importance": output.importance}
    return {
        **{name: value.detach() for name, value in values.items() if value is not None},
        "loss": loss.detach(),
        **{
            f"gradient of {name}": gradient.movedim(0, -1)
            for name, gradient in gradients.items()
            if gradient is not None
        },
        "abs_grad": output.abs_grad.movedim(0, -1),
        "signed_grad": output.signed_grad.movedim(0, -1),
        # One step of Adam moves every coordinate that has a gradient by the rate.
        "stepped": leaves.means.detach().T - 0.01 * torch.sign(_planes(gradients["means"])),
    }


def _planes(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.T


@pytest.fixture(scope="module")
def arm_harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("arm") / "harness"
    sources = [*sorted((CSRC / "cpu").glob("*.cpp")), Path(__file__).with_name("harness.cpp")]
    command = [str(COMPILER), *FLAGS, "-static", "-pthread", f"-I{CSRC}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def test_arm_follows_the_reference(arm_harness: Path, tmp_path: Path) -> None:
    problem = _problem()
    problem.write(tmp_path / "in")
    run = [str(EMULATOR), str(arm_harness), str(tmp_path / "in"), str(tmp_path / "out")]
    told = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert told.strip() == "baseline, 4 lanes"
    written: npt.NDArray[np.float32] = np.fromfile(tmp_path / "out", np.float32)
    for name, expected in _expected(problem).items():
        part, written = torch.from_numpy(written[: expected.numel()]).double(), written[expected.numel() :]
        error = (part - expected.reshape(-1)).abs()
        limit = 1e-5 if name in ("image", "alpha", "loss") else 1e-3 * float(expected.abs().max())
        if name == "stepped":  # where the gradient is lost in rounding, so is its sign
            limit, error = 1e-5, error.sort().values[: int(0.99 * len(error))]
        assert float(error.max()) <= limit, name
    assert len(written) == 0
