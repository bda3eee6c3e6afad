"""Others' steppers do what they are said to: where their packages are installed."""

import pytest

from benchmarks import stepper
from benchmarks.stepper import TextShape, interleaved_stepper, moshi_stepper, timed

torch = pytest.importorskip("torch", reason="others' models are in PyTorch")

SHAPE = TextShape(width=64, layers=2, heads=4, kv_heads=2, hidden=96, vocab=50, window_steps=10, step_hz=12.5)


@pytest.mark.parametrize("given", [{}, {"depth": True}, {"shared": True}], ids=["text", "speech", "shared"])
def test_moshi_has_our_width_and_depth_and_steps(given):
    pytest.importorskip("moshi", reason="LMGen is in it")
    times_s = timed(moshi_stepper(SHAPE, "float32", 3, **given), 12)
    assert len(times_s["all"]) == 12
    model = stepper._moshi(SHAPE, "float32", given.get("depth", False), given.get("shared", False))
    layers = model.transformer.layers
    keys = SHAPE.kv_heads if given.get("shared") else SHAPE.heads
    attention = 2 * SHAPE.width**2 + 2 * SHAPE.width * SHAPE.width * keys // SHAPE.heads
    weights = sum(p.numel() for layer in layers for p in layer.parameters() if p.dim() == 2)
    assert weights == SHAPE.layers * (attention + 3 * SHAPE.width * SHAPE.hidden)
    assert (model.depformer is not None) == given.get("depth", False)
    assert model.text_linear.weight.shape == (SHAPE.vocab, SHAPE.width)


@pytest.mark.parametrize("watched_s", [0.0, 2.5])
def test_an_interleaved_step_sees_all_of_the_video_and_leaves_it_as_it_was(watched_s, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="Qwen2 is in it")
    seen = []
    forward = transformers.Qwen2ForCausalLM.forward

    def watching(self, *, inputs_embeds, past_key_values, **given):
        seen.append((inputs_embeds.shape[1], int(past_key_values.get_seq_length())))
        return forward(self, inputs_embeds=inputs_embeds, past_key_values=past_key_values, **given)

    monkeypatch.setattr(transformers.Qwen2ForCausalLM, "forward", watching)
    times_s = timed(interleaved_stepper(SHAPE, "float32", 2, watched_s), 50)
    # Four seconds of 12.5 steps.
    assert {kind: len(times) for kind, times in times_s.items()} == {"video": 4, "text": 46}
    assert [read for read, _ in seen[:5]] == [1, 1, 1, 321, 1]
    assert {length for _, length in seen} == {watched_s * 320}
