"""Tests of the progress of an epoch, in a terminal and elsewhere."""

import io
from time import sleep

import pytest

from tl_jax.run import progress
from tl_jax.run.progress import Progress, clock, log


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Captured(io.TextIOBase):
    """A standard error that is captured: writable, no terminal, without a file descriptor."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def getvalue(self) -> str:
        return self.text


class Notebook(Captured):
    """A standard error as a notebook's, by the module of its class."""

    __module__ = "ipykernel.iostream"


class Broken(io.StringIO):
    """A pipe whose reader has gone, or a terminal that was closed."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def time(monkeypatch):
    """A clock that the test sets forward."""

    class Time:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Time.now)
    return Time


def run(stream, monkeypatch, time, *, seconds_per_step: float, first: float = 0, **options) -> str:
    """Shows an epoch of ten steps; the first step takes `first` seconds more."""
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("epoch 1/2", steps=10, images_per_step=16, **options) as bar:
        for i in range(10):
            time.now += seconds_per_step + (first if i == 0 else 0)
            bar.update()
            if i == 2:
                bar.finish(0.5, i + 1)
                # A bar is drawn ten times a second.
                sleep(0.11 if stream.isatty() or isinstance(stream, Notebook) else 0)
    return stream.getvalue()


def test_in_a_notebook_it_is_one_line_that_is_drawn_anew(monkeypatch, time):
    text = run(Notebook(), monkeypatch, time, seconds_per_step=8.0)
    assert "\n" not in text
    assert "loss 0.5000" in text
    assert all("epoch 1/2" in drawn for drawn in text.split("\r") if drawn.strip())


@pytest.mark.parametrize("stream", [io.StringIO, Captured])
def test_outside_a_terminal_it_is_a_line_every_15_seconds(stream, monkeypatch, time):
    text = run(stream(), monkeypatch, time, seconds_per_step=8.0)
    assert "\r" not in text
    assert text.splitlines() == [
        "epoch 1/2  step 2/10  2.0 images/s  1:04 left of the epoch",
        "epoch 1/2  step 4/10  loss 0.5000  2.0 images/s  0:48 left of the epoch",
        "epoch 1/2  step 6/10  loss 0.5000  2.0 images/s  0:32 left of the epoch",
        "epoch 1/2  step 8/10  loss 0.5000  2.0 images/s  0:16 left of the epoch",
        "epoch 1/2  step 10/10  loss 0.5000  2.0 images/s  0:00 left of the epoch",
    ]


def test_compilation_is_said_and_left_out_of_the_rate(monkeypatch, time):
    options = {"seconds_per_step": 8.0, "first": 60.0, "compiles": True}
    text = run(io.StringIO(), monkeypatch, time, **options)
    assert text.splitlines()[:3] == [
        "epoch 1/2  compiling the training step",
        "epoch 1/2  compiled, and one step, in 1:08",
        "epoch 1/2  step 3/10  2.0 images/s  0:56 left of the epoch",
    ]


def test_the_rate_is_that_of_the_last_half_minute(monkeypatch, time):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress("epoch 1/2", steps=100, images_per_step=16) as bar:
        for seconds in [1] * 20 + [8] * 10:
            time.now += seconds
            bar.update()
        assert bar.images_per_second == 2.0


def test_an_epoch_of_one_step_has_a_rate_unless_it_was_compiled(monkeypatch, time):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    for compiles, rate in ((True, None), (False, 4.0)):
        with Progress("epoch", steps=1, images_per_step=16, compiles=compiles) as bar:
            time.now += 4
            bar.update()
            bar.finish(0.5, 1)
            assert bar.images_per_second == rate


def test_a_step_counts_once_it_is_computed(monkeypatch, time):
    """Steps are dispatched faster than they are computed; what is shown is what was waited for."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress("epoch 1/2", steps=10, images_per_step=16) as bar:
        for _ in range(5):
            time.now += 0.01
            bar.update()
        assert bar.images_per_second is None
        time.now += 9.95
        bar.finish(0.5, 5)
        assert bar.images_per_second == pytest.approx(8.0)


def test_a_step_that_is_still_computing_is_not_said_to_be_done(monkeypatch, time):
    class InComputation:
        def is_ready(self) -> bool:
            return False

        def block_until_ready(self) -> None:
            time.now += 6

    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress("epoch 1/2", steps=10, images_per_step=16) as bar:
        time.now += 2
        bar.update(InComputation())
        bar.update(InComputation())
        assert bar.images_per_second is None
        bar.update(InComputation())  # Waits for the first.
        assert bar.images_per_second == 2.0


def test_steps_whose_loss_is_known_are_waited_for(monkeypatch, time):
    """JAX may say late that a step is computed; a record of the loss has a rate all the same."""

    class Late:
        def is_ready(self) -> bool:
            return False

        def block_until_ready(self) -> None:
            time.now += 1

    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress("epoch 1/2", steps=3, images_per_step=16) as bar:
        bar.update(Late())
        bar.update(Late())
        bar.finish(0.5, 1)
        assert bar.images_per_second == 16.0


def test_a_short_epoch_prints_no_line(monkeypatch, time):
    assert run(io.StringIO(), monkeypatch, time, seconds_per_step=0.1) == ""


def test_in_a_terminal_it_is_a_bar(monkeypatch, time):
    monkeypatch.setenv("TERM", "xterm")
    text = run(Terminal(), monkeypatch, time, seconds_per_step=8.0, first=60.0, compiles=True)
    assert "\r" in text
    assert "0/10, compiling" in text
    assert "epoch 1/2  compiled, and one step, in 1:08\n" in text
    assert "loss 0.5000, 2.0 images/s" in text
    assert " step 2/10 " not in text
    assert "?" not in text  # the bar's own rate, which counts compilation


def test_a_dumb_terminal_gets_lines(monkeypatch, time):
    monkeypatch.setenv("TERM", "dumb")
    text = run(Terminal(), monkeypatch, time, seconds_per_step=8.0)
    assert "\r" not in text and "step 2/10" in text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_progress_that_is_not_enabled_shows_nothing(monkeypatch, time, stream):
    monkeypatch.setenv("TERM", "xterm")
    options = {"seconds_per_step": 20.0, "compiles": True, "enabled": False}
    assert run(stream(), monkeypatch, time, **options) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_goes_on_where_nobody_reads(terminal, monkeypatch, time):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Broken(terminal=terminal))
    log("a line")
    with Progress("epoch 1/2", steps=2, images_per_step=16, compiles=True) as bar:
        for _ in range(2):
            time.now += 20
            bar.update()
    assert bar.images_per_second == 0.8


@pytest.mark.parametrize("closed", [False, True])
def test_without_a_standard_error_nothing_is_printed_elsewhere(closed, monkeypatch, time, capsys):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream if closed else None)
    log("a line")
    with Progress("epoch 1/2", steps=1, images_per_step=16) as bar:
        time.now += 20
        bar.update()
    assert capsys.readouterr().out == ""


def test_a_line_is_printed_in_any_encoding(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, encoding="ascii"))
    log("classes grün 7, 猫 \udcff 3")
    assert raw.getvalue() == b"classes gr\\xfcn 7, \\u732b \\udcff 3\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
