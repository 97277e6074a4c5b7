"""Hugging Face's GPT-2 with the weights of a fastad model: the same function, another engine."""

import torch
from torch import Tensor, nn

from benchmarks.harness import peer
from fastad.acting.steps import Steps
from fastad.model.heads import Output
from fastad.model.sequence_model import SequenceModel


class GPT2(nn.Module):
    """The blocks and the cache are Hugging Face's; encoder and policy head are the model's own.

    Its logits equal the model's as long as everything lies within the model's context: GPT-2's
    attention has no window.

    Args:
        model: Without positions (GPT-2's own places are set to zero), fused layout, pre-norm.
        num_places: Longest sequence.
        activation: "gelu" is fastad's; GPT-2's own is "gelu_new", by tanh, nearly the same.
    """

    def __init__(self, model: SequenceModel, num_places: int, *, activation: str = "gelu") -> None:
        super().__init__()
        transformers = peer("transformers")
        config = model.config
        assert (config.positions, config.layout, config.norm) == ("none", "fused", "pre")
        sizes = transformers.GPT2Config(
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            n_positions=num_places,
            n_embd=config.width,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            activation_function=activation,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        self.body = transformers.GPT2Model(sizes)
        self.encoder, self.policy = model.encoder, model.heads.policy
        self.body.to(self.policy.weight.device)
        _copy_weights(model, self.body)

    def forward(self, steps: Steps) -> Output:
        """As the model's, all steps at once."""
        tokens = self.encoder(steps, self.encoder.observe(steps))
        out = self.body(inputs_embeds=tokens, use_cache=False)
        return Output(self.policy(out.last_hidden_state))

    @torch.inference_mode()
    def decode(self, steps: Steps, cache: object) -> Tensor:
        """Logits (B, A) of the newest of the steps (B, T), which join its `DynamicCache`."""
        tokens = self.encoder(steps, self.encoder.observe(steps))
        out = self.body(inputs_embeds=tokens, past_key_values=cache, use_cache=True)
        return self.policy(out.last_hidden_state[:, -1])


@torch.no_grad()
def _copy_weights(model: SequenceModel, body: nn.Module) -> None:
    body.wpe.weight.zero_()
    body.ln_f.load_state_dict(model.heads.norm.state_dict())
    for ours, theirs in zip(model.trunk.blocks, body.h, strict=True):
        theirs.ln_1.load_state_dict(ours.attention_norm.state_dict())
        theirs.ln_2.load_state_dict(ours.mlp_norm.state_dict())
        projections = (ours.query, ours.key, ours.value)
        _copy_linear(projections, theirs.attn.c_attn)
        _copy_linear((ours.attention_out,), theirs.attn.c_proj)
        _copy_linear((ours.mlp_in,), theirs.mlp.c_fc)
        _copy_linear((ours.mlp_out,), theirs.mlp.c_proj)


def _copy_linear(ours: tuple[nn.Linear, ...], theirs: nn.Module) -> None:
    """GPT-2 keeps its matrices transposed."""
    theirs.weight.copy_(torch.cat([linear.weight for linear in ours]).T)
    theirs.bias.copy_(torch.cat([linear.bias for linear in ours]))
