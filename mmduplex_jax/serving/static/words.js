// Words to sentences, or to phrases where the model marks none, and to files: WebVTT with the time of every word, SRT,
// JSON. As streaming/sentences.py and streaming/captions.py write them.

const PAUSE_S = 1;
const SILENCE_S = 2;
const READ_S = 0.25;
const LINE_MAX = 42;
const HOLD_S = 2.5;
// So many phrases may be said and not heard yet.
const PHRASES_HEARD = 8;
const CLOSED = /[.?!…。？！｡]["'”’»)\]]*$/;

export class Words {
  constructor() {
    this.all = [];
    this.phrases = [];
  }

  // Adds a word; returns its phrase, a sentence where the model marks these, and whether it began it. `word.shown` is
  // its text with a capital where a sentence begins and a full stop where it ends.
  add(word) {
    const last = this.phrases.at(-1);
    const previous = this.all.at(-1);
    const marked = word.ends_sentence !== undefined;
    const cut = previous && previous.scene_s !== word.scene_s;
    const over = !previous || cut || isOver(previous, word.t_emit_s);
    if (cut) this.leave(word.scene_s);
    else if (over) this.end();
    word.shown = marked && over ? capitalised(word.text) : word.text;
    if (word.ends_sentence) word.shown = closed(word.shown);
    const begins = over || (!marked && lengthOf([...last.words, word]) > LINE_MAX);
    const phrase = begins ? { words: [] } : last;
    if (begins) this.phrases.push(phrase);
    phrase.words.push(word);
    this.all.push(word);
    return { phrase, begins };
  }

  // The tick of a status was watched: whether another scene began with it, so that what was being said is over.
  watch({ scene_s, seq }) {
    const last = this.all.at(-1);
    // (The status of a tick may come after a word of the next one, which may be of another scene.)
    if (!last || last.untilS !== undefined || scene_s === last.scene_s || seq < last.seq) return false;
    this.leave(scene_s);
    return true;
  }

  // Nothing more belongs to the last sentence: another scene began at `sceneS`, or the stream (undefined).
  leave(sceneS) {
    const last = this.all.at(-1);
    this.end();
    last.untilS ??= sceneS === undefined ? Infinity : Math.max(sceneS, last.t_emit_s + READ_S);
  }

  // Nothing more belongs to the last sentence, whether or not its end was marked.
  end() {
    const last = this.all.at(-1);
    if (last?.ends_sentence !== undefined) last.shown = closed(last.shown);
  }

  // What stands on the picture at a time: the last line of the last phrase, for a while. Where the voice is heard, of
  // what was said until `heardS`: the words come sooner than their sound.
  shown(nowS, heardS = null) {
    let last = this.phrases.at(-1);
    if (heardS !== null) {
      nowS = heardS;
      const heard = this.phrases
        .slice(-PHRASES_HEARD)
        .map(({ words }) => ({ words: words.filter((word) => word.t_emit_s <= heardS) }));
      last = heard.findLast(({ words }) => words.length);
    }
    if (!last) return "";
    const { t_emit_s, untilS = Infinity } = last.words.at(-1);
    return nowS < Math.min(t_emit_s + HOLD_S, untilS) ? textOf(linesOf(last).at(-1)) : "";
  }

  file(kind) {
    if (kind === "json") {
      const words = this.all.map(
        ({ text, t_video_s, t_emit_s, ends_sentence, scene_s }) => (
          { text, t_video_s, t_emit_s, ends_sentence, scene_s }
        ),
      );
      return JSON.stringify({ words }, null, 1) + "\n";
    }
    const lines = this.phrases.flatMap(linesOf);
    const last = this.all.at(-1);
    // (In the file only: there may be more to come.)
    if (last?.ends_sentence !== undefined) lines.at(-1).words.splice(-1, 1, { ...last, shown: closed(last.shown) });
    const cues = lines.map((phrase, i) => {
      const startS = phrase.words[0].t_emit_s;
      const next = lines[i + 1];
      const { t_emit_s, untilS = Infinity } = phrase.words.at(-1);
      const endS = Math.min(t_emit_s + PAUSE_S, untilS);
      const cut = next && next.words[0].t_emit_s > startS;
      return { phrase, startS, endS: cut ? Math.min(endS, next.words[0].t_emit_s) : endS };
    });
    if (kind === "srt") {
      const blocks = cues.map(
        (cue, i) => `${i + 1}\n${stamp(cue.startS, ",")} --> ${stamp(cue.endS, ",")}\n${textOf(cue.phrase)}\n`,
      );
      return blocks.join("\n");
    }
    const blocks = cues.map((cue) => `${stamp(cue.startS, ".")} --> ${stamp(cue.endS, ".")}\n${timed(cue.phrase)}\n`);
    return `WEBVTT\n\n${blocks.join("\n")}`;
  }
}

// A phrase cut where a line is full.
function linesOf(phrase) {
  const lines = [];
  for (const word of phrase.words) {
    if (!lines.length || lengthOf([...lines.at(-1).words, word]) > LINE_MAX) lines.push({ words: [] });
    lines.at(-1).words.push(word);
  }
  return lines;
}

function lengthOf(words) {
  return words.reduce((sum, word) => sum + word.shown.length + 1, -1);
}

// Whether nothing more belongs to the sentence, or phrase, of a word.
function isOver(word, nowS) {
  const silenceS = nowS - word.t_emit_s;
  const pauseS = word.ends_sentence === undefined ? PAUSE_S : SILENCE_S;
  return word.ends_sentence === true || silenceS < 0 || silenceS >= pauseS;
}

function capitalised(text) {
  return text.replace(/[\p{L}\p{N}]/u, (first) => first.toUpperCase());
}

function closed(text) {
  return CLOSED.test(text) ? text : `${text.replace(/[,;:–—-]+$/, "")}.`;
}

export function textOf(phrase) {
  return phrase.words.map((word) => word.shown).join(" ");
}

function timed(phrase) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return phrase.words.map((word, i) => (i ? `<${stamp(word.t_emit_s, ".")}>` : "") + escape(word.shown)).join(" ");
}

export function stamp(timeS, point) {
  const ms = Math.round(timeS * 1000);
  const pad = (value, digits) => String(value).padStart(digits, "0");
  const [hours, minutes, seconds] = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  return `${pad(hours, 2)}:${pad(minutes, 2)}:${pad(seconds, 2)}${point}${pad(ms % 1000, 3)}`;
}
