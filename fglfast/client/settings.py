"""How a client's embeddings and routing are learned: the one place of their defaults. Knows no torch."""

from pydantic import Field

from fglfast.base.config import Settings


class LearnSettings(Settings):
    """How embeddings are learned.

    Attributes:
        steps: of the optimisation, for all classes together.
        vectors: of each class's embedding that are learned.
    """

    steps: int = Field(500, ge=1)
    vectors: int = Field(15, ge=1)


class RouteSettings(Settings):
    """How routing is learned.

    Attributes:
        steps: of the optimisation, for all classes together.
    """

    steps: int = Field(100, ge=1)
