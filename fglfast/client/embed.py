"""Private images to a payload: prompts, then text embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fglfast.base.config import first_problem
from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.wording import many, some
from fglfast.client.captions import ATTRIBUTES, caption_all, find_captioner
from fglfast.client.cuts import tell_cuts, tell_numbers
from fglfast.client.privacy import Budget
from fglfast.client.private_prompts import private_counts, private_instances, public_prompts
from fglfast.client.prompts import PromptRow, check_own, class_level_prompts, instance_level_prompts
from fglfast.generator.parts import name_of, part
from fglfast.generator.text import Prompts, load_prompts, native_image_size, text_fingerprint, with_domain
from fglfast.generator.text_encoder import TextEncoder
from fglfast.generator.tokens import Tokenizer, load_tokenizer
from fglfast.images.labelled import LabelledImages
from fglfast.payload import Form, Payload, PayloadHeader, eight_bits, merge_equal, tensor_bytes
from fglfast.payload.header import FORMAT_VERSION, ROUTED_VERSION, PromptLevel
from fglfast.payload.merge import merge_payloads, same_prompts, same_words

WordsLevel = Literal["class", "instance"]


def embed(
    dataset: LabelledImages,
    client: str,
    model: Path | str,
    prompt_level: WordsLevel = "class",
    send: Form = "embeddings",
    template: str | None = None,
    captions: str = ATTRIBUTES,
    domain: str | None = None,
    budget: Budget | None = None,
    counts: NDArray[np.int64] | None = None,
) -> Payload:
    """Describe a client's images by prompts and encode those.

    Args:
        dataset: the client's private images.
        client: its name.
        model: the generator's diffusers directory, its text side alone, or a kit.
        prompt_level: one prompt a class, or class and caption of each image.
        send: text embeddings in float16 or in eight bits, or the prompts' token ids, which the server encodes.
        template: overrides the model's prompt template.
        captions: of instance-level prompts; see `find_captioner`.
        domain: a word for all images, such as "sketch"; it stands in every prompt and in the header.
        budget: of differential privacy; None adds no noise.
        counts: images of each class [K] that class-level prompts stand for, where the labels are not exact.

    Raises:
        UsageError: the client's name, the level, the domain or the template is refused, token ids shall carry noise, or
            embeddings are asked of a kit without weights.
        BadInputError: the captions cannot be had.
        MissingExtraError: there is a budget, and dp-accounting is not installed; or a captioner needs more.
    """
    model = Path(model)
    if prompt_level not in get_args(WordsLevel):
        raise UsageError(f"no prompts of level {prompt_level!r} are made of words", "choose class or instance")
    if send not in get_args(Form):
        raise UsageError(f"no payload is sent as {send!r}", f"choose {', '.join(get_args(Form))}")
    if budget and prompt_level == "instance" and send == "tokens":
        raise UsageError("token ids cannot carry noise", "send embeddings or int8, or class-level prompts")
    templates, counts = find_templates(model, template, domain), dataset.counts() if counts is None else counts
    encoder = None if send == "tokens" else _open_encoder(model)
    tokenizer = encoder.tokenizer if encoder else load_tokenizer(model)
    stated = template if prompt_level == "class" else None  # the header carries it
    header = make_header(client, dataset.class_names, prompt_level, text_fingerprint(model), domain, template=stated)
    if prompt_level == "instance":
        dataset = dataset.alone() if budget else dataset
        size = native_image_size(model) if captions == ATTRIBUTES else 0  # only these are measured, at that size
        described = caption_all(dataset, find_captioner(captions, size, alone=budget is not None))
        if budget and encoder:
            noisy = _noisy_instances(header, dataset, described, templates.instance_level, encoder, budget)
            return merge_equal(eight_bits(noisy) if send == "int8" else noisy)
        names, of_images = dataset.class_names, dataset.labels.tolist()
        rows = instance_level_prompts(described, of_images, names, templates.instance_level)
    else:
        if budget:
            held = counts
            counts, privacy = private_counts(counts, budget)
            _tell_lost(dataset.class_names, held, counts)
            header = header.model_copy(update={"privacy": privacy})
        rows = class_level_prompts(dataset.class_names, counts.tolist(), templates.class_level)
    wording = templates.instance_level if prompt_level == "instance" else templates.class_level
    tokens = _tokens(header, rows, wording, tokenizer)
    if encoder is None:
        return tokens
    embedded = _embedded(tokens, encoder)
    sent = merge_equal(eight_bits(embedded) if send == "int8" else embedded)
    sizes = tensor_bytes(tokens) | tensor_bytes(embedded)
    note(f"{many(len(sent.labels), 'prompt')}: " + ", ".join(f"{form} {size:,} bytes" for form, size in sizes.items()))
    return sent


def _tell_lost(class_names: tuple[str, ...], held_K: NDArray[np.int64], sent_K: NDArray[np.int64]) -> None:
    """Name, to the client alone, the classes that noise leaves out."""
    if lost := [name for name, held, sent in zip(class_names, held_K, sent_K, strict=True) if held and not sent]:
        note(f"classes of too few images to stand out from the noise are left out: {some(lost)}")


def class_list(class_names: tuple[str, ...]) -> LabelledImages:
    """A list of classes as `embed` takes it at class level, where no image is opened: each weighs the same."""
    return LabelledImages(class_names, np.arange(len(class_names)), (), (), "the list of classes")


def make_header(
    client: str,
    class_names: tuple[str, ...],
    level: PromptLevel,
    text_encoder: str,
    domain: str | None,
    inventory: str | None = None,
    template: str | None = None,
) -> PayloadHeader:
    """The header of a client's payload; of a routed one with the fingerprint of the inventory.

    Raises:
        UsageError: the client's name, the domain or the template is refused.
    """
    try:
        return PayloadHeader(
            format_version=ROUTED_VERSION if level == "routed" else FORMAT_VERSION,
            client=client,
            class_names=class_names,
            prompt_level=level,
            text_encoder=text_encoder,
            domain=domain,
            inventory=inventory,
            template=template,
        )
    except ValidationError as error:
        hint = "give another name, domain or template"
        raise UsageError(f"a payload cannot say this: {first_problem(error)}", hint) from error


def find_templates(model: Path, template: str | None, domain: str | None) -> Prompts:
    """The model's prompt templates for a domain, or the user's own in place of both.

    Raises:
        UsageError: the user's own is refused.
    """
    if template is not None:
        check_own(template)
    prompts = load_prompts(model, domain)
    if domain and prompts.domains and domain not in prompts.domains:
        note(f"{name_of(model)} has no prompts for domain {domain!r}, only for {', '.join(sorted(prompts.domains))}")
    own = with_domain(template, domain) if template else None
    return prompts.model_copy(update={"class_level": own, "instance_level": own} if own else {})


def _open_encoder(model: Path) -> TextEncoder:
    """The text encoder, which only those who send embeddings need.

    Raises:
        UsageError: the folder is a kit without weights.
    """
    if not list(part(model, "text_encoder").glob("*.safetensors")):
        raise UsageError(
            f"{model}: has no weights of the text encoder, which embeddings need",
            "add --send tokens, or ask for a kit that was written with --weights",
        )
    return TextEncoder.load(model)


def _tokens(header: PayloadHeader, rows: Sequence[PromptRow], template: str, tokenizer: Tokenizer) -> Payload:
    """The prompts' token ids; what the text encoder's length cuts off, and what is one prompt then, is said."""
    kept = tokenizer.fit([row.prompt for row in rows])
    tell_cuts(rows, kept, header.class_names, template)
    tell_numbers(header.class_names, kept[0] if kept else "")
    labels, counts = (np.array([getattr(row, key) for row in rows], dtype=np.int64) for key in ("label", "count"))
    tokens = merge_equal(Payload(header, None, tokenizer.tokenize(kept), labels, counts))
    if len(tokens.labels) < len(rows):
        reach = f"{tokens.prompts().shape[1]} tokens, upper case as lower"
        note(f"{len(rows):,} different prompts became {len(tokens.labels):,} rows: the text encoder reads {reach}")
    cut = {header.class_names[row.label] for row, text in zip(rows, kept, strict=True) if text != row.prompt}
    if together := same_prompts(merge_payloads([tokens])):
        note(same_words(together, cut))
    return tokens


def _embedded(tokens: Payload, encoder: TextEncoder) -> Payload:
    """Text embeddings of token ids; what is equal is encoded once, so that it stays equal to the last bit."""
    distinct_UT, place_N = np.unique(tokens.prompts(), axis=0, return_inverse=True)
    embeddings_ULD = encoder.encode(distinct_UT).astype(np.float16)
    return replace(tokens, embeddings=embeddings_ULD[place_N.reshape(-1)], token_ids=None)


def _noisy_instances(
    header: PayloadHeader,
    dataset: LabelledImages,
    captions: list[str],
    template: str,
    encoder: TextEncoder,
    budget: Budget,
) -> Payload:
    public = [PromptRow(label, public_prompts(name, template)[0], 1) for label, name in enumerate(dataset.class_names)]
    _tokens(header, public, template, encoder.tokenizer)  # for what it says
    rows = private_instances(captions, dataset.labels.tolist(), dataset.class_names, template, encoder, budget)
    stated = header.model_copy(update={"privacy": rows.privacy})
    return Payload(stated, rows.embeddings, None, rows.labels, rows.counts)
