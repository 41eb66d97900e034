// Elements, columns and charts of the report; charts are drawn with uPlot.
"use strict";

const FONT = '12px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';
const PRINTED = 680;
const drawn = [];
let printing = false;

// A colour of the page's style, read at each drawing, so that charts follow light and dark mode.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const variantColour = (style) => colour("variant" + style.colour);
const grouped = (number) => Math.round(number).toLocaleString("en");
const compact = (number) => (number >= 1e4 ? +(number / 1e3).toFixed(1) + "k" : grouped(number));

const MINUS = "\u2212";
// An element with text or children in it; properties are set, attributes have names with a dash or "role".
function make(tag, properties = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/-|role|scope/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...inside);
  return element;
}
const signed = (number, digits = 3) => (number < 0 ? MINUS : "+") +
  Math.abs(number).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

// Unpacks columns of `tokens` values, each of these bytes wide; those after the first two are float32.
async function unpack(text, widths, tokens) {
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  let offset = 0;
  return widths.map((width, index) => {
    const bytes = new Uint8Array(tokens * width);
    for (let plane = 0; plane < width; plane++, offset += tokens) {
      for (let row = 0, to = plane; row < tokens; row++, to += width) bytes[to] = planes[offset + row];
    }
    if (index > 1) return new Float32Array(bytes.buffer);
    return width === 4 ? new Uint32Array(bytes.buffer) : width === 2 ? new Uint16Array(bytes.buffer) : bytes;
  });
}

