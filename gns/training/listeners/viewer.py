"""`--viewer`: the model in the browser while it trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gns.gaussian_renderer import render
from gns.scene import Scene, View
from gns.scene.viewpoint import opening_camera
from gns.training.events import Event, IterationEnded, Listener, Progress, Started
from gns.utils.console import say, warn
from gns.utils.png import to_eight_bit
from gns.viewer.window import Window

SHARE = 0.02  # of the processor time of training that the viewer may cost
_SENDING = 2  # times what the window's thread spends: viser's own thread, which sends, takes about as much again
_SHORTEST = 0.5  # seconds between two models that are shown
_PAUSE = 0.05  # seconds between two looks at the buttons while paused
_PICTURE = 320  # pixels, the width of photo and render in the panel
_POINTS = 500  # of a plot
_NONE = "none"
_AXES = "#999"  # seen on light and dark


class Viewer(Listener):
    """Shows the model, a training view beside its photo, and plots of loss and population.

    It reads the model between two iterations and changes nothing. While nobody is connected it does nothing but
    remember the plots. With somebody, the next model is shown when that takes no more than `SHARE` of the time. A pause
    ends when its button is pressed again, the run is asked to stop (`asked_to_stop`), or nobody is connected any more.
    """

    def __init__(
        self,
        scene: Scene,
        port: int,
        *,
        may_pause: bool = True,
        quiet: bool = False,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing is served before `Started`. `may_pause` is False in a team, whose others would wait."""
        self._scene, self._port, self._may_pause, self._quiet = scene, port, may_pause, quiet
        self._asked_to_stop = asked_to_stop
        self._window: Window | None = None
        self._views = {view.camera.name: view for view in scene.train}
        self._paused, self._asked = threading.Event(), threading.Event()
        self._due_at = (0.0, 0.0)  # on the clock, and in processor time of this thread
        self._shown_at = -1  # iteration
        self._spent = 0.0  # seconds of the window's thread, when a model was last shown
        self._plots = _Plots()

    def hear(self, event: Event) -> Iterable[Event]:
        match event:
            case Started():
                self._open(event)
            case Progress():
                self._plots.add(event.iteration, event.loss, event.count)
            case IterationEnded() if self._window is not None and self._window.visitors:
                try:
                    self._be_watched(event, self._window)
                except Exception as error:  # whatever a browser has sent: a run does not end by being watched
                    warn(f"the viewer has ended ({type(error).__name__}: {error}); the training goes on")
                    self.close()
        return ()

    def _be_watched(self, event: IterationEnded, window: Window) -> None:
        """Show what is due; while paused, wait."""
        self._show_if_due(event, window)
        while self._paused.is_set() and window.visitors and not self._asked_to_stop():
            time.sleep(_PAUSE)
            self._show_if_due(event, window)

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _open(self, event: Event) -> None:
        gaussians, cameras = event.gaussians, [view.camera for view in self._scene.train]
        title = f"gns: {self._scene.name}"
        self._window = Window(
            self._port, title, opening_camera(cameras, gaussians), gaussians, self._scene.background, cameras
        )
        gui = self._window.server.gui
        if self._may_pause:
            self._button = gui.add_button("pause")
            self._button.on_click(self._pause_or_go_on)
        self._iteration = gui.add_markdown("")
        self._chosen = gui.add_dropdown("photo | render", [_NONE, *self._views], initial_value=_NONE)
        self._chosen.on_update(lambda _: self._asked.set())
        self._picture = gui.add_image(np.zeros((2, 2, 3), np.uint8), format="jpeg", visible=False)
        self._plots.place(gui)
        self._window.server.on_client_connect(lambda _: self._asked.set())
        say(f"the viewer is at {self._window.address}", self._quiet)

    def _pause_or_go_on(self, _: Any) -> None:
        paused = not self._paused.is_set()
        (self._paused.set if paused else self._paused.clear)()
        self._button.label = "go on" if paused else "pause"

    def _show_if_due(self, event: IterationEnded, window: Window) -> None:
        """Show the model of this moment, where somebody asks for something or the last time is long enough ago."""
        asked = self._asked.is_set()
        clocks = time.monotonic(), time.thread_time()
        early = any(now < due for now, due in zip(clocks, self._due_at, strict=True))
        if not asked and (early or self._shown_at == event.iteration):
            return
        self._asked.clear()
        begun, spent = time.thread_time(), window.seconds
        self._iteration.content = f"iteration {event.iteration:,}, {event.count:,} Gaussians"
        if self._shown_at != event.iteration:
            window.show(event.gaussians)
            self._plots.update()
        self._shown_at = event.iteration
        self._show_picture(event)
        here = time.thread_time() - begun
        # What the window's thread spent since the last time belongs to the model before.
        cost, self._spent = here + _SENDING * (spent - self._spent), spent
        # Processor time: with other programs at work the clock runs on while the training does not.
        self._due_at = time.monotonic() + _SHORTEST, time.thread_time() + cost / SHARE

    def _show_picture(self, event: Event) -> None:
        view = self._views.get(self._chosen.value)
        self._picture.visible = view is not None
        if view is not None:
            self._picture.image = photo_and_render(event, view, self._scene)


class _Plots:
    """Loss and population over the iterations, thinned out as they grow."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float, float]] = []
        self._every = 1
        self._seen = 0
        self._loss: Any = None
        self._population: Any = None

    def add(self, iteration: int, loss: float, count: int) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self._points.append((iteration, loss, count))
        if len(self._points) > 2 * _POINTS:
            self._points, self._every = self._points[1::2], 2 * self._every

    def place(self, gui: Any) -> None:
        from viser import uplot

        def plot(title: str, color: str) -> Any:
            series = (uplot.Series(label="iteration"), uplot.Series(label=title, stroke=color, width=2))
            scales = self._scales()
            axes = (uplot.Axis(stroke=_AXES), uplot.Axis(stroke=_AXES, size=70))
            return gui.add_uplot(self._data(1), series, title=title, scales=scales, axes=axes, aspect=2.0)

        self._loss, self._population = plot("loss", "#c33"), plot("Gaussians", "#36c")

    def update(self) -> None:
        for plot, column in ((self._loss, 1), (self._population, 2)):
            plot.scales, plot.data = self._scales(), self._data(column)

    def _scales(self) -> dict[str, Any]:
        """Both ends of the iterations are given: in a browser that comes later, viser's own choice shows nothing."""
        from viser import uplot

        newest = self._points[-1][0] if self._points else 1.0
        return {"x": uplot.Scale(time=False, auto=False, range=(0.0, newest)), "y": uplot.Scale(auto=True)}

    def _data(self, column: int) -> tuple[npt.NDArray[np.float64], ...]:
        points = np.array(self._points or [(0.0, 0.0, 0.0)])
        return points[:, 0], points[:, column]


@torch.no_grad()
def photo_and_render(event: Event, view: View, scene: Scene) -> npt.NDArray[np.uint8]:
    """A photo and the model's render of it, reduced, side by side, uint8 [H, W, 3]."""
    gaussians, camera = event.gaussians, view.camera
    height = max(1, round(_PICTURE * camera.height / camera.width))
    background = torch.tensor(scene.background, device=gaussians.means.device)
    image = to_eight_bit(render(camera.resized(_PICTURE, height), gaussians, background).image).cpu().numpy()
    photo = np.asarray(Image.fromarray(view.image.cpu().numpy()).resize((_PICTURE, height)))
    return np.concatenate([photo, image], axis=1)
