"""The files of a dataset in a folder: all of them, or exactly those that were named."""

import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, load_dataset_builder, packaged_modules
from datasets.data_files import FILES_TO_IGNORE, SPLIT_KEYWORDS, DataFilesDict, DataFilesList, _get_data_files_patterns
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from fsspec.utils import glob_translate
from huggingface_hub import DatasetCard

from ..utils.errors import InputError, LTCWarning, listed
from .columns import read_column

DataFiles = str | Sequence[str] | Mapping[str, Any]
_IMAGES = frozenset(ImageFolder.EXTENSIONS)
# What holds rows, beside images; of a table beside images one cannot say.
_ROWS = frozenset({".parquet", ".geoparquet", ".gpq", ".arrow", ".tar", ".zip", ".h5", ".hdf5", ".lance"})
_TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson"})
_METADATA = frozenset(ImageFolder.METADATA_FILENAMES)
# What systems and tools leave behind.
_LITTER = frozenset({"__MACOSX", ".ipynb_checkpoints", ".git", ".cache", ".thumbnails", ".Trashes"})
_SPLIT_OF = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
# Of folders that save_to_disk wrote.
_SAVED = "state.json"


def load_files(place: str, name: str | None, revision: str | None, data_files: DataFiles | None) -> DatasetDict:
    """Loads the dataset in a folder as `datasets.load_dataset` does, if that takes all of it.

    Args:
        place (`str`): The absolute path of the folder, which may have any characters.
        name (`str`, *optional*): The configuration.
        revision (`str`, *optional*): As in `datasets.load_dataset`.
        data_files (`str`, `Sequence[str]` or `Mapping`, *optional*):
            Names of files in the folder, or patterns where there is no file of that name. All files if not given.

    Returns:
        `datasets.DatasetDict`: the splits.

    Raises:
        InputError: for a folder of which a part would be left out silently.
    """
    check_path(place)
    configured = data_files is None and _is_configured(place)
    given: Any = data_files
    if data_files is not None:
        given = _named_files(place, data_files)
    elif glob.has_magic(place):
        if configured:
            raise InputError(
                f"the README.md of the folder {place!r} names its files by patterns, which are not understood under a "
                "path with one of *, ? and [: rename the folder"
            )
        given = _split_files(place)
    builder = load_dataset_builder(place, name, revision=revision, data_files=given)
    if data_files is None and not configured:
        taken = {str(split): list(dict.fromkeys(files)) for split, files in builder.config.data_files.items()}
        if any(len(files) < len(builder.config.data_files[split]) for split, files in taken.items()):
            # A file whose path matches two patterns is taken twice.
            builder = load_dataset_builder(place, name, revision=revision, data_files=_exactly(taken))
        _check_all_taken(place, taken)
        _check_splits(place, taken)
    for files in builder.config.data_files.values():
        for path in files:
            check_path(path)
    builder.download_and_prepare()
    loaded = builder.as_dataset()
    if data_files is None and not configured:
        _check_all_listed(place, taken, loaded)
    return loaded


def load_file(place: str) -> DatasetDict:
    """Loads one Parquet file."""
    check_path(os.path.abspath(place))
    builder = load_dataset_builder("parquet", data_files=_exactly({"train": [os.path.abspath(place)]}))
    builder.download_and_prepare()
    return builder.as_dataset()


def check_saved(place: str, loaded: DatasetDict) -> None:
    """Checks that a folder of `save_to_disk` has no splits beside those that it lists.

    Raises:
        InputError: for a split that would be left out.
    """
    there = sorted(path.parent.name for path in Path(place).glob(f"*/{_SAVED}"))
    if left := [split for split in there if split not in loaded]:
        raise InputError(
            f"the dataset folder {place!r} lists the splits {', '.join(map(repr, loaded))}, but there is "
            f"{', '.join(map(repr, left))} too: give the folder of the split itself, or save them together"
        )


