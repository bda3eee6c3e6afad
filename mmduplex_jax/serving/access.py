"""Who may use the server (a token, the page's own origin, a host name that is this machine's), and how much of it."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import hdrs
from aiohttp.web import BaseRequest

from mmduplex_jax.serving.protocol import BEARER_SUBPROTOCOL

TOKEN_MIN = 16


def is_loopback(host: str) -> bool:
    """Whether a host name or address reaches this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def feed_secret(token: str) -> str:
    """What lets anybody read a stream's words, of which its token cannot be found."""
    return base64.urlsafe_b64encode(hmac.digest(token.encode(), b"feed", "sha256")[:18]).decode()


class Access:
    """The rules for requests.

    Attributes:
      token: what clients must show; None where only this machine can reach the server.
    """

    def __init__(self, host: str, token: str | None, origins: Sequence[str] = ()):
        """Checks that the rules are safe.

        Args:
          host: where the server listens.
          token: that clients must show.
          origins: of pages besides the server's own that may use it, such as `https://example.org`.

        Raises:
          ValueError: other machines can reach the server and there is no token, the token is short or has characters
            that a header cannot carry, or an origin is none.
        """
        if token is None and not is_loopback(host):
            raise ValueError(
                f"--host={host} can be reached from other machines: give --token_file with a secret that clients show, "
                "or listen on 127.0.0.1"
            )
        if token is not None and (len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable()):
            raise ValueError(f"the token must have at least {TOKEN_MIN} printable ASCII characters")
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
                raise ValueError(f"--allow_origins: {origin} is no origin (https://example.org)")
        self.token, self._origins = token, frozenset(origin.lower() for origin in origins)

    def refusal(self, request: BaseRequest, *, needs_token: bool = True) -> tuple[int, str] | None:
        """Why a request is refused, as status and message; None where it may go on."""
        if self.token is None and not self._host_is_here(request):
            return 403, "this server answers to localhost only"
        if not self._origin_allowed(request):
            return 403, "pages of this origin may not use this server (--allow_origins)"
        if needs_token and self.token is not None:
            shown = bearer(request)
            # (What is no UTF-8 in a header comes as surrogates.)
            if shown is None or not hmac.compare_digest(shown.encode(errors="surrogateescape"), self.token.encode()):
                return 401, "a token is needed: `Authorization: Bearer TOKEN`"
        return None

    def _host_is_here(self, request: BaseRequest) -> bool:
        """Without a token a page elsewhere could have its own name point here; such a name is not loopback's."""
        try:
            return is_loopback(urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or "")
        except ValueError:
            return False

    def _origin_allowed(self, request: BaseRequest) -> bool:
        """Browsers say which page a request comes from; programs that are none say nothing."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            # (Pictures, videos and scripts of a page elsewhere are asked for without an origin; a link that is followed
            # is no such thing.)
            site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
            return site not in ("cross-site", "same-site") or mode == "navigate"
        if origin.lower() in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc.lower() == request.headers.get(hdrs.HOST, "").lower()


def bearer(request: BaseRequest) -> str | None:
    """The token that a request shows, in a header or, as browsers do, in a subprotocol; None where it shows none."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for offered in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
        name = offered.strip()
        if name.startswith(BEARER_SUBPROTOCOL):
            encoded = name.removeprefix(BEARER_SUBPROTOCOL)
            try:
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True).decode()
            except (binascii.Error, ValueError):
                return None
    return None
