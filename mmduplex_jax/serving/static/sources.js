// What there is to watch: a camera, a screen, a file, the built-in world; and pictures of it at the model's ticks.

// Looked for ticks this often: far less than a tick.
const POLL_MS = 15;
const QUALITY = 0.92;

export class SourceRefused extends Error {}

// Camera and screen: {track, stop()}, shown in the video.
export async function openDevice(video, kind) {
  const devices = navigator.mediaDevices;
  if (!devices) {
    throw new SourceRefused("Browsers give no camera or screen to a page that is neither https nor on this machine (localhost).");
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
      ? "The browser does not let this page see the camera. Allow it beside the address, then press Watch again; or choose a file."
      : "No screen was shared. Press Watch again and choose one.";
  }
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return `There is no ${kind} on this machine.`;
  if (error.name === "NotReadableError") return `Another program uses the ${kind}.`;
  return `The ${kind} cannot be used: ${error.message}`;
}

// A file: {ended: Promise, stop()}, played in the video.
export async function openFile(video, file) {
  const url = URL.createObjectURL(file);
  const { ended } = await play(video, url, `${file.name} cannot be played by this browser`);
  return { ended, stop: () => release(video, url) };
}

// The world's clips one after another, as one stream: `timeS()` goes on from clip to clip.
export async function openWorld(video, base, headers) {
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
    const { ended } = await play(video, url, "the world's clip cannot be played by this browser");
    ended.then(() => stopped || next(index + 1).catch(() => video.dispatchEvent(new Event("error"))));
  };
  await next(0);
  return {
    timeS: () => beforeS + video.currentTime,
    stop() {
      stopped = true;
      release(video, url);
    },
  };
}

// Begins to play; {ended} is a promise in an object, since an async function would wait for a bare one.
async function play(video, url, failure) {
  video.controls = true;
  video.src = url;
  try {
    await video.play();
  } catch (error) {
    throw new SourceRefused(`${failure} (${error.message})`);
  }
  return { ended: new Promise((resolve) => video.addEventListener("ended", resolve, { once: true })) };
}

function release(video, url) {
  video.removeAttribute("src");
  video.controls = false;
  video.load();
  if (url) URL.revokeObjectURL(url);
}

// Takes a picture at every tick: `onPicture(tS, blob)`. `timeS()` is the stream's time now; it may stand still.
export class Grabber {
  constructor({ video, timeS, tickS, framePx, onPicture }) {
    Object.assign(this, { video, timeS, tickS, framePx, onPicture });
    this.canvas = document.createElement("canvas");
    this.tick = -1;
    this.busy = false;
    this.timer = setInterval(() => this.look(), POLL_MS);
  }

  look() {
    const tick = Math.floor(this.timeS() / this.tickS + 1e-6);
    if (tick <= this.tick || this.busy || !this.video.videoWidth || this.video.seeking) return;
    this.tick = tick;
    this.draw();
    this.busy = true;
    this.canvas.toBlob((blob) => {
      this.busy = false;
      if (blob && this.timer !== null) this.onPicture(tick * this.tickS, blob);
    }, "image/jpeg", QUALITY);
  }

  // Twice as fine as the model looks; the server shrinks it the way it does in training.
  draw() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, (2 * this.framePx) / Math.min(width, height));
    const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.video, 0, 0, w, h);
  }

  // Time went back: the next tick may be any.
  restart() {
    this.tick = -1;
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }
}
