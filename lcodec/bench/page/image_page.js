// The page of one image: slider, crops, its curves.

function imageHash(name) {
  return `#/image/${encodeURIComponent(name)}`;
}

// Returns { elements, destroy() }.
function imagePage(name) {
  const index = results.images.findIndex((image) => image.name === name);
  const image = results.images[index];
  const pictures = picturesOf(name);
  const chart = rdChart(name);
  const elements = [
    pageHeading(image, index),
    pictures.note ? h("p", { class: "note" }, pictures.note) : null,
    pictures.targets?.length > 0 ? picturesSection(name, pictures) : null,
    section(
      "image-curves",
      "Rate and distortion of this image",
      h("div", { class: "card" }, chartControls(), codecToggles(), chart.element),
    ),
  ];
  return {
    elements: elements.filter(Boolean),
    destroy: chart.destroy,
  };
}

function pageHeading({ name, width, height }, index) {
  const link = (offset, text) => {
    const other = results.images[index + offset];
    return other ? h("a", { href: imageHash(other.name), title: other.name }, text) : h("span", { class: "muted" }, text);
  };
  return h(
    "div",
    { class: "heading" },
    h("nav", { "aria-label": "Images" }, h("a", { href: "#images" }, "All images"), link(-1, "Previous"), link(1, "Next")),
    h("h1", { tabindex: "-1" }, name),
    h("p", { class: "muted" }, `${width} × ${height} pixels, ${index + 1} of ${results.images.length}`),
  );
}

// Slider and crops, both at the rate that is chosen above them.
function picturesSection(image, pictures) {
  const { targets } = pictures;
  const wholes = targets.filter(({ entries }) => entries.some(({ whole }) => whole.uri !== null)).length;
  const own = results.codecs.find(({ kind }) => kind === "lcodec")?.name ?? null;
  const view = {
    target: Math.max(0, Math.min(1, wholes - 1)),
    zoom: 2,
    left: "",
    right: own,
    position: 50,
    mode: "slider",
    marks: false,
  };
  const original = results.images.find(({ name }) => name === image);
  const frame = { width: pictures.width, height: pictures.height, marks: marksOf(pictures.crops, original) };
  const slider = h("div");
  const crops = h("div");

  function showTarget() {
    const target = targets[view.target];
    const options = pictureOptions(image, pictures, target);
    if (options.length < 2) {
      slider.replaceChildren(h("p", { class: "note" }, "Whole pictures at this rate were left out, so that the page stays small."));
      showCrops(null);
      return;
    }
    const compared = comparison(frame, options, view);
    slider.replaceChildren(compared.element);
    showCrops(compared);
  }

  function showCrops(compared) {
    const oncompare = (codec) => {
      compared.show({ left: "", right: codec });
      slider.scrollIntoView({ block: "start" });
      slider.querySelector(".handle").focus({ preventScroll: true });
    };
    crops.replaceChildren(...cropsOf(image, pictures, targets[view.target], view.zoom, oncompare));
  }

  const rates = targets.map((target, index) => ({ value: String(index), label: `${fixed(target.bpp, 2)} bpp` }));
  const zooms = [1, 2, 3, 4].map((zoom) => ({ value: String(zoom), label: `${zoom}×` }));
  const scaled = pictures.width !== original.width;
  showTarget();
  return section(
    "pictures",
    "Pictures",
    choice("All codecs at about", rates, String(view.target), (index) => {
      view.target = Number(index);
      showTarget();
    }),
    scaled ? h("p", { class: "note" }, `Scaled down to ${pictures.width} × ${pictures.height} for the slider; crops are not.`) : null,
    slider,
    h("h2", {}, "Crops"),
    h("p", {}, "The same places in all codecs, with as many screen pixels for each pixel as chosen here."),
    choice("Zoom", zooms, String(view.zoom), (zoom) => {
      view.zoom = Number(zoom);
      showTarget();
    }),
    crops,
  );
}

// Where crops are, in per cent of the image.
function marksOf(crops, { width, height }) {
  return crops
    .filter(({ uri }) => uri !== null)
    .map((place) => ({
      left: (100 * place.x) / width,
      top: (100 * place.y) / height,
      width: (100 * place.width) / width,
      height: (100 * place.height) / height,
    }));
}

// What may stand under the slider: the original, and each codec that has a picture at this rate.
function pictureOptions(image, pictures, target) {
  const original = { value: "", label: "Original", caption: "", uri: pictures.whole.uri };
  const others = target.entries.map((entry) => ({
    value: entry.codec,
    label: labelOf(entry.codec),
    caption: [`q ${significant(entry.quality)}, ${rateText(entry.bpp, target.bpp)}`, metricsText(image, entry)].join(", "),
    uri: entry.whole.uri,
  }));
  return [original, ...others].filter(({ uri }) => uri !== null && uri !== undefined);
}
