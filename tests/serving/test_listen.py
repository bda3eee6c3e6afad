"""Sockets: over TLS, no more than allowed, and what a stop leaves behind."""

import asyncio
import contextlib
import datetime
import logging
import ssl
from pathlib import Path

import aiohttp
import pytest

from mmduplex_jax.client import connect
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.app import build_app
from mmduplex_jax.serving.listen import serve
from mmduplex_jax.serving.monitoring import MalformedRequestFilter
from mmduplex_jax.serving.sockets import tls_context
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import run


async def listening(
    stop: asyncio.Event, access: Access | None = None, **arguments
) -> tuple[int, "asyncio.Task[None]", ScriptedPool]:
    """A server on any free port, and the task that serves."""
    pool = ScriptedPool()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    app = build_app(pool, FACTS, access or Access("127.0.0.1", None))
    arguments = {"drain_s": 0.0, "connections_max": 8} | arguments
    serving = asyncio.create_task(serve(app, "127.0.0.1", 0, stop=stop, on_listening=port.set_result, **arguments))
    return await port, serving, pool


def test_connections_over_the_limit_are_hung_up_on_and_others_are_served():
    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop, connections_max=2)
        async with connect(f"http://127.0.0.1:{port}") as stream:
            idle = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            # A reset, or the end of what comes: both are hanging up.
            with contextlib.suppress(ConnectionError):
                assert await reader.read(1) == b""
            assert stream.hello["version"] == 1
            for one in (idle[1], writer):
                one.close()
        stop.set()
        await serving
        pool.close()

    run(test())


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_asks_for_nothing_is_hung_up_on_and_who_asked_is_not(begun: bytes):
    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop, first_request_s=0.2)
        async with connect(f"http://127.0.0.1:{port}") as stream:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            with contextlib.suppress(ConnectionError):
                assert await reader.read(1) == b""
            writer.close()
            await stream.configure(pad_bias=1.0)
            assert (await anext(stream)).code == "config"
        stop.set()
        await serving
        pool.close()

    run(test())


def test_what_is_no_http_is_answered_and_not_logged(caplog):
    # As `logs` does, without taking pytest's handlers away.
    logger, quiet = logging.getLogger("aiohttp.server"), MalformedRequestFilter()
    logger.addFilter(quiet)

    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop)
        for noise in (
            b"GET /?\xff HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"GET / HTTP/9.9.9\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            assert (await reader.readline()).split()[1] == b"400"
            writer.close()
        stop.set()
        await serving
        pool.close()

    try:
        run(test())
    finally:
        logger.removeFilter(quiet)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stop_ends_streams_and_frees_the_port():
    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop)
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://127.0.0.1:{port}/v1/stream") as socket:
            await socket.send_str('{"type":"hello","version":1}')
            assert (await socket.receive_json())["type"] == "hello"
            stop.set()
            assert (await socket.receive_json())["code"] == "draining"
            assert (await socket.receive_json())["reason"] == "shutdown"
            await serving
        assert not pool.seats
        with pytest.raises(OSError, match="127.0.0.1"):
            await asyncio.open_connection("127.0.0.1", port)
        pool.close()

    run(test())


def test_tls_from_the_flags(tmp_path: Path):
    cert, key = certificate(tmp_path)

    async def test():
        stop = asyncio.Event()
        tls = tls_context(str(cert), str(key))
        port, serving, pool = await listening(stop, tls=tls)
        trusting = ssl.create_default_context(cafile=str(cert))
        async with aiohttp.ClientSession() as http:
            async with http.get(f"https://localhost:{port}/healthz", ssl=trusting) as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(f"https://localhost:{port}/healthz")
        stop.set()
        await serving
        pool.close()

    run(test())
    with pytest.raises(ValueError, match="are no pair"):
        tls_context(str(cert), str(cert))


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed (aiortc brings it)")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "cert.pem", folder / "key.pem"
