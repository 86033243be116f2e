"""Tiny captioning models with random weights, in the layout that the hub has; nothing is downloaded."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipTextConfig,
    BlipVisionConfig,
    OPTConfig,
)

from fglfast.base.errors import BadInputError
from fglfast.client.caption_model import CaptionModel
from fglfast.client.captions import find_captioner
from fglfast.images.labelled import LabelledImages

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(40))]
NARROW = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = NARROW | {"image_size": 16, "patch_size": 8}
TEXT = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}


def blip():
    text = BlipTextConfig(**NARROW, **TEXT, encoder_hidden_size=16, max_position_embeddings=64)
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=BlipVisionConfig(**VISION)))


def blip_2():
    language = OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=5,  # what such weights repeat
        eos_token_id=3,
    )
    middle = Blip2QFormerConfig(**NARROW, vocab_size=len(WORDS), encoder_hidden_size=16)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=middle,
        text_config=language,
        num_query_tokens=4,
        image_token_index=4,
    )
    return Blip2ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[blip, blip_2])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param.__name__)
    request.param().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def pictures(count):
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    openers = [lambda pixels_HWC=pixels_HWC: Image.fromarray(pixels_HWC) for pixels_HWC in pixels_NHWC]
    return LabelledImages(("cat",), np.zeros(count, np.int64), tuple(openers), (), "pictures")


def test_a_caption_an_image_whatever_the_batch(folder):
    images = pictures(5)
    (together,) = CaptionModel(str(folder))(images)
    assert len(together) == 5 and any(caption.startswith("word") for caption in together)
    assert not any("[" in caption for caption in together)
    parts = list(CaptionModel(str(folder), batch=2)(images))
    assert [len(part) for part in parts] == [2, 2, 1] and [*chain(*parts)] == together


def test_a_private_caption_is_of_its_image_alone(folder):
    shown = list(find_captioner(str(folder), 16, alone=True)(pictures(3)))
    assert [len(part) for part in shown] == [1, 1, 1]
    assert len(next(find_captioner(str(folder), 16)(pictures(3)))) == 3


def test_weights_in_a_pickle_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="cannot be loaded") as refused:
        CaptionModel(str(tmp_path))
    assert "\n" not in refused.value.message


def test_what_is_no_captioning_model_is_refused_in_one_line(random_mini, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(random_mini / "text_encoder"), str(tmp_path), "nobody/nothing"):
        with pytest.raises(BadInputError, match="cannot be loaded") as refused:
            CaptionModel(name)
        assert "\n" not in refused.value.message
