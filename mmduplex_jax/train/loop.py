"""A training run, from config to last checkpoint. It can be read from top to bottom."""

import collections
import contextlib
import dataclasses
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
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.train.distributed import StopSignal, any_process
from mmduplex_jax.train.evaluation import Evaluate, Evaluations
from mmduplex_jax.train.feed import DataError, Feed
from mmduplex_jax.train.metrics import Goodput, MetricsLog, Progress, Window, is_finite, note_start, progress_line
from mmduplex_jax.train.parameters import parameter_table
from mmduplex_jax.train.profile import Profile, steps_of
from mmduplex_jax.train.step import make_program
from mmduplex_jax.train.task import TOKENS, Task
from mmduplex_jax.train.workdir import hold_workdir
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.checkpoint import Checkpoints, RunFacts, free_changes, set_aside_after

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
    evaluate: Mapping[str, Evaluate] | None = None,
    from_step: int | None = None,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
) -> Outcome:
    """Trains until `config.train.steps` (or `stop_at_step`), from WORKDIR's newest checkpoint where there is one.

    Args:
      task: what is trained.
      data: checkpointable iterator of this process's batches (dicts of NumPy arrays); its state is JSON and the same
        in every process.
      config: resolved config with `train`, `mesh` and `data.{batch_size, clip_s, corrupt_records_max}`.
      workdir: gets `config.json`, `started.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `best/`.
      tokenizer_json: goes into every checkpoint, so that it can be used without anything else.
      record_key: names a record by its `index`, for messages.
      record_trouble: says what is wrong with a record that the loader marked as corrupt, and where it is.
      data_fingerprint: names the data's content; a run goes on only with the same.
      start: what a run begins with instead of random numbers, where there is no checkpoint: called with the abstract
        parameters, before anything is compiled, it returns what replaces the initial ones.
      evaluate: held-out sets by name, each a function of parameters; run as `config.evals` says.
      from_step: the checkpoint to go on from, instead of the newest; newer ones are set aside, not removed.
      log: where lines for people go.
      warn: where what only this process knows goes, where `log` is silent; `log` if it is not given.

    Raises:
      NonFiniteError: loss or gradient was not finite.
      CorruptRecordsError: too many records could not be read.
      CheckpointError: the workdir holds another run, or a damaged checkpoint.
      WorkdirError: another training is running in the workdir.
      ShardingError, ValueError, DataError: config, mesh or data do not fit each other.
    """
    workdir, train = Path(workdir), config.train
    end_step = min(train.steps, train.stop_at_step) if train.stop_at_step else train.steps
    profiled = steps_of((config.get("profile") or {}).get("steps", ""))
    facts = RunFacts(json.loads(config.to_json()), tokenizer_json, data_fingerprint)
    is_first_process, several_processes = jax.process_index() == 0, jax.process_count() > 1

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        # What the config decides; nothing is computed yet.
        program = make_program(task, config, sharding.make_mesh(**config.mesh))
        log(parameter_table(program.boxed, program.mesh))
        for line in sharding.replicated_axes(program.boxed, program.mesh):
            log(line)
        for line in program.groups.lines(program.boxed, train.steps):
            log(line)

        # Where the run stands, before the compiler takes its minutes.
        stack.enter_context(hold_workdir(workdir))
        if from_step is not None:
            for line in set_aside_after(workdir, from_step):
                log(line)
        checkpoints = stack.enter_context(Checkpoints(workdir, train.keep, facts))
        metadata = checkpoints.checked_metadata(program.target)
        if is_first_process:
            note_start(workdir)
        if metadata is None:
            log(f"starting in {workdir}")
            replaced = start(program.target.params) if start else None
        else:
            log(f"going on from step {metadata['step']} of {workdir}")
            for line in free_changes(metadata, facts):
                log(line)
            state = checkpoints.restore(program.target, data)
        _write_config(workdir, facts.config)

        log("compiling the step: half a minute for a small model, several minutes for a large one; nothing is shown")
        began = time.perf_counter()
        traced = program.trace()
        compiled = traced.lower().compile()
        log(f"compiled in {time.perf_counter() - began:.1f} s for {program.mesh.size} x {jax.devices()[0].device_kind}")
        if metadata is None:
            state, step = program.init_state(), 0
            state = state.replace(params=replaced(state.params)) if replaced else state
        else:
            step = metadata["step"]

        # What is measured on the way.
        peak = devices.device_peak(jax.local_devices()[0])
        log(f"mfu is of {peak.source}" if peak else f"mfu n/a: no peak known for {jax.devices()[0].device_kind}")
        progress = Progress(
            end_step=end_step,
            video_s_per_step=config.data.batch_size * config.data.clip_s,
            flops_per_step=count_flops(traced.jaxpr).model,
            peak=peak,
            num_devices=program.mesh.size,
        )
        metrics_log = stack.enter_context(contextlib.closing(MetricsLog(workdir, step))) if is_first_process else None
        goodput = Goodput(workdir) if is_first_process else None
        # Other processes do the same; one recording is enough.
        profile = stack.enter_context(Profile(workdir / "tensorboard", profiled if is_first_process else range(0), log))
        window = Window(**(metadata["window"] if metadata else {}))
        evaluations = stack.enter_context(
            Evaluations(
                evaluate or {},
                config,
                workdir,
                facts,
                program.mesh,
                metadata,
                metrics_log,
                checkpoints.finish,
                stop,
                log,
            )
        )

        def write_line(step: int) -> None:
            means = window.pop()
            speeds, steps_s = progress.pop(step, means.get(TOKENS))
            if metrics_log and goodput:
                speeds |= goodput.add(steps_s)
                metrics_log.write(step, {**means, **speeds})
                log(progress_line(step, train.steps, means, speeds))

        results = _Results(
            window,
            log_every=train.log_every,
            last_step=train.steps,
            corrupt_max=config.data.corrupt_records_max,
            record_key=record_key,
            record_trouble=record_trouble,
            newest_checkpoint=lambda: checkpoints.latest_step,
            on_step=progress.add_step,
            on_line=write_line,
            warn=warn or log,
        )
        # One process of several must not stop alone: the others would wait for it in the next collective. Each step
        # says whether any had been told to stop.
        ask_all = any_process(program.mesh) if several_processes else None
        # Over all processes, so that all of them stop at the same step.
        count = jax.jit(jnp.sum, out_shardings=sharding.replicated(program.mesh))

        def save(step: int, iterator_state: str) -> None:
            began = time.perf_counter()
            checkpoints.save(step, state, iterator_state, window.to_json(), evaluations.to_json())
            progress.add_save(time.perf_counter() - began)

        iterator_state, saved_step, preempted = json.dumps(data.get_state()), checkpoints.latest_step, False
        feed = stack.enter_context(Feed(data, program.example, sharding.batch_sharding(program.mesh)))
        # A run that was stopped right after a step that is followed by an evaluation.
        evaluations.catch_up(step, state.params)
        while step < end_step and not evaluations.flat:
            preempted = results.stop_agreed(step) if ask_all else stop.received is not None
            if preempted:
                break
            began = time.perf_counter()
            fed = next(feed)
            progress.add_wait(time.perf_counter() - began)
            profile.before(step + 1, results.settle)
            # The batch is on the devices; anything else that would be copied there is a mistake.
            with jax.transfer_guard("disallow"), profile.annotation(step + 1):
                state, metrics = compiled(state, fed.batch)
            step, iterator_state = step + 1, fed.iterator_state
            stopping = ask_all(stop.received is not None) if ask_all else None
            results.add(_InFlight(step, metrics, count(fed.corrupt), fed.index, stopping))
            profile.after(step, results.settle)
            results.settle(at_most=_STEPS_IN_FLIGHT)
            if evaluations.due(step):
                results.settle()
                cpu_s = time.process_time()
                progress.add_pause(evaluations.run(step, state.params), time.process_time() - cpu_s)
            if step % train.checkpoint_every == 0 and step < end_step:
                # Nothing unseen is saved, and the lines of all steps in a checkpoint are on disk before it.
                results.settle()
                save(step, iterator_state)
                saved_step = step
        results.settle()
        if saved_step != step:
            save(step, iterator_state)
        checkpoints.finish()
    if preempted:
        log(f"stopped by a signal; saved at step {step}; start the same command again to go on")
    elif step < end_step:
        log(f"done: flat at step {step} of {train.steps}; checkpoint in {workdir / 'checkpoints' / str(step)}")
    else:
        log(f"done: {step} of {train.steps} steps; checkpoint in {workdir / 'checkpoints' / str(step)}")
    return Outcome(step, preempted, stop.exit_code if preempted else 0)


