"""What turns texts into token ids: the tokenizer of a model, or hashes of words and of pairs of words."""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from ...utils.errors import InputError, as_input_error
from ..transformers_models import TRANSFORMERS, model_config, model_place

EMBEDDING_BAG = "embedding_bag"
# The folder of a saved tokenizer, beside the weights.
TOKENIZER = "tokenizer"
# Most tokens of a text if it is not said how many: beyond this memory grows faster than models learn.
_USUAL_LENGTH = 512
# Of scripts that put no spaces between words, single characters; words; and single signs. What is put on a letter, as
# vowels in Hindi and accents that are characters of their own, is no letter to `re`, and belongs to it.
_SINGLE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARK = "".join(letter for letter in map(chr, range(0x300, 0x20000)) if unicodedata.category(letter)[0] == "M")
_WORD = re.compile(rf"[{_SINGLE}][{_MARK}]*|[^\W{_SINGLE}]+(?:[{_MARK}]+[^\W{_SINGLE}]*)*|[^\w\s]")
# Beside the ids of padding.
_HASHES = 2**15
# Models that count positions from behind the id of their padding.
_SHIFTED = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "luke", "xmod", "ibert")


@dataclass(frozen=True)
class Encoded:
    """Some texts as ids.

    Args:
        ids (`list[list[int]]`): Of each text, or pair.
        types (`list[list[int]]`, *optional*): Which text of a pair each id is of, for models that are told.
        truncated (`int`): How many were longer than what is left of them.
    """

    ids: list[list[int]]
    types: list[list[int]] | None
    truncated: int


