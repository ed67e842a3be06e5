"""Shell completion: `eval "$(fairsweep completion bash)"`. argcomplete speaks with bash, zsh and fish; what may come
next is known here: papers, groups and their options, settings, parameters of the chosen paper, sweeps of the store."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")
_ROOTS = {"run": "config", "nas": "nas", "resume": "config", "compare": "config"}


def register(add: Any) -> None:
    """Adds the verb of this file. add: see `cluster.cli`."""
    p = add("completion", _completion, "print what makes a shell complete our words", json=False)
    p.add_argument(
        "shell",
        choices=SHELLS,
        help='bash and zsh: eval "$(fairsweep completion bash)" in ~/.bashrc; '
        "fish: fairsweep completion fish > ~/.config/fish/completions/fairsweep.fish",
    )


def _completion(args: argparse.Namespace, rest: list[str]) -> int:
    import argcomplete

    print(argcomplete.shellcode(["fairsweep"], shell=args.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell that asks what may come next, and ends the process; returns if none asks."""
    import argcomplete

    for command, p in verbs(parser).items():
        if command in ("run", "nas"):
            p.add_argument("words", nargs="*", help=argparse.SUPPRESS).completer = settings  # type: ignore[attr-defined]
        for action in p._actions:
            if command == "compare" and action.dest == "words":
                action.completer = of_a_comparison  # type: ignore[attr-defined]
            elif action.dest in ("slug", "slugs"):
                action.completer = papers  # type: ignore[attr-defined]
            elif action.dest in ("sweep", "sweeps"):
                action.completer = sweeps  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """All verbs, each with what parses it."""
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def papers(prefix: str, **_: Any) -> list[str]:
    """Slugs of the catalogue."""
    from fairsweep.trainables import catalog

    return [slug for slug in catalog.slugs() if slug.startswith(prefix)]


def sweeps(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Sweeps of the store that the words so far name; nothing where there is no store."""
    from fairsweep.cluster.storage import existing

    try:
        return [
            name for name in existing(parsed_args.storage, "--storage").sweeps() if name.startswith(prefix)
        ]
    except Exception:  # a shell that completes is no place for errors
        return []


def of_a_comparison(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Papers, tasks with the data sets of their papers, and the settings of a comparison and of its searches."""
    from fairsweep.cluster.jobs.comparing import methods
    from fairsweep.trainables import index

    key, equals, _value = prefix.partition("=")
    if not equals:
        return [
            *papers(prefix),
            *settings(prefix, parsed_args),
            *(f"{w}=" for w in methods.SETTINGS if w.startswith(prefix)),
        ]
    said = dict(word.partition("=")[::2] for word in parsed_args.words or ())
    slugs = index.tasks().get(index.spoken(said.get("task", "")), [])
    values = {
        "task": sorted(index.tasks()),
        "baselines": ["true", "false"],
        "data": list(dict.fromkeys(name for slug in slugs for name in index.datasets_of(slug))),
    }
    return [f"{key}={v}" for v in values.get(key, ()) if f"{key}={v}".startswith(prefix)] or settings(
        prefix, parsed_args
    )


def settings(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Groups with their options, settings, and `space.NAME` of the paper that is chosen already."""
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs.nas import config as nas_config

    of_sweeps = parsed_args.command in ("run", "compare")
    groups = config.GROUPS if of_sweeps else nas_config.GROUPS
    key, equals, _value = prefix.partition("=")
    if equals:
        options = config.group_options(key) if key in groups else []
        return [f"{key}={option}" for option in options if f"{key}={option}".startswith(prefix)]
    known = [*groups, *config.all_keys(_ROOTS[parsed_args.command])]
    chosen = next(
        (w.removeprefix("trainable=") for w in parsed_args.words or () if w.startswith("trainable=")), ""
    )
    if parsed_args.command == "run" and chosen in config.group_options("trainable"):
        from fairsweep.trainables import catalog

        known += [f"space.{name}" for name in catalog.space_of(chosen).parameters]
    return sorted({f"{name}=" for name in known if name.startswith(prefix)})
