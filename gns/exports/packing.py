"""What several formats do alike: parameters as arrays, the order of a curve through space, rotations in 32 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gns.errors import UserError
from gns.scene.gaussians import Gaussians

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]

# An opacity in a byte: 0 and 255 would have no finite logit, and the renderer tells neither from its neighbour.
OPACITIES = (1, 254)


@dataclass(frozen=True, eq=False)
class Columns:
    """The parameters of N Gaussians as float32 arrays; rotations have length 1 and w ≥ 0 is not promised."""

    means: Floats  # [N, 3]
    log_scales: Floats  # [N, 3]
    quats: Floats  # [N, 4], (w, x, y, z)
    opacities: Floats  # [N], in (0, 1)
    sh_dc: Floats  # [N, 3]
    sh_rest: Floats  # [N, K, 3]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Highest spherical-harmonic degree, 0 to 3."""
        return math.isqrt(self.sh_rest.shape[1] + 1) - 1

    @classmethod
    def of(cls, gaussians: Gaussians, path: Path) -> Columns:
        """Those of a model that is to be written to `path`, relative to its frame's offset where float32 needs that.

        Raises UserError where a value is not finite.
        """
        gaussians, _ = gaussians.for_float32()
        for name, values in gaussians.named_tensors():
            if not bool(torch.isfinite(values).all()):
                raise UserError(f"the model has {name} that are not finite: it is not written to {path}")
        arrays = {
            name: values.detach().cpu().float().contiguous().numpy() for name, values in gaussians.named_tensors()
        }
        lengths = np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
        return cls(
            means=arrays["means"],
            log_scales=arrays["log_scales"],
            # A rotation of length 0 means nothing to anybody; the renderer takes it for none.
            quats=np.where(lengths > 0, arrays["quats"] / np.maximum(lengths, 1e-30), np.eye(1, 4, dtype=np.float32)),
            opacities=torch.sigmoid(gaussians.opacity_logits.detach().cpu().double()).float().numpy(),
            sh_dc=arrays["sh_dc"][:, 0],
            sh_rest=arrays["sh_rest"],
        )

    def gaussians(self) -> Gaussians:
        """The model with these parameters."""

        def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.array(values, np.float32))

        return Gaussians(
            means=tensor(self.means),
            log_scales=tensor(self.log_scales),
            quats=tensor(self.quats),
            opacity_logits=torch.logit(tensor(self.opacities).double()).float(),
            sh_dc=tensor(self.sh_dc[:, None]),
            sh_rest=tensor(self.sh_rest),
        )

    def rows(self, order: npt.NDArray[np.integer[Any]]) -> Columns:
        """The Gaussians `order`, [M], in that order."""
        return Columns(**{name: values[order] for name, values in vars(self).items()})

    def turned(self, x: int, y: int, z: int) -> Columns:
        """The model in coordinates whose axes have these signs, two of them −1: turned by 180° about the third axis."""
        flip = np.array([x, y, z], np.float32)
        quats = self.quats * np.array([1, x, y, z], np.float32)
        signs = np.array([_parity(name, x, y, z) for name in _HARMONICS], np.float32)
        rest = self.sh_rest * signs[: self.sh_rest.shape[1], None]
        return replace(self, means=self.means * flip, quats=quats, sh_rest=rest)


# The variables in which each spherical harmonic of degrees 1 to 3 is odd, in the order of `sh_rest`.
_HARMONICS = ("y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")


def _parity(odd_in: str, x: int, y: int, z: int) -> int:
    sign = 1
    for axis, of_axis in (("x", x), ("y", y), ("z", z)):
        sign *= of_axis if axis in odd_in else 1
    return sign


def opacity_bytes(opacities: Floats) -> npt.NDArray[np.uint8]:
    """Opacities in (0, 1) as bytes that have a finite logit, [N]."""
    return np.clip(np.rint(255 * opacities), *OPACITIES).astype(np.uint8)


def morton_order(means: Floats) -> npt.NDArray[np.int64]:
    """The order of the Gaussians along a Z-order curve with 1,024 cells an axis, [N]: neighbours come together."""
    if len(means) == 0:
        return np.zeros(0, np.int64)
    low, high = means.min(axis=0), means.max(axis=0)
    cells = ((means - low) / np.maximum(high - low, 1e-30) * 1023).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def smallest_three(quats: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """A rotation of length 1 without its largest component: its index [N], and the other three [N, 3], times √2.

    q and −q are one rotation, so the largest may be taken as positive, and follows from the others.
    """
    largest = np.abs(quats).argmax(axis=1)
    sign = np.where(np.take_along_axis(quats, largest[:, None], axis=1) < 0, -1, 1)
    others = np.array([[k for k in range(4) if k != left_out] for left_out in range(4)])[largest]
    return largest, (np.sqrt(2) * sign * np.take_along_axis(quats, others, axis=1)).astype(np.float32)


def from_smallest_three(largest: npt.NDArray[np.integer[Any]], others: npt.NDArray[np.floating[Any]]) -> Floats:
    """What `smallest_three` was given, up to sign, [N, 4]."""
    others = others / np.sqrt(2)
    quats = np.zeros((len(others), 4), np.float32)
    places = np.array([[k for k in range(4) if k != left_out] for left_out in range(4)])[largest]
    np.put_along_axis(quats, places, others.astype(np.float32), axis=1)
    missing = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    np.put_along_axis(quats, np.asarray(largest)[:, None], missing[:, None].astype(np.float32), axis=1)
    return quats


def read_whole(path: Path) -> bytes:
    """The content of a file. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
