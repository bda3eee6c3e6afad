"""What all our servers do with every request: rules, headers for browsers, errors as JSON, files of a page."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files

import jinja2
from aiohttp import web

from mmduplex_jax.serving.access import Access

# Connections that have not sent the head of a request yet.
SILENT = web.AppKey("silent", set[web.RequestHandler])

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "worker-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), display-capture=(self), microphone=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded_app(
    access: Access,
    *,
    body_bytes: int,
    public: Collection[str],
    always: Collection[str] = (),
    on_refused: Callable[[int], None] = lambda status: None,
) -> web.Application:
    """An application without routes whose every request and answer is guarded.

    Args:
      access: who may use it.
      body_bytes: of a request's body, at most.
      public: names of routes that need no token.
      always: names of routes that answer whoever asks, by whatever name for this machine.
      on_refused: called with the status of each refusal.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses whom the rules refuse; errors are JSON."""
        request.app[SILENT].discard(request.protocol)
        route = request.match_info.route.name
        refusal = access.refusal(request, needs_token=route not in public)
        if refusal is not None and route not in always:
            status, message = refusal
            on_refused(status)
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            return web.json_response({"error": message}, status=status, headers=headers)
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return web.json_response({"error": error.text or error.reason}, status=error.status)

    app = web.Application(middlewares=[guard], client_max_size=body_bytes)
    app[SILENT] = set()
    app.on_response_prepare.append(_add_headers)
    return app


async def read_body(request: web.Request, within_s: float) -> bytes:
    """A request's body; HTTPRequestTimeout where it does not come in time: who stalls holds a connection."""
    try:
        async with asyncio.timeout(within_s):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not come within {within_s:g} s") from None


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def page(package: str, name: str) -> web.Response:
    """A page of a package's folder `templates`, laid out by `shell.html`, which all pages share."""
    body = _templates(package).get_template(name).render()
    return web.Response(text=body, content_type="text/html", headers={"Cache-Control": "no-cache"})


@functools.cache
def _templates(package: str) -> jinja2.Environment:
    folders = [jinja2.PackageLoader(one) for one in (package, "mmduplex_jax.serving")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


async def page_file(package: str, name: str) -> web.Response | None:
    """A file of a package's folder `static`; None where it has none of that name."""
    folder = files(package) / "static"
    # Looked up among the names that are there: nothing that a client writes becomes a path.
    found = next((entry for entry in folder.iterdir() if entry.name == name and entry.is_file()), None)
    kind = _TYPES.get(name[name.rfind(".") :])
    if found is None or kind is None:
        return None
    body = await asyncio.to_thread(found.read_bytes)
    return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})
