"""Programs with cuDNN's attention, traced where there is no GPU: to lower them takes one, to trace them does not.

JAX asks for the version of cuDNN while it traces, and has no public name for who answers: hence `jax._src`.
"""

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo


def trace_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has attention take cuDNN's kernel from now on, with what its JAX side checks of shapes, as on a Hopper."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
