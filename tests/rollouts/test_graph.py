"""A cached step of agent and environment can be replayed as a CUDA graph; shown without a GPU."""

from typing import get_args

import pytest
import torch
from fastad_kernels import native
from fastad_kernels.testing.host_sync import forbid_host_sync
from fastad_kernels.testing.replay import Recording

from fastad.acting.interact import Transition
from fastad.base import provenance
from fastad.commands import doctor
from fastad.envs.registry import make_family
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import Control, InContextAgent
from fastad.rollouts.engine import returns_asked_for
from fastad.rollouts.gpu_proof import is_proven, keep_proof, takes_graph

NUM_ENVS, NUM_STEPS = 4, 30
ENVS = {
    "dark-room": {"size": 3, "episode_length": 4},
    "dark-key-to-door": {"size": 3, "episode_length": 6},
    "bernoulli-bandit": {"num_arms": 3},
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Recordings hold PyTorch's operations, not calls of C++."""
    monkeypatch.setattr(native, "why_unavailable", lambda: "as on a GPU")


def make_step(name, positions, *, untracked, control="none", return_scale=None, **shape):
    """A step that writes its transition to fixed memory, and that memory."""
    family = make_family(name, **ENVS[name])
    generator = torch.Generator().manual_seed(0)
    tasks = family.tasks()
    if tasks is None:
        tasks = torch.rand(NUM_ENVS, 3, generator=generator)
    env = family.make(tasks[:NUM_ENVS], generator)
    torch.manual_seed(0)
    config = ModelConfig(context=10, width=16, num_heads=2, positions=positions, **shape)
    model = SequenceModel(
        config, env.observation_space, env.action_space, env.episode_length,
        return_scale=return_scale,
    ).eval()  # fmt: skip
    model.kernels = "reference"  # asks the host nothing on any device
    memory = model.make_memory(NUM_ENVS, untracked=untracked)
    agent = InContextAgent(
        memory, model.actions, NUM_ENVS, generator=generator, control=control,
        target_return=returns_asked_for(model, env, None), unordered=model.encoder.unordered,
    )  # fmt: skip
    if untracked:
        env.untrack()
    observation = env.reset()

    @torch.inference_mode()
    def step():
        action, probs = agent.act(observation)
        after, reward, terminated, truncated = env.step(action)
        transition = Transition(observation, action, reward, terminated, truncated, probs)
        agent.observe(transition, env.final_observation)
        observation.copy_(after)
        return action, reward, probs

    return step


@pytest.mark.parametrize("control", get_args(Control))
@pytest.mark.parametrize("positions", ["none", "rope", "alibi"])
@pytest.mark.parametrize("name", list(ENVS))
def test_a_replayed_step_goes_on_as_a_true_one_would(name, positions, control):
    compare_with_replayed(name, positions, control=control)


@pytest.mark.parametrize("name", list(ENVS))
@pytest.mark.parametrize("shown", [{"return_scale": 4.0}, {"layout": "unordered"}])
def test_a_replayed_step_shows_what_else_a_model_reads(name, shown):
    compare_with_replayed(name, "none", **shown)


def compare_with_replayed(name, positions, **options):
    true_step = make_step(name, positions, untracked=False, **options)
    expected = [[out.clone() for out in true_step()] for _ in range(NUM_STEPS)]

    step = make_step(name, positions, untracked=True, **options)
    actual = [[out.clone() for out in step()] for _ in range(2)]
    with forbid_host_sync(), Recording() as recording:
        outputs = step()
    actual.append([out.clone() for out in outputs])
    while len(actual) < NUM_STEPS:  # three times around the ring
        recording.replay()
        actual.append([out.clone() for out in outputs])
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[2], other[2])


def test_a_step_that_counts_on_the_host_is_caught():
    """What `untracked` is for: the slot of a tracked ring is a number of the recording."""
    step, untracked = (make_step("dark-room", "none", untracked=flag) for flag in (False, True))
    with Recording() as recording:
        outputs = step()
    for _ in range(20):
        recording.replay()
        expected = untracked()
    assert not torch.equal(outputs[2], expected[2])


GPU = torch.device("cuda")


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine with a GPU, as far as its name goes, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")


def test_a_graph_is_no_default_before_the_check_has_passed_here(gpu, monkeypatch, caplog):
    caplog.set_level("INFO", logger="fastad")
    assert not takes_graph("auto", GPU, kv_cache=True)
    assert "--cuda-graph always" in caplog.text
    caplog.clear()
    assert doctor.graphs(GPU).startswith("off until benchmarks/gpu_check.py has passed")
    keep_proof(GPU, passed=True)
    assert takes_graph("auto", GPU, kv_cache=True)
    assert caplog.text == ""
    assert doctor.graphs(GPU).startswith("on")
    # The proof is of this GPU, torch and fastad: of no other, and of none that fails later.
    for module, name, value in (
        (torch.cuda, "get_device_name", lambda device: "another GPU"),
        (torch, "__version__", "99.0"),
        (provenance, "__version__", "99.0"),
    ):
        with monkeypatch.context() as other:
            other.setattr(module, name, value)
            assert not is_proven(GPU)
    keep_proof(GPU, passed=False)
    assert not is_proven(GPU)


def test_a_graph_asked_for_by_name_needs_no_proof_and_a_cpu_has_none(gpu, caplog):
    caplog.set_level("INFO", logger="fastad")
    assert takes_graph("always", GPU, kv_cache=True)
    keep_proof(GPU, passed=True)
    assert not takes_graph("never", GPU, kv_cache=True)
    assert not takes_graph("auto", torch.device("cpu"), kv_cache=True)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_looked_at_proves_nothing(gpu, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert not is_proven(GPU)
