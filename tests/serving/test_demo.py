"""The command and the function that serve a page: from the start to the interrupt."""

import http.client
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import tl_jax
from tests.support import runs
from tests.support.slim import ROOT
from tl_jax.cli import main
from tl_jax.serving import demo
from tl_jax.serving.server import PageServer


@pytest.fixture
def untrained(tmp_path) -> Path:
    """A run of a network that other processes know too."""
    config = tl_jax.Config(
        model=tl_jax.ModelConfig("simple_cnn", weights="random"),
        data=tl_jax.DataConfig("digits", shots=2, image_size=16),
    )
    return runs.write_untrained(config, tmp_path / "digits")


@pytest.mark.slow
def test_the_command_serves_a_run_until_it_is_interrupted(untrained):
    process = subprocess.Popen(
        [sys.executable, "-m", "tl_jax", "demo", str(untrained), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[3]
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    connection.request("GET", "/")
    assert b"Drop a picture here" in connection.getresponse().read()
    picture = io.BytesIO()
    Image.new("L", (8, 8), 90).save(picture, "PNG")
    connection.request("POST", "/answer?target=3", picture.getvalue())
    assert json.loads(connection.getresponse().read())["explained"]["target"] == "3"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130  # As of every command.
    assert (out, err) == ("", "compiling, which takes some seconds ...\ninterrupted\n")


def test_a_port_that_is_taken_is_said_before_the_run_is_read(tmp_path, capsys):
    with PageServer(0) as server:
        port = str(server.server_port)
        assert main(["demo", str(tmp_path), "--port", port]) == 1
    assert f"error: cannot serve on port {port}: another program" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "RUN-OR-MODEL is missing"),
        (["nowhere", "--port", "many"], 2, "port"),
        (["nowhere", "--port", "70000"], 1, "port is 70000; expected 0 to 65535"),
        (["nowhere", "--port", "0", "--method", "gradcam"], 1, "did you mean 'grad_cam'"),
        (["nowhere", "--port", "0"], 1, "nowhere"),
        (["nowhere", "--host", "0.0.0.0"], 2, "host"),
    ],
)
def test_misuse_is_said_in_a_line(arguments, status, message, capsys):
    assert main(["demo", *arguments]) == status
    assert message in capsys.readouterr().err


def test_an_interrupt_ends_the_function_and_frees_the_port(monkeypatch, capsys):
    served = []

    class Answers:
        network = {"name": "a run"}  # noqa: RUF012

        def __init__(self, run, **options):
            served.append((run, options))

        def warm_up(self):
            served.append("warm")

    def serve(server, network, answer):
        served.append((network, type(answer), server))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "Answers", Answers)
    monkeypatch.setattr(PageServer, "serve", serve)
    tl_jax.demo("runs/a", port=0, method="saliency")
    options = {"method": "saliency", "weights": None, "value_range": None, "calibrated": False}
    assert served[:2] == [("runs/a", options), "warm"]
    network, kind, server = served[2]  # Kept, so that nothing but the function closes it.
    port = server.server_port
    assert (network, kind) == (Answers.network, Answers)
    assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
    PageServer(port).server_close()
