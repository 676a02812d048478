"""What README.md and docs/ tell people to type, and whether each program knows that command with these options.

Nothing is run here but `make -n`: medtune is asked through click, the flows through their argparse, DVC and Prefect
through their own parsers, all in this process.
"""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "data/README.md"})
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
JOINTS = {"&&", "|", "||", ";", "&"}
# Programs of others: that they are there, and know these options, is not ours to say
FOREIGN = {"git", "cat", "ls", "tail", "du", "sort", "rm", "cp", "cd", "source", "export", "nvidia-smi", "kubectl"}
FOREIGN |= {"torchrun", "accelerate"}


@dataclass(frozen=True)
class Command:
    """words: as a shell would have them, without variables before, pipes or redirections."""

    page: str
    line: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words) if any(not word for word in self.words) else " ".join(self.words)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@cache
def commands() -> tuple[Command, ...]:
    """Every command of every page, in order."""
    return tuple(command for page in PAGES for command in _of_page(page))


def _of_page(page: Path) -> Iterator[Command]:
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    for block in BLOCK.finditer(text):
        if block[2] not in ("console", ""):
            continue
        number = text[: block.start()].count("\n") + 1
        pending = ""
        for line in block[3].splitlines():
            number += 1
            line = line.removeprefix(block[1])
            if block[2] and not pending and not line.startswith("$ "):
                pytest.fail(f"{name}:{number}: a console block has commands that begin with '$ ', not {line!r}")
            pending += line.strip().removeprefix("$ ")
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            for words in filter(None, _parts(pending)):  # not: variables alone
                yield Command(name, number, tuple(words))
            pending = ""


def _parts(line: str) -> Iterator[list[str]]:
    if line.startswith("export "):  # its values may hold $(…)
        yield line.split()
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if token in (">", ">>", "<"):
            next(tokens)
            if words[-1].isdigit():
                words.pop()
        elif token in JOINTS:
            yield _bare(words)
            words = []
        else:
            words.append(token)
    if words:
        yield _bare(words)


def _bare(words: list[str]) -> list[str]:
    """Without variables that are set for this command alone."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def check(command: Command) -> None:
    """Fails with the program's own words where it does not know the command."""
    program, *arguments = command.words
    if program == "medtune":
        _medtune(arguments)
    elif program == "python" and arguments[0] == "-m":
        _module(arguments[1], arguments[2:])
    elif program == "python":
        assert arguments[0] == "-c"
        compile(arguments[1], str(command), "exec")
    elif program == "dvc":
        _dvc(arguments)
    elif program == "prefect":
        _prefect(arguments)
    elif program == "make":
        _make(arguments)
    elif program == "docker":
        _docker(arguments)
    elif program == "pip":
        extras = re.findall(r"medtune\[(\w+)\]", " ".join(arguments))
        assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
    elif "/" in program:
        assert (ROOT / program).is_file(), f"there is no {program}"
    else:
        assert program in FOREIGN, f"who knows {program}?"


def _medtune(arguments: list[str]) -> None:
    import typer

    from medtune.cli import app

    command, name = typer.main.get_command(app), "medtune"
    context = command.make_context(name, list(arguments))
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        assert rest, f"`{name}` needs a command of its own"
        found, command, rest = command.resolve_command(context, rest)
        name = f"{name} {found}"
        context = command.make_context(name, rest, parent=context)


class Parsed(Exception):
    """The arguments were understood; what follows is not to be done."""


def _module(name: str, arguments: list[str]) -> None:
    """Its own main, up to where the arguments are understood."""
    if not name.startswith(("flows.", "benchmarks.")):
        assert importlib.util.find_spec(name) is not None
        return
    understood = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given, **more):
        understood(self, *given, **more)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            importlib.import_module(name).main()


def _dvc(arguments: list[str]) -> None:
    from dvc.cli.parser import get_main_parser

    said = get_main_parser().parse_args(arguments)
    if arguments[0] in ("repro", "commit", "status", "push", "pull"):
        stages = [*yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], "data/incoming.dvc"]
        assert set(said.targets or ()) <= set(stages), f"dvc.yaml has no stage {said.targets}"


def _prefect(arguments: list[str]) -> None:
    from prefect.cli._app import _app

    from flows.automations import DATA_ARRIVED, HEARTBEAT_LOST
    from flows.deployments import read_deployments

    _app.parse_args(arguments, print_error=False, exit_on_error=False)
    deployments = {item.full_name: item.pool for item in read_deployments(ROOT)}
    for word in arguments:
        if re.fullmatch(r"medtune-\w+/\S+", word):
            assert word in deployments, f"prefect.yaml has no {word}"
    if arguments[0] == "automation" and len(arguments) > 2:
        assert arguments[2] in (DATA_ARRIVED, HEARTBEAT_LOST)
    if arguments[0] == "work-pool" and len(arguments) > 2:
        assert arguments[2] in deployments.values()


@cache
def _targets() -> str:
    return subprocess.run(["make", "-pnq"], cwd=ROOT, capture_output=True, text=True).stdout


def _make(arguments: list[str]) -> None:
    for word in arguments:
        assert "=" in word or re.search(rf"(?m)^{re.escape(word)}:", _targets()), f"Makefile has no {word}"


def _docker(arguments: list[str]) -> None:
    """Profiles, services and build targets are those of compose.yaml."""
    if arguments[0] != "compose":
        return
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    profiles = {name for service in services.values() for name in service.get("profiles", ())}
    if "--profile" in arguments:
        assert arguments[arguments.index("--profile") + 1] in profiles
    for verb in ("exec", "logs"):
        if verb in arguments:
            named = next(word for word in arguments[arguments.index(verb) + 1 :] if not word.startswith("-"))
            assert named in services
