"""The arena over HTTP: pages, ballots, votes, the leaderboard. Guarded as the server of models is.

A voter is a cookie with a random key. What a ballot's video is fetched by is the ballot's own key, which nobody can
guess, so that a `<video>` needs no header. Names of contestants leave the server only after the vote, and on the board.
"""

import asyncio
import contextlib
import functools
import ipaddress
import json
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiohttp import web

from mmduplex_jax.arena import rules
from mmduplex_jax.arena.board import board_html, leaderboard
from mmduplex_jax.arena.coordination import flag_groups
from mmduplex_jax.arena.entries import Entries, Video
from mmduplex_jax.arena.live import Recorder
from mmduplex_jax.arena.pairing import choose_pair
from mmduplex_jax.arena.ratings import MissingLibrary
from mmduplex_jax.arena.rules import ArenaLimits
from mmduplex_jax.arena.votes import Ballot, Voter, VoteRefused, VoteStore
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.guard import guarded_app, page, page_file, read_body
from mmduplex_jax.serving.limits import Bucket

_log = logging.getLogger(__name__)
VOTER_COOKIE = "arena_voter"
_COOKIE_S = 180 * 86_400
# Pages hold no secret; a ballot's video is reached by the ballot's own key.
_PUBLIC = frozenset({"page", "asset", "healthz", "video"})
_PAGES = {"/": "index.html", "/leaderboard": "leaderboard.html"}
# What all pages of our servers share.
_SHARED_FILES = frozenset({"theme.css"})
_STATUS = {"unknown": 404, "over": 409, "again": 409, "too_early": 425}
# Addresses whose rates are remembered.
_ADDRESSES_MAX = 10_000
_BURST_S = 10.0

Result = TypeVar("Result")


class Arena:
    """What the handlers share. The database is used by one thread, in turn; ratings are computed in another."""

    def __init__(
        self, entries: Entries, store: VoteStore, limits: ArenaLimits, *, secure: bool, live: Recorder | None = None
    ):
        # (Replaced as a whole, where servers are recorded meanwhile.)
        self.entries, self.store, self.limits, self.secure = entries, store, limits, secure
        self._live = live
        self._voting = ThreadPoolExecutor(1, "votes")
        self._rating = ThreadPoolExecutor(1, "ratings")
        self._searching = ThreadPoolExecutor(1, "groups")
        self._searched_s = -math.inf
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._board: tuple[float, dict[str, Any]] | None = None
        self._counting: asyncio.Future[dict[str, Any]] | None = None

    def close(self) -> None:
        """Waits for what is being written."""
        self._voting.shutdown()
        self._rating.shutdown()
        self._searching.shutdown()

    async def do(self, what: Callable[..., Result], *arguments: Any) -> Result:
        """Runs something on the thread of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._voting, what, *arguments)

    def take_turn(self, address: str) -> None:
        """Counts a request; HTTPTooManyRequests for too many from an address."""
        bucket = self._buckets.pop(address, None)
        if bucket is None:
            bucket = Bucket(self.limits.requests_hz, _BURST_S * self.limits.requests_hz)
        self._buckets[address] = bucket
        while len(self._buckets) > _ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if not bucket.take():
            raise web.HTTPTooManyRequests(text="too many requests; wait a little")

    def voter(self, key: str | None, address: str) -> tuple[Voter, str]:
        """Who asks, and the key; whoever has none, or one that is not ours, becomes a new voter."""
        if key is None or not self.store.knows(key):
            if self.store.new_voters(address, rules.DAY_S) >= self.limits.new_voters_day:
                raise web.HTTPTooManyRequests(text="too many new voters from your address today; come back tomorrow")
            key = secrets.token_urlsafe(24)
        return self.store.voter(key, address), key

    def ballot_for(self, voter: Voter) -> tuple[Ballot, Video] | None:
        """The voter's open ballot, or a new one, and what it shows; None where it has judged everything."""
        entries = self.entries
        refusal = rules.too_many(self.store, voter, self.limits)
        if refusal:
            raise web.HTTPTooManyRequests(text=refusal)
        ballot = self.store.open_ballot(voter.number, self.limits.ballot_s)
        if ballot is not None and _shows(entries, ballot):
            return ballot, entries.videos[ballot.video]
        if ballot is not None:
            # What it showed has been changed since.
            self.store.set_unplayable(ballot.key, voter.number)
        number = self.store.next_number()
        chosen = choose_pair(
            entries, self.store.tallies(), self.store.votes_by_video(), self.store.judged(voter.number),
            self.store.seed, number,
        )  # fmt: skip
        if chosen is None:
            return None
        stem, left, right = chosen
        video = entries.videos[stem]
        sides = [(name, video.commentaries[name].sha256) for name in (left, right)]
        ballot = self.store.add_ballot(
            number, voter.number, stem, video.category, sides[0], sides[1], video.shown_s(left, right)
        )
        return ballot, video

    def vote(self, key: str, voter: Voter, choice: str, reason: str) -> Ballot:
        """Writes the vote down, then judges the voter."""
        ballot = self.store.vote(key, voter, choice, reason)
        found = "" if voter.excluded else rules.verdict(self.store, voter)
        if found:
            self.store.exclude(voter.number, found)
            _log.warning("excluded", extra={"voter": voter.number, "why": found})
        return ballot

    async def board(self) -> dict[str, Any]:
        """The leaderboard, at most `limits.board_s` old, or as old as it is where a new one is not there in time.

        Half a million votes are counted anew in less than a second of a processor, which others may keep busy.
        """
        asked_s = time.monotonic()
        until_s = math.inf if self._board is None else asked_s + self.limits.board_wait_s
        while self._board is None or self._board[0] < asked_s - self.limits.board_s:
            if self._counting is None:
                self._counting = asyncio.get_running_loop().run_in_executor(self._rating, self._leaderboard)
                self._counting.add_done_callback(functools.partial(self._counted, time.monotonic()))
            counting, left_s = self._counting, until_s - time.monotonic()
            await asyncio.wait([counting], timeout=None if left_s == math.inf else max(0.0, left_s))
            if not counting.done():
                break
            counting.result()  # (raises what went wrong)
        assert self._board is not None
        begun_s, content = self._board
        return content | {"age_s": round(time.monotonic() - begun_s, 1)}

    def _counted(self, begun_s: float, counting: "asyncio.Future[dict[str, Any]]") -> None:
        self._counting = None
        if not counting.cancelled() and counting.exception() is None:
            self._board = (begun_s, counting.result())

    def _leaderboard(self) -> dict[str, Any]:
        # Groups of voters take seconds to find among half a million votes: nobody waits, the next board has them.
        if time.monotonic() - self._searched_s >= self.limits.groups_s:
            self._searched_s = time.monotonic()
            self._searching.submit(self._search).add_done_callback(_say_why("no group of voters is found"))
        reports = [] if self._live is None else self._live.reports()
        return leaderboard(self.store, self.entries.contestants, live=reports)

    def _search(self) -> None:
        for group in flag_groups(self.store):
            _log.warning("%d voters push %s %s together", len(group.voters), group.towards, group.contestant)

    async def record(self) -> None:
        """Records the contestants that are servers, and shows what is recorded; until it is cancelled."""
        if self._live is not None:
            await self._live.run(self._reread)

    async def _reread(self) -> None:
        assert self._live is not None
        try:
            self.entries = await asyncio.to_thread(self._live.entries)
        except (OSError, ValueError) as error:
            # (As where whoever runs it is copying a file into the folder: what is shown stays.)
            _log.warning("the folder cannot be read now: %s", error)


