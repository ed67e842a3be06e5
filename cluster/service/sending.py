"""A verb as a job: its words, its package and its environment."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairsweep._flat import ROOMS
from fairsweep.cluster import DEFAULT_STORAGE, masking
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import provenance, submitted
from fairsweep.cluster.service.carrying import Carrier
from fairsweep.cluster.service.jobs import STOP_S
from fairsweep.cluster.service.package import MOST_MIB, Package, check_size, collect, tree

OURS = Path(__file__).resolve().parents[2]  # the checkout, or the installed package
CONSTRAINTS = "constraints"
SECRETS = ".fairsweep-words.json"
FORWARDED = ("FAIRSWEEP_PLUGINS", "FAIRSWEEP_METHODS")
# The nodes have their own Ray, and a job's must be the same.
_NODES_OWN = ("ray",)


@dataclass(frozen=True)
class Options:
    """How a verb is sent. packages: None (what the nodes have), `constraints`, or a requirements file."""

    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    max_mib: int = MOST_MIB
    packages: str | None = None
    passed: Sequence[str] = ()  # NAME or NAME=VALUE of the job's environment
    data: bool = True


@dataclass
class Parcel:
    """A job before it is handed in. `runtime_env` lacks the package, which is written last."""

    entrypoint: str
    package: Package
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    size: int
    notes: list[str] = field(default_factory=list)


def pack(words: Sequence[str], folder: Path, options: Options) -> Parcel:
    """Makes a job of `words`, which were given in `folder`, the present one. UserError, before anything is sent."""
    package = Package(collect(folder, options.exclude, [Path(text) for text in options.include]))
    carrier = Carrier(folder, package, options.data)
    sent = carrier.words(words)
    variables = _variables(options.passed)
    checkout = _is_checkout(folder)
    packages = _packages(options.packages, package, folder)
    if packages is not None and not checkout:
        _carry_ours(package, folder)
    if checkout or packages is not None:
        of_folder = provenance.version_of(folder, "fairsweep/_flat.py")
        commit, dirty = of_folder if checkout else provenance.code_version()
        if commit:
            variables[provenance.REVISION] = f"{commit}{'-changed' if dirty else ''}"
    shown = masking.masked_words(sent)
    if shown != sent:
        package.texts[SECRETS] = json.dumps({"shown": shown, "words": sent}).encode()
        variables[submitted.WORDS] = SECRETS
    size = check_size(package, folder, options.max_mib)
    if not package.files and not package.texts:
        package.texts["README"] = b"An empty working directory.\n"  # Ray takes no empty archive
    runtime_env: dict[str, Any] = {
        "env_vars": {
            # Ray kills a job 3 s after it has asked it to end: too early for a sweep's last reports.
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
            submitted.FOLDER: str(folder),
            **{name: os.environ[name] for name in FORWARDED if os.environ.get(name)},
            **variables,
        }
    }
    if packages is not None:
        runtime_env["pip"] = packages
    # exec: the shell that Ray runs it in would take the signal to end, and be gone before its child.
    entrypoint = f"exec python -m fairsweep.cluster {masking.command(sent)}"
    return Parcel(entrypoint, package, runtime_env, _metadata(words, folder), size, carrier.notes)


def storage_of(words: Sequence[str]) -> str:
    """The store that words name."""
    found = DEFAULT_STORAGE
    for n, word in enumerate(words):
        if word.startswith(("storage=", "--storage=")):
            found = word.partition("=")[2].strip("'\"") or found
        elif word == "--storage" and n + 1 < len(words):
            found = words[n + 1]
    return found


def _metadata(words: Sequence[str], folder: Path) -> dict[str, str]:
    """Where who asks about the job later may find its store; a URI without its secrets."""
    storage = storage_of(words)
    if "://" in storage:
        return {submitted.STORE: masking.masked_uri(storage)}
    place = Path(os.path.expanduser(storage))
    found = {submitted.STORE: str(folder / place)}
    if not place.is_absolute():
        found[submitted.HOME_STORE] = str(Path("~") / place)
    return found


def _variables(passed: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in passed:
        name, equals, value = text.partition("=")
        if not name.isidentifier():
            raise UserError(f"--pass={name}: must be the NAME of a variable, or NAME=VALUE")
        if not equals and name not in os.environ:
            raise UserError(f"--pass={name}: is not set here; set it, or write --pass {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def _is_checkout(folder: Path) -> bool:
    """Whether fairsweep's own code lies in the folder, and so goes along with it."""
    return (folder / "fairsweep" / "_flat.py").is_file() and all((folder / room).is_dir() for room in ROOMS)


