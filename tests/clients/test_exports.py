"""Our exports in other people's programs, where `python -m benchmarks.clients` has installed them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import clients
from gns.exports import load
from gns.scene.ply import save_ply
from gns.testing.examples import camera_at, gaussians_seen

INSTALLED = clients.Client(Path(tempfile.gettempdir()) / "gns-clients")

needs_client = pytest.mark.skipif(
    shutil.which("node") is None or not INSTALLED.splat_transform.exists(),
    reason=f"splat-transform is not in {INSTALLED.tools}: python -m benchmarks.clients puts it there",
)


@needs_client
def test_the_client_finds_what_we_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaussians = gaussians_seen(camera_at(40, 30), 300)
    gaussians = replace(gaussians, sh_rest=0.2 * gaussians.sh_rest)
    assert clients.check_exports(INSTALLED, gaussians, tmp_path), capsys.readouterr().out


def test_values_that_differ_are_noticed(tmp_path: Path) -> None:
    gaussians = gaussians_seen(camera_at(40, 30), 20)
    save_ply(gaussians, tmp_path / "model.ply")
    ours = load(tmp_path / "model.ply")
    assert clients._agree(".spz", ours, replace(ours, quats=-2 * ours.quats))
    for wrong in (
        replace(ours, quats=ours.quats.roll(-1, dims=1)),
        replace(ours, sh_rest=ours.sh_rest.reshape(20, 3, 15).transpose(1, 2)),
        replace(ours, opacity_logits=ours.opacity_logits + 0.001),
        replace(ours, means=1.0001 * ours.means),
        ours.rows(ours.means[:, 0].argsort()[:-1]),
    ):
        assert not clients._agree(".spz", ours, wrong)
