"""Whatever a client sends, the server answers or hangs up, and the stream beside it goes on."""

import json

from aiohttp import ClientError
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import Frame, frame_bytes
from tests.serving.served import picture, run, served

KINDS = ("hello", "config", "pause", "play", "reset", "end", "dance")
# Everything that is nearly right, and noise.
MESSAGES = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=60),
    st.builds(lambda kind: json.dumps({"type": kind, "version": 1}), st.sampled_from(KINDS)),
    st.builds(lambda bias: json.dumps({"type": "config", "pad_bias": bias}), st.floats() | st.integers()),
    st.builds(lambda steps: json.dumps({"type": "config", "delay_steps": steps}), st.integers(-3, 9)),
    st.builds(
        lambda number, t_s, codec, key, data: frame_bytes(Frame(number, t_s, codec, key, data)),
        st.integers(0, 9),
        st.floats(0, 1e9),
        st.sampled_from(["jpeg", "webp", "h264"]),
        st.booleans(),
        st.binary(min_size=1, max_size=40) | st.just(picture()) | st.integers(0, 300).map(lambda n: picture()[: n + 1]),
    ),
)


@given(st.lists(MESSAGES, max_size=12), st.booleans(), st.sampled_from(["live", "file"]))
def test_nothing_that_is_sent_harms_another_stream(messages: list[str | bytes], greets: bool, mode: str):
    async def test():
        async with served(limits=Limits(bad_frames=3)) as server, server.stream(mode="file") as other:
            async with server.socket() as bad:
                if greets:
                    await bad.say(type="hello", version=1, config={"mode": mode})
                try:
                    for message in messages:
                        await (bad.socket.send_str if isinstance(message, str) else bad.socket.send_bytes)(message)
                    await bad.say(type="end")
                except (ClientError, ConnectionError):
                    pass  # it has been hung up on
                heard = await bad.hear_all()
                if heard and heard[0]["type"] == "hello":
                    assert heard[-1]["type"] == "bye"
                    assert heard[-1]["reason"] in ("end", "protocol")
                assert not any(message.get("code") == "internal" for message in heard)
            await other.show(0)
            assert (await other.hear("word"))["text"] == "w0"
            assert len(server.pool.seats) == 1

    run(test())
