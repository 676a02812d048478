#!/usr/bin/env bash
# packages.sh TORCH SAMPLE_BASE: /opt/venv with what pyproject.toml asks for, at the versions of constraints.txt.
# TORCH: cpu for PyTorch's CPU build, index for the wheels of the index, which bring CUDA. For `docker build` alone.
#
# constraints.txt names every version and no hash: one file serves the index's CUDA build of torch, PyTorch's CPU build
# (another file of the same version) and pip's own find-links, and a list of hashes would hold for one of the three.
# Whoever builds from one index can have hashes: uv pip compile --generate-hashes … and --require-hashes here.
set -euo pipefail
torch=$1 sample_base=$2
backend=()
[ "$torch" = index ] || backend=(--torch-backend "$torch")
python3 -m venv /opt/uv
/opt/uv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --constraint constraints.txt uv
python3 -m venv /opt/venv
install_with=(/opt/uv/bin/uv pip install --python /opt/venv/bin/python --constraint constraints.txt)
"${install_with[@]}" "${backend[@]}" --requirements pyproject.toml --extra server --extra serve --extra eval "setuptools>=80"
# --no-deps: its own dependencies would compile llama.cpp
"${install_with[@]}" --no-deps "$sample_base"
