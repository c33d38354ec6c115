// The mask of a picture: painted with a brush or marked as a box, white where the model repaints.

import { imageOf } from "./media.js";

const dialog = document.getElementById("painter");
const field = (name) => dialog.querySelector(`[name="${name}"]`);
const [shown, canvas] = [dialog.querySelector("img"), dialog.querySelector("canvas")];
const note = document.getElementById("painter-note");
const LEAST = 512; // pixels of the canvas that is painted on, at least

let marks = []; // strokes {width, points} and boxes {left, top, right, bottom}, in canvas pixels
let scale = 1; // canvas pixels to a pixel of the picture

const brush = () => canvas.getContext("2d");
const colour = () => getComputedStyle(document.documentElement).getPropertyValue("--accent");

function draw(context = brush(), paint = colour()) {
  context.clearRect(0, 0, canvas.width, canvas.height);
  Object.assign(context, {
    strokeStyle: paint,
    fillStyle: paint,
    lineCap: "round",
    lineJoin: "round",
  });
  for (const mark of marks) {
    if (mark.points) {
      context.lineWidth = mark.width;
      context.beginPath();
      for (const [x, y] of mark.points) context.lineTo(x, y);
      context.lineTo(mark.points.at(-1)[0] + 0.01, mark.points.at(-1)[1]);
      context.stroke();
    } else {
      context.fillRect(mark.left, mark.top, mark.right - mark.left, mark.bottom - mark.top);
    }
  }
  field("undo").disabled = field("clear").disabled = marks.length === 0;
  field("done").disabled = marks.length === 0;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas.width,
    ((event.clientY - box.top) / box.height) * canvas.height,
  ];
}

canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  const width = (Number(field("brush").value) / 100) * canvas.width;
  marks.push({ width, points: [place(event)] });
  draw();
  canvas.onpointermove = (moved) => {
    for (const each of moved.getCoalescedEvents?.() ?? [moved])
      marks.at(-1).points.push(place(each));
    draw();
  };
};
canvas.onpointerup = canvas.onpointercancel = () => (canvas.onpointermove = null);

field("undo").onclick = () => (marks.pop(), draw());
field("clear").onclick = () => ((marks = []), draw());
field("box").onclick = () => {
  const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((side) =>
    Number(field(side).value),
  );
  const [width, height] = [canvas.width / scale, canvas.height / scale];
  const inside =
    0 <= left && left < right && right <= width && 0 <= top && top < bottom && bottom <= height;
  note.classList.toggle("fault", !inside);
  note.textContent = inside
    ? `Marked ${right - left} × ${bottom - top} pixels.`
    : `The picture has ${width} × ${height} pixels; left < right and top < bottom must lie in it.`;
  if (!inside) return;
  marks.push({
    left: left * scale,
    top: top * scale,
    right: right * scale,
    bottom: bottom * scale,
  });
  draw();
};

/** The mask as a PNG of the picture's size: white is the hole, everything else black. */
function mask(width, height) {
  const painted = new OffscreenCanvas(canvas.width, canvas.height);
  draw(painted.getContext("2d"), "#fff");
  const small = Object.assign(document.createElement("canvas"), { width, height });
  const context = small.getContext("2d");
  context.drawImage(painted, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const value = pixels.data[i + 3] >= 128 ? 255 : 0;
    pixels.data.set([value, value, value, 255], i);
  }
  context.putImageData(pixels, 0, 0);
  return small.toDataURL("image/png");
}

/** Show the dialog for {uri, width, height}; resolves to the mask's address, null if cancelled. */
export async function paint({ uri, width, height }) {
  marks = [];
  shown.src = uri;
  shown.classList.toggle("crisp", width < 256);
  scale = Math.max(1, Math.ceil(LEAST / Math.max(width, height)));
  [canvas.width, canvas.height] = [width * scale, height * scale];
  note.classList.remove("fault");
  note.textContent =
    width === height
      ? `The picture has ${width} × ${height} pixels.`
      : `The picture has ${width} × ${height} pixels; the model sees its centre square.`;
  await imageOf(uri);
  draw();
  dialog.showModal();
  return new Promise((resolve) => {
    const end = (made) => (dialog.close(), resolve(made));
    field("done").onclick = () => end(mask(width, height));
    field("cancel").onclick = () => end(null);
    dialog.oncancel = () => resolve(null);
  });
}

/** Draw a mask over its picture: transparent where it is black, coloured where it is white. */
export async function overlay(target, uri) {
  const image = await imageOf(uri);
  [target.width, target.height] = [image.naturalWidth, image.naturalHeight];
  target.classList.toggle("crisp", image.naturalWidth < 256);
  const context = target.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, target.width, target.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour();
  context.fillRect(0, 0, target.width, target.height);
}
