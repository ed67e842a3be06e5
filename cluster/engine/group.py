"""Several processes that train one network together: a Ray Train worker group, driven as if it were one paper.

Every worker holds the paper and shares its batches (`trainables.tasks.workers`); what they are told, step by step,
they read from a mailbox, and the first of them answers. So a group's reports, checkpoints and faults are those of a
trial in one process: a `LegRunner` runs it, and the conductor keeps its books. In a sweep with `trainers=N` each place
has a group of its own; a search for a network trains its supernet in one, driven by `train`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from fairsweep.cluster.copies import at_hand
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.failures import GroupLost
from fairsweep.cluster.engine.inheriting import Elsewhere, Settings, settings_of, take_over
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.process import peak_memory_mb, prepare_torch, reset_peak_memory
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper, Setting

SETUP, STEP, STATE, LOAD, TEST, END = "setup", "step", "state", "load", "test", "end"
SETTINGS, INHERIT = "settings", "inherit"  # of a population
UP = -1  # number of the answer to no command: the group is there
LOST = "a worker of the group has gone: {}"
NO_RETRIES = (
    "max_failures",
    "max_preemption_failures",
)  # of Ray Train, which would begin with the first command
POLL_S = 0.5  # between looks at whether the group is still alive while an answer is awaited


class Mailbox:
    """An actor between a trial and its workers: commands in their order, and the first answer to each.

    readers: workers; what all of them have read is forgotten.
    """

    def __init__(self, readers: int = 1) -> None:
        self._readers, self._sent = readers, 0
        self._commands: dict[int, list[Any]] = {}  # number -> command, what is given, who has not read it yet
        self._answers: dict[int, Any] = {}
        self._changed = asyncio.Condition()

    async def send(self, command: str, given: Any = None) -> int:
        """Adds a command for every worker and returns its number."""
        async with self._changed:
            self._commands[self._sent] = [command, given, self._readers]
            self._sent += 1
            self._changed.notify_all()
            return self._sent - 1

    async def command(self, number: int) -> tuple[str, Any]:
        """Command `number`, once it has been sent; each worker asks once."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._sent > number)
            found = self._commands[number]
            found[2] -= 1
            if not found[2]:
                del self._commands[number]
            return found[0], found[1]

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
    """The life of a worker: does what the mailbox says, with a paper that it sets up within the process group."""
    import ray
    from ray import train
    from ray.train import torch as train_torch

    post: Post = told["post"]
    if post.plugins:
        os.environ["FAIRSWEEP_PLUGINS"] = post.plugins
        if (folder := at_hand(post.folder)) not in sys.path:
            sys.path.append(folder)
    prepare_torch(post.threads)
    first = train.get_context().get_world_rank() == 0
    worker = Worker(str(train_torch.get_device()), first)
    mailbox, number = told["mailbox"], UP
    try:
        answer: Any = None
        while True:
            facts = worker.facts()
            if first:
                ray.get(mailbox.answer.remote(number, (answer, facts)))
            number += 1
            command, given = ray.get(mailbox.command.remote(number))
            if command == END:
                return
            answer = worker.obey(command, given)
    except Exception as error:
        ray.get(mailbox.answer.remote(number, error))
        raise


class Worker:
    """One of those that train a paper together; its paper is that of the last `SETUP`."""

    def __init__(self, device: str, first: bool) -> None:
        self.device, self.first = device, first
        self.paper: Paper | None = None

    def facts(self) -> dict[str, Any]:
        """What the trial's row says of the group and its paper. Every worker asks; memory is that of all together."""
        from fairsweep.trainables.tasks.workers import workers

        (memory,) = workers(self.device).totals(peak_memory_mb())
        found = {"device": self.device, "peak_memory_mb": memory}
        paper = self.paper
        if paper is None or not self.first:
            return found
        return {
            **found,
            "finished": paper.finished,
            "kept_step": paper.kept_step,
            "attrs": dict(paper.attrs),
            "remarks": list(paper.remarks),
            "told_parts": paper.parts(),
        }

    def obey(self, command: str, given: Any) -> Any:
        """Does what a command says; the answer to it."""
        if command == SETUP:
            slug, config, setting = given
            reset_peak_memory()
            self.paper = catalog.get(slug)()
            data_dir = setting.data_dir and Path(at_hand(str(setting.data_dir)))
            return self.paper.setup(config, replace(setting, device=self.device, data_dir=data_dir))
        assert self.paper is not None
        if command == STEP:
            return self.paper.step()
        if command == STATE:
            return self.paper.state_dict() if self.first else None
        if command == SETTINGS:
            return settings_of(self.paper)
        if command == TEST:
            return self.paper.test()
        import ray

        state = ray.get(given[0])
        if command == INHERIT:
            return take_over(self.paper, given[1], given[2], state, given[3])
        return self.paper.load_state_dict(state)