function table(headings, rows, caption) {
  const cell = (tag, column, inside, more = {}) => make(tag, { className: column ? "" : "text title", ...more }, inside);
  const head = headings.map((heading, column) => cell("th", column, heading, { scope: "col" }));
  const body = rows.map((row) => make("tr", {}, ...row.map((inside, column) =>
    cell(column ? "td" : "th", column, inside instanceof Node ? inside : make("bdi", {}, String(inside)),
      column ? { "data-label": headings[column], className: /^(gain|difference)/.test(headings[column]) ? "gain" : "" } : { scope: "row" }))));
  return make("table", {}, ...(caption ? [make("caption", {}, caption)] : []), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

// Returns a function that shows rows in `element`, beside the passage and never over it: at a point, or where the passage
// is in the way, at its right, between `within` from top to bottom. Where there is no room beside the passage, nothing is
// shown over it: the text below it has the same figures.
function tipBeside(element, passage) {
  const narrowest = 200, widest = 416;
  return (rows, x, y, within = [4, innerHeight - 8]) => {
    const { right, bottom } = passage.getBoundingClientRect(), isBeside = innerWidth - right >= narrowest;
    element.hidden = !rows || (!isBeside && x < right && y < bottom);
    if (element.hidden) return;
    element.replaceChildren(...rows.map((row) => make("div", { dir: "auto" }, row)));
    const least = isBeside ? right + 8 : 4;
    element.style.maxWidth = Math.min(widest, innerWidth - least - 8) + "px";
    const box = element.getBoundingClientRect();
    element.style.left = Math.max(least, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    element.style.top = (y + 18 + box.height > within[1] ? Math.max(within[0], y - box.height - 12) : y + 18) + "px";
  };
}

function axis(more) {
  return { stroke: () => colour("ink"), font: FONT, labelFont: FONT, labelSize: 20, size: 56, gap: 4,
    grid: { stroke: () => colour("line"), width: 0.5 }, ticks: { stroke: () => colour("line"), size: 5 }, ...more };
}

// Makes a chart as wide as its element, and resizes it with the element.
function chart(element, height, options, data) {
  const width = () => (printing ? Math.min(PRINTED, element.clientWidth || PRINTED) : Math.max(240, element.clientWidth));
  const made = new uPlot({ width: width(), height, ...options }, data, element);
  const fit = () => { if (width() !== made.width) made.setSize({ width: width(), height }); };
  new ResizeObserver(fit).observe(element);
  drawn.push({ fit, made });
  return made;
}

// On paper charts are as wide as the sheet, in the colours of light mode.
function redrawAll(onPaper = printing) {
  printing = onPaper;
  drawn.forEach(({ fit, made }) => { fit(); made.redraw(false); });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawAll());
matchMedia("print").addEventListener("change", (event) => redrawAll(event.matches));
addEventListener("beforeprint", () => redrawAll(true));
addEventListener("afterprint", () => redrawAll(false));

// Lines of several variants over one axis, each { style, label, values, low, high }; low and high make a band.
function lines(element, { x, series, xLabel, yLabel, log, steps }) {
  const data = [x], inks = [], shown = [{ label: xLabel, value: (u, value) => (value == null ? "" : grouped(value)) }], bands = [];
  for (const { style, label, values, low, high } of series) {
    const value = (u, number) => (number == null ? "" : number.toPrecision(4));
    inks[shown.length] = `var(--variant${style.colour})`;
    shown.push({ label, value, stroke: () => variantColour(style), dash: steps ? [] : style.dashes, width: steps ? 1.2 : 1.8,
      points: { show: false }, paths: steps ? uPlot.paths.stepped({ align: 1 }) : undefined });
    data.push(values);
    if (low) {
      const quiet = { stroke: "transparent", points: { show: false }, class: "u-quiet" };
      bands.push({ series: [data.length + 1, data.length], fill: () => variantColour(style) + "26" });
      shown.push(quiet, quiet);
      data.push(low, high);
    }
  }
  // Each line is labelled at its end too, for colour-blind readers: beside the chart, in up to a quarter of its width.
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = FONT;
  const widest = Math.max(0, ...series.map(({ label }) => pen.measureText(label).width));
  const beside = (u) => (steps ? 14 : Math.ceil(Math.min(widest + 12, u.width / 4)));
  function fitted(label, room) {
    if (pen.measureText(label).width <= room) return label;
    const letters = [...label];
    while (letters.length > 1 && pen.measureText(letters.join("") + "\u2026").width > room) letters.pop();
    return letters.join("") + "\u2026";
  }
  function names(u) {
    const ends = series.map(({ style, label, values }) => ({ style, label, y: u.valToPos(values.findLast((value) => value !== null) ?? 0, "y", true) }));
    const apart = 14 * devicePixelRatio;
    ends.sort((a, b) => a.y - b.y).forEach((end, i) => { if (i) end.y = Math.max(end.y, ends[i - 1].y + apart); });
    const over = (ends.at(-1)?.y ?? 0) - (u.bbox.top + u.bbox.height);
    u.ctx.save();
    u.ctx.font = FONT.replace("12px", 12 * devicePixelRatio + "px");
    u.ctx.textBaseline = "middle";
    u.ctx.textAlign = "left";
    for (const { style, label, y } of ends) {
      u.ctx.fillStyle = variantColour(style);
      u.ctx.fillText(fitted(label, beside(u) - 8), u.bbox.left + u.bbox.width + 5 * devicePixelRatio, y - Math.max(0, over));
    }
    u.ctx.restore();
  }
  const atEnd = (u) => u.setLegend({ idx: x.length - 1 }, false);
  const ticks = (u, splits) => splits.map((value) => (value == null ? null : compact(value)));
  function marks(u) {
    let before = -1e9;
    return [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4].filter((value) => {
      const x = u.valToPos(value, "x");
      if (value < u.scales.x.min || value > u.scales.x.max || x - before < 36) return false;
      before = x;
      return true;
    });
  }
  return chart(element, 290, {
    // Steps are shares, between 0 and 1.
    scales: { x: { time: false, distr: log ? 3 : 1 }, ...(steps ? { y: { range: [0, 1] } } : {}) },
    axes: [axis({ label: xLabel, values: ticks, size: 34, space: 40, ...(log ? { splits: marks, filter: (u, all) => all } : {}) }),
      axis({ label: yLabel, size: 58 })],
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 6 } },
    // By their names the colours follow light and dark mode, and print.
    legend: { markers: { stroke: (u, index) => inks[index] ?? "transparent" } },
    bands, series: shown, padding: [8, beside, 0, 0],
    // Without a pointer the legend shows the values at the end.
    hooks: { draw: steps ? [] : [names], ready: [atEnd], setLegend: [(u) => { if (u.legend.idx == null) atEnd(u); }] },
  }, data);
}

// The curve over the text. `at(row)` is the difference in a row; `titles` are the articles'; `onClick` gets the clicked
// row and `onHover` the row under the pointer (or null). Returns functions that move the view.
function alongTheText(element, { tokens, starts, titles, at, yLabel, onClick, onHover, marked }) {
  let view = [0, tokens], down = null, panned = null;
  const clamp = (low, high) => {
    const wide = Math.min(tokens, Math.max(Math.min(60, tokens), high - low));
    const first = Math.max(0, Math.min(low, tokens - wide));
    return [first, first + wide];
  };
  function points() {
    const first = Math.floor(view[0]), last = Math.min(tokens - 1, Math.ceil(view[1]) - 1);
    const count = Math.min(1600, last - first + 1), rows = [], values = [];
    for (let i = 0; i < count; i++) {
      const row = count === 1 ? first : Math.round(first + (i * (last - first)) / (count - 1));
      rows.push(row);
      values.push(at(row));
    }
    return [rows, values, values.map((value) => Math.max(0, value)), values.map((value) => Math.min(0, value))];
  }
  const middles = titles.map((title, index) => (starts[index] + starts[index + 1]) / 2);
  function titled(u) {
    let before = -1e9;
    return middles.map((middle, index) => {
      const low = Math.max(starts[index], view[0]), high = Math.min(starts[index + 1], view[1]);
      return low < high ? (low + high) / 2 : null;  // A part of an article is labelled in its middle too.
    }).filter((middle) => {
      if (middle === null || u.valToPos(middle, "x") - before < 15) return false;
      before = u.valToPos(middle, "x");
      return true;
    });
  }
  const articleOf = (row) => starts.findIndex((start, index) => row < starts[index + 1]);
  const line = (u, x, style, width) => {
    u.ctx.fillStyle = style;
    u.ctx.fillRect(Math.round(x), u.bbox.top, width, u.bbox.height);
  };
  const made = chart(element, 430, {
    legend: { show: false }, padding: [6, 14, 0, 4],
    scales: { x: { time: false, range: () => view },
      y: { range: (u, low, high) => uPlot.rangeNum(Math.min(low, 0), Math.max(high, 0), 0.08, true) } },
    axes: [
      axis({ size: 136, rotate: 62, splits: titled, values: (u, rows) => rows.map((row) => titles[articleOf(row)]), grid: { show: false } }),
      axis({ label: yLabel, size: 58 }),
      axis({ scale: "x", side: 0, size: 30, space: 66, label: "tokens read", values: (u, rows) => rows.map(compact), grid: { show: false } }),
    ],
    series: [{}, { stroke: () => colour("ink"), width: 1.3, points: { show: false } },
      { stroke: "transparent", fill: () => colour("better-fill"), fillTo: 0, points: { show: false } },
      { stroke: "transparent", fill: () => colour("worse-fill"), fillTo: 0, points: { show: false } }],
    cursor: { y: false, points: { show: (u, index) => index === 1 && undefined }, drag: { x: true, y: false, setScale: false, dist: 5, click: () => {} },
      bind: { dblclick: () => () => show(0, tokens), mousedown: (u, target, handle) => (event) => {
        down = event.clientX;
        if (event.shiftKey) panned = { x: event.clientX, view };
        else handle(event);
        return null;
      } } },
    hooks: {
      drawAxes: [(u) => {
        const near = u.bbox.width / Math.max(1, starts.filter((s) => s > view[0] && s < view[1]).length) < 4;
        for (const start of near ? [] : starts) {
          if (start > view[0] && start < view[1]) line(u, u.valToPos(start, "x", true), colour("line"), 1);
        }
      }],
      draw: [(u) => {
        const zero = u.valToPos(0, "y", true), [first, end] = marked();
        u.ctx.fillStyle = colour("ink");
        u.ctx.fillRect(u.bbox.left, Math.round(zero), u.bbox.width, 1);
        if (end < view[0] || first > view[1]) return;
        const left = Math.max(u.bbox.left, u.valToPos(first, "x", true));
        const right = Math.min(u.bbox.left + u.bbox.width, u.valToPos(end, "x", true));
        line(u, left, colour("mark"), Math.max(2, right - left));
        line(u, (left + right) / 2 - 1, colour("here"), 2);
      }],
      setSelect: [(u) => {
        if (u.select.width < 5) return;
        const [low, high] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        show(low, high);
      }],
      setCursor: [(u) => onHover(u.cursor.left < 0 ? null : rowAt(u.cursor.left), u)],
    },
  }, points());
  const rowAt = (left) => Math.max(0, Math.min(tokens - 1, Math.floor(made.posToVal(left, "x"))));
  function refresh() { made.setData(points()); }
  function show(low, high) { view = clamp(low, high); refresh(); }
  // Zooms about the displayed passage if it is in view.
  function zoom(factor, around) {
    const here = (marked()[0] + marked()[1]) / 2, visible = here >= view[0] && here < view[1];
    const still = around ?? (visible ? here : (view[0] + view[1]) / 2);
    show(still - (still - view[0]) * factor, still + (view[1] - still) * factor);
  }
  const pan = (share) => show(view[0] + share * (view[1] - view[0]), view[1] + share * (view[1] - view[0]));
  made.over.addEventListener("click", (event) => {
    if (Math.abs(event.clientX - down) < 5 && !event.shiftKey) onClick(rowAt(event.clientX - made.over.getBoundingClientRect().left));
  });
  made.over.addEventListener("wheel", (event) => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
    if (!event.ctrlKey && !event.metaKey && !sideways) return;  // A plain wheel scrolls the page.
    event.preventDefault();
    if (sideways) pan(((event.deltaX || event.deltaY) / 100) * 0.1);
    else zoom(Math.exp(event.deltaY / 400), rowAt(event.clientX - made.over.getBoundingClientRect().left));
  }, { passive: false });
  addEventListener("mousemove", (event) => {
    if (!panned) return;
    const moved = ((panned.x - event.clientX) / made.over.clientWidth) * (panned.view[1] - panned.view[0]);
    show(panned.view[0] + moved, panned.view[1] + moved);
  });
  addEventListener("mouseup", () => { panned = null; });
  return {
    refresh, zoom, pan, redraw: () => made.redraw(false), whole: () => show(0, tokens),
    reveal: (row) => { if (row < view[0] || row >= view[1]) show(row - (view[1] - view[0]) / 2, row + (view[1] - view[0]) / 2); },
  };
}