@dataclasses.dataclass(frozen=True)
class _InFlight:
    """A step whose metrics are still on the devices; `stopping` is whether any of several processes was told to."""

    step: int
    metrics: Mapping[str, Any]
    corrupt_records: Any
    index: np.ndarray | None
    stopping: Any = None


class _Results:
    """Steps in flight, oldest first: waits for them, checks them, and adds them to the window of the next line.

    Args:
      window: means since the last line.
      log_every, last_step: steps after which there is a line.
      corrupt_max: samples that may be left out because their record cannot be read.
      record_key, record_trouble: name a record, and what is wrong with it.
      newest_checkpoint: its step, for messages.
      on_step, on_line: called when a step is done, and when there is to be a line.
      warn: where corrupt records are named.
    """

    def __init__(
        self,
        window: Window,
        *,
        log_every: int,
        last_step: int,
        corrupt_max: int,
        record_key: Callable[[int], str],
        record_trouble: Callable[[int], str],
        newest_checkpoint: Callable[[], int | None],
        on_step: Callable[[], None],
        on_line: Callable[[int], None],
        warn: Callable[[str], None],
    ):
        self._window, self._log_every, self._last_step, self._corrupt_max = window, log_every, last_step, corrupt_max
        self._record_key, self._record_trouble, self._newest = record_key, record_trouble, newest_checkpoint
        self._on_step, self._on_line, self._warn = on_step, on_line, warn
        self._in_flight: collections.deque[_InFlight] = collections.deque()
        # The first step that was begun when a process of several had been told to stop.
        self._stopping_at: int | None = None

    def add(self, begun: _InFlight) -> None:
        """Takes a step that was begun."""
        self._in_flight.append(begun)

    def stop_agreed(self, step: int) -> bool:
        """Whether all of several processes know at `step` that one was told to stop.

        By now all have seen the steps that are not in flight; what one has seen sooner (for a profile, say) does not
        count yet.
        """
        return self._stopping_at is not None and self._stopping_at <= step - _STEPS_IN_FLIGHT

    def settle(self, at_most: int = 0) -> None:
        """Waits for all but the newest `at_most` steps in flight, checks and logs them."""
        while len(self._in_flight) > at_most:
            done = self._in_flight.popleft()
            metrics = {name: float(value) for name, value in jax.device_get(dict(done.metrics)).items()}
            self._on_step()
            if not is_finite(metrics):
                raise NonFiniteError(self._describe(done, metrics))
            if done.stopping is not None and self._stopping_at is None and bool(jax.device_get(done.stopping)):
                self._stopping_at = done.step
            corrupt = int(jax.device_get(done.corrupt_records))
            self._window.add({name: value for name, value in metrics.items() if name != "finite"}, corrupt)
            if corrupt:
                self._warn_of_corrupt(done)
            # Not where `stop_at_step` or a signal ends it: a run that goes on writes the lines of one that never did.
            if done.step % self._log_every == 0 or done.step == self._last_step:
                self._on_line(done.step)

    def _warn_of_corrupt(self, done: _InFlight) -> None:
        """Logs which records of a batch were left out; raises where that were too many."""
        so_far = f"{self._window.corrupt_records} of at most {self._corrupt_max} so far"
        troubles = (
            [] if done.index is None else [self._record_trouble(record) for record in corrupt_records(done.index)]
        )
        for trouble in troubles:
            self._warn(f"step {done.step}: left out a corrupt record ({so_far}): {trouble}")
        if self._window.corrupt_records > self._corrupt_max:
            raise CorruptRecordsError(
                f"step {done.step}: {self._window.corrupt_records} samples could not be read, "
                f"config.data.corrupt_records_max allows {self._corrupt_max}. The last: "
                + ("; ".join(troubles) or "of another process, see there")
                + f". Newest checkpoint: step {self._newest()}. Repair the data or raise that limit, then start again"
            )

    def _describe(self, done: _InFlight, metrics: Mapping[str, float]) -> str:
        if done.index is None:
            records = "the loader gives no `index`, so its records cannot be named"
        else:
            readable = done.index[~is_corrupt(done.index)]
            records = ", ".join(f"{index} ({self._record_key(int(index))})" for index in readable)
        where = f" (of process {jax.process_index()})" if jax.process_count() > 1 else ""
        return (
            f"step {done.step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the update was left out. "
            f"Records of that batch{where}: {records}. Newest checkpoint: step {self._newest()}. "
            "Look at these records, or lower config.train.learning_rate, then start again"
        )


def _write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        new = workdir / "config.json.new"
        new.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(new, workdir / "config.json")
