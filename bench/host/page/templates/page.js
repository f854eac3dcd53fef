"use strict";
(() => {
  const make = (name, facts = {}, ...children) => {
    const made = Object.assign(document.createElement(name), facts);
    made.append(...children);
    return made;
  };

  // --- tables: sorted by their headings, filtered by a word ---

  // What cannot be read as a number is behind all that can.
  const numberOf = (text) => {
    const value = parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(value) ? null : value;
  };
  const compared = (a, b, isNumber) => {
    if (!isNumber) return a.localeCompare(b, "en", { numeric: true });
    return a - b;
  };
  const sort = (table, column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const isNumber = heading.classList.contains("number");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => {
      const text = row.cells[column].textContent.trim();
      return { row, key: isNumber ? numberOf(text) : text };
    });
    const known = rows.filter(({ key }) => key !== null);
    const unknown = rows.filter(({ key }) => key === null);
    known.sort((a, b) => compared(a.key, b.key, isNumber) * (down ? -1 : 1));
    body.append(...[...known, ...unknown].map(({ row }) => row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll("table[data-sort]")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = make("button", { type: "button" }, heading.textContent);
      heading.replaceChildren(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, column, heading));
    });
  }
  for (const around of document.querySelectorAll("[data-filter]")) {
    const table = around.querySelector("table");
    const rows = [...table.tBodies[0].rows];
    const id = `${table.id}-filter`;
    const input = make("input", { type: "search", id, autocomplete: "off", spellcheck: false });
    const count = make("output", { htmlFor: id });
    count.setAttribute("aria-live", "polite");
    const show = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        if (!row.hidden) shown += 1;
      }
      count.value = `${shown} of ${rows.length} rows`;
    };
    input.addEventListener("input", show);
    const what = make("span", { className: "unseen" }, `: ${around.querySelector("p").textContent}`);
    const label = make("label", { htmlFor: id }, "Filter rows", what);
    const filter = make("div", { className: "filter" }, label, input, count);
    around.querySelector(".scroll").before(filter);
    show();
  }

  // --- files: charts as SVG and PNG, the record, its samples ---

  const save = (name, blob) => {
    const url = URL.createObjectURL(blob);
    const link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  const paper = (figure) => {
    const svg = figure.querySelector(".wide svg").cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(/[\s,]+/).map(Number);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const text = new XMLSerializer().serializeToString(svg);
    // Colours as on white paper, whatever the page is shown in.
    const plain = text.replace(/var\(--[a-z]+, (#[0-9a-f]{6})\)/g, "$1");
    const ground = '<rect width="100%" height="100%" fill="#ffffff"/>';
    return { text: plain.replace(/^(<svg[^>]*>)/, `$1${ground}`), width, height };
  };
  const asPng = ({ text, width, height }) =>
    new Promise((done, failed) => {
      const scale = 3;
      const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
      const image = new Image();
      image.onload = () => {
        const canvas = make("canvas", { width: width * scale, height: height * scale });
        canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
        URL.revokeObjectURL(url);
        canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("no picture"))), "image/png");
      };
      image.onerror = () => failed(new Error("the chart cannot be drawn"));
      image.src = url;
    });
  const formula = /^[=+\-@\t\r]/;
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    // What a spreadsheet would run is a text to it.
    if (typeof value === "string" && formula.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const samples = (record) => {
    const lines = [["run", "backend", "metric", "sample", "process", "order", "milliseconds"]];
    for (const result of record.results) {
      for (const [metric, key] of [["latency", "latency_ms"], ["ttft", "ttft_ms"]]) {
        const taken = result[key];
        if (!taken) continue;
        taken.samples.forEach((value, index) => {
          const at = (list) => (list ? list[index] : null);
          lines.push([
            record.run_id, result.backend, metric, index, at(taken.process), at(taken.order), value,
          ]);
        });
      }
    }
    return lines.map((line) => `${line.map(cell).join(",")}\n`).join("");
  };
  const recordOf = (prefix) => document.getElementById(`${prefix}-record`).textContent;

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-save]");
    if (!button) return;
    const kind = button.dataset.save;
    if (kind === "json") {
      const pretty = `${JSON.stringify(JSON.parse(recordOf(button.dataset.record)), null, 2)}\n`;
      save("record.json", new Blob([pretty], { type: "application/json" }));
    } else if (kind === "csv") {
      const text = samples(JSON.parse(recordOf(button.dataset.record)));
      save("samples.csv", new Blob([text], { type: "text/csv" }));
    } else {
      const figure = button.closest("figure");
      const drawn = paper(figure);
      const blob = kind === "svg" ? new Blob([drawn.text], { type: "image/svg+xml" }) : await asPng(drawn);
      save(`${figure.dataset.name}.${kind}`, blob);
    }
  });
  for (const one of document.querySelectorAll(".saves")) one.hidden = false;

  // On paper nothing can be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
