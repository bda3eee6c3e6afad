// The page: what the controls do, and what is shown of a stream.

import { Connection } from "./connection.js";
import { Overlay, Timeline, frameSize } from "./drawing.js";
import { Player } from "./player.js";
import { Grabber, SourceRefused, openDevice, openFile, openWorld } from "./sources.js";
import { Words, stamp, textOf } from "./words.js";

const $ = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const video = $("video");
const timeline = new Timeline($("timeline"));
const overlay = new Overlay($("overlay"), video);
const player = new Player();
// Words later than this, or pictures left out within the last seconds, are worth a warning.
const LATE_S = 0.6;
const WARNED_MS = 5000;
const SILENT_MS = 4000;
const DESCRIBED_MS = 3000;
// The timeline moves slowly; the machine has better things to do than to draw it sixty times a second.
const DRAWN_MS = 80;
// How long the picture that is being made may take when somebody presses Stop.
const LAST_PICTURE_MS = 1000;
const PHRASES_SHOWN = 200;

let token = takeToken();
let facts = null;
let stream = null;

// The token is in the part of the address that is never sent; it is kept for this tab and taken off the address.
function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("token");
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function learnFacts() {
  for (;;) {
    let answer;
    try {
      answer = await fetch(new URL("v1/info", base), { headers: headers() });
    } catch {
      problem("server", "The server does not answer. Is it running?");
      return;
    }
    if (answer.status === 401) {
      token = await askToken();
      sessionStorage.setItem("token", token);
      continue;
    }
    if (!answer.ok) {
      problem("server", (await answer.json()).error);
      return;
    }
    facts = await answer.json();
    problem("server", "");
    $("model").textContent = facts.model;
    $("cap").textContent = facts.tokens_per_s_max;
    setDelays({ now: facts.delay_steps.default, ...facts.delay_steps });
    $("voice").hidden = !facts.sample_rate_hz;
    return;
  }
}

function askToken() {
  return new Promise((resolve) => {
    const dialog = $("ask-token");
    dialog.onclose = () => {
      const value = $("token").value.trim();
      if (value) resolve(value);
      else dialog.showModal();
    };
    dialog.showModal();
  });
}

// One message of a kind at a time; an empty one takes it away.
function problem(kind, message) {
  let shown = document.querySelector(`#problems [data-kind="${CSS.escape(kind)}"]`);
  if (!message) {
    if (shown) shown.remove();
    return;
  }
  if (!shown) {
    shown = document.createElement("p");
    shown.className = "problem";
    shown.dataset.kind = kind;
    $("problems").append(shown);
  }
  if (shown.textContent !== message) shown.textContent = message;
}

function setState(state, message) {
  $("state").dataset.state = state;
  if ($("state").textContent !== message) $("state").textContent = message;
}

function setDelays({ now, min, max }) {
  Object.assign($("delay"), { min, max, value: now, disabled: false });
  showDelay();
}

function showDelay() {
  const stepS = facts ? 1 / facts.clock.step_hz : 0;
  $("delay-value").textContent = `${(Number($("delay").value) * stepS).toFixed(2)} s`;
}

function showTalk() {
  const value = Number($("talk").value);
  $("talk-value").textContent = value === 0 ? "as trained" : `${value > 0 ? "+" : "−"}${Math.abs(value)}`;
}

function showVoice() {
  $("mute").textContent = player.muted ? "Turn the voice on" : "Turn the voice off";
  $("volume-value").textContent = player.muted ? "muted" : `${Math.round(100 * player.volume)} %`;
}

// A stream from Watch to its end.
class Watching {
  constructor(source) {
    this.source = source;
    this.words = new Words();
    this.opened = null;
    this.connection = null;
    this.grabber = null;
    this.lastStatus = null;
    this.readAloud = null;
    this.droppedBefore = 0;
    this.warnedAt = 0;
    this.heardAt = performance.now();
    this.beganAt = performance.now();
    this.done = false;
  }

  async begin() {
    this.opened = await this.open();
    if (this.done) {
      this.opened.stop();
      return;
    }
    const track = this.opened.track ?? null;
    if (track) track.addEventListener("ended", () => this.stop("The camera or screen has stopped."));
    if (this.opened.ended) this.opened.ended.then(() => this.stop());
    const config = {
      mode: "live",
      fit: $("fit").value || null,
      delay_steps: Number($("delay").value),
      pad_bias: -Number($("talk").value),
      hear: !player.muted,
    };
    const way = facts.webrtc ? $("way").value : "websocket";
    const voiced = Boolean(facts.sample_rate_hz);
    const connection = (this.connection = new Connection({ base, token, config, track, way, voiced }));
    const on = (type, handler) => connection.addEventListener(type, (event) => handler.call(this, event.detail));
    on("hello", this.onHello);
    on("word", this.onWord);
    on("status", this.onStatus);
    // (A tab in the background has gaps, and its owner knows.)
    on("problem", ({ code, message }) => code !== "time_gap" && problem(code, message));
    on("state", this.onState);
    on("bye", this.onBye);
    on("sound", (piece) => player.add(piece));
    on("track", (voice) => player.follow(voice));
    if (facts.sample_rate_hz) player.begin(() => this.nowS(), facts.sample_rate_hz);
    this.beganAt = performance.now();
    await connection.begin();
  }

