"""`tracking.sweep=true`: a sweep that our own driver runs has a sweep page of W&B's, to which its trials belong.

Our driver is the only one that says what runs there: the page's sweep has the method `custom` and no scheduler, so
W&B's server hands out nothing, and neither `fairsweep agent` nor `fairsweep wandb` takes it.
"""

from __future__ import annotations

from typing import Any

from fairsweep.cluster import config
from fairsweep.cluster.display import Display
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.driving import Result
from fairsweep.cluster.service.searching import register, settings_in, space_of
from fairsweep.cluster.service.wandb_client import Client, Place, Unanswered, connected
from fairsweep.cluster.storage import new_name, open_store

STATES = {"finished": "FINISHED", "failed": "FINISHED", "interrupted": "PAUSED"}


def run(settings: config.Settings, display: Display | None = None) -> Result:
    """`jobs.sweep.run`, with a page where `tracking.sweep` asks for one."""
    if settings.tracking.get("sweep") is not True:
        return sweep.run(settings, display)
    _check(settings)
    name = new_name(open_store(settings.storage), settings.name, settings.paper.slug)
    sweep.rehearse(settings, settings.paper)
    told = {
        **space_of(settings),
        "method": "custom",
        "name": name,
        "description": f"fairsweep {settings.heading}",
    }
    place = register(connected(), settings, told)
    settings.tree["name"] = name
    settings.tree["tracking"] = {
        **settings.tracking,
        "agent": {
            "sweep": place.sweep,
            "project": place.project,
            "entity": place.entity,
            "names": list(told["parameters"]),
        },
    }
    return _ended(sweep.run(settings, display), settings.tracking, display)


def resume(storage: str, name: str, changes: list[str], display: Display | None = None) -> Result:
    """`jobs.sweep.resume`, of which the page is told, too, if there is one."""
    result = sweep.resume(storage, name, changes, display)
    tracking = settings_in(open_store(storage), name)["tracking"]
    return _ended(result, tracking, display) if tracking.get("sweep") is True else result


def _check(settings: config.Settings) -> None:
    if settings.tracking["mode"] != "online":
        raise UserError(
            f"tracking.sweep=true: a sweep page is made by W&B's server; tracking.mode={settings.tracking['mode']} must"
            " be online"
        )


def _ended(result: Result, tracking: dict[str, Any], display: Display | None) -> Result:
    agent = tracking["agent"]
    try:
        place = Place(agent["entity"], agent["project"], agent["sweep"])
        Client(connected(), place).set_state(STATES[result.state])
    except (UserError, Unanswered) as error:
        if display is not None:
            display.note(f"W&B's sweep page does not know that the sweep is {result.state}: {error}")
    return result
