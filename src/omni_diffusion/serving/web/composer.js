// What a person gives: text, a picture with its mask, a sound. Shows the task, and sends it.

import { Away, connection } from "./connection.js";
import {
  blobOf,
  imageOf,
  Microphone,
  pictureOf,
  soundOf,
  soundOfAddress,
  soundOfBlocks,
  Unusable,
} from "./media.js";
import { overlay, paint } from "./painter.js";
import { fitting, inferred, kindsOf, misfit, verb } from "./tasks.js";

const LONGEST = 60; // seconds of a recording
const NUMBERS = ["steps", "seed", "guidance", "temperature"];

const find = (id) => document.getElementById(id);
const form = find("composer");

export class Composer {
  /** tasks: of the server. onSend(request, given): called with what was sent and its job. */
  constructor(onSend) {
    this.tasks = [];
    this.given = { text: "" }; // image {uri, width, height}, audio {uri, peaks}, mask: an address
    this.chosen = null; // the name of a task that the person chose
    this.onSend = onSend;
    this.microphone = null;
    this.#wire();
  }

  get settings() {
    const data = new FormData(form);
    const numbers = NUMBERS.filter((name) => data.get(name)?.trim()).map((name) => [
      name,
      Number(data.get(name)),
    ]);
    return Object.fromEntries(numbers);
  }

  get aloud() {
    return form.elements.aloud.checked;
  }

