"""Membership inference: whether a model tells who was among its private images; FGL, FedAvg, centralized training.

Every recipe is run on random halves of one pool of private images. Each model is attacked by a threshold on its loss
and by the likelihood ratio (LiRA), with all other models of its recipe as shadows; so is what an honest-but-curious
server sees, each client's update of FedAvg and learned embeddings as uploaded. The control is made to learn its images
by heart: what the attack finds there is the attack's own power. Learned embeddings are those of one client with a
hundred images, each seen fifty times (a hundred in the usual 500 steps): a step is dear, and few images tell most.
"""

from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results_file import RESULTS, save_result
from fglfast.client.settings import LearnSettings
from fglfast.federation.experiment import Experiment, LocalSettings, Partition, Rounds
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit.audited import AuditedImages
from fglfast.lab.audit.likelihood import leave_one_out
from fglfast.lab.audit.records import CONTROL, STRONG, Attack, View
from fglfast.lab.audit.roc import roc
from fglfast.lab.audit.shadows import ShadowRun, Shadows, control, train_shadows
from fglfast.report.audit_page import draw_roc, title
from fglfast.training.batches import read_pixels
from fglfast.training.settings import TrainSettings

SIDE = 28  # of the global model
TITLES = {
    "fgl": "one-shot FGL, class-level",
    "fgl-instance": "one-shot FGL, instance-level",
    "fgl-learned": "one-shot FGL, learned embeddings",
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
    models: Annotated[
        int, typer.Option(min=4, help=f"Of each recipe; {STRONG} to 256 make LiRA strong, and add to those there.")
    ] = 10,
    images_per_class: int = 100,
    rounds: int = 20,
    learned_pool: Annotated[int, typer.Option(help="Private images of the learned embeddings.")] = 200,
    learned_recipe: Annotated[str, typer.Option(help="Of those: few-step students are not learned through.")] = "mini",
    learn_steps: int = 250,
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
        train=TrainSettings(arch="resnet10-tiny", image_size=SIDE, epochs=20, batch_size=64),
        local=LocalSettings(epochs=1, learning_rate=0.05),
        rounds=Rounds(fedavg=rounds),
    )
    recipes = {
        "fgl": ShadowRun(base, "fgl"),
        "fgl-instance": ShadowRun(base.model_copy(update={"prompt_level": "instance"}), "fgl"),
        "fedavg": ShadowRun(base, "fedavg"),
        "centralized": ShadowRun(base, "centralized"),
        CONTROL: control(base),
    }
    changes = {"prompt_level": "learned", "recipe": learned_recipe, "min_clients": 1}
    changes |= {"partition": Partition(kind="iid", clients=1), "learn": LearnSettings(steps=learn_steps)}
    learned = {"fgl-learned": ShadowRun(base.model_copy(update=changes), "fgl")}
    audited, few = (
        AuditedImages(some, read_pixels(some, SIDE)) for some in (images, images.select(range(learned_pool)))
    )
    trained = train_shadows(recipes, audited, models, 0, work, engines)
    trained |= train_shadows(learned, few, models, 0, work / "learned", engines)
    attacks: list[Attack] = []
    rows: list[dict[str, Any]] = []
    for name, words in TITLES.items():
        for view in trained[name].views:
            attacks += (pair := attacked(words, trained[name], view))
            rows.append(row(name, trained[name], *pair))
    draw_roc(attacks).savefig(RESULTS / "membership.png", dpi=110, metadata={"Software": None})
    save_result(
        "membership",
        {
            "pool": pool,
            "models": models,
            "learned": {"pool": learned_pool, "recipe": learned_recipe, "steps": learn_steps, "clients": 1},
            "experiment": base.model_dump(mode="json", exclude={"data", "test", "methods", "seeds"}),
            "rows": rows,
        },
    )


def attacked(model: str, shadows: Shadows, view: View) -> tuple[Attack, Attack]:
    """One threshold for all models and images; and each model against all others of its recipe."""
    said_SN, inside_SN = shadows.views[view], shadows.inside_SN
    by_loss, by_ratio = roc(said_SN, inside_SN), roc(leave_one_out(said_SN, inside_SN), inside_SN)
    return (
        Attack(model=model, seen=view, kind="loss", roc=by_loss),
        Attack(model=model, seen=view, kind="likelihood ratio", shadows=len(inside_SN) - 1, roc=by_ratio),
    )


def row(name: str, shadows: Shadows, by_loss: Attack, by_ratio: Attack) -> dict[str, Any]:
    """A row of the result."""
    return {
        "name": name,
        "seen": by_loss.seen,
        "title": title(by_loss),
        "accuracy": median(shadows.accuracies_S.tolist()),
        "loss": by_loss.roc.model_dump(mode="json", exclude={"curve"}),
        "ratio": by_ratio.roc.model_dump(mode="json", exclude={"curve"}),
    }


if __name__ == "__main__":
    typer.run(main)