  async open() {
    if (this.source === "camera" || this.source === "screen") return openDevice(video, this.source);
    if (this.source === "world") return openWorld(video, base, headers(), () => this.connection?.order("reset"));
    const [file] = $("file").files;
    if (!file) throw new SourceRefused("Choose a video file first.");
    return openFile(video, file);
  }

  // The stream's time: a file's own; a camera's since it began.
  timeS() {
    if (this.opened.timeS) return this.opened.timeS();
    if (!this.opened.track) return video.currentTime;
    return (performance.now() - this.beganAt) / 1000;
  }

  // The same on the server's clock: a track's pictures are timed there.
  nowS() {
    if (this.connection?.showsPictures ?? true) return this.opened ? this.timeS() : 0;
    if (!this.lastStatus) return 0;
    return this.lastStatus.t_video_s + this.lastStatus.lag_s + (performance.now() - this.heardAt) / 1000;
  }

  onHello(hello) {
    timeline.cap = hello.tokens_per_s_max;
    $("feeds").hidden = false;
    const feed = (kind) => new URL(`v1/sessions/${hello.session}/${kind}?key=${hello.feed}`, base).href;
    $("feed-vtt").href = feed("captions.vtt");
    $("feed-words").href = feed("words");
    if (this.connection.showsPictures && !this.grabber) {
      const tickS = hello.clock.video_stride / hello.clock.step_hz;
      const onPicture = (tS, jpeg) => this.connection.show(tS, jpeg);
      const framePx = frameSize(hello.frame_px);
      this.grabber = new Grabber({ video, timeS: () => this.timeS(), tickS, framePx, onPicture });
      // A file begins when there is somebody to watch it.
      this.opened.play?.();
    }
  }

  onWord(word) {
    const { phrase, begins } = this.words.add(word);
    timeline.addWord(word);
    const list = $("transcript");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (begins) {
      this.showWhole(this.words.phrases.at(-2));
      const item = document.createElement("li");
      const time = document.createElement("time");
      time.textContent = stamp(word.t_video_s, ".").replace(/^00:/, "").slice(0, -1);
      item.append(time, document.createElement("span"));
      list.append(item);
      if (list.children.length > PHRASES_SHOWN) list.firstChild.remove();
    }
    list.lastChild.lastChild.textContent = textOf(phrase);
    if (atEnd) list.scrollTop = list.scrollHeight;
    for (const button of document.querySelectorAll("[data-download]")) button.disabled = false;
  }

  onStatus(status) {
    this.lastStatus = status;
    this.heardAt = performance.now();
    if (this.words.watch(status)) this.showWhole(this.words.phrases.at(-1));
    timeline.add(status);
    overlay.add(status, frameSize(this.connection.hello.frame_px), this.connection.hello.fit);
    const dropped = status.dropped_frames + this.connection.leftOut;
    $("tokens").textContent = status.tokens_per_s;
    $("motion").textContent = `${Math.round(100 * status.change)} %`;
    $("lag").textContent = `${status.lag_s.toFixed(2)} s`;
    $("dropped").textContent = dropped;
    if (dropped > this.droppedBefore || status.lag_s > LATE_S) {
      this.warnedAt = performance.now();
      const left = dropped === 1 ? "1 picture was" : `${dropped} pictures were`;
      const lag = status.lag_s.toFixed(1);
      problem("slow", `The server cannot keep up: ${left} left out, and words come ${lag} s after their step.`);
    }
    this.droppedBefore = dropped;
    const unheard =
      status.sound === "off" ? "The server is overloaded: the voice is silent for now, the words go on." : "";
    problem("unheard", unheard);
  }

  onState({ state, message }) {
    setState(state, message);
    this.heardAt = performance.now();
    problem("connection", state === "dropped" ? message : "");
  }

  onBye({ reason, message }) {
    const expected = reason === "end";
    setState(expected ? "idle" : "lost", expected ? "Not watching" : "Stopped");
    problem("connection", "");
    if (!expected) problem("ended", `The stream has ended: ${message}`);
    this.words.end();
    this.showWhole(this.words.phrases.at(-1));
    this.close();
  }

  // The phrase that is shown last is whole (undefined: none is shown yet). Read aloud now, not word by word, and once.
  showWhole(phrase) {
    if (!phrase) return;
    $("transcript").lastChild.lastChild.textContent = textOf(phrase);
    if (phrase !== this.readAloud) $("heard").textContent = textOf(phrase);
    this.readAloud = phrase;
  }

