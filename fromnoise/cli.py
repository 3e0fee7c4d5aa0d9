"""The command line.  Each command is a few lines around `api`; torch is imported only when one runs."""

from __future__ import annotations

import os
import sys
import time
import warnings
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from fromnoise.asking import parse_columns, parse_ends, parse_size, parse_where
from fromnoise.errors import Advice, FromNoiseError, NotJudged, TrainingStopped

app = typer.Typer(
    name="fromnoise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Your data in, a diffusion model you own and can prove things about, out.",
    epilog="Start with: fromnoise train emoji --budget 4m",
)

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder, zip or tar of images, sounds, clips, scans or texts; an array file, a table; emoji or digits.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model.safetensors.")]
WhereOption = Annotated[
    list[str] | None, typer.Option("--where", metavar="COLUMN=VALUE", help="Fix a condition; none hides it.")
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Side or HEIGHTxWIDTH of images and fields, FRAMESxHEIGHTxWIDTH of clips, 32x32x32 of volumes, seconds of "
        "sounds, symbols of text.  [default: proposed]"
    ),
]
SecondsOption = Annotated[float | None, typer.Option(help="Length of sounds and clips beyond the model's window.")]
WidthOption = Annotated[int | None, typer.Option(help="Width of pictures in pixels, length of fields in steps.")]
FramesOption = Annotated[int | None, typer.Option(help="Length of clips.")]
ContinueOption = Annotated[
    Path | None, typer.Option("--continue", metavar="FILE", help="A sound, picture, clip or field to go on from.")
]
BetweenOption = Annotated[
    tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two clips or pictures to lead from and to, in clips.")
]
EndOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A clip or picture to lead to; with --continue what lies between.")
]
ColumnsOption = Annotated[
    str | None, typer.Option(help="Condition on these columns: a,b, or size:number to say what one is; none for none.")
]
ChannelsFirstOption = Annotated[bool, typer.Option("--channels-first", help="Arrays are (n, c, h, w).")]
AxesOption = Annotated[
    str | None,
    typer.Option(
        help="Axes of arrays: n examples, c channels, h w of pictures, t z y x of fields; nhw, nyx, tc.  Of TIFF of "
        "several pages: zyx for scans, hw for pictures."
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        help="Folders of numbered pictures are clips at this rate; 0 for pictures.  [default: by their names]"
    ),
]
MovedOption = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="Where the run's data lie now, if they were moved.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting.")]


def _version(asked: bool | None) -> None:
    if asked:
        from fromnoise.version import __version__

        print(f"fromnoise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = None,
) -> None: ...


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path | None, typer.Option(help="The run folder to make.  [default: runs/DATA-TIME]")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for everything up to the model: 90s, 10m, 2h.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train so many steps instead; reproducible.")] = None,
    size: SizeOption = None,
    columns: ColumnsOption = None,
    channels_first: ChannelsFirstOption = False,
    axes: AxesOption = None,
    fps: FpsOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    report: Annotated[bool, typer.Option(help="Evaluate and write the report when training is done.")] = True,
) -> None:
    """Train a model of DATA; then evaluate it and write its report."""
    begun = time.perf_counter()  # loading torch is part of what the user waits for
    from fromnoise import api
    from fromnoise.display import Display

    main_rank = os.environ.get("RANK", "0") == "0"
    with Display(quiet=not main_rank) as display:
        run = api.train(
            data,
            out=out,
            budget=budget,
            steps=steps,
            size=parse_size(size),
            columns=parse_columns(columns),
            channels_first=channels_first,
            axes=axes,
            fps=fps,
            settings=set_ or (),
            seed=seed,
            resume=resume,
            watch=display,
            begun=begun,
        )
        if main_rank:
            display(f"the model is {run.folder.model}")
            if report:
                try:
                    for sentence in run.evaluate(watch=display).sentences:
                        display(sentence)
                except FromNoiseError as error:  # the model is there, whatever can be said of it
                    display(str(error))
                display(f"the report is {run.folder.report}")


