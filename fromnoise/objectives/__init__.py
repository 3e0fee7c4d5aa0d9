"""Training losses, one family a file.  Each is a callable `(denoise, x0, cond, rng, progress) -> Loss`."""

from fromnoise.objectives.flowmap import FlowMap
from fromnoise.objectives.loss import Loss, Objective
from fromnoise.objectives.masked import MaskedCrossEntropy
from fromnoise.objectives.matching import Matching
from fromnoise.objectives.regression import Regression, TargetWeight, UniformWeight, VelocityWeight

__all__ = [
    "FlowMap",
    "Loss",
    "MaskedCrossEntropy",
    "Matching",
    "Objective",
    "Regression",
    "TargetWeight",
    "UniformWeight",
    "VelocityWeight",
]
