"""Whoever connects to the viewer and sends nonsense: only that connection ends, and no file of the machine is read."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("viser", reason='needs viser: pip install ".[viewer]"')

import msgspec  # viser brings this, and websockets
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from gns.testing.tiny import same_state, tiny_config, tiny_scene
from gns.training.events import Event
from gns.training.listeners import viewer as viewer_module
from gns.training.listeners.viewer import Viewer
from gns.training.loop import train
from gns.training.state import TrainState
from gns.viewer import window as window_module
from gns.viewer.window import HOST, Window
from tests.viewer.protocol import PATIENCE, PROTOCOL

LARGEST = 50 << 20  # bytes of a message that viser takes
SCENE = tiny_scene()


def connected(port: int) -> Connection:
    return connect(f"ws://{HOST}:{port}", subprotocols=[PROTOCOL], max_size=None)


@dataclass
class Visitor:
    """A browser that behaves, and reads all that it is sent."""

    connection: Connection
    received: int = 0

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in self.connection:
                self.received += 1

    def hears(self, change: Callable[[], object]) -> bool:
        """Whether a message comes of a change that the server tells all its visitors."""
        time.sleep(0.3)  # what is still on its way is no answer
        before = self.received
        change()
        return comes_true(lambda: self.received > before)


def comes_true(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def packed(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


MALFORMED: dict[str, str | bytes] = {
    "text": "GET me everything",
    "empty": b"",
    "garbage": bytes(range(256)) * 40,
    "cut short": packed(type="GuiUpdateMessage", uuid="x", updates={})[:-5],
    "no mapping": msgspec.msgpack.encode([1, 2, 3]),
    "no type": packed(uuid="x"),
    "unknown type": packed(type="RunThis", command="true"),
    "type of a wrong kind": packed(type=["GuiUpdateMessage"]),
    "missing fields": packed(type="GuiUpdateMessage"),
    "fields too many": packed(type="GuiUpdateMessage", uuid="x", updates={}, more=1),
    "nested": b"\x91" * 5000 + b"\x01",
    "hostile length": b"\xdf\xff\xff\xff\xff",
    "oversized": bytes(LARGEST + 1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_closes_that_connection_alone(window: Window, port: int, name: str) -> None:
    with connected(port) as good, connected(port) as bad:
        visitor = Visitor(good)
        with contextlib.suppress(ConnectionClosed):  # it may be closed before all of it is sent
            bad.send(MALFORMED[name])
        Visitor(bad)
        assert comes_true(lambda: bad.close_code is not None), "the connection is still open"
        assert visitor.hears(lambda: setattr(window._count, "content", "still here"))
        assert good.close_code is None
    with connected(port) as later:
        assert later.recv(timeout=PATIENCE)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 100_000, b""])
def test_what_is_no_websocket_is_hung_up_on(window: Window, port: int, sent: bytes) -> None:
    with connected(port) as good, socket.create_connection((HOST, port), PATIENCE) as raw:
        visitor = Visitor(good)
        with contextlib.suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(1 << 16):
                pass
        assert visitor.hears(lambda: setattr(window._count, "content", "still here"))


def answer(port: int, target: str) -> bytes:
    """What the server answers to a GET, as it stands: clients of higher levels would tidy the path up."""
    with socket.create_connection((HOST, port), PATIENCE) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        parts = []
        while part := raw.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


ROOT = Path(viser.__file__).parent / "client" / "build"  # what the server hands out
SECRET = Path(viser.__file__)  # two folders above it
UP = [
    "../",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%2f",
    "..\\",
    "..%5c",
    ".%2e/",
    "%252e%252e/",
    "....//",
    "assets/../../",
    "./../",
]


@pytest.mark.parametrize("up", UP)
def test_no_file_outside_the_page_is_handed_out(window: Window, port: int, up: str) -> None:
    assert ROOT.parents[1] / "__init__.py" == SECRET and len(SECRET.read_bytes()) > 100
    page = answer(port, "/index.html")
    assert page.startswith(b"HTTP/1.1 200") and page.endswith((ROOT / "index.html").read_bytes())
    for target in (
        f"/{2 * up}__init__.py",
        f"/{12 * up}etc/passwd",
        f"{2 * up}__init__.py",
        f"/{2 * up}__init__.py%00",
    ):
        told = answer(port, target)
        assert not told.startswith(b"HTTP/1.1 200"), target
        assert SECRET.read_bytes()[:100] not in told and b"root:" not in told


@pytest.mark.parametrize(
    "target", [str(SECRET), f"/{SECRET}", "//etc/passwd", "/etc/passwd", "/%2fetc/passwd", f"file://{SECRET}", "/%00"]
)
def test_no_file_is_handed_out_by_its_whole_name(window: Window, port: int, target: str) -> None:
    told = answer(port, target)
    assert not told.startswith(b"HTTP/1.1 200")
    assert SECRET.read_bytes()[:100] not in told and b"root:" not in told
    assert answer(port, "/").startswith(b"HTTP/1.1 200")


def hostile_updates(viewer: Viewer) -> Iterator[bytes]:
    """Well-formed messages about elements that exist, with values that no browser would send."""
    assert viewer._window is not None
    for handle in (viewer._window._threshold, viewer._chosen, viewer._button):
        uuid = handle._impl.uuid
        values: list[object] = ["x", float("nan"), float("inf"), -1e308, [], {}, None, [[]], 2**63, "../../etc/passwd"]
        for value in values:
            yield packed(type="GuiUpdateMessage", uuid=uuid, updates={"value": value})
        for updates in ({"update_cb": 5}, {"props": None}, {"value": 1, "nothing": 2}, {"sync_cb": "x"}):
            yield packed(type="GuiUpdateMessage", uuid=uuid, updates=updates)
        yield packed(
            type="FileTransferStartUpload",
            source_component_uuid=uuid,
            transfer_uuid="../../../tmp/x",
            filename="../../../tmp/x",
            mime_type="x",
            part_count=2**40,
            size_bytes=2**60,
        )


def test_a_training_goes_on_to_the_same_bits_whatever_is_sent(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "visitors", 1)
    monkeypatch.setattr(viewer_module, "SHARE", 1e9)
    monkeypatch.setattr(viewer_module, "_SHORTEST", 0.0)
    config = tiny_config(iterations=24)
    expected = train(SCENE, config).state_dict()
    viewer = Viewer(SCENE, port, quiet=True)
    ended: list[TrainState] = []
    viewer._paused.set()
    run = threading.Thread(target=lambda: ended.append(train(SCENE, config, on_event=viewer)))
    run.start()
    assert comes_true(lambda: viewer._shown_at == 1)
    updates = list(hostile_updates(viewer))
    for message in [*updates, *MALFORMED.values()]:
        with connected(port) as bad, contextlib.suppress(ConnectionClosed):
            bad.send(message)
    time.sleep(0.5)
    viewer._asked.set()
    viewer._paused.clear()
    run.join(PATIENCE)
    assert ended and same_state(ended[0].state_dict(), expected)


def test_a_viewer_that_fails_ends_alone(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Window, "visitors", 1)

    def failing(viewer: Viewer, event: Event, window: Window) -> None:
        raise TypeError("unhashable")

    monkeypatch.setattr(Viewer, "_show_if_due", failing)
    assert train(SCENE, tiny_config(iterations=5), on_event=Viewer(SCENE, port, quiet=True)).iteration == 5
    told = capsys.readouterr().err
    assert told == "the viewer has ended (TypeError: unhashable); the training goes on\n"


def test_a_model_that_cannot_be_shown_is_told_and_the_next_one_tried(
    window: Window, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Window, "visitors", 1)
    sent: list[int] = []

    def sending(window: Window, gaussians: Any) -> None:
        sent.append(1)
        if len(sent) == 1:
            raise ValueError("no")

    monkeypatch.setattr(Window, "_send", sending)
    for count in (1, 2):
        window._changed.set()
        assert comes_true(lambda count=count: len(sent) >= count)  # type: ignore[misc]
    assert "could not show a model (ValueError: no)" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None, np.nan])
def test_a_threshold_that_is_none_hides_nothing(window: Window, value: object) -> None:
    assert window_module._sound(value) == 0.0 and window_module._sound(0.25) == 0.25