class Encoder(Protocol):
    """Turns texts, or pairs of texts, into ids."""

    @property
    def max_length(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def padding(self) -> int: ...

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encoded: ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class WordHashes:
    """Hashes of the words of a text, in small letters, and of each two words that follow each other.

    As in fastText (Joulin et al., arXiv 1607.01759), but words are hashed too: there is nothing to train or to keep,
    and the ids of a text are the same in any dataset and on any machine. The second text of a pair has hashes of its
    own.

    Args:
        max_length (`int`): Words of a text that are taken.
    """

    max_length: int = _USUAL_LENGTH

    vocabulary = _HASHES + 1
    padding = 0

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encoded:
        ids, truncated = [], 0
        for parts in zip(texts) if pairs is None else zip(texts, pairs):
            words = [_WORD.findall(text.lower()) for text in parts]
            truncated += any(len(part) > self.max_length for part in words)
            ids.append(
                [each for mark, part in enumerate(words) for each in self._hashes(part[: self.max_length], mark)]
            )
        return Encoded(ids, None, truncated)

    def save(self, folder: Path) -> None:
        """Nothing has to be kept."""

    def _hashes(self, words: Sequence[str], mark: int) -> Iterator[int]:
        lead = "\n" * mark
        for gram in (*words, *(f"{one} {two}" for one, two in pairwise(words))):
            yield 1 + zlib.crc32(f"{lead}{gram}".encode()) % _HASHES


@dataclass(frozen=True, eq=False)
class TokenizerEncoder:
    """The tokenizer of a model of transformers.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`): The tokenizer.
        max_length (`int`): Tokens of a text, or pair, that are taken.
    """

    tokenizer: Any
    max_length: int
    _typed: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_typed", "token_type_ids" in self.tokenizer.model_input_names)

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    @property
    def padding(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encoded:
        typed = self._typed and pairs is not None
        options = {"return_attention_mask": False, "return_token_type_ids": typed, "verbose": False}
        given = [list(part) for part in (texts, pairs) if part is not None]
        found = self.tokenizer(*given, **options)
        ids, types = found["input_ids"], found["token_type_ids"] if typed else None
        long = [row for row, each in enumerate(ids) if len(each) > self.max_length]
        if long:
            # Cut where the tokenizer cuts, which keeps the tokens that it puts around a text.
            parts = [[part[row] for row in long] for part in given]
            cut = self.tokenizer(*parts, truncation=True, max_length=self.max_length, **options)
            for place, row in enumerate(long):
                ids[row] = cut["input_ids"][place]
                if types is not None:
                    types[row] = cut["token_type_ids"][place]
        return Encoded(ids, types, len(long))

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder / TOKENIZER)


def text_encoder(model: str, max_length: int | None = None, *, pair: bool = False) -> Encoder:
    """The encoder of a model of texts.

    Args:
        model (`str`): `embedding_bag`, or `transformers:` with a Hub id, a folder or a config file beside which the
            tokenizer is.
        max_length (`int`, *optional*): Tokens of a text; if not given as many as the model takes, at most 512.
        pair (`bool`, *optional*, defaults to `False`): Whether pairs of texts are encoded.

    Raises:
        InputError: for a model of images or an unknown one, without a tokenizer, whose tokenizer has no padding token,
            or that takes fewer tokens; for a length that leaves no room for a text.
    """
    if model == EMBEDDING_BAG:
        return WordHashes(max_length or _USUAL_LENGTH)
    if not model.startswith(TRANSFORMERS):
        raise InputError(
            f"`model` {model!r} does not take texts: give {EMBEDDING_BAG}, or {TRANSFORMERS}NAME of a sequence "
            "classifier"
        )
    from transformers import AutoTokenizer

    fix = "save it there with tokenizer.save_pretrained(...)"
    place = model_place(model, "sequence classifier")
    beside = str(Path(place).parent) if Path(place).is_file() else place
    what = f"no tokenizer of `model` {model!r} in {beside!r}"
    with as_input_error(what, fix):
        tokenizer = AutoTokenizer.from_pretrained(beside)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # Where there is no file of it, transformers makes one that knows no word.
        raise InputError(f"{what}: {fix}")
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"the tokenizer of `model` {model!r} has no padding token, which batches need: set one "
            f"(tokenizer.pad_token = tokenizer.eos_token), and {fix}"
        )
    config = model_config(model, "sequence classifier")
    most = _positions(config, tokenizer)
    if max_length is not None and max_length > most:
        raise InputError(f"`max_length` is {max_length}, but `model` {model!r} takes {most} tokens: lower it")
    length, around = max_length or min(most, _USUAL_LENGTH), tokenizer.num_special_tokens_to_add(pair)
    if length <= around:
        raise InputError(
            f"`max_length` is {length}, but the tokenizer of `model` {model!r} puts {around} tokens around a "
            f"{'pair of texts' if pair else 'text'}: raise it"
        )
    return TokenizerEncoder(tokenizer, length)


def saved_encoder(folder: Path, settings: dict[str, Any]) -> Encoder:
    """The encoder of a saved model of texts, from the folder and the settings that it was saved with."""
    if settings["name"] == EMBEDDING_BAG:
        return WordHashes(settings["max_length"])
    from transformers import AutoTokenizer

    with as_input_error(f"cannot read the tokenizer in {str(folder)!r}", "restore it"):
        return TokenizerEncoder(AutoTokenizer.from_pretrained(folder / TOKENIZER), settings["max_length"])


def padded(ids: Sequence[Any], types: Sequence[Any] | None, padding: int) -> dict[str, torch.Tensor]:
    """A batch: ids behind which padding stands, and which of them are none."""
    rows = [torch.as_tensor(each, dtype=torch.int64) for each in ids]
    filled = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in rows], batch_first=True)
    batch = {"input_ids": filled, "attention_mask": mask}
    if types is not None:
        each_type = [torch.as_tensor(each, dtype=torch.int64) for each in types]
        batch["token_type_ids"] = torch.nn.utils.rnn.pad_sequence(each_type, batch_first=True)
    return batch


def _positions(config: Any, tokenizer: Any) -> int:
    """The most tokens that a model takes."""
    found = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if any(kind in config.model_type for kind in _SHIFTED):
        found -= (config.pad_token_id or 0) + 1
    return int(min(found, tokenizer.model_max_length))