  // What changes with time alone.
  refresh() {
    const now = performance.now();
    if (now - this.warnedAt > WARNED_MS) problem("slow", "");
    const waiting = this.connection?.wire && !this.paused() && now - this.heardAt > SILENT_MS;
    problem("silent", waiting ? "Nothing comes from the server. It may be overloaded, or no pictures reach it." : "");
    $("caption").textContent = this.words.shown(this.nowS(), player.heardS());
  }

  paused() {
    // (Between two clips of the world there is no picture either.)
    if (this.opened?.track) return false;
    return video.paused || video.ended || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA;
  }

  async stop(message) {
    if (message) problem("source", message);
    if (this.done) return;
    this.done = true;
    await this.grabber?.stop(LAST_PICTURE_MS);
    if (this.connection) this.connection.end();
    else this.close();
  }

  close() {
    this.done = true;
    this.grabber?.stop(0);
    this.opened?.stop();
    player.end();
    problem("unheard", "");
    problem("slow", "");
    problem("silent", "");
    $("caption").textContent = "";
    $("start").disabled = false;
    $("stop").disabled = true;
    $("feeds").hidden = true;
    $("invitation").hidden = false;
    overlay.clear();
    if (document.activeElement === document.body) $("start").focus();
  }
}

$("watch").addEventListener("submit", async (event) => {
  event.preventDefault();
  for (const kind of [
    "source", "ended", "webrtc", "missed", "bad_frame", "decoder_lost", "late_frame", "clock_set_back", "draining",
    "full", "overloaded",
  ]) problem(kind, "");
  if (!facts) await learnFacts();
  if (!facts) return;
  const source = new FormData(event.target).get("source");
  stream = new Watching(source);
  timeline.clear();
  overlay.clear();
  $("transcript").replaceChildren();
  for (const button of document.querySelectorAll("[data-download]")) button.disabled = true;
  $("start").disabled = true;
  $("stop").disabled = false;
  $("invitation").hidden = true;
  setState("connecting", source === "world" ? "Filming the world" : "Connecting");
  const mine = stream;
  try {
    await mine.begin();
  } catch (error) {
    mine.close();
    setState("idle", "Not watching");
    if (!(error instanceof SourceRefused)) throw error;
    problem("source", error.message);
  }
});
$("stop").addEventListener("click", () => stream?.stop());
addEventListener("pagehide", () => stream?.connection?.leave());

for (const radio of document.querySelectorAll("input[name=source]")) {
  radio.addEventListener("change", () => ($("file-label").hidden = radio.value !== "file"));
}
// (A browser that comes back to the page may have kept another choice.)
$("file-label").hidden = new FormData($("watch")).get("source") !== "file";

let changing = null;
const change = (fields) => {
  // The last of many movements counts.
  clearTimeout(changing);
  changing = setTimeout(() => stream?.connection?.configure(fields()), 120);
};
const settings = () => ({ delay_steps: Number($("delay").value), pad_bias: -Number($("talk").value) });
$("talk").addEventListener("input", () => (showTalk(), change(settings)));
$("delay").addEventListener("input", () => (showDelay(), change(settings)));
$("mute").addEventListener("click", () => {
  if (player.muted) player.unmute();
  else player.mute();
  stream?.connection?.configure({ hear: !player.muted });
  showVoice();
});
$("volume").addEventListener("input", () => {
  player.setVolume(Number($("volume").value) / 100);
  showVoice();
});
$("looks").addEventListener("change", () => (overlay.on = $("looks").checked));

video.addEventListener("pause", () => video.ended || stream?.connection?.order("pause"));
video.addEventListener("play", () => stream?.connection?.order("play"));
video.addEventListener("seeking", () => {
  if (!stream?.grabber || stream.opened?.track) return;
  stream.grabber.restart();
  stream.connection.order("reset");
});

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.download;
    const type = { vtt: "text/vtt", srt: "application/x-subrip", json: "application/json" }[kind];
    const url = URL.createObjectURL(new Blob([stream.words.file(kind)], { type }));
    const link = document.createElement("a");
    Object.assign(link, { href: url, download: `words.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  });
}

let drawnAt = 0;
function draw(now) {
  if (stream) {
    overlay.draw();
    if (now - drawnAt > DRAWN_MS) {
      drawnAt = now;
      timeline.draw(Math.max(stream.nowS(), stream.lastStatus?.t_video_s ?? 0));
      stream.refresh();
    }
  }
  requestAnimationFrame(draw);
}
setInterval(
  () => $("timeline").setAttribute("aria-label", timeline.describe(stream ? stream.nowS() : 0)),
  DESCRIBED_MS,
);
showTalk();
player.setVolume(Number($("volume").value) / 100);
showVoice();
requestAnimationFrame(draw);
learnFacts();
// What tests look at.
window.page = { get stream() { return stream; }, overlay, timeline, player };