def _shows(entries: Entries, ballot: Ballot) -> bool:
    """Whether what a ballot showed is shown still."""
    video = entries.videos.get(ballot.video)
    said = {} if video is None else {name: one.sha256 for name, one in video.commentaries.items()}
    return said.get(ballot.left) == ballot.left_sha256 and said.get(ballot.right) == ballot.right_sha256


ARENA = web.AppKey("arena", Arena)


def build_arena(
    entries: Entries, store: VoteStore, access: Access, limits: ArenaLimits | None = None, *, secure: bool = False,
    live: Recorder | None = None,
) -> web.Application:  # fmt: skip
    """The application, ready to be run; it does not close the store.

    Args:
      entries: what is shown.
      store: where votes go.
      access: who may use it.
      limits: bounds for everybody.
      secure: it is reached by https only.
      live: records contestants that are servers, while it runs.
    """
    limits = limits or ArenaLimits()
    app = guarded_app(access, body_bytes=limits.body_bytes, public=_PUBLIC, always=("healthz",))

    async def run(app: web.Application) -> AsyncIterator[None]:
        app[ARENA] = arena = Arena(entries, store, limits, secure=secure, live=live)
        # The first board is counted before anybody asks for it: libraries are loaded for it.
        counting = asyncio.create_task(arena.board(), name="counting")
        counting.add_done_callback(_say_why("there is no leaderboard"))
        recording = asyncio.create_task(arena.record(), name="recording")
        recording.add_done_callback(_say_why("nothing is recorded any more"))
        yield
        recording.cancel()
        counting.cancel()
        await asyncio.gather(recording, counting, return_exceptions=True)  # (what it raised is said)
        arena.close()

    app.cleanup_ctx.append(run)
    for path in _PAGES:
        app.router.add_get(path, _page, name="page" if path == "/" else None)
    app.router.add_get("/static/{name}", _asset, name="asset")
    app.router.add_get("/healthz", _healthz, name="healthz")
    app.router.add_post("/v1/ballots", _ballot)
    app.router.add_get("/v1/ballots/{key:[0-9a-f]{64}}/video", _video, name="video")
    app.router.add_post("/v1/ballots/{key:[0-9a-f]{64}}/vote", _vote)
    app.router.add_post("/v1/ballots/{key:[0-9a-f]{64}}/unplayable", _unplayable)
    app.router.add_get("/v1/leaderboard", _leaderboard)
    return app


