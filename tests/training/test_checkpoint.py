"""Tests of checkpoints: exact restoring, what is kept, and errors that are raised."""

import json
import os
import resource
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.tiny import TinyNet, assert_equal_trees, batch, images_unchanged, randomised
from tl_jax.training import checkpoint_folder, optim, sharding, state, step
from tl_jax.training.arrays import abstract
from tl_jax.training.checkpoint import CheckpointError, Checkpoints
from tl_jax.training.checkpoint_folder import Within
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

# Orbax leaves coroutines of its failed reads behind, which complain whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

METRICS = {"accuracy": 0.5}
RATES = {freeze.HEAD: 0.1, freeze.BACKBONE: 0.01}


@pytest.fixture(scope="module")
def trained() -> TrainState:
    """The state after two steps of AdamW, with moments, counters and moved statistics."""
    model = TinyNet()
    variables = randomised(model)
    plan = freeze.plan(variables["params"], ["fc"], train_backbone=True)
    tx = optim.optimizer("adamw", RATES, plan, weight_decay=0.1, clip_norm=1.0)
    made = step.make_train_step(
        model, tx, plan, augment_fn=images_unchanged, seed_key=jax.random.key(0)
    )
    current, run = state.create(variables, tx, plan), jax.jit(made)
    for seed in range(2):
        current, _ = run(current, batch(seed=seed))
    return current


def small(step: int, value: float = 0.0) -> TrainState:
    """A state that costs little to write."""
    return TrainState(jnp.int32(step), {"fc": {"bias": jnp.full(2, value)}}, {}, ())


def abstracted(tree):
    return abstract(tree, sharding.replicated(sharding.data_mesh()))


def opened(directory: Path, **options) -> Checkpoints:
    return Checkpoints(directory, best_metric="accuracy", **options)


def saved_steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


# ---- exact


def test_everything_is_restored_bit_for_bit(trained, tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(trained, METRICS)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 2
        found = checkpoints.restore(2, abstracted(trained))
    assert_equal_trees(found, trained)
    assert any(leaf.ndim for leaf in jax.tree.leaves(found.opt_state))


def test_arrays_serve_as_the_structure_too(trained, tmp_path):
    zeros = jax.tree.map(jnp.zeros_like, trained)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(trained, METRICS)
        assert_equal_trees(checkpoints.restore(2, zeros), trained)


def test_variables_are_restored_without_the_optimizer(trained, tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(trained, METRICS)
        found = checkpoints.restore_variables(2, abstracted(trained.variables))
    assert_equal_trees(found, trained.variables)


def test_a_network_without_statistics_is_restored(tmp_path):
    variables = {"params": nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))["params"]}
    plan = freeze.plan(variables["params"], ["kernel"], train_backbone=False)
    initial = state.create(variables, optim.optimizer("sgd", RATES, plan), plan, step=5)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(initial, METRICS)
        found = checkpoints.restore(5, abstracted(initial))
        assert_equal_trees(found, initial)
        variables = checkpoints.restore_variables(5, abstracted(variables))
    assert_equal_trees(variables["params"], initial.params)


def test_steps_that_donate_the_state_do_not_change_a_pending_write(tmp_path):
    mesh = sharding.data_mesh()

    def add_one(state: TrainState, batch) -> tuple[TrainState, dict]:
        return state.replace(params=jax.tree.map(lambda x: x + 1, state.params)), {}

    run = sharding.jit_train_step(add_one, mesh)
    first = jax.device_put(large(1), sharding.replicated(mesh))
    expected = jax.tree.map(np.array, first)
    inputs = sharding.put_batch(batch(), mesh)
    current, _ = run(jax.tree.map(jnp.copy, first), inputs)  # compiled beforehand
    with opened(tmp_path) as checkpoints:
        checkpoints.save(first, METRICS)
        current, _ = run(first, inputs)
        for _ in range(20):
            current, _ = run(current, inputs)
        assert_equal_trees(checkpoints.restore(1, abstracted(current)), expected)


# ---- what is kept


def kept_of(directory: Path, scores: list[float], *, metric: str = "accuracy", **options):
    """Saves steps 1, 2, ... with these scores; returns the best step and the steps kept."""
    options = {"best_metric": metric, **options}
    with Checkpoints(directory, **options) as checkpoints:
        for number, score in enumerate(scores, start=1):
            checkpoints.save(small(number), {metric: score})
        best = checkpoints.best_step()
    return best, saved_steps(directory)


