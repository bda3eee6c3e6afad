"""What waits: bounded, in order, oldest first to go, orders never."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.serving.inbox import Inbox
from mmduplex_jax.serving.protocol import Frame
from tests.serving.served import run


def frame(number: int, keyframe: bool = True) -> Frame:
    return Frame(number, float(number), "jpeg" if keyframe else "h264", keyframe, b"x")


async def drained(inbox: Inbox) -> list[int | str]:
    """What is in it."""
    await inbox.put("stop")
    items: list[int | str] = []
    while (item := await inbox.get()) != "stop":
        items.append(item.number if isinstance(item, Frame) else item)
    return items


def test_the_oldest_still_goes():
    async def test():
        inbox: Inbox = Inbox(3, may_drop=True)
        for number in range(5):
            await inbox.put(frame(number))
        assert inbox.dropped == 2
        assert await drained(inbox) == [2, 3, 4]

    run(test())


def test_of_h264_all_goes_up_to_a_keyframe():
    async def test():
        inbox: Inbox = Inbox(3, may_drop=True)
        for number in range(3):
            await inbox.put(frame(number, keyframe=number == 0))
        await inbox.put("reset")
        # Nothing that waits can be decoded without what has to go; nor can this, nor what follows it.
        await inbox.put(frame(3, keyframe=False))
        await inbox.put(frame(4, keyframe=False))
        await inbox.put(frame(5, keyframe=True))
        await inbox.put(frame(6, keyframe=False))
        assert inbox.dropped == 5
        assert await drained(inbox) == ["reset", 5, 6]

    run(test())


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_what_comes_out_can_be_decoded_in_order(keyframes: list[bool], size: int, takes: list[bool]):
    """Whenever a picture is not a keyframe, the one that comes out before it is the one that was sent before it."""

    async def test():
        inbox: Inbox = Inbox(size, may_drop=True)
        out: list[int] = []
        for number, keyframe in enumerate([True, *keyframes]):
            await inbox.put(frame(number, keyframe))
            if number < len(takes) and takes[number]:
                # Where all was dropped there is nothing to take.
                try:
                    async with asyncio.timeout(0):
                        item = await inbox.get()
                except TimeoutError:
                    continue
                assert isinstance(item, Frame)
                out.append(item.number)
        out += [number for number in await drained(inbox) if isinstance(number, int)]
        assert out == sorted(out)
        sent = [True, *keyframes]
        assert all(sent[number] or out[i - 1] == number - 1 for i, number in enumerate(out))
        assert inbox.dropped == len(sent) - len(out)

    run(test())


def test_where_nothing_may_be_dropped_the_sender_waits():
    async def test():
        inbox: Inbox = Inbox(2, may_drop=False)
        await inbox.put(frame(0))
        await inbox.put(frame(1))
        third = asyncio.create_task(inbox.put(frame(2)))
        await asyncio.sleep(0)
        assert not third.done()
        assert isinstance(await inbox.get(), Frame)
        await third
        assert await drained(inbox) == [1, 2]

    run(test())


def test_orders_are_bounded_too():
    async def test():
        inbox: Inbox = Inbox(2, may_drop=True)
        for _ in range(8):
            await inbox.put("pause")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await inbox.put("pause")

    run(test())
