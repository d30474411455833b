// The rate-distortion chart, drawn by Chart.js: curves of one image or of the means, with what the reader chose in `state`.

const HINT = "Point at a curve, or use the arrow keys on the chart, to read its values and those of the others at that rate.";
// Of another number than the colours, so that codecs of equal colour differ.
const POINT_STYLES = ["circle", "triangle", "rect", "rectRot", "star", "cross", "crossRot"];

// image: a name, or null for the means. Returns { element, setImage(image), destroy() }.
function rdChart(image) {
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Rate-distortion curves; arrow keys read the points" });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const empty = h("p", { class: "note", hidden: true }, "There are no values of this metric.");
  const chart = new Chart(canvas, {
    type: "line",
    data: { datasets: [] },
    options: {
      animation: false,
      parsing: false,
      normalized: true,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "nearest", axis: "xy", intersect: false },
      onHover: (_event, active) => describe(active[0]),
      plugins: { legend: { display: false }, tooltip: tooltipOptions() },
    },
  });

  function draw() {
    const curves = curvesOf(image, state.metric).filter(({ codec }) => !state.hidden.has(codec));
    const values = curves.flatMap(({ points }) => points.map((point) => point.y));
    const logMetric = state.logMetric && values.every((value) => value > 0);
    chart.data.datasets = curves.map(dataset);
    chart.options.scales = {
      x: { ...axis("bits per pixel", state.logRate), max: state.maxBpp ?? undefined },
      y: axis(metricLabel(state.metric) + (state.logMetric && !logMetric ? ", linear: not all above 0" : ""), logMetric),
    };
    Object.assign(chart.options.plugins.tooltip, tooltipColors());
    const reach = state.maxBpp ?? Infinity;
    const visible = curves.flatMap(({ points }) => points.filter(({ x }) => x <= reach).map(({ y }) => y));
    if (state.maxBpp !== null && visible.length > 1) {
      const [low, high] = [Math.min(...visible), Math.max(...visible)];
      chart.options.scales.y.max = high + (high - low) / 20;
    }
    empty.hidden = curves.length > 0;
    readout.textContent = HINT;
    chart.setActiveElements([]);
    chart.update();
  }

  function describe(active) {
    if (!active) return;
    const { codec, data } = chart.data.datasets[active.datasetIndex];
    const point = data[active.index];
    const others = chart.data.datasets
      .map((other) => ({ codec: other.codec, value: interpolate(other.data, point.x) }))
      .filter(({ codec: other, value }) => other !== codec && value !== null)
      .sort((a, b) => b.value - a.value)
      .map(({ codec: other, value }) => `${labelOf(other)} ${metricText(state.metric, value)}`);
    const text = `${pointText(codec, point)}.` + (others.length ? ` At the same rate, interpolated: ${others.join(", ")}.` : "");
    if (readout.textContent !== text) readout.textContent = text;
  }

  // Left and right along a curve, up and down from curve to curve at about the same rate.
  canvas.addEventListener("keydown", (event) => {
    const { datasets } = chart.data;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key];
    if (!step || datasets.length === 0) return;
    event.preventDefault();
    const active = chart.getActiveElements()[0];
    let datasetIndex = active?.datasetIndex ?? 0;
    let index = active ? active.index + step[1] : 0;
    if (active && step[0]) {
      const { x } = datasets[datasetIndex].data[active.index];
      datasetIndex = (datasetIndex + step[0] + datasets.length) % datasets.length;
      index = nearestIndex(datasets[datasetIndex].data, x);
    }
    index = Math.min(Math.max(index, 0), datasets[datasetIndex].data.length - 1);
    const chosen = [{ datasetIndex, index }];
    chart.setActiveElements(chosen);
    chart.tooltip.setActiveElements(chosen, { x: 0, y: 0 });
    chart.update();
    describe(chosen[0]);
  });

  listen(canvas, draw);
  draw();
  return {
    element: h("div", {}, h("div", { class: "chart" }, canvas, empty), readout),
    setImage(name) {
      image = name;
      draw();
    },
    destroy: () => chart.destroy(),
  };
}

