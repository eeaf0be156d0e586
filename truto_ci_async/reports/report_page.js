"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const narrow = matchMedia("(max-width: 40rem)");
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

  // --- charts ---------------------------------------------------------------------------------------------------

  const views = {};
  // The color of the text around it: so it follows the theme, and is black on paper.
  const text = { labelColor: "currentColor", titleColor: "currentColor" };

  async function draw(id, spec, caption) {
    const figure = $(id).closest("figure");
    figure.hidden = !spec;
    if (!spec) return;
    const title = document.createElement("span");
    title.textContent = caption.text;
    const note = document.createElement("small");
    note.textContent = caption.note;
    $("c-" + id).replaceChildren(title, note);
    if (views[id]) views[id].finalize();
    // ast: expressions are interpreted, so that no code is made from text. The policy of the page forbids that too.
    views[id] = await vegaEmbed($(id), spec, {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true,
      config: {
        background: "transparent", view: { stroke: "transparent" },
        axis: { ...text, titleFontSize: narrow.matches ? 9 : 11, domainColor: "currentColor", tickColor: "currentColor", gridColor: "rgba(128,128,128,.25)" },
        axisY: { labelLimit: narrow.matches ? 90 : 180 },
        legend: { ...text, orient: narrow.matches ? "bottom" : "right", columns: 1 },
      },
    });
    $(id).removeAttribute("aria-roledescription");
    $(id).setAttribute("role", "img");
    $(id).setAttribute("aria-label", caption.text + ". " + caption.note);
    $(id).querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
  }

  function chart(id, name) {
    const found = data.charts[name];
    return draw(id, found && found.spec, found && found.caption);
  }

  function compare(x, y) {
    const found = data.charts.compare;
    if (!found || x === y) return draw("compare", null);
    const spec = structuredClone(found.spec);
    for (const [channel, metric] of [["x", x], ["y", y]]) {
      spec.encoding[channel].field = metric;
      spec.encoding[channel].title = metric;
    }
    spec.encoding.tooltip = ["person", "window", x, y].map((field) => ({ field }));
    return draw("compare", spec, { text: `${y} against ${x}`, note: found.caption.note });
  }

  function drawAll() {
    const metric = $("metric").value;
    chart("distribution", "distribution " + metric);
    chart("over_time", "over_time " + metric);
    chart("groups", "groups " + metric);
    chart("coverage", "coverage");
    compare(metric, $("against").value);
  }

  for (const id of ["metric", "against"]) {
    for (const name of data.metrics) $(id).add(new Option(name, name));
    $(id).addEventListener("change", drawAll);
  }
  if (data.metrics.length > 1) $("against").selectedIndex = 1;
  $("choice").hidden = !data.metrics.length;
  $("against").parentElement.hidden = data.metrics.length < 2;
  narrow.addEventListener("change", drawAll);
  drawAll();

  // --- people ---------------------------------------------------------------------------------------------------

  const ROWS = 50;
  const isNumber = data.people.columns.map((_, at) => data.people.rows.some((row) => typeof row[at] === "number"));
  let shown = data.people.rows, start = 0, sorted = -1, direction = 1;

  $("people-note").textContent = data.people.note;

  data.people.columns.forEach((name, at) => {
    const head = document.createElement("th");
    head.scope = "col";
    if (isNumber[at]) head.className = "number";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => sort(at));
    head.append(button);
    $("table").tHead.append(head);
  });
  const row = document.createElement("tr");
  row.append(...$("table").tHead.children);
  $("table").tHead.append(row);

  function sort(at) {
    direction = sorted === at ? -direction : isNumber[at] ? -1 : 1;
    sorted = at;
    [...row.children].forEach((head, each) => {
      if (each === at) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    search();
  }

  function search() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = data.people.rows.filter((each) => {
      const text = each.filter((value) => typeof value === "string").join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (sorted >= 0) {
      shown = shown.slice().sort((a, b) => {
        const [x, y] = [a[sorted], b[sorted]];
        if (x === null || y === null) return (x === null) - (y === null);
        return direction * (typeof x === "number" ? x - y : x.localeCompare(y));
      });
    }
    start = 0;
    show();
  }

  function show() {
    const rows = shown.slice(start, start + ROWS).map((each) => {
      const line = document.createElement("tr");
      each.forEach((value, at) => {
        const cell = document.createElement("td");
        if (isNumber[at]) cell.className = "number";
        const text = document.createElement("bdi");
        text.textContent = value === null ? "\u2013" : typeof value === "number" ? number.format(value) : value;
        cell.append(text);
        line.append(cell);
      });
      return line;
    });
    $("table").tBodies[0].replaceChildren(...rows);
    const end = Math.min(start + ROWS, shown.length);
    $("place").textContent = shown.length ? `${start + 1} to ${end} of ${shown.length.toLocaleString("en")}` : "none";
    $("back").disabled = start === 0;
    $("next").disabled = end === shown.length;
  }

  function download(name, columns, rows) {
    // A leading quote keeps a spreadsheet from taking text for a formula.
    const cell = (value) => {
      if (value === null) return "";
      if (typeof value === "number") return String(value);
      return '"' + (/^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(value) ? "'" : "") + value.replaceAll('"', '""') + '"';
    };
    const lines = [columns, ...rows].map((each) => each.map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  $("search").addEventListener("input", search);
  $("download").addEventListener("click", () => download("people.csv", data.people.columns, shown));
  if (data.problems.rows.length) {
    $("download-problems").addEventListener("click", () => download("accounts.csv", data.problems.columns, data.problems.rows));
  }
  $("back").addEventListener("click", () => { start -= ROWS; show(); });
  $("next").addEventListener("click", () => { start += ROWS; show(); });
  show();
})();
