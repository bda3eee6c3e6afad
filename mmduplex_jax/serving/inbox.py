"""What a client sent and nobody has looked at yet: bounded, so that a fast client costs no more than a slow one."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from mmduplex_jax.serving.intake import Decoded
from mmduplex_jax.serving.protocol import Frame

Order = TypeVar("Order")
# Orders are never dropped; this many times the pictures' bound, whoever sends them has to wait.
_ORDERS = 4


class Inbox(Generic[Order]):
    """Pictures and orders in the order in which they came.

    Of a live stream the oldest picture goes when it is full; of H.264 all up to the next keyframe, since nothing before
    it could be decoded. Otherwise the sender waits.

    Attributes:
      dropped: pictures that were dropped.
    """

    def __init__(self, pictures_max: int, *, may_drop: bool):
        self._items: deque[Frame | Decoded | Order] = deque()
        self._pictures_max, self._may_drop = pictures_max, may_drop
        self._changed = asyncio.Condition()
        self._wants_keyframe = False
        self.dropped = 0

    async def put(self, item: Frame | Decoded | Order) -> None:
        """Adds an item; waits where nothing may be dropped."""
        async with self._changed:
            if isinstance(item, Frame | Decoded):
                if self._may_drop:
                    if not self._admit(item):
                        return
                else:
                    await self._changed.wait_for(lambda: self._pictures() < self._pictures_max)
            else:
                await self._changed.wait_for(lambda: len(self._items) < _ORDERS * self._pictures_max)
            self._items.append(item)
            self._changed.notify_all()

    async def get(self) -> Frame | Decoded | Order:
        """Takes the oldest item; waits for one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._items))
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _pictures(self) -> int:
        return sum(isinstance(item, Frame | Decoded) for item in self._items)

    def _admit(self, picture: Frame | Decoded) -> bool:
        """Makes room for a picture; False where it is of no use without one that was dropped."""
        if self._wants_keyframe and not _begins(picture):
            self.dropped += 1
            return False
        self._wants_keyframe = False
        if self._pictures() < self._pictures_max:
            return True
        kept: deque[Frame | Decoded | Order] = deque()
        dropping, any_dropped = True, False
        for item in self._items:
            if isinstance(item, Frame | Decoded):
                dropping = dropping and not (any_dropped and _begins(item))
                if dropping:
                    any_dropped = True
                    self.dropped += 1
                    continue
            kept.append(item)
        self._items = kept
        if dropping and not _begins(picture):
            self._wants_keyframe = True
            self.dropped += 1
            return False
        return True


def _begins(picture: Frame | Decoded) -> bool:
    """Whether it can be decoded without the pictures before it."""
    return isinstance(picture, Decoded) or picture.keyframe
