"""Judges with tiny networks; nothing is downloaded."""

import shutil

import numpy as np
import pytest
import torch
from idle_engine import idle_engine
from living import maker
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.payload import save_payload
from fglfast.synthesis.find_judge import find_judge as find
from fglfast.synthesis.judge import PROMPT
from fglfast.verbs import for_servers
from fglfast.verbs.app import app

NAMES = ("red", "green", "blue")
NARROW = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", *NAMES]


def find_judge(name, names):
    return find(name, names, drawing=None)


def plain(label, side=20):
    """An image of one colour."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., label] = 250
    return pixels


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A network that names the brightest channel, and knows a class more, in another order."""
    folder = tmp_path_factory.mktemp("classifier")
    names = ("blue", "grey", "red", "green")
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=4)
    config.id2label, config.label2id = dict(enumerate(names)), {name: label for label, name in enumerate(names)}
    torch.manual_seed(0)
    model = ResNetForImageClassification(config).eval()
    with torch.no_grad():
        pooled = model.resnet(
            torch.stack([torch.from_numpy(plain(k, 16) / 127.5 - 1.0).permute(2, 0, 1).float() for k in range(3)])
        )
        seen = pooled.pooler_output.flatten(1)
        centred = seen - seen.mean(0)
        model.classifier[1].weight.zero_()
        for colour, name in enumerate(NAMES):
            model.classifier[1].weight[names.index(name)] = 40 * centred[colour] / centred[colour].norm() ** 2
        model.classifier[1].bias.copy_(-model.classifier[1].weight @ seen.mean(0))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    text = CLIPTextConfig(**NARROW, vocab_size=len(WORDS), max_position_embeddings=12, bos_token_id=2, eos_token_id=3)
    vision = CLIPVisionConfig(**NARROW, image_size=16, patch_size=8)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    model.save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def test_a_classifier_judges_by_the_names_of_classes(classifier):
    judge = find_judge(classifier, NAMES)
    images = np.stack([plain(label) for label in (0, 1, 2, 0)])
    scores = judge(images, [0, 1, 2, 2])
    assert (scores[:3] > 0.9).all() and scores[3] < 0.1 and scores.shape == (4,)
    alone = judge(np.stack([images[2]] * 4), [2] * 4)
    assert alone[0] == scores[2] == round(scores[2], 4)


def test_clip_judges_as_its_own_forward_pass_does(clip):
    from transformers import AutoImageProcessor, AutoTokenizer

    images = np.stack([plain(label) for label in range(3)])
    scores = find_judge(clip, NAMES)(images, [0, 1, 2])
    model, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    pixels = AutoImageProcessor.from_pretrained(clip, backend="pil")(images=list(images), return_tensors="pt")
    prompts = [PROMPT.format(label=name) for name in NAMES]
    texts = tokenizer(prompts, padding="max_length", max_length=12, return_tensors="pt")
    expected = model(**texts, **pixels).logits_per_image.softmax(1).diagonal()
    assert np.allclose(scores, expected.detach().numpy(), atol=1e-4) and len(set(scores)) == 3


def test_judges_are_told_apart(clip, classifier):
    first, again, other = (find_judge(name, NAMES) for name in (clip, clip, classifier))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_other_classes_are_another_judge(clip, classifier):
    lists = (NAMES, NAMES[:2], NAMES[::-1])
    prints = {find_judge(name, names).fingerprint for name in (clip, classifier) for names in lists}
    assert len(prints) == 6 and all(len(each) == 64 for each in prints)


def test_an_update_to_more_classes_is_refused_where_a_judge_gave_scores(classifier, random_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(for_servers, "open_engine", lambda *_, **__: idle_engine(random_mini))
    asked = ["synthesize", "--embeddings", str(tmp_path / "ann.safetensors"), "--out", str(tmp_path / "out")]
    asked += ["--model", str(random_mini), "--recipe", "mini", "--images-per-class", "4", "--judge", classifier]
    done = []
    for names, more in ((NAMES[:2], ()), (NAMES, ("--update",))):
        sent = maker(random_mini)("ann", [("red", 1, 3), ("green", 2, 1)], names)
        save_payload(sent, tmp_path / "ann.safetensors")
        done.append(CliRunner().invoke(app, [*asked, *more]))
    assert [each.exit_code for each in done] == [0, 2], done[0].output
    assert "another judge" in done[1].output and "choose another --out" in done[1].output


@pytest.mark.parametrize("name", ["/nowhere/at/all", "."])
def test_what_is_no_judge_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="judge: "):
        find_judge(name, NAMES)


def test_a_classifier_that_lacks_a_class_is_refused(classifier):
    with pytest.raises(BadInputError, match="violet"):
        find_judge(classifier, (*NAMES, "violet"))


def test_a_classifier_saved_in_half_precision_judges(classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "half")
    ResNetForImageClassification.from_pretrained(classifier).half().save_pretrained(folder)
    scores = find_judge(str(folder), NAMES)(np.stack([plain(label) for label in range(3)]), [0, 1, 2])
    assert (scores > 0.9).all()


def test_a_judge_whose_scores_are_not_finite_is_named(classifier, clip):
    for name in (classifier, clip):
        judge = find_judge(name, NAMES)
        with torch.no_grad():
            next(judge.model.parameters()).fill_(float("nan"))
        with pytest.raises(BadInputError, match=f"judge: the scores of {name} are not finite"):
            judge(plain(0)[None], [0])
