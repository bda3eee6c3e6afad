"""Two processes in network namespaces, whose link is cut: both end in a stated time, and go on when it is back."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmduplex_jax.train.distributed import EXIT_PREEMPTED
from tests.train.processes import Processes

PEER_TIMEOUT_S = 10
# What the coordination service needs beside.
NOTICED_S = 20
ADDRESSES = ("10.77.0.1", "10.77.0.2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"),
        reason="needs root, and iproute2 and unshare, to make network namespaces",
    ),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def linked() -> Iterator[tuple[str, str]]:
    """Two namespaces, a link between them, and in each the names of both hosts."""
    names = tuple(f"mmduplex{os.getpid()}n{i}" for i in range(2))
    try:
        for name in names:
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr}")
            # `ip netns exec` lays these files over /etc.
            hosts = Path("/etc/netns") / name / "hosts"
            hosts.parent.mkdir(parents=True)
            lines = [f"{address} {host}" for address, host in zip(ADDRESSES, names)]
            hosts.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n", encoding="utf-8")
        ip("link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
        for name, address in zip(names, ADDRESSES):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def started(workdir: Path, names: tuple[str, str], **options) -> Processes:
    # Collectives of CPUs find each other by the host's name.
    within = [
        ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
        for name in names
    ]
    coordinator = f"{ADDRESSES[0]}:23456"
    return Processes(
        workdir, 2, 20, 5, coordinator=coordinator, within=within, peer_timeout_s=PEER_TIMEOUT_S, **options
    )


def test_a_cut_link_ends_both_and_they_go_on_when_it_is_back(tmp_path, linked):
    workdir = tmp_path / "run"
    with started(workdir, linked, step_s=0.2) as processes:
        processes.wait_for("step  9/")
        ip("-n", linked[1], "link", "set", "wire", "down")
        codes = processes.exit_codes(PEER_TIMEOUT_S + NOTICED_S)
        assert set(codes) <= {EXIT_PREEMPTED, -signal.SIGABRT}
    ip("-n", linked[1], "link", "set", "wire", "up")
    with started(workdir, linked) as processes:
        assert processes.exit_codes() == [0, 0], processes.log(0)
        assert "going on from step 5" in processes.log(0)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9, 12, 15, 18, 20]
