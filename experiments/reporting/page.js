// What needs a script: hovering, arrow keys over marks, legends that toggle, tables that sort and filter.
// All is drawn already: without this script the page is whole. When done, <html> says so:
// data-ready, data-marks (JSON: marks of each kind that lie inside their chart), data-errors (of script and policy).
"use strict";

(() => {
  const root = document.documentElement;
  let errors = 0;
  const count = () => { root.dataset.errors = String(++errors); };
  root.dataset.errors = "0";
  addEventListener("error", count);
  addEventListener("unhandledrejection", count);
  document.addEventListener("securitypolicyviolation", count);

  // -- hovering and arrow keys --

  let pointed = null;

  function showTip(mark) {
    const tip = document.getElementById("tip");
    hideTip();
    pointed = mark;
    mark.classList.add("pointed");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = Math.min(box.right + 10, root.clientWidth - tip.offsetWidth - 8);
    const above = box.top > tip.offsetHeight + 12;
    tip.style.left = `${scrollX + Math.max(8, left)}px`;
    tip.style.top = `${scrollY + (above ? box.top - tip.offsetHeight - 6 : box.bottom + 6)}px`;
  }

  function hideTip() {
    document.getElementById("tip").hidden = true;
    if (pointed) pointed.classList.remove("pointed");
    pointed = null;
  }

  function startChart(chart) {
    const drawing = chart.querySelector(":scope > svg");
    drawing.addEventListener("pointerover", (event) => {
      const mark = event.target.closest("[data-tip]");
      if (mark) showTip(mark);
    });
    drawing.addEventListener("pointerleave", hideTip);
    drawing.addEventListener("blur", hideTip);
    drawing.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hideTip();
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return undefined;
      event.preventDefault();
      const marks = [...drawing.querySelectorAll("[data-tip]")].filter((mark) => !mark.closest(".off"));
      const start = step > 0 ? -1 : marks.length;
      const found = marks.indexOf(pointed);
      const next = marks[(found < 0 ? start : found) + step];
      if (next) showTip(next);
      return undefined;
    });
    for (const button of chart.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        for (const part of drawing.querySelectorAll(`[data-series="${button.dataset.series}"]`)) {
          part.classList.toggle("off", !shown);
        }
      });
    }
  }

  // -- tables --

  function valueOf(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what has no number comes after what has one
    return a.localeCompare(b, undefined, { numeric: true });
  }

  function sortBy(table, heading, column) {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (up ? 1 : -1) * compare(valueOf(a, column), valueOf(b, column)));
    table.tBodies[0].append(...rows);
  }

  function startTable(box) {
    const table = box.querySelector("table");
    for (const button of table.querySelectorAll("th button")) {
      button.addEventListener("click", () => sortBy(table, button.parentElement, Number(button.dataset.column)));
    }
    const field = box.querySelector(".filter");
    if (!field) return;
    const rows = [...table.tBodies[0].rows];
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      const shown = rows.filter((row) => !row.hidden).length;
      box.querySelector(".count").textContent = wanted ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    });
  }

  // -- what was drawn --

  function drawnMarks() {
    const drawn = {};
    const folded = [...document.querySelectorAll("details.task:not([open])")];
    for (const each of folded) each.open = true; // what is folded has no size
    for (const mark of document.querySelectorAll("[data-mark]")) {
      const box = mark.getBoundingClientRect();
      const frame = mark.ownerSVGElement.getBoundingClientRect();
      const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
        && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
      if (inside && box.width + box.height > 0) drawn[mark.dataset.mark] = (drawn[mark.dataset.mark] || 0) + 1;
    }
    for (const each of folded) each.open = false;
    return drawn;
  }

  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details.task, details[data-print]")) each.open = true;
  });

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".chart").forEach(startChart);
    document.querySelectorAll(".table").forEach(startTable);
    root.dataset.marks = JSON.stringify(drawnMarks());
    root.dataset.ready = "true";
  });
})();
