"""PyTorch's own ways to call a function: torch.func, inference mode, fakes, nested and other tensors.

Each public function of tensors (pytorch_calls.py) does what is natural, or says what to do instead.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from pytorch_calls import CALLS, CAMS, IMAGES, MASKS, TAGS, USS, WSS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, grad, jvp, vmap

import dhr_refine

# PyTorch's own, of its derivatives in forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

# Nothing but moves numbers: no transform harms them.
MOVES = {"tokens_to_map", "View.crop"}
# True or False of whole numbers.
FLAGS = {"has_labels", "has_split_labels"}
# Gradients of torch.func flow through: plain arithmetic.
GRADED = {"class_avg_pool", *MOVES}
# Gradients flow through these, so within inference mode they give what PyTorch gives there.
FOLLOW_THE_MODE = {
    *("class_avg_pool", "dense_energy_loss", "random_walk", "sinkhorn_ot", "PermutohedralLattice"),
    *(MOVES | FLAGS),
}
FLOATING = [
    (name, i)
    for name, call in CALLS.items()
    for i, tensor in enumerate(call.tensors)
    if tensor.is_floating_point() and name not in GRADED
]


def called(name: str) -> str:
    """What an error calls the function; a method without its class, a class by its name."""
    method = {"View.crop": "crop", "ClassMemory": "update"}
    return method.get(name, name)


def with_one(name: str, place: int):
    """The function of one of its tensors, as a sum."""
    call = CALLS[name]

    def run(tensor: Tensor) -> Tensor:
        tensors = [*call.tensors]
        tensors[place] = tensor
        return call.run(*tensors).double().sum()

    return run


@pytest.mark.parametrize(("name", "place"), FLOATING, ids=str)
@pytest.mark.parametrize("way", ["grad", "jvp", "vmap", "vmap of grad", "grad of vmap", "functional_call"])
def test_transforms_of_torch_func_say_what_to_do(name, place, way):
    run, given = with_one(name, place), CALLS[name].tensors[place]
    argument = CALLS[name].names[place]

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, tensor):
            return run(self.weight * tensor)

    def call():
        if way == "grad":
            return grad(run)(given)
        if way == "jvp":
            return jvp(run, (given,), (torch.ones_like(given),))
        if way == "vmap":
            return vmap(run)(given[None])
        if way == "vmap of grad":
            return vmap(grad(run))(given[None])
        if way == "grad of vmap":
            return grad(lambda tensor: vmap(run)(tensor[None]).sum())(given)
        module = Module()
        return grad(lambda weights: functional_call(module, weights, (given,)))(
            dict(module.named_parameters())
        )

    with pytest.raises(
        TypeError, match=rf"^{argument}\S* is within a transform such as torch\.func"
    ) as error:
        call()
    # What is made with a lattice is called for the second tensor.
    later = {"DenseCRFLattice": "dense_crf", "PermutohedralLattice": "filter"}
    function = later[name] if place == 1 and name in later else called(name)
    assert f"call {function} outside" in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_tensors_within_a_transform():
    """A loss that torch.func differentiates may make its masks itself."""
    weights = torch.rand(9, generator=torch.Generator().manual_seed(0))

    def loss(weights):
        masks = dhr_refine.refine_mask(CAMS, MASKS, USS, WSS, IMAGES, labels=TAGS)
        return weights[masks].mean()

    expected = dhr_refine.refine_mask(CAMS, MASKS, USS, WSS, IMAGES, labels=TAGS)
    shares = torch.bincount(expected.flatten(), minlength=9) / expected.numel()
    torch.testing.assert_close(grad(loss)(weights), shares, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(CALLS) - MOVES - FLAGS))
def test_functionalize_and_fakes_say_what_to_do(name):
    """They have a place in memory, at address 0: machine code would read it."""
    call = CALLS[name]
    with pytest.raises(
        TypeError, match=r"is a tensor without numbers, of FakeTensorMode, .* outside, on plain"
    ):
        functionalize(lambda *tensors: call.run(*tensors))(*call.tensors)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(tensor) for tensor in call.tensors]
        with pytest.raises(TypeError, match="is a tensor without numbers, of FakeTensorMode"):
            call.run(*fakes)


@pytest.mark.parametrize("name", sorted(set(CALLS) - MOVES - FLAGS))
def test_meta_tensors_say_what_to_do(name):
    with pytest.raises((TypeError, ValueError), match="on the meta device, which holds no"):
        CALLS[name].run(*(tensor.to("meta") for tensor in CALLS[name].tensors))


@pytest.mark.parametrize("name", sorted(GRADED))
def test_gradients_of_torch_func_where_they_are_natural(name):
    run, given = with_one(name, 0), CALLS[name].tensors[0]
    leaf = given.clone().requires_grad_()
    expected = torch.autograd.grad(run(leaf), leaf)[0]
    torch.testing.assert_close(grad(run)(given), expected)
    value, tangent = jvp(run, (given,), (torch.ones_like(given),))
    torch.testing.assert_close(value, run(given))
    torch.testing.assert_close(tangent, expected.double().sum(), check_dtype=False)


def test_class_avg_pool_within_vmap_says_what_to_do():
    run = CALLS["class_avg_pool"].run
    with pytest.raises(TypeError, match=r"^mask is within a transform .*: call class_avg_pool outside"):
        vmap(run)(USS[None], MASKS.clamp(max=2)[None])


@pytest.mark.parametrize("name", sorted(MOVES))
def test_vmap_where_it_is_natural(name):
    run, (given,) = CALLS[name].run, CALLS[name].tensors
    torch.testing.assert_close(vmap(run)(torch.stack([given, given + 1]))[1], run(given + 1))


def alike(name: str, *tensors: Tensor) -> Tensor:
    """The result, which is that of plain tensors."""
    call = CALLS[name]
    before = [tensor.detach().clone() for tensor in tensors]
    result = call.run(*tensors)
    expected = call.run(*call.tensors)
    # A sum over memory in another order may differ in the last digit.
    torch.testing.assert_close(result.as_subclass(Tensor), expected, rtol=1e-4, atol=1e-5)
    for tensor, own in zip(tensors, before):
        assert torch.equal(tensor.detach().as_subclass(Tensor), own.as_subclass(Tensor))
    return result


class Own(Tensor):
    """A subclass as torchvision's tv_tensors are."""


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "turned axes": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "a part of a larger one": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "negative bit": lambda x: torch._neg_view(-x) if x.is_floating_point() else x,
    "subclass": lambda x: x.as_subclass(Own),
    "made subclass": lambda x: Tensor._make_subclass(Own, x),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_tensors_of_every_layout_and_class(name, layout):
    result = alike(name, *map(LAYOUTS[layout], CALLS[name].tensors))
    if name not in FOLLOW_THE_MODE:
        assert type(result) is Tensor
        assert not result.requires_grad


