// The three views of a picture.

let shown = null; // what the views show: everything that drawing a highlight needs
let latest = 0;

async function refresh() {
  const turn = ++latest, {picture, seen, entry, entries} = picked();
  const wide = number => (number.wide ? Int32Array : Int16Array);
  const [source, prediction, plain, label, groups] = await Promise.all([
    pixels(state.picture),
    array(seen.prediction, Uint8Array),
    array(picture.seen[0].prediction, Uint8Array),
    picture.label === null ? null : array(picture.label, Uint8Array),
    entry ? array(entry.groups, wide(entry)) : null,
  ]);
  if (turn !== latest) return; // something else was chosen meanwhile
  shown = {picture, seen, entry, source, prediction, plain, label, groups};
  controls(entries);
  draw();
  captions();
  legend();
  tokenChart();
}

function prepare(id) {
  const {picture} = shown, target = $(id), zoom = Math.max(1, Math.round(PIXELS / Math.max(picture.width, picture.height)));
  target.width = picture.width * zoom;
  target.height = picture.height * zoom;
  return {context: target.getContext('2d'), zoom};
}

function paint(id, fill) {
  const {picture} = shown, {context, zoom} = prepare(id), small = canvas(picture.width, picture.height);
  const inner = small.getContext('2d'), image = inner.createImageData(picture.width, picture.height);
  for (let place = 0; place < picture.width * picture.height; place++) {
    const [red, green, blue] = fill(place);
    image.data.set([red, green, blue, 255], 4 * place);
  }
  inner.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, small.width * zoom, small.height * zoom);
  return {context, zoom};
}

function groupAt(place) {
  const {picture, entry, groups} = shown, [rows, columns] = entry.grid;
  const y = Math.floor(place / picture.width), x = place % picture.width;
  return groups[Math.floor(y * rows / picture.height) * columns + Math.floor(x * columns / picture.width)];
}

function draw() {
  const {picture, entry, source, prediction, plain, label} = shown, {rgba} = source;
  const rgb = place => [rgba[4 * place], rgba[4 * place + 1], rgba[4 * place + 2]];
  const dim = values => values.map(value => value / 4);
  let context;
  if (state.paint === 'mean' && entry) {
    const sums = new Map();
    for (let place = 0; place < picture.width * picture.height; place++) {
      const group = groupAt(place), sum = sums.get(group) || [0, 0, 0, 0];
      rgb(place).forEach((value, channel) => { sum[channel] += value; });
      sum[3]++;
      sums.set(group, sum);
    }
    ({context} = paint('groups', place => {
      const group = groupAt(place), sum = sums.get(group);
      return group < 0 ? dim(rgb(place)) : [sum[0] / sum[3], sum[1] / sum[3], sum[2] / sum[3]];
    }));
  } else {
    ({context} = prepare('groups'));
    context.drawImage(source.image, 0, 0, context.canvas.width, context.canvas.height);
    if (entry && state.paint === 'outline') darken(context, group => group < 0, .75);
  }
  if (entry && state.paint !== 'picture') {
    const lines = borders(context, () => true);
    stroke(context, lines, 'rgba(0,0,0,.55)', 3);
    stroke(context, lines, 'rgba(255,255,255,.9)', 1.5);
  }
  const mixed = (place, number) => rgb(place).map((value, channel) => .35 * value + .65 * (data.palette[number] || [0, 0, 0])[channel]);
  paint('prediction', place => mixed(place, prediction[place]));
  const other = state.against === 'label' && label ? label : plain;
  let differ = 0, counted = 0;
  paint('change', place => {
    const [red, green, blue] = rgb(place), grey = 60 + .45 * (.3 * red + .59 * green + .11 * blue);
    if (other === label && label && label[place] === 255) return [grey / 2, grey / 2, grey / 2];
    counted++;
    if (prediction[place] === other[place]) return [grey, grey, grey];
    differ++;
    return [225, 60, 60];
  });
  shown.differ = counted ? differ / counted : 0;
  highlight();
}

// Cells and borders of groups in the pixels of a canvas.
function borders(context, wanted) {
  const {entry, groups} = shown, [rows, columns] = entry.grid, path = new Path2D();
  const width = context.canvas.width / columns, height = context.canvas.height / rows;
  const at = (row, column) => (row < 0 || column < 0 || row >= rows || column >= columns ? null : groups[row * columns + column]);
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      const own = at(row, column), above = at(row - 1, column), left = at(row, column - 1);
      if (own !== above && (wanted(own) || wanted(above)) && column < columns) {
        path.moveTo(column * width, row * height);
        path.lineTo((column + 1) * width, row * height);
      }
      if (own !== left && (wanted(own) || wanted(left)) && row < rows) {
        path.moveTo(column * width, row * height);
        path.lineTo(column * width, (row + 1) * height);
      }
    }
  }
  return path;
}

