"""What an audit found, `audit.json`."""

from typing import Literal

from fglfast.base.config import Settings
from fglfast.lab.audit.copies import Copies
from fglfast.lab.audit.inversion import Inverted
from fglfast.lab.audit.roc import Roc

View = Literal["model", "updates", "upload"]
MODEL: View = "model"  # the final one, which everybody gets
STRONG = 64  # shadow models: the authors of the likelihood ratio take 64 to 256
CONTROL = "overfitted"  # the name of a model that was made to learn its images by heart


class Attack(Settings):
    """One membership-inference attack on one model.

    Attributes:
        model: the method that made it, or its folder.
        seen: what the attacker has: the final model, or, as the server, every client's update or learned upload.
        kind: a threshold on the loss, or the likelihood ratio with shadow models.
        shadows: how many of those.
        roc: how it does.
        control: whether the model was made for the attack to succeed on.
    """

    model: str
    seen: View = MODEL
    kind: Literal["loss", "likelihood ratio"]
    shadows: int = 0
    roc: Roc
    control: bool = False

    @property
    def attacked(self) -> str:
        """Such as "fedavg updates"."""
        return self.model if self.seen == MODEL else f"{self.model} {self.seen}"


class Inversion(Settings):
    """What was read from uploads.

    Attributes:
        level: of their prompts.
        sent: whether these are the run's own uploads; others were made of the same images for the audit.
        epsilon: of the noise; None without.
        found: what.
    """

    level: str
    sent: bool
    epsilon: float | None
    found: Inverted


class Audit(Settings):
    """Everything the page shows; a part that was not asked for is empty.

    Attributes:
        subject: what was audited.
        facts: of the run or the files, in words.
        attacks: membership inference.
        inversions: of uploads.
        copies: of private images among the synthetic ones.
        machine: that did it.
        versions: of the packages.
    """

    subject: str
    facts: dict[str, str]
    attacks: tuple[Attack, ...] = ()
    inversions: tuple[Inversion, ...] = ()
    copies: Copies | None = None
    machine: dict[str, str]
    versions: dict[str, str]
