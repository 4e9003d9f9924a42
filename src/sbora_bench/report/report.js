// Sorting, searching and copying of the tables, searching of the runs. Without this script the page shows all, in its order.
"use strict";

const NUMBER = /^[+<>\s]*(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)/i;

function numberOf(text) {
  const number = NUMBER.exec(text.replace(/−/g, "-").replace(/,/g, ""));
  return number ? parseFloat(number[1]) : null;
}

// As rows are searched: any case, any minus, and "r=16" for "r = 16".
function searchText(text) {
  return text.toLowerCase().replace(/−/g, "-").replace(/\s*=\s*/g, "=");
}

function order(a, b, asText) {
  if (asText) return a.localeCompare(b, "en", { numeric: true });
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x === null || y === null) return (x === null) - (y === null);
  return x - y;
}

function textOf(cell) {
  return (cell.querySelector(".value") || cell).textContent.trim();
}

function sortable(table) {
  const body = table.tBodies[0];
  const groups = [...table.tBodies].map((group) => [group, [...group.rows]]);
  const rows = groups.flatMap(([, inGroup]) => inGroup);
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const before = title.getAttribute("aria-sort");
      const now = before === null ? "ascending" : before === "ascending" ? "descending" : null;
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      if (now === null) {
        groups.forEach(([group, inGroup]) => group.append(...inGroup));
        return;
      }
      title.setAttribute("aria-sort", now);
      const asText = title.classList.contains("text");
      const known = (row) => asText || numberOf(textOf(row.cells[column])) !== null;
      const sign = now === "ascending" ? 1 : -1;
      const sorted = [...rows].sort((a, b) => {
        const swap = known(a) && known(b) ? sign : 1; // what has no number stays last
        return swap * order(textOf(a.cells[column]), textOf(b.cells[column]), asText);
      });
      body.append(...sorted);
    });
  });
}

function searchable(place, things, what) {
  const label = document.createElement("label");
  label.className = "search";
  const input = document.createElement("input");
  input.type = "search";
  const count = document.createElement("output");
  label.append(`Search ${what} `, input, count);
  place.before(label);
  input.addEventListener("input", () => {
    const words = searchText(input.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    things.forEach(([thing, text]) => {
      thing.hidden = !words.every((word) => text.includes(word));
      shown += !thing.hidden;
    });
    count.textContent = words.length ? `${shown} of ${things.length}` : "";
  });
}

function withText(things, textIn) {
  return things.map((thing) => [thing, searchText([...textIn(thing).childNodes].map((node) => node.textContent).join(" "))]);
}

document.querySelectorAll("figure.table").forEach((figure) => {
  const table = figure.querySelector("table");
  if (!table.tBodies.length) return;
  sortable(table);
  const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
  searchable(figure.querySelector(".scroll"), withText(rows, (row) => row), "rows");
});

document.querySelectorAll("details.latex").forEach((details) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy as LaTeX";
  button.addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(details.querySelector("pre"));
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C"; // works in a local file
  });
  details.querySelector("summary").after(button);
});

const runs = [...document.querySelectorAll("details.run")];
if (runs.length) searchable(runs[0], withText(runs, (run) => run.querySelector("summary")), "runs");

function targetOf(hash) {
  try {
    return document.getElementById(decodeURIComponent(hash));
  } catch {
    return null; // a link that was cut off: "%2"
  }
}

function openTarget() {
  const target = targetOf(location.hash.slice(1));
  if (target === null) return;
  target.hidden = false; // though a search had left it out
  for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) {
    part.hidden = false;
    part.open = true;
  }
  if (target.matches("details, tr")) target.scrollIntoView();
}
window.addEventListener("hashchange", openTarget);
openTarget();
