"""The rows of a recorded dataset, and its source model as the proxy that is trained on some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from ...config import EvaluateConfig, RecordConfig, recorded_config
from ...coresets.choose import Selection, coreset_size
from ...coresets.scored import read_scores
from ...data.inputs import require_dataset
from ...data.labels import (
    InputColumns,
    class_names,
    find_label_column,
    read_labels,
    same_columns,
)
from ...recipe import Recipe
from ...training.inputs import Batches, Form, input_batches, settled, stored_inputs
from ...training.loop import TrainingConfig
from ...training.pixels.grey import grey_range_of
from ...training.text.encoders import text_encoder
from ...training.workers import workers_watched
from ...trajectories.value import Trajectories
from ...utils.environment import usual_torch
from ...utils.errors import InputError
from ...utils.processes import rank
from ..dataset import candidate_rows, subset_size
from ..methods import members_of
from ..sources import recording_seconds
from ..target import own_accelerator
from .choices import by_columns, by_method, if_there, with_others
from .proxies import PROXIES, Choose, Proxy, check_size, judge, proxy_steps
from .verdict import MARGIN, Judgement


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """A recorded dataset, of which coresets of any number of budgets are compared; its rows are read once.

    Args:
        run ([`Trajectories`]): The candidate rows.
        proxy ([`Proxy`]): The source model, trained as for the recording, but for fewer steps.
        pool ([`Batches`]): Their images or texts.
        validation ([`Batches`], *optional*): The validation samples, as far as they are at hand.
        mixed_precision (`str`): As recorded.
        accelerator (`accelerate.Accelerator`, *optional*): The one to take.
    """

    run: Trajectories
    proxy: Proxy
    pool: Batches
    validation: Batches | None
    mixed_precision: str
    accelerator: Accelerator | None = None

    @workers_watched()
    @usual_torch()
    def judge(
        self,
        candidates: Mapping[str, Choose],
        size: int,
        *,
        proxies: int = PROXIES,
        margin: float = MARGIN,
        seed: int = 0,
    ) -> Judgement:
        """Compares coresets of a size, as [`judge`]."""
        return judge(
            candidates,
            size,
            self.proxy,
            self.pool,
            self.validation,
            accelerators=partial(own_accelerator, self.mixed_precision, self.accelerator),
            proxies=proxies,
            margin=margin,
            seed=seed,
            recording_seconds=recording_seconds(self.run),
        )


def judged_rows(
    run: Trajectories,
    train: Dataset,
    validation: Dataset | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    judge_steps: int | None = None,
    accelerator: Accelerator | None = None,
) -> JudgedRows:
    """Reads the rows of a recorded dataset, and how its source model was trained.

    Args:
        run ([`Trajectories`]): The recording, whose `rows` are positions in `train`.
        train (`datasets.Dataset`): The recorded dataset. Its other rows, those held out, are validation samples.
        validation (`datasets.Dataset`, *optional*): Further validation samples, those of another split.
        image_column, label_column (`str`, *optional*): Columns of both; as recorded if not given, as those of texts.
        judge_steps (`int`, *optional*): Steps of each proxy; if not given, [`proxy_steps`] of a target that is trained
            for as many epochs and in batches as large as the source model was.
        accelerator (`accelerate.Accelerator`, *optional*): Of this process alone.

    Raises:
        InputError: for a dataset without the recorded columns or readable labels, for a recording that does not say
            how its source model was trained, and on several processes.
    """
    require_dataset(train, "train")
    processes = rank()[1] if accelerator is None else accelerator.num_processes
    if processes > 1:
        raise InputError(
            f"coresets are judged in one process, and this is one of {processes}: start it without accelerate launch"
        )
    recipe = Recipe.from_dict(run.recipe)
    config = _recorded_config(recipe)
    named = InputColumns(image=image_column) if image_column is not None else InputColumns.of(recipe.dataset)
    columns = same_columns(train, named)
    # Recipes of other versions may not say all of it.
    config = settled(config, columns)
    label_column = find_label_column(train, label_column or if_there(train, recipe.dataset.label_column))
    names = list(recipe.dataset.names or class_names(train, label_column))
    held = np.setdiff1d(np.arange(len(train)), run.rows)
    parts = [(train.with_format(None).select(run.rows), columns, run.rows)]
    labels = [read_labels(parts[0][0], label_column, names)]
    if len(held):
        validation = train.select(held)
    if validation is not None:
        others = same_columns(validation, columns)
        parts.append((validation.with_format(None), others, held if len(held) else np.arange(len(validation))))
        column = find_label_column(validation, if_there(validation, label_column))
        labels.append(read_labels(validation, column, names))
    grey_range = grey_range_of([recipe], [(rows, each.image, where) for rows, each, where in parts if each.image])
    form = _form(recipe, config, columns)
    stored = [stored_inputs(rows, each, form, where, grey_range) for rows, each, where in parts]
    device = own_accelerator(config.mixed_precision, accelerator).device
    given = list(zip(stored, labels))
    made = input_batches(config, device, given[0], given[1] if len(given) > 1 else None, "validation rows")
    pool, other = made[0], made[1] if len(made) > 1 else None
    training = _training(config, recipe)
    steps = proxy_steps(training, len(run)) if judge_steps is None else judge_steps
    training = replace(training, iterations=steps)
    assert config.model is not None
    proxy = Proxy(config.model, len(names), training, config.stem, config.pretrained)
    return JudgedRows(run, proxy, pool, other, config.mixed_precision, accelerator)


def judge_coresets(
    scored: Dataset,
    run: Trajectories,
    selection: Selection,
    *,
    name: str | None = None,
    score_column: str = "ltc_score",
    validation: Dataset | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    judge_steps: int | None = None,
    proxies: int = PROXIES,
    margin: float = MARGIN,
    accelerator: Accelerator | None = None,
) -> Judgement:
    """Compares the coreset that a selection keeps of a scored dataset with [`OTHERS`] of the same size.

    Args:
        scored (`datasets.Dataset`): The scored dataset.
        run ([`Trajectories`]): What was recorded of its rows, such as [`run_of_columns`] reads.
        selection ([`Selection`]): What the coreset is chosen by; its seed is the first of the proxies and draws.
        name (`str`, *optional*): What it is called; the score column if not given.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): As for [`select_coreset`].
        validation, image_column, label_column, judge_steps, accelerator: As for [`judged_rows`].
        proxies, margin: As for [`judge`].

    Returns:
        [`Judgement`]: its candidates are the selection, and those of [`OTHERS`] that the recording allows: `ccs` needs
        the margins, and `dual_beta` ten epochs.

    Raises:
        InputError: as [`judged_rows`], and for a budget out of range.
    """
    options: dict[str, Any] = {"judge_steps": judge_steps, "accelerator": accelerator}
    scores, _ = read_scores(scored, score_column)
    able = ~(scores[run.rows] < 0) if selection.exclude_negative else np.ones(len(run), dtype=bool)
    # Before rows are read.
    size = coreset_size(int(np.count_nonzero(able)), selection.fraction, selection.size)
    check_size(size, len(run))
    own = {name or score_column: by_columns(scored, run.rows, run.labels, selection, score_column)}
    candidates = with_others(own, run, selection.balance, selection.min_per_class)
    rows = judged_rows(run, scored, validation, image_column=image_column, label_column=label_column, **options)
    return rows.judge(candidates, size, proxies=proxies, margin=margin, seed=selection.seed)


def judge_fractions(
    config: EvaluateConfig,
    run: Trajectories,
    train: Dataset,
    validation: Dataset | None = None,
    *,
    judge_steps: int | None = None,
    accelerator: Accelerator | None = None,
) -> list[Judgement]:
    """Compares what methods keep of a recorded dataset with [`OTHERS`], at several budgets; test rows are not needed.

    Args:
        config ([`EvaluateConfig`]): The budgets and columns, the `members` and the `balance` of classes, and the first
            seed; nothing else of it counts.
        run ([`Trajectories`]): The recording.
        train (`datasets.Dataset`): The recorded dataset.
        validation, judge_steps, accelerator: As for [`judged_rows`].

    Returns:
        `list[Judgement]`: one for each of `config.fractions`.

    Raises:
        InputError: as [`judged_rows`], for unknown methods, and budgets that are all rows, or none.
    """
    require_dataset(train, "train")
    recorded = Recipe.from_dict(run.recipe).dataset
    label_column = find_label_column(train, config.label_column or recorded.label_column)
    labels = read_labels(train, label_column, recorded.names or class_names(train, label_column))
    _, aligned = candidate_rows(config, {"run": run}, train, labels)
    placed = aligned["run"]
    sizes = [subset_size(placed.labels, fraction) for fraction in config.fractions]
    # All budgets before any model is trained.
    for size in sizes:
        check_size(size, len(placed))
    own = {name: by_method(name, placed, config.balance) for name in members_of(config, [run])}
    candidates = with_others(own, placed, config.balance)
    rows = judged_rows(
        placed,
        train,
        validation,
        image_column=config.image_column,
        label_column=label_column,
        judge_steps=judge_steps,
        accelerator=accelerator,
    )
    return [rows.judge(candidates, size, seed=config.seed) for size in sizes]


def _recorded_config(recipe: Recipe) -> RecordConfig:
    """The settings of the recording."""
    config = recorded_config(recipe)
    if config is None:
        raise InputError(
            "coresets are judged by models that are trained as the source model was, and the recipe does not say how: "
            "record and score the dataset with hf-ltc record and hf-ltc score"
        )
    return config


def _form(recipe: Recipe, config: RecordConfig, columns: InputColumns) -> Form:
    """What the source model was fitted to."""
    if recipe.training.image_size is not None:
        return recipe.training.image_size
    assert config.model is not None
    return text_encoder(config.model, recipe.training.max_length, pair=columns.text_pair is not None)


def _training(config: RecordConfig, recipe: Recipe) -> TrainingConfig:
    names = {each.name for each in fields(TrainingConfig)}
    training = TrainingConfig(**{name: value for name, value in vars(config).items() if name in names})
    # That of the recording was for each of its processes.
    return replace(training, batch_size=training.batch_size * (recipe.training.processes or 1))
