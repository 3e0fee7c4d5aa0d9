"""What users hold: `train` and `load`, and the `Run` they return.

The only place that joins training events with sampling, evaluation and the run folder.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL.Image import Image

from fromnoise.appraise import appraise, way
from fromnoise.beyond import beyond_window
from fromnoise.codec import Size, TextCodec
from fromnoise.config import Config
from fromnoise.data import Dataset
from fromnoise.data.media import read_as
from fromnoise.denoise import ModelDenoiser
from fromnoise.distill import advice, begin_student, check_teacher, reopen_student, student_folder, student_session
from fromnoise.errors import FromNoiseError, TrainingStopped
from fromnoise.evaluate import Judgement, TextJudgement
from fromnoise.fewsteps import FewSteps, compare, unmeasured
from fromnoise.folder import RunFolder
from fromnoise.generate import Samples, configure, generate, stream
from fromnoise.prepare import (
    Given,
    Prepared,
    Source,
    begin,
    check_same_data,
    going_on,
    in_one,
    layout_of,
    make_session,
    open_again,
    record_end,
    reopen,
)
from fromnoise.proofread import proofread
from fromnoise.release import Release, file_digest, load_release, release_in
from fromnoise.runtime import barrier, best_device
from fromnoise.session import Event, Reading, Session, Stopped

Watch = Callable[[Event | str], None]
Example = str | Path | np.ndarray
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DEFAULT_BUDGET = "10m"


def train(
    data: Given,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    steps: int | None = None,
    size: Size | None = None,
    columns: Sequence[str] | None = None,
    channels_first: bool = False,
    axes: str | None = None,
    fps: float | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
    begun: float | None = None,
) -> Run:
    """Trains a model of `data` for `budget` ("10m", "90s", "2h" or seconds) or for `steps` steps.

    data            a folder, archive, array, table, text, list of strings, "emoji" or "digits"; see `fromnoise.data`
    out             the run folder, made new; by default runs/<data>-<time>
    size            side or (height, width) of pictures, frames before them of clips, seconds of sounds; or proposed
    columns         the data's columns to condition on; "size:number" says what one is
    channels_first  and `axes` say how arrays are read, `fps` how folders of frames: see `fromnoise.data.scan`
    settings        overrides, each "a.b=value"
    resume          go on with the run in `out`, with its own settings but for `settings` and its length, or start it
    watch           called with every event and every line worth saying
    begun           the moment of `time.perf_counter` that a budget counts from; by default that of the call

    Raises FromNoiseError, in one sentence, for anything that the caller can mend, and TrainingStopped on Ctrl-C.
    """
    begun = time.perf_counter() if begun is None else begun
    data, seconds, say = in_one(data), seconds_of(budget, steps), watch or (lambda event: None)
    if resume and out is None:
        raise FromNoiseError("Say which run to go on with: resume needs --out.")

    def reading(done: int, total: int) -> None:
        say(Reading(done=done, total=total))

    layout = layout_of(size, columns, channels_first=channels_first, axes=axes, fps=fps)
    if out is not None and resume and (folder := RunFolder(Path(out))).facts.exists():
        prepared = reopen(data, folder, layout, [*settings, *of_length(seconds, steps)], progress=reading)
    else:
        if resume:
            say(f"{out} holds no run to go on with: it is begun.")
        seconds = parse_budget(DEFAULT_BUDGET) if steps is None and budget is None else seconds
        prepared = begin(data, out, layout, settings, budget=seconds, steps=steps, seed=seed, progress=reading)
    for line in prepared.notes:
        say(line)
    if prepared.config.model.flow_map:
        raise FromNoiseError(f"{prepared.folder.path} is a student: go on with it by fromnoise distill … --resume.")
    if prepared.finished:
        say("this run is finished; a larger --budget or --steps goes on with it.")
        return Run(prepared.folder)
    session = make_session(prepared, begun)
    if prepared.resumed:
        session.resume()
        say(f"going on from step {session.trainer.position.step}.")
    follow(session, prepared, say, going_on(data, prepared.folder))
    return Run(prepared.folder)


def follow(session: Session, prepared: Prepared, say: Watch, again: str) -> None:
    """A session to its end; raises TrainingStopped, naming the command `again`, on Ctrl-C."""
    for event in session.run():
        say(event)
        if isinstance(event, Stopped):
            raise TrainingStopped(f"stopped at step {event.step} and saved. Go on with: {again}")
    if prepared.runtime.is_main:
        record_end(prepared, session)
    barrier(prepared.runtime)


def load(path: str | Path) -> Run:
    """The run in a folder, or a lone release file.  Raises FromNoiseError where there is none."""
    return Run(RunFolder(Path(path)))


class Run:
    """A trained model and what is known of it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.release_file = release_in(folder.path) if folder.path.is_file() else folder.model
        if not self.release_file.exists():
            folder.read_facts()
            raise FromNoiseError(
                f"The run {folder.path} has no finished model yet: go on with it by --resume, or train anew."
            )

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @cached_property
    def release(self) -> Release:
        # In float32 whatever the training's precision: a sample is then the same in any batch to an 8-bit level.
        return load_release(self.release_file).to(best_device())

    @property
    def denoiser(self) -> ModelDenoiser:
        """The model as a denoiser: `(x_t, t, cond) -> posterior`."""
        return self.release.denoiser

    @property
    def config(self) -> Config:
        return self.release.config

    def sample(
        self,
        n: int = 16,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        where: Mapping[str, str | float] | None = None,
        prompt: str | None = None,
        length: float | None = None,
        beginning: Example | None = None,
        between: tuple[Example | None, Example] | None = None,
        loop: bool = False,
        whole: bool = False,
        seed: int = 0,
        batch: int = 64,
    ) -> np.ndarray:
        """n samples in the data's own layout, dtype and range; sample i of a seed is the same whatever n and batch.

        where       fixes columns, {"class": "cat", "size": 0.3}; "none" hides one
        prompt      what a sample of a model trained with captions should be, "red heart"; of a model of text, a text
                    with gaps, "In the ___"
        length      beyond the model's window: seconds of sound, pixels of a picture's width, frames of a clip
        beginning   a file or a raw example that samples go on from, for one more window unless `length` is given
        between     two of them, the end of a clip, or None, and the start of another, that samples lead from and to
        loop        whether the end of a sample runs on in its start
        whole       whether samples are whole scans, as long as the median one, out of a model of patches
        """
        return self.generate(
            n,
            steps=steps,
            sampler=sampler,
            guidance=guidance,
            where=where,
            prompt=prompt,
            length=length,
            beginning=beginning,
            between=between,
            loop=loop,
            whole=whole,
            seed=seed,
            batch=batch,
        ).samples

    def generate(
        self,
        n: int = 16,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        where: Mapping[str, str | float] | None = None,
        prompt: str | None = None,
        length: float | None = None,
        beginning: Example | None = None,
        between: tuple[Example | None, Example] | None = None,
        loop: bool = False,
        whole: bool = False,
        seed: int = 0,
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> Samples:
        """`sample` with each sample's conditions and recipe, and `save` to files."""
        release, sampler = self._chosen(steps, sampler, guidance)
        config, read = configure(release, steps=steps, sampler=sampler, guidance=guidance), self._read
        beyond = beyond_window(
            release,
            length=length,
            beginning=None if beginning is None else read(beginning),
            between=between and (None if between[0] is None else read(between[0]), read(between[1])),
            loop=loop,
            whole=whole,
        )
        return generate(
            release, n, config, seed=seed, where=where, prompt=prompt, beyond=beyond, batch=batch, progress=progress
        )

    def stream(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        where: Mapping[str, str | float] | None = None,
        prompt: str | None = None,
        beginning: Example | None = None,
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """Frames (h, w, c) of one clip without end, as `sample` of a long one but in memory that does not grow."""
        config = configure(self.release, steps=steps, guidance=guidance)
        start = None if beginning is None else self._read(beginning)
        return stream(self.release, config, seed=seed, where=where, prompt=prompt, beginning=start)

    def _read(self, example: Example) -> np.ndarray:
        return example if isinstance(example, np.ndarray) else read_as(Path(example), self.release.codec)

    def _chosen(self, steps: int | None, sampler: str | None, guidance: float | None) -> tuple[Release, str | None]:
        """The model and sampler that were measured to be the better in so few steps, unless the caller chose."""
        best = self.few_steps.best(steps) if self.few_steps and steps and steps > 0 else None
        if best is None or sampler is not None or guidance is not None:
            return self.release, sampler
        return self.student.release if best.model == "student" else self.release, best.sampler

    def advice(self, steps: int | None) -> str:
        """A sentence on what serves better than sampling in so few steps; "" where nothing does, or it is measured."""
        return "" if steps is None or self.few_steps else advice(self.folder, self.release, steps)

    @cached_property
    def student(self) -> Run:
        """What `distill` made of this run.  Raises FromNoiseError if there is none."""
        return Run(student_folder(self.folder))

    @cached_property
    def few_steps(self) -> FewSteps | None:
        """The student's quality beside this model's, if it was distilled and measured."""
        student = student_folder(self.folder)
        found = FewSteps.load(student.few_steps)
        if found is None or not student.model.exists():
            return None
        # What was measured of other weights says nothing of these.
        same = (found.teacher, found.student) == (self.release.digest, file_digest(student.model))
        return found if same else None

    def strip(
        self,
        n: int = 4,
        *,
        seed: int = 0,
        where: Mapping[str, str | float] | None = None,
        prompt: str | None = None,
        steps: int = 9,
    ) -> Image:
        """The way from noise to sample as one picture: x_t, and below it what the model guesses x0 to be."""
        return way(self.release, seed, n, steps, where, prompt)

    def dataset(self, data: Given | None = None) -> Dataset:
        """The data this run was trained on: where it then was, or `data`.

        Raises FromNoiseError if it is gone or has changed, or was an array in memory and is not given.
        """
        facts = self.folder.read_facts()["data"]
        dataset = open_again(self._source(data), facts)
        check_same_data(facts, dataset)
        return dataset

    def _source(self, data: Given | None) -> Source:
        source = self.folder.read_facts()["data"]["source"] if data is None else data
        if source is None:
            raise FromNoiseError("This run was trained on an array in memory: pass the same array as data.")
        return in_one(source)

    def evaluate(
        self,
        *,
        n: int | None = None,
        seed: int = 1,
        data: Given | None = None,
        watch: Watch | None = None,
    ) -> Judgement | TextJudgement:
        """Judges samples beside training and held-out data; writes evaluation.json and report.html.

        A `TextJudgement` for text, a `Judgement` for all else; both have `table()` and `sentences`.

        Raises NotJudged, a FromNoiseError, for a set that is too small to judge, after writing its report.
        """
        say = watch or (lambda event: None)
        judge = proofread if isinstance(self.release.codec, TextCodec) else appraise
        return judge(self.folder, self.release, self.dataset(data), n=n, seed=seed, say=say)

    def distill(
        self,
        *,
        budget: str | float | None = None,
        steps: int | None = None,
        settings: Sequence[str] = (),
        resume: bool = False,
        n: int | None = None,
        data: Given | None = None,
        watch: Watch | None = None,
        begun: float | None = None,
    ) -> FewSteps:
        """Makes this model its own student for 1 to 4 steps, in RUN/distilled, and measures both.

        budget, steps   how long; by default as long as the run itself
        settings        overrides of the student's settings, each "a.b=value"
        resume          go on with the student that was begun
        n               samples to measure each way by
        data            the data of the run, if it was an array in memory

        Afterwards `sample(steps=k)` takes whichever is better at k.  Raises as `train`; also NotJudged, when the
        student is made, for a set that is too small to measure it on.
        """
        begun = time.perf_counter() if begun is None else begun
        say = watch or (lambda event: None)
        check_teacher(self.folder, self.release)
        seconds, own = seconds_of(budget, steps), student_folder(self.folder)
        if resume and own.facts.exists():
            settings = [*settings, *of_length(seconds, steps)]
            prepared = reopen_student(self.folder, self.release, self._source(data), settings)
        else:
            prepared = begin_student(
                self.folder, self.release, self.dataset(data), settings, budget=seconds, steps=steps
            )
        for line in filter(None, (*prepared.notes, unmeasured(prepared.dataset, n))):
            say(line)
        if not prepared.finished:
            session = student_session(self.folder, prepared, begun)
            if prepared.resumed:
                session.resume()
                say(f"going on from step {session.trainer.position.step}.")
            follow(session, prepared, say, f"fromnoise distill {shlex.quote(str(self.folder.path))} --resume")
        for stale in ("student", "few_steps"):
            self.__dict__.pop(stale, None)
        cache = self.folder.path / "features.safetensors"
        measured = compare(self.student.release, self.release, prepared.dataset, cache, n=n, say=say)
        measured.save(own.few_steps)
        return measured


def of_length(seconds: float | None, steps: int | None) -> list[str]:
    """A length as settings, for a run that goes on; none where none was asked for."""
    asked = {"run.steps": steps, "run.budget": seconds}
    return [f"{name}={value}" for name, value in asked.items() if value is not None]


def seconds_of(budget: str | float | None, steps: int | None) -> float | None:
    """The budget in seconds, None if there is none.  Raises FromNoiseError if steps are given as well."""
    if budget is not None and steps is not None:
        raise FromNoiseError("Give either a budget or steps, not both.")
    return None if budget is None else parse_budget(budget)


def parse_budget(budget: str | float) -> float:
    """Seconds from "10m", "90s", "1.5h" or a number of seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(budget))
    if not match or float(match[1]) <= 0:
        raise FromNoiseError(f"Cannot read the budget {budget!r}: write it like 90s, 10m or 2h.")
    return float(match[1]) * UNITS[match[2] or "s"]
