"""A prompt is as if its steps had been lived: the same logits, kept or recomputed."""

import pytest
import torch

from fastad.acting.interact import Transition, interact
from fastad.actions import Categorical
from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom, DarkRoomHard
from fastad.model.config import ModelConfig
from fastad.model.memory import RecordedMemory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import InContextAgent
from fastad.rollouts.engine import rollout
from fastad.rollouts.prompt import Prompt

GOALS = torch.tensor([[0, 0], [2, 1], [1, 2]])
WINDOW = 10


def make_env(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return family.make(GOALS, generator), generator


def make_model(env, **changes):
    torch.manual_seed(0)
    attention = {} if "trunk" in changes else {"context": WINDOW, "num_heads": 2}
    config = ModelConfig(**({"width": 16} | attention | changes))
    model = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    with torch.no_grad():
        model.heads.policy.weight.mul_(8.0)
    return model.eval()


def random_steps(family, num_steps):
    """What random actions lead to, (N, steps, ...)."""
    env, generator = make_env(family, seed=1)
    observation, steps = env.reset(), []
    for _ in range(num_steps):
        action = torch.randint(5, (3,), generator=generator)
        after, reward, terminated, truncated = env.step(action)
        steps.append((observation, action, reward, terminated, truncated, torch.ones(3, 5)))
        observation = after
    return Transition(*(torch.stack(field, dim=1) for field in zip(*steps, strict=True)))


def prompt_of(steps, lengths):
    return Prompt(steps, torch.tensor(lengths), 1, "episodes of a test")


def continued(model, family, prompt, *, kv_cache, num_steps=25):
    """What the model was shown in all, and its logits at the steps after the prompt."""
    env, generator = make_env(family)
    memory = RecordedMemory(model.make_memory(3, kv_cache=kv_cache))
    agent = InContextAgent(memory, Categorical(5), 3, generator=generator)
    with torch.inference_mode():
        agent.live_through(prompt)
        for _ in interact(env, agent, num_steps=num_steps, block_steps=25, generator=generator):
            pass
    return memory.whole(), torch.stack(list(memory.logits), dim=1)


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize("positions", ["none", "rope", "alibi"])
@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1])
def test_logits_after_a_prompt_are_those_of_the_full_pass(length, positions, kv_cache):
    # The episodes are as long as the prompt, which ends with one.
    family = DarkRoom(size=3, episode_length=length)
    model = make_model(make_env(family)[0], positions=positions)
    prompt = prompt_of(random_steps(family, length), [length] * 3)
    steps, logits = continued(model, family, prompt, kv_cache=kv_cache)
    assert steps.previous_action.shape == (3, length + 25)
    assert torch.equal(steps.previous_action[:, 1 : length + 1], prompt.steps.action)
    assert torch.equal(steps.previous_reward[:, 1 : length + 1], prompt.steps.reward)
    assert steps.episode_start[:, length].all()
    assert (steps.episode_step[:, length] == 0).all()
    with torch.no_grad():
        expected = model(steps).policy[:, length:]
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize(
    "kind", [{"positions": "rope", "layout": "interleaved", "context": 30}, {"trunk": "gru"}]
)
def test_prompts_of_different_lengths_end_together_and_begin_with_an_empty_context(kind, kv_cache):
    family = DarkRoomHard(size=3, episode_length=5, terminate_on_goal=True)
    model = make_model(make_env(family)[0], **kind)
    lengths, longest = [3, 11, 7], 11
    steps = random_steps(family, longest)
    ends = torch.arange(longest) == longest - 1
    prompt = prompt_of(steps._replace(truncated=steps.truncated | ends), lengths)
    seen, logits = continued(model, family, prompt, kv_cache=kv_cache)
    for row, length in enumerate(lengths):
        own = seen.part(longest - length, longest + 25, slice(row, row + 1))
        assert own.previous_action[0, 0] == 5
        assert own.episode_start[0, 0]
        with torch.no_grad():
            expected = model(own).policy[:, length:]
        torch.testing.assert_close(logits[row : row + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kv_cache", [True, False])
def test_a_rollout_prompted_with_its_own_beginning_goes_on_as_it_did(kv_cache):
    family = DarkRoom(size=3, episode_length=4)
    model = make_model(make_env(family)[0])

    def play(num_episodes, state=None, **options):
        env, generator = make_env(family)
        if state is not None:
            generator.set_state(state)
        blocks, states = [], []

        def keep(block):
            blocks.append(block)
            states.append(generator.get_state())

        result = rollout(
            model, env, num_episodes=num_episodes, generator=generator, on_block=keep,
            kv_cache=kv_cache, **options,
        )  # fmt: skip
        return result, Transition(*(torch.cat(f, dim=1) for f in zip(*blocks, strict=True))), states

    whole, steps, states = play(12)
    begun = Transition(*(field[:, :20] for field in steps))
    rest, after, _ = play(7, states[4], prompt=prompt_of(begun, [20] * 3))
    assert torch.equal(after.action, steps.action[:, 20:])
    assert torch.equal(rest.returns, whole.returns[:, 5:])
    assert rest.num_steps == 7 * 4 * 3
    # From an empty context the same draws lead elsewhere.
    assert not torch.equal(play(7, states[4])[1].action, after.action)


def test_the_mean_return_is_of_the_steps_that_are_shown():
    steps = random_steps(DarkRoom(size=3, episode_length=4), 8)
    reward = torch.tensor([[1.0] * 8, [2.0] * 8, [4.0] * 8])
    prompt = Prompt(steps._replace(reward=reward), torch.tensor([8, 4, 2]), 2, "")
    # 8, 8 and 8 in two episodes each.
    assert prompt.mean_return == 4.0


def test_a_prompt_counts_where_learned_positions_end_and_is_not_forgotten_for_a_control():
    family = DarkRoom(size=3, episode_length=4)
    env, generator = make_env(family)
    model = make_model(env, positions="learned", context=12)
    prompt = prompt_of(random_steps(family, 8), [8] * 3)
    rollout(model, env, num_episodes=1, generator=generator, prompt=prompt)
    with pytest.raises(UserError, match="cannot slide, but 16 tokens"):
        rollout(model, env, num_episodes=2, generator=generator, prompt=prompt)
    with pytest.raises(UserError, match="one-episode forgets the prompt"):
        rollout(model, env, num_episodes=1, generator=generator, prompt=prompt,
                control="one-episode")  # fmt: skip
