"""One contestant from data to samples: everything that is not on disk yet is trained and drawn, nothing else.

`Plan` says what is wanted; `compete` serves the peers, `run_ours` fromnoise, whose every time is a run of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import fromnoise as fn
from benchmarks.peers import course, machine
from benchmarks.peers.judges import make_judge
from benchmarks.peers.peer import Peer
from benchmarks.peers.pictures import Images, Pictures, read, seen, to_images
from benchmarks.peers.registry import RATES, build
from benchmarks.peers.samples import BATCH, Cached
from fromnoise.checkpoint import replace_text
from fromnoise.data import groups
from fromnoise.generate import generate
from fromnoise.rng import derive_seed
from fromnoise.runtime import Precision, detect

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is wanted of every contestant.

    minutes    times of training at which weights are kept; the last is the peers' budget
    drawn_at   those of them from which n samples are drawn
    trial      minutes of each short run that tries a learning rate; 0: the first rate is taken untried
    compared   samples by which ways of sampling are compared; 0: the first way is taken
    paced      seconds of the trial that measures a peer's pace (`course.py`); 0: peers train by the wall's clock
    """

    data: str
    out: Path
    minutes: tuple[float, ...]
    drawn_at: tuple[float, ...]
    n: int
    size: int | None = None
    seed: int = 0
    trial: float = 3.0
    compared: int = 500
    paced: float = 0.0
    tiny: bool = False
    settings: tuple[str, ...] = ()

    def wanted(self, name: str) -> list[tuple[float, Cached]]:
        """Times and files of samples that are not there yet."""
        files = [(minutes, Cached.at(self.out / name, minutes, self.n)) for minutes in self.drawn_at]
        return [(minutes, file) for minutes, file in files if not file.exists()]


def compete(name: str, plan: Plan, say: Say = lambda line: None) -> None:
    """Trains the peer `name` for the plan's budget and draws what is wanted, going on with what lies on disk."""
    wanted, folder = plan.wanted(name), plan.out / name
    if not wanted:
        say("all samples are cached.")
        return
    pictures = read(plan.data, plan.size)
    # Peers that are tuned compute in whichever precision is the faster here, the others as their examples do.
    runtime = detect(None if name in RATES else "float32", device="cpu")
    pace, about = None, {}
    if plan.paced:
        trial = make(name, pictures, plan, runtime.precision, None)
        about["pace"] = course.measured_pace(trial, pictures.train, folder, plan.paced)
        pace = about["pace"]["seconds"]
        say(f"{pace:.3f} seconds a step.")
    rate, tried = choose_rate(name, pictures, plan, runtime.precision, pace, say)
    peer, of = make(name, pictures, plan, runtime.precision, rate), pictures.fingerprint
    course.train(peer, pictures.train, plan.minutes, folder, fingerprint=of, seed=plan.seed, pace=pace, say=say)
    way, compared = choose_way(peer, pictures, plan, folder, say)
    about |= {"name": name, "about": peer.about, "way": way, "ways": compared, "rates": tried, "seed": plan.seed}
    about |= {"computing": runtime.why, "machine": machine.describe(peer.packages)}
    for minutes, file in wanted:
        training = course.load_weights(peer, course.weights_at(folder, minutes))
        say(f"drawing {plan.n} samples of {minutes:g} min by {way}.")
        file.draw(plan.n, drawer(peer, way, plan.seed), {**about, "minutes": minutes, "training": training})


def run_ours(name: str, plan: Plan, say: Say = lambda line: None) -> None:
    """fromnoise trained anew for each time, everything but import inside it, and sampled as its release says."""
    for minutes, file in plan.wanted(name):
        folder = plan.out / name / f"run-{minutes:g}m"
        begin = machine.load()
        run = fn.train(
            plan.data,
            out=folder,
            budget=60 * minutes,
            size=plan.size,
            columns=[groups.NAME],
            settings=plan.settings,
            seed=plan.seed,
            resume=True,
        )
        rows = [row for row in run.folder.read_metrics() if row["kind"] == "step"]
        training = {"seconds": 60 * minutes, "step": len(rows), "examples": len(rows) * run.config.optim.batch}
        training["loads"] = [begin, machine.load()]
        training["parameters"] = sum(p.numel() for p in run.denoiser.parameters())
        sample = run.config.sample
        about = {"name": name, "about": "fromnoise", "way": f"{sample.sampler} {sample.steps}", "seed": plan.seed}
        about |= {"settings": list(plan.settings), "machine": machine.describe()}

        def draw(first: int, n: int, run: fn.Run = run) -> Images:
            made = generate(run.release, n, run.config.sample, seed=1, batch=BATCH, first=first)
            return seen(run.release.codec, made.samples)

        say(f"drawing {plan.n} samples of {minutes:g} min by {about['way']}.")
        file.draw(plan.n, draw, {**about, "minutes": minutes, "training": training})


def make(name: str, pictures: Pictures, plan: Plan, precision: Precision, rate: float | None) -> Peer:
    """The peer with the initial weights of the plan's seed."""
    torch.manual_seed(derive_seed(plan.seed, "weights"))
    return build(name, pictures.shape, len(pictures.train), lr=rate, precision=precision, tiny=plan.tiny)


def choose_rate(
    name: str, pictures: Pictures, plan: Plan, precision: Precision, pace: float | None, say: Say
) -> tuple[float | None, dict[str, float]]:
    """The learning rate with the lowest held-out loss after a short run each, and those losses; none for most peers."""
    rates = RATES.get(name, ())
    if not rates or not plan.trial:
        return (rates[0] if rates else None), {}
    losses = {}
    for rate in rates:
        peer, folder = make(name, pictures, plan, precision, rate), plan.out / name / f"rate-{rate:g}"
        of = pictures.fingerprint
        course.train(peer, pictures.train, [plan.trial], folder, fingerprint=of, seed=plan.seed, pace=pace)
        course.load_weights(peer, course.weights_at(folder, plan.trial))
        losses[rate] = float(course.held_loss(peer, pictures.held[:512]))
        say(f"rate {rate:g}: held-out loss {losses[rate]:.4f} after {plan.trial:g} min.")
    return min(losses, key=losses.__getitem__), {f"{rate:g}": loss for rate, loss in losses.items()}


def choose_way(peer: Peer, pictures: Pictures, plan: Plan, folder: Path, say: Say) -> tuple[str, dict[str, float]]:
    """The way of sampling with the smaller distance from the last weights, and those distances; kept once measured."""
    chosen = folder / "way.json"
    if len(peer.ways) == 1 or not plan.compared:
        return peer.ways[0], {}
    if not chosen.exists():
        judge = make_judge(plan.data, pictures)
        course.load_weights(peer, course.weights_at(folder, max(plan.minutes)))
        distances = {}
        for way in peer.ways:
            draw = drawer(peer, way, plan.seed + 1)
            parts = [draw(first, min(BATCH, plan.compared - first)) for first in range(0, plan.compared, BATCH)]
            distances[way] = judge(np.concatenate(parts))
            say(f"{way}: distance {distances[way]:.2f} of {plan.compared} samples.")
        replace_text(chosen, json.dumps(distances))
    distances = json.loads(chosen.read_text())
    return min(distances, key=distances.__getitem__), distances


def drawer(peer: Peer, way: str, seed: int) -> Callable[[int, int], Images]:
    """Pictures of a seed from the network as it stands, each batch from its own state of torch's stream."""

    def draw(first: int, n: int) -> Images:
        torch.manual_seed(derive_seed(seed, "samples", first))
        return to_images(peer.sample(n, way))

    return draw
