// What there is to watch: a camera, a screen, a file, the built-in world; and pictures of it at the model's ticks.

// Looked for ticks this often: far less than a tick.
const POLL_MS = 15;
const QUALITY = 0.92;

export class SourceRefused extends Error {}

// Camera and screen: {track, stop()}, shown in the video.
export async function openDevice(video, kind) {
  const devices = navigator.mediaDevices;
  if (!devices) {
    throw new SourceRefused(
      "Browsers give no camera or screen to a page that is neither https nor on this machine (localhost).",
    );
  }
  const size = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 25 } };
  let stream;
  try {
    stream = kind === "camera"
      ? await devices.getUserMedia({ video: { ...size, facingMode: "environment" }, audio: false })
      : await devices.getDisplayMedia({ video: { frameRate: { ideal: 15 } }, audio: false });
  } catch (error) {
    throw new SourceRefused(why(kind, error));
  }
  const [track] = stream.getVideoTracks();
  video.controls = false;
  video.srcObject = stream;
  await video.play();
  return {
    track,
    stop() {
      for (const one of stream.getTracks()) one.stop();
      video.srcObject = null;
    },
  };
}

function why(kind, error) {
  if (error.name === "NotAllowedError") {
    return kind === "camera"
      ? "The browser does not let this page see the camera. Allow it beside the address, then press Watch again; " +
        "or choose a file."
      : "No screen was shared. Press Watch again and choose one.";
  }
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") {
    return `There is no ${kind} on this machine.`;
  }
  if (error.name === "NotReadableError") return `Another program uses the ${kind}.`;
  return `The ${kind} cannot be used: ${error.message}`;
}

// A file: {ended: Promise, play(), stop()}, ready in the video at its first picture.
export async function openFile(video, file) {
  const url = URL.createObjectURL(file);
  const stop = () => release(video, url);
  try {
    const { ended } = await load(video, url, `${file.name} cannot be played by this browser`);
    return { ended, play: () => video.play(), stop };
  } catch (error) {
    stop();
    throw error;
  }
}

// The world's clips one after another: `timeS()` goes on from clip to clip, and `onClip()` is called where one begins,
// since each is a world of its own: nothing of the one before is still there.
export async function openWorld(video, base, headers, onClip) {
  let stopped = false, url = null, beforeS = 0;
  const next = async (index) => {
    const answer = await fetch(new URL(`v1/world/${index}.mp4`, base), { headers });
    if (!answer.ok) throw new SourceRefused((await answer.json()).error);
    const blob = await answer.blob();
    if (stopped) return;
    if (url) {
      beforeS += video.duration;
      URL.revokeObjectURL(url);
    }
    url = URL.createObjectURL(blob);
    const { ended } = await load(video, url, "the world's clip cannot be played by this browser");
    ended.then(async () => {
      if (stopped) return;
      await next(index + 1);
      if (stopped) return;
      onClip();
      await video.play();
    });
  };
  await next(0);
  return {
    timeS: () => beforeS + video.currentTime,
    play: () => video.play(),
    stop() {
      stopped = true;
      release(video, url);
    },
  };
}

// Resolves when the first picture is there; {ended} is a promise in an object, since a bare one would be waited for.
function load(video, url, failure) {
  return new Promise((resolve, reject) => {
    const ended = new Promise((done) => video.addEventListener("ended", done, { once: true }));
    video.addEventListener("loadeddata", () => resolve({ ended }), { once: true });
    video.onerror = () => reject(new SourceRefused(`${failure} (${video.error?.message || "unknown format"}).`));
    video.controls = true;
    video.src = url;
  });
}

function release(video, url) {
  video.onerror = null;
  video.removeAttribute("src");
  video.controls = false;
  video.load();
  if (url) URL.revokeObjectURL(url);
}

// Takes a picture at every tick: `onPicture(tS, jpeg)`. `timeS()` is the stream's time now; it may stand still.
export class Grabber {
  constructor({ video, timeS, tickS, framePx, onPicture }) {
    Object.assign(this, { video, timeS, tickS, framePx });
    this.tick = -1;
    this.busy = false;
    this.worker = new Worker(new URL("encoder.js", import.meta.url));
    this.worker.onmessage = ({ data: { id, jpeg } }) => {
      this.busy = false;
      onPicture(id * this.tickS, jpeg);
    };
    this.timer = setInterval(() => this.look(), POLL_MS);
  }

  async look() {
    const tick = Math.floor(this.timeS() / this.tickS + 1e-6);
    if (tick <= this.tick || this.busy || !this.video.videoWidth || this.video.seeking) return;
    this.tick = tick;
    this.busy = true;
    // Twice as fine as the model looks; the server shrinks it the way it does in training.
    const { videoWidth, videoHeight } = this.video;
    const [high, wide] = this.framePx;
    const scale = Math.min(1, 2 * Math.max(wide / videoWidth, high / videoHeight));
    const [width, height] = [videoWidth, videoHeight].map((side) => Math.max(1, Math.round(side * scale)));
    let bitmap;
    try {
      bitmap = await createImageBitmap(this.video);
    } catch {
      // Between two videos there is no picture; the next tick tries again.
      this.busy = false;
      return;
    }
    this.worker.postMessage({ id: tick, bitmap, width, height, quality: QUALITY }, [bitmap]);
  }

  // Time went back: the next tick may be any.
  restart() {
    this.tick = -1;
  }

  // Takes no more; resolves when the picture that is being made was given, or `ms` have gone.
  async stop(ms) {
    clearInterval(this.timer);
    this.timer = null;
    for (const until = performance.now() + ms; this.busy && performance.now() < until; ) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    this.worker.terminate();
  }
}
