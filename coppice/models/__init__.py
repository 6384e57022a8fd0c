"""The networks that can be pruned: three built-in ones, and any torch.nn.Module of the user's own."""

from coppice.models.build import build_model

__all__ = ["build_model"]
