// What the reader has chosen, shared by all charts and tables; whoever shows it listens.

const state = {
  metric: results.metrics[0] ?? "psnr",
  logRate: true,
  logMetric: false,
  maxBpp: null, // null: all of it
  hidden: new Set(), // names of codecs
};

// [element, listener]: a listener lives as long as its element is part of the page.
let listeners = [];

function update(changes) {
  Object.assign(state, changes);
  listeners = listeners.filter(([element]) => element.isConnected);
  for (const [, listener] of listeners) listener();
}

function listen(element, listener) {
  listeners.push([element, listener]);
}

themeButton.addEventListener("click", () => {
  chooseTheme(isDark() ? "light" : "dark");
  showTheme();
  update({});
});
systemIsDark.addEventListener("change", () => {
  showTheme();
  update({});
});
showTheme();
