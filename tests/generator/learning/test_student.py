"""Students of teachers whose answers are known."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler
from reference import Net, rk45

from fglfast.base.errors import BadInputError
from fglfast.distill.distill import few_steps
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.solvers import bend, euler, uniform
from fglfast.generator.learning.student import Pairs, Task, check_method, fit_student, scheduled_path
from fglfast.generator.scheduler import CONFIG
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Schedule

FLOW = Task(LINEAR, "velocity", lambda t: 1000 * t)
CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])


def teacher(x, t):
    """The exact velocity towards two points of equal weight, each of deviation 0.1."""
    flat, t = x.flatten(1), t[:, None]
    variance = (1 - t).square() * 0.01 + t.square()
    apart = flat[:, None] - (1 - t)[:, :, None] * CENTRES
    share = (-apart.square().sum(-1) / (2 * variance)).softmax(1)
    inner = (share[..., None] * apart).sum(1) / variance
    data = (share[..., None] * CENTRES).sum(1) + (1 - t) * 0.01 * inner
    return (t * inner - data).view_as(x)


@pytest.fixture(scope="module")
def pairs():
    noise = torch.randn(1500, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    data = rk45(teacher, noise, 1e-5)
    return Pairs(noise, data, torch.zeros(1, 1, 1), torch.zeros(len(noise), dtype=torch.long))


def settings(steps=1200):
    return FitSettings(steps=steps, batch_size=256, learning_rate=3e-3, ema_decay=0.99, warmup_steps=20)


def student(pairs, folder, moments=(), steps=1200):
    torch.manual_seed(0)
    net = Net()
    fit_student(net, FLOW, pairs, settings(steps), folder, moments)

    def velocity(x, t):
        with torch.no_grad():
            return net(x, 1000 * t, None, False)[0]

    return velocity


def test_reflow_straightens_so_that_one_step_nearly_solves_it(pairs, tmp_path):
    velocity = student(pairs, tmp_path)
    noise, data, _ = pairs.batch(torch.arange(400))
    errors = {
        who: (euler(field, noise, uniform(1)) - data).square().mean().item()
        for who, field in (("teacher", teacher), ("student", velocity))
    }
    assert errors["student"] < 0.2 * errors["teacher"]
    student_bend, teacher_bend = (bend(field, noise, uniform(50)) for field in (velocity, teacher))
    assert student_bend.straightness < 0.2 * teacher_bend.straightness
    assert student_bend.curvature < 0.2 * teacher_bend.curvature


def test_a_student_of_given_moments_is_asked_no_other_time(pairs, tmp_path, monkeypatch):
    seen = set()
    clock = FLOW.clock
    task = Task(LINEAR, "velocity", lambda t: seen.update(t.tolist()) or clock(t))
    fit_student(Net(), task, pairs, settings(5), tmp_path, (1.0, 0.5))
    assert seen == {1.0, 0.5}


def test_a_killed_student_goes_on_to_the_same_weights(pairs, tmp_path):
    noise, _, _ = pairs.batch(torch.arange(50))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = student(pairs, tmp_path / "whole", steps=40)
    once = settings(40).model_copy(update={"checkpoint_seconds": 0.0})
    torch.manual_seed(0)
    net = Net()
    calls = iter(range(1000))

    class Killed(Pairs):
        def batch(self, rows_B):
            if next(calls) == 17:
                raise KeyboardInterrupt
            return super().batch(rows_B)

    with pytest.raises(KeyboardInterrupt):
        fit_student(net, FLOW, Killed(pairs.noise, pairs.data, pairs.text, pairs.row), once, tmp_path / "parts")
    again = student(pairs, tmp_path / "parts", steps=40)
    t = torch.full((50,), 0.5)
    assert torch.equal(again(noise, t), whole(noise, t))


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_targets_of_diffusion_models_are_those_of_diffusers(kind):
    scheduler = DDIMScheduler(prediction_type=kind, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    task = Task.of_scheduler({"_class_name": "DDIMScheduler", **scheduler.config})
    data, noise = torch.randn(8, 4, 2, 2), torch.randn(8, 4, 2, 2)
    t = torch.linspace(0.001, 0.999, 8)
    steps = task.clock(t).long()
    assert torch.allclose(task.path.at(data, noise, t), scheduler.add_noise(data, noise, steps), atol=1e-6)
    wanted = {"epsilon": noise, "sample": data, "v_prediction": scheduler.get_velocity(data, noise, steps)}[kind]
    assert torch.allclose(task.target(data, noise, t), wanted, atol=1e-5)
    _, levels = scheduled_path(dict(scheduler.config))
    assert steps.min() >= 0 and steps.max() == levels - 1


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SD}
ZERO_SNR = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, **SD}


def scheduled(config, folder):
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("timestep", [0, 1, 251, 253, 499, 511, 999])
def test_the_clock_shows_the_timestep_of_its_moment(timestep):
    """As a quotient, timestep 251 of 1,000 rounds to a t whose floor is 250."""
    task = Task.of_scheduler(PNDM)
    moment = torch.tensor([task.moment(timestep)])
    alphas = DDIMScheduler(**SD).alphas_cumprod
    assert task.clock(moment).item() == timestep and task.path.data(moment) == alphas[timestep].sqrt()
    assert FLOW.moment(750.0) == 0.75


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(
    ("config", "error"),
    [(PNDM, 0.15), (PNDM | {"prediction_type": "sample"}, 0.15), (ZERO_SNR, 0.01)],
    ids=["noise", "data", "v, zero terminal SNR"],
)
def test_a_perfect_student_draws_its_pairs_in_few_steps(config, error, steps, tmp_path):
    """The teacher maps noise e to 0.5 e + 1. Where the last timestep is not noise alone, a little noise is missed."""
    task = Task.of_scheduler(config)
    schedule = Schedule.of_model(scheduled(config, tmp_path), few_steps(task, steps))
    asked = []

    def student(x, timestep, _):
        asked.append(int(timestep[0]))
        t = torch.tensor([task.moment(asked[-1])]).expand(len(x))
        a, s = (share(t).view(-1, 1, 1, 1) for share in (task.path.data, task.path.noise))
        noise = (x - a) / (0.5 * a + s)
        return task.target(0.5 * noise + 1, noise, t)

    noise = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    drawn = sample(student, noise, torch.zeros(64, 1, 1), torch.zeros(1, 1), schedule)
    assert asked == [1000 - 1000 * step // steps - 1 for step in range(steps)]
    assert (drawn - (0.5 * noise + 1)).abs().max() < error


def test_a_student_learns_where_there_is_nothing_but_noise(tmp_path):
    """At zero terminal SNR v is minus the data: 0/0 if it is worked out from the mixture."""
    task = Task.of_scheduler(ZERO_SNR)
    noise, data = torch.randn(32, 2, 1, 1), torch.randn(32, 2, 1, 1)
    t = torch.full((32,), task.moment(999))
    assert torch.equal(task.path.at(data, noise, t), noise) and torch.equal(task.target(data, noise, t), -data)
    net = Net()
    pairs = Pairs(noise, data, torch.zeros(1, 1, 1), torch.zeros(32, dtype=torch.long))
    fit_student(net, task, pairs, settings(3), tmp_path, (task.moment(999),))
    assert all(weights.isfinite().all() for weights in net.parameters())


def test_a_teacher_of_noise_whose_last_timestep_is_noise_alone_is_refused():
    hopeless = Task.of_scheduler(ZERO_SNR | {"prediction_type": "epsilon"})
    assert "rescale_betas_zero_snr" in check_method("rectified-diffusion", hopeless)
    assert check_method("rectified-diffusion", Task.of_scheduler(ZERO_SNR)) is None


CONTINUOUS = {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", **SD}


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"},
        CONTINUOUS | {"prediction_type": "v_prediction"},
    ],
)
def test_a_path_that_is_not_known_is_refused(config):
    with pytest.raises(BadInputError, match=config["_class_name"]):
        Task.of_scheduler(config)


@pytest.mark.parametrize(
    "change", [{"prediction_type": "score"}, {"num_train_timesteps": "many"}, {"beta_schedule": "x"}]
)
def test_a_config_that_no_network_is_trained_by_is_refused_in_a_line(change, narrow, tmp_path):
    folder = shutil.copytree(narrow("sd15"), tmp_path / "model")
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError):
        Task.of_model(folder)


def test_a_flow_of_other_timesteps_has_its_samplers_clock():
    task = Task.of_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500})
    assert task.levels == 500 and task.clock(torch.tensor([0.5])).item() == 250 and task.moment(250) == 0.5


def test_what_diffusers_still_counts_in_a_table_is_taken():
    """Euler is continuous where v is predicted alone; the solver of a package that is not installed has a table."""
    assert Task.of_scheduler(CONTINUOUS | {"prediction_type": "epsilon"}).levels == 1000
    assert Task.of_scheduler(PNDM | {"_class_name": "DPMSolverSDEScheduler"}).levels == 1000


def test_a_method_that_does_not_fit_is_refused():
    noise = Task.of_scheduler(dict(DDIMScheduler().config))
    assert check_method("reflow", FLOW) is None and check_method("rectified-diffusion", noise) is None
    assert "use rectified-diffusion" in check_method("reflow", noise)
    assert "use reflow or mdt" in check_method("rectified-diffusion", FLOW) and check_method("mdt", FLOW) is None
    assert "use rectified-diffusion" in check_method("mdt", noise)
