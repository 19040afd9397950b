"""Photos that are decoded when they are asked for, and a number of bytes that they may take together meanwhile.

A capture of thousands of photos does not fit into memory. Its views look like any others: their cameras are there, and
their pixels come from the files whenever a `PhotoStore` does not hold them.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.scene.view import View

Decode = Callable[[], View]

_THREADS = min(8, os.cpu_count() or 1)  # that decode ahead
AHEAD = 2 * _THREADS  # photos that are decoded before they are needed


@dataclass(eq=False)
class _Held:
    """A photo that is in memory, or on its way there."""

    view: Future[View]
    nbytes: int
    used: bool  # False: decoded ahead


class PhotoStore:
    """Decoded photos of at most `room` bytes; several threads may ask for them.

    Where there is no room for another one, the photo that was used last is let go. Training looks at every photo once
    before it looks at any a second time, so that one is needed again last of all. To let go of the one that was used
    least recently, as caches of other things do, would throw out the very photos whose turn comes next: with room for
    half of the photos it saves 17 decodings in a hundred, and this rule 46 (docs/LOG.md).
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._held = OrderedDict[int, _Held]()  # by key, the least recently used first
        self._taken = 0  # bytes of all of them
        self._ahead = 0  # bytes of those that nobody has used yet
        self._lock = threading.Lock()
        self._forgotten = deque[int]()  # keys whose views are gone; a finaliser may run anywhere and must not wait
        self._keys = count()
        self._pool: ThreadPoolExecutor | None = None
        self.overflowed = False  # whether a photo was ever refused or let go for want of room

    @property
    def nbytes(self) -> int:
        """Bytes of the photos that are held, and of those that are being decoded for it."""
        return self._taken

    def new_key(self, owner: object) -> int:
        """A key for the photo of `owner`, which is forgotten when that is gone."""
        key = next(self._keys)
        weakref.finalize(owner, self._forgotten.append, key).atexit = False
        return key

    def offer(self, key: int, view: View) -> None:
        """Hold a photo that is decoded already, where there is room without letting go of another."""
        with self._lock:
            if self._taken + view.nbytes > self.room:
                self.overflowed = True
                return
            held = self._add(key, view.nbytes, used=True)
        held.view.set_result(view)

    def get(self, key: int, nbytes: int, decode: Decode) -> View:
        """The photo of a key; `decode` makes it, of `nbytes`, where it is not held. Raises what that raises."""
        with self._lock:
            self._forget_what_is_gone()
            held, is_new = self._held.get(key), False
            if held is None:
                is_new, fits = True, self._make_room(nbytes, ahead=False)
                held = self._add(key, nbytes, used=True) if fits else _Held(Future(), nbytes, used=True)
            elif not held.used:
                held.used = True
                self._ahead -= held.nbytes
            if key in self._held:
                self._held.move_to_end(key)
        if is_new:
            self._fill(key, held, decode)
        return held.view.result()

    def decode_ahead(self, key: int, nbytes: int, decode: Decode) -> None:
        """Have another thread decode a photo that is needed soon. At most half of the room is spent on such."""
        with self._lock:
            if key in self._held or self._ahead + nbytes > self.room // 2 or not self._make_room(nbytes, ahead=True):
                return
            held = self._add(key, nbytes, used=False)
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="photos")
        self._pool.submit(self._fill, key, held, decode)

    def take(self, key: int) -> View | None:
        """The photo of a key, which is not held any more; None where it was not, or is still being decoded."""
        with self._lock:
            held = self._drop(key)
        # Not waited for: who asks may be one of the threads that decode ahead, and all of them could wait.
        return held.view.result() if held is not None and held.view.done() else None

    def _fill(self, key: int, held: _Held, decode: Decode) -> None:
        try:
            held.view.set_result(decode())
        except BaseException as error:  # told to whoever asks for the photo; the next one tries again
            with self._lock:
                if self._held.get(key) is held:
                    self._drop(key)
            held.view.set_exception(error)

    def _add(self, key: int, nbytes: int, *, used: bool) -> _Held:
        held = self._held[key] = _Held(Future(), nbytes, used)
        self._taken += nbytes
        self._ahead += 0 if used else nbytes
        return held

    def _drop(self, key: int) -> _Held | None:
        held = self._held.pop(key, None)
        if held is not None:
            self._taken -= held.nbytes
            self._ahead -= 0 if held.used else held.nbytes
        return held

    def _forget_what_is_gone(self) -> None:
        while self._forgotten:
            self._drop(self._forgotten.popleft())

    def _make_room(self, nbytes: int, *, ahead: bool) -> bool:
        """Let go of photos until so many bytes are free; False where what is left is needed soon.

        `ahead`: the photo used last is still in use.
        """
        while self._taken + nbytes > self.room:
            self.overflowed = True
            idle = (key for key in reversed(self._held) if self._held[key].view.done())
            used = (key for key in idle if self._held[key].used)
            if ahead:
                next(used, None)
            key = next(used, None)
            if key is None and not ahead:  # only what was decoded ahead in vain
                key = next((key for key, held in self._held.items() if held.view.done()), None)
            if key is None:
                return False
            self._drop(key)
        return True


