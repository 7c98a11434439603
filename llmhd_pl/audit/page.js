// Draws the page from the JSON in #data. Other people's texts only ever become text nodes, never HTML.
"use strict";

const PER_PAGE = 50;
const OTHERS = 20; // of a user's other rows, in the details of one row
const SVG = "http://www.w3.org/2000/svg";

// Elements

function make(tag, attributes = {}, ...children) {
  const element = tag === "svg" || attributes.svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "svg") continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null)); // a string becomes a text node
  return element;
}

// Characters that print nothing, or that change the direction of the rest, are shown as Python writes them. The joiners
// within emoji and within words of some scripts stay.
const UNPRINTABLE = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

function escaped(character) {
  const code = character.codePointAt(0);
  const digits = code.toString(16);
  if (code < 0x100) return "\\x" + digits.padStart(2, "0");
  return code < 0x10000 ? "\\u" + digits.padStart(4, "0") : "\\U" + digits.padStart(8, "0");
}

function printable(text) {
  return String(text).replace(/(?:(?![\u00a0\ufeff])[\s\x1c-\x1f\x85])+/gu, " ").replace(UNPRINTABLE, escaped).trim();
}

function printableLines(text) {
  return String(text).split(/\r?\n/).map(printable).join("\n").trim();
}

// Isolated, so that a text in one direction does not turn what stands beside it.
function isolated(text, attributes = {}) {
  return make("bdi", attributes, printable(text));
}

// Numbers

function count(number) {
  return number.toLocaleString("en-US");
}

function percent(share) {
  if (Number.isNaN(share)) return "";
  if (share > 0 && share < 0.001) return "under 0.1\u00a0%";
  if (share < 1 && share > 0.999) return "over 99.9\u00a0%";
  const near = share > 0 && share < 1 && (share < 0.0095 || share >= 0.995);
  return (100 * share).toFixed(near ? 1 : 0) + "\u00a0%";
}

function numberText(column, value) {
  if (Number.isNaN(value)) return "";
  if (column.percent) return percent(value);
  return column.digits ? value.toFixed(column.digits) : count(value);
}

// The explorer: one table of many rows, of which only a page is in the document.
//
// A "number" column has a value for each row. A "coded" column has a code for each row, which is a place in the entries
// of its table: their texts, perhaps their ids and their fields. A "sentence" says a number column in words.

class Explorer {
  constructor(spec, number) {
    this.spec = spec;
    this.id = "explorer" + number;
    this.columns = new Map(spec.columns.map((column) => [column.name, column]));
    for (const column of spec.columns) {
      if (column.kind === "number") column.values = Float64Array.from(column.values, (value) => value ?? NaN);
      if (column.kind === "coded") {
        column.codes = Int32Array.from(column.codes);
        column.entries = spec.tables[column.table];
      }
    }
    this.order = Int32Array.from({ length: spec.length }, (_, row) => row);
    this.shown = this.order;
    this.selected = new Uint8Array(spec.length);
    this.selectedCount = 0;
    this.sorted = { ...spec.sorted };
    this.term = "";
    this.filters = new Map(); // by the key of the input: what a row must fulfil
    this.only = new Map(); // by the name of a coded column: the one code that is shown
    this.open = -1; // the row whose details are shown
    this.page = 0;
    this.rowsByCode = new Map();
    this.build();
    this.sort();
    this.refresh();
  }

  // What a cell says

  text(column, row) {
    const text = printable(column.entries.texts[column.codes[row]]);
    if (text) return text;
    return column.entries.ids ? `(no title) ${printable(column.entries.ids[column.codes[row]])}` : "\u2013";
  }

  cell(column, row) {
    if (column.kind === "number") return numberText(column, column.values[row]);
    if (column.kind === "sentence") {
      const value = this.columns.get(column.of).values[row];
      return Number.isNaN(value) ? column.missing : `${percent(value)} ${column.text}`;
    }
    const text = this.text(column, row);
    const code = column.codes[row];
    if (column.tones) return make("span", { class: "badge " + column.tones[code] }, text);
    const shown = make("bdi", { class: "clamp", title: text.length > 60 ? text.slice(0, 500) : undefined }, text);
    if (!column.link) return shown;
    return make("button", { class: "plain", title: `Show only ${column.label.toLowerCase()} ${text.slice(0, 100)}`, onclick: () => this.showOnly(column, code) }, shown);
  }

