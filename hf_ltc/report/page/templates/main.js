
function sayBudget() {
  const share = data.budgets[state.budget];
  const text = `${percent(share)} · ${whole(data.sizes[state.budget])} rows`;
  byId('budget-text').textContent = text;
  byId('budget').setAttribute('aria-valuetext', `${percent(share)}, ${whole(data.sizes[state.budget])} rows`);
}

function say(text) {
  byId('said').textContent = text;
}

function setUpControls() {
  const slider = byId('budget');
  slider.max = data.budgets.length - 1;
  slider.value = state.budget;
  slider.addEventListener('input', () => {
    state.budget = Number(slider.value);
    sayBudget();
    moveEdges();
    redraw('kept', 'scores', ...(state.color === 'kept' ? ['map'] : []));
    say(`${whole(data.sizes[state.budget])} of ${whole(data.sizes[data.sizes.length - 1])} rows kept.`);
  });
  const choice = byId('class');
  choice.append(el('option', { value: -1 }, `All ${whole(present.length)} classes`));
  for (const number of present) choice.append(el('option', { value: number }, apart(clipped(nameOf(number), 60))));
  choice.addEventListener('change', () => {
    state.number = Number(choice.value);
    Object.assign(shown, { classes: CLASSES, suspects: SUSPECTS });
    drawGallery();
    drawSuspects();
    redraw('kept', 'scores', 'map');
    say(state.number < 0 ? 'All classes are shown.' : `Only class ${apart(clipped(nameOf(state.number), 60))} is shown.`);
  });
  byId('color').addEventListener('change', () => {
    state.color = byId('color').value;
    redraw('map');
  });
  byId('find-row').addEventListener('click', findRow);
  byId('find').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    // Or it would go on to the button of the row that has the focus then, and close it.
    event.preventDefault();
    findRow();
  });
  byId('more-classes').addEventListener('click', () => { shown.classes += CLASSES; drawGallery(); });
  byId('more-suspects').addEventListener('click', () => { shown.suspects += SUSPECTS; drawSuspects(); });
}

// The way to a point of the map without a mouse.
function findRow() {
  const asked = byId('find').value;
  const place = asked === '' ? -1 : rows.row.indexOf(Number(asked));
  byId('not-found').textContent = place < 0 ? 'That row is not on this page.' : '';
  if (place >= 0) openRow(place, data.points);
}

function setUpRow() {
  const dialog = byId('row');
  byId('row-close').addEventListener('click', () => dialog.close());
  byId('row-before').addEventListener('click', () => step(-1));
  byId('row-after').addEventListener('click', () => step(1));
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowLeft') step(-1);
    if (event.key === 'ArrowRight') step(1);
  });
}

setUpControls();
setUpRow();
drawKinds();
sayBudget();
drawGallery();
drawSuspects();
chart('kept', keptChart);
chart('map', mapChart);
chart('scores', scoresChart);
chart('losses', lossesChart);
chart('ranking', rankingChart);
if (data.accuracy !== null) accuracyPanels();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  redraw(...charts.keys());
  if (byId('row').open) drawRow();
});
