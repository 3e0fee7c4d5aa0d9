"""The report card of a model of text: what `appraise.py` is to what can be seen or heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fromnoise.appraise import keep_judgement, write_card
from fromnoise.checkpoint import writing
from fromnoise.codec import TextCodec
from fromnoise.data import Dataset
from fromnoise.errors import NotJudged
from fromnoise.evaluate.judge import FEWEST
from fromnoise.evaluate.judge_text import TextJudgement, judge_text
from fromnoise.folder import RunFolder
from fromnoise.generate import configure, generate
from fromnoise.release import Release

SAMPLES = 128  # whose words are counted
SHOWN, SAID = 48, 3  # samples in the report, and said at once
MOST_HELD = 500  # documents
MOST_TRAINING = 8_000_000  # characters


def proofread(
    folder: RunFolder,
    release: Release,
    dataset: Dataset,
    *,
    n: int | None = None,
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> TextJudgement:
    """Judges the model and `n` samples of `seed`, and writes evaluation.json and report.html.

    Raises NotJudged for a set that is too small to judge, after writing its report.
    """
    codec = release.codec
    assert isinstance(codec, TextCodec)
    held = list(some(dataset, "test", documents=MOST_HELD))
    enough = len(held) >= FEWEST
    count = n or SAMPLES
    say(f"drawing {count} samples{f' and judging them beside {len(held)} held-out texts' if enough else ''}.")
    samples = generate(release, count, configure(release), seed=seed).samples.tolist()
    for text in samples[:SAID]:
        say(f"“{text}”")
    found = None
    if enough:
        train = list(some(dataset, "train", characters=MOST_TRAINING))
        found = judge_text(release.denoiser, codec, samples, train, held)
        keep_judgement(folder, release, found, count, seed)
    with writing(folder.report):
        write_card(folder, release, texts=samples[:SHOWN], reading=found)
    if found is None:
        raise NotJudged(
            f"Not judged: that needs {FEWEST} held-out texts, and there are {len(held)}; give more, and read the "
            "samples in the report."
        )
    return found


def some(dataset: Dataset, split: str, *, documents: int | None = None, characters: int | None = None) -> Iterator[str]:
    """Texts of a split in random order, the same in every judgement: so many documents or characters at most."""
    total = 0
    for place in np.random.default_rng(0).permutation(dataset.indices(split))[:documents]:
        (stored,) = dataset.stored[np.array([place])]
        text = TextCodec.text(stored)
        yield text
        total += len(text)
        if characters is not None and total >= characters:
            return
