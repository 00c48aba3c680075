"""What a class memory refuses, in words that name the argument, what came, and a fix that works."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from scenes import make_scene

from dhr_refine import ClassMemory, refine_mask, refine_steps

CLASSES = 9
DIM = 12
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scene():
    return make_scene(0)


@pytest.fixture
def memory(scene):
    memory = ClassMemory(CLASSES, DIM, least_images=1)
    memory.update(scene.uss, scene.mask, labels=scene.tags)
    return memory


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be .*2"),
        ({"num_classes": 0, "background": "none"}, ValueError, "num_classes"),
        ({"num_classes": 2.5}, (TypeError, ValueError), "num_classes"),
        ({"num_classes": True}, (TypeError, ValueError), "num_classes"),
        ({"dim": 1}, ValueError, "dim"),
        ({"dim": None}, (TypeError, ValueError), "dim"),
        ({"background": "middle"}, ValueError, "background must be .*'first'.*got 'middle'"),
        ({"background": None}, (TypeError, ValueError), "background"),
        ({"covariance": "full"}, ValueError, "covariance must be .*'class'.*'pooled'.*got 'full'"),
        ({"decay": 0.0}, ValueError, "decay"),
        ({"decay": 1.1}, ValueError, "decay"),
        ({"decay": float("nan")}, ValueError, "decay"),
        ({"decay": "1"}, (TypeError, ValueError), "decay"),
        ({"least_images": 0}, ValueError, "least_images"),
        ({"least_images": float("inf")}, ValueError, "least_images"),
        ({"shrinkage": 0.0}, ValueError, "shrinkage"),
        ({"shrinkage": -0.1}, ValueError, "shrinkage"),
        ({"shrinkage": float("inf")}, ValueError, "shrinkage"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message) as caught:
        ClassMemory(**{"num_classes": CLASSES, "dim": DIM, **options})
    assert "\n" not in str(caught.value)


def test_one_class_without_a_background():
    assert ClassMemory(1, DIM, background="none").num_classes == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"uss_features": torch.zeros(5, 8, 11)}, ValueError, r"5 channels .* dim 12.*ClassMemory\(9, 5\)"),
        ({"uss_features": torch.zeros(1, DIM, 8, 11)}, ValueError, "uss_features must have shape"),
        ({"uss_features": torch.zeros(DIM, 8, 11, dtype=torch.long)}, TypeError, "uss_features"),
        ({"uss_features": np.zeros((DIM, 8, 11))}, TypeError, "uss_features"),
        ({"uss_features": torch.full((DIM, 8, 11), torch.nan)}, ValueError, "uss_features .*NaN"),
        ({"uss_features": torch.full((DIM, 8, 11), torch.inf)}, ValueError, "uss_features"),
        ({"uss_features": torch.zeros(DIM, 0, 11)}, ValueError, "uss_features"),
        ({"masks": torch.zeros(0, 56)}, ValueError, "masks"),
        ({"masks": torch.full((40, 56), 9)}, ValueError, "masks holds the label 9, outside 0..8"),
        ({"masks": torch.full((40, 56), -1)}, ValueError, "masks holds the label -1"),
        ({"masks": torch.full((40, 56), 0.5)}, ValueError, "masks holds values that are no whole numbers"),
        ({"masks": torch.zeros(40, 56, dtype=torch.bool)}, TypeError, "masks must hold labels"),
        ({"masks": "mask.png"}, TypeError, "masks"),
        ({"masks": None}, TypeError, "masks"),
        ({"labels": [8]}, ValueError, "8"),
        ({"labels": [-1]}, ValueError, "-1"),
        ({"labels": torch.zeros(5)}, ValueError, "labels"),
        ({"labels": "dog"}, TypeError, "labels"),
        ({"boxes": (0, 0, 5, 5)}, ValueError, "box_format must be"),
        ({"boxes": (0, 0, 5, 500), "box_format": "xyxy"}, ValueError, "box"),
        ({"ignore_index": None}, (TypeError, ValueError), "ignore_index"),
        ({"ignore_index": 3}, ValueError, "ignore_index"),
        ({"known": "memory"}, TypeError, "known must be a ClassMemory.*ClassMemory.load"),
        ({"known": ClassMemory.load}, TypeError, "known must be"),
        ({"known": ClassMemory(8, DIM)}, ValueError, "known has num_classes 8 but this memory 9"),
        ({"known": ClassMemory(9, 5).solve()}, ValueError, "known has dim 5 but this memory 12"),
        ({"known": ClassMemory(9, DIM, background="last")}, ValueError, "known has background 'last'"),
    ],
)
def test_updates(scene, change, error, message):
    memory = ClassMemory(CLASSES, DIM)
    sample = {"uss_features": scene.uss, "masks": scene.mask, "labels": scene.tags}
    with pytest.raises(error, match=message) as caught:
        memory.update(**(sample | change))
    assert "\n" not in str(caught.value)
    assert not any(value.any() for value in memory.state_dict().values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uss_features": 1}, "uss_features must have one entry for each of the 2 masks"),
        ({"boxes": [None], "box_format": "xyxy"}, "boxes must have one entry for each of the 2 masks, got 1"),
        ({"labels": [[2]]}, "labels has 1 entries but masks has 2"),
    ],
)
def test_lists_of_other_lengths(scene, change, message):
    if "uss_features" in change:
        change = {"uss_features": [scene.uss]}
    sample = {"uss_features": [scene.uss] * 2, "masks": [scene.mask] * 2, "labels": [[2], [6]]}
    with pytest.raises(ValueError, match=message):
        ClassMemory(CLASSES, DIM).update(**(sample | change))


def test_lists_name_the_entry_and_keep_those_before(scene):
    memory = ClassMemory(CLASSES, DIM)
    broken = scene.uss.clone()
    broken[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"uss_features\[1\]"):
        memory.update([scene.uss, broken, scene.uss], [scene.mask] * 3)
    assert memory.state_dict()["seen"] == 1


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (None, TypeError, "other must be a ClassMemory, got"),
        (ClassMemory(9, DIM).solve(), TypeError, "other must be a ClassMemory, got"),
        (ClassMemory(8, DIM), ValueError, "other has num_classes 8 but this memory 9"),
        (ClassMemory(9, 5), ValueError, "other has dim 5 but this memory 12"),
        (ClassMemory(9, DIM, background="none"), ValueError, "other has background 'none'"),
        (ClassMemory(9, DIM, covariance="pooled"), ValueError, "other has covariance 'pooled'.*'class'"),
    ],
)
def test_merging(memory, other, error, message):
    before = memory.state_dict()["first"]
    with pytest.raises(error, match=message):
        memory.merge(other)
    assert torch.equal(memory.state_dict()["first"], before)


def test_fit(scene):
    sample = {"uss_features": scene.uss, "masks": scene.mask, "labels": scene.tags}
    for samples, options, error, message in (
        ([], {}, ValueError, "samples gave no images"),
        (lambda: iter([]), {}, ValueError, "samples gave no images"),
        (iter([sample]), {}, TypeError, "samples must be readable more than once"),
        ((s for s in [sample]), {"rounds": 1}, TypeError, r"samples .*\(or rounds=0\)"),
        ([{"masks": scene.mask}], {}, TypeError, "sample 0 must be a dict with uss_features, masks"),
        ([sample, {"uss_features": scene.uss}], {}, TypeError, "sample 1 must be a dict"),
        ([(scene.uss, scene.mask)], {}, TypeError, "sample 0 must be a dict"),
        ([sample | {"known": None}], {}, TypeError, "sample 0 has known"),
        ([sample | {"uss_features": "a.npy"}], {}, TypeError, "uss_features must be a tensor"),
        ([sample | {"uss_features": []}], {}, TypeError, "uss_features must be a tensor"),
        ([sample | {"uss_features": torch.zeros(3)}], {}, TypeError, "uss_features must be a tensor"),
        ([sample], {"rounds": -1}, ValueError, "rounds"),
        ([sample], {"rounds": 1.5}, (TypeError, ValueError), "rounds"),
        ([sample], {"dim": 12}, TypeError, "fit sets dim and known itself"),
        ([sample], {"known": None}, TypeError, "fit sets dim and known itself"),
        ([sample], {"decay": 2.0}, ValueError, "decay"),
    ):
        with pytest.raises(error, match=message):
            ClassMemory.fit(samples, CLASSES, **options)


def test_fit_takes_a_generator_for_one_pass_or_a_function_that_makes_it(scene):
    sample = {"uss_features": scene.uss, "masks": scene.mask, "labels": scene.tags}
    one = ClassMemory.fit(iter([sample]), CLASSES, rounds=0)
    assert one.state_dict()["seen"] == 1
    assert ClassMemory.fit(lambda: iter([sample]), CLASSES).state_dict()["seen"] == 1


def run(scene, memory, **options):
    options = {"labels": scene.tags, "boundary": None, **options}
    return refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, memory=memory, **options)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (5, TypeError, "memory must be a ClassMemory, what its solve\\(\\) returns, or None, got"),
        ("memory.npz", TypeError, r"memory must be .*ClassMemory.load\(path\)"),
        ({"first": 0}, TypeError, "memory must be a ClassMemory"),
        (ClassMemory(9, 5), ValueError, "uss_features has 12 channels but memory has dim 5"),
        (
            ClassMemory(9, DIM, background="last"),
            ValueError,
            "memory has background 'last' but background is",
        ),
        (ClassMemory(21, DIM), ValueError, r"memory has 20 foreground .* 8.*num_classes=9"),
        (ClassMemory(7, DIM).solve(), ValueError, r"memory has 6 foreground .* 8.*num_classes=9"),
    ],
)
def test_the_step(scene, given, error, message):
    hot = torch.zeros(8)
    hot[scene.tags] = 1
    with pytest.raises(error, match=message):
        run(scene, given, labels=hot)
    with pytest.raises(error, match=message.split(", or None")[0]):
        refine_mask(scene.cams, scene.mask, scene.uss, scene.wss, labels=hot, boundary=None, memory=given)


def test_a_method_of_the_memory_is_no_memory(scene, memory):
    with pytest.raises(TypeError, match=r"memory must be a ClassMemory.*solve\(\)"):
        run(scene, memory.solve)


def test_index_tags_and_memories_of_another_number_of_classes(scene):
    own = scene._replace(cams=scene.cams[scene.tags])
    # CAMs of the tags alone do not say how many classes there are: those that fit are taken.
    assert run(own, ClassMemory(21, DIM)).classes.tolist() == [0, 3, 7]
    with pytest.raises(ValueError, match=r"memory has 6 foreground .* label 7.*num_classes=8"):
        run(own, ClassMemory(7, DIM))
    assert run(own, ClassMemory(8, DIM)).classes.tolist() == [0, 3, 7]


@pytest.mark.parametrize("kind", ["list", "none", "empty", "missing"])
def test_no_state(memory, kind):
    state = memory.state_dict()
    state.pop("second")
    given = {"list": [1], "none": None, "empty": {}, "missing": state}[kind]
    with pytest.raises((TypeError, ValueError), match=r"state (must be a dict|has no \w+): ?.*|state must"):
        memory.load_state_dict(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [("decay", 0.5), ("least_images", 3.0), ("shrinkage", 0.2), ("background", "last"), ("dim", 11)],
)
def test_a_state_of_other_options(memory, name, value):
    before = memory.state_dict()
    with pytest.raises(ValueError, match=name if name != "dim" else "first of the state must have shape"):
        memory.load_state_dict(before | {name: value})
    assert torch.equal(memory.state_dict()["first"], before["first"])


def bad(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first", lambda t: t.float()),
        ("first", lambda t: t[:-1]),
        ("first", lambda t: t.tolist()),
        ("second", lambda t: t[0]),
        ("seen", lambda t: t[None]),
        ("images", lambda t: bad(t, -1.0)),
        ("weight", lambda t: bad(t, -1e-3)),
        ("seen", lambda t: bad(t, -1.0)),
        ("first", lambda t: bad(t, torch.nan)),
        ("second", lambda t: bad(t, torch.inf)),
        ("images", lambda t: bad(t, torch.nan)),
    ],
)
def test_a_state_of_other_sums(memory, tmp_path, name, change):
    state = memory.state_dict()
    changed = state | {name: change(state[name])}
    with pytest.raises(ValueError, match=f"^{name} of the state"):
        memory.load_state_dict(changed)
    assert all(torch.equal(memory.state_dict()[n], state[n]) for n in ("seen", "images", "first", "second"))
    path = tmp_path / "broken.npz"
    np.savez(path, **{key: np.asarray(value) for key, value in changed.items()})
    if isinstance(changed[name], list):
        return  # in a file an array again
    assert_refused(path, name)


def assert_refused(path, *words):
    """A ValueError that names the file in one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        ClassMemory.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def arrays(memory):
    return {name: np.asarray(value) for name, value in memory.state_dict().items()}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut(memory, tmp_path, share):
    path = tmp_path / "memory.npz"
    memory.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert_refused(path)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_file_with_a_flipped_byte(memory, tmp_path, place):
    path = tmp_path / "memory.npz"
    memory.save(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0xFF
    path.write_bytes(bytes(data))
    assert_refused(path)


@pytest.mark.parametrize("number", [10**6, 10**12, -1, 0, 2.5, float("nan"), "many"])
@pytest.mark.parametrize("name", ["num_classes", "dim"])
def test_a_file_that_claims_another_size_takes_no_room(arrays, tmp_path, name, number):
    path = tmp_path / "memory.npz"
    np.savez(path, **(arrays | {name: np.asarray(number)}))
    tracemalloc.start()
    try:
        assert_refused(path, "holds no memory")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("background", "middle"),
        ("background", 1),
        ("covariance", "pooled"),
        ("covariance", "full"),
        ("decay", 7.0),
        ("decay", "x"),
        ("shrinkage", np.nan),
        ("least_images", -1.0),
        ("decay", np.zeros(3)),
        ("num_classes", np.zeros((2, 2))),
    ],
)
def test_a_file_of_wrong_options(arrays, tmp_path, name, value):
    path = tmp_path / "memory.npz"
    np.savez(path, **(arrays | {name: np.asarray(value)}))
    assert_refused(path, "holds no memory")


