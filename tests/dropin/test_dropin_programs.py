"""Programs of calls give the original's marginals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from originals import OURS, Tally, original
from programs import KERNELS, NORMALIZATIONS, Call, Program, make_energies, make_image, programs


def test_random_programs():
    theirs, tally = original(), Tally()

    @settings(max_examples=80)
    @given(programs())
    def run(program):
        tally.add(program.run(OURS), program.run(theirs))

    run()
    tally.check()


@pytest.mark.parametrize("labels", [2, 3, 21])
@pytest.mark.parametrize("image", ["photo", "noise", "blocks", "flat"])
@pytest.mark.parametrize("energies", ["probabilities", "labels"])
def test_the_usual_program(image, energies, labels):
    """On images and scores with many ties as well."""
    rng = np.random.default_rng(labels)
    height, width = 111, 94
    calls = (
        Call("addPairwiseGaussian", {"sxy": 3, "compat": 3}, KERNELS[1], NORMALIZATIONS[3]),
        Call(
            "addPairwiseBilateral",
            {"sxy": 80, "srgb": 13, "rgbim": make_image(image, height, width, rng), "compat": 10},
            KERNELS[1],
            NORMALIZATIONS[3],
        ),
    )
    program = Program(height, width, make_energies(energies, labels, height * width, rng), calls, 10)
    tally = Tally()
    tally.add(program.run(OURS), program.run(original()))
    tally.check()


def test_a_field_without_a_size_is_the_same():
    """Features alone make the kernel; sizes say at most how its pixels lie."""
    theirs, tally = original(), Tally()

    @settings(max_examples=25)
    @given(programs(most_terms=2))
    def run(program):
        calls = tuple(call for call in program.calls if call.method == "addPairwiseEnergy")
        program = program._replace(calls=calls)
        ours = program.run(OURS, flat=True)
        tally.add(ours, program.run(theirs, flat=True))
        np.testing.assert_allclose(ours, program.run(OURS), atol=1e-4)

    run()
    tally.check()


def test_steps_and_divergence():
    """Step by step, in place, from marginals of any kind."""
    theirs = original()

    @settings(max_examples=40)
    @given(programs(most_terms=2))
    def run(program):
        mine, real = program.build(OURS), program.build(theirs)
        q, tmp1, tmp2 = mine.startInference()
        real_q, *real_tmp = real.startInference()
        view = np.asarray(real_q)
        np.testing.assert_allclose(q, view, atol=1e-6)
        if program.iterations > 7:  # marginals of the caller, which need not sum to 1
            view[...] = q[...] = np.random.default_rng(1).random(q.shape, dtype=np.float32)
        for _ in range(3):
            assert mine.stepInference(q, tmp1, tmp2) is None
            real.stepInference(real_q, *real_tmp)
            np.testing.assert_allclose(q, view, atol=1e-3)
        expected = real.klDivergence(real_q)
        if np.isfinite(expected):
            assert mine.klDivergence(q) == pytest.approx(expected, rel=2e-3, abs=1e-3 * q.shape[1])

    run()


@pytest.mark.parametrize(("axes", "offset"), [(5, 1e5), (7, 1e4), (9, 100)])
@pytest.mark.parametrize("pixels", [200, 201])
def test_features_far_from_zero(axes, offset, pixels):
    """Coordinates of a map, say: what lies between them and zero takes no room."""
    rng = np.random.default_rng(axes)
    features = (4 * rng.random((axes, pixels)) + offset).astype(np.float32)
    energies = make_energies("probabilities", 3, pixels, rng)
    results = []
    for interface in (OURS, original()):
        field = interface.densecrf.DenseCRF(pixels, 3)
        field.setUnaryEnergy(energies)
        field.addPairwiseEnergy(features, compat=3)
        results.append(np.array(field.inference(4)))
    assert np.abs(results[0] - results[1]).max() < 1e-5
