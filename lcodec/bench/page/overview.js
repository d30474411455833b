// The first page: what was measured, curves, BD-rates, speed, images.

function overview() {
  return [summary(), curvesSection(), bdSection(), speedSection(), imagesSection(), codecsSection()];
}

function summary() {
  const present = [...codecs.values()].filter(({ missing }) => missing === null);
  const published = present.filter(({ kind }) => kind === "published").length;
  const machine = Object.entries(results.machine).map(([key, value]) => (key === "cpu" ? value : `${key} ${value}`));
  const facts = [`lcodec ${results.lcodec}`, results.date.replace("T", " ").replace(/(Z|\+00:00)$/, " UTC"), ...machine];
  return h(
    "section",
    { id: "top", "aria-labelledby": "top-title", tabindex: "-1" },
    h("h1", { id: "top-title" }, `${count(present.length - published, "codec")} on ${count(results.images.length, "image")}`),
    h("p", { class: "lead" }, leadText()),
    warnings().map((text) => h("p", { class: "note" }, text)),
    h("p", { class: "facts" }, facts.join(" · ")),
    h("p", { class: "facts" }, h("code", {}, results.command)),
  );
}

// Our own models and the best other codec against the anchor, in the first metric.
function leadText() {
  const metric = results.metrics[0];
  const entries = results.bd.filter((entry) => entry.metric === metric && isNumber(entry.bd_rate));
  const byRate = [...entries].sort((a, b) => a.bd_rate - b.bd_rate);
  const own = byRate.find(({ codec }) => codecs.get(codec)?.kind === "lcodec");
  const other = byRate.find(({ codec }) => codecs.get(codec)?.kind !== "lcodec");
  const said = [own, other].filter(Boolean).sort((a, b) => a.bd_rate - b.bd_rate);
  if (said.length === 0) return `Rate and distortion, ${labelOf(results.anchor)} as the anchor.`;
  const parts = said.map(({ codec, bd_rate: rate }, index) => {
    const amount = `${fixed(Math.abs(rate), 1)} % ${rate < 0 ? "fewer" : "more"}`;
    return index === 0 ? `${labelOf(codec)} takes ${amount} bits than ${labelOf(results.anchor)}` : `${labelOf(codec)} ${amount}`;
  });
  return `At equal ${metricPlain(metric)}, ${parts.join(", ")}.`;
}

function warnings() {
  const texts = [];
  if (!results.complete) texts.push("The run is not complete: what is missing here may still come.");
  for (const { name, error } of results.skipped) texts.push(`Skipped ${name}: ${error}`);
  return texts;
}

function curvesSection() {
  const chart = rdChart(null);
  const images = [{ value: "", label: `mean of ${results.images.length} images` }].concat(
    results.images.map(({ name }) => ({ value: name, label: name })),
  );
  const picker = select("Image", images, "", (name) => {
    chart.setImage(name || null);
    points.replaceChildren(pointsTable(name || null));
  });
  const points = h("div", {}, pointsTable(null));
  const controls = chartControls();
  controls.prepend(picker);
  listen(points, () => points.replaceChildren(pointsTable(picker.querySelector("select").value || null)));
  return section(
    "curves",
    "Rate and distortion",
    h("div", { class: "card" }, controls, codecToggles(), chart.element),
    h("details", {}, h("summary", {}, "All points as a table"), points),
  );
}

function pointsTable(image) {
  const rows = curvesOf(image, state.metric)
    .filter(({ codec }) => !state.hidden.has(codec))
    .flatMap(({ codec, points }) => points.map((point) => ({ codec, ...point })));
  return sortableTable({
    caption: `${metricLabel(state.metric)}, ${image ?? "mean of all images"}`,
    sort: { column: 2, descending: false },
    rows,
    columns: [
      { label: "Codec", value: (row) => labelOf(row.codec), cell: (row) => codecCell(row.codec) },
      { label: "Quality", numeric: true, value: (row) => row.quality, cell: (row) => significant(row.quality) },
      { label: "bpp", numeric: true, value: (row) => row.x, cell: (row) => fixed(row.x, 4) },
      { label: metricLabel(state.metric), numeric: true, value: (row) => row.y, cell: (row) => metricText(state.metric, row.y) },
    ],
  });
}

function bdSection() {
  const place = h("div");
  const show = () => place.replaceChildren(bdTable(state.metric));
  let shown = state.metric;
  listen(place, () => {
    if (shown === state.metric) return;
    shown = state.metric;
    show();
  });
  show();
  return section(
    "bd-rate",
    "BD-rate",
    h(
      "p",
      {},
      `Bits at equal quality against ${labelOf(results.anchor)}, averaged over the quality that both reach (Bjøntegaard, PCHIP); less is better. ` +
        "The interval holds 95 % of bootstrap samples of the images.",
    ),
    results.metrics.length > 1 ? bdMatrix() : null,
    h("h3", {}, "In detail"),
    metricChoice(),
    place,
  );
}

