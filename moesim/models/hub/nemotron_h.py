"""Nemotron-H, Nemotron-3: each layer one block, Mamba-2, attention, experts or a feed-forward."""

from __future__ import annotations

from dataclasses import replace

from moesim.errors import Problem
from moesim.models.blocks.block import Block
from moesim.models.blocks.moe import Moe
from moesim.models.blocks.recurrent import Mamba2
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model
from moesim.models.quantization.modules import Modules

_LETTERS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


@reads("nemotron_h")
def nemotron_h(f: Fields, name: str) -> Model:
    hidden, kinds = f.whole("hidden_size"), _kinds(f)
    published = _published(f)
    if f.whole("mamba_num_heads") % f.whole("n_groups"):
        f.refuse("'n_groups' does not divide mamba_num_heads")
    element = 2.0 if f.data.get("mamba_ssm_cache_dtype") in {"bfloat16", "float16"} else 4.0

    def block(i: int, kind: str) -> Block:
        if kind == "mamba":
            return Mamba2(
                f.whole("mamba_num_heads"),
                f.whole("mamba_head_dim"),
                f.whole("ssm_state_size"),
                f.whole("n_groups"),
                f.whole("conv_kernel"),
                element,
                f.format(i, "mixer.in_proj"),
                f.format(i, "mixer.out_proj"),
            )
        if kind == "attention":
            return gqa(f, i, name="mixer")
        if kind == "mlp":
            return dense(f, i, f.whole("intermediate_size"), gated=False, name="mixer")
        experts = f.whole("n_routed_experts")
        return Moe(
            experts,
            f.whole("num_experts_per_tok"),
            f.whole("moe_intermediate_size"),
            gated=False,
            shared_width=f.whole("moe_shared_expert_intermediate_size", default=0),
            extra_parameters=experts,
            scores="biased",
            router="float32",
            experts=f.format(i, "mixer.experts.0.down_proj"),
            weights=f.format(i, "mixer.shared_experts.down_proj"),
            latent=f.whole("moe_latent_size", default=0),
        )

    if published:
        f.notes.append(_PUBLISHED)
    return model_of(f, name, [Row((block(i, kind),), hidden) for i, kind in enumerate(kinds)])


_PUBLISHED = (
    "its quantisation lists no modules: attention and latent projections are taken as bfloat16, Mamba and shared "
    "experts as fp8, as the model's card says"
)


def _published(f: Fields) -> bool:
    """Give a checkpoint whose lists are missing the precision its card publishes; whether it did."""
    said = f.quantization
    if not said.method or said.by_name or said.kept:
        return False
    narrow = Modules.of(["re:.*mixer[.](in_proj|out_proj|shared_experts).*"])
    kept = Modules.of(["re:.*mixer[.](q_proj|k_proj|v_proj|o_proj).*"])
    f.quantization = replace(said, kept=kept, others=((narrow, "fp8"),))
    return True


def _kinds(f: Fields) -> list[str]:
    listed = f.data.get("layers_block_type")
    if isinstance(listed, list) and listed:
        return f.words("layers_block_type", len(listed), _LETTERS.values())
    letters = str(f.data.get("hybrid_override_pattern") or "")
    if not letters or set(letters) - set(_LETTERS):
        said = "'layers_block_type' or 'hybrid_override_pattern' must say what each layer is, in letters M, *, E, -"
        f.problems.append(Problem(said, f.source))
        return ["attention"]
    if f.data.get("num_hidden_layers") not in (None, len(letters)):
        f.refuse(
            f"'hybrid_override_pattern' names {len(letters)} layers, num_hidden_layers is {f.data['num_hidden_layers']}"
        )
    return [_LETTERS[letter] for letter in letters]
