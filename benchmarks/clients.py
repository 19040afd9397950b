"""Does the rest of the world read our models as we mean them? Needs node ≥ 20 with npm, and Vulkan or Chromium's own.

    python -m benchmarks.clients output/RUN/point_cloud/iteration_30000/point_cloud.ply

converts the model with PlayCanvas' splat-transform into every format it writes, lets its renderer draw a view, and
compares that with our own picture of the same view. It also plants two well-known mistakes (quaternions stored
x, y, z, w; spherical harmonics interleaved by colour) and shows that the comparison notices. The exit status is 1 where
the right model scores less than 55 dB or a planted mistake scores more than 45.

Our own exports (`gns.exports`) are read by splat-transform too, which must find the values that we read, and its .glb
must hold those of ours. The page is opened in Chromium where a script is given, and must show what our renderer draws.

That renderer differs from ours by design: it ends each Gaussian at 3 σ, subtracting exp(−4.5) so that the end is not
seen, stops a pixel only after its transmittance has fallen below 1e-4, and fades Gaussians wider than the picture. Our
picture for the comparison, `client_picture`, does the same. With `--screenshot SCRIPT` the model is also opened in
supersplat-viewer and in our page, by a playwright-core script that is called as `node SCRIPT URL OUT.png WAIT_MS
WIDTHxHEIGHT` and waits until the expression in the variable READY is true.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gns.errors import UserError
from gns.exports import export, load
from gns.exports.html import page
from gns.gaussian_renderer import render
from gns.gaussian_renderer.reference import Splats, visible_splats
from gns.scene import Camera, Gaussians
from gns.scene.ply import load_ply, save_ply
from gns.viewer.window import splat_arrays

PACKAGES = ("@playcanvas/splat-transform@2.7.1", "@playcanvas/supersplat-viewer@1.36.2", "playwright-core@1.65.1")
AGREEMENT = 55.0  # dB that the right model must reach
PAGE_AGREEMENT = 50.0  # dB that the page must reach; it blends in 16 bits
MISTAKE = 45.0  # dB that a planted mistake must stay below

# The constants of splat-transform's renderer (MIT licence), as its sources name them.
SIGMA_CUTOFF = 3.0
GAUSSIAN_FLOOR = math.exp(-0.5 * SIGMA_CUTOFF**2)
OPACITY_CAP = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4
DISCRIMINANT_FLOOR = 0.1
RADIUS_FADE_START, RADIUS_FADE_END = 1024 / 1080, 2048 / 1080  # of the picture's height

TILE = 16

# Debian's Chromium brings a Vulkan driver that needs no graphics card.
SOFTWARE_VULKAN = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@dataclass(frozen=True)
class Client:
    """The installed npm packages, in the folder `tools`."""

    tools: Path

    @classmethod
    def installed(cls, tools: Path) -> Client:
        """Install the packages unless they are there already. Raises UserError without npm."""
        if shutil.which("npm") is None:
            raise UserError("npm is not installed: install node 20 or newer to run this check.")
        client = cls(tools)
        if not client.splat_transform.exists():
            tools.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "init", "-y"], cwd=tools, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["npm", "install", "--no-fund", "--no-audit", *PACKAGES], cwd=tools, check=True)
        return client

    @property
    def splat_transform(self) -> Path:
        """The converter's command."""
        return self.tools / "node_modules" / ".bin" / "splat-transform"

    def transform(self, *arguments: str | Path) -> str:
        """Run splat-transform and return what it prints; its own failure ends the check."""
        environment = dict(os.environ)
        if SOFTWARE_VULKAN.exists():
            environment.setdefault("VK_ICD_FILENAMES", str(SOFTWARE_VULKAN))
        command = [str(self.splat_transform), "-w", *map(str, arguments)]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout

    def picture(self, model: Path, camera: Camera, folder: Path) -> npt.NDArray[np.uint8]:
        """The client's render of `model`, uint8 [H, W, 3]."""
        out = folder / f"{model.stem}.webp"
        self.transform("-q", model, *camera_options(camera), out)
        return np.asarray(Image.open(out).convert("RGB"))


