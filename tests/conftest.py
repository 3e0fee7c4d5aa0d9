"""What all tests share: checked signatures, one thread, and hypothesis without clocks."""

from __future__ import annotations

import beartype
import hypothesis
import pytest
import torch

# An int where a float is asked for is fine, as everywhere in Python (PEP 484); named in pyproject.toml.
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

# Shared machines stall at any moment, so a slow example is no failure; fixed examples make a red build repeatable.
hypothesis.settings.register_profile("fromnoise", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("fromnoise")

# Tests are many small operations, and two busy threads on shared cores run them many times slower than one.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from torch's shared stream draws the same numbers alone and in the suite."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or left in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
