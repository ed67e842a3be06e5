"""Shared by the tests of cluster/: whether searches in this process leave the files of their networks."""

from __future__ import annotations

import pytest

from fairsweep.cluster.jobs.nas import report as nas_report


@pytest.fixture
def files() -> None:
    """Searches leave the files of their networks, too: a test of those asks for it."""


@pytest.fixture(autouse=True)
def no_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tracing and writing them takes three times as long as all else that a tiny search does.
    if "files" not in request.fixturenames:
        monkeypatch.setattr(nas_report, "export", lambda *_: "")
