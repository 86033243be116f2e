"""Membership inference: whether a model tells who was among its private images; FGL, FedAvg, centralized training.

Every recipe is run on random halves of one pool of private images. Each model is attacked by a threshold on its loss
and by the likelihood ratio (LiRA), with all other models of its recipe as shadows. The control is made to learn its
images by heart: what the attack finds there is the attack's own power.
"""

from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results_file import RESULTS, save_result
from fglfast.federation.experiment import Experiment, LocalSettings, Partition, Rounds
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit.likelihood import leave_one_out
from fglfast.lab.audit.outputs import read_pixels
from fglfast.lab.audit.records import CONTROL, Attack
from fglfast.lab.audit.roc import Roc, roc
from fglfast.lab.audit.shadows import Pool, Recipe, Shadows, control, train_shadows
from fglfast.report.audit_page import draw_roc
from fglfast.training.settings import TrainSettings

TITLES = {
    "fgl": "one-shot FGL, class-level",
    "fgl-instance": "one-shot FGL, instance-level",
    "fedavg": "FedAvg",
    "centralized": "centralized",
    CONTROL: "learned by heart (control)",
}


def main(
    data: Annotated[str, typer.Option(help="Holds the splits private and test.")] = "fashion",
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/membership"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini-few",
    pool: Annotated[int, typer.Option(help="Private images; each model learns from half of them.")] = 2000,
    models: Annotated[int, typer.Option(min=4, help="Of each recipe.")] = 10,
    images_per_class: int = 100,
    rounds: int = 20,
) -> None:
    """Train the models, attack them, save the table and the curves."""
    private = read_dataset(f"{data}:private")
    images = private.select(np.random.default_rng(0).permutation(len(private))[:pool])
    base = Experiment(
        data=f"{data}:private",
        test=f"{data}:test",
        recipe=recipe,
        partition=Partition(kind="dirichlet", clients=5, beta=0.5),
        images_per_class=images_per_class,
        train=TrainSettings(arch="resnet10-tiny", image_size=28, epochs=20, batch_size=64),
        local=LocalSettings(epochs=1, learning_rate=0.05),
        rounds=Rounds(fedavg=rounds),
    )
    recipes = {
        "fgl": Recipe(base, "fgl"),
        "fgl-instance": Recipe(base.model_copy(update={"prompt_level": "instance"}), "fgl"),
        "fedavg": Recipe(base, "fedavg"),
        "centralized": Recipe(base, "centralized"),
        CONTROL: control(base),
    }
    trained = train_shadows(recipes, Pool(images, read_pixels(images, 28)), models, 0, work, engines)
    attacked = {name: {"loss": by_loss(found), "ratio": by_ratio(found)} for name, found in trained.items()}
    attacks = [
        Attack(model=TITLES[name], kind=kind, roc=rocs[key])
        for name, rocs in attacked.items()
        for key, kind in (("loss", "loss"), ("ratio", "likelihood ratio"))
    ]
    draw_roc(attacks).savefig(RESULTS / "membership.png", dpi=110, metadata={"Software": None})
    save_result(
        "membership",
        {
            "pool": pool,
            "models": models,
            "experiment": base.model_dump(mode="json", exclude={"data", "test", "methods", "seeds"}),
            "rows": [row(name, trained[name], rocs) for name, rocs in attacked.items()],
        },
    )


def by_loss(shadows: Shadows) -> Roc:
    """One threshold for all models and images."""
    return roc(shadows.confidences_SN[shadows.inside_SN], shadows.confidences_SN[~shadows.inside_SN])


def by_ratio(shadows: Shadows) -> Roc:
    """Each model against all others of its recipe."""
    return roc(*leave_one_out(shadows.confidences_SN, shadows.inside_SN))


def row(name: str, shadows: Shadows, rocs: dict[str, Roc]) -> dict[str, Any]:
    """A row of the result."""
    return {
        "name": name,
        "title": TITLES[name],
        "accuracy": median(shadows.accuracies_S.tolist()),
        **{key: found.model_dump(mode="json", exclude={"curve"}) for key, found in rocs.items()},
    }


if __name__ == "__main__":
    typer.run(main)
