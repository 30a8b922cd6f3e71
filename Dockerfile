# Images of Sailloft, for Ray's pods and for every other container:
#
#   docker build --build-arg ACCELERATOR=cpu  --build-arg TORCH_INDEX_URL=... --tag sailloft:0.1.0-cpu .
#   docker build --build-arg ACCELERATOR=cuda --tag sailloft:0.1.0-cuda .
#
# Both hold the same pinned versions. On Linux the package index's own build of torch brings the CUDA libraries, so that a
# GPU's node needs its driver alone; TORCH_INDEX_URL names an index with smaller builds for CPUs.
ARG PYTHON_VERSION=3.11
ARG DEBIAN=bookworm
ARG ACCELERATOR=cpu

FROM python:${PYTHON_VERSION}-slim-${DEBIAN} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/sailloft/bin:$PATH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The wheel, from what the wheel holds and nothing else.
FROM base AS wheel
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt build hatchling
COPY pyproject.toml README.md LICENSE sailloft.py ./
COPY jobs ./jobs
COPY model ./model
COPY pipelines ./pipelines
COPY storage ./storage
COPY teachers ./teachers
RUN python -m build --wheel --no-isolation --outdir /dist

# The environment. torch comes first, by itself: it is the largest layer, and changes least.
FROM base AS environment
ARG TORCH_INDEX_URL=
RUN python -m venv /opt/sailloft
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --disable-pip-version-check --constraint /tmp/constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --disable-pip-version-check --constraint /tmp/constraints.txt \
    "$(ls /tmp/dist/*.whl)[lora,mlflow,schedule,view,wandb]" \
    && pip check

# What KubeRay's probes call: bash, which is there, and wget. It may start Ray in a login shell, which begins with a PATH
# of its own.
FROM base AS runtime-cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes wget \
    && rm -rf /var/lib/apt/lists/* \
    && echo "PATH=/opt/sailloft/bin:\$PATH" >/etc/profile.d/sailloft.sh \
    && groupadd --gid 1000 sailloft \
    && useradd --uid 1000 --gid sailloft --create-home sailloft

# Compiling layers (training.compile_layers, teachers' compile) calls a C compiler on GPUs.
FROM runtime-cpu AS runtime-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${ACCELERATOR} AS sailloft
COPY --from=environment /opt/sailloft /opt/sailloft
USER 1000:1000
WORKDIR /home/sailloft
ENTRYPOINT ["sailloft"]
CMD ["--help"]