def _carry_ours(package: Package, folder: Path) -> None:
    """Puts the code that runs here into the package, as one package `fairsweep`."""
    if (folder / "fairsweep").exists():
        raise UserError(
            f"submit: {folder / 'fairsweep'}: is in the place of fairsweep's own code, which --packages takes along;"
            " submit from another folder"
        )
    rooms = [OURS / room for room in ROOMS]
    home = Path(sys.modules["fairsweep"].__file__ or "").parent
    for name, path in tree(home).items():
        package.files[f"fairsweep/{name}"] = path
    for room in rooms if home != OURS else ():
        for name, path in tree(room).items():
            package.files[f"fairsweep/{room.name}/{name}"] = path


# -- what is installed for a job -----------------------------------------------------------------------------------


def _packages(asked: str | None, package: Package, folder: Path) -> list[str] | None:
    """What Ray's `pip` is told; None to install nothing. What the nodes have already is not installed again."""
    if asked is None:
        return None
    if asked != CONSTRAINTS:
        try:
            lines = Path(os.path.expanduser(asked)).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "is no text"
            raise UserError(
                f"--packages={asked}: must be {CONSTRAINTS} or a requirements file ({why})"
            ) from None
        return [line for line in (text.split(" #")[0].strip() for text in lines) if line and line[0] != "#"]
    wanted = requirements()
    pins = _pins(folder, wanted)
    body = "\n".join(pins) + "\n"
    # By a name of its own for each content: Ray knows an environment by the words of it.
    name = f".fairsweep-constraints-{hashlib.sha256(body.encode()).hexdigest()[:12]}.txt"
    package.texts[name] = body.encode()
    return [f"-c ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{name}", *wanted]


def requirements() -> list[str]:
    """What fairsweep needs, but for Ray: of the checkout that runs, or of the installed package."""
    try:
        text = (OURS / "pyproject.toml").read_text()
        block = text[text.index("dependencies = [") :]
        found = re.findall(r'"([^"]+)"', block[: block.index("\n]")])
    except (OSError, ValueError):
        try:
            found = importlib.metadata.requires("fairsweep") or []
        except importlib.metadata.PackageNotFoundError:
            found = []
        found = [line for line in found if "extra ==" not in line]
    return [line for line in found if _name(line) not in _NODES_OWN]


def _pins(folder: Path, wanted: Sequence[str]) -> list[str]:
    """The versions: those of constraints.txt of the folder or the checkout, else those that run here."""
    for place in (folder, OURS):
        file = place / "constraints.txt"
        if file.is_file():
            lines = [line.split(" #")[0].strip() for line in file.read_text().splitlines()]
            return [line for line in lines if line and line[0] != "#" and _name(line) not in _NODES_OWN]
    found = []
    for line in wanted:
        try:
            found.append(f"{_name(line)}=={importlib.metadata.version(_name(line))}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def check(words: Sequence[str], verbs: Sequence[str], not_here: Sequence[str]) -> None:
    """UserError for words that no job can run: seen here, before anything is sent."""
    if not words:
        raise UserError(
            "submit: say what is to run, as without submit: fairsweep submit run trainable=biper budget.trials=6"
        )
    verb = words[0]
    if verb.startswith("-"):
        raise UserError(
            f"submit: does not know {verb}; options of submit come before the verb, see submit --help"
        )
    if verb not in verbs:
        from fairsweep.cluster.checks import hint

        raise UserError(f"submit {verb}: no such verb; {hint(verb, [v for v in verbs if v not in not_here])}")
    if verb in not_here:
        raise UserError(f"submit {verb}: runs here, and in no job; leave submit out")
    if verb in ("run", "nas") and not {"--help", "-h", "--cfg"} & set(words):
        from fairsweep.cluster import config
        from fairsweep.cluster.jobs.nas import config as nas_config
        from fairsweep.trainables.own.source import is_reference

        settings = [word for word in words[1:] if not word.startswith("-")]
        given = {key: value.strip("'\"") for key, _, value in (word.partition("=") for word in settings)}
        folder = os.path.expanduser(given.get("data_dir", "."))
        # A file of the user's may need what only the nodes have, and data may lie on them alone: looked at there.
        if not is_reference(given.get("trainable", "")) and os.path.isdir(folder):
            (config.load if verb == "run" else nas_config.load)(settings)
