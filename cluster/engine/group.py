"""Several processes that train one network together: a Ray Train worker group, driven as if it were one paper.

Every worker holds the paper and shares its batches (`trainables.tasks.workers`); what they are told, step by step,
they read from a mailbox, and the first of them answers. So a group's reports, checkpoints and faults are those of a
trial in one process: a `LegRunner` runs it, and the conductor keeps its books.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.worker import LegRunner, Post, prepare_torch
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper, Setting

STEP, STATE, LOAD, TEST, END = "step", "state", "load", "test", "end"
SETUP = -1  # number of the answer to no command: the paper is set up
POLL_S = 0.5  # between looks at whether the group is still alive while an answer is awaited


class Mailbox:
    """An actor between the driver and its workers: commands in their order, and the first answer to each."""

    def __init__(self) -> None:
        self._commands: list[tuple[str, Any]] = []
        self._answers: dict[int, Any] = {}
        self._changed = asyncio.Condition()

    async def send(self, command: str, given: Any = None) -> int:
        """Adds a command for every worker and returns its number."""
        async with self._changed:
            self._commands.append((command, given))
            self._changed.notify_all()
            return len(self._commands) - 1

    async def command(self, number: int) -> tuple[str, Any]:
        """Command `number`, once it has been sent."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._commands) > number)
            return self._commands[number]

    async def answer(self, number: int, value: Any) -> None:
        """Keeps the answer to a command, unless it has one."""
        async with self._changed:
            self._answers.setdefault(number, value)
            self._changed.notify_all()

    async def result(self, number: int) -> Any:
        """The answer to a command, once there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: number in self._answers)
            return self._answers.pop(number)


def work(told: Mapping[str, Any]) -> None:
    """The life of a worker: sets the paper up within the process group and does what the mailbox says."""
    import ray
    from ray import train
    from ray.train import torch as train_torch

    post: Post = told["post"]
    if post.plugins:
        os.environ["FAIRSWEEP_PLUGINS"] = post.plugins
        if post.folder not in sys.path:
            sys.path.append(post.folder)
    prepare_torch(post.threads)
    first = train.get_context().get_world_rank() == 0
    device = str(train_torch.get_device())
    mailbox, number = told["mailbox"], SETUP
    try:
        paper = catalog.get(post.paper)()
        paper.setup(told["config"], replace(told["setting"], device=device))
        answer: Any = device
        while True:
            if first:
                ray.get(mailbox.answer.remote(number, (answer, paper.finished, paper.kept_step)))
            number += 1
            command, given = ray.get(mailbox.command.remote(number))
            if command == END:
                return
            answer = _obey(paper, command, given, first)
    except Exception as error:
        ray.get(mailbox.answer.remote(number, error))
        raise


def _obey(paper: Paper, command: str, given: Any, first: bool) -> Any:
    if command == STEP:
        return paper.step()
    if command == STATE:
        return paper.state_dict() if first else None
    if command == LOAD:
        import ray

        return paper.load_state_dict(ray.get(given[0]))
    return paper.test()


class GroupLost(RuntimeError):
    """A worker of the group, or its node, has gone."""


class Group:
    """A paper that `size` workers train together, with the methods of `Paper` that a `LegRunner` calls.

    resources: of each worker, as Ray names them. scratch: a folder that all nodes see; where there is one node it may
    be anything.
    """

    def __init__(self, post: Post, size: int, resources: Mapping[str, float], scratch: str) -> None:
        self.post, self.size, self.resources, self.scratch = post, size, dict(resources), scratch
        self.metrics = catalog.get(post.paper).metrics
        self.finished, self.gone = False, False
        self.kept_step: int | None = None
        self.device = "cpu"
        self.at = self.saved_at = None  # its steps come one after the other
        self.attrs, self.remarks = Paper.attrs, Paper.remarks
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def last_report(self) -> dict[str, float]:
        return {}

    def conclude(self) -> None:
        pass

    def parts(self) -> None:
        pass

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        gpus = self.resources.get("GPU", 0) > 0
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        told = {"post": self.post, "mailbox": self._mailbox, "config": dict(config), "setting": setting}
        trainer = TorchTrainer(
            work,
            train_loop_config=told,
            scaling_config=ScalingConfig(
                num_workers=self.size, use_gpu=gpus, resources_per_worker=self.resources
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(
                storage_path=self.scratch, name="group", failure_config=FailureConfig(max_failures=0)
            ),
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()
        self.device, self.finished, _ = self._await(SETUP)

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except Exception as error:  # of the paper, which has been answered, or of the group
            self._error = error

    def _await(self, number: int) -> Any:
        import ray

        asked = self._mailbox.result.remote(number)
        while not ray.wait([asked], timeout=POLL_S)[0]:
            assert self._thread is not None
            if not self._thread.is_alive() and not ray.wait([asked], timeout=POLL_S)[0]:
                self._lose()
        answer = ray.get(asked)
        if isinstance(answer, Exception):
            self._end()
            if self._died():  # the others could not reach it, which is what they complain of
                self._lose()
            raise answer
        return answer

    def _died(self) -> bool:
        """Whether a worker went without a word: those whose paper fails raise what it raised."""
        from ray.train import WorkerGroupError

        failures = self._error.worker_failures if isinstance(self._error, WorkerGroupError) else {}
        return any(type(e).__name__.startswith("WorkerHealthCheck") for e in failures.values())

    def _lose(self) -> NoReturn:
        self.gone = True
        raise GroupLost(f"a worker of the group has gone: {self._error}")

    def _end(self) -> None:
        import ray

        assert self._thread is not None
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._mailbox.send.remote(END))
        self._thread.join()

    def _do(self, command: str, given: Any = None) -> Any:
        import ray

        answer, self.finished, self.kept_step = self._await(
            ray.get(self._mailbox.send.remote(command, given))
        )
        return answer

    def step(self) -> dict[str, float]:
        return self._do(STEP)

    def test(self) -> dict[str, float]:
        return self._do(TEST)

    def state_dict(self) -> dict[str, Any]:
        return self._do(STATE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        import ray

        self._do(LOAD, [ray.put(dict(state))])

    def close(self) -> None:
        """Sends the workers home."""
        import ray

        if self._thread is None:
            return
        self._end()
        ray.kill(self._mailbox)
        self._thread = None


def train(
    conductor: Conductor,
    post: Post,
    size: int,
    resources: Mapping[str, float],
    done: Callable[[], bool],
    tick: Callable[[], None],
) -> None:
    """Runs the conductor's legs in a group of `size` workers, one after the other, until `done`.

    A group that loses a worker is set up anew and goes on from the last checkpoint, as a lost trial does.
    """
    import ray

    several = sum(node["Alive"] for node in ray.nodes()) > 1
    while not _is(done, conductor) and (leg := conductor.next_leg()) is not None:
        with tempfile.TemporaryDirectory(prefix="fairsweep-train-") as folder:
            group = Group(post, size, resources, post.checkpoints if several else folder)
            runner = LegRunner(post, group)
            runner.take(leg)
            try:
                goes_on = True
                while goes_on:
                    report = runner.step()
                    if group.gone:
                        conductor.lost(leg.trial, report["failure"]["error"])
                        break
                    goes_on = conductor.report(leg.trial, report)
                    tick()
                else:
                    runner.close()
            finally:
                group.close()


def _is(done: Callable[[], bool], conductor: Conductor) -> bool:
    conductor.think()  # `done` asks the search, which must know of the last report
    return done()
