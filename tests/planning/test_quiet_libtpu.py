"""libtpu without a TPU is told that it is alone, so that it prints no errors; with a TPU nothing is changed."""

import importlib.util
import os

import pytest

import mmduplex_jax

VARIABLES = ("TPU_WORKER_HOSTNAMES", "TPU_HOST_BOUNDS")


@pytest.mark.parametrize(
    ("libtpu", "vendor", "quiet"), [(True, "0x8086", True), (True, "0x1ae0", False), (False, "0x8086", False)]
)
def test_only_where_libtpu_is_and_no_tpu(libtpu, vendor, quiet, monkeypatch, tmp_path):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if libtpu else None)
    (tmp_path / "0000:00:04.0").mkdir()
    (tmp_path / "0000:00:04.0" / "vendor").write_text(vendor + "\n")
    mmduplex_jax._quiet_libtpu(tmp_path)
    assert [variable in os.environ for variable in VARIABLES] == [quiet] * 2


def test_what_somebody_set_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("TPU_HOST_BOUNDS", "2,1,1")
    mmduplex_jax._quiet_libtpu(tmp_path)
    assert (os.environ["TPU_WORKER_HOSTNAMES"], os.environ["TPU_HOST_BOUNDS"]) == ("a,b", "2,1,1")
