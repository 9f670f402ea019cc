"""The cards of coresets and source models, made from their recipes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from datasets import Dataset, DatasetInfo, Image
from datasets.info import DatasetInfosDict
from huggingface_hub import CardData, DatasetCardData
from huggingface_hub.repocard import RepoCard

from .. import __version__
from ..recipe import Identity, Recipe
from ..utils.errors import InputError, one_line
from .card_values import MUSES, dataset_values, plain, recording_rows, source_text, string
from .repository_recipe import RepositoryRecipe
from .tables import Table

BEGIN = "<!-- hf_ltc: every push rewrites the text between these two lines; edit outside of them -->"
END = "<!-- hf_ltc: end -->"
_MARK = "<!-- hf_ltc: "
TAGS = ("coreset", "ltc")
# The page of what was recorded, by the name that it has in a repository.
REPORT = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
# Keys of the metadata with an entry for each configuration.
_BY_CONFIG = ("configs", "dataset_info")
# Texts that need quotes: what is a number in YAML 1.2, which the Hub reads, and not for PyYAML (1e3, 0o7), and line
# breaks of Unicode, some of which PyYAML writes in a way that it does not read back.
_QUOTED = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+|0o[0-7]+|.*[\x85\u2028\u2029\ufeff].*", re.DOTALL)


def dataset_card(
    repo_id: str,
    recipe: RepositoryRecipe,
    metadata: Mapping[str, Any],
    *,
    existing: str | None = None,
    previous: Mapping[str, Any] | None = None,
    removed: Sequence[str] = (),
    pictures: Sequence[str] = (),
    report: bool = False,
) -> str:
    """The card of a repository with coresets or trajectories.

    Args:
        repo_id (`str`): The repository.
        recipe ([`RepositoryRecipe`]): Its recipe, from which the card is made.
        metadata (`Mapping`): Metadata for its head; `configs` and `dataset_info` as lists with one entry each.
        existing (`str`, *optional*):
            The present card. Of its text only the generated block is replaced; of its metadata only the entries of
            our configurations, and values that nobody has changed since they were generated.
        previous (`Mapping`, *optional*): The metadata that the last push generated.
        removed (`Sequence[str]`, *optional*): Configurations of ours that are deleted.
        pictures (`Sequence[str]`, *optional*): Paths of pictures in the repository.
        report (`bool`, *optional*, defaults to `False`): Whether the page [`REPORT`] is in the repository.

    Returns:
        `str`: Markdown with its YAML head.

    Raises:
        InputError: if the head of the existing card is no valid YAML.
    """
    values = dataset_values(repo_id, recipe)
    values["pictures"] = [{"path": quote(path), "text": plain(Path(path).stem.replace("_", " "))} for path in pictures]
    values["report"] = REPORT if report else None
    return _written("coreset_card.md", values, metadata, repo_id, existing, previous, removed)


def source_model_card(
    place: str,
    recipe: Recipe,
    settings: Mapping[str, Any],
    *,
    averaged: bool,
    local: bool = False,
    existing: str | None = None,
    previous: Mapping[str, Any] | None = None,
) -> str:
    """The card of a source model.

    Args:
        place (`str`): The repository, or the folder that the model is in.
        recipe ([`Recipe`]): That of the run, with the mean `validation_loss` after its last epoch.
        settings (`Mapping`): The `config.json` of the model.
        averaged (`bool`): Whether averaged weights are there.
        local (`bool`, *optional*, defaults to `False`): Whether `place` is a folder.
        existing (`str`, *optional*): As for [`dataset_card`].
        previous (`Mapping`, *optional*): Likewise.

    Returns:
        `str`: Markdown with its YAML head.
    """
    values = {
        "title": f"Source model of {source_text(recipe.dataset, link=False)}",
        "place": string(place),
        "local": local,
        "recording": recording_rows(recipe),
        "validation_loss": None if recipe.validation_loss is None else f"{recipe.validation_loss:.3f}",
        "averaged": averaged,
        "side": settings.get("image_size"),
        "max_length": settings.get("max_length"),
        "is_pair": recipe.dataset.text_pair_column is not None,
        "classes": settings.get("num_classes"),
        "limits": [
            "It was trained only for its losses, on the candidate rows, without the validation samples.",
            "Losses depend on the seed, so it is best to average scores over several such models.",
        ],
        "citation": MUSES,
    }
    metadata = model_metadata(recipe)
    return _written("source_model_card.md", values, metadata, place, existing, previous, ())


def space_card(
    title: str,
    dataset: str | None,
    *,
    existing: str | None = None,
) -> str:
    """The card of a static Space that shows the page of a recording, whose head says what the Space is.

    Args:
        title (`str`): What the dataset is called.
        dataset (`str`, *optional*): The repository with its coresets.
        existing (`str`, *optional*): As for [`dataset_card`].

    Returns:
        `str`: Markdown with its YAML head.
    """
    known = {"datasets": [dataset]} if dataset else {}
    metadata = {"title": title, "colorFrom": "blue", "colorTo": "green", "sdk": "static", "tags": list(TAGS), **known}
    values = {"title": plain(title), "dataset": dataset}
    return _written("space_card.md", values, metadata, title, existing, None, ())


def model_metadata(recipe: Recipe) -> dict[str, Any]:
    """The metadata of a source model's card."""
    known = {"datasets": [recipe.dataset.repo_id]} if recipe.dataset.repo_id else {}
    task = _task(recipe.dataset.text_column is None)
    return {"pipeline_tag": task, "library_name": "hf_ltc", "tags": list(TAGS), **known}


def _task(is_image: bool) -> str:
    return "image-classification" if is_image else "text-classification"


