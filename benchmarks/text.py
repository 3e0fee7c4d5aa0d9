"""Masked diffusion on verses: bits per character beside gzip, bzip2 and a 5-gram model, samples and infills.

    python -m benchmarks.text verses.txt --minutes 20

Texts are held out by the hash of their content, one in ten, so that repeated ones stay on one side.  Everything but the
minutes is chosen by the product's rules unless it is given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.codec.text import TextCodec, fit_text_codec
from fromnoise.cond import Cond
from fromnoise.config import Config, LossConfig, OptimConfig, RunConfig
from fromnoise.data.documents import documents
from fromnoise.denoise import Denoiser, TokenDenoiser
from fromnoise.evaluate.ngram import NGram
from fromnoise.evaluate.text import Known, document_bits, per_character, squeezed
from fromnoise.grid import Linear
from fromnoise.nets import Conditioner, TokenTransformer
from fromnoise.objectives import MaskedCrossEntropy
from fromnoise.observe import Pinned
from fromnoise.rng import Rng
from fromnoise.runtime import detect, reuse_memory
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Stepper
from fromnoise.template import Inside, fill_in
from fromnoise.trainer import Trainer
from fromnoise.unmask import Unmask

TEMPLATES = (
    "In the beginning ___",
    "___ and the people rejoiced.",
    "And Moses said unto ___, and they ___.",
    "The LORD is my [...6...] not want.",
)
WAYS: dict[str, Stepper] = {
    "drawn": DDIM(),
    "random": Unmask(),
    "random, nucleus .9": Unmask(nucleus=0.9),
    "margin": Unmask(by="margin"),
    "margin, nucleus .9": Unmask(by="margin", nucleus=0.9),
}


class Texts:
    """Encoded texts as the trainer takes them."""

    def __init__(self, codec: TextCodec, texts: Sequence[str]) -> None:
        self.codec, self.stored = codec, codec.store_many(np.array(texts, dtype=object))

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> Tensor:
        return self.codec.encode(self.stored[indices], rng)

    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond:
        return Cond.empty(len(indices))


def main() -> None:
    options = _options()
    reuse_memory()
    data = Path(options.data)
    texts = documents({data.name: data.read_bytes()}).texts
    held = [text for text in texts if blake2b(text.encode()).digest()[0] < 26]
    train = [text for text in texts if blake2b(text.encode()).digest()[0] >= 26]
    held = [held[i] for i in np.random.default_rng(0).permutation(len(held))]
    codec, notes = fit_text_codec(train, vocabulary=options.vocabulary, size=options.size, window=options.window)
    print(f"{len(train):,} texts to train on, {len(held):,} held out", *notes, sep="\n", flush=True)
    trainer = make_trainer(options, codec, train)
    for event in trainer.run():
        if event.step % 250 == 0:
            print(f"{event.step:6} {event.seconds:6.0f} s  {getattr(event, 'loss', float('nan')):.3f}", flush=True)
    average = trainer.average()
    judge(options, codec, average, train, held, trainer.position.step)
    if options.samples:
        show(options, codec, average, train, held)


def make_trainer(options: argparse.Namespace, codec: TextCodec, train: Sequence[str]) -> Trainer:
    config = Config(
        run=RunConfig(budget=60 * options.minutes, ema=options.ema),
        optim=OptimConfig(batch=options.batch, muon_lr=options.muon, adam_lr=options.adam),
        loss=LossConfig(drop=0.0),
    )
    torch.manual_seed(0)
    net = TokenTransformer(
        vocab=codec.vocab,
        width=options.width,
        depth=options.depth,
        heads=options.width // 64,
        emb=32,
        tied=not options.untied,
    )
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters", flush=True)
    clock = time.process_time if options.cpu else time.perf_counter
    begun = clock()
    return Trainer(
        config=config,
        denoiser=TokenDenoiser(net, Conditioner((), 32), codec.vocab, padding=codec.padding),
        objective=MaskedCrossEntropy(),
        data=Texts(codec, train),
        indices=np.arange(len(train)),
        runtime=detect(options.precision),
        clock=lambda: clock() - begun,
    )


def judge(
    options: argparse.Namespace,
    codec: TextCodec,
    denoise: Denoiser,
    train: Sequence[str],
    held: Sequence[str],
    steps: int,
) -> None:
    some = held[: options.held]
    bits = document_bits(denoise, [codec.windows(codec.store(text)) for text in some], draws=options.draws)
    print(f"\n| bits per character of {len(some):,} held-out texts | |\n|---|---:|")
    print(f"| masked diffusion, {steps:,} steps of {options.batch}, upper bound | {per_character(bits, some)} |")
    print(f"| 5-gram, interpolated Kneser-Ney | {per_character(NGram.of(train).bits(some), some)} |")
    print(f"| gzip -9 | {squeezed(some, 'gzip')} |\n| bzip2 -9 | {squeezed(some, 'bzip2')} |", flush=True)


def show(
    options: argparse.Namespace, codec: TextCodec, denoise: Denoiser, train: Sequence[str], held: Sequence[str]
) -> None:
    """Samples of each way with their variety, and infills."""
    known, grams, n = Known(train), NGram.of(train), options.samples
    drawn = {name: draw(codec, denoise, n, way, options.steps) for name, way in WAYS.items()}
    words = min(sum(len(text.split()) for text in texts) for texts in (*drawn.values(), held))
    print(
        "\n| samples | distinct words, pairs, triples | 5-word runs copied | 5-gram bits | words a text |"
        "\n|---|---|---|---|---|"
    )
    for name, texts in {"held out": list(held), **drawn}.items():
        v = known.variety(texts, words)
        used = texts[:n]
        distinct = " ".join(f"{share:.3f}" for share in v.distinct)
        length = np.mean([len(text.split()) for text in used])
        bits = per_character(grams.bits(used), used)
        print(f"| {name} | {distinct} | {v.copied:.3f} | {bits} | {length:.1f} |", flush=True)
    for name, texts in drawn.items():
        print(f"\n{name}:", *texts[:6], sep="\n  ")
    for template in TEMPLATES:
        rng = Rng.of(0, range(4), "gaps")
        y, mask, inside = fill_in(template, codec, codec.lengths, rng)
        pinned = Pinned(Inside(denoise, inside, codec.padding), y, mask)
        x = torch.where(mask, y, codec.vocab)
        x = finish(sample(pinned, Unmask(nucleus=0.9), Linear()(options.steps), x, Cond.empty(4), rng))
        print(f"\n{template}", *codec.decode(x), sep="\n  ", flush=True)


def draw(codec: TextCodec, denoise: Denoiser, n: int, stepper: Stepper, steps: int) -> list[str]:
    texts: list[str] = []
    for start in range(0, n, 32):
        indices = range(start, min(n, start + 32))
        rng = Rng.of(0, indices)
        x = denoise.process.prior((len(indices), codec.window), 1.0, rng)
        texts += codec.decode(finish(sample(denoise, stepper, Linear()(steps), x, Cond.empty(len(x)), rng))).tolist()
    return texts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--vocabulary", choices=["bytes", "characters", "bpe"])
    for name, value in {"size": None, "window": None, "width": 128, "depth": 4, "batch": 32, "held": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"draws": 4, "samples": 96, "steps": 48}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"muon": 1.2e-2, "adam": 1e-2, "ema": 0.05}.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--untied", action="store_true")
    parser.add_argument(
        "--cpu", action="store_true", help="minutes of processor time, for a machine shared with others"
    )
    parser.add_argument("--precision", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
