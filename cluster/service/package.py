"""The package of a job: a snapshot of a folder, without junk, that has the same bytes whenever its files do.

Ray names the package of a folder by its contents and packs it afterwards: a log that grows in between gives a package
that the nodes cannot find. Here each file is read once, into an archive that is named by its own bytes.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pathspec

from fairsweep.cluster.errors import UserError

MIB = 2**20
MOST_MIB = 100  # of a package that nobody has allowed to be larger
RAY_MIB = 512  # what Ray takes in one message
MOST_FILES = 50_000
NAMED = 5  # of the largest, in the line that refuses a package
IGNORE_FILES = (".gitignore", ".rayignore")
# What no job needs, wherever it lies. `--include PATH` takes one of these along all the same.
JUNK = (
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", "__pycache__", "*.pyc", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".import_linter_cache", "*.egg-info", "node_modules",
    ".DS_Store", ".coverage", "*.log", "*.out", "slurm-*", "logs/", "fairsweep-store", "outputs/", "multirun/",
    "wandb/", "mlruns/", "lightning_logs/", "ray_results/", "core.[0-9]*",
    ".env", ".env.*", ".netrc", "*.pem", "id_rsa*", "id_ed25519*", ".ssh/", ".aws/", ".ray/", ".kube/",  # secrets
)  # fmt: skip
_STORE = {"results", "sweeps", "trials"}  # folders of a store, whatever it is called
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that an archive can say


@dataclass
class Package:
    """What a job takes along. files: name in the package -> where it lies; texts: those that are made."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    def write(self, target: Path) -> int:
        """Writes the archive; its bytes. The same files make the same bytes, whatever their dates.

        A file that is gone meanwhile is left out, one that grows is taken as it is when it is read.
        """
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in sorted({*self.files, *self.texts}):
                body, mode = self._read(name)
                if body is None:
                    continue
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)) << 16
                archive.writestr(entry, body)
        return target.stat().st_size

    def _read(self, name: str) -> tuple[bytes | None, int]:
        if name in self.texts:
            return self.texts[name], 0o644
        path = self.files[name]
        try:
            with path.open("rb") as file:
                return file.read(), os.fstat(file.fileno()).st_mode
        except FileNotFoundError:
            return None, 0
        except OSError as error:
            raise UserError(
                f"submit: {path}: cannot be read ({error.strerror}); leave it out with --exclude or in .rayignore"
            ) from None


def collect(folder: Path, exclude: Sequence[str] = (), include: Sequence[Path] = ()) -> dict[str, Path]:
    """The files of `folder` that go along, by their names in it.

    Left out is what .gitignore and .rayignore of any folder in it name, `JUNK`, `exclude` (patterns as in those
    files) and stores. include: files and folders below `folder` that go along all the same, but for junk in them.
    """
    junk = (folder, _spec(JUNK))
    asked = (folder, _spec(exclude))
    found = dict(_named(folder, _walk(folder, [junk, asked], ignore_files=True)))
    for path in include:
        place = path if path.is_absolute() else folder / path
        if not place.exists():
            raise UserError(f"--include={path}: no such file or folder in {folder}")
        if place.is_file():
            found[_inside(folder, place, f"--include={path}")] = place
        else:
            below = (place, _spec(JUNK))
            _inside(folder, place, f"--include={path}")
            found |= _named(folder, _walk(place, [below, asked], ignore_files=False))
    return found


def tree(folder: Path, most: int | None = None) -> dict[str, Path]:
    """All files of a folder but junk, by their names in it. most: bytes, after which it is not read further."""
    return dict(_named(folder, _walk(folder, [(folder, _spec(JUNK))], ignore_files=False, most=most)))


def size_of(files: Mapping[str, Path]) -> int:
    """Bytes of files as they are now; what is gone has none."""
    return sum(_size(path) for path in files.values())


def check_size(package: Package, folder: Path, most_mib: int = MOST_MIB) -> int:
    """The bytes of a package; UserError in one line that names the largest files where there are too many."""
    sizes = {name: _size(path) for name, path in package.files.items()}
    sizes |= {name: len(text) for name, text in package.texts.items()}
    total = sum(sizes.values())
    if total <= most_mib * MIB and len(sizes) < MOST_FILES:
        return total
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:NAMED]
    listed = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    many = f"{len(sizes)} files" if len(sizes) < MOST_FILES else f"{MOST_FILES} files and more"
    most = f"more than {most_mib} MiB" if total > most_mib * MIB else "too many"
    raise UserError(
        f"submit: {folder} has {_mib(total)} in {many} to take along, {most}; the largest: {listed}. Leave out what"
        " the job does not need in .rayignore or with --exclude PATTERN, or allow more with --max-mib N (Ray takes"
        f" {RAY_MIB})"
    )


def _mib(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= MIB / 10 else f"{count} bytes"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _spec(patterns: Sequence[str]) -> pathspec.GitIgnoreSpec:
    return pathspec.GitIgnoreSpec.from_lines(patterns)


def _named(folder: Path, paths: Iterator[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        yield path.relative_to(folder).as_posix(), path


def _inside(folder: Path, path: Path, option: str) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise UserError(f"{option}: must lie in {folder}, the working directory") from None


Rules = Sequence[tuple[Path, pathspec.GitIgnoreSpec]]


def _walk(folder: Path, rules: Rules, ignore_files: bool, most: int | None = None) -> Iterator[Path]:
    """Files below `folder`, through links, that no rule leaves out; at most `MOST_FILES`, or `most` bytes and a bit."""
    todo: list[tuple[Path, Rules, frozenset[str]]] = [(folder, rules, frozenset())]
    count = size = 0
    while todo:
        here, known, above = todo.pop()
        real = os.path.realpath(here)
        if real in above:  # a link to a folder that it lies in
            continue
        if ignore_files:
            known = [*known, *_rules_of(here)]
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"submit: {here}: cannot be read ({error.strerror}); leave it out with --exclude or in .rayignore"
            ) from None
        if here != folder and {entry.name for entry in entries} >= _STORE:
            continue
        for entry in entries:
            path = here / entry.name
            folders = entry.is_dir()
            if any(spec.match_file(_as_named(path, base, folders)) for base, spec in known):
                continue
            if folders:
                todo.append((path, known, above | {real}))
            elif entry.is_file():  # no socket, no pipe, no link to nothing
                yield path
                count += 1
                size += _size(path) if most is not None else 0
                if count >= MOST_FILES or (most is not None and size > most):
                    return


def _rules_of(folder: Path) -> Rules:
    found = []
    for name in IGNORE_FILES:
        try:
            lines = (folder / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        found.append((folder, _spec(lines)))
    return found


def _as_named(path: Path, base: Path, folder: bool) -> str:
    return path.relative_to(base).as_posix() + ("/" if folder else "")
