"""Networks: pure modules `net(x, t, s, cond: Encoded) -> (answer, mid-depth answer or None)`.

They know nothing of diffusion beyond receiving two times, t (where x stands) and s (where the answer is to lead).
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fromnoise.nets.condition import Conditioner, Encoded
from fromnoise.nets.embeddings import Place
from fromnoise.nets.patches import Entry, Head
from fromnoise.nets.tokens import TokenTransformer
from fromnoise.nets.transformer import Transformer
from fromnoise.nets.unet import UNet

__all__ = ["Conditioner", "Encoded", "TokenTransformer", "Transformer", "UNet", "hidden_matrices"]

EDGES = (Conditioner, Entry, Head, Place, nn.Embedding)


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights that map features to features, which an optimiser may orthogonalise (Muon).

    Kernels count as matrices (out, in * taps).  Whatever touches data, conditions, times or places on its outer side
    (embeddings, first cut, heads) does not count, nor do biases and gains.
    """
    if isinstance(module, EDGES):
        return []
    own = [module.get_parameter("weight")] if isinstance(module, nn.Linear | _ConvNd) else []
    return own + [weight for child in module.children() for weight in hidden_matrices(child)]
