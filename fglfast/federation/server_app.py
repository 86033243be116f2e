"""The server: a Flower ServerApp that runs one method of an experiment and delivers the model.

Run configuration: `experiment` (a preset or a .toml file), `method`, `seed`, `out` and `engines` (folders), `again`.
Run again with the same `out`, it goes on where it stopped, whatever stopped it: this process, or the SuperLink. With
`again=true` the clients are asked for their payloads anew: some joined since, some left, some have other images.
"""

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fglfast.base.console import note, quiet_libraries
from fglfast.base.errors import FglError, UsageError
from fglfast.base.files import claim, sole
from fglfast.federation.experiment import find_experiment
from fglfast.federation.grid import CountedGrid
from fglfast.federation.method_names import FEDERATED
from fglfast.federation.methods import SeededExperiment
from fglfast.federation.own_images import named_images
from fglfast.pipeline.sources import claim_sources

# Settings that may change from one call to the next.
WHILE_RUNNING = {
    "allow_same_prompt",
    "domains",
    "methods",
    "min_clients",
    "seeds",
    "templates",
    "timeout",
    "trusted_counts",
}


class OneLine(logging.Filter):
    """Flower reports what ends a run with a traceback; of our own errors a line and its hint is what helps."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record of one of our errors."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FglError):
            hint = f"\n  hint: {error.hint}" if error.hint else ""
            record.msg, record.args, record.exc_info = f"error: {error.message}{hint}", (), None
        return True


def quiet_flower() -> None:
    """Leave to Flower what it warns of; who answered and who did not is said here, by name."""
    logger = logging.getLogger("flwr")
    logger.setLevel(logging.WARNING)
    if not any(isinstance(known, OneLine) for known in logger.filters):
        logger.addFilter(OneLine())


app = ServerApp()
FACTS = "federation.json"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Collect, synthesize, train, go through the rounds, deliver."""
    quiet_libraries()
    quiet_flower()
    run = context.run_config
    method, seed, out = str(run["method"]), int(run["seed"]), Path(str(run["out"]))
    if method not in FEDERATED:
        raise UsageError(f"{method} is no method of a federation", f"choose one of {', '.join(FEDERATED)}")
    experiment = find_experiment(str(run["experiment"]))
    with sole(out, FACTS):
        facts = {"seed": seed, **experiment.model_dump(mode="json", exclude=WHILE_RUNNING)}
        claim(out / FACTS, facts, "another federation's run", more=True)
        named = named_images(experiment)
        claim_sources(out, experiment.recipe, **named)
        counted = CountedGrid(grid, experiment.timeout, experiment.min_clients)
        counted.wait(experiment.partition.clients)
        seeded = SeededExperiment(experiment, named["test"], seed, out, Path(str(run["engines"])), lambda _: [counted])
        if run.get("again"):
            seeded.collect_again(counted)
        result = seeded.run(method)
        kept = seeded.deliver(counted, method)
    note(f"{method}: {result.test_accuracy:.1%} on the test images; {kept} clients keep the model")
