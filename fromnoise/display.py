"""What a person sees while something runs: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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
