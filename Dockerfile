# syntax=docker/dockerfile:1

# Two images from one build: `docker build --target producer .` and `docker build --target consumer .`
# The base is pinned by tag only; the digest was not looked up. `docker buildx imagetools inspect python:3.11-slim-bookworm`
# prints it, and it goes behind the tag as @sha256:...
FROM python:3.11-slim-bookworm AS base

# The virtual environment, made in full in a stage that is thrown away.
FROM base AS build
ENV HEADRACE_COMPILED=require \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# For shared/compiled. Whatever version the pinned base has: it compiles, and stays behind with this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-uv.txt ./
RUN python3 -m venv /uv \
    && /uv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-uv.txt
# The dependencies change less often than the code: a layer of their own.
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --locked --no-dev --no-install-project
COPY README.md LICENSE hatch_build.py ./
COPY shared shared
COPY producer producer
COPY consumer consumer
COPY infra infra
# Without the extra `local`: no moto and no flask in the image. Not editable: the image needs no source tree.
RUN /uv/bin/uv sync --locked --no-dev --no-editable

# What both images share: the environment, owned by root, and a user who can't change it.
FROM base AS runtime
RUN groupadd --gid 10001 headrace \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headrace \
    && install --directory --owner=10001 --group=10001 --mode=0700 /state
COPY --from=build /app/.venv /app/.venv
# Nothing is written below the root: bytecode is compiled already, and the root may be mounted read-only.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM

# Its bookmarks, session key and dead letters have to outlive the container: mount a volume at /state.
FROM runtime AS producer
ENV HEADRACE_PRODUCER_STATE_DIR=/state
VOLUME /state
RUN ["producer_from_cli", "--help"]
ENTRYPOINT ["producer_from_cli"]

FROM runtime AS consumer
# Health checks and metrics come from outside the container, so that here it listens beyond loopback.
ENV HEADRACE_HTTP_HOST=0.0.0.0 \
    HEADRACE_HTTP_PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['HEADRACE_HTTP_PORT']}/healthz\", timeout=2)"]
RUN ["headrace", "consume", "--help"]
ENTRYPOINT ["headrace", "consume"]
