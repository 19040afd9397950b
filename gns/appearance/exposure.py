"""An affine colour transform for each training photo, found beside the Gaussians.

Cameras choose exposure and white balance anew for every photo. A model that has to match all of them at once explains
the differences by colours that change with the direction, and by fog in front of the cameras. Here each photo is
compared with the rendering after a transform of its own, so that the Gaussians keep what the photos have in common.

The transform is that of the "exposure compensation" of 3D Gaussian Splatting (Kerbl et al., "A Hierarchical 3D Gaussian
Representation", 2024, section 5.1). There an Adam of its own finds it, in some two hundred visits to a photo; a short
run of a large capture has twenty. Twelve numbers that enter linearly need no gradient descent: each visit solves for
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gns.appearance.expected import Variation, variation
from gns.scene import View

STEP = 0.4  # of the way to the solution at each visit: the model changes meanwhile, and so does the solution
IDENTITY_WEIGHT = 1e-3  # against the mean square of a colour, near 0.2: decides where a photo has few colours
SAMPLES = 10_000  # pixels of a photo that are compared, at least: a grid over it
SATURATED = 255  # such a pixel says "at least as bright as this"
ROUNDS = 4  # through all photos, in which they are watched before any is allowed for …
WATCHED = 0.1  # … unless that is more than this share of a run
# A model follows such differences by itself:
SMALL = 0.12  # relative to a grey, root mean square …
FOLLOWED = 0.5  # … of which more than this share of the variance can be told from the other photos


class Exposure:
    """A part (`gns.training.parts`): colour = A · rendered + b for each training photo, [A | b] of shape [3, 4].

    The transforms are kept such that their mean over all photos is the identity. Nothing else says how bright the
    Gaussians themselves should be: they could grow darker and all transforms brighter. So the model looks right without
    any transform, in a viewer or from a new camera: it has the exposure of the average photo.

    Where exposures change little, and slowly from each photo to the next, a model follows them by itself, and also for
    a new camera between theirs. So photos are first watched: transforms are found, and not applied. Then it is decided
    whether to go on with them, or without.
    """

    name = "exposure"

    def __init__(self, views: Sequence[View], watch: int = 0) -> None:
        """Identities for the photos of the training `views`, which may change their size but not their order.

        Photos are watched for so many iterations; 0: their exposures are allowed for from the first one on.
        """
        self._views = views
        self._names = [view.camera.name for view in views]
        device = views[0].device
        self._identity = torch.eye(3, 4, device=device)
        self._transforms = self._identity.repeat(len(views), 1, 1)
        # Of the iteration under way: the normal equations of each photo that was seen, zero for the others.
        self._scatters = torch.zeros(len(views), 4, 4, device=device)
        self._matches = torch.zeros(len(views), 3, 4, device=device)
        self._watch = watch
        self._variation: Variation | None = None  # as it was found when the watch was over

    @property
    def transforms(self) -> Tensor:
        """[A | b] of each photo, float32 [photos, 3, 4]; their mean is the identity."""
        return self._transforms

    @property
    def watching(self) -> bool:
        """Whether it is still to be decided how to go on."""
        return self._watch > 0 and self._variation is None

    @property
    def left_to_the_model(self) -> bool:
        """Whether exposures turned out to be such that no transform is needed."""
        found = self._variation
        return found is not None and found.spread < SMALL and found.explained > FOLLOWED

    def applied(self, image: Tensor, view: int) -> Tensor:
        """The rendered `image` [3, H, W] as photo number `view` would show it, cut off where the photo is."""
        if self.left_to_the_model:
            return image
        shown = self._views[view].decoded()
        self._compare(image.detach(), shown, view)
        if self.watching:
            return image
        saturated = shown.image.permute(2, 0, 1) >= SATURATED
        exposed: Tensor = _Exposed.apply(image, self._transforms[view], saturated)  # type: ignore[no-untyped-call]
        return exposed

    def _compare(self, image: Tensor, shown: View, view: int) -> None:
        """Add the normal equations of the least-squares transform from `image` [3, H, W] to the photo of a view."""
        step = max(1, math.isqrt(image[0].numel() // SAMPLES))
        rows = slice(step // 2, None, step)
        image, photo = image[:, rows, rows].flatten(1), shown.image[rows, rows].flatten(0, 1).T
        usable = (photo < SATURATED).all(dim=0)
        if shown.mask is not None:
            usable &= shown.mask[rows, rows].flatten()
        samples = torch.cat([image, torch.ones_like(image[:1])])
        weighted = samples * (usable / usable.sum().clamp(min=1))
        self._scatters[view] += weighted @ samples.T
        self._matches[view] += (photo / 255) @ weighted.T

    def sums(self) -> Sequence[Tensor]:
        """The normal equations, [photos, 4, 4] and [photos, 3, 4]."""
        return [self._scatters, self._matches]

    def step(self, it: int) -> None:
        """Bring photos that were seen nearer to their solution; then make the mean of all the identity again.

        While photos are watched they are brought all the way, and the mean is what it is: the next rendering does not
        know of it.
        """
        if self.left_to_the_model:
            return
        pull = IDENTITY_WEIGHT * torch.eye(4, device=self._identity.device)
        solutions = torch.linalg.solve(self._scatters + pull, (self._matches + self._identity @ pull).mT).mT
        seen = self._scatters[:, 3:, 3:] > 0  # the share of pixels that could be used, 1 or 0
        self._transforms = self._transforms + (1 if self.watching else STEP) * seen * (solutions - self._transforms)
        for values in self.sums():
            values.zero_()
        if it == self._watch:
            self._variation = variation(self._transforms, [view.camera for view in self._views])
        if not self.watching:
            self._transforms -= self._transforms.mean(dim=0) - self._identity
        if self.left_to_the_model:
            self._transforms = self._identity.repeat(len(self._views), 1, 1)

    def remark(self) -> str | None:
        """Says so where exposures are left to the model."""
        found = self._variation
        if found is None or not self.left_to_the_model:
            return None
        return (
            f"exposures differ by {found.spread:.0%}, {found.explained:.0%} of it to be told from photos taken before, "
            "after and nearby: the model follows them by itself, and goes on without --exposure"
        )

    def record(self) -> dict[str, list[list[float]]]:
        """[A | b] by the photo's name, as 3DGS writes it to exposure.json."""
        return dict(zip(self._names, self._transforms.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The transforms, and how they were found to differ: between iterations there is nothing else."""
        return {"transforms": self._transforms, "variation": self._variation and asdict(self._variation)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` was taken. Raises KeyError, or ValueError where it is of other photos."""
        transforms = saved["transforms"]
        if transforms.shape != self._transforms.shape:
            raise ValueError(f"it has exposures of {len(transforms)} photos, and there are {len(self._views)}")
        self._transforms = transforms.to(self._transforms)
        self._variation = saved["variation"] and Variation(**saved["variation"])


def iterations_to_watch(photos: int, iterations: int) -> int:
    """For how long to watch so many `photos` in a run of `iterations`; 0 where that would be too much of it."""
    rounds = ROUNDS * photos
    return rounds if rounds <= WATCHED * iterations else 0


class _Exposed(torch.autograd.Function):
    """`adjusted`, not above 1 where the photo is `saturated` (bool [3, H, W]); the transform is given, not learned."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, transform: Tensor, saturated: Tensor) -> Tensor:
        exposed = adjusted(image, transform)
        above = saturated & (exposed > 1)
        ctx.save_for_backward(transform, above)
        return exposed.masked_fill_(above, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        transform, above = ctx.saved_tensors
        (gradient,) = gradients
        of_image = transform[:, :3].T @ gradient.masked_fill(above, 0).flatten(1)
        return of_image.view_as(gradient), None, None


def adjusted(image: Tensor, transform: Tensor) -> Tensor:
    """`image` [3, H, W] after the colour transform [A | b], [3, 4]: A · colour + b in every pixel."""
    return torch.addmm(transform[:, 3:], transform[:, :3], image.flatten(1)).view_as(image)
