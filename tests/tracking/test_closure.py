"""The import closure over small projects written here, and over this one."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from medtune.params.errors import UserError
from medtune.tracking.closure import import_closure, source_digest


@pytest.fixture
def project(tmp_path: Path):
    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
            for package in path.relative_to(tmp_path).parents[:-1]:
                init = tmp_path / package / "__init__.py"
                if not init.exists():
                    init.touch()
        return tmp_path

    return write


def names(root: Path, module: str = "stages.train") -> set[str]:
    """The closure, without the empty __init__ files."""
    return {f.as_posix() for f in import_closure(module, root) if f.name != "__init__.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "import medtune.engine.load",
        "import medtune.engine.load as load",
        "from medtune.engine import load",
        "from medtune.engine.load import model, tokenizer",
        "def main():\n    from medtune.engine.load import model",
        "class A:\n    def f(self):\n        import medtune.engine.load",
        "try:\n    import medtune.engine.load\nexcept ImportError:\n    raise",
        "from medtune.engine.load import *",
    ],
)
def test_every_form_of_import_is_followed(project, statement):
    root = project({"stages/train.py": statement, "medtune/engine/load.py": "", "medtune/engine/merge.py": ""})
    assert names(root) == {"stages/train.py", "medtune/engine/load.py"}
    inits = {f.as_posix() for f in import_closure("stages.train", root)} - names(root)
    assert inits == {"stages/__init__.py", "medtune/__init__.py", "medtune/engine/__init__.py"}


def test_relative_imports_count_from_the_package(project):
    root = project(
        {
            "stages/train.py": "from medtune.engine import load",
            "medtune/engine/load.py": "from .merge import x\nfrom . import save\nfrom ..params import lora",
            "medtune/engine/merge.py": "",
            "medtune/engine/save.py": "",
            "medtune/params/lora.py": "",
        }
    )
    assert names(root) == {
        "stages/train.py",
        *(f"medtune/{m}.py" for m in ("engine/load", "engine/merge", "engine/save", "params/lora")),
    }


def test_an_init_file_is_read_for_its_own_imports(project):
    root = project(
        {
            "stages/train.py": "import medtune.engine.load",
            "medtune/engine/__init__.py": "from .merge import x",
            "medtune/engine/load.py": "",
            "medtune/engine/merge.py": "",
        }
    )
    assert "medtune/engine/merge.py" in names(root)


def test_circles_end(project):
    root = project(
        {
            "stages/train.py": "from medtune import a",
            "medtune/a.py": "import medtune.b",
            "medtune/b.py": "import medtune.a",
        }
    )
    assert names(root) == {"stages/train.py", "medtune/a.py", "medtune/b.py"}


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_type_checking_blocks_do_not_count_but_their_else_does(project, test):
    root = project(
        {
            "stages/train.py": f"""
                if {test}:
                    from medtune import types
                    def f():
                        import medtune.types
                else:
                    from medtune import real
            """,
            "medtune/types.py": "",
            "medtune/real.py": "",
        }
    )
    assert names(root) == {"stages/train.py", "medtune/real.py"}


def test_other_peoples_packages_are_not_followed(project):
    root = project({"stages/train.py": "import torch, json\nfrom medtunelike import x\nfrom datasets import y"})
    assert names(root) == {"stages/train.py"}


def test_an_import_that_leads_nowhere_names_file_and_line(project):
    root = project(
        {"stages/train.py": "import json\nfrom medtune.engine.laod import model", "medtune/engine/load.py": ""}
    )
    with pytest.raises(UserError, match=r"stages/train.py, line 2: imports medtune.engine.laod"):
        import_closure("stages.train", root)
    with pytest.raises(UserError, match=r"stages.trian is no module"):
        import_closure("stages.trian", root)


def test_broken_code_names_file_and_line(project):
    root = project({"stages/train.py": "def main(:\n"})
    with pytest.raises(UserError, match=r"train.py, line 1: not valid Python"):
        import_closure("stages.train", root)


CODE = 'from medtune import a\n\n\ndef main(x: int = 1) -> str:\n    """Say."""\n    return f"{x}"\n'


def digest_of(project, stage: str, a: str = "A = 1\n") -> str:
    return source_digest("stages.train", project({"stages/train.py": stage, "medtune/a.py": a}))


def test_comments_docstrings_and_layout_do_not_change_the_digest(project):
    first = digest_of(project, CODE)
    same = CODE.replace("Say.", "Say it better.").replace("    return", "    # why\n\n    return").replace('f"', "f'")
    assert digest_of(project, same.replace('}"', "}'"), '"""A docstring."""\n\nA = (  # one\n    1\n)\n') == first
    assert digest_of(project, CODE.replace('    """Say."""\n', "")) == first


@pytest.mark.parametrize("change", [("int = 1", "int = 2"), ("-> str", "-> object"), ("main", "run"), ("{x}", "{x!r}")])
def test_code_changes_the_digest(project, change):
    assert digest_of(project, CODE.replace(*change)) != digest_of(project, CODE)


def test_code_further_down_and_new_names_of_files_change_the_digest(project, tmp_path):
    first = digest_of(project, CODE)
    assert digest_of(project, CODE, "A = 2\n") != first
    assert digest_of(project, CODE, "A = None\n") != digest_of(project, CODE, "A = ()\n")
    digest_of(project, CODE)
    (tmp_path / "medtune/a.py").rename(tmp_path / "medtune/b.py")
    assert digest_of(project, CODE.replace("import a", "import b"), "") != first


def test_the_command_prints_lines_for_dvc_yaml():
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(
        [sys.executable, "-m", "medtune.tracking.closure", "stages.stage"], cwd=root, capture_output=True, text=True
    )
    assert said.stdout.splitlines() == [f"- {file.as_posix()}" for file in import_closure("stages.stage", root)]
    wrong = subprocess.run(
        [sys.executable, "-m", "medtune.tracking.closure", "stages.no"], cwd=root, capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: stages.no is no module")
