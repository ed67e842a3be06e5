"""What is told of a paper without importing it, and PyTorch with it: the index of the catalogue.

It lies in `catalogue.json` beside this file and is made of the papers: `python -m fairsweep.trainables.index` writes it
anew, a test holds it to them. What it does not know, such as a paper of a plug-in, is asked of the paper itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Fidelity, Metric, Paper

FILE = Path(__file__).parent / "catalogue.json"
PAGE = FILE.with_name("CATALOGUE.md")


@dataclass(frozen=True)
class Entry:
    """A paper as `fairsweep list` and `info` show it."""

    slug: str
    title: str
    citation: str
    task: str
    baselines: str
    datasets: tuple[str, ...]
    objective: str
    metrics: tuple[Metric, ...]
    fidelity: Fidelity  # of the paper's own configuration, on the first of `datasets`
    paper_steps: Mapping[str, int]  # data set or "default" -> steps of the paper's own training
    claims: tuple[str, ...]  # their statements

    def metric(self, name: str) -> Metric:
        """KeyError if it is not declared."""
        return next(m for m in self.metrics if m.name == name)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {key: value for key, value in asdict(self).items() if key != "slug"}

    @classmethod
    def from_json(cls, slug: str, raw: Mapping[str, Any]) -> Entry:
        """`raw`: as `to_json` gives it, as it comes back from JSON."""
        return cls(
            slug,
            raw["title"],
            raw["citation"],
            raw["task"],
            raw["baselines"],
            tuple(raw["datasets"]),
            raw["objective"],
            tuple(Metric(**metric) for metric in raw["metrics"]),
            Fidelity(**raw["fidelity"]),
            raw["paper_steps"],
            tuple(raw["claims"]),
        )


def of(paper: type[Paper]) -> Entry:
    """What the paper says of itself."""
    return Entry(
        paper.slug,
        paper.title,
        paper.citation,
        paper.task,
        paper.baselines,
        tuple(paper.datasets),
        paper.objective,
        tuple(paper.metrics),
        paper.fidelity(paper.space().first(paper.datasets[0])),
        dict(paper.paper_steps),
        tuple(claim.statement for claim in paper.claims),
    )


def entry(slug: str) -> Entry:
    """What is known of the paper called `slug`; `UnknownPaper` if there is none."""
    if _listed(slug):
        return Entry.from_json(slug, _file()[slug])
    return of(catalog.get(slug))


def task_of(slug: str) -> str:
    """The task of a paper; what nobody has listed is asked itself."""
    return str(_file()[slug]["task"]) if _listed(slug) else catalog.get(slug).task


def datasets_of(slug: str) -> tuple[str, ...]:
    """The data sets of a paper, the default first."""
    return tuple(_file()[slug]["datasets"]) if _listed(slug) else tuple(catalog.get(slug).datasets)


def spoken(task: str) -> str:
    """A task as a word: `node_classification`."""
    return re.sub(r"[-_\s]+", "_", task.strip().lower())


def tasks() -> dict[str, list[str]]:
    """The tasks of the papers that there are, as words, and the papers of each."""
    found: dict[str, list[str]] = {}
    for slug in catalog.slugs():
        found.setdefault(spoken(task_of(slug)), []).append(slug)
    return found


def _listed(slug: str) -> bool:
    return not catalog.imported(slug) and slug in _file()


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def text() -> str:
    """The file as it should be."""
    found = {slug: of(catalog.get(slug)).to_json() for slug in catalog.own()}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """CATALOGUE.md as it should be: all papers for people who read."""
    entries = [of(catalog.get(slug)) for slug in catalog.own()]
    lines = [
        "# The catalogue",
        "",
        "Made by `python -m fairsweep.trainables.index`. `fairsweep info SLUG` adds the search space.",
        "The claims and how they are judged: [CLAIMS.md](CLAIMS.md).",
        "",
        "| slug | task | data, the default first | baselines and ablations |",
        "|---|---|---|---|",
        *(
            f"| [`{e.slug}`](#{e.slug}) | {e.task} | {', '.join(e.datasets)} | {e.baselines} |"
            for e in entries
        ),
    ]
    for e in entries:
        steps = ", ".join(
            f"{n} ({data})" if data != "default" else str(n) for data, n in e.paper_steps.items()
        )
        best, f = e.metric(e.objective).mode, e.fidelity
        lines += ["", f"## {e.slug}", "", f"*{e.title}*. {e.citation}", ""]
        lines += [f"- tuned on `{e.objective}` ({best}), {f.minimum} to {f.maximum} x {f.unit}"]
        lines += [f"- the paper's own training: {steps}"] if steps else []
        lines += [f"- claim: {claim}" for claim in e.claims]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    PAGE.write_text(page())
