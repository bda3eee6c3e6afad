// A stream on the server, over connections that may drop: docs/protocol.md.
// Events: hello, word, status, config, problem ({code, message}), bye ({reason, message}), state ({state, message}),
// sound ({tS, rate, continues, samples}), track (a MediaStream with the model's voice).

const VERSION = 1;
const RETRY_MS = [200, 400, 800, 1500, 2500];
const WEBRTC_MS = 8000;
const GATHER_MS = 2000;
// A picture is left out while so much waits to be sent.
const BUFFERED_MAX = 512 * 1024;

// The last pictures wait for a connection that is made anew.
const RECENT_MAX = 8;
// A stream that is taken up may be refused for the moment: where it is asked for goes down, or is full.
const COME_BACK = new Set(["draining", "full", "overloaded"]);

const HEADER_BYTES = 16, JPEG = 1, KEYFRAME = 1;
const SOUND_HEADER_BYTES = 20, PCM = 1, CONTINUES = 1, FULL_SCALE = 32767;

export class Connection extends EventTarget {
  // token: the server's, or null. track: a camera's or a screen's, to go by WebRTC; null sends pictures by `show`.
  // voiced: the model has a voice; `config.hear` says whether it is heard now.
  constructor({ base, token, config, track, way, voiced }) {
    super();
    Object.assign(this, { base, token, config, track, way, voiced });
    this.hello = null;
    this.lastSeq = 0;
    this.leftOut = 0;
    this.reconnections = 0;
    this.number = 0;
    this.wire = null;
    this.over = false;
    this.moved = false;
    // What was ordered last of "pause" and "play", and whether it is to end: said again where a stream is taken up.
    // And how often "reset" was ordered: the server says how many came to it.
    this.standing = null;
    this.resets = 0;
    this.ending = false;
    this.recent = [];
  }

  // Whether pictures go by `show`: a track brings its own.
  get showsPictures() {
    return !(this.track && this.way === "webrtc");
  }

  async begin() {
    if (this.track && this.way === "auto") {
      this.way = "webrtc";
      try {
        await this.connect();
        return;
      } catch (error) {
        if (this.over) return;
        this.way = "websocket";
        this.tell("track", null);
        const message = `WebRTC did not connect (${error.message}); pictures go by WebSocket now.`;
        this.tell("problem", { code: "webrtc", message });
      }
    }
    if (!this.track) this.way = "websocket";
    try {
      await this.connect();
    } catch (error) {
      if (!this.over) this.finish("lost", `The server cannot be reached (${error.message}).`);
    }
  }

  // Makes one connection; resolves with its hello, rejects where there is none.
  connect() {
    this.tell("state", { state: "connecting", message: "Connecting" });
    return new Promise((resolve, reject) => {
      const wire = this.way === "webrtc" ? new Channel(this) : new Socket(this);
      wire.onopen = () => {
        const resume = this.hello && { session: this.hello.session, token: this.hello.token, last_seq: this.lastSeq };
        const sound = !this.voiced ? null : this.way === "webrtc" ? "track" : "pcm16";
        const config = { ...this.config, sound };
        wire.send(JSON.stringify({ type: "hello", version: VERSION, client: "page", config, resume }));
      };
      wire.onmessage = (data) => {
        if (data instanceof ArrayBuffer) {
          this.takeSound(data);
          return;
        }
        const message = JSON.parse(data);
        if (message.type === "hello") {
          this.wire = wire;
          this.moved = false;
          resolve(message);
        }
        // Before its hello, an error is the answer.
        if (message.type !== "error" || !message.fatal || this.wire === wire) this.hear(message);
        else if (!this.hello || !COME_BACK.has(message.code)) this.finish(message.code, message.message);
      };
      wire.onclose = (error) => {
        reject(error);
        if (this.wire === wire) {
          this.wire = null;
          if (!this.over) this.retry();
        }
      };
      wire.open();
    });
  }

