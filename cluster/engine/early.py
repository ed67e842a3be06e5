"""What places say beside their messages while a leg of theirs runs on: by the key-value store of Ray.

A place's actor is busy with the leg. To let it answer in a second thread, Ray (2.60) would run the leg in a thread too,
and not in the main one, where code that sets signal handlers must be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

NAMESPACE = b"fairsweep"
PREFIX = "early/"


def hand_over(said: Mapping[str, Any]) -> None:
    """In an actor: puts down what it has to say, until `heard`."""
    import ray
    from ray.experimental import internal_kv

    actor = ray.get_runtime_context().get_actor_id()
    internal_kv._internal_kv_put(f"{PREFIX}{actor}", json.dumps(said), overwrite=True, namespace=NAMESPACE)


def heard(actors: Iterable[str]) -> dict[str, Any]:
    """In the driver: what those of `actors`, by their ids, have put down, and it is taken up."""
    from ray.experimental import internal_kv

    found, wanted = {}, {f"{PREFIX}{actor}".encode(): actor for actor in actors}
    for key in internal_kv._internal_kv_list(PREFIX, namespace=NAMESPACE):
        if key in wanted and (text := internal_kv._internal_kv_get(key, namespace=NAMESPACE)) is not None:
            found[wanted[key]] = json.loads(text)
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
    return found


def forget(actors: Iterable[str]) -> None:
    """In the driver: takes away what actors have put down and nobody will hear any more."""
    from ray.experimental import internal_kv

    gone = {f"{PREFIX}{actor}".encode() for actor in actors}
    for key in internal_kv._internal_kv_list(PREFIX, namespace=NAMESPACE):
        if key in gone:
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
