"""What verification of a version's folder refuses, each by a file that is really there, and what it lets pass."""

import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from registry.signed_versions import edit, flip, make_version, reseal, write_json

from medtune.params.errors import RegistryError
from medtune.registry import manifest
from medtune.registry.contents import check_contents, check_path
from medtune.registry.manifest import hash_files, read_manifest, verify_manifest, walk, write_manifest


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return make_version(tmp_path)


def refused(folder: Path, match: str) -> None:
    with pytest.raises(RegistryError, match=match):
        verify_manifest(folder)


def test_a_sound_version_passes_with_notes_of_others(version: Path) -> None:
    record = verify_manifest(version)
    assert [item["path"] for item in record["files"]] == [n for n in walk(version) if n != "manifest.json"]
    (version / "merged/registered_model_meta").write_text("model_name: medgpt-ko\n")
    (version / "manifest.json.sig").write_text("{}")
    assert verify_manifest(version) == record
    assert write_manifest(version, record["version"], record["content"]) == record, "neither is written into it"


@pytest.mark.parametrize(
    "name",
    ["merged/model.safetensors", "adapter/adapter_model.safetensors", "merged/tokenizer.json", "rows.json"],
)
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit_anywhere(version: Path, name: str, place: int) -> None:
    flip(version / name, place)
    refused(version, f"{name} is not the file that was registered")


def test_every_single_byte_of_a_small_file_counts(version: Path) -> None:
    path = version / "merged/config.json"
    for place in range(path.stat().st_size):
        flip(path, place)
        refused(version, r"merged/config\.json is not the file")
        flip(path, place)
    verify_manifest(version)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda d: (d / "merged/config.json").unlink(), r"merged/config\.json is missing"),
        (lambda d: (d / "merged/config.json").write_text("{}"), r"merged/config\.json has another size"),
        (lambda d: (d / "merged/extra.json").write_text("{}"), r"merged/extra\.json does not belong"),
        (lambda d: (d / ".hidden").write_text("x"), r"\.hidden does not belong"),
        (lambda d: (d / "merged/MANIFEST.json").write_text("{}"), r"MANIFEST\.json does not belong"),
        (lambda d: (d / "merged/manifest.json.sig").write_text("{}"), r"merged/manifest\.json\.sig does not belong"),
        (lambda d: (d / "manifest.json.sig").write_bytes(b" " * 70_000), r"manifest\.json\.sig does not belong"),
        (lambda d: (d / "manifest.json.sig").symlink_to("rows.json"), r"manifest\.json\.sig is a symbolic link"),
        (lambda d: (d / "manifest.json.sig").mkdir() or (d / "manifest.json.sig/a").touch(), "sig/a does not belong"),
        (lambda d: (d / "merged/link.json").symlink_to("config.json"), r"merged/link\.json is a symbolic link"),
        (lambda d: (d / "merged/gone.json").symlink_to("nowhere"), r"merged/gone\.json is a symbolic link"),
        (lambda d: os.mkfifo(d / "merged/pipe"), "merged/pipe is no plain file"),
    ],
)
def test_what_is_there_or_not(version: Path, harm, named: str) -> None:
    harm(version)
    refused(version, named)


@pytest.mark.parametrize("part", ["merged", "adapter", "merged/components"])
def test_a_folder_that_is_a_link(version: Path, part: str, tmp_path: Path) -> None:
    (version / part).rename(tmp_path / "elsewhere")
    (version / part).symlink_to(tmp_path / "elsewhere")
    refused(version, f"{part} is a symbolic link")


def test_the_versions_own_folder_is_a_link(version: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(version)
    refused(tmp_path / "other", "other is a symbolic link")


@pytest.mark.parametrize("name", ["merged/config.json", "manifest.json"])
def test_a_file_replaced_by_a_link_to_the_same_bytes(version: Path, tmp_path: Path, name: str) -> None:
    (version / name).rename(tmp_path / "same")
    (version / name).symlink_to(tmp_path / "same")
    refused(version, f"{name} is a symbolic link")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_special_files_and_hard_links_to_them_are_not_waited_for(version: Path, tmp_path: Path, kind: str) -> None:
    special = tmp_path / "special"
    if kind == "pipe":
        os.mkfifo(special)
    else:
        socket.socket(socket.AF_UNIX).bind(str(special))
    (version / "merged/config.json").unlink()
    os.link(special, version / "merged/config.json")
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(_error(version)), daemon=True)
    thread.start()
    thread.join(20)
    assert done, "verification hangs on a special file"
    assert "merged/config.json is no plain file" in done[0]


