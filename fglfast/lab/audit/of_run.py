"""The audit of a folder of `fglfast run`: its models, uploads and synthetic images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fglfast.base.console import note
from fglfast.base.machine import machine_facts, package_versions
from fglfast.engine.manifest import device_name
from fglfast.engine.recipe import find_recipe
from fglfast.federation.clients import simulated
from fglfast.federation.method_names import Method
from fglfast.generator.text import text_fingerprint
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import concatenate
from fglfast.lab.audit.audited import NOBODY, AuditedImages
from fglfast.lab.audit.copies import Copies, SuspectedCopy, find_copies
from fglfast.lab.audit.likelihood import leave_one_out, likelihood_ratio
from fglfast.lab.audit.opened import Run
from fglfast.lab.audit.records import CONTROL, MODEL, Attack, Audit, Inversion
from fglfast.lab.audit.roc import roc
from fglfast.lab.audit.server import all_views
from fglfast.lab.audit.shadows import ShadowRun, Shadows, control, train_shadows
from fglfast.lab.audit.uploads import describe_sender, read_uploads
from fglfast.payload import load_payload
from fglfast.pipeline.sources import check_images
from fglfast.training.batches import read_pixels
from fglfast.training.results import WEIGHTS


def audit_run(
    run: Run, methods: tuple[Method, ...], shadows: int, out: Path, engines: Path
) -> tuple[Audit, list[SuspectedCopy]]:
    """Attack the models of a run's methods, read its uploads, search its synthetic images for copies.

    So many shadow models of each recipe are made for the likelihood ratio; 0 leaves it out.
    """
    experiment = run.experiment
    private = read_dataset(experiment.data).named(run.class_names)
    others = read_dataset(experiment.test).named(run.class_names)
    check_images(run.folder, private=private, test=others)
    pool_images = concatenate([private, others]).named(run.class_names)
    pool = AuditedImages(pool_images, read_pixels(pool_images, experiment.image_size, "read"))
    recipes = {method: ShadowRun(experiment, method) for method in methods} | {CONTROL: control(experiment)}
    trained = train_shadows(recipes, pool, shadows, run.seed, out / "shadows", engines) if shadows else {}
    attacks = [attack for method in methods for attack in _attacks(run, method, pool, len(private), trained)]
    if trained:
        inside_SN = trained[CONTROL].inside_SN
        found = roc(leave_one_out(trained[CONTROL].views[MODEL], inside_SN), inside_SN)
        attacks.append(Attack(model=CONTROL, kind="likelihood ratio", shadows=shadows - 1, roc=found, control=True))
    copies, pairs = _copies(run, pool, len(private))
    facts = {
        "private images": f"{experiment.data}, {len(private)}",
        "other images": f"{experiment.test}, {len(others)}",
        "prompts": f"{experiment.prompt_level}-level",
        "model": f"{experiment.train.arch} at {experiment.image_size} pixels",
        "seed": str(run.seed),
    }
    audit = Audit(
        subject=str(run.folder),
        facts=facts,
        attacks=tuple(attacks),
        inversions=tuple(_inversions(run)),
        copies=copies,
        machine=machine_facts(device_name()),
        versions=package_versions(),
    )
    return audit, pairs


def _attacks(
    run: Run, method: Method, pool: AuditedImages, private: int, trained: Mapping[str, Shadows]
) -> list[Attack]:
    """All attacks on one model, and on its server's view; members are what it learned from, others the test images."""
    rows = {name: row for row, name in enumerate(pool.images.names[:private])}
    holders_N, views = all_views(run, method, pool, rows)
    inside_N, shadows = holders_N != NOBODY, trained.get(method)
    judged = np.flatnonzero(inside_N | (np.arange(len(inside_N)) >= private))
    attacks = []
    for seen, scores_N in views.items():
        attacks.append(
            Attack(model=method, seen=seen, kind="loss", roc=roc(scores_N[None, judged], inside_N[None, judged]))
        )
        if shadows:
            ratios_N = likelihood_ratio(scores_N, shadows.views[seen], shadows.inside_SN)
            found, number = roc(ratios_N[None, judged], inside_N[None, judged]), len(shadows.inside_SN)
            attacks.append(Attack(model=method, seen=seen, kind="likelihood ratio", shadows=number, roc=found))
    return attacks


def _inversions(run: Run) -> list[Inversion]:
    """The uploads of the run's clients, if it has any; and what the same clients would send."""
    model = find_recipe(run.experiment.recipe).model_folder()
    encoder, uploads = text_fingerprint(model), run.uploads()
    if run.experiment.prompt_level == "routed":
        note("the routing that was sent is not inverted: it has no prompts")
        uploads = []
    read = [load_payload(path, text_encoder=encoder) for path in uploads]
    payloads = {payload.header.client: payload for payload in read}
    senders = []
    for client in simulated(str(run.file), run.seed):
        images = client.dataset.named(run.class_names)
        senders.append(describe_sender(images, payloads.get(client.name), model, client.captions, client.domain))
    return read_uploads(senders, model)


def _copies(run: Run, pool: AuditedImages, private: int) -> tuple[Copies | None, list[SuspectedCopy]]:
    """Copies among the run's synthetic images, seen by the model that learned from nothing else."""
    synthetic, judge = run.out / "one-shot" / "synthetic", run.out / "one-shot" / "model"
    if not (synthetic / "dataset.json").exists() or not (judge / WEIGHTS).exists():
        note("no synthetic images here: copies are not searched")
        return None, []
    return find_copies(synthetic, judge, pool.pixels_N3SS[:private], pool.pixels_N3SS[private:])
