"""What a client sent and nobody has taken yet: pictures and orders, in the order in which they came."""

import asyncio
import dataclasses
from collections import deque
from typing import Literal

from mmduplex_jax.serving.handover import SavedStream
from mmduplex_jax.serving.protocol import PREDICTED, Frame

InOrder = Literal["pause", "play", "reset", "end"]
# Orders are never dropped; this many times the pictures' bound, whoever sends them has to wait.
_ORDERS_WAITING = 4


@dataclasses.dataclass(eq=False)
class Save:
    """The order to say what the stream is, once the pictures before it were taken.

    Attributes:
      leave: it goes on elsewhere.
      turn: held while its row is copied.
      saved: the answer.
    """

    leave: bool
    turn: asyncio.Semaphore
    saved: SavedStream | None = None


Item = Frame | InOrder | Save


class Inbox:
    """Pictures and orders in the order in which they came.

    Of a live stream the oldest picture goes when it is full; of H.264 and VP8 all up to the next keyframe, since none
    before it could be decoded. Otherwise the sender waits.

    Attributes:
      dropped: pictures that were dropped.
      wants_keyframe: pictures are dropped up to the next one from which decoding can begin.
    """

    def __init__(self, pictures_max: int, *, may_drop: bool):
        self._items: deque[Item] = deque()
        self._pictures_max, self._may_drop = pictures_max, may_drop
        self._changed = asyncio.Condition()
        self.wants_keyframe = False
        self.dropped = 0

    async def put(self, item: Item) -> None:
        """Adds an item; waits where nothing may be dropped."""
        async with self._changed:
            if isinstance(item, Frame):
                if self._may_drop:
                    if not self._admit(item):
                        return
                else:
                    await self._changed.wait_for(lambda: self._pictures() < self._pictures_max)
            else:
                await self._changed.wait_for(lambda: len(self._items) < _ORDERS_WAITING * self._pictures_max)
            self._items.append(item)
            self._changed.notify_all()

    def refuse(self, picture: Frame) -> None:
        """Drops a picture that came faster than it may; what refers to it cannot be decoded either."""
        self.dropped += 1
        self.wants_keyframe = self.wants_keyframe or picture.codec in PREDICTED

    async def get(self) -> Item:
        """Takes the oldest item; waits for one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._items))
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _pictures(self) -> int:
        return sum(isinstance(item, Frame) for item in self._items)

    def _admit(self, picture: Frame) -> bool:
        """Makes room for a picture; False where it is of no use without one that was dropped."""
        if self.wants_keyframe and not picture.keyframe:
            self.dropped += 1
            return False
        self.wants_keyframe = False
        if self._pictures() < self._pictures_max:
            return True
        kept: deque[Item] = deque()
        dropping, any_dropped = True, False
        for item in self._items:
            if isinstance(item, Frame):
                dropping = dropping and not (any_dropped and item.keyframe)
                if dropping:
                    any_dropped = True
                    self.dropped += 1
                    continue
            kept.append(item)
        self._items = kept
        if dropping and not picture.keyframe:
            self.wants_keyframe = True
            self.dropped += 1
            return False
        return True