  async retry() {
    const until = performance.now() + 1000 * this.hello.limits.resume_s;
    this.tell("state", { state: "dropped", message: "The connection dropped. Trying again; no word is lost." });
    for (let attempt = 0; !this.over; attempt++) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]));
      if (this.over) return;
      try {
        await this.connect();
        this.reconnections++;
        return;
      } catch (error) {
        if (this.over) return;
        if (performance.now() > until) {
          this.finish("lost", `The connection dropped and could not be made again (${error.message}).`);
          return;
        }
        this.tell("state", { state: "dropped", message: "The connection dropped. Trying again; no word is lost." });
      }
    }
  }

  hear(message) {
    if (message.type === "hello") {
      if (message.missed_words) {
        this.lastSeq += message.missed_words;
        const missed = `${message.missed_words} words went by while the connection was gone.`;
        this.tell("problem", { code: "missed", message: missed });
      }
      const again = this.hello !== null;
      this.hello = message;
      const lost = again ? Math.max(0, this.resets - message.resets) : 0;
      for (let i = 0; i < lost; i++) this.say({ type: "reset" });
      if (again && this.standing === "play") this.order("play");
      const recent = this.recent.splice(0);
      for (const [tS, jpeg] of recent) if (lost || message.t_s === null || tS > message.t_s) this.show(tS, jpeg);
      if (again && this.standing === "pause") this.order("pause");
      if (this.ending) this.order("end");
      this.tell("hello", message);
      this.tell("state", { state: "open", message: "Watching" });
    } else if (message.type === "word") {
      if (message.seq <= this.lastSeq) return;
      this.lastSeq = message.seq;
      this.tell("word", message);
    } else if (message.type === "error") {
      this.tell("problem", message);
    } else if (message.type === "bye" && message.resumable) {
      // It goes on at another server behind this address.
      const wire = this.wire;
      this.wire = null;
      this.moved = true;
      wire.close();
      this.retry();
    } else if (message.type === "bye") {
      this.finish(message.reason, message.message);
    } else if (message.type === "status" || message.type === "config") {
      this.tell(message.type, message);
    }
  }

  // A step's sound; what is of another version or codec was not asked for.
  takeSound(data) {
    const header = new DataView(data);
    if (header.getUint8(0) !== VERSION || header.getUint8(1) !== PCM) {
      throw new Error("sound of a kind that was not asked for");
    }
    const samples = new Float32Array((data.byteLength - SOUND_HEADER_BYTES) / 2);
    for (let i = 0; i < samples.length; i++) {
      samples[i] = header.getInt16(SOUND_HEADER_BYTES + 2 * i, true) / FULL_SCALE;
    }
    this.tell("sound", {
      tS: Number(header.getBigUint64(12)) / 1e6,
      rate: header.getUint32(8),
      continues: Boolean(header.getUint8(2) & CONTINUES),
      samples,
    });
  }

  // A picture at a tick's time: an ArrayBuffer with a JPEG.
  show(tS, jpeg) {
    const wire = this.wire;
    if (!wire && this.hello) {
      this.recent.push([tS, jpeg]);
      if (this.recent.length <= RECENT_MAX) return;
      this.recent.shift();
    }
    if (!wire || !(wire instanceof Socket) || wire.buffered > BUFFERED_MAX) {
      this.leftOut++;
      return;
    }
    const message = new Uint8Array(HEADER_BYTES + jpeg.byteLength);
    const header = new DataView(message.buffer);
    header.setUint8(0, VERSION);
    header.setUint8(1, JPEG);
    header.setUint8(2, KEYFRAME);
    header.setUint32(4, this.number++ >>> 0);
    header.setBigUint64(8, BigInt(Math.round(tS * 1e6)));
    message.set(new Uint8Array(jpeg), HEADER_BYTES);
    wire.send(message);
  }

  configure(change) {
    Object.assign(this.config, change);
    this.say({ type: "config", ...change });
  }

  order(type) {
    if (type === "pause" || type === "play") this.standing = type;
    if (type === "reset") {
      // Pictures of before are forgotten.
      this.recent = [];
      this.resets++;
    }
    this.say({ type });
  }

  say(message) {
    if (this.wire) this.wire.send(JSON.stringify(message));
  }

  // The user has seen enough; the last words still come.
  end() {
    this.ending = true;
    if (this.wire) this.order("end");
    else this.finish("end", "Stopped.");
  }

  // The page goes away: the slot is for others. (Closing the wire as well might overtake the message.)
  leave() {
    this.say({ type: "end" });
    this.wire = null;
    this.finish("end", "The page was left.");
  }

  finish(reason, message) {
    if (this.over) return;
    this.over = true;
    this.tell("bye", { reason, message });
    const wire = this.wire;
    this.wire = null;
    if (wire) wire.close();
  }

  // An address of the server's. Of a stream that is taken up it has the name, by which what stands before several
  // servers finds the one that has it; one that has moved is found by any of them.
  address(path) {
    const url = new URL(path, this.base);
    if (this.hello && !this.moved) url.searchParams.set("session", this.hello.session);
    return url;
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

class Socket {
  constructor(connection) {
    this.connection = connection;
  }

  open() {
    const { token } = this.connection;
    const url = this.connection.address("v1/stream");
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = ["mmduplex.v1"];
    if (token) protocols.push(`mmduplex.bearer.${base64url(token)}`);
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onopen();
    this.socket.onmessage = (event) => this.onmessage(event.data);
    this.socket.onclose = (event) => this.onclose(new Error(event.reason || `code ${event.code}`));
  }

  get buffered() {
    return this.socket.bufferedAmount;
  }

  send(data) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data);
  }

  close() {
    this.socket.close();
  }
}

