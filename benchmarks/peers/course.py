"""Training of a peer by the clock: averaged weights kept at given times, and a state to go on from after a kill.

Only steps count: reading data, saving and starting up do not.  Which pictures a step sees, and what torch's shared
stream draws in it, are functions of (seed, step), so a state holds no generator.

The clock is the wall's or a pace: every step counts as long as one took on a quiet machine, in a trial of a minute.
An hour of training is then the same hour whatever else the machine does meanwhile.

    FOLDER/pace.json              seconds a step, from how many, and the load averages of the trial
    FOLDER/state.safetensors      network, average, optimiser; step, seconds, settings in its header
    FOLDER/at-6m.safetensors      the average as it was at the end of the first step after six minutes
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.peers.machine import load as load_average
from benchmarks.peers.peer import Peer
from benchmarks.peers.pictures import Images, to_x0
from fromnoise import checkpoint
from fromnoise.checkpoint import replace_text
from fromnoise.errors import FromNoiseError
from fromnoise.rng import derive_seed
from fromnoise.runtime import reuse_memory

SAVE_EVERY = 300.0  # seconds of training between states: those of the largest peer are 2 GB


@dataclass
class Position:
    """Steps done and the seconds that they took; `loads` are load averages, one at each start and each save."""

    step: int
    seconds: float
    loads: list[float]


def weights_at(folder: Path, minutes: float) -> Path:
    return folder / f"at-{minutes:g}m.safetensors"


def train(
    peer: Peer,
    images: Images,
    minutes: Sequence[float],
    folder: Path,
    *,
    fingerprint: str,
    seed: int = 0,
    pace: float | None = None,
    save_every: float = SAVE_EVERY,
    say: Callable[[str], None] = lambda line: None,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Trains until the last of `minutes`, from the state in `folder` if there is one, and keeps the average at each.

    A step counts `pace` seconds if that is given.  Does nothing where all averages are kept already.  Raises
    FromNoiseError where the state is of other settings.
    """
    settings = {"recipe": asdict(peer.recipe), "about": peer.about, "data": fingerprint, "seed": seed}
    settings |= {"minutes": max(minutes), "pace": pace}
    check_settings(folder, settings)
    if all(weights_at(folder, m).exists() for m in minutes):
        return
    if peer.recipe.keep_memory:
        reuse_memory()
    run = Course(peer, images, 60 * max(minutes), seed)
    run.restore(folder / "state.safetensors")
    run.at.loads.append(load_average())
    if run.at.step:
        say(f"going on from step {run.at.step} at {run.at.seconds / 60:.1f} min.")
    saved = run.at.seconds
    for mark in sorted(m for m in minutes if not weights_at(folder, m).exists()):
        while run.at.seconds < 60 * mark:
            begun = now()
            run.step()
            run.at.seconds += now() - begun if pace is None else pace
            if run.at.seconds - saved >= save_every:
                saved = run.at.seconds
                run.save(folder / "state.safetensors", settings)
        run.keep(weights_at(folder, mark), settings)
        run.save(folder / "state.safetensors", settings)
        saved = run.at.seconds
        say(f"{run.at.seconds / 60:.1f} min: step {run.at.step}, {run.at.step * run.batch:,} pictures.")


def measured_pace(peer: Peer, images: Images, folder: Path, trial: float) -> dict:
    """`seconds` that a step takes, the median over `trial` seconds after two steps of warming up; kept once measured.

    Changes the peer's weights: measure on one that is not needed afterwards.
    """
    file = folder / "pace.json"
    if not file.exists():
        if peer.recipe.keep_memory:
            reuse_memory()
        run, begin, times = Course(peer, images, trial, 0), load_average(), list[float]()
        while len(times) < 5 or sum(times) < trial:
            begun = time.perf_counter()
            run.step()
            times.append(time.perf_counter() - begun)
        kept = {"seconds": median(times[2:]), "steps": len(times) - 2, "loads": [begin, load_average()]}
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(kept) + "\n")
    return json.loads(file.read_text())


