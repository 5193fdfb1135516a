// Tables in [data-sortable]: a click on a column's name sorts, a text field filters.
// Lines stay in their group, as measured and published figures are not to be mixed. Without this
// script the tables are as they were written.
"use strict";
for (const table of document.querySelectorAll("[data-sortable] table")) {
  const groups = [...table.tBodies];
  const lines = (group) => [...group.rows].filter((row) => !row.classList.contains("of"));
  const names = [...table.tHead.rows[0].cells];

  const sort = (column, ascending) => {
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      return column ? parseFloat(text) : text.toLowerCase();
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // "–" last
      return (x < y ? -1 : x > y ? 1 : 0) * (ascending ? 1 : -1);
    };
    for (const group of groups) group.append(...lines(group).sort(compare));
  };

  names.forEach((name, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    name.append(button);
    button.addEventListener("click", () => {
      const before = name.getAttribute("aria-sort");
      const ascending = before ? before === "descending" : column === 0;
      for (const other of names) other.removeAttribute("aria-sort");
      name.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(column, ascending);
    });
  });

  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  field.type = "search";
  label.append("Filter ", field, " ", count);
  table.before(label);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let shown = 0;
    for (const group of groups) {
      for (const row of lines(group)) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        shown += row.hidden ? 0 : 1;
      }
      group.hidden = lines(group).every((row) => row.hidden);
    }
    count.textContent = wanted ? `${shown} line${shown === 1 ? "" : "s"}` : "";
  });
}