  // Rows: search, filters, order

  // For each entry of a coded column whether a word occurs in it.
  matching(column, word) {
    const { texts, ids, fields } = column.entries;
    column.entries.folded ??= Array.from(texts, (text, code) => {
      const parts = [text, ids?.[code] ?? "", ...(fields?.[code] ?? []).map((field) => field[1])];
      return fold(parts.join("\n"));
    });
    return Uint8Array.from(column.entries.folded, (text) => (text.includes(word) ? 1 : 0));
  }

  matches() {
    const conditions = [...this.filters.values()];
    for (const [name, code] of this.only) {
      const { codes } = this.columns.get(name);
      conditions.push((row) => codes[row] === code);
    }
    const coded = this.spec.columns.filter((column) => column.kind === "coded");
    for (const word of fold(this.term).split(/\s+/u).filter(Boolean)) { // every word must occur somewhere in the row
      const flags = coded.map((column) => [column.codes, this.matching(column, word)]);
      conditions.push((row) => flags.some(([codes, flag]) => flag[codes[row]]));
    }
    return conditions.length ? this.order.filter((row) => conditions.every((holds) => holds(row))) : this.order;
  }

  sort() {
    const { column: name, descending } = this.sorted;
    const column = this.columns.get(name);
    const sign = descending ? -1 : 1;
    let values = column.values;
    if (column.kind === "coded") { // the place of each entry in the alphabet
      column.entries.places ??= places(column.entries.texts);
      values = Float64Array.from(column.codes, (code) => column.entries.places[code]);
    }
    this.order = Int32Array.from({ length: this.spec.length }, (_, row) => row).sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === y) return a - b;
      if (Number.isNaN(x)) return Number.isNaN(y) ? a - b : 1; // no number comes last in either order
      if (Number.isNaN(y)) return -1;
      return sign * (x - y);
    });
  }

  sortBy(column) {
    const same = this.sorted.column === column.name;
    this.sorted = { column: column.name, descending: same ? !this.sorted.descending : column.kind === "number" };
    this.sort();
    this.refresh();
  }

  showOnly(column, code) {
    this.only.set(column.name, code);
    this.open = -1;
    this.refresh();
    this.table.focus();
  }

  // Set inputs of filters from elsewhere on the page; all other restrictions go.
  show(values) {
    for (const input of this.inputs) input.value = "";
    this.term = "";
    this.filters.clear();
    this.only.clear();
    this.onlySelected.checked = false;
    for (const [key, value] of Object.entries(values)) {
      const input = this.inputs.find((one) => one.dataset.key === key);
      input.value = value;
      input.dispatchEvent(new Event("input"));
    }
    this.refresh();
    this.section.scrollIntoView();
    this.table.focus({ preventScroll: true });
  }

  refresh(page = 0) {
    this.shown = this.matches();
    this.page = page;
    this.draw();
  }

  // Selection and export

  select(rows, on) {
    for (const row of rows) {
      this.selectedCount += on - this.selected[row];
      this.selected[row] = on;
    }
    this.onlySelected.checked ? this.refresh(this.page) : this.draw();
  }

  csv() {
    const lines = [this.spec.columns.flatMap((column) => (column.csv ?? []).map(([header]) => header))];
    for (const row of this.order) {
      if (!this.selected[row]) continue;
      lines.push(this.spec.columns.flatMap((column) => (column.csv ?? []).map(([, source]) => {
        if (column.kind === "number") return Number.isNaN(column.values[row]) ? "" : String(column.values[row]);
        return String(column.entries[source][column.codes[row]]);
      })));
    }
    return lines.map((cells) => cells.map(csvCell).join(",") + "\r\n").join("");
  }

  export() {
    const url = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv;charset=utf-8" }));
    make("a", { href: url, download: this.spec.file }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  // The parts that stay

  build() {
    const { spec } = this;
    this.inputs = [];
    const labelled = (label, input, style = "") => {
      this.inputs.push(input);
      return make("label", { class: style }, label, input);
    };
    const search = make("input", { type: "search", placeholder: spec.placeholder, autocomplete: "off", spellcheck: "false" });
    let waiting = 0;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { this.term = search.value; this.refresh(); }, 120);
    });
    const filters = make("div", { class: "filters" }, labelled("Search", search, "search"));
    for (const column of spec.columns) for (const filter of column.filters ?? []) filters.append(this.filter(column, filter, labelled));
    this.onlySelected = make("input", { type: "checkbox", onchange: () => {
      this.filters.delete("selected");
      if (this.onlySelected.checked) this.filters.set("selected", (row) => this.selected[row]);
      this.refresh();
    } });
    this.counter = make("span", { class: "count", role: "status" });
    this.selectAll = make("button", { type: "button", onclick: () => this.select(this.shown, 1) });
    this.clear = make("button", { type: "button", onclick: () => this.select(this.order, 0) }, "Clear selection");
    this.download = make("button", { type: "button", class: "main", onclick: () => this.export() });
    this.reset = make("button", { type: "button", onclick: () => this.show({}) }, "Reset filters");
    this.chips = make("div", { class: "chips" });
    this.head = make("tr");
    this.body = make("tbody");
    this.table = make("table", { class: "rows", tabindex: "-1", "aria-labelledby": this.id }, make("thead", {}, this.head), this.body);
    this.pages = make("nav", { class: "pages", "aria-label": "Pages of " + spec.title });
    this.section = make("section", { class: "card" },
      make("h2", { id: this.id }, spec.title), spec.note ? make("p", { class: "note" }, spec.note) : null,
      filters, this.chips,
      make("div", { class: "bar-of-actions" }, this.counter, this.reset,
        make("label", { class: "inline" }, this.onlySelected, "Only selected"), this.selectAll, this.clear, this.download),
      make("div", { class: "scroll" }, this.table), this.pages);
  }

  filter(column, filter, labelled) {
    const key = `${column.name} ${filter.kind}`;
    let input;
    if (filter.kind === "choice") {
      const options = [make("option", { value: "" }, "all"), ...filter.options.map(([value, text]) => make("option", { value }, printable(text)))];
      input = make("select", { "data-key": key }, ...options);
    } else {
      input = make("input", { type: "number", min: 0, step: "any", inputmode: "decimal", "data-key": key });
    }
    input.addEventListener("input", () => {
      const condition = input.value === "" ? null : this.condition(column, filter.kind, Number(input.value));
      condition ? this.filters.set(key, condition) : this.filters.delete(key);
      this.refresh();
    });
    return labelled(filter.label, input);
  }

  condition(column, kind, given) {
    if (column.kind === "coded") return (row) => column.codes[row] === given;
    const { values } = column;
    const bound = column.percent ? given / 100 : given;
    return {
      above: (row) => values[row] > bound,
      "at least": (row) => values[row] >= bound,
      "at most": (row) => values[row] <= bound,
      choice: (row) => Number.isNaN(values[row]) === !given, // 1: with a number, 0: without
    }[kind];
  }

  // The parts that change

  draw() {
    const { spec, shown } = this;
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    this.page = Math.min(this.page, pages - 1);
    const first = this.page * PER_PAGE;
    this.counter.textContent = `${count(shown.length)} of ${count(spec.length)} ${spec.rows}`;
    this.selectAll.textContent = `Select all ${count(shown.length)} shown`;
    this.selectAll.disabled = !shown.length;
    this.clear.disabled = !this.selectedCount;
    this.download.disabled = !this.selectedCount;
    this.download.textContent = `Export ${count(this.selectedCount)} selected (CSV)`;
    this.chips.replaceChildren(...[...this.only].map(([name, code]) => {
      const column = this.columns.get(name);
      const text = printable(column.entries.texts[code]) || printable(column.entries.ids?.[code] ?? "\u2013");
      return make("button", { type: "button", class: "chip", onclick: () => { this.only.delete(name); this.refresh(); } },
        `Only ${column.label.toLowerCase()} `, make("bdi", {}, text.slice(0, 200)), " \u2715", unseen(" (remove)"));
    }));
    const focused = this.table.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const columns = spec.columns.filter((column) => !column.hidden);
    const rows = Array.from(shown.subarray(first, first + PER_PAGE));
    const all = rows.length > 0 && rows.every((row) => this.selected[row]);
    const tick = make("input", { type: "checkbox", "data-focus": "all", "aria-label": "Select the rows of this page", onchange: () => this.select(rows, all ? 0 : 1) });
    tick.checked = all;
    this.head.replaceChildren(make("th", { class: "tick" }, tick), make("th", { class: "open" }, unseen("Details")),
      ...columns.map((column) => this.header(column)));
    const body = rows.flatMap((row) => (row === this.open ? [this.row(columns, row), this.details(columns, row)] : [this.row(columns, row)]));
    this.body.replaceChildren(...body);
    if (!rows.length) this.body.append(make("tr", {}, make("td", { class: "empty", colspan: columns.length + 2 }, spec.length ? "Nothing matches. Reset the filters to see all." : spec.nothing)));
    const turn = (text, page, label) => make("button", { type: "button", "aria-label": label, disabled: page < 0 || page >= pages || page === this.page, onclick: () => { this.page = page; this.open = -1; this.draw(); } }, text);
    this.pages.hidden = pages === 1;
    this.pages.replaceChildren(turn("\u00ab", 0, "First page"), turn("\u2039 Previous", this.page - 1, "Previous page"),
      make("span", {}, `${count(first + 1)}\u2013${count(first + rows.length)} of ${count(shown.length)}`),
      turn("Next \u203a", this.page + 1, "Next page"), turn("\u00bb", pages - 1, "Last page"));
    if (focused) this.table.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  header(column) {
    const style = `${column.kind === "number" ? "number" : ""} ${column.minor ? "minor" : ""}`;
    if (column.kind === "sentence") return make("th", { class: style, scope: "col" }, column.label);
    const { column: name, descending } = this.sorted;
    const direction = name !== column.name ? undefined : descending ? "descending" : "ascending";
    return make("th", { class: style, scope: "col", "aria-sort": direction },
      make("button", { type: "button", class: "sort", title: column.help, "data-focus": "sort " + column.name, onclick: () => this.sortBy(column) }, column.label));
  }

  row(columns, row) {
    const tick = make("input", { type: "checkbox", "data-focus": "tick " + row, "aria-label": "Select this row", onchange: () => this.select([row], tick.checked ? 1 : 0) });
    tick.checked = Boolean(this.selected[row]);
    const open = make("button", { type: "button", "data-focus": "open " + row, "aria-expanded": String(row === this.open), "aria-label": "Details", onclick: () => {
      this.open = row === this.open ? -1 : row;
      this.draw();
    } });
    return make("tr", { class: this.selected[row] ? "selected" : undefined }, make("td", { class: "tick" }, tick), make("td", { class: "open" }, open),
      ...columns.map((column) => make("td", { class: `${column.kind} ${column.name} ${column.minor ? "minor" : ""}` }, this.cell(column, row))));
  }

  // Details: what is known of the entries of a row, and the other rows of the same user

  details(columns, row) {
    const panel = make("div", { class: "panel" });
    const facts = make("div");
    for (const column of this.spec.columns) {
      const { texts, ids, fields } = column.entries ?? {};
      if (!ids && !fields) continue;
      const code = column.codes[row];
      const list = make("dl");
      const title = ids && !fields ? [["title", texts[code]]] : []; // otherwise it is one of the fields
      for (const [name, text] of [[`${column.name} id`, (ids ?? texts)[code]], ...title, ...(fields?.[code] ?? [])]) {
        list.append(make("dt", {}, isolated(name)), make("dd", {}, make("bdi", {}, printableLines(text))));
      }
      facts.append(make("h3", {}, column.label), list);
      if (!column.link) facts.append(make("p", {}, make("button", { type: "button", class: "plain", onclick: () => this.showOnly(column, code) }, `Show all rows of this ${column.name}`)));
    }
    const whole = (column) => column.kind === "coded" && !column.link && !column.tones && !column.entries.ids && !column.entries.fields;
    const rest = this.spec.columns.filter((column) => whole(column) || column.minor || column.hidden);
    const list = make("dl");
    for (const column of rest) {
      const text = whole(column) ? printableLines(column.entries.texts[column.codes[row]]) : this.cell(column, row);
      list.append(make("dt", {}, column.label), make("dd", {}, make("bdi", {}, text || "none")));
    }
    if (rest.length) facts.append(make("h3", {}, "This row"), list);
    panel.append(facts, this.others(row));
    return make("tr", { class: "details" }, make("td", { colspan: columns.length + 2 }, panel));
  }

  others(row) {
    const user = this.columns.get("user");
    const code = user.codes[row];
    const found = this.sameUser(user, code).filter((other) => other !== row);
    const columns = this.spec.columns.filter((column) => column !== user && !column.hidden && column.kind !== "sentence");
    const heading = make("h3", {}, `Other ${this.spec.rows} of `, isolated(user.entries.texts[code]), ` (${count(found.length)})`);
    if (!found.length) return make("div", {}, heading, make("p", { class: "note" }, "There are none on this page."));
    const style = (column) => (column.kind === "number" ? "number" : column.name);
    const table = make("table", {},
      make("thead", {}, make("tr", {}, ...columns.map((column) => make("th", { class: style(column) }, column.label)))),
      make("tbody", {}, ...Array.from(found.subarray(0, OTHERS), (other) => make("tr", {}, ...columns.map((column) => make("td", { class: style(column) }, this.cell(column, other)))))));
    const more = found.length > OTHERS ? `Show all ${count(found.length + 1)} in the table` : "Show them in the table";
    return make("div", {}, heading, make("div", { class: "scroll" }, table), make("p", {}, make("button", { type: "button", class: "plain", onclick: () => this.showOnly(user, code) }, more)));
  }

  // The rows of a user, in the order of the file: the most suspicious ones first.
  sameUser(user, code) {
    if (!this.rowsByCode.size) {
      user.codes.forEach((one, row) => this.rowsByCode.has(one) ? this.rowsByCode.get(one).push(row) : this.rowsByCode.set(one, [row]));
    }
    return Int32Array.from(this.rowsByCode.get(code));
  }
}

