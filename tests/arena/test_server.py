"""The arena over HTTP: what a voter gets, what is refused, and what the board shows of it."""

import asyncio
import contextlib
import gzip
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from mmduplex_jax.arena.board import leaderboard
from mmduplex_jax.arena.entries import read_entries
from mmduplex_jax.arena.rules import ArenaLimits
from mmduplex_jax.arena.server import VOTER_COOKIE, build_arena
from mmduplex_jax.arena.votes import VoteStore
from mmduplex_jax.serving.access import Access
from tests.arena.contest import Clock, write_contest
from tests.serving.served import run

# The board is computed anew for every reader.
FRESH = ArenaLimits(board_s=1e-9, board_wait_s=60)
GZIP = {"Content-Encoding": "gzip"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contest(tmp_path_factory.mktemp("arena") / "root")


class Served:
    def __init__(self, client: TestClient, store: VoteStore, clock: Clock):
        self.client, self.store, self.clock = client, store, clock

    async def ballot(self, status: int = 200) -> dict:
        async with self.client.post("/v1/ballots", json={}) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def vote(self, ballot: dict, choice: str = "left", **fields) -> tuple[int, dict]:
        async with self.client.post(f"/v1/ballots/{ballot['ballot']}/vote", json={"choice": choice} | fields) as answer:
            return answer.status, await answer.json()

    async def board(self) -> dict:
        pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
        async with self.client.get("/v1/leaderboard") as answer:
            assert answer.status == 200
            return await answer.json()

    def forget(self) -> None:
        """The next request is a stranger's."""
        self.client.session.cookie_jar.clear()


@contextlib.asynccontextmanager
async def served(
    root: Path, path: Path, limits: ArenaLimits = FRESH, token: str | None = None, seed: str = "seed"
) -> AsyncIterator[Served]:
    clock = Clock()
    with contextlib.closing(VoteStore(path, seed=seed, now=clock)) as store:
        app = build_arena(read_entries(root), store, Access("127.0.0.1", token), limits)
        # (Cookies of an address are refused by default.)
        async with TestClient(TestServer(app), cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            yield Served(client, store, clock)


def arena_test(body, root: Path, tmp_path: Path, **arguments) -> None:
    async def test():
        async with served(root, tmp_path / "votes.sqlite3", **arguments) as server:
            await body(server)

    run(test())


def test_a_voter_sees_votes_and_then_learns_who_it_was(root: Path, tmp_path: Path):
    async def body(server: Served):
        ballot = await server.ballot()
        for name in ("amber", "birch", "cedar"):
            assert name not in str(ballot)
        assert [word[0] for word in ballot["left"]] == [0.4, 0.8, 1.2]
        assert ballot["left"] != ballot["right"]
        async with server.client.get(f"/{ballot['video']}", headers={"Range": "bytes=0-99"}) as video:
            assert (video.status, len(await video.read())) == (206, 100)
            assert video.content_type == "video/mp4"
        server.clock.now_s += ballot["shown_s"]
        status, names = await server.vote(ballot, "left", reason="truth")
        assert status == 200
        assert {names["left"], names["right"]} < {"amber", "birch", "cedar"}
        board = await server.board()
        assert board["votes"] == 1
        assert board["ratings"][0]["name"] == names["left"]
        assert list(board["reasons"]) == ["truth"]
        assert names["left"] in board["html"]

    arena_test(body, root, tmp_path)


def test_the_server_refuses_votes_before_the_end(root: Path, tmp_path: Path):
    async def body(server: Served):
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"] - 0.25
        status, answer = await server.vote(ballot)
        assert (status, answer["code"], answer["wait_s"]) == (425, "too_early", 0.25)
        # Coming again does not begin anew, and does not end sooner either.
        assert await server.ballot() == ballot
        server.clock.now_s += 0.25
        assert (await server.vote(ballot))[0] == 200
        status, answer = await server.vote(ballot)
        assert (status, answer["code"]) == (409, "over")
        assert (await server.board())["votes"] == 1

    arena_test(body, root, tmp_path)


def test_everything_is_judged_once_and_then_there_is_nothing_left(root: Path, tmp_path: Path):
    async def body(server: Served):
        for _ in range(6):  # two videos, three pairs
            ballot = await server.ballot()
            server.clock.now_s += ballot["shown_s"] + 5
            assert (await server.vote(ballot, "tie"))[0] == 200
        assert await server.ballot() == {"done": True}
        assert (await server.board())["choices"]["tie"] == 6

    arena_test(body, root, tmp_path)


def test_a_stranger_and_a_forged_cookie_cannot_vote(root: Path, tmp_path: Path):
    async def body(server: Served):
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"]
        server.forget()
        assert (await server.vote(ballot))[0] == 403
        server.client.session.cookie_jar.update_cookies({VOTER_COOKIE: "forged"}, server.client.make_url("/"))
        assert (await server.vote(ballot))[0] == 403
        server.forget()
        other = await server.ballot()
        assert other["ballot"] != ballot["ballot"]
        status, answer = await server.vote(ballot)
        assert (status, answer["code"]) == (404, "unknown")
        cookies = server.client.session.cookie_jar.filter_cookies(server.client.make_url("/"))
        assert "forged" not in cookies[VOTER_COOKIE].value

    arena_test(body, root, tmp_path)


def test_the_cookie_is_for_this_page_alone(root: Path, tmp_path: Path):
    async def body(server: Served):
        async with server.client.post("/v1/ballots", json={}) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie

    arena_test(body, root, tmp_path)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b"[]", 400), (b'{"choice": 3}', 400), (b'{"choice": "best"}', 400), (b"\xff", 400),
        (b'{"choice": "left", "reason": "looks"}', 400), (b"[" * 4000, 400), (b" " * 5000, 413),
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused(root: Path, tmp_path: Path, body: bytes, status: int):
    async def test(server: Served):
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"]
        async with server.client.post(f"/v1/ballots/{ballot['ballot']}/vote", data=body) as answer:
            assert answer.status == status
            assert "error" in await answer.json()
        assert (await server.board())["votes"] == 0

    arena_test(test, root, tmp_path)


def test_a_vote_that_does_not_come_is_not_waited_for(root: Path, tmp_path: Path):
    async def body(server: Served):
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"]

        async def stalled():
            yield b"{"
            await asyncio.sleep(60)

        url = f"/v1/ballots/{ballot['ballot']}/vote"
        async with server.client.post(url, data=stalled()) as answer:
            assert answer.status == 408
        async with server.client.post(url, data=gzip.compress(bytes(1 << 20)), headers=GZIP) as answer:
            assert answer.status == 413

    arena_test(body, root, tmp_path, limits=ArenaLimits(body_s=0.2))


def test_hosts_origins_and_headers_are_those_of_the_models_server(root: Path, tmp_path: Path):
    async def body(server: Served):
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            async with server.client.post("/v1/ballots", json={}, headers=headers) as answer:
                assert answer.status == 403
        for path in ("/", "/leaderboard", "/static/arena.js", "/static/theme.css", "/healthz"):
            async with server.client.get(path) as answer:
                assert answer.status == 200, path
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        for path in ("/static/page.js", "/static/board.html", "/static/..%2fboard.py", f"/v1/ballots/{'0' * 64}/video"):
            async with server.client.get(path) as answer:
                assert answer.status == 404, path

    arena_test(body, root, tmp_path)


def test_where_a_token_is_wanted_only_pages_are_public(root: Path, tmp_path: Path):
    token = "a-secret-of-more-than-16"

    async def body(server: Served):
        async with server.client.get("/") as page, server.client.get("/static/arena.css") as style:
            assert (page.status, style.status) == (200, 200)
        await server.ballot(status=401)
        async with server.client.get("/v1/leaderboard") as board:
            assert board.status == 401
        server.client.session.headers["Authorization"] = f"Bearer {token}"
        ballot = await server.ballot()
        del server.client.session.headers["Authorization"]
        async with server.client.get(f"/{ballot['video']}") as video:  # a <video> sends no header
            assert video.status == 200

    arena_test(body, root, tmp_path, token=token)


def test_rates_are_limited(root: Path, tmp_path: Path):
    async def by_address(server: Served):
        statuses = []
        for _ in range(12):
            async with server.client.post("/v1/ballots", json={}) as answer:
                statuses.append(answer.status)
        assert statuses == [200] * 10 + [429] * 2

    arena_test(by_address, root, tmp_path, limits=ArenaLimits(requests_hz=1.0))

    async def by_voter(server: Served):
        for _ in range(2):
            ballot = await server.ballot()
            server.clock.now_s += ballot["shown_s"] + 5
            await server.vote(ballot)
        assert "2 votes within 3 hours" in (await server.ballot(status=429))["error"]
        server.clock.now_s += 3 * 3600
        await server.ballot()

    (tmp_path / "by_voter").mkdir()
    arena_test(by_voter, root, tmp_path / "by_voter", limits=ArenaLimits(votes_3_hours=2))

    async def by_new_voters(server: Served):
        for _ in range(3):
            server.forget()
            await server.ballot()
        server.forget()
        assert "too many new voters" in (await server.ballot(status=429))["error"]
        server.clock.now_s += 24 * 3600
        await server.ballot()

    (tmp_path / "new").mkdir()
    arena_test(by_new_voters, root, tmp_path / "new", limits=ArenaLimits(new_voters_day=3))


def test_without_evalica_votes_are_taken_and_the_board_says_what_to_install(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "evalica", None)

    async def body(server: Served):
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"]
        assert (await server.vote(ballot))[0] == 200
        async with server.client.get("/v1/leaderboard") as answer:
            assert answer.status == 503
            assert "pip install 'mmduplex-jax[arena]'" in (await answer.json())["error"]

    arena_test(body, root, tmp_path)


def test_a_video_that_does_not_play_is_left_for_another(root: Path, tmp_path: Path):
    async def body(server: Served):
        ballot = await server.ballot()
        async with server.client.post(f"/v1/ballots/{ballot['ballot']}/unplayable", json={}) as answer:
            assert answer.status == 200
        assert (await server.ballot())["ballot"] != ballot["ballot"]
        assert (await server.vote(ballot))[1]["code"] == "over"

    arena_test(body, root, tmp_path)


def test_votes_and_voters_are_there_after_a_restart(root: Path, tmp_path: Path):
    async def test():
        async with served(root, tmp_path / "votes.sqlite3") as server:
            ballot = await server.ballot()
            jar = server.client.session.cookie_jar
            cookie = jar.filter_cookies(server.client.make_url("/"))[VOTER_COOKIE].value
        async with served(root, tmp_path / "votes.sqlite3", seed="another, which is not taken") as server:
            server.client.session.cookie_jar.update_cookies({VOTER_COOKIE: cookie}, server.client.make_url("/"))
            assert (await server.ballot())["ballot"] == ballot["ballot"]
            server.clock.now_s += ballot["shown_s"]
            assert (await server.vote(ballot))[0] == 200

    asyncio.run(test())


def test_groups_of_voters_are_searched_for_beside_the_board(root: Path, tmp_path: Path, monkeypatch, caplog):
    """Now and then, and a search that fails is said and takes no board with it."""
    searched = []

    def search(store: VoteStore) -> list:
        searched.append(store)
        raise ValueError("no group today")

    monkeypatch.setattr("mmduplex_jax.arena.server.flag_groups", search)

    async def body(server: Served):
        for _ in range(2):
            assert (await server.board())["groups"] == []
        async with asyncio.timeout(30):
            while "no group today" not in caplog.text:
                await asyncio.sleep(0.01)
        assert searched == [server.store]  # (once in ten minutes)

    arena_test(body, root, tmp_path)


def test_nobody_waits_long_for_a_board(root: Path, tmp_path: Path, monkeypatch):
    """Where counting takes its time, the board of before is shown, with its age; the next one is there when it is."""
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    may_count = threading.Event()
    may_count.set()

    def slow(*arguments, **named) -> dict:
        assert may_count.wait(60)
        return leaderboard(*arguments, **named)

    monkeypatch.setattr("mmduplex_jax.arena.server.leaderboard", slow)

    async def body(server: Served):
        assert (await server.board())["votes"] == 0
        ballot = await server.ballot()
        server.clock.now_s += ballot["shown_s"]
        await server.vote(ballot)
        may_count.clear()
        old = await server.board()
        assert (old["votes"], old["age_s"] > 0) == (0, True)
        may_count.set()
        async with asyncio.timeout(30):
            while (await server.board())["votes"] != 1:
                await asyncio.sleep(0.01)

    arena_test(body, root, tmp_path, limits=ArenaLimits(board_s=1e-9, board_wait_s=0.1, requests_hz=1e3))
