"""A training run, from config to last checkpoint. It can be read from top to bottom."""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.samples import corrupt_records, is_corrupt
from mmduplex_jax import sharding
from mmduplex_jax.planning import devices
from mmduplex_jax.train import parameters, progress
from mmduplex_jax.train.distributed import any_process
from mmduplex_jax.train.feed import DataError, Feed
from mmduplex_jax.train.goodput import Goodput, note_start
from mmduplex_jax.train.metrics import MetricsLog, Window, is_finite
from mmduplex_jax.train.preemption import StopSignal
from mmduplex_jax.train.profile import Profile, steps_of
from mmduplex_jax.train.program import Program, make_program
from mmduplex_jax.train.task import TOKENS, Task
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.checkpoint import Checkpoints, RunFacts, free_changes

# Steps whose results the host has not looked at yet: enough to keep a device busy, few enough to stop soon.
_STEPS_IN_FLIGHT = 2


class NonFiniteError(RuntimeError):
    """Loss or gradient was NaN or infinite; the message names step and records. The update was not applied."""


class CorruptRecordsError(DataError):
    """More records could not be read than `config.data.corrupt_records_max` allows; the message names the last."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: steps done and saved.
      preempted: whether a signal ended it.
      exit_code: 0, or what a launcher may retry on.
    """

    step: int
    preempted: bool
    exit_code: int


@dataclasses.dataclass(frozen=True)
class _InFlight:
    """A step whose metrics are still on the devices; `stopping` is whether any of several processes was told to."""

    step: int
    metrics: Mapping[str, Any]
    corrupt_records: Any
    index: np.ndarray | None
    stopping: Any = None


def fit(
    task: Task,
    data: Any,
    config: Any,
    workdir: str | Path,
    *,
    tokenizer_json: str = "",
    record_key: Callable[[int], str] = str,
    record_trouble: Callable[[int], str] = str,
    data_fingerprint: str | None = None,
    start: Callable[[PyTree], Callable[[PyTree], PyTree]] | None = None,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
) -> Outcome:
    """Trains until `config.train.steps` (or `stop_at_step`), from WORKDIR's newest checkpoint where there is one.

    Args:
      task: what is trained.
      data: checkpointable iterator of this process's batches (dicts of NumPy arrays); its state is JSON and the same
        in every process.
      config: resolved config with `train`, `mesh` and `data.{batch_size, clip_s, corrupt_records_max}`.
      workdir: gets `config.json`, `started.json`, `metrics.jsonl`, `tensorboard/` and `checkpoints/`.
      tokenizer_json: goes into every checkpoint, so that it can be used without anything else.
      record_key: names a record by its `index`, for messages.
      record_trouble: says what is wrong with a record that the loader marked as corrupt, and where it is.
      data_fingerprint: names the data's content; a run goes on only with the same.
      start: what a run begins with instead of random numbers, where there is no checkpoint: called with the abstract
        parameters, before anything is compiled, it returns what replaces the initial ones.
      log: where lines for people go.
      warn: where what only this process knows goes, where `log` is silent; `log` if it is not given.

    Raises:
      NonFiniteError: loss or gradient was not finite.
      CorruptRecordsError: too many records could not be read.
      CheckpointMismatch: the workdir holds another run.
      ShardingError, ValueError, DataError: config, mesh or data do not fit each other.
    """
    workdir = Path(workdir)
    train = config.train
    end_step = min(train.steps, train.stop_at_step) if train.stop_at_step else train.steps
    profiled = steps_of((config.get("profile") or {}).get("steps", ""))
    facts = RunFacts(json.loads(config.to_json()), tokenizer_json, data_fingerprint)

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        program = make_program(task, config, sharding.make_mesh(**config.mesh))
        log(parameters.parameter_table(program.boxed, program.mesh))
        for line in sharding.replicated_axes(program.boxed, program.mesh):
            log(line)
        for line in program.groups.lines(program.boxed, train.steps):
            log(line)
        checkpoints = stack.enter_context(Checkpoints(workdir, train.keep, facts))
        # Before the compiler takes its minutes.
        metadata = checkpoints.checked_metadata(program.target)
        if jax.process_index() == 0:
            note_start(workdir)
        replaced = start(program.target.params) if start and metadata is None else None
        began = time.perf_counter()
        compiled = program.compile()
        log(f"compiled in {time.perf_counter() - began:.1f} s for {program.mesh.size} x {jax.devices()[0].device_kind}")

        if metadata is None:
            state, window, start_step = program.init_state(), Window(), 0
            state = state.replace(params=replaced(state.params)) if replaced else state
            log(f"starting in {workdir}")
        else:
            state = checkpoints.restore(program.target, data)
            window, start_step = Window(**metadata["window"]), metadata["step"]
            log(f"going on from step {start_step} of {workdir}")
            for line in free_changes(metadata, facts):
                log(line)
        _write_config(workdir, facts.config)
        run = _Run(checkpoints, window, stop, end_step, config, record_key, record_trouble, log, warn or log)
        # Over all processes, so that all of them stop at the same step.
        run.count = jax.jit(jnp.sum, out_shardings=sharding.replicated(program.mesh))
        if jax.process_count() > 1:
            run.any_process = any_process(program.mesh)
        if jax.process_index() == 0:
            run.metrics_log = stack.enter_context(contextlib.closing(MetricsLog(workdir, start_step)))
            run.goodput = Goodput(workdir)
        run.progress = _progress(program, config, end_step, log)
        iterator_state = json.dumps(data.get_state())
        # Other processes do the same; one recording is enough.
        profiled = profiled if jax.process_index() == 0 else range(0)
        run.profile = stack.enter_context(Profile(workdir / "tensorboard", profiled, log))
        feed = stack.enter_context(Feed(data, program.example, sharding.batch_sharding(program.mesh)))
        step = run.train(state, compiled, feed, start_step, iterator_state)
    if run.preempted:
        log(f"stopped by a signal; saved at step {step}; start the same command again to go on")
    else:
        log(f"done: {step} of {train.steps} steps; checkpoint in {workdir / 'checkpoints' / str(step)}")
    return Outcome(step, run.preempted, stop.exit_code if run.preempted else 0)