@pytest.mark.parametrize(
    ("scores", "keep", "best", "kept"),
    [
        ([0.1, 0.9, 0.5, 0.6], 1, 2, [2, 4]),
        ([0.1, 0.9, 0.5, 0.6], 2, 2, [2, 3, 4]),
        ([0.1, 0.2, 0.3], 1, 3, [3]),
        ([0.9, 0.2, 0.9], 1, 1, [1, 3]),  # the first of equals, as early stopping counts
        ([0.9, 0.9, 0.1], 1, 1, [1, 3]),
        ([0.9, 0.9], 2, 1, [1, 2]),
        ([float("nan"), 0.1, float("nan")], 1, 2, [2, 3]),
        ([float("nan"), float("nan")], 1, 1, [1, 2]),
        ([0.1, float("inf")], 1, 1, [1, 2]),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, scores, keep, best, kept):
    assert kept_of(tmp_path, scores, keep=keep) == (best, kept)


@pytest.mark.parametrize(
    ("scores", "best", "kept"),
    [([3.0, 1.0, 2.0], 2, [2, 3]), ([1.0, 1.0, 2.0], 1, [1, 3]), ([2.0, float("nan")], 1, [1, 2])],
)
def test_a_lower_loss_is_better(tmp_path, scores, best, kept):
    assert kept_of(tmp_path, scores, metric="loss", lower_is_better=True) == (best, kept)


def test_the_best_of_an_earlier_process_is_remembered(tmp_path):
    kept_of(tmp_path, [0.9])
    with opened(tmp_path) as checkpoints:
        checkpoints.save(small(2), {"accuracy": 0.1})
        checkpoints.save(small(3), {"accuracy": 0.2})
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (1, 3)
    assert saved_steps(tmp_path) == [1, 3]


def test_the_checkpoints_of_every_so_many_epochs_are_kept(tmp_path):
    with opened(tmp_path, keep_every=2) as checkpoints:
        for number, score in enumerate((0.1, 0.2, 0.9, 0.3, 0.4), start=1):
            checkpoints.save(small(3 * number), {"accuracy": score}, epoch=number)
    assert saved_steps(tmp_path) == [6, 9, 12, 15]  # Epochs 2 and 4, the best, and the newest.


def save_within(checkpoints: Checkpoints, step: int, steps: int) -> None:
    within = Within(steps, {"loss": (0.5, float("nan"))})
    checkpoints.save(small(step, 1.0), {}, epoch=1, history=[METRICS], within=within)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_step_within_an_epoch_is_the_newest_and_never_the_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        save_within(checkpoints, 1, 1)
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (None, 1)
        checkpoints.save(small(4), {"accuracy": 0.1}, epoch=1)
        assert "1.within-epoch" in names(tmp_path)  # Until the next is whole.
        for step in (5, 6):
            save_within(checkpoints, step, step - 4)
    assert names(tmp_path) == ["4", "6.within-epoch"]
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (4, 6)
        saved = checkpoints.saved(6)
        assert (saved.epoch, saved.within.steps, len(saved.history)) == (1, 2, 1)
        assert str(saved.within.interval) == "{'loss': (0.5, nan)}"
        found = checkpoints.restore(6, abstracted(small(0)))
        assert_equal_trees(found, small(6, 1.0))


def test_the_step_that_ends_an_epoch_takes_the_place_of_the_one_before_its_evaluation(tmp_path):
    with opened(tmp_path) as checkpoints:
        save_within(checkpoints, 8, 4)
        checkpoints.latest_step()
        shutil.copytree(tmp_path / "8.within-epoch", tmp_path / "copy")
        checkpoints.save(small(8, 2.0), {"accuracy": 0.5}, epoch=2)
    assert names(tmp_path) == ["8", "copy"]
    (tmp_path / "copy").rename(tmp_path / "8.within-epoch")  # As if it had been killed before.
    with opened(tmp_path) as checkpoints:
        assert names(tmp_path) == ["8"]
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (8, 8)
        assert_equal_trees(checkpoints.restore(8, abstracted(small(0))), small(8, 2.0))


def test_a_manifest_lies_beside_each_checkpoint(trained, tmp_path):
    labels = jax.tree.map(lambda _: freeze.HEAD, trained.params)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(
            trained,
            METRICS,
            trained.variables,
            epoch=1,
            labels=labels,
            origin={"class_names": ["a"]},
        )
    found = json.loads((tmp_path / "2" / "manifest.json").read_text())
    assert (found["step"], found["epoch"], found["class_names"]) == (2, 1, ["a"])
    assert found["arrays"].keys() == {"variables", "optimizer", "evaluated"}
    for item in ("variables", "evaluated"):
        kernel = found["arrays"][item]["params.fc.kernel"]
        shape = list(trained.params["fc"]["kernel"].shape)
        assert kernel == {"shape": shape, "dtype": "float32", "label": freeze.HEAD}
    leaves = jax.tree.leaves(trained.opt_state)
    assert sorted(str(each["shape"]) for each in found["arrays"]["optimizer"].values()) == sorted(
        str(list(leaf.shape)) for leaf in leaves
    )
    assert "manifest.json" in json.loads((tmp_path / "2" / "checksums.json").read_text())


def test_an_empty_folder_has_no_steps(tmp_path):
    with opened(tmp_path / "new") as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.best_step() is None


# ---- errors


@pytest.fixture
def full_disk():
    """Lets no file grow beyond a megabyte, as a full disk or a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(step: int) -> TrainState:
    noise = np.random.default_rng(0).normal(size=2**20).astype(np.float32)
    return small(step).replace(params={"fc": {"kernel": jnp.asarray(noise)}})


def test_an_error_in_the_background_is_raised_on_leaving(tmp_path, full_disk):
    with pytest.raises(CheckpointError, match="File too large"), opened(tmp_path) as checkpoints:
        checkpoints.save(large(1), METRICS)


def test_an_error_in_the_background_is_raised_by_the_next_save(tmp_path, full_disk):
    checkpoints = opened(tmp_path)
    checkpoints.save(large(1), METRICS)
    with pytest.raises(CheckpointError, match="File too large"):
        checkpoints.save(small(2), METRICS)


def test_an_error_in_the_background_is_soon_known_and_is_one_message(tmp_path, full_disk, capfd):
    with pytest.raises(CheckpointError) as caught, opened(tmp_path) as checkpoints:
        checkpoints.save(large(1), METRICS)
        for _ in range(1000):
            checkpoints.check_for_errors()
            time.sleep(0.01)
    assert f"{tmp_path / '1'} could not be written" in str(caught.value)
    assert "make room on the disk" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_another_error_is_not_hidden_by_a_failed_write(tmp_path, full_disk, capfd):
    with pytest.raises(FloatingPointError), opened(tmp_path) as checkpoints:
        checkpoints.save(large(1), METRICS)
        raise FloatingPointError
    assert "could not be written" in capfd.readouterr().err


def test_a_write_that_failed_leaves_no_step(tmp_path, full_disk):
    with pytest.raises(CheckpointError, match="too large"), opened(tmp_path) as checkpoints:
        checkpoints.save(small(1), METRICS)
        checkpoints.save(large(2), METRICS)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
        return
    if kind == "flip":
        content[len(content) // 2] ^= 0x55
    file.write_bytes({"zero": bytes(len(content)), "truncate": content[: len(content) // 2]}.get(
        kind, content
    ))  # fmt: skip


def outcome(directory: Path, trained: TrainState) -> str:
    """Restores, and says how it went: an error that names the folder, or the whole state."""
    try:
        with opened(directory) as checkpoints:
            found = checkpoints.restore(2, abstracted(trained))
    except CheckpointError as error:
        assert str(directory) in str(error)
        return "error"
    assert_equal_trees(found, trained)
    return "whole"


@pytest.mark.parametrize("kind", ["truncate", "delete", "zero", "flip"])
def test_a_damaged_file_is_an_error_that_names_it_and_never_half_a_state(trained, tmp_path, kind):
    with opened(tmp_path / "sound") as checkpoints:
        checkpoints.save(trained, METRICS)
    files = [p.relative_to(tmp_path) for p in (tmp_path / "sound" / "2").rglob("*") if p.is_file()]
    outcomes = {}
    for number, file in enumerate(files):
        damaged = tmp_path / str(number)
        shutil.copytree(tmp_path / "sound", damaged)
        damage(damaged / Path(*file.parts[1:]), kind)
        outcomes[file] = outcome(damaged, trained)
    marks = {"commit_success.txt", "_CHECKPOINT_METADATA", "checksums.json"}
    assert {found for file, found in outcomes.items() if file.name not in marks} == {"error"}


@pytest.fixture(scope="module")
def two_steps(trained, tmp_path_factory) -> Path:
    """Checkpoints at steps 1 and 2; the state of each is `trained`, and the second is better."""
    directory = tmp_path_factory.mktemp("two") / "steps"
    with opened(directory, keep=2) as checkpoints:
        for number in (1, 2):
            state = trained.replace(step=jnp.int32(number))
            checkpoints.save(state, {"accuracy": number / 10}, epoch=number, history=[METRICS])
    return directory


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def steps_found(directory: Path, **options) -> tuple[int | None, int | None]:
    with opened(directory, keep=2, **options) as checkpoints:
        return checkpoints.latest_step(), checkpoints.best_step()


@pytest.mark.parametrize("seed", range(12))
def test_a_step_of_which_a_part_was_deleted_is_ignored_and_cleared(two_steps, tmp_path, seed):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    files = sorted(path for path in (directory / "2").rglob("*") if path.is_file())
    files = [path for path in files if path.name != "commit_success.txt"]
    rng = np.random.default_rng(seed)
    for index in rng.permutation(len(files))[: rng.integers(1, len(files))]:
        files[index].unlink()
    before = listing(directory)
    assert steps_found(directory, read_only=True) == (1, 1)
    assert listing(directory) == before
    assert steps_found(directory) == (1, 1)
    assert [path.name for path in directory.iterdir()] == ["1"]


def test_other_things_that_a_kill_leaves_are_ignored_and_cleared(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    for name in ("3.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17", "5.deleted"):
        shutil.copytree(two_steps / "1", directory / name)
    (directory / "6").mkdir()
    (directory / "7" / "metrics").mkdir(parents=True)
    (directory / "notes.txt").write_text("mine")
    before = listing(directory)
    assert steps_found(directory, read_only=True) == (2, 2)
    assert listing(directory) == before
    assert steps_found(directory) == (2, 2)
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "notes.txt"]


@pytest.mark.parametrize("kind", ["truncate", "zero", "flip"])
@pytest.mark.parametrize("part", ["metrics/metrics", "variables", "optimizer"])
def test_a_damaged_step_is_passed_over_and_said(two_steps, trained, tmp_path, kind, part, capfd):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    inside = directory / "2" / part
    files = [inside] if inside.is_file() else [p for p in inside.rglob("*") if p.is_file()]
    damage(max(files, key=lambda path: path.stat().st_size), kind)
    before = listing(directory)
    # The variables alone can be used without the optimizer's state; but not to go on.
    assert steps_found(directory, read_only=True) == (1, 1)
    assert listing(directory) == before
    with opened(directory, keep=2) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == 1
        assert checkpoints.saved(1).epoch == 1
        assert_equal_trees(checkpoints.restore(1, abstracted(trained)).params, trained.params)
        checkpoints.save(trained, METRICS)  # Its number is free again.
    assert str(directory / "2") in capfd.readouterr().err
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "2.damaged1"]


@pytest.fixture
def never_hashed(monkeypatch, tmp_path):
    """A file beside the run that must not be read."""
    secret = tmp_path / "secret"
    secret.write_text("{}")
    real = checkpoint_folder.files.sha256

    def sha256(path):
        assert path.resolve() != secret.resolve(), f"{path} was read"
        return real(path)

    monkeypatch.setattr(checkpoint_folder.files, "sha256", sha256)
    return secret


@pytest.mark.parametrize(
    "form", ["variables/../../../secret", "ABSOLUTE", "variables/../../nothing"]
)
def test_a_list_of_checksums_cannot_name_files_outside_the_step(
    two_steps, tmp_path, never_hashed, form, capfd
):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    name = str(never_hashed) if form == "ABSOLUTE" else form
    file = directory / "2" / "checksums.json"
    file.write_text(json.dumps({name: "0" * 64} | json.loads(file.read_text())))
    assert steps_found(directory, read_only=True) == (1, 1)
    assert f"checksums.json names {name!r}, which is not in it" in capfd.readouterr().err


def link_file(step, secret):
    (step / "variables" / "_METADATA").unlink()
    (step / "variables" / "_METADATA").symlink_to(secret)


def link_folder(step, secret):
    shutil.move(step / "variables", secret.parent / "elsewhere")
    (step / "variables").symlink_to(secret.parent / "elsewhere")


def link_step(step, secret):
    shutil.move(step, secret.parent / "elsewhere")
    step.symlink_to(secret.parent / "elsewhere")


def add_pipe(step, secret):
    os.mkfifo(step / "variables" / "pipe")


@pytest.mark.parametrize("change", [link_file, link_folder, link_step, add_pipe])
def test_a_step_with_links_out_of_its_run_is_not_read(
    two_steps, tmp_path, never_hashed, change, capfd
):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    change(directory / "2", never_hashed)
    assert steps_found(directory, read_only=True) == (1, 1)
    assert "is a link that leads out of the run, or no file" in capfd.readouterr().err


def test_links_within_a_run_and_to_its_checkpoints_are_followed(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "disk")
    shutil.move(directory / "2" / "variables", directory / "variables of 2")
    (directory / "2" / "variables").symlink_to("../variables of 2")
    (tmp_path / "run").symlink_to(directory)
    assert steps_found(tmp_path / "run", read_only=True) == (2, 2)


def test_if_all_are_damaged_a_reader_fails_and_a_run_begins_anew(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    for name in ("1", "2"):
        for file in (directory / name / "variables").rglob("*"):
            if file.is_file():
                damage(file, "flip")
    with opened(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
            checkpoints.best_step()
        with pytest.raises(CheckpointError, match="begins anew"):
            checkpoints.latest_step()
    with opened(directory) as checkpoints:
        assert checkpoints.latest_step() is None


def test_what_an_earlier_version_wrote_is_read(two_steps, trained, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    (directory / "2" / "checksums.json").unlink()
    (directory / "2" / "metrics" / "metrics").write_text('{"accuracy": 0.5, "loss": NaN}')
    with opened(directory, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == 2
        saved = checkpoints.saved(2)
        assert (saved.epoch, saved.history, saved.metrics) == (None, (), {"accuracy": 0.5})
        assert_equal_trees(checkpoints.restore(2, abstracted(trained)), trained)


def test_epoch_and_history_come_with_a_step_and_are_json(tmp_path):
    history = [{"accuracy": 0.5, "loss": float("nan")}, {"accuracy": 0.75, "loss": 1.0}]
    with opened(tmp_path) as checkpoints:
        checkpoints.save(small(8), history[-1], epoch=2, history=history)
    with opened(tmp_path) as checkpoints:
        saved = checkpoints.saved(8)
    assert (saved.epoch, saved.metrics) == (2, history[1])
    assert saved.history == ({"accuracy": 0.5}, history[1])
    assert checkpoint_folder.newest(tmp_path) == (8, saved)
    assert "NaN" not in (tmp_path / "8" / "metrics" / "metrics").read_text()


def other_form(trained: TrainState, change) -> TrainState:
    return trained.replace(params={**trained.params, **change})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classes", {"fc": {"kernel": jnp.zeros((4, 9)), "bias": jnp.zeros(9)}},
         r"2 variables differ:\n  params.fc.bias: got \(3,\), expected \(9,\)\n  params.fc.kernel"),
        ("more", {"neck": {"bias": jnp.zeros(9)}},
         r"params.neck.bias: got nothing, expected \(9,\)"),
        ("less", {"fc": {}}, r"params.fc.bias: got \(3,\), expected nothing"),
    ],
)  # fmt: skip
def test_another_structure_is_an_error_with_a_list(trained, tmp_path, name, change, message):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(trained, METRICS)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(2, abstracted(other_form(trained, change)))


def test_the_state_of_another_optimizer_is_an_error(trained, tmp_path):
    plan = freeze.plan(trained.params, ["fc"], train_backbone=True)
    tx = optim.optimizer("sgd", RATES, plan)
    other = state.create(trained.variables, tx, plan)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(trained, METRICS)
        with pytest.raises(CheckpointError, match="opt_state"):
            checkpoints.restore(2, abstracted(other))
