#!/usr/bin/env bash
# Packs what `pipeline.sh` and `benchmarks/results.sh` need on a GPU machine that has PyTorch, transformers
# and PEFT, and no network: text, questions, base models and the packages that are missing there.
#
#   experiments/pack.sh WORK OUT
#
# WORK holds train/, valid/ and qa/ as pipeline.sh wants them. OUT gets parts of 57 MiB. There:
#
#   cat OUT/part-* | tar xJ -C WORK
#   python3 -m pip install --no-index --no-deps --target WORK/site WORK/wheels/*
set -eu
work=$(realpath "$1") out=$2
mkdir -p "$out" "$work/wheels"
PIP_ONLY_BINARY=:all: python3 -m pip download --quiet --no-deps --python-version "${PYTHON:-3.12}" \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 \
    --dest "$work/wheels" faiss-cpu zstandard gguf pypdf beautifulsoup4 soupsieve platformdirs \
    pydantic pydantic-core annotated-types typing-inspection
home=$(python3 -c 'from refrag_components.weights.wheels import cache_folder; print(cache_folder())')
tar c -C "$work" train valid qa wheels -C "$home" --exclude='*.lock' bases | xz -T0 -1 |
    split -b 57M - "$out/part-"
