"""The server's benchmark: what it counts, and a short run of it against a real server."""

import json

import pytest

from benchmarks import serving


def account(session: str, numbers: list[int], **fields):
    words = [(number, f"w{number}", 0.0) for number in numbers]
    kept = {
        "role": "steady",
        "session": session,
        "words": words,
        "doubled": 0,
        "missing": 0,
        "resumed": 0,
        "refused": [],
    }
    return kept | {"bye": ("end", len(words))} | fields


def ended(session: str, words: int):
    return {"event": "session ended", "level": "info", "session": session, "words": words}


def test_words_that_are_whole_are_said_to_be():
    accounts = [account("a", [1, 2, 3]), account("b", [1])]
    feeds = {"a": accounts[0]["words"]}
    found = serving.check_words(accounts, feeds, [ended("a", 3), ended("b", 1)])
    assert (found["words"], found["lost"], found["doubled"], found["differ_from_feed"]) == (4, 0, 0, 0)
    assert found["compared_with_feed"] == 1


def test_words_that_were_lost_doubled_or_others_are_counted():
    lost = serving.check_words([account("a", [1, 2])], {}, [ended("a", 3)])
    assert lost["lost"] == 1
    skipped = serving.check_words([account("a", [1, 3], missing=1)], {}, [ended("a", 2)])
    assert skipped["lost"] == 1
    doubled = serving.check_words([account("a", [1, 1], doubled=1)], {}, [ended("a", 2)])
    assert doubled["doubled"] == 1
    other = serving.check_words([account("a", [1])], {"a": [(1, "another", 0.0)]}, [ended("a", 1)])
    assert other["differ_from_feed"] == 1
    given_up = serving.check_words([account("a", [1], bye=None)], {}, [ended("a", 5)])
    assert (given_up["lost"], given_up["given_up"]) == (0, 1)
    log = [ended("a", 1), {"event": "it broke", "level": "error"}]
    assert serving.check_words([account("a", [1])], {}, log)["errors_in_log"] == 1


def test_bad_clients_keep_their_share():
    assert serving.bad_clients(64) == {"stalling": 8, "garbage": 4, "dropping": 4, "twin": 4}
    assert serving.bad_clients(8) == {"stalling": 1, "garbage": 1, "dropping": 1, "twin": 1}


@pytest.mark.parametrize("flags", [["--clients=4"], ["--minutes=0.1"]])
def test_wrong_flags(flags):
    assert serving.main(flags) == 2


def test_no_such_part():
    with pytest.raises(SystemExit, match="2"):
        serving.main(["--parts=nothing"])


@pytest.mark.slow
def test_a_short_run_against_a_real_server(tmp_path):
    path = tmp_path / "serving.json"
    assert serving.main(["--clients=8", "--minutes=0.4", "--phase_s=6", "--latency_s=6", f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    assert report["latency"]["status"]["n"] > 10
    soak = report["soak"]
    assert [phase["hostile"] for phase in soak["phases"]] == [False, True, False, True]
    assert all(phase["lag"]["n"] for phase in soak["phases"])
    assert len(soak["p99_hostile_over_calm"]["each"]) == 2
    words = soak["words"]
    assert words["words"] > 0
    assert (words["lost"], words["doubled"], words["differ_from_feed"], words["given_up"]) == (0, 0, 0, 0)
    # The one that drops came back, more than once.
    assert words["resumed"] >= 2
    assert words["compared_with_feed"] == 3
    assert sum(soak["garbage"].values()) > 0
