"""The profile of a configuration: what it measures, writes and refuses."""

import json

import pytest

from tl_jax.cli import main
from tl_jax.config import to_json
from tl_jax.run import profile as profiling
from tl_jax.run.profile import profile

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    """The machine is measured with small arrays."""
    monkeypatch.setattr(profiling, "_MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(profiling, "_COPIED_BYTES", 2**20)


def test_the_command_profiles_a_training_step(tiny_config, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(to_json(tiny_config))
    folder = tmp_path / "profile"
    command = ["profile", str(file), "--to", str(folder), "--phase", "2", "--steps", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    result = json.loads((folder / "profile.json").read_text())
    assert printed.startswith((folder / "profile.txt").read_text())
    assert "of the roofline" in printed and "layer1.0" in printed
    assert result["seconds_per_step"] > 0 and result["batch_size"] == 8
    assert result["flops"] > 0 and result["bytes"] > 0 and result["phase"] in printed
    least = max(
        result["flops"] / result["peak_flops_per_second"],
        result["bytes"] / result["peak_bytes_per_second"],
    )
    assert result["least_seconds"] == least
    assert result["share_of_roofline"] == least / result["seconds_per_step"]
    assert any(row["is_backward"] and row["module"] for row in result["operations"])
    total = sum(row["seconds"] for row in result["operations"])
    assert sum(row["seconds"] for row in result["modules"]) == pytest.approx(total)
    assert list(folder.rglob("*.trace.json.gz")) and list(folder.rglob("*.xplane.pb"))
    assert main(command) == 1  # The folder is in use now.
    assert f"{folder} is in use" in capsys.readouterr().err


def test_evaluation_has_no_backward_operations(tiny_config, tmp_path):
    result = profile(tiny_config, tmp_path / "profile", program="evaluate", steps=1)
    assert result["phase"] is None
    assert any(row["module"].startswith("layer1") for row in result["operations"])
    assert not any(row["is_backward"] for row in result["operations"])


def test_what_cannot_be_profiled_is_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"has 2 phase\(s\); got phase=3"):
        profile(tiny_config, tmp_path / "profile", phase=3)
    with pytest.raises(ValueError, match="got program='predict'; expected one of train, evaluate"):
        profile(tiny_config, tmp_path / "profile", program="predict")
    with pytest.raises(ValueError, match="number of steps to time"):
        profile(tiny_config, tmp_path / "profile", steps=0)
    assert not (tmp_path / "profile").exists()
