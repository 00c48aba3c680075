"""The class-agnostic ViT: its conversion from ONNX, and its features; skipped only without its weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from weights import vit_or_skip

from dhr_refine.errors import UserError
from dhr_refine.pretrained import VisionTransformer, vit


@pytest.fixture(scope="session")
def vit_path():
    """The checked weights."""
    return vit_or_skip()


@pytest.fixture(scope="session")
def onnx_model(vit_path):
    """The parsed ONNX file."""
    import onnx

    return onnx.load(vit_path, load_external_data=False)


@pytest.fixture(scope="session")
def transformer(vit_path):
    """The converted network."""
    return VisionTransformer.load(vit_path)


def test_conversion_covers_every_parameter(onnx_model, transformer):
    state = vit.dinov2_state_from_onnx(onnx_model)
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
    with pytest.raises(UserError, match=r"1 parameters .* \(first: layernorm\.bias\)"):
        vit.dinov2_from_onnx(damaged)


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
