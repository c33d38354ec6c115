// Pictures and sounds between files, data addresses and the speakers.

const SIDE = 1024; // pixels; a larger picture is shrunk before it is sent
const RATE = 16_000; // hertz, at which the model hears
const QUIET = 1e-3; // -60 dB; a recording that never exceeds it counts as silent
const SENT_AS_IS = /^audio\/(wav|x-wav|wave|ogg|flac|x-flac|mpeg|mp3)$/;

/** A mistake of the person's, in words for the page. */
export class Unusable extends Error {}

/** The bytes of a data address. */
export function bytesOf(uri) {
  return Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (sign) => sign.charCodeAt(0));
}

/** An address inside the page for a data address; players seek in it, and it can be saved. */
export function blobOf(uri) {
  const kind = /^data:([^;,]+)/.exec(uri)?.[1] ?? "application/octet-stream";
  return URL.createObjectURL(new Blob([bytesOf(uri)], { type: kind }));
}

function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** A loaded image element of an address. */
export async function imageOf(src) {
  const image = Object.assign(new Image(), { src });
  await image.decode();
  return image;
}

/** {uri, width, height} of a picture file, at most SIDE pixels wide and high, as PNG. */
export async function pictureOf(file) {
  const uri = await dataAddress(file);
  const image = await imageOf(uri).catch(() => {
    throw new Unusable(`${file.name || "The file"} is not a picture that this browser can read`);
  });
  const scale = Math.min(1, SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const [width, height] = [image.naturalWidth, image.naturalHeight].map((side) =>
    Math.max(1, Math.round(side * scale)),
  );
  if (scale === 1 && file.type === "image/png") return { uri, width, height };
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return { uri: canvas.toDataURL("image/png"), width, height };
}

/** {uri, peaks} of a sound file; what the server may not read is sent as WAV. */
export async function soundOf(file) {
  const uri = await dataAddress(file);
  const decoded = await decode(uri).catch(() => null);
  if (!decoded)
    throw new Unusable(`${file.name || "The file"} is not a sound that this browser can read`);
  if (SENT_AS_IS.test(file.type)) return heard(uri, decoded);
  return heard(await wavOf(decoded), decoded);
}

/** {uri, peaks} of a data address of a sound. */
export async function soundOfAddress(uri) {
  return heard(uri, await decode(uri));
}

/** {uri, peaks} of recorded blocks of samples. */
export async function soundOfBlocks(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  if (length < rate / 10) throw new Unusable("The recording is shorter than a tenth of a second");
  const buffer = new AudioBuffer({ length, sampleRate: rate });
  const samples = buffer.getChannelData(0);
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return heard(await wavOf(buffer), buffer);
}

function heard(uri, buffer) {
  const samples = buffer.getChannelData(0);
  const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  if (loudest < QUIET) throw new Unusable("The recording is silent; is the microphone on?");
  return { uri, peaks: peaksOf(samples, Sound.BARS), seconds: buffer.duration };
}

function decode(uri) {
  return new OfflineAudioContext(1, 1, 48_000).decodeAudioData(bytesOf(uri).buffer);
}

/** The loudest sample of each of `bars` stretches, 0..1 of the loudest of all. */
export function peaksOf(samples, bars) {
  const found = Array.from({ length: bars }, (_, bar) => {
    const [start, stop] = [bar, bar + 1].map((edge) => Math.floor((edge * samples.length) / bars));
    let most = 0;
    for (let i = start; i < Math.max(stop, start + 1); i++)
      most = Math.max(most, Math.abs(samples[i] ?? 0));
    return most;
  });
  const loudest = Math.max(1e-4, ...found);
  return found.map((peak) => peak / loudest);
}

/** A WAV, 16 bits, one channel, RATE hertz, as a data address. */
async function wavOf(buffer) {
  const offline = new OfflineAudioContext(1, Math.ceil(buffer.duration * RATE), RATE);
  const source = new AudioBufferSourceNode(offline, { buffer });
  source.connect(offline.destination);
  source.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const tag = (at, text) =>
    [...text].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  tag(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  tag(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits a sample
  tag(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) =>
    view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32_767, true),
  );
  return dataAddress(new Blob([view], { type: "audio/wav" }));
}

/** A recording in progress. */
export class Microphone {
  blocks = [];

  /** Ask for the microphone and begin; throws Unusable where there is none. */
  static async open() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Unusable("A browser lends the microphone only to https and to localhost");
    }
    const microphone = new Microphone();
    try {
      microphone.stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      throw new Unusable(
        error.name === "NotAllowedError"
          ? "The browser does not let this page use the microphone; allow it and try again"
          : "No microphone was found",
      );
    }
    microphone.context = new AudioContext();
    await microphone.context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const node = new AudioWorkletNode(microphone.context, "recorder", { numberOfOutputs: 0 });
    node.port.onmessage = (event) => microphone.blocks.push(event.data);
    microphone.context.createMediaStreamSource(microphone.stream).connect(node);
    return microphone;
  }

  get rate() {
    return this.context.sampleRate;
  }

  get seconds() {
    return this.blocks.reduce((sum, block) => sum + block.length, 0) / this.rate;
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close();
  }
}

/** Plays an answer's PCM as it arrives, without gaps. */
export class Speaker {
  #context = null;
  #until = 0;

  /** To be called in a click or a key press, without which browsers stay silent. */
  wake() {
    this.#context ??= new AudioContext();
    this.#context.resume();
  }

  get playing() {
    return this.#context !== null && this.#until > this.#context.currentTime;
  }

  push(samples, rate) {
    if (this.#context?.state !== "running" || !samples.length) return;
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: rate });
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    this.#until = Math.max(this.#until, this.#context.currentTime + 0.05);
    source.start(this.#until);
    this.#until += buffer.duration;
  }

  stop() {
    this.#context?.close();
    this.#context = null;
    this.#until = 0;
  }
}

/** Float samples of base64 PCM, 16 bits. */
export function samplesOf(base64) {
  const bytes = bytesOf(base64);
  return Float32Array.from(
    new Int16Array(bytes.buffer, 0, bytes.length >> 1),
    (value) => value / 32_768,
  );
}
