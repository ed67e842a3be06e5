"""Which packages are installed, against the ranges that fairsweep asks for; what its extras are for."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fairsweep.cluster.service.checking import BAD, NOT_HERE, OK, WARN, Check

# What the extras are for; one that is not here is told by what it brings.
FOR = {
    "readers": "DuckDB and Polars on the tables",
    "images": "data sets and own data as image files",
    "audio": "data sets of recordings",
    "terminal": "plots in the terminal",
    "export": "networks as ONNX files",
    "report": "reports with figures, PDF, `fairsweep dashboard`",
    "models": "networks of timm and torchvision to prune",
    "mlflow": "runs of `tracking=mlflow`",
}
FOR_DEVELOPERS = ("dev", "benchmarks", "s3-tests")


def requirements() -> tuple[list[Requirement], str]:
    """What fairsweep asks for, extras too (in the marker), and of Python: by the checkout that runs, or the package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if sys.version_info >= (3, 11) and project.is_file():
        import tomllib

        about = tomllib.loads(project.read_text())["project"]
        asked = [Requirement(text) for text in about["dependencies"]]
        for extra, texts in about["optional-dependencies"].items():
            asked += [_of_extra(Requirement(text), extra) for text in texts]
        return asked, about["requires-python"]
    from importlib.metadata import metadata

    return [Requirement(text) for text in requires("fairsweep") or ()], metadata("fairsweep")[
        "Requires-Python"
    ]


def _of_extra(asked: Requirement, extra: str) -> Requirement:
    marker = f'extra == "{extra}"' + (f" and ({asked.marker})" if asked.marker else "")
    return Requirement(f"{str(asked).partition(';')[0]}; {marker}")


def _extra_of(asked: Requirement) -> str:
    named = re.search(r"extra == [\"']([\w-]+)[\"']", str(asked.marker or ""))
    return named[1] if named else ""


def _wrong(asked: Requirement) -> str:
    """What is wrong with a package that is asked for; empty if it is there in a version that fits."""
    try:
        there = version(asked.name)
    except PackageNotFoundError:
        return f"{asked.name} is not installed"
    if not asked.specifier.contains(there, prereleases=True):
        return f"{asked.name} {there} is not {asked.specifier}"
    return ""


def packages() -> list[Check]:
    """Python and the packages that are always needed, against their ranges."""
    asked, python = requirements()
    found = []
    here = platform.python_version()
    if SpecifierSet(python).contains(here, prereleases=True):
        found.append(Check("python", OK, f"{here} at {sys.executable}"))
    else:
        found.append(
            Check("python", BAD, f"{here} is not {python}", "make a new environment with another Python")
        )
    needed = [a for a in asked if not _extra_of(a) and (a.marker is None or a.marker.evaluate())]
    wrong = [text for text in map(_wrong, needed) if text]
    for text in wrong:
        found.append(
            Check("packages", BAD, text, "pip install -c constraints.txt -e . (or pip install fairsweep)")
        )
    if not wrong:
        said = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "optuna", "pyarrow"))
        found.append(Check("packages", OK, f"all {len(needed)} in their ranges: {said}"))
    return found


def extras() -> list[Check]:
    """Which extras are installed, and what each is for."""
    asked, _ = requirements()
    found = []
    for extra in dict.fromkeys(filter(None, map(_extra_of, asked))):
        if extra in FOR_DEVELOPERS:
            continue
        of_it = [
            a
            for a in asked
            if _extra_of(a) == extra and (not a.marker or a.marker.evaluate({"extra": extra}))
        ]
        names = ", ".join(a.name for a in of_it)
        what = f"{FOR[extra]} ({names})" if extra in FOR else names
        wrong = [text for text in map(_wrong, of_it) if text]
        install = f"pip install 'fairsweep[{extra}]'"
        if not wrong:
            found.append(Check(f"extra {extra}", OK, f"installed: {what}"))
        elif all(text.endswith("is not installed") for text in wrong):
            found.append(Check(f"extra {extra}", NOT_HERE, f"not installed: {what}; {install} brings it"))
        else:
            found.append(Check(f"extra {extra}", WARN, "; ".join(wrong), install))
    return found
