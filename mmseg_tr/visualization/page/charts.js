// Tokens per layer, and quality against cost.

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(size => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) found.push(+value.toPrecision(12));
  return found;
}

function series() { // per method the mean share of tokens over the parts of every layer
  return data.pictures[state.picture].seen.map(seen => {
    const layers = new Map();
    for (const entry of seen.entries) layers.set(entry.layer, [...(layers.get(entry.layer) || []), entry.tokens / patchesOf(entry)]);
    return new Map([...layers].map(([layer, shares]) => [layer, shares.reduce((sum, share) => sum + share, 0) / shares.length]));
  });
}

function tokenChart() {
  const width = Math.max($('tokens').clientWidth, 200), height = 240, [left, right, top, bottom] = [44, 12, 10, 34];
  const all = series(), x = layer => left + (depth === 1 ? .5 : (layer - 1) / (depth - 1)) * (width - left - right), y = share => top + (1 - share) * (height - top - bottom);
  const every = Math.ceil(depth / Math.max(Math.floor((width - left) / 34), 1));
  let body = [0, .25, .5, .75, 1].map(share => `<line class="axis" x1="${left}" x2="${width - right}" y1="${y(share)}" y2="${y(share)}"/><text x="${left - 8}" y="${y(share) + 4}" text-anchor="end">${100 * share} %</text>`).join('');
  for (let layer = 1; layer <= depth; layer += every) body += `<text x="${x(layer)}" y="${height - 14}" text-anchor="middle">${layer}</text>`;
  body += `<text x="${width - right}" y="${height}" text-anchor="end">layer</text>`;
  body += `<line class="axis marker" x1="${x(state.layer)}" x2="${x(state.layer)}" y1="${top}" y2="${height - bottom}"/>`;
  const order = [...all.keys()].sort((a, b) => (a === state.method) - (b === state.method)); // the chosen one on top
  for (const method of order) {
    const strong = method === state.method ? ' strong' : '', places = [...all[method]].map(([layer, share]) => [x(layer), y(share)]);
    body += `<polyline class="series${strong}" stroke="${color(method)}" points="${places.join(' ')}"/>`;
    if (strong) body += places.map(([px, py]) => `<circle cx="${px}" cy="${py}" r="4" fill="${color(method)}"/>`).join('');
  }
  for (let layer = 1; layer <= depth; layer++) {
    const half = (width - left - right) / Math.max(depth - 1, 1) / 2;
    body += `<rect class="hit" data-layer="${layer}" x="${x(layer) - half}" y="${top}" width="${2 * half}" height="${height - top - bottom}" fill="transparent"/>`;
  }
  const own = [...all[state.method]].map(([layer, share]) => `layer ${layer} ${percent(share)}`).join(', ') || 'nothing merges';
  $('tokens').innerHTML = `<svg role="img" height="${height}" viewBox="0 0 ${width} ${height}" aria-label="Share of tokens per layer, ${escaped(data.methods[state.method].label)}: ${own}">${body}</svg>`;
  $('tokens-note').textContent = `Tokens in per cent of the patches of this picture; ${data.methods[state.method].label} is highlighted. Click a layer to see it above.`;
  const head = `<tr><th>method</th>${Array.from({length: depth}, (_, number) => `<th>${number + 1}</th>`).join('')}</tr>`;
  $('tokens-table').innerHTML = head + data.methods.map((method, number) => `<tr><td>${escaped(method.label)}</td>${Array.from({length: depth}, (_, layer) => `<td>${all[number].has(layer + 1) ? percent(all[number].get(layer + 1)) : ''}</td>`).join('')}</tr>`).join('');
}

$('tokens').addEventListener('click', event => {
  const layer = Number(event.target.dataset.layer);
  if (!layer) return;
  $('layer').value = layer;
  choose('layer', layer);
});

