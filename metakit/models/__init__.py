"""Base learners and embeddings: ordinary modules whose weights can be stacked over tasks."""

from metakit.models.networks import IMAGE_NETWORKS, MLP, ConvNet, Residual, ResNet, Views, Whitened, Widen

__all__ = ["IMAGE_NETWORKS", "MLP", "ConvNet", "ResNet", "Residual", "Views", "Whitened", "Widen"]
