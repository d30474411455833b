// Light or dark: the system's preference until the reader says otherwise, which is remembered where storage is allowed.

const THEME_KEY = "lcodec-bench-theme";
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemIsDark.matches;
}

function storedTheme() {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null;
  }
}

function chooseTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // a page from disk may have no storage; the choice then lasts as long as the page
  }
}

function showTheme() {
  themeButton.setAttribute("aria-pressed", String(isDark()));
}

// Colours that a canvas needs, as the style sheet has them.
function themeColor(name) {
  return getComputedStyle(document.querySelector(`.probe-${name}`)).color;
}

const PALETTE = {
  light: ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569", "#4d7c0f", "#92400e"],
  dark: ["#fb923c", "#7aa2ff", "#4ade80", "#c58bff", "#2dd4ee", "#facc15", "#f472b6", "#a8b4c4", "#a3e635", "#d6a36a"],
};

function colorOf(codec, theme = isDark() ? "dark" : "light") {
  const palette = PALETTE[theme];
  return palette[(codecs.get(codec)?.index ?? 0) % palette.length];
}

// A spot in the colour of a codec, which the style sheet picks by theme.
function swatch(codec) {
  const spot = h("span", { class: "swatch", "aria-hidden": "true" });
  spot.style.setProperty("--light", colorOf(codec, "light"));
  spot.style.setProperty("--dark", colorOf(codec, "dark"));
  return spot;
}

if (["light", "dark"].includes(storedTheme())) document.documentElement.dataset.theme = storedTheme();
