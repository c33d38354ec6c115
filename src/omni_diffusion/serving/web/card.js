// One request and its answer: the canvas as it fills, what is sure of the answer, and the answer.

import { Away, connection, Refused } from "./connection.js";
import { blobOf, peaksOf, samplesOf, soundOfAddress } from "./media.js";
import { overlay } from "./painter.js";
import { curl, fileName, openai, python } from "./snippets.js";

const LEGEND = [
  ["given", "given"],
  ["blank", "masked"],
  ["now", "committed in this step"],
  ["done", "committed before, surer = stronger"],
];
const WORDS = { image: "picture", audio: "sound" }; // parts of an answer that are files
const PEAKS_A_SECOND = 50; // of the waveform that grows

export class Card {
  #abort = new AbortController();

  /** session: {model, speaker, aloud, announce, reuse}. live: its sound plays as it comes. */
  constructor(request, job, task, session, live) {
    Object.assign(this, { request, job, task, session, live });
    this.running = true;
    this.text = "";
    this.samples = []; // of the sound so far
    this.offsets = []; // of the passages, in cells
    this.#build();
  }

  /** Follow the job to its end. */
  async follow() {
    try {
      for await (const { name, data } of connection.events(this.job, this.#abort.signal)) {
        this[`_${name}`]?.(data);
      }
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      const lost = error instanceof Refused && error.status === 404;
      this.#fail(lost ? "The server no longer keeps this answer. Ask again." : error.message);
      if (!(error instanceof Refused)) console.error(error);
    }
  }

  /** Ask the server to stop; the card says so when it has. */
  async stop() {
    if (!this.running) return;
    this.stopper.disabled = true;
    if (this.live) this.session.speaker.stop();
    try {
      await connection.call(`v1/jobs/${this.job}`, { method: "DELETE" });
    } catch (error) {
      this.stopper.disabled = false;
      if (error instanceof Away) this.session.announce("The server does not answer");
    }
  }

  remove() {
    this.#abort.abort();
    this.home.remove();
  }

  fold() {
    this.replayHome.open = false;
  }

  // ---- events, by name

  _queued({ position }) {
    this.state.textContent = position ? `waiting, ${position} before it` : "waiting";
  }

  /** The cells of the answer; a long text is spoken in passages, whose cells follow one another. */
  _layout({ passage = 0, positions, steps }) {
    const cells = positions.map(([kind, state, label]) =>
      state === "given" ? { kind, token: label ?? "", step: 0 } : { kind, token: "", step: null },
    );
    this.offsets[passage] = this.replay.cells.length;
    this.replayHome.hidden = false;
    this.replay.lay([...this.replay.cells, ...cells], Math.max(this.replay.steps, steps ?? 0));
    this.state.textContent = "begins";
  }

  _step({ passage = 0, step, total, tokens }) {
    const offset = this.offsets[passage] ?? 0;
    this.replay.commit(
      step,
      tokens.map(([position, ...rest]) => [offset + position, ...rest]),
    );
    this.state.textContent = `step ${step} of ${total}`;
    this.#progress();
  }

  _preview({ image, step }) {
    this.#framed();
    this.replay.addShot(step ?? Math.max(1, this.replay.last), image);
  }

  _text({ delta }) {
    this.text += delta;
    this.words ??= this.#part(element("p", "said"));
    this.words.textContent = this.text;
  }

  _audio({ data, rate }) {
    const samples = samplesOf(data);
    this.samples.push(...samples);
    if (this.live && this.session.aloud()) this.session.speaker.push(samples, rate);
    this.wave ??= this.#part(element("div", "sound"));
    const bars = Math.max(Sound.BARS, Math.round((this.samples.length / rate) * PEAKS_A_SECOND));
    const filled = Math.round((this.samples.length / rate) * PEAKS_A_SECOND);
    const path = Sound.path(peaksOf(this.samples, Math.max(1, filled)));
    this.wave.innerHTML = `<svg viewBox="0 0 ${bars} 100" preserveAspectRatio="none" role="img"
      aria-label="The sound so far"><path class="heard" d="${path}"/></svg>`;
  }

  async _done({ parts, seconds, steps, seed, notes }) {
    const seeded = seed === null || seed === undefined ? "" : ` · seed ${seed}`;
    this.#finish(`${steps} steps · ${seconds.toFixed(1)} s${seeded}`);
    this.answer.replaceChildren();
    this.parts = parts;
    for (const part of parts) await this.#show(part);
    for (const note of notes ?? []) this.answer.append(element("p", "note", note));
    if (!parts.length) this.answer.append(element("p", "note", "The answer is empty."));
    this.#offerSaving();
    const said = parts.map((part) => part.text ?? `a ${WORDS[part.type]}`);
    this.session.announce(`Answer: ${said.join(", ")}`);
  }

  _error({ error, message }) {
    this.#fail(error?.message ?? message ?? "The server could not answer");
  }

  _cancelled() {
    this.#finish("stopped");
    this.waiting.remove();
    if (!this.answer.children.length)
      this.answer.append(element("p", "wait", "Stopped before it began."));
    this.session.announce("Stopped");
  }

  // ---- what they show

  #build() {
    this.home = element("article", "card busy");
    this.home.setAttribute("aria-label", this.task.title);
    const header = this.home.appendChild(element("header"));
    this.state = element("span", "quiet", "waiting");
    this.stopper = button("Stop this answer", "Stop");
    this.stopper.onclick = () => this.stop();
    header.append(
      element("h2", "", this.task.title),
      element("code", "", this.task.name),
      this.state,
      this.stopper,
    );
    this.bit = this.home.appendChild(element("div", "bit waiting"));
    this.bit.append(element("i"));
    const sides = this.home.appendChild(element("div", "sides"));
    const [given, answer] = ["Given", "Answer"].map((title) => {
      const side = sides.appendChild(element("section"));
      side.append(element("h3", "", title));
      return side.appendChild(element("div"));
    });
    this.#showGiven(given);
    this.answer = answer;
    this.answer.setAttribute("aria-busy", "true");
    this.waiting = answer.appendChild(element("p", "wait", "…"));
    this.#buildReplay();
    this.actions = this.home.appendChild(element("div", "actions"));
    this.#offer();
  }

