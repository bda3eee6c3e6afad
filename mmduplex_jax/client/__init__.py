"""A client of `launch.serve`: pictures out, words in, over a connection that may drop. docs/protocol.md says the rest.

    async with connect("http://127.0.0.1:8080", mode="file") as stream:
        speaking = asyncio.create_task(show(stream))       # await stream.send(t_s, image) ...; await stream.end()
        async for event in stream:
            if isinstance(event, Word):
                print(event.text)

It needs aiohttp (the extra `live`), NumPy and OpenCV, and no JAX. `mmduplex_jax.client.session` is for programs that
block, one tick after another.
"""

from mmduplex_jax.client.stream import (
    TOKEN_VARIABLE,
    Event,
    Notice,
    Refused,
    Status,
    Stream,
    StreamLost,
    Word,
    connect,
    encode,
    info,
    read_token,
)

__all__ = [
    "TOKEN_VARIABLE", "Event", "Notice", "Refused", "Status", "Stream", "StreamLost", "Word", "connect", "encode",
    "info", "read_token",
]  # fmt: skip
