// The timeline beneath the picture, and where the tokens look, on it.

const SHOWN_S = 30;
// On a phone the words would lie on top of each other.
const NARROW_PX = 560, SHOWN_NARROW_S = 12;
const KIND_ANCHOR = 1;
const LOOK_S = 0.4;
const LAG_FULL_S = 1;
const ROW_PX = 15;

function ready(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "word", "flow", "motion", "lag"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.statuses = [];
    this.words = [];
    this.cap = 1;
  }

  add(status) {
    if (this.statuses.length && status.t_video_s < this.statuses.at(-1).t_video_s) this.statuses = [];
    this.statuses.push(status);
    while (this.statuses[0].t_video_s < status.t_video_s - SHOWN_S - 2) this.statuses.shift();
  }

  addWord(word) {
    this.words.push(word);
    if (this.words.length > 400) this.words.shift();
  }

  draw(nowS) {
    const { context: c, width, height } = ready(this.canvas);
    const colour = colours();
    const left = 62, right = width - 10;
    const shownS = width < NARROW_PX ? SHOWN_NARROW_S : SHOWN_S;
    const x = (tS) => right - ((nowS - tS) / shownS) * (right - left);
    // Words have as much room as two of the others, in rows.
    const lane = (height - 26) / 5;
    const tops = [6, 6 + 2 * lane, 6 + 3 * lane, 6 + 4 * lane];
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "middle";
    c.textAlign = "left";
    ["words", `≤ ${this.cap}/s`, "motion", "lag"].forEach((name, i) => {
      const high = i ? lane : 2 * lane;
      c.fillStyle = colour.soft;
      c.fillText(name, 8, tops[i] + high / 2);
      c.fillStyle = colour.line;
      c.fillRect(left, tops[i] + high - 1, right - left, 1);
    });
    c.save();
    c.beginPath();
    c.rect(left, 0, right - left, height);
    c.clip();
    this.drawWords(c, colour, x, tops[0], 2 * lane);
    const bars = (top, value, fill) => {
      c.fillStyle = fill;
      for (const [i, one] of this.statuses.entries()) {
        const from = x(one.t_video_s), next = this.statuses[i + 1];
        const to = next ? Math.min(x(next.t_video_s), from + 12) : from + 5;
        const high = Math.min(1, value(one)) * (lane - 7);
        c.fillRect(from, top + lane - 1 - high, Math.max(1.5, to - from - 1), high);
      }
    };
    bars(tops[1], (one) => one.tokens_per_s / this.cap, colour.flow);
    bars(tops[2], (one) => Math.sqrt(one.change), colour.motion);
    bars(tops[3], (one) => one.lag_s / LAG_FULL_S, colour.lag);
    c.restore();
    c.setLineDash([4, 3]);
    c.strokeStyle = colour.flow;
    c.beginPath();
    c.moveTo(left, tops[1] + 6);
    c.lineTo(right, tops[1] + 6);
    c.stroke();
    c.setLineDash([]);
    c.fillStyle = colour.soft;
    c.textAlign = "center";
    for (let tS = Math.ceil((nowS - shownS) / 5) * 5; tS <= nowS; tS += 5) {
      if (tS >= 0 && x(tS) > left + 14) c.fillText(`${tS} s`, Math.min(x(tS), right - 14), height - 9);
    }
    c.textAlign = "left";
  }

  drawWords(c, colour, x, top, high) {
    c.textAlign = "left";
    const rows = Math.max(1, Math.floor((high - 4) / ROW_PX));
    const ends = Array(rows).fill(-Infinity);
    for (const word of this.words) {
      const at = x(word.t_emit_s);
      c.fillStyle = colour.word;
      c.fillRect(at, top, 1, high - 3);
      // The first row in which it does not lie on another; without one it is a line only.
      const row = ends.findIndex((end) => at > end);
      if (row < 0) continue;
      c.fillStyle = colour.ink;
      c.fillText(word.shown, at + 4, top + (row + 0.5) * ROW_PX);
      ends[row] = at + 8 + c.measureText(word.shown).width;
    }
  }

  // In words, for those who do not see it.
  describe(nowS) {
    const last = this.statuses.at(-1);
    if (!last) return "Timeline: nothing yet";
    const words = this.words.filter((word) => word.t_emit_s > nowS - SHOWN_S).length;
    return `Timeline of the last ${SHOWN_S} seconds: ${words} words; ` +
      `now ${last.tokens_per_s} of ${this.cap} tokens a second, ` +
      `motion in ${Math.round(100 * last.change)} % of the picture, ${last.lag_s.toFixed(2)} seconds of lag`;
  }
}

// A size as messages hold it, one integer for a square, as [height, width].
export const frameSize = (framePx) => (Array.isArray(framePx) ? framePx : [framePx, framePx]);

// Where the model's frame lies on an area that shows all of a picture in its middle, and how large its pixels are
// there; a frame with bars reaches beyond the picture. (data_pipelines/geometry.py has the same.)
export function frameOn([width, height], [videoWidth, videoHeight], [high, wide], fit) {
  const fitted = Math.min(width / videoWidth, height / videoHeight);
  const most = fit === "pad" ? Math.max : Math.min;
  const scale = most(videoWidth / wide, videoHeight / high) * fitted;
  return { left: (width - wide * scale) / 2, top: (height - high * scale) / 2, scale };
}

export class Overlay {
  constructor(canvas, video) {
    Object.assign(this, { canvas, video, looks: [], on: true });
  }

  clear() {
    this.looks = [];
  }

  // Where the tokens of a tick look; `framePx` (height, width) and `fit` say how the model's frame lies on the picture.
  add(status, framePx, fit) {
    Object.assign(this, { framePx, fit });
    this.looks.push({ status, at: performance.now() });
    if (this.looks.length > 4) this.looks.shift();
  }

  draw() {
    const { context: c, width, height } = ready(this.canvas);
    const { videoWidth, videoHeight } = this.video;
    this.drawn = 0;
    if (!this.on || !videoWidth || !this.framePx) return;
    const { left, top, scale } = frameOn([width, height], [videoWidth, videoHeight], this.framePx, this.fit);
    const [high, wide] = this.framePx.map((side) => side * scale);
    for (const { status, at } of this.looks) {
      const age = (performance.now() - at) / 1000 / LOOK_S;
      if (age >= 1) continue;
      c.globalAlpha = 1 - age;
      if (status.anchor) {
        c.strokeStyle = "#ffc43d";
        c.lineWidth = 3;
        const [x, y] = [Math.max(left, 0), Math.max(top, 0)];
        c.strokeRect(x + 2, y + 2, Math.min(wide, width) - 4, Math.min(high, height) - 4);
        this.drawn++;
      }
      c.strokeStyle = "#56e0c8";
      c.lineWidth = 2;
      for (const [row, column, size, kind] of status.places) {
        if (kind === KIND_ANCHOR) continue;
        c.strokeRect(left + (column - size / 2) * scale, top + (row - size / 2) * scale, size * scale, size * scale);
        this.drawn++;
      }
    }
    c.globalAlpha = 1;
  }
}
