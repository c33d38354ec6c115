"use strict";
// What a page does with the parts of an answer: `Sound` plays one beside its drawn waveform,
// `Replay` shows the tokens of a denoising as cells and steps through them.
// A classic script: the demo page carries it inside, the server's page loads it.

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(label, text, className) {
  const made = element("button", className, text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  return made;
}

const PLAY = "▶\uFE0E",
  PAUSE = "❚❚";

class Sound {
  static BARS = 160; // as html.py draws them
  static #all = new Set();
  static #count = 0;

  /** Give a drawn `.sound` its button, its time and its seeking. */
  constructor(home) {
    this.home = home;
    this.audio = home.querySelector("audio");
    this.audio.controls = false;
    this.heard = home.querySelector("clipPath rect");
    this.button = button("Play", PLAY, "round");
    this.time = element("output", "quiet");
    home.classList.add("wired");
    home.prepend(this.button);
    home.querySelector("svg").after(this.time);
    this.button.onclick = () => (this.audio.paused ? this.play() : this.audio.pause());
    home.querySelector("svg").onclick = (event) => this.#seek(event);
    this.audio.onplay = () => this.#started();
    this.audio.onpause = this.audio.onended = () => this.#show();
    this.audio.onseeked = this.audio.onloadedmetadata = () => this.#show();
    Sound.#all.add(this);
    this.#show();
  }

  /** The element of a sound: its player below the drawn waveform, as html.py writes it. */
  static element(src, peaks) {
    const home = element("div", "sound");
    const key = `sound-${++Sound.#count}`;
    const bars = Sound.path(peaks);
    home.innerHTML = `<svg viewBox="0 0 ${peaks.length} 100" preserveAspectRatio="none"
      aria-hidden="true"><clipPath id="${key}" clipPathUnits="objectBoundingBox"><rect width="0"
      height="1"/></clipPath><path d="${bars}"/><path class="heard" clip-path="url(#${key})"
      d="${bars}"/></svg><audio preload="metadata"></audio>`;
    home.querySelector("audio").src = src;
    return home;
  }

  /** The outline of bars of these heights, 0..1. */
  static path(peaks) {
    return peaks
      .map((peak, x) => {
        const height = Math.max(1, 48 * peak);
        return `M${x + 0.1} ${(50 - height).toFixed(1)}h.8v${(2 * height).toFixed(1)}h-.8z`;
      })
      .join("");
  }

  static stopAll(except) {
    for (const other of Sound.#all) {
      if (!other.home.isConnected) Sound.#all.delete(other);
      else if (other !== except) other.audio.pause();
    }
  }

  play() {
    return this.audio.play().catch(() => this.#show()); // a browser may forbid it before a click
  }

  #started() {
    Sound.stopAll(this);
    const follow = () => {
      this.#show();
      if (!this.audio.paused) requestAnimationFrame(follow);
    };
    follow();
  }

  #show() {
    const { currentTime, duration, paused } = this.audio;
    this.heard.setAttribute("width", currentTime / duration || 0);
    this.button.textContent = paused ? PLAY : PAUSE;
    this.button.setAttribute("aria-label", paused ? "Play" : "Pause");
    const shown = paused && !currentTime ? duration : currentTime;
    this.time.textContent = Number.isFinite(shown) ? `${shown.toFixed(1)} s` : "";
  }

  #seek(event) {
    if (!this.audio.duration) return;
    const box = event.currentTarget.getBoundingClientRect();
    this.audio.currentTime = ((event.clientX - box.left) / box.width) * this.audio.duration;
    this.play();
  }
}

class Replay {
  static #calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  static #tip = null;

  /** Fill `home` with slider, picture and cells. measure: what the confidences are. */
  constructor(home, measure = "probability") {
    this.home = home;
    this.measure = measure;
    this.cells = []; // {kind, token, step, confidence, sure}; step 0 = given, null = masked
    this.nodes = [];
    this.shots = []; // {step, image}, ascending
    this.steps = this.last = this.at = 0; // steps planned, done, and shown
    this.columns = 0;
    this.timer = 0;
    this.onshow = null; // called after each change of what is shown
    this.#build();
  }

