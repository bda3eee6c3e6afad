// Words to phrases, and to files: WebVTT with the time of every word, SRT, JSON. As streaming/captions.py groups them.

const PAUSE_S = 1;
const LINE_MAX = 42;
const HOLD_S = 2.5;

export class Words {
  constructor() {
    this.all = [];
    this.phrases = [];
  }

  // Adds a word; returns its phrase, and whether it began with it.
  add(word) {
    const last = this.phrases.at(-1);
    const previous = last && last.words.at(-1);
    const line = last ? last.words.reduce((sum, one) => sum + one.text.length + 1, 0) + word.text.length : 0;
    const begins = !last || word.t_emit_s - previous.t_emit_s >= PAUSE_S || word.t_emit_s < previous.t_emit_s || line > LINE_MAX;
    const phrase = begins ? { words: [] } : last;
    if (begins) this.phrases.push(phrase);
    phrase.words.push(word);
    this.all.push(word);
    return { phrase, begins };
  }

  // What stands on the picture at a time: the last phrase, for a while.
  shown(nowS) {
    const last = this.phrases.at(-1);
    return last && nowS - last.words.at(-1).t_emit_s < HOLD_S ? textOf(last) : "";
  }

  file(kind) {
    if (kind === "json") {
      const words = this.all.map(({ text, t_video_s, t_emit_s }) => ({ text, t_video_s, t_emit_s }));
      return JSON.stringify({ words }, null, 1) + "\n";
    }
    const cues = this.phrases.map((phrase, i) => {
      const startS = phrase.words[0].t_emit_s;
      const next = this.phrases[i + 1];
      const endS = phrase.words.at(-1).t_emit_s + PAUSE_S;
      return { phrase, startS, endS: next && next.words[0].t_emit_s > startS ? Math.min(endS, next.words[0].t_emit_s) : endS };
    });
    if (kind === "srt") {
      const lines = cues.map((cue, i) => `${i + 1}\n${stamp(cue.startS, ",")} --> ${stamp(cue.endS, ",")}\n${textOf(cue.phrase)}\n`);
      return lines.join("\n");
    }
    const blocks = cues.map((cue) => `${stamp(cue.startS, ".")} --> ${stamp(cue.endS, ".")}\n${timed(cue.phrase)}\n`);
    return `WEBVTT\n\n${blocks.join("\n")}`;
  }
}

export function textOf(phrase) {
  return phrase.words.map((word) => word.text).join(" ");
}

function timed(phrase) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return phrase.words.map((word, i) => (i ? `<${stamp(word.t_emit_s, ".")}>` : "") + escape(word.text)).join(" ");
}

export function stamp(timeS, point) {
  const ms = Math.round(timeS * 1000);
  const pad = (value, digits) => String(value).padStart(digits, "0");
  const [hours, minutes, seconds] = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  return `${pad(hours, 2)}:${pad(minutes, 2)}:${pad(seconds, 2)}${point}${pad(ms % 1000, 3)}`;
}
