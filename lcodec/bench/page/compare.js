// Two pictures of one image in one frame: under a slider, in turn, or as their difference.

const DIFFERENCE_GAIN = 8;

// marks: rectangles [{ left, top, width, height }] in per cent. options: [{ value, label, caption, uri }], two at least. view: { left, right: values; position: 0 to 100; mode; marks },
// kept up to date here, so that a new comparison begins as the last one was left.
// Returns { element, show(changes of view) }.
function comparison({ width, height, marks }, options, view) {
  const byValue = new Map(options.map((option) => [option.value, option]));
  if (!byValue.has(view.left)) view.left = options[0].value;
  if (!byValue.has(view.right)) view.right = options.find(({ value }) => value !== view.left).value;
  const below = h("img", { alt: "", draggable: "false", width, height });
  const above = h("img", { alt: "", draggable: "false", width, height, class: "above" });
  const handle = h("div", {
    class: "handle",
    role: "slider",
    tabindex: "0",
    "aria-label": "Boundary between the left and the right picture",
    "aria-valuemin": "0",
    "aria-valuemax": "100",
  });
  const leftTag = h("span", { class: "tag left" });
  const rightTag = h("span", { class: "tag right" });
  const frames = h("div", {}, marks.map(markElement));
  const stage = h("div", { class: "stage" }, below, above, frames, leftTag, rightTag, handle);
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.style.maxWidth = `calc(82vh * ${width / height})`;
  const selects = ["left", "right"].map((side) =>
    select(side === "left" ? "Left" : "Right", options, view[side], (value) => {
      view[side] = value;
      show();
    }),
  );
  const status = h("p", { class: "readout pair", "aria-live": "polite" });

  function show() {
    const [one, two] = [byValue.get(view.left), byValue.get(view.right)];
    selects.forEach((field, index) => (field.querySelector("select").value = index === 0 ? view.left : view.right));
    setPicture(above, one);
    setPicture(below, two);
    leftTag.textContent = one.label;
    rightTag.textContent = two.label;
    status.replaceChildren(
      h("span", {}, h("strong", {}, one.label), ` ${one.caption}`),
      h("span", {}, h("strong", {}, two.label), ` ${two.caption}`),
    );
    stage.dataset.mode = view.mode;
    frames.hidden = !view.marks || view.mode === "difference";
    const visible = { slider: view.position, flip: view.position >= 50 ? 100 : 0, difference: 100 }[view.mode];
    above.style.clipPath = `inset(0 ${100 - visible}% 0 0)`;
    handle.style.left = `${view.position}%`;
    leftTag.hidden = view.mode === "flip" && visible === 0;
    rightTag.hidden = view.mode === "flip" && visible === 100;
    handle.setAttribute("aria-valuenow", String(Math.round(view.position)));
    handle.setAttribute("aria-valuetext", `${Math.round(view.position)} % ${one.label}, the rest ${two.label}`);
  }

  function move(position) {
    view.position = Math.min(Math.max(position, 0), 100);
    show();
  }

  function moveTo(event) {
    const box = stage.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || view.mode === "difference") return;
    handle.focus({ preventScroll: true });
    if (view.mode === "flip") {
      move(view.position >= 50 ? 0 : 100);
      return;
    }
    stage.setPointerCapture(event.pointerId);
    moveTo(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) moveTo(event);
  });
  handle.addEventListener("keydown", (event) => {
    const turn = view.position >= 50 ? 0 : 100;
    const keys = {
      ArrowLeft: view.position - 2,
      ArrowDown: view.position - 2,
      ArrowRight: view.position + 2,
      ArrowUp: view.position + 2,
      PageDown: view.position - 10,
      PageUp: view.position + 10,
      Home: 0,
      End: 100,
      " ": turn,
      Enter: turn,
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    move(view.mode === "flip" ? turn : keys[event.key]);
  });

  function swap() {
    [view.left, view.right] = [view.right, view.left];
    show();
  }

  const modes = [
    { value: "slider", label: "Slider" },
    { value: "flip", label: "Flip" },
    { value: "difference", label: `Difference × ${DIFFERENCE_GAIN}` },
  ];
  const modeChoice = choice("View", modes, view.mode, (mode) => {
    view.mode = mode;
    show();
  });
  const markBox = checkbox("Mark the crops", view.marks, (marked) => {
    view.marks = marked;
    show();
  });
  show();
  return {
    element: h(
      "div",
      {},
      h("div", { class: "controls" }, selects, h("button", { type: "button", onclick: swap }, "Swap"), modeChoice, markBox),
      stage,
      status,
    ),
    show(changes) {
      Object.assign(view, changes);
      show();
    },
  };
}

function markElement(rectangle) {
  const element = h("div", { class: "mark" });
  for (const [side, share] of Object.entries(rectangle)) element.style[side] = `${share}%`;
  return element;
}

function setPicture(img, { uri, label }) {
  if (img.getAttribute("src") !== uri) img.src = uri;
  img.alt = label;
}
