"""The benchmark of loading weights measures both sides in fresh processes, ours without torch."""

import json

import pytest

from experiments.benchmarks import load_weights

pytestmark = pytest.mark.slow


@pytest.mark.full
def test_both_sides_are_measured_and_written(tmp_path, capsys):
    load_weights.main(["--model", "test_resnet", "--repeats", "1", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "load_weights-test_resnet.json").read_text())
    for side in load_weights.SIDES:
        assert 0 < result[side]["load"] < result[side]["both"]
        assert len(result[side]["turns"]) == 1
    for what, ratio in result["speed_over_timm"].items():
        assert ratio == result["timm"][what] / result["tl_jax"][what]
    assert {"date", "machine", "versions"} <= result.keys()
    ratio = result["speed_over_timm"]["both"]
    assert f"{ratio:.2f} times as fast as timm in a new process" in capsys.readouterr().out
