"""Reports as files: Markdown with its folder, PDF, and the page in a real Chromium without any network."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.documents.markdown import plain
from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.reporting import write
from tests import report_stores as made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    where = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        made.swift(patch)
        made.write_sweep(where, "s", 12)
        made.write_comparison(where)
        made.write_claims(where)
        made.write_networks(where)
    return Store(where)


def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)


def test_markdown_needs_nothing_more(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_drawing(monkeypatch)
    file = write(store, ["s"], tmp_path / "r.md")
    text = file.read_text()
    assert text.startswith("# The best of 12 configurations has val\\_loss 0.")
    assert "pip install 'fairsweep[report]'" in text.splitlines()[-1]
    assert "<b>" not in re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)  # but in code it stands as it is
    links = re.findall(r"\]\((.*?)\)", text)
    assert "r_files/trials.csv" in links and all((tmp_path / link).is_file() for link in links)
    assert made.NASTY in (tmp_path / "r_files/trials.csv").read_text()
    assert write(store, ["s"], tmp_path / "r.md") == file  # its own folder is written anew, another's is not
    (tmp_path / "q_files").mkdir()
    with pytest.raises(UserError, match="q_files is there, and is none of a report"):
        write(store, ["s"], tmp_path / "q.md")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b *c* <d>", r"a\|b \*c\* &lt;d&gt;"),
        ("- x\n# y", r"\- x \# y"),
        ("1. one", r"1\. one"),
        ("2 of 3 (a)", "2 of 3 (a)"),
    ],
)
def test_text_that_markdown_shows_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("form", ["html", "pdf"])
def test_without_the_extra_one_line_says_what_to_install(
    store: Store, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    without_drawing(monkeypatch)
    target = tmp_path / f"r.{form}"
    assert run_cli(["report", "s", "-o", str(target), "--storage", store.uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'fairsweep[report]'" in line and "--format=md needs nothing more" in line
    assert not target.exists()


def test_markdown_with_pictures_and_pdf(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="pictures need vl-convert-python")
    pytest.importorskip("typst", reason="PDF needs typst")
    write(store, ["k"], tmp_path / "k.md")
    assert "![Claims and what was found](k_files/claims.svg)" in (tmp_path / "k.md").read_text()
    assert (tmp_path / "k_files/claims.svg").read_text().startswith("<svg")
    found = write(store, ["k"], tmp_path / "k.pdf").read_bytes()
    assert found.startswith(b"%PDF") and b"/Figure" in found  # tagged: a figure has its words


# -- in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium")
    pytest.importorskip("vl_convert", reason="pages need vl-convert-python")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


def opened(browser: Any, file: Path, width: int = 1200, dark: bool = False) -> tuple[Any, list[str], float]:
    """The page when all figures are drawn, what the console said, and the seconds until it was loaded."""
    context = browser.new_context(
        offline=True, viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "blob:")) else said.append(r.url))
    began = time.perf_counter()
    page.goto(file.as_uri())
    loaded = time.perf_counter() - began
    page.wait_for_function("window.fairsweep && fairsweep.drawn === fairsweep.figures", timeout=60_000)
    assert page.evaluate("fairsweep.failed") == []
    return page, said, loaded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s", "c", "k", "n"])
def test_the_page_in_a_browser(browser: Any, store: Store, name: str, tmp_path: Path) -> None:
    file = write(store, [name], tmp_path / "r.html")
    for width, dark in ((1200, False), (1200, True), (390, False)):
        page, said, _ = opened(browser, file, width, dark)
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.title() != "taken" and page.locator("main b, main i").count() == 0
        for box in page.locator(".plot").all():
            assert box.locator("svg path, svg text").count() > 3, box.get_attribute("id")
        back = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert back == ("rgb(23, 28, 36)" if dark else "rgb(255, 255, 255)")
        page.context.close()


@pytest.mark.slow
def test_the_page_is_used_by_keyboard(browser: Any, store: Store, tmp_path: Path) -> None:
    page, said, _ = opened(browser, write(store, ["s"], tmp_path / "r.html"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    tick = "getComputedStyle(document.querySelector('.plot svg text')).fill"
    assert page.evaluate(tick) == "rgb(163, 173, 186)"  # a figure that was drawn light is dark at once
    find = page.locator("#trials input")
    find.focus()
    page.keyboard.type("failed 00000")
    page.wait_for_function("document.querySelectorAll('#trials tbody tr').length === 2")
    assert made.REASON in page.locator("#trials tbody").inner_text()
    find.fill("")
    page.wait_for_function("document.querySelectorAll('#trials tbody tr').length > 2")
    page.locator("#trials th button", has_text="val_loss").focus()
    page.keyboard.press("Enter")
    shown = page.locator("#trials tbody tr td:nth-child(3)").all_inner_texts()
    values = [float(v) for v in shown if v]
    assert values == sorted(values) and shown[-1] == ""  # those without a value are last
    with page.expect_download() as download:
        page.locator("#trials button", has_text="Data (CSV)").focus()
        page.keyboard.press("Enter")
    saved = Path(download.value.path()).read_text()
    assert len(saved.splitlines()) == 25 and made.NASTY in saved and said == []
    with page.expect_download() as download:
        page.locator("figure button", has_text="Picture").first.click()
    assert "var(--" not in Path(download.value.path()).read_text()


@pytest.mark.slow
def test_the_page_on_paper(browser: Any, store: Store, tmp_path: Path) -> None:
    page, _, _ = opened(browser, write(store, ["s"], tmp_path / "r.html"), dark=True)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.plot svg text')).fill") == "rgb(86, 98, 115)"
    )
    assert not page.locator("nav").is_visible() and not page.locator(".actions").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.slow
def test_ten_thousand_trials(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.swift(monkeypatch)
    store = made.write_sweep(tmp_path / "store", "big", 5000)
    began = time.process_time()  # what it takes, not what else the machine does meanwhile
    file = write(store, ["big"], tmp_path / "big.html")
    written = time.process_time() - began
    page, said, loaded = opened(browser, file)
    assert said == [] and page.locator("#trials .state").inner_text() == "1 to 50 of 10,000"
    print(json.dumps({"written_cpu_s": written, "loaded_s": loaded, "bytes": file.stat().st_size}))
    assert written < 20 and loaded < 3