def test_a_pipe_for_a_manifest_is_not_waited_for(version: Path) -> None:
    (version / "manifest.json").unlink()
    os.mkfifo(version / "manifest.json")
    assert "manifest.json is no plain file" in _error(version)


def _error(folder: Path) -> str:
    with pytest.raises(RegistryError) as caught:
        verify_manifest(folder)
    return str(caught.value)


def test_a_folder_that_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    """os.walk passes over what it may not read. Root may read all, so that somebody else asks."""
    folder = make_version(tmp_path)
    (folder / "merged/closed").mkdir(mode=0o000)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    code = (
        "import os, sys\n"
        f"from pathlib import Path\nfrom medtune.registry.manifest import walk\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        f"walk(Path({str(folder)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "merged/closed cannot be read" in done.stderr, done.stderr


def torch_pickle(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(2)}, path)


class Harm:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_under_a_safetensors_name(version: Path, protocol: int) -> None:
    (version / "merged/model.safetensors").write_bytes(pickle.dumps({"a": Harm()}, protocol=protocol))
    reseal(version)
    refused(version, r"merged/model\.safetensors is no safetensors file .* may be a pickle")


def test_a_torch_file_under_a_safetensors_name(version: Path) -> None:
    torch_pickle(version / "adapter/adapter_model.safetensors")
    reseal(version)
    refused(version, r"adapter/adapter_model\.safetensors is no safetensors file .* may be a pickle")


@pytest.mark.parametrize("name", ["weights", "merged/model.gguf", "merged/notes.txt", "merged/tokenizer.model"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_any_other_name(version: Path, name: str, protocol: int) -> None:
    (version / name).write_bytes(pickle.dumps([Harm()], protocol=protocol))
    reseal(version)
    refused(version, f"{name} begins as a pickle")


def test_a_zip_may_be_what_torch_saves(version: Path) -> None:
    torch_pickle(version / "merged/weights")
    assert zipfile.is_zipfile(version / "merged/weights")
    reseal(version)
    refused(version, "merged/weights begins as a pickle")


@pytest.mark.parametrize(
    "suffix", [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".PKL", ".Bin"]
)
def test_suffixes_of_pickles(version: Path, suffix: str) -> None:
    (version / f"merged/a{suffix}").write_bytes(b"nothing")
    reseal(version)
    refused(version, rf"merged/a\{suffix} may be a pickle")


@pytest.mark.parametrize(
    "name", ["modeling_evil.py", "a.PY", "a.pyc", "native.so", "merged/custom_generate/generate.py"]
)
def test_code(version: Path, name: str) -> None:
    (version / name).parent.mkdir(exist_ok=True)
    (version / name).write_text("print('code ran')")
    reseal(version)
    refused(version, f"{name} is code")


def length(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "longer than the file"),
        (b"1234567", "longer than the file"),
        (length(100) + b"{}", "longer than the file"),
        (length(2**64 - 1) + b"{}", "longer than the file"),
        (length(2) + b"[]", "no JSON object"),
        (length(2) + b" {}", "no JSON object"),
        (length(3) + b"{a}", "no JSON object of tensors"),
        (length(2) + b"{}" + b"payload", "other bytes than its header speaks of"),
        (length(len(b'{"a":1}')) + b'{"a":1}', "no JSON object of tensors"),
        (length(9) + b'{"a":"x"}', "no JSON object of tensors"),
    ],
)
def test_headers_of_safetensors(version: Path, content: bytes, why: str) -> None:
    (version / "merged/model.safetensors").write_bytes(content)
    reseal(version)
    refused(version, rf"merged/model\.safetensors is no safetensors file \(.*{why}")


def test_a_header_over_the_limit_is_not_read(version: Path) -> None:
    path = version / "merged/model.safetensors"
    with path.open("wb") as file:  # sparse: takes no disk
        file.write(length(100_000_001))
        file.truncate(100_000_100)
    reseal(version)
    refused(version, r"merged/model\.safetensors is no safetensors file \(its header is larger than 100 MB")


def test_what_safetensors_itself_writes_passes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 5), "b": torch.ones(0)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    save_file({}, tmp_path / "empty.safetensors")
    check_contents(tmp_path, ["a.safetensors", "empty.safetensors"])


AUTO_MAP = {"AutoModelForCausalLM": "modeling_evil.Evil"}


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("merged/config.json", json.dumps({"auto_map": AUTO_MAP}), "auto_map"),
        ("merged/tokenizer_config.json", json.dumps({"a": [{"b": {"auto_map": AUTO_MAP}}]}), "auto_map"),
        ("merged/generation_config.json", json.dumps({"trust_remote_code": True}), "trust_remote_code"),
        ("adapter/adapter_config.json", json.dumps({"custom_pipelines": {"p": {"impl": "x.P"}}}), "custom_pipelines"),
        ("merged/preprocessor_config.json", json.dumps({"auto_map": AUTO_MAP}), "auto_map"),
        ("merged/components/tokenizer/tokenizer_config.json", json.dumps({"auto_map": AUTO_MAP}), "auto_map"),
        ("merged/any.JSON", json.dumps({"auto_map": AUTO_MAP}), "auto_map"),
        # parsers differ in which of two they take, and \\u0061 is an a
        ("merged/config.json", '{"auto_map": {"A": "b.C"}, "auto_map": null}', "auto_map"),
        ("merged/config.json", '{"\\u0061uto_map": {"A": "b.C"}}', "auto_map"),
        ("merged/config.json", '\ufeff{"auto_map": {"A": "b.C"}}', "auto_map"),
    ],
)
def test_configs_that_have_code_loaded(version: Path, name: str, text: str, key: str) -> None:
    (version / name).write_text(text, encoding="utf-8")
    reseal(version)
    refused(version, f"{name} has the key {key}")