function stroke(context, path, style, width) {
  context.strokeStyle = style;
  context.lineWidth = width;
  context.stroke(path);
}

function darken(context, wanted, strength) {
  const {entry, groups} = shown, [rows, columns] = entry.grid;
  const width = context.canvas.width / columns, height = context.canvas.height / rows;
  context.fillStyle = `rgba(0,0,0,${strength})`;
  groups.forEach((group, place) => {
    if (wanted(group)) context.fillRect((place % columns) * width, Math.floor(place / columns) * height, width, height);
  });
}

// The group under the pointer, in all views.

const bases = new Map(); // what each view shows without a highlight
function highlight() {
  for (const id of ['groups', 'prediction', 'change']) {
    const copy = canvas($(id).width, $(id).height);
    copy.getContext('2d').drawImage($(id), 0, 0);
    bases.set(id, copy);
  }
  point(state.cursor);
}

function point(cursor) {
  state.cursor = cursor;
  if (!shown) return;
  const {entry, groups, prediction, plain, label, picture} = shown;
  for (const [id, base] of bases) $(id).getContext('2d').drawImage(base, 0, 0);
  if (!cursor) {
    $('readout').textContent = 'Point at a patch, or move to the first picture with Tab and use the arrow keys: all patches that share its token light up.';
    return;
  }
  const [rows, columns] = entry ? entry.grid : [16, 16];
  const row = Math.min(Math.floor(cursor.y * rows), rows - 1), column = Math.min(Math.floor(cursor.x * columns), columns - 1);
  const group = entry ? groups[row * columns + column] : null;
  if (entry) {
    for (const id of bases.keys()) {
      const context = $(id).getContext('2d');
      if (id === 'groups') darken(context, other => other !== group, .35);
      const lines = borders(context, other => other === group);
      stroke(context, lines, 'rgba(0,0,0,.8)', 7);
      stroke(context, lines, '#ffd84d', 4);
    }
  }
  const pixel = Math.min(Math.floor((row + .5) * picture.height / rows), picture.height - 1) * picture.width + Math.min(Math.floor((column + .5) * picture.width / columns), picture.width - 1);
  const classes = [`predicted: ${data.classes[prediction[pixel]]}`];
  if (state.method) classes.push(`plain model: ${data.classes[plain[pixel]]}`);
  if (label) classes.push(`label: ${data.classes[label[pixel]] || 'ignored'}`);
  $('readout').textContent = `Row ${row + 1}, column ${column + 1}: ${sharing(group)} At its centre ${classes.join(', ')}.`;
}

function sharing(group) {
  if (group === null) return 'nothing merges in this layer.';
  if (group < 0) return 'dropped, no token for this patch here.';
  const others = shown.groups.reduce((count, other) => count + (other === group), 0) - 1;
  return others ? `shares its token with ${others} other ${others === 1 ? 'patch' : 'patches'}.` : 'has a token of its own.';
}

// Scrolling under a resting mouse makes events too; they must not take the place that the keyboard chose.
const mouse = {place: '', moved: false};
window.addEventListener('pointermove', event => {
  const place = `${event.screenX} ${event.screenY}`;
  mouse.moved = place !== mouse.place;
  mouse.place = place;
}, true);
let pointing = false;

function fromPointer(event) {
  if (event.type === 'pointermove' && !mouse.moved) return;
  pointing = true;
  const box = event.target.getBoundingClientRect();
  point({x: Math.min(Math.max((event.clientX - box.left) / box.width, 0), .9999), y: Math.min(Math.max((event.clientY - box.top) / box.height, 0), .9999)});
}

for (const id of ['groups', 'prediction', 'change']) {
  $(id).addEventListener('pointermove', fromPointer);
  $(id).addEventListener('pointerdown', fromPointer);
  $(id).addEventListener('pointerleave', event => { if (pointing && event.pointerType === 'mouse') point(null); });
}
$('groups').addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (event.key === 'Escape') point(null);
  if (!step || !shown) return;
  event.preventDefault();
  pointing = false;
  const [rows, columns] = shown.entry ? shown.entry.grid : [16, 16], from = state.cursor || {x: .5 - step[0] / columns, y: .5 - step[1] / rows};
  const move = (value, by, count) => (Math.min(Math.max(Math.floor(value * count) + by, 0), count - 1) + .5) / count;
  point({x: move(from.x, step[0], columns), y: move(from.y, step[1], rows)});
});
$('groups').addEventListener('blur', () => point(null));
