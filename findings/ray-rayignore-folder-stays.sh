#!/usr/bin/env bash
# Ray 2.60.0. A pattern with a slash at its end in .rayignore ("logs/") leaves out what is in the folder, but not the folder: the
# package of a working directory gets another name as soon as an empty folder of that name is made, and is packed and
# uploaded anew. Without the slash it does not. In .gitignore, whose patterns these are, both leave the folder out.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "ray[default]==2.60.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import pathlib

from ray._private.runtime_env import packaging

where = pathlib.Path("job")
where.mkdir()
(where / "main.py").write_text("print(1)")


def name():
    return packaging.get_uri_for_directory(str(where), include_gitignore=True)


changed = {}
for pattern in ("logs/", "logs"):
    (where / ".rayignore").write_text(pattern + "\n")
    before = name()
    (where / "logs").mkdir()
    changed[pattern] = name() != before
    (where / "logs").rmdir()
print("an empty folder makes another package:", changed)
assert changed == {"logs/": True, "logs": False}, "it behaves otherwise now"
PYTHON