function fold(text) {
  return text.normalize("NFC").toLowerCase();
}

// The place of each text in the alphabet, equal ones sharing theirs.
function places(texts) {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const distinct = [...new Set(texts)].sort((a, b) => collator.compare(a, b));
  const place = new Map(distinct.map((text, index) => [text, index]));
  return Float64Array.from(texts, (text) => place.get(text));
}

// RFC 4180. A spreadsheet would run a text that begins like a formula; an apostrophe before it makes it a text. A plain
// number, such as an id of -5, is no formula.
function csvCell(text) {
  const guarded = /^[=+\-@\t\r]/u.test(text) && !/^[+-]?\d+(\.\d+)?$/u.test(text) ? "'" + text : text;
  return /[",\r\n]|^\s|\s$/u.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}

// For those who hear the page instead of seeing it.
function unseen(text) {
  return make("span", { class: "unseen" }, text);
}

// The picture: how many p-values lie in each of the bins, and how many of them chance would put there

function histogram(spec) {
  const holder = make("div");
  const draw = () => {
    const width = holder.clientWidth || 700;
    const [height, left, right, top, bottom] = [260, 58, 8, 12, 44];
    const most = Math.max(1, spec.high ?? 0, ...spec.counts) * 1.05;
    const x = (share) => left + share * (width - left - right);
    const y = (number) => height - bottom - (number / most) * (height - top - bottom);
    const add = (tag, attributes, ...children) => svg.append(make(tag, { svg: true, ...attributes }, ...children));
    const svg = make("svg", { role: "img", "aria-label": spec.description, viewBox: `0 0 ${width} ${height}` });
    for (const tick of ticks(most)) {
      add("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) });
      add("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, count(tick));
    }
    spec.counts.forEach((number, bin) => {
      const bins = spec.counts.length;
      const title = make("title", { svg: true }, `${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}: ${count(number)}`);
      add("rect", { class: "bar", x: x(bin / bins) + 1, width: Math.max(1, x(1 / bins) - left - 2), y: y(number), height: y(0) - y(number) }, title);
    });
    if (spec.chance !== null) {
      add("rect", { class: "band", x: left, width: width - left - right, y: y(spec.high), height: Math.max(0, y(spec.low) - y(spec.high)) });
      add("line", { class: "chance", x1: left, x2: width - right, y1: y(spec.chance), y2: y(spec.chance) });
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      add("text", { x: x(share), y: height - bottom + 17, "text-anchor": share === 1 ? "end" : "middle" }, String(share));
    }
    add("text", { x: x(0.5), y: height - 8, "text-anchor": "middle" }, width > 520 ? spec.x : spec.shortX);
    holder.replaceChildren(svg);
  };
  new ResizeObserver(draw).observe(holder);
  const legend = [make("span", { class: "bar" }, spec.bars)];
  if (spec.chance !== null) legend.push(make("span", { class: "chance" }, spec.line));
  return make("section", { class: "card" }, make("h2", {}, spec.title), make("p", { class: "note" }, spec.note), holder, make("p", { class: "legend" }, ...legend));
}

// Round numbers from 0 to a bit below the most.
function ticks(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough));
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
}

// Small tables: texts, numbers as they are to be read, and shares with their interval

function smallTable(spec, explorers) {
  const most = Math.max(...spec.rows.flat().filter(Array.isArray).map(([, , high]) => high), 0.01);
  const style = (place) => `${spec.numbers?.includes(place) ? "number" : ""} ${spec.minor?.includes(place) ? "minor" : ""}`;
  const cell = (value, place) => {
    if (!Array.isArray(value)) return make("td", { class: style(place) }, isolated(value));
    const [share, low, high] = value;
    const interval = make("span", { class: "interval", "aria-hidden": "true" }, make("i"), make("b"));
    for (const [name, part] of Object.entries({ low, high, share })) interval.style.setProperty("--" + name, `${(100 * part) / most}%`);
    return make("td", { class: "bar minor" }, interval);
  };
  const show = (row) => (spec.show ? [make("td", {}, make("button", { type: "button", onclick: () => explorers[0].show(spec.show[row]) }, "Show"))] : []);
  const head = spec.columns.map((label, place) => make("th", { scope: "col", class: style(place) }, isolated(label)));
  if (spec.show) head.push(make("th", {}, unseen("Show them")));
  return make("section", { class: "card" }, make("h2", {}, spec.title), spec.note ? make("p", { class: "note" }, spec.note) : null,
    make("div", { class: "scroll" }, make("table", { class: "small" }, make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...spec.rows.map((row, index) => make("tr", {}, ...row.map(cell), ...show(index)))))));
}

function main() {
  const page = JSON.parse(document.getElementById("data").textContent);
  document.title = printable(page.title);
  const explorers = page.explorers.map((spec, number) => new Explorer(spec, number));
  const facts = page.facts.map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, isolated(value))));
  document.getElementById("main").append(
    make("p", { class: "kind" }, isolated(page.title)),
    make("h1", {}, isolated(page.headline)),
    ...page.warnings.map((text) => make("p", { class: "warning" }, isolated(text))),
    ...(page.advice.length ? [make("ul", { class: "advice" }, ...page.advice.map((text) => make("li", {}, isolated(text))))] : []),
    make("dl", { class: "facts" }, ...facts),
    ...(page.histogram ? [histogram(page.histogram)] : []),
    make("div", { class: "pair" }, ...page.tables.map((table) => smallTable(table, explorers))),
    ...explorers.map((explorer) => explorer.section),
    make("footer", {}, "Everything that this page shows is in this one file. It loads nothing and sends nothing. "
      + "Characters that cannot be seen are written as \\x00 or \\u200b, long texts are cut."));
  return explorers;
}

const explorers = main();