def config_names(card: str, repo_id: str) -> set[str]:
    """The configurations in the head of a card.

    Raises:
        InputError: if that is no valid YAML.
    """
    data = head(card, repo_id)
    entries = [entry for key in _BY_CONFIG for entry in _entries(data.get(key))]
    return {entry.get("config_name", "default") for entry in entries}


def head(card: str, repo_id: str) -> dict[str, Any]:
    """The metadata in the head of a card.

    Raises:
        InputError: if that is no valid YAML.
    """
    return dict(_parsed(card, repo_id).data.to_dict())


def card_metadata(
    identity: Identity, carried: Mapping[str, Any], scored: Dataset | None, license: str | None
) -> dict[str, Any]:
    """Metadata of the card; license, task and language are those of the source dataset."""
    names = ("license", "license_name", "license_link", "task_categories", "language")
    metadata = {name: carried[name] for name in names if carried.get(name)}
    if license is not None:
        # Name and link belong to the license of the source dataset.
        metadata = {name: value for name, value in metadata.items() if not name.startswith("license_")}
        metadata["license"] = license
    if "task_categories" not in metadata and scored is not None:
        images = any(isinstance(feature, Image) for feature in scored.features.values())
        metadata["task_categories"] = [identity.task or _task(images and identity.text_column is None)]
    if identity.repo_id is not None:
        metadata["source_datasets"] = [identity.repo_id]
    return {**metadata, "tags": list(TAGS)}


def file_sections(tables: Sequence[Table], infos: Mapping[str, DatasetInfo]) -> dict[str, Any]:
    """The parts of a card's metadata in which `load_dataset` finds the files and their features."""
    configs: dict[str, Any] = {}
    for table in tables:
        entry = configs.setdefault(table.config, {"config_name": table.config, "data_files": []})
        if table.config == "full":
            entry["default"] = True
        entry["data_files"].append({"split": table.split, "path": f"{table.folder}/{table.split}-*"})
    described = []
    for name, info in infos.items():
        data = DatasetCardData()
        DatasetInfosDict({name: info}).to_dataset_card_data(data)
        described.append(data["dataset_info"])
    return {"configs": list(configs.values()), "dataset_info": described}


def file_patterns(card: str, repo_id: str) -> Iterator[str]:
    """The file patterns of all configurations in the head of a card."""
    for entry in head(card, repo_id).get("configs") or []:
        yield from _patterns(entry.get("data_files"))


def _patterns(files: Any) -> Iterator[str]:
    """The file patterns of one configuration, which can be written in several ways."""
    if isinstance(files, str):
        yield files
    elif isinstance(files, Mapping):
        for name, value in files.items():
            if name != "split":
                yield from _patterns(value)
    elif isinstance(files, list):
        for value in files:
            yield from _patterns(value)


def size_category(rows: int) -> str:
    """The Hub's category of a number of rows."""
    return next((name for most, name in _SIZES if rows < most), "10M<n<100M")


def splice(existing: str, block: str) -> str:
    """Replaces the generated block of a text, or adds it at the end if there is none.

    Args:
        existing (`str`): The text of a card.
        block (`str`): From [`BEGIN`] to [`END`].

    Returns:
        `str`
    """
    # The first mark by its beginning: its words have changed.
    start, end = existing.find(_MARK), existing.find(END)
    if start < 0 or end <= start:
        # Someone may have deleted the marks. What they wrote is not touched.
        return f"{existing.rstrip()}\n\n{block}\n"
    return existing[:start] + block + existing[end + len(END) :]


def _written(
    template: str,
    values: dict[str, Any],
    metadata: Mapping[str, Any],
    repo_id: str,
    existing: str | None,
    previous: Mapping[str, Any] | None,
    removed: Sequence[str],
) -> str:
    there = None if existing is None else _parsed(existing, repo_id)
    data = _merged({} if there is None else there.data.to_dict(), metadata, previous or {}, removed)
    fixed = {"begin": BEGIN, "end": END, "version": __version__}
    template_text = (_TEMPLATES / template).read_text(encoding="utf-8")
    made = RepoCard.from_template(CardData(), template_str=template_text, **values, **fixed)
    text = "\n" + re.sub(r"\n{3,}", "\n\n", made.text).strip() + "\n"
    if there is not None:
        text = splice(there.text, text[text.index(BEGIN) : text.index(END) + len(END)])
    # The YAML that RepoCard writes does not keep every text.
    written = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return f"---\n{written}---\n{text}"


class _Dumper(yaml.SafeDumper):
    """Writes texts so that every reader of YAML reads the same texts."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _QUOTED.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
# Without anchors and aliases, which PyYAML writes for an object that occurs twice and which are hard to read.
_Dumper.ignore_aliases = lambda *_: True


def _parsed(card: str, repo_id: str) -> RepoCard:
    try:
        return RepoCard(card)
    except (ValueError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise InputError(f"the head of README.md of {repo_id!r} is not valid YAML ({reason}): fix it first") from error


def _merged(
    old: Mapping[str, Any], new: Mapping[str, Any], previous: Mapping[str, Any], removed: Sequence[str]
) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        if key in _BY_CONFIG:
            ours = {entry["config_name"] for entry in value} | set(removed)
            stays = [entry for entry in _entries(old.get(key)) if entry.get("config_name", "default") not in ours]
            merged[key] = [*stays, *value]
        elif key == "tags":
            kept = old.get(key) or []
            merged[key] = [*kept, *(tag for tag in value if tag not in kept and tag not in previous.get(key, []))]
        elif old.get(key) is None or old[key] == previous.get(key):
            merged[key] = value
    return {key: value for key, value in merged.items() if value not in (None, [])}


def _entries(value: Any) -> list[dict[str, Any]]:
    """The entries of such a key; one alone may stand without a list around it."""
    return [dict(value)] if isinstance(value, Mapping) else list(value or [])
