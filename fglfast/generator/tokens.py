"""The tokenizer of a model folder, by the `tokenizers` library alone: prompts to token ids.

CLIP's byte-pair encoding with the folder's vocabulary, the same ids as transformers' CLIPTokenizer. The pipeline around
the vocabulary (normalization, splitting, the tokens at both ends) is CLIP's own whatever the folder's files say of it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading, read_bytes, read_object
from fglfast.generator.configs import read_config
from fglfast.generator.parts import part

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORDS = rf"<\|startoftext\|>|<\|endoftext\|>|{CLIP_WORDS}"
SPECIAL = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
MOST_TOKENS = 4096  # of a prompt
MOST_IDS = 1 << 20  # of a vocabulary; Stable Diffusion's has 49,408
MOST_BYTES = 16 << 20  # of a tokenizer's file
HINT = "use a complete diffusers directory, or a kit as fglfast kit writes it"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and how long a prompt may be.

    Attributes:
        bpe: what encodes; it neither pads nor cuts.
        length: tokens of a prompt (T), those at both ends among them.
        pad: id of the token that fills short prompts.
        eos: id of the token that ends a prompt.
    """

    bpe: tokenizers.Tokenizer
    length: int
    pad: int
    eos: int

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """How many tokens texts have, uncut, those at both ends among them."""
        return [len(each.ids) for each in self.bpe.encode_batch(list(texts))]

    def tokenize(self, prompts: Sequence[str]) -> NDArray[np.int32]:
        """Token ids [N,T] of prompts, padded; those too long are counted and shortened at a word."""
        ids_NT = np.full((len(prompts), self.length), self.pad, dtype=np.int32)
        for row, each in zip(ids_NT, self.bpe.encode_batch(self.fit(prompts)), strict=True):
            row[: len(each.ids)] = each.ids
        return ids_NT

    def fit(self, prompts: Sequence[str]) -> list[str]:
        """Prompts no longer than the text encoder takes: those too long are counted and shortened at a word."""
        texts, sizes = list(prompts), self.sizes(prompts)
        long = [row for row, size in enumerate(sizes) if size > self.length]
        for row in long:
            texts[row] = self.shortened(texts[row])
        if long:
            longest = max(long, key=lambda row: sizes[row])
            note(
                f"{len(long)} of {len(texts)} prompts are over {self.length} tokens (the longest has {sizes[longest]}) "
                f"and shortened at a word, such as to {texts[longest][-60:]!r}"
            )
        return texts

    def shortened(self, text: str) -> str:
        """As many leading words of a text as fit; of a script without spaces, as many letters."""
        for parts, space in ((text.split(), " "), (list(text), "")):

            def size(kept: int, parts: Sequence[str] = parts, space: str = space) -> int:
                return self.sizes([space.join(parts[:kept])])[0]

            kept = bisect_right(range(1, len(parts) + 1), self.length, key=size)
            if kept:
                return space.join(parts[:kept]).rstrip(" ,;:")
        return ""


def load_tokenizer(model: Path) -> Tokenizer:
    """The (first) tokenizer of a model folder.

    Raises:
        BadInputError: it cannot be read, or takes longer prompts than the text encoder.
    """
    tokenizer, most = read_tokenizer(part(model, "tokenizer")), text_positions(model)
    if not 2 <= tokenizer.length <= most:
        problem = f"model_max_length is {tokenizer.length}, the text encoder takes {most}"
        raise BadInputError(f"{model / 'tokenizer'}: {problem}", HINT)
    return tokenizer


def second_padding(model: Path, first: Tokenizer) -> int:
    """What the second tokenizer of an XL pads with; its ids are made of the first one's, so no more may differ.

    Raises:
        BadInputError: it has other words, other tokens at the ends, or another length.
    """
    folder = part(model, "tokenizer_2")
    second = read_tokenizer(folder)
    facts = {
        "vocabulary": (first.bpe.get_vocab(), second.bpe.get_vocab()),
        "beginning or end of a prompt": (first.bpe.encode("").ids, second.bpe.encode("").ids),
        "model_max_length": (first.length, second.length),
    }
    for name, (one, other) in facts.items():
        if one != other:
            raise BadInputError(f"{folder}: another {name} than the first tokenizer has; only padding may differ", HINT)
    return second.pad


