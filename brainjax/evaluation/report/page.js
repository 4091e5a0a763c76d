'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const get = (id) => document.getElementById(id);
const gallery = get('cards');
const cards = [...gallery.querySelectorAll('article')];
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const text = (name, value) =>
  data.scores[name].unit === 'fraction' ? (100 * value).toFixed(1) + ' %' : Number(value.toPrecision(3)).toString();

// Scores: which aggregate over samples is shown.
for (const radio of document.querySelectorAll('input[name=how]')) {
  radio.addEventListener('change', () => { get('scores').dataset.shown = radio.value; });
}

// Gallery: order and filters. Everything is recomputed from the controls, so no state can go stale.
function arrange() {
  const name = get('score').value;
  const scale = data.scores[name].unit === 'fraction' ? 100 : 1;
  const order = get('order').value;
  const words = get('category').value.trim().toLowerCase();
  const subject = get('subject') ? get('subject').value : '';
  const bound = (id, otherwise) => (get(id).value === '' ? otherwise : Number(get(id).value) / scale);
  const low = bound('low', -Infinity), high = bound('high', Infinity);
  const better = data.scores[name].higher_is_better ? -1 : 1;
  const value = data.items.map((item) => mean(item.scores[name]));
  const compare = {
    given: (a, b) => a - b,
    category: (a, b) => data.items[a].category.localeCompare(data.items[b].category) || a - b,
    best: (a, b) => better * (value[a] - value[b]) || a - b,
    rule: (a, b) => better * (value[a] - value[b]) || a - b,
    worst: (a, b) => better * (value[b] - value[a]) || a - b,
  }[order];
  const indices = data.items.map((_, i) => i).sort(compare);
  const passes = (i) => data.items[i].category.toLowerCase().includes(words)
    && (!subject || data.items[i].subject === subject) && value[i] >= low - 1e-9 && value[i] <= high + 1e-9;
  // By the rule: the first, middle and last three of what passes the filters, in the order of the score.
  const chosen = new Map();
  if (order === 'rule') {
    const passing = indices.filter(passes), few = Math.min(3, passing.length);
    const middle = Math.floor((passing.length - few) / 2);
    for (const [word, start] of [['worst', passing.length - few], ['median', middle], ['best', 0]]) {
      for (const i of passing.slice(start, start + few)) chosen.set(i, word);
    }
  }
  let shown = 0;
  for (const i of indices) {
    const keep = order === 'rule' ? chosen.has(i) : passes(i);
    cards[i].hidden = !keep;
    cards[i].querySelector('h3').dataset.rule = chosen.has(i) ? chosen.get(i) + ': ' : '';
    shown += keep;
    cards[i].querySelector('.chosen').hidden = data.headline.includes(name);
    cards[i].querySelector('.chosen dt').textContent = data.scores[name].label;
    cards[i].querySelector('.chosen dd').textContent = text(name, value[i]);
    gallery.append(cards[i]);
  }
  get('count').textContent = `${shown} of ${cards.length} items shown` + (order === 'rule'
    ? `: of the items that pass the filters, in the order of ${data.scores[name].label} (mean over samples, equal ones `
      + 'as in the data), the first three, the three in the middle and the last three.' : '');
  get('unit').textContent = scale === 100 ? ' (per cent)' : '';
}
for (const id of ['score', 'order', 'category', 'subject', 'low', 'high']) {
  if (get(id)) get(id).addEventListener(get(id).tagName === 'SELECT' ? 'change' : 'input', arrange);
}
get('clear').addEventListener('click', () => { get('controls').reset(); arrange(); rows(); });
get('controls').addEventListener('submit', (event) => event.preventDefault());
function rows() {
  for (const kind of ['baseline', 'nearest']) {
    const box = get('show-' + kind);
    if (box) gallery.classList.toggle('hide-' + kind, !box.checked);
  }
}
for (const kind of ['baseline', 'nearest']) {
  const box = get('show-' + kind);
  if (box) box.addEventListener('change', rows);
}

// Enlarged pictures.
const viewer = get('viewer');
let current = null;
const visible = () => [...gallery.querySelectorAll('button.picture')].filter((button) => button.offsetParent !== null);
function show(button) {
  current = button;
  const image = button.querySelector('img');
  get('viewer-image').src = image.src;
  get('viewer-image').alt = image.alt;
  get('viewer-image').className = image.className;
  let words = image.alt;
  if (button.dataset.sample !== undefined) {
    const item = data.items[Number(button.dataset.item)];
    words += ' — ' + data.headline.map((name) =>
      `${data.scores[name].label} ${text(name, item.scores[name][Number(button.dataset.sample)])}`).join(', ');
  }
  if (button.dataset.words) words += ' — ' + button.dataset.words;
  get('viewer-caption').textContent = words;
  if (!viewer.open) viewer.showModal();
}
function move(step) {
  const buttons = visible();
  show(buttons[(buttons.indexOf(current) + step + buttons.length) % buttons.length]);
}
gallery.addEventListener('click', (event) => {
  const button = event.target.closest('button.picture');
  if (button) show(button);
});
get('previous').addEventListener('click', () => move(-1));
get('next').addEventListener('click', () => move(1));
get('close').addEventListener('click', () => viewer.close());
viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener('keydown', (event) => {
  if (event.key === 'ArrowRight') move(1);
  if (event.key === 'ArrowLeft') move(-1);
});
viewer.addEventListener('close', () => { if (current) current.focus(); });
arrange();
rows();

// The pictures without an area.
if (get('area')) {
  get('area').addEventListener('change', () => {
    for (const figure of document.querySelectorAll('[data-lesion]')) {
      figure.hidden = figure.dataset.lesion !== get('area').value;
    }
  });
  get('lesions').addEventListener('submit', (event) => event.preventDefault());
}

// Figures and their numbers as files.
function save(name, address) {
  const link = document.createElement('a');
  link.download = name;
  link.href = address;
  link.click();
}
// A drawing of the page with the colours that the style sheet gives it.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const parts = [svg, ...svg.querySelectorAll('*')], copies = [copy, ...copy.querySelectorAll('*')];
  parts.forEach((part, i) => {
    const style = getComputedStyle(part);
    for (const name of ['fill', 'stroke', 'stroke-width', 'stroke-dasharray']) {
      copies[i].setAttribute(name, style.getPropertyValue(name));
    }
  });
  copy.setAttribute('xmlns', svg.namespaceURI);
  return 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(copy.outerHTML);
}
document.addEventListener('click', (event) => {
  const button = event.target.closest('.save button');
  if (!button) return;
  const { name, csv } = button.parentElement.dataset;
  const drawn = button.parentElement.previousElementSibling;
  if (button.dataset.kind === 'csv') save(name + '.csv', 'data:text/csv;charset=utf-8,' + encodeURIComponent(csv));
  else save(name + '.svg', drawn.tagName === 'IMG' ? drawn.src : standalone(drawn));
});