class Channel {
  constructor(connection) {
    this.connection = connection;
    this.closed = false;
  }

  async open() {
    const { token, track } = this.connection;
    // No STUN server is asked: this machine's own addresses are all that is told.
    this.peer = new RTCPeerConnection({ iceServers: [] });
    const late = setTimeout(() => this.lose("no connection in time"), WEBRTC_MS);
    this.channel = this.peer.createDataChannel("mmduplex");
    this.channel.onopen = () => {
      clearTimeout(late);
      this.onopen();
    };
    this.channel.onmessage = (event) => this.onmessage(event.data);
    this.channel.onclose = () => this.lose("the channel was closed");
    this.peer.onconnectionstatechange = () => {
      const state = this.peer.connectionState;
      if (["failed", "disconnected", "closed"].includes(state)) this.lose(state);
    };
    try {
      this.peer.addTrack(track);
      if (this.connection.voiced) {
        this.peer.addTransceiver("audio", { direction: "recvonly" });
        this.peer.ontrack = ({ track: voice }) => this.connection.tell("track", new MediaStream([voice]));
      }
      await this.peer.setLocalDescription();
      await gathered(this.peer);
      const headers = { "Content-Type": "application/json" };
      if (token) headers.Authorization = `Bearer ${token}`;
      const { type, sdp } = this.peer.localDescription;
      const offered = JSON.stringify({ type, sdp });
      const answer = await fetch(this.connection.address("v1/webrtc"), { method: "POST", headers, body: offered });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error);
      await this.peer.setRemoteDescription(body);
    } catch (error) {
      this.lose(error.message);
    }
  }

  get buffered() {
    return this.channel.bufferedAmount;
  }

  send(data) {
    if (this.channel.readyState === "open") this.channel.send(data);
  }

  lose(reason) {
    if (this.closed) return;
    this.close();
    this.onclose(new Error(reason));
  }

  close() {
    this.closed = true;
    this.peer.close();
  }
}

function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") resolve();
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
    setTimeout(resolve, GATHER_MS);
  });
}

function base64url(text) {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
