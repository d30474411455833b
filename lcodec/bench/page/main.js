// Which page is shown: the part of the address behind # says it, "#/image/NAME" or a section of the overview.
//
// The files of this folder are put one after the other, in the order of SCRIPTS in write.py, into one function; nothing
// of them is global.

const overviewElement = document.getElementById("overview");
const imageElement = document.getElementById("image-page");
let openImage = null; // what imagePage returned

function route() {
  const hash = location.hash;
  const name = hash.startsWith("#/image/") ? decodedName(hash.slice("#/image/".length)) : null;
  const known = results.images.some((image) => image.name === name);
  openImage?.destroy();
  openImage = null;
  imageElement.replaceChildren();
  overviewElement.hidden = known;
  imageElement.hidden = !known;
  if (known) {
    openImage = imagePage(name);
    imageElement.append(...openImage.elements);
    document.title = `${name} – lcodec bench`;
    window.scrollTo({ top: 0, behavior: "instant" });
    imageElement.querySelector("h1").focus({ preventScroll: true });
    return;
  }
  document.title = "lcodec bench";
  const target = hash.length > 1 ? document.getElementById(hash.slice(1)) : null;
  if (target && overviewElement.contains(target)) {
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }
}

function decodedName(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function footer() {
  return [
    h(
      "p",
      {},
      "Curves by Chart.js (MIT licence, in the source of this page). Pictures under the slider are the files of the codecs " +
        "themselves where browsers read them, else AVIF 4:4:4 of high quality. Crops are cut out of those files or lossless.",
    ),
  ];
}

overviewElement.append(...overview());
document.getElementById("footer").append(...footer());
window.addEventListener("hashchange", route);
route();
document.documentElement.dataset.ready = "true";
