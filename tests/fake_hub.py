"""A hub in a folder: `huggingface_hub`'s downloads by its own patterns, and a list of what was fetched."""

import shutil
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects

NAME = "someone/something"


class FakeHub:
    """Repositories are folders below `root`; what is fetched lands below `cache` and in `fetched`."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache, self.fetched = root, cache, []

    def install(self, monkeypatch) -> "FakeHub":
        """Take the place of the real downloads."""
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        return self

    @property
    def weights(self) -> list[str]:
        """Of what was fetched, the weights."""
        return sorted(name for name in self.fetched if name.endswith((".safetensors", ".bin")))

    def snapshot_download(
        self, repo_id, *, revision=None, local_files_only=False, allow_patterns=None, ignore_patterns=None
    ):
        """Copy what matches and is not there yet."""
        repository, folder = self.root / repo_id, self.cache / repo_id.replace("/", "--")
        if not repository.is_dir():
            raise OSError(f"404: no repository {repo_id}")
        names = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(repository / name, folder / name)
                self.fetched.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
