"""What the machine decides is said, and several ranks compute what one would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from fromnoise import runtime as runtime_module
from fromnoise.runtime import (
    Runtime,
    all_sum,
    all_sum_gradients,
    autocast,
    barrier,
    detect,
    from_main,
)
from fromnoise.types import FromNoiseError

CPU = Runtime(device=torch.device("cpu"), precision="float32", threads=1)


def test_detection_is_quick_and_says_why():
    detect(device="cpu")
    start = time.perf_counter()
    runtime = detect(device="cpu")
    assert time.perf_counter() - start < 3
    assert runtime.precision in runtime.why and "bfloat16 products are " in runtime.why
    assert runtime.is_main and runtime.world == 1


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (130.5, "130 times faster"),
        (1.26, "1.3 times faster"),
        (1.01, "as fast as float32"),
        (0.99, "as fast as float32"),
        (1 / 130.5, "130 times slower"),
    ],
)
def test_how_much_faster_is_said_as_precisely_as_it_was_measured(monkeypatch, ratio, says):
    monkeypatch.setattr(runtime_module, "_bfloat16_speed", lambda: ratio)
    assert detect(device="cpu").why.endswith(f"since bfloat16 products are {says} here")


def test_what_the_user_asks_for_is_taken_or_refused():
    runtime = detect("bfloat16", "cpu")
    assert runtime.precision == "bfloat16" and runtime.dtype is torch.bfloat16
    with pytest.raises(FromNoiseError, match="float32, bfloat16"):
        detect("float16")
    with pytest.raises(FromNoiseError, match=r"No device 'tpu'.* cpu"):
        detect(device="tpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_computes_in_the_chosen_precision(precision):
    layer = nn.Linear(4, 4)
    with autocast(detect(precision, "cpu")):
        assert str(layer(torch.ones(2, 4)).dtype) == f"torch.{precision}"
    assert layer.weight.dtype == torch.float32


def test_one_process_needs_no_group():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1.0, 2.0])
    all_sum_gradients([p], CPU)
    assert torch.equal(p.grad, torch.tensor([1.0, 2.0]))
    x = torch.ones(3)
    assert all_sum(x, CPU) is x
    assert from_main(2.5, CPU) == 2.5
    barrier(CPU)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_reused():
    """A large block freed and asked for again costs no page faults."""
    code = """
import resource, sys, torch
from fromnoise.runtime import reuse_memory
effective = sys.argv[1] == "keep" and reuse_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.zeros(50 * 2**20, dtype=torch.uint8)
for _ in range(20): torch.add(x, x)
before = faults()
for _ in range(4): torch.add(x, x)
print(int(effective), faults() - before)
"""
    counts = {}
    for mode in ("keep", "default"):
        command = [sys.executable, "-c", code, mode]
        result = subprocess.run(command, capture_output=True, text=True, cwd=root(), check=True)
        effective, counts[mode] = map(int, result.stdout.split())
        if mode == "keep" and not effective:
            pytest.skip("not glibc")
    assert counts["keep"] < 0.1 * counts["default"]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, "PASSIVE 6000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
    ],
)
def test_threads_wait_for_each_other_a_little_unless_the_user_says_how(asked, kept):
    code = "import os, fromnoise; print(*(os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, cwd=root(), check=True, env=clean | asked)
    assert said.stdout.strip() == kept


WORKER = """
import sys, torch
from torch import nn
from fromnoise.runtime import all_sum_gradients, all_sum, barrier, detect, from_main
runtime = detect(device="cpu")
torch.manual_seed(0)
net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)]).to(torch.float32)
x = torch.randn(6, 3)
part = range(runtime.rank, 6, runtime.world)
loss = net[0](x[part]).square().sum() / len(x)
if runtime.world == 1 or runtime.rank == 1:  # a layer that one rank only uses, as with routing
    loss = loss + net[1](x[:1]).sum()
loss.backward()
all_sum_gradients(net.parameters(), runtime)
total = all_sum(loss.detach(), runtime)
assert net[2].weight.grad is None
assert from_main(float(runtime.rank + 5), runtime) == 5
barrier(runtime)
if runtime.is_main:
    grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    print(runtime.world, runtime.precision, *torch.cat([*grads, total[None]]).tolist())
"""


def test_two_ranks_have_the_gradients_of_one():
    one, *single = run_worker({})
    two, *double = run_worker({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())})
    assert (one, two) == ("1", "2")
    assert single[0] == double[0] or "bfloat16" in (single[0], double[0])
    assert [float(g) for g in double[1:]] == pytest.approx([float(g) for g in single[1:]], rel=1e-5, abs=1e-6)


def run_worker(group: dict[str, str]) -> list[str]:
    """What rank 0 of `WORKER` prints, started as torchrun starts it."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=root(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(int(group.get("WORLD_SIZE", 1)))
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return outputs[0].split()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def root() -> Path:
    return Path(__file__).parents[1]
