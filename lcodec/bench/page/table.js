// Tables that sort by a click on a heading. On a phone each row becomes a card with the headings beside the values.

// columns: [{ label, title, value(row) -> what is sorted by, cell(row) -> node or text [the value], numeric, wide }]
// sort: { column: index, descending }
function sortableTable({ caption, columns, rows, sort }) {
  const body = h("tbody");
  const buttons = columns.map((column, index) =>
    h("button", { type: "button", title: column.title, onclick: () => sortBy(index) }, column.label),
  );
  const headings = buttons.map((button, index) =>
    h("th", { scope: "col", class: classesOf(columns[index]).join(" ") }, button),
  );
  let current = sort;

  function sortBy(index) {
    const again = current.column === index;
    current = { column: index, descending: again ? !current.descending : false };
    show();
  }

  function show() {
    headings.forEach((heading, index) => {
      if (index === current.column) heading.setAttribute("aria-sort", current.descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    const value = columns[current.column].value;
    const sorted = [...rows].sort((a, b) => compareValues(value(a), value(b), current.descending));
    body.replaceChildren(...sorted.map(rowElement));
  }

  function rowElement(row) {
    return h(
      "tr",
      {},
      columns.map((column, index) => {
        const content = column.cell ? column.cell(row) : column.value(row);
        const empty = content === "" || content === NONE;
        const attributes = { "data-label": column.label, class: [...classesOf(column), ...(empty ? ["empty"] : [])].join(" ") };
        return index === 0 ? h("th", { ...attributes, scope: "row" }, content) : h("td", attributes, content);
      }),
    );
  }

  show();
  return h(
    "div",
    { class: "table" },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, headings)), body),
  );
}

function classesOf({ numeric, wide }) {
  return [numeric ? "number" : null, wide ? "wide" : null].filter(Boolean);
}

// What is missing comes last in either direction.
function compareValues(a, b, descending) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return descending ? -order : order;
}

function codecCell(codec) {
  return h("span", { class: "codec" }, swatch(codec), labelOf(codec));
}
