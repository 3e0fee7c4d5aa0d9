"""Text: exact round trips, a bound that is the entropy where the denoiser is exact, templates that keep their word."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.codec import codec_from_json
from fromnoise.codec.text import TextCodec, fit_text_codec, propose
from fromnoise.codec.vocabulary import Bytes, Characters, Merges, vocabulary_from_json
from fromnoise.cond import Cond
from fromnoise.denoise import TokenDenoiser
from fromnoise.errors import FromNoiseError
from fromnoise.evaluate.ngram import NGram
from fromnoise.evaluate.text import Known, document_bits, masked_bits, per_character, squeezed
from fromnoise.grid import Linear
from fromnoise.nets import Conditioner, TokenTransformer
from fromnoise.objectives.masked import masks
from fromnoise.observe import Pinned
from fromnoise.posterior import Logits
from fromnoise.process import Masked, draw_tokens
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM
from fromnoise.template import Barred, Inside, fill_in, filling
from fromnoise.unmask import Unmask, sharpened

VERSES = [
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "And God said, Let there be light: and there was light.",
    "Und Gott sprach: Es werde Licht! Naïve façade – 光あれ.",
] * 8
VOCABULARIES = [Bytes(), Characters.of(VERSES), Merges.of(VERSES, 320)]
KINDS = ["bytes", "characters", "bpe"]


# ---- vocabularies and the codec -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=KINDS)
@given(text=st.text())
def test_any_unicode_comes_back_exactly_also_after_json(vocabulary, text):
    again = vocabulary_from_json(json.loads(json.dumps(vocabulary.to_json())))
    symbols = vocabulary.encode(text)
    assert again.encode(text) == symbols and again.decode(symbols) == text
    assert all(0 <= symbol < vocabulary.size for symbol in symbols)


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=KINDS)
@given(seed=st.integers(0, 1000))
def test_whatever_a_model_writes_is_some_text(vocabulary, seed):
    symbols = np.random.default_rng(seed).integers(0, vocabulary.size, 40).tolist()
    assert isinstance(vocabulary.decode(symbols), str)


def test_a_bpe_is_shorter_than_characters_and_these_than_bytes():
    lengths = [sum(len(vocabulary.encode(text)) for text in VERSES) for vocabulary in VOCABULARIES]
    assert lengths[2] < 0.8 * lengths[1] < 0.8 * lengths[0]


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=KINDS)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_texts_shorter_than_the_window_come_back_from_a_release_alone(vocabulary, texts):
    codec = TextCodec(vocabulary=vocabulary, window=160)
    x0 = codec.encode(codec.store_many(np.array(texts, dtype=object)))
    release = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert x0.shape == (len(texts), 160) and release.decode(x0).tolist() == texts


@given(length=st.integers(0, 50), window=st.integers(1, 20))
def test_windows_of_a_long_text_put_it_together_again(length, window):
    codec = TextCodec(vocabulary=Bytes(), window=window)
    text = "".join(chr(33 + i) for i in range(length))
    assert "".join(codec.decode(codec.windows(codec.store(np.array(text)))).tolist()) == text
    assert bool((codec.windows(codec.store(np.array(text)))[:, -1] == codec.padding)[-1])


@given(seed=st.integers(0, 100), step=st.integers(0, 100))
def test_the_window_is_a_function_of_seed_step_and_example(seed, step):
    codec = TextCodec(vocabulary=Bytes(), window=8)
    texts = ["short", "".join(chr(33 + i) for i in range(60)), "abcdefghi"]
    stored = codec.store_many(np.array(texts, dtype=object))
    seen = codec.decode(codec.encode(stored, Rng.of(seed, range(3), step))).tolist()
    alone = codec.decode(codec.encode(stored[1:2], Rng.of(seed, [1], step))).tolist()
    assert alone == seen[1:2] and all(part in text for part, text in zip(seen, texts, strict=True))
    assert seen[0] == "short" and len(seen[1]) == 8


def test_windows_are_drawn_at_every_place():
    codec = TextCodec(vocabulary=Bytes(), window=4)
    stored = codec.store_many(np.array(["abcdef"] * 300, dtype=object))
    drawn = codec.decode(codec.encode(stored, Rng.of(0, range(300)))).tolist()
    counts = [drawn.count(part) for part in ("abcd", "bcde", "cdef")]
    assert sum(counts) == 300 and min(counts) > 70
    assert set(codec.decode(codec.encode(stored)).tolist()) == {"abcd"}


def test_the_rules_say_what_they_chose():
    names = ["Anna", "Bo", "Clementine"] * 10
    codec, notes = fit_text_codec(names)
    assert isinstance(codec.vocabulary, Characters) and codec.window == 16 and "short" in notes[0]
    assert propose(["x" * 1000] * 600)[:2] == ("bpe", 1024)
    assert propose(["x" * 1000] * 4400)[:2] == ("bpe", 8192)
    assert propose(["".join(chr(0x4E00 + i) for i in range(600))])[0] == "bytes"
    with pytest.raises(FromNoiseError, match="bytes, characters or bpe"):
        fit_text_codec(names, vocabulary="words")


def test_files_hold_the_text_and_pages_show_it(tmp_path):
    codec = TextCodec(vocabulary=Bytes(), window=8)
    file = codec.save(tmp_path / "000001", "line one\r\nline two — ü", {"seed": 3})
    assert file.read_bytes().decode() == "line one\r\nline two — ü"
    assert json.loads((tmp_path / "000001.json").read_text()) == {"seed": 3}
    pages = codec.preview(np.array(["", "word " * 60, "x" * 200], dtype=object))
    ink = (pages < 128).any(-1).sum((1, 2))
    assert pages.dtype == np.uint8 and ink[0] == 0 and ink[1] > 500 and ink[2] > 500
    assert not (pages[:, :, -4:] < 128).any()  # lines end before the page does


# ---- the bound ------------------------------------------------------------------------------------------------------

LAW = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 6
LAW /= LAW.sum()


class ExactLaw:
    """The posterior of four tokens with the joint law LAW, given those shown; spoilt if asked: `blind` to those shown,
    or less sure by `heat`."""

    process = Masked(3)

    def __init__(self, blind: bool = False, heat: float = 1.0) -> None:
        self.blind, self.heat = blind, heat

    def __call__(self, x_t, t, cond, s=None):
        shown = torch.full_like(x_t, 3) if self.blind else x_t
        sites = torch.arange(3)
        fits = [(x[:, None] == 3) | (x[:, None] == sites) for x in shown.T]  # four of (b, 3)
        joint = LAW * torch.einsum("ba,bc,bd,be->bacde", *(f.double() for f in fits))
        rows = [joint.sum([axis for axis in (1, 2, 3, 4) if axis != 1 + i]) for i in range(4)]
        return Logits(torch.stack(rows, 1).clamp_min(1e-300).log() / self.heat)


def from_law(n: int) -> torch.Tensor:
    drawn = torch.multinomial(LAW.flatten(), n, replacement=True, generator=torch.Generator().manual_seed(0))
    return torch.stack(torch.unravel_index(drawn, LAW.shape), 1)


def test_the_bound_of_an_exact_denoiser_is_the_entropy_and_that_of_another_is_above():
    x0 = from_law(400)
    truth = -LAW[tuple(x0.T)].log2().numpy()
    exact = masked_bits(ExactLaw(), x0, draws=8)
    error = (exact - truth).std() / math.sqrt(len(x0))
    assert error < 0.1 and abs((exact - truth).mean()) < 4 * error
    assert masked_bits(ExactLaw(blind=True), x0, draws=8).mean() > truth.mean() + 1.0
    flat = masked_bits(ExactLaw(heat=2.0), x0, draws=8)
    assert flat.mean() > truth.mean() + 0.1


@given(t=st.floats(0.001, 1.0), n=st.integers(1, 40))
def test_masks_hide_exactly_their_share(t, n):
    x0 = torch.zeros(5, n, dtype=torch.int64)
    level = torch.full((5, 1), t)
    assert masks(level, x0, Rng.of(0, range(5))).sum(1).tolist() == [math.ceil(torch.tensor(t) * n)] * 5


def test_every_site_is_hidden_equally_often():
    x0 = torch.zeros(3000, 6, dtype=torch.int64)
    share = masks(torch.full((3000, 1), 0.5), x0, Rng.of(0, range(3000))).float().mean(0)
    assert (share - 0.5).abs().max() < 0.04


def small_denoiser(padding: int | None) -> TokenDenoiser:
    net = TokenTransformer(vocab=7, width=32, depth=2, heads=2, emb=16)
    torch.nn.init.normal_(net.modulation.bias)
    return TokenDenoiser(net, Conditioner((), 16), 7, padding=padding)


@pytest.mark.parametrize("padding", [None, 6])
def test_the_logits_of_open_sites_are_those_of_the_whole(padding):
    denoiser = small_denoiser(padding)
    x = torch.randint(0, 8, (9, 40), generator=torch.Generator().manual_seed(0))
    x[2:] = x[2:].masked_fill(x[2:] == 6, 5)
    x[4, 20], x[5, 3], x[6, 0], x[7] = 6, 6, 6, 7
    t = torch.ones(9, 1)
    sites = denoiser.open_sites(x)
    whole = denoiser(x, t, Cond.empty(9)).logits
    assert torch.allclose(denoiser.at_open(x, t, Cond.empty(9)), whole[sites], atol=1e-5)
    one = denoiser(x[4:5], t[:1], Cond.empty(1)).logits[0]
    assert torch.allclose(one, whole[4], atol=1e-5)  # whatever else is in the batch


def test_behind_a_shown_padding_all_is_padding_and_costs_nothing():
    denoiser = small_denoiser(padding=6)
    x0 = torch.full((64, 40), 6)
    x0[:, :5] = 1
    x_t = x0.clone()
    x_t[:, 2:10], x_t[:, 20:30] = 7, 7  # the first padding that is shown is at 10
    post = denoiser(x_t, torch.ones(64, 1), Cond.empty(64))
    law = torch.softmax(post.logits, -1)
    assert bool((law[:, 10:, 6] == 1).all()) and bool((law[:, 2:10].max(-1).values < 0.9).all())
    assert bool((denoiser.open_sites(x_t).sum(1) == 8).all())
    # An untrained network pays for every open site; each masked one behind the end is free.
    assert masked_bits(denoiser, x0).mean() < 0.5 * masked_bits(small_denoiser(None), x0).mean()


# ---- sampling -------------------------------------------------------------------------------------------------------


def drawn(stepper, n: int, steps: int) -> torch.Tensor:
    x = Masked(3).prior((n, 4), 1.0, Rng.of(0, range(n)))
    return finish(sample(ExactLaw(), stepper, Linear()(steps), x, Cond.empty(n), Rng.of(0, range(n))))


def distance(x: torch.Tensor) -> float:
    """Total variation between what was drawn and LAW."""
    seen = torch.zeros_like(LAW).index_put_(tuple(x.T), torch.tensor(1.0 / len(x)).double(), accumulate=True)
    return float((seen - LAW).abs().sum() / 2)


def test_showing_one_token_a_move_is_the_models_own_law():
    floor = distance(from_law(4000))
    assert distance(drawn(Unmask(), 4000, 4)) < 1.4 * floor
    assert distance(drawn(Unmask(), 4000, 9)) < 1.4 * floor  # more moves than sites
    assert distance(drawn(Unmask(), 4000, 1)) > 4 * floor  # all at once, as if independent


@pytest.mark.parametrize("by", ["random", "margin"])
def test_moves_show_their_share_and_the_last_shows_all(by):
    x = Masked(3).prior((6, 4), 1.0, Rng.of(0, range(6)))
    left = [
        (s.x == 3).sum(1) for s in sample(ExactLaw(), Unmask(by=by), Linear()(2), x, Cond.empty(6), Rng.of(0, range(6)))
    ]
    assert [rest.tolist() for rest in left] == [[2] * 6, [0] * 6]


class Sure:
    """Site i is a 0 with a certainty that grows with i."""

    process = Masked(2)

    def __call__(self, x_t, t, cond, s=None):
        up = torch.arange(x_t.shape[1]).double().expand(x_t.shape)
        return Logits(torch.stack([up, torch.zeros_like(up)], -1))


def test_by_margin_the_surest_come_first():
    x = Masked(2).prior((8, 5), 1.0, Rng.of(0, range(8)))
    steps = sample(Sure(), Unmask(by="margin"), Linear()(5), x, Cond.empty(8), Rng.of(0, range(8)))
    for i, step in enumerate(steps, start=1):
        assert bool((step.x[:, : 5 - i] == 2).all()) and bool((step.x[:, 5 - i :] < 2).all())


def test_tokens_are_drawn_by_their_law_and_never_the_impossible():
    law = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    uniform = torch.cat([Rng.of(0, [0]).uniform((1, 8000))[0].double(), torch.tensor([0.0, 1 - 1e-16]).double()])
    x = draw_tokens(law.log().expand(len(uniform), 6), uniform)
    share = torch.bincount(x, minlength=6) / len(x)
    assert (share - law).abs().max() < 0.02 and share[[0, 2, 5]].sum() == 0


def test_the_nucleus_is_the_smallest_set_that_weighs_enough_and_heat_flattens():
    def kept(temperature: float, nucleus: float) -> list[float]:
        logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
        return torch.softmax(sharpened(logits, temperature, nucleus), -1).flatten().tolist()

    assert kept(1.0, 0.4) == pytest.approx([1, 0, 0, 0])
    assert kept(1.0, 0.6) == pytest.approx([0.625, 0, 0.375, 0])
    assert kept(2.0, 1.0)[0] == pytest.approx(0.5**0.5 / sum(p**0.5 for p in (0.5, 0.1, 0.3, 0.1)))
    with pytest.raises(FromNoiseError, match="above 0"):
        Unmask(temperature=0.0)


# ---- templates ------------------------------------------------------------------------------------------------------


class Anything:
    """Every symbol is as likely as another, and the padding likelier than all."""

    def __init__(self, codec: TextCodec, padding: float = 8.0) -> None:
        self.process = Masked(codec.vocab)
        self.law = torch.zeros(codec.vocab)
        self.law[codec.padding] = padding

    def __call__(self, x_t, t, cond, s=None):
        return Logits(self.law.expand(*x_t.shape, -1))


def filled(template: str, codec: TextCodec, stepper, start_known: bool, **choice) -> list[str]:
    rng = Rng.of(0, range(5))
    y, mask, inside = fill_in(template, codec, [20, 30], rng, **choice)
    denoise = Pinned(Inside(Anything(codec), inside, codec.padding), y, mask)
    x = torch.where(mask, y, codec.vocab) if start_known else denoise.process.prior((5, codec.window), 1.0, rng)
    return codec.decode(finish(sample(denoise, stepper, Linear()(7), x, Cond.empty(5), rng))).tolist()


@pytest.mark.parametrize("vocabulary", [VOCABULARIES[1], VOCABULARIES[2]], ids=KINDS[1:])
@pytest.mark.parametrize("stepper", [DDIM(), Unmask(), Unmask(by="margin")], ids=["ddim", "random", "margin"])
@pytest.mark.parametrize("start_known", [True, False])
def test_a_template_stands_in_every_sample_as_it_was_written(vocabulary, stepper, start_known):
    codec = TextCodec(vocabulary=vocabulary, window=48)
    # A gap may be filled with broken bytes alone here, where all symbols are as likely, and those are not written.
    for template, pattern in {
        "In the beginning ___": r"In the beginning.*",
        "___ and it was so.": r".* and it was so\.",
        "And God ___, Let there [...3...] light": r"And God.*, Let there.* light",
        "And God": r"And God.*",
    }.items():
        for text in filled(template, codec, stepper, start_known):
            assert re.fullmatch(pattern, text, re.DOTALL), (template, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stepper", [DDIM(), Unmask(by="margin")], ids=["ddim", "margin"])
def test_no_sample_has_a_byte_that_no_training_text_has(kind, stepper):
    texts = [*VERSES[:3], "A lone Q."] * 2 + ["Once: ~"]
    fitted, _ = fit_text_codec(texts, vocabulary=kind, size=300, window=48)
    codec = codec_from_json(json.loads(json.dumps(fitted.to_json())))
    stored = codec.store_many(np.array(texts, dtype=object))
    assert codec == fitted and not set(codec.barred).intersection(codec.encode(stored).flatten().tolist())
    x = torch.full((20, 48), codec.vocab)
    made = sample(
        Barred(Anything(codec, 0.0), codec.barred), stepper, Linear()(7), x, Cond.empty(20), Rng.of(0, range(20))
    )
    written = "".join(codec.decode(finish(made)).tolist())
    assert set(written) <= set("".join(texts)) and "~" in written
    assert codec_from_json({k: v for k, v in fitted.to_json().items() if k != "barred"}).barred == ()


def test_where_there_is_an_alphabet_samples_have_no_broken_characters():
    codec, _ = fit_text_codec([*VERSES[:3] * 2, "only once: é 光"], vocabulary="characters")
    spelt = codec.vocabulary.encode("é 光")
    assert codec.vocabulary.decode(spelt) == "é 光" and set(spelt) - set(codec.barred) == {spelt[2]}
    assert "�" not in "".join(codec.vocabulary.decode([s]) for s in range(codec.padding) if s not in codec.barred)


@pytest.mark.parametrize("vocabulary", ["bytes", "bpe"])
def test_characters_that_a_sample_breaks_off_are_left_out(vocabulary):
    codec, _ = fit_text_codec(["Käse für Jürgen", "光と影", "\N{REPLACEMENT CHARACTER}"] * 3, vocabulary=vocabulary)
    for text in ("Käse für Jürgen", "光と影 – été", "\N{REPLACEMENT CHARACTER}", "".join(map(chr, range(1, 0x180)))):
        assert codec.vocabulary.decode(codec.vocabulary.encode(text)) == text
    spelt = codec.vocabulary.encode("ṡ")  # of three bytes, a symbol each as no text has it
    assert len(spelt) == 3
    for broken in (spelt[:1], spelt[:2], spelt[1:], spelt[::-1]):
        assert codec.vocabulary.decode([*codec.vocabulary.encode("a"), *broken, *codec.vocabulary.encode("b")]) == "ab"
    masked = torch.tensor([[*spelt[:2], codec.vocab, spelt[2], codec.padding]])
    assert codec.decode(masked).tolist() == ["_"]


def test_a_prompt_may_have_what_no_training_text_has():
    codec, _ = fit_text_codec(VERSES[:3] * 2, vocabulary="bytes", window=48)
    denoise, x = filling(
        Barred(Anything(codec), codec.barred), "Ω ___ Ω", codec, Rng.of(0, range(5)), torch.device("cpu")
    )
    made = codec.decode(finish(sample(denoise, DDIM(), Linear()(7), x, Cond.empty(5), Rng.of(0, range(5)))))
    assert all(text.startswith("Ω") and text.endswith("Ω") for text in made)


def test_the_length_is_as_asked_or_one_of_the_datas():
    codec = TextCodec(vocabulary=Bytes(), window=48)
    rng = Rng.of(0, range(40))

    def lengths(template: str, **choice) -> set[int]:
        y, mask, inside = fill_in(template, codec, [3, 20, 30], rng, **choice)
        assert bool((inside | ~mask | (y == codec.padding)).all())
        return set(inside.sum(1).tolist())

    assert lengths("God ___ light") == {20, 30}  # 3 has no room for it
    assert lengths("God ___ light", length=25) == {25} and lengths("God ___", length=25) == {25}
    assert lengths("God ___") == {4}  # then the model ends it
    assert lengths("God[…4…] light") == {13}
    with pytest.raises(FromNoiseError, match="at least 10 symbols"):
        fill_in("God ___ light", codec, [20], rng, length=5)


# ---- yardsticks -----------------------------------------------------------------------------------------------------


@given(context=st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_the_probabilities_of_the_five_gram_sum_to_one(context):
    model = NGram.of(VERSES)
    law = model.law(context)
    assert law.sum() == pytest.approx(1) and law.min() > 0


def test_the_five_gram_knows_what_it_saw_and_its_bits_are_those_of_its_laws():
    model = NGram.of(VERSES)
    text = "And God saw."
    history, bits = [0, 0, 0, 0], 0.0
    for symbol in [*(model.alphabet.index(c) + 2 for c in text), 0]:
        bits -= math.log2(model.law(history)[symbol])
        history = [*history[1:], symbol]
    assert model.bits([text, VERSES[0]])[0] == pytest.approx(bits)
    seen, strange = per_character(model.bits(VERSES), VERSES), per_character(model.bits(["Ωmega"]), ["Ωmega"])
    assert seen.value < 0.7 and strange.value > 5
    assert squeezed(VERSES, "gzip").value < squeezed(VERSES[:4], "gzip").value


def test_bits_of_a_document_are_the_sum_over_its_windows():
    windows = [from_law(3), from_law(1)]
    whole = masked_bits(ExactLaw(), torch.cat(windows))
    assert document_bits(ExactLaw(), windows) == pytest.approx([whole[:3].sum(), whole[3]])
    bits = per_character(np.array([10.0, 20.0, 40.0]), ["abcd", "abcdefghi", "a" * 19])
    assert bits.value == pytest.approx(2.0) and bits.error == pytest.approx(0.0)


def test_copies_and_repeats_are_seen():
    known = Known(VERSES[:2])
    copy = known.variety([VERSES[0]] * 2, words=20)
    assert copy.copied == 1 and copy.whole == 1 and copy.distinct[2] == pytest.approx(0.5)
    new = known.variety(["a b c d e f g h", "i j k l"], words=10)
    assert new.copied == 0 and new.whole == 0 and new.distinct == (1, 1, 1) and new.words == 10
