"""Are samples like the data, as varied, new, and what was asked for?  Pure functions of tensors."""

from fromnoise.evaluate.features import Examples, Features, LearnedFeatures, learn_features
from fromnoise.evaluate.judge import Judgement, judge
from fromnoise.evaluate.judge_text import TextJudgement
from fromnoise.evaluate.motion import Measure, motion
from fromnoise.evaluate.neighbours import among, batches, beside, copy_check, nearest
from fromnoise.evaluate.obey import Asked, Obeyed, obedience
from fromnoise.evaluate.physics import physics

__all__ = [
    "Asked",
    "Examples",
    "Features",
    "Judgement",
    "LearnedFeatures",
    "Measure",
    "Obeyed",
    "TextJudgement",
    "among",
    "batches",
    "beside",
    "copy_check",
    "judge",
    "learn_features",
    "motion",
    "nearest",
    "obedience",
    "physics",
]
