// Tables in [data-sortable]: a click on a column's name sorts, a text field filters by its words.
// Lines stay in their group, as measured and published figures are not to be mixed. Without this
// script the tables are as they were written.
"use strict";
for (const table of document.querySelectorAll("[data-sortable] table")) {
  const groups = [...table.tBodies];
  const lines = (group) => [...group.rows].filter((row) => !row.classList.contains("of"));
  const names = [...table.tHead.rows[0].cells];

  const numeric = names.map((name) => /^[USH]$/.test(name.textContent));
  const sort = (column, ascending) => {
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      const known = numeric[column] ? parseFloat(text) : text.toLowerCase();
      return Number.isNaN(known) || known === "–" ? null : known;
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // "–" last
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
      const ascending = before ? before === "descending" : !numeric[column];
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
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of groups) {
      for (const row of lines(group)) {
        const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      group.hidden = lines(group).every((row) => row.hidden);
    }
    count.textContent = wanted.length ? `${shown} line${shown === 1 ? "" : "s"}` : "";
  });
}
