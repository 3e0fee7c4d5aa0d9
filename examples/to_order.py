"""Ten models that make what they are asked for, each by one command, of data that packages carry.

    python -m examples.to_order emoji     # pictures from prompts, 64 pixels
    python -m examples.to_order drums     # drum hits by kind
    python -m examples.to_order notes     # notes by instrument and pitch
    python -m examples.to_order speech    # spoken prompts in five languages
    python -m examples.to_order spoken    # spoken digits: fifty recordings in all, and how near samples are to them
    python -m examples.to_order brain     # slices of a head by position, from below upwards
    python -m examples.to_order patches   # a whole head out of patches in 3-D
    python -m examples.to_order clips     # animated emoji from captions
    python -m examples.to_order street    # footage that goes on, 300 frames three times
    python -m examples.to_order verses    # verses, gaps filled in

The run goes to runs/NAME with its report; what was asked for goes to runs/NAME/asked, a folder for each wish, and for
all but text to one sheet, asked.png.  A run that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fromnoise as fn
from benchmarks.data import SOURCES, fetch
from fromnoise.display import Display
from fromnoise.errors import FromNoiseError
from fromnoise.sheet import save_sheet, sheet

Wish = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """wishes  each by a name of its own, as keywords of `Run.generate`
    settings   keywords of `fn.train` beside data, out and budget
    data       what they are learned from: a set of `benchmarks.data`, or one that comes with fromnoise
    each       samples of a wish
    """

    wishes: Mapping[str, Wish]
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    each: int = 8


def prompts(*texts: str) -> dict[str, Wish]:
    return {text: {"prompt": text} for text in texts}


def where(**columns: tuple[str | float, ...]) -> dict[str, Wish]:
    """A wish for each place in the columns' values."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {" ".join(str(value) for value in row.values()): {"where": row} for row in rows}


EXAMPLES = {
    "emoji": Example(
        data="emoji",
        settings={"size": 64},
        wishes=prompts("red heart", "grinning face", "flag: Italy", "cat face", "clock face", "green book", "woman"),
    ),
    "drums": Example(
        data="hits",
        wishes=where(**{"class": ("kick", "snare", "hat", "tom", "cymbal", "bell", "clap", "hand")}),
    ),
    "notes": Example(
        data="notes",
        settings={"columns": ["instrument", "pitch:number"]},
        wishes=where(instrument=("piano", "flute", "violin", "marimba"), pitch=(60, 69, 72, 64)),
    ),
    "speech": Example(
        data="speech",
        wishes=where(
            **{"class": ("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU")}
        ),
    ),
    "spoken": Example(
        data="spoken",
        # The last average, not that of the least held-out loss: of 42 recordings there is little to learn but
        # themselves, which is what `evaluate` then says.
        settings={"columns": ["voice", "digit"], "settings": ["run.keep=last"]},
        wishes=where(
            voice=("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU"),
            digit=("one", "two", "three", "four", "five"),
        ),
    ),
    "brain": Example(data="brain", wishes=where(position=(0.1, 0.25, 0.4, 0.55, 0.7))),
    "patches": Example(
        data="head",
        settings={"size": (24, 24, 24)},
        wishes={"a whole head": {"whole": True}},
        each=1,
    ),
    "clips": Example(
        data="clips",
        wishes=prompts("waving hand sign", "cat face", "panda face", "frog face", "glowing star", "boy"),
    ),
    "street": Example(
        data="footage",
        wishes={f"stream {seed}": {"length": 300, "seed": seed} for seed in range(3)},
        each=1,
    ),
    "verses": Example(
        data="verses",
        wishes=prompts("In the beginning ___ the earth.", "And he said unto them, ___", "___ for ever and ever. Amen."),
    ),
}


def main(name: str, budget: str, out: Path, data: Path, each: int | None = None) -> fn.Run:
    """Trains example `name`, or loads its run, and makes `each` samples of every wish, its own number by default."""
    example = EXAMPLES[name]
    each = each or example.each
    if (out / "model.safetensors").exists():
        run = fn.load(out)
    else:
        source = fetch(example.data, data) if example.data in SOURCES else example.data
        with Display() as display:
            run = fn.train(source, out=out, budget=budget, resume=True, watch=display, **example.settings)
            try:
                run.evaluate(watch=display)
            except FromNoiseError as too_few:  # to be judged, and how near samples are to them is said all the same
                display(str(too_few))
    pictures, labels = [], []
    (out / "asked").mkdir(exist_ok=True)
    for wish, asked in example.wishes.items():
        samples = run.generate(each, **asked)
        folder = out / "asked" / "".join(c if c.isalnum() else "-" for c in wish)
        if not folder.exists():
            samples.save(folder)
        if lines := samples.lines():
            print(f"{wish}:", *lines, sep="\n  ")
        else:
            pictures.append(samples.pictures())
            labels += [wish] * each
    if pictures:
        save_sheet(sheet(np.concatenate(pictures), columns=each, labels=labels), out / "asked.png")
        print(f"Look at {out / 'asked.png'} and {out / 'report.html'}.")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(EXAMPLES))
    parser.add_argument("--budget", default="20m", help="of training, such as 20m")
    parser.add_argument("--out", type=Path, help="the run's folder, runs/NAME by default")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where data sets are fetched to")
    options = parser.parse_args()
    try:
        main(options.name, options.budget, options.out or Path("runs") / options.name, options.data)
    except FromNoiseError as error:
        sys.exit(str(error))