def main(argv: list[str] | None = None) -> int:
    """Run the checks and return the exit status."""
    arguments = _parse(argv)
    try:
        client = Client.installed(arguments.tools)
        cameras = arguments.cameras or arguments.model.parents[2] / "cameras.json"
        camera = read_camera(cameras, arguments.view)
        with tempfile.TemporaryDirectory() as folder:
            passed = _compare(client, arguments.model, camera, Path(folder), arguments.pictures)
            _convert(client, arguments.model, Path(folder))
            passed &= check_exports(client, load_ply(arguments.model), Path(folder))
            if arguments.screenshot:
                _screenshot(client, Path(folder) / "model.html", arguments.screenshot, arguments.pictures)
                passed &= _check_page(client, arguments.model, camera, arguments.screenshot, Path(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if passed else 1


def read_camera(path: Path, index: int) -> Camera:
    """The view `index` of a run's cameras.json, made drawable by the client: square pixels, centred principal point."""
    try:
        record = json.loads(path.read_text())[index]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name the run's cameras.json with --cameras.") from None
    except IndexError:
        raise UserError(f"{path} has no view {index}: choose a smaller --view.") from None
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = np.array(record["rotation"]).T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ record["position"]
    width, height, focal = record["width"], record["height"], record["fy"]
    return Camera(width, height, focal, focal, width / 2, height / 2, world_to_camera, record["img_name"])


def camera_options(camera: Camera) -> list[str]:
    """splat-transform's options for a camera. It turns models by 180° about z, to y up: so must the camera be."""
    turn = np.diag([-1.0, -1.0, 1.0])
    forward, up = camera.rotation[2], -camera.rotation[1]

    def listed(vector: npt.NDArray[np.float64]) -> str:
        return ",".join(f"{value:.17g}" for value in turn @ vector)

    field_of_view = 2 * math.degrees(math.atan(camera.height / (2 * camera.fy)))
    # One word each, with "=": a value that starts with a minus sign would be taken for an option.
    return [
        f"--camera={listed(camera.center)}",
        f"--look-at={listed(camera.center + forward)}",
        f"--up={listed(up)}",
        f"--fov={field_of_view:.17g}",
        f"--resolution={camera.width}x{camera.height}",
    ]


def client_picture(camera: Camera, gaussians: Gaussians) -> npt.NDArray[np.uint8]:
    """What the client should draw over black, uint8 [H, W, 3], by our own projection and its way of blending."""
    with torch.no_grad():
        splats = visible_splats(camera, gaussians, gaussians.sh_degree)
        radii, fade = _client_radii(splats.covariances, camera.height)
        image = torch.zeros(camera.height, camera.width, 3, dtype=torch.float64)
        for top in range(0, camera.height, TILE):
            for left in range(0, camera.width, TILE):
                bottom, right = min(top + TILE, camera.height), min(left + TILE, camera.width)
                corner, opposite = torch.tensor([left, top]), torch.tensor([right, bottom])
                reach = radii[:, None]
                near = ((splats.means + reach >= corner) & (splats.means - reach <= opposite)).all(dim=1)
                v, u = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
                pixels = torch.stack([u, v], dim=-1).reshape(-1, 2) + 0.5
                colors = _blend(splats, near, radii, fade, pixels)
                image[top:bottom, left:right] = colors.reshape(bottom - top, right - left, 3)
    # Like the client, round half up.
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB; infinite for equal ones."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else 10 * math.log10(255**2 / float(error))


def with_rotated_quaternions(gaussians: Gaussians) -> Gaussians:
    """The planted mistake of writing rotations x, y, z, w."""
    return replace(gaussians, quats=gaussians.quats.roll(-1, dims=1))


def with_interleaved_harmonics(gaussians: Gaussians) -> Gaussians:
    """The planted mistake of writing f_rest as r g b, r g b, … where red, then green, then blue is expected."""
    count, coefficients = gaussians.sh_rest.shape[:2]
    # save_ply writes [N, 3, K] flat; these values come out of it as [N, K, 3] flat.
    misread = gaussians.sh_rest.reshape(count, 3, coefficients).transpose(1, 2)
    return replace(gaussians, sh_rest=misread)


def wrong_values(summary: str) -> int:
    """The number of NaN and infinite values in splat-transform's table: column | min | … | stdDev | nans | infs | …"""
    rows = [line.split("|") for line in summary.splitlines() if line.startswith("|")]
    headings = [cell.strip() for cell in rows[0]]
    return sum(int(row[headings.index(name)]) for row in rows[2:] for name in ("nans", "infs"))


def _client_radii(covariances: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """The half side of each splat's box in pixels, [M], and the factor on its opacity, [M]."""
    a, b, c = covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]
    middle = (a + c) / 2
    largest = middle + (middle**2 - (a * c - b * b)).clamp(min=DISCRIMINANT_FLOOR).sqrt()
    radii = SIGMA_CUTOFF * largest.sqrt()
    start, end = RADIUS_FADE_START * height, RADIUS_FADE_END * height
    return radii.clamp(max=end).ceil(), ((end - radii) / (end - start)).clamp(0, 1)


def _blend(splats: Splats, near: Tensor, radii: Tensor, fade: Tensor, pixels: Tensor) -> Tensor:
    """Colours [P, 3] at `pixels` [P, 2] of the splats chosen by `near` [M], nearest first."""
    offsets = pixels[:, None] - splats.means[near]
    precision = torch.linalg.inv(splats.covariances[near])
    power = -0.5 * torch.einsum("pmi,mij,pmj->pm", offsets, precision, offsets)
    tail = (power.exp() - GAUSSIAN_FLOOR).clamp(min=0)
    alpha = ((splats.opacities * fade)[near] * tail).clamp(max=OPACITY_CAP)
    in_box = (offsets.abs() <= radii[near][:, None]).all(dim=-1)
    alpha = torch.where(in_box & (alpha >= MIN_ALPHA), alpha, 0.0)
    left = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
    weights = torch.where(before >= MIN_TRANSMITTANCE, before * alpha, 0.0)
    return weights @ splats.colors[near]


def _compare(client: Client, model: Path, camera: Camera, folder: Path, pictures: Path | None) -> bool:
    gaussians = load_ply(model)
    expected = client_picture(camera, gaussians)
    print(f"{model}: {len(gaussians)} Gaussians, view {camera.name}, {camera.width}x{camera.height}")
    scores = {}
    variants = {
        "as written": gaussians,
        "rotation stored x, y, z, w": with_rotated_quaternions(gaussians),
        "f_rest interleaved": with_interleaved_harmonics(gaussians),
    }
    for number, (name, variant) in enumerate(variants.items()):
        path = folder / f"variant{number}.ply"
        if number:
            save_ply(variant, path)
        else:
            shutil.copyfile(model, path)  # the very bytes that are under test
        drawn = client.picture(path, camera, folder)
        scores[name] = psnr(drawn, expected)
        print(f"  {name:<28}{scores[name]:7.2f} dB")
        if pictures and not number:
            pictures.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([expected, drawn], axis=1)).save(pictures / "client.png")
    right, *wrong = scores.values()
    return right >= AGREEMENT and all(score <= MISTAKE for score in wrong)


def _convert(client: Client, model: Path, folder: Path) -> None:
    """Every format that splat-transform writes, and its own count of NaN and infinite values."""
    gaussians = load_ply(model)
    print(f"  conversions of {model.stat().st_size:,} bytes:")
    for name in ("compressed.ply", "spz", "sog", "html", "csv", "glb"):
        out = folder / f"model.{name}"
        # Version 3 of SPZ is the one that other readers know.
        client.transform("-q", model, *(["--spz-version", "3"] if name == "spz" else []), out)
        print(f"    {name:<16}{out.stat().st_size:12,} bytes")
    rows = (folder / "model.csv").read_text().count("\n") - 1
    if rows != len(gaussians):
        raise UserError(f"the client read {rows} Gaussians from {model}, which has {len(gaussians)}.")
    print(f"    values it finds wrong: {wrong_values(client.transform(model, '-m', 'null'))}")


def check_exports(client: Client, gaussians: Gaussians, folder: Path) -> bool:
    """Whether the client finds in each of our files what we find, and writes the .glb that we write; prints both."""
    print("  our exports, largest difference of a value from what the client reads:")
    right = True
    for ending in (".compressed.ply", ".spz", ".sog", ".splat"):
        ours, theirs = folder / f"export{ending}", folder / f"read{ending}.ply"
        export(gaussians, ours)
        client.transform("-q", ours, theirs)
        right &= _agree(ending, load(ours), load_ply(theirs))
    export(gaussians, folder / "export.glb")
    source = folder / "export.ply"
    save_ply(gaussians, source)
    client.transform("-q", source, folder / "theirs.glb")
    return right & _agree(".glb", load(folder / "export.glb"), load(folder / "theirs.glb"))


def _agree(name: str, ours: Gaussians, theirs: Gaussians) -> bool:
    """Whether two models are equal but for rounding, opacities that are all but 0 or 1, and axes taken backwards."""
    if len(ours) != len(theirs) or ours.sh_rest.shape != theirs.sh_rest.shape:
        print(f"    {name:<16}{len(theirs)} of {len(ours)} Gaussians, SH degree {theirs.sh_degree} of {ours.sh_degree}")
        return False
    # Several rotations mean one ellipsoid: covariances are what counts, against the largest variance of each.
    first, second = (torch.from_numpy(splat_arrays(model, 1.0, 0.0)["covariances"]) for model in (ours, theirs))
    differences = {
        "means": (ours.means - theirs.means).abs().max(),
        "log_scales": (ours.log_scales - theirs.log_scales).abs().max(),
        "covariances": ((first - second).abs() / first.abs().amax(dim=(1, 2), keepdim=True)).max(),
        "opacities": (ours.opacities - theirs.opacities).abs().max(),
        "sh_dc": (ours.sh_dc - theirs.sh_dc).abs().max(),
        "sh_rest": (ours.sh_rest - theirs.sh_rest).abs().amax() if ours.sh_rest.numel() else torch.zeros(()),
    }
    worst = max(differences, key=lambda group: float(differences[group]))
    print(f"    {name:<16}{float(differences[worst]):.1e} ({worst})")
    # .splat: 0 and 255 of opacities, which have no logit, we read as 1 and 254, and rotations a hair differently.
    return float(differences[worst]) < (0.03 if name == ".splat" else 3e-5)


def _check_page(client: Client, model: Path, camera: Camera, script: Path, folder: Path) -> bool:
    """Whether our page shows in Chromium what our renderer draws of the model in it."""
    background = (0.1, 0.2, 0.3)
    path, out = folder / "page.html", folder / "page.png"
    path.write_text(page(load_ply(model), camera, background=background), encoding="utf-8")
    copy = shutil.copy(script, client.tools)
    environment = {**os.environ, "READY": "['drawn', 'failed'].includes(document.documentElement.dataset.state)"}
    size = f"{camera.width}x{camera.height}"
    command = ["node", str(copy), f"{path.resolve().as_uri()}#bare", str(out), "1000", size]
    subprocess.run(command, cwd=client.tools, env=environment, check=True)
    drawn = np.asarray(Image.open(out).convert("RGB"))
    with torch.no_grad():
        image = render(camera, load(path), background).image
    expected = (image.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    score = psnr(drawn, expected)
    print(f"  our page in Chromium against our renderer: {score:.2f} dB")
    return score >= PAGE_AGREEMENT


def _screenshot(client: Client, html: Path, script: Path, pictures: Path | None) -> None:
    """Open the model, exported with supersplat-viewer to `html`, and save what the viewer shows."""
    out = (pictures or Path.cwd()).resolve() / "viewer.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    # Node resolves the script's imports beside the script.
    copy = shutil.copy(script, client.tools)
    command = ["node", str(copy), html.resolve().as_uri(), str(out), "8000", "960x600"]
    subprocess.run(command, cwd=client.tools, check=True)
    print(f"  screenshot: {out}")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="point_cloud.ply of a run")
    parser.add_argument("--cameras", type=Path, help="cameras.json to take the view from (default: the run's)")
    parser.add_argument("--view", type=int, default=0, help="its place in that list, 0 is the first held-out view")
    parser.add_argument("--pictures", type=Path, help="folder for client.png (ours | client's) and the screenshot")
    parser.add_argument("--screenshot", type=Path, metavar="SCRIPT", help="playwright-core script that opens a page")
    default = Path(tempfile.gettempdir()) / "gns-clients"
    parser.add_argument("--tools", type=Path, default=default, help=f"where npm installs (default: {default})")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
