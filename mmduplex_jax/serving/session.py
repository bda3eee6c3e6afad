"""One stream: pictures in, numbered words out. It outlives its connections."""

import asyncio
import dataclasses
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.frame_size import stored_size
from mmduplex_jax.serving.access import feed_secret
from mmduplex_jax.serving.decoding import DecoderEnded, DecoderProcesses
from mmduplex_jax.serving.handover import SavedStream, token_sha256
from mmduplex_jax.serving.inbox import Inbox, InOrder, Save
from mmduplex_jax.serving.limits import Bucket, Limits
from mmduplex_jax.serving.monitoring import Counters
from mmduplex_jax.serving.pictures import IntakeConfig, IntakeState, PictureRefused, Taken, Tick
from mmduplex_jax.serving.protocol import (
    PREDICTED,
    Change,
    Frame,
    ProtocolError,
    Reply,
    Status,
    StreamConfig,
    config_reply,
    error_reply,
    event_reply,
)
from mmduplex_jax.serving.sound import Queued, SoundQueue, sounds_of
from mmduplex_jax.serving.words import WordLog
from mmduplex_jax.streaming.moving import StreamState
from mmduplex_jax.streaming.slot import NO_TOKENS, StreamEnded, StreamHandle, StreamOutput

_log = logging.getLogger(__name__)
# Ten seconds of ticks at the usual rate: a client that reads later than that needs none of them.
_STATUSES_KEPT = 64
# The last words come within a few steps, or the model is stuck.
_LAST_WORDS_S = 10.0
# Times this close are one.
_SAME_S = 1e-6

# So much faster than the clock may a live stream's ticks come for long, and so many gaps' worth of them at once.
_TICKS_PACE, _GAPS_AT_ONCE = 1.25, 2

_MODEL_STOPPED = "the model has stopped; the server's log says why"

_MINUTE_S = 60.0
# Pictures that come out of order are reported at once, and then this often.
_LATE_REPORT_S = 5.0


def public_facts(facts: ModelFacts) -> dict[str, Any]:
    """The model as hellos and `/v1/info` describe it, less its delays."""
    return {
        "model": facts.name,
        "clock": {"step_hz": facts.clock.step_hz, "video_stride": facts.clock.video_stride},
        "frame_px": stored_size(facts.frame_px),
        "fit": facts.fit,
        "tokens_per_s_max": facts.tokens_per_s_max,
        "sample_rate_hz": facts.sample_rate_hz,
        "sounds": list(sounds_of(facts.sample_rate_hz, facts.clock)),
    }


