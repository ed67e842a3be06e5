"""What `run --help` and `nas --help` print: groups, their options, settings."""

from __future__ import annotations

from pathlib import Path

from fairsweep.cluster.errors import UserError

# group -> the option whose settings `--help` shows
SHOWN = {
    "run": {"search": "tpe", "scheduler": "asha", "budget": "laptop", "cluster": "local"},
    "nas": {"algorithm": "evolution", "supernet": "cell", "cluster": "local"},
}
USAGE = {
    "run": (
        "fairsweep run trainable=<slug or file.py:name> [group=option ...] [key=value ...]",
        "space.<parameter>=<value>        fixes a parameter of the paper's space\n"
        "  space.<parameter>.high=<value>   changes its range (also low, log, step, choices)",
    ),
    "nas": (
        "fairsweep nas algorithm=<name> supernet=<kind> [group=option ...] [key=value ...]",
        "train.config.<parameter>=<value>     of the paper that trains the supernet (`fairsweep info pa_da`)\n"
        "  retrain.config.<parameter>=<value>   of the one that trains a network (`fairsweep info standalone`)",
    ),
}


def show_help(group: str, command: str) -> int:
    """Prints the settings of `command`, or the options of a group. UserError for an unknown group."""
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs.nas import config as nas_config

    groups = config.GROUPS if command == "run" else nas_config.GROUPS
    folder = Path(config.__file__).parent / "conf"
    if group and group not in groups:
        raise UserError(f"--help {group}: no such group; groups are {', '.join(groups)}")
    if group == "trainable":
        print("trainable=<slug>, one of:\n  " + "\n  ".join(config.group_options(group)))
        return 0
    if group:
        for option in config.group_options(group):
            print(f"== {group}={option}\n{(folder / group / f'{option}.yaml').read_text()}")
        return 0
    usage, more = USAGE[command]
    print(f"{usage}\n\ngroups ({command} --help GROUP says more):")
    for name in groups:
        print(f"  {name:<10} {' | '.join(config.group_options(name))}")
    print("\nsettings:")
    root = "config" if command == "run" else "nas"
    _, _, own = (folder / f"{root}.yaml").read_text().partition("\n\n")  # below the defaults list
    print("\n".join(f"  {line}" for line in own.splitlines()))
    defaults = _defaults(folder / f"{root}.yaml")
    for name, option in SHOWN[command].items():
        if option != defaults[name]:
            print(f"  {name}: {defaults[name]:<17} # what {name}={option} would set:")
        for line in (folder / name / f"{option}.yaml").read_text().splitlines():
            if not line.startswith("#") and (option == defaults[name] or not line.startswith("name:")):
                print(f"  {name}.{line}")
    print(f"\n  {more}")
    print("\n--cfg job prints the composed configuration; --json answers in JSON; --quiet shows no progress.")
    print("--log-format json makes JSON lines of it.")
    return 0


def _defaults(root: Path) -> dict[str, str]:
    """Group -> the option that holds unless another is chosen, by the defaults list of a root configuration."""
    import yaml

    listed = yaml.safe_load(root.read_text())["defaults"]
    return {name: option for entry in listed if isinstance(entry, dict) for name, option in entry.items()}
