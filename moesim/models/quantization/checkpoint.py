"""The formats of a checkpoint's linear layers, by module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from moesim.models.quantization.modules import Modules

BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Quantization:
    """Formats of a checkpoint's linear layers."""

    method: str = ""
    """Its ``quant_method``; empty where it is not quantised."""
    usual: str = BFLOAT16
    """Format of every linear layer that is not named below."""
    experts: str | None = None
    """Format of routed experts, where that is another."""
    kept: Modules = field(default_factory=Modules)
    """Layers left in bfloat16."""
    others: tuple[tuple[Modules, str], ...] = ()
    """Layers in other formats; the first that names a layer says its."""
    by_name: tuple[tuple[str, str], ...] = ()
    """Formats of single modules by their whole names; every layer that has none is bfloat16."""
    told_head: str = BFLOAT16
    """Format of the output head where no module is named."""
    kv_cache: str | None = None
    """Format in which keys and values were calibrated to be cached."""

    @cached_property
    def _named(self) -> dict[str, str]:
        return dict(self.by_name)

    @property
    def head(self) -> str:
        """Format of the output head: bfloat16 unless it is named."""
        return self._named.get("lm_head", self.told_head)

    def of(self, module: str) -> str:
        """Format of a module such as ``layers.3.self_attn.q_proj``."""
        if self.by_name:
            parts = module.split(".")
            names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            return next((self._named[name] for name in names if name in self._named), BFLOAT16)
        if not self.method or module in self.kept:
            return BFLOAT16
        for modules, weights in self.others:
            if module in modules:
                return weights
        return self.experts if self.experts and ".experts." in module else self.usual

    def told(self, module: str) -> str | None:
        """Format of a module; None where modules are named one by one and it is not."""
        return self._named.get(module) if self.by_name else self.of(module)

    def rules(self) -> Iterator[str]:
        """What it says, in words."""
        if not self.method:
            return
        if self.by_name:
            formats = sorted(set(self._named.values()))
            yield f"{self.method}: {', '.join(formats)} by module, bfloat16 elsewhere"
            return
        yield f"{self.method}: {self.usual}" + (f", experts {self.experts}" if self.experts else "")
        if self.kept:
            yield "named modules stay bfloat16"
