"""Collectives are read from XLA's text, and the scaling follows from their sizes."""

import pytest

from experiments.benchmarks import collectives
from experiments.benchmarks.collectives import Collective, Links

TEXT = """
HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main {
  %p = f32[1024]{0} parameter(0)
  %all-reduce.1 = f32[64]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%sum
  %ar = (f32[64]{0:T(128)}, bf16[131072]{0}) all-reduce-start(%x, %y), to_apply=%sum
  %ard = (f32[64]{0:T(128)}, bf16[131072]{0}) all-reduce-done(%ar)
  %ar2 = ((f32[640]{0}), f32[640]{0}) all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%sum
  %ard2 = f32[640]{0} all-reduce-done(%ar2)
  %ag = (f32[128]{0}, f32[1024]{0}) all-gather-start(%p), dimensions={0}
  %agd = f32[1024]{0} all-gather-done(%ag)
  %ag2 = ((f32[8]{0}, f32[2,8]{1,0}), (f32[64]{0}, f32[16,8]{1,0})) all-gather-start(%p, %q)
  %ar3 = (f32[32]{0}, f32[32]{0}) all-reduce(%x, %y), to_apply=%sum
  ROOT %rs = f32[128]{0} reduce-scatter(%p), dimensions={0}, to_apply=%sum
}
"""


def test_each_collective_is_found_once_with_the_bytes_of_its_result():
    assert collectives.collectives(TEXT) == [
        Collective("all-reduce", 256),
        Collective("all-reduce", 256 + 262144),
        Collective("all-reduce", 2560),
        Collective("all-gather", 4096),
        Collective("all-gather", 256 + 512),
        Collective("all-reduce", 256),
        Collective("reduce-scatter", 512),
    ]


def test_the_summary_counts_small_ones():
    found = collectives.summary(collectives.collectives(TEXT))["all-reduce"]
    assert (found["count"], found["below_64_KiB"]) == (4, 3)
    assert found["megabytes"] == pytest.approx(0.265472)


def test_a_gather_and_a_scatter_take_as_long_as_the_all_reduce_that_they_make():
    links = Links(((8, 1e9),), latency_seconds=1e-5)
    reduce = collectives.ring_seconds([Collective("all-reduce", 8000)], links)
    parts = [Collective("reduce-scatter", 1000), Collective("all-gather", 8000)]
    assert reduce == pytest.approx(2 * 7 / 8 * 8e-6 + 1e-5)
    assert collectives.ring_seconds(parts, links) == pytest.approx(reduce + 1e-5)
    assert collectives.ring_seconds([Collective("all-reduce", 8)], Links(())) == 0


def test_between_boxes_each_device_sends_its_part_alone():
    links = Links(((8, 1e9), (4, 1e8)))
    seconds = collectives.ring_seconds([Collective("all-reduce", 8000)], links)
    assert seconds == pytest.approx(2 * 7 / 8 * 8e-6 + 2 * 3 / 4 * 1000 / 1e8)


def test_collectives_cost_nothing_where_they_are_hidden():
    assert collectives.efficiency(0.04, 0.01, overlap=False) == pytest.approx(0.8)
    assert collectives.efficiency(0.04, 0.01, overlap=True) == 1
    assert collectives.efficiency(0.04, 0.08, overlap=True) == pytest.approx(0.5)