class Group(Elsewhere):
    """A paper that `size` workers train together, with the methods of `Paper` that a `LegRunner` calls.

    It is set up for one trial after the other: its workers stay until `close`, or until one of them has failed.

    resources: of each worker, as Ray names them. scratch: a folder that all nodes see; where there is one node it may
    be anything.
    """

    def __init__(self, post: Post, size: int, resources: Mapping[str, float], scratch: str) -> None:
        self.post, self.size, self.resources, self.scratch = post, size, dict(resources), scratch
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.device, self.peak_memory_mb = "cpu", 0.0
        self._forget()

    def _forget(self) -> None:
        """What was known of the last trial."""
        self.metrics = catalog.get(self.post.paper).metrics
        self.finished = False
        self.kept_step: int | None = None
        self.at = self.saved_at = None  # its steps come one after the other
        self.attrs, self.remarks = Paper.attrs, Paper.remarks
        self.told_parts: Mapping[str, str] | None = None

    def last_report(self) -> dict[str, float]:
        return {}

    def conclude(self) -> None:
        pass

    def parts(self) -> Mapping[str, str] | None:
        return self.told_parts

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        self._forget()
        self.begin()
        self._do(SETUP, (self.post.paper, dict(config), setting))

    def begin(self) -> None:
        """Has Ray Train start the workers, unless they are there."""
        if self._thread is None:
            self._start()
            self._learn(self._await(UP))

    def _start(self) -> None:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        no_retries: Any = {f.name: 0 for f in fields(FailureConfig) if f.name in NO_RETRIES}
        self._name, gpus = f"group-{uuid.uuid4().hex}", self.resources.get("GPU", 0) > 0
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote(self.size)
        trainer = TorchTrainer(
            work,
            train_loop_config={"post": self.post, "mailbox": self._mailbox},
            scaling_config=ScalingConfig(
                num_workers=self.size, use_gpu=gpus, resources_per_worker=self.resources
            ),
            # NCCL takes no two workers on one GPU.
            torch_config=TorchConfig(backend="nccl" if self.resources.get("GPU", 0) >= 1 else "gloo"),
            run_config=RunConfig(
                storage_path=self.scratch,
                name=self._name,
                # The trial goes on from its own checkpoint, whatever ended the group.
                failure_config=FailureConfig(**no_retries),
            ),
        )
        self._error = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

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
            error = self._end()
            if self._died(error):  # the others could not reach it, which is what they complain of
                raise GroupLost(LOST.format(error))
            raise answer
        return answer

    def _died(self, error: Exception | None) -> bool:
        """Whether a worker went without a word: those whose paper fails raise what it raised."""
        from ray.train import WorkerGroupError

        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
        return any(type(e).__name__.startswith("WorkerHealthCheck") for e in failures.values())

    def _lose(self) -> NoReturn:
        raise GroupLost(LOST.format(self._end()))

    def _end(self) -> Exception | None:
        """Sends the workers home; what ended them, if it was something else."""
        import ray

        assert self._thread is not None
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._mailbox.send.remote(END))
        self._thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._mailbox)
        if "://" not in self.scratch:
            shutil.rmtree(Path(self.scratch, self._name), ignore_errors=True)
        self._thread = None
        return self._error

    def _do(self, command: str, given: Any = None) -> Any:
        import ray

        return self._learn(self._await(ray.get(self._mailbox.send.remote(command, given))))

    def _learn(self, said: tuple[Any, Mapping[str, Any]]) -> Any:
        answer, facts = said
        for name, value in facts.items():
            setattr(self, name, value)
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

    def settings(self) -> Settings:
        return self._do(SETTINGS)

    def take_over(
        self, config: Mapping[str, Any], parent: str, state: Mapping[str, Any], fresh: Settings
    ) -> None:
        import ray

        self._do(INHERIT, [ray.put(dict(state)), dict(config), parent, fresh])

    def close(self) -> None:
        """Sends the workers home, if there are any."""
        if self._thread is not None:
            self._end()


def scratch_of(post: Post, here: str) -> str:
    """Where Ray Train may keep a group's files, next to nothing: all nodes must see it. here: a folder of this one."""
    import ray

    return post.checkpoints if sum(node["Alive"] for node in ray.nodes()) > 1 else here


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
    with tempfile.TemporaryDirectory(prefix="fairsweep-train-") as folder, contextlib.ExitStack() as stack:
        group = Group(post, size, resources, scratch_of(post, folder))
        stack.callback(group.close)
        while not _is(done, conductor) and (leg := conductor.next_leg()) is not None:
            runner = LegRunner(post, group)
            runner.take(leg)
            while conductor.report(leg.trial, runner.step()):
                tick()
            tick()
            runner.close()


def _is(done: Callable[[], bool], conductor: Conductor) -> bool:
    conductor.think()  # `done` asks the search, which must know of the last report
    return done()
