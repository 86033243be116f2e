"""The server: a Flower ServerApp that runs one method of an experiment and delivers the model.

Run configuration: `experiment` (a preset or a .toml file), `method`, `seed`, `out` and `engines` (folders).
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.federation import wire
from fglfast.federation.experiment import FEDERATED, find_experiment
from fglfast.federation.methods import Contest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Collect, synthesize, train, go through the rounds, deliver."""
    run = context.run_config
    method = str(run["method"])
    if method not in FEDERATED:
        raise UsageError(f"{method} is no method of a federation", f"choose one of {', '.join(FEDERATED)}")
    experiment = find_experiment(str(run["experiment"]))
    counted = wire.CountedGrid(grid, experiment.timeout, experiment.min_clients)
    counted.wait(experiment.partition.clients)
    contest = Contest(
        experiment, int(run["seed"]), Path(str(run["out"])), Path(str(run["engines"])), lambda _: [counted]
    )
    result = contest.run(method)
    kept = contest.deliver(counted, method)
    note(f"{method}: {result.test_accuracy:.1%} on the test images; {kept} clients keep the model")
