"""A transformer as moesim sees it, whatever its config.json called things.

A model is a stack of layer groups; a group is ``count`` equal layers, each one attention and one feed-forward.
Names are Hugging Face's. Parameter counts are exact: every matrix, bias and norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed latent per token is cached."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def latent_dim(self) -> int:
        """Cached elements per token and layer: kv_lora_rank + qk_rope_head_dim."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(frozen=True)
class Indexer:
    """Sparse-attention indexer (DeepSeek sparse attention): picks ``top_k`` past tokens for each query."""

    heads: int
    head_dim: int
    top_k: int


@dataclass(frozen=True)
class Attention:
    """One attention block. ``window`` limits how far back a query sees; ``chunked`` windows restart (Llama 4)."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    window: int | None = None
    chunked: bool = False
    mla: Mla | None = None
    indexer: Indexer | None = None
    cross: bool = False
    """Also attends to the encoder's output, with its own projections."""
    causal: bool = True
    norm_across_heads: bool = False
    """Query and key norms run over all heads at once, so tensor-parallel ranks exchange their sums (MiniMax-M2)."""
    extra_parameters: int = 0
    """Biases, query and key norms, sinks: small, but they count."""

    @property
    def kv_elements_per_token(self) -> int:
        """Elements a layer caches for each token."""
        return self.mla.latent_dim if self.mla else 2 * self.num_key_value_heads * self.head_dim

    def parameters(self, hidden: int) -> int:
        heads, dim = self.num_attention_heads, self.head_dim
        if self.mla is None:
            block = hidden * dim * (2 * heads + 2 * self.num_key_value_heads)
            return block * (2 if self.cross else 1) + self.extra_parameters
        mla = self.mla
        q_in = mla.q_lora_rank or hidden
        query = (hidden * q_in + q_in if mla.q_lora_rank else 0) + q_in * heads * mla.qk_head_dim
        latent = hidden * mla.latent_dim + mla.kv_lora_rank
        up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        output = heads * mla.v_head_dim * hidden
        return query + latent + up + output + self.indexer_parameters(hidden) + self.extra_parameters

    def indexer_parameters(self, hidden: int) -> int:
        """Parameters of the sparse-attention indexer, whole on every rank."""
        if self.indexer is None or self.mla is None:
            return 0
        i, q_in = self.indexer, self.mla.q_lora_rank or hidden
        return q_in * i.heads * i.head_dim + hidden * i.head_dim + 2 * i.head_dim + hidden * i.heads


@dataclass(frozen=True)
class DenseFfn:
    """A feed-forward block every token passes: three matrices when gated (SwiGLU), two when not."""

    width: int
    gated: bool = True

    def parameters(self, hidden: int) -> int:
        return (3 if self.gated else 2) * hidden * self.width


@dataclass(frozen=True)
class MoeFfn:
    """Routed experts, top-k of them per token, and shared experts every token passes."""

    num_experts: int
    num_experts_per_tok: int
    width: int
    gated: bool = True
    shared_width: int = 0
    """Total width of the shared experts; 0 when there are none."""
    extra_parameters: int = 0
    """Router biases, expert biases, the shared expert's gate."""
    shared_gate: bool = False
    """A sigmoid gate scales the shared experts' output (Qwen1.5)."""
    n_group: int = 1
    topk_group: int = 1
    """Node-limited routing: a token's experts come from ``topk_group`` of ``n_group`` equal groups (DeepSeek-V3)."""

    def expert_parameters(self, hidden: int) -> int:
        return (3 if self.gated else 2) * hidden * self.width

    def shared_parameters(self, hidden: int) -> int:
        return (3 if self.gated else 2) * hidden * self.shared_width

    def parameters(self, hidden: int) -> int:
        experts = self.num_experts * self.expert_parameters(hidden)
        return experts + self.shared_parameters(hidden) + hidden * self.num_experts + self.extra_parameters