def test_a_library_that_peft_would_import(version: Path) -> None:
    write_json(version / "adapter/adapter_config.json", {"auto_mapping": {"parent_library": "evil.module"}})
    reseal(version)
    refused(version, r"adapter/adapter_config\.json names the library 'evil\.module'")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' * 50_000, "\xff"])
def test_configs_that_are_no_json(version: Path, text: str) -> None:
    (version / "merged/config.json").write_bytes(text.encode("latin-1"))
    reseal(version)
    refused(version, r"merged/config\.json is not JSON")


def test_an_oversized_config(version: Path) -> None:
    (version / "merged/config.json").write_text(json.dumps({"a": "x" * 17_000_000}))
    reseal(version)
    refused(version, r"merged/config\.json is oversized")


BAD_PATHS = [
    "/etc/passwd", "../outside", "merged/../../outside", "merged/..", "..", ".", "", "merged//a", "./merged/a",
    "merged/a/", "merged\\a", "..\\a", "a\0b", "a#b", "merged/a#/../../b", "a?b", "a\nb", "a\x1bb", "a\x7fb",
    "a%2e%2e%2fb", "a\u202eb", "a\u2028b", "C:/a", "a\ud800b", 7, None, ["a"], "a" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_paths_that_lead_elsewhere(version: Path, path: object) -> None:
    with pytest.raises(ValueError, match=r"which|whose"):
        check_path(path)
    edit(version, lambda record: record["files"][0].update(path=path))
    refused(version, r"manifest\.json (lists|is no manifest)")


@pytest.mark.parametrize("name", ["a#b.json", "a?b", "a\nb", "a\\b", "a%2fb"])
def test_such_files_are_not_registered_either(version: Path, name: str) -> None:
    (version / name).write_text("{}")
    with pytest.raises(RegistryError, match="rename or remove it"):
        write_manifest(version, "v", "c")


@pytest.mark.parametrize(
    "second",
    ["merged/config.json", "merged/CONFIG.json", "MERGED/config.json", "merged/\u212aonfig.json"],
)
def test_two_names_of_one_file(version: Path, second: str) -> None:
    first = "merged/config.json" if "\u212a" not in second else "merged/konfig.json"  # KELVIN SIGN folds to k

    def add(record: dict) -> None:
        line = {"path": first, "sha256": "0" * 64, "bytes": 0}
        record["files"] = [line, {**line, "path": second}]

    edit(version, add)
    refused(version, "which are one file on some disks")


def test_two_normal_forms_of_one_name(version: Path) -> None:
    line = {"sha256": "0" * 64, "bytes": 0}
    edit(version, lambda record: record.update(files=[line | {"path": "가.txt"}, line | {"path": "\u1100\u1161.txt"}]))
    refused(version, "which are one file on some disks")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["files"][0].update(bytes=-1), "without its size or sha256"),
        (lambda r: r["files"][0].update(bytes=True), "without its size or sha256"),
        (lambda r: r["files"][0].update(bytes="1"), "without its size or sha256"),
        (lambda r: r["files"][0].update(sha256="0" * 63), "without its size or sha256"),
        (lambda r: r["files"][0].update(sha256="A" * 64), "without its size or sha256"),
        (lambda r: r["files"][0].update(sha256=None), "is no manifest"),
        (lambda r: r["files"][0].pop("path"), "is no manifest"),
        (lambda r: r.update(files=None), "is no manifest"),
        (lambda r: r.update(files={"a": 1}), "is no manifest"),
        (lambda r: r.update(version="../../x"), "names no version"),
        (lambda r: r.update(version="a" * 1000), "names no version"),
        (lambda r: r.pop("content"), "is no manifest"),
        (lambda r: r["files"][0].update(path="manifest.json"), "cannot speak for"),
        (lambda r: r["files"][0].update(path="manifest.json.sig"), "cannot speak for"),
    ],
)
def test_manifests_that_are_none(version: Path, change, named: str) -> None:
    edit(version, change)
    refused(version, rf"manifest\.json .*{named}")


