"""Pages of other sites cannot connect to the viewer; its own page, and programs that are no browsers, can."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import types
from typing import Any

import pytest

pytest.importorskip("viser", reason='needs viser: pip install ".[viewer]"')

import msgspec  # viser brings this, websockets and zstandard
import websockets.asyncio.client
import websockets.asyncio.server
import zstandard
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from gns.errors import UserError
from gns.viewer.guard import refusal, start_guarded
from gns.viewer.window import HOST, Window
from tests.viewer.conftest import opened
from tests.viewer.protocol import PATIENCE, PROTOCOL

FOREIGN = [
    "http://evil.example",
    "https://evil.example",
    "http://evil.example:{port}",
    "https://localhost:{port}",
    "http://localhost:{other}",
    "http://localhost",
    "http://127.0.0.1.evil.example:{port}",
    "http://localhost:{port}.evil.example",
    "http://evil.example#http://localhost:{port}",
    "http://localhost.:{port}",
    "http://0.0.0.0:{port}",
    "http://[::]:{port}",
    "http://user@localhost:{port}",
    "file://",
    "null",
    "",
]
OWN = ["http://localhost:{port}", "http://127.0.0.1:{port}", "http://[::1]:{port}", "HTTP://LOCALHOST:{port}", None]
REBOUND = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "192.168.0.1"]


def connected(port: int, origin: str | None = None, host: str = HOST) -> Connection:
    """A connection to the viewer under the name `host`, as if a server of names had said that it is this machine."""
    asked_by: Any = None if origin is None else origin.format(port=port, other=port ^ 1)
    return connect(
        f"ws://{host}:{port}",
        sock=socket.create_connection((HOST, port), PATIENCE),
        origin=asked_by,
        subprotocols=[PROTOCOL],
        max_size=None,
    )


def shows_the_model(connection: Connection) -> bool:
    """Whether the Gaussians come after the message by which a browser says where it looks from."""
    seen = dict.fromkeys(("position", "look_at", "up_direction"), (0.0, 0.0, 1.0))
    lens = {"wxyz": (1.0, 0.0, 0.0, 0.0), "fov": 1.0, "near": 0.1, "far": 10.0, "image_height": 48, "image_width": 64}
    connection.send(msgspec.msgpack.encode({"type": "ViewerCameraMessage", **lens, **seen}))
    while b"GaussianSplat" not in _unpacked(connection.recv(timeout=PATIENCE)):
        pass
    return True


def _unpacked(message: str | bytes) -> bytes:
    """The part of a message of viser that is no array."""
    assert isinstance(message, bytes)
    size, packed = (int.from_bytes(message[at : at + 8], "little") for at in (0, 8))
    return zstandard.ZstdDecompressor().decompress(message[16 : 16 + packed], max_output_size=size)


def page(port: int, headers: dict[str, str], target: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    connection.putrequest("GET", target, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_is_refused(window: Window, port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connected(port, origin)
    assert refused.value.response.status_code == 403
    assert window.visitors == 0
    with connected(port, f"http://localhost:{port}") as later:
        assert shows_the_model(later)


@pytest.mark.parametrize("origin", OWN)
def test_the_own_page_and_what_is_no_browser_see_the_model(window: Window, port: int, origin: str | None) -> None:
    with connected(port, origin) as visitor:
        assert shows_the_model(visitor)


@pytest.mark.parametrize("host", REBOUND)
def test_a_name_that_was_made_to_stand_for_this_machine_is_refused(window: Window, port: int, host: str) -> None:
    for origin in (None, f"http://{host}:{{port}}", "http://localhost:{port}"):
        with pytest.raises(InvalidStatus) as refused:
            connected(port, origin, host)
        assert refused.value.response.status_code == 403
    status, said = page(port, {"Host": f"{host}:{port}"})
    assert status == 403 and f"http://localhost:{port}".encode() in said


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_the_page_is_handed_out_under_the_own_names(window: Window, port: int, host: str) -> None:
    status, said = page(port, {"Host": host.format(port=port)})
    assert status == 200 and b"<html" in said
    assert page(port, {"Host": host.format(port=port), "Origin": "http://evil.example"})[0] == 403
    assert page(port, {})[0] == 403


def test_who_asks_through_another_port_is_told_how_to(window: Window, port: int) -> None:
    status, said = page(port, {"Host": f"localhost:{port ^ 1}"})
    assert status == 403 and f"ssh -L {port}:localhost:{port}".encode() in said


def test_a_header_given_twice_is_no_way_around() -> None:
    own = "http://localhost:8080"
    assert not refusal(["localhost:8080"], [own], 8080)
    assert refusal(["localhost:8080"], [own, "http://evil.example"], 8080)
    assert refusal(["localhost:8080", "evil.example:8080"], [own], 8080)
    assert refusal(["localhost:8080", "localhost:8080"], [], 8080)


def test_browsers_leave_out_port_80() -> None:
    assert not refusal(["localhost"], ["http://localhost"], 80)
    assert not refusal(["localhost:80"], ["http://localhost:80"], 80)
    assert refusal(["localhost"], [], 8080) and refusal(["localhost:8080"], ["http://localhost"], 8080)


def test_a_viser_that_comes_to_its_server_in_another_way_is_not_used(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails instead of a test above, see what `start_guarded` says of viser."""
    import viser.infra._infra as internals

    server = types.SimpleNamespace(serve=websockets.asyncio.server.serve, ServerConnection=object)
    other: Any = types.SimpleNamespace(asyncio=types.SimpleNamespace(server=server), exceptions=websockets.exceptions)
    monkeypatch.setattr(internals, "websockets", other)
    with pytest.raises(UserError, match="pages of other sites could not be kept out"):
        opened(port)
    with socket.socket() as probe:
        probe.settimeout(PATIENCE)
        assert probe.connect_ex((HOST, port)) != 0, "the server that is not guarded still runs"


def test_servers_of_others_are_left_alone(port: int) -> None:
    """Also one that another thread starts in the same moment."""
    original = websockets.asyncio.server.serve
    statuses: list[str] = []

    async def greet(connection: Any) -> None:
        await connection.send("hello")

    async def other_server() -> None:
        async with websockets.asyncio.server.serve(greet, HOST, port) as served:
            assert served.server is not None
            with_origin: Any = "http://evil.example"
            async with websockets.asyncio.client.connect(f"ws://{HOST}:{port}", origin=with_origin) as visitor:
                statuses.append(str(await visitor.recv()))

    def start() -> Any:
        thread = threading.Thread(target=lambda: asyncio.run(other_server()))
        thread.start()
        thread.join(PATIENCE)
        return types.SimpleNamespace(stop=lambda: None)

    with pytest.raises(UserError):
        start_guarded(start, port)
    assert statuses == ["hello"]
    assert websockets.asyncio.server.serve is original
