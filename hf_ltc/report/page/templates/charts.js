
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false };
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
// More classes than these have no room for their names, or for a line of their own.
const NAMED = 25;
// And more than these have none for a strip.
const STRIPS = 300;
const FINE = matchMedia('(pointer: fine)');
const BINS = data.histogram.edges.length - 1;
const histogram = { every: unpacked(data.histogram.every), kept: unpacked(data.histogram.kept) };

function colors() {
  const css = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => css.getPropertyValue(`--${String(name)}`).trim() });
}

function faded(color, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

function layout(extra) {
  const c = colors();
  const axis = {
    gridcolor: c.grid, linecolor: c.line, zerolinecolor: c.grid, tickcolor: c.line, automargin: true, fixedrange: true,
  };
  return {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: { family: FONT, size: 13, color: c.text },
    margin: { l: 50, r: 12, t: 10, b: 46 }, hovermode: 'closest', dragmode: false,
    legend: { orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: { size: 12 }, traceorder: 'normal' },
    hoverlabel: { bgcolor: c.surface, bordercolor: c.line, font: { color: c.text, family: FONT } },
    ...extra,
    xaxis: { ...axis, ...extra.xaxis },
    yaxis: { ...axis, ...extra.yaxis },
  };
}

const shownClasses = () => (state.number < 0 ? present : [state.number]);

function keptChart(target) {
  const c = colors();
  const numbers = shownClasses();
  const kept = numbers.map((number) => data.kept[state.budget][number]);
  const rest = numbers.map((number, i) => data.total[number] - kept[i]);
  const named = numbers.length <= NAMED;
  const names = numbers.map((number) => drawn(nameOf(number), named ? 18 : 40));
  const place = numbers.map((_, i) => i);
  const hover = names.map((text, i) => `${text}: ${whole(kept[i])} of ${whole(kept[i] + rest[i])} kept`);
  const bars = (values, title, color) => ({
    type: 'bar', name: title, marker: { color }, orientation: named ? 'h' : 'v', text: hover, textposition: 'none',
    hoverinfo: 'text', customdata: numbers, x: named ? values : place, y: named ? place : values,
  });
  const labels = { tickvals: named ? place : [], ticktext: names, showgrid: false };
  const counts = { title: { text: 'rows' }, tickformat: ',d' };
  target.style.height = named ? `${110 + 26 * numbers.length}px` : '300px';
  Plotly.react(target, [bars(kept, 'kept', c.kept), bars(rest, 'dropped', c.dropped)], layout({
    barmode: 'stack', bargap: named ? 0.28 : 0.12,
    xaxis: named ? counts : { ...labels, title: { text: `${numbers.length} classes` } },
    yaxis: named ? { ...labels, autorange: 'reversed' } : counts,
  }), CONFIG);
  table('kept-table', ['class', 'kept', 'rows', 'share'], numbers.map((number, i) =>
    [nameOf(number), whole(kept[i]), whole(data.total[number]), percent(kept[i] / data.total[number])]));
}

// A line of hills, one for each class, of which the part that is kept is filled.
function scoresChart(target) {
  const c = colors();
  const { edges, lines } = data.histogram;
  const all = data.names.length;
  const numbers = shownClasses().length > STRIPS ? [all] : [...shownClasses()];
  const title = (number, most) => (number === all ? 'all classes' : drawn(nameOf(number), most));
  const middle = edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
  const line = (counts, at) => Array.from(counts.subarray(at * BINS, (at + 1) * BINS));
  // Of many classes what is kept is on the page for all together only.
  const keptOf = (number) => {
    if (lines > 1) return line(histogram.kept, state.budget * lines + number);
    return number === all ? line(histogram.kept, state.budget) : null;
  };
  if (numbers.length > NAMED) {
    const mean = (number) => {
      const counts = line(histogram.every, number);
      return counts.reduce((sum, count, i) => sum + count * middle[i], 0) / Math.max(1, counts.reduce((sum, count) => sum + count, 0));
    };
    numbers.sort((one, other) => mean(other) - mean(one));
    const z = numbers.map((number) => {
      const counts = line(histogram.every, number);
      const most = Math.max(1, ...counts);
      return counts.map((count) => count / most);
    });
    target.style.height = `${Math.min(900, 140 + 7 * numbers.length)}px`;
    Plotly.react(target, [{
      type: 'heatmap', x: middle, y: numbers.map((_, i) => i), z, colorscale: [[0, c.surface], [1, c.kept]], showscale: false,
      text: numbers.map((number) => middle.map(() => title(number, 40))), hovertemplate: '%{text}<br>score %{x:.2f}<extra></extra>',
    }], layout({
      xaxis: { title: { text: 'score' } },
      yaxis: { showgrid: false, tickvals: [], title: { text: `${numbers.length} classes by mean score` }, autorange: 'reversed' },
    }), CONFIG);
    return;
  }
  const traces = [];
  numbers.forEach((number, i) => {
    const base = -i;
    const every = line(histogram.every, number);
    const kept = keptOf(number);
    const most = Math.max(1, ...every) / 0.92;
    const floor = { x: middle, y: middle.map(() => base), mode: 'lines', line: { width: 0 }, hoverinfo: 'skip', showlegend: false };
    const hill = (counts, color, part) => ({
      x: middle, y: counts.map((count) => base + count / most), mode: 'lines', fill: 'tonexty', fillcolor: color,
      line: { color, width: 0, shape: 'hvh' }, name: part, showlegend: i === 0,
      text: counts.map((count) => `${title(number, 40)}: ${whole(count)} ${part}`), hoverinfo: 'text',
    });
    traces.push(floor, hill(every, faded(c.dropped, 0.8), 'all rows'));
    if (kept !== null) traces.push(floor, hill(kept, faded(c.kept, 0.9), 'kept'));
  });
  target.style.height = `${120 + numbers.length * Math.max(38, Math.min(180, Math.round(400 / numbers.length)))}px`;
  Plotly.react(target, traces, layout({
    xaxis: { title: { text: 'score' } },
    yaxis: { tickvals: numbers.map((_, i) => -i), ticktext: numbers.map((number) => title(number, 18)), range: [-numbers.length + 0.9, 1.05], zeroline: false },
  }), CONFIG);
}

function mapChart(target) {
  const c = colors();
  const places = data.points.filter((place) => state.number < 0 || rows.label[place] === state.number);
  const points = (chosen, extra) => ({
    type: 'scatter', mode: 'markers', x: chosen.map((place) => rows.variability[place]),
    y: chosen.map((place) => rows.probability[place]), customdata: chosen, hoverinfo: 'none', ...extra,
    marker: { size: places.length > 1500 ? 5 : 7, opacity: 0.75, line: { width: 0 }, ...extra.marker },
  });
  let traces;
  if (state.color === 'score') {
    const scored = places.filter((place) => Number.isFinite(rows.score[place]));
    traces = [points(scored, {
      showlegend: false,
      marker: {
        color: scored.map((place) => rows.score[place]), colorscale: 'Viridis',
        colorbar: { title: { text: 'score' }, thickness: 12, outlinewidth: 0, len: 0.9 },
      },
    })];
  } else if (state.color === 'kept') {
    const parts = [['dropped', (place) => !isKept(place), c.dropped], ['kept', isKept, c.kept]];
    traces = parts.map(([title, test, color]) => points(places.filter(test), { name: title, marker: { color } }));
  } else {
    const shades = { 'label issue': c.issue, 'shared with validation': c.shared, conflicting: c.conflict, 'near-duplicate': c.duplicate, ambiguous: c.ambiguous };
    traces = [...data.kinds.keys()].reverse().map((kind) => points(
      places.filter((place) => rows.kind[place] === kind), { name: data.kinds[kind], marker: { color: shades[data.kinds[kind]] ?? c.dropped } },
    ));
  }
  Plotly.react(target, traces, layout({
    // Zoomed by dragging where that does not scroll the page.
    showlegend: state.color !== 'score', dragmode: FINE.matches ? 'zoom' : false, uirevision: state.number,
    xaxis: { title: { text: 'variability of the label’s probability' }, rangemode: 'tozero', fixedrange: !FINE.matches },
    yaxis: { title: { text: 'mean probability of the label' }, range: [-0.03, 1.03], fixedrange: !FINE.matches },
  }), CONFIG).then(() => {
    if (target.dataset.heard) return;
    target.dataset.heard = 'yes';
    target.on('plotly_click', ({ points: [point] }) => openRow(point.customdata, [point.customdata]));
    target.on('plotly_hover', ({ points: [point], event }) => glance(point.customdata, event));
    target.on('plotly_unhover', () => { byId('glance').hidden = true; });
  });
}

function lossesChart(target) {
  const c = colors();
  const { epochs, losses, validation } = data;
  const shades = { kept: c.kept, 'label issues': c.issue, conflicting: c.conflict };
  const titles = { kept: 'kept at 10%', 'label issues': 'label issues', conflicting: 'conflicting' };
  const line = (y, title, color, extra = {}) => ({
    x: epochs, y, name: title, mode: 'lines', line: { color, width: 2.5, ...extra }, hovertemplate: '%{y:.2f}',
  });
  Plotly.react(target, [
    { x: epochs, y: losses.low, mode: 'lines', line: { width: 0 }, hoverinfo: 'skip', showlegend: false },
    { x: epochs, y: losses.high, mode: 'lines', line: { width: 0 }, fill: 'tonexty', fillcolor: faded(c.muted, 0.16), hoverinfo: 'skip', showlegend: false },
    line(losses.mean, 'all rows', c.muted),
    ...Object.entries(losses.parts).map(([part, y]) => line(y, titles[part], shades[part])),
    line(validation, 'validation', c.validation, { dash: 'dash' }),
  ], layout({
    hovermode: 'x unified', xaxis: { title: { text: 'epoch' } }, yaxis: { title: { text: 'loss' }, rangemode: 'tozero' },
  }), CONFIG);
  table('losses-table', ['epoch', 'all rows', ...Object.keys(losses.parts).map((part) => titles[part]), 'validation'],
    epochs.map((epoch, i) => [epoch, short(losses.mean[i]), ...Object.values(losses.parts).map((y) => short(y[i])), short(validation[i])]));
}

function rankingChart(target) {
  const c = colors();
  const { epochs, stability, reliability } = data.ranking;
  const line = (y, title, color, dash) => ({
    x: epochs, y, name: title, mode: 'lines+markers', line: { color, width: 2.5, dash }, marker: { size: 7 }, hovertemplate: '%{y:.2f}',
  });
  const traces = [line(stability, 'stability: with the last ranking', c.muted, 'dot')];
  if (reliability !== null) traces.push(line(reliability, 'reliability: of one run with another', c.kept, 'solid'));
  Plotly.react(target, traces, layout({
    hovermode: 'x unified', showlegend: true, xaxis: { title: { text: 'epochs used' } },
    yaxis: { title: { text: 'Spearman, within classes' }, range: [Math.min(0, ...stability, ...(reliability ?? [])) - 0.06, 1.06] },
  }), CONFIG);
  table('ranking-table', ['epochs used', 'stability', ...(reliability === null ? [] : ['reliability'])],
    epochs.map((epoch, i) => [epoch, short(stability[i]), ...(reliability === null ? [] : [short(reliability[i])])]));
}

const METHOD_COLORS = ['#2a7fb8', '#d9622b', '#2f9e6e', '#a5428f', '#c08a00', '#5b63d3', '#d1457b', '#6b7a8f'];

function accuracyPanels() {
  const models = [...new Set(data.accuracy.map((one) => one.model))];
  const methods = [...new Set(data.accuracy.filter((one) => !one.full).map((one) => one.method))];
  models.forEach((model, number) => {
    const id = `accuracy-${number}`;
    const label = `Line chart: accuracy over budget of ${apart(clipped(model, 60))}`;
    const title = el('h3', {}, bdi(model, 60));
    byId('accuracy').append(el('div', {}, title, el('div', { class: 'chart', id, role: 'img', 'aria-label': label })));
    chart(id, (target) => accuracyChart(target, model, methods));
  });
  const spread = (one) => (one.deviation === null ? '' : ` ± ${(100 * one.deviation).toFixed(1)}`);
  table('accuracy-table', ['rows chosen by', 'model', 'budget', 'rows', 'accuracy (%)', 'seeds'], data.accuracy.map((one) => [
    one.full ? 'full data' : one.method, clipped(one.model, 60), one.full ? '100%' : percent(one.fraction), whole(one.rows),
    `${(100 * one.mean).toFixed(1)}${spread(one)}`, one.n,
  ]));
}

function accuracyChart(target, model, methods) {
  const c = colors();
  const mine = data.accuracy.filter((one) => one.model === model);
  const traces = methods.map((method, i) => {
    const found = mine.filter((one) => one.method === method && !one.full).sort((a, b) => a.fraction - b.fraction);
    const color = method === 'random' ? c.muted : METHOD_COLORS[i % METHOD_COLORS.length];
    return {
      x: found.map((one) => 100 * one.fraction), y: found.map((one) => 100 * one.mean), name: drawn(method, 34),
      error_y: { array: found.map((one) => 100 * (one.deviation ?? 0)), thickness: 1, width: 3, color },
      mode: 'lines+markers', line: { color, width: 2.5, dash: method === 'random' ? 'dash' : 'solid' }, marker: { size: 7 }, hovertemplate: '%{y:.1f}%',
    };
  });
  const full = mine.find((one) => one.full);
  const budgets = [...new Set(mine.filter((one) => !one.full).map((one) => 100 * one.fraction))].sort((a, b) => a - b);
  if (full !== undefined && budgets.length > 0) {
    const ends = budgets.length > 1 ? [budgets[0], budgets[budgets.length - 1]] : [budgets[0] * 0.8, budgets[0] * 1.2];
    traces.push({ x: ends, y: ends.map(() => 100 * full.mean), name: 'full data', mode: 'lines', line: { color: c.validation, width: 1.5, dash: 'dot' }, hovertemplate: '%{y:.1f}%' });
  }
  Plotly.react(target, traces, layout({
    xaxis: { title: { text: 'rows kept (%)' }, tickvals: budgets }, yaxis: { title: { text: 'test accuracy (%)' } },
  }), CONFIG);
}

function trajectoryChart(target, place) {
  const c = colors();
  const { epochs } = data;
  const count = epochs.length;
  const own = epochs.map((_, i) => trajectories[place * count + i]).map((value) => (value === 65535 ? null : data.lowest + (value * data.span) / 65534));
  const label = rows.label[place];
  const ofClass = Array.from(validationClasses.subarray(label * count, (label + 1) * count), (value) => (Number.isFinite(value) ? value : null));
  const line = (y, title, style) => ({ x: epochs, y, name: title, mode: 'lines', line: style, hovertemplate: '%{y:.2f}' });
  Plotly.react(target, [
    line(data.validation, 'validation mean', { color: c.validation, width: 2, dash: 'dash' }),
    line(ofClass, 'validation mean of its class', { color: c.muted, width: 1.5, dash: 'dot' }),
    { ...line(own, 'this row', { color: c.kept, width: 3 }), mode: 'lines+markers', marker: { size: 5 } },
  ], layout({
    hovermode: 'x unified', margin: { l: 46, r: 8, t: 8, b: 42 }, xaxis: { title: { text: 'epoch' } }, yaxis: { title: { text: 'loss' }, rangemode: 'tozero' },
  }), CONFIG);
  const ends = (values) => `${short(values[0])} to ${short(values[values.length - 1])}`;
  target.setAttribute('aria-label', `Line chart: the loss of this row goes from ${ends(own)}, the mean validation loss from ${ends(data.validation)}`);
}
