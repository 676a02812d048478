"""Losses are what they were: a change of the engine that was meant to compute the same does. See engine/golden.py."""

import json

import pytest

from engine.golden import ENGINES, FILE, golden_losses

HOW = "a new release of a library? Then renew the file, as engine/golden.py says; otherwise it is a defect"


def test_losses_are_what_they_were(tiny_base, tmp_path):
    found, wanted = golden_losses(tiny_base, tmp_path), json.loads(FILE.read_text())
    for engine in ENGINES:
        assert len(found[engine]) == len(wanted[engine]) == 8
        assert found[engine] == pytest.approx(wanted[engine], rel=1e-5), f"{engine}: {HOW}"
    assert len(set(found["fast"])) == 8  # something moves
