"""`medtune serve`: a real server on a tiny model, asked by OpenAI's own client."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from engine.merged import make_model
from registry_checkout import Checkout

from medtune.corpus.template import prompt_ids
from medtune.engine.export import TRICKY, TURNS
from medtune.engine.generate import greedy_answers
from medtune.engine.load import load_model, load_tokenizer
from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry import serving
from medtune.registry.serving import Served, environment, find_served
from medtune.tracking.secrets import ADDRESSES, SECRETS

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "c0ffee" + "0" * 58


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    """A template that is no chat template by nature: what it asks of a server is the most."""
    folder = make_model("gpt2", tmp_path_factory.mktemp("kept") / DIGEST / "merged", "alpaca-ko")
    return Served(folder, "medgpt-ko", DIGEST, 3, None)


def start(root: Path, served: Served, **settings) -> tuple[subprocess.Popen, str, list[str]]:
    """A process of ours that serves, its address once it says that it is ready, and what it said."""
    code = (
        "from pathlib import Path; from medtune.registry.serving import Served, serve; "
        f"served = Served(Path({str(served.folder)!r}), {served.model!r}, {served.version!r}, 3, None); "
        f"serve(Path({str(root)!r}), served, port=0, device='cpu', dtype='float32', **{settings!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    for line in process.stdout:
        said.append(line.rstrip())
        if found := re.search(r"ready after \d+ s: (http://[^ ]+)", line):
            while "Ctrl-C" not in said[-1]:
                said.append(process.stdout.readline().rstrip())
            return process, found[1], said
    raise AssertionError("\n".join(said))


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def gone(pids: list[int], seconds: float = 60) -> bool:
    import psutil

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not left:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def running(served, tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    process, address, said = start(root, served)
    yield address, said, root, process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(running):
    import openai

    return openai.OpenAI(base_url=running[0], api_key="none", max_retries=0)


def test_the_client_gets_the_answer_of_the_pipeline(client, served):
    tokenizer = load_tokenizer(served.folder)
    model = load_model(served.folder, device=torch.device("cpu"), dtype=torch.float32)
    likeliest = {
        "do_sample": False,
        "repetition_penalty": 1.0,  # what is left out is the model's own
        "max_new_tokens": 12,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for question in ("머리가 아파요.", "3일 전부터 38.5도까지 열이 나요. 😷"):
        reply = client.chat.completions.create(
            model="medgpt-ko",
            messages=[{"role": "user", "content": question}],
            extra_body={"generation_config": json.dumps(likeliest)},
        )
        expected = greedy_answers(model, tokenizer, [question], 12)[0]
        assert reply.choices[0].message.content.strip() == expected["text"]
        assert reply.usage.prompt_tokens == len(prompt_ids([{"role": "user", "content": question}], tokenizer))


def test_an_answer_streams_and_is_drawn_by_the_models_own_settings(client):
    asked = {"model": "medgpt-ko", "messages": [{"role": "user", "content": "열이 나요."}], "max_tokens": 8, "seed": 5}
    pieces = list(client.chat.completions.create(**asked, stream=True))
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    whole = client.chat.completions.create(**asked)
    assert streamed == whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("length", "stop")


def test_the_model_is_listed_and_another_is_refused(client):
    import openai

    assert [model.id for model in client.models.list()] == ["medgpt-ko"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "a"}])
    assert "pinned to 'medgpt-ko'" in refused.value.response.text


def test_what_is_said_holds_address_name_card_and_a_line_that_works(running):
    _, said, root, _ = running
    told = "\n".join(said)
    assert "medgpt-ko version 3 (c0ffee000000), verified; starting transformers" in told
    assert "model   medgpt-ko" in told
    assert "card    none is kept" in told
    assert "warning" not in told
    assert (root / "mlruns/serve.log").exists()
    line = next(line for line in said if line.startswith("try"))
    done = subprocess.run(["bash", "-c", line.removeprefix("try ") + " -s"], capture_output=True, text=True)
    reply = json.loads(done.stdout)
    assert reply["object"] == "chat.completion"
    assert reply["usage"]["completion_tokens"] <= 24  # the curl line carries the model's own max_new_tokens


def test_it_listens_on_loopback_alone(running):
    port = int(re.search(r":(\d+)/", running[0])[1])
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    hosts = {line.split()[1].split(":")[0] for line in listening.splitlines() if f":{port:04X} " in line[:60]}
    assert hosts == {"0100007F"}


def test_ctrl_c_ends_it_in_order(running):
    """The last that the server of the tests above is asked for."""
    _, _, root, process = running
    server = children(process.pid)
    assert server
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0
    assert gone(server)
    assert process.stdout.read().strip().endswith("ended")
    assert not list((root / "mlruns/serving").iterdir())


def test_sigterm_asks_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with serving._ended_by_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_on_all_addresses_it_answers_and_dies_with_a_killed_parent(served, tmp_path):
    process, address, _ = start(tmp_path, served, host="0.0.0.0")
    server = children(process.pid)
    assert server
    with urllib.request.urlopen(address.replace("/v1", "/health")) as answer:
        assert json.load(answer) == {"status": "ok"}
    process.kill()
    process.wait()
    assert gone(server)


def test_another_host_is_warned_of(served, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(serving, "_start", lambda *_: (_ for _ in ()).throw(RegistryError("not started")))
    with pytest.raises(RegistryError, match="not started"):
        serving.serve(tmp_path, served, host="0.0.0.0", port=0, say=said.append)
    assert "0.0.0.0 is not loopback, and the server has no password" in said[0]


def test_a_server_that_cannot_load_says_why(served, tmp_path):
    broken = tmp_path / DIGEST / "merged"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(
        RegistryError, match=r"(?s)ended by itself.*serve\.log ends with.*Unrecognized processing class"
    ):
        serving.serve(tmp_path, Served(broken, "medgpt-ko", DIGEST, 1, None), port=0)


def test_a_taken_port_is_told_before_the_model_loads(served, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RegistryError, match=f"port {port} cannot be had .* --port"):
            serving.serve(tmp_path, served, port=port)


def test_vllm_is_told_of_where_it_is_missing(served, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    if Path(sys.executable).with_name("vllm").exists():
        pytest.skip("vLLM is installed here")
    with pytest.raises(RegistryError, match=r"vLLM is not installed here: .* `medtune export vllm OUT`"):
        serving.serve(tmp_path, served, port=0, server="vllm")


def test_the_server_gets_no_credentials_and_no_hub(tmp_path, monkeypatch):
    named = ("MEDTUNE_KEY_PASSWORD", "OPENAI_API_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    named += ("MLFLOW_BACKEND_STORE_URI", "PREFECT_SERVER_API_AUTH_STRING", "AWS_PROFILE", "PGPASSFILE")
    secrets = {*named, *SECRETS, *ADDRESSES}
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    given = environment(tmp_path)
    assert not given.keys() & secrets
    assert given["HF_HUB_OFFLINE"] == "1"
    assert given["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("kind", "template"),
    [
        ("gpt2", "alpaca-ko"),
        ("smollm", "doctor"),
        ("llama3", "kullm"),
        ("pieces", "kullm"),
        ("pieces-first", "alpaca-ko"),
        ("pieces", "text"),
    ],
)
def test_the_servers_prompt_tokens_are_the_pipelines(kind, template, tmp_path):
    """The steps of transformers' chat handler, on every template of ours, compared id by id."""
    from transformers import AutoProcessor
    from transformers.cli.serving.utils import BaseHandler, Modality

    folder = make_model(kind, tmp_path / "merged", template)
    processor, tokenizer = AutoProcessor.from_pretrained(folder), load_tokenizer(folder)
    for messages in [*([{"role": "user", "content": text}] for text in TRICKY), *TURNS]:
        inputs = BaseHandler.get_processor_inputs_from_messages(messages, Modality.LLM)
        found = processor.apply_chat_template(
            inputs, add_generation_prompt=True, return_tensors="pt", return_dict=True, tokenize=True
        )
        assert found["input_ids"][0].tolist() == prompt_ids(messages, tokenizer)


def test_the_champion_is_found_verified_and_with_its_card(checkout: Checkout):
    from stages.register import main

    version = checkout.candidate("a")
    main(checkout.root)
    recipe = load_recipe(checkout.root / "params.yaml")
    found = find_served(checkout.root, recipe)
    assert (found.version, found.number, found.name) == (version, 1, "medgpt-ko")
    assert found.card is not None
    assert found.card.read_text(encoding="utf-8").startswith("<!")
    assert find_served(checkout.root, recipe, version="1") == found
    assert find_served(checkout.root, recipe, version=version[:8]) == found
    weights = found.folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RegistryError, match=r"model\.safetensors is not the file that was registered"):
        find_served(checkout.root, recipe)