@dataclass(frozen=True)
class Layers:
    """``count`` equal layers."""

    count: int
    attention: Attention
    ffn: DenseFfn | MoeFfn
    norm_parameters: int
    encoder: bool = False
    leading: bool = False
    """All of them come before the others; groups that are not alternate evenly."""

    def parameters(self, hidden: int) -> int:
        """Parameters of all ``count`` layers."""
        return self.count * (self.attention.parameters(hidden) + self.ffn.parameters(hidden) + self.norm_parameters)


@dataclass(frozen=True)
class Quantization:
    """How weights are stored: one scheme for routed experts, one for the other linear layers."""

    experts: str = "bfloat16"
    linear: str = "bfloat16"


@dataclass(frozen=True)
class Model:
    """A model of the catalogue, or of the user's config.json."""

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layers, ...]
    tie_word_embeddings: bool = False
    max_position_embeddings: int | None = None
    quantization: Quantization = field(default_factory=Quantization)
    other_parameters: int = 0
    """Final norms, vision tower, projector, positions: held, not run per text token."""
    embedding_rows: int = 0
    """Rows of the input embedding where they exceed the head's; 0 when equal."""
    provenance: str = "Hugging Face config.json"

    @cached_property
    def num_hidden_layers(self) -> int:
        return sum(group.count for group in self.layers)

    def stage(self, index: int, stages: int) -> Model:
        """The layers of one pipeline stage, split as vLLM splits them (distributed/utils.py, get_pp_indices)."""
        if stages == 1:
            return self
        sizes = [self.num_hidden_layers // stages] * stages
        for i in range(2, self.num_hidden_layers % stages + 2):
            sizes[-i] += 1
        start = sum(sizes[:index])
        here = self.order[start : start + sizes[index]]
        groups = [replace(g, count=here.count(i)) for i, g in enumerate(self.layers)]
        return replace(self, layers=tuple(g for g in groups if g.count))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Which group each layer belongs to, from the first layer to the last; alternating groups spread evenly."""
        leading = [i for i, g in enumerate(self.layers) if g.leading for _ in range(g.count)]
        others = {i: g.count for i, g in enumerate(self.layers) if not g.leading}
        total, taken, rest = sum(others.values()), dict.fromkeys(others, 0), []
        for passed in range(1, total + 1):
            behind = max(others, key=lambda i: others[i] * passed / total - taken[i])
            taken[behind] += 1
            rest.append(behind)
        return (*leading, *rest)

    @cached_property
    def moe(self) -> MoeFfn | None:
        """The first MoE layer's feed-forward part; None in a dense model."""
        return next((group.ffn for group in self.layers if isinstance(group.ffn, MoeFfn)), None)

    @cached_property
    def has_encoder(self) -> bool:
        return any(group.encoder for group in self.layers)

    @cached_property
    def embedding_parameters(self) -> int:
        """Input embedding, and the head where it is not tied to it."""
        table = self.vocab_size * self.hidden_size
        rows = self.embedding_rows or self.vocab_size
        return rows * self.hidden_size + (0 if self.tie_word_embeddings else table)

    @cached_property
    def parameters(self) -> int:
        """All parameters, without multi-token-prediction layers."""
        blocks = sum(group.parameters(self.hidden_size) for group in self.layers)
        return self.embedding_parameters + blocks + self.other_parameters

    @cached_property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts."""
        return sum(
            g.count * g.ffn.num_experts * g.ffn.expert_parameters(self.hidden_size)
            for g in self.layers
            if isinstance(g.ffn, MoeFfn)
        )

    def kv_bytes_per_token(self, bytes_per_element: float = 2.0) -> float:
        """Cache bytes one token takes over all decoder layers, before windows (formula card, section 5)."""
        elements = sum(
            g.count * g.attention.kv_elements_per_token * (2 if g.attention.cross else 1)
            for g in self.layers
            if not g.encoder
        )
        return elements * bytes_per_element