function qualityPlot() {
  if (!data.rows.length) return;
  const key = $('axis').value, width = Math.max($('plot').clientWidth, 220), height = 340, [left, right, top, bottom] = [46, 16, 12, 46];
  const span = values => { const low = Math.min(...values), high = Math.max(...values), pad = .08 * (high - low) || .1 * Math.abs(high) || 1; return [low - pad, high + pad]; };
  const [x0, x1] = span(data.rows.map(row => row[key])), [y0, y1] = span(data.rows.map(row => row.miou));
  const x = value => left + (value - x0) / (x1 - x0) * (width - left - right), y = value => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
  let body = ticks(y0, y1, 5).map(value => `<line class="axis" x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}"/><text x="${left - 8}" y="${y(value) + 4}" text-anchor="end">${value}</text>`).join('');
  body += ticks(x0, x1, Math.max(Math.floor(width / 90), 2)).map(value => `<text x="${x(value)}" y="${height - bottom + 18}" text-anchor="middle">${value}</text>`).join('');
  body += `<text x="${width - right}" y="${height - 6}" text-anchor="end">${escaped(data.axes[key])}</text><text x="${left}" y="${top - 2}">mIoU (%)</text>`;
  body += `<line class="axis" stroke-dasharray="4 4" x1="${left}" x2="${width - right}" y1="${y(data.rows[0].miou)}" y2="${y(data.rows[0].miou)}" style="stroke:var(--quiet)"/>`;
  const taken = data.rows.map(row => [x(row[key]) - 9, y(row.miou) - 9, x(row[key]) + 9, y(row.miou) + 9]);
  const order = [...data.rows.keys()].sort((a, b) => (b === state.row) - (a === state.row)); // the chosen one finds room first
  const labels = order.map(number => {
    const row = data.rows[number], size = 7 * row.label.length, px = x(row[key]), py = y(row.miou);
    for (const [dx, dy, anchor] of [[13, 4, 'start'], [-13, 4, 'end'], [0, -14, 'middle'], [0, 24, 'middle']]) {
      const start = px + dx - (anchor === 'end' ? size : anchor === 'middle' ? size / 2 : 0), box = [start, py + dy - 11, start + size, py + dy + 3];
      if (box[0] < left || box[2] > width || box[1] < 0 || taken.some(other => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      return `<text class="halo${number === state.row ? ' strong' : ''}" x="${px + dx}" y="${py + dy}" text-anchor="${anchor}" aria-hidden="true">${escaped(row.label)}</text>`;
    }
    return '';
  });
  body += labels.join('');
  data.rows.forEach((row, number) => {
    const about = row.explanation.map(pair => pair.join(' ')).join(', ');
    body += `<g class="dotted${number === state.row ? ' chosen' : ''}" data-row="${number}" tabindex="0" role="button" aria-pressed="${number === state.row}" aria-label="${escaped(`${row.label}: ${about}`)}"><circle cx="${x(row[key])}" cy="${y(row.miou)}" r="7" fill="${colorOfName(row.name)}"/><circle class="ring" cx="${x(row[key])}" cy="${y(row.miou)}" r="10.5"/></g>`;
  });
  $('plot').innerHTML = `<svg height="${height}" viewBox="0 0 ${width} ${height}" role="group" aria-label="mIoU against ${escaped(data.axes[key])}">${body}</svg>`;
  explain();
}

function explain() {
  const row = data.rows[state.row], method = data.methods.findIndex(other => other.name === row.name);
  const see = method >= 0 && method !== state.method ? `<button type="button" data-method="${method}">See its groups above</button>` : '';
  $('point').innerHTML = `<h3><i class="dot" style="color:${colorOfName(row.name)}"></i>${escaped(row.label)}</h3><dl>${row.explanation.map(([term, text]) => `<dt>${escaped(term)}</dt><dd>${escaped(text)}</dd>`).join('')}</dl>${see}`;
}

function chooseRow(target, redraw) {
  const dot = target.closest('[data-row]');
  if (!dot) return;
  state.row = Number(dot.dataset.row);
  if (redraw) {
    qualityPlot();
    document.querySelector(`[data-row="${state.row}"]`).focus({preventScroll: true});
  } else {
    document.querySelectorAll('.dotted').forEach(other => {
      other.classList.toggle('chosen', other === dot);
      other.setAttribute('aria-pressed', String(other === dot));
    });
    explain();
  }
}

$('plot').addEventListener('focusin', event => chooseRow(event.target, false));
$('plot').addEventListener('pointermove', event => { if (mouse.moved) chooseRow(event.target, false); });
$('plot').addEventListener('click', event => chooseRow(event.target, true));
$('plot').addEventListener('keydown', event => {
  if (event.key !== 'Enter' && event.key !== ' ') return;
  event.preventDefault();
  chooseRow(event.target, true);
});
$('point').addEventListener('click', event => {
  if (event.target.dataset.method) choose('method', Number(event.target.dataset.method));
});
$('axis').addEventListener('change', qualityPlot);

if (data.rows.length) {
  $('quality').hidden = false;
  $('axis').innerHTML = Object.entries(data.axes).map(([key, text]) => `<option value="${key}">${escaped(text)}</option>`).join('');
  const terms = [...new Set(data.rows.flatMap(row => row.explanation.map(([term]) => term)))];
  $('rows-table').innerHTML = `<tr><th>model</th>${terms.map(term => `<th>${escaped(term)}</th>`).join('')}</tr>` + data.rows.map(row => `<tr><td>${escaped(row.label)}</td>${terms.map(term => `<td>${escaped((row.explanation.find(pair => pair[0] === term) || ['', ''])[1])}</td>`).join('')}</tr>`).join('');
}

let width = 0;
new ResizeObserver(() => { // charts are drawn in the pixels that there are
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  if (shown) tokenChart();
  qualityPlot();
}).observe(document.body);
choose('method', state.method).then(() => { document.body.dataset.ready = 'true'; });
