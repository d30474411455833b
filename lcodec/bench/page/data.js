// The results of the run, as bench/schema.py describes them, and how numbers are written.

const results = JSON.parse(document.getElementById("results").textContent);

// codec name -> its entry, with a number for its colour
const codecs = new Map(results.codecs.map((codec, index) => [codec.name, { ...codec, index }]));
for (const { codec } of results.curves) {
  if (!codecs.has(codec)) {
    codecs.set(codec, { name: codec, label: codec, kind: "published", missing: null, detail: "", index: codecs.size });
  }
}

const NONE = "–";
const DIGITS = { psnr: 2, psnr_yuv: 2, ms_ssim: 4, ms_ssim_db: 2, ssimulacra2: 2 };

function labelOf(codec) {
  return codecs.get(codec)?.label || codec;
}

function metricLabel(metric) {
  return results.metric_names[metric] || metric;
}

// "PSNR RGB (dB)" in a sentence
function metricPlain(metric) {
  return metricLabel(metric).replace(" (dB)", "");
}

function fixed(value, digits) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "−") : NONE;
}

function signed(value, digits) {
  return isNumber(value) && value > 0 ? `+${fixed(value, digits)}` : fixed(value, digits);
}

// Three significant digits: times span from microseconds to minutes.
function significant(value) {
  if (!isNumber(value)) return NONE;
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function metricText(metric, value) {
  return fixed(value, DIGITS[metric] ?? 3);
}

function count(number, singular, plural = `${singular}s`) {
  return `${number} ${number === 1 ? singular : plural}`;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// Curves of one image, or of the means if image is null: [{codec, points: [{x: bpp, y: metric, quality}]}], by rate.
function curvesOf(image, metric) {
  const curves = image === null ? results.curves : imageCurves(image);
  return curves
    .map(({ codec, points }) => ({
      codec,
      points: points
        .filter((point) => isNumber(point.bpp) && isNumber(point[metric]))
        .map((point) => ({ x: point.bpp, y: point[metric], quality: point.quality }))
        .sort((a, b) => a.x - b.x),
    }))
    .filter(({ points }) => points.length > 0);
}

function imageCurves(image) {
  const rows = new Map([...codecs.keys()].map((name) => [name, []]));
  for (const row of results.rows) {
    if (row.image === image) rows.get(row.codec)?.push(row);
  }
  return [...rows].map(([codec, points]) => ({ codec, points }));
}

function rowOf(image, codec, quality) {
  return results.rows.find((row) => row.image === image && row.codec === codec && row.quality === quality) || null;
}

// Metric of a curve at a rate, linear in log bpp between its points; null outside of them.
function interpolate(points, bpp) {
  const right = points.findIndex((point) => point.x >= bpp);
  if (right < 0 || (right === 0 && points[0].x > bpp)) return null;
  const b = points[right];
  const a = points[Math.max(right - 1, 0)];
  if (b.x === bpp || a.x === b.x) return b.y;
  const share = Math.log(bpp / a.x) / Math.log(b.x / a.x);
  return a.y + share * (b.y - a.y);
}

// Pictures of an image are parsed when they are looked at: together they are most of the file.
function picturesOf(image) {
  const number = results.images.findIndex(({ name }) => name === image);
  return JSON.parse(document.getElementById(`pictures-${number}`).textContent);
}