  #buildReplay() {
    this.replayHome = this.home.appendChild(element("details", "replay"));
    this.replayHome.open = true;
    this.replayHome.hidden = true;
    this.replayHome.append(element("summary", "", "Denoising"));
    this.replay = new Replay(this.replayHome);
    this.replay.onshow = () => {
      const { at, last, canvas, shots } = this.replay;
      canvas.hidden = !shots.length || (!this.running && at === last);
    };
    const legend = this.replayHome.appendChild(element("div", "legend"));
    for (const [state, text] of LEGEND) {
      const span = legend.appendChild(element("span"));
      span.append(element("i", `cell ${state}`), text);
    }
  }

  #showGiven(home) {
    const { text, image, audio, mask } = this.request;
    const part = (child) => {
      const made = home.appendChild(element("div", "part"));
      made.append(child);
      return child;
    };
    if (text !== undefined) part(element("p", "said", text));
    if (image) {
      const figure = part(element("figure"));
      const shown = figure.appendChild(element("img"));
      shown.alt = mask ? "The given picture with its mask" : "The given picture";
      this.#crisp(shown, image);
      if (mask) overlay(figure.appendChild(element("canvas", "hole")), mask);
    }
    if (audio) {
      const holder = part(element("div"));
      soundOfAddress(audio)
        .then(({ uri, peaks }) => {
          holder.append(Sound.element(blobOf(uri), peaks));
          new Sound(holder.firstChild);
        })
        .catch(() => holder.append(element("p", "note", "a sound")));
    }
  }

  /** The frame of the answer's picture; before the end, and at earlier steps, the replay draws. */
  #framed() {
    if (!this.frame?.isConnected) this.frame = this.#part(element("figure", "frame"));
    this.frame.append(this.replay.canvas);
    return this.frame;
  }

  #part(child) {
    this.waiting.remove();
    const made = this.answer.appendChild(element("div", "part"));
    made.append(child);
    return child;
  }

  async #show(part) {
    if (part.type === "text") this.#part(element("p", "said", part.text));
    if (part.type === "image") {
      const image = element("img");
      image.alt = "The picture of the answer";
      this.#crisp(image, part.data);
      this.#framed().prepend(image);
      this.replay.addShot(Math.max(1, this.replay.last), part.data);
    }
    if (part.type === "audio") {
      const { peaks } = await soundOfAddress(part.data).catch(() => ({
        peaks: Array(Sound.BARS).fill(0),
      }));
      const home = this.#part(Sound.element(blobOf(part.data), peaks));
      const sound = new Sound(home);
      sound.audio.addEventListener("play", () => this.session.speaker.stop());
      if (this.live && this.session.aloud() && !this.samples.length) sound.play();
    }
  }

  #crisp(image, src) {
    image.onload = () => image.classList.toggle("crisp", image.naturalWidth < 256);
    image.src = src;
  }

  #progress() {
    const { cells } = this.replay;
    const wanted = cells.filter((cell) => cell.step !== 0);
    const filled = wanted.filter((cell) => cell.step !== null);
    this.bit.classList.remove("waiting");
    this.bit.firstChild.style.width = `${(100 * filled.length) / (wanted.length || 1)}%`;
  }

  #finish(state) {
    this.running = false;
    this.home.classList.remove("busy");
    this.bit.remove();
    if (document.activeElement === this.stopper)
      this.actions.firstChild.focus({ preventScroll: true });
    this.stopper.remove();
    this.state.textContent = state;
    this.answer.setAttribute("aria-busy", "false");
  }

  #fail(message) {
    this.#finish("failed");
    this.waiting.remove();
    this.answer.append(element("p", "note fault", message));
    this.session.announce(`Failed: ${message}`);
  }

  #offer() {
    const again = button("Put these inputs back to change or ask again", "Use again");
    again.onclick = () => this.session.reuse(this.request, this.request.task);
    this.actions.append(again);
    const base = new URL(".", location.href).href;
    const { model } = this.session;
    const codes = {
      curl: curl(this.request, base, connection.key),
      Python: python(this.request),
      "OpenAI SDK": openai(this.request, model(), base, connection.key),
    };
    this.actions.append(element("span", "gap", "Copy as"));
    for (const [name, code] of Object.entries(codes)) {
      if (!code) continue;
      const copier = button(`Copy the request as ${name}`, name);
      copier.dataset.code = code;
      copier.onclick = () => this.#copy(copier, name, code);
      this.actions.append(copier);
    }
  }

  async #copy(copier, name, code) {
    try {
      await navigator.clipboard.writeText(code);
    } catch {
      return prompt("Copy this:", code); // a page without https has no clipboard
    }
    copier.textContent = "Copied";
    this.session.announce(`Copied as ${name}`);
    setTimeout(() => (copier.textContent = name), 1500);
  }

  #offerSaving() {
    const given = ["image", "mask", "audio"]
      .filter((kind) => this.request[kind])
      .map((kind) => [fileName(kind, this.request[kind]), this.request[kind]]);
    const made = this.parts
      .filter((part) => part.data)
      .map((part) => [part.type === "image" ? "answer.png" : "answer.wav", part.data]);
    const links = [...made, ...given].map(([name, uri]) => {
      const link = Object.assign(element("a", "", `Save ${name}`), {
        href: blobOf(uri),
        download: name,
      });
      return link;
    });
    const uses = this.parts
      .filter((part) => part.data)
      .map((part) => {
        const use = button(
          `Ask the model about the ${WORDS[part.type]}`,
          `Use the ${WORDS[part.type]}`,
        );
        use.onclick = () => this.session.reuse({ [part.type]: part.data });
        return use;
      });
    this.actions.firstChild.after(...uses, ...links);
  }
}
