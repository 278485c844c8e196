'use strict';

// The page's data (see apis/report/page.py) and what is chosen at the moment.
const data = JSON.parse(document.getElementById('data').textContent);
const state = {picture: 0, method: Math.min(1, data.methods.length - 1), layer: 1, part: 0, paint: 'outline', against: 'plain', cursor: null, row: 0};
const COLORS = ['#8b9096', '#4477aa', '#ee6677', '#228833', '#ccaa22', '#33aacc', '#aa3377', '#ee8866', '#44bb99', '#9b7fd4', '#7a5230', '#5fa8e8', '#b0b72f', '#d45fa8'];
const PIXELS = 640; // of a canvas, along its longer side at least
const $ = id => document.getElementById(id);
const escaped = text => String(text).replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
const color = number => COLORS[number % COLORS.length];
const colorOfName = name => color(Math.max(0, data.methods.findIndex(method => method.name === name)));
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const arrays = new Map();
function array(number, Kind) {
  if (!arrays.has(number)) {
    const bytes = Uint8Array.from(atob(data.arrays[number]), sign => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
    arrays.set(number, new Response(stream).arrayBuffer());
  }
  return arrays.get(number).then(buffer => new Kind(buffer));
}

const images = new Map();
function pixels(number) {
  if (!images.has(number)) {
    const picture = data.pictures[number], image = new Image();
    image.src = picture.image;
    images.set(number, image.decode().then(() => {
      const context = canvas(picture.width, picture.height).getContext('2d', {willReadFrequently: true});
      context.drawImage(image, 0, 0);
      return {image, rgba: context.getImageData(0, 0, picture.width, picture.height).data};
    }));
  }
  return images.get(number);
}

function canvas(width, height) {
  const made = document.createElement('canvas');
  made.width = width;
  made.height = height;
  return made;
}

function picked() {
  const picture = data.pictures[state.picture], seen = picture.seen[state.method];
  const entries = seen.entries.filter(entry => entry.layer === state.layer);
  return {picture, seen, entries, entry: entries[Math.min(state.part, entries.length - 1)] || null};
}
