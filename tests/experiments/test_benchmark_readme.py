"""The page of benchmarks is rendered from the committed results, all of them."""

import json

import pytest

from experiments.benchmarks import readme


def test_the_committed_page_is_what_the_results_render_to():
    committed = (readme.FOLDER / "README.md").read_text(encoding="utf-8")
    assert committed == readme.render(), "run: python -m experiments.benchmarks.readme"


def test_a_result_of_an_unknown_kind_is_not_left_out(tmp_path):
    (tmp_path / "new-thing.json").write_text("{}")
    with pytest.raises(ValueError, match=r"new-thing\.json is none of the kinds of results"):
        readme.render(tmp_path, ())


def cpu_result(quiet):
    sample = {"wall": 0.5, "cpu": 1.0, "faults": 3.0, "others": 0.0}
    samples = {"tl_jax": [sample], "torch": [sample | {"wall": 0.6}]}
    one = {"wall": 0.5, "cpu": 1.0, "faults": 3.0}
    ratio = {"median": 1.2, "least": 1.2, "largest": 1.2}
    found = {name: one | {"wall_ratio": ratio, "cpu_ratio": ratio} for name in samples}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "a CPU", "cores": 2},
        "versions": {"jax": "1.0", "torch": "2.0"},
        "setting": {"batch_size": 16},
        "sides": {"tl_jax": {"compile_seconds": {"trace": 1.0, "compile": 2.0}}, "torch": {}},
        "peak_bytes": {"tl_jax": 2**20, "torch": 2**21},
        "timing": {
            "rounds": 1,
            "quiet_rounds": [0] if quiet else [],
            "samples": samples,
            "all": found,
            **({"quiet": found} if quiet else {}),
        },
    }


@pytest.mark.parametrize("quiet", [True, False])
def test_a_row_says_whether_the_machine_was_quiet(tmp_path, quiet):
    (tmp_path / "cpu-resnet50-full.json").write_text(json.dumps(cpu_result(quiet)))
    text = readme.render(tmp_path, ())
    rounds = "1" if quiet else "not quiet"
    start = "| resnet50, full, batch 16 | 500.0 ms | 500.0 ms | 1.20 [1.20, 1.20]"
    assert f"{start} | {rounds} | a CPU, 2 cores | 2026-01-02 | jax 1.0, torch 2.0 |" in text
    assert "| resnet50, full, batch 16, peak memory | 1 MiB | 2 MiB | 2.00 |" in text
    assert "| resnet50-full | tl_jax | 500.0 | 1.20 [1.20, 1.20] | 1.20 | 3 | 3.0 |" in text
