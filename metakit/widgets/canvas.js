// Pads to draw on with pen, finger, mouse or keys. A drawing is a list of strokes, a stroke a list of points [x, y]
// in units of the pad's side, y down. Python answers each change of `drawings` with a `reply`.

const DOTS = 224; // of a pad's own pixels along a side: two for each on the page
const KEY_STEP = 1 / 28;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELP =
  "Draw with mouse, pen or finger. With keys: choose a pad with Tab, move the cross with the arrow keys, " +
  "Space puts the pen down and lifts it, Delete clears the pad. The small picture is what the network sees.";

function make(tag, className, parent, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

function paint(canvas, strokes, cursor) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, DOTS, DOTS);
  context.lineWidth = 9;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = "#000";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * DOTS, stroke[0][1] * DOTS);
    for (const [x, y] of stroke) context.lineTo(x * DOTS, y * DOTS);
    context.stroke();
  }
  if (!cursor) return;
  const [x, y] = cursor.map((part) => part * DOTS);
  context.lineWidth = 3;
  context.strokeStyle = "#d55e00";
  context.beginPath();
  context.moveTo(x - 12, y);
  context.lineTo(x + 12, y);
  context.moveTo(x, y - 12);
  context.lineTo(x, y + 12);
  context.stroke();
}

function showSeen(canvas, bytes, size) {
  canvas.width = canvas.height = size;
  if (!bytes) return;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    image.data.fill(255 - bytes.getUint8(i), 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function makePad(parent, name, title, changed, say) {
  const figure = make("figure", name === "query" ? "query" : "", parent);
  const caption = make("figcaption", "", figure);
  make("span", "name", caption, title);
  const clear = make("button", "", caption, "Clear");
  clear.setAttribute("aria-label", `Clear ${title}`);
  const canvas = make("canvas", "pad", figure);
  canvas.width = canvas.height = DOTS;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Pad ${title}. Arrow keys move, Space puts the pen down or lifts it, Delete clears.`);
  const below = make("div", "below", figure);
  const seen = make("canvas", "seen", below);
  seen.setAttribute("aria-hidden", "true");
  const bar = name === "query" ? null : make("div", "", make("div", "bar", below));
  const chance = make("span", "chance", below);

  let strokes = []; // as drawn here or set by Python
  let open = null; // the stroke being drawn
  let cursor = null; // of the keys, shown once they are used
  const show = () => paint(canvas, open ? [...strokes, open] : strokes, cursor);
  const finish = () => {
    if (!open) return;
    strokes = [...strokes, open];
    open = null;
    changed(strokes);
  };
  const wipe = () => {
    strokes = [];
    open = null;
    show();
    changed(strokes);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return share.map((part) => Math.round(1000 * Math.min(1, Math.max(0, part))) / 1000);
  };

  clear.addEventListener("click", wipe);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    finish(); // a stroke begun by keys
    cursor = null;
    open = [place(event)];
    show();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!open || !canvas.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    open.push(...(events.length ? events : [event]).map(place));
    show();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, finish);
  canvas.addEventListener("blur", () => {
    finish();
    cursor = null;
    show();
  });
  canvas.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow) {
      cursor = (cursor ?? [0.5, 0.5]).map((part, i) => Math.min(1, Math.max(0, part + KEY_STEP * arrow[i])));
      if (open) open.push(cursor);
    } else if (event.key === " ") {
      cursor = cursor ?? [0.5, 0.5];
      if (open) finish();
      else open = [cursor];
      say(open ? "Pen down." : "Pen up.");
    } else if (event.key === "Delete" || event.key === "Backspace") {
      wipe();
    } else {
      return; // Tab must go on to the next pad
    }
    event.preventDefault();
    event.stopPropagation();
    show();
  });

  return {
    set(drawing) {
      if (JSON.stringify(drawing) === JSON.stringify(strokes)) return;
      strokes = drawing;
      show();
    },
    tell(reply) {
      showSeen(seen, reply.seen[name], reply.size);
      if (!bar) return;
      const share = reply.chances[name];
      bar.style.width = `${100 * (share ?? 0)}%`;
      chance.textContent = share === undefined ? "" : `${Math.round(100 * share)} %`;
      figure.classList.toggle("answer", reply.answer === name);
    },
  };
}

function render({ model, el }) {
  const root = make("div", "metakit-canvas", el);
  root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab would take the arrow keys
  make("div", "help", root, HELP);
  const row = make("div", "pads", root);
  const status = make("div", "status", root);
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  let sent = null;

  const pads = model.get("drawings").map((_, i, all) => {
    const query = i === all.length - 1;
    const name = query ? "query" : String.fromCharCode(65 + i);
    const changed = (strokes) => {
      sent = performance.now();
      model.set("drawings", model.get("drawings").map((old, j) => (j === i ? strokes : old)));
      model.save_changes();
    };
    return makePad(row, name, query ? "Query" : name, changed, (text) => (status.textContent = text));
  });
  const take = () => model.get("drawings").forEach((drawing, i) => pads[i].set(drawing));
  const tell = () => {
    const reply = model.get("reply");
    for (const pad of pads) pad.tell(reply);
    const waited = sent === null || !reply.answer ? "" : ` (${Math.round(performance.now() - sent)} ms)`;
    status.textContent = reply.message + waited;
    sent = null;
  };
  model.on("change:drawings", take);
  model.on("change:reply", tell);
  take();
  tell();
  return () => {
    model.off("change:drawings", take);
    model.off("change:reply", tell);
  };
}

export default { render };
