#!/usr/bin/env bash
# Installs a wheel where there is no compiler, and lets the demo model answer: scripts/check_wheel.sh WHEEL [SITE_PACKAGES]
#
# SITE_PACKAGES: a folder that has what the wheel needs, to save the download of MindSpore; else pip fetches all of it.
# PYTHON: what makes the environment (default: python3.11). The demo model is fetched where it is not there.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 WHEEL [SITE_PACKAGES]" >&2
  exit 2
fi
wheel=$(realpath "$1")
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3.11}" -m venv "$scratch/venv"
if [ $# -eq 2 ]; then
  # A .pth within a folder that a .pth names is not read: no editable install there gets in the wheel's way.
  realpath "$2" > "$(echo "$scratch"/venv/lib/python3*/site-packages)/borrowed.pth"
  "$scratch/venv/bin/pip" install --quiet --no-deps "$wheel"
else
  "$scratch/venv/bin/pip" install --quiet "$wheel"
fi

# A PATH without g++, c++, cc and their like, and a compiler that fails where one is asked for all the same.
mkdir "$scratch/bin"
for program in sh bash env uname cat grep sed; do  # some are for MindSpore
  [ -z "$(command -v $program)" ] || ln -s "$(command -v $program)" "$scratch/bin/$program"
done
cd "$scratch"
run() { env PATH="$scratch/bin" CXX=/bin/false "$scratch/venv/bin/mindspore-paged" "$@"; }

run doctor
echo "model: {weights: demo}" > demo.yaml
run generate --config demo.yaml --prompt "The capital of France is" --max-tokens 8
