"""The switch TL_JAX_DETERMINISTIC composes XLA's flags, and says when it cannot."""

import os

import jax
import pytest

from tests.support.slim import run_python
from tl_jax import determinism, process

FLAG, PRODUCTS = "--xla_gpu_deterministic_ops=true", "--xla_gpu_enable_triton_gemm=false"


@pytest.fixture
def set_flags(monkeypatch):
    """Sets the switch and XLA_FLAGS of this process, whose devices have read them before."""

    def set_to(switch: str, flags: str) -> None:
        monkeypatch.setenv("TL_JAX_DETERMINISTIC", switch)
        monkeypatch.setenv("XLA_FLAGS", flags)

    return set_to


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{FLAG} {PRODUCTS}"),
        ("--xla_dump_to=/tmp/a", f"--xla_dump_to=/tmp/a {FLAG} {PRODUCTS}"),
        (f"{PRODUCTS} {FLAG}", f"{PRODUCTS} {FLAG}"),
        ("--xla_gpu_deterministic_ops", f"--xla_gpu_deterministic_ops {PRODUCTS}"),
        (f"--xla_gpu_autotune_level=0 {FLAG}", f"--xla_gpu_autotune_level=0 {FLAG} {PRODUCTS}"),
        # Of several the last one counts.
        (
            "--xla_gpu_deterministic_ops=0 --xla_gpu_deterministic_ops=True",
            f"--xla_gpu_deterministic_ops=0 --xla_gpu_deterministic_ops=True {PRODUCTS}",
        ),
    ],
)
def test_the_flags_are_added_to_those_of_the_user(set_flags, given, expected):
    set_flags("1", given)
    determinism.enable(started=False)
    assert os.environ["XLA_FLAGS"] == expected
    assert determinism.is_on()
    determinism.enable(started=False)
    assert os.environ["XLA_FLAGS"] == expected


def test_flags_in_a_file_are_read_and_kept(set_flags, tmp_path):
    file = tmp_path / "flags"
    file.write_text("--xla_dump_to=/tmp/a\n--xla_dump_hlo_as_text\n")
    set_flags("1", str(file))
    assert not determinism.is_on()
    determinism.enable(started=False)
    kept = "--xla_dump_to=/tmp/a --xla_dump_hlo_as_text"
    assert os.environ["XLA_FLAGS"] == f"{kept} {FLAG} {PRODUCTS}"


@pytest.mark.parametrize("switch", ["", "0"])
@pytest.mark.parametrize("flags", ["", FLAG, "--xla_gpu_autotune_level=4"])
def test_without_the_switch_flags_are_left_alone(set_flags, switch, flags):
    set_flags(switch, flags)
    determinism.enable(started=False)
    assert os.environ["XLA_FLAGS"] == flags
    assert determinism.is_on() == (flags == FLAG)


@pytest.mark.parametrize(
    "flag",
    [
        "--xla_gpu_deterministic_ops=false",
        "--xla_gpu_exclude_nondeterministic_ops=0",
        "--xla_gpu_autotune_level=4",
        "--xla_gpu_enable_triton_gemm=true",
    ],
)
def test_flags_that_say_the_contrary_are_an_error(set_flags, flag):
    set_flags("1", f"{FLAG} {flag}")
    with pytest.raises(ValueError, match=f"{flag} in XLA_FLAGS, which says the contrary"):
        determinism.enable(started=False)


def test_another_value_is_an_error(set_flags):
    set_flags("yes", "")
    with pytest.raises(ValueError, match="got TL_JAX_DETERMINISTIC=yes; expected 1"):
        determinism.enable(started=False)


def test_too_late_is_an_error_on_a_gpu_and_nothing_on_a_cpu(set_flags, monkeypatch):
    jax.devices()
    set_flags("1", "")
    process.prepare()
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="after JAX had started its GPU"):
        process.prepare()
    set_flags("1", FLAG)  # Set in time by an earlier call, or by the user.
    process.prepare()


@pytest.mark.slow
def test_this_jaxlib_knows_the_flags_and_a_cpu_computes_as_without():
    code = """
    import os

    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TL_JAX_DETERMINISTIC": "1"}
    import jax

    from tl_jax import determinism, process

    process.prepare()
    print(float(jax.jit(lambda x: x + 1)(1.0)), determinism.is_on())  # XLA aborts at unknown flags.
    process.prepare()
    """
    done = run_python(code)
    assert done.stdout.split() == ["2.0", "True"], done.stderr
