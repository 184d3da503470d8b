"""The GPU's suite runs whole on a CPU with tiny networks, with nothing but what a GPU box has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.gpu import page as pages
from experiments.benchmarks.gpu import suite as gpu
from experiments.benchmarks.gpu.case import Case
from experiments.benchmarks.gpu.table import all_cases, one_of_each

ROOT = Path(__file__).parents[2]
# What a machine with jax, flax, optax, orbax, torch, torchvision and timm alone does not have; timm
# brings PIL, huggingface_hub and safetensors, and looks whether there is a TensorFlow.
NOT_NEEDED = {
    "array_record", "dm_pix", "grain", "matplotlib", "pyarrow", "simplejpeg", "tensorboardX",
    "tensorflow_datasets", "tyro",
}  # fmt: skip
BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError("not on this machine: " + name, name=name)

sys.meta_path.insert(0, Absent())
"""


def suite(folder, *arguments, blocked=()):
    """Runs the suite, and every case of it, where some libraries are not installed."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED.format(names=sorted(blocked)))
    command = [sys.executable, "-m", "experiments.benchmarks.gpu", "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--results", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("gpu-*.json")
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_whole_suite_runs(tmp_path):
    result, page = suite(tmp_path, "--budget", "800", blocked=NOT_NEEDED)
    assert {case["status"] for case in result["cases"].values()} == {"done"}, page
    assert list(result["cases"]) == [case.name for case in one_of_each()]
    for title in ("Steps beside torch", "Forward pass beside torch", "Each form on and off"):
        assert f"## {title}" in page
    assert "too large" not in page


@pytest.mark.slow
def test_a_case_runs_with_what_a_gpu_machine_has(tmp_path):
    result, page = suite(tmp_path, "--only", "facts", blocked=NOT_NEEDED)
    assert result["cases"]["facts"]["status"] == "done", page
    assert result["cases"]["facts"]["result"]["torch"]["copy_gigabytes_per_second"] > 0
    assert result["versions"]["torch"]
    assert "## Speed of the card" in page


@pytest.mark.full
def test_cases_that_have_no_time_are_written_down_as_not_run(tmp_path):
    result, page = suite(tmp_path, "--budget", "17", blocked=NOT_NEEDED)
    cases = result["cases"]
    assert cases["facts"]["status"] in ("done", "stopped")
    assert cases["steps resnet50 full"]["status"] == "not run"
    assert "| steps resnet50 full | not run | 0 |  |" in page


def options(tmp_path):
    return gpu.parse(["--results", str(tmp_path), "--device", "cpu", "--tiny"])


class Finished:
    """A process that has ended, and what it has left behind."""

    def __init__(self, folder, *, code, log="", result=None, seconds=1.0):
        self.process = gpu.Process.__new__(gpu.Process)
        self.process.case = Case("steps", "resnet50", "full")
        self.process.out, self.process.log = folder / "out.json", folder / "out.log"
        self.process.log.write_text(log)
        if result is not None:
            self.process.out.write_text(json.dumps(result))
        self.process.began = gpu.time.monotonic() - seconds
        self.process.limit = 10
        self.process.process = type("Ended", (), {"returncode": code})()


def test_a_case_that_fails_keeps_what_it_had_and_its_last_line(tmp_path):
    log = "Traceback\nRESOURCE_EXHAUSTED: out of memory\n"
    finished = Finished(tmp_path, code=1, log=log, result={"tl_jax": {"alone_seconds": 0.1}})
    found = finished.process.result()
    assert found["status"] == "failed"
    assert found["error"] == "RESOURCE_EXHAUSTED: out of memory"
    assert found["result"] == {"tl_jax": {"alone_seconds": 0.1}}


def test_a_case_that_took_too_long_is_said_to_be_stopped(tmp_path):
    found = Finished(tmp_path, code=-9, seconds=11).process.result()
    assert (found["status"], found["error"]) == ("stopped", "its 10 s were over")


def test_results_are_written_after_each_case_and_finished_ones_are_kept(tmp_path):
    cases = [Case("facts"), Case("steps", "resnet50", "full")]
    suite = gpu.Suite(options(tmp_path), cases)
    suite.add(cases[0], {"status": "done", "seconds": 3.0, "result": {"device": "A card"}})
    suite.add(cases[1], {"status": "failed", "seconds": 3.0, "result": {}, "error": "a|b"})
    path = tmp_path / "gpu-a-card-tiny.json"
    assert "| steps resnet50 full | failed | 3 | a/b |" in path.with_suffix(".md").read_text()
    again = gpu.Suite(gpu.parse(["--results", str(tmp_path), "--resume", str(path)]), cases)
    assert [again.is_done(case) for case in cases] == [True, False]
    again.write()  # What failed is not lost before it has run again.
    assert "| steps resnet50 full | failed | 3 | a/b |" in path.with_suffix(".md").read_text()


def test_cases_are_chosen_by_words_in_their_order():
    cases = all_cases()
    names = [case.name for case in gpu.chosen(cases, ["steps resnet50 head", "heads", "steps res"])]
    assert names[:3] == ["facts", "steps resnet50 head", "heads resnet50"]
    assert sorted(names[3:]) == ["steps resnet50 full", "steps resnet50 lora"]
    assert gpu.chosen(cases, []) == cases


def test_what_is_compiled_is_kept_in_a_folder_that_is_named(tmp_path):
    kept = tmp_path / "caches" / "jax" / "program"
    kept.parent.mkdir(parents=True)
    kept.touch()
    named = ["--device", "cpu", "--tiny", "--results", str(tmp_path), "--budget", "0"]
    gpu.main([*named, "--caches", str(tmp_path / "caches")])
    assert kept.exists()
    timed, shared = (gpu.caches(Case("steps", shares=shares), tmp_path) for shares in (False, True))
    assert timed["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "jax")
    assert "JAX_COMPILATION_CACHE_DIR" not in shared
    assert shared["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")


def test_timed_cases_have_the_card_for_themselves():
    shares, alone = Case("torch alone", shares=True), Case("steps")
    running = [type("Running", (), {"case": shares})()]
    assert gpu.may_start(alone, []) and gpu.may_start(shares, running)
    assert not gpu.may_start(alone, running)
    assert not gpu.may_start(shares, [type("Running", (), {"case": alone})()])
    assert not gpu.may_start(shares, running * gpu.LANES)


def test_every_case_has_a_name_of_its_own_and_a_module():
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    assert names[0] == "facts"
    assert sum(case.kind == "steps" for case in all_cases()) == 9
    assert {case.kind for case in one_of_each()} == {case.kind for case in all_cases()}
    assert len(one_of_each()) < 25


def test_a_large_error_is_the_headline():
    result = {"TF32": {"too_large": []}, "bfloat16": {"too_large": ["logits"]}}
    assert pages.headline("correctness", result) == "too large an error: bfloat16"


def bits_cases(hashes):
    result = {"leaves": 5, "different": 0, "switch": True}
    walls = {"wall": 0.03, "wall_ratio": {"median": 0.8, "least": 0.7, "largest": 0.9}}
    timed = {"timing": {"deterministic": walls, "without": walls | {"wall": 0.024}}}
    first, second = (result | {"sha256": each} for each in hashes)
    return {
        "bits resnet50 full": {"result": result | {"switch": False, "sha256": "x"}},
        "bits resnet50 full determinism": {"result": first},
        "determinism resnet50 full": {"result": second | timed},
    }


@pytest.mark.parametrize(("hashes", "verdict"), [("aa", "the same bits"), ("ab", "other bits")])
def test_bits_are_compared_between_processes_with_the_switch(hashes, verdict):
    cases = bits_cases(hashes)
    ended = {"status": "done", "seconds": 1.0}
    whole = {"date": "", "seconds": 1.0, "versions": {}}
    page = pages.render(whole | {"cases": {name: case | ended for name, case in cases.items()}})
    assert f"| deterministic | two processes |  |  |  |  | {verdict} |" in page
    assert "| resnet50 full | TL_JAX_DETERMINISTIC=1 | 30.00 | 24.00 | 0.80 [0.70, 0.90] |" in page
    said = pages.headline("determinism", cases["determinism resnet50 full"]["result"])
    assert said == "0 of 5 leaves differ; 0.80 [0.70, 0.90] times as fast with it"


def test_only_deterministic_cases_have_the_switch():
    on = [case.name for case in all_cases() if gpu.switch(case)]
    assert on == ["bits resnet50 full determinism", "determinism resnet50 full"]
    assert gpu.switch(Case("bits", deterministic=True)) == {"TL_JAX_DETERMINISTIC": "1"}
