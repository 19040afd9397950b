"""Which pages may connect to the viewer: those that it has served itself.

A browser lets a page of any site open a websocket to any address, those of this machine too, and leaves it to the
server to look who asks: `Origin` names the site of the page. A site may also let its own name stand for 127.0.0.1 (DNS
rebinding), and then `Host` still has that name. viser looks at neither. Programs that are no browsers send no `Origin`,
or any; what they may do is for the operating system to say.
"""

from __future__ import annotations

import http
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gns.errors import UserError

_NAMES = ("localhost", "127.0.0.1", "[::1]")  # of this machine alone, whatever any server of names says
_STARTING = threading.Lock()  # held while `serve` of websockets is another one


def refusal(hosts: Sequence[str], origins: Sequence[str], port: int) -> str:
    """Why a request with these headers `Host` and `Origin` is refused by a viewer on `port`; empty where it is not."""
    own = {f"{name}:{port}" for name in _NAMES}
    if port == 80:  # which browsers leave out
        own.update(_NAMES)
    if len(hosts) != 1 or hosts[0].lower() not in own:
        return (
            f"This viewer is at http://localhost:{port} and answers to no other name or port. "
            f"Through SSH it takes the same port on both sides: ssh -L {port}:localhost:{port}"
        )
    # "null", of pages without a site such as files, is nobody's own.
    if origins and (len(origins) != 1 or origins[0].lower() not in {f"http://{name}" for name in own}):
        return "A page of another site may not look at this viewer."
    return ""


def start_guarded(start: Callable[[], Any], port: int) -> Any:
    """The viser server that `start` starts on `port`, which refuses foreign pages with status 403.

    viser has no option for it, and asks websockets for its server by `websockets.asyncio.server.serve` while it starts:
    meanwhile that is a function which adds the guard. Raises UserError, with the server stopped, where viser comes to
    a server in another way.
    """
    import websockets.asyncio.server  # viser brings it

    original: Any = websockets.asyncio.server.serve
    guarded = threading.Event()

    def serve(handler: Any, *arguments: Any, **options: Any) -> Any:
        if str(getattr(handler, "__module__", "")).startswith("viser."):  # other threads may start servers of their own
            options["process_request"] = _guard(port, options.get("process_request"))
            guarded.set()
        return original(handler, *arguments, **options)

    with _STARTING:
        websockets.asyncio.server.serve = serve  # type: ignore[assignment,misc]
        try:
            server = start()
        finally:
            websockets.asyncio.server.serve = original  # type: ignore[misc]
    if not guarded.is_set():
        server.stop()
        raise UserError(
            "this version of viser starts its server in a way that gns does not know, so that pages of other sites "
            "could not be kept out of the viewer: pip install viser==1.1.1"
        )
    return server


def _guard(port: int, inner: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    """What websockets asks before it answers a request: a response, or None to go on. `inner` is asked afterwards."""

    def process_request(connection: Any, request: Any) -> Any:
        reason = refusal(request.headers.get_all("Host"), request.headers.get_all("Origin"), port)
        if reason:
            return connection.respond(http.HTTPStatus.FORBIDDEN, f"{reason}\n")
        return inner(connection, request) if inner is not None else None

    return process_request
