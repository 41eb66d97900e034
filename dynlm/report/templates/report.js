// The report: a click on the curve shows the words there. All text is set as text, never as HTML.
"use strict";

(async () => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { tokens, variants: labels, starts, articles, texts } = data;
  const BEGINS_WORD = 1, REPEATED = 2;
  const lineEnds = new Set(data.lineEnds);

  // --- The tokens ----------------------------------------------------------------------------------------------------
  const [which, flags, ...nats] = await unpack(byId("columns").textContent, data.widths, tokens);
  byId("columns").remove();
  // Prefix sums, for the mean over any range of rows.
  const sums = nats.map((each) => {
    const sum = new Float64Array(tokens + 1);
    for (let row = 0; row < tokens; row++) sum[row + 1] = sum[row] + each[row];
    return sum;
  });
  const mean = (variant, first, end) => (sums[variant][end] - sums[variant][first]) / (end - first);
  const articleOf = (row) => {
    let low = 0, high = articles.length;
    while (high - low > 1) { const middle = (low + high) >> 1; if (starts[middle] <= row) low = middle; else high = middle; }
    return low;
  };
  const positionOf = (row) => row - starts[articleOf(row)] + articles[articleOf(row)].first;

  // --- The selection ------------------------------------------------------------------------------------------------
  let { lower, higher, window: smoothed } = data, shown = [0, 1], cells = [], current = -1;
  const around = (row) => [Math.max(0, row - ((smoothed - 1) >> 1)), Math.min(tokens, row + (smoothed >> 1) + 1)];
  const perplexity = (variant, row) => Math.exp(mean(variant, ...around(row)));
  const gainOf = (article) => [lower, higher].map((variant) => sums[variant][starts[article + 1]] - sums[variant][starts[article]]).reduce((a, b) => a - b);

  function passageAt(row) {
    const article = articleOf(row), first = starts[article], end = starts[article + 1];
    let start = Math.max(first, Math.min(row - (data.passage >> 1), end - data.passage));
    // It begins with a word, if one begins nearby: not all scripts have spaces.
    for (let back = 0; back < 30 && start - back >= first; back++) {
      if (start - back === first || flags[start - back] & BEGINS_WORD) { start -= back; break; }
    }
    return whole(start, Math.max(row + 1, Math.min(end, start + data.passage)));
  }
  // Extends a passage to whole characters.
  function whole(start, end) {
    const [first, last] = [starts[articleOf(start)], starts[articleOf(start) + 1]];
    while (start > first && which[start] === 0) start--;
    while (end < last && which[end] === 0) end++;
    return [start, end];
  }

  // --- The passage ---------------------------------------------------------------------------------------------------
  function cellsOf(start, end) {
    const made = [];
    let indentation = "";
    for (let row = start; row < end; row++) {
      if (which[row] === 0 && made.length) {
        const last = made[made.length - 1];
        last.lower += nats[lower][row];
        last.higher += nats[higher][row];
      } else {
        const whole = texts[which[row]], own = whole.startsWith(" ") && whole.trim() ? " " : "";
        const endsLine = lineEnds.has(which[row]), startsLine = !made.length || made[made.length - 1].endsLine;
        const space = startsLine && !indentation ? "" : indentation + own;
        // Spaces after an end of line are the next line's indentation.
        const text = endsLine ? whole.slice(own.length).replace(/ +$/, "") : whole.slice(own.length);
        indentation = whole.slice(own.length + text.length);
        made.push({ row, space, text, lower: nats[lower][row], higher: nats[higher][row],
          repeated: Boolean(flags[row] & REPEATED) && text.trim() !== "", endsLine });
      }
    }
    return made;
  }
  function classOf(cell) {
    const step = Math.max(-data.steps, Math.min(data.steps, Math.round(((cell.lower - cell.higher) / data.limits[lower][higher]) * data.steps)));
    return step ? (step > 0 ? "b" : "w") + Math.abs(step) : "z";
  }
  const describe = (cell) => `${labels[lower]}: ${cell.lower.toFixed(3)}, ${labels[higher]}: ${cell.higher.toFixed(3)}, ` +
    `difference ${signed(cell.lower - cell.higher)} nats` + (cell.repeated ? "; the word occurred before in this article" : "");

  function showPassage(start, end) {
    shown = [start, end];
    const article = articleOf(start), { title, number } = articles[article];
    const length = starts[article + 1] - starts[article];
    byId("passage-title").textContent = `Article ${number}: ${title}`;
    byId("why").textContent = reasonOf(start);
    const means = [lower, higher].map((variant) => `${labels[variant]} ${mean(variant, start, end).toFixed(3)}`);
    byId("passage-where").textContent = `Tokens ${grouped(positionOf(start))} to ${grouped(positionOf(end - 1))} of ${grouped(length)}. ` +
      `Nats per token here: ${means.join(", ")}.`;
    cells = cellsOf(start, end);
    const container = byId("tokens"), inside = [];
    cells.forEach((cell, index) => {
      if (cell.space) inside.push(cell.space);
      const token = make("span", { className: `t ${classOf(cell)}${cell.repeated ? " repeated" : ""}` }, cell.text);
      token.dataset.cell = index;
      inside.push(token);
      if (cell.endsLine) inside.push(make("br"));
    });
    container.replaceChildren(...inside);
    Object.assign(container.dataset, { article: number, start: positionOf(start), length: end - start });
    current = -1;
    byId("readout").textContent = "Hover over a token, or step through them with the arrow keys, for both losses.";
    if (byId("as-table").open) tokenTable();
    curve.redraw();
    const slider = byId("curve"), middle = (start + end) >> 1;
    slider.setAttribute("aria-valuenow", middle + 1);
    slider.setAttribute("aria-valuetext", `Article ${number}, ${title}, tokens ${positionOf(start)} to ${positionOf(end - 1)}; ` +
      `difference in perplexity ${signed(perplexity(lower, middle) - perplexity(higher, middle), 2)}`);
    for (const button of document.querySelectorAll("button[data-start]")) {
      button.setAttribute("aria-pressed", +button.dataset.start === start);
    }
  }
  // Why a passage is one of those to begin with; empty for others.
  function reasonOf(start) {
    const gains = articles.map((_, index) => gainOf(index)), article = articleOf(start);
    const extreme = { [gains.indexOf(Math.min(...gains))]: "smallest", [gains.indexOf(Math.max(...gains))]: "largest" }[article];
    const part = articles[article].passages.findIndex(([first, length]) => whole(first, first + length)[0] === start);
    if (!extreme || part < 0) return "";
    const parts = articles[article].passages.length > 1 ? ["The opening", "The middle"] : ["All"], read = positionOf(start);
    return `${parts[part]} of the article` + (articles.length > 1 ? ` with the ${extreme} gain` : "") + ` (${signed(gains[article], 0)} nats in all)` +
      (read ? `, of which ${grouped(read)} tokens were read before.` : ".");
  }
  function tokenTable() {
    byId("as-table").lastElementChild.replaceChildren(table(["token", `${labels[lower]}, nats`, `${labels[higher]}, nats`, "difference", "repeated"],
      cells.map((cell) => [cell.text, cell.lower.toFixed(3), cell.higher.toFixed(3), signed(cell.lower - cell.higher), cell.repeated ? "yes" : ""])));
  }
  function showToken(index, scroll) {
    const tokensShown = byId("tokens").querySelectorAll(".t");
    tokensShown[current]?.classList.remove("current");
    current = Math.max(0, Math.min(cells.length - 1, index));
    tokensShown[current].classList.add("current");
    if (scroll) tokensShown[current].scrollIntoView({ block: "nearest" });
    byId("readout").replaceChildren(make("bdi", {}, cells[current].text), " \u2014 " + describe(cells[current]));
  }
  const tip = tipBeside(byId("tip"), byId("passage"));

  // --- Tables --------------------------------------------------------------------------------------------------------
  function passageButtons(article) {
    const names = articles[article].passages.length > 1 ? ["opening", "middle"] : ["all of it"];
    return make("span", { className: "buttons" }, ...articles[article].passages.map(([start, length], index) => {
      const button = make("button", { type: "button", "aria-label": `${names[index]} of ${articles[article].title}` }, names[index]);
      button.dataset.start = whole(start, start + length)[0];
      button.addEventListener("click", () => { showPassage(...whole(start, start + length)); curve.reveal(start); });
      return button;
    }));
  }
  function showTables() {
    const gains = articles.map((_, index) => gainOf(index)), count = (article) => starts[article + 1] - starts[article];
    const best = gains.indexOf(Math.max(...gains)), worst = gains.indexOf(Math.min(...gains));
    byId("ready").replaceChildren(...[["Gained most", best], ["Gained least", worst]].map(([name, article]) => make("p", { className: "buttons" },
      make("span", {}, `${name}: `, make("bdi", {}, articles[article].title), ` (${signed(gains[article], 0)} nats)`), passageButtons(article))));
    byId("articles").lastElementChild.replaceChildren(table(
      ["article", "passage", "tokens", "gain, nats", "gain, nats/token", ...labels.map((label) => `${label}, nats/token`)],
      articles.map(({ number, title }, index) => [`${number}. ${title}`, passageButtons(index), grouped(count(index)),
        signed(gains[index], 1), signed(gains[index] / count(index), 4),
        ...labels.map((_, variant) => mean(variant, starts[index], starts[index + 1]).toFixed(4))]),
      `Gain: nats of ${labels[lower]} less those of ${labels[higher]}`));
    const changes = data.words.map((word) => ({ ...word, gain: word.nats[lower] - word.nats[higher] }));
    for (const [id, sign, title] of [["gained", 1, "gained most"], ["lost", -1, "lost most"]]) {
      const some = changes.filter((word) => word.gain * sign > 0).sort((a, b) => (b.gain - a.gain) * sign).slice(0, 20);
      byId(id).replaceChildren(table(["word", "times", `${labels[lower]}, nats each`, `${labels[higher]}, nats each`, "gain, nats"],
        some.map((word) => [word.text, grouped(word.count), ...[lower, higher].map((variant) => (word.nats[variant] / word.count).toFixed(3)), signed(word.gain, 1)]),
        `Words on which ${labels[higher]} ${title} over ${labels[lower]}`));
    }
    byId("words-note").textContent = `Nats of ${labels[lower]} less those of ${labels[higher]}, summed over every time the word occurs in the text.`;
    return passageButtons(best).lastElementChild;
  }

  // --- The curve -----------------------------------------------------------------------------------------------------
  const curve = alongTheText(byId("curve"), {
    tokens, starts,
    titles: articles.map(({ title }) => (title.length > 20 ? title.slice(0, 19) + "\u2026" : title)),
    at: (row) => perplexity(lower, row) - perplexity(higher, row),
    yLabel: () => `perplexity(${labels[lower]}) ${MINUS} perplexity(${labels[higher]})`,
    marked: () => shown,
    onClick: (row) => {
      showPassage(...passageAt(row));
      // On a small screen the words are above the curve.
      const { top, bottom } = byId("passage-title").getBoundingClientRect();
      if (bottom < 0 || top > innerHeight - 80) byId("passage").scrollIntoView();
    },
    onHover: (row, plot) => {
      if (row === null) return tip(null);
      const { number, title } = articles[articleOf(row)], [low, high] = [perplexity(lower, row), perplexity(higher, row)];
      const near = cellsOf(...whole(Math.max(starts[articleOf(row)], row - 9), Math.min(starts[articleOf(row) + 1], row + 10)));
      const box = plot.over.getBoundingClientRect();
      tip([`Article ${number}: ${title}`, `token ${grouped(positionOf(row))} of ${grouped(starts[articleOf(row) + 1] - starts[articleOf(row)])}`,
        `perplexity ${labels[lower]} ${low.toFixed(2)}, ${labels[higher]} ${high.toFixed(2)}: ${signed(low - high, 2)}`,
        "\u2026 " + near.map((cell) => cell.space + cell.text).join("").trim() + " \u2026"], box.left + plot.cursor.left, box.top + plot.cursor.top,
        [byId("curve").getBoundingClientRect().top, innerHeight - 8]);
    },
  });
  byId("curve").setAttribute("aria-valuemax", tokens);

  function showPair() {
    const limit = data.limits[lower][higher], nat = `nat${limit === 1 ? "" : "s"}`;
    byId("curve-note").textContent = `Above zero ${labels[higher]} predicts better. Perplexity of the mean loss over ${grouped(smoothed)} tokens. Click on the curve to read the words there.`;
    byId("lower").value = lower;
    byId("higher").value = higher;
    byId("key-worse").textContent = `${labels[higher]} worse by \u2265 ${limit} ${nat}`;
    byId("key-better").textContent = `better by \u2265 ${limit} ${nat}`;
    const ready = showTables();
    curve.refresh();
    return ready;
  }

  // --- Controls -----------------------------------------------------------------------------------------------
  function choices(id, options, chosen, choose) {
    byId(id).append(...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
    byId(id).addEventListener("change", () => { choose(+byId(id).value); showPair(); showPassage(...shown); });
  }
  const named = labels.map((label, index) => [index, label]);
  // A variant is never compared with itself: choosing the other one swaps the two.
  choices("lower", named, lower, (chosen) => { [lower, higher] = [chosen, chosen === higher ? lower : higher]; });
  choices("higher", named, higher, (chosen) => { [lower, higher] = [chosen === lower ? higher : lower, chosen]; });
  choices("window", data.windows.map((each) => [each, `${grouped(each)} tokens`]), smoothed, (chosen) => { smoothed = chosen; });
  for (const [id, act] of [["in", () => curve.zoom(0.5)], ["out", () => curve.zoom(2)], ["left", () => curve.pan(-0.5)],
    ["right", () => curve.pan(0.5)], ["whole", curve.whole]]) byId(id).addEventListener("click", act);

  const keys = {
    ArrowRight: () => step(shown[1] + (data.passage >> 1)), ArrowLeft: () => step(shown[0] - (data.passage >> 1) - 1),
    PageDown: () => open(articleOf(shown[0]) + 1), PageUp: () => open(articleOf(shown[0]) - 1),
    Home: () => open(0), End: () => go(tokens - 1), "+": () => curve.zoom(0.5), "-": () => curve.zoom(2), 0: curve.whole,
  };
  keys.ArrowUp = keys.ArrowRight; keys.ArrowDown = keys.ArrowLeft; keys["="] = keys["+"];
  function step(row) {
    // A step out of the article goes to the start of the next one, or the end of the previous one.
    const [article, target] = [articleOf(shown[0]), articleOf(Math.max(0, Math.min(tokens - 1, row)))];
    let to = row;
    if (row > shown[0]) to = shown[1] < starts[article + 1] ? Math.min(row, starts[article + 1] - 1) : target === article ? row : starts[article + 1];
    else to = shown[0] > starts[article] ? Math.max(row, starts[article]) : Math.min(row, Math.max(0, starts[article] - 1));
    go(Math.max(0, Math.min(tokens - 1, to)));
  }
  const open = (article) => go(starts[Math.max(0, Math.min(articles.length - 1, article))]);
  function go(row) {
    showPassage(...passageAt(row));
    curve.reveal(row);
  }
  byId("curve").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("tokens").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    showToken(current + move, true);
  });
  byId("tokens").addEventListener("pointermove", (event) => {
    const token = event.target.closest(".t");
    if (!token) return tip(null);
    const cell = cells[token.dataset.cell];
    if (+token.dataset.cell !== current) showToken(+token.dataset.cell);
    tip([cell.text, `${labels[lower]}: ${cell.lower.toFixed(3)} nats`, `${labels[higher]}: ${cell.higher.toFixed(3)} nats`,
      `difference ${signed(cell.lower - cell.higher)}`, ...(cell.repeated ? ["occurred before in this article"] : [])], event.clientX, event.clientY);
  });
  for (const id of ["tokens", "curve"]) byId(id).addEventListener("pointerleave", () => tip(null));
  byId("as-table").addEventListener("toggle", () => { if (byId("as-table").open) tokenTable(); });

  // --- The other charts ----------------------------------------------------------------------------------------------
  const { position } = data, band = (curves, variant) => ({ style: data.styles[variant], label: labels[variant], values: curves[variant].mean,
    ...(curves[variant].low.some((value) => value !== null) ? { low: curves[variant].low, high: curves[variant].high } : {}) });
  const everyVariant = labels.map((_, variant) => variant);
  lines(byId("position-loss"), { x: position.tokens, log: true, xLabel: "position in the article, tokens", yLabel: "nats per token",
    series: everyVariant.map((variant) => band(position.loss, variant)) });
  lines(byId("position-gain"), { x: position.tokens, log: true, xLabel: "position in the article, tokens", yLabel: `nats per token below ${labels[data.lower]}`,
    series: everyVariant.filter((variant) => variant !== data.lower).map((variant) => band(position.gain, variant)) });
  if (position.near.length) {
    lines(byId("position-near"), { x: position.tokens, log: true, xLabel: "position in the article, tokens", yLabel: "nats per token, difference",
      series: position.near.map(({ worse, better, mean, low, high }) => ({ style: data.styles[better], label: `${labels[worse]} ${MINUS} ${labels[better]}`,
        values: mean, ...(low.some((value) => value !== null) ? { low, high } : {}) })) });
  }
  for (const [name, yLabel] of [["distance", "distance from \u03b8\u2080, relative"], ["reset", "moved back to \u03b8\u2080, share"]]) {
    const there = data.memory.filter((one) => one[name]);
    if (there.length && byId("memory-" + name)) {
      lines(byId("memory-" + name), { x: there[0].row, xLabel: "tokens read", yLabel, steps: name === "reset",
        series: there.map((one) => ({ style: data.styles[one.variant], label: labels[one.variant], values: one[name] })) });
    }
  }

  showPair().click();
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
})().catch((error) => {
  const failed = document.getElementById("failed");
  failed.hidden = false;
  failed.textContent = `The curves cannot be shown in this browser (${error.message}); one of 2023 or later can.`;
  throw error;
});
