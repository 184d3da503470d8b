"""The launcher of local processes: prefixes, and the status of the whole."""

import pytest

from experiments.launch import local


@pytest.mark.parametrize(
    ("codes", "status"),
    [([0, 0], 0), ([75, -9], 75), ([75, 1], 1), ([-9, -9], 75), ([130, 130], 130), ([0, 2], 2)],
)
def test_the_status_is_that_of_an_error_or_says_resume(codes, status):
    assert local.exit_status(codes) == status


@pytest.mark.slow
def test_every_process_runs_the_command_and_is_told_apart(capsys):
    assert local.main(["2", "frobnicate"]) == 2
    lines = capsys.readouterr().out.splitlines()
    for index in range(2):
        assert any(line.startswith(f"[{index}] error: unknown command") for line in lines)