function comparedCodecs() {
  return [...codecs.values()].filter(({ name }) => name !== results.anchor);
}

function bdEntry(codec, metric) {
  return results.bd.find((entry) => entry.codec === codec && entry.metric === metric) || null;
}

function bdMatrix() {
  const columns = results.metrics.map((metric) => ({
    label: metricLabel(metric),
    numeric: true,
    value: ({ name }) => bdEntry(name, metric)?.bd_rate ?? null,
    cell: ({ name }) => rateCell(bdEntry(name, metric)?.bd_rate ?? null),
  }));
  return sortableTable({
    caption: "BD-rate in all metrics, in %",
    sort: { column: 1, descending: false },
    rows: comparedCodecs().filter(({ name }) => results.bd.some(({ codec, bd_rate: rate }) => codec === name && isNumber(rate))),
    columns: [{ label: "Codec", value: ({ label }) => label, cell: ({ name }) => codecCell(name) }, ...columns],
  });
}

function rateCell(rate) {
  if (!isNumber(rate)) return NONE;
  return h("span", { class: rate < 0 ? "better" : "worse" }, `${signed(rate, 1)} %`);
}

function bdTable(metric) {
  const rows = comparedCodecs().map((codec) => ({ ...codec, ...(bdEntry(codec.name, metric) ?? {}) }));
  const widest = Math.max(1, ...rows.map(({ bd_rate: rate }) => (isNumber(rate) ? Math.abs(rate) : 0)));
  const digits = DIGITS[metric] ?? 3;
  return sortableTable({
    caption: `BD-rate at equal ${metricLabel(metric)}`,
    sort: { column: 1, descending: false },
    rows,
    columns: [
      { label: "Codec", value: ({ label }) => label, cell: ({ name }) => codecCell(name) },
      { label: "BD-rate", numeric: true, value: (row) => row.bd_rate, cell: (row) => rateBar(row.bd_rate, widest) },
      {
        label: "95 % interval",
        numeric: true,
        value: (row) => (isNumber(row.low) ? row.high - row.low : null),
        cell: (row) => (isNumber(row.low) ? `${signed(row.low, 1)} to ${signed(row.high, 1)} %` : NONE),
        title: "Sorted by width",
      },
      {
        label: "BD-quality",
        numeric: true,
        value: (row) => row.bd_quality,
        cell: (row) => signed(row.bd_quality, digits),
        title: "Mean difference of the metric at equal rate",
      },
      {
        label: "Common range",
        numeric: true,
        value: (row) => row.range?.[0],
        cell: (row) => (row.range ? `${fixed(row.range[0], digits)} to ${fixed(row.range[1], digits)}` : NONE),
      },
      {
        label: "Overlap",
        numeric: true,
        value: (row) => row.overlap,
        cell: (row) => (isNumber(row.overlap) ? `${fixed(100 * row.overlap, 0)} %` : NONE),
        title: "Common range as a share of the range of both curves together",
      },
      { label: "Note", wide: true, value: bdNote },
    ],
  });
}

function bdNote({ missing, note, bd_rate: rate }) {
  if (missing) return `not measured: ${missing}`;
  return note || (isNumber(rate) ? "" : "not defined");
}

function rateBar(rate, widest) {
  if (!isNumber(rate)) return NONE;
  const bar = h("span", { class: `bar-fill ${rate < 0 ? "left" : "right"}` });
  bar.style.width = `${(50 * Math.abs(rate)) / widest}%`;
  return h("span", { class: "rate" }, h("span", { class: "bar-track", "aria-hidden": "true" }, bar), rateCell(rate));
}

