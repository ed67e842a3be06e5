"""`fairsweep report`: what a store knows of sweeps, comparisons, claims and networks, as one document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairsweep.analysis.comparing import answering
from fairsweep.analysis.documents.document import Document, Section, Text
from fairsweep.analysis.plots.figure import NoDrawing
from fairsweep.analysis.plots.parts import count, sentence
from fairsweep.analysis.store import Store
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import reporting_runs as runs
from fairsweep.cluster.jobs.comparing import job
from fairsweep.cluster.jobs.pictures import Pictures
from fairsweep.cluster.jobs.reporting_sweeps import answer, sections
from fairsweep.cluster.masking import masked_uri

FORMATS = ("html", "md", "pdf")


def document_of(store: Store, names: Sequence[str]) -> Document:
    """The report of sweeps, or of one comparison or run of claims. UnknownSweep, UserError where there is nothing."""
    names = list(dict.fromkeys(names))
    if not names:
        raise UserError("report: needs the name of a sweep, a comparison or a run of claims (`fairsweep ls`)")
    if len(names) == 1:
        found = _comparison(store, names[0]) or _claims(store, names[0])
        if found is not None:
            return found
    pictures = []
    for name in names:
        if not store.has(name):
            if _rows(store, "comparisons", name) or _rows(store, "claims", name):
                raise UserError(f"{name}: is no single sweep; a report is of sweeps, or of it alone")
            raise store.unknown(name)
        pictures.append(Pictures(store, name))
    if len(pictures) == 1:
        return Document(f"Sweep {names[0]}", *answer(pictures[0]), sections(pictures[0]))
    first, parts = runs.together(pictures)
    for k, of in enumerate(pictures):
        told, more, _ = answer(of)
        own = sections(of, f"s{k}-", f"{of.name}: ")
        said = Text(f"{told} {more}".strip())
        parts += [Section(own[0].name, own[0].title, [said, *own[0].blocks]), *own[1:]]
    facts = [("sweeps", ", ".join(names)), ("trials", f"{sum(p.trials.num_rows for p in pictures):,}")]
    return Document(f"{count(len(names), 'sweep')} of {masked_uri(store.uri)}", first, "", facts, parts)


def _rows(store: Store, table: str, name: str) -> list[dict[str, Any]]:
    return store.derived(table, name).to_pylist()


def _comparison(store: Store, name: str) -> Document | None:
    rows = _rows(store, "comparisons", name)
    if not rows:
        return None
    found = job.answered(store, name) or answering.answer(rows)
    told, more = sentence(found.sentence), sentence(found.more)
    parts = runs.comparison_sections(store, rows, found)
    again = runs.settings(rows, store)
    if again:
        parts.append(Section("again", "How to get this again", again))
    return Document(f"Comparison {name}", told, more, runs.comparison_facts(found), parts)


def _claims(store: Store, name: str) -> Document | None:
    rows = _rows(store, "claims", name)
    if not rows:
        return None
    first, more, facts = runs.claims_answer(rows)
    parts = runs.claims_sections(rows)
    swept = [s for s in dict.fromkeys(r["sweep"] for r in rows) if s and store.has(s)]
    for k, sweep in enumerate(swept[:5]):
        own = sections(Pictures(store, sweep), f"s{k}-", f"{sweep}: " if len(swept) > 1 else "")
        parts += [s for s in own if s.name.split("-")[-1] in ("failures", "trials", "again")]
    return Document(f"Claims {name}", first, more, facts, parts)


def check(output: Path, form: str) -> None:
    """UserError for an output that cannot be, before anything is read."""
    if output.is_dir():
        raise UserError(
            f"--output={output}: is a folder; name the file too, such as {output / f'report.{form}'}"
        )
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: the folder {output.parent} does not exist")


def form_of(form: str | None, output: str | Path | None) -> str:
    """The format that is asked for, by its name or by the ending of the file."""
    if form is None and output is not None:
        ending = Path(output).suffix.removeprefix(".").lower()
        form = {"htm": "html", "markdown": "md"}.get(ending, ending) or "html"
    form = form or "html"
    if form not in FORMATS:
        raise UserError(
            f"--output={output}: must end in {', '.join(f'.{f}' for f in FORMATS)}, or give --format"
        )
    return form


def write(
    store: Store, names: Sequence[str], output: str | Path | None = None, form: str | None = None
) -> Path:
    """Writes the report and says where. UserError in one line for what cannot be written or shown."""
    form = form_of(form, output)
    file = Path(output) if output is not None else Path(f"{names[0] if names else 'report'}-report.{form}")
    check(file, form)
    document = document_of(store, names)
    try:
        if form == "html":
            from fairsweep.analysis.documents.html import page

            file.write_text(page(document), encoding="utf-8")
        elif form == "md":
            from fairsweep.analysis.documents.markdown import write_markdown

            write_markdown(document, file)
        else:
            from fairsweep.analysis.documents.pdf import write_pdf

            write_pdf(document, file)
    except NoDrawing as error:
        raise UserError(f"--format={form}: {error}; --format=md needs nothing more") from None
    except OSError as error:
        raise UserError(f"--output={file}: cannot be written ({error.strerror or error})") from None
    return file
