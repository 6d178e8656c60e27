// Points over a picture: a click on an empty place adds one, a drag moves one, a click on one removes it. Python draws
// the picture anew after each change of `value`, and counts it as answered, drawn or not; while a point is dragged, one
// change at a time is on its way.

const REACH = 11; // pixels from a point that still mean it
const STEPS = 40; // of the cross across the axes
const PATIENCE = 5000; // ms to wait for an answer: there is none to what changes nothing
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const HELP =
  "Click an empty place to add a point, drag a point to move it, click it to remove it. With keys: Tab to the picture, " +
  "arrow keys move the cross, Space adds a point or takes one up and puts it down, Delete removes it.";

function make(tag, className, parent) {
  const element = document.createElement(tag);
  element.className = className;
  parent.append(element);
  return element;
}

function render({ model, el }) {
  const root = make("div", "metakit-points", el);
  root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab would take the arrow keys
  const sheet = make("div", "sheet", root);
  const image = make("img", "widget-image", sheet);
  const help = make("div", "help", root);
  help.textContent = HELP;
  const status = make("div", "status", root);
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");

  let points = model.get("value");
  let held = null; // number of the point that is being moved
  let moved = false; // or added: letting go does not remove it
  let cursor = null; // of the keys, in units of the axes
  let waiting = null; // for an answer
  let late = false; // something changed meanwhile
  const limits = () => model.get("limits");

  const share = ([x, y]) => {
    const [left, right, bottom, top] = limits();
    return [(x - left) / (right - left), (top - y) / (top - bottom)];
  };
  const clamped = (point) => {
    const [left, right, bottom, top] = limits();
    const [x, y] = [Math.min(right, Math.max(left, point[0])), Math.min(top, Math.max(bottom, point[1]))];
    return [Math.round(1000 * x) / 1000, Math.round(1000 * y) / 1000];
  };
  const say = (text, point) => (status.textContent = point ? `${text} at ${point[0]}, ${point[1]}.` : text);

  const send = () => {
    if (waiting !== null) {
      late = true;
      return;
    }
    waiting = setTimeout(answered, PATIENCE);
    model.set("value", points);
    model.save_changes();
  };
  const answered = () => {
    clearTimeout(waiting);
    waiting = null;
    const again = late;
    late = false;
    if (again) send();
    else take();
  };
  const change = (next) => {
    points = next;
    show();
    send();
  };
  const add = (place) => {
    if (points.length >= model.get("most")) {
      say(`There are ${points.length} points, as many as there may be. Remove one first.`);
      return null;
    }
    const label = model.get("label");
    change([...points, label === null ? place : [...place, label]]);
    say("Point added", place);
    return points.length - 1;
  };
  const move = (i, place) => change(points.map((old, j) => (j === i ? [...place, ...old.slice(2)] : old)));
  const remove = (i) => {
    say("Point removed", points[i]);
    change(points.filter((_, j) => j !== i));
  };
  const nearest = (box, place) => {
    const { width, height } = box.getBoundingClientRect();
    const [x, y] = share(place);
    const away = points.map((point) => {
      const [px, py] = share(point);
      return Math.hypot((px - x) * width, (py - y) * height);
    });
    const least = Math.min(...away);
    return least <= REACH ? away.indexOf(least) : null;
  };

  let boxes = [];
  const show = () => {
    for (const box of boxes) {
      box.replaceChildren();
      const put = (className, place) => {
        const [x, y] = share(place);
        const spot = make("div", className, box);
        spot.style.left = `${100 * x}%`;
        spot.style.top = `${100 * y}%`;
      };
      points.forEach((point, i) => put(i === held ? "spot held" : "spot", point));
      if (cursor && box === document.activeElement) put("cross", cursor);
    }
  };

  const makeBox = ([left, top, width, height]) => {
    const box = make("div", "box", sheet);
    Object.assign(box.style, { left: `${100 * left}%`, top: `${100 * top}%` });
    Object.assign(box.style, { width: `${100 * width}%`, height: `${100 * height}%` });
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-label", `${model.get("alt")} Arrow keys move, Space adds or takes up, Delete removes.`);
    const place = (event) => {
      const edge = box.getBoundingClientRect();
      const [low, high, bottom, up] = limits();
      const x = low + ((event.clientX - edge.left) / edge.width) * (high - low);
      return clamped([x, up - ((event.clientY - edge.top) / edge.height) * (up - bottom)]);
    };
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      box.setPointerCapture(event.pointerId);
      cursor = null;
      held = nearest(box, place(event));
      moved = held === null;
      if (moved) held = add(place(event));
      show();
    });
    box.addEventListener("pointermove", (event) => {
      if (held === null || !box.hasPointerCapture(event.pointerId)) return;
      const [x, y] = share(place(event));
      const [px, py] = share(points[held]);
      const edge = box.getBoundingClientRect();
      if (!moved && Math.hypot((x - px) * edge.width, (y - py) * edge.height) < 3) return; // a click, not quite still
      moved = true;
      move(held, place(event));
    });
    const drop = () => {
      const [i, still] = [held, !moved];
      held = null;
      if (i !== null && still) remove(i);
      else show();
    };
    box.addEventListener("pointerup", drop);
    box.addEventListener("pointercancel", () => {
      moved = true;
      drop();
    });
    box.addEventListener("blur", () => {
      held = cursor = null;
      show();
    });
    box.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      const [low, high, bottom, up] = limits();
      cursor = cursor ?? clamped([(low + high) / 2, (bottom + up) / 2]);
      if (arrow) {
        const step = [(high - low) / STEPS, (up - bottom) / STEPS];
        cursor = clamped(cursor.map((part, i) => part + arrow[i] * step[i]));
        if (held !== null) move(held, cursor);
      } else if (event.key === " ") {
        const under = nearest(box, cursor);
        if (held !== null) {
          say("Point put down", cursor);
          held = null;
        } else if (under === null) {
          add(cursor);
        } else {
          held = under;
          say("Point taken up", points[held]);
          cursor = points[held].slice(0, 2);
        }
      } else if (event.key === "Delete" || event.key === "Backspace") {
        const under = held ?? nearest(box, cursor);
        held = null;
        if (under !== null) remove(under);
      } else {
        return; // Tab must go on
      }
      event.preventDefault();
      event.stopPropagation();
      show();
    });
    return box;
  };

  let address = null;
  const paint = () => {
    const bytes = model.get("picture");
    if (address) URL.revokeObjectURL(address);
    address = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : null;
    if (address) image.src = address;
    image.alt = model.get("alt");
  };
  const take = () => {
    if (held !== null || waiting !== null) return; // what is here is newer; asked again when it is answered
    points = model.get("value");
    show();
  };
  const rebuild = () => {
    for (const box of boxes) box.remove();
    boxes = model.get("boxes").map(makeBox);
    show();
  };
  const heard = {
    "change:value": take,
    "change:picture": paint,
    "change:answered": answered,
    "change:boxes": rebuild,
    "change:limits": show,
  };
  for (const [name, act] of Object.entries(heard)) model.on(name, act);
  rebuild();
  paint();
  return () => {
    for (const [name, act] of Object.entries(heard)) model.off(name, act);
    clearTimeout(waiting);
    if (address) URL.revokeObjectURL(address);
  };
}

export default { render };
