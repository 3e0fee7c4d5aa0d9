"""Distillation: a trained model becomes the teacher of its own student for 1 to 4 steps.

The student is the same network as a flow map, starts from the release's weights, and is trained in RUN/distilled as any
run is: checkpoints, metrics, previews, resume, rollback and budget are the session's.  First it learns where the
teacher walks, then what the teacher's samples are like; the release is its last average.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from fromnoise.build import build_distillation, build_guidance
from fromnoise.config import Config, SampleConfig, override, to_json
from fromnoise.data import Dataset
from fromnoise.denoise import Denoiser, NetDenoiser
from fromnoise.errors import FromNoiseError
from fromnoise.folder import RunFolder
from fromnoise.grid import Times
from fromnoise.objectives.walks import student_grids
from fromnoise.path import VE, line_time
from fromnoise.prepare import Prepared, Source, asked_precision, environment_facts, make_ready, make_session, reopen
from fromnoise.prior import find_expected
from fromnoise.process import Gaussian
from fromnoise.release import Release, load_release
from fromnoise.runtime import autocast
from fromnoise.session import Session

# Where a teacher stops on its walks noise is so many times as strong as data.  Above the first, mean and covariance are
# all that is decided; above the second, nearly all.
STOPS = (4.0, 2.5, 1.6, 1.0, 0.67, 0.42, 0.25, 0.1, 0.0)
FEW = 4  # steps, the least that plain sampling is any good in
# Of the training's learning rates: the weights are good already, and only the answers to s < t are new.
GENTLER = 2 / 3
GENTLEST = 1 / 5  # of those while samples are matched: at the full rate the companion loses sight of them
FALL = 0.6  # of the time before that, where rates begin to fall
AVERAGE = 0.12  # length of it, so long since samples as a whole drift to and fro
AGILE = 0.6  # momentum then, since student and companion follow each other: more, and samples drift away as a whole


def student_folder(folder: RunFolder) -> RunFolder:
    return RunFolder(folder.path / "distilled")


def check_teacher(folder: RunFolder, release: Release) -> None:
    """Raises FromNoiseError for a model that cannot be distilled."""
    if folder.path.is_file():
        raise FromNoiseError(
            f"{folder.path} is a lone release, which knows no data to learn on: name the run folder that it came from."
        )
    if release.config.model.flow_map:
        raise FromNoiseError(f"{folder.path} is a student already: distil the run that it came from.")
    if not release.denoiser.process.continuous:
        raise FromNoiseError("Only models of continuous data have a flow to distil, and this one makes tokens.")


def advice(folder: RunFolder, release: Release, steps: int) -> str:
    """What serves better than so few steps of a model whose student was not measured; "" where nothing does."""
    if steps >= FEW or release.config.model.flow_map:
        return ""
    poor = "One to three steps of plain sampling make poor samples"
    if (student := student_folder(folder)).model.exists():
        return f"{poor}: sample the student in {student.path}, which was made for so few and not measured."
    try:
        check_teacher(folder, release)
    except FromNoiseError:
        return ""
    return f"{poor}: fromnoise distill {shlex.quote(str(folder.path))} makes a student for so few."


def student_config(config: Config, settings: Sequence[str], *, budget: float | None, steps: int | None) -> Config:
    """The settings of a student of a run with `config`, as long as the run itself unless told otherwise."""
    run = config.run if budget is None and steps is None else replace(config.run, budget=budget, steps=steps)
    optim = replace(
        config.optim, muon_lr=round(config.optim.muon_lr * GENTLER, 6), adam_lr=round(config.optim.adam_lr * GENTLER, 6)
    )
    student = replace(
        config,
        model=replace(config.model, flow_map=True),
        optim=optim,
        run=run,
        sample=SampleConfig(sampler="ddim", steps=4, jumps=jumps(config)),
    )
    begin = override(student, settings).flow.match_from
    if begin < 1:
        # Samples that are likelier to the teacher need not lie where it goes from the same noise, which is all that
        # the held-out loss can see.
        optim = replace(
            optim,
            drop_from=FALL * begin,
            drop_at=begin,
            drop_to=GENTLEST,
            drop_momentum=AGILE,
            decay_from=(1 + begin) / 2,
        )
        student = replace(student, optim=optim, run=replace(run, keep="last", ema=AVERAGE))
    return override(student, settings)


def jumps(config: Config) -> tuple[Times, ...]:
    """The grids of a student of 1, 2, … steps."""
    noise = config.model.sigma_data * torch.tensor(STOPS, dtype=torch.float64)
    return student_grids(tuple(round(t, 4) for t in line_time(VE(), noise).tolist()))


def begin_student(
    folder: RunFolder,
    teacher: Release,
    dataset: Dataset,
    settings: Sequence[str],
    *,
    budget: float | None,
    steps: int | None,
) -> Prepared:
    """A new student of the run in `folder`: its own run folder claimed, its settings written down."""
    own = student_folder(folder)
    if own.last.exists() or own.model.exists():
        raise FromNoiseError(
            f"{folder.path} has a student already: go on with it by --resume, or delete {own.path} to begin anew."
        )
    runtime = make_ready(asked_precision(settings))
    config = student_config(teacher.config, settings, budget=budget, steps=steps)
    guided = f", guided by {teacher.config.sample.guidance:g}" if teacher.config.sample.guidance != 1 else ""
    notes = [f"student: learns the walks of its teacher {teacher.digest}{guided}, for sampling in 1 to 4 steps."]
    facts = {
        "config": to_json(config),
        "data": folder.read_facts()["data"],
        "environment": environment_facts(runtime),
        "notes": notes,
        "teacher": teacher.digest,
    }
    if runtime.is_main:
        own.forget()
    with own.claimed() if runtime.is_main else nullcontext():
        if runtime.is_main:
            own.create(facts, dataset.split_rows())
    return Prepared(folder=own, dataset=dataset, config=config, runtime=runtime, resumed=False, notes=notes)


def reopen_student(folder: RunFolder, teacher: Release, source: Source, settings: Sequence[str]) -> Prepared:
    """A student that was begun, with its own settings but for `settings`."""
    own = student_folder(folder)
    if own.read_facts().get("teacher") != teacher.digest:
        raise FromNoiseError(
            f"The model of {folder.path} is not the one this student began with: delete {own.path} to begin anew."
        )
    prepared = reopen(source, own, {}, settings, progress=lambda done, total: None)
    if not prepared.config.sample.jumps:
        raise FromNoiseError(
            f"The student in {own.path} was begun by a version that taught otherwise: delete it to begin anew."
        )
    return prepared


def student_session(folder: RunFolder, prepared: Prepared, begun: float) -> Session:
    """The student's session: as for any run, but for its first weights and what it is trained by."""
    runtime, config = prepared.runtime, prepared.config
    teacher = load_release(folder.model, partial(autocast, runtime)).to(runtime.device)
    matched = config.flow.match_from < 1
    companion = copy.deepcopy(teacher.denoiser).train().requires_grad_(True) if matched else None
    if isinstance(companion, NetDenoiser):
        companion.flow_map = True  # it is told which samples it sees as a student is told where to jump
    teacher.denoiser.requires_grad_(False)

    def guided(times: float) -> Denoiser:
        weight = max(0.0, 1 + times * (teacher.config.sample.guidance - 1))
        return build_guidance(replace(teacher.config.sample, guidance=weight), teacher.denoiser, teacher.weak)

    process = teacher.denoiser.process
    if not isinstance(process, Gaussian) or process.expected is None:  # of an earlier version
        process = Gaussian(find_expected(prepared.dataset))
    objective = build_distillation(config, guided, companion, process)
    session = make_session(prepared, begun, objective, companion, process)
    student = session.trainer.denoiser
    assert isinstance(student, NetDenoiser)  # see `check_teacher`
    student.load_state_dict(teacher.denoiser.state_dict())
    return session
