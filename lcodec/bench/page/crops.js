// The same place of an image in every codec, at about the same rate, pixel by pixel.

const SHORT_NAMES = { psnr: "PSNR", psnr_yuv: "YUV" };

// image: its name. pictures: its block. target: one of its targets. oncompare(codec) puts a codec under the slider.
function cropsOf(image, pictures, target, zoom, oncompare) {
  const places = pictures.crops.filter((place) => place.uri !== null);
  return places.map((place, index) =>
    h(
      "div",
      { class: "place" },
      h("h3", {}, placeTitle(place)),
      h(
        "div",
        { class: "crops", "data-zoom": zoom },
        originalFigure(place, zoom),
        target.entries.map((entry) => cropFigure({ image, pictures, target, entry, place, index, zoom, oncompare })),
      ),
    ),
  );
}

function placeTitle({ kind, x, y, width, height }) {
  const what = kind === "structure" ? "Most structure" : "Most texture";
  return `${what}: ${width} × ${height} pixels at ${x}, ${y}`;
}

function cropImage(uri, { width, height }, zoom, alt) {
  return h("img", { src: uri, alt, class: "pixels", width: width * zoom, height: height * zoom });
}

// A window on the whole picture, as wide as what it stands in.
function cutImage(uri, { width, height }, place, alt) {
  const img = h("img", { src: uri, alt, class: "pixels", width, height });
  img.style.width = `${(100 * width) / place.width}%`;
  img.style.left = `${(-100 * place.x) / place.width}%`;
  img.style.top = `${(-100 * place.y) / place.height}%`;
  const frame = h("div", { class: "cut" }, img);
  frame.style.aspectRatio = `${place.width} / ${place.height}`;
  return frame;
}

function originalFigure(place, zoom) {
  return cropFrame(place, zoom, cropImage(place.uri, place, zoom, "Original"), [h("strong", {}, "Original")]);
}

// The figure is as wide as the picture, so that a caption does not widen it.
function cropFrame({ width }, zoom, picture, caption) {
  const figure = h("figure", {}, picture, h("figcaption", {}, caption.filter(Boolean)));
  figure.style.width = `${width * zoom}px`;
  return figure;
}

function cropFigure({ image, pictures, target, entry, place, index, zoom, oncompare }) {
  const crop = entry.crops[index];
  const cut = entry.whole.exact && entry.whole.uri !== null; // the crop lies in the whole picture, pixel for pixel
  const name = h("strong", {}, swatch(entry.codec), labelOf(entry.codec));
  if (!crop || (crop.uri === null && !cut)) {
    const box = h("div", { class: "no-picture" }, entry.note ?? "left out to keep the page small");
    box.style.aspectRatio = `${place.width} / ${place.height}`;
    const nearest = `nearest: q ${significant(entry.quality)}, ${fixed(entry.bpp, 3)} bpp`;
    return cropFrame(place, zoom, box, [name, h("span", {}, nearest)]);
  }
  const alt = `${labelOf(entry.codec)}, ${fixed(entry.bpp, 3)} bpp`;
  const picture = cut ? cutImage(entry.whole.uri, pictures, place, alt) : cropImage(crop.uri, place, zoom, alt);
  return cropFrame(place, zoom, picture, [
    name,
    h("span", {}, `q ${significant(entry.quality)}, ${rateText(entry.bpp, target.bpp)}`),
    h("span", {}, `Crop: ${crop.psnr === null ? "identical" : `PSNR ${fixed(crop.psnr, 2)}`}`),
    h("span", { class: "muted" }, `Image: ${metricsText(image, entry)}`),
    entry.whole.uri === null
      ? null
      : h("button", { type: "button", class: "quiet", onclick: () => oncompare(entry.codec) }, "Compare with the original"),
  ]);
}

// The rate, and how far it is from what it should be, if that is more than can be overlooked.
function rateText(bpp, target) {
  const off = 100 * (bpp / target - 1);
  return `${fixed(bpp, 3)} bpp${Math.abs(off) >= 5 ? ` (${signed(off, 0)} %)` : ""}`;
}

// The metrics of the whole image; MS-SSIM once, in dB or not.
function metricsText(image, { codec, quality }) {
  const row = rowOf(image, codec, quality);
  return results.metrics
    .filter((metric) => isNumber(row?.[metric]) && !(metric === "ms_ssim_db" && results.metrics.includes("ms_ssim")))
    .map((metric) => `${SHORT_NAMES[metric] ?? metricPlain(metric)} ${metricText(metric, row[metric])}`)
    .join(", ");
}
