"""`medtune serve`, `medtune predict`, `medtune export`: a registered version put to use."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError
from medtune.params.recipe import load_recipe

Alias = Annotated[str, typer.Option(help="champion or challenger")]
Version = Annotated[str | None, typer.Option(help="number or digest prefix, instead of the alias")]


def serve(
    alias: Alias = "champion",
    version: Version = None,
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8000,
    host: Annotated[str, typer.Option(help="the server has no password: stay on loopback, use ssh -L")] = "127.0.0.1",
    server: Annotated[str, typer.Option(help="transformers | vllm")] = "transformers",
) -> None:
    """Serve the champion through OpenAI's API until Ctrl-C, by transformers' own server or vLLM, after verifying it."""
    from medtune.registry.serving import find_served
    from medtune.registry.serving import serve as run

    recipe = load_recipe()
    served = find_served(Path("."), recipe, alias, version)
    device, dtype = _device(recipe)
    run(Path("."), served, host, port, server, str(device), str(dtype).removeprefix("torch."))


def predict(
    questions: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="lines with question or messages, maybe id")],
    answers: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="appended to; gone on with where it is there")],
    alias: Alias = "champion",
    version: Version = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="questions at once; left out, 32 or as begun")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="left out, the model's own")] = None,
    sample: Annotated[bool, typer.Option("--sample/--greedy", help="draw as `medtune ask`, or the likeliest")] = False,
    seed: Annotated[int, typer.Option(help="of drawn answers: the same question and seed, the same answer")] = 0,
) -> None:
    """Answer a file of questions in batches. A run that was cut off goes on where it stopped."""
    from medtune.engine.decode import Sampling
    from medtune.engine.predict import FITS, Asking, generation_defaults, kept_asking, meta_path, read_rows
    from medtune.engine.predict import predict as run
    from medtune.registry.champion import champion_dir

    if questions.resolve() == answers.resolve():
        raise UserError(f"{questions} is both IN and OUT; name another OUT")
    rows = read_rows(questions)
    recipe = load_recipe()
    folder = champion_dir(Path("."), recipe, alias, version)
    told = generation_defaults(folder)
    limit = told.pop("max_new_tokens")
    batch_size = batch_size or (kept_asking(answers) or {}).get("batch_size", FITS)
    drawn = Sampling(**told, seed=seed) if sample else None
    asking = Asking(folder.parent.name, max_new_tokens or limit, drawn, batch_size)

    def load() -> tuple:
        from transformers.utils import logging

        from medtune.engine.load import load_model, load_tokenizer

        logging.disable_progress_bar()
        device, dtype = _device(recipe)
        return load_model(folder, device=device, dtype=dtype), load_tokenizer(folder)

    def progress(done: int, of: int, rate: float) -> None:
        print(f"{done:,} of {of:,} answered, {rate:.2f} a second, about {(of - done) / rate:,.0f} s left", flush=True)

    new = run(rows, answers, asking, load, progress)
    print(f"{new:,} answered now, {len(rows) - new:,} before; version and settings: {meta_path(answers)}")


def export(
    format: Annotated[str, typer.Argument(help="vllm: a Hugging Face folder | gguf: one file for llama.cpp")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder")],
    alias: Alias = "champion",
    version: Version = None,
    dtype: Annotated[str, typer.Option(help="gguf: f16, bf16 or q8_0; auto: as it is stored")] = "auto",
) -> None:
    """Write the verified model for another program, and prove that it sees the pipeline's prompt tokens."""
    from medtune.engine.export import export_gguf, export_vllm, prompts_at_hand
    from medtune.registry.serving import find_served

    if format not in ("vllm", "gguf"):
        raise UserError(f"medtune export writes vllm or gguf, and not {format}")
    if format == "vllm" and dtype != "auto":
        raise UserError("medtune export vllm keeps the weights as they are stored; give vLLM its own --dtype instead")
    served = find_served(Path("."), load_recipe(), alias, version)
    prompts = prompts_at_hand(Path("."))
    if format == "vllm":
        told = export_vllm(served.folder, out, served.version, served.name, prompts)
    else:
        told = export_gguf(served.folder, out, served.version, served.name, prompts, dtype)
    proven = told["prompts"]
    size = sum(file["bytes"] for file in told["files"])
    print(
        f"{served.model} version {served.number or '?'} ({served.version[:12]}) as {format}, {told['dtype']}: {out} "
        f"({size / 1e6:,.0f} MB)\n{proven['compared']} prompts of {proven['tokens']:,} tokens are the pipeline's own, "
        f"read by {' and '.join(proven['read_by'])}; {out / 'export.json'} lists the files"
    )
    if served.card:
        print(f"the model card to put beside it: {served.card.with_name('README.md')}")
    if format == "vllm":
        print(f"next: vllm serve {json.dumps(str(out))} --served-model-name {served.name} --host 127.0.0.1")
    else:
        file = next(item["path"] for item in told["files"] if item["path"].endswith(".gguf"))
        print(f"next: llama-server -m {json.dumps(str(out / file))} --jinja --host 127.0.0.1")


def _device(recipe) -> tuple:
    """(device, dtype) as `medtune ask` takes them."""
    from medtune.engine.device import pick_device, pick_dtype

    device = pick_device(recipe.train.device)
    return device, pick_dtype("auto", device)
