#!/usr/bin/env bash
# What a GPU does, in at most ten minutes: its tests, the stage-1 step beside the textbook, a fit of
# CUB's size from features to the test, inference, memory. Writes gpu-out/gpu.md with the card's name.
#
#     benchmarks/gpu.sh            on a machine with a GPU, after `make install`
#     benchmarks/gpu.sh --try      the same in small, on any machine
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-gpu-out}
mkdir -p "$OUT"
if [ "${1:-}" = --try ]; then
  timeout 600 "$PYTHON" benchmarks/gpu.py --device cpu --shape tiny -o "$OUT"
else
  timeout 200 "$PYTHON" -m pytest -q -m gpu tests | tee "$OUT/tests.txt"
  timeout 400 "$PYTHON" benchmarks/gpu.py --device cuda --shape CUB --tests "$OUT/tests.txt" -o "$OUT"
fi
cat "$OUT/gpu.md"
