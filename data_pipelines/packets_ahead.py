"""Packets with a look ahead: when the picture in each gives way to the next one, known before it is decoded."""

import bisect
from collections import deque
from collections.abc import Iterator

import av

# Pictures are stored at most 16 away from their place in the order of presentation (H.264 and HEVC allow no more).
_AHEAD = 34


def with_ends(
    packets: Iterator[av.Packet], stream_index: int
) -> Iterator[tuple[av.Packet, tuple[float, float] | None]]:
    """The packets in their order, and for those of the stream when their picture appears and when the next one does.

    None where either is not known: without a time stamp, for what is not shown, and for the last picture. An error of
    the reader comes after the packets that were read before it.
    """
    waiting: deque[av.Packet] = deque()
    of_stream = 0
    stamps: list[int] = []  # in order; of the packets that wait, and of some before them
    arrived: deque[int] = deque()
    failure: Exception | None = None

    def hand_out() -> tuple[av.Packet, tuple[float, float] | None]:
        nonlocal of_stream
        packet = waiting.popleft()
        if packet.stream.index != stream_index:
            return packet, None
        of_stream -= 1
        if packet.pts is None or packet.time_base is None or packet.is_discard:
            return packet, None
        after = bisect.bisect_right(stamps, packet.pts)
        if after == len(stamps):
            return packet, None
        unit = packet.time_base
        begin_s, end_s = (stamp * unit.numerator / unit.denominator for stamp in (packet.pts, stamps[after]))
        return packet, (begin_s, end_s)

    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError) as error:
            failure = error
            break
        waiting.append(packet)
        if packet.stream.index == stream_index:
            of_stream += 1
            if packet.pts is not None and not packet.is_discard:
                bisect.insort(stamps, packet.pts)
                arrived.append(packet.pts)
        if len(arrived) > 2 * _AHEAD:
            del stamps[bisect.bisect_left(stamps, arrived.popleft())]
        while of_stream > _AHEAD:
            yield hand_out()
    while waiting:
        yield hand_out()
    if failure is not None:
        raise failure
