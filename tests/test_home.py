"""What processes are told when they start."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tasks.home import FOR_SPEED

STEPS = 100
PROBE = f"""
import json, resource, torch
torch.set_num_threads(1)
def work():
    kept = [torch.ones(2**20) * number for number in range(4)]
    return sum(float(one[0]) for one in kept)
work(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}): work()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """A page of 4,096 bytes that is fetched again is a fault; each round here frees 4 to 20 MB."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = []
    for more in ({}, FOR_SPEED):
        run = [sys.executable, "-c", PROBE]
        answer = subprocess.run(run, env=environment | more, capture_output=True, check=True, text=True)
        faults.append(json.loads(answer.stdout) / STEPS)
    assert faults[1] < 100
    assert faults[1] < faults[0]
