"""The `medtune` command. Everything heavy is imported inside the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medtune.commands import registry
from medtune.commands.doctor import doctor
from medtune.commands.feedback import feedback
from medtune.commands.history import compare, history, lineage
from medtune.commands.keys import keys_app, verify
from medtune.commands.publish import publish
from medtune.commands.retract import retract
from medtune.commands.serve import export, predict, serve
from medtune.commands.stack import stack, ui
from medtune.commands.sweep import sweep
from medtune.commands.targets import choose_target, targets
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, load_recipe
from medtune.registry.plain_json import to_json

app = typer.Typer(
    help="Fine-tune a Korean medical LLM as a pipeline. Run in the project's folder; `make run` runs the pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipe_app = typer.Typer(help="List, show, choose and check recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")
app.add_typer(keys_app, name="keys")
COMMANDS = (
    *(registry.promote, registry.reject, registry.rollback, registry.retire),
    *(history, lineage, compare, verify, doctor, retract, serve, predict, export),
    *(sweep, feedback, publish, targets, stack, ui),
)
app.callback()(choose_target)
for command in COMMANDS:
    app.command()(command)


@recipe_app.command("list")
def recipe_list() -> None:
    """Name the recipes that ship, one line each."""
    from medtune.params import recipes

    for name in recipes.names():
        print(f"{name:22} {recipes.summary(recipes.find(name))}")
    print("\n`medtune recipe use NAME` makes one the active params.yaml")


@recipe_app.command("show")
def recipe_show(name: Annotated[str, typer.Argument(help="a name of `medtune recipe list`")]) -> None:
    """Print a recipe with all its comments."""
    from medtune.params import recipes

    print(recipes.find(name).read_text(encoding="utf-8"), end="")


@recipe_app.command("use")
def recipe_use(
    name: Annotated[str, typer.Argument(help="a name of `medtune recipe list`")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value …, such as train.max_steps=100")] = None,
) -> None:
    """Write a recipe to params.yaml, with single values changed. Hub commits left open as `pin` are asked for now."""
    from medtune.params import recipes

    def pin(kind: str, repository: str) -> str:
        from medtune.corpus.hub import Repo

        commit = Repo(kind, repository, "main").commit()
        print(f"pinned the {kind} {repository} at {commit}")
        return commit

    path = recipes.find(name)
    text, _ = recipes.compose(path.read_text(encoding="utf-8"), overrides or [], pin, f"{path}")
    kept = recipes.write(text, PARAMS)
    print(f"{PARAMS} is now {name}" + (f" with {', '.join(overrides)}" if overrides else ""))
    if kept:
        print(f"the recipe that stood there is kept in {kept}")
    print("next: `dvc repro`, or `make run`")


@recipe_app.command("check")
def recipe_check(path: Annotated[Path, typer.Argument(help="the file to check")] = PARAMS) -> None:
    """Read a recipe as the stages will, and say what is wrong with it."""
    recipe = load_recipe(path)
    print(
        f"{path} is in order: {recipe.base.id} ({recipe.base.quantization}), rows from {recipe.download.source}, "
        f"LoRA r={recipe.lora.r}, {recipe.train.batch_size} x {recipe.train.gradient_accumulation} samples a step"
    )


@app.command()
def plan(
    memory_gib: Annotated[float | None, typer.Option(help="memory of one GPU; left out, that of the GPU here")] = None,
    recipe: Annotated[str | None, typer.Option(help="a name of `medtune recipe list`; left out, params.yaml")] = None,
    gpus: Annotated[int | None, typer.Option(help="how many, for a recipe with train.sharding: fsdp")] = None,
) -> None:
    """Tell what a recipe takes of a GPU's memory, and what it would choose there. Downloads no weights."""
    from medtune.engine.plan import make_plan, token_lengths
    from medtune.params import recipes

    chosen = recipes.check(recipes.find(recipe)) if recipe else recipes.check(PARAMS)
    told = make_plan(
        recipe or str(PARAMS), chosen.base, chosen.lora, chosen.train, chosen.tokenize,
        # the tokens that lie here are those of params.yaml
        memory_gib=memory_gib, gpus=gpus, lengths=None if recipe else token_lengths(),
    )  # fmt: skip
    print(told.text)
    if told.problem:
        raise UserError(told.problem)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False) -> None:
    """Tell champion and challenger, with digests and the figures that decided."""
    from medtune.registry.status import read_status, render

    state = read_status(Path("."), load_recipe())
    print(to_json(state) if as_json else render(state))


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="what the patient says")],
    alias: Annotated[str, typer.Option(help="champion or challenger")] = "champion",
    seed: Annotated[int | None, typer.Option(help="draw the same answer again")] = None,
) -> None:
    """Ask the champion. It is verified file by file before it is loaded; the answer streams as it is drawn."""
    from medtune.registry.champion import champion_dir

    recipe = load_recipe()
    folder = champion_dir(Path("."), recipe, alias)
    from transformers.utils import logging

    from medtune.engine.device import pick_device, pick_dtype
    from medtune.engine.generate import stream_answer
    from medtune.engine.load import load_model, load_tokenizer

    logging.disable_progress_bar()
    device = pick_device(recipe.train.device)
    model = load_model(folder, device=device, dtype=pick_dtype("auto", device))
    for piece in stream_answer(model, load_tokenizer(folder), question, seed):
        print(piece, end="", flush=True)
    print("\n\n(연구용 모델의 답변이며 진료를 대신하지 않습니다. 응급 상황이면 119에 전화하세요.)", file=sys.stderr)


