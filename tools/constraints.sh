#!/usr/bin/env bash
# Makes constraints.txt: one resolution for every Python and platform of the README,
# which keeps each version that is in it as long as it fits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ -x build/uv/bin/uv ] || { "${PYTHON:-python3}" -m venv build/uv && build/uv/bin/pip install --quiet uv; }
cp constraints.txt build/constraints.txt
build/uv/bin/uv --no-config pip compile --quiet --universal --fork-strategy fewest \
  --python-version 3.11 --no-header --no-annotate --output-file build/constraints.txt \
  requirements.txt requirements-dev.txt >/dev/null
# Neither what only the CUDA build of torch brings, as other builds want none of it, nor
# what other systems need.
{
  grep '^#' constraints.txt
  grep -vE "^(nvidia|cuda|triton)|== '(win32|nt|emscripten)'" build/constraints.txt
} >build/constraints.new
mv build/constraints.new constraints.txt
