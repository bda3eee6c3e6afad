// The model's voice: pieces of sound at their time on the captions' clock, or a WebRTC track; never louder than a
// bound. It is muted until somebody turns it on, as browsers want it, and then costs the server nothing.

// A joint is faded over this long, as everywhere (streaming/sound.py).
const FADE_S = 0.005;
// Pieces may be so much late without a gap.
const JITTER_S = 0.1;
// What is later than this against the captions' clock is left out: the sound would fall behind the words.
const STALE_S = 0.5;
// A piece that was said before its time waits no longer than this.
const AHEAD_MAX_S = 0.4;
// What begins sooner can no longer be taken back.
const COMMITTED_S = 0.02;
const LIMIT_DB = -9, LIMIT_RATIO = 20, CEILING = 0.7;
const RAMP_S = 0.02;

// What holds the sound down: from `input` to `output`. A compressor lifts what is quiet by a gain that its curve
// decides (Web Audio, "makeup gain": full range gain to the power of -0.6), which is taken back; its attack lets peaks
// through, which are cut off.
export function limiter(context) {
  const limit = { threshold: LIMIT_DB, knee: 0, ratio: LIMIT_RATIO, attack: 0.003, release: 0.25 };
  const input = new DynamicsCompressorNode(context, limit);
  const fullRangeDb = LIMIT_DB - LIMIT_DB / LIMIT_RATIO;
  const level = new GainNode(context, { gain: 10 ** ((0.6 * fullRangeDb) / 20) });
  const curve = Float32Array.from({ length: 2001 }, (_, i) => Math.max(-CEILING, Math.min(CEILING, i / 1000 - 1)));
  const output = new WaveShaperNode(context, { curve });
  input.connect(level).connect(output);
  return { input, output };
}

// Puts pieces into a context's time, one after another. Where something is missing, the sound fades out before and in
// after it: the last milliseconds of each piece stand as a faded end, and are played whole if the next one comes.
export class Schedule {
  // `rate`: samples a second of the pieces. `nowS()`: the stream's time now, or null where it is not known.
  constructor(context, destination, rate, nowS) {
    Object.assign(this, { context, destination, rate, nowS });
    this.fade = Math.max(2, Math.round(FADE_S * this.rate));
    this.tail = null;
    this.endFrame = 0;
    this.anchor = null;
    this.played = 0;
    this.late = 0;
    this.gaps = 0;
  }

  // `samples`: a Float32Array, first to be heard at `tS` of the stream.
  add({ tS, samples, continues }) {
    const nowFrame = Math.ceil(this.context.currentTime * this.rate);
    const goesOn = continues && this.tail && this.tail.frame >= nowFrame + COMMITTED_S * this.rate;
    const now = this.nowS();
    const earlyS = now === null ? 0 : tS - now;
    // Too much waits, or it is too old: the sound must not fall behind the words.
    if (this.endFrame - nowFrame > (STALE_S + JITTER_S) * this.rate || (!goesOn && earlyS < -STALE_S)) {
      this.late++;
      this.tail = null;
      return;
    }
    let start, sound;
    if (goesOn) {
      // The faded end is taken back for the whole one.
      this.tail.node.stop();
      this.tail.node.disconnect();
      start = this.tail.frame;
      sound = joined(this.tail.samples, samples);
    } else {
      const waitS = JITTER_S + Math.min(AHEAD_MAX_S, Math.max(0, earlyS));
      start = Math.max(this.endFrame, nowFrame + Math.round(waitS * this.rate));
      sound = Float32Array.from(samples);
      for (let i = 0; i < Math.min(this.fade, sound.length); i++) sound[i] *= i / this.fade;
      this.anchor = { tS, frame: start };
      this.gaps++;
    }
    this.played++;
    const cut = Math.max(0, sound.length - this.fade);
    if (cut) this.play(sound.subarray(0, cut), start);
    const end = sound.slice(cut);
    const faded = end.map((value, i) => value * (1 - (i + 1) / end.length));
    this.tail = { samples: end, frame: start + cut, node: this.play(faded, start + cut) };
    this.endFrame = start + sound.length;
  }

