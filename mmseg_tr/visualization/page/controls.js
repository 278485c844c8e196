// Captions and controls.

const percent = share => `${(100 * share).toFixed(share && share < .1 ? 1 : 0)} %`;
const patchesOf = entry => entry.patches;

function captions() {
  const {entry, differ} = shown, method = data.methods[state.method], name = layerName(state.layer);
  $('setting').textContent = method.setting;
  $('layer-name').textContent = entry ? `${entry.name}: ${entry.tokens} of ${patchesOf(entry)} tokens` : `${name}: nothing merges`;
  $('layer').setAttribute('aria-valuetext', $('layer-name').textContent);
  const alike = entry && entry.similarity ? ` What joined here: similarity ${entry.similarity[0].toFixed(2)}, lowest ${entry.similarity[1].toFixed(2)}.` : '';
  $('groups-caption').textContent = entry ? `${entry.tokens} tokens stand for ${patchesOf(entry)} ${entry.part === 'keys' ? 'keys' : 'patches'}.${alike}` : 'Nothing merges in this layer.';
  $('prediction-caption').textContent = `Prediction of ${method.label}`;
  const label = state.against === 'label' && shown.label;
  $('change-caption').textContent = !state.method && !label
    ? 'This is the plain model: nothing changes.'
    : `${percent(differ)} of the pixels differ from the ${label ? 'label' : "plain model's prediction"}.`;
}

function layerName(number) {
  for (const seen of data.pictures[state.picture].seen) {
    const found = seen.entries.find(entry => entry.layer === number);
    if (found) return found.name;
  }
  return `layer ${number}`;
}

function controls(entries) {
  $('part-field').hidden = entries.length < 2;
  $('part').innerHTML = entries.map((entry, number) => `<option value="${number}">${escaped(entry.part)}</option>`).join('');
  $('part').value = String(Math.min(state.part, Math.max(entries.length - 1, 0)));
  $('against-field').hidden = shown.label === null;
}

function legend() {
  const present = [...new Set(shown.prediction)].sort((a, b) => a - b);
  $('legend').innerHTML = present.map(number => `<li><i style="background:rgb(${data.palette[number]})"></i>${escaped(data.classes[number])}</li>`).join('');
}

function radios(id, name, items, chosen) {
  $(id).innerHTML = items.map((item, number) => `<label class="choice"><input type="radio" name="${name}" value="${number}"${number === chosen ? ' checked' : ''} aria-label="${escaped(item.label)}"><span>${item.html}</span></label>`).join('');
}

const depth = Math.max(1, ...data.pictures.flatMap(picture => picture.seen.flatMap(seen => seen.entries.map(entry => entry.layer))));
radios('pictures', 'picture', data.pictures.map(picture => ({label: picture.name, html: `<img src="${picture.image}" alt="" title="${escaped(picture.name)}">`})), state.picture);
radios('methods', 'method', data.methods.map((method, number) => ({label: method.label, html: `<i class="dot" style="color:${color(number)}"></i>${escaped(method.label)}`})), state.method);
$('layer').max = depth;
$('layer').value = state.layer = depth;

function choose(name, value) {
  state[name] = value;
  if (name === 'method') {
    const input = document.querySelector(`input[name=method][value="${value}"]`);
    input.checked = true;
    const row = data.rows.findIndex(other => other.name === data.methods[value].name);
    if (row >= 0) state.row = row;
    qualityPlot();
  }
  return refresh();
}

$('controls').addEventListener('submit', event => event.preventDefault());
function react(event) {
  const {name, id, value} = event.target;
  choose(name || id, id === 'paint' || id === 'against' ? value : Number(value));
}
$('controls').addEventListener('change', react);
$('layer').addEventListener('input', react); // while it is dragged
