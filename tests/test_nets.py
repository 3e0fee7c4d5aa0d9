"""Laws of the networks: what must not matter does not, what must matter does, at any size and on 1 to 3 axes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.cond import Column, Cond
from fromnoise.nets import Conditioner, TokenTransformer, Transformer, UNet, hidden_matrices
from fromnoise.nets.attend import SHORT, attend
from fromnoise.nets.embeddings import Rotary, rotate
from fromnoise.nets.patches import crop, pad
from fromnoise.types import FromNoiseError

EMB = 32
COLUMNS = (
    Column(name="kind", kind="class", labels=("a", "b", "c")),
    Column(name="age", kind="number", low=-2.0, high=2.0),
    Column(name="pose", kind="vector", size=3),
    Column(name="text", kind="tokens", size=11, length=6),
    Column(name="sketch", kind="map", size=2),
)


def unet(space, **options):
    options = {"channels": 2, "widths": (32, 64), "blocks": 1, "patch": 2, "attention": (False, True)} | options
    return UNet(space=space, emb=EMB, **options)


def transformer(space, **options):
    return Transformer(space=space, channels=2, patch=2, width=32, depth=2, heads=2, emb=EMB, **options)


BUILDERS = (unet, transformer)
SIZES = {1: (12,), 2: (8, 12), 3: (4, 8, 4)}
EVERY = pytest.mark.parametrize("build, space", list(itertools.product(BUILDERS, (1, 2, 3))))


def awake(net, spare=()):
    """The network as after some training: nothing that starts at zero is zero, except the parameters in `spare`."""
    draw = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any() and not any(p is q for q in spare):
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=draw) * 0.2)
    return net.double()


def batch(size, n=3, channels=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, *size, generator=draw, dtype=torch.float64)
    t = torch.rand(n, *[1] * (len(size) + 1), generator=draw, dtype=torch.float64)
    return x, t


def nothing(n):
    return Conditioner((), EMB).double()(Cond.empty(n))


def conditions(n=3, size=(8, 12), present=True):
    draw = torch.Generator().manual_seed(2)
    values = {
        "kind": torch.randint(3, (n,), generator=draw),
        "age": torch.randn(n, generator=draw),
        "pose": torch.randn(n, 3, generator=draw),
        "text": torch.randint(1, 11, (n, 4), generator=draw),
        "sketch": torch.randn(n, 2, *size, generator=draw),
    }
    return Cond(values, {name: torch.full((n,), present) for name in values}, n)


@EVERY
def test_starts_at_zero_and_gap_has_no_influence_until_learned(build, space):
    net = build(space, mid_head=True).double()
    x, t = batch(SIZES[space])
    y, mid = net(x, t, t / 2, nothing(3))
    assert y.shape == mid.shape == x.shape
    assert not y.any() and not mid.any()

    gap = net.entry.time.gap.weight
    awake(net, spare=[gap])
    y = net(x, t, t, nothing(3))[0]
    assert y.any()
    assert torch.equal(y, net(x, t, t / 2, nothing(3))[0])

    with torch.no_grad():
        gap.fill_(0.3)
    assert torch.equal(y, net(x, t, t, nothing(3))[0])  # a plain call never feels what the gap has learned
    assert not torch.allclose(y, net(x, t, t / 2, nothing(3))[0])


@pytest.mark.parametrize("space", (1, 2, 3))
def test_a_mask_keeps_what_came_in_however_large_the_patch(space):
    net = unet(space, widths=(32,), attention=(False,), patch=4, masks=True, mid_head=True).double()
    x, t = batch(SIZES[space])
    with torch.no_grad():
        for head, share in ((net.head, 0.25), (net.mid_head, 1.0)):
            head.project.bias.unflatten(0, (-1, 3))[:, 2] = share
    y, mid = net(x, t, t, nothing(3))
    assert torch.equal(y, 0.25 * x) and torch.equal(mid, x)


@EVERY
def test_examples_are_independent(build, space):
    net = awake(build(space))
    x, t = batch(SIZES[space])
    y = net(x, t, t, nothing(3))[0]
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order], t[order], t[order], nothing(3))[0], y[order])
    torch.testing.assert_close(net(x[:1], t[:1], t[:1], nothing(1))[0], y[:1])
    x[1:], t[1:] = 100.0, 1.0
    assert torch.equal(net(x, t, t, nothing(3))[0][0], y[0])


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=12, deadline=None)
@given(size=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_size_is_the_edge_padded_size_cropped(build, size):
    torch.manual_seed(0)
    net = awake(build(len(size)))
    x, t = batch(size, n=1)
    whole = pad(x, net.entry.multiple)
    assert all(n % m == 0 for n, m in zip(whole.shape[2:], net.entry.multiple, strict=True))
    assert torch.equal(crop(whole, tuple(size)), x)
    y = net(x, t, t, nothing(1))[0]
    torch.testing.assert_close(y, crop(net(whole, t, t, nothing(1))[0], tuple(size)))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("size, time_axes", [((6, 4, 8), (0,)), ((9,), (0,)), ((4, 5), (1,))])
def test_time_per_frame(build, size, time_axes):
    net = awake(build(len(size), time_axes=time_axes))
    (axis,) = time_axes
    x, t = batch(size)
    y = net(x, t, t, nothing(3))[0]
    each = [1] * len(size)
    each[axis] = size[axis]
    frames = t.expand(-1, 1, *each).clone()
    torch.testing.assert_close(net(x, frames, t, nothing(3))[0], y)

    frames.select(2 + axis, 2).fill_(0.9)
    moved = net(x, frames, frames, nothing(3))[0] - y
    assert moved.select(2 + axis, 2).abs().amax() > 1e-6
    with pytest.raises(FromNoiseError, match="time"):
        build(len(size)).double()(x, frames, frames, nothing(3))


def test_time_of_a_frame_reaches_no_further_than_the_convolutions():
    net = awake(unet(3, widths=(32,), attention=(True,), time_axes=(0,)))
    x, t = batch((12, 4, 4), n=1)
    frames = t.expand(-1, 1, 12, 1, 1).clone()
    y = net(x, frames, frames, nothing(1))[0]
    frames[:, :, 0] = 0.9
    moved = (net(x, frames, frames, nothing(1))[0] - y).abs().amax((0, 1, 3, 4))
    # Frame 0's modulation is applied before the second convolution of each of two blocks: 1 + 2 frames away.
    assert (moved[:4] > 0).all()
    assert not moved[4:].any()


@pytest.mark.parametrize("build", BUILDERS)
def test_absent_values_never_matter_and_present_values_do(build):
    torch.manual_seed(0)
    encode = Conditioner(COLUMNS, EMB).double()
    net = awake(build(2, map_channels=encode.map_channels))
    x, t = batch((8, 12))
    cond = conditions()
    y = net(x, t, t, encode(cond))[0]
    null = net(x, t, t, encode(cond.null()))[0]
    for name, value in cond.values.items():
        wild = torch.full_like(value, 10**6) if name in ("kind", "text") else torch.full_like(value, math.nan)
        present = cond.present | {name: torch.tensor([True, False, True])}
        tame = Cond(cond.values, present, 3)
        mixed = torch.where(present[name].reshape(-1, *[1] * (value.ndim - 1)), value, wild)
        out = net(x, t, t, encode(tame))[0]
        assert torch.equal(out, net(x, t, t, encode(Cond(cond.values | {name: mixed}, present, 3)))[0]), name
        torch.testing.assert_close(out[0], y[0])
        assert not torch.allclose(out[1], y[1]), name
        assert not torch.allclose(out[1], null[1]), name
    torch.testing.assert_close(null, net(x, t, t, encode(Cond.empty(3)))[0])


@pytest.mark.parametrize("build", BUILDERS)
def test_padding_of_a_text_never_matters(build):
    encode = Conditioner(COLUMNS[3:4], EMB).double()
    net = awake(build(2))
    x, t = batch((8, 8))
    text = conditions().values["text"]
    longer = torch.nn.functional.pad(text, (0, 2))
    given_text = [Cond({"text": v}, {"text": torch.ones(3, dtype=torch.bool)}, 3) for v in (text, longer, text.flip(1))]
    y, padded, reversed_ = (net(x, t, t, encode(c))[0] for c in given_text)
    torch.testing.assert_close(padded, y)
    assert not torch.allclose(reversed_, y)


def test_gradients_are_finite_where_absent_values_are_not():
    encode = Conditioner(COLUMNS, EMB)
    cond = conditions(present=False)
    cond = Cond(cond.values | {"age": torch.full((3,), math.nan)}, cond.present, 3)
    encode(cond).vec.square().sum().backward()
    grads = [p.grad for p in encode.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)


def test_numbers_saturate_just_outside_the_training_range():
    encode = Conditioner(COLUMNS[1:2], EMB).double()

    def code(*ages):
        value = torch.tensor(ages, dtype=torch.float64)
        return encode(Cond({"age": value}, {"age": torch.ones(len(ages), dtype=torch.bool)}, len(ages))).vec

    far, farther, edge, step_in, step_out = code(1e3, 1e9, 2.0, 2.0 - 1e-4, 2.0 + 1e-4)
    torch.testing.assert_close(far, farther)
    assert not torch.allclose(far, edge)
    torch.testing.assert_close(edge - step_in, step_out - edge, rtol=1e-2, atol=1e-6)  # smooth across the edge


def test_conditions_that_do_not_fit_are_refused():
    encode = Conditioner(COLUMNS, EMB).double()
    x, t = batch((8, 12))
    with pytest.raises(FromNoiseError, match="no column 'colour'"):
        encode(Cond({"colour": torch.zeros(3)}, {"colour": torch.ones(3, dtype=torch.bool)}, 3))
    with pytest.raises(FromNoiseError, match="resize"):
        unet(2, map_channels=encode.map_channels).double()(x, t, t, encode(conditions(size=(4, 4))))
    with pytest.raises(FromNoiseError, match="takes no maps"):
        unet(2).double()(x, t, t, encode(conditions()))
    assert not nothing(3).vec.any() and nothing(3).vec.shape == (3, EMB)


@pytest.mark.parametrize("widths", [(32,), (32, 64), (32, 64, 64)])
def test_mid_head_of_the_unet_skips_the_decoder(widths):
    torch.manual_seed(0)
    net = awake(unet(2, widths=widths, attention=(False,) * len(widths), mid_head=True))
    x, t = batch((16, 16))
    y, mid = net(x, t, t, nothing(3))
    assert mid.shape == y.shape and not torch.allclose(mid, y)
    mid.square().mean().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    last = f"up.{max(len(widths) - 2, 0)}."
    assert "entry.cut.weight" in reached and f"down.{len(widths) - 1}.blocks.0.conv2.weight" in reached
    assert not any(name.startswith((last, "head.")) for name in reached)


def test_mid_head_of_the_transformer_sees_half_the_depth():
    net = awake(transformer(2, mid_head=True))
    x, t = batch((8, 8))
    net(x, t, t, nothing(3))[1].square().mean().backward()
    assert net.blocks[0].out.weight.grad.any() and net.blocks[1].out.weight.grad is None


@pytest.mark.parametrize("grid", [(16,), (6, 5), (4, 3, 5)])
def test_rotary_products_depend_on_differences_of_places(grid):
    rotary = Rotary(18, len(grid)).double()
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(18, generator=draw, dtype=torch.float64) for _ in range(2))
    q, k = (rotate(z.expand(1, math.prod(grid), 1, 18), rotary(grid))[0, :, 0].unflatten(0, grid) for z in (q, k))
    products = q @ k[(0,) * len(grid)]
    inner, outer = [slice(0, n - 1) for n in grid], [slice(1, n) for n in grid]
    torch.testing.assert_close(products[tuple(inner)], q[tuple(outer)] @ k[(1,) * len(grid)])
    for axis in range(len(grid)):
        assert not torch.allclose(products.narrow(axis, 0, 1), products.narrow(axis, 1, 1))


def test_unet_without_attention_commutes_with_shifts_inside():
    net = awake(unet(1, attention=(False, False)))
    x, t = batch((160,), n=1)
    y = net(x, t, t, nothing(1))[0]
    shifted = net(x.roll(4, -1), t, t, nothing(1))[0]
    torch.testing.assert_close(shifted.roll(-4, -1)[..., 64:-64], y[..., 64:-64])


@EVERY
def test_learns_a_fixed_mapping(build, space):
    torch.manual_seed(0)
    net = build(space, mid_head=True)
    x, t = (z.float() for z in batch(SIZES[space], n=4))
    target = x.flip(-1).cumsum(-1) * 0.5 + t
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    cond = Conditioner((), EMB)(Cond.empty(4))
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(sum((y - target).square().mean() for y in net(x, t, t, cond)))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("build", BUILDERS)
def test_autocast_stays_close_and_ends_of_time_are_finite(build):
    torch.manual_seed(0)
    encode = Conditioner(COLUMNS, EMB)
    net = awake(build(2, map_channels=encode.map_channels, mid_head=True)).float()
    x = batch((8, 12))[0].float()
    t = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    exact = net(x, t, t, encode(conditions()))
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, t, t, encode(conditions()))
    for a, b in zip(exact, rough, strict=True):
        assert a.isfinite().all()
        assert (a - b).std() < 0.05 * a.std()


def test_times_near_both_ends_are_told_apart():
    time = unet(1).entry.time.double()
    t = torch.tensor([0.0, 0.002, 0.01, 0.3, 0.5, 0.99, 0.998, 1.0], dtype=torch.float64)
    codes = time(t, t)
    far = torch.cdist(codes, codes) + torch.eye(len(t)) * 9
    assert codes.isfinite().all() and far.min() > 0.1


def test_channels_last_is_kept_and_changes_nothing():
    net = awake(unet(2))
    x, t = batch((16, 16))
    y = net(x, t, t, nothing(3))[0]
    kept = {}
    net.to(memory_format=torch.channels_last)
    for name, module in net.taps.items():
        module.register_forward_hook(
            lambda _, __, h, name=name: kept.update({name: h.is_contiguous(memory_format=torch.channels_last)})
        )
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last), t, t, nothing(3))[0], y)
    places = {f"level{i}.block{j}" for i in (0, 1) for j in (0, 1)}
    assert kept == dict.fromkeys(places | {"mid", "level1.attention0", "level1.attention1"}, True)


@pytest.mark.parametrize("timed", [False, True])
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 40))
def test_token_network_of_any_length(timed, length):
    torch.manual_seed(0)
    net = TokenTransformer(vocab=7, width=32, depth=2, heads=2, emb=EMB, timed=timed).double()
    draw = torch.Generator().manual_seed(length)
    x = torch.randint(8, (2, length), generator=draw)
    t = torch.rand(2, 1, generator=draw, dtype=torch.float64)
    logits, none = net(x, t, t, nothing(2))
    assert logits.shape == (2, length, 7) and none is None
    # The blocks are the identity at first: what is said of a site depends on its own symbol alone.
    elsewhere = net(torch.cat([x[:, :-1] * 0, x[:, -1:]], 1), t, t, nothing(2))[0]
    assert torch.equal(elsewhere[:, -1], logits[:, -1])
    awake(net)
    logits = net(x, t, t, nothing(2))[0]
    assert torch.equal(logits, net(x, 1 - t, 1 - t, nothing(2))[0]) != timed
    torch.testing.assert_close(net(x, t.expand(-1, length), t, nothing(2))[0], logits)
    other = x.clone()
    other[0, -1] = (x[0, -1] + 1) % 8
    changed = net(other, t, t, nothing(2))[0]
    assert torch.equal(changed[1], logits[1])
    assert (changed[0] != logits[0]).any(-1).all()  # bidirectional: the last token reaches every place


def test_token_network_learns_to_copy_a_neighbour():
    torch.manual_seed(0)
    net = TokenTransformer(vocab=5, width=32, depth=1, heads=2, emb=EMB)
    x = torch.randint(5, (16, 12))
    t = torch.rand(16, 1)
    cond = Conditioner((), EMB)(Cond.empty(16))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    # Reading and writing by one table, it must first unlearn to say what it sees.
    for _ in range(150):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x, t, t, cond)[0][:, 1:].flatten(0, 1), x[:, :-1].flatten())
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * math.log(5)


def test_hidden_matrices_are_the_inner_weights():
    nets = [
        unet(2, mid_head=True),
        transformer(2, mid_head=True, bottleneck=8),
        TokenTransformer(vocab=7, width=32, depth=2, heads=2, emb=EMB),
    ]
    outer = ("entry.", "head.", "mid_head.", "symbols.", "place.")
    for net in nets:
        names = {id(p): name for name, p in net.named_parameters()}
        hidden = [names[id(p)] for p in hidden_matrices(net)]
        inner = [
            n for n, p in net.named_parameters() if p.ndim >= 2 and not n.startswith(outer) and "sharpness" not in n
        ]
        assert hidden == inner
    assert hidden_matrices(Conditioner(COLUMNS, EMB)) == []


@pytest.mark.parametrize("kind", ["whole", "masked", "causal"])
@pytest.mark.parametrize("n, m", [(49, 55), (7, 7), (SHORT, SHORT + 8)])
def test_short_attention_is_attention_also_in_bfloat16(n, m, kind):
    q, k, v = (torch.randn(2, 3, length, 16, dtype=torch.bfloat16, requires_grad=True) for length in (n, m, m))
    mask = (torch.arange(m) % 2 == 0)[None, None, None].expand(2, 1, 1, m) if kind == "masked" else None
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    truth = attend(*exact, mask, causal=kind == "causal")
    slope = torch.randn_like(truth)
    out = attend(q, k, v, mask, causal=kind == "causal")
    wanted = torch.autograd.grad(truth, exact, slope)
    found = torch.autograd.grad(out, (q, k, v), slope.bfloat16())
    for a, b in zip((out, *found), (truth, *wanted), strict=True):
        assert (a.double() - b).norm() < 0.02 * b.norm() + 1e-3