  play(samples, frame) {
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const node = new AudioBufferSourceNode(this.context, { buffer });
    node.connect(this.destination);
    node.start(frame / this.rate);
    return node;
  }

  // The stream's time of what is heard now; null where nothing is.
  heardS() {
    if (!this.anchor) return null;
    const frame = (this.context.currentTime - (this.context.outputLatency || 0)) * this.rate;
    return frame > this.endFrame ? null : this.anchor.tS + (frame - this.anchor.frame) / this.rate;
  }
}

function joined(one, other) {
  const whole = new Float32Array(one.length + other.length);
  whole.set(one);
  whole.set(other, one.length);
  return whole;
}

export class Player {
  constructor() {
    this.muted = true;
    this.volume = 0.7;
    this.nowS = () => null;
    this.sound = null;
    this.stream = null;
    this.rate = null;
    this.received = 0;
  }

  // A stream begins, whose time is `nowS()`. Its pieces have `rate` samples a second.
  begin(nowS, rate) {
    this.end();
    Object.assign(this, { nowS, rate });
    if (!this.muted) this.open(rate);
  }

  // Called while a key or a button is pressed: browsers let no page sound by itself.
  unmute() {
    this.muted = false;
    if (this.stream) this.open();
    else if (this.rate) this.open(this.rate);
  }

  mute() {
    this.muted = true;
    this.close();
  }

  setVolume(volume) {
    this.volume = volume;
    // (As ears judge it: half of the way is about half as loud.)
    this.sound?.volume.gain.setTargetAtTime(volume ** 2, this.sound.context.currentTime, RAMP_S);
  }

  // A piece that came as a message.
  add(piece) {
    this.received++;
    if (this.muted || this.stream) return;
    if (this.sound?.rate !== piece.rate) this.open(piece.rate);
    this.sound.schedule.add(piece);
  }

  // A track on which the server plays in real time; null where there is none any more, and pieces come.
  follow(stream) {
    this.stream = stream;
    if (!this.muted) this.open(stream ? undefined : this.rate);
  }

  // What is heard now, 0 to 1: the greatest sample of the last moment.
  level() {
    if (!this.sound) return 0;
    const samples = new Float32Array(this.sound.meter.fftSize);
    this.sound.meter.getFloatTimeDomainData(samples);
    return samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  }

  // The stream's time of what is heard; null where that is not known.
  heardS() {
    return this.sound?.schedule?.heardS() ?? null;
  }

  // The stream has ended; what waits is still heard.
  end() {
    const { schedule, context } = this.sound ?? {};
    this.stream = null;
    this.rate = null;
    this.close(schedule ? schedule.endFrame / schedule.rate - context.currentTime : 0);
  }

  // A context of its own for each rate of pieces: the browser resamples the whole, without joints.
  open(rate) {
    this.close();
    const context = new AudioContext({ latencyHint: "interactive", ...(rate ? { sampleRate: rate } : {}) });
    const volume = new GainNode(context, { gain: this.volume ** 2 });
    const { input, output } = limiter(context);
    const meter = new AnalyserNode(context, { fftSize: 2048 });
    output.connect(volume).connect(meter).connect(context.destination);
    this.sound = { context, rate, volume, meter, schedule: null };
    if (this.stream) {
      // (Chromium lets a remote stream flow only where an element plays it, too.)
      const pump = new Audio();
      Object.assign(pump, { muted: true, srcObject: this.stream });
      pump.play().catch(() => {});
      this.sound.pump = pump;
      context.createMediaStreamSource(this.stream).connect(input);
    } else {
      this.sound.schedule = new Schedule(context, input, rate, () => this.nowS());
    }
    context.resume();
  }

  close(afterS = 0) {
    const sound = this.sound;
    this.sound = null;
    if (!sound) return;
    if (sound.pump) sound.pump.srcObject = null;
    // Down to nothing first, so that it does not click.
    const waitS = Math.max(0, afterS);
    sound.volume.gain.setTargetAtTime(0, sound.context.currentTime + waitS, RAMP_S / 4);
    setTimeout(() => sound.context.close(), 1000 * (waitS + 2 * RAMP_S));
  }
}
