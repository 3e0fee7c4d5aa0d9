"""Training losses, one family a file.  Each is a callable `(denoise, x0, cond, rng, progress) -> Loss`."""

from fromnoise.objectives.loss import Lasting, Loss, Objective
from fromnoise.objectives.masked import MaskedCrossEntropy
from fromnoise.objectives.matching import Matching
from fromnoise.objectives.regression import Regression, TargetWeight, UniformWeight, VelocityWeight
from fromnoise.objectives.walks import Walks

__all__ = [
    "Lasting",
    "Loss",
    "MaskedCrossEntropy",
    "Matching",
    "Objective",
    "Regression",
    "TargetWeight",
    "UniformWeight",
    "VelocityWeight",
    "Walks",
]
