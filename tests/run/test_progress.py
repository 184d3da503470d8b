"""Tests of the progress of an epoch, in a terminal and elsewhere."""

import io
import sys
from time import sleep

import pytest

from tl_jax.run import progress
from tl_jax.run.progress import Progress, clock


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def time(monkeypatch):
    """A clock that the test sets forward."""

    class Time:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Time.now)
    return Time


def run(stream: io.StringIO, monkeypatch, time, *, seconds_per_step: float, **options) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("epoch 1/2", steps=10, images_per_step=16, **options) as bar:
        for i in range(10):
            time.now += seconds_per_step
            bar.update(0.5 if i == 2 else None)
    return stream.getvalue()


def test_outside_a_terminal_it_is_a_line_every_15_seconds(monkeypatch, time):
    text = run(io.StringIO(), monkeypatch, time, seconds_per_step=8.0)
    assert text.splitlines() == [
        "epoch 1/2  step 2/10  loss ...  2 images/s  1:04 left",
        "epoch 1/2  step 4/10  loss 0.5000  2 images/s  0:48 left",
        "epoch 1/2  step 6/10  loss 0.5000  2 images/s  0:32 left",
        "epoch 1/2  step 8/10  loss 0.5000  2 images/s  0:16 left",
        "epoch 1/2  step 10/10  loss 0.5000  2 images/s  0:00 left",
    ]


def test_a_short_epoch_prints_no_line(monkeypatch, time):
    assert run(io.StringIO(), monkeypatch, time, seconds_per_step=0.1) == ""


def test_in_a_terminal_it_is_a_bar(monkeypatch, time):
    text = run(Terminal(), monkeypatch, time, seconds_per_step=8.0)
    assert "\r" in text
    assert "epoch 1/2:" in text and "0/10" in text
    assert " step 2/10 " not in text


def test_the_bar_shows_the_last_loss_and_the_rate(monkeypatch, time):
    monkeypatch.setattr("sys.stderr", Terminal())
    with Progress("epoch 1/2", steps=10, images_per_step=16) as bar:
        time.now += 4
        bar.update(0.25)
        sleep(0.15)  # the bar is drawn at most ten times a second
        bar.update()
        assert bar.images_per_second == 8.0
        assert "2/10" in sys.stderr.getvalue()
        assert "loss 0.2500, 8 images/s" in sys.stderr.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_progress_that_is_not_enabled_shows_nothing(monkeypatch, time, stream):
    text = run(stream(), monkeypatch, time, seconds_per_step=20.0, enabled=False)
    assert text == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
