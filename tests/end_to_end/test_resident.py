"""Rows that several devices hold reach the step as transferred rows do.

Trainings are compared in test_pods.py (two processes of two devices) and, bit for bit on one device, in
training/inputs/test_resident_rows.py.
"""

import pytest
from processes import environment, environments, finish, launch


def test_four_devices(tiny_directory, tmp_path):
    finish(launch("run_resident.py", tmp_path / "log", environment(4), tiny_directory))


@pytest.mark.slow
def test_two_processes_of_two_devices(tiny_directory, tmp_path):
    finish(*(
        launch("run_resident.py", tmp_path / f"log-{i}", env, tiny_directory)
        for i, env in enumerate(environments(processes=2, devices=2))
    ))  # fmt: skip