@pytest.mark.parametrize("name", CALLS)
def test_expanded_tensors(name):
    call = CALLS[name]
    expanded = [tensor[:1].expand(tensor.shape) for tensor in call.tensors]
    torch.testing.assert_close(
        call.run(*expanded), call.run(*(tensor.contiguous() for tensor in expanded)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode(name):
    call = CALLS[name]
    with torch.inference_mode():
        given = [tensor.clone() for tensor in call.tensors]
        within = alike(name, *given)
    after = alike(name, *given)
    if name in FOLLOW_THE_MODE:
        return
    for result in (within, after):
        assert not result.is_inference()
        result += 0  # after inference mode an inference tensor refuses this
    assert torch.is_grad_enabled()


def test_masks_made_in_inference_mode_train_a_network():
    logits = torch.zeros(2, 21, *MASKS.shape[1:], requires_grad=True)
    with torch.inference_mode():
        masks = dhr_refine.refine_mask(CAMS, MASKS, USS, WSS, IMAGES, labels=TAGS)
    torch.nn.functional.cross_entropy(logits, masks, ignore_index=255).backward()
    assert logits.grad is not None


def test_a_memory_goes_on_after_inference_mode():
    with torch.inference_mode():
        memory = dhr_refine.ClassMemory(9, 6, least_images=1)
        memory.update(USS, MASKS, labels=TAGS)
    memory.update(USS, MASKS, labels=TAGS)
    memory.merge(memory)
    assert memory.images.sum() > 0
    assert memory.solve().means.isfinite().all()


def nested(tensor: Tensor, layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that strided ones are a prototype
        return torch.nested.nested_tensor(list(tensor), layout=layout)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_lists_where_lists_are_taken(layout):
    step = [nested(tensor, layout) for tensor in (CAMS, MASKS, USS, WSS, IMAGES)]
    masks = dhr_refine.refine_mask(*step, labels=TAGS)
    assert isinstance(masks, list)
    expected = dhr_refine.refine_mask(CAMS, MASKS, USS, WSS, IMAGES, labels=TAGS)
    assert torch.equal(torch.stack(masks), expected)
    cams, images = step[0], step[4]
    made = dhr_refine.base_mask(cams, TAGS, images, background=0.3)
    assert torch.equal(torch.stack(made), dhr_refine.base_mask(CAMS, TAGS, IMAGES, background=0.3))
    memory, other = (dhr_refine.ClassMemory(9, 6, least_images=1) for _ in range(2))
    memory.update(step[2], step[1], labels=TAGS)
    other.update(USS, MASKS, labels=TAGS)
    torch.testing.assert_close(memory.solve().means, other.solve().means)


LISTED = {"refine_mask", "refine_steps", "base_mask", "two_threshold_mask", "ClassMemory"}


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("name", sorted(set(CALLS) - LISTED))
def test_nested_tensors_elsewhere_say_what_to_do(name, layout):
    call = CALLS[name]
    fix = rf"must be a dense tensor, got a nested one: call {called(name)} on each of \w+\.unbind\(\)$"
    with pytest.raises(TypeError, match=fix):
        call.run(*(nested(tensor, layout) for tensor in call.tensors))
