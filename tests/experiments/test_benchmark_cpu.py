"""Tests of the benchmark on a CPU: what is written of a row, and which rows are measured again."""

import json

import jax
import pytest

from experiments.benchmarks import compiled, cpu, switches
from experiments.benchmarks.gpu.table import SWITCHES
from experiments.benchmarks.programs import (
    Setting,
    batch_shapes,
    make_program,
    variable_shapes,
)
from tests.support.slim import run_python
from tl_jax.models import layers
from tl_jax.training import sharding

pytestmark = pytest.mark.slow
SIZES = "--batch-size 8 --image-size 64 --steps 1 --rounds 2".split()


@pytest.mark.full
def test_the_result_of_a_row_is_written_with_its_machine_and_versions(
    tmp_path, capsys, monkeypatch
):
    for variable, value in (("JAX_PLATFORMS", "cpu"), ("TL_JAX_COMPILATION_CACHE_GB", "0")):
        monkeypatch.setenv(variable, value)  # `main` sets them; taken back after the test.
    variants = ["tl_jax", "without allocator", "bfloat16"]
    cpu.main(
        ["--row", "test_resnet-head", "--results", str(tmp_path), *SIZES, "--variants", *variants]
    )
    result = json.loads((tmp_path / "cpu-test_resnet-head.json").read_text())
    sides = {"torch", "torch, fused", "torch without allocator", *variants}
    assert set(result["timing"]["all"]) == set(result["sides"]) == sides
    assert len(result["timing"]["samples"]["torch"]) == 2
    losses = {name: result["sides"][name]["first_loss"] for name in sides}
    rounded, expected = losses.pop("bfloat16"), losses["tl_jax"]
    assert list(losses.values()) == pytest.approx([expected] * len(losses), rel=1e-4)
    assert rounded != expected and rounded == pytest.approx(expected, rel=1e-2)
    assert result["versions"]["jax"] == jax.__version__
    assert result["machine"]["cores"] >= 1
    assert set(result["peak_bytes"]) == {"tl_jax", "torch"}
    assert result["relative_errors"]["gradients"] < 1e-4
    assert "rounds were quiet" in capsys.readouterr().out


def run(tmp_path, monkeypatch, *arguments):
    """Returns the rows and benchmarks that the whole command would run."""
    begun = []
    monkeypatch.setattr(cpu, "run_module", lambda *words, folder: begun.append(words[:3]))
    cpu.main(["--results", str(tmp_path), *arguments])
    return [words[2] if words[0] == "cpu" else words[0] for words in begun]


def test_rows_that_are_done_are_not_measured_again(tmp_path, monkeypatch):
    assert run(tmp_path, monkeypatch) == [*cpu.ROWS, *cpu.OTHERS]
    today = cpu.datetime.datetime.now(cpu.datetime.UTC).isoformat()

    def write(name, date, quiet_rounds):
        result = {"date": date, "timing": {"quiet_rounds": quiet_rounds}}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))

    write("cpu-resnet50-full", today, [0, 1, 2, 3, 4])
    write("cpu-resnet50-head", today, [3])  # Not quiet for long enough.
    write("cpu-resnet50-forward", "2020-01-01T00:00:00+00:00", [0, 1, 2, 3, 4])
    left = run(tmp_path, monkeypatch)
    assert "resnet50-full" not in left
    assert {"resnet50-head", "resnet50-forward"} <= set(left)
    assert "resnet50-forward" not in run(tmp_path, monkeypatch, "--since", "2020-01-01")


@pytest.mark.parametrize("lacks", [True, False])
def test_bfloat16_is_timed_where_the_processor_has_it(lacks, monkeypatch):
    monkeypatch.setattr(cpu.processor, "lacks_bfloat16", lambda: lacks)
    assert ("bfloat16" in cpu.variants_of(cpu.setting_of("resnet50-full"))) != lacks


def test_the_forms_that_benchmarks_name_are_switches():
    named = [name for names in compiled.FORMS.values() for name in names]
    named += [name for names in SWITCHES.values() for name in names]
    named += [name for variant in cpu.VARIANTS.values() for name in variant.off]
    assert set(named) <= set(switches.SWITCHES)
    assert set(switches.SWITCHES) == {*PROGRAM_OF, *OF_THE_COMPILER, "onednn"}


# oneDNN is chosen when a program is lowered, and shows in no trace.
PROGRAM_OF = {
    "norm_gradient": ("test_resnet", "full"),
    "pool_gradient": ("test_resnet", "full"),
    "gelu_memory": ("test_convnext", "full"),
    "folding": ("test_resnet", "head"),
    "separate_norms": ("test_resnet", "forward"),
    "gradient_norm": ("test_resnet", "head"),
    "lora_gradient": ("resnet18", "lora"),
    "own_convolutions": ("test_resnet", "forward"),
    "library_depthwise": ("test_efficientnet", "forward"),
}


# What XLA alone does is not in the program either.
OF_THE_COMPILER = {name for name in switches.SWITCHES if switches.compiler_options([name])}


def test_forms_of_the_compiler_are_options_that_it_takes():
    assert sorted(OF_THE_COMPILER) == ["cublas_products", "fusion_autotuner"]
    options = switches.compiler_options(sorted(OF_THE_COMPILER))
    assert jax.jit(jax.numpy.sin).lower(1.0).compile(compiler_options=options)(0.0) == 0
    assert switches.compiler_options(["folding"]) == {}


@pytest.mark.parametrize("name", sorted(PROGRAM_OF))
def test_a_program_without_a_form_is_another(name):
    model, mode = PROGRAM_OF[name]
    setting = Setting("cpu", model, mode, 2, 64)

    def traced(*off):
        folds = "never" if name == "separate_norms" else "always"
        with layers.fold_norms(folds), switches.without(off) as options:
            program = make_program(setting, sharding.data_mesh(jax.devices()[:1]), **options)
            first = jax.eval_shape(program.first, variable_shapes(setting))
            return str(program.fn.trace(first, batch_shapes(setting)).jaxpr)

    assert traced() != traced(name)


def test_the_benchmarks_need_no_libraries_of_data_and_commands():
    absent = (
        "array_record", "matplotlib", "pyarrow", "simplejpeg", "tensorboardX",
        "tensorflow_datasets", "tqdm", "tyro",
    )  # fmt: skip
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from experiments.benchmarks import compiled, cpu, load_weights\n"
        "assert 'PIL' not in sys.modules\n"
        "for benchmark in (compiled, cpu, load_weights):\n"
        "    try:\n"
        "        benchmark.main(['--help'])\n"
        "    except SystemExit as exit:\n"
        "        assert exit.code == 0"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == 3


@pytest.mark.full
def test_operators_that_torchvision_has_are_not_defined_again():
    # As where torchvision's compiled part works; a second definition would abort the process.
    code = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "for op in ('nms', 'qnms'):\n"
        "    library.define(f'{op}(Tensor dets, Tensor scores, float t) -> Tensor')\n"
        "from experiments.torch_peer import import_timm\n"
        "import_timm().create_model('test_resnet')"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
