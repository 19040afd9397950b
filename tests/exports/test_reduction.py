"""Less of a model: what goes and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gns.errors import UserError
from gns.exports.reduction import contributions, cropped, decimated, with_sh_degree
from gns.gaussian_renderer import render
from gns.testing.examples import camera_at, gaussians_seen, random_gaussians, rounded

CAMERA = camera_at(48, 36)


def test_fewer_harmonics() -> None:
    gaussians = random_gaussians(4, 3)
    less = with_sh_degree(gaussians, 1)
    assert less.sh_degree == 1 and torch.equal(less.sh_rest, gaussians.sh_rest[:, :3])
    with pytest.raises(UserError, match="degree 3"):
        with_sh_degree(gaussians, 4)


def test_the_box_decides_by_the_middle() -> None:
    gaussians = random_gaussians(200)
    inside = cropped(gaussians, (-0.5, -1, -2), (1, 0.5, 0))
    expected = [
        row for row in gaussians.means.tolist() if -0.5 <= row[0] <= 1 and -1 <= row[1] <= 0.5 and -2 <= row[2] <= 0
    ]
    assert inside.means.tolist() == expected and 0 < len(expected) < 200
    with pytest.raises(UserError, match="leaves no Gaussian: the model spans"):
        cropped(gaussians, (90, 90, 90), (91, 91, 91))


def test_contributions_add_up_to_what_is_opaque() -> None:
    gaussians = gaussians_seen(CAMERA, 60)
    black = torch.zeros(3, dtype=torch.float64)
    other = replace(CAMERA, width=30)
    alpha = sum(float(render(camera, gaussians, black).alpha.sum()) for camera in (CAMERA, other))
    assert float(contributions(gaussians, [CAMERA, other]).sum()) == pytest.approx(alpha)


def test_the_most_seen_stay() -> None:
    gaussians = rounded(gaussians_seen(CAMERA, 80))
    scores = contributions(gaussians, [CAMERA])
    less = decimated(gaussians, 20, [CAMERA])
    assert len(less) == 20
    assert torch.equal(less.means, gaussians.means[scores >= scores.sort().values[-20]])
    assert decimated(gaussians, 80, []) is gaussians
