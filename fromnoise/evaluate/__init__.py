"""Do the samples look like the data, are they as varied, and are they new?  Pure functions of tensors."""

from fromnoise.evaluate.features import Examples, Features, LearnedFeatures, learn_features
from fromnoise.evaluate.judge import Judgement, judge
from fromnoise.evaluate.judge_text import TextJudgement
from fromnoise.evaluate.neighbours import batches, beside, nearest

__all__ = [
    "Examples",
    "Features",
    "Judgement",
    "LearnedFeatures",
    "TextJudgement",
    "batches",
    "beside",
    "judge",
    "learn_features",
    "nearest",
]
