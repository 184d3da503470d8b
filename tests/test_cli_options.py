"""Reading a command's arguments: forms of values, places, and hints for near misses."""

import shlex
from pathlib import Path

import pytest

from tl_jax.cli import networks, options, prediction, runs, training
from tl_jax.cli.option_hints import nearest_options, unknown_option
from tl_jax.config import Config, GroupConfig, InputsConfig, PhaseConfig, TaskConfig, changes

ONE_PHASE = "epochs=5,trained=head"


def configured(*arguments: str) -> Config:
    read = options.read(training.train, ["my.py", *arguments], {"config": Config()})
    assert read["file"] == Path("my.py")
    return read["config"]


def refused(*arguments: str) -> str:
    with pytest.raises(ValueError) as error:
        configured(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--augment.horizontal-flip", "False"], False),
        (["--augment.horizontal-flip", "no"], False),
        (["--augment.horizontal-flip=0"], False),
        (["--augment.horizontal_flip", "off"], False),
        (["--augment.no-horizontal-flip"], False),
        (["--no-augment.horizontal-flip"], False),
        (["--augment.horizontal-flip"], True),
        (["--augment.horizontal-flip", "TRUE"], True),
        (["--augment.horizontal-flip=1"], True),
    ],
)
def test_a_flag_takes_every_word_for_true_and_false(words, value):
    config = configured(*words, "--train.epochs", "7")
    assert (config.augment.horizontal_flip, config.train.epochs) == (value, 7)


@pytest.mark.parametrize(
    "words", [["0.5,1.0"], ["0.5", "1.0"], ["(0.5, 1.0)"], ["[0.5,1.0]"], ["[0.5,", "1.0]"]]
)
def test_a_pair_is_given_in_every_form(words):
    assert configured("--augment.scale", *words).augment.scale == (0.5, 1.0)
    assert configured(f"--augment.scale={' '.join(words)}").augment.scale == (0.5, 1.0)


@pytest.mark.parametrize("word", ["none", "None", "NULL"])
def test_none_is_no_value_of_an_optional_field(word):
    config = configured("--optim.clip-norm", word, "--data.test-split", word)
    assert config.optim.clip_norm is None and config.data.test_split is None
    assert configured("--augment.policy", "none").augment.policy == "none"  # a choice


def test_numbers_lists_and_negative_values():
    config = configured(
        *("--optim.learning-rate", "1e-3", "--model.hidden", "64", "32", "--train.seed=5"),
        *("--optim.step-epochs", "1,2.5", "--data.labels", "a, b", "c"),
    )
    assert config.optim.learning_rate == 1e-3
    assert config.model.hidden == (64, 32)
    assert config.optim.step_epochs == (1, 2.5)
    assert config.data.labels == ("a, b", "c")  # a name may hold a comma
    assert configured("--model.hidden").model.hidden == ()
    assert "train.epochs" in refused("--train.epochs", "-1")


def test_phases_and_groups_are_one_word_each():
    config = configured(
        *("--transfer.phases", ONE_PHASE, "epochs=2,learning_rate=1e-4,optimizer=sgd"),
        *("--transfer.groups", "name=stem,patterns=conv1|bn1.*,learning-rate=1e-5"),
    )
    second = PhaseConfig(2, optimizer="sgd", learning_rate=1e-4)
    assert config.transfer.phases == (PhaseConfig(5, "head"), second)
    group = GroupConfig("stem", ("conv1", "bn1.*"), learning_rate=1e-5)
    assert config.transfer.groups == (group,)
    assert "did you mean 'epochs'" in refused("--transfer.phases", "epoch=3")
    assert "epochs is a whole number" in refused("--transfer.phases", "epochs=x")
    # A space in the place of a comma would make two phases.
    assert "'trained=head', which has no epochs; commas" in refused(
        *("--transfer.phases", "epochs=1", "trained=head")
    )
    assert "which has no name" in refused("--transfer.groups", "name=x", "patterns=conv1")
    assert ONE_PHASE in refused("--transfer.phases.0.epochs", "3")


def test_tasks_are_one_word_each():
    config = configured(
        *("--tasks", "name=grade,kind=ordinal,levels=0|1/3|1,weight=0.5"),
        *("name=kind,class_weights=1|2.5,label-smoothing=none", "--train.best-metric", "grade.mae"),
    )
    assert config.tasks == (
        TaskConfig("grade", kind="ordinal", levels=("0", "1/3", "1"), weight=0.5),
        TaskConfig("kind", class_weights=(1.0, 2.5)),
    )
    assert config.train.best_metric == "grade.mae"
    words = shlex.split(changes.as_options(config, ["tasks"]))
    assert configured(*words).tasks == config.tasks
    assert "did you mean 'weight'" in refused("--tasks", "name=a,wieght=1")
    assert "which has no name" in refused("--tasks", "kind=ordinal")
    assert "entries such as name=grade" in refused("--tasks.0.name", "a")
    assert "class_weights is numbers" in refused("--tasks", "name=a,class_weights=1|x")


def test_inputs_are_a_section():
    config = configured(
        *("--inputs.numeric", "age", "body mass", "--inputs.scales", "1", "0.5"),
        *("--inputs.view-fusion", "gru", "--inputs.group", "patient"),
    )
    inputs = InputsConfig(
        numeric=("age", "body mass"), scales=(1.0, 0.5), view_fusion="gru", group="patient"
    )
    assert config.inputs == inputs
    assert "did you mean 'attention'" in refused("--inputs.pooling", "atention")