def load_weights(peer: Peer, path: Path) -> dict:
    """Puts an average into the network, and returns what its header says of the training."""
    tensors, facts = checkpoint.load(path)
    peer.net.load_state_dict(tensors)
    peer.net.eval()
    return facts


def check_settings(folder: Path, settings: dict) -> None:
    """Raises FromNoiseError if what lies in `folder` was made with other settings, whose figures would be mixed up."""
    for path in sorted(folder.glob("*.safetensors")):
        theirs = checkpoint.load_meta(path)["settings"]
        # Tuples have become lists on the way through JSON.
        ours = json.loads(json.dumps(settings))
        changed = sorted(name for name in ours if theirs.get(name) != ours[name])
        if changed:
            raise FromNoiseError(
                f"{path} was trained with another {' and '.join(changed)}: choose another --out, or remove {folder}."
            )


class Course:
    """A peer on its way: network, average, optimiser, position."""

    def __init__(self, peer: Peer, images: Images, budget: float, seed: int) -> None:
        self.peer, self.images, self.budget, self.seed = peer, images, budget, seed
        self.batch = min(peer.recipe.batch, len(images))
        self.at = Position(0, 0.0, [])
        recipe = peer.recipe
        if recipe.channels_last:
            # The overload of `to` for layouts is missing from torch's annotations.
            peer.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.params = list(peer.net.parameters())
        self.average = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )

    def step(self) -> None:
        recipe, at = self.peer.recipe, self.at
        rows = batch_rows(len(self.images), self.batch, at.step, self.seed)
        x0 = to_x0(self.images[rows])
        if recipe.channels_last:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        at.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(at.step, at.seconds / self.budget)
        torch.manual_seed(derive_seed(self.seed, "step", at.step))
        self.peer.net.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = self.peer.loss(x0)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.params, recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - recipe.decay(at.step))

    def keep(self, path: Path, settings: dict) -> None:
        """Writes the averaged network alone."""
        names = [name for name, _ in self.peer.net.named_parameters()]
        averaged = self.peer.net.state_dict() | dict(zip(names, self.average, strict=True))
        checkpoint.save(path, averaged, self._facts(settings))

    def save(self, path: Path, settings: dict) -> None:
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"net/{name}": x for name, x in self.peer.net.state_dict().items()}
        tensors |= {f"average/{i}": x for i, x in enumerate(self.average)}
        tensors |= {f"optimizer/{i}/{name}": x for i, state in moments.items() for name, x in state.items()}
        checkpoint.save(path, tensors, self._facts(settings))

    def restore(self, path: Path) -> None:
        """Goes on from `path`; stays at the start where there is none."""
        if not path.exists():
            return
        tensors, facts = checkpoint.load(path)
        self.peer.net.load_state_dict(checkpoint.part(tensors, "net/"))
        averages = checkpoint.part(tensors, "average/")
        for i, average in enumerate(self.average):
            average.copy_(averages[str(i)])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, x in checkpoint.part(tensors, "optimizer/").items():
            i, name = key.split("/")
            moments.setdefault(int(i), {})[name] = x
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.at = Position(facts["step"], facts["seconds"], facts["loads"])

    def _facts(self, settings: dict) -> dict:
        at = self.at
        loads = [*at.loads, load_average()]
        facts = {"step": at.step, "seconds": at.seconds, "examples": at.step * self.batch}
        return {**facts, "loads": loads, "parameters": sum(p.numel() for p in self.params), "settings": settings}


def batch_rows(count: int, batch: int, step: int, seed: int) -> Int[np.ndarray, " b"]:
    """The rows that a step, counted from 0, sees: each pass over the data has its own order; a rest is left out."""
    turn, place = divmod(step, count // batch)
    return _order(count, seed, turn)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=1)
def _order(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "order", turn)).permutation(count)


@torch.no_grad()
def held_loss(peer: Peer, images: Images, *, draws: int = 4) -> Float[Tensor, ""]:
    """The peer's own loss on held-out pictures under fixed noise, `draws` times each."""
    peer.net.eval()
    torch.manual_seed(0)
    parts = [peer.loss(x0) for _ in range(draws) for x0 in to_x0(images).split(64)]
    return torch.stack(parts).mean()