function dataset({ codec, points }) {
  const { kind, index } = codecs.get(codec);
  const color = colorOf(codec);
  const published = kind === "published";
  return {
    codec,
    label: labelOf(codec),
    data: points,
    borderColor: color,
    backgroundColor: published ? "transparent" : color,
    borderWidth: kind === "lcodec" ? 3 : 1.75,
    borderDash: published ? [6, 4] : [],
    pointStyle: POINT_STYLES[index % POINT_STYLES.length],
    pointRadius: kind === "lcodec" ? 4.5 : 3.5,
    pointHoverRadius: 7,
    pointBorderColor: color,
    tension: 0,
  };
}

function axis(title, logarithmic) {
  const color = themeColor("muted");
  return {
    type: logarithmic ? "logarithmic" : "linear",
    title: { display: true, text: title, color: themeColor("text") },
    grid: { color: themeColor("line") },
    border: { color: themeColor("line") },
    ticks: { color, maxRotation: 0, ...(logarithmic ? { callback: logarithmicTick } : {}) },
  };
}

// A logarithmic axis has a tick for every 1, 2, ... 9; labels at 1, 2, 5 are enough where decades are many.
function logarithmicTick(value) {
  const lead = Number(value.toExponential(6).split("e")[0]);
  const decades = Math.log10(this.max / this.min);
  if (decades > 0.7 && ![1, 2, 5].includes(lead)) return "";
  return String(Number(value.toPrecision(3)));
}

function tooltipOptions() {
  return {
    displayColors: false,
    callbacks: { title: () => "", label: (item) => pointText(item.dataset.codec, item.raw) },
    padding: 10,
    bodyFont: { size: 13 },
  };
}

function tooltipColors() {
  return { backgroundColor: themeColor("text"), bodyColor: themeColor("surface") };
}

function pointText(codec, { x, y, quality }) {
  return `${labelOf(codec)}, q ${significant(quality)}: ${fixed(x, 3)} bpp, ${metricText(state.metric, y)}`;
}

function nearestIndex(points, x) {
  const distances = points.map((point) => Math.abs(Math.log(point.x / x)));
  return distances.indexOf(Math.min(...distances));
}

function metricChoice() {
  const metrics = results.metrics.map((metric) => ({ value: metric, label: metricLabel(metric).replace(" (dB)", " dB") }));
  const element = choice("Metric", metrics, state.metric, (metric) => update({ metric }));
  listen(element, () => {
    for (const input of element.querySelectorAll("input")) input.checked = input.value === state.metric;
  });
  return element;
}

// Metric and scales, for all charts of the page.
function chartControls() {
  const reaches = [["", "all"], ["2", "2"], ["1", "1"], ["0.5", "0.5"]].map(([value, label]) => ({ value, label }));
  const reach = select("bpp up to", reaches, String(state.maxBpp ?? ""), (value) =>
    update({ maxBpp: value ? Number(value) : null }),
  );
  const logRate = checkbox("log bpp", state.logRate, (checked) => update({ logRate: checked }));
  const logMetric = checkbox("log metric", state.logMetric, (checked) => update({ logMetric: checked }));
  const element = h("div", { class: "controls" }, metricChoice(), reach, logRate, logMetric);
  // Charts of two pages share these choices.
  listen(element, () => {
    reach.querySelector("select").value = String(state.maxBpp ?? "");
    logRate.querySelector("input").checked = state.logRate;
    logMetric.querySelector("input").checked = state.logMetric;
  });
  return element;
}

// A checkbox for each curve, and buttons for all of them.
function codecToggles() {
  const names = [...new Set(results.curves.map(({ codec }) => codec))];
  const inputs = names.map((name) =>
    h("input", {
      type: "checkbox",
      checked: !state.hidden.has(name),
      onchange: (event) => hide([name], !event.target.checked),
    }),
  );

  function hide(changed, hidden) {
    const set = new Set(state.hidden);
    for (const name of changed) {
      if (hidden) set.add(name);
      else set.delete(name);
    }
    update({ hidden: set });
  }

  const element = h(
    "fieldset",
    { class: "chips" },
    h("legend", {}, "Codecs"),
    names.map((name, index) => h("label", { class: "chip" }, inputs[index], swatch(name), h("span", {}, labelOf(name)))),
    h("button", { type: "button", class: "quiet", onclick: () => hide(names, false) }, "all"),
    h("button", { type: "button", class: "quiet", onclick: () => hide(names, true) }, "none"),
  );
  listen(element, () => inputs.forEach((input, index) => (input.checked = !state.hidden.has(names[index]))));
  return element;
}
