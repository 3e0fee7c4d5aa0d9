"""Every choice of a run as typed settings, to and from JSON; `--set a.b=c` is `override`.

A `Config` is complete: with the data it decides a run.  `recipes.py` makes one from data, budget and hardware;
`build.py` turns it into objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fromnoise.types import FromNoiseError

STRICT = ConfigDict(extra="forbid")
# Settings of earlier versions that mean nothing any more; runs and releases that have them are still read.
RETIRED = {
    "flow": [
        "match_likeness",
        "match_flow",
        "t_mean",
        "t_std",
        "at_start",
        "at_end",
        "instant",
        "last",
        "k_first",
        "k_last",
        "from_data",
    ],
    "sample": ["alone"],
}
Positive = Annotated[float, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UNetConfig:
    kind: Literal["unet"] = "unet"
    widths: tuple[Count, ...] = (64, 128)
    blocks: Count = 1
    patch: Count | tuple[Count, ...] = 2
    attention: tuple[bool, ...] = (False, True)
    places: bool = False
    masks: bool = False
    frames: Literal["past", "both"] | None = None
    emb: Count = 256
    mid_head: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TransformerConfig:
    kind: Literal["transformer"] = "transformer"
    patch: Count = 4
    width: Count = 256
    depth: Count = 8
    heads: Count = 4
    emb: Count = 256
    bottleneck: Count | None = None
    mid_head: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokensConfig:
    """A transformer over `vocab` symbols, for masked diffusion; `padding` is the one that only itself comes after."""

    kind: Literal["tokens"] = "tokens"
    vocab: Count = 256
    width: Count = 256
    depth: Count = 6
    heads: Count = 4
    emb: Count = 256
    timed: bool = False
    padding: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """What is predicted: the target's row, the data's standard deviation in the codec's units.

    `flow_map`: a student that answers for whole jumps; made by `fromnoise distill`, never by training from data.
    """

    target: Literal["x0", "eps", "velocity", "edm"] = "edm"
    sigma_data: Positive = 0.5
    flow_map: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """Noise levels are logit-normal: logit(t) ~ N(t_mean, t_std²).  `drop`: how often a condition is hidden.

    `time_axes`: axes of space along which an example may have several levels, such as 0, the frames of a clip.
    `augment`: the probability of each change of `codec/augment.py`; `augment_flip`: whether mirroring is one of them.
    """

    t_mean: Finite = 0.0
    t_std: Positive = 1.0
    weight: Literal["velocity", "target", "uniform"] = "velocity"
    noise_choices: Count = 1
    mid_share: Annotated[float, Field(ge=0)] = 0.25
    drop: Fraction = 0.1
    time_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    augment: Fraction = 0.0
    augment_flip: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlowConfig:
    """How a student learns its teacher's walks, by a loss of this `power`; see `objectives/walks.py`.

    From part `match_from` of the run on its samples are matched to the teacher's law (`objectives/matching.py`), and
    the walks of a quarter of the examples weigh `match_walks`; never where `match_from` is 1.  Guidance is then
    `match_others` times as far from 1; for samples of one step at first `match_lone` times, at last
    `match_lone_at_last`.
    """

    power: Annotated[float, Field(ge=0, le=1)] = 0.75
    match_from: Annotated[float, Field(ge=0, le=1)] = 0.3
    match_walks: Annotated[float, Field(ge=0)] = 0.1
    match_lone: Annotated[float, Field(ge=0)] = 2.0
    match_lone_at_last: Annotated[float, Field(ge=0)] = 1.0
    match_others: Annotated[float, Field(ge=0)] = 1.5


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """`batch` is global, over all ranks; `micro` splits it where memory asks for it.

    Rates fall to 0 by a cosine from part `decay_from` of the run on; before, between `drop_from` and `drop_at`, to
    `drop_to` of themselves, and momenta there to `drop_momentum` at most.
    """

    batch: Count = 32
    micro: Count | None = None
    muon_lr: Annotated[float, Field(ge=0)] = 6e-3
    adam_lr: Annotated[float, Field(ge=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay_from: Fraction = 0.6
    drop_from: Fraction = 1.0
    drop_at: Fraction = 1.0
    drop_to: Annotated[float, Field(gt=0, le=1)] = 1.0
    drop_momentum: Fraction = 1.0
    clip: Positive = 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """How long, and how closely watched.  Exactly one of `steps` and `budget` (seconds) is set.

    The release is chosen among `held_evaluations` moments spread evenly over the run's progress, or is the last of
    them, as `keep` says; never by the clock, so that a run in steps is reproducible.  Saving and previews, which change
    nothing, are in seconds.  `grid_priors` are the samples by which grids of sampling are searched at the end, 0 for
    none.
    """

    steps: Count | None = None
    budget: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] | None = None
    ema: Annotated[float, Field(gt=0, le=0.14)] = 0.05
    held_evaluations: Count = 16
    keep: Literal["best", "last"] = "best"
    held_examples: Count = 64
    grid_priors: Annotated[int, Field(ge=0)] = 16
    save_every: Positive = 60.0
    preview_first: Positive = 40.0
    preview_every: Positive = 120.0
    preview_examples: Count = 32


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SampleConfig:
    """The default way to sample, kept in the release.

    Guidance (1 means off, 0 the reference itself) pushes away from a `reference` where log-SNR lies between
    guidance_low and guidance_high: "weak" is the model's own early average (autoguidance, Karras et al. 2024), "null"
    the model without its condition.
    `searched` are grids found for this model and the multistep sampler (`gridsearch.py`), at most one for a number of
    steps; they go before the formula named by `grid`.  `jumps` are a student's grids for 1, 2, … steps, the only ones
    it knows.  `nucleus` and `temperature` (1 means off) are of the sampler "unmask", for tokens (`unmask.py`).
    """

    sampler: Literal["ddim", "ancestral", "heun", "multistep", "unmask"] = "multistep"
    steps: Count = 12
    grid: Literal["linear", "logsnr", "karras"] = "linear"
    shift: Positive = 2.0
    searched: tuple[tuple[Fraction, ...], ...] = ()
    jumps: tuple[tuple[Fraction, ...], ...] = ()
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    reference: Literal["weak", "null"] = "null"
    guidance_low: Finite = -6.0
    guidance_high: Finite = 4.0
    nucleus: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperature: Positive = 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """All settings of a run."""

    net: UNetConfig | TransformerConfig | TokensConfig = Field(default_factory=UNetConfig, discriminator="kind")
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    flow: FlowConfig = Field(default_factory=FlowConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    sample: SampleConfig = Field(default_factory=SampleConfig)


def to_json(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


def from_json(tree: dict[str, Any]) -> Config:
    """What `to_json` gave, of this version or an earlier one.

    Raises FromNoiseError naming the first setting that is unknown or out of range.
    """
    return _checked({part: _without(RETIRED.get(part, ()), settings) for part, settings in tree.items()})


def _without(names: Sequence[str], settings: Any) -> Any:
    return {k: v for k, v in settings.items() if k not in names} if isinstance(settings, dict) else settings


def _checked(tree: dict[str, Any]) -> Config:
    try:
        config = TypeAdapter(Config).validate_python(tree, strict=False)
    except ValidationError as error:
        raise FromNoiseError(_sentence(error)) from None
    if (config.run.steps is None) == (config.run.budget is None):
        raise FromNoiseError("A run has either run.steps or run.budget: set one of them.")
    return config


def override(config: Config, settings: Sequence[str]) -> Config:
    """`config` with each "a.b=value" applied; values are JSON, bare words are strings."""
    tree = to_json(config)
    # Another kind of network starts from its own defaults, so it comes before the settings of the network.
    for setting in sorted(settings, key=lambda s: not s.startswith("net.kind=")):
        name, equals, text = setting.partition("=")
        *path, leaf = name.split(".")
        place = tree
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or isinstance(place.get(leaf), dict):
            known = _names(tree)
            close = get_close_matches(name, known, n=3, cutoff=0.4) or known[:6]
            raise FromNoiseError(f"No setting {name!r}: write --set name=value, e.g. {', '.join(close)}.")
        place[leaf] = _value(text)
        if name == "net.kind":
            tree["net"] = {"kind": place[leaf]}
        # A run has one length: naming one way of measuring it lets go of the other.
        if name in ("run.steps", "run.budget") and place[leaf] is not None:
            place["budget" if leaf == "steps" else "steps"] = None
    return _checked(tree)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _names(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        name
        for key, value in tree.items()
        for name in (_names(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
    ]


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    # pydantic puts the union's tag into the path: net.unet.widths
    parts = [str(p) for p in first["loc"] if p not in ("unet", "transformer", "tokens", "constrained-int")]
    name = ".".join(parts)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        close = get_close_matches(name, _names(to_json(Config())), n=3, cutoff=0.4)
        return f"No setting {name!r}" + (f": did you mean {', '.join(close)}?" if close else ": see run.json for all.")
    return f"Setting {name}={first.get('input')!r} does not work: {first['msg'].lower()}."