  /** The addresses of what is given, as a request has them. */
  get inputs() {
    const { text, image, audio, mask } = this.given;
    const all = { text: text.trim() || undefined, image: image?.uri, audio: audio?.uri, mask };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value));
  }

  get task() {
    const fits = fitting(this.tasks, this.given);
    return fits.find((task) => task.name === this.chosen) ?? inferred(fits, this.given);
  }

  /** Take these inputs, {text, image, audio, mask} as a request has them, and this task. */
  async take(inputs, task = null) {
    const [image, audio] = await Promise.all([
      inputs.image && imageOf(inputs.image),
      inputs.audio && soundOfAddress(inputs.audio),
    ]);
    this.given = { text: inputs.text ?? "", audio: audio || undefined, mask: inputs.mask };
    if (image) {
      this.given.image = {
        uri: inputs.image,
        width: image.naturalWidth,
        height: image.naturalHeight,
      };
    }
    this.chosen = task;
    this.show();
  }

  /** Add a dropped, pasted or chosen file. */
  async add(file) {
    await this.#guard(async () => {
      if (file.type.startsWith("audio/") || file.type.startsWith("video/")) {
        this.given.audio = await soundOf(file);
      } else {
        this.given.image = await pictureOf(file);
        delete this.given.mask;
      }
    });
  }

  async send() {
    if (this.microphone) await this.#finish(true);
    if (!kindsOf(this.given).length) return this.complain("Type, speak or add a picture first.");
    const task = this.task;
    if (!task) return this.complain(misfit(this.given));
    const { seed, ...params } = this.settings;
    const request = { task: task.name, ...this.inputs, stream: { every: 1 } };
    if (seed !== undefined) request.seed = seed;
    if (Object.keys(params).length) request.params = params;
    this.complain(null);
    find("send").disabled = true;
    try {
      const job = await connection.call("v1/jobs", { method: "POST", body: request });
      this.onSend(request, job);
      await this.take({});
    } catch (error) {
      const away =
        error instanceof Away ? ". Your request is still here; send it again later." : "";
      this.complain(error.message + away, error.param);
    } finally {
      find("send").disabled = false;
      form.elements.text.focus({ preventScroll: true });
    }
  }

  /** Say what is wrong, and mark the field that it is about; null takes it back. */
  complain(text, param = null) {
    const problem = find("problem");
    problem.hidden = !text;
    problem.textContent = text ?? "";
    const name = param?.split(".").at(-1);
    for (const field of NUMBERS) {
      const wrong = Boolean(text) && field === name;
      form.elements[field].setAttribute("aria-invalid", wrong);
      if (wrong) this.#open(true);
    }
  }

  show() {
    this.complain(null);
    const { text, image, audio } = this.given;
    if (form.elements.text.value !== text) form.elements.text.value = text;
    find("given").replaceChildren(
      ...(image ? [this.#picture()] : []),
      ...(audio ? [this.#sound()] : []),
    );
    this.#showTasks();
  }

  /** Discard a recording; false if there is none. */
  escape() {
    if (!this.microphone) return false;
    this.#finish(false);
    return true;
  }

  #wire() {
    form.onsubmit = (event) => (event.preventDefault(), this.send());
    form.elements.text.oninput = (event) => {
      this.given.text = event.target.value;
      this.complain(null);
      this.#showTasks();
    };
    form.elements.text.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!find("send").disabled) this.send();
    };
    for (const kind of ["picture", "sound"]) {
      const input = find(`${kind}-file`);
      find(kind).onclick = () => input.click();
      input.onchange = async () => {
        for (const file of input.files) await this.add(file);
        input.value = "";
      };
    }
    find("more").onclick = () => this.#open(find("settings").hidden);
    find("record").onclick = () => (this.microphone ? this.#finish(true) : this.#record());
    const [use, discard] = find("recording").querySelectorAll("button");
    use.onclick = () => this.#finish(true);
    discard.onclick = () => this.#finish(false);
  }

  #open(open) {
    find("settings").hidden = !open;
    find("more").setAttribute("aria-expanded", open);
  }

  /** Do something with the inputs, and say what was wrong with them. */
  async #guard(work) {
    try {
      await work();
      this.show();
    } catch (error) {
      if (!(error instanceof Unusable)) console.error(error);
      this.complain(
        error instanceof Unusable ? `${error.message}.` : String(error.message ?? error),
      );
    }
  }

  async #record() {
    await this.#guard(async () => {
      this.microphone = await Microphone.open();
      find("recording").hidden = false;
      find("record").setAttribute("aria-pressed", "true");
      find("recording").querySelector("button").focus();
      this.#level();
    });
  }

  /** Draw the recording as it grows. */
  #level() {
    const microphone = this.microphone;
    if (!microphone) return;
    find("recording").querySelector("output").textContent = `${microphone.seconds.toFixed(1)} s`;
    const canvas = find("recording").querySelector("canvas");
    const context = canvas.getContext("2d");
    const bars = canvas.width / 6;
    const recent = microphone.blocks.slice(-bars * 4);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = getComputedStyle(canvas).getPropertyValue("--speech");
    for (let bar = 0; bar * 4 < recent.length; bar++) {
      const loud = recent
        .slice(4 * bar, 4 * bar + 4)
        .flatMap((block) => [...block])
        .reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      const height = Math.max(2, Math.min(1, loud * 1.5) * canvas.height);
      context.fillRect(6 * bar, (canvas.height - height) / 2, 4, height);
    }
    if (microphone.seconds >= LONGEST) this.#finish(true);
    else setTimeout(() => this.#level(), 80);
  }

  /** End the recording, and keep it or not. */
  async #finish(keep) {
    const microphone = this.microphone;
    if (!microphone) return;
    this.microphone = null;
    microphone.close();
    find("recording").hidden = true;
    find("record").removeAttribute("aria-pressed");
    form.elements.text.focus();
    if (keep) {
      await this.#guard(async () => {
        this.given.audio = await soundOfBlocks(microphone.blocks, microphone.rate);
      });
    }
  }

  #picture() {
    const { image, mask } = this.given;
    const item = element("div", "item");
    const figure = item.appendChild(element("figure"));
    const shown = Object.assign(element("img", image.width < 256 ? "crisp" : ""), {
      src: image.uri,
    });
    const size = `${image.width} × ${image.height} pixels`;
    shown.alt = `Your picture, ${size}${mask ? ", with a mask" : ""}`;
    figure.append(shown);
    if (mask) overlay(figure.appendChild(element("canvas")), mask);
    const sides = item.appendChild(element("div", "sides"));
    const painter = button(
      mask ? "Paint another mask" : "Paint a mask to repaint a part of it",
      mask ? "Paint another mask" : "Paint a mask",
    );
    painter.onclick = async () => {
      const made = await paint(image);
      if (made) this.given.mask = made;
      this.show();
    };
    sides.append(painter, this.#remover("Remove the picture", ["image", "mask"]));
    return item;
  }

  #sound() {
    const { uri, peaks } = this.given.audio;
    const item = element("div", "item");
    const home = item.appendChild(Sound.element(blobOf(uri), peaks));
    new Sound(home);
    item.append(this.#remover("Remove the sound", ["audio"]));
    return item;
  }

  #remover(label, kinds) {
    const made = button(label, "Remove");
    made.onclick = () => {
      for (const kind of kinds) delete this.given[kind];
      this.show();
      form.elements.text.focus();
    };
    return made;
  }

  #showTasks() {
    const fits = kindsOf(this.given).length ? fitting(this.tasks, this.given) : [];
    if (!fits.some((task) => task.name === this.chosen)) this.chosen = null;
    const task = this.task;
    find("tasks").hidden = !fits.length;
    find("tasks")
      .querySelector("div")
      .replaceChildren(
        ...fits.map((each) => {
          const label = element("label");
          const radio = Object.assign(element("input"), {
            type: "radio",
            name: "task",
            value: each.name,
          });
          radio.checked = each === task;
          radio.onchange = () => (this.chosen = each.name);
          label.title = each.title;
          label.append(radio, element("span", "", verb(each)));
          return label;
        }),
      );
    if (kindsOf(this.given).length && !fits.length && this.tasks.length)
      this.complain(misfit(this.given));
  }
}
