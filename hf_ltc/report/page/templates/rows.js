
const CLASSES = 10;
const SUSPECTS = 24;
// Texts take more room than images.
const TEXTS = 5;
const GROUPS = [
  ['first', 'First kept'], ['kept', 'Last kept'], ['dropped', 'First dropped'], ['worst', 'Last of all'], ['conflicting', 'Conflicting'],
  // Where no row is conflicting, its place is for the others.
].filter(([name]) => name !== 'conflicting' || data.classes.some((one) => one.conflicting.length > 0));
const shown = { classes: CLASSES, suspects: SUSPECTS };

function described(place) {
  const kind = rows.kind[place] === OK ? '' : `, ${data.kinds[rows.kind[place]]}`;
  return `Row ${whole(rows.row[place])}, class ${apart(clipped(nameOf(rows.label[place]), 60))}, score ${short(rows.score[place])}${kind}`;
}

function picture(place, alt) {
  return el('img', { src: `data:image/webp;base64,${data.previews[place]}`, alt, decoding: 'async' });
}

// A row as a button: its image, or its text.
function thumb(place, list) {
  const preview = data.previews[place];
  const onclick = () => openRow(place, list);
  if (preview === null) return el('button', { type: 'button', class: `thumb blank ${markOf(place)}`, 'aria-label': described(place), onclick }, whole(rows.row[place]));
  if (data.preview === 'text') {
    return el('button', { type: 'button', class: `thumb text ${markOf(place)}`, title: described(place), onclick }, el('bdi', { dir: 'auto' }, preview));
  }
  return el('button', { type: 'button', class: `thumb ${markOf(place)}`, title: described(place), onclick }, picture(place, described(place)));
}

function group(one, [name, title]) {
  const every = name === 'kept' || name === 'dropped' ? one[name][state.budget] : one[name];
  const list = data.preview === 'text' ? every.slice(0, TEXTS) : every;
  const thumbs = list.length > 0 ? list.map((place) => thumb(place, list)) : [el('span', { class: 'none' }, 'none')];
  return el('div', { class: `group ${name}`, role: 'group', 'aria-label': title, 'data-group': name },
    el('h4', { 'aria-hidden': 'true' }, title), el('div', { class: 'thumbs' }, ...thumbs));
}

const keptText = (number) => `${whole(data.kept[state.budget][number])} of ${whole(data.total[number])} kept`;

function drawGallery() {
  const wanted = state.number < 0 ? data.classes : data.classes.filter((one) => one.number === state.number);
  const some = wanted.slice(0, shown.classes);
  byId('gallery').style.setProperty('--groups', GROUPS.length);
  byId('gallery').replaceChildren(...some.map((one) => el('article', { class: 'one', 'data-class': one.number },
    el('div', { class: 'one-head' }, el('h3', {}, bdi(nameOf(one.number))), el('span', { class: 'count' }, keptText(one.number))),
    el('div', { class: 'groups' }, ...GROUPS.map((each) => group(one, each))))));
  if (wanted.length === 0) byId('gallery').append(el('p', {}, 'The rows of this class are not on this page.'));
  const left = wanted.length - some.length;
  byId('more-classes').hidden = left <= 0;
  byId('more-classes').textContent = `Show ${Math.min(left, CLASSES)} more of ${left} classes`;
}

// Of what is shown, only the edge moves with the budget.
function moveEdges() {
  for (const article of byId('gallery').querySelectorAll('article')) {
    const one = classes.get(Number(article.dataset.class));
    article.querySelector('.count').textContent = keptText(one.number);
    for (const each of GROUPS.filter(([name]) => name === 'kept' || name === 'dropped')) {
      article.querySelector(`[data-group="${each[0]}"]`).replaceWith(group(one, each));
    }
  }
}

function suspect(place, list) {
  const [label, suggested, kind] = [rows.label[place], rows.suggested[place], rows.kind[place]];
  const differs = suggested >= 0 && suggested !== label;
  const preview = data.previews[place];
  let view = null;
  if (preview === null) view = el('span', { class: 'blank' }, 'no image');
  else if (data.preview === 'image') view = picture(place, '');
  const words = [
    data.preview === 'text' && preview !== null ? el('span', { class: 'quoted', dir: 'auto' }, preview) : null,
    el('span', { class: `given${differs && data.kinds[kind] === 'label issue' ? ' wrong' : ''}` }, el('span', { class: 'hidden' }, 'given label '), bdi(nameOf(label), 40)),
    differs ? el('span', { class: 'suggested' }, el('span', { class: 'hidden' }, 'suggested label '), '→ ', bdi(nameOf(suggested), 40)) : null,
    el('small', {}, `row ${whole(rows.row[place])} · ${data.kinds[kind]}`),
  ];
  return el('button', { type: 'button', class: `suspect ${markOf(place)}`, onclick: () => openRow(place, list) }, view, el('span', {}, ...words.filter(Boolean)));
}