def test_files_of_other_things(arrays, tmp_path):
    for name in arrays:
        path = tmp_path / f"without_{name}.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if key != name})
        assert_refused(path, name)
    path = tmp_path / "array.npy"
    np.save(path, np.zeros((3, 4)))
    assert_refused(path, "holds no memory")
    path = tmp_path / "text.npz"
    path.write_text("a memory")
    assert_refused(path)
    path = tmp_path / "objects.npz"
    np.savez(path, **(arrays | {"first": np.array([object()], dtype=object)}))
    assert_refused(path)


class Loud:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def test_a_pickle_is_not_executed(arrays, tmp_path):
    path = tmp_path / "pickle.npz"
    path.write_bytes(pickle.dumps(arrays | {"first": Loud()}))
    assert_refused(path)
    np.savez(path, **(arrays | {"first": np.array([Loud()], dtype=object)}))
    assert_refused(path)
    path.write_bytes(pickle.dumps([1, 2, 3]))
    assert_refused(path)


def test_a_file_that_is_not_there(memory, tmp_path):
    with pytest.raises(OSError, match=r"none\.npz"):
        ClassMemory.load(tmp_path / "none.npz")
    with pytest.raises(OSError, match="nowhere"):
        memory.save(tmp_path / "nowhere" / "memory.npz")


def test_sums_of_no_features(memory):
    """Second moments that no features can have."""
    state = memory.state_dict()
    memory.load_state_dict(state | {"second": -state["second"]})
    with pytest.raises(ValueError, match=r"those of no features .*make the memory anew"):
        memory.solve()


def test_a_name_of_two_lines_is_shown_on_one(arrays, tmp_path):
    path = tmp_path / "two\nlines.npz"
    np.savez(path, **(arrays | {"decay": np.asarray(7.0)}))
    with pytest.raises(ValueError, match=r"two\\nlines.npz holds no memory \(decay") as caught:
        ClassMemory.load(path)
    assert "\n" not in str(caught.value)
