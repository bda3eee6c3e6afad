"""How a server is asked: its address, the token, and what it says of its model."""

from typing import Any

from mmduplex_jax.client.events import Refused, StreamLost

CONNECT_S = 10.0


def load_aiohttp() -> Any:
    """The module aiohttp; an error that says how to get it where it is not installed."""
    try:
        import aiohttp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the client needs aiohttp: install mmduplex-jax with its extra `live`") from error
    return aiohttp


async def info(url: str, token: str | None = None) -> dict[str, Any]:
    """What a server says of its model; the fields are in docs/protocol.md.

    Raises:
      Refused: the server does not want to say it.
      StreamLost: there is no server.
      ValueError: no http address.
    """
    aiohttp = load_aiohttp()
    check_url(url)
    timeout = aiohttp.ClientTimeout(total=CONNECT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=bearer_header(token), timeout=timeout) as http,
            http.get(f"{url.rstrip('/')}/v1/info") as answer,
        ):
            if answer.status != 200:
                raise refused(url, answer.status, answer.reason or "")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StreamLost(f"{url} cannot be reached: {str(error) or type(error).__name__}") from error


def check_url(url: str) -> None:
    """ValueError for what is no server's address."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no server's address (http://127.0.0.1:8080)")


def bearer_header(token: str | None) -> dict[str, str]:
    """The header that shows a token; none without one."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def refused(url: str, status: int, message: str) -> Refused:
    """A refusal by HTTP's status, in words."""
    known = {401: "it wants another token", 403: "it refuses this origin or host name"}
    return Refused("http", f"{url}: {known.get(status, f'{status} {message}')}")