def test_the_configuration_may_follow_the_options():
    arguments = ["--train.epochs", "3", "--augment.scale", "0.5", "1", "my.py", "--workdir", "~/x"]
    assert options.first_positional(training.train, arguments) == "my.py"
    read = options.read(training.train, arguments, {"config": Config()})
    assert read["config"].train.epochs == 3
    assert (read["file"], read["workdir"]) == (Path("my.py"), Path.home() / "x")
    assert options.first_positional(training.train, ["--train.epochs", "3"]) is None


def test_places_and_options_mix():
    read = options.read(prediction.predict, ["--flip", "run", "a.png", "--top", "3", "b.png"], {})
    assert (read["run_or_model"], read["top"], read["views"].flip) == ("run", 3, True)
    assert read["images"] == (Path("a.png"), Path("b.png"))
    assert options.read(prediction.predict, ["run", "--", "--top"], {})["images"] == (
        Path("--top"),
    )
    read = options.read(runs.export, ["run", "--to", "timm", "a b.safetensors"], {})
    assert read["to"] == ("timm", Path("a b.safetensors"))
    assert options.read(networks.models, [], {}) == {}
    assert options.read(networks.models, ["--license", "none"], {}) == {"license": "none"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment.horizontal-flip", "maybe"], "'maybe'; --augment.horizontal-flip expects true"),
        (["--augment.no-horizontal-flip=no"], "write --augment.horizontal-flip=no"),
        (["--augment.scale", "0.5"], "expects 2 numbers, as in 0.5 1.0 or 0.5,1.0; got '0.5'"),
        (["--augment.scale", "1", "2", "3"], "unexpected '3'; --augment.scale expects 2 numbers"),
        (["--augment.scale", "a,b"], "got 'a'"),
        (["--train.epochs", "1.5"], "--train.epochs expects a whole number; got '1.5'"),
        (["--train.epochs"], "--train.epochs expects a whole number; got nothing"),
        (["--train.epochs", "--train.seed", "1"], "--train.epochs expects a whole number"),
        (["--train.epochs="], "got ''"),
        (["--workdir", ""], "--workdir expects a path or none; got ''"),
        (["--train.epochs", "1", "--train.epochs=2"], "given twice, as '1' and as '2'"),
        (["--optim.learning-rate", "0,5"], "did you mean 0.5?"),
        (["--optim.name", "AdamW"], "expects one of sgd, adam, adamw; got 'AdamW'; did you mean"),
        (["optim.learning_rate=1e-3"], "two dashes: --optim.learning-rate 1e-3"),
        (["other.txt"], "unexpected 'other.txt'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(arguments, message):
    assert message in refused(*arguments)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="--to is missing; expected a value and a path"):
        options.read(runs.export, ["run"], {})
    with pytest.raises(ValueError, match="RUN is missing"):
        options.read(runs.evaluate, ["--split", "test"], {})
    with pytest.raises(ValueError, match="--to is missing"):
        options.read(runs.export, ["run", "timm", "x.safetensors"], {})
    with pytest.raises(ValueError, match="RUN is given without an option's name"):
        options.read(runs.evaluate, ["--run", "run"], {})
    with pytest.raises(ValueError, match="did you mean --to"):
        options.read(runs.soup, ["a", "b", "--output", "x"], {})
    with pytest.raises(ValueError, match="unexpected 'other'"):
        options.read(runs.evaluate, ["run", "other"], {})


OPTIONS = [p.name for p in options.parameters(training.train, {}) if not p.positional]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--optim.lr", "--optim.learning-rate"),
        ("--lr", "--optim.learning-rate"),
        ("--learning_rate", "--optim.learning-rate"),
        ("--optim.learning-rat", "--optim.learning-rate"),
        ("--data.batchsize", "--data.batch-size"),
        ("--dataBatchSize", "--data.batch-size"),
        ("--batch-size", "--data.batch-size"),
        ("--train.batch_size", "--data.batch-size"),
        ("--epochs", "--train.epochs"),
        ("--training.epochs", "--train.epochs"),
        ("--config.train.epochs", "--train.epochs"),
        ("-workdir", "--workdir"),
        ("--work", "--workdir"),
        ("--output-dir", "--workdir"),
        ("--model", "--model.name"),
        ("--img-size", "--data.image-size"),
        ("--stop-after", "--stop-after-epoch"),
    ],
)
def test_near_misses_of_options_lead_to_one_that_exists(typed, meant):
    assert nearest_options(typed, OPTIONS)[0] == meant
    assert f"unknown option {typed}; did you mean {meant}" in unknown_option(typed, OPTIONS)


def test_what_no_option_resembles_gets_no_hint_that_misleads():
    assert unknown_option("--zzz", OPTIONS) == "unknown option --zzz"
    assert "JAX_PLATFORMS" in unknown_option("--gpus", OPTIONS)
    assert "same --workdir" in unknown_option("--resume", OPTIONS)
    assert "tensorboard/" in unknown_option("--wandb", OPTIONS)
    pictures = [p.name for p in options.parameters(training.lr_find, {}) if not p.positional]
    assert "did you mean --png?" in unknown_option("--workdir", pictures)
    assert "--name" not in unknown_option("--lr", ["--top", "--split"])
    assert unknown_option("--transfer", OPTIONS).startswith("--transfer is a section")
    assert "--model.name or --optim.name" in unknown_option("--name", OPTIONS)