def _say_why(what: str) -> Callable[[Any], None]:
    """Logs what ended a task that nobody waits for; all else goes on."""

    def say(task: Any) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: %r", what, error, exc_info=error)

    return say


def _address(request: web.Request) -> str:
    """Where a request comes from; of IPv6 the network, for whoever has one address there has many."""
    remote = request.remote or ""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(remote)
        if address.version == 6:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return remote


async def _known_voter(request: web.Request) -> Voter:
    """The voter whose cookie a request has."""
    arena = request.app[ARENA]
    arena.take_turn(_address(request))
    key = request.cookies.get(VOTER_COOKIE)
    if key is None or not await arena.do(arena.store.knows, key):
        raise web.HTTPForbidden(text="no voter's cookie came with this: cookies are needed to vote")
    return await arena.do(arena.store.voter, key, _address(request))


async def _page(request: web.Request) -> web.StreamResponse:
    return page("mmduplex_jax.arena", _PAGES[request.path])


async def _asset(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    package = "mmduplex_jax.serving" if name in _SHARED_FILES else "mmduplex_jax.arena"
    answer = await page_file(package, name)
    if answer is None:
        raise web.HTTPNotFound(text="there is no such file")
    return answer


async def _healthz(request: web.Request) -> web.StreamResponse:
    return web.json_response({"alive": True})


async def _ballot(request: web.Request) -> web.StreamResponse:
    arena = request.app[ARENA]
    arena.take_turn(_address(request))
    voter, key = await arena.do(arena.voter, request.cookies.get(VOTER_COOKIE), _address(request))
    given = await arena.do(arena.ballot_for, voter)
    if given is None and not arena.entries.videos:
        raise web.HTTPServiceUnavailable(text="commentaries are being recorded; come back in some minutes")
    if given is None:
        answer = web.json_response({"done": True})
    else:
        ballot, video = given
        answer = web.json_response(
            {
                "done": False,
                "ballot": ballot.key,
                "video": f"v1/ballots/{ballot.key}/video",
                "shown_s": ballot.shown_s,
                "left": video.commentaries[ballot.left].words,
                "right": video.commentaries[ballot.right].words,
            }
        )
    answer.set_cookie(
        VOTER_COOKIE, key, max_age=_COOKIE_S, httponly=True, samesite="Strict", secure=arena.secure, path="/"
    )
    return answer


async def _video(request: web.Request) -> web.StreamResponse:
    arena = request.app[ARENA]
    ballot = await arena.do(arena.store.ballot, request.match_info["key"])
    video = None if ballot is None else arena.entries.videos.get(ballot.video)
    if video is None:
        raise web.HTTPNotFound(text="there is no such ballot")
    # (A FileResponse answers ranges, which some browsers want of every video.)
    return web.FileResponse(video.path, headers={"Cache-Control": "private, max-age=3600"})


async def _vote(request: web.Request) -> web.StreamResponse:
    voter = await _known_voter(request)
    choice, reason = await _choice(request)
    arena = request.app[ARENA]
    try:
        ballot = await arena.do(arena.vote, request.match_info["key"], voter, choice, reason)
    except VoteRefused as refused:
        body = {"error": str(refused), "code": refused.code, "wait_s": round(refused.wait_s, 3)}
        return web.json_response(body, status=_STATUS[refused.code])
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return web.json_response({"left": ballot.left, "right": ballot.right})


async def _choice(request: web.Request) -> tuple[str, str]:
    """What the body says; HTTPBadRequest for what says nothing."""
    body = await read_body(request, request.app[ARENA].limits.body_s)
    try:
        # JSON is UTF-8, whatever charset the client names.
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body must be JSON (UTF-8)") from None
    fields = content if isinstance(content, dict) else {}
    choice, reason = fields.get("choice"), fields.get("reason", "")
    if not isinstance(choice, str) or not isinstance(reason, str):
        raise web.HTTPBadRequest(text='the body must be {"choice": "left", "reason": "timing"}; reason may be left out')
    return choice, reason


async def _unplayable(request: web.Request) -> web.StreamResponse:
    voter = await _known_voter(request)
    arena = request.app[ARENA]
    try:
        await arena.do(arena.store.set_unplayable, request.match_info["key"], voter.number)
    except VoteRefused as refused:
        return web.json_response({"error": str(refused), "code": refused.code}, status=_STATUS[refused.code])
    return web.json_response({})


async def _leaderboard(request: web.Request) -> web.StreamResponse:
    arena = request.app[ARENA]
    arena.take_turn(_address(request))
    try:
        board = await arena.board()
    except MissingLibrary as error:  # votes can be taken without it
        raise web.HTTPServiceUnavailable(text=str(error)) from error
    return web.json_response(board | {"html": board_html(board)})
