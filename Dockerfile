# docker build --tag REGISTRY/sbora . && docker push REGISTRY/sbora        what a pod of profiles/kubernetes runs in
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sbora
COPY requirements.lock ./
RUN pip install --no-cache-dir --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Snakemake installs its storage plug-in anew in each pod: the locked one, and what it needs is here
ENV PIP_CONSTRAINT=/opt/sbora/requirements.lock PIP_NO_DEPS=1 HF_HOME=/cache/huggingface
WORKDIR /workdir