def after_end(ids: Any, pad: int, eos: int) -> Any:
    """Where token ids [..., T], of NumPy or PyTorch, are padding: what follows the last other token and the end.

    The end may be a word of the prompt too, so it is not sought from the front.
    """
    words = (1 * (ids != pad)).cumsum(-1)
    rest = (1 * (words == words[..., -1:])).cumsum(-1)  # 1 at the last token that is no padding
    return rest > (2 if pad == eos else 1)


def read_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer's folder: `tokenizer.json`, or `vocab.json` and `merges.txt`, and what names its special tokens.

    Raises:
        BadInputError: it is not one of CLIP's kind.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no tokenizer", HINT)
    with loading(folder, HINT):
        whole = _object(folder / "tokenizer.json")
        config = _object(folder / "tokenizer_config.json")
        named, added = _special(folder, config, whole)
        bpe = _pipeline(*_vocabulary(folder, whole), str(named["unk_token"]))
        bpe.add_tokens([*added, *(token for token in named.values() if str(token) not in set(map(str, added)))])
        known, names = bpe.get_vocab(), (str(named[part]) for part in ("bos_token", "eos_token", "pad_token"))
        bos, eos, pad = ((name, known[name]) for name in names)
        bpe.post_processor = processors.RobertaProcessing(eos, bos, trim_offsets=False, add_prefix_space=False)
        return Tokenizer(bpe, int(config.get("model_max_length", 0)), pad[1], eos[1])


def _pipeline(vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str) -> tokenizers.Tokenizer:
    """CLIP's text to ids (Radford et al., arXiv 2103.00020), as transformers' CLIPTokenizer sets it up."""
    bpe = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return bpe


def _vocabulary(folder: Path, whole: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if whole:
        model = whole["model"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return model["vocab"], [(first, second) for first, second in pairs]
    lines = read_bytes(folder / "merges.txt", MOST_BYTES).decode().split("\n")
    pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    return _object(folder / "vocab.json", needed=True), [(first, second) for first, second in pairs]


def _special(
    folder: Path, config: Mapping[str, Any], whole: Mapping[str, Any]
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens by their part in a prompt, and all added ones by id: the folder's files, newest form first."""
    said = dict(config)
    if "added_tokens_decoder" in config:
        by_id = {int(number): _token(token) for number, token in config["added_tokens_decoder"].items()}
    else:
        said |= _object(folder / "special_tokens_map.json")
        names = {_content(said.get(name) or usual) for name, usual in SPECIAL.items()}
        later = _object(folder / "added_tokens.json").items()
        by_id = {number: _added(content, content in names) for content, number in later}
        more = whole.get("added_tokens") or ()
        by_id |= {token["id"]: _token({k: v for k, v in token.items() if k != "id"}) for token in more}
    known = {token.content: token for token in by_id.values()}
    named = {}
    for name, usual in SPECIAL.items():
        asked = said.get(name) or usual
        token = _token({**asked, "special": True}) if isinstance(asked, dict) else _added(asked, special=True)
        named[name] = known.get(token.content, token)
    return named, [by_id[number] for number in sorted(by_id)]


def _added(content: str, special: bool) -> AddedToken:
    return AddedToken(content, special=special, normalized=not special)


def _token(said: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{key: value for key, value in said.items() if key != "__type"})


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _object(path: Path, needed: bool = False) -> dict[str, Any]:
    """A JSON file of a tokenizer; without it, nothing, unless it is needed."""
    if not needed and not path.exists():
        return {}
    return read_object(path, MOST_BYTES, HINT, MOST_IDS)


def text_positions(model: Path) -> int:
    """Tokens of a prompt (T) that the (first) text encoder of a model folder takes.

    Raises:
        BadInputError: its config does not say.
    """
    return _size(model, "max_position_embeddings", MOST_TOKENS)


def vocabulary(model: Path) -> int:
    """Token ids that the (first) text encoder of a model folder knows, from 0.

    Raises:
        BadInputError: its config does not say.
    """
    return _size(model, "vocab_size", MOST_IDS)


def _size(model: Path, key: str, most: int) -> int:
    path = part(model, "text_encoder") / "config.json"
    size = read_config(path).get(key)
    if not isinstance(size, int) or not 1 <= size <= most:
        raise BadInputError(f"{path}: {key} is {size!r}, not 1 to {most}", HINT)
    return size
