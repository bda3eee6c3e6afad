"""Who is let in: tokens, origins, host names; and that the server refuses to be open to strangers."""

import asyncio
import base64

import aiohttp
import pytest

from mmduplex_jax.serving.access import Access, is_loopback
from mmduplex_jax.serving.protocol import BEARER_SUBPROTOCOL
from tests.serving.served import run, served

TOKEN = "a-secret-of-more-than-16"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1", "LOCALHOST"])
def test_loopback_needs_no_token(host: str):
    assert is_loopback(host)
    assert Access(host, None).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "localhost.example.org", ""])
def test_elsewhere_it_does_not_listen_without_a_token(host: str):
    with pytest.raises(ValueError, match="can be reached from other machines: give --token_file"):
        Access(host, None)
    assert Access(host, TOKEN).token == TOKEN


@pytest.mark.parametrize("token", ["short", "sixteen-characters-but-ü", "with\nnewline-in-it-yes"])
def test_a_token_that_is_no_secret_is_refused(token: str):
    with pytest.raises(ValueError, match="at least 16 printable ASCII"):
        Access("127.0.0.1", token)


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", "ftp://example.org"])
def test_what_is_no_origin_is_refused(origin: str):
    with pytest.raises(ValueError, match="is no origin"):
        Access("127.0.0.1", None, [origin])


@pytest.mark.parametrize("path", ["/v1/info", "/metrics", "/v1/stream", "/v1/world/0.mp4"])
def test_a_token_is_asked_for(path: str):
    async def test():
        async with served(token=TOKEN) as server, aiohttp.ClientSession() as stranger:
            async with stranger.get(server.url + path) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert "Authorization: Bearer" in (await answer.json())["error"]
            wrong = {"Authorization": "Bearer another-secret-of-16"}
            async with stranger.get(server.url + path, headers=wrong) as answer:
                assert answer.status == 401

    run(test())


def test_a_token_that_is_no_text_is_another_token():
    async def test():
        async with served(token=TOKEN) as server:
            port = int(server.url.rsplit(":", 1)[1])
            for header in (b"Authorization: Bearer \xff\xfe", b"Sec-WebSocket-Protocol: mmduplex.bearer.\xff"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
                assert (await reader.readline()).split()[1] == b"401"
                writer.close()

    run(test())


def test_the_token_opens_what_it_should_and_public_things_need_none():
    async def test():
        async with served(token=TOKEN) as server, aiohttp.ClientSession() as stranger:
            async with server.http.get(f"{server.url}/v1/info") as answer:
                assert answer.status == 200
            for path in ("/", "/healthz", "/readyz"):
                async with stranger.get(server.url + path) as answer:
                    assert answer.status == 200, path

    run(test())


def bearer_subprotocol(token: str) -> str:
    """The subprotocol by which a page shows its token (`static/connection.js`)."""
    return BEARER_SUBPROTOCOL + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def test_a_browser_shows_its_token_as_a_subprotocol():
    async def test():
        async with served(token=TOKEN) as server, aiohttp.ClientSession() as browser:
            protocols = ("mmduplex.v1", bearer_subprotocol(TOKEN))
            async with browser.ws_connect(f"{server.url}/v1/stream", protocols=protocols) as socket:
                # The server names the protocol and never repeats the secret.
                assert socket.protocol == "mmduplex.v1"
            for bad in ("mmduplex.bearer.", "mmduplex.bearer.!!!", bearer_subprotocol("another-secret-of-16")):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                    await browser.ws_connect(f"{server.url}/v1/stream", protocols=("mmduplex.v1", bad))

    run(test())


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("SELF", True),
        ("https://friend.example", True),
        ("https://evil.example", False),
        ("http://127.0.0.1:1", False),
        ("null", False),
        ("http://[bad", False),
    ],
)
def test_pages_of_other_origins_are_refused(origin: str, allowed: bool):
    async def test():
        access = Access("127.0.0.1", None, ["https://friend.example"])
        async with served(access=access) as server:
            headers = {"Origin": server.url if origin == "SELF" else origin}
            async with server.http.get(f"{server.url}/v1/info", headers=headers) as answer:
                assert answer.status == (200 if allowed else 403)
            if allowed:
                async with server.stream_as(headers) as socket:
                    assert socket.hello["version"] == 1
            else:
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    await server.http.ws_connect(f"{server.url}/v1/stream", headers=headers)

    run(test())


def test_a_name_that_was_made_to_point_here_is_refused():
    """DNS rebinding: the page's own origin is its host's, and the host's name is not loopback's."""

    async def test():
        async with served() as server:
            headers = {"Host": "rebound.example", "Origin": "http://rebound.example"}
            async with server.http.get(f"{server.url}/v1/info", headers=headers) as answer:
                assert answer.status == 403
            async with server.http.get(f"{server.url}/healthz", headers=headers) as answer:
                assert answer.status == 200

    run(test())
