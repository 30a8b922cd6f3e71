"""What is noted of the place where a run ran, and what is not."""

from __future__ import annotations

import json

import numpy as np

from jobs.machine import machine, noted_environment, versions


def test_only_listed_variables_are_noted_and_no_secret_among_them() -> None:
    environment = {
        "OMP_NUM_THREADS": "2",
        "NCCL_DEBUG": "INFO",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "hush-1",
        "RAY_AUTH_TOKEN_PATH": "/home/me/token",
        "AWS_REGION": "eu-central-1",
        "AWS_SECRET_ACCESS_KEY": "hush-2",
        "AWS_ENDPOINT_URL": "https://u:hush-3@host",
        "CUDA_NOTE": "with hush-2 in it",
        "HOME": "/home/me",
        "PATH": "/bin",
    }
    noted = noted_environment(environment)
    assert noted == {
        "AWS_ENDPOINT_URL": "https://<userinfo>@host",
        "AWS_REGION": "eu-central-1",
        "CUDA_NOTE": "with <AWS_SECRET_ACCESS_KEY> in it",
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "2",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/home/me/token",
    }


def test_versions_and_machine_are_plain_data() -> None:
    found = versions()
    assert found["numpy"] == np.__version__
    assert json.loads(json.dumps(found)) == found
    here = machine()
    assert here["num_cpus"]
    assert isinstance(here["memory_gib"], float)
    assert here["memory_gib"] > 0.1
