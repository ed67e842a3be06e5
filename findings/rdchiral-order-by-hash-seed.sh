#!/usr/bin/env bash
# rdchiral 1.1.0, RDKit 2026.9.1. The order of the outcomes of one template on one molecule changes with PYTHONHASHSEED,
# which Python draws anew for each process: the first outcome is another one from run to run. Expected: one order.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rdchiral==1.1.0 rdkit==2026.9.1
cd "$folder"
cat > outcomes.py <<'PYTHON'
from rdchiral.main import rdchiralRunText

# an amide is cut at each of three places
print("|".join(rdchiralRunText("[C:1](=[O:2])-[NH:3]>>[C:1](=[O:2])O.[NH:3]", "CC(=O)NCCC(=O)NCCCC(=O)NC")))
PYTHON
for seed in 0 1 2 3 4 5 6 7; do PYTHONHASHSEED=$seed venv/bin/python -W ignore outcomes.py 2>/dev/null >> orders.txt; done
sort orders.txt | uniq -c
orders=$(sort -u orders.txt | wc -l)
sets=$(while read -r line; do tr '|' '\n' <<< "$line" | sort | tr '\n' '|'; echo; done < orders.txt | sort -u | wc -l)
echo "$orders orders of $sets set of outcomes"
[ "$orders" -gt 1 ] && [ "$sets" -eq 1 ] || { echo "it behaves otherwise now"; exit 1; }
