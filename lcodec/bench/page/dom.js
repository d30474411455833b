// Elements. Text always goes in as text, so that no name of a file or codec is ever read as markup.

// h("button", { type: "button", class: "quiet", onclick: f }, "text", node, ...); null, undefined and false are left out.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let lastId = 0;

function newId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

function section(id, title, ...children) {
  const heading = h("h2", { id: `${id}-title` }, title);
  return h("section", { id, "aria-labelledby": heading.id, tabindex: "-1" }, heading, ...children);
}

// One of a few, as buttons beside each other; radio buttons below, so arrow keys work.
function choice(legend, options, selected, onchange) {
  const name = newId("choice");
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, legend),
    options.map(({ value, label }) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name, value, checked: value === selected, onchange: () => onchange(value) }),
        h("span", {}, label),
      ),
    ),
  );
}

function select(label, options, selected, onchange) {
  const id = newId("select");
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    h(
      "select",
      { id, onchange: (event) => onchange(event.target.value) },
      options.map(({ value, label: text }) => h("option", { value, selected: value === selected }, text)),
    ),
  );
}

function checkbox(label, checked, onchange) {
  return h(
    "label",
    { class: "check" },
    h("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) }),
    h("span", {}, label),
  );
}