@app.command()
def plan(
    data: DataArgument,
    budget: Annotated[str | None, typer.Option(help="As of train: 90s, 10m, 2h.  [default: 10m]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="As of train.")] = None,
    size: SizeOption = None,
    columns: ColumnsOption = None,
    channels_first: ChannelsFirstOption = False,
    axes: AxesOption = None,
    fps: FpsOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Say what train would do, from a few steps of it: time, memory, passes, and what more time would buy."""
    begun = time.perf_counter()
    from fromnoise import forecast
    from fromnoise.display import Display, forecast_text

    with Display() as display:
        foreseen = forecast.plan(
            data,
            budget=budget,
            steps=steps,
            size=parse_size(size),
            columns=parse_columns(columns),
            channels_first=channels_first,
            axes=axes,
            fps=fps,
            settings=set_ or (),
            seed=seed,
            watch=display,
            begun=begun,
        )
    print(forecast_text(foreseen))


@app.command()
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 16,
    steps: Annotated[int | None, typer.Option(min=1, help="Moves from noise to sample.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, ancestral, heun or multistep; unmask of text.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How hard to push towards the condition; 1 is off.")] = None,
    where: WhereOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="A caption, 'red heart'; of text models a text with gaps, 'In the ___'.")
    ] = None,
    seconds: SecondsOption = None,
    width: WidthOption = None,
    frames: FramesOption = None,
    beginning: ContinueOption = None,
    between: BetweenOption = None,
    end: EndOption = None,
    loop: Annotated[bool, typer.Option("--loop", help="Samples whose end runs on in their start.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Whole scans, by a model of patches of them.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="A folder, .npz, .npy, .zip, or .txt of texts.  [default: RUN/samples/TIME]")
    ] = None,
    strip: Annotated[Path | None, typer.Option(help="Also save the way from noise to sample as this PNG.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time; changes no sample.")] = 64,
) -> None:
    """Draw samples in the data's own format; every file carries its recipe."""
    from fromnoise import api
    from fromnoise.checkpoint import writing
    from fromnoise.display import counting
    from fromnoise.extend import asked_length
    from fromnoise.generate import check_free
    from fromnoise.sheet import save_sheet

    out = out or _samples_of(run)
    loaded = api.load(run)
    conditions = parse_where(where, [column.name for column in loaded.release.columns])
    beginning, ends = parse_ends(beginning, between, end)
    check_free(out)
    if strip is not None:
        check_free(_png(strip), "--strip", (".png",))
    if advice := loaded.advice(steps):
        _show(Advice(advice))
    with counting("sampling", n) as progress:
        samples = loaded.generate(
            n,
            steps=steps,
            sampler=sampler,
            guidance=guidance,
            where=conditions,
            prompt=prompt,
            length=asked_length(loaded.release.codec, seconds=seconds, width=width, frames=frames),
            beginning=beginning,
            between=ends,
            loop=loop,
            whole=whole,
            seed=seed,
            batch=batch,
            progress=progress,
        )
    print("".join(f"{line}\n" for line in samples.lines()), end="")
    print(f"{samples.save(out)}: {n} sample{'s' * (n != 1)}, {samples.recipe['evaluations']} network evaluations each")
    if strip is not None:
        with writing(strip):
            save_sheet(loaded.strip(seed=seed, where=conditions, prompt=prompt), strip)
        print(strip)


def _png(strip: Path) -> Path:
    if strip.suffix.lower() != ".png":
        raise FromNoiseError(f"The strip is a PNG picture, not {strip}: write --strip {strip.with_suffix('.png')}.")
    return strip


def _samples_of(run: Path) -> Path:
    """A folder of this second that is not there yet."""
    folder, now = (run / "samples" if run.is_dir() else Path("samples")), time.strftime("%Y%m%d-%H%M%S")
    names = (f"{now}-{k}" if k > 1 else now for k in count(1))
    return next(folder / name for name in names if not (folder / name).exists())


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    n: Annotated[int | None, typer.Option("-n", min=20, help="Samples to judge.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    data: MovedOption = None,
) -> None:
    """Judge a run: quality beside floor and corruptions, variety, copying; writes evaluation.json and report.html."""
    from fromnoise import api

    loaded = api.load(run)
    try:
        judgement = loaded.evaluate(n=n, seed=seed, data=data, watch=lambda line: print(line, file=sys.stderr))
        print("\n".join([*judgement.table(), *judgement.sentences]))
    except NotJudged as why:  # the report is there, and says what can be said
        print(why)
    print(loaded.folder.report)


@app.command()
def distill(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    budget: Annotated[str | None, typer.Option(help="Time: 90s, 10m, 2h.  [default: the run's own]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train the student so many steps instead.")] = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the student in RUN/distilled.")] = False,
    n: Annotated[int | None, typer.Option("-n", min=20, help="Samples to measure each way by.")] = None,
    data: MovedOption = None,
) -> None:
    """Make a run its own student for 1 to 4 steps; say what quality it kept, and where it is not worth it."""
    begun = time.perf_counter()
    from fromnoise import api
    from fromnoise.display import Display

    main_rank = os.environ.get("RANK", "0") == "0"
    with Display(quiet=not main_rank) as display:
        loaded = api.load(run)
        try:
            measured = loaded.distill(
                budget=budget,
                steps=steps,
                settings=set_ or (),
                resume=resume,
                n=n,
                data=data,
                watch=display,
                begun=begun,
            )
            said = [measured.table(), *measured.sentences()]
        except NotJudged as why:  # the student is there
            said = [str(why)]
    if main_rank:
        print("\n".join(said))


@app.command()
def doctor(
    data: DataArgument,
    channels_first: ChannelsFirstOption = False,
    axes: AxesOption = None,
    fps: FpsOption = None,
) -> None:
    """Say what is in DATA, what is wrong with it, and the remedy."""
    from fromnoise.data import diagnose, scan
    from fromnoise.display import counting

    with counting("reading", None) as progress:
        listing = scan(data, channels_first=channels_first, axes=axes, fps=fps, progress=progress)
        diagnosis = diagnose(listing, progress=progress)
    print(diagnosis)


def _show(message: Warning | str, *where: object) -> None:
    """Advice is one sentence, as mistakes are."""
    print(f"fromnoise: {message}" if isinstance(message, Advice) else f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Mistakes the user can mend are one sentence and exit code 2."""
    warnings.showwarning = _show
    try:
        app()
    except FromNoiseError as error:
        print(f"fromnoise: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingStopped as stop:
        print(f"fromnoise: {stop}", file=sys.stderr)
        sys.exit(130)
