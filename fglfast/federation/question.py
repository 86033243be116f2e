"""What a server asks a client, a class for each question: a stranger wrote it. Knows no image and no answer.

The numbers are bounded, or one question would keep a client busy for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Self, TypeVar

from flwr.app import RecordDict
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fglfast.base.config import Seed, Settings, checked_json, first_problem
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.limits import as_limit
from fglfast.base.names import ClassNames
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation import wire
from fglfast.federation.experiment import MOST_ROUNDS, LocalSettings
from fglfast.images.decoding import MOST_SIDE
from fglfast.payload.header import PromptLevel
from fglfast.training.settings import AdaptSettings

MOST_STEPS = 100_000  # of learning embeddings or routing
M = TypeVar("M", bound=BaseModel)
L = TypeVar("L", LearnSettings, RouteSettings)


class QuestionError(BadInputError):
    """A question that a client does not answer, whatever images it holds: the reason may travel."""


def _as_json(kind: type[M]) -> BeforeValidator:
    """Settings that travel as JSON."""

    def parsed(text: object) -> M:
        if not isinstance(text, str):
            raise ValueError("not JSON")  # noqa: TRY004 (pydantic reports no TypeError)
        return checked_json(kind, text.encode(), strict=True)

    return BeforeValidator(parsed)


def _bounded(asked: L) -> L:
    if asked.steps > MOST_STEPS:
        raise ValueError(f"steps: more than {MOST_STEPS:,}")
    return asked


class Question(Settings):
    """What every question says; its keys have hyphens, and those that are not read do no harm.

    Attributes:
        class_names: in the order of the labels.
    """

    model_config = ConfigDict(strict=True, extra="ignore", alias_generator=lambda name: name.replace("_", "-"))

    class_names: ClassNames

    @classmethod
    def of(cls, content: RecordDict) -> Self:
        """Read the question of a message.

        Raises:
            QuestionError: it is not in its exact form.
        """
        with reading():
            values = dict(content.config_records[wire.CONFIG])
            return cls.model_validate({key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


class ForPrompts(Question):
    """For a payload."""

    prompt_level: PromptLevel


class OfImages(Question):
    """Of the client's images.

    Attributes:
        validation_share: of them, held out.
    """

    validation_share: Annotated[float, Field(ge=0, lt=1)]


class ToLearn(OfImages):
    """For learned embeddings."""

    learn: Annotated[LearnSettings, _as_json(LearnSettings), AfterValidator(_bounded)]


class ToRoute(OfImages):
    """For routing; `inventory` is the file of the adapters that it mixes."""

    route: Annotated[RouteSettings, _as_json(RouteSettings), AfterValidator(_bounded)]
    inventory: bytes


class OfModel(OfImages):
    """Of the global model on the client's images; `model` is its config, as JSON."""

    model: str
    image_size: Annotated[int, Field(ge=1, le=MOST_SIDE)]


class ToTrain(OfModel):
    """For the weights of a round, or of `rounds` where the upload is the only one."""

    local: Annotated[LocalSettings, _as_json(LocalSettings)]
    seed: Seed
    server_round: Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 1
    proximal_mu: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ToAdapt(OfModel):
    """For what adapting gains."""

    adapt: Annotated[AdaptSettings, _as_json(AdaptSettings)]


def arrays(content: RecordDict, name: str) -> wire.Weights:
    """The arrays of one record of a question.

    Raises:
        QuestionError: there is no such record, or it cannot be read.
    """
    with reading():
        return wire.weights(content.array_records[name])


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever reading a question raises into one line.

    Raises:
        QuestionError: in place of it; those that report the machine's limits pass.
    """
    try:
        yield
    except FglError as error:
        raise QuestionError(error.message, error.hint) from error
    except Exception as error:  # Flower's and NumPy's are of many kinds
        if as_limit(error):
            raise
        said = first_problem(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        words = f"the server's question cannot be read: {wire.one_line(said)}"
        raise QuestionError(words, "ask who runs it") from error
