"""All methods and seeds of an experiment in this process, as one record."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flwr.app import UserConfig

from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.files import write_atomic
from fglfast.base.machine import machine_facts, package_versions
from fglfast.base.wording import differences
from fglfast.engine.manifest import device_name
from fglfast.engine.recipe import find_recipe
from fglfast.federation.client_app import app
from fglfast.federation.clients import EVERYTHING, private_images, simulated
from fglfast.federation.experiment import FILE, Experiment
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.method_names import Method
from fglfast.federation.methods import SeededExperiment
from fglfast.federation.own_images import named_images
from fglfast.federation.records import Arena, Result
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.inventory import load_inventory
from fglfast.generator.parts import name_of
from fglfast.generator.text import taught_by, text_fingerprint
from fglfast.pipeline.sources import claim_sources


def run_experiment(experiment: Experiment, out: Path, engines: Path) -> Arena:
    """Run every method with every seed; whatever is finished in `out` is read, not run. The record is `out/arena.json`.

    Raises:
        UsageError: the experiment names no images, or `out` belongs to another one.
    """
    if not experiment.data or not experiment.test:
        raise UsageError("this experiment names no images", "give --data PATH[:SPLIT] and --test PATH[:SPLIT]")
    if experiment.allow:
        raise UsageError("allow: the clients of a comparison are simulated and sign nothing", "leave out allow")
    if not experiment.compared:
        raise UsageError("public-only needs public images of the server", "give --public PATH[:SPLIT]")
    if experiment.inventory:
        _check_inventory(experiment.inventory, find_recipe(experiment.recipe).model_folder())
    if experiment.compared != experiment.methods:
        note("public-only is left out: no public images are named (--public PATH[:SPLIT])")
    private, named = private_images(experiment), named_images(experiment)
    file = _claim(out, experiment)
    claim_sources(out, experiment.recipe, private=private, **named)
    results: list[Result] = []
    images: dict[int, tuple[tuple[int, ...], ...]] = {}
    class_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    for seed in experiment.seeds:
        clients = simulated(file, seed)
        # They were dealt out here: their counts and domains are known, and they are honest.
        server = experiment.server.model_copy(update={"guard": experiment.server.guard or False})
        words = tuple(sorted({client.domain for client in clients if client.domain}))
        known = {"trusted_counts": tuple(client.name for client in clients), "domains": words, "server": server}
        dealt = experiment.model_copy(update=known)
        grids = partial(_grids, file, seed, experiment)
        seeded = SeededExperiment(dealt, named["test"], seed, out / f"seed{seed}", engines, grids)
        class_names = seeded.class_names
        names = tuple(f"{client.name}, {client.domain}" if client.domain else client.name for client in clients)
        held = [client.dataset.named(class_names) for client in clients]
        images[seed] = tuple(tuple(int(count) for count in dataset.counts()) for dataset in held)
        for method in experiment.compared:
            note(f"seed {seed}: {method}")
            results.append(seeded.run(method))
    model = find_recipe(experiment.recipe).model_folder()
    arena = Arena(
        experiment=experiment,
        class_names=class_names,
        clients=names,
        generator=name_of(model),
        taught_by=taught_by(model),
        images=images,
        results=tuple(results),
        machine=machine_facts(device_name()),
        versions=package_versions(),
    )
    arena.save(out / "arena.json")
    return arena


def _check_inventory(file: Path, model: Path) -> None:
    """Simulated clients route by the generator that draws; a real federation's may have its teacher."""
    if load_inventory(file, text_fingerprint(model)).description.model != weights_fingerprint(model):
        hint = "make it with fglfast inventory --model, of the recipe's generator"
        raise UsageError(f"{file}: learned through another generator than {name_of(model)}", hint)


def _grids(file: str, seed: int, experiment: Experiment, method: Method) -> list[CountedGrid]:
    """The grids of a method, their counters at zero: all clients, one that holds everything, or each client alone."""
    config: UserConfig = {"experiment": file, "seed": seed}

    def grid(partitions: Sequence[int | str]) -> CountedGrid:
        least = min(experiment.min_clients, len(partitions))
        return CountedGrid(LoopbackGrid(app, partitions, config), experiment.timeout, least)

    everyone = range(len(simulated(file, seed)))
    if method == "centralized":
        return [grid([EVERYTHING])]
    return [grid([number]) for number in everyone] if method == "local" else [grid(everyone)]


def _claim(out: Path, experiment: Experiment) -> str:
    """Note whose folder it is, in the file that its clients read.

    More methods and seeds may come, public images and a permission.
    """
    anyones = {"methods": ("fgl",), "seeds": (0,), "allow_same_prompt": False}
    file, shared = out / FILE, experiment.model_copy(update=anyones)
    out.mkdir(parents=True, exist_ok=True)
    if file.exists():
        there = Experiment.from_toml(file)
        found = there.model_copy(update={"public": there.public or shared.public})  # may be named later
        shared = shared.model_copy(update={"public": shared.public or there.public})
        if differing := differences(found.model_dump(mode="json"), shared.model_dump(mode="json")):
            raise UsageError(f"{out} belongs to another experiment: {differing}", "choose another --out")
    write_atomic(file, shared.to_toml())
    return str(file)
