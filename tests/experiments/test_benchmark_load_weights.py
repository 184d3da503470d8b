"""The benchmark of loading weights measures both sides in fresh processes, ours without torch."""

import json

from experiments.benchmarks import load_weights


def test_both_sides_are_measured_and_written(tmp_path, capsys):
    load_weights.main(["--model", "test_resnet", "--repeats", "1", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "load_weights-test_resnet.json").read_text())
    for side in load_weights.SIDES:
        assert result[side]["load"] > 0
        assert len(result[side]["loads"]) == 1
    ratio = result["timm"]["load"] / result["tl_jax"]["load"]
    assert result["speed_over_timm"] == ratio
    assert {"date", "machine", "versions"} <= result.keys()
    assert f"{ratio:.2f} times as fast as timm" in capsys.readouterr().out
