"""What --json prints is JSON, whatever the figures are."""

import json
import math

import pytest
from typer.testing import CliRunner

from medtune.commands import doctor, history, retract
from medtune.registry.plain_json import to_json


def test_what_is_no_number_is_null() -> None:
    data = {"a": math.nan, "b": [math.inf, -math.inf, 1.5, 2, True, None], "말": ({"c": math.nan},)}
    text = to_json(data)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None, "b": [None, None, 1.5, 2, True, None], "말": [{"c": None}],
    }  # fmt: skip
    assert '"말"' in text
    assert to_json([]) == "[]"


def test_every_command_prints_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from medtune import cli
    from medtune.registry import compare_versions

    for module in (cli, doctor, history, retract):
        assert module.to_json is to_json
    monkeypatch.setattr(history, "load_recipe", lambda: cli.load_recipe(cli.PARAMS))
    monkeypatch.setattr(compare_versions, "compare", lambda *arguments: {"nll": math.nan})
    done = CliRunner().invoke(cli.app, ["compare", "1", "2", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"nll": None}
