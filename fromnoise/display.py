"""What a person sees while something runs: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fromnoise.forecast import SEEN, Forecast, Outlook, likely
from fromnoise.memory import Peak
from fromnoise.recipes import described
from fromnoise.session import Event, Held, Previewed, Reading, RolledBack
from fromnoise.trainer import Skipped, Stepped

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal


class Display:
    """Called with every event of a run and every line worth saying."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, markup=False)
        self.live = self.console.is_terminal and not quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
            transient=True,
        )
        self.task = self.progress.add_task("starting", total=1.0)
        self.phase = ""
        self.loss: float | None = None
        self.printed = time.perf_counter()
        self.recent: list[tuple[int, float]] = []

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event | str) -> None:
        match event:
            case str():
                self.console.print(f"  {event}")
            case Reading():
                self._show("reading", event.done / max(event.total, 1), f"reading {event.done:,} of {event.total:,}")
            case Stepped():
                self._step(event)
            case Skipped():
                who = f", examples {list(event.examples)}" if event.examples else ""
                self.console.print(f"  step {event.step}: the gradient was not finite{who}; the step was skipped.")
            case Held():
                levels = "  ".join(f"{loss:.3f}" for _, loss in event.levels)
                ends = f"t = {event.levels[0][0]:g} … {event.levels[-1][0]:g}"
                self.console.print(f"  step {event.step}: held-out {event.loss:.4f}; from {ends}: {levels}")
            case Previewed():
                self.console.print(f"  step {event.step}: preview {event.path}")
            case RolledBack():
                self.console.print(f"  went back to step {event.step} with {event.factor:g} of the learning rate.")

    def _step(self, event: Stepped) -> None:
        # Averages over the last fifty steps or so: single losses of diffusion jump with their noise levels.
        self.loss = event.loss if self.loss is None else 0.96 * self.loss + 0.04 * event.loss
        self.recent = [*self.recent[-50:], (event.step, event.seconds)]
        (first, then), (last, now) = self.recent[0], self.recent[-1]
        rate = (last - first) / (now - then) if now > then else 0.0
        text = f"step {event.step} · {rate:.1f} steps/s · loss {self.loss:.4f}"
        left = event.seconds * (1 - event.progress) / max(event.progress, 1e-6)
        self._show("training", event.progress, text, f" · {left:.0f} s left")

    def _show(self, phase: str, done: float, text: str, more: str = "") -> None:
        if self.live:
            if self.phase != phase:
                self.phase = phase
                self.progress.reset(self.task, total=1.0)
            self.progress.update(self.task, completed=done, description=text)
        elif time.perf_counter() - self.printed > PLAIN_EVERY:
            self.printed = time.perf_counter()
            self.console.print(f"  {done:4.0%} · {text}{more}")


def forecast_text(forecast: Forecast) -> str:
    """A plan for reading, headings to the left."""
    run, batch = forecast.run, forecast.run.config.optim.batch
    pictures = forecast.medium == "image"
    runs = (run, *forecast.others)
    rows = [
        *(("data" if k == 0 else "", note) for k, note in enumerate(forecast.notes)),
        ("network", f"{described(run.config.net)}, {forecast.parameters / 1e6:.2f} million weights"),
        ("run", f"{_length(run)}, about {run.steps:,} steps of {batch} examples"),
        (
            "rate",
            f"{run.rate:.0f} examples a second over the whole run, {batch / forecast.pace.step:.0f} while it steps",
        ),
        ("memory", _memory(forecast.memory)),
        ("sampling", f"{forecast.sampling:.1f} samples a second, of {run.config.sample.steps} steps each"),
        ("disk", f"{forecast.disk:.0f} MB for the run; {forecast.cache:.1f} MB of decoded data, in the cache already"),
        (
            "likely",
            f"what was seen after about as many examples in {' | '.join(SEEN)}:" if pictures else "in other time:",
        ),
        *((_length(one), _likely(one, run, pictures)) for one in sorted(runs, key=lambda one: one.seconds)),
    ]
    if pictures:
        rows.append(("", "larger pictures, and more varied ones, need more; on few pictures watch the copying check."))
    return "\n".join(f"{heading:<12}{line}" for heading, line in rows)


def _length(run: Outlook) -> str:
    if run.config.run.steps is not None:
        return f"{run.config.run.steps:,} steps"
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    unit = next((u for u, seconds in units.items() if run.seconds >= 1.5 * seconds), "s")
    return f"{run.seconds / units[unit]:.3g}{unit}"


def _likely(one: Outlook, asked: Outlook, pictures: bool) -> str:
    if one.steps == 0:
        return "over before the first step"
    other = "" if one.config.net == asked.config.net else f", {described(one.config.net)}"
    time = f", {one.seconds / 60:.1f} minutes" if one.config.run.budget is None else ""
    words = f": {' | '.join(likely(one.examples).values())}" if pictures else ""
    return f"{one.examples:,} examples, {one.passes:.1f} passes{time}{other}{words}"


def _memory(memory: Peak) -> str:
    own = "not known on this system" if memory.process is None else f"{memory.process:.0f} MB"
    device = "" if memory.device is None else f" and {memory.device:.0f} MB on the device"
    return f"{own}{device}; {memory.data:.0f} MB more at most of decoded data, which the system takes back at need"


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal.  The callback takes (done, total), or an increment of what is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int, of: int | None = None) -> None:
            if of is None:
                progress.update(task, advance=done)
            else:
                progress.update(task, completed=done, total=of)

        yield advance
