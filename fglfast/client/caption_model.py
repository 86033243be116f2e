"""Captions by an image-to-text model of transformers, such as BLIP or BLIP-2."""

from collections.abc import Iterator

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from fglfast.base.errors import BadInputError
from fglfast.base.wording import first_line
from fglfast.generator.pretrained import open_pretrained
from fglfast.images.labelled import LabelledImages

BATCH = 16  # images
CAPTION_TOKENS = 40
ADVICE = "give attributes, a JSON or CSV file, or a captioning model such as Salesforce/blip-image-captioning-large"


class CaptionModel:
    """A captioning model of the hub or of a folder: safetensors only, no code of its own; float16 on a GPU.

    Raises:
        BadInputError: it cannot be had, or transformers knows no image-to-text model of its kind.
    """

    def __init__(self, name: str, batch: int = BATCH) -> None:
        self.name, self.batch = name, batch
        self.images, self.tokenizer, self.model = open_pretrained(AutoModelForImageTextToText, name, "captions", ADVICE)

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """Captions by greedy decoding.

        Raises:
            BadInputError: the model does not caption images that come without text.
        """
        for start in range(0, len(dataset), self.batch):
            yield self._caption([dataset.image(row) for row in range(start, min(start + self.batch, len(dataset)))])

    @torch.inference_mode()
    def _caption(self, pictures: list[Image.Image]) -> list[str]:
        try:
            pixels_BCHW = self.images(images=pictures, return_tensors="pt").pixel_values
            ids_BT = self.model.generate(
                pixel_values=pixels_BCHW.to(self.model.device, self.model.dtype),
                max_new_tokens=CAPTION_TOKENS,
                do_sample=False,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInputError(f"captions: {self.name} cannot caption ({first_line(error)})", ADVICE) from error
        captions: list[str] = self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
        return captions
