"""What was measured of each class, in words, and what to do about it. Measures nothing."""

import math
from typing import Literal

from fglfast.base.config import Settings
from fglfast.base.wording import some

# The ratio of two shares counted on n images has a standard error of about 1 / sqrt(n). Two of those below a full score
# is what a perfect generator may get by chance, two above nothing what a useless one may: 0.25 at 64 images. It is no
# less where there are more: no generator is perfect.
MARGIN = 0.25
TELLING = 0.1  # least that own images have to do better than guessing for a comparison with them

Verdict = Literal["well", "partly", "not", "too few images"]
REMEDIES = "a word for your domain (--domain), captions (--prompt-level instance) or learned embeddings (embed --learn)"


class Share(Settings):
    """A share of held-out own images, once by what drawn images do for it, once by what as many own images do."""

    drawn: float
    own: float

    def relative(self, chance: float = 0.0) -> float | None:
        """What drawn images do in units of what own ones do, both beyond chance: 0 to 1; None where own ones fail."""
        reach = self.own - chance
        return min(1.0, max(0.0, self.drawn - chance) / reach) if reach >= TELLING else None


class ClassFinding(Settings):
    """What was found of one class.

    Attributes:
        name: the class.
        images: own images of it.
        compared: of those, how many were held out, and how many own and drawn ones each did their best for them.
        recognised: share that a small classifier recognises; None where there is no second class.
        covered: share that has a neighbour among the others (`coverage`).
        score: geometric mean of the two, each relative to the own images: what the class's own images would get is 1.
    """

    name: str
    images: int
    compared: int = 0
    recognised: Share | None = None
    covered: Share | None = None
    score: float | None = None

    @property
    def verdict(self) -> Verdict:
        """How well the generator draws the class."""
        if self.score is None:
            return "too few images"
        margin = max(MARGIN, 2 / math.sqrt(self.compared))
        return "well" if self.score >= 1 - margin else "not" if self.score < margin else "partly"


class Findings(Settings):
    """What was found of all classes that the client holds."""

    classes: tuple[ClassFinding, ...]

    @property
    def verdict(self) -> Verdict:
        """Of the whole domain: "well" if every class is, "not" if most are not."""
        verdicts = [found.verdict for found in self.classes if found.score is not None]
        if all(verdict == "well" for verdict in verdicts):
            return "well"
        return "not" if 2 * verdicts.count("not") > len(verdicts) else "partly"

    @property
    def advice(self) -> str:
        """What to do, in a sentence."""
        poor = [found.name for found in self.classes if found.verdict in ("partly", "not")]
        if self.verdict == "well":
            return "join: the generator draws your classes about as well as your own images show them"
        if self.verdict == "not":
            return f"do not join with this generator as it is; try {REMEDIES}, and probe again"
        return f"join, but expect little for {some(poor)}; for these try {REMEDIES}, and probe again"


def score(recognised: Share | None, covered: Share, classes: int) -> float:
    """The geometric mean of both shares relative to the own images': where either is nothing, so is the class.

    A classifier alone is not enough: it calls noise something, too, and is always right about a single class. Coverage
    alone is not, either: it does not tell a class from its neighbours.
    """
    ratios = [recognised.relative(1 / classes) if recognised else None, covered.relative()]
    told = [ratio for ratio in ratios if ratio is not None]
    return math.prod(told) ** (1 / len(told)) if told else 0.0