function speedSection() {
  if (results.speed.length === 0) {
    return section("speed", "Speed", h("p", { class: "note" }, "No speed was measured in this run."));
  }
  const seconds = (label, key, title) => ({
    label,
    title,
    numeric: true,
    value: (row) => row[key],
    cell: (row) => (isNumber(row[key]) ? `${significant(row[key])} s` : NONE),
  });
  const plain = (label, key, title, digits = 2) => ({
    label,
    title,
    numeric: true,
    value: (row) => row[key],
    cell: (row) => fixed(row[key], digits),
  });
  return section(
    "speed",
    "Speed",
    h(
      "p",
      {},
      "Warm: model loaded, median of runs. Cold: a whole process, from its start to its end. " +
        "Peak memory is that of a process that encodes and decodes.",
    ),
    sortableTable({
      caption: "Time and memory",
      sort: { column: 3, descending: false },
      rows: results.speed,
      columns: [
        { label: "Codec", value: (row) => labelOf(row.codec), cell: (row) => speedName(row) },
        { label: "Quality", numeric: true, value: (row) => row.quality, cell: (row) => significant(row.quality) },
        { label: "Threads, device", numeric: true, value: (row) => row.threads, cell: (row) => `${row.threads} · ${row.device}` },
        seconds("Encode", "warm_encode_s", "Warm"),
        seconds("Decode", "warm_decode_s", "Warm"),
        plain("MP/s encode", "mp_s_encode", "Megapixels a second, warm"),
        plain("MP/s decode", "mp_s_decode", "Megapixels a second, warm"),
        seconds("Cold encode", "cold_encode_s", "Whole process"),
        seconds("Cold decode", "cold_decode_s", "Whole process"),
        plain("Peak MiB", "peak_mib", "Resident memory of the process", 0),
      ],
    }),
    partsTable(),
  );
}

function speedName({ codec, image, pixels }) {
  return h("span", { title: `${image}, ${fixed(pixels / 1e6, 2)} megapixels` }, codecCell(codec));
}

function partsTable() {
  const rows = results.speed.filter(({ parts }) => Object.keys(parts).length > 0);
  if (rows.length === 0) return null;
  const names = [...new Set(rows.flatMap(({ parts }) => Object.keys(parts)))];
  return h(
    "details",
    {},
    h("summary", {}, "Where the time goes"),
    sortableTable({
      caption: "Parts of warm encoding and decoding, in seconds",
      sort: { column: 0, descending: false },
      rows,
      columns: [
        { label: "Codec", value: (row) => labelOf(row.codec), cell: (row) => codecCell(row.codec) },
        { label: "Quality", numeric: true, value: (row) => row.quality, cell: (row) => significant(row.quality) },
        ...names.map((name) => ({
          label: name.replaceAll("_", " "),
          numeric: true,
          value: (row) => row.parts[name] ?? null,
          cell: (row) => significant(row.parts[name]),
        })),
      ],
    }),
  );
}

function imagesSection() {
  const images = results.images.map((image, index) => ({ ...image, thumbnail: results.thumbnails[index] }));
  const pictured = images.filter(({ thumbnail }) => thumbnail);
  const others = images.filter(({ thumbnail }) => !thumbnail);
  return section(
    "images",
    "Images",
    h("p", {}, "Each has a page of its own: two pictures under a slider, and crops of all codecs at about the same rate."),
    h("ul", { class: "gallery" }, pictured.map((image) => h("li", {}, imageCard(image)))),
    others.length > 0
      ? h(
          "details",
          { open: pictured.length === 0 },
          h("summary", {}, `${count(others.length, "image")} with curves only`),
          h("ul", {}, others.map(({ name }) => h("li", {}, h("a", { href: imageHash(name) }, name)))),
        )
      : null,
  );
}

function imageCard({ name, width, height, thumbnail }) {
  return h(
    "a",
    { href: imageHash(name) },
    h("img", { src: thumbnail, alt: "" }),
    h("span", { class: "name" }, name),
    h("span", { class: "muted" }, `${width} × ${height}`),
  );
}

function codecsSection() {
  const failed = results.rows.filter(({ error }) => error);
  return section(
    "codecs",
    "Codecs",
    sortableTable({
      caption: "What was measured, and what could not be",
      sort: { column: 0, descending: false },
      rows: [...codecs.values()],
      columns: [
        { label: "Codec", value: ({ label }) => label, cell: ({ name }) => codecCell(name) },
        { label: "Kind", value: ({ kind }) => kind },
        { label: "Settings", value: ({ detail }) => detail || "" },
        { label: "Model", value: (codec) => codec.model_id ?? "", cell: (codec) => modelCell(codec.model_id) },
        { label: "Missing", value: ({ missing }) => missing ?? "" },
      ],
    }),
    failed.length > 0
      ? h(
          "details",
          { open: failed.length <= 5 },
          h("summary", {}, `${count(failed.length, "file")} failed`),
          h(
            "ul",
            { class: "failed" },
            failed.map(({ codec, quality, image, error }) =>
              h("li", {}, `${labelOf(codec)}, q ${significant(quality)}, ${image}: ${error}`),
            ),
          ),
        )
      : null,
  );
}

function modelCell(id) {
  return id ? h("code", { title: id }, id.slice(0, 16)) : "";
}