  #build() {
    this.button = button("Play the steps", PLAY, "round");
    this.slider = Object.assign(element("input"), { type: "range", min: 0, max: 0, value: 0 });
    this.slider.setAttribute("aria-label", "Step");
    this.output = element("output");
    const bar = element("div", "bar");
    bar.append(this.button, this.slider, this.output);
    this.canvas = element("canvas", "shot");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The picture at this step");
    this.canvas.hidden = true;
    this.field = element("div", "cells");
    const stage = element("div", "stage");
    stage.append(this.canvas, this.field);
    this.home.append(bar, stage);
    this.button.onclick = () => (this.timer ? this.pause() : this.play());
    this.slider.oninput = () => this.move(Number(this.slider.value));
    stage.onpointerover = stage.onpointerdown = (event) => this.#tell(event);
    stage.onpointerleave = () => Replay.hideTip();
  }

  /** Show these cells, of which some may be committed, and so many planned steps. */
  lay(cells, steps) {
    this.cells = cells;
    this.steps = steps;
    this.columns = Math.round(Math.sqrt(cells.filter((cell) => cell.kind === "image").length));
    this.field.replaceChildren();
    let grid = null;
    this.nodes = cells.map((cell) => {
      const node = element("span");
      if (cell.kind !== "image") grid = null;
      else if (!grid) {
        grid = this.field.appendChild(element("div", "grid"));
        grid.style.setProperty("--columns", this.columns);
      }
      return (grid || this.field).appendChild(node);
    });
    cells.forEach((_, position) => this.#label(position));
    this.last = Math.max(0, ...cells.map((cell) => cell.step ?? 0));
    this.show(this.last);
  }

  /** Add a step with the tokens [position, kind, token, sure] that it committed. */
  commit(step, tokens) {
    const follows = this.at === this.last && !this.timer;
    for (const [position, kind, token, sure] of tokens) {
      if (!this.cells[position]) continue;
      Object.assign(this.cells[position], { token, step, sure, confidence: sure });
      this.#label(position, kind);
    }
    this.last = Math.max(this.last, step);
    this.steps = Math.max(this.steps, step);
    this.show(follows ? this.last : this.at);
  }

  /** Add the picture after a step. */
  addShot(step, src) {
    const image = Object.assign(new Image(), { src });
    image.onload = () => this.#draw();
    this.shots = [...this.shots.filter((shot) => shot.step !== step), { step, image }];
    this.shots.sort((a, b) => a.step - b.step);
    this.canvas.hidden = false;
    this.onshow?.();
  }

  show(step) {
    this.at = Math.max(0, Math.min(this.last, step));
    let [filled, wanted] = [0, 0];
    this.cells.forEach((cell, position) => {
      const state =
        cell.step === 0
          ? "given"
          : cell.step === null || cell.step > this.at
            ? "blank"
            : cell.step === this.at
              ? "now"
              : "done";
      wanted += state !== "given";
      filled += state === "now" || state === "done";
      const node = this.nodes[position];
      const name = `${node.dataset.base} ${state}`;
      if (node.className !== name) node.className = name;
    });
    this.slider.max = this.last;
    this.slider.value = this.at;
    this.slider.style.setProperty("--done", this.last ? this.at / this.last : 1);
    const steps = Math.max(this.last, this.steps);
    this.output.textContent = `step ${this.at} of ${steps} · ${filled} of ${wanted} filled`;
    this.slider.setAttribute("aria-valuetext", this.output.textContent);
    Replay.hideTip();
    this.#draw();
    this.onshow?.();
  }

  /** Stop playing and show a step. */
  move(step) {
    this.pause();
    this.show(step);
  }

  play() {
    if (!this.last) return;
    if (this.at >= this.last) this.show(0);
    this.button.textContent = PAUSE;
    this.button.setAttribute("aria-label", "Pause");
    this.timer = setInterval(
      () => {
        this.show(this.at + 1);
        if (this.at >= this.last) this.pause();
      },
      Math.max(60, Math.min(350, 5000 / this.last)),
    );
  }

  pause() {
    clearInterval(this.timer);
    this.timer = 0;
    this.button.textContent = PLAY;
    this.button.setAttribute("aria-label", "Play the steps");
  }

  static get calm() {
    return Replay.#calm;
  }

  static hideTip() {
    if (Replay.#tip) Replay.#tip.hidden = true;
  }

  #label(position, kind = this.cells[position].kind) {
    const [cell, node] = [this.cells[position], this.nodes[position]];
    const word = cell.kind !== "image" && cell.kind !== "speech";
    const pad = cell.token === "pad" ? " pad" : "";
    node.dataset.base = `cell ${kind}${word ? " word" : ""}${pad}`;
    if (word) node.textContent = pad ? "" : (cell.token ?? "");
    node.style.setProperty("--sure", cell.sure ?? 1);
  }

  /** The next stored picture, or the last; cells that it does not show yet are cut out. */
  #draw() {
    if (!this.shots.length) return;
    const shot = this.shots.find((each) => each.step >= this.at) ?? this.shots.at(-1);
    const { image } = shot;
    if (!image.complete || !image.naturalWidth) return; // its onload draws
    [this.canvas.width, this.canvas.height] = [image.naturalWidth, image.naturalHeight];
    this.canvas.classList.toggle("crisp", image.naturalWidth < 256);
    const brush = this.canvas.getContext("2d");
    brush.drawImage(image, 0, 0);
    const side = image.naturalWidth / this.columns;
    this.cells
      .filter((cell) => cell.kind === "image")
      .forEach((cell, i) => {
        if (cell.step !== null && cell.step <= Math.min(this.at, shot.step)) return;
        const [row, column] = [Math.floor(i / this.columns), i % this.columns];
        brush.clearRect(column * side, row * side, side, side);
      });
  }

  #tell(event) {
    const i = this.nodes.indexOf(event.target.closest(".cell"));
    if (i < 0) return Replay.hideTip();
    const cell = this.cells[i];
    const tip = (Replay.#tip ??= document.querySelector("main").appendChild(element("div", "tip")));
    const sure = cell.confidence ?? cell.sure;
    tip.textContent = event.target.classList.contains("blank")
      ? `position ${i}: masked`
      : `position ${i}: ${cell.token}\n` +
        (cell.step === 0
          ? "given beforehand"
          : `step ${cell.step}, confidence ${sure.toFixed(3)} (${this.measure})`);
    tip.hidden = false;
    const box = event.target.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (box.top > 70 ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + "px";
  }
}
