"""Tokens as maps and captured layers, with the models of other libraries, randomly initialised."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict, namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from torch import nn

from dhr_refine.features import capture_layers, tokens_to_map

PAGE = ROOT / "docs" / "features.md"
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def numbered(rows, columns, prefix, batch=2):
    """Tokens that carry their image, row and column, and -1 in front."""
    place = torch.cartesian_prod(torch.arange(batch), torch.arange(rows), torch.arange(columns))
    patches = place.view(batch, rows * columns, 3).float()
    return torch.cat((torch.full((batch, prefix, 3), -1.0), patches), dim=1)


def check_numbers(result, rows, columns, batch=2):
    assert result.shape == (batch, 3, rows, columns)
    expected = torch.cartesian_prod(torch.arange(batch), torch.arange(rows), torch.arange(columns))
    assert torch.equal(result.permute(0, 2, 3, 1).reshape(-1, 3), expected.float())


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), prefix=st.integers(0, 25))
def test_tokens_land_at_their_row_and_column(rows, columns, prefix):
    tokens = numbered(rows, columns, prefix)
    check_numbers(tokens_to_map(tokens, grid=(rows, columns), prefix=prefix), rows, columns)
    if rows == columns:
        check_numbers(tokens_to_map(tokens, prefix=prefix), rows, columns)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("side", [7, 14, 24, 37])
def test_usual_prefixes_are_found(prefix, side):
    check_numbers(tokens_to_map(numbered(side, side, prefix)), side, side)
    tokens = numbered(side, side + 3, prefix)
    check_numbers(tokens_to_map(tokens, grid=(side, side + 3)), side, side + 3)


def test_map_keeps_dtype_gradients_and_input(dtype):
    tokens = torch.rand(2, 5, 4).to(dtype).requires_grad_()
    before = tokens.detach().clone()
    result = tokens_to_map(tokens)
    assert result.dtype == dtype
    result[:, :, 0, 1].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[:, 2].eq(1).all()
    assert tokens.grad.sum() == 2 * 4
    assert torch.equal(tokens, before)


@pytest.mark.parametrize(
    ("tokens", "options", "error", "text"),
    [
        (torch.rand(5, 4), {}, ValueError, r"tokens must have shape \(B, N, D\)"),
        ([1.0], {}, TypeError, r"tokens must be a torch.Tensor of shape \(B, N, D\)"),
        (torch.rand(1, 6, 4), {}, ValueError, "may be prefix=2 with 2 x 2 patches or prefix=5 with 1 x 1"),
        (torch.rand(1, 769, 4), {}, ValueError, r"no square after 0, 1, 2, 5 tokens in front: pass grid="),
        (torch.rand(1, 201, 4), {"prefix": 1}, ValueError, "the other 200 fill no square: pass grid"),
        (torch.rand(1, 3, 4), {"prefix": 3}, ValueError, "the other 0 fill no square"),
        (torch.rand(1, 26, 4), {"grid": (4, 5)}, ValueError, "6 tokens are left over"),
        (torch.rand(1, 25, 4), {"grid": (5, 5), "prefix": 1}, ValueError, "0 tokens are left over"),
        (torch.rand(1, 16, 4), {"grid": (5, 5)}, ValueError, "-9 tokens are left over"),
        (torch.rand(1, 16, 4), {"grid": 4}, TypeError, r"grid must be \(rows, columns\), got int 4"),
        (torch.rand(1, 16, 4), {"grid": (4, 4, 1)}, TypeError, r"grid must be \(rows, columns\)"),
        (torch.rand(1, 16, 4), {"grid": (4, 4.5)}, ValueError, "grid must hold whole numbers"),
        (torch.rand(1, 16, 4), {"grid": (-4, -4)}, ValueError, "grid must hold numbers of at least 1"),
        (torch.rand(1, 16, 4), {"prefix": -1}, ValueError, "prefix must be at least 0"),
        (torch.rand(1, 16, 4), {"prefix": 1.0}, TypeError, "prefix must be an int"),
    ],
)
def test_tokens_errors(tokens, options, error, text):
    with pytest.raises(error, match=text):
        tokens_to_map(tokens, **options)


class Block(nn.Module):
    """A layer whose output is chosen by the test."""

    def __init__(self, pack):
        super().__init__()
        self.pack = pack

    def forward(self, x):
        return self.pack(x)


Pair = namedtuple("Pair", ["first", "second"])


@pytest.fixture
def net():
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 3),
            act=nn.ReLU(inplace=True),
            stages=nn.ModuleDict({"a": nn.Identity()})["a"],
            deep=nn.Sequential(nn.Conv2d(4, 5, 1), nn.Sequential(nn.Tanh(), nn.Conv2d(5, 6, 1))),
        )
    )


def count_hooks(model):
    return sum(len(layer._forward_hooks) for layer in model.modules())


def test_capture_nested_layers_before_in_place_changes(net):
    images = torch.randn(2, 3, 8, 8)
    with capture_layers(net, ["stem", "deep.1.0"]) as captured:
        output = net(images)
    stem = net.stem(images)
    assert stem.min() < 0  # what the ReLU in place would have wiped out
    assert torch.equal(captured["stem"], stem)
    assert torch.equal(net.deep[1][1](captured["deep.1.0"]), output)
    assert list(captured) == ["stem", "deep.1.0"]
    assert not captured["stem"].requires_grad
    assert count_hooks(net) == 0


def test_capture_keeps_gradients_on_request(net):
    with capture_layers(net, "deep.0", detach=False) as captured:
        net(torch.randn(1, 3, 8, 8))
    captured["deep.0"].sum().backward()
    assert net.stem.weight.grad.abs().sum() > 0
    assert net.deep[1][1].weight.grad is None


def test_capture_does_not_change_the_training_step(net):
    images = torch.randn(2, 3, 8, 8)
    net(images).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with capture_layers(net, ["stem", "deep"]):
        net(images).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), expected):
        assert torch.equal(parameter.grad, gradient)


def test_capture_holds_the_latest_call():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared)
    with capture_layers(model, ["0", "1"]) as captured:
        for value in (1.0, 2.0):
            output = model(torch.full((1, 3), value))
    assert torch.equal(captured["0"], output)
    assert torch.equal(captured["1"], output)


def test_capture_outputs_of_every_kind(transformers):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    kinds = {
        "tuple": lambda x: (x, None, [x + 1, "text"]),
        "named": lambda x: Pair(x, x + 1),
        "dict": lambda x: {"out": x, "aux": (x + 1,)},
        "model": lambda x: BaseModelOutputWithPooling(last_hidden_state=x, hidden_states=(x, x + 1)),
    }
    x = torch.ones(2, requires_grad=True)
    for kind, pack in kinds.items():
        model = nn.Sequential(Block(pack))
        with capture_layers(model, "0") as captured:
            output = model(x * 1)
        got = captured["0"]
        assert type(got) is type(output), kind
        first, second = {
            "tuple": lambda o: (o[0], o[2][0]),
            "named": lambda o: (o.first, o.second),
            "dict": lambda o: (o["out"], o["aux"][0]),
            "model": lambda o: (o.last_hidden_state, o.hidden_states[1]),
        }[kind](got)
        assert first.tolist() == [1, 1]
        assert second.tolist() == [2, 2]
        assert not first.requires_grad
        assert not second.requires_grad
        first.zero_()
        again = output["out"] if kind == "dict" else output[0]
        assert again.tolist() == [1, 1]  # a copy
        assert again.requires_grad


def test_hooks_go_after_an_error(net):
    with pytest.raises(RuntimeError, match="expected input"), capture_layers(net, ["stem", "deep"]):
        net(torch.rand(1, 5, 8, 8))
    assert count_hooks(net) == 0
    with pytest.raises(ValueError, match="names holds 'nope'"), capture_layers(net, ["stem", "nope"]):
        pass
    assert count_hooks(net) == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("step", "did you mean one of 'stem'"),
        ("deep.1.7", "'deep.1.1', 'deep.1.0'"),
        ("module.stem", "'stem'"),
        ("zzzzzz", "it has 'stem', 'act', 'stages', 'deep'; see model.named_modules"),
    ],
)
def test_unknown_name_lists_near_ones(net, name, text):
    with pytest.raises(ValueError, match=text), capture_layers(net, [name]):
        pass


@pytest.mark.parametrize("names", [None, 3, b"stem", ["stem", 3], [None]])
def test_names_that_are_no_text(net, names):
    refused = pytest.raises(TypeError, match="names must be a name or a list of names, got")
    with refused, capture_layers(net, names):
        pass


def test_capture_errors(net):
    with (
        pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"),
        capture_layers("net", "a"),
    ):
        pass
    with capture_layers(net, "stem") as captured, pytest.raises(KeyError, match="stem: not captured"):
        captured["stem"]
    # What DataParallel makes of the model on each of several devices.
    net.stem._is_replica = True
    with capture_layers(net, "stem"), pytest.raises(ValueError, match="several devices"):
        net(torch.rand(1, 3, 8, 8))


def test_capture_under_data_parallel(net):
    images = torch.randn(2, 3, 8, 8)
    with capture_layers(nn.DataParallel(net), "deep.0") as captured:
        nn.DataParallel(net)(images)
    assert torch.equal(captured["deep.0"], net.deep[0](net.stages(net.act(net.stem(images)))))


DISTRIBUTED = """
import os, sys, torch
from torch import nn
from dhr_refine.features import capture_layers

torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Tanh(), nn.Conv2d(4, 5, 1)))
images = torch.randn(2, 3, 8, 8)
wrapped = nn.parallel.DistributedDataParallel(net)
with capture_layers(wrapped, ["1.0"]) as captured:
    wrapped(images).sum().backward()
assert torch.equal(captured["1.0"], net[0](images).tanh())
assert net[0].weight.grad.abs().sum() > 0
try:
    with capture_layers(wrapped, ["module.0"]):
        raise SystemExit("a name with module. was taken")
except ValueError as error:
    assert "did you mean one of '0'" in str(error), error
print("checked", flush=True)
os._exit(0)
"""


def test_capture_under_distributed_data_parallel(tmp_path):
    # In a process of its own that ends at once: gloo's threads can deadlock with the interpreter's lock when
    # a process group is torn down after a backward pass.
    result = subprocess.run(
        [sys.executable, "-c", DISTRIBUTED, (tmp_path / "rendezvous").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == "checked\n", result.stderr


# The page docs/features.md, section by section, with the models it names; only what downloads is replaced.


def hugging_face(library, kind, patch, **options):
    config = getattr(library, f"{kind}Config")(patch_size=patch, image_size=4 * patch, **TINY, **options)
    return getattr(library, f"{kind}Model")(config)


def read_page():
    """Code blocks by section; the blocks of the introduction under None."""
    sections, title = {None: []}, None
    for heading, code in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        if heading:
            title = heading
            sections[title] = []
        else:
            sections[title].append(code)
    return sections


SECTIONS = read_page()


def run(section, block=0, **names):
    """Run the introduction and one block of a section, on two images of odd size that are not square."""
    names.setdefault("images", torch.randn(2, 3, 62, 90))
    for code in (*SECTIONS[None], SECTIONS[section][block]):
        exec(compile(code, f"{PAGE.name}: {section}", "exec"), names)
    return names


def check_places(names, features, tokens_of, prefix):
    """The features are the tokens in row order, and a patch that changes in the image changes its cell."""
    model, resized, grid = names["model"], names["resized"], tuple(names["grid"])
    patch = resized.shape[-1] // grid[1]
    assert resized.shape[-2:] == (grid[0] * patch, grid[1] * patch)
    assert features.shape == (2, names["tokens"].shape[-1], *grid)
    changed = resized.clone()
    changed[:, :, patch : 2 * patch, 2 * patch : 3 * patch] += 1
    with torch.no_grad():
        maps = [tokens_to_map(tokens_of(model, x), grid=grid, prefix=prefix) for x in (resized, changed)]
    different = (maps[0] - maps[1]).abs().sum(dim=1) > 1e-6
    expected = torch.zeros_like(different)
    expected[:, 1, 2] = True
    assert torch.equal(different, expected)
    assert names["tokens"].shape[1] == prefix + grid[0] * grid[1]
    assert torch.equal(features[:, :, 1, 2], names["tokens"][:, prefix + grid[1] + 2])


def embeddings(model, images, name="embeddings", **options):
    """Tokens before attention mixes them, as the model orders them."""
    with capture_layers(model, name) as captured:
        model(images, **options)
    # DINOv3 returns them alone, others too; timm before its first block.
    return captured[name]


def test_page_has_the_sections_tested_here():
    assert {title: len(blocks) for title, blocks in SECTIONS.items()} == {
        None: 1,
        "ViTs in Hugging Face transformers": 2,
        "ViTs in timm": 1,
        "STEGO, CAUSE and other unsupervised segmenters": 2,
        "CNN stages": 2,
        "CLIP tokens": 1,
        "Layers of a classifier under DDP": 1,
        "Features saved for the full image": 1,
        "Whole folders": 0,
    }


@pytest.mark.parametrize(
    ("kind", "patch", "registers"),
    [("Dinov2", 14, 0), ("Dinov2WithRegisters", 14, 4), ("DINOv3ViT", 16, 4)],
)
def test_page_hugging_face_dinov2_and_3(transformers, monkeypatch, kind, patch, registers):
    if not hasattr(transformers, f"{kind}Model"):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}Model")
    options = {"num_register_tokens": registers} if registers else {}
    model = hugging_face(transformers, kind, patch, **options)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda name: model)
    names = run("ViTs in Hugging Face transformers")
    check_places(names, names["uss_features"], embeddings, 1 + registers)


def test_page_hugging_face_dino(transformers, monkeypatch):
    model = hugging_face(transformers, "ViT", 16)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda name: model)
    names = run("ViTs in Hugging Face transformers", 1)

    def tokens_of(model, x):
        return embeddings(model, x, interpolate_pos_encoding=True)

    check_places(names, names["uss_features"], tokens_of, 1)


def test_page_clip(transformers, monkeypatch):
    model = hugging_face(transformers, "CLIPVision", 16)
    monkeypatch.setattr(transformers.CLIPVisionModel, "from_pretrained", lambda name: model)
    names = run("CLIP tokens")
    layer = next(name for name, _ in model.named_modules() if name.endswith("embeddings"))

    def tokens_of(model, x):
        return embeddings(model, x, layer, interpolate_pos_encoding=True)

    check_places(names, names["wss_features"], tokens_of, 1)


@pytest.fixture
def random_timm(timm, monkeypatch):
    """timm, with random numbers for weights."""
    create = timm.create_model

    def create_random(name, *, pretrained, **options):
        assert pretrained
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_random)
    return timm


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        (None, 5),
        ("vit_small_patch14_dinov2.lvd142m", 1),
        ("vit_small_patch16_224.dino", 1),
        ("deit_small_distilled_patch16_224", 2),
        ("vit_small_patch16_dinov3.lvd1689m", 5),
    ],
)
def test_page_timm_vits(random_timm, monkeypatch, name, prefix):
    create = random_timm.create_model

    def create_small(page_name, **options):
        if "dinov3" in (name or page_name):
            del options["dynamic_img_size"]
        return create(name or page_name, depth=1, **options)

    monkeypatch.setattr(random_timm, "create_model", create_small)
    names = run("ViTs in timm")
    assert names["model"].num_prefix_tokens == prefix

    def tokens_of(model, x):
        return embeddings(model, x, "norm_pre")

    check_places(names, names["uss_features"], tokens_of, prefix)


def test_page_timm_cnn(random_timm):
    names = run("CNN stages", 1)
    assert [tuple(level.shape) for level in names["wss_features"]] == [(2, 256, 4, 6), (2, 512, 2, 3)]


def test_page_torchvision_cnn(torchvision, monkeypatch):
    from torchvision import models

    create = models.resnet50
    monkeypatch.setattr(models, "resnet50", lambda *, weights: create(weights=None))
    names = run("CNN stages")
    third, last = names["wss_features"]
    assert third.shape == (2, 1024, 4, 6)
    assert last.shape == (2, 2048, 2, 3)
    model = names["model"]
    with torch.no_grad():
        assert torch.equal(model.layer4(third), last)
        # CAMs average to the logits, up to the bias and what the ReLU of the page drops.
        cams = torch.einsum("bdhw,cd->bchw", last, model.fc.weight)
    torch.testing.assert_close(cams.mean((2, 3)) + model.fc.bias, names["logits"], rtol=1e-3, atol=1e-3)
    assert torch.equal(names["cams"], cams.relu())


class Backbone(nn.Module):
    """Patch embedding with class tokens in front, as ViTs do it."""

    def __init__(self, patch, depth, prefix):
        super().__init__()
        self.embed = nn.Conv2d(3, depth, patch, patch)
        self.front = nn.Parameter(torch.randn(1, prefix, depth))
        self.blocks = nn.ModuleList([nn.Linear(depth, depth) for _ in range(2)])

    def forward(self, x):
        tokens = torch.cat((self.front.expand(len(x), -1, -1), self.embed(x).flatten(2).mT), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def test_page_unsupervised_segmenters():
    section = "STEGO, CAUSE and other unsupervised segmenters"
    torch.manual_seed(0)
    stego = nn.Conv2d(3, 70, 8, 8)
    images = torch.randn(2, 3, 64, 96)
    code = run(section, stego=stego, images=images)["uss_features"]
    assert code.shape == (2, 70, 8, 12)
    mirrored = run(section, stego=stego, images=images.flip(3))["uss_features"]
    torch.testing.assert_close(mirrored.flip(3), code)

    backbone, head = Backbone(14, 16, 1), nn.Linear(16, 90)
    code = run(section, 1, backbone=backbone, head=head)["uss_features"]
    assert code.shape == (2, 90, 4, 6)
    images = torch.randn(2, 3, 56, 84)
    one, other = (
        run(section, 1, backbone=backbone, head=head, images=x)["uss_features"]
        for x in (images, images.flip(3))
    )
    torch.testing.assert_close(other.flip(3), one)


def test_page_classifier_with_many_class_tokens():
    model = Backbone(16, 24, 20)
    images = torch.randn(2, 3, 64, 96)
    names = run("Layers of a classifier under DDP", ddp_model=nn.DataParallel(model), images=images)
    with torch.no_grad():
        expected = model.blocks[1](model.blocks[0](model.embed(images).movedim(1, -1))).movedim(-1, 1)
    torch.testing.assert_close(names["wss_features"], expected)


def test_page_saved_features():
    rows, columns = torch.meshgrid(torch.arange(27.0), torch.arange(36.0), indexing="ij")
    names = run("Features saved for the full image", saved=torch.stack((rows, columns)))
    assert names["box"] == (0, 31, 512, 481)
    shown = names["uss_features"]
    assert shown.shape == (1, 2, 31, 31)
    # The middle row is the middle of the image; mirrored, the right end shows the left end of the image.
    assert shown[0, :, 15, -1].tolist() == [13, 0]
    assert shown[0, 1, 15, 0] == pytest.approx(36 * (1 - (88 + 256 / 31) / 600) - 0.5)
    assert shown[0, :, 0].eq(0).all()  # padding
