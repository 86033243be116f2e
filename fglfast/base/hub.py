"""The Hugging Face Hub: a finished folder, pushed to a repository of the user's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fglfast.base.errors import FglError, UsageError
from fglfast.base.wording import first_line

Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class Repository:
    """A repository on the hub that a folder is to be pushed to.

    Attributes:
        name: ORG/NAME, or NAME of the user's own.
        kind: what it holds.
        private: who may see it; one that is there stays as it is.
    """

    name: str
    kind: Kind
    private: bool

    def create(self) -> None:
        """Make sure that it is there and may be written to, before hours of work that end in it.

        Raises:
            UsageError: the hub could have no repository of that name.
            FglError: the hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi

        with self._asking():
            HfApi().create_repo(self.name, repo_type=self.kind, private=self.private, exist_ok=True)

    def push(self, folder: Path, leave_out: tuple[str, ...] = ()) -> str:
        """Upload a folder as one commit; files that the hub has are not sent again. Returns the repository's address.

        Args:
            folder: all that is in it, but for hidden files.
            leave_out: patterns of paths below it that stay here.

        Raises:
            FglError: the hub cannot be reached, or refuses; what was sent stays there, and a second push goes on.
        """
        from huggingface_hub import HfApi

        with self._asking():
            done = HfApi().upload_folder(
                repo_id=self.name,
                repo_type=self.kind,
                folder_path=folder,
                ignore_patterns=[".*", "*/.*", *leave_out],
                commit_message=f"{folder.resolve().name}, by fglfast",
            )
        return str(done.repo_url)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from huggingface_hub import errors

        unreachable = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that its version uses
        try:
            yield
        except errors.HFValidationError as error:
            raise UsageError(f"--push-to-hub {self.name}: {first_line(error)}", "give ORG/NAME") from error
        except errors.LocalTokenNotFoundError as error:
            raise FglError(f"the hub knows nobody here: {self.name} cannot be written", SIGN_IN) from error
        except errors.OfflineModeIsEnabled as error:
            raise FglError(f"{self.name} cannot be pushed: HF_HUB_OFFLINE is set", "unset it, run again") from error
        except errors.HfHubHTTPError as error:
            hint = SIGN_IN if error.response.status_code in (401, 403) else "run the same command again to go on"
            raise FglError(f"the hub refuses {self.name}: {first_line(error)}", hint) from error
        except (unreachable, OSError) as error:
            hint = "run the same command again when there is a network"
            raise FglError(f"{self.name}: the hub cannot be reached ({first_line(error)})", hint) from error


SIGN_IN = "sign in with `hf auth login`, as someone who may write there, and run the same command again"
