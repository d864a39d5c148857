"""Which pieces a process takes: together the shares of a job are the whole, each piece once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusing import refused

from hwm.work.share import Share, chosen_share, share_from_environment


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_part_the_work(count, pieces):
    taken = [piece for index in range(count) for piece in Share(index, count).of(range(pieces))]
    assert sorted(taken) == list(range(pieces))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Share(3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Share(0, 1)),  # the batch script itself, not a task of srun
        ({"SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}, Share(5, 8)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_STEP": "2"},
         Share(3, 5)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_PROCID": "1",
          "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}, Share(5, 6)),
    ],
)  # fmt: skip
def test_launchers_are_understood(environment, expected):
    assert share_from_environment(environment) == expected


def test_a_number_that_is_none_is_named():
    refused(r"WORLD_SIZE is 'many', expected a whole number", share_from_environment, {"RANK": "0", "WORLD_SIZE": "many"})
    refused("got 4 of 4", share_from_environment, {"RANK": "4", "WORLD_SIZE": "4"})


def test_a_share_that_is_named_counts_before_the_launchers(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert chosen_share(None) == Share(1, 2) and chosen_share((0, 1)) == Share(0, 1)