def check_path(path: str, *, variables: bool = True) -> None:
    """Checks that `datasets` takes a path of this machine as it is.

    Args:
        path (`str`): The path.
        variables (`bool`, *optional*, defaults to `True`): Whether it reads variables of the environment into it.

    Raises:
        InputError: for a path that it would read as another one.
    """
    if "::" in path:
        raise InputError(f"the path {path!r} has '::', which datasets reads as a file inside of another: rename it")
    if variables and "\n" in path:
        raise InputError(f"the path {path!r} has a line break, at which datasets' patterns end: rename it")
    if variables and (read := os.path.expandvars(path)) != path:
        raise InputError(f"the path {path!r} has a '$', and datasets reads it as {read!r}: rename it")


def _is_configured(place: str) -> bool:
    """Whether the owner of the folder says which files it has, as in a repository of the Hub."""
    readme = Path(place) / "README.md"
    if (Path(place) / ".huggingface.yaml").is_file():
        return True
    return readme.is_file() and bool(
        DatasetCard.load(readme, ignore_metadata_errors=True).data.to_dict().get("configs")
    )


def _exactly(files: Mapping[str, Sequence[str]]) -> dict[str, DataFilesList]:
    """Files as `datasets` takes them without reading patterns into their names."""
    return {
        split: DataFilesList(list(paths), [(str(os.stat(path).st_mtime),) for path in paths])
        for split, paths in files.items()
    }


def _split_files(place: str) -> DataFilesDict:
    """The files of each split, by the rules of `datasets`, which would read a pattern into the path of the folder."""
    root = os.path.realpath(place)
    names = [name for name in _names(root) if _is_plain(name)]
    if not names:
        raise FileNotFoundError("no data files found")
    patterns = _get_data_files_patterns(lambda pattern: _matching(names, pattern))
    found = {}
    for split, each in patterns.items():
        chosen = [name for pattern in each for name in names if _matcher(pattern)(name)]
        found[split] = [os.path.join(root, name) for name in dict.fromkeys(chosen)]
    files = DataFilesDict(_exactly(found))
    module, _ = infer_module_for_data_files(files, path=place)
    of_rows = packaged_modules._MODULE_TO_EXTENSIONS[module]
    return files.filter(
        extensions=of_rows + packaged_modules._MODULE_TO_METADATA_EXTENSIONS[module],
        file_names=packaged_modules._MODULE_TO_METADATA_FILE_NAMES[module],
    )


def _named_files(place: str, data_files: DataFiles) -> Any:
    splits = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    by_split = {str(split): [files] if isinstance(files, str) else list(files) for split, files in splits.items()}
    every = [name for names in by_split.values() for name in names]
    odd = [name for name in every if glob.has_magic(name) and os.path.isfile(os.path.join(place, name))]
    if not odd and not glob.has_magic(place):
        return data_files
    names = _names(place)
    found: dict[str, list[str]] = {}
    for split, wanted in by_split.items():
        found[split] = []
        for name in wanted:
            here = os.path.join(place, name)
            if os.path.isfile(here):
                found[split].append(here)
            elif os.path.isabs(name):
                found[split] += sorted(glob.glob(name, recursive=True))
            else:
                found[split] += [os.path.join(place, one) for one in _matching([*filter(_is_plain, names)], name)]
        if not found[split]:
            raise FileNotFoundError(f"no file is called {', '.join(map(repr, wanted))}, nor matches it")
    return _exactly(found)


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    matches = _matcher(pattern)
    if not (found := [name for name in names if matches(name)]):
        raise FileNotFoundError(pattern)
    return found


def _matcher(pattern: str) -> Callable[[str], Any]:
    return re.compile(glob_translate(pattern)).match


def _is_plain(name: str) -> bool:
    """Whether `datasets` takes a file without being told to."""
    *folders, file = name.split("/")
    if file in FILES_TO_IGNORE or any(folder.startswith("__") for folder in folders):
        return False
    return not any(part.startswith(".") for part in (*folders, file))