class _Run:
    """The loop's own state: what is in flight, what was measured, whether to stop."""

    progress: progress.Progress
    profile: Profile
    count: Callable[[jax.Array], jax.Array]
    metrics_log: MetricsLog | None = None
    goodput: Goodput | None = None
    any_process: Callable[[bool], jax.Array] | None = None

    def __init__(
        self,
        checkpoints: Checkpoints,
        window: Window,
        stop: StopSignal,
        end_step: int,
        config: Any,
        record_key: Callable[[int], str],
        record_trouble: Callable[[int], str],
        log: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        self.checkpoints, self.window, self.stop, self.train_config = checkpoints, window, stop, config.train
        self.corrupt_max = config.data.corrupt_records_max
        self.end_step, self.record_key, self.record_trouble = end_step, record_key, record_trouble
        self.log, self.warn = log, warn
        self.in_flight: collections.deque[_InFlight] = collections.deque()
        self.preempted = False
        # The first step that was begun when a process of several had been told to stop.
        self.told_at: int | None = None

    def train(self, state: Any, compiled: Callable, feed: Feed, step: int, iterator_state: str) -> int:
        """Steps until the end or a signal, saves, and returns how many steps are done."""
        saved_step = self.checkpoints.latest_step
        while step < self.end_step and not self._should_stop(step):
            began = time.perf_counter()
            fed = next(feed)
            self.progress.add_wait(time.perf_counter() - began)
            settle = functools.partial(self._look, at_most=0)
            self.profile.before(step + 1, settle)
            # The batch is on the devices; anything else that would be copied there is a mistake.
            with jax.transfer_guard("disallow"), self.profile.annotation(step + 1):
                state, metrics = compiled(state, fed.batch)
            step, iterator_state = step + 1, fed.iterator_state
            stopping = self.any_process(self.stop.received is not None) if self.any_process else None
            self.in_flight.append(_InFlight(step, metrics, self.count(fed.corrupt), fed.index, stopping))
            self.profile.after(step, settle)
            self._look(at_most=_STEPS_IN_FLIGHT)
            if step % self.train_config.checkpoint_every == 0 and step < self.end_step:
                # Nothing unseen is saved, and the lines of all steps in a checkpoint are on disk before it.
                self._look(at_most=0)
                began = time.perf_counter()
                self.checkpoints.save(step, state, iterator_state, self.window.to_json())
                self.progress.add_save(time.perf_counter() - began)
                saved_step = step
        self._look(at_most=0)
        if saved_step != step:
            self.checkpoints.save(step, state, iterator_state, self.window.to_json())
        self.checkpoints.finish()
        return step

    def _should_stop(self, step: int) -> bool:
        # One process of several must not stop alone: the others would wait for it in the next collective. Each step
        # says whether any had been told to stop, and by now all have looked at the steps that are not in flight; what
        # one has looked at sooner (for a profile, say) does not count yet.
        if self.any_process:
            self.preempted = self.told_at is not None and self.told_at <= step - _STEPS_IN_FLIGHT
        else:
            self.preempted = self.stop.received is not None
        return self.preempted

    def _look(self, at_most: int) -> None:
        """Waits for all but the newest `at_most` steps in flight, checks and logs them."""
        while len(self.in_flight) > at_most:
            done = self.in_flight.popleft()
            metrics = {name: float(value) for name, value in jax.device_get(dict(done.metrics)).items()}
            self.progress.add_step()
            if not is_finite(metrics):
                raise NonFiniteError(self._describe(done, metrics))
            if done.stopping is not None and self.told_at is None and bool(jax.device_get(done.stopping)):
                self.told_at = done.step
            corrupt = int(jax.device_get(done.corrupt_records))
            self.window.add({name: value for name, value in metrics.items() if name != "finite"}, corrupt)
            if corrupt:
                self._tell_corrupt(done)
            # Not where `stop_at_step` or a signal ends it: a run that goes on writes the lines of one that never did.
            if done.step % self.train_config.log_every == 0 or done.step == self.train_config.steps:
                self._write_line(done.step)

    def _write_line(self, step: int) -> None:
        means = self.window.pop()
        speeds, steps_s = self.progress.pop(step, means.get(TOKENS))
        if self.metrics_log and self.goodput:
            speeds |= self.goodput.add(steps_s)
            self.metrics_log.write(step, {**means, **speeds})
            self.log(progress.progress_line(step, self.train_config.steps, means, speeds))

    def _tell_corrupt(self, done: _InFlight) -> None:
        """Logs which records of a batch were left out; raises where that were too many."""
        so_far = f"{self.window.corrupt_records} of at most {self.corrupt_max} so far"
        troubles = [] if done.index is None else [self.record_trouble(record) for record in corrupt_records(done.index)]
        for trouble in troubles:
            self.warn(f"step {done.step}: left out a corrupt record ({so_far}): {trouble}")
        if self.window.corrupt_records > self.corrupt_max:
            raise CorruptRecordsError(
                f"step {done.step}: {self.window.corrupt_records} samples could not be read, "
                f"config.data.corrupt_records_max allows {self.corrupt_max}. The last: "
                + ("; ".join(troubles) or "of another process, see there")
                + f". Newest checkpoint: step {self.checkpoints.latest_step}. "
                "Repair the data or raise that limit, then start again"
            )

    def _describe(self, done: _InFlight, metrics: Mapping[str, float]) -> str:
        if done.index is None:
            records = "the loader gives no `index`, so its records cannot be named"
        else:
            readable = done.index[~is_corrupt(done.index)]
            records = ", ".join(f"{index} ({self.record_key(int(index))})" for index in readable)
        where = f" (of process {jax.process_index()})" if jax.process_count() > 1 else ""
        return (
            f"step {done.step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the update was left out. "
            f"Records of that batch{where}: {records}. Newest checkpoint: step {self.checkpoints.latest_step}. "
            "Look at these records, or lower config.train.learning_rate, then start again"
        )


def _progress(program: Program, config: Any, end_step: int, log: Callable[[str], None]) -> progress.Progress:
    peak = devices.device_peak(jax.local_devices()[0])
    log(f"mfu is of {peak.source}" if peak else f"mfu n/a: no peak known for {jax.devices()[0].device_kind}")
    return progress.Progress(
        end_step=end_step,
        video_s_per_step=config.data.batch_size * config.data.clip_s,
        flops_per_step=program.task.flops_per_step(config.data.batch_size),
        peak=peak,
        num_devices=program.mesh.size,
    )


def _write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        new = workdir / "config.json.new"
        new.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(new, workdir / "config.json")
