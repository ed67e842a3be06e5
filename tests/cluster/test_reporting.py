"""Reports: what they say first, that everything from outside is text, that bad input is one line."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fairsweep.analysis.documents import html
from fairsweep.analysis.documents.document import Text
from fairsweep.analysis.plots.figure import Figure
from fairsweep.analysis.store import Store, UnknownSweep
from fairsweep.cluster import api
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.reporting import document_of, write
from tests import report_stores as made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    where = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        made.swift(patch)
        made.write_sweep(where, "s")
        aims = {"val_loss": "min", "val_accuracy": "max"}
        made.write_sweep(where, "mo", objectives=json.dumps(aims))
        made.write_comparison(where)
        made.write_claims(where)
        made.write_networks(where)
    return Store(where)


@pytest.fixture(autouse=True)
def bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages' own code alone: the packages that draw are tested where they draw."""

    class Bundle:
        def javascript_bundle(self, snippet: str) -> str:
            return "/* '</script' and '<!--' of a library */"

    monkeypatch.setattr(html, "drawing", Bundle)


class Tags(HTMLParser):
    """The tags of a page, the text outside of its scripts, the JSON in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = self.data = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script" and data.startswith('{"blocks"'):
            self.data = data
        elif not self.inside:
            self.text += data


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("s", r"The best of 30 configurations has val_loss 0\.\d+ \(95 % interval .*2 seeds\); on test data"),
        ("mo", r"configurations? (is|are) the best trade-off of val_loss and val_accuracy among \d+: "),
        ("c", r"<h1>dagnn is best: ahead|No winner: "),
        ("k", r"1 of 4 claims holds in direction, 1 also in size"),
        (
            "n",
            r"The best of 20 networks is .*trained alone it has val_loss 0\.91 .*2,000|The best of 20 networks",
        ),
    ],
)
def test_a_report_begins_with_its_answer(store: Store, name: str, says: str) -> None:
    page = html.page(document_of(store, [name]))
    first = re.search(r"<h1>(.*?)</h1>", page)
    assert first and re.search(says, first[0]), first
    assert page.index("<h1>") < page.index("<h2>")


@pytest.mark.parametrize("name", ["s", "mo", "c", "k", "n"])
def test_what_comes_from_outside_is_text(store: Store, name: str) -> None:
    page = Tags(html.page(document_of(store, [name])))
    assert page.tags.count("script") == 3 and not {"b", "i"} & set(page.tags)
    blocks = json.loads(page.data)["blocks"]
    assert blocks and "</script" not in page.data
    if name == "s":
        assert (
            made.NASTY in page.text and made.REASON in page.text and made.ERROR.splitlines()[1] in page.text
        )
        assert any(made.NASTY in map(str, c) for b in blocks.values() for c in b["columns"])


def test_every_figure_has_caption_words_and_data(store: Store) -> None:
    for name in ("s", "mo", "c", "k", "n"):
        found = [b for _, b in document_of(store, [name]).blocks() if hasattr(b, "alt")]
        assert found
        for figure in found:
            assert figure.caption.endswith(".") and re.search(r"\d", figure.alt) and figure.data.num_rows
            assert len(figure.csv().splitlines()) > figure.data.num_rows


def test_several_sweeps_are_no_comparison(store: Store) -> None:
    found = document_of(store, ["s", "s000", "s"])
    assert "does not tell which is better" in found.answer and "Side by side" in [
        s.title for s in found.sections
    ]
    assert "not tuned on the same metric" in document_of(store, ["s", "mo"]).answer


def test_the_same_from_python(store: Store, tmp_path: Path) -> None:
    sweep = api.open("s", store.uri)
    assert sweep.report(tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert sweep.plot.slice("lr").title == "lr" and "anytime" in repr(sweep.plot)
    assert sweep.plot.history().save(tmp_path / "h.csv").read_text().startswith("trial,")
    with pytest.raises(UserError, match="parameter=nothing: s has tried lr, layers"):
        sweep.plot.slice("nothing")
    with pytest.raises(UserError, match="metric=nothing: s has val_loss, val_accuracy, test_accuracy"):
        sweep.plot.learning_curves("nothing")
    with pytest.raises(UserError, match="is tuned on one metric, val_loss"):
        sweep.plot.front()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sx"], "sx: {uri} has no such sweep; did you mean s"),
        (["s", "c"], "c: is no single sweep; a report is of sweeps, or of it alone"),
        (["s", "-o", "nowhere/r.html"], "--output=nowhere/r.html: the folder nowhere does not exist"),
        (["s", "-o", "."], "--output=.: is a folder; name the file too, such as report.html"),
        (["s", "-o", "r.doc"], "--output=r.doc: must end in .html, .md, .pdf, or give --format"),
        (["empty"], "empty: has no trials yet: there is nothing to draw"),
    ],
)
def test_bad_input_is_one_line(
    store: Store, words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if words == ["empty"]:
        store = Store(tmp_path / "store")
        with store.create("empty", {"paper": "p"}, config_fields=[], metric_names=["x"]):
            pass
    assert run_cli(["report", *words, "--storage", store.uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says.format(uri=store.uri) in line and not list(tmp_path.glob("*.html"))


def test_an_unknown_sweep_is_said_as_everywhere(store: Store) -> None:
    with pytest.raises(UnknownSweep):
        write(store, ["nothing"])


def test_where_there_is_nothing_to_draw_words_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.swift(monkeypatch)
    store = Store(tmp_path)
    about = {"paper": "p", "objective": "x", "mode": "max"}
    with store.create("r", about, config_fields=made.FIELDS, metric_names=["x"]) as writer:
        for k in range(3):
            config = {"config.lr": 0.1 * (k + 1)}
            writer.trial(f"{k}-0", number=k, config_id=k, seed=0, state="running", config_json="{}", **config)
    found = document_of(store, ["r"])
    assert found.answer == "r has no configuration with a value yet, of 3 configurations begun."
    assert not [b for _, b in found.blocks() if isinstance(b, Figure)]
    said = [b.text for s in found.sections for b in s.blocks if isinstance(b, Text)]
    assert any("no complete configuration among 0 trials" in text for text in said)
