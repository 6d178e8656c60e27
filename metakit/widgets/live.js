// Progress and Stop of a training that holds its cell. The kernel takes no message from the page meanwhile, but it can
// be interrupted, which `fit` answers at the end of its step.

function render({ model, el }) {
  const bar = document.createElement("progress");
  bar.setAttribute("aria-label", "Share of the training that is done");
  const text = document.createElement("span");
  const root = document.createElement("div");
  root.className = "metakit-live";
  root.style.cssText = "display: flex; flex-wrap: wrap; align-items: center; gap: 8px";
  root.append(bar, text);
  el.append(root);

  const kernel = model.widget_manager?.kernel; // JupyterLab's; where there is none, the page's own Interrupt remains
  if (kernel) {
    const stop = document.createElement("button");
    stop.className = "jupyter-button widget-button";
    stop.textContent = "Stop";
    stop.title = "End the training after this outer step and go on with what was learned";
    stop.addEventListener("click", () => {
      stop.disabled = true; // a second interrupt would end the cell, not only the training
      kernel.interrupt();
    });
    root.append(stop);
  }
  const show = () => {
    bar.value = model.get("done");
    text.textContent = model.get("text");
  };
  model.on("change", show);
  show();
  return () => model.off("change", show);
}

export default { render };