class ViewOnDemand(View):
    """A view whose pixels are in a store, or in its file. Who needs them several times holds on to `decoded()`.

    `dataclasses.replace` does not know how to make one: use `changed`, or replace parts of `decoded()`.
    """

    store: PhotoStore
    _decode: Decode
    _bytes_per_pixel: int
    _has_mask: bool
    _key: int

    def __init__(
        self, camera: Camera, decode: Decode, store: PhotoStore, bytes_per_pixel: int, *, has_mask: bool
    ) -> None:
        """`decode` makes the whole view, always the same, which takes so many bytes for each pixel (`View.nbytes`)."""
        own = {"camera": camera, "store": store, "_decode": decode}
        own |= {"_bytes_per_pixel": bytes_per_pixel, "_has_mask": has_mask, "_key": store.new_key(self)}
        for name, value in own.items():
            object.__setattr__(self, name, value)  # it is as frozen as any view

    def offer(self, decoded: View) -> None:
        """Have the store hold what is decoded already, if it has room."""
        self.store.offer(self._key, decoded)

    def decoded(self) -> View:
        return self.store.get(self._key, self.nbytes, self._decode)

    def decode_ahead(self) -> None:
        self.store.decode_ahead(self._key, self.nbytes, self._decode)

    def changed(self, camera: Camera, change: Callable[[View], View]) -> View:
        def decode() -> View:
            return change(self._taken())

        return ViewOnDemand(camera, decode, self.store, self._bytes_per_pixel, has_mask=self._has_mask)

    def _taken(self) -> View:
        """The view, which the store does not hold any more: what is made of it will be used in its place."""
        return self.store.take(self._key) or self._decode()

    @property
    def image(self) -> Tensor:
        return self.decoded().image

    @property
    def mask(self) -> Tensor | None:
        return self.decoded().mask

    @property
    def alpha(self) -> Tensor | None:
        return self.decoded().alpha

    @property
    def inverse_depth(self) -> Tensor | None:
        return self.decoded().inverse_depth

    @property
    def _edge_levels(self) -> Tensor:
        return self.decoded()._edge_levels

    @property
    def has_mask(self) -> bool:
        return self._has_mask

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        return self._bytes_per_pixel * self.camera.width * self.camera.height


def in_turn(views: Sequence[View]) -> Iterator[View]:
    """The views one after the other, with their pixels in memory; other threads decode the next ones meanwhile."""
    for index, view in enumerate(views):
        decoded = view.decoded()
        for following in views[index + 1 : index + 1 + AHEAD]:
            following.decode_ahead()
        yield decoded


def memory_of(views: Sequence[View]) -> int:
    """The most bytes of main memory that the photos of `views` take at a time."""
    stores = {view.store for view in views if isinstance(view, ViewOnDemand)}
    on_demand = sum(view.nbytes for view in views if isinstance(view, ViewOnDemand))
    always = sum(view.nbytes for view in views if not isinstance(view, ViewOnDemand))
    return always + min(on_demand, sum(store.room for store in stores))
