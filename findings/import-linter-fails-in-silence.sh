#!/usr/bin/env bash
# import-linter 2.17 on grimp 3.20. Where a root package lies in a package that has an __init__.py, lint-imports prints its banner
# and ends with exit code 1: no contract, no error, nothing on standard error. (grimp raises an exception without a message;
# --debug shows it.) Expected: a line that says that root packages must be top-level ones.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check import-linter==2.17 grimp==3.20
cd "$folder"
mkdir -p house/kitchen
touch house/__init__.py house/kitchen/__init__.py
printf '[importlinter]\nroot_packages =\n    house.kitchen\n\n[importlinter:contract:one]\nname = one\ntype = forbidden\nsource_modules = house.kitchen\nforbidden_modules = house.kitchen.stove\n' > .importlinter
code=0
"$folder/venv/bin/lint-imports" > out.txt 2> err.txt || code=$?
echo "exit code $code; lines with letters: $(grep -c '[a-zA-Z]' out.txt || true); on standard error: $(wc -c < err.txt) bytes"
[ "$code" = 1 ] && [ ! -s err.txt ] && ! grep -q '[a-zA-Z]' out.txt || { echo "it behaves otherwise now"; exit 1; }
("$folder/venv/bin/lint-imports" --debug > debug.txt 2>&1 || true)
grep -q NotATopLevelModule debug.txt || { echo "it behaves otherwise now"; exit 1; }
