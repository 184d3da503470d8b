"""Runs whose state and steps are divided over devices, and what they go on with on one."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import meshes, runs
from tests.support.devices import run_on_devices
from tl_jax.config import Config, DataConfig, ModelConfig, ParallelConfig
from tl_jax.evaluation.export import export_timm
from tl_jax.models import nesting
from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.run import parallel
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.training import pmap, sharding


@pytest.mark.full
def test_a_run_on_four_devices_goes_on_on_one(
    tiny_networks, shared_weights, shared_photos, tmp_path
):
    shutil.copy(shared_weights, tmp_path / "weights.safetensors")
    shutil.copytree(shared_photos, tmp_path / "photos")
    (tmp_path / "divided").mkdir()
    run_on_devices(meshes.fit_divided, tmp_path / "divided", devices=4)
    given = tmp_path / "photos", tmp_path / "weights.safetensors"
    config = meshes.run_config(*given, ParallelConfig())
    report = fit(config, tmp_path / "divided")  # `fsdp` and `remat` may change.
    unbroken = fit(config, tmp_path / "whole")
    assert report["epochs"] == unbroken["epochs"] == 2
    folders = tmp_path / "divided", tmp_path / "whole"
    for one, other in zip(*(runs.leaves(folder) for folder in folders), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    exported = [folder / "timm.safetensors" for folder in folders]
    for folder, file in zip(folders, exported, strict=True):
        export_timm(folder, file)
    one, other = map(load_file, exported)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_accumulation_of_a_run_may_not_change(tiny_config, tmp_path):
    config = runs.change(tiny_config, "train", head_epochs=0, epochs=1)
    fit(config, tmp_path / "run")
    other = runs.change(config, "parallel", accumulate=2)
    with pytest.raises(ValueError, match="parallel.accumulate: 1 != 2"):
        fit(other, tmp_path / "run")


def test_what_does_not_divide_is_an_error_before_anything_is_read():
    config = Config(data=DataConfig("digits", batch_size=16), parallel=ParallelConfig(fsdp=3))
    with pytest.raises(ValueError, match=r"parallel.fsdp 3 on 1 device\(s\)"):
        Experiment.from_config(config)
    with pytest.raises(ValueError, match="batch_size 6 does not divide into .* 4 slices.* as 8"):
        Config(data=DataConfig("digits", batch_size=6), parallel=ParallelConfig(accumulate=4))


def test_stages_and_blocks_are_found_by_how_calls_nest():
    model = create_model("resnet18")
    variables = abstract_variables(model)
    shape = (1, 64, 64, 3)
    stages = nesting.parts(model, variables, shape, level="stages")
    blocks = nesting.parts(model, variables, shape, level="blocks")
    assert stages == ("layer1", "layer2", "layer3", "layer4")
    assert blocks == tuple(f"{stage}.{block}" for stage in stages for block in (0, 1))
    flat = create_model("vgg11")
    with pytest.raises(ValueError, match="no stages that could be computed again"):
        nesting.parts(flat, abstract_variables(flat), shape, level="stages")


def test_a_step_is_divided_as_configured():
    model, variables = create_model("resnet18"), abstract_variables(create_model("resnet18"))
    mesh = jax.sharding.AbstractMesh((2, 2), sharding.AXES)

    def division(dtype: str = "float32", **options):
        config = Config(ModelConfig("resnet18", dtype=dtype), parallel=ParallelConfig(**options))
        return parallel.divide(config, model, variables, mesh, (64, 64))

    assert division() == parallel.Division(model, None, None, 1, ())
    assert division(gradient_sum="float32").around is None  # It is one already.
    in_float32 = division("bfloat16", gradient_sum="float32")
    assert in_float32.around is not None
    assert in_float32.model == pmap.over_axis(model, sharding.AXES)
    by_device = division(batch_norm="device", accumulate=2)
    assert by_device.around is not None and by_device.model == model
    assert by_device.accumulate == 2
    split = division(fsdp=2, remat="stages")
    assert split.around is not None and split.reduce is not None
    assert split.rematerialise == ("layer1", "layer2", "layer3", "layer4")
    assert dataclasses.replace(split, around=None, reduce=None, rematerialise=()) == division()
