"""Networks of Hugging Face transformers."""

from __future__ import annotations

from torch import nn

from mmseg_tr.hosts.host import Host


def transformers_host(model: nn.Module) -> Host | None:
    return None