@pytest.mark.parametrize("text", ["", "[]", "null", '"a"', "[" * 100_000, '{"files": 1' + "0" * 5000 + "}"])
def test_texts_that_are_no_manifest(version: Path, text: str) -> None:
    (version / "manifest.json").write_text(text)
    refused(version, r"manifest\.json is no manifest")


def test_an_oversized_manifest_is_not_read(version: Path) -> None:
    with (version / "manifest.json").open("r+b") as file:
        file.truncate(40 * 2**30)  # sparse; reading it would end the process
    with pytest.raises(RegistryError, match=r"manifest\.json is oversized"):
        read_manifest(version)
    refused(version, r"manifest\.json is oversized")


def test_quick_reads_no_weights_and_everything_else(version: Path) -> None:
    flip(version / "merged/model.safetensors")
    assert verify_manifest(version, quick=True)["files"]
    refused(version, r"merged/model\.safetensors is not the file")
    flip(version / "merged/config.json", 0)
    with pytest.raises(RegistryError, match=r"merged/config\.json is not the file"):
        verify_manifest(version, quick=True)


@pytest.mark.parametrize("threads", [1, 3, None])
def test_digests_are_those_of_sha256_in_the_order_asked(tmp_path: Path, threads: int | None) -> None:
    sizes = {"empty": 0, "one": 1, "buffer": manifest.BUFFER, "more": manifest.BUFFER * 3 + 7, "ahead": 2**25 + 5}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    found = hash_files(tmp_path, list(sizes), threads)
    assert [item["path"] for item in found] == list(sizes)
    for item in found:
        content = (tmp_path / item["path"]).read_bytes()
        assert item == {"path": item["path"], "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_what_to_do_names_commands_that_are_there() -> None:
    assert "not_worse_than_champion" not in manifest.MEND
    assert "medtune doctor" in manifest.MEND
    assert "medtune rollback" in manifest.MEND
