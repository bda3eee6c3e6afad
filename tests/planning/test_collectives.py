"""Collectives read out of HLO text: as often as loops run, and once where a compiler writes them several times."""

import pytest

from mmduplex_jax.planning.collectives import Collectives, Traffic, collectives

# A scan of six as libtpu writes it: the limit comes in with the loop's state, the comparison is a fusion's.
TPU_LOOP = """
%fused_compare (p.0: s32[], p.1: s32[]) -> pred[] {
  %p.0 = s32[]{:T(128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %lt = pred[]{:T(512)} compare(%p.0, %p.1), direction=LT
}

%condition (c: (s32[], bf16[4,8], s32[])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%c), index=0
  %limit = s32[]{:T(128)} get-tuple-element(%c), index=2
  ROOT %less = pred[]{:T(512)} fusion(%counter, %limit), kind=kLoop, calls=%fused_compare
}

%body (b: (s32[], bf16[4,8], s32[])) -> (s32[], bf16[4,8], s32[]) {
  %b = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%b), index=1
  %end = s32[]{:T(128)} get-tuple-element(%b), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %sum = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) tuple(%next, %sum, %end)
}

ENTRY %main (x.0: bf16[4,8]) -> bf16[4,8] {
  %x.0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %six = s32[]{:T(128)} constant(6)
  %begin = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%start, %x.0, %six)
  %loop = (s32[]{:T(128)}, bf16[4,8]{1,0}, /*index=2*/s32[]{:T(128)}) while(%begin), condition=%condition, body=%body
  ROOT %got = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def traffic(hlo: str) -> dict[str, tuple[int, int]]:
    return {kind: (moved.count, moved.bytes) for kind, moved in collectives(hlo).traffic.items()}


def test_a_loop_counts_as_often_as_it_runs():
    assert traffic(TPU_LOOP) == {"all-reduce": (6, 6 * 4 * 8 * 2)}


def test_a_count_that_the_compiler_wrote_goes_first():
    written = TPU_LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert traffic(written) == {"all-reduce": (7, 7 * 64)}


def test_a_loop_that_data_ends_counts_once_and_is_told():
    open_ended = TPU_LOOP.replace("%six = s32[]{:T(128)} constant(6)", "%six = s32[]{:T(128)} custom-call(%x.0)")
    assert collectives(open_ended) == Collectives({"all-reduce": Traffic(1, 64)}, open_loops=1)


def test_a_limit_that_changes_in_the_loop_is_not_taken_for_one():
    # The loop's own end is not what it began with: a nested loop that reads it runs as often as data says.
    inner = """
  %inner = (s32[], bf16[4,8], s32[]) tuple(%one, %x, %end)
  %nested = (s32[], bf16[4,8], s32[]) while(%inner), condition=%condition, body=%inner_body
"""
    inner_body = TPU_LOOP[TPU_LOOP.index("%body (") : TPU_LOOP.index("ENTRY")].replace("%body (", "%inner_body (", 1)
    kept = TPU_LOOP.replace("  %sum =", inner + "  %sum =", 1).replace("ENTRY", inner_body + "ENTRY")
    # From 1 to 6, six times, and the outer loop's own.
    assert traffic(kept) == {"all-reduce": (6 * 5 + 6, 36 * 64)}
    changed = kept.replace("tuple(%next, %sum, %end)", "tuple(%next, %sum, %next)", 1)
    assert collectives(changed).open_loops >= 1


ENTRY = """
ENTRY %main (x.0: f32[4,8]) -> f32[4,8] {{
  %x.0 = f32[4,8]{{1,0}} parameter(0)
  {}
  ROOT %out = f32[4,8]{{1,0}} copy(%x.0)
}}
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        # A gather's payload is its result, a scatter's its operand; of a pair of halves the first counts.
        ("%g = f32[16,8]{1,0} all-gather(%x.0), channel_id=1, dimensions={0}", ("all-gather", 512)),
        ("%s = f32[1,8]{1,0} reduce-scatter(%x.0), channel_id=1, to_apply=%add", ("reduce-scatter", 128)),
        ("%g = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x.0), channel_id=1", ("all-gather", 512)),
        ("%r = f32[4,8]{1,0} all-reduce-start(%x.0), channel_id=1, to_apply=%add", ("all-reduce", 128)),
        (
            "%p = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x.0)",
            ("collective-permute", 128),
        ),
        ("%g = ((f32[4,8], f32[4,8]), (f32[8,8], f32[8,8])) all-gather-start(%x.0, %x.0)", ("all-gather", 512)),
    ],
)
def test_payloads(line, found):
    assert traffic(ENTRY.format(line)) == {found[0]: (1, found[1])}


def test_the_second_half_of_a_pair_is_no_collective():
    assert traffic(ENTRY.format("%d = f32[16,8]{1,0} all-gather-done(%x.0)")) == {}


def test_of_a_conditional_the_dearest_branch_counts():
    branch = """
%{name} (p: f32[4,8]) -> f32[4,8] {{
  %p = f32[4,8]{{1,0}} parameter(0)
  ROOT %a = f32[{rows},8]{{1,0}} all-gather(%p), channel_id=3
}}
"""
    both = branch.format(name="small", rows=8) + branch.format(name="large", rows=32)
    entry = ENTRY.format("%c = f32[4,8] conditional(%x.0, %x.0, %x.0), branch_computations={%small, %large}")
    assert traffic(both + entry) == {"all-gather": (1, 32 * 8 * 4)}


def test_a_gather_that_is_hidden_behind_products_counts_once():
    """A TPU writes its start, what runs beside it, and its end as fusions that all name the same channel."""
    part = """
%{name} (p: f32[4,8]) -> f32[16,8] {{
  %p = f32[4,8]{{1,0}} parameter(0)
  ROOT %a = f32[16,8]{{1,0}} all-gather(%p), channel_id=23
}}
"""
    parts = "".join(part.format(name=name) for name in ("start", "beside", "end"))
    calls = "\n".join(f"  %f{n} = f32[16,8] fusion(%x.0), kind=kCustom, calls=%{n}" for n in ("start", "beside", "end"))
    assert traffic(parts + ENTRY.format(calls.strip())) == {"all-gather": (1, 512)}


def test_a_tpus_fused_reduce_scatter_is_one():
    fused = """
%all-reduce-scatter.1 (p: f32[4,8]) -> f32[1,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %a = f32[4,8]{1,0} all-reduce(%p), channel_id=23, to_apply=%add
  ROOT %s = f32[1,8]{1,0} slice(%a), slice={[0:1], [0:8]}
}
"""
    call = ENTRY.format("%f = f32[1,8] fusion(%x.0), kind=kCustom, calls=%all-reduce-scatter.1")
    assert traffic(fused + call) == {"reduce-scatter": (1, 128)}


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("module @jit_step {\n}\n")


def test_what_a_compiler_here_writes_is_understood(eight_devices):
    """Six scanned layers whose weights are split over eight devices: each sums, or gathers, once a layer."""
    found = eight_devices.run("tests.planning.split_layers")
    # [16, 64] float32 summed, or [64, 64] float32 gathered: the partitioner may choose, and what is given or returned
    # may be sent once beside.
    assert [6, 6 * 16 * 64 * 4] in found.values() or [6, 6 * 64 * 64 * 4] in found.values(), found