function drawSuspects() {
  const list = data.suspects.filter((place) =>
    state.kinds.has(rows.kind[place]) && (state.number < 0 || rows.label[place] === state.number));
  byId('suspects').classList.toggle('texts', data.preview === 'text');
  byId('suspects').replaceChildren(...list.slice(0, shown.suspects).map((place) => suspect(place, list)));
  if (list.length === 0) byId('suspects').append(el('p', {}, 'No rows of this kind are listed.'));
  const left = list.length - shown.suspects;
  byId('more-suspects').hidden = left <= 0;
  byId('more-suspects').textContent = `Show ${Math.min(left, SUSPECTS)} more of ${whole(left)} rows`;
}

function drawKinds() {
  const counts = data.kinds.map((_, kind) => data.suspects.filter((place) => rows.kind[place] === kind).length);
  data.kinds.forEach((title, kind) => {
    if (kind === OK || counts[kind] === 0) return;
    state.kinds.add(kind);
    const box = el('input', { type: 'checkbox', checked: true, onchange: (event) => {
      if (event.target.checked) state.kinds.add(kind); else state.kinds.delete(kind);
      shown.suspects = SUSPECTS;
      drawSuspects();
    } });
    byId('kinds').append(el('label', { class: MARKS[kind] }, box, title, el('b', {}, whole(counts[kind]))));
  });
}

// The row that was chosen, and the list that it is from.
const open = { place: -1, list: [] };

function openRow(place, list) {
  Object.assign(open, { place, list });
  byId('glance').hidden = true;
  if (!byId('row').open) byId('row').showModal();
  drawRow();
}

function step(by) {
  const next = open.list[open.list.indexOf(open.place) + by];
  if (next !== undefined) openRow(next, open.list);
}

// Other rows of its group of near-duplicates, as far as they are on this page.
function mates(place) {
  if (rows.group[place] < 0) return [];
  return [...rows.group.keys()].filter((other) => other !== place && rows.group[other] === rows.group[place]);
}

function drawRow() {
  const { place, list } = open;
  const at = list.indexOf(place);
  const preview = data.previews[place];
  const suggested = rows.suggested[place];
  byId('row-title').textContent = `Row ${whole(rows.row[place])}`;
  let view = null;
  if (data.preview === 'text' && preview !== null) view = el('div', { class: 'text', dir: 'auto' }, preview);
  else if (preview !== null) view = picture(place, described(place));
  byId('row-view').replaceChildren(...(view === null ? [] : [view]));
  document.querySelector('.row-body').classList.toggle('texts', data.preview === 'text' || view === null);
  const facts = [
    ['class', bdi(nameOf(rows.label[place]))],
    ['suggested', suggested < 0 ? null : bdi(nameOf(suggested))],
    ['audit', rows.kind[place] === OK ? 'no issue found' : data.kinds[rows.kind[place]]],
    [`at ${percent(data.budgets[state.budget])}`, isKept(place) ? 'kept' : 'dropped'],
    ['score', short(rows.score[place])],
    ['rank', `${whole(rows.rank[place] + 1)} of ${whole(data.sizes[data.sizes.length - 1])}`],
    ['label quality', short(rows.quality[place])],
    ['mean probability', short(rows.probability[place])],
    ['variability', short(rows.variability[place])],
    ...known.map(([name, values]) => [name, short(values[place])]),
  ];
  byId('row-facts').replaceChildren(...facts.filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  const alike = mates(place);
  byId('row-alike').hidden = alike.length === 0;
  byId('row-alike').replaceChildren(el('h3', {}, 'Near-duplicates'), el('div', { class: 'thumbs' }, ...alike.slice(0, 8).map((other) => thumb(other, [place, ...alike]))));
  byId('row-before').disabled = at <= 0;
  byId('row-after').disabled = at >= list.length - 1;
  byId('row-place').textContent = list.length > 1 ? `${whole(at + 1)} of ${whole(list.length)}` : '';
  trajectoryChart(byId('row-chart'), place);
}

function glance(place, event) {
  const box = byId('glance');
  const preview = data.previews[place];
  const lines = [el('span', {}, bdi(nameOf(rows.label[place]), 40)), el('span', {}, `row ${whole(rows.row[place])}, score ${short(rows.score[place])}`)];
  if (data.preview === 'image' && preview !== null) lines.unshift(picture(place, ''));
  if (data.preview === 'text' && preview !== null) lines.unshift(el('span', { dir: 'auto' }, clipped(preview, 140)));
  box.replaceChildren(...lines);
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(event.clientX + 16, window.innerWidth - width - 8))}px`;
  box.style.top = `${Math.max(8, Math.min(event.clientY + 16, window.innerHeight - height - 8))}px`;
}
