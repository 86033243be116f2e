"""The sections of RESULTS.md in order: what each table is called, what was measured for it, and what fills it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import adapt_columns, arena_columns, columns, few_step_columns, speed_columns
from benchmarks.cells import Table


@dataclass(frozen=True)
class Section:
    """A measured table.

    Attributes:
        title: its heading.
        measured: what was measured, in a sentence or two.
        columns: makes its head and rows from `results/NAME.json`.
        beside: other results that the same table shows.
        picture: a file of `results/` that draws it; none if empty.
    """

    title: str
    measured: str
    columns: Callable[[dict[str, Any]], Table]
    beside: tuple[str, ...] = ()
    picture: str = ""


SHARE = (
    "The share is of the ceiling in the precision that computed: the most multiply-adds a second that anything reached "
    "in it in the same run, products and convolutions of PyTorch's and OpenVINO's."
)
SECTIONS = {
    "accuracy": Section(
        "One-shot accuracy",
        "Five clients with skewed classes (Dirichlet beta 0.01) upload class-level prompts; 500 synthetic images a "
        "class train a narrow ResNet-18 (2.8 million weights, 64x64), which is tested on 5,000 real images that "
        "neither `mini` nor the clients saw. The last two rows are of one core.",
        columns.accuracy,
        ("accuracy-int8", "accuracy-server-only", "accuracy-public-only"),
    ),
    "few-steps": Section(
        "Fewer steps",
        "`mini` and its students draw 300 images a class from class-level prompts (OpenVINO, float32); "
        "`resnet10-tiny` learns from those alone and is tested on 5,000 real images, three seeds. Images/s come from "
        "rounds in which all rows take turns. A student has to beat its teacher's cheapest setting that is as "
        "accurate. Networks asked are those of the student's training, for a batch each.",
        few_step_columns.few_steps,
    ),
    "labels": Section(
        "A generator that checks its labels",
        "A classifier trained on all real public images says which synthetic images are wrongly labelled; or some "
        "labels are swapped. The area under the ROC curve is the chance that a check scores such an image below a "
        "sound one; fewer images were looked at where nothing was trained. Then the best nine tenths of each class "
        "train `resnet10-tiny`, which is tested on 5,000 real images: beside as many unchecked images, and beside as "
        "many as the same processor time draws and trains on. The label flow learned from 10,000 labelled public "
        "images; the early loss is that of a model trained on the synthetic images for five epochs.",
        few_step_columns.labels,
    ),
    "sampling": Section(
        "Steps and guidance of the teacher",
        "`mini` draws 200 images a class at several steps and guidance scales; the accuracy is on the private images, "
        "because the recipe's settings were chosen here.",
        columns.sampling,
    ),
    "arena-skewed": Section(
        "FGL beside federated training",
        "5,000 private images of Fashion-MNIST, the bundled sample, over five clients; 4,000 test images, three seeds. "
        "`resnet10-tiny` (0.3 million weights, 28x28), a local epoch a round, all clients honest, 500 images a class. "
        "What a method has of its own is in the next table. Public only: ten epochs of 30,000 labelled images. Bytes "
        "and server-seconds are those at beta 0.01; DENSE's are beside other work. The generator learned from those "
        "30,000 of the same classes: this shows that the machinery works, not that FGL is needed.",
        arena_columns.arenas,
        ("arena-mild", "arena-iid"),
        "arena-skewed.png",
    ),
    "rates-skewed": Section(
        "Rates that each method got",
        "Chosen on public images: as many as there are private ones, dealt alike, and 5,000 others that judge; one key "
        "after the other, one seed. Empty is what the preset says: a rate of 0.03, the same in every round, and batch "
        "normalisation by each batch.",
        arena_columns.rates,
        ("rates-mild", "rates-iid"),
    ),
    "arena-fifty": Section(
        "Fifty clients",
        "30,000 private images of Fashion-MNIST over fifty clients, Dirichlet beta 0.1, one seed; 5,000 test images, a "
        "local rate of 0.03 for all, not chosen. Public only: ten epochs of the 30,000 labelled images from which the "
        "generator learned. Seconds are of one core, beside other work.",
        arena_columns.arena,
    ),
    "arena-shades": Section(
        "Feature skew",
        "Three clients hold the dark, the medium and the light of 30,000 images of all classes, and describe them by "
        "their classes, or by their classes and three measured words; a local rate of 0.03, not chosen; three seeds. "
        "Public only: ten epochs of the 30,000 labelled images from which the generator learned. Seconds are of one "
        "core, beside other work.",
        arena_columns.shades,
        ("arena-shades-instance",),
    ),
    "forms": Section(
        "Forms of a payload",
        "Five clients (beta 0.01) upload class-level prompts in each form; 100 images a class drawn by `mini-few`, "
        "three seeds.",
        columns.forms,
    ),
    "learned": Section(
        "Learned embeddings",
        "The global model's accuracy on test images that `mini` never saw, inverted (dark clothes on white) or turned "
        "by a quarter, by what the clients sent: five clients, beta 0.01, 500 images a class, 500 steps.",
        columns.learned,
    ),
    "adapt": Section(
        "A model adapted to each client",
        "Three clients show a few labelled images of each class (1, 5 or 20) of 2,000 of their own, and are judged on "
        "about 1,000 real test images like them; accuracy of the worst client, median and range of three seeds, and of "
        "the median client. The global model is a `resnet10-tiny` trained on 300 images a class that `mini-few` drew. "
        "`fglfast adapt` keeps the trained layer unless a new one is clearly better on shots that it has not seen; "
        "`OpTA, always` does not ask. Fine-tuning: 40 steps, its rates chosen on public images. Seconds are the "
        "processor's, of one core.",
        adapt_columns.adapt,
    ),
    "unlabelled": Section(
        "Clients without labels",
        "Five clients (Dirichlet beta 0.01) label their images with a `resnet10-tiny` that the server trained on 300 "
        "images a class drawn by `mini-few` from the list of classes alone; three seeds. Settings of each way were "
        "chosen on clients made of the public images. F1 counts each class of each client as held from its first "
        "image on; counts are those of classes with 50 images and more at a client. Global models learn from 60 images "
        "a class drawn from instance-level prompts under the labels that were found; a dash was not trained.",
        columns.unlabelled,
    ),
    "unlabelled-0.5": Section(
        "Clients without labels, less skewed",
        "As above, of clients that hold nearly all classes (beta 0.5).",
        columns.unlabelled,
    ),
    "routed": Section(
        "Routing",
        "Images of a domain that neither `mini` nor the inventory of adapters saw: the global model's accuracy, and "
        "what all clients together sent and spent, by what they sent. Five clients, beta 0.01, 100 images a class, 30 "
        "steps of routing and 150 of learning.",
        columns.routed,
    ),
    "inverted": Section(
        "One class a client, images unlike all that the server knows",
        "Ten clients hold a hundred inverted images of Fashion-MNIST each, of one class, and learn embeddings; the "
        "server has the list of classes, `mini` and 1,000 labelled images that are not inverted, and does not know "
        "that its clients' are. FedAvg and centralized training have 20 rounds at the rate and statistics that the "
        "clients' held-out images chose. Tested on 4,000 inverted images.",
        arena_columns.inverted,
    ),
    "colour": Section(
        "Drawings by their names",
        "A generator learned captions (name and style) of drawings in two styles and no class; eight clients of two "
        "classes each hold other drawings of one style and their names; the server's labelled drawings are of the "
        "other style. The test drawings are in the clients' style, of things that no party has a drawing of in either. "
        "Models of drawn and of public images see as many of them while they learn.",
        arena_columns.colour,
    ),
    "pretraining": Section(
        "What a generator of one's own costs",
        "Operations of a step of `fglfast pretrain` at its usual batches, counted and not timed, and of all its "
        "default steps beside those of the smallest. `mini`, which ended early at 8,200 flow steps, took 2 h 20 min on "
        "two cores.",
        few_step_columns.pretraining,
    ),
    "couplings": Section(
        "Couplings of noise and data",
        "Medians of three trainings: the loss on held-out images under independent pairs, the sliced Wasserstein "
        "distance of what eight Euler steps draw, and the step at which a coupling is first where independent pairs "
        "of the same seed end, with the earliest and latest of the seeds. "
        "`gaussians` is a mixture in the plane; `fashion` is a UNet of a tenth of `mini`'s size on the latents of "
        "Fashion-MNIST. `sparse-ot` held each noise to two partners here, where it now holds each row of data to two.",
        few_step_columns.couplings,
    ),
    "epsilon": Section(
        "Accuracy against epsilon",
        "30,000 images at five clients (beta 0.01), delta 1e-5, 60 images a class drawn by `mini-few`, three seeds; "
        "epsilon is that of one client's one upload. Instance-level captions are free words made from each image "
        "(`free_captions.py`), 6,454 different ones, none of them a public prompt. The last row adds noise to an "
        "embedding of each image, the textbook's way.",
        columns.epsilon,
        picture="epsilon.png",
    ),
    "membership": Section(
        "Membership inference",
        "Ten models of each recipe from random halves of 2,000 images (five clients, beta 0.5, 20 rounds of FedAvg, "
        "`resnet10-tiny`), each attacked with the others as shadows; learned embeddings are one client's, of half of "
        "200 images, each seen fifty times, and are attacked as uploaded too. Ten are few, and the likelihood ratio "
        "(LiRA) with them is weak: `--models 64` adds to them. Chance is an area of 50%, and 1% and 0.1% found. "
        "Intervals are 95%, of a bootstrap over models and images.",
        columns.membership,
        picture="membership.png",
    ),
    "fuzz": Section(
        "Hostile files",
        "Files made hostile from sound ones and read by the product; whatever is accepted is checked by a second "
        "reader that shares no code with the first. Peak memory includes what importing the readers takes. "
        "Today the command is `make fuzz`.",
        columns.fuzz,
    ),
    "kills": Section(
        "kill -9",
        "`synthesize` and `train` killed at random moments and started again; afterwards every shard, epoch and weight "
        "is compared with those of a run that was left alone. The machine was busy with other work, so the seconds are "
        "no measure of speed. Today the command is `make fuzz`.",
        columns.kills,
    ),
    "peers": Section(
        "Whole pipelines, ours and others",
        f"`mini`, 20 guided steps, batch 64: every pipeline draws from the same model folder, in turn in one run. "
        f"optimum-intel computes as it comes in what OpenVINO chooses, or in float32. {SHARE}",
        speed_columns.peers,
        picture="throughput.png",
    ),
    "peers-amx": Section(
        "Whole pipelines, where the processor has AMX",
        "The same on a processor that multiplies bfloat16 and int8 in tiles (AMX), of whose ceiling so small a network "
        "reaches a tenth.",
        speed_columns.peers,
    ),
    "engines-mini": Section(
        "Engines of `mini`",
        f"UNet, VAE decoder, whole synthesis, image encoding and a training step, by backend. {SHARE}",
        speed_columns.engines,
    ),
    "engines-unet-35m": Section(
        "Engines of a larger UNet",
        f"The same for a UNet of 35 million weights at 16x16 latents, batch 16. {SHARE}",
        speed_columns.engines,
    ),
    "engines-sd15": Section(
        "Stable Diffusion 1.5 on a CPU",
        f"The full architecture with random weights, 512x512, two guided images at once; it takes a quarter of an hour "
        f"and 20 GiB of memory. {SHARE}",
        speed_columns.engines,
    ),
    "layers-unet-35m": Section(
        "Where a pass of the larger UNet goes",
        "OpenVINO's own counters on one core: kinds of layers that take a hundredth of the time or more.",
        speed_columns.layers,
    ),
    "server-seconds": Section(
        "A server's seconds",
        "`fglfast demo` from nothing: engines exported and compiled, 300 images a class drawn by `mini-few`, a "
        "classifier trained at 64x64 as each version does by itself (this one `resnet10-narrow`, 14 epochs; a56b522 "
        "`resnet18-narrow`, 20), judged on 5,000 real test images; then `embed`, `inspect` and `evaluate` of 100 "
        "images. Versions in turn; what was before runs once. Imports, clients and judging are in the whole command "
        "alone.",
        speed_columns.server_seconds,
    ),
    "demo-training": Section(
        "The demo's training",
        "Classifiers at 64x64, trained on three data sets of `fglfast demo` in turn, judged on the 30,000 private "
        "images of Fashion-MNIST, which the generator does not know and the demo's test leaves out. The demo's "
        "settings were chosen on these data sets, by these images and the public ones; what they reach on the test "
        "images, the table above tells.",
        speed_columns.demo_training,
    ),
    "half": Section(
        "What bfloat16 costs",
        "Three data sets of `fglfast demo`, drawn in float32 and again in bfloat16 from the same prompts and noise, "
        "teach three small classifiers each (`resnet10-tiny`, 28x28), which are judged on 30,000 real images.",
        speed_columns.half,
    ),
    "training": Section(
        "A training step",
        "`resnet18-narrow` at 64x64, batch 128, on images in memory, each loop in turn: as `fglfast train` does it "
        "with DeepSpeed, the same loop without DeepSpeed, and what one would write by hand in PyTorch with kornia's "
        "augmentation and without any.",
        speed_columns.training,
    ),
    "gpu": Section(
        "Stable Diffusion 1.5 on a GPU",
        "512x512, bfloat16, 25 guided steps, random weights, beside diffusers; the share is of the GPU's own matrix "
        "product in that precision.",
        speed_columns.peers,
    ),
    "scale": Section(
        "Planning at scale",
        "Payloads of many clients merged into one plan, without drawing an image.",
        speed_columns.scale,
    ),
    "shard-sizes": Section(
        "Small shards",
        "The same 1,000 images drawn by `mini-few` into shards of each size: passes are filled across shards.",
        speed_columns.shard_sizes,
    ),
    "attacks": Section(
        "Hostile clients",
        "Ten rounds of FedAvg on the bundled sample (five clients, beta 0.5); the last client is "
        "hostile in one way at a time. Named: the operator reads its name and why; it is left out of that round or the "
        "run, or counts as an ordinary client where it claims a billion images.",
        columns.attacks,
    ),
    "attacks-strategies": Section(
        "Robust aggregation",
        "The same experiment, aggregated in several ways, under attacks that no form of a reply shows. Most of it was "
        "measured before the last of the table above, which is why `fedavg` differs by 0.2 points.",
        columns.strategies,
    ),
    "stopping": Section(
        "When to stop drawing",
        "Pilots of at most 100 images a class (their seconds are counted) foretell what the same classifier reaches at "
        "500, on real images that judge; the rule then stops where a thousand more images bring less than the bound. "
        "Lost are points on test images against 500 a class. `mini-few` draws from class- and instance-level prompts "
        "of five clients; `resnet10-tiny`, 15 epochs, seconds of a processor's core.",
        columns.stopping,
    ),
    "living": Section(
        "Clients that come and go",
        "60 clients with a prompt for each of 50 classes of 1,000 (the first for all), four images a class drawn by "
        "`mini-few`; an update in place beside a fresh run of the same plan.",
        columns.living,
    ),
    "client": Section(
        "A client without a server's packages",
        "`pip install .` without extras into a fresh environment: what it brings beside Python and pip, and the wall "
        "time of commands there; `embed` describes 1,000 JPEG files of 256x256 pixels in ten classes.",
        columns.client,
    ),
}
