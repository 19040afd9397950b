"""What the browser shows: a model to walk around in, and a panel beside it."""

from __future__ import annotations

import io
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gns.errors import UserError
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import SH_C0
from gns.scene.viewpoint import distance_seen, up_direction
from gns.utils.console import warn
from gns.viewer.guard import start_guarded

HOST = "127.0.0.1"  # no other machine can connect; what may on this one, see guard.py
_SIZE = 10.0  # of the model in the viewer's units: it packs covariances in 16 bits, which end at 6e-8
_PATIENCE = 0.2  # seconds after which a thread looks whether it is to end

Floats = npt.NDArray[np.float32]


def viser_or_sentence() -> Any:
    """The module viser. Raises UserError where it is not installed."""
    try:
        import viser
    except ImportError as error:
        raise UserError(
            f'the live viewer needs viser ({error}): pip install ".[viewer]" in the folder of gns'
        ) from error
    return viser


def check_port(port: int) -> None:
    """Raise UserError where another program has the `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended does not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be had ({error.strerror}): choose another one") from None


class Window:
    """A viser server with one model.

    `show` returns at once: a thread of its own turns the model into what the browser takes, of several models in a row
    the last. Where nobody is connected, nothing is done until somebody is.
    """

    def __init__(
        self,
        port: int,
        title: str,
        camera: Camera,
        gaussians: Gaussians,
        background: Sequence[float],
        up: Sequence[Camera],
    ) -> None:
        """Start to serve on `port`; `camera` is where visitors begin, and `gaussians` what they see first.

        What is up is taken from the cameras `up`. Raises UserError where viser is missing or cannot be
        guarded (`start_guarded`), and where the port is taken.
        """
        viser = viser_or_sentence()
        # Who sends nonsense is disconnected, and no traceback comes of it; who has set up logging still hears of it.
        logging.getLogger("websockets.server").addHandler(logging.NullHandler())
        check_port(port)
        with redirect_stdout(io.StringIO()):  # it prints a table of addresses whether or not it is told to
            self.server = start_guarded(
                lambda: viser.ViserServer(host=HOST, port=port, label=title, verbose=False), port
            )
        if self.server.get_port() != port:  # viser takes the next one where somebody was quicker
            self.server.stop()
            raise UserError(f"port {port} cannot be had (another program took it just now): choose another one")
        self.address = f"http://{HOST}:{port}"
        self.seconds = 0.0  # of processor time that the thread has spent on models
        self._scale = _SIZE / _extent(gaussians)
        self._begin_at(camera, gaussians, background, up)
        # Its button for sharing would send the scene through a server of others.
        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._threshold = self.server.gui.add_slider(
            "opacity from", min=0.0, max=1.0, step=0.01, initial_value=0.0, hint="fainter Gaussians are hidden"
        )
        self._count = self.server.gui.add_markdown("")
        self._splats: Any = None
        self._newest: Gaussians | None = gaussians
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._threshold.on_update(lambda _: self._changed.set())
        self.server.on_client_connect(lambda _: self._changed.set())
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()

    @property
    def visitors(self) -> int:
        """How many browsers are connected."""
        return len(self.server.get_clients())

    def show(self, gaussians: Gaussians) -> None:
        """Show another model, which nobody may change from now on."""
        self._newest = gaussians
        self._changed.set()

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Serve until `until` is true or Ctrl-C comes."""
        while not until():
            time.sleep(_PATIENCE)

    def close(self) -> None:
        """End the server."""
        self._ended.set()
        self._changed.set()
        self._thread.join()
        with redirect_stdout(io.StringIO()):
            self.server.stop()

    def _begin_at(
        self, camera: Camera, gaussians: Gaussians, background: Sequence[float], up: Sequence[Camera]
    ) -> None:
        local = gaussians.frame.camera(camera)
        target = local.center + distance_seen(local, gaussians.local()) * local.rotation[2]
        initial = self.server.initial_camera
        self.server.scene.set_up_direction(up_direction([*up, camera][: max(1, len(up))]))
        initial.position, initial.look_at = self._scale * local.center, self._scale * target
        initial.up = -local.rotation[1]
        initial.fov = 2 * float(np.arctan(0.5 * camera.height / camera.fy))
        color = np.array([round(255 * level) for level in background], np.uint8)
        self.server.scene.set_background_image(np.broadcast_to(color, (2, 2, 3)).copy(), format="png")

    def _work(self) -> None:
        while not self._ended.is_set():
            if not self._changed.wait(_PATIENCE) or not self.visitors:
                continue
            self._changed.clear()
            if self._newest is None or self._ended.is_set():
                continue
            begun = time.thread_time()
            try:
                self._send(self._newest)
            except Exception as error:  # whatever a browser has sent: the next model is shown all the same
                warn(f"the viewer could not show a model ({type(error).__name__}: {error}); the next one is tried")
            self.seconds += time.thread_time() - begun

    def _send(self, gaussians: Gaussians) -> None:
        arrays = splat_arrays(gaussians, self._scale, _sound(self._threshold.value))
        self._count.content = f"{len(arrays['centers']):,} of {len(gaussians):,} Gaussians shown"
        if self._splats is None:
            self._splats = self.server.scene.add_gaussian_splats("/model", **arrays)
        else:
            self._splats.set_gaussians(**arrays)


def _sound(opacity: Any) -> float:
    """An opacity that came from a browser, which may have sent anything: 0 where it is none."""
    return opacity if isinstance(opacity, float) and math.isfinite(opacity) else 0.0


def splat_arrays(gaussians: Gaussians, scale: float, threshold: float) -> dict[str, Floats]:
    """What viser draws of a model, with all lengths of its frame times `scale`: those of an opacity from `threshold`.

    Returns centers [M, 3], covariances [M, 3, 3], opacities [M, 1], and rgbs [M, 3] in [0, 1], of degree 0: viser knows
    no others.
    """
    with torch.no_grad():
        local = gaussians.local()
        kept = local.rows((local.opacities >= threshold).nonzero()[:, 0])
        w, x, y, z = torch.nn.functional.normalize(kept.quats, dim=1).unbind(dim=1)
        columns = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        rotations = torch.stack([torch.stack(row, dim=1) for row in columns], dim=1)
        axes = rotations * (scale * kept.log_scales.exp())[:, None, :]
        arrays = {
            "centers": scale * kept.means,
            "covariances": axes @ axes.transpose(1, 2),
            "rgbs": (0.5 + SH_C0 * kept.sh_dc[:, 0]).clamp(0, 1),
            "opacities": kept.opacities[:, None],
        }
        return {name: values.cpu().float().numpy() for name, values in arrays.items()}


def _extent(gaussians: Gaussians) -> float:
    """How far half of the Gaussians lie from their middle, in units of the frame."""
    means = gaussians.local().means.detach().double()
    if len(means) == 0:
        return 1.0
    return float((means - means.median(dim=0).values).norm(dim=1).median()) or 1.0
