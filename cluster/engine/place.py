"""The actor of a place, in the worker's process. It knows Ray, not Tune: importing that takes longer than all else.

Tune (2.60) makes it all the same, and calls `train` once, `reset` and `stop`, as of a `Trainable` of its own; see
`lean.light_actors`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fairsweep.cluster.copies import at_hand
from fairsweep.cluster.engine import early
from fairsweep.cluster.engine.bundles import Bundle
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.weights import read_from_board
from fairsweep.cluster.engine.worker import LegRunner


class Place:
    """Runs legs of trials of one paper. Configuration: `post` (what the sweep is) and `legs`, as JSON."""

    def __init__(self, config: Mapping[str, Any], folder: str) -> None:
        """folder: see `_go_to`."""
        self._go_to(folder)
        self._group: Any = None
        self._begin(config["post"])
        self._take(config["legs"])

    def _go_to(self, folder: str) -> None:
        """Works in `folder`, as Tune has its trainables do: what a paper leaves there Ray clears away."""
        os.environ.setdefault("TUNE_ORIG_WORKING_DIR", os.getcwd())
        if os.environ.get("RAY_CHDIR_TO_TRIAL_DIR", "1") != "0":
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError:  # of another machine, where Ray lies elsewhere
                folder = tempfile.mkdtemp(prefix="fairsweep-")
            os.chdir(folder)

    def _begin(self, text: str) -> None:
        post = Post(**json.loads(text))
        post = replace(post, folder=at_hand(post.folder), data_dir=at_hand(post.data_dir or "") or None)
        if post.board:
            read_from_board(post.board)
        if post.trainers > 1:
            self._have_together(post)
        self._post, self._bundle = text, Bundle(LegRunner(post, self._group), early.hand_over)

    def _have_together(self, post: Post) -> None:
        """Has the trials of `post` trained by a group, which stays from one to the next. Imports Ray Train."""
        from fairsweep.cluster.engine.group import Group, scratch_of

        if self._group is None:
            self._group = Group(post, post.trainers, post.each, scratch_of(post, os.getcwd()))
        self._group.post = post

    def _take(self, legs: str, post: str = "") -> None:
        if post and post != self._post:
            self._bundle.runner.close()
            self._begin(post)
        self._bundle.take([Leg.from_dict(leg) for leg in json.loads(legs)])

    def work(self, legs: str = "", post: str = "") -> str:
        """The next message to the driver (JSON, see `Bundle.step`) on `legs`, or on those that the place has.

        post: of their sweep, if it is another than the one that the worker knows.
        """
        if legs:
            self._take(legs, post)
        return json.dumps(self._bundle.step())

    def stash(self) -> None:
        """Checkpoints an unfinished leg that is cut off, and ends it."""
        self._bundle.runner.close(cut_off=True)

    # -- what Tune calls ------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        return {"report": self.work(), "training_iteration": 1, "done": False}

    def get_auto_filled_metrics(self, **wanted: Any) -> dict[str, Any]:
        """What Tune shows of a trial that has told nothing yet."""
        return {}

    def reset(self, config: Mapping[str, Any], storage: Any = None) -> bool:
        """A warm place begins with another leg."""
        if storage is not None:
            self._go_to(storage.trial_working_directory)
        self._take(config["legs"], config["post"])
        return True

    def stop(self) -> None:
        if self._group is not None:  # its workers hold what others wait for
            self._bundle.runner.close()
            self._group.close()
        self._bundle.runner.leave()
