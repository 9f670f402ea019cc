
'use strict';

// Everything that users named is put on the page as text: by append, which makes text nodes, and never as HTML.

const KINDS = { f4: Float32Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

function unpacked({ kind, bytes }) {
  const text = atob(bytes);
  const made = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) made[i] = text.charCodeAt(i);
  return new KINDS[kind](made.buffer);
}

const data = JSON.parse(document.getElementById('data').textContent);
const rows = Object.fromEntries(
  Object.entries(data.rows).filter(([name]) => name !== 'known').map(([name, values]) => [name, unpacked(values)]),
);
const known = Object.entries(data.rows.known).map(([name, values]) => [name, unpacked(values)]);
const trajectories = unpacked(data.trajectories);
const validationClasses = unpacked(data.validationClasses);
const classes = new Map(data.classes.map((one) => [one.number, one]));
const present = data.total.map((_, number) => number).filter((number) => data.total[number] > 0);
const OK = data.kinds.indexOf('ok');
// Of what the audit finds the name that styles know.
const MARKS = data.kinds.map((kind) => kind.replace(/ /g, '-'));
const markOf = (place) => MARKS[rows.kind[place]];

// What the controls say: which stop of the budget, and which class, -1 for all.
const state = { budget: Math.max(0, data.budgets.indexOf(0.1)), number: -1, color: 'score', kinds: new Set() };

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? '' : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const byId = (id) => document.getElementById(id);
const whole = (value) => value.toLocaleString('en-US');
const percent = (share) => `${Number((100 * share).toPrecision(3))}%`;
const short = (value) => (Number.isFinite(value) ? value.toFixed(value !== 0 && Math.abs(value) < 0.1 ? 3 : 2) : 'none');

function clipped(text, most) {
  const letters = Array.from(text.replace(/\s+/g, ' '));
  return letters.length <= most ? letters.join('') : `${letters.slice(0, most - 1).join('')}…`;
}

// Set apart, so that a name written from right to left turns nothing around it.
const apart = (text) => `\u2068${text}\u2069`;
const nameOf = (number) => data.names[number];
const bdi = (text, most = 80) => el('bdi', {}, clipped(text, most));

// Plotly reads some HTML and TeX in its texts.
function drawn(text, most = 22) {
  const plain = clipped(text, most).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  return apart(plain.replace(/\$/g, '&#36;'));
}

const isKept = (place) => rows.rank[place] < data.sizes[state.budget];

function table(target, head, lines) {
  const cells = (line) => line.map((cell, column) =>
    column === 0 ? el('th', { scope: 'row' }, bdi(String(cell))) : el('td', {}, String(cell)));
  byId(target).replaceChildren(
    el('table', {},
      el('thead', {}, el('tr', {}, ...head.map((title) => el('th', { scope: 'col' }, title)))),
      el('tbody', {}, ...lines.map((line) => el('tr', {}, ...cells(line)))),
    ),
  );
}

// Charts are drawn once they come near the screen, and again when what they show changes.
const charts = new Map();
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chart = charts.get(target.id);
    chart.near = isIntersecting;
    if (isIntersecting && chart.stale) redraw(target.id);
  }
}, { rootMargin: '600px' });

function chart(id, draw) {
  charts.set(id, { draw, stale: true, near: false });
  near.observe(byId(id));
}

function redraw(...ids) {
  for (const id of ids) {
    const one = charts.get(id);
    if (one === undefined) continue;
    one.stale = !one.near;
    if (one.near) one.draw(byId(id));
  }
}