class Session:
    """A stream's state on the server. Everything but `on_output`'s caller lives on the event loop.

    Attributes:
      key: names it on whichever replica; `id` says on which one it is, too, and is public.
      token: lets a client come back; `feed`, which is made of it, lets anybody read the words. Both are secrets.
      generation: how often it has moved.
      kept_s: when what it is was last asked for, to be kept, by the monotonic clock.
      replay_seq: words up to this number are said again, which the client has; 0 where none is.
      config: how it began.
      words: its numbered words.
      ended: why it ended, for programs and for people; None while it runs.
      last_activity_s: when something last came of the client, by the monotonic clock.
      now_s: the time of the last tick that the model has answered, on the client's clock.
      scene_s: when its scene began (`StreamOutput.scene_s`).
      received_s: the time of the last picture that came in, on the client's clock.
      resets: how many its client ordered and came in; its client orders those again that did not.
      detached_s: when its connection was lost, by the monotonic clock; None while it has one.
      speaking: it is heard: a connection takes its sound, and the model makes it.
      readers: feeds that read its words.
      changes: counts what there is to send: words, statuses, notices, the end.
    """

    def __init__(
        self,
        config: StreamConfig,
        facts: ModelFacts,
        limits: Limits,
        counters: Counters,
        decoders: DecoderProcesses,
        *,
        replica: str = "",
        saved: SavedStream | None = None,
        token: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        """Begins, or goes on.

        Args:
          config: as the client asks for, or of the stream that goes on.
          facts: of the model.
          limits: for every client.
          counters: where it counts.
          decoders: of its pictures.
          replica: where it is, where there are several.
          saved: what it was elsewhere.
          token: of the stream that goes on.
          now: the monotonic clock.
        """
        self.key = secrets.token_urlsafe(9) if saved is None else saved.key
        self.id = f"{replica}.{self.key}" if replica else self.key
        self.token = token or secrets.token_urlsafe(24)
        self.feed = feed_secret(self.token)
        self.generation = self.replay_seq = self.resets = 0
        self.kept_s = -math.inf
        self.config, self._facts, self._limits, self._counters = config, facts, limits, counters
        self._now = now
        self.words = WordLog(limits.replay_words)
        self._statuses: deque[Reply] = deque(maxlen=_STATUSES_KEPT)
        self._notices: deque[Reply] = deque(maxlen=_STATUSES_KEPT)
        self.ended: tuple[str, str] | None = None
        self.ended_s = 0.0
        self._ending: tuple[str, str] | None = None
        self.last_activity_s = self.started_s = now()
        self.received_s: float | None = None
        self.detached_s: float | None = None
        self.now_s = 0.0
        self.scene_s: float | None = None
        self.readers = self.changes = 0
        self.delay_steps = facts.delays.usual if config.delay_steps is None else config.delay_steps
        self.pad_bias, self.fit = config.pad_bias, config.fit or facts.fit
        self._live = config.mode == "live"
        self.speaking = config.sound is not None and config.hear
        self._sound: SoundQueue | None = None
        self._tick_sound: Literal["on", "off"] | None = None
        self._sound_left_out: int | None = None
        self._inbox = Inbox(limits.inbox_frames, may_drop=self._live)
        self._rate = Bucket(limits.frame_rate_hz, limits.frame_rate_hz, now)
        clock = facts.clock
        # Every tick is decoded: stamps that run faster than the clock on the wall buy no more of that.
        pace = (_TICKS_PACE / clock.tick_s, _GAPS_AT_ONCE * clock.ticks_in(limits.gap_s)) if self._live else (None, 1.0)
        intake = IntakeConfig(clock, facts.frame_px, self.fit, limits.pixels, limits.gap_s, *pace)
        self._decoder = decoders.stream(intake, None if saved is None else saved.intake)
        self._losses = Bucket(limits.lost_decoders / _MINUTE_S, limits.lost_decoders, now)
        # A new decoder knows none of the pictures before.
        self._needs_keyframe = saved is not None
        self._orphaned = 0
        self._bad_in_a_row = self._late = self._too_fast = 0
        self._late_reported_s = -math.inf
        # Ticks that the model has not answered: their times, what changed in them, and which picture they came with.
        self._offered: deque[tuple[float, float, int | None]] = deque()
        self._tick_tokens, self._tick_change = NO_TOKENS, 0.0
        self._tick_picture: int | None = None
        self._second: deque[int] = deque(maxlen=facts.clock.ticks_in_a_second)
        self._changed = asyncio.Event()
        self._handle: StreamHandle | None = None
        self._last_words: asyncio.TimerHandle | None = None
        self._worker: asyncio.Task[None] | None = None
        self._source: asyncio.Task[None] | None = None
        self._paused = self._predicted = False
        # Of the last picture that was taken out of the inbox, and of the resets.
        self._taken_s: float | None = None
        self._taken_resets = 0
        # Those before the step that the model answered last.
        self._begun_resets = 0
        # How often it began anew, by itself too; and before that step.
        self._restarts = self._begun_restarts = 0
        # It is being handed over: nothing more is taken; and whether what it is came of the pool.
        self._moving = self._saved_last = False
        if saved is not None:
            self._go_on(saved)

    def _go_on(self, saved: SavedStream) -> None:
        self.words.go_on(saved.words, saved.seq, saved.stream.scene_s)
        self.replay_seq = saved.replay_seq
        self.delay_steps, self.pad_bias, self._paused = saved.delay_steps, saved.pad_bias, saved.paused
        self.received_s = self._taken_s = saved.received_s
        self.resets = self._taken_resets = self._begun_resets = saved.resets
        self.now_s, self.scene_s, self._predicted = saved.now_s, saved.stream.scene_s, saved.predicted
        self._inbox.dropped = saved.dropped
        self._second.extend(saved.second)
        self._late, self._too_fast = saved.intake.late, saved.intake.too_fast
        # (What times a track's pictures by the time that passed; clocks of two machines may differ a little.)
        self.last_activity_s -= max(0.0, time.time() - saved.saved_s)

    # What the connection calls.

    def begin(self, handle: StreamHandle, call: Callable[..., None]) -> None:
        """Takes its stream of the pool and begins to decode what comes in.

        Args:
          handle: of the stream.
          call: brings calls of the pool's thread to the loop, in order.
        """
        self._handle, self._call = handle, call
        if self._paused:
            handle.pause()
        self._worker = asyncio.create_task(self._work(), name=f"session {self.id}")

    def follow(self, source: asyncio.Task[None]) -> None:
        """Takes the task that watches a source of the server's; it ends with the session."""
        self._source = source

    async def put_tick(self, tick: Tick) -> None:
        """Takes a tick of that source; of a stream that is paused a file's waits, and a live one's is ignored."""
        self.last_activity_s = self._now()
        await self._offer(tick)

    def count_lost_decoder(self, error: DecoderEnded) -> None:
        """Counts a decoder process that is gone."""
        self._counters.lost_decoders.labels(error.loss).inc()

    async def put(self, picture: Frame) -> bool:
        """Takes a picture; a live stream's never waits, a file's waits until there is room.

        Returns:
          False where it was left out since they come faster than they may.

        Raises:
          ProtocolError: the stream watches a source of the server's, or is a file that comes over a track.
        """
        if self._source is not None:
            raise ProtocolError("bad_message", "this stream watches a source of the server's; it takes no pictures")
        if picture.number is None and not self._live:
            # A track cannot be made to wait: its pictures would fill the memory meanwhile.
            raise ProtocolError("bad_config", "`mode` must be live where the pictures come over a track")
        if self._moving:
            return True  # it is sent again to the next replica, or said to be left out
        self.last_activity_s = self._now()
        self._counters.frames.inc()
        if self._live and not self._rate.take():
            self._inbox.refuse(picture)
            return False
        await self._inbox.put(picture)
        # Only now: what a connection that drops meanwhile still held is sent again.
        self.received_s = picture.t_s
        return True

    async def order(self, order: InOrder) -> None:
        """Takes an order; it is carried out after the pictures that came before it."""
        self.last_activity_s = self._now()
        if self._moving:
            return  # its client says it again at the next replica
        await self._inbox.put(order)
        if order == "reset":
            self.received_s = None
            self.resets += 1

    def change(self, change: Change) -> None:
        """Sets the delay or the bias from now on; ProtocolError for a delay that the model was not made for."""
        self.last_activity_s = self._now()
        if change.delay_steps is not None:
            self.delay_steps = checked_delay(change.delay_steps, self._facts)
        if change.pad_bias is not None:
            self.pad_bias = change.pad_bias
        if self._handle is not None and self._runs:
            try:
                self._handle.configure(delay_steps=change.delay_steps, pad_bias=change.pad_bias)
            except StreamEnded:
                self.end("internal", _MODEL_STOPPED)
        self.notify(config_reply(delay_steps=self.delay_steps, pad_bias=self.pad_bias))

    def notify(self, notice: Reply) -> None:
        """Lets the client know of something."""
        self._notices.append(notice)
        self._wake()

    def take_replies(self) -> list[Reply]:
        """Notices (errors, settings) and then the ticks' statuses since the last call, as many as are kept."""
        taken = [*self._notices, *self._statuses]
        self._notices.clear()
        self._statuses.clear()
        return taken

    def hear(self, queue: SoundQueue | None) -> None:
        """From now on sound goes there, and none that was before; None: nobody hears it, and the model makes none."""
        self._sound = queue
        if queue is not None:
            queue.clear()
            queue.on_left_out = lambda: self._leave_out_sound("slow_reader")
        speaking = queue is not None
        if speaking != self.speaking and self._handle is not None and self._runs:
            self.speaking = speaking
            try:
                self._handle.configure(speaking=speaking)
            except StreamEnded:
                self.end("internal", _MODEL_STOPPED)
        self._wake()

    def stop_hearing(self, queue: SoundQueue | None) -> None:
        """The same connection hears no more; another's sound goes on."""
        if queue is not None and self._sound is queue:
            self.hear(None)

    def take_sound(self, queue: SoundQueue) -> Queued | None:
        """The oldest sound that waits for a connection; None where none does."""
        queued = queue.take()
        if queued is not None and not self._live:
            # (A file's ticks wait for room; see `_offer`.)
            self._wake()
        return queued

    async def news(self, since: int) -> int:
        """Waits for a word, status, notice or the end after number `since` of them; returns the newest one's number."""
        while self.changes == since:
            await self._changed.wait()
        return self.changes

    @property
    def dropped(self) -> int:
        """Pictures that never reached the model: too many at once, too fast, or of no use without one that was lost."""
        return self._inbox.dropped + self._too_fast + self._orphaned

    @property
    def wants_keyframe(self) -> bool:
        """Whether pictures are left out until one comes from which decoding can begin."""
        # (Of stills each is one.)
        return self._inbox.wants_keyframe or (self._needs_keyframe and self._predicted)

    def end(self, reason: str, message: str, *, drain: bool = False) -> None:
        """Ends it; a second call does nothing. Words that were said stay readable for a while.

        It has ended (`ended`) when the model has said what it was saying; nobody waits for that here.

        Args:
          reason: one of `protocol.CLOSE_CODES`.
          drain: let the model take the ticks that wait.
        """
        if self._ending is not None:
            return
        self._ending = reason, message
        for task in (self._worker, self._source):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if self._handle is None:
            self.on_stream_ended()
        else:
            self._last_words = asyncio.get_running_loop().call_later(_LAST_WORDS_S, self.on_stream_ended)
            self._handle.leave(drain=drain)

    @property
    def can_move(self) -> bool:
        """Whether it may go on elsewhere: it runs, and its pictures are its client's."""
        return self._runs and self._source is None and self._handle is not None

    @property
    def has_moved(self) -> bool:
        """Whether it went on elsewhere: handed over, or taken by another replica to which this one was too slow."""
        return self.ended is not None and self.ended[0] in ("moved", "superseded")

    @property
    def _runs(self) -> bool:
        return self._ending is None and not self._moving

    async def save(self, *, leave: bool = False, turn: asyncio.Semaphore | None = None) -> SavedStream | None:
        """What it is, once the pictures that came were taken; None where it ended meanwhile.

        Args:
          leave: it goes on elsewhere: from now on it takes nothing; `moved` or `end` must follow.
          turn: while the device copies its row, this is held.
        """
        order = Save(leave, turn or asyncio.Semaphore())
        self._moving = self._moving or leave
        await self._inbox.put(order)
        while order.saved is None and self._ending is None:
            await self._changed.wait()
        return order.saved

    def moved(self) -> bool:
        """What it is has been handed over: its client is sent there; False where it has ended meanwhile."""
        runs = self._ending is None
        self.end("moved", "the stream goes on at another replica: come back with its number and token")
        return runs

    def restored(self, last_seq: int, has_after_s: float | None) -> None:
        """It was lost and goes on from what was kept of it.

        Args:
          last_seq: the last word that its client has.
          has_after_s: the client sends again every picture later than this; where that is all that was shown since, and
            the first of them can be decoded, the words up to `last_seq` are said once more, and nothing is lost.
        """
        began_s = -math.inf if self._taken_s is None else self._taken_s
        if has_after_s is not None and has_after_s <= began_s + _SAME_S and not self.wants_keyframe:
            self.replay_seq = max(self.replay_seq, last_seq)
            return
        self.words.skip_to(last_seq, self.scene_s)
        kept = "its beginning" if self._taken_s is None else f"{self._taken_s:.2f} s"
        message = f"the stream's replica was lost; it goes on from what was kept at {kept}: words that were said since "
        self.notify(error_reply("restored", message + "may be missing or come again", fatal=False))

    async def stopped(self) -> None:
        """Waits until it has ended and nothing works for it any more; after `end`."""
        while self.ended is None:
            await self._changed.wait()
        tasks = [task for task in (self._worker, self._source) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # From the model. On the event loop; the pool's thread goes through ToLoop.

    def on_stream_ended(self) -> None:
        """Takes that there will be no more outputs."""
        if self.ended is not None:
            return
        if self._saved_last and self._ending is None:
            self._handle = None
            return  # whoever hands it over says how it ends
        # A stream that ends by itself has lost its model.
        self.ended = self._ending = self._ending or ("internal", _MODEL_STOPPED)
        self.ended_s = self._now()
        if self._last_words is not None:
            self._last_words.cancel()
        self._counters.sessions_ended.labels(self.ended[0]).inc()
        _log.info("session ended", extra={"session": self.id, "reason": self.ended[0], "words": self.words.seq})
        self._wake()

    def on_output(self, output: StreamOutput) -> None:
        """Takes what a step gave."""
        for word in output.words:
            self.words.append(word)
        self._counters.words.inc(len(output.words))
        if not output.is_end:
            self._take_step(output)
        self._wake()

    def _on_begun(self, resets: int, restarts: int) -> None:
        """Takes that outputs from now on are of after so many resets; what was said before is not heard any more."""
        self._begun_resets, self._begun_restarts = resets, restarts
        self._second.clear()
        if self._sound is not None:
            self._sound.clear()
        self._wake()

    def _take_step(self, output: StreamOutput) -> None:
        self.scene_s = output.scene_s
        stride = self._facts.clock.video_stride
        if output.step % stride == 0:
            self.now_s, self._tick_tokens = output.t_video_s, output.tokens
        # (What answers a tick of before answers none of those that were offered since, whatever its time.)
        is_now = self._begun_restarts == self._restarts
        while is_now and self._offered and self._offered[0][0] <= output.t_video_s + _SAME_S:
            _, self._tick_change, self._tick_picture = self._offered.popleft()
        self._take_sound_of(output)
        # A tick is reported after its last step, so that all words that it gave come before.
        if output.step % stride == stride - 1:
            self._second.append(self._tick_tokens.number)
            self._statuses.append(event_reply(self._status(output)))

    def _take_sound_of(self, output: StreamOutput) -> None:
        if output.step % self._facts.clock.video_stride == 0:
            self._tick_sound = None
        for piece in output.sound:
            self._tick_sound = "off" if piece.left_out or self._tick_sound == "off" else "on"
            self._sound_left_out = self._sound_left_out or 0
            if piece.left_out:
                self._leave_out_sound("overload")
            self._counters.sound_steps.inc(not piece.left_out)
            if self._sound is not None:
                self._sound.put(piece)

    def _leave_out_sound(self, reason: str) -> None:
        self._sound_left_out = (self._sound_left_out or 0) + 1
        self._counters.sound_left_out.labels(reason).inc()

    def _status(self, output: StreamOutput) -> Status:
        tokens = self._tick_tokens
        places = [
            (int(row), int(column), int(size), int(kind))
            for (row, column), size, kind in zip(tokens.centre_px, tokens.size_px, tokens.kind)
        ]
        return Status(
            t_video_s=self.now_s,
            step=output.step,
            lag_s=round(output.lag_s, 4),
            dropped_frames=output.dropped_frames + self.dropped,
            late_frames=self._late,
            tokens=tokens.number,
            tokens_per_s=sum(self._second),
            anchor=tokens.is_anchor,
            places=places,
            change=round(self._tick_change, 4),
            sound=self._tick_sound,
            sound_left_out=self._sound_left_out,
            scene_s=self.scene_s,
            resets=self._begun_resets,
            picture=self._tick_picture,
            seq=self.words.seq,
        )

    # The work on what came in.

    async def _work(self) -> None:
        try:
            # (What ends it from within this task does not cancel it.)
            while self._ending is None:
                item = await self._inbox.get()
                if isinstance(item, Frame):
                    await self._take(item)
                elif isinstance(item, Save):
                    await self._save(item)
                    if item.leave:
                        return  # (a picture whose sender waited for room may lie behind it; it is sent again elsewhere)
                elif await self._carry_out(item):
                    return
        except StreamEnded:
            self.end("internal", _MODEL_STOPPED)
        except Exception:  # noqa: BLE001  one stream's fault is reported to its client and spares the others
            _log.exception("session failed", extra={"session": self.id})
            self.end("internal", "the server failed on this stream; its log says how")
        finally:
            self._decoder.close()

    async def _save(self, order: Save) -> None:
        """Answers an order to say what the stream is."""
        assert self._handle is not None
        try:
            intake = await self._decoder.saved()
        except DecoderEnded as error:
            self._lose_decoder(error, "what came before")
            if self._ending is not None:
                return
            intake = await self._decoder.saved()  # (of what it had taken, with a gap)

        def take(state: StreamState) -> None:
            # (Now: words of the next tick may come before whoever waits for this goes on.)
            order.saved = self._saved(state, intake)
            self._saved_last = order.leave
            self._wake()

        async with order.turn:
            self._handle.save(lambda state: self._call(take, state), leave=order.leave)
            while order.saved is None and self._ending is None:
                await self._changed.wait()

    def _saved(self, stream: StreamState, intake: IntakeState) -> SavedStream:
        """What it is now, of the pool and of its decoder."""
        return SavedStream(
            key=self.key,
            token_sha256=token_sha256(self.token),
            config=dataclasses.replace(self.config, sound=None),
            delay_steps=self.delay_steps,
            pad_bias=self.pad_bias,
            paused=self._paused,
            seq=self.words.seq,
            replay_seq=self.replay_seq,
            words=self.words.kept(),
            received_s=self._taken_s,
            now_s=self.now_s,
            saved_s=time.time(),
            dropped=self._inbox.dropped + self._orphaned,
            second=list(self._second),
            resets=self._taken_resets,
            predicted=self._predicted,
            stream=stream,
            intake=intake,
        )

    async def _take(self, picture: Frame) -> None:
        self._taken_s, self._predicted = picture.t_s, picture.codec in PREDICTED
        if self._paused:
            return  # a paused stream takes no pictures: waiting for room would keep it from hearing "play"
        if self._needs_keyframe and not picture.keyframe:
            self._orphaned += 1
            return
        self._needs_keyframe = False
        try:
            taken = await self._decoder.take(picture)
        except PictureRefused as error:
            self._refuse(picture, str(error))
            return
        except DecoderEnded as error:
            self._counters.bad_frames.inc()
            self._lose_decoder(error, _name(picture))
            return
        self._bad_in_a_row = 0
        self._report_times(picture, taken)
        self._late, self._too_fast = taken.late, taken.too_fast
        for tick in taken.ticks:
            await self._offer(tick, picture.number)

    def _report_times(self, picture: Frame, taken: Taken) -> None:
        """Reports times that are not as they should be, at once; begins anew where the client's clock was set back."""
        if taken.late > self._late and self._now() - self._late_reported_s > _LATE_REPORT_S:
            self._late_reported_s = self._now()
            message = f"{_name(picture)} is not later than the one before it: left out, as {taken.late} so far"
            self.notify(error_reply("late_frame", message, fatal=False))
        if taken.gap_s is not None:
            message = f"{_name(picture)} is {taken.gap_s:.3f} s after the one before it: the time between is left out"
            self.notify(error_reply("time_gap", message, fatal=False))
        if taken.set_back_s is not None:
            message = f"times were set back by {taken.set_back_s:.3f} s: the stream begins anew at {_name(picture)}"
            self.notify(error_reply("clock_set_back", message, fatal=False))
            self._restart()

    async def _offer(self, tick: Tick, picture: int | None = None) -> None:
        """Gives a tick to the model; a file's waits for the ticks before it, and until their sound was sent."""
        assert self._handle is not None
        while not self._live and self._is_full() and self._ending is None:
            await self._changed.wait()
        if self._ending is None and not self._paused:
            self._handle.offer(tick.t_s, tick.frame)
            self._offered.append((tick.t_s, tick.change, picture))

    def _is_full(self) -> bool:
        """Whether a file's next tick has to wait."""
        ticks = len(self._offered)
        # What is on its way makes sound too, and so does the tick of which only the first step was answered.
        no_room = self._sound is not None and not self._sound.has_room(self._facts.clock.video_stride * (ticks + 2))
        return self._paused or ticks >= self._limits.file_ticks or no_room

    def _refuse(self, picture: Frame, why: str) -> None:
        self._counters.bad_frames.inc()
        self._bad_in_a_row += 1
        if picture.number is None:
            # A track can be asked for a keyframe, and until it comes nothing decodes.
            self._inbox.wants_keyframe = True
        message = f"{_name(picture)} {why}"
        fatal = self._bad_in_a_row >= self._limits.bad_frames
        if fatal:
            message = f"{self._bad_in_a_row} pictures in a row did not decode; {message}"
        self.notify(error_reply("bad_frame", message, fatal=fatal))
        if fatal:
            self.end("protocol", message)

    def _lose_decoder(self, error: DecoderEnded, what: str) -> None:
        """Goes on with another decoder, and a gap; ends the stream where that happens too often."""
        self.count_lost_decoder(error)
        goes_on = self._losses.take()
        self._needs_keyframe = True
        message = f"{what} {error}" + ("; the stream goes on at the next keyframe" if goes_on else "")
        _log.warning("a decoder was lost", extra={"session": self.id, "error": message})
        self.notify(error_reply("decoder_lost", message, fatal=not goes_on))
        if not goes_on:
            self.end("protocol", message)

    async def _carry_out(self, order: InOrder) -> bool:
        """Carries out an order; whether it was the last one."""
        assert self._handle is not None
        match order:
            case "pause":
                self._paused = True
                self._handle.pause()
                await self._tell_decoder(self._decoder.jump)
            case "play":
                self._paused = False
                self._handle.resume()
                self._wake()
            case "reset":
                await self._tell_decoder(self._decoder.reset)
                self._taken_s = None
                self._taken_resets += 1
                self._restart()
            case "end":
                self.end("end", "the stream is finished", drain=True)
                return True
        return False

    async def _tell_decoder(self, order: Callable[[], Awaitable[None]]) -> None:
        try:
            await order()
        except DecoderEnded as error:
            # (The next one begins as if it had been told.)
            self._lose_decoder(error, "what came before")

    def _restart(self) -> None:
        assert self._handle is not None
        self._offered.clear()
        if self._sound is not None:
            self._sound.clear()
        self._restarts += 1
        begun = self._taken_resets, self._restarts
        self._handle.reset(lambda: self._call(self._on_begun, *begun))

    def _wake(self) -> None:
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _name(picture: Frame) -> str:
    return "a picture of the track" if picture.number is None else f"picture {picture.number}"


def checked_delay(delay_steps: int, facts: ModelFacts) -> int:
    """The same; ProtocolError for a delay that the model was not made for."""
    try:
        return facts.delays.chosen(delay_steps)
    except ValueError as error:
        raise ProtocolError("bad_config", f"`delay_steps`: {error}") from error