def _names(root: str) -> list[str]:
    """All files below a folder, as paths from there; folders behind links too, once each."""
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        here = os.path.relpath(folder, root)
        found += [Path(here, file).as_posix() for file in files]
    return sorted(found)


def _check_all_taken(place: str, taken: Mapping[str, Sequence[str]]) -> None:
    root = os.path.realpath(place)
    known = {os.path.relpath(path, root) for files in taken.values() for path in files}
    images = any(_extension(name) in _IMAGES for name in known)
    rows = _ROWS | _IMAGES if images else _ROWS | _IMAGES | _TABLES
    left = [
        name
        for name in _names(root)
        if name not in known
        and _extension(name) in rows
        and not _LITTER & set(name.split("/"))
        and not os.path.basename(name).startswith("._")
        and os.path.basename(name) not in FILES_TO_IGNORE
    ]
    if not left:
        return
    would = "; ".join(f"{split}: {_some(files, root)}" for split, files in taken.items())
    if all(map(_is_named_after_split, known)) and all(_is_beside(name, known) for name in left):
        warnings.warn(
            f"of the dataset folder {place!r} this is taken ({would}), and not {_some(left)}, named after no split",
            LTCWarning,
            stacklevel=2,
        )
    else:
        raise InputError(
            f"of the dataset folder {place!r} only a part would be taken ({would}), and not {_some(left)}, for their "
            "names or formats: move these elsewhere, or give the folder that has only what is meant"
        )


def _is_beside(name: str, taken: Iterable[str]) -> bool:
    """Whether a file lies beside rows and holds none itself, as labels.json beside train-*.parquet."""
    other = _extension(name) in _TABLES - {_extension(file) for file in taken}
    return other and not _is_named_after_split(name)


def _is_named_after_split(path: str) -> bool:
    words = re.split(r"[^a-z]+", path.lower())
    return any(word in _SPLIT_OF for word in words)


def _check_splits(place: str, taken: Mapping[str, Sequence[str]]) -> None:
    """Checks that no folders or files named after splits become one: `datasets` knows these names in lower case."""
    root = os.path.realpath(place)
    tops = {os.path.relpath(path, root).split(os.sep)[0] for paths in taken.values() for path in paths}
    named = {top: _SPLIT_OF.get(match[0].lower()) for top in sorted(tops) if (match := re.match("[A-Za-z]+", top))}
    if len(taken) == 1 and len(named) == len(tops) and None not in named.values() and len(set(named.values())) > 1:
        raise InputError(
            f"{listed(list(named))} of the dataset folder {place!r} would be one split, "
            f"{next(iter(taken))!r}: name them in lower case, as {', '.join(map(repr, dict.fromkeys(named.values())))}"
        )


def _check_all_listed(place: str, taken: Mapping[str, Sequence[str]], loaded: DatasetDict) -> None:
    """Checks that a file of metadata lists all images: those that it does not list would be left out."""
    files = [path for paths in taken.values() for path in paths]
    if not any(os.path.basename(path) in _METADATA for path in files):
        return
    listed = {path for rows in loaded.values() for path in _image_paths(rows)}
    root = os.path.realpath(place)
    left = [path for path in files if _extension(path) in _IMAGES and os.path.realpath(path) not in listed]
    if left:
        raise InputError(
            f"the metadata file of the dataset folder {place!r} lists {len(listed)} images, and not "
            f"{_some(left, root)}: add these to it, or move them elsewhere"
        )


def _image_paths(rows: Dataset) -> Iterable[str]:
    for column, feature in rows.features.items():
        if isinstance(feature, Image):
            for chunk in read_column(rows, column).chunks:
                yield from (os.path.realpath(path) for path in chunk.field("path").to_pylist() if path)


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _some(paths: Sequence[str], root: str | None = None) -> str:
    return listed(paths, lambda path: repr(os.path.relpath(path, root) if root else path), most=3, count="files")