@app.command("eval")
def evaluate(
    suite: Annotated[str | None, typer.Option(help="a group, task or pattern: kormedmcqa, 'kmmlu_*'")] = None,
    model: Annotated[str, typer.Option(help="champion, challenger, or the folder of a merged model")] = "champion",
    data: Annotated[Path | None, typer.Option(help="the suite's files in a folder, as the hub has them")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first so many rows of each task")] = None,
    shots: Annotated[int | None, typer.Option(help="examples in each prompt; left out, as the task says")] = None,
    batch_size: Annotated[int, typer.Option(help="prompts at once; halve it where memory runs out")] = 8,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="ask as a chat turn")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="fewer than the task's own, for a quick look")] = None,
    list_: Annotated[bool, typer.Option("--list", help="name the suites, or with --suite those that match")] = False,
) -> None:
    """Score a model on a public suite by lm-evaluation-harness (pip install 'medtune[eval]')."""
    from medtune.evaluation.harness import evaluate_suite, summary
    from medtune.evaluation.harness_tasks import suite_names

    if list_:
        print("\n".join(suite_names(suite)))
        return
    if suite is None:
        raise UserError("medtune eval needs --suite, such as --suite kormedmcqa; `medtune eval --list` names them")
    recipe = load_recipe()
    folder = Path(model)
    if model in ("champion", "challenger"):
        from medtune.registry.champion import champion_dir

        folder = champion_dir(Path("."), recipe, model)
    report = evaluate_suite(
        folder, suite, limit, batch_size, recipe.train.device, data,
        shots=shots, chat_template=chat_template, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    print(summary(report))
    print("written to reports/eval/: figures and settings (.json), answers (.answers.jsonl)")


review_app = typer.Typer(
    help="Let clinicians compare answers without knowing which model wrote them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(review_app, name="review")
VotesFile = Annotated[Path, typer.Option("--votes", help="JSONL that votes are appended to")]
ReviewSets = Annotated[str, typer.Option("--sets", help="prompt sets of reports/evaluate/answers.jsonl, by commas")]
Against = Annotated[
    str | None,
    typer.Option(help="base, champion, or the reports/ folder of another evaluation; left out, base"),
]


def _rival(against: str | None) -> str | None:
    """What review compares with: the champion is found by the registry, which lies above the review."""
    if against != "champion":
        return against
    from medtune.registry.release import champion_reports

    return str(champion_reports(Path("."), load_recipe()))


@review_app.command("serve")
def review_serve(
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8390,
    votes: VotesFile = Path("data/review/votes.jsonl"),
    sets: ReviewSets = "test,questions",
    against: Against = None,
    host: Annotated[str, typer.Option(help="the page has no password: stay on loopback, use ssh -L")] = "127.0.0.1",
) -> None:
    """Serve the blind review page until Ctrl-C. Several reviewers may vote at once; no vote is lost on a kill."""
    from medtune.evaluation.review.server import serve

    serve(Path("."), votes, tuple(sets.split(",")), _rival(against), host, port)


@review_app.command("import")
def review_import(
    file: Annotated[Path, typer.Argument(help="the votes")] = Path("data/review/votes.jsonl"), against: Against = None
) -> None:
    """Check and unblind votes, and write reports/review.json for the card and the gate."""
    from medtune.evaluation.review.votes import REPORT, summarise, write_review

    print(summarise(write_review(Path("."), file, _rival(against))))
    print(f"{REPORT} is written; `dvc repro -f -s register` lets gate and card see it")


@review_app.command("status")
def review_status_command(
    votes: VotesFile = Path("data/review/votes.jsonl"), sets: ReviewSets = "test,questions", against: Against = None
) -> None:
    """Tell how far each reviewer is, and whether reports/review.json is of these votes and answers."""
    from medtune.evaluation.review.votes import review_status

    print(review_status(Path("."), votes, tuple(sets.split(",")), _rival(against)))


def main() -> None:
    """Entry point: a UserError or an OSError becomes a sentence on stderr and exit status 1; no password is written."""
    from medtune.tracking.secrets import guard_output, redact

    guard_output()
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {redact(error)}")
    except OSError as error:  # a folder where a file was meant, a disk that is full, no right to write
        sys.exit(f"error: {redact(_sentence(error))}")
    except UnicodeEncodeError:
        if not any("\udc80" <= sign <= "\udcff" for word in sys.argv for sign in word):
            raise
        sys.exit("error: an argument holds bytes that are no UTF-8; type it anew, or rename the file")


def _sentence(error: OSError) -> str:
    """The file's name before the system's words, on one line."""
    said = " ".join(str(error.strerror or error).split()) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(names)}: {said}" if names else said


if __name__ == "__main__":
    main()
